// Token and position embedding: rows gathered by token, and in backward rows added to where the tokens point, several
// to one place.
#include <numeric>
#include <random>

#include "dev/bench/bench.h"
#include "kernels/embedding.cuh"
#include "kernels/embedding.h"

namespace {

// ---- forward -------------------------------------------------------------------------------------------------------

__global__ void embedding_thread_kernel(bf16* out, const int32_t* inp, const bf16* wte, const bf16* wpe, int N, int T,
                                        int C) {
  const int bt = blockIdx.x * blockDim.x + threadIdx.x;
  if (bt >= N) return;
  const bf16 *token = wte + static_cast<int64_t>(inp[bt]) * C, *position = wpe + static_cast<int64_t>(bt % T) * C;
  for (int c = 0; c < C; ++c) {
    out[static_cast<int64_t>(bt) * C + c] = from_float<bf16>(to_float(token[c]) + to_float(position[c]));
  }
}

__global__ void embedding_element_kernel(bf16* out, const int32_t* inp, const bf16* wte, const bf16* wpe, int64_t NC,
                                         int T, int C) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i >= NC) return;
  const int64_t bt = i / C, c = i % C;
  out[i] = from_float<bf16>(to_float(wte[inp[bt] * static_cast<int64_t>(C) + c]) + to_float(wpe[bt % T * C + c]));
}

// ---- backward ------------------------------------------------------------------------------------------------------

__global__ void embedding_atomics_kernel(float* dwte, float* dwpe, const bf16* dout, const int32_t* inp,
                                         const int32_t* first, int64_t NC, int T, int C) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i >= NC) return;
  const int64_t bt = i / C, c = i % C;
  atomicAdd(dwte + inp[bt] * static_cast<int64_t>(C) + c, to_float(dout[i]));
  atomicAdd(dwpe + (bt % T - (first ? first[bt] : 0)) * C + c, to_float(dout[i]));
}

// One warp per token of the vocabulary: it searches all positions, 32 at a time, for those that have its token.
__global__ void embedding_owner_kernel(float* dwte, const bf16* dout, const int32_t* inp, int N, int V, int C) {
  const int token = blockIdx.x * 4 + threadIdx.x / 32, lane = threadIdx.x % 32;
  if (token >= V) return;
  float* to = dwte + static_cast<int64_t>(token) * C;
  for (int first = 0; first < N; first += 32) {
    unsigned here = __ballot_sync(kFullWarp, first + lane < N && inp[first + lane] == token);
    for (; here != 0; here &= here - 1) {  // each of them, in order
      const bf16* row = dout + static_cast<int64_t>(first + __ffs(here) - 1) * C;
      for (int c = lane; c < C; c += 32) to[c] += to_float(row[c]);
    }
  }
}

// ---- ladders -------------------------------------------------------------------------------------------------------

struct Tensors {
  int B, T, C, V, sets;
  int N = B * T;
  bench::Buffers<bf16> out{sets, static_cast<int64_t>(N) * C, 0, 0}, dout{sets, static_cast<int64_t>(N) * C, 1, 1},
      wte{1, static_cast<int64_t>(V) * C, 2, 1}, wpe{1, static_cast<int64_t>(T) * C, 3, 1};
  bench::Buffers<int32_t> inp{sets, N, 0, 0}, documents{1, N, 0, 0};
  bench::Buffers<float> dwte{1, static_cast<int64_t>(V) * C, 4, 1}, dwpe{1, static_cast<int64_t>(T) * C, 5, 1},
      first_dwte{1, static_cast<int64_t>(V) * C, 4, 1}, first_dwpe{1, static_cast<int64_t>(T) * C, 5, 1};
  bench::Buffers<uint8_t> scratch{1, embedding_backward_scratch(B, T, C, V), 0, 0};
};

// Tokens as frequent as in text: token k about twice as often as token 2 k.
std::vector<int32_t> tokens_of_text(int64_t n, int V, uint64_t seed) {
  std::mt19937_64 engine(seed);
  std::vector<int32_t> tokens(n);
  for (int32_t& token : tokens) {
    token = static_cast<int32_t>(std::pow(V, static_cast<double>(engine() >> 11) * 0x1p-53)) - 1;
  }
  return tokens;
}

