// Causal attention, step by step, forward and backward: from scores kept in memory to flash attention on tensor cores.
// The maths is in kernels/attention.h. The kernels here have heads of 64 channels and whole tiles;
// kernels/attention.cuh takes any size.
#include <memory>

#include "dev/bench/attention_terms.h"
#include "dev/bench/bench.h"
#include "kernels/attention.cuh"
#include "kernels/attention.h"

using namespace bench;

namespace {

using Doubles = std::vector<double>;

constexpr int kHS = 64;  // channels per head
constexpr float kScale = 0.125f;

// Where head bh's queries start in inp (B, T, 3, NH, kHS); its keys are C and its values 2 C further, and a row is 3 C.
// Where it starts in out (B, T, C).
struct Head {
  int64_t inp, out;
  int row, C;

  __device__ Head(int bh, int T, int NH)
      : inp((static_cast<int64_t>(bh / NH) * T * 3 * NH + bh % NH) * kHS),
        out((static_cast<int64_t>(bh / NH) * T * NH + bh % NH) * kHS),
        row(3 * NH * kHS),
        C(NH * kHS) {}
};

// ---- forward: scores in memory -------------------------------------------------------------------------------------

// scores (B NH, T, T): a thread computes one, of query blockIdx.y and a key up to it.
__global__ void attention_scores_kernel(float* scores, const bf16* inp, int T, int NH) {
  const Head head(blockIdx.z, T, NH);
  const int t = blockIdx.y, u = blockIdx.x * blockDim.x + threadIdx.x;
  if (u > t) return;
  const bf16 *q = inp + head.inp + t * head.row, *k = inp + head.inp + head.C + u * head.row;
  float sum = 0;
  for (int c = 0; c < kHS; ++c) sum += to_float(q[c]) * to_float(k[c]);
  scores[(static_cast<int64_t>(blockIdx.z) * T + t) * T + u] = sum * kScale;
}

// scores = softmax(scores) row by row, one warp each, in three passes: maximum, sum, quotients.
__global__ void attention_softmax_kernel(float* scores, float* lse, int T) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * (blockDim.x / 32) + threadIdx.x / 32;
  const int t = static_cast<int>(i % T), lane = threadIdx.x % 32;
  float* row = scores + i * T;
  float max = -INFINITY, sum = 0;
  for (int u = lane; u <= t; u += 32) max = fmaxf(max, row[u]);
  max = warp_max(max);
  for (int u = lane; u <= t; u += 32) sum += expf(row[u] - max);
  sum = warp_sum(sum);
  for (int u = lane; u <= t; u += 32) row[u] = expf(row[u] - max) / sum;
  if (lane == 0) lse[i] = max + logf(sum);
}

// out (B, T, C): a thread computes one channel of query blockIdx.x.
__global__ void attention_weighted_kernel(bf16* out, const float* p, const bf16* inp, int T, int NH) {
  const Head head(blockIdx.y, T, NH);
  const int t = blockIdx.x, c = threadIdx.x;
  const bf16* v = inp + head.inp + 2 * head.C;
  const float* row = p + (static_cast<int64_t>(blockIdx.y) * T + t) * T;
  float sum = 0;
  for (int u = 0; u <= t; ++u) sum += row[u] * to_float(v[u * head.row + c]);
  out[head.out + t * head.C + c] = from_float<bf16>(sum);
}

// ---- forward: the online softmax -----------------------------------------------------------------------------------

