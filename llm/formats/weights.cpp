#include "llm/formats/weights.h"

#include <algorithm>
#include <atomic>
#include <bit>
#include <cmath>
#include <cstring>

#include "llm/formats/float16.h"
#include "llm/support/error.h"
#include "llm/support/file.h"
#include "llm/support/json.h"

const char* dtype_name(Dtype dtype) { return dtype == Dtype::f32 ? "F32" : dtype == Dtype::f16 ? "F16" : "BF16"; }

std::optional<Dtype> find_dtype(const std::string& name) {
  for (const Dtype dtype : {Dtype::f32, Dtype::f16, Dtype::bf16}) {
    if (name == dtype_name(dtype)) return dtype;
  }
  return std::nullopt;
}

// ---- one tensor between memory and file ----------------------------------------------------------------------------

std::vector<ParamTensor> file_table(const ModelConfig& config) {
  ModelConfig with_bias = config;
  with_bias.qkv_bias = true;
  return param_table(with_bias);
}

bool only_in_files(const ModelConfig& config, const ParamTensor& tensor) {
  return !config.qkv_bias && tensor.role == Role::bias && tensor.stacked > 1;
}

const float* view_or_read(const Weights& weights, const ParamTensor& tensor, std::vector<float>& memory) {
  const bool there = !only_in_files(weights.config, tensor);
  if (const float* values = there ? weights.view(tensor) : nullptr) return values;
  memory.assign(static_cast<size_t>(tensor.size()), 0.0f);
  if (there) weights.read(tensor, memory.data());
  return memory.data();
}

std::vector<int64_t> file_shape(const ParamTensor& tensor) {
  if (tensor.vector()) return {tensor.file_size()};
  if (tensor.transposed) return {tensor.cols, tensor.rows};
  return {tensor.file_rows, tensor.cols};
}

namespace {

constexpr int64_t kPiece = 1 << 18;  // elements that are converted at a time

// out (cols, rows) = inp (rows, cols), whose element i is at(i). Tile by tile, so that both sides stay in the cache;
// done(begin, end) is called, by any thread, when these elements of `out` have been written.
template <class At, class Done>
void transpose(float* out, int64_t rows, int64_t cols, At at, Done done) {
  constexpr int64_t kTile = 32;
#pragma omp parallel for schedule(static) if (rows * cols > 65536)
  for (int64_t c0 = 0; c0 < cols; c0 += kTile) {
    for (int64_t r0 = 0; r0 < rows; r0 += kTile) {
      for (int64_t c = c0; c < std::min(cols, c0 + kTile); ++c) {
        for (int64_t r = r0; r < std::min(rows, r0 + kTile); ++r) out[c * rows + r] = at(r * cols + c);
      }
    }
    done(c0 * rows, std::min(cols, c0 + kTile) * rows);
  }
}

// Whether one of the values is NaN or infinite: its exponent's bits are all ones. Compilers vectorise it.
bool any_not_finite(const float* values, int64_t n) {
  uint32_t found = 0;
  for (int64_t i = 0; i < n; ++i) found |= (std::bit_cast<uint32_t>(values[i]) & 0x7F800000u) == 0x7F800000u;
  return found != 0;
}

template <class Bits>
Bits load_bits(const std::byte* from, int64_t i) {  // tensors in a file need not be aligned
  Bits bits;
  std::memcpy(&bits, from + i * static_cast<int64_t>(sizeof bits), sizeof bits);
  return bits;
}

}  // namespace

void fail_not_finite(float value, int64_t i, const ParamTensor& tensor, const std::string& where) {
  const std::vector<int64_t> shape = file_shape(tensor);
  const std::string at = shape.size() == 1 ? std::to_string(i)
                                           : strprintf("%lld, %lld", static_cast<long long>(i / shape[1]),
                                                       static_cast<long long>(i % shape[1]));
  fail("%s: value [%s] is %s, expected finite numbers; the weights are damaged: take another copy or checkpoint",
       where.c_str(), at.c_str(), std::isnan(value) ? "NaN" : "infinite");
}