double distinct(const std::vector<int32_t>& tokens, int V) {
  std::vector<char> occurs(V);
  for (const int32_t token : tokens) occurs[token] = 1;
  return std::accumulate(occurs.begin(), occurs.end(), 0.0);
}

struct Sizes {
  int B, T, C, V;
};
constexpr int kDocument = 100;  // tokens per document, if a row holds several
constexpr Sizes kGpu = {16, 1024, 768, 50257}, kSim = {2, 128, 768, 512};

std::shared_ptr<Tensors> make_tensors(const Sizes& s, int sets) {
  auto t = std::shared_ptr<Tensors>(new Tensors{s.B, s.T, s.C, s.V, sets});
  for (int set = 0; set < sets; ++set) t->inp.write(set, tokens_of_text(t->N, s.V, set));
  std::vector<int32_t> first(t->N);
  for (int i = 0; i < t->N; ++i) first[i] = i % s.T / kDocument * kDocument;
  t->documents.write(0, first);
  return t;
}

std::string size_text(const Sizes& s) {
  return "B=" + std::to_string(s.B) + " T=" + std::to_string(s.T) + " C=" + std::to_string(s.C) +
         " V=" + std::to_string(s.V) + " bf16";
}

// Rows of wte that occur, wpe, tokens; out.
double forward_bytes(const Sizes& s) {
  const double N = s.B * s.T;
  return 2 * s.C * (distinct(tokens_of_text(s.B * s.T, s.V, 0), s.V) + s.T + N) + 4 * N;
}

// dout, tokens; rows of dwte that occur and dwpe, in float, read and written.
double backward_bytes(const Sizes& s) {
  const double N = s.B * s.T;
  return 2 * s.C * N + 4 * N + 8 * s.C * (distinct(tokens_of_text(s.B * s.T, s.V, 0), s.V) + s.T);
}

bench::Ladder make_forward(const bench::Problem& problem) {
  const Sizes s = problem.on_gpu() ? kGpu : kSim;
  const auto t = make_tensors(s, problem.sets(forward_bytes(s)));
  const int N = t->N, T = s.T, C = s.C;
  const int64_t NC = static_cast<int64_t>(N) * C;

  bench::Ladder ladder;
  ladder.operation = "embedding_forward";
  ladder.size = size_text(s);
  ladder.limit = bench::Limit::memory;
  ladder.bytes = forward_bytes(s);
  ladder.flops = static_cast<double>(NC);
  ladder.sets = t->sets;
  ladder.gpu_bytes = forward_bytes(kGpu);
  ladder.versions = {{"a thread a token",
                      "Each thread copies a whole row: lanes lie rows apart, and each request for 32 numbers touches "
                      "32 sectors.",
                      [=](int set, cudaStream_t stream) {
                        launch(embedding_thread_kernel, grid_for(N, 64), 64, 0, stream, t->out[set], t->inp[set],
                               t->wte[0], t->wpe[0], N, T, C);
                      }},
                     {"a thread an element",
                      "Neighbouring lanes read neighbouring channels of a row. Each thread divides to find its token, "
                      "and 32 lanes read the same one.",
                      [=](int set, cudaStream_t stream) {
                        launch(embedding_element_kernel, grid_for(NC, 256), 256, 0, stream, t->out[set], t->inp[set],
                               t->wte[0], t->wpe[0], NC, T, C);
                      }},
                     {"a warp a row, 16 bytes",
                      "The token is looked up once for 256 channels, by the grid's shape instead of a division, "
                      "and accesses are 16 bytes wide.",
                      [=](int set, cudaStream_t stream) {
                        embedding_forward(t->out[set], t->inp[set], t->wte[0], t->wpe[0], nullptr, 0.0f, 0, 0, s.B, T,
                                          C, stream);
                      }}};
  ladder.reset = [=] { t->out.poison(0); };
  ladder.check = [=] {
    const auto wte = bench::to_doubles(t->wte.host(0)), wpe = bench::to_doubles(t->wpe.host(0));
    std::vector<double> expected(NC);
    cpu::embedding_forward(expected.data(), t->inp.host(0).data(), wte.data(), wpe.data(), nullptr, s.B, T, C);
    bench::check_close("out", t->out.host(0), expected, 1, 0);
  };
  return ladder;
}

