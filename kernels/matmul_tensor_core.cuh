// Matrix products on tensor cores by mma.sync: bf16, or float rounded to tf32. Any size, layout and alignment.
//
// A block makes a kM x kN tile of D, each of its warps a kWarpM x kWarpN tile of that, in registers. cp.async brings
// slices of both factors, 64 bytes of K deep (32 bf16 or 16 floats), into shared memory, kStages - 1 slices ahead of
// the products; one barrier per slice. Shared memory feeds the tensor cores fast enough only if a warp reuses what it
// loads often: a 64 x 64 warp tile loads 4 KiB for 32 mma of 4,096 operations each, a 64 x 32 tile 3 KiB for 16.
#pragma once

#include "kernels/matmul_common.cuh"
#include "kernels/ptx.cuh"

template <int kM_, int kN_, int kWarpM_, int kWarpN_, int kStages_, int kBlocks_>
struct TensorTile {
  static constexpr int kM = kM_, kN = kN_, kWarpM = kWarpM_, kWarpN = kWarpN_, kStages = kStages_;
  static constexpr int kBlocks = kBlocks_;  // that should fit a multiprocessor: limits the registers
  static constexpr int kThreads = kM / kWarpM * (kN / kWarpN) * 32;
};
using WideTile = TensorTile<128, 256, 64, 64, 4, 1>;    // 96 KiB of shared memory
using SquareTile = TensorTile<128, 128, 64, 64, 4, 2>;  // 64 KiB
using SmallTile = TensorTile<64, 64, 32, 32, 4, 4>;     // 32 KiB

// ---- slices in shared memory ---------------------------------------------------------------------------------------

inline constexpr int kSliceBytes = 64;  // of K
inline constexpr int kChunk = 16;       // bytes that move together

// A slice of a factor, kRows of m or n: lines as they are in memory (Major::k: one line per row, of the slice's K;
// Major::mn: one line per k, of kRows), in chunks of 16 bytes. Chunks are permuted within their line, by exclusive or
// with a number computed from the line number, so that each access below finds its chunks in all 8 columns of 16 bytes,
// and so its words in all 32 banks:
//   cp.async: 8 neighbouring threads write 8 neighbouring chunks, of one line or (Major::k) of two: a permutation.
//   ldmatrix, Major::k: the same chunk of 8 lines of 64 bytes. Two lines share 128 bytes; pairs of lines differ by the
//     exclusive or with (line / 2) % 4.
//   ldmatrix.trans, Major::mn, bf16: the same chunk of 8 lines, each a multiple of 128 bytes: line % 8.
//   words, Major::mn, float: 4 lines, and of each 8 neighbouring words, 2 chunks: line % 4 * 2.
template <class T, Major kMajor, int kRows>
struct SharedSlice {
  static constexpr int kDepth = kSliceBytes / sizeof(T);
  static constexpr int kLines = kMajor == Major::k ? kRows : kDepth;
  static constexpr int kChunks = (kMajor == Major::k ? kDepth : kRows) * sizeof(T) / kChunk;  // per line
  static constexpr int kBytes = kRows * kSliceBytes;
  static constexpr int kPeriod = kMajor == Major::mn && sizeof(T) == 4 ? 4 : 8;  // lines until the permutation repeats

  static __host__ __device__ int offset(int line, int chunk) {  // in bytes
    int moved = line % 8;
    if constexpr (kMajor == Major::k) moved = line / 2 % 4;
    if constexpr (kMajor == Major::mn && sizeof(T) == 4) moved = line % 4 * 2;
    return (line * kChunks + (chunk ^ moved)) * kChunk;
  }

