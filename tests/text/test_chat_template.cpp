// Templates: the two that have names, one of a file, special tokens in them.
#include <doctest/doctest.h>

#include "llm/support/error.h"
#include "llm/text/chat_template.h"
#include "tests/helpers/temporary_folder.h"

namespace {

std::string template_refused(const std::string& text) {
  const TemporaryFolder tmp;
  try {
    make_template(tmp.write("t.json", text));
  } catch (const Error& error) {
    return error.what();
  }
  return "nothing";
}

void contains(const std::string& text, const std::string& part) {
  INFO(text);
  CHECK(text.find(part) != std::string::npos);
}

}  // namespace

TEST_CASE("the Alpaca and Phi-3 templates format a question") {
  CHECK(alpaca_template().question("Do it.", "") ==
        "Below is an instruction that describes a task. Write a response that appropriately completes the request.\n\n"
        "### Instruction:\nDo it.\n\n### Response:\n");
  CHECK(alpaca_template()
            .question("Do it.", "this")
            .ends_with("### Instruction:\nDo it.\n\n### Input:\nthis\n\n### Response:\n"));
  CHECK(phi3_template().question("Do it.", "this") == "<|user|>\nDo it.\nthis\n<|assistant|>:\n");
  CHECK(make_template("alpaca") == alpaca_template());
  CHECK(make_template("phi3") == phi3_template());
  // What a row says is not a template.
  CHECK(phi3_template().question("{output} }", "{input}") == "<|user|>\n{output} }\n{input}\n<|assistant|>:\n");
}

TEST_CASE("a user's own template is saved with the model") {
  const TemporaryFolder tmp;
  const auto file = tmp.write(
      "t.json", R"~({"prompt": "{{Q}}: {instruction}", "input": " ({input})", "response": "\nA: {output}"})~");
  const ChatTemplate chat = make_template(file);
  CHECK(chat.question("why", "now") == "{Q}: why (now)\nA: ");
  CHECK_FALSE(has_template(tmp.path));
  write_template(chat, tmp.path);
  CHECK(has_template(tmp.path));
  CHECK(read_template(tmp.path) == chat);

  CHECK_THROWS_WITH_AS(make_template("alpacca"), doctest::Contains("expected alpaca, phi3 or a JSON file"), UsageError);
  const std::string rest = R"(, "input": "{input}", "response": "{output}"})";
  contains(template_refused(R"({"prompt": "{instruction} {question}")" + rest), "unknown key {question}");
  contains(template_refused(R"({"prompt": "{input}")" + rest), "unknown key {input}");
  contains(template_refused(R"({"prompt": "hello")" + rest), "{instruction} is 0 times");
  contains(template_refused(R"({"prompt": "{instruction}{instruction}")" + rest), "is 2 times");
  contains(template_refused(R"({"prompt": "{instruction")" + rest), "an unmatched brace");
  contains(template_refused(R"({"prompt": "{instruction}}")" + rest), "an unmatched brace");
  contains(template_refused(R"({"prompt": "{instruction}", "system": "x")" + rest), "unknown key \"system\"");
  contains(template_refused(R"({"prompt": "{instruction}", "input": "{input}"})"), "\"response\" is missing");
  contains(template_refused(R"({"prompt": "{instruction}", "input": "{input}", "response": "{output}."})"),
           "at its end");
  contains(template_refused("[]"), "expected an object");
}

TEST_CASE("special tokens of a template are tokens, those of a row are text") {
  const Tokenizer bytes = Tokenizer::bytes();
  const std::vector<std::string> added = {"<|user|>", "<|end|>", "<|e"};
  const Tokenizer chat = bytes.with_special_tokens(added);
  const int32_t eot = 256, user = 257, end = 258;
  const struct {
    const char *prompt, *instruction, *input;
    std::vector<int32_t> ids;
  } cases[] = {
      {"<|user|>{instruction}<|end|>", "hi", "", {user, 'h', 'i', end, 'A', ' '}},
      {"<|user|>{instruction}<|end|>", "hi", "x", {user, 'h', 'i', end, '(', eot, 'x', ')', 'A', ' '}},
      {"{instruction}<|bot|>", "hi", "", {'h', 'i', '<', '|', 'b', 'o', 't', '|', '>', 'A', ' '}},  // no such token
      {"{instruction}", "<|end|>", "", {'<', '|', 'e', 'n', 'd', '|', '>', 'A', ' '}},
      {"<|user|>{instruction}", "a", "<|endoftext|>", {user, 'a', '(', eot, '<', '|', 'e', 'n', 'd', 'o',
                                                       'f',  't', 'e', 'x', 't', '|', '>', ')', 'A', ' '}},
      {"<|us{instruction}r|>", "e", "", {'<', '|', 'u', 's', 'e', 'r', '|', '>', 'A', ' '}},  // half a row's
      {"<|user|>{instruction}", "|>", "", {user, '|', '>', 'A', ' '}},
      {"{{<|end|>}} {instruction}", "a", "", {'{', end, '}', ' ', 'a', 'A', ' '}},
      {"{instruction}<|end",
       "a",
       "(",
       {'a', 259, 'n', 'd', '(', eot, '(', ')', 'A', ' '}},  // the longest that is there
  };
  for (const auto& c : cases) {
    CAPTURE(c.prompt);
    CAPTURE(c.instruction);
    const ChatTemplate chat_template{c.prompt, "(<|endoftext|>{input})", "A {output}"};
    CHECK(chat_template.encode_question(c.instruction, c.input, chat) == c.ids);
  }
}

TEST_CASE("text between two special tokens is encoded as one piece") {
  // As `tokenizers` does it: a template's space and a row's word make one token.
  const Tokenizer bpe = Tokenizer::train_bpe(" cat cat cat cat", 270);
  const int32_t cat = bpe.encode(" cat")[0];
  REQUIRE(bpe.encode(" cat").size() == 1);
  const ChatTemplate chat{"<|endoftext|> {instruction}", "{input}", " cat{output}"};
  CHECK(chat.encode_question("cat", "", bpe) == std::vector<int32_t>{bpe.end_of_text(), cat, cat});
  CHECK(chat.encode_question("cat", "", bpe) == bpe.encode("<|endoftext|> cat cat", Special::parsed));
}
