// kernels/ptx.cuh compared with plain formulas. On a GPU the same tests check the hardware against them, and with it
// cudasim's CPU bodies, which must have the hardware's layouts.
#include "kernels/ptx.cuh"
#include "tests/helpers/device.h"

namespace {

// ---- mma -----------------------------------------------------------------------------------------------------------

// One warp: d (16, 8) += a (16, depth) b (depth, 8), by rows. The registers are filled as in PTX's manual; T is the
// type of the factors, two bf16 or one float per register.
template <class T>
__global__ void mma_kernel(float* d, const T* a, const T* b) {
  wait_for_earlier_kernels();
  constexpr int kPacked = 4 / sizeof(T), kDepth = 8 * kPacked;
  const int group = threadIdx.x / 4, pair = threadIdx.x % 4;
  uint32_t a_registers[4], b_registers[2];
  for (int r = 0; r < 4; ++r) {
    T values[kPacked];
    for (int i = 0; i < kPacked; ++i)
      values[i] = a[(group + r % 2 * 8) * kDepth + pair * kPacked + i + r / 2 * kDepth / 2];
    memcpy(&a_registers[r], values, 4);
  }
  for (int r = 0; r < 2; ++r) {
    T values[kPacked];
    for (int i = 0; i < kPacked; ++i) values[i] = b[(pair * kPacked + i + r * kDepth / 2) * 8 + group];
    memcpy(&b_registers[r], values, 4);
  }
  float sums[4];
  for (int r = 0; r < 4; ++r) sums[r] = d[(group + r / 2 * 8) * 8 + pair * 2 + r % 2];
  if constexpr (sizeof(T) == 2) {
    mma_m16n8k16(sums, a_registers, b_registers);
  } else {
    mma_m16n8k8_tf32(sums, a_registers, b_registers);
  }
  for (int r = 0; r < 4; ++r) d[(group + r / 2 * 8) * 8 + pair * 2 + r % 2] = sums[r];
}

// Small integers: products and sums are exact in any order.
template <class T>
std::vector<T> integers(size_t n, uint64_t seed) {
  Floats values(n);
  const auto draws = random_ints(n, seed, 17);
  for (size_t i = 0; i < n; ++i) values[i] = static_cast<float>(draws[i] - 8);
  return to_storage<T>(values);
}

// ---- ldmatrix ------------------------------------------------------------------------------------------------------

// out[lane][r] of four 8 x 8 matrices, one after another in memory; lane l supplies row l % 8 of matrix l / 8.
template <class T>
__global__ void ldmatrix_kernel(uint32_t* out, const T* matrices, bool trans) {
  wait_for_earlier_kernels();
  T* shared = dynamic_shared<T>();
  for (int i = threadIdx.x; i < 4 * 64; i += 32) shared[i] = matrices[i];
  __syncthreads();
  uint32_t r[4];
  if (trans) {
    ldmatrix_x4_trans(r, shared + threadIdx.x * 8);
  } else {
    ldmatrix_x4(r, shared + threadIdx.x * 8);
  }
  for (int m = 0; m < 4; ++m) out[threadIdx.x * 4 + m] = r[m];
}

// ---- cp.async ------------------------------------------------------------------------------------------------------

// Each of 32 threads copies kBytes, of which `valid` are valid, and writes the contents of shared memory after that.
template <int kBytes>
__global__ void cp_async_kernel(unsigned char* out, const unsigned char* from, int valid) {
  wait_for_earlier_kernels();
  unsigned char* shared = dynamic_shared<unsigned char>() + threadIdx.x * kBytes;
  for (int i = 0; i < kBytes; ++i) shared[i] = 0xee;
  cp_async<kBytes>(shared, from + threadIdx.x * kBytes, valid);
  cp_async_commit();
  cp_async_wait<0>();
  for (int i = 0; i < kBytes; ++i) out[threadIdx.x * kBytes + i] = shared[i];
}

// Three groups (of one copy, two and none) into one thread's words; after each wait, the words that have arrived.
template <class T>
__global__ void cp_async_groups_kernel(T* out, const T* from) {
  wait_for_earlier_kernels();
  T* shared = dynamic_shared<T>();
  cp_async<4>(shared, from, 4);
  cp_async_commit();
  cp_async<4>(shared + 1, from + 1, 4);
  cp_async<4>(shared + 2, from + 2, 4);
  cp_async_commit();
  cp_async_commit();
  cp_async_wait<2>();
  out[0] = shared[0];
  cp_async_wait<1>();
  out[1] = shared[1];
  out[2] = shared[2];
  cp_async<4>(shared, from + 3, 4);  // the place is reused
  cp_async_commit();
  cp_async_wait<0>();
  out[3] = shared[0];
}

// ---- to_tf32 -------------------------------------------------------------------------------------------------------

template <class T>
__global__ void to_tf32_kernel(uint32_t* out, const T* x, int n) {
  wait_for_earlier_kernels();
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i < n) out[i] = to_tf32(x[i]);
}

