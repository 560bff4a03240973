#include "kernels/cpu/dispatch.h"

#include <cstdlib>
#include <cstring>

namespace cpu {

// The tables of an instruction set, in its own file.
#define WROUGHT_TABLES_OF(isa)                         \
  namespace isa {                                      \
  const Kernels<float>* kernels(bool bf16_products);   \
  const DecodeKernels* decode_kernels();               \
  const SamplingKernels* sampling_kernels();           \
  }
WROUGHT_TABLES_OF(portable)
#if defined(__x86_64__)
WROUGHT_TABLES_OF(avx2)
WROUGHT_TABLES_OF(avx512)
WROUGHT_TABLES_OF(avx512_bf16)
#endif

const char* name_of(Isa isa) {
  const char* names[] = {"portable", "avx2", "avx512", "avx512_bf16"};
  return names[static_cast<int>(isa)];
}

bool can_run(Isa isa) {
  if (isa == Isa::portable) return true;
#if defined(__x86_64__)
  if (isa == Isa::avx2) return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  const bool avx512 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
  return isa == Isa::avx512 ? avx512
                            : avx512 && __builtin_cpu_supports("avx512bf16") && __builtin_cpu_supports("avx512vnni");
#else
  return false;
#endif
}

Isa best_isa() {
  const char* limit = std::getenv("WROUGHT_ISA");
  Isa best = Isa::portable;
  for (const Isa isa : kIsas) {
    if (can_run(isa)) best = isa;
    if (limit && std::strcmp(limit, name_of(isa)) == 0) break;
  }
  return best;
}

const Kernels<float>* fast_kernels(Isa isa, bool bf16_products) {
  if (!can_run(isa)) return nullptr;
#if defined(__x86_64__)
  if (isa == Isa::avx2) return avx2::kernels(bf16_products);
  if (isa == Isa::avx512) return avx512::kernels(bf16_products);
  if (isa == Isa::avx512_bf16) return avx512_bf16::kernels(bf16_products);
#endif
  return portable::kernels(bf16_products);
}

const DecodeKernels* decode_kernels(Isa isa) {
  if (!can_run(isa)) return nullptr;
#if defined(__x86_64__)
  if (isa == Isa::avx2) return avx2::decode_kernels();
  if (isa == Isa::avx512) return avx512::decode_kernels();
  if (isa == Isa::avx512_bf16) return avx512_bf16::decode_kernels();
#endif
  return portable::decode_kernels();
}

const SamplingKernels* fast_sampling_kernels(Isa isa) {
  if (!can_run(isa)) return nullptr;
#if defined(__x86_64__)
  if (isa == Isa::avx2) return avx2::sampling_kernels();
  if (isa == Isa::avx512) return avx512::sampling_kernels();
  if (isa == Isa::avx512_bf16) return avx512_bf16::sampling_kernels();
#endif
  return portable::sampling_kernels();
}

}  // namespace cpu
