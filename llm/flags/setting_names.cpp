#include "llm/flags/setting_names.h"

#include <CLI/CLI.hpp>
#include <set>

#include "llm/flags/finetune_flags.h"
#include "llm/flags/train_flags.h"

namespace {

// The flags of the tables from the start: a message may name one that another program has.
std::set<std::string>& known_flags() {
  static std::set<std::string> names = [] {
    std::set<std::string> all;
    TrainConfig train;
    for_each_flag(train, [&](const Flag& flag, const auto&) { all.insert(flag.name); });
    for (const Task task : {Task::classify, Task::instruct, Task::dpo}) {
      FinetuneConfig config;
      for_each_finetune_flag(config, task, [&](const Flag& flag, const auto&) { all.insert(flag.name); });
    }
    return all;
  }();
  return names;
}

}  // namespace

void know_flags(const CLI::App& app) {
  for (const CLI::Option* option : app.get_options([](const CLI::Option*) { return true; })) {
    for (const std::string& name : option->get_lnames()) known_flags().insert(name);
  }
  for (const CLI::App* command : app.get_subcommands([](const CLI::App*) { return true; })) know_flags(*command);
}

std::string with_flag_names(const std::string& text) {
  std::string spelled;
  for (size_t at = 0; at < text.size();) {
    const size_t end = text[at] == '{' ? text.find('}', at) : std::string::npos;
    if (end != std::string::npos && known_flags().contains(text.substr(at + 1, end - at - 1))) {
      spelled += "--" + text.substr(at + 1, end - at - 1);
      at = end + 1;
    } else {
      spelled += text[at++];
    }
  }
  return spelled;
}
