// CRC-32C (Castagnoli; RFC 3720, appendix B.4), the checksum of TensorFlow's files, and its stored form: masked,
// because the checksum of bytes that themselves hold checksums would say little.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>

namespace crc32c_tables {

// of[k][b]: the effect of byte b on the checksum when k more bytes follow it. With eight tables a step takes eight
// bytes.
inline constexpr auto of = [] {
  std::array<std::array<uint32_t, 256>, 8> tables{};
  for (uint32_t b = 0; b < 256; ++b) {
    uint32_t crc = b;
    for (int bit = 0; bit < 8; ++bit) crc = crc >> 1 ^ (crc & 1 ? 0x82f63b78u : 0);  // the polynomial, reflected
    tables[0][b] = crc;
  }
  for (size_t k = 1; k < 8; ++k) {
    for (size_t b = 0; b < 256; ++b) tables[k][b] = tables[k - 1][b] >> 8 ^ tables[0][tables[k - 1][b] & 255];
  }
  return tables;
}();

}  // namespace crc32c_tables

// The checksum of `bytes` after those whose checksum is `crc`; 0: after no bytes.
inline uint32_t crc32c(std::span<const std::byte> bytes, uint32_t crc = 0) {
  const auto& of = crc32c_tables::of;
  crc = ~crc;
  size_t i = 0;
  for (; i + 8 <= bytes.size(); i += 8) {
    uint64_t word;  // little-endian, as every machine that wrought runs on
    std::memcpy(&word, bytes.data() + i, sizeof word);
    word ^= crc;
    crc = 0;
    for (size_t k = 0; k < 8; ++k) crc ^= of[7 - k][word >> 8 * k & 255];
  }
  for (; i < bytes.size(); ++i) crc = crc >> 8 ^ of[0][(crc ^ static_cast<uint32_t>(bytes[i])) & 255];
  return ~crc;
}

inline uint32_t mask_crc32c(uint32_t crc) { return (crc >> 15 | crc << 17) + 0xa282ead8u; }
