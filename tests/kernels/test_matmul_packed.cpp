// The definition of the products with packed weights; test_matmul_packed_fast.cpp compares the fast ones with it.
#include "kernels/matmul.h"
#include "kernels/matmul_packed.h"
#include "tests/helpers/finite_differences.h"

TEST_CASE("a row becomes integers and a scale, whose largest stands for its largest value") {
  std::vector<int32_t> q(5);
  const Floats row = {0.5f, -2, 1, 0, 1.999f};
  CHECK(cpu::quantize_row(q.data(), row.data(), 5, 127) == 2.0f / 127);
  CHECK(q == std::vector<int32_t>{32, -127, 64, 0, 127});  // 31.75, 63.5: ties to even
  CHECK(cpu::quantize_row(q.data(), Floats(5, 0.0f).data(), 5, 127) == 0);
  CHECK(q == std::vector<int32_t>(5, 0));
  for (const float bad : {std::nanf(""), INFINITY, -INFINITY}) {
    Floats damaged = row;
    damaged[3] = bad;
    CHECK(std::isnan(cpu::quantize_row(q.data(), damaged.data(), 5, 127)));
    CHECK(q == std::vector<int32_t>(5, 0));
  }
  // So small that its inverse is infinite: it counts as zero.
  CHECK(cpu::quantize_row(q.data(), Floats(5, 1e-42f).data(), 5, 127) == 0);
  // An error of half a step at most, and what float adds to it at 32,512 steps.
  const Floats many = random_tensor<float>(1000, 3);
  q.resize(1000);
  const float scale = cpu::quantize_row(q.data(), many.data(), 1000, 32512);
  Floats back;
  for (const int32_t x : q) back.push_back(static_cast<float>(x) * scale);
  CHECK(max_difference(back, many) <= 0.503 * static_cast<double>(scale));
}

TEST_CASE("products with packed weights are those of a linear layer, as exact as the type of their weights") {
  const int N = 3, C = 70, OC = 9;
  const Floats inp = random_tensor<float>(N * C, 1), weight = random_tensor<float>(OC * C, 2),
               bias = random_tensor<float>(OC, 3), residual = random_tensor<float>(N * OC, 4);
  Floats exact(N * OC), out(N * OC);
  cpu::matmul_forward(exact.data(), inp.data(), weight.data(), bias.data(), N, C, OC);
  const double size = std::sqrt(C) / 3;  // rms of the sums
  const auto multiply = [&](cpu::WeightType type, const cpu::Finish& finish) {
    cpu::matmul_packed(out.data(), inp.data(), weight.data(), finish, type, N, C, OC);
  };
  multiply(cpu::WeightType::f32, {.bias = bias.data()});
  CHECK(max_difference(out, exact) <= sum_tolerance<float>(C, size));
  multiply(cpu::WeightType::bf16, {.bias = bias.data()});
  const double bf16_error = max_difference(out, exact);
  CHECK(bf16_error <= 4 * 2 * 0x1p-9 * size);
  CHECK(bf16_error > 1e-4 * size);
  multiply(cpu::WeightType::int8, {.bias = bias.data()});
  const double int8_error = max_difference(out, exact);
  CHECK(int8_error <= 4 * size / 127 / std::sqrt(12) * std::sqrt(3));  // weights are off by a uniform part of a step
  CHECK(int8_error > 1e-4 * size);

  multiply(cpu::WeightType::f32, {.bias = bias.data(), .gelu = true, .residual = residual.data()});
  cpu::gelu_forward(exact.data(), exact.data(), N * OC);
  for (size_t i = 0; i < exact.size(); ++i) exact[i] += residual[i];
  CHECK(max_difference(out, exact) <= sum_tolerance<float>(C, size));
}
