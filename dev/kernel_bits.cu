// A hash of every output of every launcher in kernels/ that a training step calls, in cudasim, at sizes with and
// without whole packs: two versions of the kernels give the same bits where these lines are equal. dev/same_bits.sh
// compares them.
//
//   layernorm_backward bf16 N=9 C=768 | dinp 91f3a0b1c2d3e4f5 | dweight ...
#include <cstdio>
#include <vector>

#include "kernels/attention.cuh"
#include "kernels/classifier.cuh"
#include "kernels/embedding.cuh"
#include "kernels/gelu.cuh"
#include "kernels/layernorm.cuh"
#include "kernels/matmul.cuh"
#include "kernels/residual.cuh"

namespace {

// Numbers from a counter: the same for both versions, whatever their random generators are.
uint64_t mixed(uint64_t x) {
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ull;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebull;
  return x ^ (x >> 31);
}

template <class T>
class Tensor {  // on the device, with numbers in [-1, 1) times scale
 public:
  Tensor(size_t n, uint64_t seed, float scale = 1, bool unaligned = false) : n_(n) {
    std::vector<T> host(n + 1);
    for (size_t i = 0; i < n; ++i) {
      const double unit = static_cast<double>(mixed(seed * 1000003 + i + 1) >> 11) * 0x1p-52 - 1;
      host[i] = static_cast<T>(static_cast<float>(unit) * scale);
    }
    CUDA_CHECK(cudaMalloc(&memory_, (n + 1) * sizeof(T)));
    data_ = memory_ + unaligned;
    CUDA_CHECK(cudaMemcpy(data_, host.data(), n * sizeof(T), cudaMemcpyHostToDevice));
  }
  ~Tensor() { cudaFree(memory_); }
  Tensor(const Tensor&) = delete;
  Tensor& operator=(const Tensor&) = delete;
  operator T*() const { return data_; }
  void set(const std::vector<T>& values) {
    CUDA_CHECK(cudaMemcpy(data_, values.data(), n_ * sizeof(T), cudaMemcpyHostToDevice));
  }
  void print(const char* name) const {
    std::vector<unsigned char> bytes(n_ * sizeof(T));
    CUDA_CHECK(cudaDeviceSynchronize());
    CUDA_CHECK(cudaMemcpy(bytes.data(), data_, bytes.size(), cudaMemcpyDeviceToHost));
    uint64_t hash = 0xcbf29ce484222325ull;
    for (const unsigned char byte : bytes) hash = (hash ^ byte) * 0x100000001b3ull;
    std::printf(" | %s %016llx", name, static_cast<unsigned long long>(hash));
  }

