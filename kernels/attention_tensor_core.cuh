// Flash attention (Dao et al. 2022; 2023) on tensor cores: bf16 products of mma.sync, sums and softmax in float. The
// maths is in attention.h, the online softmax in attention_plain.cuh.
//
// Four warps own a tile of rows, 16 or 32 per warp, and walk over tiles of the others ("other" rows). All warps read
// the same others, so cp.async brings these into shared memory, the next tile while this one is used (two stages), with
// one barrier per tile. No other warp reads a warp's own rows: only the others are shared.
//
//   kernel     own       other     scores of a tile (own x other)        sums
//   forward    queries   keys      s = q k^T                             out += p v
//   queries    queries   keys      s = q k^T,    dp = dout v^T           dq  += ds k
//   keys       keys      queries   s^T = k q^T,  dp^T = v dout^T         dv  += p^T dout,  dk += ds^T q
//
// The layout of a product's sum, D of mma.m16n8k16, for two adjacent tiles is that of its factor A: so p and ds pass
// from the first product to the second in registers, rounded to bf16. That is why the rows of the third kernel are
// keys. Each sum has one owner and one order, for which s and dp are computed twice (7 products where atomic additions
// to dq would allow 5).
//
// exp(x - m) is computed as 2^(x log2(e) - m log2(e)), with log2(e) / sqrt(HS) one factor: one multiply-add and one ex2
// per element. Tiles beyond the diagonal, and those of other documents, are skipped, by the block or by the warp; only
// tiles on it, or on a document's border, are masked. Rows of one document have their own kernels, without and with
// dropout, which spend no register and no instruction on the rest.
//
// Template parameters used below:
//   kHS      channels per head
//   kM       groups of 16 own rows per warp: products of 16 rows share what is read of the others
//   kN       groups of 8 columns of any sum: others, in a tile of scores, or channels
//   kTiles   groups of 8 others in a warp's tile of scores, which is 16 kM x 8 kTiles
//   kKeep    whether a warp keeps its own rows in registers, or reads them from shared memory for each product
#pragma once

#include <type_traits>

#include "kernels/attention_plain.cuh"
#include "kernels/ptx.cuh"

namespace attention_tensor_core {

inline constexpr int kWarps = 4, kThreads = 32 * kWarps;
inline constexpr float kLog2E = 1.4426950408889634f;

// ---- tiles in shared memory ----------------------------------------------------------------------------------------

// Rows of kHS elements are kHS / 8 chunks of 16 bytes; 128 bytes, all 32 banks, hold 8 chunks. ldmatrix reads one chunk
// of each of 8 rows at once, and these must lie in 8 different places of the 8. Let g be the largest power of two that
// divides both kHS / 8 and 8: row r starts at place r kHS / 8 mod 8, so 8 / g consecutive rows start in different
// multiples of g, and then places repeat. Hence chunk c of row r is stored as chunk c xor (r / (8 / g) mod g): the g
// rows that would collide take the g places between two multiples of g. A row stays in its row, since g divides its
// length.
template <int kHS>
__device__ bf16* chunk_at(bf16* tile, unsigned row, unsigned chunk) {
  constexpr unsigned bits = kHS / 8 | 8, g = bits & -bits;
  return tile + row * kHS + (chunk ^ (row / (8 / g) % g)) * 8;
}

// Starts copying rows [0, kRows) of `from` to a tile; rows from `rows` on are filled with zeros.
template <int kHS, int kRows>
__device__ void load_rows(bf16* tile, const bf16* from, int row_stride, int rows) {
  constexpr int kChunks = kHS / 8;
#pragma unroll 1
  for (int i = threadIdx.x; i < kRows * kChunks; i += kThreads) {
    const int row = i / kChunks, chunk = i % kChunks;
    const bool exists = row < rows;
    cp_async<16>(chunk_at<kHS>(tile, row, chunk), from + (exists ? row * row_stride : 0) + chunk * 8, exists ? 16 : 0);
  }
}

// ---- fragments (layouts: ptx.cuh) ----------------------------------------------------------------------------------

__device__ inline int lane_id() { return static_cast<int>(threadIdx.x % 32); }

// 16 rows from `row` on (a multiple of 16) and 16 channels from `chunk` on (even), as factor A: r[0] rows 0-7 and
// channels 0-7, r[1] rows 8-15, r[2], r[3] the same for channels 8-15. Places of chunks repeat after 16 rows and the
// chunk is even, so an address is the tile's plus one of kHS / 16 numbers that depend on the lane.
template <int kHS>
__device__ void load_factor_a(uint32_t (&r)[4], bf16* tile, int row, int chunk) {
  ldmatrix_x4(r, chunk_at<kHS>(tile + row * kHS, lane_id() % 16, chunk ^ (lane_id() / 16)));
}

// The same as two factors B whose columns are the tile's rows: r[0], r[1] for rows 0-7 and r[2], r[3] for rows 8-15.
// Each is a pair of neighbouring registers that starts at an even one, as mma takes them: in another order they would
// have to be moved first.
template <int kHS>
__device__ void load_factors_b(uint32_t (&r)[4], bf16* tile, int row, int chunk) {
  const int lane = lane_id();
  ldmatrix_x4(r, chunk_at<kHS>(tile + row * kHS, lane % 8 + lane / 16 * 8, chunk ^ (lane / 8 % 2)));
}

// Two factors B whose k are the tile's rows: r[0], r[1] for channels 0-7 and r[2], r[3] for channels 8-15.
template <int kHS>
__device__ void load_factors_b_trans(uint32_t (&r)[4], bf16* tile, int row, int chunk) {
  ldmatrix_x4_trans(r, chunk_at<kHS>(tile + row * kHS, lane_id() % 16, chunk ^ (lane_id() / 16)));
}

__device__ inline uint32_t pack_bf16(float low, float high) {
  const __nv_bfloat162 pair = __floats2bfloat162_rn(low, high);
  uint32_t bits;
  std::memcpy(&bits, &pair, sizeof bits);
  return bits;
}

// The 16 kM rows that a warp owns, as factor A: kept in registers where there is room, else read each time.
template <int kHS, int kM, bool kKeep>
struct OwnRows {
  bf16* rows;  // the warp's first, in shared memory
  uint32_t kept[kKeep ? kM : 1][kKeep ? kHS / 16 : 1][4];

