// Stochastic rounding to bf16: a number becomes one of the two bf16 around it, the upper one (in magnitude) with a
// probability equal to the part cut off, so that the expected value is the exact one.
//
// AdamW's moments can be kept in bf16 that way. Element i of the arena of moments draws in update t from one call of
// Philox per four elements: word i % 4 of counter (index i / 4, sequence 2^63 + t) under the key `seed`; m takes its
// upper 16 bits, v its lower 16. i counts the arena's elements as one process without ZeRO has them, so neither the
// number of processes nor the stage changes the numbers. Parameters that are rounded stochastically
// (kernels/adamw.cuh) draw from the sequences below 2^63.
#pragma once

#include <cstdint>
#include <cstring>

#include "kernels/philox.h"

// The bits of a float, with those that bf16 lacks cut off: rounded up if they and `random16` exceed 16 bits. Infinity,
// NaN and values that bf16 holds exactly stay.
WROUGHT_HOST_DEVICE inline uint32_t round_bits_stochastically(uint32_t bits, uint32_t random16) {
  return (bits & 0x7f800000u) == 0x7f800000u ? bits : (bits + random16) & 0xffff0000u;
}

// The random numbers of an update's moments.
struct MomentDraws {
  uint64_t seed;
  int64_t first;  // the number of element 0 in the whole arena
};

// Of elements 4 quad to 4 quad + 3 of the whole arena, in update t: word k for element 4 quad + k.
WROUGHT_HOST_DEVICE inline Philox4 draw_moments(uint64_t seed, int64_t t, int64_t quad) {
  return philox4(seed, (uint64_t{1} << 63) + static_cast<uint64_t>(t), static_cast<uint64_t>(quad));
}
WROUGHT_HOST_DEVICE inline uint32_t bits_of_m(uint32_t word) { return word >> 16; }
WROUGHT_HOST_DEVICE inline uint32_t bits_of_v(uint32_t word) { return word & 0xffffu; }

namespace cpu {

// A bf16 in the memory of the CPU: the upper half of a float.
struct bf16 {
  uint16_t bits = 0;
  operator float() const {
    const uint32_t whole = uint32_t{bits} << 16;
    float x;
    std::memcpy(&x, &whole, sizeof x);
    return x;
  }
};

inline uint32_t float_bits(float x) {
  uint32_t bits;
  std::memcpy(&bits, &x, sizeof bits);
  return bits;
}
// NaN stays NaN, also where its upper half would be infinity.
inline bf16 upper_half(uint32_t bits) {
  const bool is_nan = (bits & 0x7fffffffu) > 0x7f800000u;
  return {static_cast<uint16_t>((bits >> 16) | (is_nan ? 0x40u : 0u))};
}
inline bf16 round_stochastically(float x, uint32_t random16) {
  return upper_half(round_bits_stochastically(float_bits(x), random16));
}
// Ties to even.
inline bf16 round_to_nearest(float x) {
  const uint32_t bits = float_bits(x);
  return round_stochastically(x, 0x7fffu + (bits >> 16 & 1));
}

}  // namespace cpu
