// A judge for answers: another language model, asked through the chat interface that OpenAI's servers have and many
// others copy (llama.cpp's server, Ollama, vLLM). Needs cpp-httplib.
#pragma once

#include <algorithm>
#include <cctype>
#include <cstdlib>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>

#include "llm/support/error.h"
#include "llm/support/json.h"

#ifdef WROUGHT_HTTPLIB
#include <httplib.h>
#endif

// The question to the judge.
inline std::string judge_question(const std::string& prompt, const std::string& expected, const std::string& answer) {
  return "A model was given this prompt:\n\n" + prompt + "\n\nA correct answer is:\n\n" + expected +
         "\n\nThe model's answer is:\n\n" + answer +
         "\n\nScore the model's answer from 0 (useless or wrong) to 100 (as good as the correct one). Reply with the "
         "whole number alone.";
}

// The first separate whole number from 0 to 100 in a reply; none if there is no such number.
inline std::optional<int> score_in(const std::string& reply) {
  for (size_t at = 0; (at = reply.find_first_of("0123456789", at)) != std::string::npos;) {
    const size_t end = std::min(reply.find_first_not_of("0123456789", at), reply.size());
    const bool fraction = (at > 0 && (reply[at - 1] == '.' || reply[at - 1] == '-')) ||
                          (end + 1 < reply.size() && reply[end] == '.' && std::isdigit(reply[end + 1]) != 0);
    if (!fraction && end - at <= 3 && std::stoi(reply.substr(at, end - at)) <= 100)
      return std::stoi(reply.substr(at, end - at));
    at = end;
  }
  return std::nullopt;
}

class Judge {
 public:
  // Throws UsageError unless the URL is http://HOST[:PORT] (or https, if cpp-httplib has it), and if wrought was built
  // without cpp-httplib. A key in the environment variable OPENAI_API_KEY is sent along.
  Judge(const std::string& url, const std::string& model) : url_(url), model_(model) {
#ifdef WROUGHT_HTTPLIB
#ifdef CPPHTTPLIB_OPENSSL_SUPPORT
    const bool https = true;
#else
    const bool https = false;
#endif
    const size_t host = url.starts_with("http://") ? 7 : https && url.starts_with("https://") ? 8 : 0;
    if (host == 0 || url.size() == host || url.find('/', host) != std::string::npos) {
      fail_usage("{judge} is '%s', expected http%s://HOST:PORT without a path, such as http://127.0.0.1:11434",
                 url.c_str(), https ? "(s)" : "");
    }
#else
    fail_usage(
        "{judge} needs cpp-httplib, and wrought was built without it: install libcpp-httplib-dev and build again");
#endif
  }

  // A score from 0 to 100; none if the reply has none. Throws Error if the server gives no usable reply.
  std::optional<int> score(const std::string& question) const {
#ifdef WROUGHT_HTTPLIB
    httplib::Client client(url_);
    if (const char* key = std::getenv("OPENAI_API_KEY")) client.set_bearer_token_auth(key);
    client.set_connection_timeout(10);
    client.set_read_timeout(300);
    const nlohmann::json request{{"model", model_},
                                 {"messages", {{{"role", "user"}, {"content", question}}}},
                                 {"temperature", 0},
                                 {"seed", 123}};
    const std::string body = request.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
    const httplib::Result result = client.Post("/v1/chat/completions", body, "application/json");
    if (!result) fail("{judge} %s: no answer: %s", url_.c_str(), httplib::to_string(result.error()).c_str());
    if (result->status != 200) {
      fail("{judge} %s: status %d, expected 200: %s", url_.c_str(), result->status, in_quotes(result->body).c_str());
    }
    const nlohmann::json reply = parse_json(result->body, "{judge} " + url_ + ": the reply", 32);
    const auto content = nlohmann::json::json_pointer("/choices/0/message/content");
    if (!reply.is_object() || !reply.contains(content) || !reply[content].is_string()) {
      fail("{judge} %s: the reply has no choices[0].message.content: %s", url_.c_str(),
           in_quotes(result->body).c_str());
    }
    return score_in(reply[content].get<std::string>());
#else
    return score_in(question);  // not reached: the constructor has refused
#endif
  }

 private:
  std::string url_, model_;
};