// A warp computes one query's output, two channels per lane, in one pass over the keys: if a score exceeds the largest
// so far, the sums until then are scaled down.
__global__ void attention_online_kernel(bf16* out, float* lse, const bf16* inp, int T, int NH) {
  const Head head(blockIdx.y, T, NH);
  const int t = blockIdx.x * (blockDim.x / 32) + threadIdx.x / 32, c = threadIdx.x % 32 * 2;
  const auto pair = [](const bf16* from) { return __bfloat1622float2(*reinterpret_cast<const __nv_bfloat162*>(from)); };
  const bf16* k = inp + head.inp + head.C + c;
  const float2 q = pair(inp + head.inp + t * head.row + c);
  float max = -INFINITY, sum = 0;
  float2 acc = {0, 0};
  for (int u = 0; u <= t; ++u, k += head.row) {
    const float2 key = pair(k), value = pair(k + head.C);
    const float score = warp_sum(q.x * key.x + q.y * key.y) * kScale, larger = fmaxf(max, score);
    const float keep = expf(max - larger), p = expf(score - larger);
    sum = sum * keep + p;
    acc.x = acc.x * keep + p * value.x;
    acc.y = acc.y * keep + p * value.y;
    max = larger;
  }
  *reinterpret_cast<__nv_bfloat162*>(out + head.out + t * head.C + c) = __floats2bfloat162_rn(acc.x / sum, acc.y / sum);
  if (c == 0) lse[static_cast<int64_t>(blockIdx.y) * T + t] = max + logf(sum);
}

// A thread computes one query's output, with its 64 channels of q and of the sum in registers. Keys and values come in
// tiles into shared memory, where a block's 128 queries share them; all lanes read the same number at a time, so one
// read serves 32 products, and no shuffle is needed.
constexpr int kTiledQueries = 128, kTiledKeys = 32;
__global__ void __launch_bounds__(kTiledQueries)
    attention_tiled_kernel(bf16* out, float* lse, const bf16* inp, int T, int NH) {
  alignas(16) __shared__ float keys[kTiledKeys][kHS], values[kTiledKeys][kHS];
  const Head head(blockIdx.y, T, NH);
  const int t0 = blockIdx.x * kTiledQueries, t = t0 + threadIdx.x;
  const bf16 *q = inp + head.inp + t * head.row, *k = inp + head.inp + head.C;
  float query[kHS], acc[kHS] = {}, max = -INFINITY, sum = 0;
#pragma unroll
  for (int c = 0; c < kHS; ++c) query[c] = to_float(q[c]) * kScale;
  for (int u0 = 0; u0 < t0 + kTiledQueries; u0 += kTiledKeys) {
    __syncthreads();  // the previous tile has been read
    for (int i = threadIdx.x; i < kTiledKeys * kHS; i += kTiledQueries) {
      const bf16* from = k + (u0 + i / kHS) * head.row + i % kHS;
      keys[i / kHS][i % kHS] = to_float(from[0]);
      values[i / kHS][i % kHS] = to_float(from[head.C]);
    }
    __syncthreads();
    for (int u = 0; u < kTiledKeys && u0 + u <= t; ++u) {
      float score = 0;
#pragma unroll
      for (int c = 0; c < kHS; ++c) score += query[c] * keys[u][c];
      const float larger = fmaxf(max, score), keep = expf(max - larger), p = expf(score - larger);
      sum = sum * keep + p;
#pragma unroll
      for (int c = 0; c < kHS; ++c) acc[c] = acc[c] * keep + p * values[u][c];
      max = larger;
    }
  }
#pragma unroll
  for (int c = 0; c < kHS; ++c) out[head.out + t * head.C + c] = from_float<bf16>(acc[c] / sum);
  lse[static_cast<int64_t>(blockIdx.y) * T + t] = max + logf(sum);
}

// ---- forward: tensor cores -----------------------------------------------------------------------------------------

// tile (64, kHS) = rows of `from`, in chunks of 16 bytes permuted according to the row (kernels/ explains how).
constexpr int kMmaTile = 64, kMmaThreads = 128;
__device__ void copy_tile(bf16* tile, const bf16* from, int row) {
  for (int i = threadIdx.x; i < kMmaTile * kHS / 8; i += kMmaThreads) {
    bf16* to = attention_tensor_core::chunk_at<kHS>(tile, i / 8, i % 8);
    *reinterpret_cast<int4*>(to) = *reinterpret_cast<const int4*>(from + i / 8 * row + i % 8 * 8);
  }
}