void from_file(float* out, std::span<const std::byte> bytes, Dtype dtype, const ParamTensor& tensor,
               const std::string& where) {
  const std::byte* from = bytes.data();
  const auto convert = [&](auto at) {
    const int64_t n = tensor.file_size(), size = element_bytes(dtype);
    std::atomic<bool> damaged = false;
    const auto check = [&](int64_t begin, int64_t end) {  // of `out`, while it is in the cache
      if (!where.empty() && any_not_finite(out + begin, end - begin)) damaged = true;
    };
    const auto find_damage = [&] {
      for (int64_t i = 0; damaged && i < n; ++i) {
        if (const float value = at(i); !std::isfinite(value)) fail_not_finite(value, i, tensor, where);
      }
    };
    if (tensor.transposed) {
      transpose(out, tensor.cols, tensor.rows, at, check);
      find_damage();
      drop_pages(bytes);
      return;
    }
    for (int64_t begin = 0; begin < n; begin += kPiece) {
      const int64_t end = std::min(n, begin + kPiece);
      for (int64_t i = begin; i < end; ++i) out[i] = at(i);
      check(begin, end);
      find_damage();
      drop_pages(bytes.first(static_cast<size_t>(end * size)));
    }
    std::fill(out + n, out + tensor.size(), 0.0f);
  };
  switch (dtype) {
    case Dtype::f32:
      return convert([&](int64_t i) { return load_bits<float>(from, i); });
    case Dtype::f16:
      return convert([&](int64_t i) { return float_from_f16(load_bits<uint16_t>(from, i)); });
    case Dtype::bf16:
      return convert([&](int64_t i) { return float_from_bf16(load_bits<uint16_t>(from, i)); });
  }
}

Dtype check_view(const TensorView& view, const std::vector<int64_t>& shape, const std::string& where) {
  const std::optional<Dtype> dtype = find_dtype(view.dtype);
  if (!dtype || view.shape != shape) {
    fail("%s: tensor %s is %s, expected %s", where.c_str(), in_quotes(view.name).c_str(), describe(view).c_str(),
         describe(TensorHeader{"", "F32, F16 or BF16", shape}).c_str());
  }
  return *dtype;
}

void narrow(const float* values, int64_t n, Dtype dtype, const std::string& where, const Sink& sink) {
  if (dtype == Dtype::f32) return sink(std::as_bytes(std::span(values, static_cast<size_t>(n))));
  std::vector<uint16_t> piece;
  for (int64_t begin = 0; begin < n; begin += kPiece) {
    const std::span<const float> from(values + begin, static_cast<size_t>(std::min(n - begin, kPiece)));
    piece.resize(from.size());
    for (size_t i = 0; i < from.size(); ++i) {
      piece[i] = dtype == Dtype::bf16 ? bf16_from_float(from[i]) : f16_from_float(from[i]);
      const bool half = dtype == Dtype::f16;
      const float stored = half ? float_from_f16(piece[i]) : float_from_bf16(piece[i]);
      if (std::isinf(stored) && std::isfinite(from[i])) {
        fail("%s: a value of %g, beyond the %s", where.c_str(), static_cast<double>(from[i]),
             half ? "65504 that 16-bit floats reach; bf16 holds it" : "3.39e38 that bf16 reaches; fp32 holds it");
      }
    }
    sink(std::as_bytes(std::span(piece)));
  }
}

void write_tensor(SafetensorsWriter& file, const std::string& name, const ParamTensor& tensor, const float* values,
                  Dtype dtype) {
  if (!file.own()) return file.pass(name);
  std::vector<float> transposed;
  if (tensor.transposed) {
    transposed.resize(static_cast<size_t>(tensor.size()));
    transpose(
        transposed.data(), tensor.rows, tensor.cols, [&](int64_t i) { return values[i]; }, [](int64_t, int64_t) {});
    values = transposed.data();
  }
  narrow(values, tensor.file_size(), dtype, file.path().string() + ": tensor " + in_quotes(name),
         [&](std::span<const std::byte> bytes) { file.write(name, bytes); });
}
