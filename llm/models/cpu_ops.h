// The operations of ops.h on the CPU: a table of kernels, the fast or the plain ones, and the plain loops of those that
// have no fast version. Fused operations are composed.
#pragma once

#include <algorithm>
#include <functional>

#include "kernels/attention_decode.h"
#include "kernels/cpu/dispatch.h"
#include "kernels/dropout.h"
#include "kernels/embedding.h"
#include "kernels/kv_cache.h"
#include "kernels/lora.h"
#include "kernels/pool.h"
#include "kernels/residual.h"
#include "kernels/take_rows.h"
#include "llm/models/adapters.h"
#include "llm/models/ops.h"

template <class T>
class CpuOps {
 public:
  using floatX = T;
  using grad_t = T;
  using sum_t = cpu::accumulate_t<T>;
  using weight_t = T;
  using Cache = KeyValueCache<T>;
  using Rows = NormRows<T, sum_t>;

  // squares: to which linear_backward with Sum::set adds those of the gradients that it sets.
  CpuOps(const cpu::Kernels<T>& kernels, const AdapterPass<T>& adapters, double& squares)
      : k_(kernels), adapters_(adapters), squares_(squares) {}

  // ---- forward -----------------------------------------------------------------------------------------------------

  void embedding_forward(T* out, const int32_t* tokens, const T* wte, const T* wpe, const int32_t* documents,
                         const Dropout& dropout, int B, int T_, int C) {
    cpu::embedding_forward(out, tokens, wte, wpe, documents, B, T_, C);
    drop(out, out, dropout, int64_t{B} * T_ * C);
  }
  void norm_forward(const Rows& out, const T* inp, const Norm<T>& w, int N, int C) {
    k_.layernorm_forward(out.y, out.mean, out.rstd, inp, w.w, w.b, N, C);
  }
  void linear_forward(T* out, const T* inp, const Linear<T>& w, int N) {
    k_.matmul_forward(out, inp, w.w, w.b, N, w.in, w.out);
    adapters_forward(*this, adapters_, out, inp, w, N);
  }
  void linear_gelu_forward(T* out, T* activated, const T* inp, const Linear<T>& w, int N) {
    linear_forward(out, inp, w, N);
    gelu_forward(activated, out, int64_t{N} * w.out);
  }
  void linear_residual_forward(T* out, T* sublayer, const T* residual, const T* inp, const Linear<T>& w,
                               const Dropout& dropout, int N) {
    const int64_t n = int64_t{N} * w.out;
    linear_forward(sublayer, inp, w, N);
    drop(sublayer, sublayer, dropout, n);
    cpu::residual_forward(out, residual, sublayer, n);
  }
  void gelu_forward(T* out, const T* inp, int64_t n) { k_.gelu_forward(out, inp, n); }
  void attention_forward(T* out, sum_t* lse, const Qkv<const T>& inp, const AttentionShape& s, const Dropout& dropout) {
    k_.attention_forward(out, lse, inp, dropout.rate, dropout.seed, dropout.sequence, s);
  }
  void cache_append(const Cache& cache, int layer, const Qkv<const T>& inp, const AttentionShape& s) {
    cpu::kv_cache_append(cache.data, inp, cache.rows, layer, cache.layers, s);
  }
  void attention_decode(T* out, const Cache& cache, int layer, const Qkv<const T>& inp, const AttentionShape& s) {
    cpu::attention_decode(out, cache.data, inp, cache.rows, layer, cache.layers, s);
  }
  void pool_forward(T* out, const T* inp, const float* weights, int B, int T_, int C) {
    cpu::pool_forward(out, inp, weights, B, T_, C);
  }
  void take_rows(T* out, const T* inp, const int32_t* rows, int64_t n, int C) {
    if (!rows) std::copy_n(inp, n * C, out);
    if (rows) cpu::take_rows(out, inp, rows, static_cast<int>(n), C);
  }
  void classifier_forward(sum_t* losses, const T* logits, const int32_t* targets, int N, int V, int Vp) {
    k_.classifier_forward(losses, logits, targets, N, V, Vp);
  }

  // ---- backward ----------------------------------------------------------------------------------------------------

