#include "kernels/dropout.h"
#include "kernels/embedding.cuh"
#include "kernels/embedding.h"
#include "tests/helpers/device.h"
#include "tests/helpers/documents.h"

namespace {

struct Case {
  const char* name;
  int B, T, C, V;
  std::vector<int32_t> tokens;
};

// Tokens: random, all the same, in order, and as in text: token k about twice as often as token 2 k.
std::vector<Case> cases() {
  const auto zipf = [](size_t n, int V) {
    std::vector<int32_t> tokens = random_ints(n, 9, 1 << 20);
    for (int32_t& token : tokens) token = static_cast<int32_t>(std::pow(V, token * 0x1p-20)) - 1;
    return tokens;
  };
  std::vector<Case> all = {{"one", 1, 1, 1, 1, {0}},
                           {"a channel", 2, 3, 1, 4, random_ints(6, 1, 4)},
                           {"few tokens", 2, 17, 33, 5, random_ints(34, 2, 5)},
                           {"one pass of the sort", 3, 31, 64, 256, random_ints(93, 3, 256)},
                           {"two passes", 3, 67, 24, 257, random_ints(201, 4, 257)},
                           {"three passes", 2, 701, 8, 70'000, random_ints(1402, 5, 70'000)},
                           {"a million tokens", 1, 300, 2, 1 << 20, random_ints(300, 6, 1 << 20)},
                           {"the same", 2, 1500, 12, 50, std::vector<int32_t>(3000, 49)},
                           {"in order", 1, 1100, 16, 1100, {}},
                           {"text", 4, 600, quick_set() ? 24 : 520, 997, zipf(2400, 997)},
                           {"a run from a chunk's border on", 1, 130, 8, 3, {}},
                           {"whole chunks of one token", 2, 32, 8, 3, std::vector<int32_t>(64, 2)},
                           {"a chunk without its last", 1, 31, 8, 5, random_ints(31, 8, 5)},
                           {"more rows than are loaded ahead", 6, 9, 12, 7, random_ints(54, 9, 7)}};
  for (int i = 0; i < 130; ++i) all[10].tokens.push_back(i < 32 ? 0 : i < 102 ? 1 : 2);
  for (int i = 1099; i >= 0; --i) all[8].tokens.push_back(i);
  all[6].tokens[7] = (1 << 20) - 1;
  return all;
}

constexpr std::pair<float, bool> kDropoutAndDocuments[] = {{0.0f, false}, {0.2f, false}, {0.2f, true}};

// Rows of one document each, or of several.
class Rows {
 public:
  Rows(int B, int T) : B_(B), T_(T), first_(documents_of(B, T, {5, 1, 40, 100})), device_(first_, true) {}
  const int32_t* operator()(bool documents) const { return documents ? first_.data() : nullptr; }
  const int32_t* on_device(bool documents) const { return documents ? device_.data() : nullptr; }
  std::vector<int> counts(bool documents) const {  // count per position
    std::vector<int> counts(T_);
    for (int i = 0; i < B_ * T_; ++i) ++counts[i % T_ - (documents ? first_[i] : 0)];
    return counts;
  }

 private:
  int B_, T_;
  std::vector<int32_t> first_;
  DeviceArray<int32_t> device_;
};

// Scratch full of values that look like sorted items of the largest token, which a read beyond the items would find.
std::vector<uint64_t> used_scratch(const Case& test) {
  const auto token = static_cast<uint64_t>(*std::max_element(test.tokens.begin(), test.tokens.end()));
  return std::vector<uint64_t>(ceil_div<int64_t>(embedding_backward_scratch(test.B, test.T, test.C, test.V), 8),
                               token << 32 | 1);
}

// Row by row: a token's gradient has as many terms as the token has occurrences.
void check_rows(const char* name, const Floats& actual, const Doubles& expected, const Floats& before, int C,
                const std::vector<int>& counts) {
  for (size_t row = 0; row < counts.size(); ++row) {
    const size_t begin = row * C, end = begin + C;
    const Floats mine(&actual[begin], &actual[0] + end);
    if (counts[row] == 0) {
      REQUIRE(same_bits(mine, Floats(&before[begin], &before[0] + end)));
    } else {
      // Terms have size up to 1, and so has the value they are added to; partial sums of n terms are about sqrt(n),
      // even if a narrow row ends near 0.
      const double terms = counts[row] + 1;
      const double tolerance = 4 * 0x1p-24 * std::sqrt(terms) * std::sqrt(terms);
      CAPTURE(row);
      INFO(std::string(name));
      REQUIRE(max_difference(mine, Doubles(&expected[begin], &expected[0] + end)) <= tolerance);
    }
  }
}

}  // namespace

