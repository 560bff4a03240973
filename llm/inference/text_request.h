// A text to continue, with its settings; and files of them.
#pragma once

#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "llm/inference/engine.h"

struct TextRequest {
  std::string prompt;
  bool ids = false;                // the prompt is in request.prompt already
  Request request;                 // all but the prompt
  std::vector<std::string> stops;  // the text ends before the first of these
  nlohmann::json id = {};          // the caller's name for it; null: none
};

// One for each line of a file, with the settings of `defaults`. In a .jsonl file or an array of a .json file a prompt
// is an object: "prompt" (text) or "ids" (token ids), and any of "tokens", "temperature", "top_k", "top_p", "min_p",
// "repetition_penalty", "frequency_penalty", "presence_penalty", "seed", "stop" (a string or an array of them),
// "logprobs" (a number) and "id" (anything; it is given back). In any other file each line is a prompt. Throws Error
// with the line, for other keys, wrong types, and if there is none.
std::vector<TextRequest> read_text_requests(const std::filesystem::path& path, const TextRequest& defaults);
