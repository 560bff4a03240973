// How the GPU's kernels divide the work of sums over many rows, and the bytes of scratch that they need for the parts:
// for the launchers, and for plans in builds without CUDA. Divisions depend only on sizes, never on the GPU, so that
// sums are the same everywhere.
#pragma once

#include <algorithm>
#include <cstdint>

constexpr int64_t pieces_of(int64_t n, int64_t size) { return (n + size - 1) / size; }

// ---- matrix products (matmul.cuh) ----------------------------------------------------------------------------------

inline constexpr int kBiasChunk = 512;  // rows whose sum is one part of the bias gradient

// The number of blocks that cover M x N in tiles.
inline int64_t tile_count(int M, int N, int tile_m, int tile_n) { return pieces_of(M, tile_m) * pieces_of(N, tile_n); }

// dweight sums over all rows N of a batch into a matrix that may be too small for a GPU: 768 x 768 has 36 tiles of
// 128 x 128. Then the sum is made in parts of this many rows, which are added in order. About 256 blocks, two per
// multiprocessor; at least 1,024 rows per part, compared with which writing and reading its 64 KiB of sums is little.
inline int rows_per_part(int N, int C, int OC) {
  const int64_t parts = std::min<int64_t>({256 / tile_count(OC, C, 128, 128), N / 1024, 64});
  return parts < 2 ? N : static_cast<int>(pieces_of(pieces_of(N, parts), 32) * 32);
}
inline int64_t weight_parts(int N, int C, int OC) { return pieces_of(N, rows_per_part(N, C, OC)); }

inline int64_t bias_backward_scratch(int N, int OC) {
  return pieces_of(N, kBiasChunk) * OC * static_cast<int64_t>(sizeof(float));
}
inline int64_t matmul_backward_scratch(int N, int C, int OC) {
  const int64_t parts = weight_parts(N, C, OC);
  const int64_t part_bytes = parts > 1 ? parts * OC * C * static_cast<int64_t>(sizeof(float)) : 0;
  return std::max(part_bytes, bias_backward_scratch(N, OC));
}

// ---- attention (attention.cuh, attention_decode.cuh) ---------------------------------------------------------------

inline constexpr int kDecodeChunk = 128;  // keys per chunk of decoding, and threads per block

// delta
inline int64_t attention_backward_scratch(int B, int T, int NH) {
  return static_cast<int64_t>(B) * NH * T * static_cast<int64_t>(sizeof(float));
}
// A pass of a long prompt has thousands of rows, each with a result per chunk of keys before it: they are computed some
// rows at a time, so that the results of chunks stay in L2 and take little memory. One row may take more.
inline constexpr int64_t kDecodeScratch = int64_t{8} << 20;
inline int64_t decode_row_scratch(int NH, int HS, int max_T) {
  return pieces_of(max_T, kDecodeChunk) * NH * (HS + 2) * static_cast<int64_t>(sizeof(float));
}
inline int decode_rows_at_once(int N, int NH, int HS, int max_T) {
  return static_cast<int>(std::clamp<int64_t>(kDecodeScratch / decode_row_scratch(NH, HS, max_T), 1, N));
}
inline int64_t attention_decode_scratch(int N, int NH, int HS, int max_T) {
  return decode_rows_at_once(N, NH, HS, max_T) * decode_row_scratch(NH, HS, max_T);
}

// ---- layernorm.cuh -------------------------------------------------------------------------------------------------

inline constexpr int kLayernormBackwardBlocks = 256;  // at most

inline int64_t layernorm_backward_scratch(int N, int C) {  // for either type: packs have 4 or 8 channels
  const int64_t blocks = N < kLayernormBackwardBlocks ? N : kLayernormBackwardBlocks;
  return blocks * 3 * pieces_of(C, 8) * 8 * static_cast<int64_t>(sizeof(float));
}

// ---- embedding.cuh, radix_sort.cuh ---------------------------------------------------------------------------------

inline constexpr int kRadixSortTile = 1024, kRadixSortDigits = 256;
inline constexpr int kEmbeddingChunk = 32;  // sorted positions per warp

// Takes parts of scratch one after the other; returns each part's offset in bytes.
class ScratchParts {
 public:
  int64_t take(int64_t size) {
    const int64_t offset = bytes;
    bytes += pieces_of(size, 256) * 256;
    return offset;
  }
  int64_t bytes = 0;
};

struct RadixSortScratch : ScratchParts {
  int64_t items, counts, totals;
  explicit RadixSortScratch(int64_t N) {
    items = take(N * 8);  // between passes
    counts = take(pieces_of(N, kRadixSortTile) * kRadixSortDigits * 4);
    totals = take(kRadixSortDigits * 4);
  }
};
inline int64_t radix_sort_scratch(int64_t N) { return RadixSortScratch(N).bytes; }

struct EmbeddingScratch : ScratchParts {
  int64_t items, sort, partials;
  EmbeddingScratch(int64_t N, int64_t C) {
    items = take(N * 8);
    sort = take(radix_sort_scratch(N));
    partials = take(pieces_of(N, kEmbeddingChunk) * 2 * C * 4);
  }
};
inline int64_t embedding_backward_scratch(int B, int T, int C, int /* V */) {
  return EmbeddingScratch(static_cast<int64_t>(B) * T, C).bytes;
}

// ---- global_norm.cuh, muon.cuh -------------------------------------------------------------------------------------

inline constexpr int64_t kGlobalNormChunk = 16384;  // gradients per block
inline constexpr int64_t kMuonChunk = 4096;         // elements per block: 768 x 768 keep 144 blocks busy

inline int64_t global_norm_scratch(int64_t N) {
  return pieces_of(N, kGlobalNormChunk) * static_cast<int64_t>(sizeof(double));
}
inline int muon_chunks(int64_t N) { return static_cast<int>(pieces_of(N, kMuonChunk)); }

// ---- libraries -----------------------------------------------------------------------------------------------------

inline constexpr int64_t kCublasLtWorkspace = int64_t{32} << 20;     // NVIDIA's recommendation for Hopper
inline constexpr int64_t kCudnnWorkspaceLimit = int64_t{256} << 20;  // the most that its backward pass may need