// This test comes first, because it checks which kernels ran.
TEST_CASE_TEMPLATE("embedding takes 16-byte accesses where channels and tensors allow it", floatX, float, bf16) {
  const Case test = cases()[3];
  const auto [name, B, T, C, V, tokens] = test;
  const DeviceArray<int32_t> inp(tokens);
  const DeviceArray<floatX> wte(random_storage<floatX>(static_cast<size_t>(V) * C, 1)),
      wpe(random_storage<floatX>(static_cast<size_t>(T) * C, 2)), out(static_cast<size_t>(B) * T * C);
  const DeviceArray<float> dwte(Floats(wte.size(), 0)), dwpe(Floats(wpe.size(), 0));
  const DeviceArray<uint64_t> scratch(used_scratch(test));
  const Rows rows(B, T);
  for (const float dropout : {0.0f, 0.2f}) {
    embedding_forward(out.data(), inp.data(), wte.data(), wpe.data(), nullptr, dropout, 7, 8, B, T, C, nullptr);
    for (const bool documents : {false, true}) {
      embedding_backward(dwte.data(), dwpe.data(), scratch.data(), out.data(), inp.data(), rows.on_device(documents),
                         dropout, 7, 8, B, T, C, V, nullptr);
    }
  }
  CHECK(out.host().size() == out.size());
  for (const std::string dropout : {"true", "false"}) {
    check_ran<floatX>("embedding_forward_kernel<floatX, true, " + dropout);
    check_ran<floatX>("embedding_dwpe_kernel<floatX, true, " + dropout);
    check_ran<floatX>("embedding_dwte_kernel<floatX, true, " + dropout);
  }
  check_ran<floatX>("embedding_dwpe_documents_kernel<floatX, true");
  check_ran<floatX>("embedding_dwte_combine_kernel<true");
}

TEST_CASE_TEMPLATE("embedding on the device against the CPU", floatX, float, bf16) {
  for (const Case& test : cases()) {
    const auto [name, B, T, C, V, tokens] = test;
    const Rows rows(B, T);
    for (const Shift shift : shifts(3, C == 64)) {
      for (const auto& [dropout, documents] : kDropoutAndDocuments) {
        CAPTURE(documents);
        INFO(std::string(name));
        CAPTURE(shift.tensor);
        CAPTURE(shift.all);
        CAPTURE(dropout);
        const size_t NC = static_cast<size_t>(B) * T * C;
        auto wte = random_storage<floatX>(static_cast<size_t>(V) * C, 1);
        const auto wpe = random_storage<floatX>(static_cast<size_t>(T) * C, 2);
        for (size_t i = 0; V == 1100 && i < NC;
             i += 3) {  // tokens occur once; a dropped element is zero, whatever it was
          if (philox_uniform(7, 8, i) < dropout) wte[tokens[i / C] * C + i % C] = to_storage<floatX>({INFINITY})[0];
        }
        const Doubles exact_wte = to_numbers(wte), exact_wpe = to_numbers(wpe);
        Doubles expected(NC);
        cpu::embedding_forward(expected.data(), tokens.data(), exact_wte.data(), exact_wpe.data(), rows(documents), B,
                               T, C);
        cpu::dropout_forward(expected.data(), expected.data(), dropout, 7, 8, static_cast<int64_t>(NC));
        const DeviceArray<int32_t> inp(tokens, true);
        const DeviceArray<floatX> device_wte(wte, shift[0]), device_wpe(wpe, shift[1]), out(NC, shift[2]);
        embedding_forward(out.data(), inp.data(), device_wte.data(), device_wpe.data(), rows.on_device(documents),
                          dropout, 7, 8, B, T, C, nullptr);
        check_close("out", out.host(), expected, 2);
      }
    }
  }
}

