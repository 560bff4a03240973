// The only file with inline PTX: the instructions for tensor cores, asynchronous copies (sm_80 and later) and launches
// that overlap (sm_90), each next to its CPU version, for cudasim. Layouts are those of the PTX ISA, section "Matrix
// multiply-accumulate operation using mma instruction": with group = lane / 4 and pair = lane % 4,
//   A (16 x k, row-major), B (k x 8, column-major), D (16 x 8).
#pragma once

#include <cuda_runtime.h>

#include <cmath>
#include <cstdint>
#include <cstring>

#ifdef WROUGHT_CUDASIM
#include <cudasim.h>

namespace ptx_cpu {

inline float half_of(uint32_t pair, int k) {  // element k (0 low, 1 high) of two packed bf16
  const uint32_t bits = k ? pair & 0xffff0000u : pair << 16;
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

inline float tf32_of(uint32_t bits) {  // the hardware reads the upper 19 bits
  bits &= 0xffffe000u;
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

struct Mma {
  float* d;
  const uint32_t *a, *b;
};

inline float toward_zero(double x) {
  const float nearest = static_cast<float>(x);
  const bool beyond = std::isfinite(nearest) && std::abs(static_cast<double>(nearest)) > std::abs(x);
  return beyond ? std::nextafter(nearest, 0.0f) : nearest;
}

// d += a b, for the fragments of 32 lanes. Products of bf16 or tf32 are exact in float. Sums are rounded to the nearest
// once per term; or, as tensor cores reportedly do, truncated toward zero once per instruction.
template <int kDepth, class A, class B>
void mma(Mma* const lanes[32], A&& a_at, B&& b_at) {
  const bool truncates = cudasim::mma_truncates();
  float a[16][kDepth], b[kDepth][8];
  for (int i = 0; i < 16; ++i) {
    for (int k = 0; k < kDepth; ++k) a[i][k] = a_at(i, k);
  }
  for (int k = 0; k < kDepth; ++k) {
    for (int j = 0; j < 8; ++j) b[k][j] = b_at(k, j);
  }
  for (int i = 0; i < 16; ++i) {
    float row[8];
    for (int j = 0; j < 8; ++j) row[j] = lanes[i % 8 * 4 + j / 2]->d[i / 8 * 2 + j % 2];
    if (truncates) {
      for (int j = 0; j < 8; ++j) {
        double sum = row[j];  // of 17 terms: its 53 bits lose next to nothing
        for (int k = 0; k < kDepth; ++k) sum += static_cast<double>(a[i][k]) * b[k][j];
        row[j] = toward_zero(sum);
      }
    }
    for (int k = 0; k < kDepth && !truncates; ++k) {
      for (int j = 0; j < 8; ++j) row[j] += a[i][k] * b[k][j];
    }
    for (int j = 0; j < 8; ++j) lanes[i % 8 * 4 + j / 2]->d[i / 8 * 2 + j % 2] = row[j];
  }
}

struct Ldmatrix {
  uint32_t* r;
  const void* row;
};

template <int kMatrices, bool kTrans>
void ldmatrix(Ldmatrix* const lanes[32]) {
  for (int m = 0; m < kMatrices; ++m) {
    uint16_t matrix[8][8];
    for (int i = 0; i < 8; ++i) std::memcpy(matrix[i], lanes[m * 8 + i]->row, 16);
    for (int lane = 0; lane < 32; ++lane) {
      const int i = lane / 4, j = lane % 4 * 2;
      const uint32_t low = kTrans ? matrix[j][i] : matrix[i][j], high = kTrans ? matrix[j + 1][i] : matrix[i][j + 1];
      lanes[lane]->r[m] = low | high << 16;
    }
  }
}

}  // namespace ptx_cpu

#else

__device__ inline uint32_t shared_address(const void* shared) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(shared));
}

#endif

// ---- programmatic launches -----------------------------------------------------------------------------------------

