// The matrix products of every tier compared with the twin in double, on the stored values.
#include <memory>

#include "kernels/gelu.h"
#include "kernels/matmul.cuh"
#include "kernels/matmul.h"
#include "tests/helpers/device.h"

namespace {

struct Tier {
  const char* name;
  MatmulMode mode;
};

// All tiers that fit a type and are compiled.
template <class floatX>
std::vector<Tier> tiers() {
  std::vector<Tier> all = {{"plain", {MatmulTier::plain, false}}};
  if constexpr (std::is_same_v<floatX, float>) {
    all.push_back({"tensor cores, tf32", {MatmulTier::tensor_core, true}});
  } else {
    all.push_back({"tensor cores, bf16", {MatmulTier::tensor_core, false}});
  }
#ifdef WROUGHT_CUBLASLT
  all.push_back({"cuBLASLt", {MatmulTier::cublaslt, false}});
  if constexpr (std::is_same_v<floatX, float>) all.push_back({"cuBLASLt, tf32", {MatmulTier::cublaslt, true}});
#endif
  return all;
}

template <class floatX>
bool rounds_to_tf32(MatmulMode mode) {
  return std::is_same_v<floatX, float> && mode.tf32 && mode.tier != MatmulTier::plain;
}

template <class floatX>
bool truncates(MatmulMode mode) {  // tensor cores add
  return mode.tier != MatmulTier::plain && (std::is_same_v<floatX, bf16> || mode.tf32);
}

// Values of a factor as rounded before multiplying. tf32: the nearest with 10 bits of mantissa, ties away from zero.
template <class floatX>
Doubles factor(const std::vector<floatX>& stored, MatmulMode mode) {
  Floats values = to_numbers<float>(stored);
  if (rounds_to_tf32<floatX>(mode)) {
    for (float& x : values) {
      uint32_t bits;
      std::memcpy(&bits, &x, sizeof bits);
      bits = (bits + 0x1000) & 0xffffe000;
      std::memcpy(&x, &bits, sizeof bits);
    }
  }
  return Doubles(values.begin(), values.end());
}

// Products of K terms, each then multiplied by factors (or by 1), computed in float with an error of at most 4 u, and
// rounded to floatX; where tensor cores add, plus truncation. cuBLASLt has its own rounding to tf32: each factor of the
// product is then wrong by up to 2^-10, and K such errors add up as the products do.
template <class floatX>
double product_error(MatmulMode mode, const std::vector<floatX>& actual, const Doubles& products, double K,
                     const Doubles& factors = {}) {  // in units of the tolerance
  REQUIRE(actual.size() == products.size());
  const bool loose = mode.tier == MatmulTier::cublaslt && rounds_to_tf32<floatX>(mode);
  const double size = rms(products), sums = loose ? 4 * 0x1p-10 * size : sum_tolerance<float>(K, size);
  // Where cuBLASLt has no algorithm with GELU in it, the sum is stored before it is multiplied by its factor.
  const int roundings = mode.tier == MatmulTier::cublaslt && !factors.empty() ? 2 : 1;
  const Doubles a = to_numbers(actual);
  Worst worst;
  for (size_t i = 0; i < a.size(); ++i) {
    const double f = factors.empty() ? 1 : factors[i], expected = products[i] * f;
    const double cut =
        truncates<floatX>(mode) ? truncation_tolerance(K, products[i], size, std::is_same_v<floatX, bf16> ? 16 : 8) : 0;
    const double tolerance = (sums + cut) * std::abs(f) + (factors.empty() ? 0 : 4 * 0x1p-24 * std::abs(products[i])) +
                             roundings * unit_roundoff<floatX>() * std::abs(expected) + 1e-30;
    worst.see(std::abs(a[i] - expected) / tolerance, i);
  }
  return worst.error;
}

// Device memory for n elements, `shift` elements beyond a 16-byte boundary, between 64 elements that must not change;
// inputs end with the allocation, so that reads past the end are detected.
template <class T>
class Guarded {
 public:
  Guarded(const std::vector<T>& values, size_t shift, bool input = false) : n_(values.size()), begin_(kMargin + shift) {
    std::vector<T> all(begin_ + n_ + (input ? 0 : kMargin), guard());
    std::copy(values.begin(), values.end(), all.begin() + static_cast<std::ptrdiff_t>(begin_));
    memory_ = std::make_unique<DeviceArray<T>>(all);
  }
  T* data() const { return memory_->data() + begin_; }
  std::vector<T> host() const {
    const std::vector<T> all = memory_->host();
    bool intact = true;
    for (size_t i = 0; i < all.size(); ++i) {
      const T expected = guard();
      if (i < begin_ || i >= begin_ + n_) intact = intact && std::memcmp(&all[i], &expected, sizeof(T)) == 0;
    }
    CHECK(intact);
    return std::vector<T>(all.begin() + begin_, all.begin() + begin_ + n_);
  }

