// The two 16-bit floating-point types that files hold, as bits. bf16: the upper half of a float. f16 (IEEE binary16):
// 1 sign, 5 exponent and 10 mantissa bits.
#pragma once

#include <bit>
#include <cstdint>

inline float float_from_bf16(uint16_t bits) { return std::bit_cast<float>(static_cast<uint32_t>(bits) << 16); }

// Both round to the nearest, ties to even; overflow gives infinity; a NaN stays one and keeps the upper bits of its
// mantissa. So every 16-bit value survives conversion to float and back.
inline uint16_t bf16_from_float(float value) {
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  const bool nan = (bits & 0x7fffffffu) > 0x7f800000u;
  if (nan)
    return static_cast<uint16_t>(bits >> 16 | (bits & 0x7f0000u ? 0 : 0x40u));  // rounding could make it infinite
  return static_cast<uint16_t>((bits + 0x7fffu + (bits >> 16 & 1u)) >> 16);
}

inline uint16_t f16_from_float(float value) {
  const uint32_t bits = std::bit_cast<uint32_t>(value), magnitude = bits & 0x7fffffffu;
  const uint32_t sign = bits >> 16 & 0x8000u;
  uint32_t rounded;
  if (magnitude > 0x7f800000u) {  // NaN
    rounded = 0x7c00u | (magnitude & 0x7fe000u ? magnitude >> 13 & 0x3ffu : 0x200u);
  } else if (magnitude >= 0x477ff000u) {  // from 65520 on, halfway between the largest value and the next that would be
    rounded = 0x7c00u;
  } else if (magnitude <
             0x38800000u) {  // below 2^-14, subnormal: 0.5f has the same unit, 2^-24, and the sum is rounded
    rounded = std::bit_cast<uint32_t>(std::bit_cast<float>(magnitude) + 0.5f) - 0x3f000000u;
  } else {
    rounded = ((magnitude + 0xfffu + (magnitude >> 13 & 1u)) >> 13) - (112u << 10);
  }
  return static_cast<uint16_t>(sign | rounded);
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
