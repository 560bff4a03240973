// The linear layer's products, step by step: out (N, OC) = inp (N, C) weight (OC, C)^T in float on the plain units and
// in bf16 on tensor cores, and the weight gradient. The ladders' kernels take sizes that are multiples of their tiles
// and offsets that fit 32 bits; kernels/matmul.cuh takes any.
#include <memory>

#include "dev/bench/bench.h"
#include "kernels/matmul.cuh"
#include "kernels/matmul.h"

using namespace bench;

namespace {

using Doubles = std::vector<double>;

// ---- float, plain units --------------------------------------------------------------------------------------------

// A thread computes one output. The 32 lanes of a warp have 32 rows of inp: each of their loads touches 32 places.
__global__ void matmul_naive_kernel(float* out, const float* inp, const float* weight, int C, int OC) {
  const int n = blockIdx.y * 32 + threadIdx.x % 32, o = blockIdx.x * 8 + threadIdx.x / 32;
  float sum = 0;
  for (int c = 0; c < C; ++c) sum += inp[n * C + c] * weight[o * C + c];
  out[n * OC + o] = sum;
}

// A warp computes one output: its lanes read both rows contiguously, 128 bytes per load, and add up their shares at the
// end.
__global__ void matmul_coalesced_kernel(float* out, const float* inp, const float* weight, int C, int OC) {
  const int n = blockIdx.y, o = blockIdx.x * 8 + threadIdx.x / 32, lane = threadIdx.x % 32;
  float sum = 0;
  for (int c = lane; c < C; c += 32) sum += inp[n * C + c] * weight[o * C + c];
  sum = warp_sum(sum);
  if (lane == 0) out[n * OC + o] = sum;
}

// A block computes 32 x 32 outputs, from slices of 32 rows and 32 channels in shared memory: each loaded number serves
// 32 outputs. Rows of 33 floats: the lanes, which read a column, find it in 32 different banks.
__global__ void __launch_bounds__(1024)
    matmul_shared_kernel(float* out, const float* inp, const float* weight, int C, int OC) {
  __shared__ float a[32][33], b[32][33];
  const int x = threadIdx.x % 32, y = threadIdx.x / 32, n0 = blockIdx.y * 32, o0 = blockIdx.x * 32;
  float sum = 0;
  for (int c0 = 0; c0 < C; c0 += 32) {
    a[y][x] = inp[(n0 + y) * C + c0 + x];
    b[y][x] = weight[(o0 + y) * C + c0 + x];
    __syncthreads();
    for (int c = 0; c < 32; ++c) sum += a[y][c] * b[x][c];
    __syncthreads();
  }
  out[(n0 + y) * OC + o0 + x] = sum;
}

// A block of 256 threads computes 64 x 64 outputs, a thread 4 x 4 of them in registers: from 8 numbers that it reads
// from shared memory it makes 16 products, where it made one from two.
__global__ void __launch_bounds__(256)
    matmul_registers_kernel(float* out, const float* inp, const float* weight, int C, int OC) {
  __shared__ float a[64][33], b[64][33];
  const int x = threadIdx.x % 16, y = threadIdx.x / 16, n0 = blockIdx.y * 64, o0 = blockIdx.x * 64;
  float sums[4][4] = {};
  for (int c0 = 0; c0 < C; c0 += 32) {
    for (int row = threadIdx.x / 32, c = threadIdx.x % 32; row < 64; row += 8) {
      a[row][c] = inp[(n0 + row) * C + c0 + c];
      b[row][c] = weight[(o0 + row) * C + c0 + c];
    }
    __syncthreads();
    for (int c = 0; c < 32; ++c) {
      float rows[4], columns[4];
      for (int i = 0; i < 4; ++i) rows[i] = a[y + 16 * i][c], columns[i] = b[x + 16 * i][c];
      for (int i = 0; i < 4; ++i) {
        for (int j = 0; j < 4; ++j) sums[i][j] += rows[i] * columns[j];
      }
    }
    __syncthreads();
  }
  for (int i = 0; i < 4; ++i) {
    for (int j = 0; j < 4; ++j) out[(n0 + y + 16 * i) * OC + o0 + x + 16 * j] = sums[i][j];
  }
}

__device__ float4 load4(const float* from) { return *reinterpret_cast<const float4*>(from); }

// The same, but 16 bytes move at a time: from global memory, and from shared memory too, where slices have channels
// outermost, so that a thread's 4 rows and its 4 columns are neighbours.
__global__ void __launch_bounds__(256)
    matmul_vectorised_kernel(float* out, const float* inp, const float* weight, int C, int OC) {
  alignas(16) __shared__ float a[16][68], b[16][68];  // 68: rows start at multiples of 16 bytes
  const int x = threadIdx.x % 16 * 4, y = threadIdx.x / 16 * 4, n0 = blockIdx.y * 64, o0 = blockIdx.x * 64;
  const int row = threadIdx.x / 4, c = threadIdx.x % 4 * 4;  // the thread's part of copying a slice
  float sums[4][4] = {};
  for (int c0 = 0; c0 < C; c0 += 16) {
    const float4 a4 = load4(inp + (n0 + row) * C + c0 + c), b4 = load4(weight + (o0 + row) * C + c0 + c);
    a[c][row] = a4.x, a[c + 1][row] = a4.y, a[c + 2][row] = a4.z, a[c + 3][row] = a4.w;
    b[c][row] = b4.x, b[c + 1][row] = b4.y, b[c + 2][row] = b4.z, b[c + 3][row] = b4.w;
    __syncthreads();
    for (int k = 0; k < 16; ++k) {
      const float4 r = load4(&a[k][y]), q = load4(&b[k][x]);
      const float rows[4] = {r.x, r.y, r.z, r.w}, columns[4] = {q.x, q.y, q.z, q.w};
      for (int i = 0; i < 4; ++i) {
        for (int j = 0; j < 4; ++j) sums[i][j] += rows[i] * columns[j];
      }
    }
    __syncthreads();
  }
  for (int i = 0; i < 4; ++i) {
    *reinterpret_cast<float4*>(out + (n0 + y + i) * OC + o0 + x) =
        make_float4(sums[i][0], sums[i][1], sums[i][2], sums[i][3]);
  }
}

// ---- bf16, tensor cores --------------------------------------------------------------------------------------------

// A block computes 64 x 64 outputs, each of its four warps 32 x 32 of them: 2 x 4 sums of mma (16 x 8).
constexpr int kMmaThreads = 128;
struct WarpTile {
  int row, column;  // in the block's outputs

