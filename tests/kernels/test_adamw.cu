#include "kernels/adamw.cuh"
#include "kernels/adamw.h"
#include "tests/helpers/device.h"

namespace {

constexpr float kBeta1 = 0.9f, kBeta2 = 0.95f, kEps = 1e-8f, kDecay = 0.1f, kRate = 0.01f;
constexpr float kInfinity = std::numeric_limits<float>::infinity(), kNaN = std::numeric_limits<float>::quiet_NaN();

DeviceArray<AdamWStep> step_after(int64_t updates) {
  AdamWStep step = {};
  step.updates = updates;
  return DeviceArray<AdamWStep>(std::vector<AdamWStep>{step});
}

// Computes the step's numbers on the device and returns them.
AdamWStep prepare(const DeviceArray<AdamWStep>& step, double norm_squared, double loss, float grad_clip) {
  const DeviceArray<double> inputs(Doubles{norm_squared, loss});
  adamw_prepare(step.data(), inputs.data(), inputs.data() + 1, kRate, grad_clip, kBeta1, kBeta2, nullptr);
  return step.host()[0];
}

std::vector<uint8_t> random_decay(int64_t N) {
  std::vector<uint8_t> decay;
  for (const int32_t flag : random_ints(ceil_div<int64_t>(N, 64), 9, 2)) decay.push_back(static_cast<uint8_t>(flag));
  return decay;
}

// One update of the twin, with weight decay as flagged.
void twin_update(Doubles& params, Doubles& m, Doubles& v, const Floats& grads, const std::vector<uint8_t>& decay,
                 const AdamWStep& step) {
  const Doubles g = to_numbers(grads);
  const double t = static_cast<double>(step.updates);
  for (size_t i = 0; i < params.size(); i += 64) {
    cpu::adamw_update<double>(&params[i], &m[i], &v[i], &g[i], step.grad_scale, kRate, kBeta1, kBeta2,
                              1 - std::pow(double{kBeta1}, t), 1 - std::pow(double{kBeta2}, t), kEps,
                              decay[i / 64] ? kDecay : 0, std::min<int64_t>(64, params.size() - i));
  }
}

// The bf16 just above or below, in magnitude.
float neighbour_above(float x) {
  uint32_t bits;
  std::memcpy(&bits, &x, sizeof bits);
  bits = (bits & 0xffff0000u) + 0x10000u;
  std::memcpy(&x, &bits, sizeof bits);
  return x;
}
float neighbour_below(float x) {
  uint32_t bits;
  std::memcpy(&bits, &x, sizeof bits);
  bits &= 0xffff0000u;
  std::memcpy(&x, &bits, sizeof bits);
  return x;
}

}  // namespace

TEST_CASE("adamw's step: norm, clipping, corrections, and whether all is finite") {
  const DeviceArray<AdamWStep> step = step_after(0);
  AdamWStep s = prepare(step, 16.0, 2.5, 1);
  CHECK(s.updated == 1);
  CHECK(s.updates == 1);
  CHECK(s.norm == 4);
  CHECK(s.loss == 2.5);
  CHECK(s.lr == kRate);
  CHECK(s.grad_scale == 0.25f);
  CHECK(s.beta1_correction == static_cast<float>(1 - double{kBeta1}));
  CHECK(s.beta2_correction == static_cast<float>(1 - double{kBeta2}));

  CHECK(prepare(step, 16.0, 2.5, 0).grad_scale == 1);  // no clipping
  CHECK(prepare(step, 16.0, 2.5, 4).grad_scale == 1);  // not above the limit
  s = prepare(step, 0.0, 2.5, 1);
  CHECK(s.grad_scale == 1);
  CHECK(s.updates == 4);
  CHECK(s.beta1_correction == doctest::Approx(1 - std::pow(double{kBeta1}, 4)).epsilon(1e-7));
  CHECK(s.beta2_correction == doctest::Approx(1 - std::pow(double{kBeta2}, 4)).epsilon(1e-7));
  for (const double bad : {double{kInfinity}, -double{kInfinity}, double{kNaN}}) {
    s = prepare(step, 1.0, bad, 1);
    CHECK(s.updated == 0);
    CHECK(s.updates == 4);
    s = prepare(step, bad, 1.0, 1);
    CHECK(s.updated == 0);
    CHECK(s.updates == 4);
  }
  s = prepare(step, 1.0, 2.5, 1);
  CHECK(s.updated == 1);
  CHECK(s.updates == 5);
  s = prepare(step_after((int64_t{1} << 40) - 1), 1.0, 2.5, 1);
  CHECK(s.updates == int64_t{1} << 40);
  CHECK(s.beta2_correction == 1);
}

