#include "dev/bench/attention_terms.h"
#include "kernels/attention.cuh"
#include "kernels/attention.h"
#include "tests/helpers/device.h"
#include "tests/helpers/documents.h"

namespace {

struct Sizes {
  int B, T, NH, HS;
  bool causal = true;
  std::vector<int32_t> first = {};  // (B, T) or empty
  int NKV = NH;
  AttentionShape shape() const { return {B, T, NH, NKV, HS, causal, first.empty() ? nullptr : first.data()}; }
  // With documents in another memory.
  AttentionShape shape(const int32_t* documents) const {
    return {B, T, NH, NKV, HS, causal, first.empty() ? nullptr : documents};
  }
  template <class T>
  Qkv<T> qkv(T* rows) const {
    return packed_qkv(rows, shape());
  }
  int C() const { return NH * HS; }
  size_t inp() const { return static_cast<size_t>(B) * T * shape().packed_channels(); }
  size_t out() const { return static_cast<size_t>(B) * T * C(); }
  size_t lse() const { return static_cast<size_t>(B) * NH * T; }
};

std::string name_of(const Sizes& s) {
  return "B " + std::to_string(s.B) + ", T " + std::to_string(s.T) + ", NH " + std::to_string(s.NH) + ", HS " +
         std::to_string(s.HS) + ", NKV " + std::to_string(s.NKV) + (s.causal ? "" : ", not causal") +
         (s.first.empty() ? "" : ", documents");
}

// Rows of documents of these lengths.
Sizes of_documents(Sizes s, const std::vector<int>& lengths) {
  s.first = documents_of(s.B, s.T, lengths);
  return s;
}

constexpr uint64_t kSeed = 7, kSequence = 8;

// ---- the kernels and their twin, on host tensors -------------------------------------------------------------------

template <class floatX>
struct Outputs {
  std::vector<floatX> out;
  Floats lse;
};

template <class floatX>
Outputs<floatX> forward(const std::vector<floatX>& inp, const Sizes& s, float dropout, AttentionTier tier,
                        DropoutSequence sequence = kSequence) {
  const bool plain = tier == AttentionTier::plain;  // takes any alignment: reads beyond the end are detected
  const DeviceArray<floatX> out(s.out(), plain), device_inp(inp, plain);
  const DeviceArray<float> lse(s.lse(), true);
  const DeviceArray<int32_t> first(s.first, true);
  attention_forward(out.data(), lse.data(), s.qkv<const floatX>(device_inp.data()), dropout, kSeed, sequence,
                    s.shape(first.data()), tier, nullptr);
  return {out.host(), lse.host()};
}

Doubles twin_forward(const Doubles& inp, const Sizes& s, float dropout, Doubles* lse) {
  Doubles out(s.out());
  lse->resize(s.lse());
  cpu::attention_forward(out.data(), lse->data(), s.qkv(inp.data()), dropout, kSeed, kSequence, s.shape());
  return out;
}

// Inputs of backward: tensors in the storage type, from the twin's forward.
template <class floatX>
struct BackwardInputs {
  std::vector<floatX> dout, out, inp;
  Floats lse;