 private:
  size_t n_;
  T *memory_ = nullptr, *data_ = nullptr;
};

template <class floatX>
const char* type() {
  return sizeof(floatX) == 2 ? "bf16" : "float";
}

template <class floatX>
void layernorm(int N, int C, bool unaligned) {
  const size_t NC = static_cast<size_t>(N) * C;
  const Tensor<floatX> inp(NC, 1, 2, unaligned), weight(C, 3), bias(C, 4), out(NC, 6), dout(NC, 7), dinp(NC, 8);
  const Tensor<float> mean(N, 9), rstd(N, 10), dweight(C, 11), dbias(C, 12), sums(C, 13);
  const Tensor<char> scratch(static_cast<size_t>(layernorm_backward_scratch(N, C)), 0);
  const auto head = [&](const char* name) {
    std::printf("%s %s N=%d C=%d%s", name, type<floatX>(), N, C, unaligned ? " unaligned" : "");
  };
  layernorm_forward<floatX>(out, mean, rstd, inp, weight, bias, N, C, nullptr);
  head("layernorm_forward");
  out.print("out"), mean.print("mean"), rstd.print("rstd");
  std::puts("");
  layernorm_backward<floatX>(dinp, dweight, dbias, sums, scratch, dout, inp, weight, mean, rstd, false, N, C, nullptr);
  head("layernorm_backward");
  dinp.print("dinp"), dweight.print("dweight"), dbias.print("dbias"), sums.print("dinp_sums");
  std::puts("");
}

template <class floatX>
void classifier(int N, int V, int Vp, bool unaligned) {
  const Tensor<floatX> logits(static_cast<size_t>(N) * Vp, 1, 5, unaligned);
  Tensor<int32_t> targets(N, 0);
  std::vector<int32_t> ids(N);
  for (int n = 0; n < N; ++n) ids[n] = n % 4 == 3 ? -1 : static_cast<int>(mixed(n + 5) % V);
  targets.set(ids);
  const Tensor<float> losses(N, 2), weights(N, 3);
  std::printf("classifier_forward %s N=%d V=%d Vp=%d%s", type<floatX>(), N, V, Vp, unaligned ? " unaligned" : "");
  classifier_forward<floatX>(losses, logits, targets, N, V, Vp, nullptr);
  losses.print("losses");
  std::printf("\nclassifier_backward %s N=%d V=%d Vp=%d%s", type<floatX>(), N, V, Vp, unaligned ? " unaligned" : "");
  classifier_backward<floatX>(logits, losses, targets, weights, N, V, Vp, nullptr);
  losses.print("losses"), logits.print("dlogits");
  std::puts("");
}

template <class floatX>
void embedding(int B, int T, int C, int V, bool documents, float dropout) {
  const size_t N = static_cast<size_t>(B) * T;
  Tensor<int32_t> inp(N, 0), first(N, 0);
  std::vector<int32_t> ids(N), begins(N);
  for (size_t i = 0; i < N; ++i) {
    ids[i] = static_cast<int>(mixed(i / 3) % V);
    begins[i] = static_cast<int>(i % T < 5 ? 0 : 5);
  }
  inp.set(ids), first.set(begins);
  const int32_t* from = documents ? static_cast<int32_t*>(first) : nullptr;
  const Tensor<floatX> out(N * C, 1), wte(static_cast<size_t>(V) * C, 2), wpe(static_cast<size_t>(T) * C, 3),
      dout(N * C, 4);
  const Tensor<float> dwte(static_cast<size_t>(V) * C, 5), dwpe(static_cast<size_t>(T) * C, 6);
  const Tensor<char> scratch(static_cast<size_t>(embedding_backward_scratch(B, T, C, V)), 0);
  embedding_forward<floatX>(out, inp, wte, wpe, from, dropout, 7, 8, B, T, C, nullptr);
  std::printf("embedding %s B=%d T=%d C=%d V=%d%s dropout=%g", type<floatX>(), B, T, C, V,
              documents ? " documents" : "", dropout);
  embedding_backward<floatX>(dwte, dwpe, scratch, dout, inp, from, dropout, 7, 8, B, T, C, V, nullptr);
  out.print("out"), dwte.print("dwte"), dwpe.print("dwpe");
  std::puts("");
}

template <class floatX>
void matmul(int N, int C, int OC, MatmulMode mode, bool unaligned) {
  const auto size = [](int a, int b) { return static_cast<size_t>(a) * b; };
  const Tensor<floatX> out(size(N, OC), 1), gelu_out(size(N, OC), 2), inp(size(N, C), 3, 1, unaligned),
      weight(size(OC, C), 4), bias(OC, 5), dout(size(N, OC), 6), dinp(size(N, C), 7);
  const Tensor<float> dweight(size(OC, C), 8), dbias(OC, 9);
  const Tensor<char> scratch(static_cast<size_t>(matmul_backward_scratch(N, C, OC)), 0);
  std::printf("matmul %s N=%d C=%d OC=%d%s %s%s", type<floatX>(), N, C, OC, unaligned ? " unaligned" : "",
              mode.tier == MatmulTier::plain ? "plain" : "tensor_core", mode.tf32 ? " tf32" : "");
  matmul_forward<floatX>(out, gelu_out, inp, weight, bias, N, C, OC, mode, nullptr);
  matmul_backward<floatX>(dinp, dweight, dbias, scratch, dout, inp, weight, inp, N, C, OC, mode, nullptr);
  out.print("out"), gelu_out.print("gelu"), dinp.print("dinp"), dweight.print("dweight"), dbias.print("dbias");
  std::puts("");
}

template <class floatX>
void attention(int B, int T, int NH, int HS, float dropout, bool documents, AttentionTier tier) {
  const int C = NH * HS;
  const size_t N = static_cast<size_t>(B) * T;
  Tensor<int32_t> first(N, 0);
  std::vector<int32_t> begins(N);
  for (size_t i = 0; i < N; ++i) begins[i] = static_cast<int>(i % T) / 37 * 37;
  first.set(begins);
  const int32_t* from = documents ? static_cast<int32_t*>(first) : nullptr;
  const Tensor<floatX> out(N * C, 1), inp(N * 3 * C, 2, 2), dout(N * C, 3), dinp(N * 3 * C, 4);
  const Tensor<float> lse(N * NH, 5);
  const Tensor<char> scratch(static_cast<size_t>(attention_backward_scratch(B, T, NH)), 0);
  std::printf("attention %s B=%d T=%d NH=%d HS=%d dropout=%g%s %s", type<floatX>(), B, T, NH, HS, dropout,
              documents ? " documents" : "", tier == AttentionTier::plain ? "plain" : "tensor_core");
  const AttentionShape shape{B, T, NH, NH, HS, true, from};
  const auto qkv = packed_qkv(static_cast<const floatX*>(inp), shape);
  attention_forward<floatX>(out, lse, qkv, dropout, 7, 8, shape, tier, nullptr);
  out.print("out"), lse.print("lse");
  attention_backward<floatX>(packed_qkv(static_cast<floatX*>(dinp), shape), scratch, dout, out, lse, qkv, dropout, 7, 8,
                             shape, tier, nullptr);
  dinp.print("dinp"), scratch.print("delta");
  std::puts("");
}

template <class floatX>
void elementwise(int64_t N, bool unaligned) {
  const Tensor<floatX> a(N, 1, 3, unaligned), b(N, 2, 3), c(N, 3);
  std::printf("elementwise %s N=%lld%s", type<floatX>(), static_cast<long long>(N), unaligned ? " unaligned" : "");
  gelu_forward<floatX>(c, a, N, nullptr);
  c.print("gelu");
  gelu_backward<floatX>(c, b, a, N, nullptr);
  c.print("gelu_grad");
  residual_forward<floatX>(c, a, b, 0, 0, 0, N, nullptr);
  c.print("residual");
  residual_forward<floatX>(c, a, b, 0.3f, 7, 8, N, nullptr);
  c.print("residual_dropout");
  dropout_forward<floatX>(c, a, 0.3f, 7, 8, N, nullptr);
  c.print("dropout");
  std::puts("");
}

template <class floatX>
void all() {
  for (const bool unaligned : {false, true}) {
    elementwise<floatX>(1, unaligned);
    elementwise<floatX>(4099, unaligned);
  }
  for (const auto& [N, C] :
       {std::pair(1, 1), {7, 33}, {70, 768}, {33, 1024}, {9, 1600}, {600, 64}, {5, 4096}, {2, 12'288}}) {
    layernorm<floatX>(N, C, false);
    layernorm<floatX>(N, C, true);
  }
  for (const auto& [N, V, Vp] : {std::tuple(5, 61, 64), {3, 33, 33}, {5, 5003, 5120}, {2, 50'257, 50'304}}) {
    classifier<floatX>(N, V, Vp, false);
    classifier<floatX>(N, V, Vp, true);
  }
  for (const bool documents : {false, true}) {
    embedding<floatX>(3, 65, 64, 97, documents, 0);
    embedding<floatX>(3, 33, 35, 1000, documents, 0.3f);
  }
  const MatmulMode plain{MatmulTier::plain, false}, fast{MatmulTier::tensor_core, sizeof(floatX) == 4};
  for (const MatmulMode mode : {plain, fast}) {
    for (const auto& [N, C, OC] : {std::tuple(1, 1, 1), {70, 33, 129}, {130, 64, 192}, {2100, 64, 64}}) {
      matmul<floatX>(N, C, OC, mode, false);
      matmul<floatX>(N, C, OC, mode, true);
    }
  }
  for (const AttentionTier tier : {AttentionTier::plain, AttentionTier::tensor_core}) {
    if (tier == AttentionTier::tensor_core && sizeof(floatX) == 4) continue;
    for (const int HS : {16, 32, 48, 64, 80, 96, 112, 128}) {
      attention<floatX>(2, 130, 2, HS, 0, false, tier);
      attention<floatX>(1, 131, 2, HS, 0, true, tier);
      attention<floatX>(1, 68, 2, HS, 0.3f, false, tier);
      attention<floatX>(1, 67, 1, HS, 0.3f, true, tier);
    }
  }
}

}  // namespace

int main() {
  all<float>();
  all<bf16>();
}
