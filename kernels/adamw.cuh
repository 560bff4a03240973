// AdamW as in kernels/adamw.h, in one launch over the arena of all parameters. The step's numbers (norm, clipping, bias
// corrections, whether to update at all) are computed and kept on the device: the host does not wait for them.
//
// Parameters stored as bf16 have 8 bits of mantissa; an update below 1/512 of a parameter would be rounded away. So
// either a float master copy is updated and the bf16 ones are rounded from it, or they are rounded stochastically: up
// with a probability equal to the part cut off, so that the expected value is the exact one.
//
// m and v are float, or bf16: then they are rounded stochastically after the parameter was updated with them, with the
// random numbers of kernels/rounding.h.
//
// Bound by memory, bytes read and written per parameter: float 28, bf16 with a master copy 30, without 24; 8 less with
// moments in bf16.
#pragma once

#include <cstdint>

#include "kernels/common.cuh"
#include "kernels/philox.h"
#include "kernels/rounding.h"

// Lives in device memory; `updates` is set by the host at the start, the rest by adamw_prepare.
struct AdamWStep {
  double loss, norm;
  float lr;                // of the step, before a parameter's own scale
  float grad_scale;        // what clipping multiplies the gradients by
  float beta1_correction;  // 1 - beta1^t
  float beta2_correction;  // 1 - beta2^t
  int32_t updated;         // 1, or 0: loss or norm was not finite, and nothing changes
  int64_t updates;         // t of the last update made
};

// The learning rate of a launch: a number, or a share of one in device memory, so that a launch that is captured once
// follows a schedule.
struct LearningRate {
  float rate;
  const float* of;  // (1)  null: 1

  LearningRate(float rate, const float* of = nullptr) : rate(rate), of(of) {}
  __device__ float value() const { return of ? *of * rate : rate; }
};

// One thread.
static __global__ void adamw_prepare_kernel(AdamWStep* step, const double* norm_squared, const double* loss, float lr,
                                            float grad_clip, float beta1, float beta2) {
  wait_for_earlier_kernels();
  const double norm = sqrt(*norm_squared);
  step->loss = *loss;
  step->norm = norm;
  step->lr = lr;
  step->updated = norm - norm == 0 && *loss - *loss == 0;  // infinity and NaN minus themselves are NaN
  if (step->updated) ++step->updates;
  const double t = static_cast<double>(step->updates);
  step->grad_scale = grad_clip > 0 && norm > grad_clip ? static_cast<float>(grad_clip / norm) : 1.0f;
  step->beta1_correction = static_cast<float>(1 - pow(static_cast<double>(beta1), t));
  step->beta2_correction = static_cast<float>(1 - pow(static_cast<double>(beta2), t));
}

inline void adamw_prepare(AdamWStep* step,             // (1)  updates: in and out, the rest: out
                          const double* norm_squared,  // (1)
                          const double* loss,          // (1)
                          float lr,
                          float grad_clip,  // the largest norm; 0: no clipping
                          float beta1, float beta2, cudaStream_t stream) {
  launch(adamw_prepare_kernel, 1, 1, 0, stream, step, norm_squared, loss, lr, grad_clip, beta1, beta2);
}

// x as one of the two bf16 around it: the upper one (in magnitude) with a probability of the bits cut off, in 65536ths.
// Infinity, NaN and values that bf16 holds exactly stay.
__device__ inline bf16 round_stochastically(float x, uint32_t random16) {
  return from_float<bf16>(__uint_as_float(round_bits_stochastically(__float_as_uint(x), random16)));
}

