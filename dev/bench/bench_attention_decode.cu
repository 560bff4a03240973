// Attention of one new token of each sequence to a cache of keys and values, step by step. It is bound by memory: each
// key and value is read once. The kernels here have heads of 64 channels and a cache of one layer;
// kernels/attention_decode.cuh takes any.
#include <memory>
#include <numeric>

#include "dev/bench/bench.h"
#include "kernels/attention_decode.cuh"
#include "kernels/attention_decode.h"

using namespace bench;

namespace {

using Doubles = std::vector<double>;
using Query = Qkv<const bf16>;

constexpr int kHS = 64;  // channels per head
constexpr float kScale = 0.125f;
constexpr int kThreads = 128;

// Where a head's key of token u is in the cache; its value is NH kPageTokens kHS elements further on.
__device__ int64_t key_at(const CacheRows& rows, int row, int h, int NH, int u) {
  const int64_t page = rows.pages[rows.sequences[row] * rows.max_pages + u / kPageTokens];
  return ((page * 2 * NH + h) * kPageTokens + u % kPageTokens) * kHS;
}

// A block has one head. A thread computes the scores of every 128th key, then (the first 64) one channel of the output.
__global__ void __launch_bounds__(kThreads)
    decode_naive_kernel(bf16* out, const bf16* cache, Query inp, CacheRows rows, int NH) {
  float* p = dynamic_shared<float>();  // (tokens)
  const int row = blockIdx.x / NH, h = blockIdx.x % NH, n = rows.positions[row] + 1;
  const bf16* q = inp.q + row * inp.q_row + h * kHS;
  float max = -INFINITY, sum = 0;
  for (int u = threadIdx.x; u < n; u += kThreads) {
    const bf16* k = cache + key_at(rows, row, h, NH, u);
    float score = 0;
    for (int c = 0; c < kHS; ++c) score += to_float(q[c]) * to_float(k[c]);
    p[u] = score * kScale;
    max = fmaxf(max, p[u]);
  }
  max = block_max(max);
  for (int u = threadIdx.x; u < n; u += kThreads) sum += p[u] = expf(p[u] - max);
  sum = block_sum(sum);  // its barriers also make all of p visible
  const int c = threadIdx.x;
  if (c >= kHS) return;
  float acc = 0;
  const bf16* values = cache + NH * kPageTokens * kHS + c;
  for (int u = 0; u < n; ++u) acc += p[u] * to_float(values[key_at(rows, row, h, NH, u)]);
  out[blockIdx.x * kHS + c] = from_float<bf16>(acc / sum);
}

// The result of some keys: the largest score, and relative to it the sum of exponentials and of values, two channels
// per lane.
struct Partial {
  float max = -INFINITY, sum = 0;
  float2 acc = {0, 0};

