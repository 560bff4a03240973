#include "kernels/attention.h"
#include "tests/helpers/documents.h"
#include "tests/helpers/finite_differences.h"
#include "tests/helpers/golden.h"

namespace {

struct Sizes {
  int B, T, C, NH;
  bool causal = true;
  std::vector<int32_t> first = {};  // (B, T) or empty
  int NKV = NH;
  AttentionShape shape() const { return {B, T, NH, NKV, C / NH, causal, first.empty() ? nullptr : first.data()}; }
  size_t inp() const { return static_cast<size_t>(B) * T * shape().packed_channels(); }
  size_t out() const { return static_cast<size_t>(B) * T * C; }
  size_t lse() const { return static_cast<size_t>(B) * NH * T; }
};

template <class T>
struct Outputs {
  std::vector<T> out, lse;
};

template <class T>
Outputs<T> forward(const std::vector<T>& inp, const Sizes& s, float dropout = 0, uint64_t seed = 0,
                   uint64_t sequence = 0) {
  Outputs<T> o{std::vector<T>(s.out()), std::vector<T>(s.lse())};
  cpu::attention_forward(o.out.data(), o.lse.data(), packed_qkv(inp.data(), s.shape()), dropout, seed, sequence,
                         s.shape());
  return o;
}

template <class T>
std::vector<T> backward(const std::vector<T>& dout, const std::vector<T>& inp, const Sizes& s, float dropout = 0,
                        uint64_t seed = 0, uint64_t sequence = 0) {
  const Outputs<T> o = forward(inp, s, dropout, seed, sequence);
  std::vector<T> dinp = random_tensor<T>(s.inp(), 99);  // dinp is set, not added to
  cpu::attention_backward(packed_qkv(dinp.data(), s.shape()), dout.data(), o.out.data(), o.lse.data(),
                          packed_qkv(inp.data(), s.shape()), dropout, seed, sequence, s.shape());
  return dinp;
}

}  // namespace

TEST_CASE("attention matches PyTorch") {
  const Golden golden("attention.bin");
  const auto sizes = golden.get<int>("sizes");
  const Sizes s{sizes[0], sizes[1], sizes[2], sizes[3]};
  const Doubles inp = golden.get("inp");
  const Outputs<double> o = forward(inp, s);
  CHECK(max_difference(o.out, golden.get("out")) < 1e-13);
  CHECK(max_difference(o.lse, golden.get("lse")) < 1e-13);
  CHECK(max_difference(backward(golden.get("dout"), inp, s), golden.get("dinp")) < 1e-13);
}

TEST_CASE("attention's gradients match finite differences, causal and not, without and with dropout") {
  for (const Sizes& s :
       {Sizes{1, 1, 1, 1}, Sizes{2, 1, 33, 3}, Sizes{1, 7, 33, 1}, Sizes{2, 5, 6, 6}, Sizes{1, 13, 10, 2},
        Sizes{1, 7, 33, 1, false}, Sizes{2, 5, 6, 2, false}, Sizes{2, 9, 6, 2, true, documents_of(2, 9, {3, 1, 4})},
        Sizes{2, 5, 12, 4, true, {}, 2}, Sizes{1, 7, 12, 4, true, {}, 1},
        Sizes{2, 9, 6, 6, true, documents_of(2, 9, {3, 1, 4}), 3}, Sizes{2, 5, 12, 4, false, {}, 1}}) {
    for (const float dropout : {0.0f, 0.3f}) {
      CAPTURE(s.T);
      CAPTURE(s.C);
      CAPTURE(dropout);
      Doubles inp = random_tensor(s.inp(), 1, 2);
      const Doubles dout = random_tensor(s.out(), 2);
      check_gradient("inp", inp, backward(dout, inp, s, dropout, 7, 8),
                     [&] { return dot_product(forward(inp, s, dropout, 7, 8).out, dout); });
    }
  }
}

TEST_CASE("heads that share keys and values are those of multi-head attention to copies of them") {
  for (const int NKV : {1, 2, 3, 6}) {
    for (const float dropout : {0.0f, 0.3f}) {
      CAPTURE(NKV);
      const Sizes s{2, 11, 30, 6, true, documents_of(2, 11, {5, 1}), NKV}, whole{2, 11, 30, 6, true, s.first};
      const Doubles inp = random_tensor(s.inp(), 1, 2), dout = random_tensor(s.out(), 2);
      const int HS = 5, C = 30, KV = NKV * HS, row = C + 2 * KV, sharing = 6 / NKV;
      Doubles copies(whole.inp());
      const auto for_each_channel = [&](auto f) {  // f(place in the copies, place in inp)
        for (int n = 0; n < 22; ++n) {
          for (int c = 0; c < C; ++c) {
            const int kv = c / HS / sharing * HS + c % HS;
            f(n * 3 * C + c, n * row + c);
            f(n * 3 * C + C + c, n * row + C + kv);
            f(n * 3 * C + 2 * C + c, n * row + C + KV + kv);
          }
        }
      };
      for_each_channel([&](int to, int from) { copies[to] = inp[from]; });
      CHECK(same_bits(forward(inp, s, dropout, 7, 8).out, forward(copies, whole, dropout, 7, 8).out));
      CHECK(same_bits(forward(inp, s, dropout, 7, 8).lse, forward(copies, whole, dropout, 7, 8).lse));
      const Doubles dcopies = backward(dout, copies, whole, dropout, 7, 8);
      Doubles sums(inp.size());
      for_each_channel([&](int from, int to) { sums[to] += dcopies[from]; });
      CHECK(max_difference(backward(dout, inp, s, dropout, 7, 8), sums) < 1e-13);
    }
  }
}