  void classifier_backward(T* logits, sum_t* losses, const int32_t* targets, const float* weights, int N, int V,
                           int Vp) {
    k_.classifier_backward(logits, losses, targets, weights, N, V, Vp);
  }
  void zero(T* out, int64_t n) { std::fill(out, out + n, T(0)); }
  void embedding_backward(T* dwte, T* dwpe, T* dout, const int32_t* tokens, const int32_t* documents,
                          const Dropout& dropout, int B, int T_, int C, int /* V */) {
    drop(dout, dout, dropout, int64_t{B} * T_ * C);
    cpu::embedding_backward(dwte, dwpe, dout, tokens, documents, B, T_, C);
  }
  void norm_backward(T* dinp, const Norm<T>& d, sum_t* dinp_sums, const T* dout, const T* inp, const Norm<T>& w,
                     const Rows& rows, Sum sum, int N, int C) {
    begin(sum, d.w, C);
    begin(sum, d.b, C);
    k_.layernorm_backward(dinp, d.w, d.b, dout, inp, w.w, rows.mean, rows.rstd, N, C);
    if (!dinp_sums) return;
    std::fill_n(dinp_sums, C, sum_t(0));
    k_.matmul_backward(nullptr, nullptr, dinp_sums, dinp, nullptr, nullptr, N, 0, C);  // the columns of dinp
  }
  void linear_backward(T* dinp, const Linear<T>& d, const T* dout, const sum_t* dout_sums, const T* inp,
                       const Linear<T>& w, Sum sum, int N) {
    const bool set = sum != Sum::add && d.w;
    begin(sum, d.b, w.out);
    k_.matmul_backward(dinp, set ? nullptr : d.w, dout_sums ? nullptr : d.b, dout, inp, w.w, N, w.in, w.out);
    if (set) k_.matmul_dweight(d.w, sum == Sum::set ? &squares_ : nullptr, dout, inp, N, w.in, w.out);
    if (dout_sums && d.b) std::transform(d.b, d.b + w.out, dout_sums, d.b, std::plus<T>());
    adapters_backward(*this, adapters_, dinp, d, dout, inp, w, N);
  }
  void linear_gelu_backward(T* dinp, const Linear<T>& d, const T* dout, const sum_t* dout_sums, const T* inp,
                            const T* pre_gelu, const Linear<T>& w, Sum sum, int N) {
    linear_backward(dinp, d, dout, dout_sums, inp, w, sum, N);
    gelu_backward(dinp, dinp, pre_gelu, int64_t{N} * w.in);
  }
  void gelu_backward(T* dinp, const T* dout, const T* inp, int64_t n) { k_.gelu_backward(dinp, dout, inp, n); }
  void attention_backward(const Qkv<T>& dinp, const T* dout, const T* out, const sum_t* lse, const Qkv<const T>& inp,
                          const AttentionShape& s, const Dropout& dropout) {
    k_.attention_backward(dinp, dout, out, lse, inp, dropout.rate, dropout.seed, dropout.sequence, s);
  }
  const T* dropout_backward(T* dinp, const T* dout, const Dropout& dropout, int64_t n) {
    if (dropout.rate == 0) return dout;
    drop(dinp, dout, dropout, n);
    return dinp;
  }
  void pool_backward(T* dinp, const T* dout, const float* weights, int B, int T_, int C) {
    cpu::pool_backward(dinp, dout, weights, B, T_, C);
  }

  // ---- what adapters need ------------------------------------------------------------------------------------------

  void matmul(T* out, const T* inp, const T* weight, int N, int C, int OC) {
    k_.matmul_forward(out, inp, weight, nullptr, N, C, OC);
  }
  void matmul_backward(T* dinp, T* dweight, const T* dout, const T* inp, const T* weight, int N, int C, int OC) {
    k_.matmul_backward(dinp, dweight, nullptr, dout, inp, weight, N, C, OC);
  }
  void dropout_part(T* out, const T* inp, const Dropout& dropout, int64_t first, int64_t n) {
    cpu::dropout_part(out, inp, dropout.rate, dropout.seed, dropout.sequence, first, n);
  }
  void lora_add(T* out, const T* inp, float scale, int N, int OC, int stride) {
    cpu::lora_add(out, inp, scale, N, OC, stride);
  }
  void lora_take(T* out, const T* inp, float scale, int N, int OC, int stride) {
    cpu::lora_take(out, inp, scale, N, OC, stride);
  }

 private:
  // Before additions to the gradient of a vector that `sum` sets.
  static void begin(Sum sum, T* d, int n) {
    if (d && sum != Sum::add) std::fill_n(d, n, T(0));
  }
  void drop(T* out, const T* inp, const Dropout& dropout, int64_t n) {
    if (dropout.rate > 0) dropout_part(out, inp, dropout, 0, n);
  }

  const cpu::Kernels<T>& k_;
  const AdapterPass<T>& adapters_;
  double& squares_;
};
