// The intrinsics of device code: barriers, shuffles, votes, atomics, cached loads, mathematics. Each waits, where
// CUDA's version does, for the other lanes or threads it names; `where` lets a report name the call they wait at.
#pragma once

#include <math.h>

#include <atomic>
#include <bit>
#include <limits>
#include <type_traits>

#include "cudasim.h"
#include "cudasim_types.h"

// ---- barriers and fences -------------------------------------------------------------------------------------------

inline void __syncthreads(cudasim::Place where = cudasim::Place::current()) {
  cudasim::detail::barrier(0, "__syncthreads", where);
}
inline int __syncthreads_count(int predicate, cudasim::Place where = cudasim::Place::current()) {
  return cudasim::detail::barrier(predicate, "__syncthreads_count", where).nonzero;
}
inline int __syncthreads_or(int predicate, cudasim::Place where = cudasim::Place::current()) {
  return cudasim::detail::barrier(predicate, "__syncthreads_or", where).nonzero > 0;
}
inline int __syncthreads_and(int predicate, cudasim::Place where = cudasim::Place::current()) {
  const auto votes = cudasim::detail::barrier(predicate, "__syncthreads_and", where);
  return votes.nonzero == votes.threads;
}
// Lanes of the mask that have ended are not waited for, as on hardware; the others may be at different calls.
inline void __syncwarp(unsigned mask = 0xffffffffu, cudasim::Place where = cudasim::Place::current()) {
  int nothing = 0;
  cudasim::detail::collective(
      mask, &nothing, [](void*, void* const*, unsigned) {}, nullptr, "__syncwarp", where, true);
}

inline void __threadfence() { std::atomic_thread_fence(std::memory_order_seq_cst); }
inline void __threadfence_block() { std::atomic_thread_fence(std::memory_order_seq_cst); }
inline void __threadfence_system() { std::atomic_thread_fence(std::memory_order_seq_cst); }

// ---- shuffles ------------------------------------------------------------------------------------------------------

namespace cudasim::detail {

// A collective to which every lane gives `in` and from which it gets `out`; compute(lane, lanes, mask) makes lane's out
// from all in.
template <class In, class Out>
struct Exchange {
  In in;
  Out out;
};

template <class In, class Out, class F>
Out exchange(unsigned mask, In in, F compute, const char* what, Place where) {
  using Mine = Exchange<In, Out>;
  Mine mine{in, {}};
  collective(
      mask, &mine,
      [](void* context, void* const* lanes, unsigned mask) {
        F& compute = *static_cast<F*>(context);
        Mine* const* typed = reinterpret_cast<Mine* const*>(lanes);
        for (unsigned rest = mask; rest; rest &= rest - 1) {
          const int lane = std::countr_zero(rest);
          typed[lane]->out = compute(lane, typed, mask);
        }
      },
      &compute, what, where);
  return mine.out;
}

template <class T>
struct Shuffle {
  T value;
  int argument, width;
};

// Reads the lane that source(lane, argument, width) names; one outside the mask is reported.
template <class T, class Source>
T shuffle(unsigned mask, T value, int argument, int width, Source source, const char* what, Place where) {
  static_assert(std::is_trivially_copyable_v<T> && (sizeof(T) == 4 || sizeof(T) == 8 || sizeof(T) == 2),
                "CUDA shuffles 2-, 4- and 8-byte types");
  check_width(width, what, where);
  return exchange<Shuffle<T>, T>(
      mask, Shuffle<T>{value, argument, width},
      [=](int lane, auto* const* lanes, unsigned mask) {
        const int from = source(lane, lanes[lane]->in.argument, lanes[lane]->in.width);
        if (!(mask >> from & 1)) report_bad_source(lane, from, mask, what, where);
        return lanes[from]->in.value;
      },
      what, where);
}

}  // namespace cudasim::detail