  __device__ void load() {
    if constexpr (kKeep) {
#pragma unroll
      for (int m = 0; m < kM; ++m) {
#pragma unroll
        for (int k = 0; k < kHS / 16; ++k) load_factor_a<kHS>(kept[m][k], rows, 16 * m, 2 * k);
      }
    }
  }
  __device__ void get(uint32_t (&a)[4], int m, int k) const {
    if constexpr (kKeep) {
#pragma unroll
      for (int i = 0; i < 4; ++i) a[i] = kept[m][k][i];
    } else {
      load_factor_a<kHS>(a, rows, 16 * m, 2 * k);
    }
  }
};

// ---- the two products ----------------------------------------------------------------------------------------------

template <int kM, int kN>
__device__ void clear(float (&s)[kM][kN][4]) {
#pragma unroll
  for (int m = 0; m < kM; ++m) {
#pragma unroll
    for (int n = 0; n < kN; ++n) {
#pragma unroll
      for (int e = 0; e < 4; ++e) s[m][n][e] = 0;
    }
  }
}

// s (own rows, other rows) = own . other, over the channels.
template <int kHS, int kM, int kTiles, bool kKeep>
__device__ void dots(float (&s)[kM][kTiles][4], const OwnRows<kHS, kM, kKeep>& own, bf16* other) {
  clear(s);
#pragma unroll
  for (int k = 0; k < kHS / 16; ++k) {
    uint32_t a[kM][4];
#pragma unroll
    for (int m = 0; m < kM; ++m) own.get(a[m], m, k);
#pragma unroll
    for (int n = 0; n < kTiles; n += 2) {
      uint32_t b[4];
      load_factors_b<kHS>(b, other, 8 * n, 2 * k);
#pragma unroll
      for (int m = 0; m < kM; ++m) {
        mma_m16n8k16(s[m][n], a[m], {b[0], b[1]});
        mma_m16n8k16(s[m][n + 1], a[m], {b[2], b[3]});
      }
    }
  }
}

// Scores, or probabilities or gradients computed from them, as factor A: rounded to bf16.
template <int kTiles>
__device__ void to_factor(uint32_t (&a)[kTiles / 2][4], const float (&s)[kTiles][4]) {
#pragma unroll
  for (int n = 0; n < kTiles; ++n) {
#pragma unroll
    for (int half = 0; half < 2; ++half) a[n / 2][n % 2 * 2 + half] = pack_bf16(s[n][2 * half], s[n][2 * half + 1]);
  }
}

// sum (own rows, channels) += p (own rows, other rows) times the other rows.
template <int kHS, int kM, int kSteps>
__device__ void add_weighted(float (&sum)[kM][kHS / 8][4], const uint32_t (&p)[kM][kSteps][4], bf16* other) {
#pragma unroll
  for (int k = 0; k < kSteps; ++k) {
#pragma unroll
    for (int n = 0; n < kHS / 8; n += 2) {
      uint32_t b[4];
      load_factors_b_trans<kHS>(b, other, 16 * k, n);
#pragma unroll
      for (int m = 0; m < kM; ++m) {
        mma_m16n8k16(sum[m][n], p[m][k], {b[0], b[1]});
        mma_m16n8k16(sum[m][n + 1], p[m][k], {b[2], b[3]});
      }
    }
  }
}

// to (16 kM rows of kHS) = sum * factor, rounded; through shared memory, using the warp's own rows there, so that
// neighbouring lanes write neighbouring 16 bytes. Rows from `rows` on are left out.
template <int kHS, int kM>
__device__ void store_rows(bf16* to, bf16* staging, const float (&sum)[kM][kHS / 8][4], float factor, int row_stride,
                           int rows) {
  constexpr int kChunks = kHS / 8;
  const int group = lane_id() / 4, pair = lane_id() % 4;
  __syncwarp();  // all lanes have read the rows' previous contents
#pragma unroll
  for (int m = 0; m < kM; ++m) {
#pragma unroll
    for (int n = 0; n < kChunks; ++n) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const uint32_t bits = pack_bf16(sum[m][n][2 * half] * factor, sum[m][n][2 * half + 1] * factor);
        std::memcpy(chunk_at<kHS>(staging, 16 * m + group + 8 * half, n) + 2 * pair, &bits, sizeof bits);
      }
    }
  }
  __syncwarp();
