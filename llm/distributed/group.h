// The processes of a run as a group: rendezvous, messages, and failing together. Comm (comm.h) moves the numbers;
// nothing here depends on how.
//
// Every rank keeps two connections to rank 0: one for messages, and one for a sign of life every second. A connection
// that ends, or silence for kSilence, ends the run in every process, with a message that names the rank.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

inline constexpr int kExitLost = 75;         // the exit code of a run that lost a process: it can be started again
inline constexpr double kSilence = 15;       // seconds without a sign of life after which a process counts as gone
inline constexpr double kJoinTimeout = 120;  // seconds within which all ranks must join

struct GroupConfig {
  int rank = 0, size = 1, local_rank = 0, local_size = 1;
  std::vector<std::string> addresses;  // rank 0's names or numbers, tried in turn
  int port = 0;                        // 0, only at rank 0: any free port
  std::string token;
  double join_timeout = kJoinTimeout;
};

class Group {
 public:
  // Throws Error: a port in use, no rank 0 at the address, ranks that do not join in time, a different size or token.
  // `listening(port)` is called at rank 0, once others can connect.
  explicit Group(
      const GroupConfig& config, const std::function<void(int port)>& listening = [](int) {});
  ~Group();  // leaves: from then on the others' failures do not affect this process
  Group(const Group&) = delete;
  Group& operator=(const Group&) = delete;

  int rank() const { return config_.rank; }
  int size() const { return config_.size; }
  int local_rank() const { return config_.local_rank; }
  int local_size() const { return config_.local_size; }
  std::string name(int rank) const;  // "rank 2 (host, process 4711)"

  // All ranks make these calls in the same order; each waits for the others.
  std::vector<std::string> all_gather(const std::string& text) const;  // every rank's text, by rank
  std::string broadcast(const std::string& text) const;                // rank 0's text
  void barrier() const { all_gather(""); }
  // Runs the body on all ranks at once, or only on rank 0; if it throws anywhere, Error is thrown everywhere, naming
  // the rank.
  void together(const std::function<void()>& body) const;
  void on_root(const std::function<void()>& body) const;

  bool told() const;  // whether that has happened: then all ranks know, and end by themselves

  // From now on the run also ends if no process's count increases for `timeout` seconds; the processes with the lowest
  // count are named. `progress` is this process's count.
  void watch(std::shared_ptr<const std::atomic<int64_t>> progress, double timeout) const;
  // Ends the run in every process, for this reason. Does not return.
  [[noreturn]] void end(const std::string& reason, int exit_code) const;

 private:
  struct Impl;
  GroupConfig config_;
  std::unique_ptr<Impl> impl_;  // null: a single process
};