  __device__ WarpTile() : row(threadIdx.x / 64 * 32), column(threadIdx.x / 32 % 2 * 32) {}

  // Two neighbouring sums per lane: a row of 8 is 16 bytes in four lanes.
  __device__ void store(bf16* out, const float (&d)[2][4][4], int OC) const {
    const int group = threadIdx.x % 32 / 4, pair = threadIdx.x % 4;
    for (int i = 0; i < 2; ++i) {
      for (int j = 0; j < 4; ++j) {
        for (int half = 0; half < 2; ++half) {
          bf16* to = out + (row + 16 * i + 8 * half + group) * OC + column + 8 * j + 2 * pair;
          *reinterpret_cast<__nv_bfloat162*>(to) = __floats2bfloat162_rn(d[i][j][2 * half], d[i][j][2 * half + 1]);
        }
      }
    }
  }
};

// Two neighbouring elements, as a register of mma.
__device__ uint32_t load_pair(const bf16* from) { return *reinterpret_cast<const uint32_t*>(from); }

// Fragments come straight from global memory: each register of each lane is a separate load (layouts: ptx.cuh).
__global__ void __launch_bounds__(kMmaThreads)
    matmul_mma_kernel(bf16* out, const bf16* inp, const bf16* weight, int C, int OC) {
  const WarpTile tile;
  const int group = threadIdx.x % 32 / 4, pair = threadIdx.x % 4, n0 = blockIdx.y * 64, o0 = blockIdx.x * 64;
  const bf16* a = inp + (n0 + tile.row + group) * C + 2 * pair;
  const bf16* b = weight + (o0 + tile.column + group) * C + 2 * pair;
  float d[2][4][4] = {};
  for (int c = 0; c < C; c += 16) {
    uint32_t b_part[4][2];
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      b_part[j][0] = load_pair(b + 8 * j * C + c);
      b_part[j][1] = load_pair(b + 8 * j * C + c + 8);
    }
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const bf16* rows = a + 16 * i * C + c;
      const uint32_t a_part[4] = {load_pair(rows), load_pair(rows + 8 * C), load_pair(rows + 8),
                                  load_pair(rows + 8 * C + 8)};
#pragma unroll
      for (int j = 0; j < 4; ++j) mma_m16n8k16(d[i][j], a_part, b_part[j]);
    }
  }
  tile.store(out + n0 * OC + o0, d, OC);
}

