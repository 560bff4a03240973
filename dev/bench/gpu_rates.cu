// The program gpu_rates, and its measurements of the device itself: memory, launches, events.
#include <chrono>
#include <map>

#include "dev/bench/gpu_rates.h"
#include "llm/flags/command_line.h"
#include "llm/support/error.h"

namespace rates {

void print(const json& row) {
  std::printf("%s\n", row.dump().c_str());
  std::fflush(stdout);
}

namespace {

__global__ void empty_kernel() {}

constexpr int kUnroll = 4;  // accesses of 16 bytes per thread, all of them under way at once

// Reads n packs of 16 bytes, a multiple of blockDim.x * kUnroll. It writes only if a sum has a value that none here
// has.
__global__ void read_kernel(int4* out, const int4* inp) {
  const int64_t first = static_cast<int64_t>(blockIdx.x) * blockDim.x * kUnroll + threadIdx.x;
  int4 packs[kUnroll];
#pragma unroll
  for (int i = 0; i < kUnroll; ++i) packs[i] = inp[first + i * blockDim.x];
  int bits = 0;
#pragma unroll
  for (int i = 0; i < kUnroll; ++i) bits |= packs[i].x | packs[i].y | packs[i].z | packs[i].w;
  if (bits == -1) out[first] = packs[0];
}

__global__ void write_kernel(int4* out) {
  const int64_t first = static_cast<int64_t>(blockIdx.x) * blockDim.x * kUnroll + threadIdx.x;
#pragma unroll
  for (int i = 0; i < kUnroll; ++i) out[first + i * blockDim.x] = {1, 1, 1, 1};
}

int attribute(cudaDeviceAttr which) {
  int value = 0;
  CUDA_CHECK(cudaDeviceGetAttribute(&value, which, 0));
  return value;
}

void measure_device() {
  cudaDeviceProp properties;
  CUDA_CHECK(cudaGetDeviceProperties(&properties, 0));
  size_t free = 0, total = 0;
  CUDA_CHECK(cudaMemGetInfo(&free, &total));
  print({{"what", "device"},
         {"name", properties.name},
         {"capability", std::to_string(properties.major) + "." + std::to_string(properties.minor)},
         {"multiprocessors", attribute(cudaDevAttrMultiProcessorCount)},
         {"l2_bytes", attribute(cudaDevAttrL2CacheSize)},
         {"shared_bytes_per_block", attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin)},
         {"shared_bytes_per_multiprocessor", attribute(cudaDevAttrMaxSharedMemoryPerMultiprocessor)},
         {"most_mhz", attribute(cudaDevAttrClockRate) / 1000},
         {"memory_bytes", total},
         {"free_bytes", free}});
}

void measure_memory(const bench::Timer& timer) {
  const auto row = [&](const char* what, double bytes, const bench::Timing& timing) {
    print({{"what", what},
           {"bytes", bytes},
           {"us", timing.median},
           {"us_p10", timing.p10},
           {"us_p90", timing.p90},
           {"gbps", 1e-3 * bytes / timing.median}});
  };
  constexpr int kThreads = 256;
  constexpr int64_t kBlockBytes = kThreads * kUnroll * sizeof(int4);
  const int64_t blocks = timer.copy_bytes() / kBlockBytes;
  const double bytes = static_cast<double>(blocks * kBlockBytes);
  int4 *from = static_cast<int4*>(timer.from()), *to = static_cast<int4*>(timer.to());
  row("copy", 2.0 * timer.copy_bytes(), timer.time([&](int) { timer.copy(); }, 15, 0.5));
  row("read", bytes,
      timer.time(
          [&](int) {
            launch(read_kernel, dim3(blocks), kThreads, 0, timer.stream(), to, static_cast<const int4*>(from));
          },
          15, 0.5));
  row("write", bytes,
      timer.time([&](int) { launch(write_kernel, dim3(blocks), kThreads, 0, timer.stream(), to); }, 15, 0.5));
}

double microseconds(std::chrono::steady_clock::time_point since) {
  return 1e6 * std::chrono::duration<double>(std::chrono::steady_clock::now() - since).count();
}

void measure_launches(const bench::Timer& timer, bool small) {
  const int count = small ? 20 : 500;
  const auto start_one = [&](int) { launch(empty_kernel, 1, 32, 0, timer.stream()); };
  for (int i = 0; i < count; ++i) start_one(i);
  CUDA_CHECK(cudaStreamSynchronize(timer.stream()));
  auto start = std::chrono::steady_clock::now();
  for (int i = 0; i < count; ++i) start_one(i);
  const double host = microseconds(start) / count;
  CUDA_CHECK(cudaStreamSynchronize(timer.stream()));
  // Each waits for the one before: in one stream, all of them queued while a copy runs.
  const bench::Timing dependent = timer.time(start_one, 15, 0.2);
  start = std::chrono::steady_clock::now();
  for (int i = 0; i < count; ++i) {
    start_one(i);
    CUDA_CHECK(cudaStreamSynchronize(timer.stream()));
  }
  print({{"what", "launch"},
         {"host_us", host},                                 // host time per launch
         {"dependent_us", dependent.median},                // GPU time from one empty kernel to the next
         {"round_trip_us", microseconds(start) / count}});  // a launch and the wait for its end
}

// The smallest difference between two times reported by events, and the time of two events with nothing between them.
void measure_events(const bench::Timer& timer, bool small) {
  std::map<double, int> times;
  bench::Event begin, end;
  for (int i = 0; i < (small ? 20 : 500); ++i) {
    begin.record(timer.stream());
    end.record(timer.stream());
    ++times[end.microseconds_since(begin)];
  }
  double step = 0;
  for (auto a = times.begin(), b = std::next(a); b != times.end(); ++a, ++b) {
    const double difference = b->first - a->first;
    if (difference > 1e-4 && (step == 0 || difference < step)) step = difference;  // less: rounding of their float
  }
  print({{"what", "events"},
         {"resolution_us", step > 0 ? json(step) : json(nullptr)},
         {"empty_us", times.begin()->first},
         {"most_us", times.rbegin()->first}});
}

}  // namespace

