// Vectors of floats as wide as the instruction set allows, in the compiler's own vector types: the same source becomes
// AVX-512, AVX2, SSE2 or NEON. Only bf16 needs intrinsics (WROUGHT_BF16).
//
// <isa>.cpp sets the three macros, then includes every *_fast.h: their contents live in cpu::<isa>, compiled for
// that instruction set. Any other file gets cpu::fast, with the vectors that every machine has.
#pragma once

#ifdef _OPENMP
#include <omp.h>
#endif

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <utility>

#ifndef WROUGHT_ISA
#define WROUGHT_ISA fast
#define WROUGHT_VECTOR_BYTES 16
#define WROUGHT_BF16 0
#endif

#if WROUGHT_VECTOR_BYTES == 64
#include <immintrin.h>
#endif

namespace cpu::WROUGHT_ISA {

inline constexpr int kLanes = WROUGHT_VECTOR_BYTES / 4;

typedef float Vec __attribute__((vector_size(WROUGHT_VECTOR_BYTES), may_alias));
typedef float UnalignedVec __attribute__((vector_size(WROUGHT_VECTOR_BYTES), may_alias, aligned(4)));
typedef double DoubleVec __attribute__((vector_size(2 * WROUGHT_VECTOR_BYTES), may_alias));
typedef int32_t IntVec __attribute__((vector_size(WROUGHT_VECTOR_BYTES)));

inline Vec load(const float* p) { return *reinterpret_cast<const UnalignedVec*>(p); }
inline void store(float* p, Vec v) { *reinterpret_cast<UnalignedVec*>(p) = v; }
inline Vec broadcast(float x) { return x - Vec{}; }

// The first n floats at p, 0 <= n <= kLanes, then zeros; nothing after them is touched.
inline Vec load_first(const float* p, int n) {
#if WROUGHT_VECTOR_BYTES == 64
  return reinterpret_cast<Vec>(_mm512_maskz_loadu_ps(static_cast<__mmask16>((1u << n) - 1), p));
#else
  Vec v{};
  for (int i = 0; i < n; ++i) v[i] = p[i];
  return v;
#endif
}

// v[i][j] <-> v[j][i]: each step swaps blocks of kSize x kSize off the diagonal, from the largest to the smallest.
template <int kSize, size_t... j>
__attribute__((always_inline)) inline void exchange_blocks(Vec (&v)[kLanes], std::index_sequence<j...>) {
  constexpr int kOf = kLanes;  // the second operand's elements are numbered from here
  const IntVec first = {(j / kSize % 2 ? kOf + static_cast<int>(j) - kSize : static_cast<int>(j))...};
  const IntVec second = {(j / kSize % 2 ? kOf + static_cast<int>(j) : static_cast<int>(j) + kSize)...};
#pragma GCC unroll 16
  for (int i = 0; i < kLanes; ++i) {
    if (i / kSize % 2) continue;
    const Vec a = v[i], b = v[i + kSize];
    v[i] = __builtin_shuffle(a, b, first);
    v[i + kSize] = __builtin_shuffle(a, b, second);
  }
}
template <int kSize = kLanes / 2>
__attribute__((always_inline)) inline void transpose(Vec (&v)[kLanes]) {
  exchange_blocks<kSize>(v, std::make_index_sequence<kLanes>());
  if constexpr (kSize > 1) transpose<kSize / 2>(v);
}

#if WROUGHT_BF16
// 32 consecutive floats as 16 pairs of bf16, rounded to nearest even.
inline Vec bf16_pairs(const float* p) {
  return reinterpret_cast<Vec>(_mm512_cvtne2ps_pbh(_mm512_loadu_ps(p + 16), _mm512_loadu_ps(p)));
}
// Pairs (even[i], odd[i]).
inline Vec bf16_pairs(Vec even, Vec odd) {
  const __m512i order = _mm512_set_epi16(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8, 23, 7, 22, 6, 21,
                                         5, 20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
  const __m512bh both = _mm512_cvtne2ps_pbh(reinterpret_cast<__m512>(odd), reinterpret_cast<__m512>(even));
  return reinterpret_cast<Vec>(_mm512_permutexvar_epi16(order, reinterpret_cast<__m512i>(both)));
}
#endif

// ---- threads -------------------------------------------------------------------------------------------------------

inline int threads_of_loops() {
#ifdef _OPENMP
  return omp_in_parallel() ? 1 : omp_get_max_threads();
#else
  return 1;
#endif
}

// GCC 12 leaves `omp simd` loops with reductions scalar if they end up in a lambda or in the body of a parallel region,
// also by inlining: such loops are in separate functions that are [[gnu::noinline]].

// f(i) for i in [0, n): on all threads, or, if starting them is not worth it, on this one without a parallel region.
// Never on some of them: OpenMP's runtime takes a team apart and rebuilds it when its size changes.
template <class F>
inline void for_each_index(int64_t n, bool worth_threads, F&& f) {
  if (!worth_threads || threads_of_loops() == 1) {
    for (int64_t i = 0; i < n; ++i) f(i);
    return;
  }
#pragma omp parallel for
  for (int64_t i = 0; i < n; ++i) f(i);
}

// f(begin, end) for ranges that cover [0, n).
template <class F>
inline void for_each_range(int64_t n, bool worth_threads, F&& f) {
  const int64_t threads = worth_threads ? threads_of_loops() : 1;
  if (threads == 1) return f(int64_t{0}, n);
  for_each_index(threads, true, [&](int64_t part) {
    const auto begin = [&](int64_t p) { return n / kLanes * p / threads * kLanes; };  // whole vectors
    f(begin(part), part + 1 < threads ? begin(part + 1) : n);
  });
}

}  // namespace cpu::WROUGHT_ISA