  // mma's factors: 16 rows from `row` on, 32 bytes of K, the slice's first or second half: four matrices of 8 rows and
  // 16 bytes of K, of which a lane has 4 bytes: row lane / 4, the bytes of K at lane % 4 * 4. As one factor a (kAsB
  // false) r[0] has rows 0-7, r[1] rows 8-15, r[2] and r[3] the same rows, 16 bytes of K further. As two factors b r[0]
  // and r[1] are both halves of K of rows 0-7, r[2] and r[3] of rows 8-15: mma takes b from a pair of neighbouring
  // registers, and in another order they would have to be moved first.
  template <bool kAsB>
  static __device__ void load(uint32_t (&r)[4], const unsigned char* slice, int row, int half) {
    const int lane = threadIdx.x % 32;
    if constexpr (kMajor == Major::k) {
      const int m = row + lane % 8 + (kAsB ? lane / 16 : lane / 8 % 2) * 8;
      ldmatrix_x4(r, slice + offset(m, half * 2 + (kAsB ? lane / 8 % 2 : lane / 16)));
    } else if constexpr (sizeof(T) == 2) {
      const int k = half * 16 + lane % 8 + (kAsB ? lane / 8 % 2 : lane / 16) * 8;
      const int m = row + (kAsB ? lane / 16 : lane / 8 % 2) * 8;
      ldmatrix_x4_trans(r, slice + offset(k, m / 8));
    } else {  // ldmatrix would transpose halves of floats
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const int k = half * 8 + lane % 4 + (kAsB ? i % 2 : i / 2) * 4;
        const int m = row + lane / 4 + (kAsB ? i / 2 : i % 2) * 8;
        r[i] = *reinterpret_cast<const uint32_t*>(slice + offset(k, m / 4) + m % 4 * 4);
      }
    }
    if constexpr (sizeof(T) == 4) {
#pragma unroll
      for (int i = 0; i < 4; ++i) r[i] = to_tf32(__uint_as_float(r[i]));
    }
  }
};

// A thread's share of copying a factor's slices, one after another along K, from global to shared memory. Its chunks
// lie kStep lines apart, at the same place of each line.
template <class T, Major kMajor, int kRows, int kThreads, bool kVector>
struct SliceCopy {
  using Slice = SharedSlice<T, kMajor, kRows>;
  static constexpr int kStep = kThreads / Slice::kChunks;
  static constexpr int kCount = Slice::kLines / kStep;
  static_assert(kThreads % Slice::kChunks == 0 && kStep % Slice::kPeriod == 0 && Slice::kLines % kStep == 0);

  const T* data;               // (rows, K) or, Major::mn, (K, rows)
  const T* from;               // this thread's first chunk
  int64_t line_elements;       // per line of global memory
  int lines_left, chunk_left;  // lines from `from` on, and elements of its line, until the factor or the part of K ends
  int to;                      // bytes into the slice

  __device__ SliceCopy(const T* data, int64_t first_row, int64_t rows, int64_t first_k, int64_t end_k, int64_t K)
      : data(data) {
    const int line = threadIdx.x / Slice::kChunks, chunk = threadIdx.x % Slice::kChunks;
    const int element = chunk * (kChunk / static_cast<int>(sizeof(T)));
    const int rows_left = static_cast<int>(rows - first_row), k_left = static_cast<int>(end_k - first_k);
    if constexpr (kMajor == Major::k) {
      line_elements = K;
      from = data + (first_row + line) * K + first_k + element;
      lines_left = rows_left - line;
      chunk_left = k_left - element;
    } else {
      line_elements = rows;
      from = data + (first_k + line) * rows + first_row + element;
      lines_left = k_left - line;
      chunk_left = rows_left - element;
    }
    to = Slice::offset(line, chunk);
  }

  // Starts the copies of this slice and turns to the next. Zeros beyond the factor.
  __device__ void next(unsigned char* slice) {
#pragma unroll
    for (int i = 0; i < kCount; ++i) {
      const T* chunk = from + i * kStep * line_elements;
      unsigned char* target = slice + to + i * kThreads * kChunk;
      const int left = i * kStep < lines_left ? chunk_left : 0;
      if constexpr (kVector) {  // each chunk is wholly inside or outside
        cp_async<kChunk>(target, left > 0 ? chunk : data, left > 0 ? kChunk : 0);
      } else {
        Pack<T> pack;
#pragma unroll
        for (int j = 0; j < Pack<T>::size; ++j) pack[j] = j < left ? chunk[j] : from_float<T>(0.0f);
        store_pack(reinterpret_cast<T*>(target), pack);
      }
    }
    if constexpr (kMajor == Major::k) {
      from += Slice::kDepth;
      chunk_left -= Slice::kDepth;
    } else {
      from += Slice::kDepth * line_elements;
      lines_left -= Slice::kDepth;
    }
  }
};

// ---- the product ---------------------------------------------------------------------------------------------------

__device__ inline void mma(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], bf16) {
  mma_m16n8k16(d, a, b);
}
__device__ inline void mma(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], float) {
  mma_m16n8k8_tf32(d, a, b);
}

