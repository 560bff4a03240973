// Shared by the files with the ladders: buffers, checks, the list of ladders.
#include <algorithm>
#include <stdexcept>

#include "dev/bench/bench.h"
#include "kernels/philox.h"
#include "llm/support/error.h"

namespace bench {

namespace {

// Standard normals times scale, two per Box-Muller pair and four per thread: element i depends only on seed, set and i.
template <class T>
__global__ void fill_kernel(T* out, float scale, uint64_t seed, uint64_t sequence, int64_t n) {
  const int64_t index = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (index * 4 >= n) return;
  const Philox4 random = philox4(seed, sequence, index);
  float x[4];
#pragma unroll
  for (int k = 0; k < 4; k += 2) {
    const float u1 = (static_cast<float>(random.word[k] >> 8) + 0.5f) * 0x1p-24f;  // never 0
    const float radius = scale * sqrtf(-2 * logf(u1)), angle = 6.2831853f * uniform_from_bits(random.word[k + 1]);
    x[k] = radius * cosf(angle);
    x[k + 1] = radius * sinf(angle);
  }
#pragma unroll
  for (int k = 0; k < 4; ++k) {
    if (index * 4 + k < n) out[index * 4 + k] = from_float<T>(x[k]);
  }
}

template <class T>
constexpr bool can_be_random = std::is_same_v<T, float> || std::is_same_v<T, bf16>;

}  // namespace

int Problem::sets(double bytes) const {
  if (!on_gpu_) return 1;
  return std::max(1, static_cast<int>(2 * static_cast<double>(cache_bytes_) / std::max(bytes, 1.0)) + 1);
}

// ---- buffers -------------------------------------------------------------------------------------------------------

template <class T>
Buffers<T>::Buffers(int sets, int64_t n, uint64_t seed, double scale) : n_(n) {
  if (scale != 0 && !can_be_random<T>) throw std::logic_error("Buffers: only float and bf16 can be random");
  for (int set = 0; set < sets; ++set) {
    T* data = nullptr;
    CUDA_CHECK(cudaMalloc(&data, std::max<int64_t>(n, 1) * sizeof(T)));
    data_.push_back(data);
    if constexpr (can_be_random<T>) {
      if (scale != 0) {
        launch(fill_kernel<T>, grid_for(ceil_div<int64_t>(n, 4), 256), 256, 0, nullptr, data, static_cast<float>(scale),
               seed, static_cast<uint64_t>(set), n);
        continue;
      }
    }
    CUDA_CHECK(cudaMemset(data, 0, n * sizeof(T)));
  }
  CUDA_CHECK(cudaDeviceSynchronize());
}

template <class T>
Buffers<T>::~Buffers() {
  for (T* data : data_) cudaFree(data);
}

template <class T>
std::vector<T> Buffers<T>::host(int set, int64_t begin, int64_t n) const {
  if (begin < 0 || n < 0 || begin + n > n_) throw std::logic_error("Buffers::host: a part out of range");
  CUDA_CHECK(cudaDeviceSynchronize());
  std::vector<T> values(n);
  CUDA_CHECK(cudaMemcpy(values.data(), data_.at(set) + begin, n * sizeof(T), cudaMemcpyDeviceToHost));
  return values;
}

template <class T>
void Buffers<T>::write(int set, const std::vector<T>& values) const {
  if (static_cast<int64_t>(values.size()) != n_) throw std::logic_error("Buffers::write: a different size");
  CUDA_CHECK(cudaMemcpy(data_.at(set), values.data(), n_ * sizeof(T), cudaMemcpyHostToDevice));
}

template <class T>
void Buffers<T>::copy(int set, const Buffers& from) const {
  if (from.n_ != n_) throw std::logic_error("Buffers::copy: a different size");
  CUDA_CHECK(cudaMemcpy(data_.at(set), from[0], n_ * sizeof(T), cudaMemcpyDeviceToDevice));
  CUDA_CHECK(cudaDeviceSynchronize());
}

template <class T>
void Buffers<T>::poison(int set) const {
  CUDA_CHECK(cudaMemset(data_.at(set), 0xFF, n_ * sizeof(T)));
  CUDA_CHECK(cudaDeviceSynchronize());
}

template class Buffers<float>;
template class Buffers<bf16>;
template class Buffers<double>;
template class Buffers<int32_t>;
template class Buffers<int8_t>;
template class Buffers<uint8_t>;

// ---- checks --------------------------------------------------------------------------------------------------------

std::vector<Rows> sample_rows(int64_t N, int64_t most) {
  if (N <= most) return {{0, N}};
  const int64_t count = std::max<int64_t>(1, most / 4);
  std::vector<Rows> rows;
  for (int place = 0; place < 4; ++place) rows.push_back({(N - count) * place / 3, count});
  return rows;
}

template <class T>
std::vector<double> to_doubles(const std::vector<T>& stored) {
  std::vector<double> values(stored.size());
  for (size_t i = 0; i < stored.size(); ++i) {
    if constexpr (std::is_same_v<T, bf16>) {
      values[i] = __bfloat162float(stored[i]);
    } else {
      values[i] = static_cast<double>(stored[i]);
    }
  }
  return values;
}

template <class T>
void check_close(const char* name, const std::vector<T>& actual, const std::vector<double>& expected, double K,
                 double slack) {
  if (actual.size() != expected.size()) {
    fail("%s: %zu elements, expected %zu", name, actual.size(), expected.size());
  }
  if (actual.empty()) return;
  constexpr double roundoff = std::is_same_v<T, double> ? 0x1p-53 : std::is_same_v<T, float> ? 0x1p-24 : 0x1p-8;
  double squares = 0;
  for (const double x : expected) squares += x * x;
  constexpr double in_sums = std::is_same_v<T, double> ? 0x1p-53 : 0x1p-24;
  const double sums = 4 * in_sums * std::sqrt(K) * std::sqrt(squares / static_cast<double>(expected.size())) + slack;
  const std::vector<double> values = to_doubles(actual);
  double worst = 0;
  size_t worst_i = 0;
  for (size_t i = 0; i < values.size(); ++i) {
    const double error = std::abs(values[i] - expected[i]) / (sums + roundoff * std::abs(expected[i]) + 1e-30);
    if (!(error <= worst)) {  // NaN: the worst, and stays so
      worst = error;
      worst_i = i;
      if (std::isnan(error)) break;
    }
  }
  if (!(worst <= 1)) {
    fail("%s differs from the CPU twin: element %zu of %zu is %.9g, expected %.9g (%.3g times the tolerance)", name,
         worst_i, values.size(), values[worst_i], expected[worst_i], worst);
  }
}

template std::vector<double> to_doubles(const std::vector<float>&);
template std::vector<double> to_doubles(const std::vector<bf16>&);
template std::vector<double> to_doubles(const std::vector<double>&);
template void check_close(const char*, const std::vector<float>&, const std::vector<double>&, double, double);
template void check_close(const char*, const std::vector<bf16>&, const std::vector<double>&, double, double);
template void check_close(const char*, const std::vector<double>&, const std::vector<double>&, double, double);

// ---- the list ------------------------------------------------------------------------------------------------------

namespace {
std::vector<Registered>& list() {
  static std::vector<Registered> ladders;  // made by the first registration, in whichever file
  return ladders;
}
}  // namespace

Register::Register(const char* operation, MakeLadder make) { list().push_back({operation, std::move(make)}); }

std::vector<Registered> registered() {
  static const char* const kOrder[] = {"residual_forward", "gelu",  "dropout", "layernorm", "embedding", "classifier",
                                       "global_norm",      "adamw", "matmul",  "muon",      "attention"};
  const auto place = [](const Registered& ladder) {
    return std::find_if(std::begin(kOrder), std::end(kOrder),
                        [&](const char* begin) { return ladder.operation.rfind(begin, 0) == 0; }) -
           std::begin(kOrder);
  };
  std::vector<Registered> ladders = list();
  // Order: within a file that of registration; between files of the same operations the linker's order, given by CMake.
  std::stable_sort(ladders.begin(), ladders.end(),
                   [&](const Registered& a, const Registered& b) { return place(a) < place(b); });
  return ladders;
}

}  // namespace bench
