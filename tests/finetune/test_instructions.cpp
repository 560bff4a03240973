// Instruction data: rows, and batches whose targets leave out padding and, if asked, prompts.
#include <doctest/doctest.h>

#include "llm/finetune/instructions.h"
#include "llm/models/cpu.h"
#include "llm/models/cpu_model.h"
#include "llm/models/init.h"
#include "llm/support/error.h"
#include "llm/text/chat_template.h"
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

TEST_CASE("targets are the inputs one position later, with one end-of-text and without the padding") {
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
  // Packed: one after the other, each starting at position 0; the rest of a row belongs to no example.
  const Batch packed = prompted_batch(examples, {1, 0, 1}, end, true, 7);
  CHECK(packed.B == 2);
  CHECK(packed.T == 5);
  CHECK(packed.inputs == std::vector<int32_t>{0, 7, 0, 7, end, 0, 1, 2, 3, 4});
  CHECK(packed.targets == std::vector<int32_t>{7, end, 7, end, -1, -1, -1, 3, 4, end});
  CHECK(packed.weights == std::vector<float>{1, 1, 1, 1, 0, 0, 0, 1, 1, 1});
  CHECK(packed.documents == std::vector<int32_t>{0, 0, 2, 2, 4, 0, 0, 0, 0, 0});
  CHECK(batch.documents.empty());
  const Batch apart = prompted_batch(examples, {1, 0}, end, false, 6);  // no row to share: as if not packed
  CHECK(apart.inputs == batch.inputs);
  CHECK(apart.documents.empty());
  // An end-of-text that occurs in the data is text.
  const Tokenizer bytes = Tokenizer::bytes();
  CHECK(prompted_example("<|endoftext|>", "x", bytes, "").prompt == 13);
  CHECK_THROWS_WITH_AS(prompted_example("z", "a", tokenizer, "f: row 3"), doctest::Contains("f: row 3: "), Error);
}

TEST_CASE("examples that are too long are cut and counted; those left without an answer token are dropped") {
  const Tokenizer tokenizer = Tokenizer::chars("ab");
  std::vector<PromptedExample> examples = {prompted_example("aaaa", "b", tokenizer, ""),
                                           prompted_example("aa", "bbbb", tokenizer, ""),
                                           prompted_example("aa", "b", tokenizer, "")};
  const Truncation truncation = truncate(examples, 3);
  CHECK(truncation.cut == 2);
  CHECK(truncation.dropped == 1);
  REQUIRE(examples.size() == 2);
  CHECK(examples[0].ids == std::vector<int32_t>{0, 0, 1, 1});
  CHECK(examples[1].ids.size() == 4);  // 3 inputs: fits exactly
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

TEST_CASE("padding and the other rows of a batch change nothing: the same loss per token") {
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

TEST_CASE("a packed batch has the same loss and gradients as the padded examples") {
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
      rows.forward(input_of(padded, Pass::train));
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
          model.forward(input_of(packed, Pass::train));
          model.backward(packed.targets.data(), packed.weights.data());
          // The bounds of docs/testing.md for one model against another.
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

TEST_CASE("a row's prompt is encoded as its template says; special tokens in its answer are text") {
  const std::vector<std::string> added = {"<|user|>", "<|end|>"};
  const Tokenizer tokenizer = Tokenizer::bytes().with_special_tokens(added);
  const ChatTemplate chat{"<|user|>{instruction}<|end|>", "(<|endoftext|>{input})", "A {output}"};
  const std::pair<const char*, const char*> rows[] = {{"hi", ""}, {"hi", "x"}, {"<|end|>", ""}, {"a", "<|endoftext|>"}};
  for (const auto& [instruction, input] : rows) {
    CAPTURE(instruction);
    CAPTURE(input);
    const std::vector<PromptedExample> examples = encode({{instruction, input, "<|end|>", "row"}}, chat, tokenizer);
    std::vector<int32_t> whole = chat.encode_question(instruction, input, tokenizer);
    CHECK(examples[0].prompt == whole.size());
    for (const char byte : std::string("<|end|>")) whole.push_back(byte);  // those of the answer, too
    whole.push_back(tokenizer.end_of_text());
    CHECK(examples[0].ids == whole);
  }
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
