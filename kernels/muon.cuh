// Muon as in kernels/muon.h, matrix by matrix. X and A are in the model's floatX (bf16, as in Jordan's code), momentum
// and norm in float and double. The step's numbers (clipping, whether to update at all) are adamw_prepare's, on the
// device; parameters are kept, and rounded if there is no master copy, as in kernels/adamw.cuh.
//
// A and A A are symmetric: only tiles that reach the diagonal are multiplied, and elements below it are stored on both
// sides; B = a I + b A + c A A is computed from the sums of A A before they are rounded, in the epilogue. So a step of
// the iteration is three launches, and for a matrix of n x N, n <= N, a little more than 3/2 n^2 N + 1/2 n^3
// multiply-adds instead of 2 n^2 N + n^3.
//
// The three elementwise kernels are bound by memory, bytes read and written per parameter: momentum 12, normalize 8 and
// X, apply as adamw_update without moments and gradient: 8, or with a master copy 10, and X.
#pragma once

#include "kernels/adamw.cuh"
#include "kernels/matmul.cuh"
#include "kernels/muon.h"
#include "kernels/scratch.h"

inline constexpr int kMuonThreads = 256;

// ---- momentum and norm --------------------------------------------------------------------------------------------

// sums (gridDim.x) = ||u||_F^2 of each chunk. m stays as it was after a step that is not finite.
template <bool kVector>
__global__ void __launch_bounds__(kMuonThreads)
    muon_momentum_kernel(double* sums, float* m, const float* grads, const AdamWStep* step, float momentum, int64_t N) {
  wait_for_earlier_kernels();
  constexpr int n = 4;
  const int64_t begin = blockIdx.x * kMuonChunk, end = min(begin + kMuonChunk, N);
  const float grad_scale = step->grad_scale;
  const bool updated = step->updated;
  double sum = 0;
  with_pack<kVector, kMuonChunk>(N - begin, [&](auto whole) {
#pragma unroll
    for (int64_t i = begin + threadIdx.x * n; i < end; i += kMuonThreads * n) {
      float mi[n], g[n];
      load_floats<whole>(mi, m + i, end - i);
      load_floats<whole>(g, grads + i, end - i);
#pragma unroll
      for (int k = 0; k < n; ++k) {
        const float scaled = grad_scale * g[k];
        mi[k] = momentum * mi[k] + scaled;
        const float u = scaled + momentum * mi[k];
        sum += static_cast<double>(u) * u;
      }
      if (updated) store_floats<whole>(m + i, mi, end - i);
    }
  });
  sum = block_sum(sum);
  if (threadIdx.x == 0) sums[blockIdx.x] = sum;
}

inline void muon_momentum(double* sums,           // (muon_chunks(N))
                          float* m,               // (N)  updated
                          const float* grads,     // (N)
                          const AdamWStep* step,  // (1)  by adamw_prepare
                          float momentum, int64_t N, cudaStream_t stream) {
  launch(aligned16(m, grads) ? muon_momentum_kernel<true> : muon_momentum_kernel<false>, grid_for(N, kMuonChunk),
         kMuonThreads, 0, stream, sums, m, grads, step, momentum, N);
}

// x = u / (||u||_F + eps). Every block adds up the chunks' sums for itself, in one order.
template <class floatX, bool kVector>
__global__ void __launch_bounds__(kMuonThreads)
    muon_normalize_kernel(floatX* x, const float* m, const float* grads, const double* sums, const AdamWStep* step,
                          float momentum, int64_t N) {
  wait_for_earlier_kernels();
  constexpr int n = 4;
  const int64_t begin = blockIdx.x * kMuonChunk, end = min(begin + kMuonChunk, N);
  double squares = 0;
  for (unsigned k = threadIdx.x; k < gridDim.x; k += kMuonThreads) squares += sums[k];
  squares = block_sum(squares);
  const float scale = static_cast<float>(1 / (sqrt(squares) + static_cast<double>(kMuonEps)));
  const float grad_scale = step->grad_scale;
  with_pack<kVector, kMuonChunk>(N - begin, [&](auto whole) {
#pragma unroll
    for (int64_t i = begin + threadIdx.x * n; i < end; i += kMuonThreads * n) {
      float mi[n], g[n];
      load_floats<whole>(mi, m + i, end - i);
      load_floats<whole>(g, grads + i, end - i);
#pragma unroll
      for (int k = 0; k < n; ++k) g[k] = (grad_scale * g[k] + momentum * mi[k]) * scale;
      store_floats<whole>(x + i, g, end - i);
    }
  });
}