TEST_CASE("adamw of float parameters on the device against the CPU, three steps") {
  for (const int64_t N : {1, 3, 33, 64, 65, 1000, 4099}) {
    for (const Shift shift : shifts(4, N == 65)) {
      for (const float grad_clip : {0.0f, 1.0f}) {
        CAPTURE(N);
        CAPTURE(shift.tensor);
        CAPTURE(shift.all);
        CAPTURE(grad_clip);
        const auto params = random_tensor<float>(N, 1);
        const std::vector<uint8_t> decay = random_decay(N);
        Doubles p = to_numbers(params), m(N), v(N);
        const DeviceArray<float> device_params(params, shift[0]), device_m(Floats(N, 0), shift[1]),
            device_v(Floats(N, 0), shift[2]);
        float* no_master = nullptr;
        const DeviceArray<uint8_t> device_decay(decay, true);
        const DeviceArray<AdamWStep> step = step_after(0);
        for (int t = 1; t <= 3; ++t) {
          const Floats grads = random_tensor<float>(N, 10 + t);
          const DeviceArray<float> device_grads(grads, shift[3]);
          twin_update(p, m, v, grads, decay, prepare(step, dot_product(grads, grads), 1, grad_clip));
          adamw_update(device_params.data(), no_master, device_m.data(), device_v.data(), device_grads.data(),
                       device_decay.data(), step.data(), kRate, kBeta1, kBeta2, kEps, kDecay, 1, N, nullptr);
        }
        // Three steps of a handful of roundings each. Where sqrt(v) is small, so is m: the quotient keeps its digits.
        check_close("params", device_params.host(), p, 3 * 4);
        check_close("m", device_m.host(), m, 3 * 4);
        check_close("v", device_v.host(), v, 3 * 4);
      }
    }
  }
  check_ran<float>("adamw_update_kernel<floatX, false, true");
}

TEST_CASE("adamw takes its learning rate from device memory: the same bits as with the number") {
  const int64_t N = 1003;
  const DeviceArray<float> grads(random_tensor<float>(N, 2));
  const DeviceArray<uint8_t> decay(random_decay(N));
  const DeviceArray<AdamWStep> step = step_after(0);
  CHECK(prepare(step, 1.0, 1.0, 0).lr == kRate);
  const auto run = [&](LearningRate lr) {
    const DeviceArray<float> params(random_tensor<float>(N, 1)), m(Floats(N, 0)), v(Floats(N, 0));
    float* no_master = nullptr;
    adamw_update(params.data(), no_master, m.data(), v.data(), grads.data(), decay.data(), step.data(), lr, kBeta1,
                 kBeta2, kEps, kDecay, 1, N, nullptr);
    return params.host();
  };
  CHECK(same_bits(run({1, &step.data()->lr}), run(kRate)));
  CHECK(same_bits(run({0.3f, &step.data()->lr}), run(0.3f * kRate)));
  CHECK_FALSE(same_bits(run(kRate), run(0.3f * kRate)));
}

