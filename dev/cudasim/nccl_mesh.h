// The connections between the ranks of a communicator: how the processes find each other and exchange bytes. nccl.cpp
// decides what is exchanged. Byte order and layout are those of the machine: all ranks run the same program.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

namespace cudasim {

std::string seconds_text(double seconds);  // "60 s"

// A file descriptor with an owner.
class Socket {
 public:
  explicit Socket(int fd = -1) : fd_(fd) {}
  Socket(Socket&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
  Socket& operator=(Socket&& other) noexcept {
    std::swap(fd_, other.fd_);
    return *this;
  }
  ~Socket();
  int fd() const { return fd_; }

 private:
  int fd_;
};

// Bytes to one rank and bytes from it.
struct Transfer {
  const void* send = nullptr;
  size_t send_bytes = 0;
  void* receive = nullptr;
  size_t receive_bytes = 0;
};

struct Outcome {
  enum Kind { done, gone, silent, interrupted } kind = done;
  int rank = 0;  // the rank that has gone or is silent
};

class Mesh {
 public:
  explicit Mesh(int ranks);

  // Does all transfers at once, transfers[r] with rank r (not with this rank itself), so that no order of sending and
  // receiving can block. silent: nothing moved for `timeout` seconds.
  Outcome exchange(std::vector<Transfer> transfers, double timeout) const;

  // Whether any rank has sent something that was not received yet, or has gone; waits for it up to `milliseconds`.
  bool has_news(int milliseconds) const;

  void hang_up() const;    // the other ranks see this one as gone after receiving all it sent
  void interrupt() const;  // from any thread: the waiting exchange() returns, and so do all later ones

 private:
  friend std::unique_ptr<Mesh> join_meeting(const struct Meeting&, int, int, double);
  std::vector<Socket> sockets_;  // [rank]; this rank's own is closed
  Socket wake_;                  // an eventfd
};

// Where the ranks of a communicator first meet; passed on as the unique id.
struct Meeting {
  char tag[8] = {};
  uint64_t magic = 0;              // random: a guest that does not know it is sent away
  uint32_t address = 0, port = 0;  // IPv4, in the network's order; in the machine's
};

// Listens at `address` (of this machine: a name or numbers) and serves the meeting on its own thread. Throws
// std::runtime_error.
Meeting open_meeting(const std::string& address, double timeout);
bool is_meeting(const Meeting& meeting);

// Joins the meeting as one of `ranks`, and returns when it is connected with all others. Throws std::runtime_error,
// also when that takes more than `timeout` seconds.
std::unique_ptr<Mesh> join_meeting(const Meeting& meeting, int ranks, int rank, double timeout);

}  // namespace cudasim
