#include "kernels/layernorm.cuh"
#include "kernels/layernorm.h"
#include "kernels/matmul.h"
#include "tests/helpers/device.h"

namespace {

struct Sizes {
  int N, C;
};

// One channel, primes, whole and ragged packs; a warp per row and a block per row; for each type rows at and beyond the
// borders where backward takes fewer teams, more threads, and reads rows twice, and where forward reads rows again.
const Sizes kAllSizes[] = {{1, 1},      {6, 33},     {9, 64},   {5, 768},  {2, 2056},   {2, 6160},
                           {1, 12'288}, {2, 24'584}, {2, 1600}, {1, 33},   {7, 2},      {3, 67},
                           {6, 1032},   {2, 4100},   {5, 2048}, {3, 2049}, {1, 12'292}, {1, 24'579}};
const std::span<const Sizes> kSizes = in_set(kAllSizes, 9);

struct Case {
  int N, C;
  Shift shift;
  bool centred;  // layer norm; else RMSNorm
  friend std::ostream& operator<<(std::ostream& out, const Case& c) {
    const std::string unaligned = c.shift.all ? "all" : c.shift.tensor < 0 ? "none" : std::to_string(c.shift.tensor);
    return out << (c.centred ? "layer norm " : "RMSNorm ") << c.N << " x " << c.C << ", unaligned: " << unaligned;
  }
};

// Both norms of each size, aligned and not (64 channels also with one unaligned tensor).
std::vector<Case> cases(std::span<const Sizes> sizes, int tensors) {
  std::vector<Case> all;
  for (const auto [N, C] : sizes)
    for (const Shift shift : shifts(tensors, C == 64))
      for (const bool centred : {true, false}) all.push_back({N, C, shift, centred});
  return all;
}

// `rows` rows of C numbers around different means: then a row's sum is not small by chance.
template <class floatX>
std::vector<floatX> random_rows(int N, int C, uint64_t seed) {
  Floats values = random_tensor<float>(static_cast<size_t>(N) * C, seed, 2);
  for (int n = 0; n < N; ++n) {
    for (int c = 0; c < C; ++c) values[static_cast<size_t>(n) * C + c] += 0.5f + static_cast<float>(n % 3);
  }
  return to_storage<floatX>(values);
}

// As check_close(), plus 4 u of the row's `lost`, the size of the numbers that were subtracted, for cancellation.
template <class floatX>
void check_rows(const char* name, const std::vector<floatX>& actual, const Doubles& expected, double K,
                const Doubles& lost) {
  const double sums = sum_tolerance<float>(K, rms(expected));
  const Doubles a = to_numbers(actual);
  INFO(std::string(name));
  for (size_t i = 0; i < a.size(); ++i) {
    const double row_lost = lost[i / (a.size() / lost.size())];
    const double tolerance = sums + 4 * 0x1p-24 * row_lost + unit_roundoff<floatX>() * std::abs(expected[i]);
    const double error = std::abs(a[i] - expected[i]);
    if (!(error <= tolerance)) {  // REQUIRE only for the few failures: there are millions of elements
      INFO("element ", i, ", expected ", expected[i]);
      REQUIRE(error <= tolerance);
    }
  }
}

// The effect of rounding x and its mean on x - mean, in units of the spread: the largest |x| of a row times rstd.
Doubles lost_digits(const Doubles& x, const Doubles& rstd) {
  const size_t C = x.size() / rstd.size();
  Doubles lost(rstd.size());
  for (size_t i = 0; i < x.size(); ++i) lost[i / C] = std::max(lost[i / C], std::abs(x[i]) * rstd[i / C]);
  return lost;
}

Doubles product(const Doubles& a, const Doubles& b) {
  Doubles ab(a.size());
  for (size_t i = 0; i < a.size(); ++i) ab[i] = a[i] * b[i];
  return ab;
}

// Null for what RMSNorm does not have.
template <class T>
T* if_centred(bool centred, T* data) {
  return centred ? data : nullptr;
}

template <class A, class B>
void append(std::vector<A>& all, const std::vector<B>& part) {
  for (const auto x : to_numbers(part)) all.push_back(x);
}

}  // namespace