// A slice of a factor in shared memory: 64 rows of 32 channels, four chunks of 16 bytes per row. ldmatrix reads the
// same chunk of 8 rows at once. Two rows share the 128 bytes of the 32 banks, so rows 0, 2, 4, 6 would collide in the
// same banks unless chunks are permuted according to the row.
constexpr int kSlice = 64 * 32;  // elements
template <bool kSwizzled>
__device__ int place(int row, int chunk) {
  return row * 32 + (kSwizzled ? chunk ^ (row / 2 % 4) : chunk) * 8;
}

template <bool kSwizzled>
__device__ void multiply_slices(float (&d)[2][4][4], const bf16* a, const bf16* b, const WarpTile& tile) {
  const int row = threadIdx.x % 16, chunk = threadIdx.x % 32 / 16;
#pragma unroll
  for (int half = 0; half < 2; ++half) {  // 16 channels
    uint32_t a_part[2][4], b_part[2][4];
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      ldmatrix_x4(a_part[i], a + place<kSwizzled>(tile.row + 16 * i + row, 2 * half + chunk));
      ldmatrix_x4(b_part[i], b + place<kSwizzled>(tile.column + 16 * i + row, 2 * half + chunk));
    }
#pragma unroll
    for (int i = 0; i < 2; ++i) {
#pragma unroll
      for (int j = 0; j < 4; ++j) mma_m16n8k16(d[i][j], a_part[i], {b_part[j / 2][j % 2], b_part[j / 2][j % 2 + 2]});
    }
  }
}

template <bool kSwizzled>
__global__ void __launch_bounds__(kMmaThreads)
    matmul_ldmatrix_kernel(bf16* out, const bf16* inp, const bf16* weight, int C, int OC) {
  alignas(128) __shared__ bf16 a[kSlice], b[kSlice];
  const WarpTile tile;
  const int n0 = blockIdx.y * 64, o0 = blockIdx.x * 64, chunk = threadIdx.x % 4;
  float d[2][4][4] = {};
  for (int c0 = 0; c0 < C; c0 += 32) {
    for (int row = threadIdx.x / 4; row < 64; row += 32) {
      const int from = c0 + chunk * 8, to = place<kSwizzled>(row, chunk);
      *reinterpret_cast<int4*>(a + to) = *reinterpret_cast<const int4*>(inp + (n0 + row) * C + from);
      *reinterpret_cast<int4*>(b + to) = *reinterpret_cast<const int4*>(weight + (o0 + row) * C + from);
    }
    __syncthreads();
    multiply_slices<kSwizzled>(d, a, b, tile);
    __syncthreads();
  }
  tile.store(out + n0 * OC + o0, d, OC);
}

// cp.async copies past the registers, and does not wait: the next three slices are under way while one is multiplied.
// One barrier per slice, since the overwritten slice was multiplied before it.
__global__ void __launch_bounds__(kMmaThreads)
    matmul_async_kernel(bf16* out, const bf16* inp, const bf16* weight, int C, int OC) {
  constexpr int kStages = 4;
  alignas(128) __shared__ bf16 a[kStages][kSlice], b[kStages][kSlice];
  const WarpTile tile;
  const int n0 = blockIdx.y * 64, o0 = blockIdx.x * 64, chunk = threadIdx.x % 4, slices = C / 32;
  const auto copy = [&](int slice) {
    if (slice < slices) {
      for (int row = threadIdx.x / 4; row < 64; row += 32) {
        const int from = slice * 32 + chunk * 8, to = place<true>(row, chunk);
        cp_async<16>(a[slice % kStages] + to, inp + (n0 + row) * C + from, 16);
        cp_async<16>(b[slice % kStages] + to, weight + (o0 + row) * C + from, 16);
      }
    }
    cp_async_commit();  // always: the wait counts groups
  };
  for (int slice = 0; slice < kStages - 1; ++slice) copy(slice);
  float d[2][4][4] = {};
  for (int slice = 0; slice < slices; ++slice) {
    cp_async_wait<kStages - 2>();
    __syncthreads();
    copy(slice + kStages - 1);
    multiply_slices<true>(d, a[slice % kStages], b[slice % kStages], tile);
  }
  tile.store(out + n0 * OC + o0, d, OC);
}

