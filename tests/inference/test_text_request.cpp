#include <doctest/doctest.h>

#include "llm/inference/text_request.h"
#include "llm/support/error.h"
#include "tests/helpers/temporary_folder.h"

namespace {

TextRequest defaults() {
  TextRequest request;
  request.request.tokens = 7;
  request.request.sampler.temperature = 0.5;
  request.stops = {"."};
  return request;
}

std::vector<TextRequest> read(const std::string& name, const std::string& text) {
  const TemporaryFolder folder;
  return read_text_requests(folder.write(name, text), defaults());
}

void refused(const std::string& line, const std::string& why) {
  CAPTURE(line);
  CHECK_THROWS_WITH_AS(read("a.jsonl", line), doctest::Contains(why.c_str()), Error);
}

}  // namespace

TEST_CASE("each line of a text file is a prompt") {
  const auto requests = read("prompts.txt", "Once upon a time\r\n\n  two spaces");
  REQUIRE(requests.size() == 3);
  CHECK(requests[0].prompt == "Once upon a time");
  CHECK(requests[1].prompt == "");  // the start of a text
  CHECK(requests[2].prompt == "  two spaces");
  CHECK(requests[2].request.tokens == 7);
  CHECK(requests[2].stops == std::vector<std::string>{"."});
  CHECK_THROWS_WITH_AS(read("empty.txt", ""), doctest::Contains("there are no prompts in it"), Error);
}

TEST_CASE("a line of JSON is a prompt with its settings") {
  const auto requests =
      read("a.jsonl", R"({"prompt": "a", "tokens": 3, "temperature": 0, "top_k": 4, "top_p": 0.5, "min_p": 0.25, )"
                      R"("repetition_penalty": 1.5, "frequency_penalty": -1, "presence_penalty": 2, "seed": 9, )"
                      R"("stop": ["x", "yz"], "logprobs": 5, "id": {"row": 1}})"
                      "\n"
                      R"({"ids": [5, 6], "stop": "q"})"
                      "\n"
                      R"({"prompt": "b", "stop": []})");
  REQUIRE(requests.size() == 3);
  const TextRequest& a = requests[0];
  CHECK(a.prompt == "a");
  CHECK(!a.ids);
  CHECK(a.request.tokens == 3);
  const SamplerConfig& s = a.request.sampler;
  CHECK(s.temperature == 0);
  CHECK(s.top_k == 4);
  CHECK(s.top_p == 0.5);
  CHECK(s.min_p == 0.25);
  CHECK(s.repetition_penalty == 1.5);
  CHECK(s.frequency_penalty == -1);
  CHECK(s.presence_penalty == 2);
  CHECK(a.request.seed == 9);
  CHECK(a.request.top == 5);
  CHECK(a.stops == std::vector<std::string>{"x", "yz"});
  CHECK(a.id == nlohmann::json{{"row", 1}});
  CHECK(requests[1].ids);
  CHECK(requests[1].request.prompt == std::vector<int32_t>{5, 6});
  CHECK(requests[1].stops == std::vector<std::string>{"q"});
  CHECK(requests[1].request.tokens == 7);  // as the defaults say
  CHECK(!requests[1].request.top);
  CHECK(requests[2].stops.empty());
  CHECK(read("a.json", R"([{"prompt": "a"}, {"prompt": "b"}])").size() == 2);
}

TEST_CASE("a prompt with a wrong setting is refused with its line") {
  refused(R"({"tokens": 3})", "a.jsonl: line 1: expected one of \"prompt\" and \"ids\"");
  refused(R"({"prompt": "a", "ids": [1]})", "expected one of");
  refused("{\"prompt\": \"a\"}\n{\"prompt\": \"b\", \"topk\": 3}",
          "line 2: there is no setting \"topk\"; expected some of:");
  refused(R"({"prompt": 3})", "\"prompt\" is 3, expected a string");
  refused(R"({"ids": "1 2"})", "expected an array of token ids");
  refused(R"({"ids": [1, -2]})", "is -2, expected a whole number from 0 to");
  refused(R"({"ids": [18446744073709551615]})", "expected a whole number");
  refused(R"({"prompt": "a", "tokens": 0})", "\"tokens\" is 0, expected a whole number from 1 to 1073741824");
  refused(R"({"prompt": "a", "tokens": 1.5})", "\"tokens\" is 1.5, expected a whole number");
  refused(R"({"prompt": "a", "tokens": 1e30})", "expected a whole number");
  refused(R"({"prompt": "a", "temperature": "hot"})", "\"temperature\" is \"hot\", expected a number");
  refused(R"({"prompt": "a", "temperature": -1})", "line 1: ");
  refused(R"({"prompt": "a", "top_p": 2})", "line 1: ");
  refused(R"({"prompt": "a", "seed": -1})", "\"seed\" is -1");
  refused(R"({"prompt": "a", "stop": ""})", "expected strings that are not empty");
  refused(R"({"prompt": "a", "stop": [1]})", "expected a string");
  refused(R"({"prompt": "a", "logprobs": true})", "\"logprobs\" is true");
  refused(R"("a prompt")", "expected an object");
  refused(R"({"prompt": )", "line 1");
  CHECK_THROWS_AS(read_text_requests("nowhere.jsonl", defaults()), Error);
}