TEST_CASE_TEMPLATE("layernorm on the device against the CPU", floatX, float, bf16) {
  for (const Case& c : cases(kSizes, 4)) {
    CAPTURE(c);
    const auto [N, C, shift, centred] = c;
    const size_t NC = static_cast<size_t>(N) * C;
    const auto inp = random_rows<floatX>(N, C, 1), weight = random_storage<floatX>(C, 2),
               bias = random_storage<floatX>(C, 3);
    const Doubles x = to_numbers(inp), w = to_numbers(weight), b = to_numbers(bias);
    Doubles expected(NC), expected_mean(N), expected_rstd(N);
    cpu::layernorm_forward(expected.data(), if_centred(centred, expected_mean.data()), expected_rstd.data(), x.data(),
                           w.data(), if_centred(centred, b.data()), N, C);
    const DeviceArray<floatX> device_inp(inp, shift[0]), device_weight(weight, shift[1]), device_bias(bias, shift[2]),
        out(NC, shift[3]);
    const DeviceArray<float> mean(N, shift.all), rstd(N, shift.all);
    layernorm_forward(out.data(), if_centred(centred, mean.data()), rstd.data(), device_inp.data(),
                      device_weight.data(), if_centred(centred, device_bias.data()), N, C, nullptr);
    const Doubles lost = lost_digits(x, expected_rstd);
    check_rows("out", out.host(), expected, C, lost);
    if (centred) check_close("mean", mean.host(), expected_mean, C);
    check_rows("rstd", rstd.host(), expected_rstd, C, product(lost, expected_rstd));
  }
  for (const std::string centred : {"true>", "false>"}) {
    check_ran<floatX>("layernorm_forward_kernel<floatX, true, 32, true, " + centred);
    check_ran<floatX>("layernorm_forward_kernel<floatX, true, 256, true, " + centred);
    check_ran<floatX>("layernorm_forward_kernel<floatX, true, 256, false, " + centred);  // reads rows again
  }
}

TEST_CASE_TEMPLATE("layernorm's backward on the device against the CPU, added to the old values", floatX, float, bf16) {
  std::vector<Sizes> sizes(kSizes.begin(), kSizes.end());
  sizes.push_back(
      {32 * kLayernormBackwardBlocks + 13, 33});  // more rows than the teams of all blocks take in two turns
  sizes.push_back({2 * kLayernormBackwardBlocks + 5, 2564});  // and with one team per block
  for (const Case& c : cases(sizes, 4)) {
    CAPTURE(c);
    const auto [N, C, shift, centred] = c;
    const size_t NC = static_cast<size_t>(N) * C;
    const auto inp = random_rows<floatX>(N, C, 1), weight = random_storage<floatX>(C, 2),
               dout = random_storage<floatX>(NC, 3), before_dinp = random_storage<floatX>(NC, 4);
    const Floats before_dweight = random_tensor<float>(C, 5), before_dbias = random_tensor<float>(C, 6);
    const Doubles x = to_numbers(inp), w = to_numbers(weight), dy = to_numbers(dout);
    Doubles out(NC), mean(N), rstd(N);
    cpu::layernorm_forward(out.data(), if_centred(centred, mean.data()), rstd.data(), x.data(), w.data(), w.data(), N,
                           C);
    const Floats float_mean(mean.begin(), mean.end()), float_rstd(rstd.begin(), rstd.end());
    mean = to_numbers(float_mean), rstd = to_numbers(float_rstd);
    Doubles expected_dinp = to_numbers(before_dinp), expected_dweight = to_numbers(before_dweight),
            expected_dbias = to_numbers(before_dbias);
    cpu::layernorm_backward(expected_dinp.data(), expected_dweight.data(), if_centred(centred, expected_dbias.data()),
                            dy.data(), x.data(), w.data(), if_centred(centred, mean.data()), rstd.data(), N, C);

    const DeviceArray<floatX> dinp(before_dinp, shift[0]), device_dout(dout, shift[1]), device_inp(inp, shift[2]),
        device_weight(weight, shift[3]);
    const DeviceArray<float> dweight(before_dweight, shift.all), dbias(before_dbias, shift.all),
        device_mean(float_mean), device_rstd(float_rstd);
    const DeviceArray<float> dinp_sums(Floats(C, NAN), shift.all);
    const DeviceArray<char> scratch(layernorm_backward_scratch(N, C));
    const auto backward = [&](const DeviceArray<floatX>& to, float* dw, float* db, float* sums, bool set) {
      layernorm_backward(to.data(), dw, if_centred(centred, db), sums, scratch.data(), device_dout.data(),
                         device_inp.data(), device_weight.data(), if_centred(centred, device_mean.data()),
                         device_rstd.data(), set, N, C, nullptr);
    };
    backward(dinp, dweight.data(), dbias.data(), dinp_sums.data(), false);
    // dinp is rstd times a difference of numbers around 1, which have the error of norm.
    const Doubles lost = lost_digits(x, rstd);
    Doubles lost_dinp = product(lost, rstd);
    for (int n = 0; n < N; ++n) lost_dinp[n] += rstd[n];
    check_rows("dinp", dinp.host(), expected_dinp, C, lost_dinp);
    const Doubles lost_dweight = {std::sqrt(N) * *std::max_element(lost.begin(), lost.end())};
    check_rows("dweight", dweight.host(), expected_dweight, N + 1, lost_dweight);
    if (centred) check_close("dbias", dbias.host(), expected_dbias, N + 1);

    // The sums are those of the stored values.
    const Doubles stored = to_numbers(dinp.host());
    Doubles expected_sums(C);
    cpu::bias_backward(expected_sums.data(), stored.data(), N, C);
    check_close("dinp_sums", dinp_sums.host(), expected_sums, N);

    const DeviceArray<floatX> dinp_only(before_dinp, shift[0]), again(before_dinp, shift[0]);
    backward(dinp_only, nullptr, nullptr, nullptr, false);  // without the parameters' gradients
    CHECK(same_bits(dinp_only.host(), dinp.host()));
    const DeviceArray<float> set_dweight(Floats(C, NAN)), set_dbias(Floats(C, NAN)), only_sums(Floats(C, NAN));
    backward(again, set_dweight.data(), set_dbias.data(), nullptr, true);
    Floats added = set_dweight.host(), added_bias = set_dbias.host();
    for (int c = 0; c < C; ++c)
      added[c] = before_dweight[c] + added[c], added_bias[c] = before_dbias[c] + added_bias[c];
    CHECK(same_bits(added, dweight.host()));
    if (centred) CHECK(same_bits(added_bias, dbias.host()));
    again.write(before_dinp);
    backward(again, nullptr, nullptr, only_sums.data(), true);
    CHECK(same_bits(only_sums.host(), dinp_sums.host()));
  }
  for (const std::string centred : {"true>", "false>"}) {
    check_ran<floatX>("layernorm_backward_kernel<floatX, true, 256, 2, " + centred);
    check_ran<floatX>("layernorm_backward_kernel<floatX, true, 512, 1, " + centred);
    check_ran<floatX>("layernorm_backward_wide_kernel<floatX, true, " + centred);
  }
  // Scratch has room for one block per row, up to a limit, and packs of 8 channels.
  CHECK(layernorm_backward_scratch(3, 33) == 3 * 3 * 40 * 4);
  CHECK(layernorm_backward_scratch(kLayernormBackwardBlocks + 1, 8) == kLayernormBackwardBlocks * 3 * 8 * 4);
}

