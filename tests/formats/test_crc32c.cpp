#include <doctest/doctest.h>

#include <string>
#include <vector>

#include "llm/formats/crc32c.h"

namespace {

uint32_t crc_of(const std::string& text) { return crc32c(std::as_bytes(std::span(text))); }

}  // namespace

TEST_CASE("the checksums of RFC 3720 and of its check string") {
  CHECK(crc_of("") == 0);
  CHECK(crc_of("123456789") == 0xe3069283);
  CHECK(crc_of(std::string(32, '\0')) == 0x8a9136aa);
  CHECK(crc_of(std::string(32, '\xff')) == 0x62a8ab43);
  std::string rising, falling;
  for (char c = 0; c < 32; ++c) {
    rising += c;
    falling += static_cast<char>(31 - c);
  }
  CHECK(crc_of(rising) == 0x46dd794e);
  CHECK(crc_of(falling) == 0x113fdb5c);
}

TEST_CASE("every length and every cut give the checksum of single bytes") {
  std::vector<std::byte> bytes;
  for (unsigned i = 0; i < 100; ++i) bytes.push_back(static_cast<std::byte>(i * i * 7 + 3));
  uint32_t by_bytes = 0;
  for (size_t n = 0; n <= bytes.size(); ++n) {
    const std::span<const std::byte> all(bytes.data(), n);
    CHECK(crc32c(all) == by_bytes);
    for (size_t cut = 0; cut <= n; cut += 5) CHECK(crc32c(all.subspan(cut), crc32c(all.first(cut))) == by_bytes);
    if (n < bytes.size()) by_bytes = crc32c({&bytes[n], 1}, by_bytes);
  }
}

TEST_CASE("the mask rotates by 15 bits and adds a constant") {
  CHECK(mask_crc32c(0) == 0xa282ead8);
  CHECK(mask_crc32c(0x8000) == 0xa282ead9);
  CHECK(mask_crc32c(1) == 0xa284ead8);
}
