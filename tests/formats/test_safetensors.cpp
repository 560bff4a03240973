#include <doctest/doctest.h>
#include <unistd.h>

#include <bit>
#include <cstring>
#include <fstream>
#include <limits>
#include <random>

#include "llm/formats/float16.h"
#include "llm/formats/safetensors.h"
#include "llm/support/error.h"

namespace fs = std::filesystem;
using doctest::Contains;

namespace {

const fs::path kFile = fs::temp_directory_path() / strprintf("wrought_test_%d.safetensors", getpid());

void write_file(const std::string& bytes) {
  fs::remove(kFile);  // some file systems flush a file that is emptied and written again
  std::ofstream(kFile, std::ios::binary) << bytes;
}

// A file of `length` (that of the header, unless given) and the unchanged parts.
std::string assemble(const std::string& header, const std::string& data, int64_t length = -1) {
  const uint64_t n = length < 0 ? header.size() : static_cast<uint64_t>(length);
  std::string bytes(sizeof n, '\0');
  std::memcpy(bytes.data(), &n, sizeof n);
  return bytes + header + data;
}

void check_refused(const std::string& header, const std::string& data, const char* reason) {
  CAPTURE(header.substr(0, 200));
  write_file(assemble(header, data));
  CHECK_THROWS_WITH_AS(SafetensorsFile{kFile}, Contains(reason), Error);
  CHECK_THROWS_WITH_AS(SafetensorsFile{kFile}, Contains(kFile.c_str()), Error);
}

std::string one_tensor(const std::string& dtype, const std::string& shape, const std::string& offsets) {
  return R"({"w":{"dtype":")" + dtype + R"(","shape":)" + shape + R"(,"data_offsets":)" + offsets + "}}";
}

}  // namespace

TEST_CASE("the reader reads what the writer writes") {
  const std::vector<float> a = {1.5f, -2, 3, 4, 5, 6};
  const std::vector<uint16_t> b = {1, 2, 3};
  {
    SafetensorsWriter writer(
        kFile,
        {{"z \"quoted\" \u00e9", "F32", {2, 3}}, {"empty", "I64", {0, 7}}, {"b", "BF16", {3}}, {"scalar", "U8", {}}},
        {{"format", "pt"}});
    writer.write("z \"quoted\" \u00e9", std::as_bytes(std::span(a)).first(8));  // part by part
    CHECK_THROWS_AS(writer.write("empty", {}), std::logic_error);               // the first is incomplete
    writer.write("z \"quoted\" \u00e9", std::as_bytes(std::span(a)).subspan(8));
    CHECK_THROWS_AS(writer.write("b", std::as_bytes(std::span(b))), std::logic_error);      // out of order
    CHECK_THROWS_AS(writer.write("empty", std::as_bytes(std::span(b))), std::logic_error);  // wrong size
    writer.write("empty", {});
    writer.write("b", std::as_bytes(std::span(b)));
    CHECK_THROWS_AS(writer.commit(), std::logic_error);  // one is missing
    const std::byte last{9};
    writer.write("scalar", {&last, 1});
    CHECK_THROWS_AS(writer.write("more", {}), std::logic_error);
    writer.commit();
  }
  const SafetensorsFile file(kFile);
  REQUIRE(file.tensors().size() == 4);
  CHECK(file.metadata() == std::map<std::string, std::string>{{"format", "pt"}});
  const TensorView* z = file.find("z \"quoted\" \u00e9");
  REQUIRE(z != nullptr);
  CHECK(describe(*z) == "(2, 3) F32");
  REQUIRE(z->bytes.size() == sizeof(float) * a.size());
  CHECK(std::memcmp(z->bytes.data(), a.data(), z->bytes.size()) == 0);
  CHECK(file.find("empty")->bytes.empty());
  CHECK(std::memcmp(file.find("b")->bytes.data(), b.data(), 6) == 0);
  CHECK(file.find("scalar")->shape.empty());
  CHECK(file.find("absent") == nullptr);
  CHECK(reinterpret_cast<uintptr_t>(z->bytes.data()) % 8 == 0);
}

