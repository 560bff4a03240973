// The shape of a GPT-2, and the numbers that follow from it.
#pragma once

#include <string>

struct ModelConfig {
  int max_seq_len = 1024;  // the largest T (rows of wpe)
  int vocab_size = 50257;  // V
  int num_layers = 12;     // L
  int num_heads = 12;      // NH
  int channels = 768;      // C
  bool tied_head = true;   // logits are products with wte; else the head has its own matrix
  bool qkv_bias = true;    // of queries, keys and values
  int num_classes = 0;  // above 0: a classifier of sequences, whose head (not tied) has a row and a bias for each class
  bool causal = true;   // attention looks back only
  int num_kv_heads = 0;         // NKV, heads of keys and values; 0: as many as num_heads
  std::string family = "gpt2";  // families.h

  int padded_vocab_size() const { return padded(vocab_size); }  // Vp
  int outputs() const { return num_classes > 0 ? num_classes : vocab_size; }
  int padded_outputs() const { return padded(outputs()); }  // columns of the logits
  bool has_head() const { return !tied_head || num_classes > 0; }
  static int padded(int n) { return (n + 127) / 128 * 128; }
  int kv_heads() const { return num_kv_heads > 0 ? num_kv_heads : num_heads; }
  int head_size() const { return channels / num_heads; }  // HS
  int kv_channels() const { return kv_heads() * head_size(); }
  bool operator==(const ModelConfig&) const = default;
};

// Calls visit(name, field) for every field. A field missing here is a compile error.
template <class Config, class Visit>
void for_each_field(Config& config, Visit&& visit) {
  auto& [max_seq_len, vocab_size, num_layers, num_heads, channels, tied_head, qkv_bias, num_classes, causal,
         num_kv_heads, family] = config;
  visit("max_seq_len", max_seq_len);
  visit("vocab_size", vocab_size);
  visit("num_layers", num_layers);
  visit("num_heads", num_heads);
  visit("channels", channels);
  visit("tied_head", tied_head);
  visit("qkv_bias", qkv_bias);
  visit("num_classes", num_classes);
  visit("causal", causal);
  visit("num_kv_heads", num_kv_heads);
  visit("family", family);
}

bool has_family(const std::string& name);  // whether this program knows it

// Throws Error naming the first field that is out of range, `where` it was read, what was expected and found.
void validate(const ModelConfig& config, const std::string& where);
