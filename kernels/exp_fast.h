// exp for float in plain arithmetic, so that loops around it vectorise. At most 1 ulp from the exact value over the
// range where that is a normal number; 0 below it (exp(-88) and less), and finite, about 3e38, above 88.7.
//
//   x = n ln 2 + r,  |r| <= ln(2) / 2,  exp(x) = 2^n exp(r),  exp(r) by its Taylor series to r^7 / 7! (error 5e-9).
#pragma once

#include <algorithm>
#include <bit>
#include <cstdint>

#include "kernels/simd.h"

namespace cpu::WROUGHT_ISA {

inline float exp(float x) {
  constexpr float kLog2e = 1.44269504f, kLn2High = 0.693359375f, kLn2Low = -2.12194440e-4f;
  constexpr float kRound = 12582912.0f;  // 1.5 * 2^23: adding it leaves the nearest integer in the low bits
  const float clamped = std::min(std::max(x, -87.33f), 88.72f);
  const float shifted = clamped * kLog2e + kRound;
  const float n = shifted - kRound;
  const float r = (clamped - n * kLn2High) - n * kLn2Low;
  float p = 1.0f / 5040;
  p = p * r + 1.0f / 720;
  p = p * r + 1.0f / 120;
  p = p * r + 1.0f / 24;
  p = p * r + 1.0f / 6;
  p = p * r + 1.0f / 2;
  p = p * r + 1.0f;
  p = p * r + 1.0f;
  // 2^n in two halves: n = 128 has no float of its own.
  const int32_t k = std::bit_cast<int32_t>(shifted) - std::bit_cast<int32_t>(kRound), half = k >> 1;
  const float scale1 = std::bit_cast<float>((half + 127) << 23), scale2 = std::bit_cast<float>((k - half + 127) << 23);
  return x < -87.33f ? 0.0f : p * scale1 * scale2;
}

}  // namespace cpu::WROUGHT_ISA