// A width below 32 divides the warp into parts that shuffle among themselves.
template <class T>
T __shfl_sync(unsigned mask, T value, int source, int width = 32, cudasim::Place where = cudasim::Place::current()) {
  return cudasim::detail::shuffle(
      mask, value, source, width,
      [](int lane, int source, int width) { return (lane & ~(width - 1)) + (source & (width - 1)); }, "__shfl_sync",
      where);
}
template <class T>
T __shfl_up_sync(unsigned mask, T value, unsigned delta, int width = 32,
                 cudasim::Place where = cudasim::Place::current()) {
  return cudasim::detail::shuffle(
      mask, value, static_cast<int>(delta), width,
      [](int lane, int delta, int width) { return (lane & (width - 1)) < delta ? lane : lane - delta; },
      "__shfl_up_sync", where);
}
template <class T>
T __shfl_down_sync(unsigned mask, T value, unsigned delta, int width = 32,
                   cudasim::Place where = cudasim::Place::current()) {
  return cudasim::detail::shuffle(
      mask, value, static_cast<int>(delta), width,
      [](int lane, int delta, int width) { return delta >= width - (lane & (width - 1)) ? lane : lane + delta; },
      "__shfl_down_sync", where);
}
template <class T>
T __shfl_xor_sync(unsigned mask, T value, int bits, int width = 32, cudasim::Place where = cudasim::Place::current()) {
  return cudasim::detail::shuffle(
      mask, value, bits, width,
      [](int lane, int bits, int width) {  // parts before its own can be read, later ones cannot
        const int from = lane ^ bits;
        return from < 0 || from >= (lane & ~(width - 1)) + width ? lane : from;
      },
      "__shfl_xor_sync", where);
}

// ---- votes, matches, reductions ------------------------------------------------------------------------------------

inline unsigned __ballot_sync(unsigned mask, int predicate, cudasim::Place where = cudasim::Place::current()) {
  return cudasim::detail::exchange<int, unsigned>(
      mask, predicate,
      [](int, auto* const* lanes, unsigned mask) {
        unsigned votes = 0;
        for (unsigned rest = mask; rest; rest &= rest - 1) {
          const int lane = std::countr_zero(rest);
          if (lanes[lane]->in) votes |= 1u << lane;
        }
        return votes;
      },
      "__ballot_sync", where);
}
inline int __any_sync(unsigned mask, int predicate, cudasim::Place where = cudasim::Place::current()) {
  return __ballot_sync(mask, predicate, where) != 0;
}
inline int __all_sync(unsigned mask, int predicate, cudasim::Place where = cudasim::Place::current()) {
  return __ballot_sync(mask, predicate, where) == mask;
}

// The lanes whose value has the same bits.
template <class T>
unsigned __match_any_sync(unsigned mask, T value, cudasim::Place where = cudasim::Place::current()) {
  return cudasim::detail::exchange<T, unsigned>(
      mask, value,
      [](int lane, auto* const* lanes, unsigned mask) {
        unsigned same = 0;
        for (unsigned rest = mask; rest; rest &= rest - 1) {
          const int other = std::countr_zero(rest);
          if (std::memcmp(&lanes[other]->in, &lanes[lane]->in, sizeof(T)) == 0) same |= 1u << other;
        }
        return same;
      },
      "__match_any_sync", where);
}
template <class T>
unsigned __match_all_sync(unsigned mask, T value, int* all, cudasim::Place where = cudasim::Place::current()) {
  *all = __match_any_sync(mask, value, where) == mask;
  return *all ? mask : 0;
}

namespace cudasim::detail {
template <class T, class F>
T reduce(unsigned mask, T value, F combine, const char* what, Place where) {
  static_assert(std::is_same_v<T, int> || std::is_same_v<T, unsigned>, "CUDA reduces int and unsigned");
  return exchange<T, T>(
      mask, value,
      [=](int, auto* const* lanes, unsigned mask) {
        T result = lanes[std::countr_zero(mask)]->in;
        for (unsigned rest = mask & (mask - 1); rest; rest &= rest - 1)
          result = combine(result, lanes[std::countr_zero(rest)]->in);
        return result;
      },
      what, where);
}
}  // namespace cudasim::detail

