// The fast kernels for AVX2 and FMA: vectors of eight floats.
// The plain headers are compiled for the target of the whole build: other files share their code.
#include "kernels/cpu/dispatch.h"
#include "kernels/philox.h"

#define WROUGHT_ISA avx2
#define WROUGHT_VECTOR_BYTES 32
#define WROUGHT_BF16 0

#if defined(__x86_64__)
#include <immintrin.h>
#pragma GCC push_options
#pragma GCC target("avx2,fma")
#include "kernels/cpu/table.h"
#pragma GCC pop_options
#endif
