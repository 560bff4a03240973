// Output that no process reads.
#include <doctest/doctest.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

#include <functional>
#include <string>

#include "llm/support/output.h"

namespace {

struct Ends {
  int read, write;
};

Ends pipe_ends() {
  int fds[2];
  REQUIRE(::pipe(fds) == 0);
  return {fds[0], fds[1]};
}

Ends terminal_ends() {
  const int master = ::posix_openpt(O_RDWR | O_NOCTTY);
  REQUIRE(master >= 0);
  REQUIRE(::grantpt(master) == 0);
  REQUIRE(::unlockpt(master) == 0);
  const int terminal = ::open(::ptsname(master), O_RDWR | O_NOCTTY);
  REQUIRE(terminal >= 0);
  return {master, terminal};
}

// The exit code of `body`, run in its own process with this stdout, or 128 + the signal that ended it; SIGALRM if it
// takes longer than 20 s.
int in_process(const Ends& ends, const std::function<int()>& body) {
  const pid_t child = ::fork();
  if (child == 0) {
    ::alarm(20);
    ::dup2(ends.write, STDOUT_FILENO);
    ::close(ends.write);
    ::_exit(body());
  }
  int status = 0;
  ::waitpid(child, &status, 0);
  return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

const std::string kLine(99, 'x');
constexpr int kLines = 2000;  // more than a pipe or a terminal holds

}  // namespace

TEST_CASE("readers that do not read or have closed do not block the writer") {
  const struct {
    const char* name;
    Ends (*make)();
    bool gone;
  } cases[] = {{"pipe", pipe_ends, false},
               {"pipe, closed", pipe_ends, true},
               {"terminal", terminal_ends, false},
               {"terminal, closed", terminal_ends, true}};
  for (const auto& c : cases) {
    CAPTURE(c.name);
    const Ends ends = c.make();
    if (c.gone) ::close(ends.read);
    const int code = in_process(ends, [] {
      Output::when_unread(Output::Unread::drop);
      for (int i = 0; i < kLines; ++i) {
        say(kLine);
      }
      return 0;
    });
    CHECK(code == 0);
    if (!c.gone) ::close(ends.read);
    ::close(ends.write);
  }
}

TEST_CASE("by default a closed reader ends the program") {
  const Ends ends = pipe_ends();
  ::close(ends.read);
  CHECK(in_process(ends, [] {
          say(kLine);
          return 0;
        }) == 128 + SIGPIPE);
  ::close(ends.write);
}

TEST_CASE("a reader that resumes is told how many lines it missed; the last lines wait for it") {
  const Ends ends = pipe_ends(), dropped = pipe_ends();
  const pid_t writer = ::fork();
  if (writer == 0) {
    ::alarm(20);
    ::close(ends.read);
    ::dup2(ends.write, STDOUT_FILENO);
    ::close(ends.write);
    Output::when_unread(Output::Unread::drop);
    for (int i = 0; i < kLines; ++i) say(kLine);
    ::close(dropped.write);
    Output::when_unread(Output::Unread::wait);
    say("done");
    ::_exit(0);
  }
  ::close(ends.write);
  ::close(dropped.write);
  std::string heard;
  char bytes[4096];
  CHECK(::read(dropped.read, bytes, 1) == 0);  // waits until the droppable lines are done
  ::close(dropped.read);
  for (ssize_t n; (n = ::read(ends.read, bytes, sizeof bytes)) > 0;) heard.append(bytes, static_cast<size_t>(n));
  int status = -1;
  ::waitpid(writer, &status, 0);
  CHECK(status == 0);
  ::close(ends.read);

  const size_t note = heard.find("\n(");
  REQUIRE(note != std::string::npos);
  const int left_out = std::atoi(heard.c_str() + note + 2);
  CHECK(left_out > 0);
  CHECK(heard.substr(note) == strprintf("\n(%d lines were left out here: they were not read)\ndone\n", left_out));
  CHECK(note == static_cast<size_t>(kLines - left_out) * (kLine.size() + 1));
}
