// The operations of a model, at the level where all devices agree. A family's forward and backward (gpt2.h) are written
// in them, once; a class with these members runs them: CpuOps (cpu_ops.h), GpuOps (gpu_ops.cuh).
//
// Each is one row of this list, or a named fusion of two; none contains a block of a model. Outputs come first. Shapes
// are row-major; N is a number of rows, one per token unless said otherwise. "=" sets, "+=" adds.
//
//   embedding_forward        out (N, C) = drop(wte[token] + wpe[position])
//   norm_forward             out.y (N, C) = norm of inp (N, C); out.mean, out.rstd (N)
//   linear_forward           out (N, w.out) = inp (N, w.in) w^T + b, and its adapters' parts
//   linear_gelu_forward      the same; and activated (N, w.out) = gelu(out)
//   linear_residual_forward  out (N, w.out) = residual + drop(inp (N, w.in) w^T + b). Uses up sublayer (N, w.out)
//   gelu_forward             out (n) = gelu(inp)
//   attention_forward        out (N, NH HS), lse (B, NH, T) of queries, keys and values (kernels/attention_shape.h)
//   cache_append             keys and values of each row go to its place in the cache
//   attention_decode         out (N, NH HS) = attention of each row's queries to the keys of its sequence in the cache
//   pool_forward             out (B, C) = sum over t of weights (B, T) * inp (N, C)
//   take_rows                out (n, C) = these rows of inp (N, C); null: the first n
//   classifier_forward       losses (N) of logits (N, Vp)
//   classifier_backward      losses (N); logits (N, Vp) become dlogits = weight * (softmax - onehot)
//   zero                     out (n) = 0
//   embedding_backward       dwte, dwpe += of dout (N, C). Uses up dout
//   norm_backward            dinp (N, C) +=; dw, db as Sum says; dinp_sums (C) = column sums of dinp, null: not needed
//   linear_backward          dinp (N, w.in) =, null: not needed; dw, db as Sum says; its adapters' gradients +=.
//                            dout_sums (w.out): column sums of dout, null: not known
//   linear_gelu_backward     the same for inp = gelu(pre_gelu): dinp (N, w.in) = gradient of pre_gelu
//   attention_backward       the gradients of queries, keys and values =
//   dropout_backward         the gradient of a sublayer's output in front of linear_residual_forward's dropout: in
//                            dinp (n), or dout itself where nothing is dropped; returns which
//   pool_backward            dinp (N, C) =
//
// A gradient that is null belongs to a tensor that is not trained.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>

#include "kernels/attention_shape.h"
#include "kernels/kv_cache.h"

// ---- tensors of one operation --------------------------------------------------------------------------------------

// Layer norm: weight and bias (C). With b == nullptr it is RMSNorm (kernels/layernorm.h): its rows have no mean.
template <class T>
struct Norm {
  T *w = nullptr, *b = nullptr;
  const char* name = "";
};

// What a norm gives, statistics included: rows y (N, C), mean and rstd (N), saved for backward. mean: null for RMSNorm.
template <class T, class S>
struct NormRows {
  T* y = nullptr;
  S *mean = nullptr, *rstd = nullptr;
};

// A low-rank adapter of a linear (LoraOptions): adds to its outputs from `first` on.
template <class T>
struct LoraParams {
  T *a = nullptr, *b = nullptr;  // (rank, in), (out, rank)  null: there is none
  int first = 0, out = 0;
  uint64_t site = 0;  // of its dropout
};

// y = x w^T + b.
template <class T>
struct Linear {
  T* w = nullptr;  // (out, in)
  T* b = nullptr;  // (out)  null: none
  int in = 0, out = 0;
  int used = 0;  // of the outputs: without padding
  const char* name = "";
  std::array<LoraParams<T>, 3> adapters = {};  // of parts of it: queries, keys, values
  int64_t first_row = 0;                       // of x in the whole tensor, for the adapters' dropout

  bool adapted() const {
    return std::any_of(adapters.begin(), adapters.end(), [](const LoraParams<T>& adapter) { return adapter.a; });
  }
  // For rows from `row` on.
  Linear from(int64_t row) const {
    Linear part = *this;
    part.first_row = row;
    return part;
  }
};

// How the backward pass of a norm or a linear leaves the gradients of its parameters.
enum class Sum {
  add,    // adds to it
  set,    // sets it: nothing was added to it since zero_grad()
  begin,  // sets it, and other operations of the same backward pass add to the matrix
};

// ---- dropout -------------------------------------------------------------------------------------------------------

// Dropout at one site: element i of a tensor is zeroed by number i of Philox's (seed, sequence) (kernels/dropout.h).
struct Dropout {
  float rate = 0;
  uint64_t seed = 0, sequence = 0;
};

// Dropout of a pass, in which each site has its own random numbers. A seed's first 2^16 sequences are for init_weights.
struct PassDropout {
  float rate = 0;
  uint64_t seed = 0, pass = 0;
  Dropout at(uint64_t site) const { return {rate, seed, ((pass + 1) << 16) + site}; }
};

// Sites: up to 4 of a layer, then, after 4,096 layers of these, up to 8 of a layer's adapters.
inline uint64_t dropout_site(int layer, int place) {
  return static_cast<uint64_t>(layer) * 4 + static_cast<uint64_t>(place);
}
inline uint64_t adapter_site(int layer, int place) {
  return (1 << 14) + static_cast<uint64_t>(layer) * 8 + static_cast<uint64_t>(place);
}

// ---- generation ----------------------------------------------------------------------------------------------------

// A cache of keys and values (kernels/kv_cache.h), and the places of a pass's rows in it.
template <class T>
struct KeyValueCache {
  T* data = nullptr;  // (pages, layers, keys | values, NKV, kPageTokens, HS)
  int layers = 0;
  CacheRows rows;
};