// One thread: four elements, one access to each array.
template <class floatX, bool kMaster, bool kVector, class moment_t>
__global__ void __launch_bounds__(256)
    adamw_update_kernel(floatX* params, float* master, moment_t* m, moment_t* v, const float* grads,
                        const uint8_t* decay, const AdamWStep* step, LearningRate lr, float beta1, float beta2,
                        float eps, float weight_decay, uint64_t seed, MomentDraws draws, int64_t N) {
  wait_for_earlier_kernels();
  constexpr int n = 4;
  const int64_t i = (static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x) * n, left = N - i;
  if (left <= 0 || !step->updated) return;
  const float grad_scale = step->grad_scale, rate = lr.value();
  const float bias_correction1 = step->beta1_correction, bias_correction2 = step->beta2_correction;
  const float decay_rate = decay[i / 64] ? weight_decay : 0;

  with_pack<kVector, n>(left, [&](auto whole) {
    float p[n], mi[n], vi[n], g[n];
    if constexpr (kMaster) {
      load_floats<whole>(p, master + i, left);
    } else {
      load_floats<whole>(p, params + i, left);
    }
    load_floats<whole>(mi, m + i, left);
    load_floats<whole>(vi, v + i, left);
    load_floats<whole>(g, grads + i, left);
#pragma unroll
    for (int k = 0; k < n; ++k) {
      const float scaled = grad_scale * g[k];
      mi[k] = beta1 * mi[k] + (1 - beta1) * scaled;
      vi[k] = beta2 * vi[k] + (1 - beta2) * scaled * scaled;
      const float direction = (mi[k] / bias_correction1) / (sqrtf(vi[k] / bias_correction2) + eps);
      p[k] -= rate * (direction + decay_rate * p[k]);
    }
    if constexpr (sizeof(moment_t) == 2) {
      const Philox4 random = draw_moments(draws.seed, step->updates, (draws.first + i) / 4);
#pragma unroll
      for (int k = 0; k < n; ++k) {
        mi[k] = to_float(round_stochastically(mi[k], bits_of_m(random.word[k])));
        vi[k] = to_float(round_stochastically(vi[k], bits_of_v(random.word[k])));
      }
    }
    store_floats<whole>(m + i, mi, left);
    store_floats<whole>(v + i, vi, left);
    if constexpr (kMaster) store_floats<whole>(master + i, p, left);
    if constexpr (sizeof(floatX) == 2 && !kMaster) {
      const Philox4 random = philox4(seed, step->updates, i / 4);
#pragma unroll
      for (int k = 0; k < n; ++k) p[k] = to_float(round_stochastically(p[k], random.word[k] >> 16));
    }
    store_floats<whole>(params + i, p, left);
  });
}

namespace detail {
template <class floatX, class moment_t>
void launch_adamw_update(floatX* params, float* master, moment_t* m, moment_t* v, const float* grads,
                         const uint8_t* decay, const AdamWStep* step, LearningRate lr, float beta1, float beta2,
                         float eps, float weight_decay, uint64_t seed, MomentDraws draws, int64_t N,
                         cudaStream_t stream) {
  const bool vector = aligned16(params, master, m, v, grads);
  auto kernel =
      vector ? adamw_update_kernel<floatX, false, true, moment_t> : adamw_update_kernel<floatX, false, false, moment_t>;
  if (master) {
    kernel =
        vector ? adamw_update_kernel<floatX, true, true, moment_t> : adamw_update_kernel<floatX, true, false, moment_t>;
  }
  constexpr int kThreads = 256;
  launch(kernel, grid_for(ceil_div<int64_t>(N, 4), kThreads), kThreads, 0, stream, params, master, m, v, grads, decay,
         step, lr, beta1, beta2, eps, weight_decay, seed, draws, N);
}
}  // namespace detail

template <class floatX>
void adamw_update(floatX* params,         // (N)  updated
                  float* master,          // (N)  updated; null: only params exist (float, or bf16 stochastically)
                  float* m,               // (N)  updated
                  float* v,               // (N)  updated
                  const float* grads,     // (N)
                  const uint8_t* decay,   // (ceil(N / 64))  1 where weight decay applies
                  const AdamWStep* step,  // (1)  by adamw_prepare
                  LearningRate lr, float beta1, float beta2, float eps, float weight_decay,
                  uint64_t seed,  // only for stochastic rounding: sequence t, element i
                  int64_t N, cudaStream_t stream) {
  detail::launch_adamw_update(params, master, m, v, grads, decay, step, lr, beta1, beta2, eps, weight_decay, seed,
                              MomentDraws{}, N, stream);
}

// With moments in bf16.
template <class floatX>
void adamw_update_bf16(floatX* params,         // (N)  as above, as all others
                       float* master,          // (N)
                       bf16* m,                // (N)  updated
                       bf16* v,                // (N)  updated
                       const float* grads,     // (N)
                       const uint8_t* decay,   // (ceil(N / 64))
                       const AdamWStep* step,  // (1)
                       LearningRate lr, float beta1, float beta2, float eps, float weight_decay, uint64_t seed,
                       MomentDraws draws,  // first: a multiple of 4
                       int64_t N, cudaStream_t stream) {
  detail::launch_adamw_update(params, master, m, v, grads, decay, step, lr, beta1, beta2, eps, weight_decay, seed,
                              draws, N, stream);
}
