// Instruction data: rows, templates, batches whose targets leave out padding and, if asked, prompts.
#include <doctest/doctest.h>

#include "llm/finetune/examples.h"
#include "llm/finetune/instructions.h"
#include "llm/models/cpu_model.h"
#include "llm/support/error.h"
#include "tests/helpers/finite_differences.h"
#include "tests/helpers/temporary_folder.h"

namespace {

std::string refused(const std::string& text) {
  const TemporaryFolder tmp;
  try {
    read_instructions(tmp.write("a.json", text));
  } catch (const Error& error) {
    return error.what();
  }
  return "nothing";
}

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

TEST_CASE("rows, from JSON and from lines") {
  const TemporaryFolder tmp;
  const auto rows = read_instructions(tmp.write(
      "a.json", R"([{"instruction": "i", "input": "", "output": "o"}, {"instruction": "j", "output": "p", "id": 4}])"));
  REQUIRE(rows.size() == 2);
  CHECK(rows[1].instruction == "j");
  CHECK(rows[1].input == "");
  CHECK(rows[1].output == "p");
  CHECK(read_instructions(tmp.write("a.jsonl", R"({"instruction": "i", "input": "x", "output": "o"})"))[0].input ==
        "x");
  contains(refused(R"([{"instruction": "i", "output": "o"}, {"instruction": "i"}])"),
           "row 2: the key \"output\" is missing");
  contains(refused(R"([{"instruction": "", "output": "o"}])"), "row 1: \"instruction\" is empty");
  contains(refused(R"([{"instruction": "i", "output": ""}])"), "row 1: \"output\" is empty");
  contains(refused(R"([{"instruction": "i", "output": "o", "input": null}])"), "row 1: \"input\" is null");
}

TEST_CASE("the two templates") {
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

TEST_CASE("a template of one's own, kept with the model") {
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
  contains(template_refused(R"({"prompt": "{instruction")" + rest), "a brace without its other half");
  contains(template_refused(R"({"prompt": "{instruction}}")" + rest), "a brace without its other half");
  contains(template_refused(R"({"prompt": "{instruction}", "system": "x")" + rest), "unknown key \"system\"");
  contains(template_refused(R"({"prompt": "{instruction}", "input": "{input}"})"), "\"response\" is missing");
  contains(template_refused(R"({"prompt": "{instruction}", "input": "{input}", "response": "{output}."})"),
           "at its end");
  contains(template_refused("[]"), "expected an object");
}

TEST_CASE("inputs, targets one later, end-of-text once, nothing of the padding") {
  const Tokenizer tokenizer = Tokenizer::chars("abcdefgh");
  const int32_t end = tokenizer.end_of_text();
  const std::vector<PromptedExample> examples = {prompted_example("abc", "de", tokenizer, ""),
                                                 prompted_example("a", "h", tokenizer, "")};
  CHECK(examples[0].ids == std::vector<int32_t>{0, 1, 2, 3, 4, end});
  CHECK(examples[0].prompt == 3);
  const Batch batch = prompted_batch(examples, {1, 0}, end, false, 0);
  CHECK(batch.B == 2);
  CHECK(batch.T == 5);
  CHECK(batch.inputs == std::vector<int32_t>{0, 7, end, end, end, 0, 1, 2, 3, 4});
  CHECK(batch.targets == std::vector<int32_t>{7, end, -1, -1, -1, 1, 2, 3, 4, end});
  CHECK(batch.weights == std::vector<float>{1, 1, 0, 0, 0, 1, 1, 1, 1, 1});
  CHECK(count_targets(batch) == 7);
  const Batch masked = prompted_batch(examples, {0, 1}, end, true, 0);
  CHECK(masked.targets == std::vector<int32_t>{-1, -1, 3, 4, end, 7, end, -1, -1, -1});
  CHECK(masked.weights == std::vector<float>{0, 0, 1, 1, 1, 1, 1, 0, 0, 0});
  // Packed: one behind the other, each from position 0 on, and what is left of a row is nobody's.
  const Batch packed = prompted_batch(examples, {1, 0, 1}, end, true, 7);
  CHECK(packed.B == 2);
  CHECK(packed.T == 5);
  CHECK(packed.inputs == std::vector<int32_t>{0, 7, 0, 7, end, 0, 1, 2, 3, 4});
  CHECK(packed.targets == std::vector<int32_t>{7, end, 7, end, -1, -1, -1, 3, 4, end});
  CHECK(packed.weights == std::vector<float>{1, 1, 1, 1, 0, 0, 0, 1, 1, 1});
  CHECK(packed.documents == std::vector<int32_t>{0, 0, 2, 2, 4, 0, 0, 0, 0, 0});
  CHECK(batch.documents.empty());
  const Batch apart = prompted_batch(examples, {1, 0}, end, false, 6);  // nothing to share: as if not packed
  CHECK(apart.inputs == batch.inputs);
  CHECK(apart.documents.empty());
  // The end of a text that stands in the data is text.
  const Tokenizer bytes = Tokenizer::bytes();
  CHECK(prompted_example("<|endoftext|>", "x", bytes, "").prompt == 13);
  CHECK_THROWS_WITH_AS(prompted_example("z", "a", tokenizer, "f: row 3"), doctest::Contains("f: row 3: "), Error);
}

TEST_CASE("what is too long is cut and counted; without a token of its answer it goes") {
  const Tokenizer tokenizer = Tokenizer::chars("ab");
  std::vector<PromptedExample> examples = {prompted_example("aaaa", "b", tokenizer, ""),
                                           prompted_example("aa", "bbbb", tokenizer, ""),
                                           prompted_example("aa", "b", tokenizer, "")};
  const Truncation truncation = truncate(examples, 3);
  CHECK(truncation.cut == 2);
  CHECK(truncation.dropped == 1);
  REQUIRE(examples.size() == 2);
  CHECK(examples[0].ids == std::vector<int32_t>{0, 0, 1, 1});
  CHECK(examples[1].ids.size() == 4);  // 3 inputs: just fits
}

namespace {

std::vector<PromptedExample> some_examples() {
  std::vector<PromptedExample> examples;
  for (int k = 0; k < 7; ++k) {
    PromptedExample example;
    for (int t = 0; t < 3 + 2 * k % 9; ++t) example.ids.push_back((3 * t + k) % 10);
    example.ids.push_back(10);
    example.prompt = 2;
    examples.push_back(example);
  }
  return examples;
}

}  // namespace

TEST_CASE("padding and the company of a batch change nothing: the same loss per token") {
  const ModelConfig tiny = {.max_seq_len = 16, .vocab_size = 11, .num_layers = 2, .num_heads = 2, .channels = 8};
  CpuModel<float> model(tiny, true);
  init_weights(model, 3);
  const std::vector<PromptedExample> examples = some_examples();
  const auto go_on = [] { return false; };
  const double together = *evaluate_prompted(model, examples, 10, true, 0, 7, 0, go_on);
  for (const size_t B : {1, 2, 3}) {
    CHECK(*evaluate_prompted(model, examples, 10, true, 0, B, 0, go_on) == doctest::Approx(together).epsilon(1e-6));
  }
  for (const size_t pack_length : {11, 16}) {
    CHECK(*evaluate_prompted(model, examples, 10, true, pack_length, 5, 0, go_on) ==
          doctest::Approx(together).epsilon(1e-6));
  }
  CHECK(*evaluate_prompted(model, examples, 10, false, 0, 7, 0, go_on) != doctest::Approx(together).epsilon(1e-6));
  CHECK(*evaluate_prompted(model, examples, 10, true, 0, 2, 3, go_on) ==
        doctest::Approx(*evaluate_prompted(model, {examples.begin(), examples.begin() + 3}, 10, true, 0, 3, 0, go_on)));
  CHECK_FALSE(evaluate_prompted(model, examples, 10, true, 0, 2, 0, [] { return true; }).has_value());
}

TEST_CASE("a packed batch has the loss and the gradients of the same examples padded") {
  const ModelConfig config = {.max_seq_len = 40, .vocab_size = 11, .num_layers = 2, .num_heads = 2, .channels = 32};
  const std::vector<PromptedExample> examples = some_examples();
  const std::vector<size_t> all = {4, 0, 6, 2, 5, 1, 3};
  Batch padded = prompted_batch(examples, all, 10, true, 0);
  for (float& weight : padded.weights) weight /= static_cast<float>(count_targets(padded));
  for (const Precision precision : {Precision::fp32, Precision::bf16}) {
    if (!cpu_can(precision)) continue;
    for (const bool reference : {false, true}) {
      if (reference && precision == Precision::bf16) continue;
      CpuModel<float> rows(config, reference, {.precision = precision});
      init_weights(rows, 3);
      rows.zero_grad();
      forward_batch(rows, padded, Pass::train);
      rows.backward(padded.targets.data(), padded.weights.data());
      for (const size_t pack_length : {12, 17, 40}) {
        for (const Recompute recompute : {Recompute::none, Recompute::gelu, Recompute::block}) {
          CAPTURE(reference);
          CAPTURE(pack_length);
          Batch packed = prompted_batch(examples, all, 10, true, pack_length);
          REQUIRE(packed.inputs.size() < padded.inputs.size());
          REQUIRE(count_targets(packed) == count_targets(padded));
          for (float& weight : packed.weights) weight /= static_cast<float>(count_targets(packed));
          CpuModel<float> model(config, reference, {.precision = precision, .recompute = recompute});
          init_weights(model, 3);
          model.zero_grad();
          forward_batch(model, packed, Pass::train);
          model.backward(packed.targets.data(), packed.weights.data());
          // docs/testing.md's bounds of a model against another.
          const bool fp32 = precision == Precision::fp32;
          CHECK(std::abs(model.step_loss() - rows.step_loss()) < (fp32 ? 1e-5 : 1e-2));
          for (const ParamTensor& tensor : model.table) {
            CAPTURE(tensor.name);
            std::vector<float> mine(static_cast<size_t>(tensor.size())), theirs(mine.size());
            model.read(Arena::grads, tensor, mine.data());
            rows.read(Arena::grads, tensor, theirs.data());
            CHECK(relative_difference(mine, std::vector<double>(theirs.begin(), theirs.end())) < (fp32 ? 1e-4 : 1e-2));
          }
        }
      }
    }
  }
}

TEST_CASE("a template's special tokens are tokens, a row's are text") {
  const Tokenizer bytes = Tokenizer::bytes();
  const std::vector<std::string> added = {"<|user|>", "<|end|>", "<|e"};
  const Tokenizer chat = bytes.with_special_tokens(added);
  const int32_t eot = 256, user = 257, end = 258;
  const TemporaryFolder tmp;
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
    const std::vector<PromptedExample> examples =
        encode({{c.instruction, c.input, "<|end|>", "row"}}, chat_template, chat);
    std::vector<int32_t> whole = c.ids;
    for (const char byte : std::string("<|end|>")) whole.push_back(byte);  // the answer's, too
    whole.push_back(eot);
    CHECK(examples[0].ids == whole);
    CHECK(examples[0].prompt == c.ids.size());
  }
}

TEST_CASE("what stands between two special tokens is encoded in one") {
  // As `tokenizers` does it: a template's space and a row's word make one token.
  const Tokenizer bpe = Tokenizer::train_bpe(" cat cat cat cat", 270);
  const int32_t cat = bpe.encode(" cat")[0];
  REQUIRE(bpe.encode(" cat").size() == 1);
  const ChatTemplate chat{"<|endoftext|> {instruction}", "{input}", " cat{output}"};
  CHECK(chat.encode_question("cat", "", bpe) == std::vector<int32_t>{bpe.end_of_text(), cat, cat});
  CHECK(chat.encode_question("cat", "", bpe) == bpe.encode("<|endoftext|> cat cat", Special::parsed));
}

TEST_CASE("where prompts are targets, an example whose prompt fills the length is cut and kept") {
  const Tokenizer tokenizer = Tokenizer::chars("ab");
  const struct {
    bool mask_prompt;
    size_t length;
    int64_t cut, dropped, targets;
  } cases[] = {{false, 3, 2, 0, 3 + 3 + 3}, {false, 1, 3, 0, 1 + 1 + 1}, {false, 9, 0, 0, 5 + 6 + 3},
               {true, 3, 2, 1, 2 + 2},      {true, 1, 3, 3, 0},          {true, 9, 0, 0, 2 + 5 + 2}};
  for (const auto& c : cases) {
    CAPTURE(c.mask_prompt);
    CAPTURE(c.length);
    std::vector<PromptedExample> examples = {prompted_example("aaaa", "b", tokenizer, ""),
                                             prompted_example("aa", "bbbb", tokenizer, ""),
                                             prompted_example("aa", "b", tokenizer, "")};
    const Truncation truncation = truncate(examples, c.length, c.mask_prompt);
    CHECK(truncation.cut == c.cut);
    CHECK(truncation.dropped == c.dropped);
    std::vector<size_t> rows;
    for (size_t k = 0; k < examples.size(); ++k) rows.push_back(k);
    if (!rows.empty()) CHECK(count_targets(prompted_batch(examples, rows, 2, c.mask_prompt, 0)) == c.targets);
    if (rows.empty()) CHECK(c.targets == 0);
  }
}
