// Dispatch: the CPU's operations as a table of function pointers, one table per instruction set, chosen at run time.
//
// A table holds the plain operations of kernels/X.h, or the fast ones of kernels/X_fast.h. <isa>.cpp compiles all
// of the latter for one instruction set, in its own namespace (cpu::WROUGHT_ISA, a macro that this file sets), so one
// program has them all. The program finds out at start which of them the machine can run.
#pragma once

#include "kernels/adamw.h"
#include "kernels/attention.h"
#include "kernels/classifier.h"
#include "kernels/gelu.h"
#include "kernels/global_norm.h"
#include "kernels/kv_cache.h"
#include "kernels/layernorm.h"
#include "kernels/matmul.h"
#include "kernels/matmul_packed.h"
#include "kernels/sampling.h"

namespace cpu {

// The operations that have a fast version; signatures as in kernels/X.h.
template <class floatX>
struct Kernels {
  decltype(&layernorm_forward<floatX>) layernorm_forward;
  decltype(&layernorm_backward<floatX>) layernorm_backward;
  decltype(&matmul_forward<floatX>) matmul_forward;
  decltype(&matmul_backward<floatX>) matmul_backward;
  decltype(&matmul_dweight<floatX>) matmul_dweight;
  decltype(&attention_forward<floatX>) attention_forward;
  decltype(&attention_backward<floatX>) attention_backward;
  decltype(&gelu_forward<floatX>) gelu_forward;
  decltype(&gelu_backward<floatX>) gelu_backward;
  decltype(&classifier_forward<floatX>) classifier_forward;
  decltype(&classifier_backward<floatX>) classifier_backward;
  decltype(&global_norm_squared<floatX>) global_norm_squared;
  decltype(&adamw_update<floatX>) adamw_update;
  decltype(&adamw_update_bf16<floatX>) adamw_update_bf16;
};

template <class floatX>
inline constexpr Kernels<floatX> kPlainKernels = {
    layernorm_forward<floatX>, layernorm_backward<floatX>, matmul_forward<floatX>,      matmul_backward<floatX>,
    matmul_dweight<floatX>,    attention_forward<floatX>,  attention_backward<floatX>,  gelu_forward<floatX>,
    gelu_backward<floatX>,     classifier_forward<floatX>, classifier_backward<floatX>, global_norm_squared<floatX>,
    adamw_update<floatX>,      adamw_update_bf16<floatX>};

// A layer's part of a cache of pages (attention_decode_fast.h), in float or bf16.
struct CacheLayer {
  void* data;           // of page 0
  int64_t page_stride;  // elements
  CacheRows at;
  int NKV, HS;
};

// What decoding takes (matmul_packed_fast.h, attention_decode_fast.h): each function does its share on the thread that
// calls it. No bit of a row of their results depends on the pass's other rows.
struct DecodeKernels {
  int (*panels_of)(int OC);
  int64_t (*packed_words)(WeightType type, int OC, int C);
  int64_t (*input_stride)(WeightType type, int C);
  void (*pack_matrix)(const PackedMatrix& to, const float* weight);  // on all threads
  void (*unpack_row)(float* out, const PackedMatrix& matrix, int row);
  void (*pack_input)(const PackedRows& to, const float* inp, WeightType type, int64_t row, int C);
  void (*multiply)(float* out, const PackedRows& inp, const PackedMatrix& matrix, const Finish& finish, int N,
                   int panel_begin, int panel_end);
  int64_t (*page_elements)(int NKV, int HS);  // of one layer
  // Rows [begin, end).
  using Append = void (*)(const CacheLayer& cache, const Qkv<const float>& inp, int begin, int end);
  Append append_f32, append_bf16;
  // Part `part` of `parts` of the pass.
  using Decode = void (*)(float* out, const CacheLayer& cache, const Qkv<const float>& inp, int N, int NH, int part,
                          int parts);
  Decode decode_f32, decode_bf16;
};

// kernels/sampling.h, which has nothing to do with a model's type.
struct SamplingKernels {
  decltype(&cpu::block_maxima) block_maxima;
  decltype(&cpu::softmax_weights) softmax_weights;
  decltype(&cpu::softmax_block_sums) softmax_block_sums;
  decltype(&cpu::softmax_sum) softmax_sum;
};

// From the slowest to the fastest.
enum class Isa {
  portable,     // what the compiler may assume: SSE2 or NEON
  avx2,         // with FMA
  avx512,       // F, BW, DQ, VL
  avx512_bf16,  // and products of bf16, and of bytes (VNNI)
};
inline constexpr Isa kIsas[] = {Isa::portable, Isa::avx2, Isa::avx512, Isa::avx512_bf16};

const char* name_of(Isa isa);
bool can_run(Isa isa);  // whether both the machine and the build can
Isa best_isa();         // the fastest possible; WROUGHT_ISA=name in the environment caps it

// null if the machine cannot run it, or, with bf16_products, if the instruction set has none. bf16_products: factors of
// matrix products, attention's included, are rounded to bf16; sums and everything else stay float.
const Kernels<float>* fast_kernels(Isa isa, bool bf16_products);
const DecodeKernels* decode_kernels(Isa isa);  // null if the machine cannot run it

// null if the machine cannot run it.
const SamplingKernels* fast_sampling_kernels(Isa isa);

}  // namespace cpu