  BackwardInputs(const Sizes& s, float dropout, double scale = 1)
      : dout(random_storage<floatX>(s.out(), 2)), inp(random_storage<floatX>(s.inp(), 1, scale)) {
    Doubles exact;
    const Doubles o = twin_forward(to_numbers(inp), s, dropout, &exact);
    out = to_storage<floatX>(Floats(o.begin(), o.end()));
    lse.assign(exact.begin(), exact.end());
  }
};

template <class floatX>
std::vector<floatX> backward(const BackwardInputs<floatX>& in, const Sizes& s, float dropout, AttentionTier tier,
                             DropoutSequence sequence = kSequence) {
  const bool plain = tier == AttentionTier::plain;
  const DeviceArray<floatX> dinp(s.inp(), plain), dout(in.dout, plain), out(in.out, plain), inp(in.inp, plain);
  const DeviceArray<float> lse(in.lse, true);  // dinp: NaN until it is set
  const DeviceArray<float> scratch(attention_backward_scratch(s.B, s.T, s.NH) / sizeof(float), true);
  const DeviceArray<int32_t> first(s.first, true);
  attention_backward(s.qkv(dinp.data()), scratch.data(), dout.data(), out.data(), lse.data(),
                     s.qkv<const floatX>(inp.data()), dropout, kSeed, sequence, s.shape(first.data()), tier, nullptr);
  return dinp.host();
}

template <class floatX>
Doubles twin_backward(const BackwardInputs<floatX>& in, const Sizes& s, float dropout) {
  Doubles dinp(s.inp());
  const Doubles inp = to_numbers(in.inp);
  cpu::attention_backward(s.qkv(dinp.data()), to_numbers(in.dout).data(), to_numbers(in.out).data(),
                          to_numbers(in.lse).data(), s.qkv(inp.data()), dropout, kSeed, kSequence, s.shape());
  return dinp;
}

// ---- comparisons ---------------------------------------------------------------------------------------------------

template <class floatX>
AttentionTerms term_sizes(const BackwardInputs<floatX>& in, const Sizes& s, float dropout) {
  return attention_terms(to_numbers(in.inp), to_numbers(in.dout), to_numbers(in.out), to_numbers(in.lse), dropout,
                         kSeed, kSequence, s.shape());
}

// Compared with the twin in double on the same stored values, element by element, within attention_tolerance() and u
// |x| for the storage of the result.
template <class floatX>
void check_sums(const char* name, const std::vector<floatX>& actual, const Doubles& expected, const Doubles& parts,
                const Doubles& terms, double K, bool rounded_factors) {
  REQUIRE(actual.size() == expected.size());
  const Doubles a = to_numbers(actual);
  Worst worst;
  for (size_t i = 0; i < a.size(); ++i) {
    const double tolerance = attention_tolerance(parts[i], terms[i], K, rounded_factors) +
                             unit_roundoff<floatX>() * std::abs(expected[i]) + 1e-30;
    worst.see(std::abs(a[i] - expected[i]) / tolerance, i);
  }
  INFO(std::string(name), ", element ", worst.i, " of ", a.size(), ": ", a[worst.i], ", expected ", expected[worst.i]);
  CHECK(worst.error <= 1);
}

// dq, dk or dv (part 0, 1, 2) of dinp.
template <class T>
std::vector<T> part_of(const std::vector<T>& dinp, int part, const Sizes& s) {
  const AttentionShape shape = s.shape();
  const int width = part == 0 ? shape.channels() : shape.kv_channels();
  std::vector<T> values;
  values.reserve(s.out());
  for (int64_t token = 0; token < shape.tokens(); ++token) {
    const auto start = dinp.begin() + token * shape.packed_channels() +
                       (part == 0 ? 0 : shape.channels() + (part - 1) * shape.kv_channels());
    values.insert(values.end(), start, start + width);
  }
  return values;
}

template <class floatX>
void check_case(const Sizes& s, float dropout, AttentionTier tier) {
  CAPTURE(name_of(s));
  CAPTURE(dropout);
  const double K = s.T * (s.NH / s.NKV) + s.HS;  // dk and dv sum over the heads that share them
  const bool rounded = std::is_same_v<floatX, bf16> && tier != AttentionTier::plain;
  const BackwardInputs<floatX> in(s, dropout);
  const AttentionTerms sizes = term_sizes(in, s, dropout);
  Doubles lse;
  const Doubles expected = twin_forward(to_numbers(in.inp), s, dropout, &lse);
  const Outputs<floatX> o = forward(in.inp, s, dropout, tier);
  check_sums("out", o.out, expected, sizes.out, sizes.out, K, rounded);
  check_close("lse", o.lse, lse, K);

  const std::vector<floatX> dinp = backward(in, s, dropout, tier);
  const Doubles expected_dinp = twin_backward(in, s, dropout);
  const char* names[] = {"dq", "dk", "dv"};
  for (int part = 0; part < 3; ++part) {
    check_sums(names[part], part_of(dinp, part, s), part_of(expected_dinp, part, s), part_of(sizes.parts, part, s),
               part_of(sizes.dinp, part, s), K, rounded);
  }
}

}  // namespace

TEST_CASE("attention in float arithmetic takes any head size and any length") {
  for (const Sizes& s :
       {Sizes{1, 1, 1, 1}, Sizes{2, 33, 3, 7}, Sizes{2, 67, 2, 33}, Sizes{1, 131, 1, 48}, Sizes{2, 129, 2, 64},
        Sizes{1, 70, 2, 65}, Sizes{1, 67, 1, 80}, Sizes{1, 130, 1, 128}, Sizes{1, 65, 1, 200}, Sizes{3, 1, 2, 256},
        Sizes{1, 1, 1, 1, false}, Sizes{2, 131, 2, 33, false}, Sizes{1, 66, 1, 130, false}}) {
    for (const float dropout : {0.0f, 0.2f}) {
      check_case<float>(s, dropout, AttentionTier::plain);
      check_case<bf16>(s, dropout, AttentionTier::plain);
    }
  }
}

TEST_CASE("attention on tensor cores takes each of its head sizes and any length") {
  const std::vector<int> head_sizes = quick_set() ? std::vector{48, 64} : std::vector{32, 48, 64, 80, 96, 112, 128};
  for (const int HS : head_sizes) {
    for (const Sizes& s : {Sizes{1, 1, 2, HS}, Sizes{2, 33, 1, HS}, Sizes{1, 200, 1, HS}}) {
      for (const float dropout : {0.0f, 0.2f}) check_case<bf16>(s, dropout, AttentionTier::tensor_core);
    }
  }
  for (const Sizes& s : {Sizes{2, 131, 3, 64}, Sizes{1, 401, 1, 64}, Sizes{1, 260, 2, 32}}) {
    for (const float dropout : {0.0f, 0.2f}) check_case<bf16>(s, dropout, AttentionTier::tensor_core);
  }
  for (const int HS : head_sizes) {
    for (const std::string kernel : {"forward", "backward_keys", "backward_queries"}) {
      for (const std::string dropout : {"false", "true"}) {
        check_ran<bf16>("attention_tensor_core::attention_" + kernel + "_tensor_core_kernel<" + std::to_string(HS) +
                        ", false, " + dropout);
      }
    }
  }
}

#ifdef WROUGHT_CUDASIM
TEST_CASE("attention on tensor cores that truncate sums is within the tolerance" * full_set()) {
  const bool before = cudasim::mma_truncates();
  cudasim::set_mma_truncates(false);
  const Sizes s{1, 1025, 1, 64};
  const BackwardInputs<bf16> in(s, 0);
  const auto nearest = backward(in, s, 0, AttentionTier::tensor_core);
  cudasim::set_mma_truncates(true);
  check_case<bf16>(s, 0, AttentionTier::tensor_core);
  check_case<bf16>({2, 200, 1, 128}, 0.2f, AttentionTier::tensor_core);
  CHECK_FALSE(same_bits(backward(in, s, 0, AttentionTier::tensor_core), nearest));
  cudasim::set_mma_truncates(before);
}
#endif

