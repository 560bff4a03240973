#include "kernels/embedding.h"
#include "tests/helpers/documents.h"
#include "tests/helpers/finite_differences.h"
#include "tests/helpers/golden.h"

TEST_CASE("embedding matches PyTorch") {
  const Golden golden("embedding.bin");
  const auto sizes = golden.get<int>("sizes");
  const int B = sizes[0], T = sizes[1], C = sizes[2];
  const auto inp = golden.get<int32_t>("inp");
  const Doubles wte = golden.get("wte"), wpe = golden.get("wpe"), dout = golden.get("dout");
  Doubles out(dout.size()), dwte(wte.size()), dwpe(wpe.size());
  cpu::embedding_forward(out.data(), inp.data(), wte.data(), wpe.data(), nullptr, B, T, C);
  cpu::embedding_backward(dwte.data(), dwpe.data(), dout.data(), inp.data(), nullptr, B, T, C);
  CHECK(max_difference(out, golden.get("out")) < 1e-15);
  CHECK(max_difference(dwte, golden.get("dwte")) < 1e-14);
  CHECK(max_difference(dwpe, golden.get("dwpe")) < 1e-14);
}

TEST_CASE("embedding's gradients match finite differences and are added to the old values") {
  struct Sizes {
    int B, T, C, V;
    bool documents = false;
  };
  for (const auto [B, T, C, V, documents] :
       {Sizes{1, 1, 1, 1}, Sizes{2, 5, 33, 3}, Sizes{3, 7, 17, 101}, Sizes{2, 11, 5, 7, true}}) {
    CAPTURE(C);
    const size_t N = static_cast<size_t>(B) * T;
    const auto inp = random_ints(N, 1, V), rows = documents_of(B, T, {4, 1, 2});
    const int32_t* first = documents ? rows.data() : nullptr;
    Doubles wte = random_tensor(V * C, 2), wpe = random_tensor((T + 2) * C, 3);
    const Doubles dout = random_tensor(N * C, 4), before_te = random_tensor(wte.size(), 5),
                  before_pe = random_tensor(wpe.size(), 6);
    const auto loss = [&] {
      Doubles out(N * C);
      cpu::embedding_forward(out.data(), inp.data(), wte.data(), wpe.data(), first, B, T, C);
      return dot_product(out, dout);
    };
    Doubles dwte = before_te, dwpe = before_pe;
    cpu::embedding_backward(dwte.data(), dwpe.data(), dout.data(), inp.data(), first, B, T, C);
    for (size_t i = 0; i < dwte.size(); ++i) dwte[i] -= before_te[i];
    for (size_t i = 0; i < dwpe.size(); ++i) dwpe[i] -= before_pe[i];
    check_gradient("wte", wte, dwte, loss);
    check_gradient("wpe", wpe, dwpe, loss);
  }
}

TEST_CASE("embedding's positions restart with each document of a row") {
  const int B = 2, T = 9, C = 3;
  const auto first = documents_of(B, T, {4, 2});
  const std::vector<int32_t> tokens(B * T, 0);
  Doubles wte(C, 0), wpe(T * C), out(B * T * C), dwte(C), dwpe(T * C);
  for (int i = 0; i < T * C; ++i) wpe[i] = i / C;
  cpu::embedding_forward(out.data(), tokens.data(), wte.data(), wpe.data(), first.data(), B, T, C);
  std::vector<int> places;
  for (int i = 0; i < B * T; ++i) places.push_back(static_cast<int>(out[i * C]));
  CHECK(places == std::vector<int>{0, 1, 2, 3, 0, 1, 0, 1, 2, 0, 1, 0, 1, 2, 3, 0, 1, 0});
  cpu::embedding_backward(dwte.data(), dwpe.data(), Doubles(B * T * C, 1).data(), tokens.data(), first.data(), B, T, C);
  for (int p = 0; p < T; ++p) CHECK(dwpe[p * C] == std::count(places.begin(), places.end(), p));
  CHECK(dwte[0] == B * T);
}

TEST_CASE("embedding does not depend on the number of threads") {
  const int B = 3, T = 11, C = 51, V = 5;
  const auto inp = random_ints(B * T, 1, V);
  const Floats dout = random_tensor<float>(B * T * C, 2);
  check_thread_independence([&] {
    Floats grads((V + T) * C);
    cpu::embedding_backward(grads.data(), grads.data() + V * C, dout.data(), inp.data(), nullptr, B, T, C);
    return grads;
  });
}