template <class T>
__global__ void exp2_kernel(T* out, const T* x, int n) {
  wait_for_earlier_kernels();
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i < n) out[i] = exp2_approximate(x[i]);
}

// Threads from `n` on load nothing: their addresses are not valid memory.
template <class V>
__global__ void load_if_kernel(V* out, const V* from, int n) {
  wait_for_earlier_kernels();
  const int i = threadIdx.x;
  out[i] = load_if(from + i, i < n);
}

uint32_t bits_of(float x) {
  uint32_t bits;
  std::memcpy(&bits, &x, sizeof bits);
  return bits;
}

}  // namespace

TEST_CASE_TEMPLATE("ptx: mma multiplies matrices, bf16 and tf32", T, bf16, float) {
  constexpr int kDepth = 32 / sizeof(T);
  for (const uint64_t seed : {1, 2, 3}) {
    const auto a = integers<T>(16 * kDepth, seed), b = integers<T>(kDepth * 8, seed + 10);
    const auto before = integers<float>(16 * 8, seed + 20);
    const DeviceArray<T> d_a(a), d_b(b);
    const DeviceArray<float> d(before);
    launch(mma_kernel<T>, 1, 32, 0, nullptr, d.data(), static_cast<const T*>(d_a.data()),
           static_cast<const T*>(d_b.data()));
    const Doubles x = to_numbers(a), y = to_numbers(b);
    Floats expected = before;
    for (int i = 0; i < 16; ++i) {
      for (int j = 0; j < 8; ++j) {
        for (int k = 0; k < kDepth; ++k) expected[i * 8 + j] += static_cast<float>(x[i * kDepth + k] * y[k * 8 + j]);
      }
    }
    CHECK(same_bits(d.host(), expected));
  }
}

TEST_CASE_TEMPLATE("ptx: mma's sums are float", T, bf16, float) {
  constexpr int kDepth = 32 / sizeof(T);
  const auto a = random_storage<T>(16 * kDepth, 1), b = random_storage<T>(kDepth * 8, 2);
  // The hardware takes the upper 19 bits of a float that is not tf32.
  const auto factor = [](const std::vector<T>& stored) {
    Floats values = to_numbers<float>(stored);
    for (float& x : values) {
      const uint32_t bits = bits_of(x) & 0xffffe000u;
      std::memcpy(&x, &bits, sizeof bits);
    }
    return values;
  };
  const Floats x = factor(a), y = factor(b);
  const DeviceArray<T> d_a(a), d_b(b);
  const DeviceArray<float> d(Floats(16 * 8, 100.0f));
  launch(mma_kernel<T>, 1, 32, 0, nullptr, d.data(), static_cast<const T*>(d_a.data()),
         static_cast<const T*>(d_b.data()));
  Doubles expected(16 * 8, 100.0);
  for (int i = 0; i < 16; ++i) {
    for (int j = 0; j < 8; ++j) {
      for (int k = 0; k < kDepth; ++k) expected[i * 8 + j] += double(x[i * kDepth + k]) * y[k * 8 + j];
    }
  }
  check_close("sums", d.host(), expected, kDepth);
}

TEST_CASE("ptx: ldmatrix, straight and transposed") {
  std::vector<uint16_t> matrices(4 * 64);
  for (size_t i = 0; i < matrices.size(); ++i) matrices[i] = static_cast<uint16_t>(i * 257 + 1);
  const DeviceArray<uint16_t> from(matrices);
  for (const bool trans : {false, true}) {
    const DeviceArray<uint32_t> out(32 * 4);
    launch(ldmatrix_kernel<uint16_t>, 1, 32, 4 * 64 * 2, nullptr, out.data(), static_cast<const uint16_t*>(from.data()),
           trans);
    std::vector<uint32_t> expected(32 * 4);
    for (int lane = 0; lane < 32; ++lane) {
      for (int m = 0; m < 4; ++m) {
        uint32_t pair[2];
        for (int k = 0; k < 2; ++k) {
          const int row = lane / 4, column = lane % 4 * 2 + k;
          pair[k] = matrices[m * 64 + (trans ? column * 8 + row : row * 8 + column)];
        }
        expected[lane * 4 + m] = pair[0] | pair[1] << 16;
      }
    }
    CAPTURE(trans);
    CHECK(same_bits(out.host(), expected));
  }
}