TEST_CASE_TEMPLATE("attention's backward pass over pieces of the batch gives the bits of the whole", floatX, float,
                   bf16) {
  const AttentionTier tier = std::is_same_v<floatX, bf16> ? AttentionTier::tensor_core : AttentionTier::plain;
  for (const int NKV : {3, 1}) {
    Sizes s{5, 33, 3, 32};
    s.NKV = NKV;
    const BackwardInputs<floatX> in(s, 0);
    const std::vector<floatX> whole = backward(in, s, 0, tier);
    const DeviceArray<floatX> dout(in.dout), out(in.out), inp(in.inp);
    const DeviceArray<float> lse(in.lse), scratch(attention_backward_scratch(s.B, s.T, s.NH) / sizeof(float));
    for (const int sequences : {1, 2, 3, 5, 7}) {
      CAPTURE(sequences);
      const DeviceArray<floatX> dinp(s.inp());
      int calls = 0;
      backward_in_pieces<floatX>(
          {s.qkv(dinp.data()), dout.data(), out.data(), lse.data(), s.qkv<const floatX>(inp.data())},
          attention_problem<floatX>(s.shape(), 0, 0, 0), sequences,
          [&](const AttentionBackward<floatX>& x, const AttentionProblem& part) {
            ++calls;
            AttentionShape shape = s.shape();
            shape.B = part.heads / part.NH;
            attention_backward(x.dinp, scratch.data(), x.dout, x.out, x.lse, x.inp, 0, 0, 0, shape, tier, nullptr);
          });
      CHECK(calls == (5 + sequences - 1) / sequences);
      CHECK(same_bits(dinp.host(), whole));
    }
  }
}

TEST_CASE("pieces of cuDNN's backward pass: as few as fit the limit, nearly equal, a sequence at least") {
  // A sequence of GPT-2's smallest model takes 28.3 MB, of its largest 59.
  CHECK(cudnn_backward_bytes(1, 1024, 12, 64) == 12 * 1024 * (2 * 1024 + 4 * 64));
  const int64_t limit = kCudnnWorkspaceLimit;
  CHECK(cudnn_backward_piece(9, 1024, 12, 64, limit) == 9);
  CHECK(cudnn_backward_piece(10, 1024, 12, 64, limit) == 5);
  CHECK(cudnn_backward_piece(16, 1024, 12, 64, limit) == 8);
  CHECK(cudnn_backward_piece(19, 1024, 12, 64, limit) == 7);  // 7, 7 and 5
  CHECK(cudnn_backward_piece(16, 1024, 25, 64, limit) == 4);
  CHECK(cudnn_backward_piece(16, 8192, 12, 64, limit) == 1);  // more than the limit: refused by its size
  CHECK(cudnn_backward_bytes(1, 8192, 12, 64) > limit);
  CHECK(cudnn_backward_piece(1, 1, 1, 1, limit) == 1);
  CHECK(cudnn_backward_piece(1 << 20, 64, 12, 64, INT64_MAX) == 1 << 20);
}

TEST_CASE("the choice of attention and its reason, for every answer of cuDNN and without it") {
  const auto choose = [](AttentionCase c, const std::string& refusal, bool asked) {
    bool was = false;
    const AttentionChoice choice = choose_attention(c, [&] {
      was = true;
      return refusal;
    });
    CHECK(was == asked);
    return choice.text() + ": " + choice.why;
  };
  AttentionCase c{.wanted = AttentionTier::cudnn,
                  .bf16 = true,
                  .causal = true,
                  .dropout = false,
                  .documents = false,
                  .aligned = true,
                  .others_aligned = true,
                  .HS = 64};
  CHECK(choose(c, "", true) == "cuDNN: ");
  const std::string limit = cudnn_workspace_refusal(402653184, 268435456);
  CHECK(limit == "cuDNN would take 402653184 bytes of workspace, limit 268435456");
  CHECK(cudnn_workspace_refusal(268435456, 268435456) == "");
  CHECK(choose(c, limit, true) == "own kernels on tensor cores: " + limit);
  const auto changed = [&](auto change) {
    AttentionCase other = c;
    change(other);
    return other;
  };
  const auto own = [&](auto change) { return choose(changed(change), "", false); };
  CHECK(own([](AttentionCase& o) { o.dropout = true; }) ==
        "own kernels on tensor cores: cuDNN's dropout would draw a different mask");
  CHECK(own([](AttentionCase& o) { o.documents = true; }) ==
        "own kernels on tensor cores: cuDNN is skipped: rows hold several documents");
  CHECK(own([](AttentionCase& o) { o.others_aligned = false; }) ==
        "own kernels on tensor cores: cuDNN is skipped: a tensor does not begin at a multiple of 16 bytes");
  CHECK(own([](AttentionCase& o) { o.aligned = false; }).rfind("own plain kernels: ", 0) == 0);
  CHECK(own([](AttentionCase& o) { o.causal = false; }) ==
        "own plain kernels: not causal: the other kernels need causal attention");
  CHECK(own([](AttentionCase& o) { o.bf16 = false; }) == "own plain kernels: tensor cores would round float");
  CHECK(own([](AttentionCase& o) { o.wanted = AttentionTier::plain; }) ==
        "own plain kernels: the plain kernels were asked for");
  for (int HS = 1; HS <= 256; ++HS) {
    CHECK(tensor_core_head_size(HS) == attention_tensor_core::with_head_size(HS, [](auto) {}));
  }
  const AttentionCase wide = changed([](AttentionCase& o) { o.HS = 72; });
  CHECK(choose(wide, "cuDNN has no plan (x)", true) ==
        "own plain kernels: cuDNN has no plan (x); no kernel on tensor cores for heads of 72");
  CHECK(choose(wide, "", true) == "cuDNN: ");
}