TEST_CASE_TEMPLATE("embedding's backward on the device against the CPU, added to the old values", floatX, float, bf16) {
  for (const Case& test : cases()) {
    const auto [name, B, T, C, V, tokens] = test;
    const Rows rows(B, T);
    for (const Shift shift : shifts(4, C == 64 || C == 12)) {
      for (const auto& [dropout, documents] : kDropoutAndDocuments) {
        CAPTURE(documents);
        INFO(std::string(name));
        CAPTURE(shift.tensor);
        CAPTURE(shift.all);
        CAPTURE(dropout);
        const size_t NC = static_cast<size_t>(B) * T * C;
        auto dout = random_storage<floatX>(NC, 3);
        for (size_t i = 0; i < NC; i += 3) {
          if (philox_uniform(7, 8, i) < dropout) dout[i] = to_storage<floatX>({INFINITY})[0];
        }
        const Floats before_wte = random_tensor<float>(static_cast<size_t>(V) * C, 4),
                     before_wpe = random_tensor<float>(static_cast<size_t>(T) * C, 5);
        Doubles expected_wte = to_numbers(before_wte), expected_wpe = to_numbers(before_wpe), dy = to_numbers(dout);
        cpu::dropout_backward(dy.data(), dy.data(), dropout, 7, 8, static_cast<int64_t>(NC));
        cpu::embedding_backward(expected_wte.data(), expected_wpe.data(), dy.data(), tokens.data(), rows(documents), B,
                                T, C);

        const DeviceArray<int32_t> inp(tokens, true);
        const DeviceArray<floatX> device_dout(dout, shift[0]);
        const DeviceArray<float> dwte(before_wte, shift[1]), dwpe(before_wpe, shift[2]);
        const DeviceArray<uint64_t> scratch(used_scratch(test), shift[3]);
        embedding_backward(dwte.data(), dwpe.data(), scratch.data(), device_dout.data(), inp.data(),
                           rows.on_device(documents), dropout, 7, 8, B, T, C, V, nullptr);
        std::vector<int> counts(V);
        for (const int32_t token : tokens) ++counts[token];
        check_rows("dwte", dwte.host(), expected_wte, before_wte, C, counts);
        check_rows("dwpe", dwpe.host(), expected_wpe, before_wpe, C, rows.counts(documents));
      }
    }
  }
}

TEST_CASE_TEMPLATE("embedding's dropout may count passes in device memory: the same bits as with their number", floatX,
                   float, bf16) {
  for (const int which : {2, 3, 7}) {
    const auto [name, B, T, C, V, tokens] = cases()[which];
    INFO(std::string(name));
    const Rows rows(B, T);
    const DeviceArray<uint64_t> pass(std::vector<uint64_t>{5}), scratch(used_scratch(cases()[which]));
    const DeviceArray<int32_t> inp(tokens);
    const size_t NC = static_cast<size_t>(B) * T * C, VC = static_cast<size_t>(V) * C, TC = static_cast<size_t>(T) * C;
    const DeviceArray<floatX> wte(random_storage<floatX>(VC, 1)), wpe(random_storage<floatX>(TC, 2)),
        dout(random_storage<floatX>(NC, 3)), out(NC);
    for (const bool documents : {false, true}) {
      const auto run = [&](DropoutSequence sequence) {
        const DeviceArray<float> dwte(Floats(VC, 0)), dwpe(Floats(TC, 0));
        embedding_forward(out.data(), inp.data(), wte.data(), wpe.data(), rows.on_device(documents), 0.2f, 7, sequence,
                          B, T, C, nullptr);
        embedding_backward(dwte.data(), dwpe.data(), scratch.data(), dout.data(), inp.data(), rows.on_device(documents),
                           0.2f, 7, sequence, B, T, C, V, nullptr);
        return std::tuple(out.host(), dwte.host(), dwpe.host());
      };
      const auto counted = run({8, pass.data()}), numbered = run((5 << 16) + 8), other = run(8);
      CHECK(same_bits(std::get<0>(counted), std::get<0>(numbered)));
      CHECK(same_bits(std::get<1>(counted), std::get<1>(numbered)));
      CHECK(same_bits(std::get<2>(counted), std::get<2>(numbered)));
      CHECK_FALSE(same_bits(std::get<0>(counted), std::get<0>(other)));
      CHECK_FALSE(same_bits(std::get<1>(counted), std::get<1>(other)));
      CHECK_FALSE(same_bits(std::get<2>(counted), std::get<2>(other)));
    }
  }
}