#pragma unroll
  for (int i = lane_id(); i < 16 * kM * kChunks; i += 32) {
    const int row = i / kChunks, chunk = i % kChunks;
    if (row < rows) {
      *reinterpret_cast<int4*>(to + row * row_stride + chunk * 8) =
          *reinterpret_cast<const int4*>(chunk_at<kHS>(staging, row, chunk));
    }
  }
}

// ---- dropout -------------------------------------------------------------------------------------------------------

// Which elements of a lane's share of a tile of scores stay: bit 4 n + e of bits[m] is s[m][n][e]; (t, u) are query and
// key of s[0][0][0]. A Philox call makes four numbers, those of four keys of one query; where rows of the mask start at
// multiples of 4, the lanes that hold the four make one call each and exchange the answers. The loops stay loops:
// unrolled, the calls would fill the instruction cache. Call it before the scores are computed, which need registers.
template <int kTiles, bool kKeysAreRows, int kM>
__device__ void dropout_bits(uint32_t (&bits)[kM], int bh, int t, int u, const AttentionProblem& s) {
  static_assert(4 * kTiles <= 32);
  const uint64_t sequence = s.dropout != 0 ? s.sequence.number() : 0;
  const auto stays = [&](uint32_t random) { return uniform_from_bits(random) >= s.dropout ? 1u : 0u; };
  const auto four = [&](int query, int key) {  // bit k: key + k
    const Philox4 random = philox4(s.seed, sequence, (s.element(bh, query) + static_cast<uint64_t>(key)) / 4);
    return stays(random.word[0]) | stays(random.word[1]) << 1 | stays(random.word[2]) << 2 | stays(random.word[3]) << 3;
  };
#pragma unroll
  for (int m = 0; m < kM; ++m) bits[m] = ~0u;
  if (s.dropout == 0) return;
#pragma unroll
  for (int m = 0; m < kM; ++m) {
    const int query = kKeysAreRows ? t : t + 16 * m, key = kKeysAreRows ? u + 16 * m : u;
    bits[m] = 0;
#pragma unroll 1
    for (int n = 0; n < kTiles; ++n) {
      uint32_t tile = 0;
      if (s.T % 4 != 0) {
#pragma unroll 1
        for (int e = 0; e < 4; ++e) {
          const int t_e = query + (kKeysAreRows ? 8 * n + e % 2 : e / 2 * 8);
          const int u_e = key + (kKeysAreRows ? e / 2 * 8 : 8 * n + e % 2);
          const uint64_t element = s.element(bh, t_e) + static_cast<uint64_t>(u_e);
          if (dropout_factor(s.dropout, s.seed, sequence, element) != 0) tile |= 1u << e;
        }
      } else if constexpr (kKeysAreRows) {  // four lanes in a column hold four keys of the same two queries
        const int j = lane_id() / 4 % 4;
        const uint32_t mine = four(query + 8 * n + j % 2, key - j + j / 2 * 8);
#pragma unroll
        for (int e = 0; e < 4; ++e) {
          tile |= (__shfl_sync(kFullWarp, mine, (lane_id() & ~12) | e << 2) >> j & 1) << e;
        }
      } else {  // two neighbouring lanes hold four keys of the same two queries
        const int odd = lane_id() % 2;
        const uint32_t mine = four(query + 8 * odd, key + 8 * n - 2 * odd);
        const uint32_t other = __shfl_xor_sync(kFullWarp, mine, 1);
        tile = ((odd ? other : mine) >> 2 * odd & 3) | ((odd ? mine : other) >> 2 * odd & 3) << 2;
      }
      bits[m] |= tile << 4 * n;
    }
  }
}

// ---- forward -------------------------------------------------------------------------------------------------------

// __grid_constant__: the sizes are read in place, instead of being copied into registers, of which none is free.
//
// Sizes of tiles. 32 own rows per warp: a fragment of the others serves two products, which halves the reads of shared
// memory that would otherwise bound the kernel. As much as 255 registers allow: kHS / 2 of out for each 16 rows, and
// half a register per score; for small heads q's fragments too (kHS / 4).
template <int kHS>
struct ForwardTiles {
  static constexpr int kM = 2, kQueries = 16 * kM * kWarps, kKeys = kHS <= 64 ? 64 : 32;
  static constexpr bool kKeep = kHS <= 64;
  static constexpr size_t kBytes = (kQueries + 2 * 2 * kKeys) * kHS * sizeof(bf16);
};

