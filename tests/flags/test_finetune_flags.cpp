// Finetuning's flags, their ranges and contradictions, recipes, and the parts that train.
#include <doctest/doctest.h>

#include <set>
#include <string>
#include <vector>

#include "llm/flags/finetune_flags.h"
#include "llm/models/tensor_table.h"
#include "llm/support/error.h"
#include "tests/helpers/flag_ranges.h"

using nlohmann::json;

namespace {

const ModelConfig kTiny = {.max_seq_len = 8, .vocab_size = 11, .num_layers = 2, .num_heads = 2, .channels = 6};

FinetuneConfig good(Task task) {
  FinetuneConfig config = finetune_defaults(task);
  config.model = std::string("model");
  config.data = std::string("data.json");
  return config;
}

template <class Change>
std::string refused(Task task, std::vector<std::string> given, Change&& change) {
  FinetuneConfig config = good(task);
  change(config);
  try {
    validate(config, task, given);
  } catch (const UsageError& error) {
    return error.what();
  }
  return "nothing";
}

bool contains(const std::string& text, const char* part) { return text.find(part) != std::string::npos; }

ModelConfig classifier_of(ModelConfig shape, int classes) {
  shape.num_classes = classes;
  shape.tied_head = false;
  return shape;
}

}  // namespace

TEST_CASE("every flag of a task has its own name and a help text, and every default is valid") {
  for (const Task task : {Task::classify, Task::instruct, Task::dpo}) {
    FinetuneConfig config = good(task);
    std::set<std::string> names;
    for_each_finetune_flag(config, task, [&](const Flag& flag, auto&) {
      CAPTURE(flag.name);
      CHECK(names.insert(flag.name).second);
      CHECK(std::string(flag.help).size() > 4);
    });
    CHECK(names.size() >= 30);
    CHECK_NOTHROW(validate(config, task, {}));
    CHECK(to_json(config, task).size() == names.size());
  }
  CHECK(to_json(good(Task::classify), Task::classify).contains("position"));
  CHECK_FALSE(to_json(good(Task::classify), Task::classify).contains("beta"));
}

TEST_CASE("each number just outside its range is refused by name") {
  FinetuneConfig config = good(Task::dpo);
  for_each_finetune_flag(config, Task::dpo, [&](const Flag& flag, auto& field) {
    for_each_value_outside(flag, field, [&] {
      CHECK_THROWS_WITH_AS(validate(config, Task::dpo, {}), doctest::Contains(flag.name), UsageError);
    });
  });
}

TEST_CASE("missing and contradictory flags are refused") {
  const Task c = Task::classify;
  CHECK(contains(refused(c, {}, [](auto& f) { f.model.clear(); }), "--model DIR is missing"));
  CHECK(contains(refused(c, {}, [](auto& f) { f.data.clear(); }), "--data is missing"));
  CHECK(contains(refused(c, {"steps", "epochs"}, [](auto& f) { f.steps = 3; }), "--steps and --epochs"));
  CHECK(contains(refused(c, {}, [](auto& f) { f.epochs = 0; }), "nothing to do"));
  CHECK(contains(refused(c, {}, [](auto& f) { f.lr = 0; }), "--lr is 0"));
  CHECK(contains(refused(c, {}, [](auto& f) { f.min_lr = 1; }), "--min-lr 1 is above"));
  CHECK(contains(refused(c, {"min-lr"}, [](auto& f) { f.min_lr = 1e-6; }), "a --schedule that falls"));
  CHECK(contains(refused(c, {}, [](auto& f) { f.micro_batch = 3; }), "not a multiple of --micro-batch 3"));
  CHECK(contains(refused(c, {}, [](auto& f) { f.val_fraction = 0.5; }), "more than 1"));
  CHECK(contains(refused(c, {"val-fraction"}, [](auto& f) { f.val_data = f.data; }), "--val-fraction contradicts"));
  CHECK(contains(refused(c, {"lora-rank"}, [](auto&) {}), "--lora-rank goes with --train lora"));
  CHECK(contains(refused(c, {}, [](auto& f) { f.position = "middle"; }), "last last-real first mean mean-real"));
  CHECK(contains(refused(c, {}, [](auto& f) { f.recipe = "cake"; }), "spam imdb"));
  CHECK(contains(refused(Task::instruct, {}, [](auto& f) { f.judge = "http://x"; }), "go together"));
  CHECK(contains(refused(Task::dpo, {}, [](auto& f) { f.reference_model = "nowhere"; }), "expected a model's folder"));
  CHECK(refused(Task::dpo, {}, [](auto& f) { f.position = "middle"; }) == "nothing");  // not its flag
}