// ---- the ladders ---------------------------------------------------------------------------------------------------

// The rows 0, step, 2 step ... of a matrix.
template <class T>
std::vector<T> every(int step, const std::vector<T>& matrix, int rows, int columns) {
  std::vector<T> some;
  for (int row = 0; row < rows; row += step) {
    some.insert(some.end(), matrix.begin() + static_cast<int64_t>(row) * columns,
                matrix.begin() + static_cast<int64_t>(row + 1) * columns);
  }
  return some;
}

struct Sizes {
  int N, C, OC;
};

// On a GPU a twin in double of all outputs would take a minute: there a check takes every 127th row. 127 and the tiles'
// heights have no common divisor, so each tile has a row in it, and every row of a tile is covered by some tile.
int check_step(const Sizes& s) { return 2.0 * s.N * s.C * s.OC > 1e9 ? 127 : 1; }

template <class T>
struct Forward : Sizes {
  int sets;
  Buffers<T> inp, weight, out;
  Doubles expected;

  explicit Forward(const Problem& problem)
      : Sizes(sizes(problem.on_gpu())),
        sets(problem.sets(bytes(*this))),
        inp(sets, static_cast<int64_t>(N) * C, 1, 1),
        weight(sets, static_cast<int64_t>(OC) * C, 2, 1),
        out(sets, static_cast<int64_t>(N) * OC, 0, 0) {}

  static Sizes sizes(bool on_gpu) { return on_gpu ? Sizes{16384, 768, 3072} : Sizes{512, 128, 128}; }
  static double bytes(const Sizes& s) { return sizeof(T) * (1.0 * s.N * s.C + 1.0 * s.OC * s.C + 1.0 * s.N * s.OC); }
  void check() {
    const int step = check_step(*this), rows = ceil_div(N, step);
    if (expected.empty()) {
      const Doubles x = to_doubles(every(step, inp.host(0), N, C)), w = to_doubles(weight.host(0));
      expected.resize(static_cast<size_t>(rows) * OC);
      cpu::matmul_forward<double>(expected.data(), x.data(), w.data(), nullptr, rows, C, OC);
    }
    check_close("out", every(step, out.host(0), N, OC), expected, C, 0);
  }
};

template <class T>
using ForwardKernel = void (*)(T*, const T*, const T*, int, int);

// A version that is one of the kernels above, of which `threads` compute height x width outputs.
template <class T>
Version version(const std::shared_ptr<Forward<T>>& p, const char* name, const char* idea, ForwardKernel<T> kernel,
                int height, int width, int threads) {
  return {name, idea, [=](int set, cudaStream_t stream) {
            launch(kernel, dim3(p->OC / width, p->N / height), threads, 0, stream, p->out[set],
                   static_cast<const T*>(p->inp[set]), static_cast<const T*>(p->weight[set]), p->C, p->OC);
          }};
}

// A version that is the launcher of kernels/matmul.cuh, or cuBLASLt.
template <class T>
Version tier(const std::shared_ptr<Forward<T>>& p, const char* name, const char* idea, MatmulMode mode) {
  return {name, idea,
          [=](int set, cudaStream_t stream) {
            matmul_forward<T>(p->out[set], nullptr, p->inp[set], p->weight[set], nullptr, p->N, p->C, p->OC, mode,
                              stream);
          },
          mode.tier == MatmulTier::cublaslt};
}

template <class T>
Ladder forward_ladder(const std::shared_ptr<Forward<T>>& p, const char* operation, const char* type, Limit limit) {
  Ladder ladder;
  ladder.operation = operation;
  ladder.size =
      "N=" + std::to_string(p->N) + " C=" + std::to_string(p->C) + " OC=" + std::to_string(p->OC) + " " + type;
  ladder.limit = limit;
  ladder.bytes = p->bytes(*p);
  ladder.gpu_bytes = p->bytes(p->sizes(true));
  ladder.flops = 2.0 * p->N * p->C * p->OC;
  ladder.sets = p->sets;
  ladder.check = [p] { p->check(); };
  ladder.reset = [p] { p->out.poison(0); };
  return ladder;
}