template <int kHS, bool kDocuments, bool kDropout>
__global__ void __launch_bounds__(kThreads, 2)
    attention_forward_tensor_core_kernel(bf16* out,   // (B, T, C)
                                         float* lse,  // (B, NH, T)
                                         const __grid_constant__ Qkv<const bf16> inp,
                                         const __grid_constant__ AttentionProblem s) {
  wait_for_earlier_kernels();
  using Tiles = ForwardTiles<kHS>;
  constexpr int kM = Tiles::kM, kKeys = Tiles::kKeys, kTiles = kKeys / 8;
  bf16* q_tile = dynamic_shared<bf16>();
  bf16* stages = q_tile + Tiles::kQueries * kHS;  // two of keys and values
  const auto [bh, item] = attention_block(s);
  if (bh >= s.heads) return;
  const int t0 = (ceil_div(s.T, Tiles::kQueries) - 1 - item) * Tiles::kQueries;
  const int warp_t = t0 + static_cast<int>(threadIdx.x) / 32 * 16 * kM;  // the warp's first query
  const int group = lane_id() / 4, pair = lane_id() % 4;
  const int begin = s.first_key<kDocuments>(bh, t0) / kKeys * kKeys;
  const int64_t keys_start = s.keys_start(bh / s.sharing, inp.kv_row);
  const float scale = s.scale * kLog2E;

  const auto load_stage = [&](int stage, int u0) {
    bf16* keys = stages + stage * 2 * kKeys * kHS;
    const int64_t start = keys_start + u0 * inp.kv_row;
    load_rows<kHS, kKeys>(keys, inp.k + start, inp.kv_row, s.T - u0);
    load_rows<kHS, kKeys>(keys + kKeys * kHS, inp.v + start, inp.kv_row, s.T - u0);
    cp_async_commit();
  };
  // 1. The first copies start: the block's queries, and the first keys and values.
  load_rows<kHS, Tiles::kQueries>(q_tile, inp.q + s.start(bh, inp.q_row) + t0 * inp.q_row, inp.q_row, s.T - t0);
  load_stage(0, begin);

  OwnRows<kHS, kM, Tiles::kKeep> own;
  own.rows = q_tile + (warp_t - t0) * kHS;
  float acc[kM][kHS / 8][4], max[kM][2], sum[kM][2];  // of rows group and group + 8; sum: of this lane's columns only
  clear(acc);
#pragma unroll
  for (int m = 0; m < kM; ++m) {
    max[m][0] = max[m][1] = kNoScore;
    sum[m][0] = sum[m][1] = 0;
  }
  const int end = min(s.T, t0 + Tiles::kQueries);
  for (int u0 = begin, stage = 0; u0 < end; u0 += kKeys, stage ^= 1) {
    cp_async_wait<0>();
    __syncthreads();  // all warps' copies of this stage have arrived, and all have read the other
    if (u0 + kKeys < end) load_stage(stage ^ 1, u0 + kKeys);
    if (u0 == begin) own.load();
    if (u0 >= warp_t + 16 * kM) continue;  // the warp's queries come before these keys
    if (kDocuments && u0 + kKeys <= s.first_key<kDocuments>(bh, warp_t)) continue;  // or belong to later documents
    // 2. The scores of a tile, masked where it lies on the diagonal or on a document's border.
    bf16* keys = stages + stage * 2 * kKeys * kHS;
    uint32_t bits[kM];
    if constexpr (kDropout) dropout_bits<kTiles, false>(bits, bh, warp_t + group, u0 + 2 * pair, s);
    float p[kM][kTiles][4];
    uint32_t weights[kM][kTiles / 2][4];
    dots(p, own, keys);
    const bool border = kDocuments && u0 < s.first_key<kDocuments>(bh, warp_t + 16 * kM - 1);
#pragma unroll
    for (int m = 0; m < kM; ++m) {
      const int t = warp_t + 16 * m + group, u = u0 + 2 * pair;  // of element 0
      if (u0 + kKeys > warp_t) {
#pragma unroll
        for (int n = 0; n < kTiles; ++n) {
#pragma unroll
          for (int e = 0; e < 4; ++e) {
            if (u + 8 * n + e % 2 > t + e / 2 * 8) p[m][n][e] = -INFINITY;
          }
        }
      }
      if (border) {
        const int from[2] = {s.first_key<kDocuments>(bh, t), s.first_key<kDocuments>(bh, t + 8)};
#pragma unroll
        for (int n = 0; n < kTiles; ++n) {
#pragma unroll
          for (int e = 0; e < 4; ++e) {
            if (u + 8 * n + e % 2 < from[e / 2]) p[m][n][e] = -INFINITY;
          }
        }
      }
      // 3. The online softmax: a larger maximum corrects the sums so far; scores become probabilities.
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        float new_max = max[m][half];
#pragma unroll
        for (int n = 0; n < kTiles; ++n) {
          new_max = fmaxf(new_max, fmaxf(p[m][n][2 * half], p[m][n][2 * half + 1]));
        }
        new_max = fmaxf(new_max, __shfl_xor_sync(kFullWarp, new_max, 1));
        new_max = fmaxf(new_max, __shfl_xor_sync(kFullWarp, new_max, 2));
        const float correction = exp2_approximate((max[m][half] - new_max) * scale), offset = new_max * scale;
        max[m][half] = new_max;
        sum[m][half] *= correction;
#pragma unroll
        for (int n = 0; n < kTiles; ++n) {
#pragma unroll
          for (int e = 2 * half; e < 2 * half + 2; ++e) {
            p[m][n][e] = exp2_approximate(p[m][n][e] * scale - offset);
            sum[m][half] += p[m][n][e];  // the softmax comes before dropout
          }
        }
#pragma unroll
        for (int n = 0; n < kHS / 8; ++n) {
          acc[m][n][2 * half] *= correction;
          acc[m][n][2 * half + 1] *= correction;
        }
      }
      if (kDropout && s.dropout > 0) {  // the kept ones are scaled at the end
#pragma unroll
        for (int n = 0; n < kTiles; ++n) {
#pragma unroll
          for (int e = 0; e < 4; ++e) {
            if (!(bits[m] >> (4 * n + e) & 1)) p[m][n][e] = 0;
          }
        }
      }
      to_factor(weights[m], p[m]);
    }
    add_weighted<kHS>(acc, weights, keys + kKeys * kHS);
  }
  // 4. The sums of all lanes that share a row; the outputs are divided by them, and lse is saved.
