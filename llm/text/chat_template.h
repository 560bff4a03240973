// How an instruction becomes a prompt: a template, and the file that keeps it next to a model.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "llm/text/tokenizer.h"

// How a row becomes text: `prompt`, then `input` if the row has one, then `response`. Each is text with keys in braces;
// {{ and }} stand for braces.
struct ChatTemplate {
  std::string prompt;    // with {instruction}, once
  std::string input;     // with {input}, once
  std::string response;  // ends with {output}, its only key; what stands before it is given to the model
  bool operator==(const ChatTemplate&) const = default;

  // The text that the model is given; the answer follows at once. `own`, if given, receives the ranges of the
  // template's own words in it, between those of the row.
  std::string question(const std::string& instruction, const std::string& input_text,
                       std::vector<TextRange>* own = nullptr) const;
  // The same in tokens. A special token of the vocabulary in the template, such as <|user|>, is that token; in the
  // words of a row it is text.
  std::vector<int32_t> encode_question(const std::string& instruction, const std::string& input_text,
                                       const Tokenizer& tokenizer) const;
};

ChatTemplate alpaca_template();  // Taori et al. 2023, in the book's words
ChatTemplate phi3_template();    // <|user|> and <|assistant|>, as the book writes them

// "alpaca", "phi3", or a JSON file {"prompt", "input", "response"}. Throws UsageError for another name, Error for a
// file with other keys, a key in braces that is unknown, missing or twice, and braces that do not match.
ChatTemplate make_template(const std::string& name);

// DIR/chat_template.json. has_template(): whether there is one.
void write_template(const ChatTemplate& chat, const std::filesystem::path& dir);
ChatTemplate read_template(const std::filesystem::path& dir);
bool has_template(const std::filesystem::path& dir);
