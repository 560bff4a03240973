// The trainers' flags: llm/flags/train_flags.h's table handed to CLI11.
#pragma once

#include <string>
#include <vector>

#include "llm/flags/command_line.h"
#include "llm/flags/train_flags.h"

template <class Field>
void add_flag(CLI::App& app, const Flag& flag, Field& field) {
  const std::string name = std::string("--") + flag.name;
  if constexpr (std::is_same_v<Field, bool>) {
    app.add_flag(name, field, flag.help)->group(flag.group);
  } else {
    app.add_option(name, field, flag.help)->group(flag.group)->capture_default_str();
  }
}

inline void add_train_flags(CLI::App& app, TrainConfig& config) {
  for_each_flag(config, [&](const Flag& flag, auto& field) { add_flag(app, flag, field); });
}

// The names of the flags that stood on the command line.
inline std::vector<std::string> given_flags(const CLI::App& app) {
  std::vector<std::string> names;
  for (const CLI::Option* option : app.get_options()) {
    if (option->count() > 0) names.push_back(option->get_lnames().front());
  }
  return names;
}
