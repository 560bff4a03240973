// Random numbers for measurements: the bits of a product's factors decide how much power it takes, and so the clock.
#pragma once

#include <algorithm>
#include <vector>

#include "kernels/common.cuh"
#include "kernels/philox.h"

inline constexpr int64_t kRandomPattern = 1'048'573;  // a prime: no row of a matrix equals another

// out (n) = numbers in [-1, 1), which depend only on `sequence` and repeat after kRandomPattern. A pattern is made on
// the host, copied, then doubled on the GPU. Returns when the host's part is read, not when the GPU has finished.
template <class floatX>
void random_fill(floatX* out, int64_t n, uint64_t sequence, cudaStream_t stream) {
  const int64_t length = std::min(n, kRandomPattern);
  std::vector<floatX> pattern(static_cast<size_t>(length));
  for (int64_t i = 0; i < length; i += 4) {
    const Philox4 random = philox4(1, sequence, static_cast<uint64_t>(i));
    for (int64_t k = i; k < std::min(i + 4, length); ++k) {
      pattern[static_cast<size_t>(k)] = static_cast<floatX>(2 * uniform_from_bits(random.word[k - i]) - 1);
    }
  }
  const auto bytes = [](int64_t count) { return static_cast<size_t>(count) * sizeof(floatX); };
  CUDA_CHECK(cudaMemcpyAsync(out, pattern.data(), bytes(length), cudaMemcpyHostToDevice, stream));
  CUDA_CHECK(cudaStreamSynchronize(stream));
  for (int64_t done = length; done < n; done *= 2) {  // a multiple of the pattern until the last
    CUDA_CHECK(cudaMemcpyAsync(out + done, out, bytes(std::min(done, n - done)), cudaMemcpyDeviceToDevice, stream));
  }
}