// Blocks (x, y): tile x, over k from y part_k to (y + 1) part_k or K. The sums' row in the epilogue is y M + row.
template <class T, Major kMajorA, Major kMajorB, class Tile, bool kVector, class Epilogue>
__global__ void __launch_bounds__(Tile::kThreads, Tile::kBlocks)
    matmul_tensor_core_kernel(Epilogue epilogue, const T* a, const T* b, int M, int N, int K, int part_k) {
  wait_for_earlier_kernels();
  using ASlice = SharedSlice<T, kMajorA, Tile::kM>;
  using BSlice = SharedSlice<T, kMajorB, Tile::kN>;
  constexpr int kStageBytes = ASlice::kBytes + BSlice::kBytes;
  unsigned char* stages = dynamic_shared<unsigned char>();

  int row_tile, column_tile;
  tile_of_block(row_tile, column_tile, blockIdx.x, ceil_div(M, Tile::kM), ceil_div(N, Tile::kN));
  const int64_t first_row = static_cast<int64_t>(row_tile) * Tile::kM;
  const int64_t first_column = static_cast<int64_t>(column_tile) * Tile::kN;
  if (kSymmetric<Epilogue> && first_column >= first_row + Tile::kM) return;
  const int64_t first_k = blockIdx.y * static_cast<int64_t>(part_k);
  const int64_t end_k = min(first_k + part_k, static_cast<int64_t>(K));
  const int slices = static_cast<int>((end_k - first_k + ASlice::kDepth - 1) / ASlice::kDepth);

  SliceCopy<T, kMajorA, Tile::kM, Tile::kThreads, kVector> a_copy(a, first_row, M, first_k, end_k, K);
  SliceCopy<T, kMajorB, Tile::kN, Tile::kThreads, kVector> b_copy(b, first_column, N, first_k, end_k, K);
  const auto copy = [&](int slice) {  // a group is closed even if nothing is copied: the wait below counts groups
    if (slice < slices) {
      unsigned char* stage = stages + slice % Tile::kStages * kStageBytes;
      a_copy.next(stage);
      b_copy.next(stage + ASlice::kBytes);
    }
    cp_async_commit();
  };
#pragma unroll
  for (int slice = 0; slice < Tile::kStages - 1; ++slice) copy(slice);

  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const int warp_row = warp / (Tile::kN / Tile::kWarpN) * Tile::kWarpM;
  const int warp_column = warp % (Tile::kN / Tile::kWarpN) * Tile::kWarpN;
  float d[Tile::kWarpM / 16][Tile::kWarpN / 8][4] = {};
  for (int slice = 0; slice < slices; ++slice) {
    cp_async_wait<Tile::kStages - 2>();  // this thread's copies of this slice have arrived
    __syncthreads();                     // and those of all threads, which are done with the previous slice
    copy(slice + Tile::kStages - 1);     // into the place of the previous slice
    const unsigned char* stage = stages + slice % Tile::kStages * kStageBytes;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      uint32_t a_part[Tile::kWarpM / 16][4], b_part[Tile::kWarpN / 16][4];
#pragma unroll
      for (int i = 0; i < Tile::kWarpM / 16; ++i)
        ASlice::template load<false>(a_part[i], stage, warp_row + i * 16, half);
#pragma unroll
      for (int j = 0; j < Tile::kWarpN / 16; ++j) {
        BSlice::template load<true>(b_part[j], stage + ASlice::kBytes, warp_column + j * 16, half);
      }
#pragma unroll
      for (int i = 0; i < Tile::kWarpM / 16; ++i) {
#pragma unroll
        for (int j = 0; j < Tile::kWarpN / 8; ++j) {
          mma(d[i][j], a_part[i], {b_part[j / 2][j % 2 * 2], b_part[j / 2][j % 2 * 2 + 1]}, T());
        }
      }
    }
  }

  // mma leaves 2 neighbouring sums in a lane. Through shared memory, where each warp has its own part, a lane gets as
  // many as 16 bytes of the output hold. Rows of 8 words more than a multiple of 32: the 4 rows of a half warp's 8-byte
  // stores touch different banks. Lanes that read 32 bytes do so in two steps, 16 bytes of every 32: so that 8 of them
  // find theirs in all banks, the two are swapped in every other row and every other 128 bytes of a row.
  constexpr int kPitch = Tile::kWarpN + 8;
  constexpr int kWidth = Epilogue::kWidth, kLanes = Tile::kWarpN / kWidth;  // lanes per row
  static_assert(Tile::kThreads / 32 * 16 * kPitch * sizeof(float) <= Tile::kStages * kStageBytes);
  float* sums = reinterpret_cast<float*>(stages) + warp * 16 * kPitch;
  const auto place = [](int row, int column) { return row * kPitch + (column ^ (column / 32 + row) % 2 * 4); };
  __syncthreads();  // all threads are done with the last slices
