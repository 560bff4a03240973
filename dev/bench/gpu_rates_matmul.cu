// gpu_rates' products: under full load, at GPT-2's sizes, and the errors of their sums.
#include <chrono>
#include <ctime>

#include "dev/bench/gpu_rates.h"
#include "kernels/matmul.cuh"
#include "llm/support/error.h"

namespace rates {

namespace {

struct Tier {
  const char* name;
  MatmulTier tier;
};
#ifdef WROUGHT_CUBLASLT
constexpr Tier kTiers[] = {{"cuBLASLt", MatmulTier::cublaslt}, {"own", MatmulTier::tensor_core}};
#else
constexpr Tier kTiers[] = {{"own", MatmulTier::tensor_core}};
#endif

// The current time in nvidia-smi's format, so that its samples of clocks and watts can be matched.
std::string wall_clock() {
  const auto now = std::chrono::system_clock::now();
  const std::time_t seconds = std::chrono::system_clock::to_time_t(now);
  const auto ms = std::chrono::duration_cast<std::chrono::milliseconds>(now.time_since_epoch()).count() % 1000;
  std::tm local;
  localtime_r(&seconds, &local);
  char text[64];
  const size_t length = std::strftime(text, sizeof text, "%Y/%m/%d %H:%M:%S", &local);
  std::snprintf(text + length, sizeof text - length, ".%03d", static_cast<int>(ms));
  return text;
}

__global__ void constant_kernel(bf16* out, float value, int64_t n) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i < n) out[i] = from_float<bf16>(value);
}

}  // namespace

void measure_full_load(const bench::Timer& timer, const Options& options) {
  const int n = options.small ? 128 : 8192, batch = options.small ? 1 : 10;
  const int64_t elements = static_cast<int64_t>(n) * n;
  const bench::Buffers<bf16> a(1, elements, 1, 1), b(1, elements, 2, 1), d(1, elements, 0, 0);
  for (const char* data : {"random", "constant"}) {
    if (std::string(data) == "constant") {
      for (const bench::Buffers<bf16>* factor : {&a, &b}) {
        launch(constant_kernel, grid_for(elements, 256), 256, 0, timer.stream(), (*factor)[0], 1.0f, elements);
      }
      CUDA_CHECK(cudaStreamSynchronize(timer.stream()));
    }
    for (const Tier& tier : kTiers) {
      bench::Event begin, end;
      std::string from;
      double products = 0;
      const auto start = std::chrono::steady_clock::now();
      const auto elapsed = [&] {
        return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
      };
      do {  // the first half of the time warms up
        if (from.empty() && elapsed() >= options.seconds / 2) {
          from = wall_clock();
          begin.record(timer.stream());
        }
        for (int i = 0; i < batch; ++i) {
          matmul_forward<bf16>(d[0], nullptr, a[0], b[0], nullptr, n, n, n, MatmulMode{tier.tier, false},
                               timer.stream());
        }
        if (!from.empty()) products += batch;
        end.record(timer.stream());
        CUDA_CHECK(cudaStreamSynchronize(timer.stream()));
      } while (from.empty() || elapsed() < options.seconds);
      const double us = end.microseconds_since(begin) / products;
      print({{"what", "product"},
             {"data", data},
             {"tier", tier.name},
             {"n", n},
             {"us", us},
             {"tflops", 2e-6 * n * n * static_cast<double>(n) / us},
             {"begin", from},
             {"end", wall_clock()}});
    }
  }
}

// ---- GPT-2's products ----------------------------------------------------------------------------------------------

namespace {

struct Layer {
  const char* name;
  int C, OC;         // channels in, channels out
  bool bias, gelu;   // forward: out + bias, and gelu(out) as well
  bool gelu_before;  // backward: dinp *= gelu'
};

void measure_layer(const bench::Timer& timer, const Options& options, const char* model, int N, const Layer& layer) {
  const int C = layer.C, OC = layer.OC;
  const int64_t in = static_cast<int64_t>(N) * C, out = static_cast<int64_t>(N) * OC,
                weights = static_cast<int64_t>(OC) * C;
  const bench::Buffers<bf16> inp(1, in, 1, 1), weight(1, weights, 2, 1 / std::sqrt(C)), bias(1, OC, 3, 1),
      dout(1, out, 4, 1), pre_gelu(1, layer.gelu_before ? in : 1, 5, 1);
  const bench::Buffers<uint8_t> scratch(1, matmul_backward_scratch(N, C, OC), 0, 0);
  const bf16* with_bias = layer.bias ? bias[0] : nullptr;
  const bf16* before = layer.gelu_before ? pre_gelu[0] : nullptr;

  // run(tier, output) for each tier; the tiers' outputs are compared with each other.
  const auto measure = [&]<class Out>(const char* pass, Out, int64_t elements, auto&& run) {
    std::vector<std::unique_ptr<bench::Buffers<Out>>> outputs;
    for (const Tier& tier : kTiers) {
      outputs.push_back(std::make_unique<bench::Buffers<Out>>(1, elements, 0, 0));
      const MatmulMode mode{tier.tier, false};
      const bench::Buffers<Out>& result = *outputs.back();
      run(mode, result[0]);  // the first run: outputs that it adds to are still 0 before it
      CUDA_CHECK(cudaStreamSynchronize(timer.stream()));
      const json difference = outputs.size() < 2 ? json(nullptr) : json(relative_difference(result, *outputs.front()));
      const bench::Timing timing = timer.time([&](int) { run(mode, result[0]); }, options.small ? 3 : 9, 0.15);
      print({{"model", model},
             {"layer", layer.name},
             {"pass", pass},
             {"N", N},
             {"C", C},
             {"OC", OC},
             {"tier", tier.name},
             {"us", timing.median},
             {"us_p10", timing.p10},
             {"us_p90", timing.p90},
             {"tflops", 2e-6 * N * C * static_cast<double>(OC) / timing.median},
             {"difference", difference}});
    }
  };
  const bench::Buffers<bf16> gelu(1, layer.gelu ? out : 0, 0, 0);
  bf16* out_gelu = layer.gelu ? gelu[0] : nullptr;
  measure(layer.gelu   ? "forward, bias, GELU"
          : layer.bias ? "forward, bias"
                       : "forward",
          bf16{}, out, [&](MatmulMode mode, bf16* result) {
            matmul_forward<bf16>(result, out_gelu, inp[0], weight[0], with_bias, N, C, OC, mode, timer.stream());
          });
  measure(layer.gelu_before ? "dinp, GELU's derivative" : "dinp", bf16{}, in, [&](MatmulMode mode, bf16* result) {
    matmul_backward<bf16>(result, nullptr, nullptr, scratch[0], dout[0], inp[0], weight[0], before, N, C, OC, mode,
                          timer.stream());
  });
  measure("dweight", float{}, weights, [&](MatmulMode mode, float* result) {
    matmul_backward<bf16>(nullptr, result, nullptr, scratch[0], dout[0], inp[0], weight[0], nullptr, N, C, OC, mode,
                          timer.stream());
  });
}

}  // namespace

