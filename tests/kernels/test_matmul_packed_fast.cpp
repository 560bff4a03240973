#include "kernels/matmul_packed.h"
#include "tests/helpers/fast_kernels.h"

using cpu::WeightType;

namespace {

constexpr WeightType kTypes[] = {WeightType::f32, WeightType::bf16, WeightType::int8};

// A matrix in the form of one instruction set.
struct Packed {
  Packed(const cpu::DecodeKernels& kernels, WeightType type, const Floats& weight, int OC, int C)
      : k(kernels),
        words(static_cast<size_t>(k.packed_words(type, OC, C))),
        scales(static_cast<size_t>(OC) + 64),
        matrix{type, OC, C, words.data(), scales.data()} {
    k.pack_matrix(matrix, weight.data());
  }
  // Rows [first, first + N) of inp, in `parts` ranges of panels, as threads divide them.
  Floats multiply(const Floats& inp, const cpu::Finish& finish, int first, int N, int parts = 1) const {
    const int64_t stride = k.input_stride(matrix.type, matrix.C);
    std::vector<uint32_t> x(static_cast<size_t>(N * stride));
    Floats x_scales(static_cast<size_t>(N)), out(static_cast<size_t>(N) * matrix.OC + 1, std::nanf(""));
    std::vector<int32_t> start(2 * static_cast<size_t>(N));
    const cpu::PackedRows rows{x.data(), stride, x_scales.data(), start.data()};
    for (int n = 0; n < N; ++n) {
      k.pack_input(rows, inp.data() + static_cast<int64_t>(first) * matrix.C, matrix.type, n, matrix.C);
    }
    cpu::Finish part = finish;
    if (part.residual) part.residual += static_cast<int64_t>(first) * matrix.OC;
    const int panels = k.panels_of(matrix.OC);
    for (int p = 0; p < parts; ++p) {
      k.multiply(out.data(), rows, matrix, part, N, panels * p / parts, panels * (p + 1) / parts);
    }
    CHECK(std::isnan(out.back()));  // nothing is written beyond the end
    out.pop_back();
    return out;
  }

  const cpu::DecodeKernels& k;
  std::vector<uint32_t> words;
  Floats scales;
  cpu::PackedMatrix matrix;
};

struct Sizes {
  int N, C, OC;
};

}  // namespace

TEST_CASE("fast products with packed weights are those of the definition, at any size") {
  const Sizes shapes[] = {{1, 1, 1},    {1, 2, 33},    {2, 3, 31},    {3, 64, 32},   {5, 7, 100},
                          {7, 33, 40},  {8, 129, 65},  {14, 130, 31}, {15, 96, 96},  {29, 1030, 33},
                          {4, 3000, 5}, {40, 401, 70}, {260, 40, 34}, {257, 800, 3}, {300, 5, 1}};
  for (const auto [N, C, OC] : shapes) {
    CAPTURE(N);
    CAPTURE(C);
    CAPTURE(OC);
    const size_t out_size = static_cast<size_t>(N) * static_cast<size_t>(OC);
    const Floats inp = random_tensor<float>(static_cast<size_t>(N) * static_cast<size_t>(C), 1),
                 weight = random_tensor<float>(static_cast<size_t>(OC) * static_cast<size_t>(C), 2),
                 bias = random_tensor<float>(static_cast<size_t>(OC), 3), residual = random_tensor<float>(out_size, 4);
    const cpu::Finish finishes[] = {
        {}, {.bias = bias.data()}, {.bias = bias.data(), .gelu = true}, {.residual = residual.data()}};
    for (const WeightType type : kTypes) {
      for (const cpu::Finish& finish : finishes) {
        Floats exact(out_size);
        cpu::matmul_packed(exact.data(), inp.data(), weight.data(), finish, type, N, C, OC);
        for_each_decode([&](const cpu::DecodeKernels& kernels) {
          const Packed packed(kernels, type, weight, OC, C);
          const Floats out = packed.multiply(inp, finish, 0, N);
          // int8: both compute the same integers, and round once or twice more.
          const double size = std::sqrt(C) / 3 + 1, K = type == WeightType::int8 ? 4 : C + 2;
          // Without the instruction for it, only the weights are rounded to bf16.
          const bool exact_inputs = type == WeightType::bf16 && &kernels != cpu::decode_kernels(cpu::Isa::avx512_bf16);
          CHECK(max_difference(out, exact) <= sum_tolerance<float>(K, size) + (exact_inputs ? 4 * 0x1p-9 * size : 0));
          CHECK(same_bits(out, packed.multiply(inp, finish, 0, N, 3)));
        });
      }
    }
  }
}

