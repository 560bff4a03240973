// Products with few rows, compared with the sums in double of the numbers that the weights stand for.
#include "kernels/gelu.h"
#include "kernels/matmul_packed.cuh"
#include "kernels/matmul_packed.h"
#include "tests/helpers/device.h"

namespace {

template <class floatX, class Weight>
inline constexpr bool kOnTensorCores = std::is_same_v<floatX, bf16> && !std::is_same_v<Weight, float>;

struct Terms {  // of a Finish
  bool bias, gelu, residual;
};
constexpr Terms kAll = {true, true, true};

template <class floatX, class Weight>
struct Layer {
  int N, C, OC;
  std::vector<floatX> inp, bias, residual;
  std::vector<Weight> weight;
  Floats scales;    // of int8 weights
  Doubles numbers;  // that the weights stand for

  Layer(int N_, int C_, int OC_)
      : N(N_),
        C(C_),
        OC(OC_),
        inp(random_storage<floatX>(size_t(N) * C, 1)),
        bias(random_storage<floatX>(OC, 2)),
        residual(random_storage<floatX>(size_t(N) * OC, 3)) {
    Floats exact = random_tensor<float>(size_t(OC) * C, 4);
    if constexpr (std::is_same_v<Weight, int8_t>) {
      for (int o = 0; o < OC; ++o) {
        float* row = exact.data() + size_t(o) * C;
        for (int c = 0; c < C; ++c) row[c] *= 0.25f * static_cast<float>(1 + o % 7);  // scales differ
        std::vector<int32_t> q(C);
        scales.push_back(cpu::quantize_row(q.data(), row, C, cpu::kMaxWeight));
        for (const int32_t x : q) {
          weight.push_back(static_cast<int8_t>(x));
          numbers.push_back(static_cast<double>(x) * scales.back());
        }
      }
    } else {
      weight = to_storage<Weight>(exact);
      numbers = to_numbers(weight);
    }
  }

  // One call for rows first to first + rows of inp (rows = 0: all of them), with tensors unaligned as `shift` has it.
  std::vector<floatX> run(Terms terms, Shift shift = {-1, false}, int first = 0, int rows = 0,
                          bool in_place = false) const {
    if (rows == 0) rows = N;
    const auto part = [&](const std::vector<floatX>& all, int width) {
      return std::vector<floatX>(all.begin() + size_t(first) * width, all.begin() + size_t(first + rows) * width);
    };
    const DeviceArray<floatX> dinp(part(inp, C), shift[1]), dbias(bias, shift[4]),
        dresidual(part(residual, OC), shift[5]);
    const DeviceArray<Weight> dweight(weight, shift[2]);
    const DeviceArray<float> dscales(scales, shift[3]);
    const GuardedArray<floatX> out(in_place ? part(residual, OC) : to_storage<floatX>(Floats(size_t(rows) * OC, NAN)),
                                   shift[0]);
    const floatX* added = in_place ? out.data() : dresidual.data();
    matmul_packed(out.data(), dinp.data(), dweight.data(), scales.empty() ? nullptr : dscales.data(),
                  {terms.bias ? dbias.data() : nullptr, terms.gelu, terms.residual ? added : nullptr}, rows, C, OC,
                  nullptr);
    return out.host();
  }

