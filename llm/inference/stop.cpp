#include "llm/inference/stop.h"

#include <algorithm>
#include <utility>

#include "llm/support/error.h"
#include "llm/support/file.h"

StopStream::StopStream(std::vector<std::string> stops) {
  for (size_t i = 0; i < stops.size(); ++i) {
    if (stops[i].empty())
      fail_usage("{stop}: string %zu of %zu is empty: it would stop every text", i + 1, stops.size());
    Stop stop{std::move(stops[i]), {}};
    const std::string& text = stop.text;
    stop.border.resize(text.size());
    for (size_t n = 1, length = 0; n < text.size(); ++n) {
      while (length > 0 && text[n] != text[length]) length = stop.border[length - 1];
      length += text[n] == text[length];
      stop.border[n] = length;
    }
    stops_.push_back(std::move(stop));
  }
}

std::string StopStream::next(std::string_view bytes) {
  if (stopped()) return "";
  for (size_t i = 0; i < bytes.size() && !stopped(); ++i) {
    size_t complete = 0;
    for (size_t s = 0; s < stops_.size(); ++s) {
      auto& [text, border, matched] = stops_[s];
      while (matched > 0 && text[matched] != bytes[i]) matched = border[matched - 1];
      matched += text[matched] == bytes[i];
      if (matched == text.size() && matched > complete) {
        complete = matched;
        stopped_by_ = static_cast<int>(s);
      }
    }
    waiting_ += bytes[i];
    if (complete > 0) waiting_.resize(waiting_.size() - complete);
  }
  if (stopped()) return finish();
  size_t held = 0;  // bytes at the end that may be the start of a stop string
  for (const Stop& stop : stops_) held = std::max(held, stop.matched);
  std::string_view sure = std::string_view(waiting_).substr(given_, waiting_.size() - given_ - held);
  sure.remove_suffix(unfinished_utf8_bytes(sure));
  std::string text = replace_invalid_utf8(sure);
  given_ += sure.size();
  if (given_ >= waiting_.size() - given_) {  // each byte moves once on average
    waiting_.erase(0, given_);
    given_ = 0;
  }
  return text;
}

std::string StopStream::finish() {
  std::string text = replace_invalid_utf8(std::string_view(waiting_).substr(given_));
  waiting_.clear();
  given_ = 0;
  return text;
}
