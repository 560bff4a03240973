#include "llm/models/config.h"

#include <cstdint>

#include "llm/support/error.h"

void validate(const ModelConfig& config, const std::string& where) {
  const auto in_range = [&](const char* field, int64_t value, int64_t low, int64_t high) {
    if (value < low || value > high) {
      fail("%s: %s is %lld, expected %lld to %lld", where.c_str(), field, static_cast<long long>(value),
           static_cast<long long>(low), static_cast<long long>(high));
    }
  };
  in_range("the context length", config.max_seq_len, 1, 1 << 24);
  in_range("the vocabulary size", config.vocab_size, 1, 1 << 28);
  in_range("the number of layers", config.num_layers, 1, 4096);
  in_range("the number of heads", config.num_heads, 1, 65536);
  in_range("the number of key heads", config.num_kv_heads, 0, config.num_heads);
  in_range("the number of channels", config.channels, 1, 1 << 20);
  in_range("the number of classes", config.num_classes, 0, 1 << 28);
  if (config.channels % config.num_heads != 0) {
    fail("%s: %d heads do not divide %d channels; choose channels as a multiple of heads (64 per head is usual)",
         where.c_str(), config.num_heads, config.channels);
  }
  if (config.num_heads % config.kv_heads() != 0) {
    fail("%s: %d heads of keys do not divide %d heads; each is shared by the same number of heads", where.c_str(),
         config.kv_heads(), config.num_heads);
  }
}
