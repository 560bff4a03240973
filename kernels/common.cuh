// What every CUDA kernel shares: checks, launches, storage types, 16-byte accesses, reductions.
//
// Accumulation, the same in every kernel: parameter gradients += (in float, whatever the storage type), activation
// gradients =, the residual stream +=. Statistics and sums are float. No floating-point atomics: a result depends on
// nothing but the input.
#pragma once

#include <cuda_bf16.h>
#include <cuda_runtime.h>

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <stdexcept>
#include <string>
#include <utility>

#ifdef WROUGHT_CUDASIM
#include <cudasim.h>
#endif

using bf16 = __nv_bfloat16;

// ---- errors --------------------------------------------------------------------------------------------------------

struct CudaError : std::runtime_error {
  using std::runtime_error::runtime_error;
};

inline void cuda_check(cudaError_t status, const char* expression, const char* file, int line) {
  if (status == cudaSuccess) return;
  char text[1024];
  std::snprintf(text, sizeof text, "%s:%d: %s: %s (%s)", file, line, expression, cudaGetErrorString(status),
                cudaGetErrorName(status));
  throw CudaError(text);
}

// Throws CudaError with the expression, its place and CUDA's message.
#define CUDA_CHECK(expression) cuda_check((expression), #expression, __FILE__, __LINE__)

// ---- launching -----------------------------------------------------------------------------------------------------

// Starts kernel(args...) on a grid, with shared_bytes of dynamic shared memory. Throws CudaError naming the kernel.
template <class... Parameters, class... Args>
void launch(void (*kernel)(Parameters...), dim3 grid, dim3 block, size_t shared_bytes, cudaStream_t stream,
            Args&&... args) {
  cudaError_t status = cudaSuccess;
  if (shared_bytes > 48 * 1024) {  // beyond this a kernel must ask
    status = cudaFuncSetAttribute(reinterpret_cast<const void*>(kernel), cudaFuncAttributeMaxDynamicSharedMemorySize,
                                  static_cast<int>(shared_bytes));
  }
  if (status == cudaSuccess) {
    cudaLaunchConfig_t config = {};
    config.gridDim = grid;
    config.blockDim = block;
    config.dynamicSmemBytes = shared_bytes;
    config.stream = stream;
    status = cudaLaunchKernelEx(&config, kernel, std::forward<Args>(args)...);
  }
  if (status == cudaSuccess) return;
  const char* name = nullptr;
  if (cudaFuncGetName(&name, reinterpret_cast<const void*>(kernel)) != cudaSuccess) name = "a kernel";
  char text[1024];
  std::snprintf(text, sizeof text, "launching %s with a grid of (%u, %u, %u), %u threads, %zu bytes shared: %s (%s)",
                name, grid.x, grid.y, grid.z, block.x * block.y * block.z, shared_bytes, cudaGetErrorString(status),
                cudaGetErrorName(status));
  throw CudaError(text);
}

// The block's dynamic shared memory, aligned to 1024 bytes.
template <class T>
__device__ T* dynamic_shared() {
#ifdef WROUGHT_CUDASIM
  return cudasim::dynamic_shared<T>();
#else
  extern __shared__ __align__(1024) unsigned char dynamic_shared_memory[];
  return reinterpret_cast<T*>(dynamic_shared_memory);
#endif
}

template <class Int>
__host__ __device__ constexpr Int ceil_div(Int a, Int b) {
  return (a + b - 1) / b;
}

// Blocks for one thread an item, any number of items: a grid's x may reach 2^31 - 1.
inline dim3 grid_for(int64_t items, int threads) {
  const int64_t blocks = ceil_div<int64_t>(items, threads);
  if (blocks > INT32_MAX) throw CudaError("a launch over " + std::to_string(items) + " items: too many for a grid");
  return dim3(static_cast<unsigned>(blocks));
}

// ---- storage types -------------------------------------------------------------------------------------------------

__device__ inline float to_float(float x) { return x; }
__device__ inline float to_float(bf16 x) { return __bfloat162float(x); }

template <class floatX>
__device__ floatX from_float(float x);  // bf16: to the nearest, ties to even
template <>
__device__ inline float from_float<float>(float x) {
  return x;
}
template <>
__device__ inline bf16 from_float<bf16>(float x) {
  return __float2bfloat16_rn(x);
}