bench::Ladder make_backward(const bench::Problem& problem, bool documents) {
  const Sizes s = problem.on_gpu() ? kGpu : kSim;
  const auto t = make_tensors(s, problem.sets(backward_bytes(s)));
  const int32_t* first = documents ? t->documents[0] : nullptr;
  const int N = t->N, T = s.T, C = s.C, V = s.V;
  const int64_t NC = static_cast<int64_t>(N) * C;

  bench::Ladder ladder;
  ladder.operation = documents ? "embedding_backward_documents" : "embedding_backward";
  ladder.size = size_text(s);
  ladder.limit = bench::Limit::memory;
  ladder.bytes = backward_bytes(s);
  ladder.flops = 2.0 * static_cast<double>(NC);
  ladder.sets = t->sets;
  ladder.gpu_bytes = backward_bytes(kGpu);
  ladder.versions = {
      {"atomics",
       "Every element is added to its token's row at once. Frequent tokens cause a queue, and the order of "
       "additions, so the last digits, changes from run to run.",
       [=](int set, cudaStream_t stream) {
         launch(embedding_atomics_kernel, grid_for(NC, 256), 256, 0, stream, t->dwte[0], t->dwpe[0], t->dout[set],
                t->inp[set], first, NC, T, C);
       }},
      {"an owner a token",
       "A warp for each token of the vocabulary looks for its positions and adds them in order: the same "
       "bits every time. But all V warps read all positions, and a frequent token's only warp keeps "
       "working after the others are done.",
       [=](int set, cudaStream_t stream) {
         launch(embedding_owner_kernel, grid_for(V, 4), 128, 0, stream, t->dwte[0], t->dout[set], t->inp[set], N, V, C);
         launch(embedding_dwpe_kernel<bf16, true, false>, dim3(ceil_div(T, kEmbeddingRows), ceil_div(C, 128)),
                dim3(32, kEmbeddingRows), 0, stream, t->dwpe[0], t->dout[set], 0.0f, 0, 0, s.B, T, C);
       }},
      {"sorted",
       "Positions are sorted by token first; then each warp sums 32 of them, whether they share a token or not, so "
       "all have the same work. Sums that cross from one warp's part to the next are added afterwards, in order.",
       [=](int set, cudaStream_t stream) {
         embedding_backward(t->dwte[0], t->dwpe[0], t->scratch[0], t->dout[set], t->inp[set], first, 0.0f, 0, 0, s.B, T,
                            C, V, stream);
       }}};
  if (documents) ladder.versions.erase(ladder.versions.begin() + 1);  // its dwpe is for single documents
  ladder.reset = [=] {
    t->dwte.copy(0, t->first_dwte);
    t->dwpe.copy(0, t->first_dwpe);
    t->scratch.poison(0);
  };
  ladder.check = [=] {
    auto dwte = bench::to_doubles(t->first_dwte.host(0)), dwpe = bench::to_doubles(t->first_dwpe.host(0));
    const auto dout = bench::to_doubles(t->dout.host(0));
    const std::vector<int32_t> tokens = t->inp.host(0);
    const std::vector<int32_t> of = t->documents.host(0);
    cpu::embedding_backward(dwte.data(), dwpe.data(), dout.data(), tokens.data(), documents ? of.data() : nullptr, s.B,
                            T, C);
    // The most frequent token has the longest sum; its partial sums grow as the square root of the number of terms.
    std::vector<int> counts(V);
    for (const int32_t token : tokens) ++counts[token];
    const double most = *std::max_element(counts.begin(), counts.end()) + 1;
    bench::check_close("dwte", t->dwte.host(0), dwte, most, 4 * 0x1p-24 * most);
    bench::check_close("dwpe", t->dwpe.host(0), dwpe, (documents ? ceil_div(T, kDocument) : 1) * s.B + 1, 0);
  };
  return ladder;
}

const bench::Register forward("embedding_forward", make_forward);
const bench::Register backward("embedding_backward", [](const bench::Problem& p) { return make_backward(p, false); });
const bench::Register of_documents("embedding_backward_documents",
                                   [](const bench::Problem& p) { return make_backward(p, true); });

}  // namespace