 private:
  static constexpr size_t kMargin = 64;
  static T guard() { return static_cast<T>(123.0f); }
  size_t n_, begin_;
  std::unique_ptr<DeviceArray<T>> memory_;
};

struct Sizes {
  int N, C, OC;
};

template <class floatX>
struct Layer {
  int N, C, OC;
  std::vector<floatX> inp, weight, bias, dout, pre_gelu, residual;
  Floats dweight, dbias;  // old values
  Floats dout_sums;       // not those of dout: to see where they go

  explicit Layer(Sizes sizes)
      : N(sizes.N),
        C(sizes.C),
        OC(sizes.OC),
        inp(random_storage<floatX>(size_t(N) * C, 1)),
        weight(random_storage<floatX>(size_t(OC) * C, 2)),
        bias(random_storage<floatX>(OC, 3)),
        dout(random_storage<floatX>(size_t(N) * OC, 4)),
        pre_gelu(random_storage<floatX>(size_t(N) * C, 5, 3)),
        residual(random_storage<floatX>(size_t(N) * OC, 8)),
        dweight(random_tensor<float>(size_t(OC) * C, 6)),
        dbias(random_tensor<float>(OC, 7)),
        dout_sums(random_tensor<float>(OC, 9)) {}
};

template <class floatX>
struct Outputs {
  std::vector<floatX> out, out_gelu;
  std::vector<floatX> dinp;
  Floats dweight, dbias;