#pragma unroll
  for (int m = 0; m < kM; ++m) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      float total = sum[m][half];
      total += __shfl_xor_sync(kFullWarp, total, 1);
      total += __shfl_xor_sync(kFullWarp, total, 2);
      const int t = warp_t + 16 * m + group + 8 * half;
      if (pair == 0 && t < s.T) lse[static_cast<int64_t>(bh) * s.T + t] = max[m][half] * s.scale + logf(total);
      const float factor = 1 / (kDropout ? total * (1 - s.dropout) : total);
#pragma unroll
      for (int n = 0; n < kHS / 8; ++n) {
        acc[m][n][2 * half] *= factor;
        acc[m][n][2 * half + 1] *= factor;
      }
    }
  }
  store_rows<kHS, kM>(out + s.start(bh, s.C) + static_cast<int64_t>(warp_t) * s.C, own.rows, acc, 1, s.C, s.T - warp_t);
}

// ---- backward ------------------------------------------------------------------------------------------------------

// Turns a tile of unscaled scores s and of dp into drop(p), except for dropout's scale, and ds, except for 1 /
// sqrt(HS): both factors are applied to the sums. Element e of tile n is query and key (t, u)(n, e); stays(n, e) tells
// whether dropout keeps it; lse and delta of its query are lse(n, e), times log2(e), and delta(n, e).
template <int kTiles, class Visible, class Stays, class Lse, class Delta>
__device__ void probability_gradients(float (&s)[kTiles][4], float (&dp)[kTiles][4], float scale, float keep_scale,
                                      Visible&& visible, Stays&& stays, Lse&& lse, Delta&& delta) {
#pragma unroll
  for (int n = 0; n < kTiles; ++n) {
#pragma unroll
    for (int e = 0; e < 4; ++e) {
      const float p = visible(n, e) ? exp2_approximate(s[n][e] * scale - lse(n, e)) : 0;
      const bool stay = stays(n, e);
      s[n][e] = stay ? p : 0;
      dp[n][e] = p * ((stay ? dp[n][e] * keep_scale : 0) - delta(n, e));
    }
  }
}

// 32 own rows per warp up to heads of 64, where the sums' registers leave room, and then 16 others at a time; 16 own
// rows above, and 32 others at a time.
template <int kHS>
struct BackwardTiles {
  static constexpr int kM = kHS <= 64 ? 2 : 1, kOwn = 16 * kM * kWarps;
  static constexpr int kOther = kHS <= 64 ? 64 : 32, kStep = kHS <= 64 ? 16 : 32;  // per stage; of them at a time
  static constexpr size_t kBytes = (2 * kOwn + 2 * 2 * kOther) * kHS * sizeof(bf16);
  static constexpr size_t kKeysBytes = kBytes + 2 * 2 * kOther * sizeof(float);  // plus lse and delta of two stages
};