void measure_ceilings(const bench::Timer& timer, const Options& options) {
  measure_device();
  measure_memory(timer);
  measure_full_load(timer, options);
  measure_launches(timer, options.small);
  measure_events(timer, options.small);
}

}  // namespace rates

int main(int argc, char** argv) {
  CLI::App app("Measures this GPU, and products and attention of GPT-2's sizes on it: a line of JSON per result.");
  rates::Options options;
  std::string what;
  using Measure = void (*)(const bench::Timer&, const rates::Options&);
  const std::map<std::string, Measure> all = {{"ceilings", rates::measure_ceilings},
                                              {"products", rates::measure_products},
                                              {"attention", rates::measure_attention},
                                              {"rounding", rates::measure_rounding}};
  app.add_option("what", what,
                 "ceilings: memory, products under full load, launches, events; products; attention; "
                 "rounding: errors of sums on tensor cores")
      ->required()
      ->check(CLI::IsMember({"ceilings", "products", "attention", "rounding"}));
  app.add_flag("--small", options.small, "sizes for cudasim: shows whether it runs, not how fast");
  app.add_option("--seconds", options.seconds, "ceilings: seconds of each product under full load")
      ->capture_default_str()
      ->check(CLI::Range(0.01, 60.0));
  return run_program(app, argc, argv, [&] {
    int devices = 0;
    const cudaError_t status = cudaGetDeviceCount(&devices);
    if (status != cudaSuccess || devices == 0) {
      fail("no GPU to measure (%s)", status == cudaSuccess ? "CUDA finds no device" : cudaGetErrorString(status));
    }
    programmatic_launches(false);  // the kernels here do not wait for earlier ones
    const bench::Timer timer(options.small ? int64_t{1} << 18 : int64_t{1} << 30);
    all.at(what)(timer, options);
  });
}