  __device__ void add(float other_max, float other_sum, float2 other_acc) {
    const float larger = fmaxf(max, other_max), keep = expf(max - larger), take = expf(other_max - larger);
    max = larger;
    sum = sum * keep + other_sum * take;
    acc.x = acc.x * keep + other_acc.x * take;
    acc.y = acc.y * keep + other_acc.y * take;
  }
};

// A warp takes every 4th key from `first` to `end`: its lanes read a key from end to end, 128 bytes, then its value.
// The first warp then adds up the four results; only its sum counts.
__device__ Partial over_keys(const bf16* cache, const Query& inp, const CacheRows& rows, int row, int h, int NH,
                             int first, int end) {
  __shared__ float maxima[4], sums[4];
  __shared__ float2 accs[4][32];
  const auto pair = [](const bf16* from) { return __bfloat1622float2(*reinterpret_cast<const __nv_bfloat162*>(from)); };
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const float2 query = pair(inp.q + row * inp.q_row + h * kHS + 2 * lane);
  Partial mine;
  for (int u = first + warp; u < end; u += 4) {
    const bf16* from = cache + key_at(rows, row, h, NH, u) + 2 * lane;
    const float2 key = pair(from);
    mine.add(warp_sum(query.x * key.x + query.y * key.y) * kScale, 1, pair(from + NH * kPageTokens * kHS));
  }
  if (lane == 0) maxima[warp] = mine.max, sums[warp] = mine.sum;
  accs[warp][lane] = mine.acc;
  __syncthreads();
  for (int w = 1; w < 4 && warp == 0; ++w) {
    if (maxima[w] > -INFINITY) mine.add(maxima[w], sums[w], accs[w][lane]);  // a warp may not have had a key
  }
  return mine;
}

__device__ void store_pair(bf16* to, float2 x) {
  *reinterpret_cast<__nv_bfloat162*>(to) = __floats2bfloat162_rn(x.x, x.y);
}

// A block has one head, and reads its keys and values once.
__global__ void __launch_bounds__(kThreads)
    decode_online_kernel(bf16* out, const bf16* cache, Query inp, CacheRows rows, int NH) {
  const int row = blockIdx.x / NH, h = blockIdx.x % NH;
  const Partial all = over_keys(cache, inp, rows, row, h, NH, 0, rows.positions[row] + 1);
  if (threadIdx.x < 32) {
    store_pair(out + blockIdx.x * kHS + 2 * threadIdx.x, make_float2(all.acc.x / all.sum, all.acc.y / all.sum));
  }
}

// A block has 128 keys of one head, and leaves maximum, sum and weighted values (66 floats) to the next kernel.
constexpr int kChunk = 128;
__global__ void __launch_bounds__(kThreads) decode_chunk_kernel(float* partial,  // (chunks, N NH, 2 + kHS)
                                                                const bf16* cache, Query inp, CacheRows rows, int NH) {
  const int row = blockIdx.x / NH, h = blockIdx.x % NH, first = blockIdx.y * kChunk,
            end = min(first + kChunk, rows.positions[row] + 1);
  if (first >= end) return;
  const Partial chunk = over_keys(cache, inp, rows, row, h, NH, first, end);
  float* to = partial + (blockIdx.y * gridDim.x + blockIdx.x) * (2 + kHS);
  if (threadIdx.x == 0) to[0] = chunk.max, to[1] = chunk.sum;
  if (threadIdx.x < 32) *reinterpret_cast<float2*>(to + 2 + 2 * threadIdx.x) = chunk.acc;
}

// A warp adds up the chunks of one head, in their order.
__global__ void decode_combine_kernel(bf16* out, const float* partial, const int32_t* positions, int NH) {
  const int bh = blockIdx.x, chunks = ceil_div(positions[bh / NH] + 1, kChunk);
  Partial all;
  for (int chunk = 0; chunk < chunks; ++chunk) {
    const float* from = partial + (chunk * gridDim.x + bh) * (2 + kHS);
    all.add(from[0], from[1], *reinterpret_cast<const float2*>(from + 2 + 2 * threadIdx.x));
  }
  store_pair(out + bh * kHS + 2 * threadIdx.x, make_float2(all.acc.x / all.sum, all.acc.y / all.sum));
}

// ---- the ladder ----------------------------------------------------------------------------------------------------

struct Sizes {
  int B, NH, T;
};

struct Decode : Sizes {
  int heads, sets;
  AttentionShape shape;
  Buffers<bf16> q, cache, out;
  Buffers<float> scratch;
  Buffers<int32_t> positions, sequences, pages;
  Doubles expected;

  explicit Decode(const Problem& problem)
      : Sizes(sizes(problem.on_gpu())),
        heads(B * NH),
        sets(problem.sets(bytes(*this))),
        shape{B, 1, NH, NH, kHS},
        q(sets, 3 * heads * kHS, 1, 1),
        cache(sets, B * pages_of(T) * page_layer_elements(shape), 2, 1),
        out(sets, heads * kHS, 0, 0),
        scratch(sets, attention_decode_scratch(B, NH, kHS, T) / 4, 0, 0),
        positions(1, B, 0, 0),
        sequences(1, B, 0, 0),
        pages(1, B * pages_of(T), 0, 0) {
    positions.write(0, std::vector<int32_t>(B, T - 1));  // full caches, so the bytes are known
    std::vector<int32_t> all(B);
    std::iota(all.begin(), all.end(), 0);
    sequences.write(0, all);
    all.resize(B * pages_of(T));
    std::iota(all.rbegin(), all.rend(), 0);
    pages.write(0, all);
  }