// dk and dv of a tile of keys, over the tiles of queries from the diagonal on, to the end of the last key's document.
template <int kHS, bool kDocuments, bool kDropout>
__global__ void __launch_bounds__(kThreads, 2)
    attention_backward_keys_tensor_core_kernel(const __grid_constant__ Qkv<bf16> dinp,  // dk and dv =
                                               const bf16* dout,                        // (B, T, C)
                                               const float* lse,                        // (B, NH, T)
                                               const float* delta,                      // (B, NH, T)  dout . out
                                               const __grid_constant__ Qkv<const bf16> inp,
                                               const __grid_constant__ AttentionProblem s) {
  wait_for_earlier_kernels();
  using Tiles = BackwardTiles<kHS>;
  constexpr int kM = Tiles::kM, kQueries = Tiles::kOther, kStep = Tiles::kStep, kTiles = kStep / 8;
  bf16* k_tile = dynamic_shared<bf16>();
  bf16* v_tile = k_tile + Tiles::kOwn * kHS;
  bf16* stages = v_tile + Tiles::kOwn * kHS;                                      // two of q and dout
  float* statistics = reinterpret_cast<float*>(stages + 2 * 2 * kQueries * kHS);  // two of lse and delta
  const auto [b_kv, item] = attention_block(s);
  if (b_kv >= s.heads) return;
  const int u0 = item * Tiles::kOwn;
  const int warp_u = u0 + static_cast<int>(threadIdx.x) / 32 * 16 * kM;  // the warp's first key
  const int group = lane_id() / 4, pair = lane_id() % 4;
  const float scale = s.scale * kLog2E, keep_scale = kDropout ? 1 / (1 - s.dropout) : 1.0f;

  // 1. The first copies start: the block's keys and values, and then the first queries.
  const int64_t keys_start = s.keys_start(b_kv, inp.kv_row) + u0 * inp.kv_row;
  load_rows<kHS, Tiles::kOwn>(k_tile, inp.k + keys_start, inp.kv_row, s.T - u0);
  load_rows<kHS, Tiles::kOwn>(v_tile, inp.v + keys_start, inp.kv_row, s.T - u0);

  OwnRows<kHS, kM, false> own_k, own_v;
  own_k.rows = k_tile + (warp_u - u0) * kHS;
  own_v.rows = v_tile + (warp_u - u0) * kHS;
  float dk[kM][kHS / 8][4], dv[kM][kHS / 8][4];
  clear(dk);
  clear(dv);
  // The first head of queries and its channel, and the sequence's first token.
  const int first_head = b_kv * s.sharing, channel = first_head % s.NH * kHS, token = b_kv / s.NKV * s.T;
  const int queries_end = s.queries_end<kDocuments>(first_head, u0 + Tiles::kOwn - 1),
            warp_end = s.queries_end<kDocuments>(first_head, warp_u + 16 * kM - 1);
  const auto load_stage = [&](int stage, int bh, int t0) {  // zeros beyond T: they add nothing to any sum
    bf16* queries = stages + stage * 2 * kQueries * kHS;
    const int c = channel + (bh - first_head) * kHS;
    load_rows<kHS, kQueries>(queries, inp.q + (token + t0) * inp.q_row + c, inp.q_row, s.T - t0);
    load_rows<kHS, kQueries>(queries + kQueries * kHS, dout + static_cast<int64_t>(token + t0) * s.C + c, s.C,
                             s.T - t0);
    if (threadIdx.x < 2 * kQueries) {
      const int t = t0 + static_cast<int>(threadIdx.x) % kQueries;
      const float* from = (threadIdx.x < kQueries ? lse : delta) + static_cast<int64_t>(bh) * s.T;
      cp_async<4>(statistics + stage * 2 * kQueries + threadIdx.x, from + (t < s.T ? t : 0), t < s.T ? 4 : 0);
    }
    cp_async_commit();
  };
  load_stage(0, first_head, u0);
  for (int stage = 0, bh = first_head, t0 = u0; bh < first_head + s.sharing; stage ^= 1) {
    cp_async_wait<0>();
    __syncthreads();  // all warps' copies of this stage have arrived, and all have read the other
    const bool last = t0 + kQueries >= queries_end;  // of the head
    if (!last) load_stage(stage ^ 1, bh, t0 + kQueries);
    if (last && bh + 1 < first_head + s.sharing) load_stage(stage ^ 1, bh + 1, u0);
    bf16* queries = stages + stage * 2 * kQueries * kHS;
    const float* statistics_of = statistics + stage * 2 * kQueries;
    const int end = min(kQueries, warp_end - t0);
#pragma unroll 1
    for (int i = max(0, (warp_u - t0) / kStep * kStep); i < end; i += kStep) {  // from the warp's first key on
      const int t = t0 + i;
      uint32_t bits[kM], weights[kM][kTiles / 2][4], ds[kM][kTiles / 2][4];
      if constexpr (kDropout) dropout_bits<kTiles, true>(bits, bh, t + 2 * pair, warp_u + group, s);
      // 2. Scores and dp of a step; from them drop(p) and ds, as factors of the next products.
      float p[kM][kTiles][4], dp[kM][kTiles][4];
      dots(p, own_k, queries + i * kHS);
      dots(dp, own_v, queries + (kQueries + i) * kHS);
      const bool diagonal = t < warp_u + 16 * kM;
      const bool border = kDocuments && s.first_key<kDocuments>(first_head, t + kStep - 1) > warp_u;
      const float* lse_of = statistics_of + i + 2 * pair;
#pragma unroll
      for (int m = 0; m < kM; ++m) {
        const int later = warp_u + 16 * m + group - (t + 2 * pair);  // element 0's key - query
        probability_gradients(
            p[m], dp[m], scale, keep_scale,
            [&](int n, int e) {
              const int key = warp_u + 16 * m + group + e / 2 * 8, query = t + 2 * pair + 8 * n + e % 2;
              return (!diagonal || later + e / 2 * 8 <= 8 * n + e % 2) &&
                     (!border || key >= s.first_key<kDocuments>(first_head, query));
            },
            [&](int n, int e) { return !kDropout || (bits[m] >> (4 * n + e) & 1); },
            [&](int n, int e) { return lse_of[8 * n + e % 2] * kLog2E; },
            [&](int n, int e) { return lse_of[kQueries + 8 * n + e % 2]; });
        to_factor(weights[m], p[m]);
        to_factor(ds[m], dp[m]);
      }
      // 3. What the step adds to dv and dk.
      add_weighted<kHS>(dv, weights, queries + (kQueries + i) * kHS);
      add_weighted<kHS>(dk, ds, queries + i * kHS);
    }
    t0 += kQueries;
    if (t0 >= queries_end) ++bh, t0 = u0;
  }
  // 4. dk and dv, with the factors that their sums left out.
  const int64_t to = s.keys_start(b_kv, dinp.kv_row) + warp_u * dinp.kv_row;
  store_rows<kHS, kM>(dinp.k + to, own_k.rows, dk, s.scale, dinp.kv_row, s.T - warp_u);
  store_rows<kHS, kM>(dinp.v + to, own_v.rows, dv, keep_scale, dinp.kv_row, s.T - warp_u);
}