  void check(Terms terms, const std::vector<floatX>& actual) const {
    const Doubles x = to_numbers(inp), b = to_numbers(bias), r = to_numbers(residual), a = to_numbers(actual);
    REQUIRE(a.size() == size_t(N) * OC);
    Doubles sums(a.size());
    for (size_t i = 0; i < sums.size(); ++i) {
      const double *row = &x[i / OC * C], *w = &numbers[i % OC * C];
      for (int c = 0; c < C; ++c) sums[i] += row[c] * w[c];
    }
    Doubles expected = sums;
    for (size_t i = 0; i < sums.size() && terms.bias; ++i) expected[i] += b[i % OC];
    if (terms.gelu) cpu::gelu_forward(expected.data(), expected.data(), static_cast<int64_t>(sums.size()));
    for (size_t i = 0; i < sums.size() && terms.residual; ++i) expected[i] += r[i];
    // Four roundings follow the sum: scale and bias, two of GELU (4 u of it), the residual. GELU's slope is at
    // most 1.13.
    const double size = std::max(rms(sums), rms(expected)), slope = terms.gelu ? 1.13 : 1;
    Worst worst;
    for (size_t i = 0; i < a.size(); ++i) {
      const double cut = kOnTensorCores<floatX, Weight> ? truncation_tolerance(C, sums[i], rms(sums)) : 0;
      const double tolerance =
          slope * (sum_tolerance<float>(C + 4, size) + cut) + unit_roundoff<floatX>() * std::abs(expected[i]) + 1e-30;
      worst.see(std::abs(a[i] - expected[i]) / tolerance, i);
    }
    INFO("element ", worst.i, " of ", a.size(), ": ", a[worst.i], ", expected ", expected[worst.i]);
    CHECK(worst.error <= 1);
  }
};

// work(floatX(), Weight()) for all types of inputs and weights.
template <class Work>
void for_all_types(Work&& work) {
  const auto with = [&](const char* types, auto x, auto w) {
    CAPTURE(types);
    work(x, w);
  };
  with("float, float", float(), float());
  with("float, bf16", float(), bf16());
  with("float, int8", float(), int8_t());
  with("bf16, float", bf16(), float());
  with("bf16, bf16", bf16(), bf16());
  with("bf16, int8", bf16(), int8_t());
}

// What a launcher starts for these sizes and pointers.
template <class floatX, class Weight>
DryRun::Launch launched(int N, int C, int OC, uintptr_t inp = 4096, uintptr_t weight = 4096) {
  DryRun dry;
  matmul_packed<floatX, Weight>(nullptr, reinterpret_cast<floatX*>(inp), reinterpret_cast<Weight*>(weight), nullptr,
                                {nullptr, false, nullptr}, N, C, OC, nullptr);
  REQUIRE(dry.operations.size() == 1);
  CHECK(dry.operations[0].name == "matmul_packed");
  return dry.operations[0].launches.at(0);
}

}  // namespace

TEST_CASE("matmul_packed takes the kernel for this many rows, 16 bytes at a time where rows allow it") {
  for (const auto& [N, columns] : std::vector<std::pair<int, int>>{{1, 1}, {2, 4}, {4, 4}, {5, 8}, {8, 8}, {9, 8}}) {
    CAPTURE(N);
    const std::string kernel = "matmul_packed_plain_kernel<float, float, " + std::to_string(columns) + ", true>";
    CHECK(launched<float, float>(N, 64, 17) == DryRun::Launch{kernel, 3 * ceil_div(N, columns), 256, 0});
  }
  struct Choice {
    int N, C, OC;
    const char* kernel;  // its tiles of 8 rows of inp, and packs ahead
    int sweeps;
  };
  const Choice choices[] = {{1, 64, 33, "1, 4", 1},     {8, 64, 33, "1, 4", 1},    {9, 64, 33, "4, 2", 1},
                            {32, 64, 33, "4, 2", 1},    {33, 64, 33, "4, 2", 2},   {1, 1024, 33, "1, 4", 1},
                            {1, 1032, 33, "1, 8", 1},   {8, 1032, 33, "1, 8", 1},  {9, 1032, 33, "4, 2", 1},
                            {1, 1032, 2112, "1, 8", 1}, {1, 1032, 2113, "1, 4", 1}};
  for (const Choice& c : choices) {
    CAPTURE(c.N);
    CAPTURE(c.C);
    CAPTURE(c.OC);
    const std::string kernel = "matmul_packed_tensor_core_kernel<__nv_bfloat16, " + std::string(c.kernel) + ", true>";
    CHECK(launched<bf16, bf16>(c.N, c.C, c.OC) == DryRun::Launch{kernel, ceil_div(c.OC, 16) * c.sweeps, 256, 0});
  }
  CHECK(launched<bf16, int8_t>(1, 4096, 1).kernel == "matmul_packed_tensor_core_kernel<signed char, 1, 4, true>");
  CHECK(launched<bf16, int8_t>(9, 4096, 1).kernel == "matmul_packed_tensor_core_kernel<signed char, 4, 1, true>");
  const auto vector = [](const DryRun::Launch& launch) { return launch.kernel.ends_with("true>"); };
  CHECK(launched<bf16, float>(1, 4, 1).kernel == "matmul_packed_plain_kernel<__nv_bfloat16, float, 1, true>");
  CHECK(launched<float, bf16>(1, 8, 1).kernel == "matmul_packed_plain_kernel<float, __nv_bfloat16, 1, true>");
  CHECK(launched<float, int8_t>(1, 16, 1).kernel == "matmul_packed_plain_kernel<float, signed char, 1, true>");
  CHECK(!vector(launched<float, float>(1, 6, 1)));
  CHECK(!vector(launched<bf16, bf16>(1, 12, 1)));
  CHECK(!vector(launched<float, int8_t>(1, 24, 1)));
  CHECK(!vector(launched<float, float>(1, 64, 1, 4100)));
  CHECK(!vector(launched<float, float>(1, 64, 1, 4096, 4100)));
}