// A block computes 64 queries' outputs, a warp 16 of them: scores = q k^T by mma, the online softmax, and acc += p v by
// mma again. Of 16 x 8 sums a lane has those of rows group and group + 8, columns 2 pair and the next; mma needs p as
// its factor in the same places, so probabilities never leave the registers. Four lanes share a row.
__global__ void __launch_bounds__(kMmaThreads)
    attention_mma_kernel(bf16* out, float* lse, const bf16* inp, int T, int NH) {
  using namespace attention_tensor_core;
  alignas(128) __shared__ bf16 keys[kMmaTile * kHS], values[kMmaTile * kHS];
  const Head head(blockIdx.y, T, NH);
  const int t0 = blockIdx.x * kMmaTile, warp_row = threadIdx.x / 32 * 16, group = lane_id() / 4, pair = lane_id() % 4;
  const bf16 *q = inp + head.inp + t0 * head.row, *k = inp + head.inp + head.C;
  uint32_t queries[kHS / 16][4];
  copy_tile(keys, q, head.row);  // on the way to the registers
  __syncthreads();
#pragma unroll
  for (int c = 0; c < kHS / 16; ++c) load_factor_a<kHS>(queries[c], keys, warp_row, 2 * c);
  float acc[kHS / 8][4] = {}, max[2] = {-INFINITY, -INFINITY}, sum[2] = {0, 0};
  for (int u0 = 0; u0 <= t0; u0 += kMmaTile) {
    __syncthreads();  // the previous contents have been read
    copy_tile(keys, k + u0 * head.row, head.row);
    copy_tile(values, k + head.C + u0 * head.row, head.row);
    __syncthreads();
    float p[kMmaTile / 8][4] = {};
#pragma unroll
    for (int c = 0; c < kHS / 16; ++c) {
#pragma unroll
      for (int n = 0; n < kMmaTile / 8; n += 2) {
        uint32_t b[4];
        load_factors_b<kHS>(b, keys, 8 * n, 2 * c);
        mma_m16n8k16(p[n], queries[c], {b[0], b[1]});
        mma_m16n8k16(p[n + 1], queries[c], {b[2], b[3]});
      }
    }
#pragma unroll
    for (int e = 0; e < 4; e += 2) {  // the lane's row group, then group + 8
      const int t = t0 + warp_row + group + 4 * e, half = e / 2;
      float larger = max[half];
#pragma unroll
      for (int n = 0; n < kMmaTile / 8; ++n) {
        const int u = u0 + 8 * n + 2 * pair;
        p[n][e] = u <= t ? p[n][e] * kScale : -INFINITY;
        p[n][e + 1] = u + 1 <= t ? p[n][e + 1] * kScale : -INFINITY;
        larger = fmaxf(larger, fmaxf(p[n][e], p[n][e + 1]));
      }
      larger = fmaxf(larger, __shfl_xor_sync(kFullWarp, larger, 1));
      larger = fmaxf(larger, __shfl_xor_sync(kFullWarp, larger, 2));
      const float keep = expf(max[half] - larger);
      max[half] = larger;
      sum[half] *= keep;  // sum of this lane's columns
#pragma unroll
      for (int n = 0; n < kMmaTile / 8; ++n) {
        p[n][e] = expf(p[n][e] - larger);
        p[n][e + 1] = expf(p[n][e + 1] - larger);
        sum[half] += p[n][e] + p[n][e + 1];
      }
#pragma unroll
      for (int n = 0; n < kHS / 8; ++n) acc[n][e] *= keep, acc[n][e + 1] *= keep;
    }
#pragma unroll
    for (int u = 0; u < kMmaTile / 16; ++u) {
      const uint32_t a[4] = {pack_bf16(p[2 * u][0], p[2 * u][1]), pack_bf16(p[2 * u][2], p[2 * u][3]),
                             pack_bf16(p[2 * u + 1][0], p[2 * u + 1][1]), pack_bf16(p[2 * u + 1][2], p[2 * u + 1][3])};
#pragma unroll
      for (int n = 0; n < kHS / 8; n += 2) {
        uint32_t b[4];
        load_factors_b_trans<kHS>(b, values, 16 * u, n);
        mma_m16n8k16(acc[n], a, {b[0], b[1]});
        mma_m16n8k16(acc[n + 1], a, {b[2], b[3]});
      }
    }
  }
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int t = t0 + warp_row + group + 8 * half;
    sum[half] += __shfl_xor_sync(kFullWarp, sum[half], 1);
    sum[half] += __shfl_xor_sync(kFullWarp, sum[half], 2);
    bf16* to = out + head.out + t * head.C + 2 * pair;
#pragma unroll
    for (int n = 0; n < kHS / 8; ++n) {
      *reinterpret_cast<__nv_bfloat162*>(to + 8 * n) =
          __floats2bfloat162_rn(acc[n][2 * half] / sum[half], acc[n][2 * half + 1] / sum[half]);
    }
    if (pair == 0) lse[static_cast<int64_t>(blockIdx.y) * T + t] = max[half] + logf(sum[half]);
  }
}