template <class floatX>
void muon_normalize(floatX* x,              // (N)
                    const float* m,         // (N)  by muon_momentum
                    const float* grads,     // (N)
                    const double* sums,     // (muon_chunks(N))  by muon_momentum
                    const AdamWStep* step,  // (1)  by adamw_prepare
                    float momentum, int64_t N, cudaStream_t stream) {
  const bool vector = aligned16(x, m, grads);
  launch(vector ? muon_normalize_kernel<floatX, true> : muon_normalize_kernel<floatX, false>, grid_for(N, kMuonChunk),
         kMuonThreads, 0, stream, x, m, grads, sums, step, momentum, N);
}

// ---- the iteration ------------------------------------------------------------------------------------------------

// The epilogue of a symmetric D (n, n), made of tiles that reach the diagonal: out = sum or, with inp, a I + b inp + c
// sum. An element below the diagonal is also stored in its mirror's place; the sums above the diagonal are left out, so
// that every place is written once.
template <class floatX>
struct MuonEpilogue {
  static constexpr bool kSymmetric = true;
  static constexpr int kWidth = Pack<floatX>::size;
  floatX* out;        // (n, n)
  const floatX* inp;  // (n, n) or null
  int N;              // n

  bool vector() const { return N % kWidth == 0 && aligned16(out, inp); }

  template <bool kVector, int n>
  __device__ void store(float (&x)[n], int64_t row, int column) const {
    const int64_t at = row * N + column;
    if (inp) {
      float a[n];
      load_floats<kVector>(a, inp + at, N - column);
#pragma unroll
      for (int k = 0; k < n; ++k) x[k] = kMuonB * a[k] + kMuonC * x[k] + (column + k == row ? kMuonA : 0.0f);
    }
    const int64_t left = row + 1 - column;  // up to the diagonal
    with_pack<kVector, n>(left, [&](auto whole) { store_floats<whole>(out + at, x, left); });
#pragma unroll
    for (int k = 0; k < n; ++k) {
      if (column + k < row) out[(column + k) * static_cast<int64_t>(N) + row] = from_float<floatX>(x[k]);
    }
  }
};

// The five steps on s.x; s.x then points to the result, in whichever of the two places it is.
template <class floatX>
void muon_orthogonalize(MuonScratch<floatX>& s, int rows, int cols, MatmulMode mode, cudaStream_t stream) {
  const int n = std::min(rows, cols);
  floatX* none = nullptr;
  for (int step = 0; step < kMuonSteps; ++step) {
    const MuonEpilogue<floatX> to_a{s.a, nullptr, n}, to_b{s.b, s.a, n};
    if (rows > cols) {
      matmul_own<Major::mn, Major::mn>(to_a, s.x, s.x, n, n, rows, mode, stream);
    } else {
      matmul_own<Major::k, Major::k>(to_a, s.x, s.x, n, n, cols, mode, stream);
    }
    matmul_own<Major::k, Major::k>(to_b, s.a, s.a, n, n, n, mode, stream);
    if (rows > cols) {
      matmul_forward(s.next, none, s.x, s.b, none, rows, n, n, mode, stream);
    } else {
      matmul_backward(s.next, static_cast<float*>(nullptr), nullptr, nullptr, s.b, none, s.x, none, n, cols, n, mode,
                      stream);
    }
    std::swap(s.x, s.next);
  }
}