TEST_CASE("adamw of bf16 parameters with a master copy: the copy as float, the parameters rounded from it") {
  for (const int64_t N : {1, 33, 64, 1003}) {
    for (const Shift shift : shifts(5, N == 64)) {
      CAPTURE(N);
      CAPTURE(shift.tensor);
      CAPTURE(shift.all);
      const auto master = random_tensor<float>(N, 1), grads = random_tensor<float>(N, 2);
      const std::vector<uint8_t> decay = random_decay(N);
      Doubles p = to_numbers(master), m(N), v(N);
      const DeviceArray<bf16> params(N, shift[0]);
      const DeviceArray<float> device_master(master, shift[1]), device_m(Floats(N, 0), shift[2]),
          device_v(Floats(N, 0), shift[3]), device_grads(grads, shift[4]);
      const DeviceArray<uint8_t> device_decay(decay, true);
      const DeviceArray<AdamWStep> step = step_after(0);
      twin_update(p, m, v, grads, decay, prepare(step, 1, 1, 0));
      adamw_update(params.data(), device_master.data(), device_m.data(), device_v.data(), device_grads.data(),
                   device_decay.data(), step.data(), kRate, kBeta1, kBeta2, kEps, kDecay, 1, N, nullptr);
      check_close("master", device_master.host(), p, 4);
      CHECK(same_bits(params.host(), to_storage<bf16>(device_master.host())));
    }
  }
  check_ran<bf16>("adamw_update_kernel<floatX, true, true");
}

TEST_CASE_TEMPLATE("adamw changes nothing after a step that was not finite", floatX, float, bf16) {
  for (const bool has_master : {false, true}) {
    const int64_t N = 1003;
    const auto params = random_storage<floatX>(N, 1);
    const Floats numbers = random_tensor<float>(N, 2), squares(N, 0.5f);
    const DeviceArray<floatX> device_params(params);
    const DeviceArray<float> master(numbers), m(numbers), v(squares), grads(Floats(N, kInfinity));
    const DeviceArray<uint8_t> decay(random_decay(N));
    const DeviceArray<AdamWStep> step = step_after(3);
    prepare(step, kInfinity, 1, 1);
    adamw_update(device_params.data(), has_master ? master.data() : nullptr, m.data(), v.data(), grads.data(),
                 decay.data(), step.data(), kRate, kBeta1, kBeta2, kEps, kDecay, 1, N, nullptr);
    CHECK(same_bits(device_params.host(), params));
    CHECK(same_bits(master.host(), numbers));
    CHECK(same_bits(m.host(), numbers));
    CHECK(same_bits(v.host(), squares));
    CHECK(step.host()[0].updates == 3);
  }
}

TEST_CASE("adamw of bf16 parameters without a master copy rounds to a neighbour, on average to the exact value") {
  // Without gradients a step is p -= lr decay p, the same number for all: N draws of its rounding.
  const int64_t N = 64 * 1024;
  const std::vector<uint8_t> decay(N / 64, 1);
  for (const bool unaligned : {false, true}) {
    for (const float start : {1.0f, -1.5f, 3e-39f, 1e30f}) {
      for (const float rate : {0.001f, 0.007f, 0.02f, 0.035f}) {  // relative to bf16's step below 1, 1/256: 0.03 to 0.9
        CAPTURE(unaligned);
        CAPTURE(start);
        CAPTURE(rate);
        const float stored = __bfloat162float(__float2bfloat16_rn(start)), exact = stored - rate * (kDecay * stored);
        const DeviceArray<bf16> params(std::vector<bf16>(N, __float2bfloat16_rn(start)), unaligned);
        const DeviceArray<float> m(Floats(N, 0), unaligned), v(Floats(N, 0), unaligned), grads(Floats(N, 0), unaligned);
        const DeviceArray<uint8_t> device_decay(decay, true);
        const DeviceArray<AdamWStep> step = step_after(0);
        prepare(step, 0, 1, 0);
        float* no_master = nullptr;
        adamw_update(params.data(), no_master, m.data(), v.data(), grads.data(), device_decay.data(), step.data(), rate,
                     kBeta1, kBeta2, kEps, kDecay, 5, N, nullptr);
        const double below = neighbour_below(exact), above = neighbour_above(exact);
        const double share = (exact - below) / (above - below);
        double sum = 0;
        for (const double x : to_numbers(params.host())) {
          REQUIRE((x == below || x == above));
          sum += (x - below) / (above - below);
        }
        // The share that was rounded up, within five standard deviations; the random numbers have 16 bits, and `exact`
        // may differ by a unit of float from the device's value (2^-16 of bf16's step).
        CHECK(std::abs(sum / N - share) <= 5 * std::sqrt(share * (1 - share) / N) + 0x1p-15);
      }
    }
  }
}

