#include "kernels/attention_decode.cuh"
#include "kernels/attention_decode.h"
#include "tests/helpers/device.h"

namespace {

// One query per head, caches with lengths[b] keys each, followed by NaN: a read beyond a length shows in the result.
template <class floatX>
struct Case {
  int B, NH, HS, max_T, NKV;
  std::vector<int32_t> lengths;
  std::vector<floatX> q, k, v;

  Case(std::vector<int32_t> lengths_, int NH_, int HS_, int max_T_, double scale = 1, int sharing = 1)
      : B(static_cast<int>(lengths_.size())),
        NH(NH_),
        HS(HS_),
        max_T(max_T_),
        NKV(NH_ / sharing),
        lengths(std::move(lengths_)) {
    const size_t heads = static_cast<size_t>(B) * NKV;
    q = random_storage<floatX>(static_cast<size_t>(B) * NH * HS, 1, scale);
    k = random_storage<floatX>(heads * max_T * HS, 2, scale);
    v = random_storage<floatX>(heads * max_T * HS, 3);
    const floatX nan = to_storage<floatX>(Floats(1, std::nanf("")))[0];
    for (size_t h = 0; h < heads; ++h) {
      const size_t from = (h * max_T + lengths[h / NKV]) * HS, to = (h + 1) * max_T * HS;
      for (size_t i = from; i < to; ++i) k[i] = v[i] = nan;
    }
  }

  std::vector<floatX> run(Shift shift = {-1, false}) const {
    const DeviceArray<floatX> out(q.size(), shift[0]), dk(k, shift[1]), dv(v, shift[2]), dq(q, shift[4]);
    const DeviceArray<int32_t> dlengths(lengths);
    const DeviceArray<float> scratch(attention_decode_scratch(B, NH, HS, max_T) / sizeof(float), shift[3]);
    attention_decode(out.data(), scratch.data(), dq.data(), dk.data(), dv.data(), dlengths.data(), B, NH, NKV, HS,
                     max_T, nullptr);
    return out.host();
  }
  Doubles twin() const {
    Doubles out(q.size());
    cpu::attention_decode(out.data(), to_numbers(q).data(), to_numbers(k).data(), to_numbers(v).data(), lengths.data(),
                          B, NH, NKV, HS, max_T);
    return out;
  }
  void check() const {
    CAPTURE(NH);
    CAPTURE(NKV);
    CAPTURE(HS);
    CAPTURE(max_T);
    const Doubles expected = twin();
    for (const Shift shift : shifts(5, HS == 64)) {
      CAPTURE(shift.tensor);
      CAPTURE(shift.all);
      check_close("out", run(shift), expected, max_T + HS);
    }
  }
};

template <class floatX>
void check_all() {
  for (const int HS : {1, 7, 33, 48, 64, 80, 128, 200}) {
    Case<floatX>({1, 40}, 3, HS, 40).check();           // one chunk
    Case<floatX>({129, 256, 301}, 1, HS, 301).check();  // several, the last of 1, 128 and 45 keys
  }
  for (const int sharing : {2, 3, 6}) Case<floatX>({140, 40}, 6, 64, 140, 1, sharing).check();
  Case<floatX>({150}, 1, 1040, 150).check();      // rows of more groups than threads
  Case<floatX>({17000, 5}, 1, 8, 17001).check();  // more chunks than threads
  check_ran<floatX>("attention_decode_kernel<floatX, true");
  check_ran<floatX>("attention_decode_combine_kernel<floatX, true");
}

}  // namespace

TEST_CASE("attention_decode in float takes any head size and any length") { check_all<float>(); }
TEST_CASE("attention_decode in bf16 takes any head size and any length") { check_all<bf16>(); }

TEST_CASE("attention_decode survives scores that would overflow exp") {
  const Case<float> c({300, 20}, 2, 32, 300, 300);       // scores to about 1e5
  CHECK(relative_difference(c.run(), c.twin()) < 1e-2);  // a score of 1e5 is known to 1e5 u = 0.006
}

TEST_CASE("attention_decode gives the same bits under all schedules") {
  same_under_all_schedules([] { return Case<float>({300, 7, 128}, 2, 33, 300).run(); });
  same_under_all_schedules([] { return Case<bf16>({300, 7, 128}, 2, 64, 300).run(); });
  same_under_all_schedules([] { return Case<bf16>({17000}, 1, 8, 17000).run(); });
}
