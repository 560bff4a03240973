#include "kernels/cpu/dispatch.h"

#include <cstdlib>
#include <cstring>

namespace cpu {

namespace portable {
const Kernels<float>* kernels(bool bf16_products);
}
#if defined(__x86_64__)
namespace avx2 {
const Kernels<float>* kernels(bool bf16_products);
}
namespace avx512 {
const Kernels<float>* kernels(bool bf16_products);
}
namespace avx512_bf16 {
const Kernels<float>* kernels(bool bf16_products);
}
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
  return isa == Isa::avx512 ? avx512 : avx512 && __builtin_cpu_supports("avx512bf16");
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

}  // namespace cpu
