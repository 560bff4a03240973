// The operations of ops.h on the GPU: each queues its launches on one stream. Products do bias, residual connection and
// GELU in their epilogues, unless an adapter or dropout comes first.
#pragma once

#include "kernels/attention.cuh"
#include "kernels/attention_decode.cuh"
#include "kernels/classifier.cuh"
#include "kernels/dropout.cuh"
#include "kernels/embedding.cuh"
#include "kernels/gelu.cuh"
#include "kernels/kv_cache.cuh"
#include "kernels/layernorm.cuh"
#include "kernels/lora.cuh"
#include "kernels/matmul.cuh"
#include "kernels/matmul_packed.cuh"
#include "kernels/pool.cuh"
#include "kernels/residual.cuh"
#include "kernels/take_rows.cuh"
#include "llm/models/adapters.h"
#include "llm/models/ops.h"

struct GpuTiers {
  MatmulMode matmul;
  AttentionTier attention;
  bool packed = false;  // linears of decoding by kernels/matmul_packed.cuh
};

template <class T>
class GpuOps {
 public:
  using floatX = T;
  using grad_t = float;
  using sum_t = float;
  using weight_t = T;
  using Cache = KeyValueCache<T>;
  using Rows = NormRows<T, float>;

  // pass: where dropout's pass is, plus one, so that captured launches draw other numbers each time; null: launches
  // have it among their arguments.
  GpuOps(const GpuTiers& tiers, const AdapterPass<T>& adapters, void* scratch, const uint64_t* pass,
         cudaStream_t stream)
      : tiers_(tiers), adapters_(adapters), scratch_(scratch), pass_(pass), stream_(stream) {}

  // ---- forward -----------------------------------------------------------------------------------------------------

  void embedding_forward(T* out, const int32_t* tokens, const T* wte, const T* wpe, const int32_t* documents,
                         const Dropout& d, int B, int T_, int C) {
    ::embedding_forward(out, tokens, wte, wpe, documents, d.rate, d.seed, sequence(d), B, T_, C, stream_);
  }
  void norm_forward(const Rows& out, const T* inp, const Norm<T>& w, int N, int C) {
    ::layernorm_forward<T>(out.y, out.mean, out.rstd, inp, w.w, w.b, N, C, stream_);
  }
  void linear_forward(T* out, const T* inp, const Linear<T>& w, int N) {
    if (tiers_.packed) {
      packed_forward(out, inp, w, false, nullptr, N);
    } else {
      ::matmul_forward<T>(out, nullptr, inp, w.w, w.b, N, w.in, w.out, tiers_.matmul, stream_);
    }
    adapters_forward(*this, adapters_, out, inp, w, N);
  }
  void linear_gelu_forward(T* out, T* activated, const T* inp, const Linear<T>& w, int N) {
    if (!w.adapted()) {
      if (tiers_.packed) return packed_forward(activated, inp, w, true, nullptr, N);
      return ::matmul_forward<T>(out, activated, inp, w.w, w.b, N, w.in, w.out, tiers_.matmul, stream_);
    }
    linear_forward(out, inp, w, N);
    gelu_forward(activated, out, int64_t{N} * w.out);
  }
  void linear_residual_forward(T* out, T* sublayer, const T* residual, const T* inp, const Linear<T>& w,
                               const Dropout& d, int N) {
    if (d.rate == 0 && !w.adapted()) {
      if (tiers_.packed) return packed_forward(out, inp, w, false, residual, N);
      return ::matmul_forward<T>(out, nullptr, inp, w.w, w.b, N, w.in, w.out, tiers_.matmul, stream_, residual);
    }
    linear_forward(sublayer, inp, w, N);
    ::residual_forward(out, residual, sublayer, d.rate, d.seed, sequence(d), int64_t{N} * w.out, stream_);
  }
  void gelu_forward(T* out, const T* inp, int64_t n) { ::gelu_forward(out, inp, n, stream_); }
  void attention_forward(T* out, float* lse, const Qkv<const T>& inp, const AttentionShape& s, const Dropout& d) {
    ::attention_forward(out, lse, inp, d.rate, d.seed, sequence(d), s, tiers_.attention, stream_);
  }
  void cache_append(const Cache& cache, int layer, const Qkv<const T>& inp, const AttentionShape& s) {
    ::kv_cache_append(cache.data, inp, cache.rows, layer, cache.layers, s, stream_);
  }
  void attention_decode(T* out, const Cache& cache, int layer, const Qkv<const T>& inp, const AttentionShape& s) {
    ::attention_decode<T>(out, scratch_, cache.data, inp, cache.rows, layer, cache.layers, s, stream_);
  }
  void pool_forward(T* out, const T* inp, const float* weights, int B, int T_, int C) {
    ::pool_forward(out, inp, weights, B, T_, C, stream_);
  }
  void take_rows(T* out, const T* inp, const int32_t* rows, int64_t n, int C) {
    if (n == 0) return;
    if (rows) return ::take_rows(out, inp, rows, static_cast<int>(n), C, stream_);
    const size_t bytes = static_cast<size_t>(n * C) * sizeof(T);
    CUDA_CHECK(cudaMemcpyAsync(out, inp, bytes, cudaMemcpyDeviceToDevice, stream_));
  }
  void classifier_forward(float* losses, const T* logits, const int32_t* targets, int N, int V, int Vp) {
    ::classifier_forward(losses, logits, targets, N, V, Vp, stream_);
  }