  Floats joined() const {
    Floats all;
    for (const auto* part : {&out, &out_gelu, &dinp}) {
      const Floats values = to_numbers<float>(*part);
      all.insert(all.end(), values.begin(), values.end());
    }
    all.insert(all.end(), dweight.begin(), dweight.end());
    all.insert(all.end(), dbias.begin(), dbias.end());
    return all;
  }
};

struct Wanted {
  bool bias = true, out_gelu = true, pre_gelu = true;
  bool dinp = true, dweight = true, dbias = true;
  bool residual = false;           // added to out
  bool set = false, sums = false;  // dweight and dbias are set; dbias comes from dout_sums
  size_t shift = 0;                // shift of all pointers
  int only = -1;                   // or only of this one
};

// Forward and backward; unwanted outputs are null, and stay empty or unchanged.
template <class floatX>
Outputs<floatX> run(const Layer<floatX>& l, MatmulMode mode, Wanted wanted = {}) {
  const auto shift = [&](int pointer) { return wanted.only < 0 || wanted.only == pointer ? wanted.shift : 0; };
  const floatX nan = to_storage<floatX>({std::numeric_limits<float>::quiet_NaN()})[0];
  const std::vector<floatX> no_out(l.dout.size(), nan), no_inp(l.inp.size(), nan);
  const Guarded<floatX> inp(l.inp, shift(0), true), weight(l.weight, shift(1), true), bias(l.bias, shift(2), true),
      dout(l.dout, shift(3), true), pre_gelu(l.pre_gelu, shift(4), true), out(no_out, shift(5)),
      out_gelu(no_out, shift(6)), dinp(no_inp, shift(7)), residual(l.residual, shift(11), true);
  const auto before = [&](const Floats& old) {
    return wanted.set ? Floats(old.size(), std::numeric_limits<float>::quiet_NaN()) : old;
  };
  const Guarded<float> dweight(before(l.dweight), shift(8)), dbias(before(l.dbias), shift(9)),
      sums(l.dout_sums, shift(12), true);
  const Guarded<unsigned char> scratch(
      std::vector<unsigned char>(matmul_backward_scratch(l.N, l.C, l.OC), static_cast<unsigned char>(0xff)),
      wanted.only == 10 ? sizeof(float) : 0);
  const auto pointer = [](bool want, auto* data) { return want ? data : nullptr; };
  matmul_forward<floatX>(out.data(), pointer(wanted.out_gelu, out_gelu.data()), inp.data(), weight.data(),
                         pointer(wanted.bias, bias.data()), l.N, l.C, l.OC, mode, nullptr,
                         pointer(wanted.residual, residual.data()));
  matmul_backward<floatX>(pointer(wanted.dinp, dinp.data()), pointer(wanted.dweight, dweight.data()),
                          pointer(wanted.dbias, dbias.data()), scratch.data(), dout.data(), inp.data(), weight.data(),
                          pointer(wanted.pre_gelu, pre_gelu.data()), l.N, l.C, l.OC, mode, nullptr, wanted.set,
                          pointer(wanted.sums, sums.data()));
  scratch.host();
  Outputs<floatX> results{out.host(), {}, {}, dweight.host(), dbias.host()};
  if (wanted.out_gelu) results.out_gelu = out_gelu.host();
  if (wanted.dinp) results.dinp = dinp.host();
  return results;
}

// gelu(x) / x, and gelu'(x)
Doubles gelu_factors(const Doubles& x) {
  Doubles y(x.size());
  cpu::gelu_forward(y.data(), x.data(), static_cast<int64_t>(x.size()));
  for (size_t i = 0; i < x.size(); ++i) y[i] = x[i] == 0 ? 0.5 : y[i] / x[i];
  return y;
}
Doubles gelu_gradients(const Doubles& x) {
  const Doubles ones(x.size(), 1.0);
  Doubles y(x.size());
  cpu::gelu_backward(y.data(), ones.data(), x.data(), static_cast<int64_t>(x.size()));
  return y;
}

template <class floatX>
void check_against_twin(const Layer<floatX>& l, MatmulMode mode, const Outputs<floatX>& actual,
                        const Wanted& wanted = {}) {
  const Doubles inp = factor(l.inp, mode), weight = factor(l.weight, mode), dout = factor(l.dout, mode);
  const Doubles bias = to_numbers(l.bias);
  Doubles out(l.dout.size()), dinp(l.inp.size()), dweight = to_numbers(l.dweight), dbias = to_numbers(l.dbias);
  if (wanted.set) dweight.assign(dweight.size(), 0), dbias.assign(dbias.size(), 0);
  cpu::matmul_forward(out.data(), inp.data(), weight.data(), bias.data(), l.N, l.C, l.OC);
  cpu::matmul_backward(dinp.data(), dweight.data(), static_cast<double*>(nullptr), dout.data(), inp.data(),
                       weight.data(), l.N, l.C, l.OC);
  if (wanted.residual) {
    const Doubles added = to_numbers(l.residual);
    std::transform(out.begin(), out.end(), added.begin(), out.begin(), std::plus<double>());
  }
  if (wanted.sums) {
    std::transform(dbias.begin(), dbias.end(), l.dout_sums.begin(), dbias.begin(), std::plus<double>());
  } else {
    cpu::bias_backward(dbias.data(), to_numbers(l.dout).data(), l.N, l.OC);  // not a product: not rounded to tf32
  }

  CHECK(product_error(mode, actual.out, out, l.C) <= 1);
  const Doubles stored = to_numbers(actual.out);
  double gelu_error = product_error(mode, actual.out_gelu, stored, 0, gelu_factors(stored));
  if (mode.tier == MatmulTier::cublaslt) {  // it may apply GELU to the sums before they are rounded
    gelu_error = std::min(gelu_error, product_error(mode, actual.out_gelu, out, l.C, gelu_factors(out)));
  }
  CHECK(gelu_error <= 1);
  CHECK(product_error(mode, actual.dinp, dinp, l.OC, gelu_gradients(to_numbers(l.pre_gelu))) <= 1);
  CHECK(product_error(mode, actual.dweight, dweight, l.N) <= 1);
  check_close("dbias", actual.dbias, dbias, l.N);
}

// Sizes of one element, less than a tile, ragged and whole tiles, several tiles; K of each product (C forward, OC for
// dinp, N for dweight) of less than one slice, one, and many; lengths that are multiples of 16 bytes and not.
constexpr Sizes kSizes[] = {{1, 1, 1},    {5, 1, 3},     {1, 33, 2},    {33, 33, 33},   {7, 13, 31},
                            {64, 64, 64}, {65, 72, 136}, {3, 400, 8},   {130, 8, 24},   {31, 67, 131},
                            {8, 16, 408}, {24, 40, 32},  {513, 16, 17}, {129, 136, 72}, {1025, 3, 5}};

}  // namespace