// ---- backward: p and ds in memory ----------------------------------------------------------------------------------

// p and ds (B NH, T, T): a thread computes one of each, and 0 above the diagonal.
__global__ void attention_ds_kernel(float* p, float* ds, const bf16* dout, const float* lse, const float* delta,
                                    const bf16* inp, int T, int NH) {
  const Head head(blockIdx.z, T, NH);
  const int t = blockIdx.y, u = blockIdx.x * blockDim.x + threadIdx.x;
  const bf16 *q = inp + head.inp + t * head.row, *k = inp + head.inp + head.C + u * head.row, *v = k + head.C;
  const bf16* dy = dout + head.out + t * head.C;
  const int64_t row = static_cast<int64_t>(blockIdx.z) * T + t;
  float score = 0, dp = 0;
  for (int c = 0; c < kHS && u <= t; ++c) {
    score += to_float(q[c]) * to_float(k[c]);
    dp += to_float(dy[c]) * to_float(v[c]);
  }
  const float probability = u <= t ? expf(score * kScale - lse[row]) : 0;
  p[row * T + u] = probability;
  ds[row * T + u] = probability * (dp - delta[row]) * kScale;
}

// dq, dk and dv: a thread computes one channel of each, of query and key blockIdx.x.
__global__ void attention_gradients_kernel(bf16* dinp, const bf16* dout, const float* p, const float* ds,
                                           const bf16* inp, int T, int NH) {
  const Head head(blockIdx.y, T, NH);
  const int at = blockIdx.x, c = threadIdx.x;
  const int64_t square = static_cast<int64_t>(blockIdx.y) * T * T;
  const bf16 *q = inp + head.inp + c, *k = q + head.C, *dy = dout + head.out + c;
  float dq = 0, dk = 0, dv = 0;
  for (int u = 0; u <= at; ++u) dq += ds[square + at * T + u] * to_float(k[u * head.row]);
  for (int t = at; t < T; ++t) {
    dk += ds[square + t * T + at] * to_float(q[t * head.row]);
    dv += p[square + t * T + at] * to_float(dy[t * head.C]);
  }
  bf16* to = dinp + head.inp + at * head.row + c;
  to[0] = from_float<bf16>(dq);
  to[head.C] = from_float<bf16>(dk);
  to[2 * head.C] = from_float<bf16>(dv);
}

// ---- shared by the ladders -----------------------------------------------------------------------------------------

struct Sizes {
  int B, T, NH;

  int64_t tokens() const { return static_cast<int64_t>(B) * T; }
  // Forward: inp, out and lse; backward: inp, dinp, dout, out and lse.
  double bytes(bool backward) const { return tokens() * NH * ((backward ? 16.0 : 8.0) * kHS + 4); }
};
Sizes sizes(bool on_gpu) { return on_gpu ? Sizes{16, 1024, 12} : Sizes{1, 256, 4}; }

struct Attention : Sizes {
  int C, heads, sets;
  Buffers<bf16> inp, out, dout, dinp;  // the last two: backward
  Buffers<float> lse, scratch;
  Buffers<float> p, ds;  // (B NH, T, T): of the naive versions
  bool rounds = false;   // whether the version that ran last rounds p and ds to bf16