TEST_CASE("embedding's gradient of a token adds its rows in order, each chunk of 32 sorted rows separately") {
  for (const Case& test : cases()) {
    const auto [name, B, T, C, V, tokens] = test;
    INFO(std::string(name));
    const int N = B * T;
    std::vector<int> order(N);
    for (int i = 0; i < N; ++i) order[i] = i;
    std::stable_sort(order.begin(), order.end(),
                     [&tokens = test.tokens](int a, int b) { return tokens[a] < tokens[b]; });
    const Floats dout = random_tensor<float>(static_cast<size_t>(N) * C, 3);
    Floats expected(static_cast<size_t>(V) * C, 1);
    for (int begin = 0, end; begin < N; begin = end) {
      for (end = begin; end < N && tokens[order[end]] == tokens[order[begin]];) ++end;
      for (int c = 0; c < C; ++c) {
        Floats parts;  // sums of the chunks that the token's run crosses
        for (int i = begin; i < end; ++i) {
          if (i == begin || i % kEmbeddingChunk == 0) parts.push_back(0);
          parts.back() += dout[static_cast<size_t>(order[i]) * C + c];
        }
        const size_t count = parts.size();
        float sum = parts[0];
        if (count > 1) {  // each of the combining block's warps has an equal share of them
          sum = 0;
          for (size_t warp = 0; warp < kEmbeddingRows; ++warp) {
            float share = 0;
            for (size_t i = count * warp / kEmbeddingRows; i < count * (warp + 1) / kEmbeddingRows; ++i)
              share += parts[i];
            sum += share;
          }
        }
        expected[static_cast<size_t>(tokens[order[begin]]) * C + c] += sum;
      }
    }
    const DeviceArray<int32_t> inp(tokens, true);
    const DeviceArray<float> device_dout(dout), dwte(Floats(static_cast<size_t>(V) * C, 1)),
        dwpe(Floats(static_cast<size_t>(T) * C, 0));
    const DeviceArray<char> scratch(embedding_backward_scratch(B, T, C, V));
    embedding_backward(dwte.data(), dwpe.data(), scratch.data(), device_dout.data(), inp.data(), nullptr, 0, 7, 8, B, T,
                       C, V, nullptr);
    CHECK(same_bits(dwte.host(), expected));
  }
}

TEST_CASE("embedding sorts more tiles than a warp has lanes") {
  const int B = 2, T = 33'333, C = 1, V = 300, N = B * T;
  const std::vector<int32_t> tokens = random_ints(N, 7, V), terms = random_ints(N, 8, 5);  // whole: sums are exact
  Floats dout(N), expected_wte(V, 1), expected_wpe(T, 2);
  for (int i = 0; i < N; ++i) {
    dout[i] = static_cast<float>(terms[i]);
    expected_wte[tokens[i]] += dout[i];
    expected_wpe[i % T] += dout[i];
  }
  const DeviceArray<int32_t> inp(tokens);
  const DeviceArray<float> device_dout(dout), dwte(Floats(V, 1)), dwpe(Floats(T, 2));
  const DeviceArray<char> scratch(embedding_backward_scratch(B, T, C, V));
  embedding_backward(dwte.data(), dwpe.data(), scratch.data(), device_dout.data(), inp.data(), nullptr, 0, 7, 8, B, T,
                     C, V, nullptr);
  CHECK(same_bits(dwte.host(), expected_wte));
  CHECK(same_bits(dwpe.host(), expected_wpe));
}

TEST_CASE_TEMPLATE("embedding does not depend on the schedule" * full_set(), floatX, float, bf16) {
  for (const Case& test : cases()) {
    const auto [name, B, T, C, V, tokens] = test;
    if (V > 10'000) continue;
    INFO(std::string(name));
    const size_t NC = static_cast<size_t>(B) * T * C, VC = static_cast<size_t>(V) * C, TC = static_cast<size_t>(T) * C;
    const DeviceArray<int32_t> inp(tokens, true);
    const DeviceArray<floatX> wte(random_storage<floatX>(VC, 1)), wpe(random_storage<floatX>(TC, 2)),
        dout(random_storage<floatX>(NC, 3)), out(NC);
    const DeviceArray<float> dwte(VC), dwpe(TC);
    const DeviceArray<char> scratch(embedding_backward_scratch(B, T, C, V));
    same_under_all_schedules([&] {
      dwte.write(Floats(VC, 1)), dwpe.write(Floats(TC, 2));
      embedding_forward(out.data(), inp.data(), wte.data(), wpe.data(), nullptr, 0.2f, 7, 8, B, T, C, nullptr);
      embedding_backward(dwte.data(), dwpe.data(), scratch.data(), dout.data(), inp.data(), nullptr, 0.2f, 7, 8, B, T,
                         C, V, nullptr);
      Floats all = to_numbers<float>(out.host());
      for (const float x : dwte.host()) all.push_back(x);
      for (const float x : dwpe.host()) all.push_back(x);
      return all;
    });
  }
}