// This test comes first, because it checks which kernels ran.
TEST_CASE_TEMPLATE("matmul takes 16-byte accesses where sizes and tensors allow it", floatX, float, bf16) {
  const Layer<floatX> layer({72, 64, 80});
  for (const Tier& tier : tiers<floatX>()) check_against_twin(layer, tier.mode, run(layer, tier.mode));
  for (const std::string layout : {"(Major)0, (Major)0", "(Major)0, (Major)1", "(Major)1, (Major)1"}) {
    check_ran<floatX>("matmul_plain_kernel<floatX, " + layout + ", true");
    check_ran<floatX>("matmul_tensor_core_kernel<floatX, " + layout + ", TensorTile<64, 64, 32, 32, 4, 4>, true");
  }
  check_ran<floatX>("bias_partial_kernel<floatX, true");
}

TEST_CASE_TEMPLATE("matmul: every tier matches the twin", floatX, float, bf16) {
  for (const Tier& tier : tiers<floatX>()) {
    for (const Sizes sizes : kSizes) {
      INFO(std::string(tier.name));
      CAPTURE(sizes.N);
      CAPTURE(sizes.C);
      CAPTURE(sizes.OC);
      const Layer<floatX> layer(sizes);
      check_against_twin(layer, tier.mode, run(layer, tier.mode));
    }
  }
}

TEST_CASE_TEMPLATE("matmul adds a residual, sets gradients, and takes column sums that are known", floatX, float,
                   bf16) {
  for (const Tier& tier : tiers<floatX>()) {
    for (const Sizes sizes : {Sizes{1, 1, 1}, Sizes{7, 13, 31}, Sizes{72, 64, 80}, Sizes{2060, 40, 24}}) {
      INFO(std::string(tier.name));
      CAPTURE(sizes.N);
      const Layer<floatX> layer(sizes);
      for (const Wanted& wanted : {Wanted{.residual = true}, Wanted{.set = true}, Wanted{.sums = true},
                                   Wanted{.residual = true, .set = true, .sums = true}}) {
        CAPTURE(wanted.set);
        CAPTURE(wanted.sums);
        check_against_twin(layer, tier.mode, run(layer, tier.mode, wanted), wanted);
      }
      // The residual in place: out is what it was added to.
      if (tier.mode.tier == MatmulTier::cublaslt) continue;
      const DeviceArray<floatX> inp(layer.inp), weight(layer.weight), out(layer.residual);
      matmul_forward<floatX>(out.data(), nullptr, inp.data(), weight.data(), nullptr, layer.N, layer.C, layer.OC,
                             tier.mode, nullptr, out.data());
      CHECK(same_bits(out.host(), run(layer, tier.mode, {.bias = false, .out_gelu = false, .residual = true}).out));
    }
  }
}

TEST_CASE_TEMPLATE("matmul gives the same bits for any alignment of the pointers", floatX, float, bf16) {
  for (const Tier& tier : tiers<floatX>()) {
    if (tier.mode.tier == MatmulTier::cublaslt) continue;  // chooses another algorithm: see below
    INFO(std::string(tier.name));
    const Layer<floatX> layer({72, 64, 80});
    // Without gelu'(x): the compiler decides case by case which of its multiplications and additions to fuse.
    const Floats aligned = run(layer, tier.mode, {.pre_gelu = false}).joined();
    for (const size_t shift : {1, 2, 3, 4}) {
      CAPTURE(shift);
      CHECK(same_bits(run(layer, tier.mode, {.pre_gelu = false, .shift = shift}).joined(), aligned));
    }
    for (int only = 0; only < 10; ++only) {  // catches a launcher that forgets one of them
      CAPTURE(only);
      check_against_twin(layer, tier.mode, run(layer, tier.mode, {.shift = 1, .only = only}));
    }
  }
}

#ifdef WROUGHT_CUBLASLT
TEST_CASE_TEMPLATE("matmul: cuBLASLt takes pointers of any alignment" * full_set(), floatX, float, bf16) {
  for (const size_t shift : {1, 2, 4, 8}) {
    CAPTURE(shift);
    const Layer<floatX> layer({72, 64, 80});
    const MatmulMode mode{MatmulTier::cublaslt, false};
    check_against_twin(layer, mode, run(layer, mode, {.shift = shift}));
  }
}
#endif