// dq of a tile of queries, over the tiles of keys from the first query's document up to the diagonal.
template <int kHS, bool kDocuments, bool kDropout>
__global__ void __launch_bounds__(kThreads, 2)
    attention_backward_queries_tensor_core_kernel(const __grid_constant__ Qkv<bf16> dinp,  // dq =
                                                  const bf16* dout,                        // (B, T, C)
                                                  const float* lse,                        // (B, NH, T)
                                                  const float* delta,                      // (B, NH, T)
                                                  const __grid_constant__ Qkv<const bf16> inp,
                                                  const __grid_constant__ AttentionProblem s) {
  wait_for_earlier_kernels();
  using Tiles = BackwardTiles<kHS>;
  constexpr int kM = Tiles::kM, kKeys = Tiles::kOther, kStep = Tiles::kStep, kTiles = kStep / 8;
  bf16* q_tile = dynamic_shared<bf16>();
  bf16* dout_tile = q_tile + Tiles::kOwn * kHS;
  bf16* stages = dout_tile + Tiles::kOwn * kHS;  // two of keys and values
  const auto [bh, item] = attention_block(s);
  if (bh >= s.heads) return;
  const int t0 = (ceil_div(s.T, Tiles::kOwn) - 1 - item) * Tiles::kOwn;
  const int warp_t = t0 + static_cast<int>(threadIdx.x) / 32 * 16 * kM;  // the warp's first query
  const int group = lane_id() / 4, pair = lane_id() % 4;
  const int64_t keys_start = s.keys_start(bh / s.sharing, inp.kv_row), rows = static_cast<int64_t>(bh) * s.T;
  const float scale = s.scale * kLog2E, keep_scale = kDropout ? 1 / (1 - s.dropout) : 1.0f;

  const auto load_stage = [&](int stage, int u0) {
    bf16* keys = stages + stage * 2 * kKeys * kHS;
    const int64_t start = keys_start + u0 * inp.kv_row;
    load_rows<kHS, kKeys>(keys, inp.k + start, inp.kv_row, s.T - u0);
    load_rows<kHS, kKeys>(keys + kKeys * kHS, inp.v + start, inp.kv_row, s.T - u0);
    cp_async_commit();
  };
  // 1. The first copies start: the block's queries and dout, and the first keys and values.
  load_rows<kHS, Tiles::kOwn>(q_tile, inp.q + s.start(bh, inp.q_row) + t0 * inp.q_row, inp.q_row, s.T - t0);
  load_rows<kHS, Tiles::kOwn>(dout_tile, dout + s.start(bh, s.C) + static_cast<int64_t>(t0) * s.C, s.C, s.T - t0);
  const int begin = s.first_key<kDocuments>(bh, t0) / kKeys * kKeys;
  load_stage(0, begin);

  OwnRows<kHS, kM, true> own_q, own_dout;
  own_q.rows = q_tile + (warp_t - t0) * kHS;
  own_dout.rows = dout_tile + (warp_t - t0) * kHS;
  float lse_of[kM][2], delta_of[kM][2];  // of rows group and group + 8; 0 beyond T, where q and dout are 0 as well
#pragma unroll
  for (int m = 0; m < kM; ++m) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int t = warp_t + 16 * m + group + 8 * half;
      lse_of[m][half] = t < s.T ? lse[rows + t] * kLog2E : 0;
      delta_of[m][half] = t < s.T ? delta[rows + t] : 0;
    }
  }
  float dq[kM][kHS / 8][4];
  clear(dq);
  const int end = min(s.T, t0 + Tiles::kOwn);
  for (int u0 = begin, stage = 0; u0 < end; u0 += kKeys, stage ^= 1) {
    cp_async_wait<0>();
    __syncthreads();  // all warps' copies of this stage have arrived, and all have read the other
    if (u0 + kKeys < end) load_stage(stage ^ 1, u0 + kKeys);
    if (u0 == begin) {
      own_q.load();
      own_dout.load();
    }
    bf16* keys = stages + stage * 2 * kKeys * kHS;
    const int last = min(kKeys, warp_t + 16 * kM - u0);  // up to the warp's last query
    const int from = kDocuments ? max(0, s.first_key<kDocuments>(bh, warp_t) - u0) / kStep * kStep : 0;
#pragma unroll 1
    for (int i = from; i < last; i += kStep) {
      const int u = u0 + i;
      uint32_t bits[kM], ds[kM][kTiles / 2][4];
      if constexpr (kDropout) dropout_bits<kTiles, false>(bits, bh, warp_t + group, u + 2 * pair, s);
      // 2. Scores and dp of a step; from them ds, as a factor of the next product.
      float p[kM][kTiles][4], dp[kM][kTiles][4];
      dots(p, own_q, keys + i * kHS);
      dots(dp, own_dout, keys + (kKeys + i) * kHS);
      const bool diagonal = u + kStep > warp_t;
      const bool border = kDocuments && u < s.first_key<kDocuments>(bh, warp_t + 16 * kM - 1);
#pragma unroll
      for (int m = 0; m < kM; ++m) {
        const int later = u + 2 * pair - (warp_t + 16 * m + group);  // element 0's key - query
        probability_gradients(
            p[m], dp[m], scale, keep_scale,
            [&](int n, int e) {
              const int key = u + 2 * pair + 8 * n + e % 2, query = warp_t + 16 * m + group + e / 2 * 8;
              return (!diagonal || later + 8 * n + e % 2 <= e / 2 * 8) &&
                     (!border || key >= s.first_key<kDocuments>(bh, query));
            },
            [&](int n, int e) { return !kDropout || (bits[m] >> (4 * n + e) & 1); },
            [&](int, int e) { return lse_of[m][e / 2]; }, [&](int, int e) { return delta_of[m][e / 2]; });
        to_factor(ds[m], dp[m]);
      }
      // 3. What the step adds to dq.
      add_weighted<kHS>(dq, ds, keys + i * kHS);
    }
  }
  // 4. dq, with the factor that its sum left out.
  store_rows<kHS, kM>(dinp.q + s.start(bh, dinp.q_row) + warp_t * dinp.q_row, own_q.rows, dq, s.scale, dinp.q_row,
                      s.T - warp_t);
}