TEST_CASE("layernorm on the device survives a mean far above the spread, and a row without spread") {
  for (const int C : {257, 2500}) {
    CAPTURE(C);
    Floats inp = random_tensor<float>(C, 1);
    for (float& x : inp) x += 1000;
    const DeviceArray<float> device_inp(inp), ones(Floats(C, 1)), zeros(Floats(C, 0)), out(C), mean(1), rstd(1);
    const auto run = [&] {
      layernorm_forward(out.data(), mean.data(), rstd.data(), device_inp.data(), ones.data(), zeros.data(), 1, C,
                        nullptr);
    };
    run();
    Doubles exact(C);
    double exact_mean, exact_rstd;
    const Doubles inp_exact = to_numbers(inp), ones_exact(C, 1), zeros_exact(C, 0);
    cpu::layernorm_forward(exact.data(), &exact_mean, &exact_rstd, inp_exact.data(), ones_exact.data(),
                           zeros_exact.data(), 1, C);
    // Only the rounding of the mean itself may show; E x^2 - mean^2 for the variance would be wrong by a tenth.
    CHECK(max_difference(out.host(), exact) < sum_tolerance<float>(C, 1000) * exact_rstd);
    device_inp.write(Floats(C, 3));
    run();
    CHECK(max_difference(out.host(), zeros_exact) == 0);
    CHECK(rstd.host()[0] == doctest::Approx(1 / std::sqrt(1e-5)));
  }
}

TEST_CASE_TEMPLATE("layernorm does not depend on the schedule" * full_set(), floatX, float, bf16) {
  for (const auto [N, C] : {Sizes{37, 133}, Sizes{9, 768}, Sizes{5, 2568}, Sizes{3, 24'600}}) {
    for (const bool centred : {true, false}) {
      CAPTURE(C);
      CAPTURE(centred);
      const size_t NC = static_cast<size_t>(N) * C;
      const DeviceArray<floatX> inp(random_rows<floatX>(N, C, 1)), weight(random_storage<floatX>(C, 3)),
          dout(random_storage<floatX>(NC, 4)), out(NC), dinp(NC);
      const DeviceArray<float> all_means(N), rstd(N), dweight(C), all_dbias(C), sums(C);
      floatX* const bias = if_centred(centred, weight.data());
      float *const mean = if_centred(centred, all_means.data()), *const dbias = if_centred(centred, all_dbias.data());
      const DeviceArray<char> scratch(layernorm_backward_scratch(N, C));
      const auto before = random_storage<floatX>(NC, 5);
      same_under_all_schedules([&] {
        dinp.write(before), dweight.write(Floats(C, 1)), all_dbias.write(Floats(C, 2)), all_means.write(Floats(N, 3));
        layernorm_forward(out.data(), mean, rstd.data(), inp.data(), weight.data(), bias, N, C, nullptr);
        layernorm_backward(dinp.data(), dweight.data(), dbias, sums.data(), scratch.data(), dout.data(), inp.data(),
                           weight.data(), mean, rstd.data(), false, N, C, nullptr);
        Doubles all = to_numbers(out.host());
        append(all, dinp.host()), append(all, sums.host());
        append(all, all_means.host()), append(all, rstd.host()), append(all, dweight.host());
        append(all, all_dbias.host());
        return all;
      });
    }
  }
}