TEST_CASE_TEMPLATE("matmul gives the same bits under all schedules" * full_set(), floatX, float, bf16) {
  for (const Tier& tier : tiers<floatX>()) {
    for (const Sizes sizes : {Sizes{70, 72, 136}, Sizes{33, 67, 35}}) {
      INFO(std::string(tier.name));
      CAPTURE(sizes.C);
      const Layer<floatX> layer(sizes);
      same_under_all_schedules([&] { return run(layer, tier.mode).joined(); });
    }
  }
}

TEST_CASE_TEMPLATE("matmul: an absent output changes no other", floatX, float, bf16) {
  for (const Tier& tier : tiers<floatX>()) {
    for (const Sizes sizes : {Sizes{40, 48, 72}, Sizes{9, 5, 7}}) {
      INFO(std::string(tier.name));
      CAPTURE(sizes.N);
      Layer<floatX> layer(sizes);
      const Outputs<floatX> all = run(layer, tier.mode);

      const Outputs<floatX> only_out = run(layer, tier.mode, {.out_gelu = false, .dweight = false, .dbias = false});
      CHECK(same_bits(only_out.dinp, all.dinp));
      CHECK(same_bits(only_out.dweight, layer.dweight));  // untouched
      CHECK(same_bits(only_out.dbias, layer.dbias));
      const Outputs<floatX> only_dweight = run(layer, tier.mode, {.dinp = false, .dbias = false});
      CHECK(same_bits(only_dweight.dweight, all.dweight));
      const Outputs<floatX> only_dbias = run(layer, tier.mode, {.dinp = false, .dweight = false});
      CHECK(same_bits(only_dbias.dbias, all.dbias));
      if (tier.mode.tier != MatmulTier::cublaslt) CHECK(same_bits(only_out.out, all.out));

      const Outputs<floatX> no_gelu = run(layer, tier.mode, {.pre_gelu = false});
      Doubles dinp(layer.inp.size());
      cpu::matmul_backward(dinp.data(), static_cast<double*>(nullptr), static_cast<double*>(nullptr),
                           factor(layer.dout, tier.mode).data(), factor(layer.inp, tier.mode).data(),
                           factor(layer.weight, tier.mode).data(), layer.N, layer.C, layer.OC);
      CHECK(product_error(tier.mode, no_gelu.dinp, dinp, layer.OC) <= 1);

      const Outputs<floatX> no_bias = run(layer, tier.mode, {.bias = false});
      layer.bias = to_storage<floatX>(Floats(layer.bias.size(), 0.0f));
      const Outputs<floatX> zero_bias = run(layer, tier.mode);
      if (tier.mode.tier != MatmulTier::cublaslt) {
        CHECK(same_bits(no_bias.out, zero_bias.out));
        CHECK(same_bits(no_bias.out_gelu, zero_bias.out_gelu));
      } else {
        CHECK(max_difference(to_numbers(no_bias.out), to_numbers(zero_bias.out)) <=
              1e-2 * rms(to_numbers(zero_bias.out)));
      }
    }
  }
}

TEST_CASE("matmul: float on tensor cores is rounded only where tf32 is allowed") {
  const Layer<float> layer({33, 40, 24});
  const Floats plain = run(layer, {MatmulTier::plain, false}).joined();
  CHECK(same_bits(run(layer, {MatmulTier::tensor_core, false}).joined(), plain));
  CHECK(same_bits(run(layer, {MatmulTier::plain, true}).joined(), plain));
  CHECK_FALSE(same_bits(run(layer, {MatmulTier::tensor_core, true}).joined(), plain));
}

TEST_CASE_TEMPLATE("matmul sums dweight over many rows in parts", floatX, float, bf16) {
  const Sizes sizes{4113, 16, 8};
  const int part = rows_per_part(sizes.N, sizes.C, sizes.OC);
  REQUIRE(ceil_div(sizes.N, part) == 4);
  REQUIRE(matmul_backward_scratch(sizes.N, sizes.C, sizes.OC) == 4 * 16 * 8 * 4);
  const Layer<floatX> layer(sizes);
  for (const Tier& tier : tiers<floatX>()) {
    INFO(std::string(tier.name));
    check_against_twin(layer, tier.mode, run(layer, tier.mode));
  }
  const MatmulMode mode{MatmulTier::tensor_core, true};
  same_under_all_schedules([&] { return run(layer, mode).joined(); });
  check_ran<floatX>(
      "matmul_tensor_core_kernel<floatX, (Major)1, (Major)1, TensorTile<64, 64, 32, 32, 4, 4>, true, PartEpilogue>");
  const Floats dweight = run(layer, mode).dweight;
  CHECK(same_bits(run(layer, mode, {.shift = 1}).dweight, dweight));
  CHECK(same_bits(run(layer, mode, {.only = 10}).dweight, dweight));
  const Layer<floatX> ragged({2100, 13, 5});  // parts whose rows end within a group of columns
  REQUIRE(rows_per_part(2100, 13, 5) < 2100);
  check_against_twin(ragged, mode, run(ragged, mode));
}

