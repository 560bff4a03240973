// The operations of a forward pass (ops.h) on the CPU for decoding, with weights in the form in which they are
// multiplied. All threads run the whole walk, each with its own PackedOps: an operation computes the thread's share and
// waits for the others where they need it. That starts the threads once for each pass, and they are still awake when
// the next token's begins.
#pragma once

#include <algorithm>
#include <cstdint>
#include <stdexcept>

#include "kernels/cpu/dispatch.h"
#include "llm/models/ops.h"

// A tensor of a decoder: a matrix, or plain floats.
struct PackedTensor {
  cpu::PackedMatrix matrix;
  float* numbers = nullptr;
};

// The cache, and where a pass's rows are in it.
struct PackedCache {
  std::byte* data = nullptr;   // (pages, layers, what DecodeKernels::page_elements() counts)
  int64_t layer_elements = 0;  // of a page
  int layers = 0;
  bool bf16 = false;
  CacheRows at = {};

  cpu::CacheLayer layer(int l, const AttentionShape& s) const {
    return {data + l * layer_elements * (bf16 ? 2 : 4), layers * layer_elements, at, s.NKV, s.HS};
  }
};

// Memory for inputs of products.
struct PackedInputs {
  static constexpr int kOwnRows = 4;  // up to which each thread prepares all of them, which saves waiting
  std::byte* memory = nullptr;        // bytes(max_rows) for all threads together, then bytes(kOwnRows) for each
  int64_t words = 0;                  // of a row, at most

  int64_t bytes(int64_t rows) const { return rows * (words + 3) * 4; }
  cpu::PackedRows of(std::byte* at, int64_t rows, int64_t stride) const {
    uint32_t* w = reinterpret_cast<uint32_t*>(at);
    float* scales = reinterpret_cast<float*>(w + rows * words);
    return {w, stride, scales, reinterpret_cast<int32_t*>(scales + rows)};
  }
};

class PackedOps {
 public:
  using floatX = float;
  using grad_t = float;
  using sum_t = float;
  using weight_t = PackedTensor;
  using Cache = PackedCache;
  using Rows = NormRows<float, float>;

  // Thread `part` of `parts`.
  PackedOps(const cpu::DecodeKernels& decode, const cpu::Kernels<float>& kernels, const PackedInputs& inputs,
            int max_rows, int part, int parts)
      : decode_(decode), k_(kernels), inputs_(inputs), max_rows_(max_rows), part_(part), parts_(parts) {}

  void embedding_forward(float* out, const int32_t* tokens, const PackedTensor* wte, const PackedTensor* wpe,
                         const int32_t* documents, const Dropout&, int B, int T, int C) {
    for (int64_t n = begin(B * T); n < end(B * T); ++n) {
      float* row = out + n * C;
      const float* position = wpe->numbers + (n % T - (documents ? documents[n] : 0)) * C;
      decode_.unpack_row(row, wte->matrix, tokens[n]);
      for (int c = 0; c < C; ++c) row[c] += position[c];
    }
    wait();
  }
  void norm_forward(const Rows& out, const float* inp, const Norm<PackedTensor>& w, int N, int C) {
    const int64_t n = begin(N);
    k_.layernorm_forward(out.y + n * C, out.mean ? out.mean + n : nullptr, out.rstd + n, inp + n * C, w.w->numbers,
                         w.b ? w.b->numbers : nullptr, static_cast<int>(end(N) - n), C);
    wait();
  }
  void linear_forward(float* out, const float* inp, const Linear<PackedTensor>& w, int N) {
    product(out, inp, w, {}, N);
  }
  void linear_gelu_forward(float* /* not needed */, float* activated, const float* inp, const Linear<PackedTensor>& w,
                           int N) {
    product(activated, inp, w, {.gelu = true}, N);
  }
  void linear_residual_forward(float* out, float*, const float* residual, const float* inp,
                               const Linear<PackedTensor>& w, const Dropout&, int N) {
    product(out, inp, w, {.residual = residual}, N);
  }
  void cache_append(const PackedCache& cache, int layer, const Qkv<const float>& inp, const AttentionShape& s) {
    (cache.bf16 ? decode_.append_bf16 : decode_.append_f32)(cache.layer(layer, s), inp, static_cast<int>(begin(s.B)),
                                                            static_cast<int>(end(s.B)));
    wait();
  }
  void attention_decode(float* out, const PackedCache& cache, int layer, const Qkv<const float>& inp,
                        const AttentionShape& s) {
    (cache.bf16 ? decode_.decode_bf16 : decode_.decode_f32)(out, cache.layer(layer, s), inp, s.B, s.NH, part_, parts_);
    wait();
  }
  void take_rows(float* out, const float* inp, const int32_t* rows, int64_t n, int C) {
    for (int64_t i = begin(n); i < end(n); ++i) std::copy_n(inp + int64_t{rows[i]} * C, C, out + i * C);
    wait();
  }

  // Of other passes than Pass::decode.
  void attention_forward(float*, float*, const Qkv<const float>&, const AttentionShape&, const Dropout&) { never(); }
  void pool_forward(float*, const float*, const float*, int, int, int) { never(); }

 private:
  int64_t begin(int64_t n) const { return n * part_ / parts_; }
  int64_t end(int64_t n) const { return n * (part_ + 1) / parts_; }
  static void wait() {
#pragma omp barrier
  }
  [[noreturn]] static void never() { throw std::logic_error("a decoder's pass over something other than a cache"); }

  void product(float* out, const float* inp, const Linear<PackedTensor>& w, cpu::Finish finish, int N);

  const cpu::DecodeKernels& decode_;
  const cpu::Kernels<float>& k_;
  const PackedInputs& inputs_;
  const int max_rows_, part_, parts_;
};
