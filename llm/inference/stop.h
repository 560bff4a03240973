// A generated text that ends at the first of its stop strings.
#pragma once

#include <string>
#include <string_view>
#include <vector>

// Takes the bytes of tokens and gives out text: valid UTF-8 at every step (as StreamDecoder, llm/text/tokenizer.h), and
// only what can no longer be part of a stop string. The text depends on the bytes, not on how tokens divide them:
//   - it ends before the stop string that is complete first; of several that end with the same byte, before the
//   longest;
//   - bytes that can never become a character come out as U+FFFD.
// Stop strings are compared byte by byte. What waits is shorter than the longest stop string, plus at most 3 bytes of
// an unfinished character.
class StopStream {
 public:
  // No stop string: all text passes. Throws UsageError for an empty one.
  explicit StopStream(std::vector<std::string> stops);

  std::string next(std::string_view bytes);  // "" once stopped
  std::string finish();                      // what still waits, if no stop string came: the text's last part

  int stopped_by() const { return stopped_by_; }  // the place of the stop string in the list, or -1
  bool stopped() const { return stopped_by_ >= 0; }

 private:
  // Knuth, Morris and Pratt (1977): border[n] is the length of the longest proper prefix of text that ends its first n
  // + 1 bytes.
  struct Stop {
    std::string text;
    std::vector<size_t> border;
    size_t matched = 0;  // the longest prefix of text that ends the bytes so far
  };
  std::vector<Stop> stops_;
  std::string waiting_;
  size_t given_ = 0;  // bytes of waiting_ that have come out
  int stopped_by_ = -1;
};