TEST_CASE("a writer refuses invalid headers") {
  using Headers = std::vector<TensorHeader>;
  for (const Headers& headers : {Headers{{"a", "F32", {1}}, {"a", "F32", {1}}}, Headers{{"a", "F99", {1}}},
                                 Headers{{"a", "F64", {INT64_MAX}}}, Headers{{"__metadata__", "F32", {1}}}}) {
    CHECK_THROWS_AS(SafetensorsWriter(kFile, headers, {}), std::logic_error);
  }
}

TEST_CASE("damaged files are refused with the reason") {
  check_refused("", "", "does not begin with '{'");
  check_refused("[1]", "", "does not begin with '{'");
  check_refused(" {}", "", "does not begin with '{'");
  check_refused("{", "", "not JSON");
  check_refused("{}}", "", "not JSON");
  check_refused(std::string("{}\0x", 4), "", "zero byte at offset 2");
  check_refused("{\"\xff\":1}", "", "not JSON");
  check_refused(std::string("{\"a\":") + std::string(1'000'000, '['), "", "nested deeper");
  check_refused(
      R"({"a":{"dtype":"U8","shape":[],"data_offsets":[0,1]},"a":{"dtype":"U8","shape":[],"data_offsets":[0,1]}})", "x",
      "\"a\" occurs twice");
  check_refused(R"({"__metadata__":3})", "", "not an object of strings");
  check_refused(R"({"__metadata__":{"k":3}})", "", "not a string");
  check_refused(R"({"w":7})", "", "expected an object");
  check_refused(R"({"w":{"dtype":1,"shape":[1],"data_offsets":[0,4]}})", "1234", "expected an object");
  check_refused(R"({"w":{"dtype":"F32","shape":[1]}})", "1234", "expected an object");
  check_refused(R"({"w":{"dtype":"F32","shape":[1],"offsets":[0,4]}})", "1234", "expected a list \"data_offsets\"");
  check_refused(one_tensor("F33", "[1]", "[0,4]"), "1234", "unknown dtype \"F33\"");
  check_refused(one_tensor("F32", "7", "[0,4]"), "1234", "expected a list \"shape\"");
  check_refused(one_tensor("F32", "[-1]", "[0,4]"), "1234", "-1, expected whole numbers");
  check_refused(one_tensor("F32", "[1.0]", "[0,4]"), "1234", "1.0, expected whole numbers");
  check_refused(one_tensor("F32", "[\"1\"]", "[0,4]"), "1234", "expected whole numbers");
  check_refused(one_tensor("F32", "[18446744073709551615]", "[0,4]"), "1234", "expected whole numbers");
  check_refused(one_tensor("F32", "[4611686018427387904,4]", "[0,0]"), "", "too large for any file");
  check_refused(one_tensor("F32", "[1]", "[0,4,8]"), "1234", "3 data_offsets");
  check_refused(one_tensor("F32", "[1]", "[4,0]"), "1234", "not inside");
  check_refused(one_tensor("F32", "[2]", "[0,8]"), "1234", "not inside");
  check_refused(one_tensor("F32", "[2]", "[9223372036854775800,9223372036854775807]"), "1234", "not inside");
  check_refused(one_tensor("F32", "[2]", "[0,4]"), "1234", "takes 8 bytes, but its data_offsets span 4");
  check_refused(one_tensor("F32", "[1]", "[0,4]"), "12345", "the file continues to 5");
  check_refused(one_tensor("U8", "[2]", "[1,3]"), "123", "leaving a hole");
  check_refused(
      R"({"a":{"dtype":"U8","shape":[2],"data_offsets":[0,2]},"b":{"dtype":"U8","shape":[2],"data_offsets":[1,3]}})",
      "123", "overlapping");

  write_file("1234567");
  CHECK_THROWS_WITH_AS(SafetensorsFile{kFile}, Contains("7 bytes, expected at least"), Error);
  for (const int64_t length : {int64_t{3}, int64_t{100'000'001}, INT64_MAX}) {
    write_file(assemble("{}", "", length));
    CHECK_THROWS_WITH_AS(SafetensorsFile{kFile}, Contains("the header should be"), Error);
  }
  write_file(assemble("{}", ""));
  CHECK(SafetensorsFile(kFile).tensors().empty());
  write_file(assemble("{} \n", ""));
  CHECK(SafetensorsFile(kFile).tensors().empty());
}