TEST_CASE("attention over several documents in a row, in float arithmetic and on tensor cores") {
  const std::vector<std::vector<int>> lengths = {{1}, {3, 64, 1, 30}, {63, 64}, {150, 1, 2}, {1000}};
  for (const std::vector<int>& some : lengths) {
    if (quick_set() && some.size() != 3) continue;
    CAPTURE(some[0]);
    for (const Sizes& s : {Sizes{2, 33, 3, 7}, Sizes{2, 200, 1, 33}, Sizes{1, 131, 2, 72}}) {
      check_case<float>(of_documents(s, some), 0.2f, AttentionTier::plain);
      check_case<bf16>(of_documents(s, some), 0, AttentionTier::plain);
    }
    for (const float dropout : {0.0f, 0.2f}) {
      check_case<bf16>(of_documents({2, 333, 1, 64}, some), dropout, AttentionTier::tensor_core);
      check_case<bf16>(of_documents({1, 260, 2, 128}, some), dropout, AttentionTier::tensor_core);
    }
  }
  if (quick_set()) return;
  for (const int HS : {32, 48, 80, 96, 112}) {
    check_case<bf16>(of_documents({2, 200, 1, HS}, {70, 9, 33}), 0, AttentionTier::tensor_core);
  }
  for (const std::string HS : {"32", "48", "64", "80", "96", "112", "128"}) {
    for (const std::string kernel : {"forward", "backward_keys", "backward_queries"}) {
      check_ran<bf16>("attention_tensor_core::attention_" + kernel + "_tensor_core_kernel<" + HS + ", true, true>");
    }
  }
}

TEST_CASE("attention of heads that share keys and values, in all tiers") {
  for (const int sharing : {2, 4}) {  // NH / 2, and one head for all
    for (const float dropout : {0.0f, 0.2f}) {
      const auto shared = [&](Sizes s) {
        s.NKV = s.NH / sharing;
        return s;
      };
      check_case<float>(shared({2, 67, 4, 33}), dropout, AttentionTier::plain);
      check_case<bf16>(shared({1, 130, 4, 80}), dropout, AttentionTier::plain);
      check_case<float>(shared({1, 70, 4, 7, false}), dropout, AttentionTier::plain);
      check_case<float>(shared(of_documents({2, 130, 4, 33}, {3, 64, 1, 30})), dropout, AttentionTier::plain);
      for (const int HS : quick_set() ? std::vector{64} : std::vector{32, 64, 128}) {
        check_case<bf16>(shared({2, 140, 4, HS}), dropout, AttentionTier::tensor_core);
        check_case<bf16>(shared(of_documents({1, 200, 4, HS}, {70, 9, 33})), dropout, AttentionTier::tensor_core);
      }
    }
  }
  const Sizes s{1, 140, 4, 64, true, {}, 2};
  const BackwardInputs<bf16> in(s, 0);
  same_under_all_schedules([&] { return backward(in, s, 0, AttentionTier::tensor_core); });
  same_under_all_schedules([&] { return backward(in, s, 0, AttentionTier::plain); });
}

TEST_CASE("attention reads and writes queries, keys and values in separate tensors: the same bits") {
  const auto check = [&]<class floatX>(floatX, const Sizes& s, AttentionTier tier, int64_t gap) {
    CAPTURE(name_of(s));
    const BackwardInputs<floatX> in(s, 0.2f);
    const AttentionShape shape = s.shape();
    const int64_t tokens = shape.tokens(), q_row = shape.channels() + gap, kv_row = shape.kv_channels() + 2 * gap;
    const auto rows = [&](int part, int64_t row) {  // with NaN between the tokens
      const std::vector<floatX> values = part_of(in.inp, part, s);
      const int64_t width = static_cast<int64_t>(values.size()) / tokens;
      std::vector<floatX> all(static_cast<size_t>(tokens * row), to_storage<floatX>({NAN})[0]);
      for (int64_t n = 0; n < tokens; ++n) std::copy_n(&values[n * width], width, &all[n * row]);
      return all;
    };
    const DeviceArray<floatX> q(rows(0, q_row)), k(rows(1, kv_row)), v(rows(2, kv_row)), out(s.out()), dq(q.host()),
        dk(k.host()), dv(v.host()), dout(in.dout), out_in(in.out);
    const DeviceArray<float> lse(s.lse()), lse_in(in.lse);
    const DeviceArray<char> scratch(attention_backward_scratch(s.B, s.T, s.NH));
    const Qkv<const floatX> inp{q.data(), k.data(), v.data(), q_row, kv_row};
    attention_forward(out.data(), lse.data(), inp, 0.2f, kSeed, kSequence, shape, tier, nullptr);
    attention_backward({dq.data(), dk.data(), dv.data(), q_row, kv_row}, scratch.data(), dout.data(), out_in.data(),
                       lse_in.data(), inp, 0.2f, kSeed, kSequence, shape, tier, nullptr);
    const Outputs<floatX> expected = forward(in.inp, s, 0.2f, tier);
    CHECK(same_bits(out.host(), expected.out));
    CHECK(same_bits(lse.host(), expected.lse));
    const std::vector<floatX> dinp = backward(in, s, 0.2f, tier);
    const DeviceArray<floatX>* gradients[] = {&dq, &dk, &dv};
    for (int part = 0; part < 3; ++part) {
      const std::vector<floatX> all = gradients[part]->host(), values = part_of(dinp, part, s);
      const int64_t row = part == 0 ? q_row : kv_row, width = static_cast<int64_t>(values.size()) / tokens;
      for (int64_t n = 0; n < tokens; ++n) {
        REQUIRE(std::memcmp(&all[n * row], &values[n * width], width * sizeof(floatX)) == 0);
        for (int64_t c = width; c < row; ++c) REQUIRE(std::isnan(static_cast<float>(all[n * row + c])));
      }
    }
  };
  check(float(), {2, 70, 4, 33, true, {}, 2}, AttentionTier::plain, 3);
  check(bf16(), {2, 70, 4, 72, true, {}, 4}, AttentionTier::plain, 3);
  check(bf16(), {2, 140, 4, 64, true, {}, 2}, AttentionTier::tensor_core, 8);
  check(bf16(), {1, 140, 4, 48, true, {}, 1}, AttentionTier::tensor_core, 0);
}

