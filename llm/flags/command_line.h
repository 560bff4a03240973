// What every program's main() shares: flags by CLI11, errors for a person, exit codes.
#pragma once

#include <fcntl.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <charconv>
#include <cmath>
#include <csignal>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <exception>
#include <filesystem>
#include <new>
#include <string>
#include <vector>

#include "llm/flags/setting_names.h"
#include "llm/support/error.h"

// A program started without stdin, stdout or stderr (`>&-`) would get their numbers for its files, and what it prints
// would go into them: these places are taken, so that reading and writing there fails as it should.
inline void take_standard_files() {
  for (const int fd : {STDIN_FILENO, STDOUT_FILENO, STDERR_FILENO}) {
    if (::fcntl(fd, F_GETFD) < 0) {
      [[maybe_unused]] const int taken = ::open("/dev/null", fd == STDIN_FILENO ? O_WRONLY : O_RDONLY);
    }
  }
}

// What is wrong with a number as it was given; "" if nothing is. CLI11 by itself takes an empty one for 0, passes nan
// through every range, and reads 010 as 8 and -1 as 2^64 - 1.
inline std::string check_number(const std::string& type, const std::string& given) {
  const char *begin = given.data(), *end = begin + given.size();
  const auto whole = [&](auto number) {
    const auto [stop, error] = std::from_chars(begin, end, number);
    const size_t sign = given.starts_with('-');
    return error == std::errc() && stop == end && (given.size() == sign + 1 || given[sign] != '0');
  };
  if (type.starts_with("UINT") && !whole(uint64_t{0}))
    return "expected a whole number from 0 on, found '" + given + "'";
  if (type.starts_with("INT") && !whole(int64_t{0})) return "expected a whole number, found '" + given + "'";
  if (type.starts_with("FLOAT")) {
    double number = 0;
    const auto [stop, error] = std::from_chars(begin, end, number);
    if (error != std::errc() || stop != end || !std::isfinite(number))
      return "expected a number, found '" + given + "'";
  }
  return "";
}

// CLI11 takes "[INST]" for a list in brackets, of INST, where a flag has several values. A mark in front of the bracket
// keeps it from that, until check_values() takes the mark away.
inline constexpr char kMark = '\x01';

inline std::vector<std::string> mark_brackets(int argc, char** argv) {
  std::vector<std::string> marked(argv, argv + argc);
  for (std::string& word : marked) {
    const size_t value = word.starts_with("--") ? word.find('=') + 1 : 0;  // of --flag=value
    if (word.ends_with(']') && word[value] == '[') word.insert(value, 1, kMark);
  }
  return marked;
}

// Lets every flag, also of subcommands, take its values as they were given, and those of a number check them.
inline void check_values(CLI::App& app) {
  for (CLI::Option* option : app.get_options([](CLI::Option*) { return true; })) {
    const std::string type = option->get_type_name();
    option->check([type](const std::string& given) { return check_number(type, given); });
    option->transform(CLI::Validator(
        [](std::string& given) {
          if (given.starts_with(kMark)) given.erase(0, 1);
          return std::string();
        },
        ""));
  }
  for (CLI::App* command : app.get_subcommands([](CLI::App*) { return true; })) check_values(*command);
}

// A flag that has another name now. The old one still works, is not in --help, and says the new one.
struct OldFlag {
  const char *old, *now;
  const char* value = nullptr;  // what the old one, which had none, stands for
};

inline void rename_flags(std::vector<std::string>& words, const std::vector<OldFlag>& renamed) {
  for (std::string& word : words) {
    for (const auto& [old, now, value] : renamed) {
      if (value ? word != old : word != old && !word.starts_with(std::string(old) + "=")) continue;
      std::fprintf(stderr, "note: %s is now %s%s%s\n", old, now, value ? " " : "", value ? value : "");
      word.replace(0, std::strlen(old), value ? std::string(now) + "=" + value : now);
    }
  }
}

// Declares flags on `app`, parses, runs `body`; returns the exit code: 0, 1 (error), 2 (usage).
//   int main(int argc, char** argv) {
//     CLI::App app("what it does");
//     ... app.add_option(...) ...
//     return run_program(app, argc, argv, [&] { ... });
//   }
template <class Body>
int run_program(CLI::App& app, int argc, char** argv, const std::vector<OldFlag>& renamed, Body&& body) {
  take_standard_files();
  // A write beyond the limit of a file's size (ulimit -f) fails, and the message says where.
  std::signal(SIGXFSZ, SIG_IGN);
  know_flags(app);
  spell_settings = with_flag_names;
  try {
    check_values(app);
    std::vector<std::string> words = mark_brackets(argc, argv);
    rename_flags(words, renamed);
    std::vector<const char*> pointers;
    for (const std::string& word : words) pointers.push_back(word.c_str());
    app.parse(argc, pointers.data());
    body();
    // A disk that fills up under `program > file` shows here at the latest.
    if (std::fflush(stdout) != 0 || std::ferror(stdout))
      fail("the output cannot be written: the disk is full, or its reader has gone");
    return 0;
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? 0 : 2;  // --help arrives here too, as success
  } catch (const UsageError& error) {
    std::fprintf(stderr, "error: %s\n(%s --help lists the flags)\n", spell_settings(error.what()).c_str(), argv[0]);
    return 2;
  } catch (const SaidElsewhere& error) {
    return error.exit_code;
  } catch (const std::bad_alloc&) {
    std::fprintf(stderr, "error: out of memory; a smaller --batch-size, --seq-len or --model needs less\n");
  } catch (const std::filesystem::filesystem_error& error) {
    std::fprintf(stderr, "error: %s: %s\n", error.path1().c_str(), error.code().message().c_str());
  } catch (const std::exception& error) {
    std::fprintf(stderr, "error: %s\n", spell_settings(error.what()).c_str());
  }
  return 1;
}

template <class Body>
int run_program(CLI::App& app, int argc, char** argv, Body&& body) {
  return run_program(app, argc, argv, {}, body);
}
