// Muon (Jordan et al. 2024) for a weight matrix W (rows, cols), with the step size and the weight decay of "Muon is
// scalable for LLM training" (Liu et al. 2025). At each step, from the gradient g as clipping scaled it:
//   m = momentum m + g      u = g + momentum m  (Nesterov)      X = u / (||u||_F + eps)
//   five times (Newton and Schulz):   X = (a I + b A + c A A) X   with A = X X^T
//   W -= lr * ( 0.2 sqrt(max(rows, cols)) X + weight_decay W )
//
// A step of the iteration maps each singular value s of X to a s + b s^3 + c s^5 and keeps the singular vectors. With
// Jordan's coefficients five of them take all s from 0.002 to 1 to between 0.68 and 1.21: X is about the orthogonal
// matrix nearest to u. Its elements have an rms of about 1 / sqrt(max(rows, cols)), so W moves by an rms of 0.2 lr, as
// in AdamW's updates: one learning rate and one weight decay serve both.
//
// A matrix of more rows than columns is processed from its other side, A = X^T X and X = X (a I + b A + c A A): the
// same X, and A is always of the smaller side, n x n.
#pragma once

#include <algorithm>
#include <cmath>
#include <utility>
#include <vector>

#include "kernels/matmul.h"

inline constexpr float kMuonA = 3.4445f, kMuonB = -4.7750f, kMuonC = 2.0315f;
inline constexpr int kMuonSteps = 5;
inline constexpr float kMuonEps = 1e-7f;

// The factor that gives X an update of AdamW's rms.
inline float muon_scale(int rows, int cols) { return 0.2f * std::sqrt(static_cast<float>(std::max(rows, cols))); }

// What a step needs in addition to its tensors, in one piece of scratch: each part is a whole number of cache lines.
template <class floatX>
struct MuonScratch {
  floatX *x, *next;  // (rows, cols)
  floatX *a, *b;     // (n, n), n the smaller of rows and cols

  MuonScratch(floatX* scratch, int rows, int cols) {
    x = scratch;
    next = x + lines(int64_t{rows} * cols);
    a = next + lines(int64_t{rows} * cols);
    b = a + lines(int64_t{std::min(rows, cols)} * std::min(rows, cols));
  }
  static int64_t lines(int64_t n) { return (n + 63) / 64 * 64; }
};
// Elements in total.
inline int64_t muon_scratch(int rows, int cols) {
  const int64_t side = std::min(rows, cols);
  return 2 * MuonScratch<float>::lines(int64_t{rows} * cols) + 2 * MuonScratch<float>::lines(side * side);
}

namespace cpu {

// Returns ||u||_F^2: chunks of a fixed size are summed in double, and the chunks' sums in order.
template <class floatX>
double muon_momentum(floatX* m,            // (N)  updated
                     const floatX* grads,  // (N)
                     floatX grad_scale,    // what clipping multiplies the gradients by
                     floatX momentum, int64_t N) {
  constexpr int64_t kChunk = 4096;
  const int64_t chunks = (N + kChunk - 1) / kChunk;
  std::vector<double> sums(static_cast<size_t>(chunks));
#pragma omp parallel for
  for (int64_t k = 0; k < chunks; ++k) {
    double sum = 0;
    const int64_t end = std::min(N, (k + 1) * kChunk);
#pragma omp simd reduction(+ : sum)
    for (int64_t i = k * kChunk; i < end; ++i) {
      const floatX g = grad_scale * grads[i];
      m[i] = momentum * m[i] + g;
      const floatX u = g + momentum * m[i];
      sum += static_cast<double>(u) * u;
    }
    sums[static_cast<size_t>(k)] = sum;
  }
  double total = 0;
  for (const double sum : sums) total += sum;
  return total;
}

// x = u / (||u||_F + eps), from m as muon_momentum left it.
template <class floatX>
void muon_normalize(floatX* x,            // (N)
                    const floatX* m,      // (N)
                    const floatX* grads,  // (N)
                    double norm_squared,  // ||u||_F^2
                    floatX grad_scale, floatX momentum, int64_t N) {
  const floatX scale = static_cast<floatX>(1 / (std::sqrt(norm_squared) + static_cast<double>(kMuonEps)));
#pragma omp parallel for simd
  for (int64_t i = 0; i < N; ++i) x[i] = (grad_scale * grads[i] + momentum * m[i]) * scale;
}

// The five steps on s.x; s.x then points to the result, in whichever of the two places it is. Both products are those
// of a linear layer: X X^T is matmul_forward(A, X, X), and B X, with B symmetric, is matmul_backward's gradient of its
// input; from the other side X^T X is the gradient of its weight, and X B matmul_forward.
template <class floatX>
void muon_orthogonalize(MuonScratch<floatX>& s, int rows, int cols, decltype(&matmul_forward<floatX>) forward,
                        decltype(&matmul_backward<floatX>) backward) {
  const int n = std::min(rows, cols);
  floatX* none = nullptr;
  for (int step = 0; step < kMuonSteps; ++step) {
    if (rows > cols) {
      std::fill(s.a, s.a + int64_t{n} * n, floatX(0));
      backward(none, s.a, none, s.x, s.x, none, rows, n, n);
    } else {
      forward(s.a, s.x, s.x, none, n, cols, n);
    }
    forward(s.b, s.a, s.a, none, n, n, n);
#pragma omp parallel for
    for (int i = 0; i < n; ++i) {
      floatX *a = s.a + int64_t{i} * n, *b = s.b + int64_t{i} * n;
      for (int j = 0; j < n; ++j) b[j] = kMuonB * a[j] + kMuonC * b[j];
      b[i] += kMuonA;  // the aX of the formula, so that X is multiplied once
    }
    if (rows > cols) {
      forward(s.next, s.x, s.b, none, rows, n, n);
    } else {
      backward(s.next, none, none, s.b, none, s.x, n, cols, n);
    }
    std::swap(s.x, s.next);
  }
}

template <class floatX>
void muon_apply(floatX* params,   // (N)  updated
                const floatX* x,  // (N)
                floatX lr,
                floatX scale,  // muon_scale()
                floatX weight_decay, int64_t N) {
#pragma omp parallel for simd
  for (int64_t i = 0; i < N; ++i) params[i] -= lr * (scale * x[i] + weight_decay * params[i]);
}

// A whole step for one matrix.
template <class floatX>
void muon_update(floatX* params,       // (rows, cols)  updated
                 floatX* m,            // (rows, cols)  updated
                 floatX* scratch,      // muon_scratch(rows, cols)
                 const floatX* grads,  // (rows, cols)
                 floatX grad_scale, floatX lr, floatX momentum, floatX weight_decay, int rows, int cols,
                 decltype(&matmul_forward<floatX>) forward, decltype(&matmul_backward<floatX>) backward) {
  const int64_t N = int64_t{rows} * cols;
  MuonScratch<floatX> s(scratch, rows, cols);
  const double norm_squared = muon_momentum(m, grads, grad_scale, momentum, N);
  muon_normalize(s.x, m, grads, norm_squared, grad_scale, momentum, N);
  muon_orthogonalize(s, rows, cols, forward, backward);
  muon_apply<floatX>(params, s.x, lr, muon_scale(rows, cols), weight_decay, N);
}

}  // namespace cpu
