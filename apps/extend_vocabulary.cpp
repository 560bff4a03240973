// Adds special tokens to a model's vocabulary: rows in its embedding, entries in its tokenizer.json.
//   build/extend_vocabulary --model gpt2/ --add-tokens "<|user|>" --add-tokens "<|assistant|>" --to gpt2-chat/
#include <cstdio>

#include "llm/flags/command_line.h"
#include "llm/formats/huggingface.h"
#include "llm/formats/open_weights.h"
#include "llm/models/cpu.h"
#include "llm/models/extend.h"
#include "llm/support/file.h"

namespace fs = std::filesystem;

int main(int argc, char** argv) {
  CLI::App app("Adds special tokens to a model's vocabulary. The model treats the old ones as before.");
  std::string from, to, init = "mean";
  std::vector<std::string> tokens;
  bool force = false;
  app.add_option("--model", from, "model directory (a run's latest/, or one that transformers saved)")->required();
  app.add_option("--add-tokens", tokens, "the tokens, such as <|user|>; several, or the flag several times")
      ->required();
  app.add_option("--to", to, "directory to write")->required();
  app.add_option("--init", init,
                 "mean: a new row is the mean of the old ones, so that a new token is as likely as an average one | "
                 "zeros")
      ->check(CLI::IsMember({"mean", "zeros"}))
      ->capture_default_str();
  app.add_flag("--force", force, "overwrite what is there");
  return run_program(app, argc, argv, [&] {
    check_output_folder("--to", to);
    if (fs::exists(to) && !fs::is_empty(to) && !force) fail("%s: exists already; --force overwrites it", to.c_str());
    const ModelConfig shape = read_model_config(from);
    const Tokenizer old = load_tokenizer(from);
    check_tokenizer(old, shape, from);
    const Tokenizer tokenizer = old.with_special_tokens(tokens);
    check_weights(shape, from);
    std::unique_ptr<Model> model = make_cpu_model(shape, true);
    load_weights(*model, from);
    model = extend_vocabulary(*model, old.vocab_size(), std::max(shape.vocab_size, tokenizer.vocab_size()),
                              init == "mean" ? NewRows::mean : NewRows::zeros);
    make_directories(to);
    save_model(*model, &tokenizer, to);
    for (size_t k = 0; k < tokens.size(); ++k) {
      std::printf("%d  %s\n", old.vocab_size() + static_cast<int>(k), tokens[k].c_str());
    }
    std::printf("wrote %s: vocabulary %d (was %d), tokenizer %d ids (was %d)\n", to.c_str(), model->config.vocab_size,
                shape.vocab_size, tokenizer.vocab_size(), old.vocab_size());
  });
}