const Register forward_float("matmul_forward_float", [](const Problem& problem) {
  const auto p = std::make_shared<Forward<float>>(problem);
  Ladder ladder = forward_ladder(p, "matmul_forward_float", "float", Limit::float_units);
  ladder.versions = {
      version(p, "naive",
              "A thread computes one output; the lanes of a warp read 32 different rows, a sector for each number.",
              matmul_naive_kernel, 32, 8, 256),
      version(
          p, "coalesced",
          "A warp computes one output and its lanes read contiguously: every byte of a sector is used, but each output "
          "still reads two whole rows.",
          matmul_coalesced_kernel, 1, 8, 256),
      version(p, "shared memory",
              "A block computes 32 x 32 outputs from slices in shared memory: global memory is read once for 32.",
              matmul_shared_kernel, 32, 32, 1024),
      version(p, "register tiles",
              "A thread computes 4 x 4 outputs in registers: half a read of shared memory per product instead of two.",
              matmul_registers_kernel, 64, 64, 256),
      version(
          p, "vectorised",
          "16 bytes per load, and slices transposed in shared memory so that this holds there too: a quarter of the "
          "loads.",
          matmul_vectorised_kernel, 64, 64, 256),
      tier(p, "8 x 8 a thread",
           "8 x 8 outputs per thread in blocks of 64: a quarter of a read per product; blocks run in bands that share "
           "L2; any size, bias and GELU in the epilogue.",
           {MatmulTier::plain, false}),
  };
#ifdef WROUGHT_CUBLASLT
  ladder.versions.push_back(tier(p, "cuBLASLt", "NVIDIA's library, in float.", {MatmulTier::cublaslt, false}));
#endif
  return ladder;
});

const Register forward_bf16("matmul_forward_bf16", [](const Problem& problem) {
  const auto p = std::make_shared<Forward<bf16>>(problem);
  Ladder ladder = forward_ladder(p, "matmul_forward_bf16", "bf16", Limit::tensor_cores);
  ladder.versions = {
      version(p, "mma", "Tensor cores, their registers loaded straight from global memory: 4 bytes per lane and load.",
              matmul_mma_kernel, 64, 64, kMmaThreads),
      version(p, "ldmatrix",
              "Slices in shared memory, copied 16 bytes at a time and read by ldmatrix, four registers at once; but 8 "
              "rows 64 bytes apart collide in the same banks.",
              matmul_ldmatrix_kernel<false>, 64, 64, kMmaThreads),
      version(p, "swizzled",
              "Chunks of 16 bytes are permuted by exclusive or with their row: no bank conflicts are left.",
              matmul_ldmatrix_kernel<true>, 64, 64, kMmaThreads),
      version(p, "cp.async",
              "Copies that do not wait, three slices ahead: the tensor cores work while memory delivers.",
              matmul_async_kernel, 64, 64, kMmaThreads),
      {"64 x 64 a warp",
       "A block computes 128 x 128 outputs, a warp 64 x 64: half the shared memory reads per product; rows are stored "
       "16 bytes at a time.",
       [p](int set, cudaStream_t stream) {
         const ForwardEpilogue<bf16> epilogue{p->out[set], nullptr, nullptr, nullptr, p->OC};
         matmul_tensor_core_tile<SquareTile, true, Major::k, Major::k>(epilogue, static_cast<const bf16*>(p->inp[set]),
                                                                       static_cast<const bf16*>(p->weight[set]), p->N,
                                                                       p->OC, p->C, p->C, stream);
       }},
      tier(p, "choice of tile",
           "The largest of three tiles that leaves work for every multiprocessor: 128 x 256 at the training sizes, 64 "
           "x 64 at this ladder's size in cudasim.",
           {MatmulTier::tensor_core, false}),
  };
#ifdef WROUGHT_CUBLASLT
  ladder.versions.push_back(
      tier(p, "cuBLASLt", "NVIDIA's library, on Hopper by wgmma.", {MatmulTier::cublaslt, false}));
#endif
  return ladder;
});