  // ---- backward ----------------------------------------------------------------------------------------------------

  void classifier_backward(T* logits, float* losses, const int32_t* targets, const float* weights, int N, int V,
                           int Vp) {
    ::classifier_backward(logits, losses, targets, weights, N, V, Vp, stream_);
  }
  void zero(T* out, int64_t n) { CUDA_CHECK(cudaMemsetAsync(out, 0, static_cast<size_t>(n) * sizeof(T), stream_)); }
  void embedding_backward(float* dwte, float* dwpe, T* dout, const int32_t* tokens, const int32_t* documents,
                          const Dropout& d, int B, int T_, int C, int V) {
    ::embedding_backward<T>(dwte, dwpe, scratch_, dout, tokens, documents, d.rate, d.seed, sequence(d), B, T_, C, V,
                            stream_);
  }
  void norm_backward(T* dinp, const Norm<float>& d, float* dinp_sums, const T* dout, const T* inp, const Norm<T>& w,
                     const Rows& rows, Sum sum, int N, int C) {
    ::layernorm_backward<T>(dinp, d.w, d.b, dinp_sums, scratch_, dout, inp, w.w, rows.mean, rows.rstd, sum != Sum::add,
                            N, C, stream_);
  }
  void linear_backward(T* dinp, const Linear<float>& d, const T* dout, const float* dout_sums, const T* inp,
                       const Linear<T>& w, Sum sum, int N) {
    product_backward(dinp, d, dout, dout_sums, inp, nullptr, w, sum, N);
    adapters_backward(*this, adapters_, dinp, d, dout, inp, w, N);
  }
  void linear_gelu_backward(T* dinp, const Linear<float>& d, const T* dout, const float* dout_sums, const T* inp,
                            const T* pre_gelu, const Linear<T>& w, Sum sum, int N) {
    if (!w.adapted()) return product_backward(dinp, d, dout, dout_sums, inp, pre_gelu, w, sum, N);
    linear_backward(dinp, d, dout, dout_sums, inp, w, sum, N);
    ::gelu_backward<T>(dinp, dinp, pre_gelu, int64_t{N} * w.in, stream_);
  }
  void attention_backward(const Qkv<T>& dinp, const T* dout, const T* out, const float* lse, const Qkv<const T>& inp,
                          const AttentionShape& s, const Dropout& d) {
    ::attention_backward(dinp, scratch_, dout, out, lse, inp, d.rate, d.seed, sequence(d), s, tiers_.attention,
                         stream_);
  }
  const T* dropout_backward(T* dinp, const T* dout, const Dropout& d, int64_t n) {
    if (d.rate == 0) return dout;
    ::dropout_backward(dinp, dout, d.rate, d.seed, sequence(d), n, stream_);
    return dinp;
  }
  void pool_backward(T* dinp, const T* dout, const float* weights, int B, int T_, int C) {
    ::pool_backward(dinp, dout, weights, B, T_, C, stream_);
  }

  // ---- what adapters need ------------------------------------------------------------------------------------------

  void matmul(T* out, const T* inp, const T* weight, int N, int C, int OC) {
    ::matmul_forward<T>(out, nullptr, inp, weight, nullptr, N, C, OC, tiers_.matmul, stream_);
  }
  void matmul_backward(T* dinp, float* dweight, const T* dout, const T* inp, const T* weight, int N, int C, int OC) {
    ::matmul_backward<T>(dinp, dweight, nullptr, scratch_, dout, inp, weight, nullptr, N, C, OC, tiers_.matmul,
                         stream_);
  }
  void dropout_part(T* out, const T* inp, const Dropout& d, int64_t first, int64_t n) {
    ::dropout_part(out, inp, d.rate, d.seed, sequence(d), first, n, stream_);
  }
  void lora_add(T* out, const T* inp, float scale, int N, int OC, int stride) {
    ::lora_add(out, inp, scale, N, OC, stride, stream_);
  }
  void lora_take(T* out, const T* inp, float scale, int N, int OC, int stride) {
    ::lora_take(out, inp, scale, N, OC, stride, stream_);
  }

 private:
  void packed_forward(T* out, const T* inp, const Linear<T>& w, bool gelu, const T* residual, int N) {
    if (N == 0) return;
    ::matmul_packed<T, T>(out, inp, w.w, nullptr, {w.b, gelu, residual}, N, w.in, w.out, stream_);
  }
  DropoutSequence sequence(const Dropout& d) const {
    return pass_ ? DropoutSequence(d.sequence & 0xffff, pass_) : DropoutSequence(d.sequence);  // PassDropout::at
  }
  // pre_gelu: null, or what inp is GELU of; then dinp is the gradient of that.
  void product_backward(T* dinp, const Linear<float>& d, const T* dout, const float* dout_sums, const T* inp,
                        const T* pre_gelu, const Linear<T>& w, Sum sum, int N) {
    ::matmul_backward<T>(dinp, d.w, d.b, scratch_, dout, inp, w.w, pre_gelu, N, w.in, w.out, tiers_.matmul, stream_,
                         sum != Sum::add, dout_sums);
  }

  const GpuTiers& tiers_;
  const AdapterPass<T>& adapters_;
  void* scratch_;
  const uint64_t* pass_;
  cudaStream_t stream_;
};
