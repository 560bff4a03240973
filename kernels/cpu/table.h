// The fast kernels of one instruction set as a table; included by <isa>.cpp after the macros of simd.h are set.
#include "kernels/adamw_fast.h"
#include "kernels/attention_decode_fast.h"
#include "kernels/attention_fast.h"
#include "kernels/classifier_fast.h"
#include "kernels/cpu/dispatch.h"
#include "kernels/gelu_fast.h"
#include "kernels/global_norm_fast.h"
#include "kernels/layernorm_fast.h"
#include "kernels/matmul_fast.h"
#include "kernels/matmul_packed_fast.h"
#include "kernels/sampling_fast.h"

namespace cpu::WROUGHT_ISA {

template <bool kBf16>
inline constexpr Kernels<float> kKernels = {
    layernorm_forward,     layernorm_backward,       matmul_forward<kBf16>,     matmul_backward<kBf16>,
    matmul_dweight<kBf16>, attention_forward<kBf16>, attention_backward<kBf16>, gelu_forward,
    gelu_backward,         classifier_forward,       classifier_backward,       global_norm_squared,
    adamw_update,          adamw_update_bf16};

const Kernels<float>* kernels(bool bf16_products) {
#if WROUGHT_BF16
  if (bf16_products) return &kKernels<true>;
#endif
  return bf16_products ? nullptr : &kKernels<false>;
}

template <class T>
void append_layer(const CacheLayer& cache, const Qkv<const float>& inp, int begin, int end) {
  append_rows(layer_pages<T>(cache), inp, begin, end);
}
template <class T>
void decode_layer(float* out, const CacheLayer& cache, const Qkv<const float>& inp, int N, int NH, int part,
                  int parts) {
  decode_rows(out, layer_pages<T>(cache), inp, N, NH, part, parts);
}

const DecodeKernels* decode_kernels() {
  static constexpr DecodeKernels kKernels = {
      panels_of,           packed_words,       input_stride,           pack_matrix,
      unpack_row,          pack_input,         multiply_packed_panels, page_elements,
      append_layer<float>, append_layer<bf16>, decode_layer<float>,    decode_layer<bf16>};
  return &kKernels;
}

inline constexpr SamplingKernels kSamplingKernels = {block_maxima, softmax_weights, softmax_block_sums, softmax_sum};

const SamplingKernels* sampling_kernels() { return &kSamplingKernels; }

}  // namespace cpu::WROUGHT_ISA