  CacheRows rows() const { return {positions[0], sequences[0], pages[0], pages_of(T)}; }
  Query inp(int set) const { return packed_qkv<const bf16>(q[set], shape); }
  static Sizes sizes(bool on_gpu) { return on_gpu ? Sizes{8, 12, 1024} : Sizes{2, 4, 512}; }
  static double bytes(const Sizes& s) { return 4.0 * s.B * s.NH * kHS * (s.T + 1); }
  void check() {
    if (expected.empty()) {
      expected.resize(static_cast<size_t>(heads) * kHS);
      const std::vector<int32_t> at = positions.host(0), of = sequences.host(0), numbers = pages.host(0);
      const Doubles queries = to_doubles(q.host(0));
      cpu::attention_decode<double>(expected.data(), to_doubles(cache.host(0)).data(),
                                    packed_qkv<const double>(queries.data(), shape),
                                    {at.data(), of.data(), numbers.data(), pages_of(T)}, 0, 1, shape);
    }
    check_close("out", out.host(0), expected, T + kHS, 0);
  }
};

using Shared = std::shared_ptr<Decode>;

Version one_block_a_head(const Shared& p, const char* name, const char* idea,
                         void (*kernel)(bf16*, const bf16*, Query, CacheRows, int), size_t shared_bytes) {
  return {name, idea, [=](int set, cudaStream_t stream) {
            launch(kernel, p->heads, kThreads, shared_bytes, stream, p->out[set],
                   static_cast<const bf16*>(p->cache[set]), p->inp(set), p->rows(), p->NH);
          }};
}

const Register decode("attention_decode", [](const Problem& problem) {
  const auto p = std::make_shared<Decode>(problem);
  Ladder ladder;
  ladder.operation = "attention_decode";
  ladder.size =
      "B=" + std::to_string(p->B) + " NH=" + std::to_string(p->NH) + " HS=64 T=" + std::to_string(p->T) + " bf16";
  ladder.limit = Limit::memory;
  ladder.bytes = p->bytes(*p);
  ladder.gpu_bytes = p->bytes(p->sizes(true));
  ladder.flops = 4.0 * p->heads * p->T * kHS;
  ladder.sets = p->sets;
  ladder.check = [p] { p->check(); };
  ladder.reset = [p] { p->out.poison(0); };
  ladder.versions = {
      one_block_a_head(
          p, "naive",
          "One block per head: one thread per key for the scores, one per channel for the output. Lanes read 32 "
          "different keys, one number of each.",
          decode_naive_kernel, p->T * sizeof(float)),
      one_block_a_head(p, "coalesced",
                       "One warp per key, its lanes reading contiguously, and an online softmax: keys and values are "
                       "read once, in whole "
                       "sectors.",
                       decode_online_kernel, 0),
      {"chunks",
       "One block per 128 keys of a head: a few long sequences fill the GPU too. A second kernel adds the chunks "
       "up.",
       [p](int set, cudaStream_t stream) {
         launch(decode_chunk_kernel, dim3(p->heads, ceil_div(p->T, kChunk)), kThreads, 0, stream, p->scratch[set],
                static_cast<const bf16*>(p->cache[set]), p->inp(set), p->rows(), p->NH);
         launch(decode_combine_kernel, p->heads, 32, 0, stream, p->out[set], static_cast<const float*>(p->scratch[set]),
                p->rows().positions, p->NH);
       }},
      {"16 bytes",
       "16 bytes per load, so eight lanes per key and three shuffles per score for four keys at once; one maximum and "
       "one sum per chunk instead of per key; any head size.",
       [p](int set, cudaStream_t stream) {
         attention_decode<bf16>(p->out[set], p->scratch[set], p->cache[set], p->inp(set), p->rows(), 0, 1, p->shape,
                                stream);
       }},
  };
  return ladder;
});

}  // namespace