TEST_CASE("attention takes the plain kernels where tokens do not begin at multiples of 16 bytes") {
  const Sizes s{1, 20, 2, 32};
  const BackwardInputs<bf16> in(s, 0);
  const DeviceArray<bf16> out(s.out()), inp(20 * 3 * 64 + 19 * 4);
  const DeviceArray<float> lse(s.lse());
  std::vector<bf16> rows(inp.host());
  for (int t = 0; t < 20; ++t) std::copy_n(&in.inp[t * 192], 192, &rows[t * 196]);
  const DeviceArray<bf16> apart(rows);
  const Qkv<const bf16> qkv{apart.data(), apart.data() + 64, apart.data() + 128, 196, 196};
  attention_forward(out.data(), lse.data(), qkv, 0, 0, 0, s.shape(), AttentionTier::tensor_core, nullptr);
  CHECK(same_bits(out.host(), forward(in.inp, s, 0, AttentionTier::plain).out));
}

TEST_CASE("attention skips the tiles of other documents: not even a NaN comes from there") {
  const auto check = [&]<class floatX>(floatX, const Sizes& s, AttentionTier tier) {
    CAPTURE(name_of(s));
    const BackwardInputs<floatX> in(s, 0);
    const Outputs<floatX> expected = forward(in.inp, s, 0, tier);
    const std::vector<floatX> expected_dinp = backward(in, s, 0, tier);
    for (const int begin : {0, 64, 256}) {  // these are borders of tiles, and of warps within a block's tile
      CAPTURE(begin);
      BackwardInputs<floatX> poisoned = in;
      for (int t = 0; t < s.T; ++t) {
        if (s.first[t] == begin) continue;
        std::fill_n(poisoned.inp.begin() + t * 3 * s.C(), 3 * s.C(), to_storage<floatX>({NAN})[0]);
        std::fill_n(poisoned.dout.begin() + t * s.C(), s.C(), to_storage<floatX>({NAN})[0]);
      }
      const Outputs<floatX> o = forward(poisoned.inp, s, 0, tier);
      const std::vector<floatX> dinp = backward(poisoned, s, 0, tier);
      const auto same = [&](const auto& a, const auto& b, int width) {
        const auto rows = [&](const auto& x) {
          std::decay_t<decltype(x)> mine;
          for (int t = 0; t < s.T; ++t) {
            if (s.first[t] == begin) mine.insert(mine.end(), x.begin() + t * width, x.begin() + (t + 1) * width);
          }
          return mine;
        };
        CHECK(same_bits(rows(a), rows(b)));
      };
      same(o.out, expected.out, s.C());
      same(o.lse, expected.lse, 1);
      same(dinp, expected_dinp, 3 * s.C());
    }
  };
  const std::vector<int> lengths = {64, 192, 100};
  check(float(), of_documents({1, 330, 1, 40}, lengths), AttentionTier::plain);
  check(bf16(), of_documents({1, 330, 1, 64}, lengths), AttentionTier::tensor_core);
  check(bf16(), of_documents({1, 330, 1, 128}, lengths), AttentionTier::tensor_core);
}

TEST_CASE("attention over several documents is refused unless it is causal") {
  const Sizes s = of_documents({1, 9, 1, 16, false}, {4});
  const BackwardInputs<float> in({1, 9, 1, 16}, 0);
  CHECK_THROWS_WITH_AS(forward(in.inp, s, 0, AttentionTier::plain), doctest::Contains("need causal"), CudaError);
  CHECK_THROWS_WITH_AS(backward(in, s, 0, AttentionTier::plain), doctest::Contains("need causal"), CudaError);
}

TEST_CASE("attention on tensor cores: weights whose random number is at least dropout are kept") {
  const Sizes s{1, 32, 1, 32};
  const float number = philox_uniform(kSeed, kSequence, 3 * 32 + 1);  // for query 3's weight of key 1
  REQUIRE(number > 0.05f);
  REQUIRE(number < 0.95f);
  check_case<bf16>(s, number, AttentionTier::tensor_core);
}

TEST_CASE("attention's dropout may count passes in device memory: the same bits as with their number, in all tiers") {
  const DeviceArray<uint64_t> pass(std::vector<uint64_t>{5});
  const DropoutSequence counted(kSequence, pass.data());
  const auto check = [&]<class floatX>(floatX, const Sizes& s, AttentionTier tier) {
    INFO(name_of(s));
    const BackwardInputs<floatX> in(s, 0.2f);
    const auto numbered = [&](uint64_t number) { return (number << 16) + kSequence; };
    const auto o = forward(in.inp, s, 0.2f, tier, counted);
    CHECK(same_bits(o.out, forward(in.inp, s, 0.2f, tier, numbered(5)).out));
    CHECK_FALSE(same_bits(o.out, forward(in.inp, s, 0.2f, tier, numbered(6)).out));
    CHECK(same_bits(backward(in, s, 0.2f, tier, counted), backward(in, s, 0.2f, tier, numbered(5))));
    CHECK_FALSE(same_bits(backward(in, s, 0.2f, tier, counted), backward(in, s, 0.2f, tier)));
    CHECK(same_bits(forward(in.inp, s, 0, tier, {kSequence, nullptr}).out, forward(in.inp, s, 0, tier, counted).out));
  };
  for (const int T : {65, 68}) {  // a Philox call for one element, and for four
    check(float(), {1, T, 2, 7}, AttentionTier::plain);
    check(bf16(), {1, T, 2, 7}, AttentionTier::plain);
    check(bf16(), {1, T, 2, 64}, AttentionTier::tensor_core);
    check(bf16(), of_documents({1, T, 2, 64}, {40, 3}), AttentionTier::tensor_core);
    check(float(), of_documents({1, T, 2, 7}, {40, 3}), AttentionTier::plain);
  }
}