  Doubles expected, expected_lse;  // from checked(): out and lse, or dinp
  AttentionTerms terms;

  Attention(const Problem& problem, bool backward)
      : Sizes(sizes(problem.on_gpu())),
        C(NH * kHS),
        heads(B * NH),
        sets(problem.sets(bytes(backward))),
        inp(sets, 3 * tokens() * C, 1, 1),
        out(sets, tokens() * C, 0, 0),
        dout(backward ? sets : 1, backward ? tokens() * C : 1, 2, 1),
        dinp(backward ? sets : 1, backward ? 3 * tokens() * C : 1, 0, 0),
        lse(sets, tokens() * NH, 0, 0),
        scratch(sets, attention_backward_scratch(B, T, NH) / 4, 0, 0),
        p(1, tokens() * NH * T, 0, 0),
        ds(1, backward ? tokens() * NH * T : 1, 0, 0) {}

  std::string size() const {
    return "B=" + std::to_string(B) + " T=" + std::to_string(T) + " NH=" + std::to_string(NH) + " HS=64 bf16";
  }
  AttentionShape shape() const { return {B, T, NH, NH, kHS}; }
  Qkv<const bf16> qkv(int set) const { return packed_qkv<const bf16>(inp[set], shape()); }
  void forward(int set, AttentionTier tier, cudaStream_t stream) {
    rounds = tier != AttentionTier::plain;
    attention_forward<bf16>(out[set], lse[set], qkv(set), 0, 0, 0, shape(), tier, stream);
  }
  void backward(int set, AttentionTier tier, cudaStream_t stream) {
    rounds = tier != AttentionTier::plain;
    attention_backward<bf16>(packed_qkv<bf16>(dinp[set], shape()), scratch[set], dout[set], out[set], lse[set],
                             qkv(set), 0, 0, 0, shape(), tier, stream);
  }

  // Heads that the check covers: all, or on a GPU, where the twin would take minutes, three.
  std::vector<int> checked() const {
    if (tokens() > 4096) return {0, heads / 2 + 1, heads - 1};
    std::vector<int> all(heads);
    for (int bh = 0; bh < heads; ++bh) all[bh] = bh;
    return all;
  }
  // The checked heads' part of a tensor (B, T, parts, NH, width), as (heads, T, parts, 1, width).
  template <class Number>
  std::vector<Number> of_checked(const std::vector<Number>& tensor, int parts, int width) const {
    std::vector<Number> some;
    for (const int bh : checked()) {
      for (int64_t row = 0; row < T * parts; ++row) {
        const auto from = tensor.begin() + ((bh / NH * static_cast<int64_t>(T) * parts + row) * NH + bh % NH) * width;
        some.insert(some.end(), from, from + width);
      }
    }
    return some;
  }
  // Of lse (B, NH, T), as (heads, 1, T).
  std::vector<float> lse_of_checked() const {
    const std::vector<float> all = lse.host(0);
    std::vector<float> some;
    for (const int bh : checked()) {
      const auto from = all.begin() + static_cast<int64_t>(bh) * T;
      some.insert(some.end(), from, from + T);
    }
    return some;
  }