TEST_CASE("recipes set the flags that were not given") {
  FinetuneConfig config = good(Task::classify);
  config.recipe = "spam";
  config.epochs = 2;
  apply_recipe(config, {"epochs"});
  CHECK(config.epochs == 2);
  CHECK(config.label_column == "1");
  CHECK(config.text_column == "2");
  CHECK(config.balance);
  CHECK(config.labels == "ham,spam");
  CHECK(config.train == "last-blocks:1");
  CHECK(config.grad_clip == 0);
  CHECK(config.max_length == 120);
  FinetuneConfig imdb = good(Task::classify);
  imdb.recipe = "imdb";
  apply_recipe(imdb, {});
  CHECK(imdb.max_length == 256);
  CHECK(imdb.epochs == 1);
  CHECK_FALSE(imdb.balance);
  FinetuneConfig none = good(Task::classify);
  apply_recipe(none, {});
  CHECK(to_json(none, Task::classify) == to_json(good(Task::classify), Task::classify));
}

TEST_CASE("comma-separated lists") {
  CHECK(split_list("") == std::vector<std::string>{});
  CHECK(split_list("a") == std::vector<std::string>{"a"});
  CHECK(split_list("a,b c,") == std::vector<std::string>{"a", "b c"});
}

TEST_CASE("--train selects the parts that train") {
  const auto options = [](const char* train, const ModelConfig& shape) {
    FinetuneConfig config = good(Task::classify);
    config.train = train;
    config.lora_rank = 3;
    return model_options(config, shape);
  };
  const ModelConfig classifier = classifier_of(kTiny, 2);
  const TrainablePart head = options("head", classifier).trainable;
  CHECK((head.first_block == 2 && !head.embeddings && !head.final_norm && head.head));
  const TrainablePart last = options("last-blocks:1", classifier).trainable;
  CHECK((last.first_block == 1 && !last.embeddings && last.final_norm && last.head));
  CHECK_FALSE(options("last-blocks:1", kTiny).trainable.head);  // the head is the embedding
  const TrainablePart all = options("all", classifier).trainable;
  CHECK((all.first_block == 0 && all.embeddings && all.final_norm && all.head));
  CHECK(options("all", classifier).lora.rank == 0);
  CHECK(options("lora", classifier).lora.rank == 3);
  for (const char* train : {"", "some", "last-blocks:0", "last-blocks:3", "last-blocks:", "last-blocks:1x"}) {
    CAPTURE(train);
    CHECK_THROWS_WITH_AS(options(train, classifier), doctest::Contains("--train is"), UsageError);
  }
  CHECK_THROWS_WITH_AS(options("head", kTiny), doctest::Contains("token embedding"), UsageError);
  FinetuneConfig large = good(Task::classify);
  large.train = "lora";
  CHECK_THROWS_WITH_AS(model_options(large, classifier), doctest::Contains("rank 16, expected 0 to"), Error);
  large.lora_rank = 2;
  large.lora_targets = "q,w";
  CHECK_THROWS_WITH_AS(model_options(large, classifier), doctest::Contains("q,k,v,attproj,fc,fcproj,head"), Error);
  // C + 1 parameters per class
  const auto table = param_table(classifier, options("head", classifier));
  CHECK(num_trainable(table) == 2 * 6 + 2);
}