TEST_CASE("matmul_packed equals the sums of what the weights stand for, all types, any size") {
  struct Size {
    int N, C, OC;
  };
  const Size sizes[] = {{3, 64, 24},   {1, 1, 1},  {9, 33, 17}, {8, 768, 40}, {2, 1000, 5}, {1, 2112, 16},
                        {33, 256, 33}, {17, 7, 1}, {1, 31, 64}, {5, 4112, 9}, {4, 128, 8},  {40, 65, 50}};
  for_all_types([&](auto x, auto w) {
    for (const Size& s : in_set(sizes, 5)) {
      CAPTURE(s.N);
      CAPTURE(s.C);
      CAPTURE(s.OC);
      const Layer<decltype(x), decltype(w)> layer(s.N, s.C, s.OC);
      layer.check({false, false, false}, layer.run({false, false, false}));
      layer.check(kAll, layer.run(kAll));
    }
  });
}

TEST_CASE("matmul_packed adds the bias, takes GELU and adds the residual, each if asked") {
  for_all_types([](auto x, auto w) {
    const Layer<decltype(x), decltype(w)> layer(10, 48, 20);
    for (int which = 0; which < 8; ++which) {
      CAPTURE(which);
      const Terms terms = {(which & 1) != 0, (which & 2) != 0, (which & 4) != 0};
      layer.check(terms, layer.run(terms));
    }
    CHECK(same_bits(layer.run(kAll, {-1, false}, 0, 0, true), layer.run(kAll)));  // the residual is out
  });
}

TEST_CASE("matmul_packed gives the same bits for unaligned tensors") {
  for_all_types([](auto x, auto w) {
    for (const int C : {64, 1040}) {
      CAPTURE(C);
      const Layer<decltype(x), decltype(w)> layer(10, C, 20);
      const auto aligned = layer.run(kAll);
      for (const Shift shift : shifts(6, C == 64)) {
        CAPTURE(shift.tensor);
        CAPTURE(shift.all);
        CHECK(same_bits(layer.run(kAll, shift), aligned));
      }
    }
  });
}

TEST_CASE("matmul_packed gives a row the same bits whatever the other rows are, and wherever it is") {
  struct Part {
    int first, rows;
  };
  const Part parts[] = {{0, 1}, {39, 1}, {7, 2}, {20, 3}, {5, 4}, {11, 5}, {1, 8}, {30, 9}, {21, 17}, {3, 33}};
  for_all_types([&](auto x, auto w) {
    for (const int C : {336, 75, 2080}) {
      CAPTURE(C);
      const Layer<decltype(x), decltype(w)> layer(40, C, 21);
      const auto all = layer.run(kAll);
      for (const Part& part : parts) {
        CAPTURE(part.first);
        CAPTURE(part.rows);
        const auto begin = all.begin() + part.first * layer.OC;
        CHECK(same_bits(layer.run(kAll, {-1, false}, part.first, part.rows),
                        std::vector(begin, begin + part.rows * layer.OC)));
      }
    }
  });
}

TEST_CASE("matmul_packed passes on infinities and NaNs of a row, and of no other") {
  for_all_types([](auto x, auto w) {
    Layer<decltype(x), decltype(w)> layer(3, 80, 18);
    const auto before = layer.run(kAll);
    for (const float bad : {NAN, INFINITY}) {
      layer.inp[80 + 77] = from_float<decltype(x)>(bad);
      const auto after = layer.run({true, false, true});
      const Doubles numbers = to_numbers(after);
      for (int o = 0; o < 18; ++o) CHECK(!std::isfinite(numbers[18 + o]));
      const auto again = layer.run(kAll);
      for (const int row : {0, 2}) {
        CHECK(same_bits(std::vector(again.begin() + row * 18, again.begin() + row * 18 + 18),
                        std::vector(before.begin() + row * 18, before.begin() + row * 18 + 18)));
      }
    }
  });
}

TEST_CASE("matmul_packed gives the same bits under all schedules") {
  for_all_types([](auto x, auto w) {
    for (const int N : {1, 4, 8, 33}) {
      CAPTURE(N);
      const Layer<decltype(x), decltype(w)> layer(N, 272, 18);
      same_under_all_schedules([&] { return layer.run(kAll); });
    }
  });
}
