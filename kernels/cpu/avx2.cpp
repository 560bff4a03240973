// The fast kernels for AVX2 and FMA: vectors of eight floats.
// What is in the plain headers keeps the target of the whole build: it is shared with files that are not this one.
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
