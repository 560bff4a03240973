// What every CUDA kernel shares: checks, launches, storage types, 16-byte accesses, reductions.
//
// Accumulation, the same in every kernel: parameter gradients += (in float, whatever the storage type), activation
// gradients =, the residual stream +=. Statistics and sums are float. No floating-point atomics: a result depends only
// on the input.
#pragma once

#include <cuda_bf16.h>
#include <cuda_runtime.h>

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <source_location>
#include <stdexcept>
#include <string>
#include <type_traits>
#include <utility>

#include "kernels/dry_run.h"

#ifdef WROUGHT_CUDASIM
#include <cudasim.h>
#endif

#include "kernels/ptx.cuh"

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

// Throws CudaError with the expression, its place and CUDA's message. In a dry run the call is skipped.
#define CUDA_CHECK(expression) (DryRun::current() ? void() : cuda_check((expression), #expression, __FILE__, __LINE__))

// ---- launching -----------------------------------------------------------------------------------------------------

// A kernel's name with its template arguments; empty without a driver, since only the driver knows it.
inline std::string kernel_name(const void* kernel) {
  const char* name = nullptr;
  if (cudaFuncGetName(&name, kernel) != cudaSuccess) return "";
  return readable_name(name);
}

// A grid, and the launcher that asks for it.
struct Grid {
  dim3 size;
  std::source_location where;
  template <class Size>
  Grid(Size size, std::source_location where = std::source_location::current())
      : size(static_cast<unsigned>(size)), where(where) {}
  Grid(dim3 size, std::source_location where = std::source_location::current()) : size(size), where(where) {}
};

// Programmatic launches: a kernel may start while the one before it in the stream ends, instead of a microsecond after
// it. Its threads begin with wait_for_earlier_kernels(). On by default; off for kernels that do not.
inline bool& programmatic_launches_on() {
  static bool on = true;
  return on;
}
inline void programmatic_launches(bool on) { programmatic_launches_on() = on; }

// Whether kernels contain the wait: their code is for sm_90 or later, not only the GPU. In cudasim always, so that
// every test checks it. All kernels of a program are compiled for the same architectures: the first one tells.
inline bool has_programmatic_wait([[maybe_unused]] const void* kernel) {
#ifdef WROUGHT_CUDASIM
  return true;
#else
  static const bool has = [kernel] {
    cudaFuncAttributes attributes = {};
    return cudaFuncGetAttributes(&attributes, kernel) == cudaSuccess && attributes.ptxVersion >= 90;
  }();
  return has;
#endif
}