TEST_CASE("mutated files either open with views inside the file, or throw Error") {
  std::string valid;
  {
    SafetensorsWriter writer(kFile, {{"h.0.weight", "F32", {2, 3}}, {"h.0.bias", "BF16", {3}}, {"none", "U8", {0}}},
                             {{"format", "pt"}});
    const std::string data(24, 'd');
    writer.write("h.0.weight", std::as_bytes(std::span(data)));
    writer.write("h.0.bias", std::as_bytes(std::span(data)).first(6));
    writer.write("none", {});
    writer.commit();
    valid = MappedFile(kFile).text();
  }
  std::mt19937 random(42);
  int opened = 0, refused = 0;
  for (int i = 0; i < 4000; ++i) {
    std::string bytes = valid;
    for (unsigned n = random() % 4; n > 0; --n) {
      const size_t at = random() % (random() % 2 ? bytes.size() : 16);
      switch (random() % 4) {
        case 0:
          bytes[at] = static_cast<char>(random());
          break;
        case 1:
          bytes[at] = static_cast<char>(bytes[at] ^ 1 << random() % 8);
          break;
        case 2:
          bytes[at] = "0123456789[]{},:\"-"[random() % 18];
          break;
        case 3:
          bytes.insert(at, 1, bytes[random() % bytes.size()]);
          break;
      }
    }
    if (random() % 4 == 0) bytes.resize(random() % (bytes.size() + 8));
    write_file(bytes);
    try {
      const SafetensorsFile file(kFile);
      size_t total = 0;
      unsigned sum = 0;
      for (const TensorView& tensor : file.tensors()) {
        total += tensor.bytes.size();
        for (const std::byte b : tensor.bytes)
          sum += static_cast<unsigned>(b);  // touches each byte: a bad view would crash
      }
      CHECK(total < bytes.size());
      CHECK(sum <= 255 * total);
      ++opened;
    } catch (const Error&) {
      ++refused;
    }
  }
  CHECK(opened > 500);
  CHECK(refused > 500);
  fs::remove(kFile);
}

TEST_CASE("bf16 rounds to the nearest, ties to even") {
  const auto rounded = [](uint32_t bits) { return bf16_from_float(std::bit_cast<float>(bits)); };
  CHECK(rounded(0x3f800000) == 0x3f80);
  CHECK(rounded(0x3f808000) == 0x3f80);  // tie, down to even
  CHECK(rounded(0x3f818000) == 0x3f82);  // tie, up to even
  CHECK(rounded(0x3f808001) == 0x3f81);
  CHECK(rounded(0xbf817fff) == 0xbf81);
  CHECK(rounded(0x7f7fffff) == 0x7f80);  // beyond the largest: infinity
  CHECK(rounded(0xff800000) == 0xff80);
  CHECK(rounded(0x7f800001) == 0x7fc0);  // a NaN whose upper half by itself would be infinity
  CHECK(rounded(0x00000001) == 0x0000);
  CHECK(rounded(0x80000000) == 0x8000);
  for (uint32_t bits = 0; bits < 65536; ++bits) {
    const float value = float_from_bf16(static_cast<uint16_t>(bits));
    if (value == value) CHECK(bf16_from_float(value) == bits);
  }
}

TEST_CASE("f16 is read exactly") {
  CHECK(float_from_f16(0x3c00) == 1.0f);
  CHECK(float_from_f16(0xc000) == -2.0f);
  CHECK(float_from_f16(0x7bff) == 65504.0f);
  CHECK(float_from_f16(0x0400) == 0x1p-14f);          // smallest normal
  CHECK(float_from_f16(0x0001) == 0x1p-24f);          // smallest subnormal
  CHECK(float_from_f16(0x83ff) == -1023 * 0x1p-24f);  // largest subnormal
  CHECK(std::bit_cast<uint32_t>(float_from_f16(0x8000)) == 0x80000000u);
  CHECK(float_from_f16(0xfc00) == -std::numeric_limits<float>::infinity());
  CHECK(float_from_f16(0x7e00) != float_from_f16(0x7e00));  // NaN
}