template <class T>
T __reduce_add_sync(unsigned mask, T value, cudasim::Place where = cudasim::Place::current()) {
  return cudasim::detail::reduce(
      mask, value, [](T a, T b) { return static_cast<T>(static_cast<unsigned>(a) + static_cast<unsigned>(b)); },
      "__reduce_add_sync", where);
}
template <class T>
T __reduce_min_sync(unsigned mask, T value, cudasim::Place where = cudasim::Place::current()) {
  return cudasim::detail::reduce(
      mask, value, [](T a, T b) { return b < a ? b : a; }, "__reduce_min_sync", where);
}
template <class T>
T __reduce_max_sync(unsigned mask, T value, cudasim::Place where = cudasim::Place::current()) {
  return cudasim::detail::reduce(
      mask, value, [](T a, T b) { return a < b ? b : a; }, "__reduce_max_sync", where);
}
inline unsigned __reduce_and_sync(unsigned mask, unsigned value, cudasim::Place where = cudasim::Place::current()) {
  return cudasim::detail::reduce(
      mask, value, [](unsigned a, unsigned b) { return a & b; }, "__reduce_and_sync", where);
}
inline unsigned __reduce_or_sync(unsigned mask, unsigned value, cudasim::Place where = cudasim::Place::current()) {
  return cudasim::detail::reduce(
      mask, value, [](unsigned a, unsigned b) { return a | b; }, "__reduce_or_sync", where);
}
inline unsigned __reduce_xor_sync(unsigned mask, unsigned value, cudasim::Place where = cudasim::Place::current()) {
  return cudasim::detail::reduce(
      mask, value, [](unsigned a, unsigned b) { return a ^ b; }, "__reduce_xor_sync", where);
}

// Lanes run one at a time: the only lane that is certainly active is the caller.
inline unsigned __activemask() { return 1u << cudasim::detail::lane_index(); }

// ---- atomics: blocks run on several OS threads ---------------------------------------------------------------------

namespace cudasim::detail {
template <class T>
inline constexpr bool is_atomic =
    std::is_same_v<T, int> || std::is_same_v<T, unsigned> || std::is_same_v<T, unsigned long long>;

// Integers wrap around.
template <class T>
T add(T a, T b) {
  if constexpr (std::is_signed_v<T> && std::is_integral_v<T>)
    return static_cast<T>(static_cast<std::make_unsigned_t<T>>(a) + static_cast<std::make_unsigned_t<T>>(b));
  else
    return a + b;
}
template <class T>
T subtract(T a, T b) {
  return static_cast<T>(static_cast<std::make_unsigned_t<T>>(a) - static_cast<std::make_unsigned_t<T>>(b));
}

// *address = f(*address); returns what was there.
template <class T, class F>
T atomic_update(T* address, F f) {
  std::atomic_ref<T> cell(*address);
  T old = cell.load(std::memory_order_relaxed);
  while (!cell.compare_exchange_weak(old, f(old), std::memory_order_relaxed)) {
  }
  atomic_step();
  return old;
}
}  // namespace cudasim::detail

#define CUDASIM_ATOMIC(name, condition, expression)                                           \
  template <class T>                                                                          \
  requires condition T name(T* address, std::type_identity_t<T> value) {                      \
    return cudasim::detail::atomic_update(address, [=](T old) -> T { return (expression); }); \
  }
CUDASIM_ATOMIC(atomicAdd, (cudasim::detail::is_atomic<T> || std::is_floating_point_v<T>),
               cudasim::detail::add(old, value))
CUDASIM_ATOMIC(atomicSub, (cudasim::detail::is_atomic<T> && sizeof(T) == 4), cudasim::detail::subtract(old, value))
CUDASIM_ATOMIC(atomicMin, (cudasim::detail::is_atomic<T> || std::is_same_v<T, long long>), value < old ? value : old)
CUDASIM_ATOMIC(atomicMax, (cudasim::detail::is_atomic<T> || std::is_same_v<T, long long>), old < value ? value : old)
CUDASIM_ATOMIC(atomicAnd, (cudasim::detail::is_atomic<T>), old& value)
CUDASIM_ATOMIC(atomicOr, (cudasim::detail::is_atomic<T>), old | value)
CUDASIM_ATOMIC(atomicXor, (cudasim::detail::is_atomic<T>), old ^ value)
CUDASIM_ATOMIC(atomicExch, (cudasim::detail::is_atomic<T> || std::is_same_v<T, float>), (static_cast<void>(old), value))
#undef CUDASIM_ATOMIC

// Counts up to value and starts again at 0; counts down to 0 and starts again at value.
inline unsigned atomicInc(unsigned* address, unsigned value) {
  return cudasim::detail::atomic_update(address, [=](unsigned old) { return old >= value ? 0 : old + 1; });
}
inline unsigned atomicDec(unsigned* address, unsigned value) {
  return cudasim::detail::atomic_update(address,
                                        [=](unsigned old) { return old == 0 || old > value ? value : old - 1; });
}
template <class T>
requires(cudasim::detail::is_atomic<T> || std::is_same_v<T, unsigned short>) T
    atomicCAS(T* address, std::type_identity_t<T> expected, std::type_identity_t<T> desired) {
  return cudasim::detail::atomic_update(address, [=](T old) { return old == expected ? desired : old; });
}

