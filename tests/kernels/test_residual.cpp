#include "kernels/residual.h"
#include "tests/helpers/finite_differences.h"

TEST_CASE("residual adds; the gradient of either input is that of the output") {
  for (const size_t N : {1, 7, 33, 1025}) {
    Doubles inp1 = random_tensor(N, 1), inp2 = random_tensor(N, 2);
    const Doubles dout = random_tensor(N, 3);
    const auto loss = [&] {
      Doubles out(N);
      cpu::residual_forward(out.data(), inp1.data(), inp2.data(), static_cast<int64_t>(N));
      return dot_product(out, dout);
    };
    check_gradient("inp1", inp1, dout, loss);
    check_gradient("inp2", inp2, dout, loss);
  }
}

TEST_CASE("residual does not depend on the number of threads") {
  const int64_t N = 1003;
  const Floats inp1 = random_tensor<float>(N, 1), inp2 = random_tensor<float>(N, 2);
  check_thread_independence([&] {
    Floats out(N);
    cpu::residual_forward(out.data(), inp1.data(), inp2.data(), N);
    return out;
  });
}