TEST_CASE("queries, keys and values may lie in separate tensors") {
  const AttentionShape s{2, 7, 4, 2, 3};
  const Doubles inp = random_tensor(s.tokens() * s.packed_channels(), 1, 2), dout = random_tensor(s.tokens() * 12, 2);
  Doubles q(s.tokens() * 15), kv(s.tokens() * 17), out(dout.size()), lse(2 * 4 * 7), o(out), l(lse);
  const auto packed = packed_qkv(inp.data(), s);
  for (int64_t n = 0; n < s.tokens(); ++n) {
    std::copy_n(packed.q + n * packed.q_row, 12, &q[n * 15 + 1]);
    std::copy_n(packed.k + n * packed.kv_row, 6, &kv[n * 17 + 9]);
    std::copy_n(packed.v + n * packed.kv_row, 6, &kv[n * 17 + 2]);
  }
  const Qkv<const double> apart{&q[1], &kv[9], &kv[2], 15, 17};
  cpu::attention_forward(out.data(), lse.data(), packed, 0, 0, 0, s);
  cpu::attention_forward(o.data(), l.data(), apart, 0, 0, 0, s);
  CHECK(same_bits(o, out));
  CHECK(same_bits(l, lse));
  Doubles dinp(inp.size()), dq(q.size(), 7), dkv(kv.size(), 7);
  cpu::attention_backward(packed_qkv(dinp.data(), s), dout.data(), out.data(), lse.data(), packed, 0, 0, 0, s);
  cpu::attention_backward({&dq[1], &dkv[9], &dkv[2], 15, 17}, dout.data(), out.data(), lse.data(), apart, 0, 0, 0, s);
  for (int64_t n = 0; n < s.tokens(); ++n) {
    const double* row = &dinp[n * s.packed_channels()];
    CHECK(std::equal(row, row + 12, &dq[n * 15 + 1]));
    CHECK(std::equal(row + 12, row + 18, &dkv[n * 17 + 9]));
    CHECK(std::equal(row + 18, row + 24, &dkv[n * 17 + 2]));
    for (const int c : {0, 13, 14}) CHECK(dq[n * 15 + c] == 7);  // what is not theirs stays
    for (const int c : {0, 1, 8, 15, 16}) CHECK(dkv[n * 17 + c] == 7);
  }
}

TEST_CASE("attention over several documents in a row equals that of each document, bit for bit") {
  const Sizes s{3, 23, 12, 3, true, documents_of(3, 23, {5, 1, 9, 2})};
  const Doubles inp = random_tensor(s.inp(), 1, 2), dout = random_tensor(s.out(), 2), dinp = backward(dout, inp, s);
  const Outputs<double> all = forward(inp, s);
  const auto part = [&](const Doubles& from, size_t token, int tokens, size_t width) {
    const auto begin = from.begin() + static_cast<std::ptrdiff_t>(token * width);
    return Doubles(begin, begin + static_cast<std::ptrdiff_t>(tokens * width));
  };
  int documents = 0;
  for (int b = 0; b < s.B; ++b) {
    for (int begin = 0, end; begin < s.T; begin = end, ++documents) {
      const size_t row = static_cast<size_t>(b) * s.T, token = row + begin, C = s.C;
      for (end = begin; end < s.T && s.first[row + end] == begin;) ++end;
      const int n = end - begin;
      const Sizes alone{1, n, s.C, s.NH};
      const Doubles x = part(inp, token, n, 3 * C);
      const Outputs<double> o = forward(x, alone);
      CHECK(same_bits(o.out, part(all.out, token, n, C)));
      for (int h = 0; h < s.NH; ++h) {
        CHECK(same_bits(part(o.lse, h, 1, n), part(all.lse, (b * s.NH + h) * s.T + begin, n, 1)));
      }
      CHECK(same_bits(backward(part(dout, token, n, C), x, alone), part(dinp, token, n, 3 * C)));
    }
  }
  CHECK(documents == 17);
  Sizes one = s;  // a row that is one document
  one.first.assign(one.first.size(), 0);
  Sizes none = one;
  none.first.clear();
  CHECK(same_bits(forward(inp, one).out, forward(inp, none).out));
}

