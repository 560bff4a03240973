// The processes of a run: threads stand for those that only communicate, forked processes for those that die.
#include <arpa/inet.h>
#include <doctest/doctest.h>
#include <netinet/in.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <cstring>
#include <future>
#include <string>
#include <thread>
#include <vector>

#include "llm/distributed/group.h"
#include "llm/support/error.h"

namespace {

GroupConfig config_of(int rank, int size, int port, double timeout = 20) {
  return {rank, size, rank, size, {"127.0.0.1"}, port, "a token", timeout};
}

// Runs body(group) as `size` ranks, threads of this process; returns the texts of the errors, by rank.
std::vector<std::string> in_group(
    int size, const std::function<void(const Group&)>& body,
    const std::function<void(GroupConfig&)>& change = [](GroupConfig&) {}) {
  std::promise<int> port;
  std::shared_future<int> known = port.get_future().share();
  std::vector<std::string> errors(static_cast<size_t>(size));
  std::vector<std::thread> threads;
  for (int r = 0; r < size; ++r) {
    threads.emplace_back([&, r] {
      bool told = false;
      try {
        GroupConfig c = config_of(r, size, r == 0 ? 0 : known.get());
        change(c);
        const Group group(c, [&](int p) {
          told = true;
          port.set_value(p);
        });
        body(group);
        group.barrier();
      } catch (const std::exception& error) {
        errors[static_cast<size_t>(r)] = error.what();
        if (r == 0 && !told) port.set_value(1);
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  return errors;
}

int connect_to(int port) {
  const int fd = ::socket(AF_INET, SOCK_STREAM, 0);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  address.sin_port = htons(static_cast<uint16_t>(port));
  REQUIRE(::connect(fd, reinterpret_cast<const sockaddr*>(&address), sizeof address) == 0);
  return fd;
}

int free_port() {
  const int fd = ::socket(AF_INET, SOCK_STREAM, 0);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t size = sizeof address;
  REQUIRE(::bind(fd, reinterpret_cast<const sockaddr*>(&address), sizeof address) == 0);
  ::getsockname(fd, reinterpret_cast<sockaddr*>(&address), &size);
  ::close(fd);
  return ntohs(address.sin_port);
}

// A rank in its own process: what it printed to stderr, and how it ended.
struct Child {
  pid_t pid = 0;
  int output = -1;

  Child(int rank, int size, int port, const std::function<void(const Group&)>& body, double timeout = 20) {
    int ends[2];
    REQUIRE(::pipe(ends) == 0);
    pid = ::fork();
    if (pid > 0) {
      ::close(ends[1]);
      output = ends[0];
      return;
    }
    ::dup2(ends[1], 2);
    ::close(ends[0]);
    ::close(ends[1]);
    try {
      const Group group(config_of(rank, size, port, timeout));
      body(group);
      group.barrier();
    } catch (const std::exception& error) {
      std::fprintf(stderr, "%s", error.what());
      ::_exit(1);
    }
    ::_exit(0);
  }
  // Waits for the process to end; returns its exit code, or minus the signal.
  int end(std::string& said) {
    char buffer[4096];
    for (ssize_t n; (n = ::read(output, buffer, sizeof buffer)) > 0;) said.append(buffer, static_cast<size_t>(n));
    ::close(output);
    int status = 0;
    ::waitpid(pid, &status, 0);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
  }
};

void sleep_for(double seconds) { std::this_thread::sleep_for(std::chrono::duration<double>(seconds)); }

}  // namespace

TEST_CASE("all_gather gives every rank the texts of all, in rank order; broadcast gives rank 0's text") {
  for (const int size : {1, 2, 3, 5}) {
    const std::vector<std::string> errors = in_group(size, [&](const Group& group) {
      for (int k = 0; k < 20; ++k) {
        const std::string own(static_cast<size_t>(group.rank() * 1000 + k), static_cast<char>('a' + group.rank()));
        const std::vector<std::string> all = group.all_gather(own);
        CHECK(static_cast<int>(all.size()) == size);
        for (int r = 0; r < size; ++r) {
          CHECK(all[static_cast<size_t>(r)] ==
                std::string(static_cast<size_t>(r * 1000 + k), static_cast<char>('a' + r)));
        }
      }
      CHECK(group.broadcast(group.rank() == 0 ? std::string("x\0y", 3) : "no") == std::string("x\0y", 3));
      if (size > 1) CHECK(group.name(size - 1).rfind("rank " + std::to_string(size - 1) + " (", 0) == 0);
    });
    for (const std::string& error : errors) CHECK(error == "");
  }
}

TEST_CASE("together: an error in one rank throws in every rank, and only that rank throws its own error") {
  for (int culprit = 0; culprit < 3; ++culprit) {
    std::vector<int> kinds(3, -1);
    in_group(3, [&](const Group& group) {
      int& kind = kinds[static_cast<size_t>(group.rank())];
      try {
        group.together([&] {
          if (group.rank() == culprit) fail_usage("flag");
        });
        kind = 0;
      } catch (const SaidElsewhere& error) {
        kind = 1;
        CHECK(std::string(error.what()).find("rank " + std::to_string(culprit)) == 0);
        CHECK(std::string(error.what()).find("flag") != std::string::npos);
      } catch (const UsageError&) {
        kind = 2;
      }
    });
    for (int r = 0; r < 3; ++r) CHECK(kinds[static_cast<size_t>(r)] == (r == culprit ? 2 : 1));
  }
  in_group(2, [&](const Group& group) {
    bool ran = false;
    group.on_root([&] { ran = true; });
    CHECK(ran == (group.rank() == 0));
  });
}

TEST_CASE("a rank with another token or world size is refused, with the reason") {
  // A wrong token: rank 0 continues to wait for a rank that has the right one.
  std::vector<std::string> errors = in_group(
      2, [](const Group&) {},
      [](GroupConfig& c) {
        if (c.rank == 1) c.token = "another";
        c.join_timeout = 1;
      });
  CHECK(errors[0].find("of 2 processes these did not join: rank 1") != std::string::npos);
  CHECK(errors[1].find("WROUGHT_TOKEN") != std::string::npos);
  // Another size.
  errors = in_group(
      2, [](const Group&) {},
      [](GroupConfig& c) {
        if (c.rank == 1) c.size = 3;
        c.join_timeout = 1;
      });
  CHECK(errors[1].find("its WORLD_SIZE is 3, rank 0 has 2") != std::string::npos);
}

TEST_CASE("the second process with the same rank is refused; the others are told which rank is missing") {
  const int port = free_port();
  std::vector<Child> children;
  for (const int rank : {0, 1, 1}) {
    children.emplace_back(
        rank, 3, port, [](const Group&) {}, 2);
    if (rank == 1) sleep_for(0.5);
  }
  std::string said[3];
  for (size_t k = 0; k < 3; ++k) CHECK(children[k].end(said[k]) == 1);
  CHECK(said[0].find("of 3 processes these did not join: rank 2") != std::string::npos);
  CHECK(said[1].find("rank 1 ends: rank 0 on ") != std::string::npos);
  CHECK(said[1].find("these did not join: rank 2") != std::string::npos);
  CHECK(said[2].find("two processes have the same RANK") != std::string::npos);
}

TEST_CASE("connections that are not ranks of the run are refused, and the ranks still meet") {
  std::promise<int> port;
  std::future<int> known = port.get_future();
  std::string error = "none";
  std::thread root([&] {
    try {
      const Group group(config_of(0, 2, 0), [&](int p) { port.set_value(p); });
      CHECK(group.all_gather("0")[1] == "1");
      error.clear();
    } catch (const std::exception& e) {
      error = e.what();
    }
  });
  const int p = known.get();
  const int silent = connect_to(p), cut = connect_to(p), web = connect_to(p), odd = connect_to(p), huge = connect_to(p);
  CHECK(::send(cut, "wrou", 4, MSG_NOSIGNAL) == 4);
  ::close(cut);
  CHECK(::send(web, "GET / HTTP/1.1\r\n\r\n", 18, MSG_NOSIGNAL) == 18);
  std::string text = "wrought1";
  uint64_t length = 3;
  text.append(reinterpret_cast<const char*>(&length), sizeof length);
  text += "{}!";
  CHECK(::send(odd, text.data(), text.size(), MSG_NOSIGNAL) == static_cast<ssize_t>(text.size()));
  text = "wrought1";
  length = uint64_t{1} << 60;
  text.append(reinterpret_cast<const char*>(&length), sizeof length);
  CHECK(::send(huge, text.data(), text.size(), MSG_NOSIGNAL) == static_cast<ssize_t>(text.size()));
  sleep_for(0.3);
  const Group group(config_of(1, 2, p));
  CHECK(group.all_gather("1")[0] == "0");
  root.join();
  CHECK(error == "");
  for (const int fd : {silent, web, odd, huge}) ::close(fd);
}

TEST_CASE("errors name the address where rank 0 does not listen, and the port that is in use") {
  const int port = free_port();
  CHECK_THROWS_WITH_AS(Group(config_of(1, 2, port, 1)), doctest::Contains("got no answer at 127.0.0.1 port"), Error);
  GroupConfig wrong = config_of(1, 2, port, 1);
  wrong.addresses = {"no.such.host.invalid"};
  CHECK_THROWS_WITH_AS(Group{wrong}, doctest::Contains("no.such.host.invalid"), Error);
  const int taken = ::socket(AF_INET, SOCK_STREAM, 0);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(static_cast<uint16_t>(port));
  REQUIRE(::bind(taken, reinterpret_cast<const sockaddr*>(&address), sizeof address) == 0);
  REQUIRE(::listen(taken, 1) == 0);
  CHECK_THROWS_WITH_AS(Group(config_of(0, 2, port, 1)), doctest::Contains("Choose another MASTER_PORT"), Error);
  ::close(taken);
}

TEST_CASE("when a rank is killed the other ranks exit and name it") {
  for (int victim = 0; victim < 3; ++victim) {
    const int port = free_port();
    std::vector<Child> children;
    for (int r = 0; r < 3; ++r) {
      children.emplace_back(r, 3, port, [](const Group& group) {
        for (int k = 0; k < 1000; ++k) {
          group.barrier();
          sleep_for(0.01);
        }
      });
    }
    sleep_for(0.5);
    const auto start = std::chrono::steady_clock::now();
    ::kill(children[static_cast<size_t>(victim)].pid, SIGKILL);
    for (int r = 0; r < 3; ++r) {
      std::string said;
      const int code = children[static_cast<size_t>(r)].end(said);
      CAPTURE(said);
      CHECK(code == (r == victim ? -SIGKILL : kExitLost));
      if (r != victim) CHECK(said.find("rank " + std::to_string(victim)) != std::string::npos);
      if (r != victim) CHECK(said.find("has gone") != std::string::npos);
    }
    CHECK(std::chrono::steady_clock::now() - start < std::chrono::seconds(10));
  }
}

TEST_CASE("when a rank makes no progress all ranks exit after the timeout and name it") {
  const int port = free_port();
  std::vector<Child> children;
  for (int r = 0; r < 3; ++r) {
    children.emplace_back(r, 3, port, [](const Group& group) {
      const auto count = std::make_shared<std::atomic<int64_t>>(0);
      group.watch(count, 1);
      for (int k = 0; k < 1000; ++k) {
        ++*count;
        if (k == 5 && group.rank() == 1) sleep_for(60);
        ++*count;
        group.barrier();
      }
      sleep_for(60);
    });
  }
  for (int r = 0; r < 3; ++r) {
    std::string said;
    CHECK(children[static_cast<size_t>(r)].end(said) == kExitLost);
    CAPTURE(said);
    CHECK(said.find("the others wait for rank 1 (") != std::string::npos);
  }
}

TEST_CASE("end() ends every rank with the same reason and exit code") {
  for (int who = 0; who < 2; ++who) {
    const int port = free_port();
    std::vector<Child> children;
    for (int r = 0; r < 2; ++r) {
      children.emplace_back(r, 2, port, [who](const Group& group) {
        if (group.rank() == who) group.end("the disk is full", 3);
        sleep_for(60);
      });
    }
    for (int r = 0; r < 2; ++r) {
      std::string said;
      CHECK(children[static_cast<size_t>(r)].end(said) == 3);
      CAPTURE(said);
      CHECK(said.find("the disk is full") != std::string::npos);
    }
  }
}
