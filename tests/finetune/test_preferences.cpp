// Preferences and DPO: rows, masks, the loss worked out by hand, its gradient by finite differences of a whole model.
#include "llm/finetune/preferences.h"
#include "llm/models/cpu_model.h"
#include "llm/models/init.h"
#include "llm/support/error.h"
#include "tests/helpers/finite_differences.h"
#include "tests/helpers/temporary_folder.h"

namespace {

const ModelConfig kTiny = {.max_seq_len = 8, .vocab_size = 11, .num_layers = 1, .num_heads = 2, .channels = 6};

PromptedExample example(std::vector<int32_t> ids, size_t prompt) { return {std::move(ids), prompt}; }

// Two pairs of different lengths.
std::vector<PreferencePair> some_pairs() {
  return {{example({1, 2, 3, 4, 10}, 2), example({1, 2, 5, 10}, 2)},
          {example({7, 8, 9, 10}, 3), example({7, 8, 9, 1, 2, 10}, 3)}};
}

// Log-probabilities in double, row by row: CpuModel<double>::loss() sums in double.
Doubles exact_log_probs(CpuModel<double>& model, const Batch& batch, LogProb kind) {
  model.forward(batch.inputs.data(), batch.B, batch.T, Pass::train);
  Doubles result;
  for (int b = 0; b < batch.B; ++b) {
    std::vector<int32_t> targets(batch.targets.size(), -1);
    int64_t n = 0;
    for (int t = b * batch.T; t < (b + 1) * batch.T; ++t) {
      targets[static_cast<size_t>(t)] = batch.targets[static_cast<size_t>(t)];
      n += batch.targets[static_cast<size_t>(t)] >= 0;
    }
    double sum = 0;
    model.loss(targets.data(), &sum);
    result.push_back(-sum / static_cast<double>(kind == LogProb::mean ? n : 1));
  }
  return result;
}

}  // namespace

TEST_CASE("rows; equal answers are counted and left out") {
  const TemporaryFolder tmp;
  const Preferences p = read_preferences(tmp.write(
      "a.json",
      R"([{"instruction": "i", "chosen": "a", "rejected": "b"}, {"instruction": "i", "chosen": "a", "rejected": "a"}])"));
  CHECK(p.rows.size() == 1);
  CHECK(p.equal == 1);
  CHECK(p.rows[0].rejected == "b");
  const auto refuse = [&](const char* text, const char* message) {
    CAPTURE(text);
    CHECK_THROWS_WITH_AS(read_preferences(tmp.write("b.json", text)), doctest::Contains(message), Error);
  };
  refuse(R"([{"instruction": "i", "chosen": "a"}])", "row 1: the key \"rejected\" is missing");
  refuse(R"([{"instruction": "i", "chosen": "", "rejected": "b"}])", "row 1: \"chosen\" is empty");
  refuse(R"([{"instruction": "i", "chosen": "a", "rejected": "a"}])", "each of its 1 rows");
}

TEST_CASE("a batch: chosen rows, then rejected rows, with targets only for the answers") {
  const Batch batch = preference_batch(some_pairs(), {1, 0}, 10);
  CHECK(batch.B == 4);
  CHECK(batch.T == 5);
  CHECK(batch.targets ==
        std::vector<int32_t>{-1, -1, 10, -1, -1, -1, 3, 4, 10, -1, -1, -1, 1, 2, 10, -1, 5, 10, -1, -1});
  Floats losses(batch.targets.size(), 100.0f);  // losses of masked targets must not count
  for (size_t i = 0; i < losses.size(); ++i) {
    if (batch.targets[i] >= 0) losses[i] = static_cast<float>(i);
  }
  CHECK(sequence_log_probs(batch, losses, LogProb::sum) == Doubles{-2, -(6 + 7 + 8), -(12 + 13 + 14), -(16 + 17)});
  CHECK(sequence_log_probs(batch, losses, LogProb::mean) == Doubles{-2, -7, -13, -16.5});
}

TEST_CASE("pairs that are too long are cut; those equal after the cut, or without an answer, are dropped") {
  std::vector<PreferencePair> pairs = some_pairs();
  pairs.push_back({example({1, 2, 3, 4, 5, 10}, 2), example({1, 2, 3, 4, 6, 10}, 2)});  // equal up to the cut
  pairs.push_back(
      {example({1, 2, 3, 4, 5, 6, 10}, 5), example({1, 2, 3, 4, 5, 7, 10}, 5)});  // the prompt by itself is too long
  const Truncation truncation = truncate(pairs, 3);
  CHECK(truncation.cut == 4);
  CHECK(truncation.dropped == 2);
  CHECK(pairs.size() == 2);
}