#ifdef WROUGHT_CUDNN
TEST_CASE("attention runs by cuDNN, and by our kernels with dropout, several documents or no plan") {
  for (const Sizes& s : {Sizes{1, 1, 2, 64}, Sizes{2, 33, 3, 64}, Sizes{2, 257, 2, 64}, Sizes{1, 200, 2, 128},
                         Sizes{1, 129, 1, 80}, Sizes{1, 20, 1, 33}, of_documents({2, 200, 2, 64}, {70, 9})}) {
    for (const float dropout : {0.0f, 0.2f}) check_case<bf16>(s, dropout, AttentionTier::cudnn);
  }
  const Sizes s{2, 300, 2, 64};
  const BackwardInputs<bf16> in(s, 0);
  same_under_all_schedules([&] { return forward(in.inp, s, 0, AttentionTier::cudnn).out; });
  same_under_all_schedules([&] { return backward(in, s, 0, AttentionTier::cudnn); });
}
#else
TEST_CASE("attention reports that a build has no cuDNN") {
  const Sizes s{1, 2, 1, 64};
  const BackwardInputs<bf16> in(s, 0);
  CHECK_THROWS_WITH_AS(forward(in.inp, s, 0, AttentionTier::cudnn), doctest::Contains("no cuDNN"), CudaError);
  CHECK_THROWS_WITH_AS(backward(in, s, 0, AttentionTier::cudnn), doctest::Contains("no cuDNN"), CudaError);
}
#endif

TEST_CASE("attention's tiers fall back to plain where tensor cores cannot be used: same bits") {
  const auto same = [](const auto& actual, const auto& expected) {
    CHECK(same_bits(actual.out, expected.out));
    CHECK(same_bits(actual.lse, expected.lse));
  };
  for (const Sizes& s : {Sizes{1, 9, 2, 16}, Sizes{1, 9, 1, 40}, Sizes{1, 9, 1, 144}}) {  // head sizes
    const BackwardInputs<bf16> in(s, 0);
    same(forward(in.inp, s, 0, AttentionTier::tensor_core), forward(in.inp, s, 0, AttentionTier::plain));
    CHECK(same_bits(backward(in, s, 0, AttentionTier::tensor_core), backward(in, s, 0, AttentionTier::plain)));
  }
  const Sizes all{1, 70, 1, 64, false};
  const BackwardInputs<bf16> not_causal(all, 0);
  same(forward(not_causal.inp, all, 0, AttentionTier::tensor_core),
       forward(not_causal.inp, all, 0, AttentionTier::plain));
  CHECK(same_bits(backward(not_causal, all, 0, AttentionTier::tensor_core),
                  backward(not_causal, all, 0, AttentionTier::plain)));
  const Sizes s{1, 9, 2, 64};
  const BackwardInputs<float> in(s, 0);  // because of the type
  same(forward(in.inp, s, 0, AttentionTier::tensor_core), forward(in.inp, s, 0, AttentionTier::plain));
  CHECK(same_bits(backward(in, s, 0, AttentionTier::tensor_core), backward(in, s, 0, AttentionTier::plain)));
}

TEST_CASE("attention takes tensor cores if all its tensors start at multiples of 16 bytes, else plain") {
  const Sizes s{2, 21, 2, 32};
  const float dropout = 0.1f;
  const BackwardInputs<bf16> in(s, dropout);
  for (const Shift shift : shifts(5, true)) {
    CAPTURE(shift.tensor);
    CAPTURE(shift.all);
    const DeviceArray<bf16> inp(in.inp, shift[0]), out(s.out(), shift[1]), dinp(s.inp(), shift[2]),
        dout(in.dout, shift[3]), o(in.out, shift[4]);
    const DeviceArray<float> lse(in.lse.size()), lse_in(in.lse);
    const DeviceArray<char> scratch(attention_backward_scratch(s.B, s.T, s.NH));
    attention_forward(out.data(), lse.data(), s.qkv<const bf16>(inp.data()), dropout, kSeed, kSequence, s.shape(),
                      AttentionTier::tensor_core, nullptr);
    attention_backward(s.qkv(dinp.data()), scratch.data(), dout.data(), o.data(), lse_in.data(),
                       s.qkv<const bf16>(inp.data()), dropout, kSeed, kSequence, s.shape(), AttentionTier::tensor_core,
                       nullptr);
    const auto tier = [](bool unaligned) { return unaligned ? AttentionTier::plain : AttentionTier::tensor_core; };
    CHECK(same_bits(out.host(), forward(in.inp, s, dropout, tier(shift[0] || shift[1])).out));
    CHECK(same_bits(dinp.host(), backward(in, s, dropout, tier(shift[0] || shift[2] || shift[3]))));
  }
  // Tensor cores round p to bf16, so the bits show which kernels ran.
  const auto plain = forward(in.inp, s, dropout, AttentionTier::plain).out;
  {  // plain was asked for: aligned tensors do not change that
    const DeviceArray<bf16> inp(in.inp), out(s.out()), dinp(s.inp()), dout(in.dout), o(in.out);
    const DeviceArray<float> lse(in.lse.size()), lse_in(in.lse);
    const DeviceArray<char> scratch(attention_backward_scratch(s.B, s.T, s.NH));
    attention_forward(out.data(), lse.data(), s.qkv<const bf16>(inp.data()), dropout, kSeed, kSequence, s.shape(),
                      AttentionTier::plain, nullptr);
    attention_backward(s.qkv(dinp.data()), scratch.data(), dout.data(), o.data(), lse_in.data(),
                       s.qkv<const bf16>(inp.data()), dropout, kSeed, kSequence, s.shape(), AttentionTier::plain,
                       nullptr);
    CHECK(same_bits(out.host(), plain));
    CHECK(same_bits(dinp.host(), backward(in, s, dropout, AttentionTier::plain)));
  }
  CHECK_FALSE(same_bits(forward(in.inp, s, dropout, AttentionTier::tensor_core).out, plain));
  CHECK_FALSE(
      same_bits(backward(in, s, dropout, AttentionTier::tensor_core), backward(in, s, dropout, AttentionTier::plain)));
}