TEST_CASE("adamw's stochastic rounding: the same for the same seed and step, different for others; inf and NaN stay") {
  const int64_t N = 1003;
  Floats start = random_tensor<float>(N, 1);
  start[5] = kInfinity, start[6] = -kInfinity, start[7] = kNaN, start[8] = 0, start[9] = -0.0f;
  const Floats moments = random_tensor<float>(N, 2);
  Floats grads = random_tensor<float>(N, 3);
  grads[8] = grads[9] = 0;
  const auto run = [&](uint64_t seed, int64_t updates) {
    const DeviceArray<bf16> params(to_storage<bf16>(start));
    const DeviceArray<float> m(Floats(N, 0)), v(Floats(N, 0)), device_grads(grads);
    const DeviceArray<uint8_t> decay(std::vector<uint8_t>(ceil_div<int64_t>(N, 64), 1));
    const DeviceArray<AdamWStep> step = step_after(updates);
    prepare(step, 1, 1, 0);
    float* no_master = nullptr;
    adamw_update(params.data(), no_master, m.data(), v.data(), device_grads.data(), decay.data(), step.data(), kRate,
                 kBeta1, kBeta2, kEps, kDecay, seed, N, nullptr);
    return params.host();
  };
  const auto first = same_under_all_schedules([&] { return run(1, 50); });
  CHECK(same_bits(run(1, 50), first));
  CHECK_FALSE(same_bits(run(2, 50), first));
  const Doubles values = to_numbers(first);
  // inf - lr decay inf is inf - inf only if the rate is not 0: the result is that of float arithmetic.
  CHECK(std::isnan(values[7]));
  CHECK_FALSE(std::isfinite(values[5]));
  CHECK_FALSE(std::isfinite(values[6]));
  CHECK(values[8] == 0);
  CHECK(values[9] == 0);
  // Another step has other random numbers: some of equal updates (no moments, no gradient) are rounded differently.
  std::fill(grads.begin(), grads.end(), 0.0f);
  CHECK_FALSE(same_bits(run(1, 50), run(1, 51)));
}

template <int kThreads>
__global__ void round_stochastically_test_kernel(bf16* out, const float* inp, const uint32_t* random16, int N) {
  wait_for_earlier_kernels();
  const int i = blockIdx.x * kThreads + threadIdx.x;
  if (i < N) out[i] = round_stochastically(inp[i], random16[i]);
}

