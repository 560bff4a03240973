// One line that says how far a run is: redrawn in place on a terminal, with a bar and the time left; a plain line each time
// elsewhere.
#pragma once

#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <string>

#include "gpt2/error.h"

class Progress {
 public:
  Progress(int64_t done, int64_t total) : first_(done), total_(total), terminal_(::isatty(STDOUT_FILENO) != 0) {}
  ~Progress() { clear(); }

  // `done` of the total are done; `line` says more.
  void show(int64_t done, const std::string& line) {
    if (!terminal_) {
      std::printf("%s\n", line.c_str());
      std::fflush(stdout);
      return;
    }
    const double share = static_cast<double>(done) / static_cast<double>(std::max<int64_t>(1, total_));
    const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start_).count();
    const double left = done > first_ ? seconds * static_cast<double>(total_ - done) / static_cast<double>(done - first_) : 0;
    const int filled = static_cast<int>(share * 20);
    std::string text = strprintf("[%s%s] %s | %d:%02d left", std::string(static_cast<size_t>(filled), '#').c_str(),
                                 std::string(static_cast<size_t>(20 - filled), '.').c_str(), line.c_str(),
                                 static_cast<int>(left) / 60, static_cast<int>(left) % 60);
    winsize size{};
    if (::ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 1 && text.size() >= size.ws_col) {
      text.resize(size.ws_col - 1u);  // a line that wraps could not be redrawn
    }
    std::printf("\r\x1b[K%s", text.c_str());
    std::fflush(stdout);
    drawn_ = true;
  }

  // Takes the line away, so that something else can be printed.
  void clear() {
    if (drawn_) std::printf("\r\x1b[K");
    drawn_ = false;
  }

 private:
  int64_t first_, total_;
  bool terminal_, drawn_ = false;
  std::chrono::steady_clock::time_point start_ = std::chrono::steady_clock::now();
};