TEST_CASE("attention's delta uses 16-byte accesses where possible, with the same bits as without") {
  const auto check = [&]<class floatX>(floatX, int HS) {
    const Sizes s{2, 67, 3, HS};
    CAPTURE(name_of(s));
    const std::vector<floatX> dout = random_storage<floatX>(s.out(), 1), out = random_storage<floatX>(s.out(), 2);
    Doubles expected(s.lse());
    const Doubles a = to_numbers(dout), b = to_numbers(out);
    for (int row = 0; row < s.B * s.T; ++row) {
      for (int c = 0; c < s.C(); ++c) {
        const size_t at = static_cast<size_t>(row) * s.C() + c;
        expected[static_cast<size_t>(row / s.T * s.NH + c / HS) * s.T + row % s.T] += a[at] * b[at];
      }
    }
    const AttentionProblem sizes = attention_problem<floatX>(s.shape(), 0, 0, 0);
    const auto delta = [&](bool aligned) {
      const DeviceArray<floatX> device_dout(dout, !aligned), device_out(out, !aligned);
      const DeviceArray<float> sums(s.lse());
      attention_delta<floatX>(sums.data(), device_dout.data(), device_out.data(), sizes, aligned, nullptr);
      return sums.host();
    };
    check_close("delta", delta(true), expected, HS);
    CHECK(same_bits(delta(true), delta(false)));
  };
  check(float(), 33);
  check(bf16(), 12);
  check_ran<float>("attention_delta_kernel<floatX, false");
  check_ran<bf16>("attention_delta_kernel<floatX, false");
  check(float(), 36);  // some lanes have two packs, others one
  check(bf16(), 72);
  check_ran<float>("attention_delta_kernel<floatX, true");
  check_ran<bf16>("attention_delta_kernel<floatX, true");
  CHECK(attention_shape(attention_problem<float>({6, 5, 3, 3, 4}, 0, 0, 0)) == "6 x 5, 3 heads of 4");
  CHECK(attention_shape(attention_problem<float>({6, 5, 8, 2, 4}, 0, 0, 0)) == "6 x 5, 8 heads, 2 of keys, of 4");
}

TEST_CASE("attention survives scores that would overflow exp") {
  const Sizes s{1, 140, 1, 32};
  const auto check = [&]<class floatX>(floatX, AttentionTier tier) {
    const BackwardInputs<floatX> in(s, 0, 300);  // scores to about 1e5: exp of 89 is infinite
    Doubles lse;
    const Doubles expected = twin_forward(to_numbers(in.inp), s, 0, &lse);
    const Outputs<floatX> o = forward(in.inp, s, 0, tier);
    CHECK(relative_difference(o.lse, lse) < 1e-6);
    CHECK(relative_difference(to_numbers(o.out), expected) < 1e-2);  // a score of 1e5 is known to 1e5 u = 0.006
    // p comes from a score and lse, each known to 0.006, and is at most rounded to bf16 (0.004).
    CHECK(relative_difference(to_numbers(backward(in, s, 0, tier)), twin_backward(in, s, 0)) < 2e-2);
  };
  check(float(), AttentionTier::plain);
  check(bf16(), AttentionTier::plain);
  check(bf16(), AttentionTier::tensor_core);
}

TEST_CASE("attention gives the same bits under all schedules" * full_set()) {
  const auto check = [&]<class floatX>(floatX, const Sizes& s, float dropout, AttentionTier tier) {
    CAPTURE(name_of(s));
    const BackwardInputs<floatX> in(s, dropout);
    same_under_all_schedules([&] { return forward(in.inp, s, dropout, tier).out; });
    same_under_all_schedules([&] { return forward(in.inp, s, dropout, tier).lse; });
    same_under_all_schedules([&] { return backward(in, s, dropout, tier); });
  };
  for (const float dropout : {0.0f, 0.2f}) {
    check(float(), {1, 140, 2, 33}, dropout, AttentionTier::plain);
    check(float(), {1, 140, 1, 72}, dropout, AttentionTier::plain);
    check(bf16(), {1, 300, 2, 64}, dropout, AttentionTier::tensor_core);
    check(bf16(), {1, 150, 1, 128}, dropout, AttentionTier::tensor_core);
    check(float(), of_documents({1, 140, 1, 33}, {50, 9}), dropout, AttentionTier::plain);
    check(bf16(), of_documents({1, 200, 1, 64}, {50, 9}), dropout, AttentionTier::tensor_core);
  }
}

