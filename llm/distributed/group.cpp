#include "llm/distributed/group.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <mutex>
#include <nlohmann/json.hpp>
#include <optional>
#include <thread>
#include <utility>

#include "llm/support/error.h"

using nlohmann::json;

namespace {

// The first bytes of every connection; the digits are the protocol's version.
constexpr char kMagic[] = "wrought1";
constexpr size_t kMagicBytes = sizeof kMagic - 1, kHelloLimit = 4096;
constexpr double kHelloSeconds = 5;  // within which a new connection must identify itself

double now() { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); }

std::string host_name() {
  char name[256] = "";
  ::gethostname(name, sizeof name - 1);
  return name;
}

// ---- sockets -------------------------------------------------------------------------------------------------------

class Socket {
 public:
  Socket() = default;
  explicit Socket(int fd) : fd_(fd) {}
  ~Socket() {
    if (fd_ >= 0) ::close(fd_);
  }
  Socket(Socket&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
  Socket& operator=(Socket&& other) noexcept {
    std::swap(fd_, other.fd_);
    return *this;
  }
  int fd() const { return fd_; }

  // Both return false once the other side has gone.
  bool send(const void* data, size_t size) const {
    const char* from = static_cast<const char*>(data);
    while (size > 0) {
      const ssize_t n = ::send(fd_, from, size, MSG_NOSIGNAL);
      if (n < 0 && errno == EINTR) continue;
      if (n <= 0) return false;
      from += n;
      size -= static_cast<size_t>(n);
    }
    return true;
  }
  bool receive(void* data, size_t size) const {
    char* to = static_cast<char*>(data);
    while (size > 0) {
      const ssize_t n = ::recv(fd_, to, size, 0);
      if (n < 0 && errno == EINTR) continue;
      if (n <= 0) return false;
      to += n;
      size -= static_cast<size_t>(n);
    }
    return true;
  }
  // Text, preceded by its length.
  bool send_text(const std::string& text) const {
    const uint64_t length = text.size();
    std::string all(reinterpret_cast<const char*>(&length), sizeof length);
    return send((all + text).data(), sizeof length + text.size());
  }
  bool receive_text(std::string& text, size_t limit = size_t{1} << 32) const {
    uint64_t length = 0;
    if (!receive(&length, sizeof length) || length > limit) return false;
    text.resize(length);
    return receive(text.data(), length);
  }
  void at_once() const {  // small messages are not delayed
    const int on = 1;
    ::setsockopt(fd_, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
  }
  void receive_timeout(double seconds) const {
    const timeval time{static_cast<time_t>(seconds), 0};
    ::setsockopt(fd_, SOL_SOCKET, SO_RCVTIMEO, &time, sizeof time);
  }

 private:
  int fd_ = -1;
};

Socket listen_on(int port, int& bound) {
  Socket listener(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  const int on = 1;
  ::setsockopt(listener.fd(), SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_ANY);
  address.sin_port = htons(static_cast<uint16_t>(port));
  if (::bind(listener.fd(), reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0 ||
      ::listen(listener.fd(), 4096) != 0) {
    fail("rank 0 cannot listen on port %d of %s: %s; is another run there? Choose another MASTER_PORT", port,
         host_name().c_str(), std::strerror(errno));
  }
  socklen_t size = sizeof address;
  ::getsockname(listener.fd(), reinterpret_cast<sockaddr*>(&address), &size);
  bound = ntohs(address.sin_port);
  return listener;
}

// One attempt at one address; `why` it failed, if it did.
std::optional<Socket> try_connect(const std::string& host, int port, double seconds, std::string& why) {
  addrinfo hints{}, *found = nullptr;
  hints.ai_family = AF_INET;
  hints.ai_socktype = SOCK_STREAM;
  if (const int status = ::getaddrinfo(host.c_str(), std::to_string(port).c_str(), &hints, &found); status != 0) {
    why = ::gai_strerror(status);
    return std::nullopt;
  }
  const std::unique_ptr<addrinfo, void (*)(addrinfo*)> owner(found, ::freeaddrinfo);
  Socket socket(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  int error = ::connect(socket.fd(), found->ai_addr, found->ai_addrlen) == 0 ? 0 : errno;
  if (error == EINPROGRESS) {
    pollfd wait{socket.fd(), POLLOUT, 0};
    error = ETIMEDOUT;
    if (::poll(&wait, 1, static_cast<int>(seconds * 1000)) == 1) {
      socklen_t size = sizeof error;
      ::getsockopt(socket.fd(), SOL_SOCKET, SO_ERROR, &error, &size);
    }
  }
  if (error != 0) {
    why = std::strerror(error);
    return std::nullopt;
  }
  const int flags = 0;  // blocking again
  ::fcntl(socket.fd(), F_SETFL, flags);
  socket.at_once();
  return socket;
}

std::string peer_name(int fd) {
  sockaddr_in address{};
  socklen_t size = sizeof address;
  char text[INET_ADDRSTRLEN] = "?";
  if (::getpeername(fd, reinterpret_cast<sockaddr*>(&address), &size) == 0) {
    ::inet_ntop(AF_INET, &address.sin_addr, text, sizeof text);
  }
  return strprintf("%s:%d", text, ntohs(address.sin_port));
}

}  // namespace

// ---- joining -------------------------------------------------------------------------------------------------------

namespace {

// A connection to rank 0, until it is identified as one of the ranks or refused.
struct Caller {
  Socket socket;
  std::string said, refusal;  // received so far; why it is not one of the ranks
  double since = now();
  bool joined = false;  // it is one of the ranks: its socket has its place

  explicit Caller(Socket connected) : socket(std::move(connected)) {}

  void read() {
    char bytes[1024];
    const ssize_t got = ::recv(socket.fd(), bytes, sizeof bytes, MSG_DONTWAIT);
    if (got > 0) said.append(bytes, static_cast<size_t>(got));
    if (got == 0 || (got < 0 && errno != EAGAIN && errno != EINTR)) refusal = "it hung up";
  }

  // The hello that connect() sends, once it is complete.
  std::optional<json> hello() {
    const size_t head = kMagicBytes + sizeof(uint64_t);
    if (!refusal.empty()) return std::nullopt;
    if (said.compare(0, kMagicBytes, kMagic, std::min(kMagicBytes, said.size())) != 0) {
      refusal = "it is not a process of wrought, or one of another version";
    }
    if (!refusal.empty() || said.size() < head) return std::nullopt;
    uint64_t length = 0;
    std::memcpy(&length, said.data() + kMagicBytes, sizeof length);
    if (length > kHelloLimit || said.size() > head + length) refusal = "its hello is not that of a rank";
    if (!refusal.empty() || said.size() < head + length) return std::nullopt;
    return json::parse(said.substr(head), nullptr, false);
  }

  void expire() {
    if (refusal.empty() && !joined && now() - since > kHelloSeconds) refusal = "it did not identify itself";
  }

  void refuse() const {
    std::fprintf(stderr, "rank 0: refused a connection from %s: %s\n", peer_name(socket.fd()).c_str(), refusal.c_str());
    socket.send_text(refusal);
  }
};

}  // namespace

struct Group::Impl {
  struct Member {
    std::string host;
    int64_t pid = 0;
  };
  std::vector<Member> members;
  std::vector<Socket> words, signs;  // at rank 0: by rank; else [0]: to rank 0
  std::thread watcher;
  std::atomic<bool> leaving{false};
  bool told = false;
  std::atomic<std::shared_ptr<const std::atomic<int64_t>>> progress;
  std::atomic<double> timeout{0};
  std::mutex signs_mutex;  // for sending

  std::string name(int rank) const {
    const Member& m = members[static_cast<size_t>(rank)];
    return strprintf("rank %d (%s, process %lld)", rank, m.host.c_str(), static_cast<long long>(m.pid));
  }

  void accept_all(const GroupConfig& c, const std::function<void(int)>& listening);
  void greet(const GroupConfig& c, Caller& caller);
  std::string refusal_of(const GroupConfig& c, const json& hello) const;
  std::string missing_ranks() const;  // " 1 3"
  void connect(const GroupConfig& c);
  void watch_others(const GroupConfig& c);
  void watch_root(const GroupConfig& c);
  void leave(const GroupConfig& c);
  void send_sign(const Socket& socket, char kind, const std::string& text) {
    const std::lock_guard lock(signs_mutex);
    socket.send_text(std::string(1, kind) + text);
  }
  // Prints the reason, sends it to all others from rank 0, and ends the process.
  [[noreturn]] void finish(const GroupConfig& c, const std::string& reason, int exit_code) {
    if (c.rank == 0) {
      for (size_t r = 1; r < signs.size(); ++r) {
        if (signs[r].fd() >= 0) send_sign(signs[r], 'X', strprintf("%03d", exit_code) + reason);
      }
    }
    std::fflush(stdout);
    std::fprintf(stderr, "\nerror: %s%s\n", c.rank == 0 ? "" : strprintf("rank %d ends: ", c.rank).c_str(),
                 spell_settings(reason).c_str());
    std::fflush(stderr);
    ::_exit(exit_code);
  }
};

// Rank 0 reads from every connection, also from strangers, until all ranks have joined.
void Group::Impl::accept_all(const GroupConfig& c, const std::function<void(int)>& listening) {
  const size_t n = static_cast<size_t>(c.size);
  words.resize(n);
  signs.resize(n);
  members.resize(n);
  members[0] = {host_name(), ::getpid()};
  int port = 0;
  const Socket listener = listen_on(c.port, port);
  listening(port);

  std::vector<Caller> callers;
  const double deadline = now() + c.join_timeout;
  for (std::string missing = missing_ranks(); !missing.empty(); missing = missing_ranks()) {
    if (now() > deadline) {
      fail(
          "rank 0 on %s waited %.0f s at port %d, and of %d processes these did not join: rank%s; were they started, "
          "with this MASTER_ADDR and MASTER_PORT, and can they reach this machine?",
          host_name().c_str(), c.join_timeout, port, c.size, missing.c_str());
    }
    std::vector<pollfd> polled{{listener.fd(), POLLIN, 0}};
    for (const Caller& caller : callers) polled.push_back({caller.socket.fd(), POLLIN, 0});
    ::poll(polled.data(), polled.size(), 200);
    for (size_t i = 0; i < callers.size(); ++i) {
      Caller& caller = callers[i];
      if (polled[i + 1].revents != 0) caller.read();
      greet(c, caller);
      caller.expire();
      if (!caller.refusal.empty()) caller.refuse();
    }
    std::erase_if(callers, [](const Caller& caller) { return caller.joined || !caller.refusal.empty(); });
    if (polled[0].revents & POLLIN) {
      Socket socket(::accept4(listener.fd(), nullptr, nullptr, SOCK_CLOEXEC));
      if (socket.fd() >= 0) callers.emplace_back(std::move(socket));
    }
  }
}

// Gives a caller with a complete hello its place among the ranks, or the reason for refusing it.
void Group::Impl::greet(const GroupConfig& c, Caller& caller) {
  const std::optional<json> hello = caller.hello();
  if (!hello) return;
  caller.refusal = refusal_of(c, *hello);
  if (!caller.refusal.empty()) return;
  const size_t rank = (*hello)["rank"];
  members[rank] = {(*hello)["host"], (*hello)["pid"]};
  caller.socket.at_once();
  caller.socket.send_text("");
  ((*hello)["for"] == "words" ? words : signs)[rank] = std::move(caller.socket);
  caller.joined = true;
}

// What is wrong with a hello; empty if nothing is.
std::string Group::Impl::refusal_of(const GroupConfig& c, const json& hello) const {
  for (const char* name : {"rank", "size", "pid"}) {
    if (!hello.is_object() || !hello.contains(name) || !hello[name].is_number_integer())
      return "its hello is not that of a rank";
  }
  for (const char* name : {"token", "host", "for"}) {
    if (!hello.contains(name) || !hello[name].is_string()) return "its hello is not that of a rank";
  }
  const int64_t rank = hello["rank"], size = hello["size"];
  if (hello["token"] != c.token) {
    return "its WROUGHT_TOKEN is not rank 0's: it belongs to another run, or to an earlier one";
  }
  if (size != c.size) {
    return strprintf("its WORLD_SIZE is %lld, rank 0 has %d", static_cast<long long>(size), c.size);
  }
  if (rank < 1 || rank >= c.size)
    return strprintf("rank %lld is not one of those to join", static_cast<long long>(rank));
  const std::vector<Socket>& place = hello["for"] == "words" ? words : signs;
  if (place[static_cast<size_t>(rank)].fd() >= 0) {
    return strprintf("rank %lld has already joined: two processes have the same RANK", static_cast<long long>(rank));
  }
  return "";
}

std::string Group::Impl::missing_ranks() const {
  std::string missing;
  for (size_t r = 1; r < words.size(); ++r) {
    if (words[r].fd() < 0 || signs[r].fd() < 0) missing += strprintf(" %zu", r);
  }
  return missing;
}

void Group::Impl::connect(const GroupConfig& c) {
  const double deadline = now() + c.join_timeout;
  for (std::vector<Socket>* sockets : {&words, &signs}) {
    std::string why = "no address";
    std::optional<Socket> socket;
    while (!socket) {
      for (const std::string& address : c.addresses) {
        if (now() > deadline) {
          fail(
              "rank %d on %s got no answer at %s port %d in %.0f s (%s): does rank 0 run there? MASTER_ADDR and "
              "MASTER_PORT say where",
              c.rank, host_name().c_str(), address.c_str(), c.port, c.join_timeout, why.c_str());
        }
        socket = try_connect(address, c.port, 2, why);
        if (!socket) continue;
        const json hello{{"rank", c.rank},      {"size", c.size},    {"token", c.token},
                         {"host", host_name()}, {"pid", ::getpid()}, {"for", sockets == &words ? "words" : "signs"}};
        std::string answer;
        socket->receive_timeout(std::max(1.0, deadline - now()));
        if (!socket->send(kMagic, kMagicBytes) || !socket->send_text(hello.dump()) ||
            !socket->receive_text(answer, kHelloLimit)) {
          why = "it hung up";  // another program's port, or rank 0 is about to end
          socket.reset();
          continue;
        }
        if (!answer.empty()) {
          fail("rank 0 at %s port %d refused rank %d: %s", address.c_str(), c.port, c.rank, answer.c_str());
        }
        break;
      }
      if (!socket) std::this_thread::sleep_for(std::chrono::milliseconds(100));
    }
    socket->receive_timeout(0);
    sockets->push_back(std::move(*socket));
  }
}

// ---- signs of life -------------------------------------------------------------------------------------------------

namespace {

// A process that was itself asleep (stopped, or its machine was paused) has received nothing meanwhile, which does not
// mean that others have gone. Called at each turn of a loop that takes 0.2 s: how long this process was away.
class Absence {
 public:
  double seconds() {
    const double before = std::exchange(last_, now());
    return last_ - before > 2 ? last_ - before : 0;
  }

 private:
  double last_ = now();
};

}  // namespace

void Group::Impl::watch_others(const GroupConfig& c) {
  struct Sign {
    double heard;
    int64_t progress = 0;
    bool left = false;
  };
  std::vector<Sign> signs_of(signs.size(), Sign{now()});
  int64_t last_sum = -1;
  double moved = now(), sent = 0;
  Absence absence;
  while (!leaving) {
    const double away = absence.seconds();
    for (Sign& sign : signs_of) sign.heard += away;
    moved += away;
    std::vector<pollfd> polled;
    std::vector<size_t> rank_of;
    for (size_t r = 1; r < signs.size(); ++r) {
      if (signs_of[r].left) continue;
      polled.push_back({signs[r].fd(), POLLIN, 0});
      rank_of.push_back(r);
    }
    if (polled.empty()) return;
    ::poll(polled.data(), polled.size(), 200);
    for (size_t i = 0; i < polled.size(); ++i) {
      const size_t r = rank_of[i];
      Sign& sign = signs_of[r];
      if (polled[i].revents != 0) {
        std::string text;
        if (!signs[r].receive_text(text, 1 << 20) || text.empty()) {
          if (leaving) return;
          finish(c, name(static_cast<int>(r)) + " has gone", kExitLost);
        }
        sign.heard = now();
        if (text[0] == 'B') sign.left = true;
        if (text[0] == 'E')
          finish(c, name(static_cast<int>(r)) + ": " + text.substr(4), std::atoi(text.substr(1, 3).c_str()));
        if (text[0] == 'S')
          std::memcpy(&sign.progress, text.data() + 1, std::min(sizeof sign.progress, text.size() - 1));
      }
      if (!sign.left && now() - sign.heard > kSilence) {
        finish(c,
               strprintf("%s gave no sign of life for %.0f s: its machine or the network is down, or it was stopped",
                         name(static_cast<int>(r)).c_str(), kSilence),
               kExitLost);
      }
    }
    if (now() - sent > 1) {
      sent = now();
      for (size_t r = 1; r < signs.size(); ++r) {
        if (!signs_of[r].left) send_sign(signs[r], 'S', "");
      }
    }
    const std::shared_ptr<const std::atomic<int64_t>> own = progress.load();
    if (!own) continue;
    signs_of[0].progress = own->load();
    int64_t sum = 0, least = signs_of[0].progress, most = least;
    for (const Sign& sign : signs_of) {
      sum += sign.progress;
      least = std::min(least, sign.progress);
      most = std::max(most, sign.progress);
    }
    if (sum != last_sum) {
      last_sum = sum;
      moved = now();
    } else if (now() - moved > timeout) {
      std::string who;
      for (size_t r = 0; r < signs_of.size() && least < most; ++r) {
        if (signs_of[r].progress == least) who += (who.empty() ? "" : ", ") + name(static_cast<int>(r));
      }
      finish(c,
             strprintf("no process made progress for %.0f s ({timeout})%s%s", timeout.load(),
                       who.empty() ? "; all wait at the same place" : "; the others wait for ", who.c_str()),
             kExitLost);
    }
  }
}

void Group::Impl::watch_root(const GroupConfig& c) {
  double heard = now(), sent = 0;
  Absence absence;
  while (!leaving) {
    heard += absence.seconds();
    pollfd polled{signs[0].fd(), POLLIN, 0};
    ::poll(&polled, 1, 200);
    if (polled.revents != 0) {
      std::string text;
      if (!signs[0].receive_text(text, 1 << 20) || text.empty()) {
        if (leaving) return;
        finish(c, "rank 0 has gone", kExitLost);
      }
      heard = now();
      if (text[0] == 'B') return;
      if (text[0] == 'X') finish(c, text.substr(4), std::atoi(text.substr(1, 3).c_str()));
    }
    if (now() - heard > kSilence) {
      finish(c, strprintf("rank 0 gave no sign of life for %.0f s: its machine or the network is down", kSilence),
             kExitLost);
    }
    if (now() - sent > 1) {
      sent = now();
      const std::shared_ptr<const std::atomic<int64_t>> own = progress.load();
      const int64_t count = own ? own->load() : 0;
      send_sign(signs[0], 'S', std::string(reinterpret_cast<const char*>(&count), sizeof count));
    }
  }
}

void Group::Impl::leave(const GroupConfig&) {
  for (const Socket& socket : signs) {
    if (socket.fd() >= 0) send_sign(socket, 'B', "");
  }
  leaving = true;
  if (watcher.joinable()) watcher.join();
}

// ---- the group -----------------------------------------------------------------------------------------------------

Group::Group(const GroupConfig& config, const std::function<void(int)>& listening) : config_(config) {
  if (config_.size == 1) return;
  impl_ = std::make_unique<Impl>();
  if (config_.rank == 0) {
    try {
      impl_->accept_all(config_, listening);
    } catch (const Error& error) {  // those that have joined are told why
      for (const Socket& socket : impl_->signs) {
        if (socket.fd() >= 0) impl_->send_sign(socket, 'X', std::string("001") + error.what());
      }
      throw;
    }
  } else {
    impl_->connect(config_);
  }
  Impl& impl = *impl_;
  impl.watcher = std::thread([this, &impl] {
    if (config_.rank == 0) {
      impl.watch_others(config_);
    } else {
      impl.watch_root(config_);
    }
  });
  // Every rank learns the members.
  json all = json::array();
  for (const Impl::Member& member : impl.members) all.push_back({member.host, member.pid});
  const json told = json::parse(broadcast(all.dump()));
  if (config_.rank == 0) return;
  for (const json& member : told) impl.members.push_back({member[0], member[1]});
}

Group::~Group() {
  if (impl_) impl_->leave(config_);
}

std::string Group::name(int rank) const { return impl_ ? impl_->name(rank) : "this process"; }

std::vector<std::string> Group::all_gather(const std::string& text) const {
  if (!impl_) return {text};
  std::vector<std::string> all(static_cast<size_t>(size()));
  // The watcher names the process that has gone and ends this one; until then this must not continue.
  const auto lost = [&] {
    std::this_thread::sleep_for(std::chrono::duration<double>(2 * kSilence));
    impl_->finish(config_, "the connection to another process is lost", kExitLost);
  };
  if (rank() == 0) {
    all[0] = text;
    for (size_t r = 1; r < all.size(); ++r) {
      if (!impl_->words[r].receive_text(all[r])) lost();
    }
    std::string joined;
    for (const std::string& one : all) {
      const uint64_t length = one.size();
      joined.append(reinterpret_cast<const char*>(&length), sizeof length);
      joined += one;
    }
    for (size_t r = 1; r < all.size(); ++r) {
      if (!impl_->words[r].send_text(joined)) lost();
    }
    return all;
  }
  std::string joined;
  if (!impl_->words[0].send_text(text) || !impl_->words[0].receive_text(joined)) lost();
  size_t at = 0;
  for (std::string& one : all) {
    uint64_t length = 0;
    std::memcpy(&length, joined.data() + at, sizeof length);
    one = joined.substr(at + sizeof length, length);
    at += sizeof length + length;
  }
  return all;
}

std::string Group::broadcast(const std::string& text) const { return all_gather(rank() == 0 ? text : "")[0]; }

void Group::together(const std::function<void()>& body) const {
  if (!impl_) return body();
  std::exception_ptr own;
  std::string what;
  try {
    body();
  } catch (const UsageError& error) {
    own = std::current_exception();
    what = std::string(1, '2') + error.what();
  } catch (const std::exception& error) {
    own = std::current_exception();
    what = std::string(1, '1') + error.what();
  }
  const std::vector<std::string> all = all_gather(what);
  for (int r = 0; r < size(); ++r) {
    const std::string& error = all[static_cast<size_t>(r)];
    if (error.empty()) continue;
    impl_->told = true;
    if (r == rank()) std::rethrow_exception(own);
    throw SaidElsewhere(name(r) + ": " + error.substr(1), error[0] - '0');
  }
}

void Group::on_root(const std::function<void()>& body) const {
  together([&] {
    if (rank() == 0) body();
  });
}

void Group::watch(std::shared_ptr<const std::atomic<int64_t>> progress, double timeout) const {
  if (!impl_) return;
  impl_->timeout = timeout;
  impl_->progress = std::move(progress);
}

bool Group::told() const { return !impl_ || impl_->told; }

void Group::end(const std::string& reason, int exit_code) const {
  if (impl_ && rank() > 0) {  // rank 0 tells all, including this one
    impl_->send_sign(impl_->signs[0], 'E', strprintf("%03d", exit_code) + reason);
    std::this_thread::sleep_for(std::chrono::seconds(5));
  }
  Impl alone;
  (impl_ ? *impl_ : alone).finish(config_, reason, exit_code);
}