TEST_CASE("stochastic rounding of single numbers") {
  const float unit = 0x1p-7f;  // bf16's step from 1 on
  struct Draw {
    float x;
    uint32_t random16;
    float expected;
  };
  const std::vector<Draw> draws = {{1, 0, 1},
                                   {1, 65535, 1},
                                   {1 + unit / 4, 0, 1},
                                   {1 + unit / 4, 49151, 1},
                                   {1 + unit / 4, 49152, 1 + unit},
                                   {-1 - unit / 4, 49151, -1},
                                   {-1 - unit / 4, 49152, -1 - unit},
                                   {2 - unit / 4, 65535, 2},  // into the next power of two
                                   {0, 65535, 0},
                                   {kInfinity, 65535, kInfinity},
                                   {-kInfinity, 65535, -kInfinity},
                                   {3.4e38f, 65535, kInfinity},  // above the largest bf16: infinity is the neighbour
                                   {3.4e38f, 0, 0x1.fep127f},
                                   {1e-45f, 65535, 0x1p-133f},  // the smallest bf16
                                   {1e-45f, 65534, 0}};
  Floats inp;
  std::vector<uint32_t> random16;
  for (const Draw& draw : draws) inp.push_back(draw.x), random16.push_back(draw.random16);
  inp.push_back(kNaN), random16.push_back(65535);
  for (const uint32_t bits : {0x7fffffffu, 0xffffffffu}) {  // NaNs whose bits would overflow to a number
    float x;
    std::memcpy(&x, &bits, sizeof x);
    inp.push_back(x), random16.push_back(1);
  }
  const int N = static_cast<int>(inp.size());
  const DeviceArray<float> device_inp(inp);
  const DeviceArray<uint32_t> device_random16(random16);
  const DeviceArray<bf16> out(N);
  launch(round_stochastically_test_kernel<32>, 1, 32, 0, nullptr, out.data(), device_inp.data(), device_random16.data(),
         N);
  const Doubles values = to_numbers(out.host());
  for (size_t i = 0; i < draws.size(); ++i) {
    CAPTURE(i);
    CHECK(values[i] == draws[i].expected);
  }
  for (size_t i = draws.size(); i < values.size(); ++i) CHECK(std::isnan(values[i]));
}

TEST_CASE("adamw of float parameters does not depend on the schedule") {
  const int64_t N = 1003;
  const DeviceArray<float> params(N), m(N), v(N), grads(random_tensor<float>(N, 2));
  const DeviceArray<uint8_t> decay(random_decay(N));
  same_under_all_schedules([&] {
    params.write(random_tensor<float>(N, 1)), m.write(Floats(N, 0)), v.write(Floats(N, 0));
    const DeviceArray<AdamWStep> step = step_after(0);
    prepare(step, 9, 1, 1);
    float* no_master = nullptr;
    adamw_update(params.data(), no_master, m.data(), v.data(), grads.data(), decay.data(), step.data(), kRate, kBeta1,
                 kBeta2, kEps, kDecay, 1, N, nullptr);
    return params.host();
  });
}

TEST_CASE_TEMPLATE("adamw with moments in bf16 on the device draws as the CPU does", floatX, float, bf16) {
  for (const int64_t N : {1, 3, 33, 64, 65, 1000, 4099}) {
    for (const Shift shift : shifts(4, N == 65)) {
      for (const bool has_master : {false, true}) {
        CAPTURE(N);
        CAPTURE(shift.tensor);
        CAPTURE(shift.all);
        CAPTURE(has_master);
        const MomentDraws draws{11, 640};
        const Floats numbers = random_tensor<float>(N, 1), moments = random_tensor<float>(N, 3, 0.1);
        Floats squares = random_tensor<float>(N, 4, 0.1);
        for (float& x : squares) x *= x;
        const std::vector<uint8_t> decay = random_decay(N);
        const DeviceArray<uint8_t> device_decay(decay, true);
        const DeviceArray<floatX> params(to_storage<floatX>(numbers), shift[0]);
        const DeviceArray<float> master(numbers);
        const DeviceArray<bf16> m(to_storage<bf16>(moments), shift[1]), v(to_storage<bf16>(squares), shift[2]);
        std::vector<cpu::bf16> twin_m, twin_v;
        for (int64_t i = 0; i < N; ++i) {
          twin_m.push_back(cpu::round_to_nearest(moments[i])), twin_v.push_back(cpu::round_to_nearest(squares[i]));
        }
        Floats p = has_master ? numbers : to_numbers<float>(params.host());
        const DeviceArray<AdamWStep> step = step_after(6);
        for (int t = 7; t <= 8; ++t) {
          const Floats grads = random_tensor<float>(N, 10 + t);
          const DeviceArray<float> device_grads(grads, shift[3]);
          const AdamWStep s = prepare(step, dot_product(grads, grads), 1, 1);
          for (int64_t i = 0; i < N; i += 64) {
            cpu::adamw_update_bf16<float>(&p[i], &twin_m[i], &twin_v[i], &grads[i], s.grad_scale, kRate, kBeta1, kBeta2,
                                          s.beta1_correction, s.beta2_correction, kEps, decay[i / 64] ? kDecay : 0,
                                          {draws.seed, draws.first + i}, t, std::min<int64_t>(64, N - i));
          }
          adamw_update_bf16(params.data(), has_master ? master.data() : nullptr, m.data(), v.data(),
                            device_grads.data(), device_decay.data(), step.data(), kRate, kBeta1, kBeta2, kEps, kDecay,
                            1, draws, N, nullptr);
          // Both compute in float; where a compiler fuses a multiplication and an addition, a draw may end differently.
          int64_t different = 0;
          const Floats got_m = to_numbers<float>(m.host()), got_v = to_numbers<float>(v.host());
          for (int64_t i = 0; i < N; ++i) {
            different += (got_m[i] != twin_m[i]) + (got_v[i] != twin_v[i]);
            CHECK(std::abs(got_m[i] - twin_m[i]) <= 0x1p-7f * std::abs(twin_m[i]));
            CHECK(std::abs(got_v[i] - twin_v[i]) <= 0x1p-7f * std::abs(twin_v[i]));
          }
          CHECK(different <= N / 500);
        }
        if (has_master) {
          check_close("master", master.host(), Doubles(p.begin(), p.end()), 2 * 4);
          CHECK(same_bits(params.host(), to_storage<floatX>(master.host())));
        } else if (std::is_same_v<floatX, float>) {
          check_close("params", params.host(), Doubles(p.begin(), p.end()), 2 * 4);
        }
      }
    }
  }
  check_ran<floatX>("adamw_update_kernel<floatX, false, true, __nv_bfloat16");
  check_ran<floatX>("adamw_update_kernel<floatX, true, true, __nv_bfloat16");
}

