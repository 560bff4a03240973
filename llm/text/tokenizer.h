// Text to token ids and back: byte, character and byte-pair (BPE) vocabularies.
//
// BPE follows GPT-2 (Radford et al. 2019, section 2.2; Sennrich et al. 2016): the text is split by GPT-2's pattern,
// each piece is written in bytes, and adjacent pairs merge in the order in which training found them. A vocabulary is a
// table id -> bytes plus the merge ranks; "<|endoftext|>" is a special token that no merge makes.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

inline constexpr std::string_view kEndOfText = "<|endoftext|>";

enum class Special {
  text,    // "<|endoftext|>" in the input is ordinary text (rows of a data set)
  parsed,  // it and the vocabulary's others become the special tokens (corpora, prompts)
};

struct TextRange {
  size_t begin, end;  // bytes of a text
};

// A byte-level vocabulary as files spell it: each byte of a token is one visible character, as GPT-2 writes them.
struct SpelledVocabulary {
  std::vector<std::string> tokens;  // by id; special tokens as they are
  std::vector<bool> special;        // by id
  std::vector<std::string> merges;  // "left right", in the order in which they apply
};

class Tokenizer {
 public:
  // ---- making one ----
  static Tokenizer bytes();  // 256 bytes, then <|endoftext|>
  static Tokenizer chars(
      std::string_view text);  // the distinct characters of the text in code point order, then <|endoftext|>
  // Trains BPE to `vocab_size` ids (256 bytes in GPT-2's order, merges, <|endoftext|> last); fewer if no remaining pair
  // occurs twice. Ties between equally frequent pairs go to the pair of smaller ids. `text` must be UTF-8;
  // <|endoftext|> in it separates documents and is not trained on.
  static Tokenizer train_bpe(std::string_view text, int vocab_size);
  // A file or folder: HF tokenizer.json (or the folder that holds it), .tiktoken, or vocab.bpe with encoder.json next
  // to it (either file or their folder). Throws Error for anything that is not one of these, cut off, or inconsistent.
  static Tokenizer load(const std::filesystem::path& path);
  // The same with more special tokens, whose ids follow in this order. Throws Error for one that is not of printable
  // ASCII without spaces, or is there already: as a token or twice in the list.
  Tokenizer with_special_tokens(std::span<const std::string> tokens) const;
  void save(const std::filesystem::path& path) const;  // as HF tokenizer.json, in one step (a temporary file, renamed)
  // For formats that hold a vocabulary next to other things. spelled() throws std::logic_error for a character
  // vocabulary; from_spelled() throws Error, beginning with `source`, for tokens, merges or special tokens that do not
  // fit together.
  SpelledVocabulary spelled() const;
  static Tokenizer from_spelled(const SpelledVocabulary& vocabulary, const std::string& source);

  // ---- using one ----
  // Every call is thread-safe. Bytes that are not UTF-8 are encoded as they are, each as an "other" character of a
  // piece; only a character vocabulary throws Error for them and for characters it lacks (naming which and where).
  std::vector<int32_t> encode(std::string_view text, Special special = Special::text) const;
  // Special::parsed inside these ranges of the text, which are in order and do not overlap, Special::text outside. A
  // special token only partly in a range is text.
  std::vector<int32_t> encode(std::string_view text, std::span<const TextRange> parsed) const;
  // The same ids part by part, in the text's order, made by `threads` threads (0: all cores). Only parts that are being
  // made take memory: some 8 MB per thread, more if one word is longer. The cut points are places where the split
  // pattern would cut anyway. On an error, the parts before it have been delivered.
  void encode_parts(std::string_view text, Special special, int threads,
                    const std::function<void(std::span<const int32_t> ids)>& take) const;
  std::vector<int32_t> encode_parallel(std::string_view text, Special special, int threads) const;  // all parts as one
  // Raw bytes, which need not be valid UTF-8 if ids were cut; special tokens add no text. Throws Error for an id out of
  // range.
  std::string decode(std::span<const int32_t> ids) const;

  int vocab_size() const;
  int end_of_text() const;  // its id, or -1
  std::string_view bytes_of(
      int id) const;  // what the id stands for; "" for special tokens. Throws Error if out of range
  bool is_special(int id) const;
  std::string kind() const;  // "bytes", "chars" or "bpe"
  std::string checksum()
      const;  // 16 hexadecimal digits over the whole vocabulary: equal exactly if encodings are equal

  struct Impl;
  explicit Tokenizer(std::shared_ptr<const Impl> impl) : impl_(std::move(impl)) {}

 private:
  std::shared_ptr<const Impl> impl_;
};

// What --tokenizer accepts: bytes | chars | bpe:N (chars and bpe:N are made from `text`, the corpus), gpt2 (from
// data/gpt2/ or data/gpt2.tiktoken below the current folder, or gpt2/ or gpt2.tiktoken in $WROUGHT_DATA), or a path for
// Tokenizer::load. Throws UsageError for a name that is none of these.
Tokenizer make_tokenizer(const std::string& name, std::string_view text);
// If a training of bpe:N ended early, a sentence that says so and why; else "".
std::string why_fewer_tokens(const std::string& name, const Tokenizer& tokenizer);
bool tokenizer_needs_text(const std::string& name);  // whether make_tokenizer reads `text`

// Decodes ids one at a time into text that is valid UTF-8 at every step: the bytes of an unfinished character wait for
// the next id; bytes that can never become a character come out as U+FFFD.
class StreamDecoder {
 public:
  explicit StreamDecoder(const Tokenizer& tokenizer) : tokenizer_(tokenizer) {}
  std::string next(int32_t id);
  std::string finish();  // what still waits, as U+FFFD

 private:
  Tokenizer tokenizer_;
  std::string waiting_;
};
