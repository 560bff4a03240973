// Errors that a person reads: what was wrong, where, what was expected and found, what to do.
// Library code throws; main (llm/flags/command_line.h) prints and turns them into exit codes.
#pragma once

#include <cstdarg>
#include <cstdio>
#include <stdexcept>
#include <string>

struct Error : std::runtime_error {  // exit code 1
  using std::runtime_error::runtime_error;
};

struct UsageError : Error {  // a flag that is out of range or contradicts another: exit code 2
  using Error::Error;
};

// How a person types the settings that a message marks in braces: {lr} is --lr. The library does not know; a program's
// main function does (llm/flags/command_line.h sets this). Whatever prints a message for a person calls it.
inline std::string (*spell_settings)(const std::string& message) = [](const std::string& message) { return message; };

[[gnu::format(printf, 1, 0)]] inline std::string vstrprintf(const char* format, va_list args) {
  va_list copy;
  va_copy(copy, args);
  std::string text(static_cast<size_t>(std::vsnprintf(nullptr, 0, format, copy)), '\0');
  va_end(copy);
  std::vsnprintf(text.data(), text.size() + 1, format, args);
  return text;
}

struct SaidElsewhere : Error {  // another process of the run reports it: this one ends silently
  int exit_code;
  SaidElsewhere(const std::string& what, int code) : Error(what), exit_code(code) {}
};

// printf into a std::string; the compiler checks the arguments against the format.
[[gnu::format(printf, 1, 2)]] inline std::string strprintf(const char* format, ...) {
  va_list args;
  va_start(args, format);
  std::string text = vstrprintf(format, args);
  va_end(args);
  return text;
}

[[noreturn, gnu::format(printf, 1, 2)]] inline void fail(const char* format, ...) {
  va_list args;
  va_start(args, format);
  std::string text = vstrprintf(format, args);
  va_end(args);
  throw Error(text);
}

[[noreturn, gnu::format(printf, 1, 2)]] inline void fail_usage(const char* format, ...) {
  va_list args;
  va_start(args, format);
  std::string text = vstrprintf(format, args);
  va_end(args);
  throw UsageError(text);
}