// ---- the update ---------------------------------------------------------------------------------------------------

// One thread: four elements, one access to each array.
template <class floatX, bool kMaster, bool kVector>
__global__ void __launch_bounds__(kMuonThreads)
    muon_apply_kernel(floatX* params, float* master, const floatX* x, const AdamWStep* step, LearningRate lr,
                      float scale, float weight_decay, uint64_t seed, int64_t N) {
  wait_for_earlier_kernels();
  constexpr int n = 4;
  const int64_t i = (static_cast<int64_t>(blockIdx.x) * kMuonThreads + threadIdx.x) * n, left = N - i;
  if (left <= 0 || !step->updated) return;
  const float rate = lr.value();
  with_pack<kVector, n>(left, [&](auto whole) {
    float p[n], xi[n];
    if constexpr (kMaster) {
      load_floats<whole>(p, master + i, left);
    } else {
      load_floats<whole>(p, params + i, left);
    }
    load_floats<whole>(xi, x + i, left);
#pragma unroll
    for (int k = 0; k < n; ++k) p[k] -= rate * (scale * xi[k] + weight_decay * p[k]);
    if constexpr (kMaster) store_floats<whole>(master + i, p, left);
    if constexpr (sizeof(floatX) == 2 && !kMaster) {
      const Philox4 random = philox4(seed, step->updates, i / 4);
#pragma unroll
      for (int k = 0; k < n; ++k) p[k] = to_float(round_stochastically(p[k], random.word[k] >> 16));
    }
    store_floats<whole>(params + i, p, left);
  });
}

template <class floatX>
void muon_apply(floatX* params,         // (N)  updated
                float* master,          // (N)  updated; null: only params exist (float, or bf16 stochastically)
                const floatX* x,        // (N)
                const AdamWStep* step,  // (1)  by adamw_prepare
                LearningRate lr,
                float scale,  // muon_scale()
                float weight_decay,
                uint64_t seed,  // only for stochastic rounding: sequence t, element i
                int64_t N, cudaStream_t stream) {
  const bool vector = aligned16(params, master, x);
  auto kernel = vector ? muon_apply_kernel<floatX, false, true> : muon_apply_kernel<floatX, false, false>;
  if (master) kernel = vector ? muon_apply_kernel<floatX, true, true> : muon_apply_kernel<floatX, true, false>;
  launch(kernel, grid_for(ceil_div<int64_t>(N, 4), kMuonThreads), kMuonThreads, 0, stream, params, master, x, step, lr,
         scale, weight_decay, seed, N);
}

// A whole step for one matrix.
template <class floatX>
void muon_update(floatX* params,         // (rows, cols)  updated
                 float* master,          // (rows, cols)  updated, or null
                 float* m,               // (rows, cols)  updated
                 floatX* scratch,        // muon_scratch(rows, cols)
                 double* sums,           // (muon_chunks(rows cols))
                 const float* grads,     // (rows, cols)
                 const AdamWStep* step,  // (1)  by adamw_prepare
                 LearningRate lr, float momentum, float weight_decay, uint64_t seed, int rows, int cols,
                 MatmulMode mode, cudaStream_t stream) {
  const DryOperation operation([&] {
    return DryRun::Operation{"muon_update", std::to_string(rows) + " x " + std::to_string(cols)};
  });
  const int64_t N = int64_t{rows} * cols;
  MuonScratch<floatX> s(scratch, rows, cols);
  muon_momentum(sums, m, grads, step, momentum, N, stream);
  muon_normalize(s.x, m, grads, sums, step, momentum, N, stream);
  muon_orthogonalize(s, rows, cols, mode, stream);
  muon_apply(params, master, s.x, step, lr, muon_scale(rows, cols), weight_decay, seed, N, stream);
}
