// How a message's settings are spelled for a person.
#include <doctest/doctest.h>

#include <CLI/CLI.hpp>

#include "llm/flags/setting_names.h"
#include "llm/support/error.h"

TEST_CASE("settings in braces become flags, other braces stay") {
  CHECK(with_flag_names("a lower {lr}, more {warmup-steps} or a {grad-clip}") ==
        "a lower --lr, more --warmup-steps or a --grad-clip");
  CHECK(with_flag_names("{label-column} and {lossy}") == "--label-column and --lossy");  // flags of finetuning, too
  for (const char* text : {"", "{", "}", "{}", "{lr", "lr}", "{ lr}", "{LR}", "{instruction} and {output}",
                           R"({"lr": 1})", "{{lr", "{no such setting}"}) {
    CAPTURE(text);
    CHECK(with_flag_names(text) == text);
  }
  CHECK(with_flag_names("{{lr}}") == "{--lr}");
}

TEST_CASE("a program's own flags are known once it has declared them, those of its commands included") {
  CHECK(with_flag_names("{only-here} {only-there}") == "{only-here} {only-there}");
  CLI::App app;
  int number = 0;
  app.add_option("--only-here", number);
  app.add_subcommand("command")->add_option("-t,--only-there", number);
  know_flags(app);
  CHECK(with_flag_names("{only-here} {only-there}") == "--only-here --only-there");
}

TEST_CASE("without a program the settings stay as the library writes them") {
  CHECK(spell_settings("a lower {lr}") == "a lower {lr}");
}