#pragma unroll
  for (int i = 0; i < Tile::kWarpM / 16; ++i) {
#pragma unroll
    for (int j = 0; j < Tile::kWarpN / 8; ++j) {
      float* to = sums + place(lane / 4, j * 8 + lane % 4 * 2);
      *reinterpret_cast<float2*>(to) = make_float2(d[i][j][0], d[i][j][1]);
      *reinterpret_cast<float2*>(to + 8 * kPitch) = make_float2(d[i][j][2], d[i][j][3]);
    }
    __syncwarp();
#pragma unroll 1
    for (int r = lane / kLanes; r < 16; r += 32 / kLanes) {
      const int64_t row = first_row + warp_row + i * 16 + r;
      const int64_t column = first_column + warp_column + lane % kLanes * kWidth;
      float x[kWidth];
#pragma unroll
      for (int k = 0; k < kWidth; k += 4) {
        const float4 four = *reinterpret_cast<const float4*>(sums + place(r, lane % kLanes * kWidth + k));
        x[k] = four.x, x[k + 1] = four.y, x[k + 2] = four.z, x[k + 3] = four.w;
      }
      if (row < M && column < N) {
        epilogue.template store<kVector>(x, blockIdx.y * static_cast<int64_t>(M) + row, static_cast<int>(column));
      }
    }
    __syncwarp();  // before the next 16 rows overwrite these
  }
}

template <class Tile, bool kVector, Major kMajorA, Major kMajorB, class T, class Epilogue>
void matmul_tensor_core_tile(const Epilogue& epilogue, const T* a, const T* b, int M, int N, int K, int part_k,
                             cudaStream_t stream) {
  dim3 grid = grid_for(tile_count(M, N, Tile::kM, Tile::kN), 1);
  grid.y = static_cast<unsigned>(ceil_div<int64_t>(K, part_k));
  launch(matmul_tensor_core_kernel<T, kMajorA, kMajorB, Tile, kVector, Epilogue>, grid, Tile::kThreads,
         Tile::kStages * (Tile::kM + Tile::kN) * kSliceBytes, stream, epilogue, a, b, M, N, K, part_k);
}

// D = A B in parts of part_k along K (part_k = K: one part; else a multiple of a slice's depth), each with an epilogue.
// The tile makes no difference to an element's bits: k runs in the same order in all of them.
template <Major kMajorA, Major kMajorB, class T, class Epilogue>
void matmul_tensor_core(const Epilogue& epilogue,
                        const T* a,  // (M, K) or, Major::mn, (K, M)
                        const T* b,  // (N, K) or, Major::mn, (K, N)
                        int M, int N, int K, int part_k, cudaStream_t stream) {
  const bool vector = epilogue.vector() && vector_factor<kMajorA>(a, M, K) && vector_factor<kMajorB>(b, N, K);
  const int64_t parts = ceil_div<int64_t>(K, part_k);
  // The largest tiles that leave work for each of the 100 to 150 multiprocessors of a large GPU.
  if (!vector) {
    matmul_tensor_core_tile<SmallTile, false, kMajorA, kMajorB>(epilogue, a, b, M, N, K, part_k, stream);
  } else if (tile_count(M, N, 128, 256) * parts >= 256) {
    matmul_tensor_core_tile<WideTile, true, kMajorA, kMajorB>(epilogue, a, b, M, N, K, part_k, stream);
  } else if (tile_count(M, N, 128, 128) * parts >= 128) {
    matmul_tensor_core_tile<SquareTile, true, kMajorA, kMajorB>(epilogue, a, b, M, N, K, part_k, stream);
  } else {
    matmul_tensor_core_tile<SmallTile, true, kMajorA, kMajorB>(epilogue, a, b, M, N, K, part_k, stream);
  }
}