TEST_CASE("matmul: the number of parts of dweight keeps to its limits") {
  CHECK(rows_per_part(2048, 16, 8) == 1024);
  CHECK(rows_per_part(2047, 16, 8) == 2047);
  CHECK(matmul_backward_scratch(2047, 768, 768) == bias_backward_scratch(2047, 768));  // one part needs no room
  for (const int N : {1, 1023, 2047, 2048, 4096, 65536, 1 << 20}) {
    for (const Sizes sizes : {Sizes{N, 1, 1}, Sizes{N, 768, 768}, Sizes{N, 768, 2304}, Sizes{N, 768, 50304}}) {
      const int part = rows_per_part(N, sizes.C, sizes.OC), parts = ceil_div(N, part);
      CAPTURE(N);
      CAPTURE(sizes.OC);
      CHECK(parts >= 1);
      CHECK(parts <= 64);
      CHECK((parts == 1 || part % 32 == 0));
      CHECK((parts == 1 || part >= 1024));
      CHECK((parts - 1) * static_cast<int64_t>(part) < N);
      CHECK((parts == 1 || parts * tile_count(sizes.OC, sizes.C, 128, 128) <= 256));
    }
  }
}

#ifdef WROUGHT_CUDASIM
TEST_CASE_TEMPLATE("matmul: tensor cores that truncate sums are within the tolerance, which includes it" * full_set(),
                   floatX, float, bf16) {
  const MatmulMode mode{MatmulTier::tensor_core, true};
  const Layer<floatX> layer({24, 8200, 16});
  const bool before = cudasim::mma_truncates();
  cudasim::set_mma_truncates(false);
  const Floats nearest = run(layer, mode).joined();
  cudasim::set_mma_truncates(true);
  const Outputs<floatX> cut = run(layer, mode);
  check_against_twin(layer, mode, cut);
  CHECK_FALSE(same_bits(cut.joined(), nearest));
  const Sizes sums{5000, 24, 16};  // sums of all rows, as dweight, in parts and not
  check_against_twin(Layer<floatX>(sums), mode, run(Layer<floatX>(sums), mode));

  // And sums that all have one sign: each step toward zero is an error to the same side.
  Layer<floatX> positive({16, 16384, 8});
  for (auto* factor : {&positive.inp, &positive.weight}) {
    for (floatX& x : *factor) x = static_cast<floatX>(std::abs(static_cast<float>(x)));
  }
  const Outputs<floatX> far = run(positive, mode, {.bias = false});
  check_against_twin(positive, mode, run(positive, mode));
  cudasim::set_mma_truncates(before);
  if constexpr (std::is_same_v<floatX, float>) {  // the term is needed: without it they exceed the tolerance
    Doubles out(far.out.size());
    cpu::matmul_forward(out.data(), factor(positive.inp, mode).data(), factor(positive.weight, mode).data(),
                        static_cast<double*>(nullptr), positive.N, positive.C, positive.OC);
    CHECK(max_difference(far.out, out) > sum_tolerance<float>(positive.C, rms(out)));
  }
}
#endif

namespace {

// All three layouts with one tile size, over ragged tiles.
template <class Tile, bool kVector, class floatX>
Floats by_tile(const Layer<floatX>& l) {
  const DeviceArray<floatX> inp(l.inp), weight(l.weight), bias(l.bias), dout(l.dout);
  const DeviceArray<floatX> out(l.dout.size()), out_gelu(l.dout.size()), dinp(l.inp.size());
  const DeviceArray<float> dweight(l.dweight);
  const ForwardEpilogue<floatX> forward{out.data(), out_gelu.data(), bias.data(), nullptr, l.OC};
  matmul_tensor_core_tile<Tile, kVector, Major::k, Major::k>(forward, inp.data(), weight.data(), l.N, l.OC, l.C, l.C,
                                                             nullptr);
  const InputGradientEpilogue<floatX> input{dinp.data(), nullptr, l.C};
  matmul_tensor_core_tile<Tile, kVector, Major::k, Major::mn>(input, dout.data(), weight.data(), l.N, l.C, l.OC, l.OC,
                                                              nullptr);
  matmul_tensor_core_tile<Tile, kVector, Major::mn, Major::mn>(AccumulateEpilogue{dweight.data(), l.C}, dout.data(),
                                                               inp.data(), l.OC, l.C, l.N, l.N, nullptr);
  return Outputs<floatX>{out.host(), out_gelu.host(), dinp.host(), dweight.host(), {}}.joined();
}

}  // namespace

