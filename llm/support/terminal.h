// Prints what a model wrote on standard output: bytes as they are in pipes and files, without control characters on a
// terminal, which would take them for commands.
#pragma once

#include <unistd.h>

#include <cstdio>
#include <string>
#include <string_view>

#include "llm/support/error.h"

// UTF-8 with control characters, except line ends and tabs (U+0000 to U+001F, U+007F to U+009F), written as \x1b.
inline std::string without_controls(std::string_view text) {
  std::string shown;
  for (size_t i = 0; i < text.size(); ++i) {
    unsigned byte = static_cast<unsigned char>(text[i]);
    const bool two_bytes = byte == 0xC2 && i + 1 < text.size() && static_cast<unsigned char>(text[i + 1]) < 0xA0;
    if (two_bytes) byte = static_cast<unsigned char>(text[++i]);
    if (two_bytes || byte == 0x7F || (byte < 0x20 && byte != '\n' && byte != '\t')) {
      shown += strprintf("\\x%02x", byte);
    } else {
      shown += text[i];
    }
  }
  return shown;
}

inline void print_text(std::string_view text) {
  const std::string shown = ::isatty(STDOUT_FILENO) != 0 ? without_controls(text) : std::string(text);
  std::fwrite(shown.data(), 1, shown.size(), stdout);  // a NUL, too; run_program() checks for errors
  std::fflush(stdout);
}