TEST_CASE(
    "adamw's moments in bf16: the same under every schedule and in every division; nothing changes after a bad step") {
  const int64_t N = 1003;
  const Floats start = random_tensor<float>(N, 1), grads = random_tensor<float>(N, 2);
  const DeviceArray<uint8_t> decay(random_decay(N));
  const DeviceArray<float> device_grads(grads), bad(Floats(N, kInfinity));
  float* no_master = nullptr;
  const auto run = [&](uint64_t seed, int64_t cut, bool then_bad) {
    const DeviceArray<bf16> params(to_storage<bf16>(start)), m(to_storage<bf16>(Floats(N, 0))),
        v(to_storage<bf16>(Floats(N, 0)));
    const DeviceArray<AdamWStep> step = step_after(0);
    prepare(step, 9, 1, 1);
    for (const auto& [from, to] : {std::pair(int64_t{0}, cut), std::pair(cut, N)}) {
      if (from == to) continue;
      adamw_update_bf16(params.data() + from, no_master, m.data() + from, v.data() + from, device_grads.data() + from,
                        decay.data() + from / 64, step.data(), kRate, kBeta1, kBeta2, kEps, kDecay, 1,
                        {seed, 64 + from}, to - from, nullptr);
    }
    if (then_bad) {
      prepare(step, kInfinity, 1, 1);
      adamw_update_bf16(params.data(), no_master, m.data(), v.data(), bad.data(), decay.data(), step.data(), kRate,
                        kBeta1, kBeta2, kEps, kDecay, 1, {seed, 64}, N, nullptr);
    }
    std::vector<bf16> all = m.host();
    const std::vector<bf16> vs = v.host();
    all.insert(all.end(), vs.begin(), vs.end());
    return all;
  };
  const auto first = same_under_all_schedules([&] { return run(1, 0, false); });
  CHECK(same_bits(run(1, 64, false), first));
  CHECK(same_bits(run(1, 640, false), first));
  CHECK(same_bits(run(1, 0, true), first));
  CHECK_FALSE(same_bits(run(2, 0, false), first));
}