TEST_CASE_TEMPLATE("matmul gives the same bits with every tile size" * full_set(), floatX, float, bf16) {
  const Layer<floatX> layer({136, 144, 264});
  Floats small = run(layer, {MatmulTier::tensor_core, true}, {.pre_gelu = false}).joined();
  small.resize(small.size() - layer.dbias.size());
  CHECK(same_bits(by_tile<SmallTile, true>(layer), small));
  CHECK(same_bits(by_tile<SmallTile, false>(layer), small));
  CHECK(same_bits(by_tile<SquareTile, true>(layer), small));
  CHECK(same_bits(by_tile<WideTile, true>(layer), small));
}

TEST_CASE("matmul: the launcher takes larger tiles for larger products") {
  for (const Sizes sizes : {Sizes{1025, 8, 2048}, Sizes{2049, 8, 3848}}) {  // 9 x 16 square, 17 x 16 wide tiles
    CAPTURE(sizes.N);
    const int N = sizes.N, C = sizes.C, OC = sizes.OC;
    const auto inp = random_storage<bf16>(size_t(N) * C, 1), weight = random_storage<bf16>(size_t(OC) * C, 2);
    const DeviceArray<bf16> d_inp(inp), d_weight(weight), out(size_t(N) * OC);
    matmul_forward<bf16>(out.data(), nullptr, d_inp.data(), d_weight.data(), nullptr, N, C, OC,
                         {MatmulTier::tensor_core, false}, nullptr);
    Doubles expected(size_t(N) * OC);
    cpu::matmul_forward(expected.data(), to_numbers(inp).data(), to_numbers(weight).data(),
                        static_cast<double*>(nullptr), N, C, OC);
    check_close("out", out.host(), expected, C);
  }
#ifdef WROUGHT_CUDASIM
  bool square = false, wide = false;
  for (const std::string& name : cudasim::launched_kernels()) {
    if (name.find("Major)0, (Major)0") == std::string::npos) continue;
    square = square || name.find("TensorTile<128, 128") != std::string::npos;
    wide = wide || name.find("TensorTile<128, 256") != std::string::npos;
  }
  CHECK(square);
  CHECK(wide);
#endif
}

namespace {

// Whether accesses of `bytes` each, at these offsets in shared memory, touch each of the 32 banks once.
bool all_banks_once(const std::vector<int>& offsets, int bytes) {
  std::vector<int> touched(32);
  for (const int offset : offsets) {
    for (int word = offset / 4; word < (offset + bytes) / 4; ++word) ++touched[word % 32];
  }
  return std::all_of(touched.begin(), touched.end(), [](int n) { return n == 1; });
}

template <class T, Major kMajor, int kRows>
void check_banks() {
  using Slice = SharedSlice<T, kMajor, kRows>;
  std::vector<int> places;
  for (int line = 0; line < Slice::kLines; ++line) {
    for (int chunk = 0; chunk < Slice::kChunks; ++chunk) places.push_back(Slice::offset(line, chunk));
  }
  bool copies = true, loads = true;  // cp.async: neighbouring threads, neighbouring chunks
  for (size_t i = 0; i < places.size(); i += 8) {
    copies = copies && all_banks_once({places.begin() + i, places.begin() + i + 8}, 16);
  }
  for (int line = 0; line < Slice::kLines; line += 8) {
    for (int chunk = 0; chunk < Slice::kChunks; ++chunk) {
      std::vector<int> offsets;
      if constexpr (kMajor == Major::mn && sizeof(T) == 4) {  // words of 4 lines and 2 chunks
        for (int lane = 0; lane < 32; ++lane) {
          const int m = chunk / 2 * 8 + lane / 4;
          offsets.push_back(Slice::offset(line + chunk % 2 * 4 + lane % 4, m / 4) + m % 4 * 4);
        }
        loads = loads && all_banks_once(offsets, 4);
      } else {  // ldmatrix: a chunk of 8 lines
        for (int i = 0; i < 8; ++i) offsets.push_back(Slice::offset(line + i, chunk));
        loads = loads && all_banks_once(offsets, 16);
      }
    }
  }
  CHECK(copies);
  CHECK(loads);
  std::sort(places.begin(), places.end());
  for (size_t i = 0; i < places.size(); ++i) REQUIRE(places[i] == static_cast<int>(i * 16));  // each place once
}

}  // namespace

