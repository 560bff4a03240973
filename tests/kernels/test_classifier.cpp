#include "kernels/classifier.h"
#include "tests/helpers/finite_differences.h"
#include "tests/helpers/golden.h"

namespace {

// (N, V) -> (N, Vp), the padding poisoned: NaNs spoil every sum, infinities spoil the maximum (a NaN might not).
template <class T>
std::vector<T> padded(const std::vector<T>& logits, int V, int Vp) {
  const size_t N = logits.size() / V;
  std::vector<T> wide(N * Vp);
  for (size_t i = 0; i < wide.size(); ++i) {
    wide[i] = i % 2 ? std::numeric_limits<T>::infinity() : std::numeric_limits<T>::quiet_NaN();
  }
  for (size_t n = 0; n < N; ++n) std::copy_n(logits.begin() + n * V, V, wide.begin() + n * Vp);
  return wide;
}

}  // namespace

TEST_CASE("the classifier matches PyTorch, with poisoned padding") {
  const Golden golden("classifier.bin");
  const auto sizes = golden.get<int>("sizes");
  const int N = sizes[0], V = sizes[1], Vp = sizes[2];
  const auto targets = golden.get<int32_t>("targets");
  const Floats weights = golden.get<float>("weights");
  const Doubles logits = padded(golden.get("logits"), V, Vp);
  const Doubles expected = golden.get("dlogits");

  Doubles losses(N), losses_backward(N), dlogits = logits;
  cpu::classifier_forward(losses.data(), logits.data(), targets.data(), N, V, Vp);
  cpu::classifier_backward(dlogits.data(), losses_backward.data(), targets.data(), weights.data(), N, V, Vp);
  CHECK(max_difference(losses, golden.get("losses")) < 1e-13);
  CHECK(max_difference(losses_backward, golden.get("losses")) < 1e-13);
  for (int n = 0; n < N; ++n) {
    const auto row = dlogits.begin() + n * Vp;
    CHECK(max_difference(Doubles(row, row + V), Doubles(expected.begin() + n * V, expected.begin() + (n + 1) * V)) <
          1e-14);
    CHECK(std::all_of(row + V, row + Vp, [](double x) { return x == 0; }));
  }
}

TEST_CASE("the classifier's gradient matches finite differences; losses and gradients of ignored targets are zero") {
  struct Sizes {
    int N, V, Vp;
  };
  for (const auto [N, V, Vp] : {Sizes{1, 1, 128}, Sizes{3, 2, 2}, Sizes{7, 33, 128}, Sizes{2, 131, 256}}) {
    CAPTURE(V);
    Doubles logits = random_tensor(N * Vp, 1, 3);
    auto targets = random_ints(N, 2, V);
    if (N > 1) targets[1] = -1;
    const Floats weights = random_tensor<float>(N, 3);
    Doubles dlogits = logits, losses(N);
    cpu::classifier_backward(dlogits.data(), losses.data(), targets.data(), weights.data(), N, V, Vp);
    check_gradient("logits", logits, dlogits, [&] {
      Doubles l(N);
      cpu::classifier_forward(l.data(), logits.data(), targets.data(), N, V, Vp);
      return dot_product(l, weights);
    });
    if (N > 1) {
      CHECK(losses[1] == 0);
      CHECK(std::all_of(dlogits.begin() + Vp, dlogits.begin() + 2 * Vp, [](double x) { return x == 0; }));
    }
  }
}

TEST_CASE("the classifier survives logits that would overflow exp, and a token of weight zero") {
  const int N = 4, V = 3;
  const Floats logits = {1e4f, -1e4f, 0, 1e4f, 1e4f, 1e4f, -1e4f, -1e4f, -2e4f, 1, 2, 3};
  const std::vector<int32_t> targets = {1, 2, 0, 2};
  const Floats weights = {1, 1, 1, 0};
  Floats losses(N), dlogits = logits;
  cpu::classifier_backward(dlogits.data(), losses.data(), targets.data(), weights.data(), N, V, V);
  CHECK(losses[0] == 2e4f);
  CHECK(losses[1] == doctest::Approx(std::log(3.0)));
  CHECK(losses[2] == doctest::Approx(std::log(2.0)).epsilon(1e-2));  // 1e4 is known to 0.001
  CHECK(losses[3] == doctest::Approx(std::log(1 + std::exp(-1.0) + std::exp(-2.0))));
  const float third = 1 / 3.0f;
  CHECK(max_difference(dlogits, Floats{1, -1, 0, third, third, third - 1, -0.5f, 0.5f, 0, 0, 0, 0}) < 1e-6);
}

TEST_CASE("the classifier turns a NaN among the logits into a NaN loss, which training notices") {
  for (const int at : {0, 1, 4}) {
    Floats logits = {1, 2, 3, 2, 1};
    logits[at] = std::numeric_limits<float>::quiet_NaN();
    const int32_t target = 2;
    float loss = 0;
    cpu::classifier_forward(&loss, logits.data(), &target, 1, 5, 5);
    CHECK(std::isnan(loss));
  }
}

TEST_CASE("the classifier does not depend on the number of threads") {
  const int N = 37, V = 101, Vp = 128;
  const Floats logits = random_tensor<float>(N * Vp, 1, 5), weights = random_tensor<float>(N, 2);
  const auto targets = random_ints(N, 3, V);
  check_thread_independence([&] {
    Floats all = logits;
    all.resize(all.size() + N);
    cpu::classifier_backward(all.data(), all.data() + N * Vp, targets.data(), weights.data(), N, V, Vp);
    return all;
  });
}