// ---- loads and stores with a cache hint: here the hint changes nothing ----------------------------------------------

#define CUDASIM_LOAD(name) \
  template <class T>       \
  T name(const T* from) {  \
    return *from;          \
  }
CUDASIM_LOAD(__ldg)
CUDASIM_LOAD(__ldcs)
CUDASIM_LOAD(__ldcg)
CUDASIM_LOAD(__ldca)
CUDASIM_LOAD(__ldlu)
CUDASIM_LOAD(__ldcv)
#undef CUDASIM_LOAD
#define CUDASIM_STORE(name)                     \
  template <class T>                            \
  void name(T* to, std::type_identity_t<T> v) { \
    *to = v;                                    \
  }
CUDASIM_STORE(__stcs)
CUDASIM_STORE(__stcg)
CUDASIM_STORE(__stwb)
CUDASIM_STORE(__stwt)
#undef CUDASIM_STORE

// ---- numbers -------------------------------------------------------------------------------------------------------

// CUDA's min and max: mixed signedness compares as unsigned; of a NaN and a number, the number.
constexpr int min(int a, int b) { return b < a ? b : a; }
constexpr int max(int a, int b) { return a < b ? b : a; }
constexpr unsigned min(unsigned a, unsigned b) { return b < a ? b : a; }
constexpr unsigned max(unsigned a, unsigned b) { return a < b ? b : a; }
constexpr unsigned min(int a, unsigned b) { return min(static_cast<unsigned>(a), b); }
constexpr unsigned max(int a, unsigned b) { return max(static_cast<unsigned>(a), b); }
constexpr unsigned min(unsigned a, int b) { return min(a, static_cast<unsigned>(b)); }
constexpr unsigned max(unsigned a, int b) { return max(a, static_cast<unsigned>(b)); }
constexpr long min(long a, long b) { return b < a ? b : a; }
constexpr long max(long a, long b) { return a < b ? b : a; }
constexpr unsigned long min(unsigned long a, unsigned long b) { return b < a ? b : a; }
constexpr unsigned long max(unsigned long a, unsigned long b) { return a < b ? b : a; }
constexpr long long min(long long a, long long b) { return b < a ? b : a; }
constexpr long long max(long long a, long long b) { return a < b ? b : a; }
constexpr unsigned long long min(unsigned long long a, unsigned long long b) { return b < a ? b : a; }
constexpr unsigned long long max(unsigned long long a, unsigned long long b) { return a < b ? b : a; }
inline float min(float a, float b) { return fminf(a, b); }
inline float max(float a, float b) { return fmaxf(a, b); }
inline double min(double a, double b) { return fmin(a, b); }
inline double max(double a, double b) { return fmax(a, b); }

inline float rsqrtf(float x) { return 1.0f / sqrtf(x); }
inline double rsqrt(double x) { return 1.0 / sqrt(x); }

// The hardware's fast versions are less exact than these; a test's tolerance must allow for those, not for these.
inline float __expf(float x) { return expf(x); }
inline float __exp10f(float x) { return powf(10.0f, x); }
inline float __logf(float x) { return logf(x); }
inline float __log2f(float x) { return log2f(x); }
inline float __log10f(float x) { return log10f(x); }
inline float __powf(float x, float y) { return powf(x, y); }
inline float __sinf(float x) { return sinf(x); }
inline float __cosf(float x) { return cosf(x); }
inline float __tanhf(float x) { return tanhf(x); }
inline float __fdividef(float x, float y) { return x / y; }
inline float __saturatef(float x) { return x >= 0 ? (x <= 1 ? x : 1.0f) : 0.0f; }  // a NaN becomes 0

// One operation, one rounding to the nearest: never contracted into a fused multiply-add.
namespace cudasim::detail {
inline float opaque(float x) {  // the compiler cannot see through it
  asm("" : "+m"(x));
  return x;
}
}  // namespace cudasim::detail
inline float __fadd_rn(float x, float y) { return cudasim::detail::opaque(x) + cudasim::detail::opaque(y); }
inline float __fsub_rn(float x, float y) { return cudasim::detail::opaque(x) - cudasim::detail::opaque(y); }
inline float __fmul_rn(float x, float y) { return cudasim::detail::opaque(x * y); }
inline float __fmaf_rn(float x, float y, float z) { return fmaf(x, y, z); }
inline float __fdiv_rn(float x, float y) { return x / y; }
inline float __frcp_rn(float x) { return 1.0f / x; }
inline float __fsqrt_rn(float x) { return sqrtf(x); }
inline float __frsqrt_rn(float x) { return static_cast<float>(1.0 / sqrt(static_cast<double>(x))); }

