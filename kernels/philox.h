// Stateless random numbers: Philox4x32-10 (Salmon, Moraes, Dror and Shaw, "Parallel random numbers: as easy as
// 1, 2, 3", 2011). Number i of a (seed, sequence) is a pure function, so a dropout mask need not be stored, any thread
// may make any part of it, and a CPU and a GPU make the same one.
#pragma once

#include <cmath>
#include <cstdint>

#ifdef __CUDACC__
#define WROUGHT_HOST_DEVICE __host__ __device__
#else
#define WROUGHT_HOST_DEVICE
#endif

struct Philox4 {
  uint32_t word[4];
};

// The 128-bit counter is (index, sequence); the key is the seed.
WROUGHT_HOST_DEVICE inline Philox4 philox4(uint64_t seed, uint64_t sequence, uint64_t index) {
  uint32_t c0 = static_cast<uint32_t>(index), c1 = static_cast<uint32_t>(index >> 32);
  uint32_t c2 = static_cast<uint32_t>(sequence), c3 = static_cast<uint32_t>(sequence >> 32);
  uint32_t k0 = static_cast<uint32_t>(seed), k1 = static_cast<uint32_t>(seed >> 32);
  for (int round = 0; round < 10; ++round) {
    const uint64_t p0 = uint64_t{0xD2511F53} * c0;
    const uint64_t p1 = uint64_t{0xCD9E8D57} * c2;
    c0 = static_cast<uint32_t>(p1 >> 32) ^ c1 ^ k0;
    c1 = static_cast<uint32_t>(p1);
    c2 = static_cast<uint32_t>(p0 >> 32) ^ c3 ^ k1;
    c3 = static_cast<uint32_t>(p0);
    k0 += 0x9E3779B9;
    k1 += 0xBB67AE85;
  }
  return {{c0, c1, c2, c3}};
}

// Uniform in [0, 1), a multiple of 2^-24: exact in float.
WROUGHT_HOST_DEVICE inline float uniform_from_bits(uint32_t bits) { return static_cast<float>(bits >> 8) * 0x1p-24f; }

// Element i of a sequence of uniforms in [0, 1).
WROUGHT_HOST_DEVICE inline float philox_uniform(uint64_t seed, uint64_t sequence, uint64_t i) {
  return uniform_from_bits(philox4(seed, sequence, i / 4).word[i % 4]);
}

// Four standard normals from one counter, by Box and Muller (1958).
inline void philox_normal4(float out[4], uint64_t seed, uint64_t sequence, uint64_t index) {
  const Philox4 r = philox4(seed, sequence, index);
  for (int k = 0; k < 4; k += 2) {
    const float u1 = (static_cast<float>(r.word[k] >> 8) + 0.5f) * 0x1p-24f;  // never 0: the logarithm is finite
    const float u2 = uniform_from_bits(r.word[k + 1]);
    const float radius = std::sqrt(-2.0f * std::log(u1)), angle = 6.2831853f * u2;
    out[k] = radius * std::cos(angle);
    out[k + 1] = radius * std::sin(angle);
  }
}
