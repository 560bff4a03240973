#include "kernels/gelu.h"
#include "tests/helpers/finite_differences.h"
#include "tests/helpers/golden.h"

TEST_CASE("gelu matches PyTorch") {
  const Golden golden("gelu.bin");
  const Doubles inp = golden.get("inp"), dout = golden.get("dout");
  const auto N = static_cast<int64_t>(inp.size());
  Doubles out(inp.size()), dinp(inp.size());
  cpu::gelu_forward(out.data(), inp.data(), N);
  cpu::gelu_backward(dinp.data(), dout.data(), inp.data(), N);
  CHECK(max_difference(out, golden.get("out")) < 1e-14);
  CHECK(max_difference(dinp, golden.get("dinp")) < 1e-14);
}

TEST_CASE("gelu's gradient matches finite differences; dinp may be dout itself") {
  for (const size_t N : {1, 2, 33, 257}) {
    Doubles inp = random_tensor(N, 1, 4);
    const Doubles dout = random_tensor(N, 2);
    Doubles dinp = random_tensor(N, 3), in_place = dout;
    cpu::gelu_backward(dinp.data(), dout.data(), inp.data(), static_cast<int64_t>(N));
    cpu::gelu_backward(in_place.data(), in_place.data(), inp.data(), static_cast<int64_t>(N));
    CHECK(same_bits(dinp, in_place));
    check_gradient("inp", inp, dinp, [&] {
      Doubles out(N);
      cpu::gelu_forward(out.data(), inp.data(), static_cast<int64_t>(N));
      return dot_product(out, dout);
    });
  }
}

TEST_CASE("gelu far from zero is x or zero, with slope one or zero") {
  const Floats inp = {-1e6f, -100, -20, 0, 20, 100, 1e6f}, dout(inp.size(), 1);
  Floats out(inp.size()), dinp(inp.size());
  cpu::gelu_forward(out.data(), inp.data(), static_cast<int64_t>(inp.size()));
  cpu::gelu_backward(dinp.data(), dout.data(), inp.data(), static_cast<int64_t>(inp.size()));
  CHECK(out == Floats{0, 0, 0, 0, 20, 100, 1e6f});
  CHECK(dinp == Floats{0, 0, 0, 0.5f, 1, 1, 1});
}

TEST_CASE("gelu does not depend on the number of threads") {
  const int64_t N = 1003;
  const Floats inp = random_tensor<float>(N, 1, 4), dout = random_tensor<float>(N, 2);
  check_thread_independence([&] {
    Floats all(2 * N);
    cpu::gelu_forward(all.data(), inp.data(), N);
    cpu::gelu_backward(all.data() + N, dout.data(), inp.data(), N);
    return all;
  });
}
