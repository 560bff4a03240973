// One line that shows a run's progress: redrawn in place on a terminal, with a bar and the time left; elsewhere a plain
// line each time.
#pragma once

#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <string>

#include "llm/support/error.h"
#include "llm/support/output.h"

inline double seconds_since(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

// 75 -> "1:15", 3675 -> "1:01:15"
inline std::string clock_text(double seconds) {
  const int64_t s =
      static_cast<int64_t>(std::clamp(seconds, 0.0, 3.6e8));  // what takes longer than that takes for ever
  const long long hours = s / 3600, minutes = s / 60 % 60;
  if (hours > 0) return strprintf("%lld:%02lld:%02lld", hours, minutes, static_cast<long long>(s % 60));
  return strprintf("%lld:%02lld", minutes, static_cast<long long>(s % 60));
}

// "[#####...............] 1:15 left | line", cut to `columns` (0: not cut). The bar and the time come first, so that a
// narrow terminal still shows them.
inline std::string progress_text(int64_t done, int64_t total, double seconds_left, const std::string& line,
                                 size_t columns) {
  const double share =
      std::clamp(static_cast<double>(done) / static_cast<double>(std::max<int64_t>(1, total)), 0.0, 1.0);
  const int filled = static_cast<int>(share * 20);
  std::string text = strprintf("[%.*s%.*s] %s left | %s", filled, "####################", 20 - filled,
                               "....................", clock_text(seconds_left).c_str(), line.c_str());
  if (columns > 0) text.resize(std::min(text.size(), columns));
  return text;
}

class Progress {
 public:
  Progress(int64_t done, int64_t total) : first_(done), total_(total), terminal_(::isatty(STDOUT_FILENO) != 0) {}
  ~Progress() { clear(); }

  // `done` of the total are done; `line` gives details.
  void show(int64_t done, const std::string& line) {
    if (!terminal_) return say(line);
    const double seconds = seconds_since(start_);
    const double left =
        done > first_ ? seconds * static_cast<double>(total_ - done) / static_cast<double>(done - first_) : 0;
    winsize size{};
    const bool known = ::ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 1;
    // A line that wraps could not be redrawn.
    Output::print("\r\x1b[K" + progress_text(done, total_, left, line, known ? size.ws_col - 1u : 0));
    drawn_ = true;
  }

  // Erases the line, so that something else can be printed.
  void clear() {
    if (drawn_) Output::print("\r\x1b[K");
    drawn_ = false;
  }

 private:
  int64_t first_, total_;
  bool terminal_, drawn_ = false;
  std::chrono::steady_clock::time_point start_ = std::chrono::steady_clock::now();
};
