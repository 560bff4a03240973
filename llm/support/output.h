// What a program prints on stdout, and what happens to it if it is not read.
#pragma once

#include <fcntl.h>
#include <poll.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <climits>
#include <csignal>
#include <cstdint>
#include <cstdio>
#include <string>
#include <string_view>
#include <thread>

#include "llm/support/error.h"
#include "llm/support/stop_signal.h"

class Output {
 public:
  // A reader that does not read means a full pipe (`| less`, a launcher that was stopped) or a terminal after Ctrl-S;
  // one that has gone means a closed pipe (`| head`), terminal or connection.
  enum class Unread {
    fail,  // the output is the program's purpose: it waits for its reader, and ends without one
    drop,  // training: metrics.jsonl has it all. What is not taken within a second is left out, and later output at
           // once, until the reader reads again and is told how many lines were left out. A reader that has gone
           // changes nothing
    wait,  // the last lines of a training: they wait for a reader that is there, unless a signal asks to stop
  };
  static void when_unread(Unread what) {
    what_ = what;
    if (what != Unread::fail) std::signal(SIGPIPE, SIG_IGN);
  }

  static void print(std::string_view text) {
    if (what_ == Unread::fail) {
      std::fwrite(text.data(), 1, text.size(), stdout);
      std::fflush(stdout);
      return;
    }
    const std::string note =
        lines_left_out_ == 0 ? ""
                             : strprintf("\n(%lld lines were left out here: they were not read)\n", lines_left_out_);
    reading_ = write_all(note) && write_all(text);
    if (reading_) {
      lines_left_out_ = 0;
    } else {
      lines_left_out_ += std::count(text.begin(), text.end(), '\n');
    }
  }

 private:
  // A terminal is opened again, so that a write to it can return without writing: unlike a pipe, it may have room for
  // only a part of the text.
  static int open_output() {
    const int again =
        ::isatty(STDOUT_FILENO) ? ::open("/proc/self/fd/1", O_WRONLY | O_NONBLOCK | O_NOCTTY | O_CLOEXEC) : -1;
    return again >= 0 ? again : STDOUT_FILENO;
  }

  static double patience() {  // seconds
    if (StopSignal::received() != 0) return reading_ ? 0.1 : 0;
    if (what_ == Unread::wait) return 1e9;
    return reading_ ? 1 : 0;
  }

  // False if the reader does not take it.
  static bool write_all(std::string_view text) {
    static const int fd = open_output();
    const auto start = std::chrono::steady_clock::now();
    while (!text.empty()) {
      pollfd out{fd, POLLOUT, 0};
      ssize_t written = 0;
      if (::poll(&out, 1, 0) != 0) {  // a pipe that is ready takes PIPE_BUF bytes
        written = ::write(fd, text.data(), std::min(text.size(), size_t{PIPE_BUF}));
        if (written < 0 && errno != EAGAIN && errno != EINTR) return true;  // the reader has gone: no loss
      }
      if (written > 0) {
        text.remove_prefix(static_cast<size_t>(written));
        continue;
      }
      const std::chrono::duration<double> waited = std::chrono::steady_clock::now() - start;
      if (waited.count() >= patience()) return false;
      std::this_thread::sleep_for(std::chrono::milliseconds(2));
    }
    return true;
  }

  static inline Unread what_ = Unread::fail;
  static inline bool reading_ = true;
  static inline long long lines_left_out_ = 0;
};

inline void say(const std::string& line) { Output::print(spell_settings(line) + "\n"); }