TEST_CASE("a section of heads takes at most a quarter of the cache for two tensors") {
  CHECK(attention_section(192, 1024 * 64 * 2, 50 << 20) == 48);  // 50 would fit; sections are of equal size
  CHECK(attention_section(192, 1024 * 64 * 2, 64 << 20) == 64);
  CHECK(attention_section(192, 1024 * 64 * 2, 1 << 30) == 192);
  CHECK(attention_section(5, 1024 * 64 * 2, 12 * 1024 * 64 * 4) == 3);
  CHECK(attention_section(5, 1024 * 64 * 2, 1000) == 1);
  CHECK(attention_section(1, int64_t{1} << 40, 1 << 20) == 1);
  CHECK(attention_section(200'000, 1 << 20, 1 << 20) == 4);  // at most 65,535 sections
  int device, cache;
  CUDA_CHECK(cudaGetDevice(&device));
  CUDA_CHECK(cudaDeviceGetAttribute(&cache, cudaDevAttrL2CacheSize, device));
  CHECK(attention_problem<bf16>({16, 1024, 12, 12, 64}, 0, 0, 0).section ==
        attention_section(192, 1024 * 64 * 2, cache));
  CHECK(attention_problem<float>({16, 1024, 12, 12, 64}, 0, 0, 0).section ==
        attention_section(192, 1024 * 64 * 4, cache));
}

TEST_CASE("attention's grid has as many blocks per head as a grid allows") {
  AttentionProblem s = attention_problem<float>({7, 1, 1, 1, 1}, 0, 0, 0);
  s.section = 3;
  const dim3 grid = attention_grid(s, 65'535);
  CHECK(grid.x == 3);
  CHECK(grid.y == 65'535);
  CHECK(grid.z == 3);
  CHECK_THROWS_WITH_AS(attention_grid(s, 65'536), doctest::Contains("blocks per head"), CudaError);
}

TEST_CASE("attention's sections of heads change only the order of blocks") {
  const auto check = [&]<class floatX>(floatX, const Sizes& sizes, AttentionTier tier) {
    CAPTURE(name_of(sizes));
    const BackwardInputs<floatX> in(sizes, 0);
    const Outputs<floatX> expected = forward(in.inp, sizes, 0, tier);
    const std::vector<floatX> expected_dinp = backward(in, sizes, 0, tier);
    AttentionProblem s = attention_problem<floatX>(sizes.shape(), 0, kSeed, kSequence);
    REQUIRE(s.section == s.heads);
    const DeviceArray<floatX> inp(in.inp), dout(in.dout), out_in(in.out);
    const DeviceArray<float> lse_in(in.lse), delta(in.lse.size());
    attention_delta<floatX>(delta.data(), dout.data(), out_in.data(), s, true, nullptr);
    for (s.section = 1; s.section < s.heads; ++s.section) {  // all divisions, with and without a smaller last section
      CAPTURE(s.section);
      const DeviceArray<floatX> out(sizes.out()), dinp(sizes.inp());
      const DeviceArray<float> lse(sizes.lse());
      const auto run = [&](auto forward_of_tier, auto backward_of_tier) {
        const auto qkv = sizes.qkv<const floatX>(inp.data());
        s.keys_section = s.section;
        forward_of_tier(out.data(), lse.data(), qkv, s, nullptr);
        backward_of_tier(sizes.qkv(dinp.data()), dout.data(), lse_in.data(), delta.data(), qkv, s, nullptr);
      };
      if constexpr (std::is_same_v<floatX, bf16>) {
        run(attention_tensor_core::forward, attention_tensor_core::backward);
      } else {
        run(attention_plain::forward<floatX>, attention_plain::backward<floatX>);
      }
      CHECK(same_bits(out.host(), expected.out));
      CHECK(same_bits(lse.host(), expected.lse));
      CHECK(same_bits(dinp.host(), expected_dinp));
    }
  };
  check(float(), {1, 70, 5, 72}, AttentionTier::plain);  // two tiles, two slices
  check(bf16(), {1, 150, 5, 32}, AttentionTier::tensor_core);
}

TEST_CASE("attention refuses sizes that no model can have") {
  const auto check = [](const AttentionShape& s) {
    CAPTURE(s.B);
    CAPTURE(s.T);
    CAPTURE(s.NH);
    CAPTURE(s.NKV);
    CAPTURE(s.HS);
    CHECK_THROWS_WITH_AS(attention_problem<float>(s, 0, 0, 0), doctest::Contains("NKV must divide NH"), CudaError);
  };
  check({0, 1, 2, 2, 5});
  check({1, 0, 2, 2, 5});
  check({1, 1, 0, 2, 5});
  check({1, 1, 2, 0, 5});
  check({1, 1, 2, 2, 0});
  check({1, 1, 6, 4, 5});
  check({1, 1, 2, 4, 5});
  check({1 << 16, 1, 1 << 15, 1 << 15, 1});  // 2^31 heads
  check({1, 1, 1 << 15, 1 << 15, 1 << 16});  // 2^31 channels
  check({1 << 16, 1 << 15, 1, 1, 1});        // 2^31 tokens
  CHECK_NOTHROW(attention_problem<float>({1, 1, INT32_MAX, INT32_MAX, 1}, 0, 0, 0));
  CHECK_THROWS_AS(
      attention_forward<float>(nullptr, nullptr, {}, 0, 0, 0, {1, 1, 6, 4, 5}, AttentionTier::plain, nullptr),
      CudaError);
}