TEST_CASE_TEMPLATE("ptx: cp.async copies, and zeroes what is not valid", Size, std::integral_constant<int, 4>,
                   std::integral_constant<int, 8>, std::integral_constant<int, 16>) {
  constexpr int kBytes = Size::value;
  std::vector<unsigned char> bytes(32 * kBytes);
  for (size_t i = 0; i < bytes.size(); ++i) bytes[i] = static_cast<unsigned char>(i * 7 + 1);
  const DeviceArray<unsigned char> from(bytes);
  for (int valid = 0; valid <= kBytes; ++valid) {
    const DeviceArray<unsigned char> out(bytes.size());
    launch(cp_async_kernel<kBytes>, 1, 32, bytes.size(), nullptr, out.data(),
           static_cast<const unsigned char*>(from.data()), valid);
    std::vector<unsigned char> expected = bytes;
    for (size_t i = 0; i < expected.size(); ++i) {
      if (static_cast<int>(i % kBytes) >= valid) expected[i] = 0;
    }
    CAPTURE(valid);
    CHECK(same_bits(out.host(), expected));
  }
}

TEST_CASE("ptx: cp.async arrives group by group") {
  const std::vector<uint32_t> words = {11, 22, 33, 44};
  const DeviceArray<uint32_t> from(words), out(4);
  launch(cp_async_groups_kernel<uint32_t>, 1, 1, 16, nullptr, out.data(), static_cast<const uint32_t*>(from.data()));
  CHECK(same_bits(out.host(), words));
}

TEST_CASE_TEMPLATE("ptx: load_if loads, or gives zeros and reads nothing", V, int, int2, int4) {
  constexpr int kWords = sizeof(V) / sizeof(int), n = 5;
  std::vector<int> words(n * kWords);
  for (size_t i = 0; i < words.size(); ++i) words[i] = static_cast<int>(i * 77 + 1);
  const DeviceArray<int> from(words), out(32 * kWords);
  launch(load_if_kernel<V>, 1, 32, 0, nullptr, reinterpret_cast<V*>(out.data()),
         reinterpret_cast<const V*>(from.data()), n);
  words.resize(32 * kWords);
  CHECK(same_bits(out.host(), words));
}

TEST_CASE("ptx: to_tf32 takes the nearest, ties away from zero") {
  Floats x = random_tensor<float>(1000, 1, 100);
  const float inf = std::numeric_limits<float>::infinity();
  for (const float special : {0.0f, -0.0f, 1.0f, inf, -inf, 0x1p-140f, 0x1.002p0f, 0x1.001p0f, -0x1.001p0f, 0x1.003p0f,
                              0x1.000ffep0f, 0x1.ffffp127f, 0x1.ffep127f, 0x1.fffp-3f, 0x1p-126f}) {
    x.push_back(special);
  }
  const DeviceArray<float> from(x);
  const DeviceArray<uint32_t> out(x.size());
  const int n = static_cast<int>(x.size());
  launch(to_tf32_kernel<float>, grid_for(n, 256), 256, 0, nullptr, out.data(), static_cast<const float*>(from.data()),
         n);
  const auto actual = out.host();
  for (int i = 0; i < n; ++i) {
    // The two neighbours with 10 bits of mantissa, and which is nearer; the larger one may be infinity.
    const uint32_t low = bits_of(x[i]) & 0xffffe000u, dropped = bits_of(x[i]) & 0x1fffu;
    const uint32_t expected = std::isinf(x[i]) || dropped < 0x1000u ? low : low + 0x2000u;
    CAPTURE(x[i]);
    CHECK(actual[i] == expected);
  }
  for (const uint32_t bits : {0x7fffffffu, 0xffffffffu}) {  // NaNs that rounding up would make zero
    float nan;
    std::memcpy(&nan, &bits, sizeof nan);
    const DeviceArray<float> from_nan(Floats{nan});
    launch(to_tf32_kernel<float>, 1, 1, 0, nullptr, out.data(), static_cast<const float*>(from_nan.data()), 1);
    const uint32_t read = out.host()[0] & 0xffffe000u;  // the bits that an mma reads
    std::memcpy(&nan, &read, sizeof nan);
    CHECK(std::isnan(nan));
  }
}