void measure_products(const bench::Timer& timer, const Options& options) {
  struct Model {
    const char* name;
    int N, C, vocabulary;  // tokens per step, channels, rows of wte
  };
  std::vector<Model> models = {{"gpt2", 16384, 768, 50304}, {"gpt2-xl", 16384, 1600, 50304}};
  if (options.small) models = {{"toy", 64, 64, 128}};
  for (const auto& [name, N, C, vocabulary] : models) {
    for (const Layer& layer : {Layer{"qkv", C, 3 * C, true, false, false}, Layer{"attproj", C, C, true, false, false},
                               Layer{"fc", C, 4 * C, true, true, false}, Layer{"fcproj", 4 * C, C, true, false, true},
                               Layer{"head", C, vocabulary, false, false, false}}) {
      measure_layer(timer, options, name, N, layer);
    }
  }
}

// ---- the errors of sums --------------------------------------------------------------------------------------------

// out (64, 64) = a^T b with sums over K in float, as in the weight gradient, compared with sums in double. An error is
// given in units of 2^-24 times the sum of the products' magnitudes; positive: the result is too large in magnitude.
// Rounding to nearest leaves a mean near 0; hardware that truncates leaves a negative one, which grows with K where all
// products have one sign.
void measure_rounding(const bench::Timer& timer, const Options& options) {
  constexpr int n = 64;
  const int most = options.small ? 256 : 65536;
  const bench::Buffers<bf16> a(1, static_cast<int64_t>(most) * n, 1, 1), b(1, static_cast<int64_t>(most) * n, 2, 1);
  for (const bool positive : {false, true}) {
    std::vector<double> x, y;
    for (const bench::Buffers<bf16>* factor : {&a, &b}) {
      std::vector<bf16> values = factor->host(0);
      if (positive) {
        for (bf16& value : values) value = __float2bfloat16(std::abs(__bfloat162float(value)));
        factor->write(0, values);
      }
      (factor == &a ? x : y) = bench::to_doubles(values);
    }
    std::vector<double> sums(n * n), magnitudes(n * n);
    int done = 0;
    for (int K = 64; K <= most; K *= 4) {
      for (; done < K; ++done) {
        for (int i = 0; i < n; ++i) {
          for (int j = 0; j < n; ++j) {
            const double product = x[static_cast<size_t>(done) * n + i] * y[static_cast<size_t>(done) * n + j];
            sums[i * n + j] += product;
            magnitudes[i * n + j] += std::abs(product);
          }
        }
      }
      const auto row = [&](const char* by, auto&& multiply) {
        const bench::Buffers<float> out(1, n * n, 0, 0);
        multiply(out[0]);
        CUDA_CHECK(cudaStreamSynchronize(timer.stream()));
        const std::vector<float> values = out.host(0);
        double largest = 0, mean = 0;
        for (int i = 0; i < n * n; ++i) {
          const double toward = sums[i] < 0 ? -1 : 1;
          const double error = toward * (static_cast<double>(values[i]) - sums[i]) / (0x1p-24 * magnitudes[i]);
          if (std::abs(error) > std::abs(largest)) largest = error;
          mean += error / (n * n);
        }
        print({{"factors", positive ? "positive" : "signed"},
               {"by", by},
               {"K", K},
               {"largest", largest},
               {"mean", mean}});
      };
      row("mma, one sum", [&](float* out) {
        matmul_tensor_core<Major::mn, Major::mn>(AccumulateEpilogue{out, n}, static_cast<const bf16*>(a[0]),
                                                 static_cast<const bf16*>(b[0]), n, n, K, K, timer.stream());
      });
      const bench::Buffers<uint8_t> scratch(1, matmul_backward_scratch(K, n, n), 0, 0);
      for (const Tier& tier : kTiers) {
        row(tier.tier == MatmulTier::cublaslt ? "cuBLASLt" : "kernels/, in parts", [&](float* out) {
          matmul_backward<bf16>(nullptr, out, nullptr, scratch[0], a[0], b[0], nullptr, nullptr, K, n, n,
                                MatmulMode{tier.tier, false}, timer.stream());
        });
      }
    }
  }
}

}  // namespace rates
