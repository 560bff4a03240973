// How dev/bench times kernels on a GPU. A sample is a number of launches between two events, after a copy that keeps
// the GPU busy while the launches queue up and leaves none of their data in the cache.
#pragma once

#include <algorithm>
#include <cmath>
#include <vector>

#include "kernels/common.cuh"

namespace bench {

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
  double median, p10, p90;  // microseconds per launch
  int samples, launches;    // launches per sample
};

// The stream for all timing, and the two halves of the copy before each sample.
class Timer {
 public:
  explicit Timer(int64_t most_copy_bytes) {
    CUDA_CHECK(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking));
    size_t free = 0, total = 0;
    CUDA_CHECK(cudaMemGetInfo(&free, &total));
    copy_bytes_ = std::min(most_copy_bytes, static_cast<int64_t>(free / 16)) / 256 * 256;
    CUDA_CHECK(cudaMalloc(&from_, copy_bytes_));
    CUDA_CHECK(cudaMalloc(&to_, copy_bytes_));
    CUDA_CHECK(cudaMemset(from_, 1, copy_bytes_));
    CUDA_CHECK(cudaDeviceSynchronize());
  }
  ~Timer() {
    cudaFree(from_);
    cudaFree(to_);
    cudaStreamDestroy(stream_);
  }
  Timer(const Timer&) = delete;
  Timer& operator=(const Timer&) = delete;

  cudaStream_t stream() const { return stream_; }
  int64_t copy_bytes() const { return copy_bytes_; }
  void* from() const { return from_; }
  void* to() const { return to_; }
  void copy() const { CUDA_CHECK(cudaMemcpyAsync(to_, from_, copy_bytes_, cudaMemcpyDeviceToDevice, stream_)); }

  // run(i): the i-th launch. At least 3 samples, at most `samples`, for about `seconds`.
  template <class Run>
  Timing time(Run&& run, int samples, double seconds) const {
    Event begin, end;
    int i = 0;
    const auto sample = [&](int launches) {
      copy();
      begin.record(stream_);
      for (int k = 0; k < launches; ++k) run(i++);
      end.record(stream_);
      return end.microseconds_since(begin) / launches;
    };
    sample(1);  // warm-up: code is loaded, clocks rise
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

 private:
  cudaStream_t stream_ = nullptr;
  int64_t copy_bytes_ = 0;
  void *from_ = nullptr, *to_ = nullptr;
};

}  // namespace bench