// ---- launchers -----------------------------------------------------------------------------------------------------

// f(std::integral_constant<int, HS>()), if there is a kernel for the head size; returns whether there is.
template <class F>
bool with_head_size(int HS, F&& f) {
  const auto take = [&]<int kHS>(std::integral_constant<int, kHS> size) {
    if (HS == kHS) f(size);
    return HS == kHS;
  };
  return take(std::integral_constant<int, 32>()) || take(std::integral_constant<int, 48>()) ||
         take(std::integral_constant<int, 64>()) || take(std::integral_constant<int, 80>()) ||
         take(std::integral_constant<int, 96>()) || take(std::integral_constant<int, 112>()) ||
         take(std::integral_constant<int, 128>());
}

// Both return false, without doing anything, if there is no kernel for the head size. Pointers are multiples of 16.
inline bool forward(bf16* out, float* lse, const Qkv<const bf16>& inp, const AttentionProblem& s, cudaStream_t stream) {
  return with_head_size(s.HS, [&](auto size) {
    using Tiles = ForwardTiles<size>;
    auto kernel = s.dropout != 0 ? attention_forward_tensor_core_kernel<size, false, true>
                                 : attention_forward_tensor_core_kernel<size, false, false>;
    if (s.documents) kernel = attention_forward_tensor_core_kernel<size, true, true>;  // also without dropout
    launch(kernel, attention_grid(s, ceil_div(s.T, Tiles::kQueries)), kThreads, Tiles::kBytes, stream, out, lse, inp,
           s);
  });
}

inline bool backward(const Qkv<bf16>& dinp, const bf16* dout, const float* lse, const float* delta,
                     const Qkv<const bf16>& inp, const AttentionProblem& s, cudaStream_t stream) {
  return with_head_size(s.HS, [&](auto size) {
    using Tiles = BackwardTiles<size>;
    auto keys = s.dropout != 0 ? attention_backward_keys_tensor_core_kernel<size, false, true>
                               : attention_backward_keys_tensor_core_kernel<size, false, false>;
    auto queries = s.dropout != 0 ? attention_backward_queries_tensor_core_kernel<size, false, true>
                                  : attention_backward_queries_tensor_core_kernel<size, false, false>;
    if (s.documents) {  // also without dropout
      keys = attention_backward_keys_tensor_core_kernel<size, true, true>;
      queries = attention_backward_queries_tensor_core_kernel<size, true, true>;
    }
    const auto grid = [](const AttentionProblem& part) { return attention_grid(part, ceil_div(part.T, Tiles::kOwn)); };
    const AttentionProblem by_keys = s.by_keys();
    launch(keys, grid(by_keys), kThreads, Tiles::kKeysBytes, stream, dinp, dout, lse, delta, inp, by_keys);
    launch(queries, grid(s), kThreads, Tiles::kBytes, stream, dinp, dout, lse, delta, inp, s);
  });
}

}  // namespace attention_tensor_core
