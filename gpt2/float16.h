// The two 16-bit floating-point types that files hold, as bits. bf16: the upper half of a float. f16 (IEEE binary16):
// 1 sign, 5 exponent and 10 mantissa bits.
#pragma once

#include <bit>
#include <cstdint>

inline float float_from_bf16(uint16_t bits) { return std::bit_cast<float>(static_cast<uint32_t>(bits) << 16); }

// To the nearest, ties to even; overflow to infinity; a NaN stays one.
inline uint16_t bf16_from_float(float value) {
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  const bool nan = (bits & 0x7fffffffu) > 0x7f800000u;
  if (nan) return static_cast<uint16_t>(bits >> 16 | 0x40u);  // rounding, or cutting, could make it infinite
  return static_cast<uint16_t>((bits + 0x7fffu + (bits >> 16 & 1u)) >> 16);
}

inline float float_from_f16(uint16_t bits) {
  const uint32_t sign = static_cast<uint32_t>(bits & 0x8000u) << 16;
  const uint32_t exponent = bits >> 10 & 0x1fu, mantissa = bits & 0x3ffu;
  if (exponent == 0) {  // zero or subnormal: mantissa * 2^-24, exact in a float
    const float magnitude = static_cast<float>(mantissa) * 0x1p-24f;
    return sign ? -magnitude : magnitude;
  }
  const uint32_t biased = exponent == 31 ? 255 : exponent + 127 - 15;
  return std::bit_cast<float>(sign | biased << 23 | mantissa << 13);
}