TEST_CASE("equal policy and reference have loss log 2 and no margin") {
  const DpoResult result = dpo({-1, -2, -3, -4}, {-1, -2, -3, -4}, 0.1);
  CHECK(result.loss == doctest::Approx(0.69314718056));
  CHECK(result.margin == 0);
  CHECK(result.chosen_reward == 0);
  CHECK(result.accuracy == 0.5);
  CHECK(result.pull == Doubles{0.5, 0.5});
}

TEST_CASE("the loss is the one worked out by hand") {
  const DpoResult result = dpo({-1.0, -2.0}, {-1.5, -1.2}, 2);  // h = 0.5 + 0.8
  CHECK(result.chosen_reward == doctest::Approx(1.0));
  CHECK(result.rejected_reward == doctest::Approx(-1.6));
  CHECK(result.margin == doctest::Approx(2.6));
  CHECK(result.loss == doctest::Approx(std::log(1 + std::exp(-2.6))));
  CHECK(result.accuracy == 1);
  const DpoResult wrong = dpo({-2.0, -1.0}, {-1.0, -2.0}, 1);
  CHECK(wrong.loss == doctest::Approx(std::log(1 + std::exp(2.0))));
  CHECK(wrong.accuracy == 0);
  CHECK(std::isfinite(dpo({-1e6, 0}, {0, -1e6}, 1).loss));
}

TEST_CASE("the weights give the gradient of the loss, by finite differences of a whole model") {
  for (const LogProb kind : {LogProb::mean, LogProb::sum}) {
    const double beta = 0.7;
    CpuModel<double> policy(kTiny, true), frozen(kTiny, true);
    init_weights(policy, 1);
    init_weights(frozen, 2);
    Batch batch = preference_batch(some_pairs(), {0, 1}, 10);
    const Doubles reference = exact_log_probs(frozen, batch, kind);
    const auto loss = [&] { return dpo(exact_log_probs(policy, batch, kind), reference, beta).loss; };
    const DpoResult result = dpo(exact_log_probs(policy, batch, kind), reference, beta);
    set_dpo_weights(batch, result, beta, kind, 2);
    policy.zero_grad();
    policy.backward(batch.targets.data(), batch.weights.data());
    // A few tensors from one end of the model to the other.
    const size_t C = 6;
    const auto check = [&](const char* name, double* values, const double* grads, size_t n) {
      CAPTURE(name);
      Doubles dx(grads, grads + n);
      check_gradient(name, std::span<double>(values, n), dx, loss);
    };
    check("lnfw", policy.params.lnf.w, policy.grads.lnf.w, C);
    check("wpe", policy.params.wpe, policy.grads.wpe, 5 * C);
    check("wte", policy.params.wte, policy.grads.wte, 11 * C);
    check("qkvw", policy.params.block[0].qkv.w, policy.grads.block[0].qkv.w, 3 * C * C);
    check("fcprojb", policy.params.block[0].fcproj.b, policy.grads.block[0].fcproj.b, C);
  }
}

TEST_CASE("the micro-batches of a step add up to the step") {
  Batch whole = preference_batch(some_pairs(), {0, 1}, 10), part = preference_batch(some_pairs(), {1}, 10);
  set_dpo_weights(whole, dpo({-1, -2, -3, -4}, {-1, -1, -1, -1}, 0.5), 0.5, LogProb::mean, 2);
  set_dpo_weights(part, dpo({-2, -4}, {-1, -1}, 0.5), 0.5, LogProb::mean, 2);
  for (int t = 0; t < 5; ++t) {
    CHECK(part.weights[static_cast<size_t>(t)] == whole.weights[static_cast<size_t>(5 + t)]);
    CHECK(part.weights[static_cast<size_t>(5 + t)] == whole.weights[static_cast<size_t>(15 + t)]);
  }
}

TEST_CASE("special tokens of a template are tokens in pairs, too") {
  const std::vector<std::string> added = {"<|user|>"};
  const Tokenizer chat = Tokenizer::bytes().with_special_tokens(added);
  const Preference row{{"<|user|>", "", "", "row"}, "a", "b"};
  const std::vector<PreferencePair> pairs = encode({row}, {"<|user|>{instruction}", "{input}", ":{output}"}, chat);
  std::vector<int32_t> prompt = {257};
  for (const char byte : std::string("<|user|>:")) prompt.push_back(byte);
  for (const auto& [example, answer] : {std::pair(pairs[0].chosen, 'a'), std::pair(pairs[0].rejected, 'b')}) {
    CHECK(example.prompt == prompt.size());
    std::vector<int32_t> ids = prompt;
    ids.insert(ids.end(), {answer, 256});
    CHECK(example.ids == ids);
  }
}
