// PyTorch's random numbers on a CPU, number for number, so that a model can begin with the weights that PyTorch would
// have given it: the generator (a Mersenne Twister, Matsumoto and Nishimura 1998) and torch's use of its bits.
#pragma once

#include <cstdint>
#include <optional>
#include <random>
#include <span>
#include <vector>

class TorchRandom {
 public:
  explicit TorchRandom(uint64_t seed) : engine_(static_cast<uint32_t>(seed)) {}  // torch.manual_seed: its lower 32 bits

  // tensor.uniform_(from, to) of float.
  void uniform(std::span<float> out, double from, double to);
  // tensor.normal_(0, 1) of a contiguous float tensor. Up to 15 elements are drawn in double, one pair after another;
  // more in blocks of 16, and if that leaves a remainder, the last 16 elements anew. The bits are those of torch's
  // plain path, given this machine's logarithm, sine and cosine; torch's AVX2 path has its own three, and the largest
  // difference seen is 2.5e-6.
  void normal(std::span<float> out);
  int64_t integer();                            // torch.empty((), dtype=torch.int64).random_(): 63 bits
  std::vector<int64_t> permutation(int64_t n);  // torch.randperm(n)
  // torch.multinomial(p, 1): the largest p / q, with q drawn from the exponential distribution for each; p need not be
  // normalised. (Torch 2 built with MKL draws other q, by MKL.)
  int multinomial(std::span<const float> p);

 private:
  uint32_t word() { return static_cast<uint32_t>(engine_()); }
  uint64_t two_words();
  float unit_float();    // 24 bits in [0, 1)
  double unit_double();  // 53 bits in [0, 1)
  double normal_double();

  std::mt19937 engine_;
  std::optional<double> spare_;  // the second number of normal_double's pair
};