  // Like check_close, with a tolerance for each element; K, the number of terms, is T + kHS.
  void check_within(const char* name, const std::vector<bf16>& stored, const Doubles& parts,
                    const Doubles& rounded) const {
    const Doubles actual = to_doubles(stored);
    for (size_t i = 0; i < expected.size(); ++i) {
      const double tolerance =
          attention_tolerance(parts[i], rounded[i], T + kHS, rounds) + 0x1p-8 * std::abs(expected[i]);
      if (std::abs(actual[i] - expected[i]) <= tolerance + 1e-30) continue;
      char text[256];
      std::snprintf(text, sizeof text,
                    "%s differs from the CPU twin: element %zu of %zu is %.9g, expected %.9g within %.3g", name, i,
                    expected.size(), actual[i], expected[i], tolerance);
      throw std::runtime_error(text);
    }
  }
  void check_forward() {
    const int count = static_cast<int>(checked().size());
    if (expected.empty()) {
      const Doubles x = to_doubles(of_checked(inp.host(0), 3, kHS));
      expected.resize(static_cast<size_t>(count) * T * kHS);
      expected_lse.resize(static_cast<size_t>(count) * T);
      const AttentionShape one{count, T, 1, 1, kHS};
      cpu::attention_forward<double>(expected.data(), expected_lse.data(), packed_qkv(x.data(), one), 0, 0, 0, one);
      const Doubles no_gradient(expected.size());
      terms = attention_terms(x, no_gradient, expected, expected_lse, 0, 0, 0, one);
    }
    check_within("out", of_checked(out.host(0), 1, kHS), terms.out, terms.out);
    check_close("lse", lse_of_checked(), expected_lse, T + kHS, 0);
  }
  void check_backward() {
    const int count = static_cast<int>(checked().size());
    if (expected.empty()) {
      const Doubles x = to_doubles(of_checked(inp.host(0), 3, kHS)), dy = to_doubles(of_checked(dout.host(0), 1, kHS));
      const Doubles y = to_doubles(of_checked(out.host(0), 1, kHS)), log_sums = to_doubles(lse_of_checked());
      expected.resize(x.size());
      const AttentionShape one{count, T, 1, 1, kHS};
      cpu::attention_backward<double>(packed_qkv(expected.data(), one), dy.data(), y.data(), log_sums.data(),
                                      packed_qkv(x.data(), one), 0, 0, 0, one);
      terms = attention_terms(x, dy, y, log_sums, 0, 0, 0, one);
    }
    check_within("dinp", of_checked(dinp.host(0), 3, kHS), terms.parts, terms.dinp);
  }
};

using Shared = std::shared_ptr<Attention>;

// A version that is one of the kernels above: a block of `threads` has `queries`, and may round p to bf16.
Version version(const Shared& p, const char* name, const char* idea,
                void (*kernel)(bf16*, float*, const bf16*, int, int), int queries, int threads, bool rounds) {
  return {name, idea, [=](int set, cudaStream_t stream) {
            p->rounds = rounds;
            launch(kernel, dim3(p->T / queries, p->heads), threads, 0, stream, p->out[set], p->lse[set],
                   static_cast<const bf16*>(p->inp[set]), p->T, p->NH);
          }};
}

const Register forward("attention_forward", [](const Problem& problem) {
  const auto p = std::make_shared<Attention>(problem, false);
  Ladder ladder;
  ladder.operation = "attention_forward";
  ladder.size = p->size();
  ladder.limit = Limit::tensor_cores;
  ladder.bytes = p->bytes(false);
  ladder.gpu_bytes = sizes(true).bytes(false);
  ladder.flops = 2.0 * p->tokens() * p->C * p->T;  // two products over the causal half
  ladder.sets = p->sets;
  ladder.check = [p] { p->check_forward(); };
  ladder.reset = [p] {
    p->out.poison(0);
    p->lse.poison(0);
  };
  const auto tier = [p](const char* name, const char* idea, AttentionTier tier) -> Version {
    const bool library = tier == AttentionTier::cudnn;
    return {name, idea, [=](int set, cudaStream_t stream) { p->forward(set, tier, stream); }, library, !library};
  };
  ladder.versions = {
      {"naive",
       "Three kernels, with all scores, then all probabilities, in memory: T numbers per query and head, written twice "
       "and read four times.",
       [p](int set, cudaStream_t stream) {
         p->rounds = false;
         const bf16* inp = p->inp[set];
         launch(attention_scores_kernel, dim3(ceil_div(p->T, 128), p->T, p->heads), 128, 0, stream, p->p[0], inp, p->T,
                p->NH);
         launch(attention_softmax_kernel, p->heads * p->T / 4, 128, 0, stream, p->p[0], p->lse[set], p->T);
         launch(attention_weighted_kernel, dim3(p->T, p->heads), kHS, 0, stream, p->out[set],
                static_cast<const float*>(p->p[0]), inp, p->T, p->NH);
       }},
      version(
          p, "online softmax",
          "A warp computes one query's output in one pass: scores are used and dropped, but every query reads all keys "
          "and values, and every score costs five shuffles.",
          attention_online_kernel, 4, 128, false),
      version(
          p, "shared memory",
          "Keys and values come in tiles into shared memory for 128 queries, one thread each: no shuffles, a 128th of "
          "the reads.",
          attention_tiled_kernel, kTiledQueries, kTiledQueries, false),
      tier("register tiles",
           "kernels/' plain tier: 4 x 4 scores per thread, so that a number read from shared memory serves four "
           "products.",
           AttentionTier::plain),
      version(p, "mma",
              "Both products on tensor cores, 16 queries per warp; probabilities go from the first to the second in "
              "registers.",
              attention_mma_kernel, kMmaTile, kMmaThreads, true),
      tier("32 rows a warp",
           "32 queries per warp, so that a fragment of keys serves two products; the next tile arrives by cp.async "
           "meanwhile; one multiply-add and one instruction per exponential; rows stored 16 bytes at a time.",
           AttentionTier::tensor_core),
  };
#ifdef WROUGHT_CUDNN
  ladder.versions.push_back(tier("cuDNN", "NVIDIA's flash attention.", AttentionTier::cudnn));
#endif
  return ladder;
});

