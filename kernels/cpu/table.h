// The fast kernels of one instruction set as a table; included by <isa>.cpp after the macros of simd.h are set.
#include "kernels/adamw_fast.h"
#include "kernels/attention_fast.h"
#include "kernels/classifier_fast.h"
#include "kernels/cpu/dispatch.h"
#include "kernels/gelu_fast.h"
#include "kernels/global_norm_fast.h"
#include "kernels/layernorm_fast.h"
#include "kernels/matmul_fast.h"

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

}  // namespace cpu::WROUGHT_ISA
