// The processes of a run as one: how they meet, what they tell one another in words, and how all end when
// one does. The numbers go by Comm (comm.h); this is what does not depend on who moves them.
//
// Every rank keeps two connections to rank 0: one for words, and one on which each says every second that it is there.
// A connection that ends, or silence for kSilence, ends the run in every process, with a message that names the rank.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

inline constexpr int kExitLost = 75;         // the exit code of a run that lost a process: it can be started again
inline constexpr double kSilence = 15;       // seconds without a sign of a process after which it counts as gone
inline constexpr double kJoinTimeout = 120;  // seconds in which all have to come

struct GroupConfig {
  int rank = 0, size = 1, local_rank = 0, local_size = 1;
  std::vector<std::string> addresses;  // of rank 0: names or numbers, tried in turn
  int port = 0;                        // 0, at rank 0 alone: any that is free
  std::string token;
  double join_timeout = kJoinTimeout;
};

class Group {
 public:
  // Throws Error: a port that is taken, nobody at the address, ranks that do not come in time, another size or token.
  // `listening(port)`: at rank 0, once others can connect.
  explicit Group(
      const GroupConfig& config, const std::function<void(int port)>& listening = [](int) {});
  ~Group();  // leaves: what happens to others then is no concern of this process
  Group(const Group&) = delete;
  Group& operator=(const Group&) = delete;

  int rank() const { return config_.rank; }
  int size() const { return config_.size; }
  int local_rank() const { return config_.local_rank; }
  int local_size() const { return config_.local_size; }
  std::string name(int rank) const;  // "rank 2 (host, process 4711)"

  // All ranks make these calls in the same order; each waits for the others.
  std::vector<std::string> all_gather(const std::string& text) const;  // everybody's, by rank
  std::string broadcast(const std::string& text) const;                // rank 0's
  void barrier() const { all_gather(""); }
  // Runs the body on all ranks at once, or on rank 0 alone; if it throws anywhere, Error is thrown everywhere, naming
  // the rank.
  void together(const std::function<void()>& body) const;
  void on_root(const std::function<void()>& body) const;

  bool told() const;  // whether that has happened: then all know, and end by themselves

  // From now on the run also ends if for `timeout` seconds no process' count goes up; those with the lowest are named.
  // `progress` is this one's.
  void watch(std::shared_ptr<const std::atomic<int64_t>> progress, double timeout) const;
  // The end of the run in every process, for this reason. Does not return.
  [[noreturn]] void end(const std::string& reason, int exit_code) const;

 private:
  struct Impl;
  GroupConfig config_;
  std::unique_ptr<Impl> impl_;  // null: alone
};