TEST_CASE("attention's dropout has the right mean, another mask per sequence, and repeats exactly") {
  // All scores equal and all v one: out[t] = sum_u drop(1/(t+1)), with mean 1.
  const Sizes s{8, 64, 16, 4};
  Doubles inp(s.inp(), 0);
  for (size_t n = 0; n < s.out() / s.C; ++n) std::fill_n(inp.begin() + n * 3 * s.C + 2 * s.C, s.C, 1.0);
  const float dropout = 0.25f;
  const Doubles out = forward(inp, s, dropout, 1, 2).out;
  double sum = 0, last_rows = 0;
  for (int b = 0; b < s.B; ++b) {
    for (int h = 0; h < s.NH; ++h) {
      for (int t = 0; t < s.T; ++t) {
        const double row_mean = out[(static_cast<size_t>(b) * s.T + t) * s.C + h * s.C / s.NH];
        sum += row_mean * (t + 1);
        if (t + 1 == s.T) last_rows += row_mean;
      }
    }
  }
  // Each of n probabilities is 4/3 with chance 3/4, else 0: variance 1/3. Five standard deviations.
  const double n = s.B * s.NH * s.T * (s.T + 1) / 2.0, n_last = s.B * s.NH * s.T;
  CHECK(std::abs(sum / n - 1) < 5 * std::sqrt(1 / 3.0 / n));
  CHECK(std::abs(last_rows / (s.B * s.NH) - 1) < 5 * std::sqrt(1 / 3.0 / n_last));
  CHECK(same_bits(out, forward(inp, s, dropout, 1, 2).out));
  CHECK_FALSE(same_bits(out, forward(inp, s, dropout, 1, 3).out));
  CHECK_FALSE(same_bits(out, forward(inp, s, dropout, 2, 2).out));
}

TEST_CASE("attention survives scores that would overflow exp") {
  const Sizes s{1, 9, 8, 2};
  const Floats inp = random_tensor<float>(s.inp(), 1, 300);  // scores to about 1e5: exp of 89 is infinite
  const Outputs<float> o = forward(inp, s);
  const Doubles inp_exact(inp.begin(), inp.end());
  const Outputs<double> exact = forward(inp_exact, s);
  CHECK(relative_difference(o.lse, exact.lse) < 1e-6);
  CHECK(relative_difference(o.out, exact.out) < 1e-2);  // a score of 1e5 is known to 1e5 u = 0.006
  const Floats dinp = backward(random_tensor<float>(s.out(), 2), inp, s);
  CHECK(std::isfinite(norm(dinp)));
}

TEST_CASE("attention looks only back: a later token changes nothing before it") {
  const Sizes s{1, 6, 12, 3};
  Doubles inp = random_tensor(s.inp(), 1);
  const Doubles before = forward(inp, s).out;
  const int t = 4;
  for (int i = 0; i < 3 * s.C; ++i) inp[t * 3 * s.C + i] = std::numeric_limits<double>::quiet_NaN();
  const Doubles after = forward(inp, s).out;
  CHECK(std::equal(before.begin(), before.begin() + t * s.C, after.begin()));
  CHECK(std::isnan(after[t * s.C]));
}

TEST_CASE("attention that is not causal: every query sees what the last query of causal attention sees") {
  const Sizes causal{2, 6, 12, 3}, all{2, 6, 12, 3, false};
  const Doubles inp = random_tensor(causal.inp(), 1);
  const Outputs<double> one = forward(inp, causal), other = forward(inp, all);
  for (int b = 0; b < 2; ++b) {  // the last query's row
    const auto row = (static_cast<std::ptrdiff_t>(b) * 6 + 5) * 12;
    CHECK(std::equal(one.out.begin() + row, one.out.begin() + row + 12, other.out.begin() + row));
  }
  Doubles reversed(inp.size());  // a set of keys has no order: in reverse order, the queries give the same
  for (int b = 0; b < 2; ++b) {
    for (int t = 0; t < 6; ++t) std::copy_n(&inp[(b * 6 + t) * 36], 36, &reversed[(b * 6 + 5 - t) * 36]);
  }
  const Doubles turned = forward(reversed, all).out;
  for (int b = 0; b < 2; ++b) {
    for (int t = 0; t < 6; ++t) {
      for (int c = 0; c < 12; ++c) {
        CHECK(turned[(b * 6 + 5 - t) * 12 + c] == doctest::Approx(other.out[(b * 6 + t) * 12 + c]).epsilon(1e-12));
      }
    }
  }
}

TEST_CASE("attention does not depend on the number of threads") {
  const Sizes s{3, 19, 35, 5};
  const Floats inp = random_tensor<float>(s.inp(), 1, 2), dout = random_tensor<float>(s.out(), 2);
  for (const float dropout : {0.0f, 0.1f}) {
    check_thread_independence([&] {
      Floats all = forward(inp, s, dropout).out;
      const Floats dinp = backward(dout, inp, s, dropout);
      all.insert(all.end(), dinp.begin(), dinp.end());
      return all;
    });
  }
}
