// Times on a GPU (time_launches.cuh), on sets of buffers used in turn, so that neither the host's time nor the cache
// distorts a kernel's time.
#include "dev/bench/bench_run.h"
#include "dev/bench/time_launches.cuh"
#include "kernels/matmul.cuh"
#include "llm/support/error.h"

namespace bench {

const bool kCounts = false;

namespace {

// This program's timer, with a copy of 1 GiB.
const Timer& timer() {
  static const Timer only(int64_t{1} << 30);
  return only;
}

double copy_ceiling() {
  const Timing timing = timer().time([&](int) { timer().copy(); }, 15, 2);
  return 2e-3 * static_cast<double>(timer().copy_bytes()) / timing.median;  // read and written; GB/s
}

// The largest product's rate: bf16, random factors, 8192^3, or smaller on a GPU with little memory.
double matmul_ceiling(const std::string& tier_name, MatmulTier tier, int n, json& ceilings) {
  const int64_t elements = static_cast<int64_t>(n) * n;
  const Buffers<bf16> a(1, elements, 1, 1), b(1, elements, 2, 1), d(1, elements, 0, 0);
  const bf16* no_bias = nullptr;
  bf16* no_gelu = nullptr;
  const Timing timing = timer().time(
      [&](int) {
        matmul_forward(d[0], no_gelu, a[0], b[0], no_bias, n, n, n, MatmulMode{tier, false}, timer().stream());
      },
      15, 2);
  const double tflops = 2e-6 * n * n * static_cast<double>(n) / timing.median;
  ceilings["matmul_by"] = std::to_string(n) + "^3 bf16, " + tier_name;
  return tflops;
}

}  // namespace

json open_device(const MeasureOptions&) {
  int devices = 0;
  const cudaError_t status = cudaGetDeviceCount(&devices);
  if (status != cudaSuccess || devices == 0) {
    fail("no GPU to time the kernels on (%s); bench_kernels_sim counts what they do without one: make bench-sim",
         status == cudaSuccess ? "CUDA finds no device" : cudaGetErrorString(status));
  }
  cudaDeviceProp properties;
  CUDA_CHECK(cudaGetDeviceProperties(&properties, 0));
  int clock_khz = 0;
  CUDA_CHECK(cudaDeviceGetAttribute(&clock_khz, cudaDevAttrClockRate, 0));
  json results;
  results["device"] = properties.name;
  results["kind"] = "gpu";
  json ceilings;
  ceilings["measured"] = true;
  ceilings["copy_gbps"] = copy_ceiling();
  size_t free = 0, total = 0;
  CUDA_CHECK(cudaMemGetInfo(&free, &total));
  const int n = free > (size_t{4} << 30) ? 8192 : 4096;
#ifdef WROUGHT_CUBLASLT
  ceilings["matmul_tflops"] = matmul_ceiling("cuBLASLt", MatmulTier::cublaslt, n, ceilings);
#else
  ceilings["matmul_tflops"] = matmul_ceiling("kernels/ (built without cuBLASLt)", MatmulTier::tensor_core, n, ceilings);
#endif
  // Not measured: 128 units per multiprocessor (64 on sm_80), a multiply and an add per cycle, at the highest clock.
  const int units = properties.major == 8 && properties.minor == 0 ? 64 : 128;
  ceilings["float_tflops"] = 2e-9 * units * properties.multiProcessorCount * clock_khz;
  results["ceilings"] = ceilings;
  return results;
}

Problem make_problem() {
  int cache = 0;
  CUDA_CHECK(cudaDeviceGetAttribute(&cache, cudaDevAttrL2CacheSize, 0));
  return Problem(true, static_cast<size_t>(cache));
}

void measure(const Ladder& ladder, const Version& version, const MeasureOptions& options, const json& ceilings,
             json& result) {
  cudaStream_t stream = timer().stream();
  if (ladder.reset) ladder.reset();
  version.run(0, stream);
  CUDA_CHECK(cudaDeviceSynchronize());
  ladder.check();
  const double seconds = options.seconds / static_cast<double>(ladder.versions.size());
  const Timing timing = timer().time([&](int i) { version.run(i % ladder.sets, stream); }, options.quick ? 7 : 31,
                                     options.quick ? std::min(seconds, 0.1) : seconds);
  const double gbps = 1e-3 * ladder.bytes / timing.median, tflops = 1e-6 * ladder.flops / timing.median;
  const double share = ladder.limit == Limit::memory         ? gbps / ceilings["copy_gbps"].get<double>()
                       : ladder.limit == Limit::tensor_cores ? tflops / ceilings["matmul_tflops"].get<double>()
                                                             : tflops / ceilings["float_tflops"].get<double>();
  result.update({{"us", timing.median},
                 {"us_p10", timing.p10},
                 {"us_p90", timing.p90},
                 {"samples", timing.samples},
                 {"launches_a_sample", timing.launches},
                 {"gbps", gbps},
                 {"tflops", tflops},
                 {"share", share}});
}

std::string table(const json& ladder) {
  std::string text =
      strprintf("  %-24s %10s %21s %9s %9s %7s\n", "version", "us", "10th to 90th", "GB/s", "TFLOP/s", "share");
  for (const json& version : ladder["versions"]) {
    const auto number = [&](const char* key) { return version.value(key, 0.0); };
    text += strprintf("  %-24s ", version["name"].get<std::string>().c_str());
    if (version.contains("error")) {
      text += "wrong: " + version["error"].get<std::string>() + "\n";
      continue;
    }
    text += strprintf("%10.2f %10.2f %10.2f %9.0f %9.2f %5.0f %%%s\n", number("us"), number("us_p10"), number("us_p90"),
                      number("gbps"), number("tflops"), 100 * number("share"),
                      version["kernel"].get<bool>()    ? "  kernels/"
                      : version["library"].get<bool>() ? "  library"
                                                       : "");
  }
  return text;
}

}  // namespace bench