// The first statement of every kernel: launch() may start it before earlier kernels of the stream have ended, and here
// it waits until they have and their writes are visible. A thread that ended without the wait would break the chain:
// the kernel after this one waits for this one only. Before sm_90 there are no such launches, and this is nothing.
__device__ inline void wait_for_earlier_kernels() {
#ifdef WROUGHT_CUDASIM
  cudasim::wait_for_earlier_grids();
#elif defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

// ---- loads by a predicate ------------------------------------------------------------------------------------------

// The bytes at `from` (16, 8 or 4, aligned to their number) if `exists`, else zeros, and nothing is read. From an `if`,
// compilers tend to make a branch, after which a thread's next load waits for this one's value.
__device__ inline int4 load_if(const int4* from, bool exists) {
  int4 x = {0, 0, 0, 0};
#ifdef WROUGHT_CUDASIM
  if (exists) x = *from;
#else
  asm volatile("{.reg .pred p; setp.ne.b32 p, %5, 0; @p ld.global.v4.b32 {%0,%1,%2,%3}, [%4];}"
               : "+r"(x.x), "+r"(x.y), "+r"(x.z), "+r"(x.w)
               : "l"(__cvta_generic_to_global(from)), "r"(static_cast<int>(exists)));
#endif
  return x;
}
__device__ inline int2 load_if(const int2* from, bool exists) {
  int2 x = {0, 0};
#ifdef WROUGHT_CUDASIM
  if (exists) x = *from;
#else
  asm volatile("{.reg .pred p; setp.ne.b32 p, %3, 0; @p ld.global.v2.b32 {%0,%1}, [%2];}"
               : "+r"(x.x), "+r"(x.y)
               : "l"(__cvta_generic_to_global(from)), "r"(static_cast<int>(exists)));
#endif
  return x;
}
__device__ inline int load_if(const int* from, bool exists) {
  int x = 0;
#ifdef WROUGHT_CUDASIM
  if (exists) x = *from;
#else
  asm volatile("{.reg .pred p; setp.ne.b32 p, %2, 0; @p ld.global.b32 %0, [%1];}"
               : "+r"(x)
               : "l"(__cvta_generic_to_global(from)), "r"(static_cast<int>(exists)));
#endif
  return x;
}

// ---- mma -----------------------------------------------------------------------------------------------------------

// d (16 x 8, float) += a (16 x 16, bf16) b (16 x 8, bf16). A lane's registers, two packed elements each:
//   a[0]: row group, columns 2 pair, +1;  a[1]: row group + 8;  a[2], a[3]: the same, columns + 8
//   b[0]: rows 2 pair, +1, column group;  b[1]: rows + 8
//   d[0], d[1]: row group, columns 2 pair, +1;  d[2], d[3]: row group + 8
__device__ inline void mma_m16n8k16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
#ifdef WROUGHT_CUDASIM
  ptx_cpu::Mma mine{d, a, b};
  cudasim::warp_collective(
      mine,
      [](ptx_cpu::Mma* const lanes[32]) {
        ptx_cpu::mma<16>(
            lanes,
            [&](int i, int k) { return ptx_cpu::half_of(lanes[i % 8 * 4 + k % 8 / 2]->a[i / 8 + k / 8 * 2], k % 2); },
            [&](int k, int j) { return ptx_cpu::half_of(lanes[j * 4 + k % 8 / 2]->b[k / 8], k % 2); });
      },
      "mma.m16n8k16");
#else
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#endif
}