TEST_CASE_TEMPLATE("matmul: slices in shared memory are free of bank conflicts", T, float, bf16) {
  check_banks<T, Major::k, 64>();
  check_banks<T, Major::k, 128>();
  check_banks<T, Major::k, 256>();
  check_banks<T, Major::mn, 64>();
  check_banks<T, Major::mn, 128>();
  check_banks<T, Major::mn, 256>();
}

TEST_CASE("matmul: blocks visit each tile once, in bands") {
  for (const Sizes tiles : {Sizes{1, 0, 1}, Sizes{8, 0, 3}, Sizes{19, 0, 5}, Sizes{3, 0, 40}}) {
    const int rows = tiles.N, columns = tiles.OC;
    std::vector<int> visits(rows * columns);
    for (int block = 0; block < rows * columns; ++block) {
      int row, column;
      tile_of_block(row, column, block, rows, columns);
      REQUIRE(row < rows);
      REQUIRE(column < columns);
      ++visits[row * columns + column];
    }
    CHECK(std::all_of(visits.begin(), visits.end(), [](int n) { return n == 1; }));
  }
}

#ifndef WROUGHT_CUBLASLT
TEST_CASE("matmul reports which of our kernels multiplies, and why not a faster one") {
  const auto said = [](auto type, MatmulTier tier, bool tf32) {
    const MatmulChoice choice = explained<decltype(type)>({}, {tier, tf32});
    return choice.text() + ": " + choice.why;
  };
  const std::string without = "built without cuBLASLt", asked = "the plain kernels were asked for";
  CHECK(said(float(), MatmulTier::plain, false) ==
        "own plain kernel: " + without + ", and tensor cores would round fp32");
  CHECK(said(float(), MatmulTier::plain, true) == "own plain kernel: " + asked);
  CHECK(said(float(), MatmulTier::tensor_core, false) == "own plain kernel: " + without);
  CHECK(said(float(), MatmulTier::tensor_core, true) == "own tensor cores: " + without);
  CHECK(said(bf16(), MatmulTier::plain, false) == "own plain kernel: " + asked);
  CHECK(said(bf16(), MatmulTier::tensor_core, false) == "own tensor cores: " + without);
  const MatmulMode mode{MatmulTier::tensor_core, false};
  CHECK(explained<bf16>({"cuBLASLt, algorithm 7", ""}, mode).library == "cuBLASLt, algorithm 7");
  CHECK(explained<bf16>({"cuBLASLt, algorithm 7", ""}, mode).why == "");
  CHECK(explained<bf16>({"", "cuBLASLt has no algorithm"}, mode).why == "cuBLASLt has no algorithm");
}

TEST_CASE("matmul: a tier that is not compiled is an error that says so") {
  const MatmulMode mode{MatmulTier::cublaslt, false};
  const DeviceArray<float> x(Floats{1}), out(1), gradient(Floats{0});
  const DeviceArray<char> scratch(matmul_backward_scratch(1, 1, 1));
  const char* message = "matmul: this program was built without cuBLASLt";
  CHECK_THROWS_WITH_AS(matmul_forward<float>(out.data(), nullptr, x.data(), x.data(), nullptr, 1, 1, 1, mode, nullptr),
                       message, CudaError);
  const auto backward = [&](float* dinp, float* dweight) {
    matmul_backward<float>(dinp, dweight, nullptr, scratch.data(), x.data(), x.data(), x.data(), nullptr, 1, 1, 1, mode,
                           nullptr);
  };
  CHECK_THROWS_WITH_AS(backward(out.data(), nullptr), message, CudaError);
  CHECK_THROWS_WITH_AS(backward(nullptr, gradient.data()), message, CudaError);
  CHECK_NOTHROW(backward(nullptr, nullptr));  // nothing is asked for
}
#endif
