// A linear layer of inference,  out = inp @ weight^T + bias,  whose weights lie in memory as they are computed with:
//   f32   float
//   bf16  both factors rounded to bf16; their products summed in float
//   int8  weight[o,c] ~ scale[o] q[o,c] with q in [-127, 127] and scale[o] = max_c |weight[o,c]| / 127, and
//         inp[n,c] ~ scale[n] a[n,c] with a in [-32512, 32512]: the sum of the products q a is exact
// One number per row of weights suffices for them, but not for the inputs of a GPT-2, a few of which are far larger
// than the rest (Dettmers et al. 2022, LLM.int8()): these get 16 bits, as two parts of 8.
//
// A row of out has the same bits whatever the other rows are: all sums run over c in one order. Here are the plain
// loops; matmul_packed_fast.h has the layout in memory and the kernels.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

#include "kernels/common.h"
#include "kernels/gelu.h"
#include "kernels/rounding.h"

namespace cpu {

enum class WeightType { f32, bf16, int8 };

inline constexpr int kMaxWeight = 127, kMaxInput = 32512;  // int8; an input is 256 high + low, both parts in 8 bits
inline constexpr int kMaxPackedC = 65536;                  // so that the parts' sums fit 32 bits

// A matrix (OC, C) as the fast kernels read it; they say how many words it has.
struct PackedMatrix {
  WeightType type = WeightType::f32;
  int OC = 0, C = 0;
  uint32_t* words = nullptr;
  float* scales = nullptr;  // (OC, rounded up) int8 only
};

// N rows of inputs, in the same form, `stride` words apart.
struct PackedRows {
  uint32_t* words = nullptr;
  int64_t stride = 0;
  float* scales = nullptr;   // (N) int8 only
  int32_t* start = nullptr;  // (N, 2) int8 only: what the sums of high and of low parts start from
};

// What becomes of a sum: + bias (OC; null: none), then GELU, then + residual (N, OC; null: none).
struct Finish {
  const float* bias = nullptr;
  bool gelu = false;
  const float* residual = nullptr;
};

// q (C) and the scale of a row: x[c] ~ scale q[c], |q| <= limit. A row with a NaN or an infinity gets the scale NaN.
inline float quantize_row(int32_t* q, const float* x, int C, int limit) {
  float max = 0;
  bool finite = true;
  for (int c = 0; c < C; ++c) {
    max = std::max(max, std::abs(x[c]));
    finite = finite && std::isfinite(x[c]);
  }
  const float scale = max / static_cast<float>(limit), inverse = max > 0 ? static_cast<float>(limit) / max : 0;
  const bool usable = finite && std::isfinite(inverse);
  for (int c = 0; c < C; ++c) q[c] = usable ? static_cast<int32_t>(std::nearbyint(x[c] * inverse)) : 0;
  return finite ? (usable ? scale : 0) : NAN;
}

// The definition above, summed in double.
inline void matmul_packed(float* out,           // (N, OC)
                          const float* inp,     // (N, C)
                          const float* weight,  // (OC, C)
                          const Finish& finish, WeightType type, int N, int C, int OC) {
  // The factors as they are multiplied: numbers, and a scale per row.
  const auto factors = [&](const float* rows, int64_t count, int limit, std::vector<double>& scales) {
    std::vector<double> numbers(static_cast<size_t>(count * C));
    std::vector<int32_t> q(static_cast<size_t>(C));
    scales.assign(static_cast<size_t>(count), 1);
    for (int64_t r = 0; r < count; ++r) {
      const float* row = rows + r * C;
      if (type == WeightType::int8) scales[static_cast<size_t>(r)] = quantize_row(q.data(), row, C, limit);
      for (int c = 0; c < C; ++c) {
        numbers[static_cast<size_t>(r * C + c)] = type == WeightType::int8   ? q[static_cast<size_t>(c)]
                                                  : type == WeightType::bf16 ? round_to_nearest(row[c])
                                                                             : row[c];
      }
    }
    return numbers;
  };
  std::vector<double> x_scales, w_scales;
  const std::vector<double> x = factors(inp, N, kMaxInput, x_scales), w = factors(weight, OC, kMaxWeight, w_scales);
  for (int64_t n = 0; n < N; ++n) {
    for (int64_t o = 0; o < OC; ++o) {
      double sum = 0;
      for (int c = 0; c < C; ++c) sum += x[static_cast<size_t>(n * C + c)] * w[static_cast<size_t>(o * C + c)];
      float y = static_cast<float>(sum * x_scales[static_cast<size_t>(n)] * w_scales[static_cast<size_t>(o)]);
      if (finish.bias) y += finish.bias[o];
      if (finish.gelu) gelu_forward(&y, &y, 1);
      out[n * OC + o] = finish.residual ? finish.residual[n * OC + o] + y : y;
    }
  }
}

}  // namespace cpu