const Register backward("attention_backward", [](const Problem& problem) {
  const auto p = std::make_shared<Attention>(problem, true);
  for (int set = 0; set < p->sets; ++set) p->forward(set, AttentionTier::tensor_core, nullptr);
  Ladder ladder;
  ladder.operation = "attention_backward";
  ladder.size = p->size();
  ladder.limit = Limit::tensor_cores;
  ladder.bytes = p->bytes(true);
  ladder.gpu_bytes = sizes(true).bytes(true);
  ladder.flops = 5.0 * p->tokens() * p->C * p->T;  // five products over the causal half, however often computed
  ladder.sets = p->sets;
  ladder.check = [p] { p->check_backward(); };
  ladder.reset = [p] { p->dinp.poison(0); };
  const auto tier = [p](const char* name, const char* idea, AttentionTier tier) -> Version {
    const bool library = tier == AttentionTier::cudnn;
    return {name, idea, [=](int set, cudaStream_t stream) { p->backward(set, tier, stream); }, library, !library};
  };
  ladder.versions = {
      {"naive", "All probabilities and their gradients in memory; then a thread sums one channel of dq, dk and dv.",
       [p](int set, cudaStream_t stream) {
         p->rounds = false;
         const AttentionProblem sizes = attention_problem<bf16>(p->shape(), 0, 0, 0);
         const bf16 *inp = p->inp[set], *dout = p->dout[set];
         float *delta = p->scratch[set], *probabilities = p->p[0], *ds = p->ds[0];
         attention_delta<bf16>(delta, dout, p->out[set], sizes, true, stream);
         launch(attention_ds_kernel, dim3(p->T / 128, p->T, p->heads), 128, 0, stream, probabilities, ds, dout,
                static_cast<const float*>(p->lse[set]), static_cast<const float*>(delta), inp, p->T, p->NH);
         launch(attention_gradients_kernel, dim3(p->T, p->heads), kHS, 0, stream, p->dinp[set], dout,
                static_cast<const float*>(probabilities), static_cast<const float*>(ds), inp, p->T, p->NH);
       }},
      tier("tiles",
           "kernels/' plain tier: probabilities are recomputed from lse, tile by tile in shared memory; dk and dv by "
           "blocks of keys, dq by blocks of queries.",
           AttentionTier::plain),
      tier("tensor cores",
           "The same division of the work on tensor cores, seven products instead of five, without an atomic.",
           AttentionTier::tensor_core),
  };
#ifdef WROUGHT_CUDNN
  ladder.versions.push_back(
      tier("cuDNN", "NVIDIA's flash attention, in its deterministic mode.", AttentionTier::cudnn));
#endif
  return ladder;
});

}  // namespace