// ---- 16-byte accesses ----------------------------------------------------------------------------------------------

// As many elements as one 16-byte access moves: 4 floats or 8 bf16.
template <class T>
struct alignas(16) Pack {
  static constexpr int size = 16 / sizeof(T);
  T values[size];
  __device__ T& operator[](int i) { return values[i]; }
};

template <class T>
__device__ void store_pack(T* to, const Pack<T>& pack) {  // aligned to 16 bytes
  int4 bits;
  std::memcpy(&bits, &pack, sizeof bits);
  *reinterpret_cast<int4*>(to) = bits;
}

// x = from[0 .. n) as floats. kVector: from is aligned (to 16 bytes, or to n elements if those are less) and one access
// moves as much as it can. Of fewer than n elements that are left, and without kVector, one at a time; beyond them 0.
template <bool kVector, int n, class T>
__device__ void load_floats(float (&x)[n], const T* from, int64_t left) {
  struct alignas(sizeof(T) * n < 16 ? sizeof(T) * n : 16) Group {
    T values[sizeof(T) * n < 16 ? n : 16 / sizeof(T)];
  };
  constexpr int size = sizeof(Group) / sizeof(T);
  if (kVector && left >= n) {
#pragma unroll
    for (int k = 0; k < n; k += size) {
      const Group group = *reinterpret_cast<const Group*>(from + k);
#pragma unroll
      for (int j = 0; j < size; ++j) x[k + j] = to_float(group.values[j]);
    }
  } else {
#pragma unroll
    for (int k = 0; k < n; ++k) x[k] = k < left ? to_float(from[k]) : 0.0f;
  }
}

// to[0 .. n) = x, or the first `left` of them; rounded to the nearest T. Otherwise as load_floats.
template <bool kVector, int n, class T>
__device__ void store_floats(T* to, const float (&x)[n], int64_t left) {
  struct alignas(sizeof(T) * n < 16 ? sizeof(T) * n : 16) Group {
    T values[sizeof(T) * n < 16 ? n : 16 / sizeof(T)];
  };
  constexpr int size = sizeof(Group) / sizeof(T);
  if (kVector && left >= n) {
#pragma unroll
    for (int k = 0; k < n; k += size) {
      Group group;
#pragma unroll
      for (int j = 0; j < size; ++j) group.values[j] = from_float<T>(x[k + j]);
      *reinterpret_cast<Group*>(to + k) = group;
    }
  } else {
#pragma unroll
    for (int k = 0; k < n; ++k) {
      if (k < left) to[k] = from_float<T>(x[k]);
    }
  }
}

// Whether all pointers are multiples of 16 bytes (null is one): then, and where row lengths are multiples too, a
// launcher takes the vector version.
template <class... Pointers>
bool aligned16(const Pointers*... pointers) {
  return ((reinterpret_cast<uintptr_t>(pointers) % 16 == 0) && ...);
}

// ---- reductions ----------------------------------------------------------------------------------------------------

inline constexpr unsigned kFullWarp = 0xffffffffu;

// Every lane gets the result. xor: the order of additions is the same for each lane.
template <class T>
__device__ T warp_sum(T x) {
#pragma unroll
  for (int offset = 16; offset > 0; offset /= 2) x += __shfl_xor_sync(kFullWarp, x, offset);
  return x;
}

__device__ inline float warp_max(float x) {
#pragma unroll
  for (int offset = 16; offset > 0; offset /= 2) x = fmaxf(x, __shfl_xor_sync(kFullWarp, x, offset));
  return x;
}

// Over a block of whole warps (at most 1024 threads): every thread gets the result. Warp sums, a transpose through
// shared memory, warp sums again. Each call has its barriers: it may be called again at once.
template <class T>
__device__ T block_sum(T x) {
  __shared__ T sums[32];
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, warps = blockDim.x / 32;
  x = warp_sum(x);
  __syncthreads();  // the sums of a call before have been read
  if (lane == 0) sums[warp] = x;
  __syncthreads();
  return warp_sum(lane < warps ? sums[lane] : T(0));
}

__device__ inline float block_max(float x) {
  __shared__ float maxima[32];
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, warps = blockDim.x / 32;
  x = warp_max(x);
  __syncthreads();
  if (lane == 0) maxima[warp] = x;
  __syncthreads();
  return warp_max(lane < warps ? maxima[lane] : -INFINITY);
}