namespace cudasim::detail {
template <class Int>
Int saturated(float x) {  // CUDA's conversion: the nearest representable value, 0 for a NaN
  if (!(x == x)) return 0;
  if (x < static_cast<float>(std::numeric_limits<Int>::min())) return std::numeric_limits<Int>::min();
  if (x >= static_cast<float>(std::numeric_limits<Int>::max())) return std::numeric_limits<Int>::max();
  return static_cast<Int>(x);
}
}  // namespace cudasim::detail
inline int __float2int_rn(float x) { return cudasim::detail::saturated<int>(nearbyintf(x)); }
inline int __float2int_rz(float x) { return cudasim::detail::saturated<int>(truncf(x)); }
inline int __float2int_rd(float x) { return cudasim::detail::saturated<int>(floorf(x)); }
inline int __float2int_ru(float x) { return cudasim::detail::saturated<int>(ceilf(x)); }
inline unsigned __float2uint_rz(float x) { return cudasim::detail::saturated<unsigned>(truncf(x)); }
inline unsigned __float2uint_rn(float x) { return cudasim::detail::saturated<unsigned>(nearbyintf(x)); }
inline float __int2float_rn(int x) { return static_cast<float>(x); }
inline float __uint2float_rn(unsigned x) { return static_cast<float>(x); }

constexpr unsigned __float_as_uint(float x) { return std::bit_cast<unsigned>(x); }
constexpr int __float_as_int(float x) { return std::bit_cast<int>(x); }
constexpr float __uint_as_float(unsigned x) { return std::bit_cast<float>(x); }
constexpr float __int_as_float(int x) { return std::bit_cast<float>(x); }
constexpr long long __double_as_longlong(double x) { return std::bit_cast<long long>(x); }
constexpr double __longlong_as_double(long long x) { return std::bit_cast<double>(x); }

constexpr int __popc(unsigned x) { return std::popcount(x); }
constexpr int __popcll(unsigned long long x) { return std::popcount(x); }
constexpr int __clz(int x) { return std::countl_zero(static_cast<unsigned>(x)); }
constexpr int __clzll(long long x) { return std::countl_zero(static_cast<unsigned long long>(x)); }
constexpr int __ffs(int x) { return x ? std::countr_zero(static_cast<unsigned>(x)) + 1 : 0; }
constexpr int __ffsll(long long x) { return x ? std::countr_zero(static_cast<unsigned long long>(x)) + 1 : 0; }
constexpr unsigned __brev(unsigned x) {
  unsigned reversed = 0;
  for (int i = 0; i < 32; ++i) reversed |= (x >> i & 1u) << (31 - i);
  return reversed;
}
constexpr unsigned long long __brevll(unsigned long long x) {
  return static_cast<unsigned long long>(__brev(static_cast<unsigned>(x))) << 32 |
         __brev(static_cast<unsigned>(x >> 32));
}
constexpr unsigned __byte_perm(unsigned x, unsigned y, unsigned selector) {
  const unsigned long long bytes = static_cast<unsigned long long>(y) << 32 | x;
  unsigned result = 0;
  for (int i = 0; i < 4; ++i) {
    const unsigned pick = selector >> (4 * i) & 7u;
    unsigned byte = static_cast<unsigned>(bytes >> (8 * pick)) & 0xffu;
    if (selector >> (4 * i) & 8u) byte = byte & 0x80u ? 0xffu : 0u;  // its sign, eight times
    result |= byte << (8 * i);
  }
  return result;
}
constexpr int __mulhi(int x, int y) { return static_cast<int>(static_cast<long long>(x) * y >> 32); }
constexpr unsigned __umulhi(unsigned x, unsigned y) {
  return static_cast<unsigned>(static_cast<unsigned long long>(x) * y >> 32);
}
constexpr unsigned long long __umul64hi(unsigned long long x, unsigned long long y) {
  return static_cast<unsigned long long>(static_cast<unsigned __int128>(x) * y >> 64);
}
