// Each rank first connects to the meeting and sends its rank and the port it listens at. When all have arrived, each is
// sent the addresses of all, connects to the ranks below it, and waits for those above it.
#include "dev/cudasim/nccl_mesh.h"

#include <arpa/inet.h>
#include <netdb.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <optional>
#include <stdexcept>
#include <thread>

namespace cudasim {

namespace {

using Clock = std::chrono::steady_clock;
using Time = Clock::time_point;

constexpr char kTag[8] = "cudasim";

Time after(double seconds) { return Clock::now() + std::chrono::milliseconds(static_cast<int64_t>(seconds * 1000)); }

// For poll(): until `deadline`, in slices.
int milliseconds_until(Time deadline) {
  const auto left = std::chrono::ceil<std::chrono::milliseconds>(deadline - Clock::now()).count();
  return static_cast<int>(std::clamp<int64_t>(left, 0, 60'000));
}

[[noreturn]] void fail(const std::string& what) { throw std::runtime_error(what + ": " + std::strerror(errno)); }

sockaddr_in socket_address(uint32_t address, uint32_t port) {
  sockaddr_in to = {};
  to.sin_family = AF_INET;
  to.sin_addr.s_addr = address;
  to.sin_port = htons(static_cast<uint16_t>(port));
  return to;
}

std::string address_text(uint32_t address, uint32_t port) {
  char text[INET_ADDRSTRLEN];
  const in_addr in = {address};
  inet_ntop(AF_INET, &in, text, sizeof text);
  return std::string(text) + ":" + std::to_string(port);
}

using GetName = int (*)(int, sockaddr*, socklen_t*);  // getsockname, getpeername
sockaddr_in end_of(const Socket& socket, GetName get_name) {
  sockaddr_in end = {};
  socklen_t size = sizeof end;
  if (get_name(socket.fd(), reinterpret_cast<sockaddr*>(&end), &size) != 0) fail("a socket's address");
  return end;
}

void send_at_once(const Socket& socket) {  // small messages do not wait for more
  const int on = 1;
  setsockopt(socket.fd(), IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
}

// Retries until the deadline: the listener may be late.
Socket connect_to(uint32_t address, uint32_t port, Time deadline) {
  const sockaddr_in to = socket_address(address, port);
  for (;;) {
    Socket socket(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
    if (socket.fd() < 0) fail("a socket");
    int error = 0;
    if (connect(socket.fd(), reinterpret_cast<const sockaddr*>(&to), sizeof to) != 0) error = errno;
    if (error == EINPROGRESS) {
      pollfd wait = {socket.fd(), POLLOUT, 0};
      socklen_t size = sizeof error;
      error = ETIMEDOUT;
      if (poll(&wait, 1, milliseconds_until(deadline)) > 0)
        getsockopt(socket.fd(), SOL_SOCKET, SO_ERROR, &error, &size);
    }
    if (error == 0) {
      send_at_once(socket);
      return socket;
    }
    if (Clock::now() >= deadline) {
      errno = error;
      fail("no connection to " + address_text(address, port));
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
  }
}

// ---- bytes ---------------------------------------------------------------------------------------------------------

// Moves as much as possible without waiting; false: the other end has gone. Bytes that it sent before that are received
// first.
bool move_bytes(const Socket& socket, Transfer& transfer, bool& moved) {
  bool can_send = true;
  while (transfer.send_bytes > 0) {
    const ssize_t n = send(socket.fd(), transfer.send, transfer.send_bytes, MSG_NOSIGNAL);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) {
      can_send = errno == EAGAIN || errno == EWOULDBLOCK;
      break;
    }
    transfer.send = static_cast<const char*>(transfer.send) + n;
    transfer.send_bytes -= static_cast<size_t>(n);
    moved = true;
  }
  while (transfer.receive_bytes > 0) {
    const ssize_t n = recv(socket.fd(), transfer.receive, transfer.receive_bytes, 0);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) break;
    if (n <= 0) return false;
    transfer.receive = static_cast<char*>(transfer.receive) + n;
    transfer.receive_bytes -= static_cast<size_t>(n);
    moved = true;
  }
  return can_send;
}

// wake: exchange ends when this can be read; -1: never.
Outcome exchange_with(const std::vector<Socket>& sockets, std::vector<Transfer>& transfers, int wake, double timeout) {
  Time deadline = after(timeout);
  for (;;) {
    bool moved = false;
    std::vector<pollfd> waits = {{wake, POLLIN, 0}};
    Outcome outcome;
    int pending = -1;
    for (size_t r = 0; r < transfers.size(); ++r) {
      Transfer& transfer = transfers[r];
      if (sockets[r].fd() < 0) continue;
      if (!move_bytes(sockets[r], transfer, moved) && outcome.kind == Outcome::done)
        outcome = {Outcome::gone, static_cast<int>(r)};  // but the others still get what they can
      const int events = (transfer.send_bytes > 0 ? POLLOUT : 0) | (transfer.receive_bytes > 0 ? POLLIN : 0);
      if (events == 0) continue;
      waits.push_back({sockets[r].fd(), static_cast<short>(events), 0});
      if (pending < 0 || (transfers[static_cast<size_t>(pending)].receive_bytes == 0 && transfer.receive_bytes > 0))
        pending = static_cast<int>(r);
    }
    if (outcome.kind != Outcome::done || pending < 0) return outcome;
    if (moved) deadline = after(timeout);
    const int ready = poll(waits.data(), waits.size(), milliseconds_until(deadline));
    if (waits[0].revents != 0) return {Outcome::interrupted, 0};
    if (ready <= 0 && Clock::now() >= deadline) return {Outcome::silent, pending};
  }
}

// With one socket; false: gone or silent.
bool send_all(const std::vector<Socket>& socket, const void* data, size_t bytes, double timeout) {
  std::vector<Transfer> transfers = {{data, bytes, nullptr, 0}};
  return exchange_with(socket, transfers, -1, timeout).kind == Outcome::done;
}
Outcome::Kind receive_all(const std::vector<Socket>& socket, void* data, size_t bytes, double timeout) {
  std::vector<Transfer> transfers = {{nullptr, 0, data, bytes}};
  return exchange_with(socket, transfers, -1, timeout).kind;
}

// ---- arrivals -------------------------------------------------------------------------------------------------------

struct Hello {
  uint64_t magic;
  int32_t ranks, rank;
  uint64_t port;  // where the rank listens
};

struct Guest {
  Socket socket;
  Hello hello = {};
  size_t read = 0;  // bytes of the hello received so far
};

// A guest that knows the magic may enter. Others are sent away, and one that sends nothing keeps no other waiting.
class Door {
 public:
  Door(uint32_t address, uint64_t magic)
      : magic_(magic), listener_(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0)) {
    const sockaddr_in at = socket_address(address, 0);  // any free port
    if (listener_.fd() < 0 || bind(listener_.fd(), reinterpret_cast<const sockaddr*>(&at), sizeof at) != 0 ||
        listen(listener_.fd(), SOMAXCONN) != 0)
      fail("cannot listen at " + address_text(address, 0));
  }
  uint32_t port() const { return ntohs(end_of(listener_, getsockname).sin_port); }

  // The next guest; none by the deadline.
  std::optional<Guest> next(Time deadline) {
    for (;;) {
      for (size_t i = 0; i < guests_.size(); ++i) {
        Guest& guest = guests_[i];
        Transfer rest = {nullptr, 0, reinterpret_cast<char*>(&guest.hello) + guest.read, sizeof(Hello) - guest.read};
        bool moved = false;
        const bool there = move_bytes(guest.socket, rest, moved);
        guest.read = sizeof(Hello) - rest.receive_bytes;
        if (there && guest.read < sizeof(Hello)) continue;
        Guest ready = std::move(guest);
        guests_.erase(guests_.begin() + static_cast<ptrdiff_t>(i--));
        if (there && ready.hello.magic == magic_) return ready;
      }
      std::vector<pollfd> waits = {{listener_.fd(), POLLIN, 0}};
      for (const Guest& guest : guests_) waits.push_back({guest.socket.fd(), POLLIN, 0});
      if (poll(waits.data(), waits.size(), milliseconds_until(deadline)) <= 0 && Clock::now() >= deadline) return {};
      if (waits[0].revents == 0) continue;
      Socket socket(accept4(listener_.fd(), nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC));
      if (socket.fd() < 0) {
        std::this_thread::sleep_for(std::chrono::milliseconds(20));  // no descriptor is free, perhaps only for now
        continue;
      }
      send_at_once(socket);
      guests_.push_back({std::move(socket)});
    }
  }

 private:
  uint64_t magic_;
  Socket listener_;
  std::vector<Guest> guests_;  // have not sent all of their hello
};

// ---- the meeting ---------------------------------------------------------------------------------------------------

struct Listener {
  uint32_t address, port;
};

// Each guest is sent 0 and the table of all, or the length of a text that explains the refusal, and the text.
void answer(std::vector<Guest>& guests, const std::string& refusal, const std::vector<Listener>& table) {
  for (Guest& guest : guests) {
    const uint64_t length = refusal.size();
    std::string bytes(reinterpret_cast<const char*>(&length), sizeof length);
    bytes += refusal;
    bytes.append(reinterpret_cast<const char*>(table.data()), table.size() * sizeof(Listener));
    std::vector<Socket> socket;
    socket.push_back(std::move(guest.socket));
    send_all(socket, bytes.data(), bytes.size(), 1);
  }
}

void serve_meeting(Door door, double timeout) {
  std::vector<Guest> guests;
  int ranks = 0;  // the first to arrive tells how many
  Time deadline;
  const auto present = [&](int rank) {
    return std::any_of(guests.begin(), guests.end(), [&](const Guest& guest) { return guest.hello.rank == rank; });
  };
  std::string refusal;
  while (refusal.empty() && (ranks == 0 || static_cast<int>(guests.size()) < ranks)) {
    std::optional<Guest> guest = door.next(ranks == 0 ? after(60) : deadline);
    if (!guest && ranks == 0) continue;
    if (!guest) {
      for (int rank = 0; rank < ranks; ++rank) {
        if (!present(rank)) refusal += (refusal.empty() ? "rank " : ", ") + std::to_string(rank);
      }
      refusal += " of " + std::to_string(ranks) + " did not arrive within " + seconds_text(timeout);
      break;
    }
    const Hello hello = guest->hello;
    if (ranks == 0) {
      ranks = hello.ranks;
      deadline = after(timeout);
    } else if (hello.ranks != ranks) {
      refusal = "rank " + std::to_string(hello.rank) + " says nranks " + std::to_string(hello.ranks) + ", rank " +
                std::to_string(guests[0].hello.rank) + " " + std::to_string(ranks);
    } else if (present(hello.rank)) {
      refusal = "two processes claim to be rank " + std::to_string(hello.rank);
    }
    guests.push_back(std::move(*guest));
  }
  // Rank 0 last: it is usually in this process, which may end once it knows.
  std::sort(guests.begin(), guests.end(), [](const Guest& a, const Guest& b) { return a.hello.rank > b.hello.rank; });
  std::vector<Listener> table;
  if (refusal.empty()) {
    table.resize(guests.size());
    for (const Guest& guest : guests) {
      table[static_cast<size_t>(guest.hello.rank)] = {end_of(guest.socket, getpeername).sin_addr.s_addr,
                                                      static_cast<uint32_t>(guest.hello.port)};
    }
  }
  answer(guests, refusal, table);
}

}  // namespace

std::string seconds_text(double seconds) {
  std::string text = std::to_string(seconds);
  text.erase(text.find_last_not_of('0') + 1);
  if (text.back() == '.') text.pop_back();
  return text + " s";
}

Socket::~Socket() {
  if (fd_ >= 0) close(fd_);
}

Meeting open_meeting(const std::string& address, double timeout) {
  addrinfo wanted = {}, *found = nullptr;
  wanted.ai_family = AF_INET;
  wanted.ai_socktype = SOCK_STREAM;
  if (const int error = getaddrinfo(address.c_str(), nullptr, &wanted, &found); error != 0)
    throw std::runtime_error("CUDASIM_NCCL_ADDR=" + address + ": " + gai_strerror(error));
  Meeting meeting;
  std::memcpy(meeting.tag, kTag, sizeof kTag);
  meeting.address = reinterpret_cast<const sockaddr_in*>(found->ai_addr)->sin_addr.s_addr;
  freeaddrinfo(found);
  if (getrandom(&meeting.magic, sizeof meeting.magic, 0) != sizeof meeting.magic) fail("no random number");
  Door door(meeting.address, meeting.magic);
  meeting.port = door.port();
  std::thread(serve_meeting, std::move(door), timeout).detach();
  return meeting;
}

bool is_meeting(const Meeting& meeting) { return std::memcmp(meeting.tag, kTag, sizeof kTag) == 0; }

std::unique_ptr<Mesh> join_meeting(const Meeting& meeting, int ranks, int rank, double timeout) {
  const Time deadline = after(timeout);
  const std::string host = "the process of ncclGetUniqueId at " + address_text(meeting.address, meeting.port);
  std::vector<Socket> at_meeting;
  at_meeting.push_back(connect_to(meeting.address, meeting.port, deadline));
  Door door(end_of(at_meeting[0], getsockname).sin_addr.s_addr, meeting.magic);  // where the meeting can reach us
  Hello hello = {meeting.magic, ranks, rank, door.port()};
  send_all(at_meeting, &hello, sizeof hello, timeout);
  // The meeting gives up after the same time and knows who is missing: leave it time to report that.
  const double patience = timeout + 5;
  uint64_t length = 0;
  Outcome::Kind heard = receive_all(at_meeting, &length, sizeof length, patience);
  std::string refusal(std::min<uint64_t>(length, 4096), ' ');
  if (heard == Outcome::done) heard = receive_all(at_meeting, refusal.data(), refusal.size(), patience);
  if (heard == Outcome::done && length > 0) throw std::runtime_error(refusal);
  std::vector<Listener> table(static_cast<size_t>(ranks));
  if (heard == Outcome::done) heard = receive_all(at_meeting, table.data(), table.size() * sizeof(Listener), patience);
  if (heard == Outcome::gone) throw std::runtime_error(host + " has gone, or accepts no more ranks");
  if (heard != Outcome::done) throw std::runtime_error(host + " is silent for " + seconds_text(patience));

  auto mesh = std::make_unique<Mesh>(ranks);
  const Time met = after(timeout);  // all have arrived, so this is quick
  for (int other = 0; other < rank; ++other) {
    const Listener& at = table[static_cast<size_t>(other)];
    std::vector<Socket> socket;
    socket.push_back(connect_to(at.address, at.port, met));
    if (!send_all(socket, &hello, sizeof hello, timeout))
      throw std::runtime_error("rank " + std::to_string(other) + " has gone");
    mesh->sockets_[static_cast<size_t>(other)] = std::move(socket[0]);
  }
  for (int missing = ranks - 1 - rank; missing > 0;) {
    std::optional<Guest> guest = door.next(met);
    if (!guest)
      throw std::runtime_error("ranks above " + std::to_string(rank) + " did not connect within " +
                               seconds_text(timeout));
    if (guest->hello.rank <= rank || guest->hello.rank >= ranks) continue;
    Socket& socket = mesh->sockets_[static_cast<size_t>(guest->hello.rank)];
    if (socket.fd() >= 0) continue;
    socket = std::move(guest->socket);
    --missing;
  }
  return mesh;
}

// ---- the mesh ------------------------------------------------------------------------------------------------------

Mesh::Mesh(int ranks) : sockets_(static_cast<size_t>(ranks)), wake_(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)) {}

Outcome Mesh::exchange(std::vector<Transfer> transfers, double timeout) const {
  return exchange_with(sockets_, transfers, wake_.fd(), timeout);
}

bool Mesh::has_news(int milliseconds) const {
  std::vector<pollfd> waits;
  for (const Socket& socket : sockets_) {
    if (socket.fd() >= 0) waits.push_back({socket.fd(), POLLIN, 0});
  }
  return poll(waits.data(), waits.size(), milliseconds) > 0;
}

// Not close(): with unread bytes it would discard what the others have not received yet.
void Mesh::hang_up() const {
  for (const Socket& socket : sockets_) {
    if (socket.fd() >= 0) shutdown(socket.fd(), SHUT_WR);
  }
}

void Mesh::interrupt() const {
  const uint64_t one = 1;
  [[maybe_unused]] const ssize_t written = write(wake_.fd(), &one, sizeof one);
}

}  // namespace cudasim