// d (16 x 8, float) += a (16 x 8, tf32) b (8 x 8, tf32):
//   a[0]: row group, column pair;  a[1]: row group + 8;  a[2], a[3]: the same, column pair + 4
//   b[0]: row pair, column group;  b[1]: row pair + 4;  d as above
__device__ inline void mma_m16n8k8_tf32(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
#ifdef WROUGHT_CUDASIM
  ptx_cpu::Mma mine{d, a, b};
  cudasim::warp_collective(
      mine,
      [](ptx_cpu::Mma* const lanes[32]) {
        ptx_cpu::mma<8>(
            lanes, [&](int i, int k) { return ptx_cpu::tf32_of(lanes[i % 8 * 4 + k % 4]->a[i / 8 + k / 4 * 2]); },
            [&](int k, int j) { return ptx_cpu::tf32_of(lanes[j * 4 + k % 4]->b[k / 4]); });
      },
      "mma.m16n8k8.tf32");
#else
  asm volatile(
      "mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#endif
}

// To the nearest tf32 (10 bits of mantissa), ties away from zero, as an mma's register.
__device__ inline uint32_t to_tf32(float x) {
  uint32_t bits;
#ifdef WROUGHT_CUDASIM
  std::memcpy(&bits, &x, sizeof bits);
  if ((bits & 0x7f800000u) != 0x7f800000u) bits = (bits + 0x1000u) & 0xffffe000u;
#else
  asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(bits) : "f"(x));
#endif
  return bits;
}

// ---- ldmatrix ------------------------------------------------------------------------------------------------------

// Four 8 x 8 matrices of 16-bit elements from shared memory: lane l gives the address of row l % 8 of matrix l / 8 (16
// bytes, aligned). Register m gets from matrix m: row lane / 4, columns 2 (lane % 4) and the next; with _trans row and
// column are swapped.
__device__ inline void ldmatrix_x4(uint32_t (&r)[4], const void* row) {
#ifdef WROUGHT_CUDASIM
  cudasim::note_read(row, 16);
  ptx_cpu::Ldmatrix mine{r, row};
  cudasim::warp_collective(mine, ptx_cpu::ldmatrix<4, false>, "ldmatrix.x4");
#else
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(shared_address(row))
               : "memory");
#endif
}

__device__ inline void ldmatrix_x4_trans(uint32_t (&r)[4], const void* row) {
#ifdef WROUGHT_CUDASIM
  cudasim::note_read(row, 16);
  ptx_cpu::Ldmatrix mine{r, row};
  cudasim::warp_collective(mine, ptx_cpu::ldmatrix<4, true>, "ldmatrix.x4.trans");
#else
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(shared_address(row))
               : "memory");
#endif
}

// ---- cp.async ------------------------------------------------------------------------------------------------------

// Copies kBytes (4, 8 or 16, both addresses aligned to it) from global to shared memory, bypassing the registers, at
// some time before the wait; only valid_bytes (0 to kBytes) of the source are read, the rest of the target becomes 0.
template <int kBytes>
__device__ void cp_async(void* shared, const void* global, int valid_bytes) {
  static_assert(kBytes == 4 || kBytes == 8 || kBytes == 16);
#ifdef WROUGHT_CUDASIM
  cudasim::async_copy(shared, global, kBytes, valid_bytes);
#else
  if constexpr (kBytes == 16) {  // .cg: through L2 only, for 16 bytes only
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(shared)), "l"(global),
                 "r"(valid_bytes)
                 : "memory");
  } else {
    asm volatile("cp.async.ca.shared.global [%0], [%1], %2, %3;" ::"r"(shared_address(shared)), "l"(global),
                 "n"(kBytes), "r"(valid_bytes)
                 : "memory");
  }
#endif
}

// Closes a group of the copies that this thread issued.
__device__ inline void cp_async_commit() {
#ifdef WROUGHT_CUDASIM
  cudasim::async_commit();
#else
  asm volatile("cp.async.commit_group;" ::: "memory");
#endif
}

// Waits until all but this thread's newest kPending groups have arrived. For other threads' copies: __syncthreads()
// after it.
template <int kPending>
__device__ void cp_async_wait() {
#ifdef WROUGHT_CUDASIM
  cudasim::async_wait(kPending);
#else
  asm volatile("cp.async.wait_group %0;" ::"n"(kPending) : "memory");
#endif
}

// ---- exp2 ----------------------------------------------------------------------------------------------------------

// 2^x to about 2 units in the last place, one instruction: results below 2^-126 become 0. 2^-inf = 0, NaN stays.
__device__ inline float exp2_approximate(float x) {
#ifdef WROUGHT_CUDASIM
  const float y = exp2f(x);
  return y < 0x1p-126f ? 0 : y;
#else
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
#endif
}