// ---- dweight -------------------------------------------------------------------------------------------------------

// dweight (OC, C) += dout (N, OC)^T inp (N, C)
struct Weight : Sizes {
  int sets;
  Buffers<bf16> dout, inp;
  Buffers<float> dweight;
  Buffers<float> scratch;
  std::vector<float> before;
  Doubles expected;

  explicit Weight(const Problem& problem)
      : Sizes(sizes(problem.on_gpu())),
        sets(problem.sets(bytes(*this))),
        dout(sets, static_cast<int64_t>(N) * OC, 1, 1),
        inp(sets, static_cast<int64_t>(N) * C, 2, 1),
        dweight(sets, static_cast<int64_t>(OC) * C, 3, 1),
        scratch(sets, matmul_backward_scratch(N, C, OC) / 4, 0, 0),
        before(dweight.host(0)) {}

  static Sizes sizes(bool on_gpu) { return on_gpu ? Sizes{16384, 768, 768} : Sizes{2048, 64, 64}; }
  static double bytes(const Sizes& s) { return 2.0 * s.N * (s.C + s.OC) + 8.0 * s.OC * s.C; }  // dweight: read, written
  void check() {
    const int step = check_step(*this), rows = ceil_div(OC, step);
    if (expected.empty()) {
      const Doubles all = to_doubles(dout.host(0)), x = to_doubles(inp.host(0));
      Doubles dy(static_cast<size_t>(N) * rows);
      for (int n = 0; n < N; ++n) {
        for (int row = 0; row < rows; ++row) dy[n * rows + row] = all[static_cast<size_t>(n) * OC + row * step];
      }
      expected = to_doubles(every(step, before, OC, C));
      cpu::matmul_backward<double>(nullptr, expected.data(), nullptr, dy.data(), x.data(), nullptr, N, C, rows);
    }
    check_close("dweight", every(step, dweight.host(0), OC, C), expected, N, 0);
  }
};

Version weight_version(const std::shared_ptr<Weight>& p, const char* name, const char* idea, MatmulTier tier) {
  return {name, idea,
          [=](int set, cudaStream_t stream) {
            matmul_backward<bf16>(nullptr, p->dweight[set], nullptr, p->scratch[set], p->dout[set], p->inp[set],
                                  nullptr, nullptr, p->N, p->C, p->OC, {tier, false}, stream);
          },
          tier == MatmulTier::cublaslt};
}

const Register backward_weight("matmul_backward_weight", [](const Problem& problem) {
  const auto p = std::make_shared<Weight>(problem);
  Ladder ladder;
  ladder.operation = "matmul_backward_weight";
  ladder.size = "N=" + std::to_string(p->N) + " C=" + std::to_string(p->C) + " OC=" + std::to_string(p->OC) + " bf16";
  ladder.limit = Limit::tensor_cores;
  ladder.bytes = p->bytes(*p);
  ladder.gpu_bytes = p->bytes(p->sizes(true));
  ladder.flops = 2.0 * p->N * p->C * p->OC;
  ladder.sets = p->sets;
  ladder.check = [p] { p->check(); };
  ladder.reset = [p] { p->dweight.write(0, p->before); };
  ladder.versions = {
      weight_version(
          p, "plain units",
          "Float products of the tiled kernel: the factors' rows lie along the outputs, so no transpose is needed.",
          MatmulTier::plain),
      {"tensor cores",
       "mma; ldmatrix transposes as it loads. But a block sums a whole column of the batch, and there are fewer tiles "
       "than multiprocessors.",
       [p](int set, cudaStream_t stream) {
         matmul_tensor_core<Major::mn, Major::mn>(
             AccumulateEpilogue{p->dweight[set], p->C}, static_cast<const bf16*>(p->dout[set]),
             static_cast<const bf16*>(p->inp[set]), p->OC, p->C, p->N, p->N, stream);
       }},
      weight_version(
          p, "parts",
          "The batch is cut into parts of at least 1,024 rows, one block each, and a second kernel adds their sums in "
          "order.",
          MatmulTier::tensor_core),
  };
#ifdef WROUGHT_CUBLASLT
  ladder.versions.push_back(weight_version(p, "cuBLASLt", "NVIDIA's library.", MatmulTier::cublaslt));
#endif
  return ladder;
});

}  // namespace
