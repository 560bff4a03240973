// The fast kernels of every instruction set that this machine has, one after another.
#pragma once

#include "kernels/cpu/dispatch.h"
#include "tests/helpers/finite_differences.h"

// run(kernels, bf16_products).
template <class Run>
void for_each_fast(Run&& run) {
  for (const cpu::Isa isa : cpu::kIsas) {
    for (const bool bf16 : {false, true}) {
      const cpu::Kernels<float>* kernels = cpu::fast_kernels(isa, bf16);
      if (!kernels) continue;
      const std::string which = std::string(cpu::name_of(isa)) + (bf16 ? ", products of bf16" : "");
      CAPTURE(which);
      run(*kernels, bf16);
    }
  }
}

// run(kernels): those of decoding.
template <class Run>
void for_each_decode(Run&& run) {
  for (const cpu::Isa isa : cpu::kIsas) {
    const cpu::DecodeKernels* kernels = cpu::decode_kernels(isa);
    if (!kernels) continue;
    const std::string which = cpu::name_of(isa);
    CAPTURE(which);
    run(*kernels);
  }
}

// The error that rounding both factors of products to bf16 (unit round-off 2^-9) may cause in a sum of K of them, in
// the measure of sum_tolerance: each factor is off by at most 2^-9 of itself, so a sum of rms r by 2 * 2^-9 r.
inline double product_tolerance(double K, double rms, bool bf16) {
  return sum_tolerance<float>(K, rms) + (bf16 ? 4 * 2 * 0x1p-9 * rms : 0);
}
