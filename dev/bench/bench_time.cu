// Times on a GPU. A sample is a number of launches between two events, on sets of buffers that take turns, behind a
// copy that keeps the GPU busy while the launches queue up: so neither the host's time nor the cache flatters or hides
// a kernel.
#include <algorithm>
#include <cmath>

#include "dev/bench/bench_run.h"
#include "gpt2/error.h"
#include "kernels/matmul.cuh"

namespace bench {

const bool kCounts = false;

namespace {

class Event {
 public:
  Event() { CUDA_CHECK(cudaEventCreate(&event_)); }
  ~Event() { cudaEventDestroy(event_); }
  Event(const Event&) = delete;
  Event& operator=(const Event&) = delete;
  void record(cudaStream_t stream) { CUDA_CHECK(cudaEventRecord(event_, stream)); }
  double microseconds_since(const Event& start) {
    CUDA_CHECK(cudaEventSynchronize(event_));
    float ms = 0;
    CUDA_CHECK(cudaEventElapsedTime(&ms, start.event_, event_));
    return 1e3 * static_cast<double>(ms);
  }

 private:
  cudaEvent_t event_ = nullptr;
};

struct Timing {
  double median, p10, p90;  // microseconds a launch
  int samples, launches;    // launches a sample
};

// The stream everything is timed on, and the two halves of the copy before each sample.
struct Bench {
  cudaStream_t stream = nullptr;
  int64_t copy_bytes = 0;
  char *from = nullptr, *to = nullptr;

  static Bench& instance() {
    static Bench only;
    return only;
  }
  void copy() const { CUDA_CHECK(cudaMemcpyAsync(to, from, copy_bytes, cudaMemcpyDeviceToDevice, stream)); }

 private:
  Bench() {
    CUDA_CHECK(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
    size_t free = 0, total = 0;
    CUDA_CHECK(cudaMemGetInfo(&free, &total));
    copy_bytes = static_cast<int64_t>(std::min<size_t>(size_t{1} << 30, free / 16) / 256 * 256);
    CUDA_CHECK(cudaMalloc(&from, copy_bytes));
    CUDA_CHECK(cudaMalloc(&to, copy_bytes));
    CUDA_CHECK(cudaMemset(from, 1, copy_bytes));
    CUDA_CHECK(cudaDeviceSynchronize());
  }
};

// run(i): the i-th launch. At least 3 samples, at most `samples`, for about `seconds`.
template <class Run>
Timing time_launches(Run&& run, int samples, double seconds) {
  const Bench& bench = Bench::instance();
  Event begin, end;
  int i = 0;
  const auto sample = [&](int launches) {
    bench.copy();
    begin.record(bench.stream);
    for (int k = 0; k < launches; ++k) run(i++);
    end.record(bench.stream);
    return end.microseconds_since(begin) / launches;
  };
  sample(1);  // warm-up: code is loaded, clocks go up
  const double first = std::min(sample(1), sample(3));
  const int launches = std::clamp(static_cast<int>(300 / std::max(first, 0.1)), 1, 100);
  const int most = static_cast<int>(seconds * 1e6 / (first * launches + 1000));  // the copy and the host: about 1 ms
  samples = std::clamp(most, 3, samples);
  std::vector<double> times;
  for (int s = 0; s < samples; ++s) times.push_back(sample(launches));
  std::sort(times.begin(), times.end());
  const auto at = [&](double share) { return times[static_cast<size_t>(std::lround(share * (samples - 1)))]; };
  return {at(0.5), at(0.1), at(0.9), samples, launches};
}

double copy_ceiling() {
  const Bench& bench = Bench::instance();
  const Timing timing = time_launches([&](int) { bench.copy(); }, 15, 2);
  return 2e-3 * static_cast<double>(bench.copy_bytes) / timing.median;  // read and written; GB/s
}

// The largest product's rate: bf16, random factors, 8192^3, or smaller on a GPU whose memory asks for it.
double matmul_ceiling(const std::string& tier_name, MatmulTier tier, int n, json& ceilings) {
  const int64_t elements = static_cast<int64_t>(n) * n;
  const Buffers<bf16> a(1, elements, 1, 1), b(1, elements, 2, 1), d(1, elements, 0, 0);
  const bf16* no_bias = nullptr;
  bf16* no_gelu = nullptr;
  const Timing timing = time_launches(
      [&](int) {
        matmul_forward(d[0], no_gelu, a[0], b[0], no_bias, n, n, n, MatmulMode{tier, false}, Bench::instance().stream);
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
  // Not measured: 128 units a multiprocessor (64 on sm_80), a multiply and an add a cycle, at the highest clock.
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
  cudaStream_t stream = Bench::instance().stream;
  if (ladder.reset) ladder.reset();
  version.run(0, stream);
  CUDA_CHECK(cudaDeviceSynchronize());
  ladder.check();
  const double seconds = options.seconds / static_cast<double>(ladder.versions.size());
  const Timing timing = time_launches([&](int i) { version.run(i % ladder.sets, stream); }, options.quick ? 7 : 31,
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