TEST_CASE("ptx: exp2_approximate is 2^x, but 0 instead of a subnormal number") {
  const float inf = std::numeric_limits<float>::infinity();
  Floats x = random_tensor<float>(1000, 1, 100);
  for (const float special :
       {0.0f, 1.0f, -1.0f, 127.5f, 128.0f, inf, -125.5f, -126.0f, -126.5f, -149.0f, -1000.0f, -inf}) {
    x.push_back(special);
  }
  const int n = static_cast<int>(x.size());
  const DeviceArray<float> from(x), out(n);
  launch(exp2_kernel<float>, grid_for(n, 256), 256, 0, nullptr, out.data(), static_cast<const float*>(from.data()), n);
  const Floats actual = out.host();
  for (int i = 0; i < n; ++i) {
    const double exact = std::exp2(static_cast<double>(x[i])), expected = exact < 0x1p-126 ? 0 : exact;
    CAPTURE(x[i]);
    if (std::isinf(static_cast<float>(expected))) {
      CHECK(std::isinf(actual[i]));
    } else {
      CHECK(std::abs(actual[i] - expected) <= 4 * 0x1p-24 * expected);  // two units in the last place
    }
  }
  const DeviceArray<float> nan(Floats{std::numeric_limits<float>::quiet_NaN()});
  launch(exp2_kernel<float>, 1, 1, 0, nullptr, out.data(), static_cast<const float*>(nan.data()), 1);
  CHECK(std::isnan(out.host()[0]));
}

#ifdef WROUGHT_CUDASIM
TEST_CASE("mma that truncates rounds toward zero, once per instruction") {
  const bool before = cudasim::mma_truncates();
  const auto sum = [](float start, float product, int products, bool truncates) {
    Floats a(16 * 16, 0.0f), b(16 * 8, 0.0f);
    for (int k = 0; k < products; ++k) {
      a[k] = 1;
      b[k * 8] = product;
    }
    const DeviceArray<bf16> a_device(to_storage<bf16>(a)), b_device(to_storage<bf16>(b));
    const DeviceArray<float> d(Floats(16 * 8, start));
    cudasim::set_mma_truncates(truncates);
    launch(mma_kernel<bf16>, 1, 32, 0, nullptr, d.data(), static_cast<const bf16*>(a_device.data()),
           static_cast<const bf16*>(b_device.data()));
    return d.host()[0];
  };
  const float unit = 0x1p-23f;  // unit of 1
  CHECK(sum(1, 0.75f * unit, 1, false) == 1 + unit);
  CHECK(sum(1, 0.75f * unit, 1, true) == 1);
  CHECK(sum(-1, -0.75f * unit, 1, true) == -1);
  CHECK(sum(-1, 0.125f * unit, 1, true) == -1 + unit / 2);  // the number below in magnitude
  CHECK(sum(1, unit / 4, 16, false) == 1);                  // each term is lost
  CHECK(sum(1, unit / 4, 16, true) == 1 + 4 * unit);        // here none is lost
  CHECK(sum(1, 1, 16, true) == 17);
  CHECK(std::isnan(sum(1, NAN, 1, true)));
  CHECK(sum(1, INFINITY, 1, true) == INFINITY);
  CHECK(sum(0x1p127f, 0x1p127f, 1, true) == INFINITY);  // not the largest number
  const auto a = integers<bf16>(16 * 16, 1), b = integers<bf16>(16 * 8, 2);
  const auto product = [&](bool truncates) {  // product of integers: exact either way
    const DeviceArray<bf16> a_device(a), b_device(b);
    const DeviceArray<float> d(Floats(16 * 8, 0.0f));
    cudasim::set_mma_truncates(truncates);
    launch(mma_kernel<bf16>, 1, 32, 0, nullptr, d.data(), static_cast<const bf16*>(a_device.data()),
           static_cast<const bf16*>(b_device.data()));
    return d.host();
  };
  CHECK(same_bits(product(true), product(false)));
  cudasim::set_mma_truncates(before);
}
#endif
