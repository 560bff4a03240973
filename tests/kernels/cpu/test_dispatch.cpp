#include <doctest/doctest.h>

#include <algorithm>
#include <cstdlib>

#include "kernels/cpu/dispatch.h"

TEST_CASE("every machine can run the portable kernels, and the best kernels are among those it can run") {
  CHECK(cpu::can_run(cpu::Isa::portable));
  CHECK(cpu::can_run(cpu::best_isa()));
  for (const cpu::Isa isa : cpu::kIsas) {
    CAPTURE(cpu::name_of(isa));
    CHECK((cpu::fast_kernels(isa, false) != nullptr) == cpu::can_run(isa));
    CHECK((cpu::fast_kernels(isa, true) != nullptr) == (cpu::can_run(isa) && isa == cpu::Isa::avx512_bf16));
    if (!cpu::can_run(isa)) MESSAGE("this machine has no ", cpu::name_of(isa), ": its kernels are not tested here");
  }
}

TEST_CASE("WROUGHT_ISA limits the choice") {
  const cpu::Isa best = cpu::best_isa();
  for (const cpu::Isa limit : cpu::kIsas) {
    ::setenv("WROUGHT_ISA", cpu::name_of(limit), 1);
    CHECK(cpu::best_isa() == std::min(limit, best));
  }
  ::setenv("WROUGHT_ISA", "sse9", 1);
  CHECK(cpu::best_isa() == best);
  ::unsetenv("WROUGHT_ISA");
}

TEST_CASE("each instruction set has its own kernels") {
  for (const cpu::Isa a : cpu::kIsas) {
    for (const cpu::Isa b : cpu::kIsas) {
      if (a == b || !cpu::can_run(a) || !cpu::can_run(b)) continue;
      const bool same = cpu::fast_kernels(a, false)->matmul_forward == cpu::fast_kernels(b, false)->matmul_forward;
      CHECK_FALSE(same);
    }
  }
}