TEST_CASE("a row of a product with packed weights has the same bits whatever the other rows are") {
  const int N = 300, C = 903, OC = 70;
  const Floats inp = random_tensor<float>(N * C, 1, 3), weight = random_tensor<float>(OC * C, 2),
               bias = random_tensor<float>(OC, 3), residual = random_tensor<float>(N * OC, 4);
  const cpu::Finish finish{.bias = bias.data(), .gelu = true, .residual = residual.data()};
  for_each_decode([&](const cpu::DecodeKernels& kernels) {
    for (const WeightType type : kTypes) {
      const Packed packed(kernels, type, weight, OC, C);
      const Floats all = packed.multiply(inp, finish, 0, N);
      const auto check = [&](int first, int rows) {
        CAPTURE(first);
        CAPTURE(rows);
        const Floats some = packed.multiply(inp, finish, first, rows);
        CHECK(same_bits(some, Floats(all.begin() + first * OC, all.begin() + (first + rows) * OC)));
      };
      for (const int first : {0, 1, 13, 14, 255, 256, 299}) check(first, 1);
      for (const int rows : {2, 3, 4, 5, 7, 8, 13, 14, 15, 27, 40, 255, 256, 257}) check(3, rows);
    }
  });
}

TEST_CASE("rows of packed weights can be read back") {
  const int C = 37, OC = 41;
  const Floats weight = random_tensor<float>(OC * C, 2, 5);
  for_each_decode([&](const cpu::DecodeKernels& kernels) {
    for (const WeightType type : kTypes) {
      const Packed packed(kernels, type, weight, OC, C);
      for (const int o : {0, 1, 31, 32, 40}) {
        Floats row(C), expected(weight.begin() + o * C, weight.begin() + (o + 1) * C);
        std::vector<int32_t> q(C);
        const float scale = cpu::quantize_row(q.data(), expected.data(), C, cpu::kMaxWeight);
        for (size_t c = 0; c < expected.size(); ++c) {
          if (type == WeightType::bf16) expected[c] = cpu::round_to_nearest(expected[c]);
          if (type == WeightType::int8) expected[c] = static_cast<float>(q[c]) * scale;
        }
        kernels.unpack_row(row.data(), packed.matrix, o);
        CHECK(same_bits(row, expected));
      }
    }
  });
}

TEST_CASE("an input that is not finite makes its own outputs NaN or infinite, and no others") {
  const int N = 9, C = 65, OC = 33;
  Floats inp = random_tensor<float>(N * C, 1);
  const Floats weight = random_tensor<float>(OC * C, 2);
  for_each_decode([&](const cpu::DecodeKernels& kernels) {
    for (const WeightType type : kTypes) {
      const Packed packed(kernels, type, weight, OC, C);
      const Floats clean = packed.multiply(inp, {}, 0, N);
      for (const float bad : {std::nanf(""), INFINITY}) {
        Floats damaged = inp;
        damaged[4 * C + 64] = bad;
        const Floats out = packed.multiply(damaged, {}, 0, N);
        for (int n = 0; n < N; ++n) {
          for (int o = 0; o < OC; ++o) {
            const size_t i = static_cast<size_t>(n * OC + o);
            if (n == 4) CHECK(!std::isfinite(out[i]));
            if (n != 4) CHECK(out[i] == clean[i]);
          }
        }
      }
    }
  });
}

TEST_CASE("inputs of zeros, and ones too small for a scale, count as zeros in int8") {
  const Floats weight = random_tensor<float>(5 * 8, 2), bias = random_tensor<float>(5, 3);
  for_each_decode([&](const cpu::DecodeKernels& kernels) {
    const Packed packed(kernels, WeightType::int8, weight, 5, 8);
    for (const float x : {0.0f, 1e-42f}) {
      CHECK(same_bits(packed.multiply(Floats(8, x), {.bias = bias.data()}, 0, 1), bias));
    }
  });
}
