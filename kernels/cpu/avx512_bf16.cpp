// The fast kernels for AVX-512 with products of bf16 and of bytes.
// The plain headers are compiled for the target of the whole build: other files share their code.
#include "kernels/cpu/dispatch.h"
#include "kernels/philox.h"

#define WROUGHT_ISA avx512_bf16
#define WROUGHT_VECTOR_BYTES 64
#define WROUGHT_BF16 1

#if defined(__x86_64__)
#include <immintrin.h>
#pragma GCC push_options
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,avx512vnni,fma,prefer-vector-width=512")
#include "kernels/cpu/table.h"
#pragma GCC pop_options
#endif