// Starts kernel(args...) on a grid, with shared_bytes of dynamic shared memory. Throws CudaError naming the kernel.
template <class... Parameters, class... Args>
void launch(void (*kernel)(Parameters...), Grid where, dim3 block, size_t shared_bytes, cudaStream_t stream,
            Args&&... args) {
  const dim3 grid = where.size;
  if (DryRun* dry = DryRun::current()) {
    return dry->add({kernel_name(reinterpret_cast<const void*>(kernel)), int64_t{grid.x} * grid.y * grid.z,
                     static_cast<int>(block.x * block.y * block.z), shared_bytes},
                    where.where);
  }
  cudaError_t status = cudaSuccess;
  // A kernel must request more than 48 KiB. Its static shared memory counts too, which ptxas rounds up to the alignment
  // of the dynamic part, 1 KiB.
  if (shared_bytes + 1024 > 48 * 1024) {
    status = cudaFuncSetAttribute(reinterpret_cast<const void*>(kernel), cudaFuncAttributeMaxDynamicSharedMemorySize,
                                  static_cast<int>(shared_bytes));
  }
  if (status == cudaSuccess) {
    cudaLaunchConfig_t config = {};
    config.gridDim = grid;
    config.blockDim = block;
    config.dynamicSmemBytes = shared_bytes;
    config.stream = stream;
    cudaLaunchAttribute programmatic = {};
    programmatic.id = cudaLaunchAttributeProgrammaticStreamSerialization;
    programmatic.val.programmaticStreamSerializationAllowed = 1;
    if (programmatic_launches_on() && has_programmatic_wait(reinterpret_cast<const void*>(kernel))) {
      config.attrs = &programmatic;
      config.numAttrs = 1;
    }
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

// An attribute of the GPU; in a dry run that finds no GPU, that of an H100.
inline int device_attribute(cudaDeviceAttr attribute, int h100) {
  int device = 0, value = h100;  // unchanged where there is no GPU
  cudaGetDevice(&device);
  cudaDeviceGetAttribute(&value, attribute, device);
  const cudaError_t status = cudaGetLastError();
  CUDA_CHECK(status);
  return value;
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

// Blocks for one thread per item, any number of items: a grid's x may reach 2^31 - 1.
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

// n elements that move in one access: 16 bytes of them (4 floats, 8 bf16) or, with a smaller n, 8 or 4 bytes.
//
// A kernel that reads several packs should load all of them before it converts one: memory takes some 600 cycles to
// answer, and a conversion waits for its pack, so only loads issued before it are under way at the same time.
template <class T, int n = 16 / static_cast<int>(sizeof(T))>
struct alignas(n * sizeof(T)) Pack {
  static_assert(n * sizeof(T) == 16 || n * sizeof(T) == 8 || n * sizeof(T) == 4);
  static constexpr int size = n;
  T values[n];
  __device__ T& operator[](int i) { return values[i]; }
  __device__ const T& operator[](int i) const { return values[i]; }
};

namespace detail {
template <int kBytes>
struct Bits;
template <>
struct Bits<16> {
  using type = int4;
};
template <>
struct Bits<8> {
  using type = int2;
};
template <>
struct Bits<4> {
  using type = int;
};
}  // namespace detail

// One access; the address is a multiple of the pack's bytes.
template <int n, class T>
__device__ Pack<T, n> load_pack(const T* from) {
  using Bits = typename detail::Bits<n * sizeof(T)>::type;
  const Bits bits = *reinterpret_cast<const Bits*>(from);
  Pack<T, n> pack;
  std::memcpy(&pack, &bits, sizeof bits);
  return pack;
}
template <class T>
__device__ Pack<T> load_pack(const T* from) {
  return load_pack<Pack<T>::size>(from);
}

template <class T, int n>
__device__ void store_pack(T* to, const Pack<T, n>& pack) {
  using Bits = typename detail::Bits<n * sizeof(T)>::type;
  Bits bits;
  std::memcpy(&bits, &pack, sizeof bits);
  *reinterpret_cast<Bits*>(to) = bits;
}

template <class T, int n>
__device__ void to_floats(float (&x)[n], const Pack<T, n>& pack) {
#pragma unroll
  for (int k = 0; k < n; ++k) x[k] = to_float(pack[k]);
}

template <class T, int n>
__device__ Pack<T, n> to_pack(const float (&x)[n]) {  // rounded to the nearest T
  Pack<T, n> pack;
#pragma unroll
  for (int k = 0; k < n; ++k) pack[k] = from_float<T>(x[k]);
  return pack;
}

// A pack of a row of which `left` elements are left (0 or fewer: none). kVector: rows are aligned and consist of whole
// packs, so it is one access or, beyond the row, none; otherwise one element at a time. Zeros beyond the row. Not for
// elements that the thread itself has stored: the compiler may move the load before the store.
template <bool kVector, int n, class T>
__device__ Pack<T, n> load_row_pack(const T* from, int64_t left) {
  Pack<T, n> pack;
  if constexpr (kVector) {
    using Bits = typename detail::Bits<n * sizeof(T)>::type;
    const Bits bits = load_if(reinterpret_cast<const Bits*>(from), left > 0);
    std::memcpy(&pack, &bits, sizeof bits);
  } else {
#pragma unroll
    for (int k = 0; k < n; ++k) pack[k] = k < left ? from[k] : from_float<T>(0.0f);
  }
  return pack;
}
// The same for a pack that begins inside the row: with kVector all of it exists. Unlike the loads of load_pack(), which
// a compiler may put off until their values are used, these are issued in the order of the source.
template <bool kVector, int n, class T>
__device__ Pack<T, n> load_whole_pack(const T* from, int64_t left) {
  return load_row_pack<kVector, n>(from, kVector ? n : left);
}
template <bool kVector, class T, int n>
__device__ void store_row_pack(T* to, const Pack<T, n>& pack, int64_t left) {
  if constexpr (kVector) {
    if (left > 0) store_pack(to, pack);
  } else {
#pragma unroll
    for (int k = 0; k < n; ++k) {
      if (k < left) to[k] = pack[k];
    }
  }
}

// x = from[0 .. n) as floats, and back, rounded to the nearest T. kVector: all n exist, from is aligned (to 16 bytes,
// or to n elements if those are less), and one access moves as much as it can. Otherwise one at a time, as many as are
// left; zeros are read beyond them.
template <bool kVector, int n, class T>
__device__ void load_floats(float (&x)[n], const T* from, int64_t left) {
  constexpr int size = sizeof(T) * n < 16 ? n : 16 / static_cast<int>(sizeof(T));
  if constexpr (kVector) {
    Pack<T, size> packs[n / size];
#pragma unroll
    for (int i = 0; i < n / size; ++i) packs[i] = load_pack<size>(from + i * size);
#pragma unroll
    for (int k = 0; k < n; ++k) x[k] = to_float(packs[k / size][k % size]);
  } else {
#pragma unroll
    for (int k = 0; k < n; ++k) x[k] = k < left ? to_float(from[k]) : 0.0f;
  }
}
template <bool kVector, int n, class T>
__device__ void store_floats(T* to, const float (&x)[n], int64_t left) {
  constexpr int size = sizeof(T) * n < 16 ? n : 16 / static_cast<int>(sizeof(T));
  if constexpr (kVector) {
#pragma unroll
    for (int i = 0; i < n / size; ++i) {
      Pack<T, size> pack;
#pragma unroll
      for (int k = 0; k < size; ++k) pack[k] = from_float<T>(x[i * size + k]);
      store_pack(to + i * size, pack);
    }
  } else {
#pragma unroll
    for (int k = 0; k < n; ++k) {
      if (k < left) to[k] = from_float<T>(x[k]);
    }
  }
}

// For kernels over any number of elements, of which `left` are left: work(std::true_type()) if the next n exist and
// kVector guarantees that they are aligned, else work(std::false_type()), or nothing if none are left. One test for all
// loads of work(), instead of one before each load, does not make one load wait for another.
template <bool kVector, int64_t n, class Work>
__device__ void with_pack(int64_t left, Work&& work) {
  if constexpr (kVector) {
    if (left >= n) return work(std::true_type());
  }
  if (left > 0) work(std::false_type());
}

// Whether all pointers are multiples of 16 bytes (null is one): then, and if row lengths are multiples too, a launcher
// takes the vector version.
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
// shared memory, warp sums again. Each call has its own barriers: the next call may follow at once.
template <class T>
__device__ T block_sum(T x) {
  __shared__ T sums[32];
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, warps = blockDim.x / 32;
  x = warp_sum(x);
  __syncthreads();  // a previous call's sums have been read
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
