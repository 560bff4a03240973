// CUDA's keywords and vector types for g++. Vector types have CUDA's alignment, which 16-byte loads rely on.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

#ifdef CUDASIM_INSTRUMENTED
#define __global__ __attribute__((flatten))  // so that an instruction has one place in the source
#else
#define __global__
#endif
#define __device__
#define __host__
#define __constant__
#define __grid_constant__
#define __launch_bounds__(...)
#define __grid_constant__
#define __forceinline__ inline __attribute__((always_inline))
#define __align__(n) __attribute__((aligned(n)))
// A block runs on one OS thread from its first instruction to its last, so that thread's storage belongs to the block.
#define __shared__ static thread_local

// An assignment is one access, as on a GPU, even where the compiler would rather write member by member.
#define CUDASIM_ONE_ACCESS(type, bytes)                                       \
  type& operator=(const type& from) {                                         \
    typedef bytes Whole __attribute__((may_alias));                           \
    *reinterpret_cast<Whole*>(this) = *reinterpret_cast<const Whole*>(&from); \
    return *this;                                                             \
  }

// clang-format off
struct alignas(2) char2 { signed char x, y; CUDASIM_ONE_ACCESS(char2, uint16_t) };
struct alignas(4) char4 { signed char x, y, z, w; CUDASIM_ONE_ACCESS(char4, uint32_t) };
struct alignas(2) uchar2 { unsigned char x, y; CUDASIM_ONE_ACCESS(uchar2, uint16_t) };
struct alignas(4) uchar4 { unsigned char x, y, z, w; CUDASIM_ONE_ACCESS(uchar4, uint32_t) };
struct alignas(4) short2 { short x, y; CUDASIM_ONE_ACCESS(short2, uint32_t) };
struct alignas(8) short4 { short x, y, z, w; CUDASIM_ONE_ACCESS(short4, uint64_t) };
struct alignas(4) ushort2 { unsigned short x, y; CUDASIM_ONE_ACCESS(ushort2, uint32_t) };
struct alignas(8) ushort4 { unsigned short x, y, z, w; CUDASIM_ONE_ACCESS(ushort4, uint64_t) };
struct alignas(8) int2 { int x, y; CUDASIM_ONE_ACCESS(int2, uint64_t) };
struct int3 { int x, y, z; };
struct alignas(16) int4 { int x, y, z, w; CUDASIM_ONE_ACCESS(int4, unsigned __int128) };
struct alignas(8) uint2 { unsigned x, y; CUDASIM_ONE_ACCESS(uint2, uint64_t) };
struct uint3 { unsigned x, y, z; };
struct alignas(16) uint4 { unsigned x, y, z, w; CUDASIM_ONE_ACCESS(uint4, unsigned __int128) };
struct alignas(16) longlong2 { long long x, y; CUDASIM_ONE_ACCESS(longlong2, unsigned __int128) };
struct alignas(16) ulonglong2 { unsigned long long x, y; CUDASIM_ONE_ACCESS(ulonglong2, unsigned __int128) };
struct alignas(8) float2 { float x, y; CUDASIM_ONE_ACCESS(float2, uint64_t) };
struct float3 { float x, y, z; };
struct alignas(16) float4 { float x, y, z, w; CUDASIM_ONE_ACCESS(float4, unsigned __int128) };
struct alignas(16) double2 { double x, y; CUDASIM_ONE_ACCESS(double2, unsigned __int128) };

constexpr char4 make_char4(signed char x, signed char y, signed char z, signed char w) { return {x, y, z, w}; }
constexpr uchar4 make_uchar4(unsigned char x, unsigned char y, unsigned char z, unsigned char w) { return {x, y, z, w}; }
constexpr ushort2 make_ushort2(unsigned short x, unsigned short y) { return {x, y}; }
constexpr ushort4 make_ushort4(unsigned short x, unsigned short y, unsigned short z, unsigned short w) { return {x, y, z, w}; }
constexpr int2 make_int2(int x, int y) { return {x, y}; }
constexpr int3 make_int3(int x, int y, int z) { return {x, y, z}; }
constexpr int4 make_int4(int x, int y, int z, int w) { return {x, y, z, w}; }
constexpr uint2 make_uint2(unsigned x, unsigned y) { return {x, y}; }
constexpr uint3 make_uint3(unsigned x, unsigned y, unsigned z) { return {x, y, z}; }
constexpr uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) { return {x, y, z, w}; }
constexpr longlong2 make_longlong2(long long x, long long y) { return {x, y}; }
constexpr ulonglong2 make_ulonglong2(unsigned long long x, unsigned long long y) { return {x, y}; }
constexpr float2 make_float2(float x, float y) { return {x, y}; }
constexpr float3 make_float3(float x, float y, float z) { return {x, y, z}; }
constexpr float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }
constexpr double2 make_double2(double x, double y) { return {x, y}; }
// clang-format on

#undef CUDASIM_ONE_ACCESS

struct dim3 {
  unsigned x, y, z;
  constexpr dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
  constexpr dim3(uint3 v) : x(v.x), y(v.y), z(v.z) {}
  constexpr operator uint3() const { return {x, y, z}; }
};

// The running thread's indices and sizes; set whenever another thread continues. Kernels only read them.
extern constinit thread_local uint3 threadIdx;
extern constinit thread_local uint3 blockIdx;
extern constinit thread_local dim3 blockDim;
extern constinit thread_local dim3 gridDim;
constexpr int warpSize = 32;
