// What every program's main() shares: flags by CLI11, errors as a person wants them, exit codes.
#pragma once

#include <fcntl.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <csignal>
#include <cstdio>
#include <exception>
#include <filesystem>
#include <new>

#include "gpt2/error.h"

// A program started without stdin, stdout or stderr (`>&-`) would get their numbers for its files, and what it prints
// would go into them: these places are taken, so that reading and writing there fails as it should.
inline void take_standard_files() {
  for (const int fd : {STDIN_FILENO, STDOUT_FILENO, STDERR_FILENO}) {
    if (::fcntl(fd, F_GETFD) < 0) {
      [[maybe_unused]] const int taken = ::open("/dev/null", fd == STDIN_FILENO ? O_WRONLY : O_RDONLY);
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
int run_program(CLI::App& app, int argc, char** argv, Body&& body) {
  take_standard_files();
  std::signal(SIGXFSZ,
              SIG_IGN);  // a write beyond the limit of a file's size (ulimit -f) fails, and the message says where
  try {
    app.parse(argc, argv);
    body();
    // A disk that fills up behind `program > file` shows here at the latest.
    if (std::fflush(stdout) != 0 || std::ferror(stdout))
      fail("the output cannot be written: the disk is full, or its reader has gone");
    return 0;
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? 0 : 2;  // --help arrives here too, as success
  } catch (const UsageError& error) {
    std::fprintf(stderr, "error: %s\n(%s --help lists the flags)\n", error.what(), argv[0]);
    return 2;
  } catch (const SaidElsewhere& error) {
    return error.exit_code;
  } catch (const std::bad_alloc&) {
    std::fprintf(stderr, "error: out of memory; a smaller --batch-size, --seq-len or --model needs less\n");
  } catch (const std::filesystem::filesystem_error& error) {
    std::fprintf(stderr, "error: %s: %s\n", error.path1().c_str(), error.code().message().c_str());
  } catch (const std::exception& error) {
    std::fprintf(stderr, "error: %s\n", error.what());
  }
  return 1;
}
