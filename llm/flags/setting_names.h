// The only place that knows how a person types a setting: the library's messages mark one as {lr}, and programs print
// --lr.
#pragma once

#include <string>

namespace CLI {
class App;
}

// Adds the flags of a program, its subcommands included, to those that are known.
void know_flags(const CLI::App& app);

// The text with every known {name} as --name. Other braces stay: those of templates and of JSON.
std::string with_flag_names(const std::string& text);
