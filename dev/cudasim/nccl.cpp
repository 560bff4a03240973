// NCCL's collectives. A collective is an operation of its stream: when the stream comes to it, all ranks first tell
// each other what they are about to do (a header), and only if that is the same do they exchange numbers. Each element
// is reduced by one rank, in the order of the ranks, so that a result depends neither on time nor on how a buffer is
// cut.
#include <nccl.h>

#include <cmath>
#include <condition_variable>
#include <cstring>
#include <deque>
#include <stdexcept>
#include <thread>

#include "cuda_bf16.h"
#include "dev/cudasim/nccl_mesh.h"
#include "dev/cudasim/observe.h"

using namespace cudasim;

struct ncclComm {
  const int ranks, rank;
  const std::unique_ptr<Mesh> mesh;  // null for a single rank
  std::atomic<ncclResult_t> error{ncclSuccess};
  std::atomic<bool> ended{false};  // destroyed or aborted

  // With the API's lock:
  bool finalized = false;
  uint64_t calls = 0;                           // so far
  std::shared_ptr<Record> last;                 // the end of the last of them
  std::deque<std::shared_ptr<Record>> pending;  // the ends of those that have not begun
  std::condition_variable_any changed;          // pending or ended

  ncclComm(int ranks, int rank, std::unique_ptr<Mesh> mesh) : ranks(ranks), rank(rank), mesh(std::move(mesh)) {}
};

namespace {

constexpr size_t kPieceBytes = 1 << 20;  // what a rank reduces at a time, so that little memory is needed

enum class Kind : uint32_t { all_reduce, reduce_scatter, all_gather, broadcast, reduce };
constexpr const char* kKindNames[] = {"ncclAllReduce", "ncclReduceScatter", "ncclAllGather", "ncclBroadcast",
                                      "ncclReduce"};
constexpr const char* kOpNames[ncclNumOps] = {"ncclSum", "ncclProd", "ncclMax", "ncclMin", "ncclAvg"};

struct Type {
  const char* name;
  size_t bytes;  // 0: not modelled
};
constexpr Type kTypes[ncclNumTypes] = {
    {"int8", 1}, {"uint8", 1}, {"int32", 4},  {"uint32", 4}, {"int64", 8},       {"uint64", 8},
    {"half", 0}, {"float", 4}, {"double", 8}, {"bf16", 2},   {"float8 e4m3", 0}, {"float8 e5m2", 0},
};

constexpr uint32_t kMarker = 0x4e43434c;
constexpr int kNone = -1;

// What a rank is about to do, as it tells the others.
struct Header {
  uint32_t marker = kMarker;
  Kind kind = Kind::all_reduce;
  uint64_t number = 0;  // of the call on its communicator, from 1 on
  uint64_t count = 0;
  int32_t type = 0, op = kNone, root = kNone;
  char place[100] = {};

  bool same(const Header& other) const {
    return std::memcmp(this, &other, offsetof(Header, place)) == 0;  // no padding before it
  }
  std::string text() const {
    std::string text =
        std::string(kKindNames[static_cast<size_t>(kind)]) + " of " + std::to_string(count) + " " + kTypes[type].name;
    if (op != kNone) text += std::string(" by ") + kOpNames[op];
    if (root != kNone) text += (kind == Kind::reduce ? " to rank " : " from rank ") + std::to_string(root);
    return text + " at " + place;
  }
};
static_assert(offsetof(Header, place) == 36);

struct Call {
  std::shared_ptr<ncclComm> comm;
  const char* send;
  char* receive;
  cudaStream_t stream;
  Header header;

  size_t element_bytes() const { return kTypes[header.type].bytes; }
  bool is_root() const { return comm->rank == header.root; }
  size_t send_count() const {
    const size_t n = header.count;
    if (header.kind == Kind::reduce_scatter) return n * static_cast<size_t>(comm->ranks);
    return header.kind == Kind::broadcast && !is_root() ? 0 : n;
  }
  size_t receive_count() const {
    const size_t n = header.count;
    if (header.kind == Kind::all_gather) return n * static_cast<size_t>(comm->ranks);
    return header.kind == Kind::reduce && !is_root() ? 0 : n;
  }
};

std::mutex state_lock;

std::map<ncclComm_t, std::shared_ptr<ncclComm>>& communicators() {
  static auto* all = new std::map<ncclComm_t, std::shared_ptr<ncclComm>>;
  return *all;
}
std::string& last_text() {
  static auto* text = new std::string;
  return *text;
}
std::map<std::string, NcclTraffic>& traffic() {
  static auto* traffic = new std::map<std::string, NcclTraffic>;
  return *traffic;
}

ncclResult_t refuse(const std::string& text, ncclResult_t result = ncclInvalidArgument) {
  report(text);
  const std::lock_guard guard(state_lock);
  last_text() = text;
  return result;
}

std::shared_ptr<ncclComm> find(ncclComm_t handle) {
  const std::lock_guard guard(state_lock);
  const auto found = communicators().find(handle);
  return found == communicators().end() ? nullptr : found->second;
}

ncclResult_t refuse_handle(const char* what) {
  return refuse(std::string(what) + " is given no communicator: null, destroyed or aborted");
}

// ---- numbers -------------------------------------------------------------------------------------------------------

template <class F>
void with_type(int32_t type, F&& f) {
  switch (type) {
    case ncclInt8:
      return f(int8_t{});
    case ncclUint8:
      return f(uint8_t{});
    case ncclInt32:
      return f(int32_t{});
    case ncclUint32:
      return f(uint32_t{});
    case ncclInt64:
      return f(int64_t{});
    case ncclUint64:
      return f(uint64_t{});
    case ncclFloat32:
      return f(float{});
    case ncclFloat64:
      return f(double{});
    case ncclBfloat16:
      return f(__nv_bfloat16{});
  }
}

// out[i] = rows[0][i] f rows[1][i] f ..., from the left; out may be one of the rows.
template <class T, class F>
void fold(T* out, const std::vector<const char*>& rows, size_t n, F&& f) {
  for (size_t i = 0; i < n; ++i) {
    T value = reinterpret_cast<const T*>(rows[0])[i];
    for (size_t r = 1; r < rows.size(); ++r) value = f(value, reinterpret_cast<const T*>(rows[r])[i]);
    out[i] = value;
  }
}

template <class T>
void reduce_rows(T* out, const std::vector<const char*>& rows, size_t n, int32_t op) {
  constexpr bool whole = std::is_integral_v<T>;
  using Wide = std::conditional_t<!whole, T, std::conditional_t<std::is_signed_v<T>, int64_t, uint64_t>>;
  switch (op) {
    case ncclSum:
    case ncclAvg:
      if constexpr (whole) {  // wraps around
        fold(out, rows, n,
             [](T a, T b) { return static_cast<T>(static_cast<uint64_t>(a) + static_cast<uint64_t>(b)); });
      } else {
        fold(out, rows, n, [](T a, T b) { return a + b; });
      }
      if (op == ncclAvg) {
        for (size_t i = 0; i < n; ++i) out[i] = static_cast<T>(Wide(out[i]) / Wide(static_cast<int>(rows.size())));
      }
      return;
    case ncclProd:
      if constexpr (whole) {
        fold(out, rows, n,
             [](T a, T b) { return static_cast<T>(static_cast<uint64_t>(a) * static_cast<uint64_t>(b)); });
      } else {
        fold(out, rows, n, [](T a, T b) { return a * b; });
      }
      return;
    case ncclMax:
    case ncclMin:
      const bool max = op == ncclMax;
      if constexpr (whole) {
        fold(out, rows, n, [max](T a, T b) { return max == (a > b) ? a : b; });
      } else if constexpr (std::is_same_v<T, double>) {  // of a number and a NaN: the number
        fold(out, rows, n, [max](T a, T b) { return max ? std::fmax(a, b) : std::fmin(a, b); });
      } else {
        fold(out, rows, n,
             [max](T a, T b) { return T(max ? std::fmax(float(a), float(b)) : std::fmin(float(a), float(b))); });
      }
  }
}

// ---- a collective, when its stream comes to it
// -----------------------------------------------------------------------

struct Stopped {
  cudaError_t status;
};

// The communicator can be used no more; the other ranks find out.
void break_off(ncclComm& comm, ncclResult_t error) {
  ncclResult_t none = ncclSuccess;
  if (comm.error.compare_exchange_strong(none, error) && comm.mesh) comm.mesh->hang_up();
}

[[noreturn]] void stop(const Call& call, ncclResult_t error, const std::string& text) {
  break_off(*call.comm, refuse(text, error));
  throw Stopped{cudaErrorLaunchFailure};
}

void exchange(const Call& call, std::vector<Transfer> transfers, bool header = false) {
  const double timeout = settings().nccl_timeout;
  const Outcome outcome = call.comm->mesh->exchange(std::move(transfers), timeout);
  const std::string who = "rank " + std::to_string(outcome.rank),
                    where = "\n  rank " + std::to_string(call.comm->rank) + " waits for it in " + call.header.text() +
                            ", call " + std::to_string(call.header.number) + " of this communicator";
  switch (outcome.kind) {
    case Outcome::done:
      return;
    case Outcome::interrupted:
      throw Stopped{cudaSuccess};  // as a GPU's stream goes on after ncclCommAbort
    case Outcome::gone:
      stop(call, ncclRemoteError, who + " has gone: it has ended, or given up (then it says why)" + where);
    case Outcome::silent:
      stop(call, ncclRemoteError,
           who +
               (header ? std::string(" has not called ") + kKindNames[static_cast<size_t>(call.header.kind)] +
                             " (call " + std::to_string(call.header.number) + ")"
                       : " is silent") +
               " for " + seconds_text(timeout) + where);
  }
}

// All ranks must be about to do the same.
void exchange_headers(const Call& call) {
  const size_t ranks = static_cast<size_t>(call.comm->ranks);
  std::vector<Header> headers(ranks);
  std::vector<Transfer> transfers(ranks);
  for (size_t r = 0; r < ranks; ++r) transfers[r] = {&call.header, sizeof(Header), &headers[r], sizeof(Header)};
  headers[static_cast<size_t>(call.comm->rank)] = call.header;
  exchange(call, std::move(transfers), true);
  for (size_t r = 1; r < ranks; ++r) {
    if (headers[r].same(headers[0])) continue;
    if (headers[0].marker != kMarker || headers[r].marker != kMarker)
      stop(call, ncclInternalError, "a rank sends what is no call; do all ranks run the same program?");
    stop(call, ncclInvalidUsage,
         "the ranks of a communicator do not make the same calls\n  rank " + std::to_string(r) + " calls " +
             headers[r].text() + ", rank 0 " + headers[0].text() + ", as call " + std::to_string(call.header.number) +
             " of this communicator");
  }
}

// Rank r gets and reduces count(r) elements of everybody's from(r); this rank's go to `out`.
template <class From, class Count>
void reduce_parts(const Call& call, From&& from, Count&& count, char* out) {
  const size_t ranks = static_cast<size_t>(call.comm->ranks), rank = static_cast<size_t>(call.comm->rank);
  const size_t size = call.element_bytes(), mine = count(rank);
  std::vector<char> received(mine * size * ranks);
  std::vector<Transfer> transfers(ranks);
  std::vector<const char*> rows(ranks);
  for (size_t r = 0; r < ranks; ++r) {
    char* row = received.data() + r * mine * size;
    transfers[r] = {from(r), count(r) * size, row, mine * size};
    rows[r] = r == rank ? from(r) : row;
  }
  if (ranks > 1) exchange(call, std::move(transfers));
  with_type(call.header.type,
            [&](auto zero) { reduce_rows(reinterpret_cast<decltype(zero)*>(out), rows, mine, call.header.op); });
}

// receive (of all ranks, rank r's count(r) elements at to(r)) = everybody's `own`.
template <class To, class Count>
void gather_parts(const Call& call, const char* own, To&& to, Count&& count) {
  const size_t ranks = static_cast<size_t>(call.comm->ranks), rank = static_cast<size_t>(call.comm->rank);
  const size_t size = call.element_bytes();
  std::vector<Transfer> transfers(ranks);
  for (size_t r = 0; r < ranks; ++r) transfers[r] = {own, count(rank) * size, to(r), count(r) * size};
  if (to(rank) != own && count(rank) > 0) std::memcpy(to(rank), own, count(rank) * size);
  if (ranks > 1) exchange(call, std::move(transfers));
}

void communicate(const Call& call) {
  const size_t ranks = static_cast<size_t>(call.comm->ranks), size = call.element_bytes();
  const size_t n = call.header.count, piece = kPieceBytes / size;
  const size_t root = static_cast<size_t>(call.header.root);
  switch (call.header.kind) {
    case Kind::all_reduce:
      for (size_t at = 0; at < n; at += piece * ranks) {
        const size_t here = std::min(piece * ranks, n - at);
        const auto begin = [&](size_t r) { return at + here * r / ranks; };
        const auto count = [&](size_t r) { return begin(r + 1) - begin(r); };
        char* mine = call.receive + begin(static_cast<size_t>(call.comm->rank)) * size;
        reduce_parts(
            call, [&](size_t r) { return call.send + begin(r) * size; }, count, mine);
        gather_parts(
            call, mine, [&](size_t r) { return call.receive + begin(r) * size; }, count);
      }
      return;
    case Kind::reduce_scatter:
      for (size_t at = 0; at < n; at += piece) {
        const size_t here = std::min(piece, n - at);
        reduce_parts(
            call, [&](size_t r) { return call.send + (r * n + at) * size; }, [&](size_t) { return here; },
            call.receive + at * size);
      }
      return;
    case Kind::all_gather:
      return gather_parts(
          call, call.send, [&](size_t r) { return call.receive + r * n * size; }, [&](size_t) { return n; });
    case Kind::reduce:
      for (size_t at = 0; at < n; at += piece) {
        const size_t here = std::min(piece, n - at);
        reduce_parts(
            call, [&](size_t) { return call.send + at * size; }, [&](size_t r) { return r == root ? here : 0; },
            call.receive + at * size);
      }
      return;
    case Kind::broadcast:
      // The other ranks' own part is nothing, which they send from anywhere.
      return gather_parts(
          call, call.is_root() ? call.send : call.receive, [&](size_t) { return call.receive; },
          [&](size_t r) { return r == root ? n : 0; });
  }
}

cudaError_t run(const Call& call) {
  call.comm->pending.pop_front();
  if (call.comm->ended) return cudaSuccess;  // aborted
  try {
    if (call.comm->mesh) exchange_headers(call);
    communicate(call);
  } catch (const Stopped& stopped) {
    return stopped.status;
  }
  if (const size_t bytes = call.receive_count() * call.element_bytes(); bytes > 0)
    observe_copy(call.receive, nullptr, bytes);
  return cudaSuccess;
}

// ---- calls ---------------------------------------------------------------------------------------------------------

// A call in a stream's queue. Queues are dropped when the device fails or is reset: then the call never runs.
struct Queued {
  Call call;
  bool has_run = false;
  explicit Queued(Call call) : call(std::move(call)) {}
  ~Queued() {
    if (!has_run) break_off(*call.comm, ncclUnhandledCudaError);
  }
};

// Nothing queued in any of the streams from now on runs before what is queued in all of them.
void join_streams(const std::set<cudaStream_t>& streams) {
  if (streams.size() < 2) return;
  std::vector<std::shared_ptr<Record>> ends;
  for (const cudaStream_t stream : streams) ends.push_back(enqueue_operation(stream, nullptr, nullptr));
  for (const cudaStream_t stream : streams) {
    for (const auto& end : ends) enqueue_operation(stream, nullptr, end);
  }
}

// With the API's lock. The calls on one communicator run in their order, whatever their streams.
void queue(std::vector<Call> calls) {
  std::set<cudaStream_t> streams;
  for (const Call& call : calls) streams.insert(call.stream);
  join_streams(streams);
  for (Call& call : calls) {
    ncclComm& comm = *call.comm;
    call.header.number = ++comm.calls;
    NcclTraffic& sum = traffic()[kKindNames[static_cast<size_t>(call.header.kind)]];
    const bool parts = call.header.kind == Kind::reduce_scatter || call.header.kind == Kind::all_gather;
    const uint64_t elements = call.header.count * (parts ? static_cast<uint64_t>(comm.ranks) : 1);
    sum.calls += 1;
    sum.elements += elements;
    sum.bytes += elements * call.element_bytes();
    const auto queued = std::make_shared<Queued>(call);
    comm.last = enqueue_operation(
        call.stream,
        [queued] {
          queued->has_run = true;
          return run(queued->call);
        },
        comm.last);
    comm.pending.push_back(comm.last);
    comm.changed.notify_all();
  }
  join_streams(streams);
}

ncclResult_t check_buffer(const Call& call, const char* which, const char* buffer, size_t count) {
  const size_t size = call.element_bytes();
  if (count == 0) return ncclSuccess;
  const std::string what = std::string("the ") + which + " buffer of " + call.header.text();
  if (space_of(buffer) == Space::host) return refuse(what + " is not device memory\n  " + describe_address(buffer));
  if (reinterpret_cast<uintptr_t>(buffer) % size != 0)
    return refuse(what + " does not begin at a multiple of " + std::to_string(size) + " bytes\n  " +
                  describe_address(buffer));
  if (!allocation_of(buffer, count * size))
    return refuse(what + " leaves its allocation: " + std::to_string(count) + " elements, " +
                  std::to_string(count * size) + " bytes\n  starts at " + describe_address(buffer));
  return ncclSuccess;
}

ncclResult_t check_overlap(const Call& call) {
  const size_t size = call.element_bytes(), part = static_cast<size_t>(call.comm->rank) * call.header.count * size;
  const uintptr_t send = reinterpret_cast<uintptr_t>(call.send), receive = reinterpret_cast<uintptr_t>(call.receive);
  const size_t send_bytes = call.send_count() * size, receive_bytes = call.receive_count() * size;
  if (send_bytes == 0 || receive_bytes == 0 || send + send_bytes <= receive || receive + receive_bytes <= send)
    return ncclSuccess;
  const bool gather = call.header.kind == Kind::all_gather, scatter = call.header.kind == Kind::reduce_scatter;
  if (send + (scatter ? part : 0) == receive + (gather ? part : 0)) return ncclSuccess;
  return refuse("the buffers of " + call.header.text() + " overlap\n  send: " + std::to_string(send_bytes) +
                " bytes from " + describe_address(call.send) + "\n  receive: " + std::to_string(receive_bytes) +
                " bytes from " + describe_address(call.receive) + "\n  in place is " +
                (scatter  ? "receive == send + rank * count"
                 : gather ? "send == receive + rank * count"
                          : "receive == send"));
}

// With the API's lock.
ncclResult_t check(const Call& call) {
  const ncclComm& comm = *call.comm;
  if (comm.error != ncclSuccess) return comm.error;
  if (api_status() != cudaSuccess) return ncclUnhandledCudaError;
  const char* name = kKindNames[static_cast<size_t>(call.header.kind)];
  if (comm.finalized) return refuse(std::string(name) + " after ncclCommFinalize", ncclInvalidUsage);
  const Header& header = call.header;
  if (header.type < 0 || header.type >= ncclNumTypes || kTypes[header.type].bytes == 0)
    return refuse(std::string(name) + " with " +
                  (header.type >= 0 && header.type < ncclNumTypes ? kTypes[header.type].name : "no type") +
                  " elements: int8 to uint64, float, double and bf16 are modelled");
  if (header.op != kNone && (header.op < 0 || header.op >= ncclNumOps))
    return refuse(std::string(name) + " with reduction " + std::to_string(header.op) + ": not one of ncclRedOp_t");
  const bool rooted = header.kind == Kind::broadcast || header.kind == Kind::reduce;
  if (rooted && (header.root < 0 || header.root >= comm.ranks))
    return refuse(std::string(name) + " with root " + std::to_string(header.root) + " of " +
                  std::to_string(comm.ranks) + " ranks");
  if (header.count > SIZE_MAX / call.element_bytes() / static_cast<size_t>(comm.ranks))
    return refuse(header.text() + ": so many bytes there are not");
  if (!is_stream(call.stream)) return refuse("the stream of " + header.text() + " is none (destroyed?)");
  ncclResult_t result = check_buffer(call, "send", call.send, call.send_count());
  if (result == ncclSuccess) result = check_buffer(call, "receive", call.receive, call.receive_count());
  return result == ncclSuccess ? check_overlap(call) : result;
}

struct Group {
  int depth = 0;
  std::vector<Call> calls;
  ncclResult_t error = ncclSuccess;  // the first
};
thread_local Group group;

ncclResult_t collective(Kind kind, const void* send, void* receive, size_t count, int32_t type, int32_t op,
                        int32_t root, ncclComm_t handle, cudaStream_t stream, const Place& where) {
  Call call{find(handle), static_cast<const char*>(send), static_cast<char*>(receive), stream, {}};
  call.header.kind = kind;
  call.header.count = count;
  call.header.type = type;
  call.header.op = op;
  call.header.root = root;
  std::string place = place_text(where);
  if (place.size() >= sizeof call.header.place) place.erase(0, place.size() + 1 - sizeof call.header.place);
  std::memcpy(call.header.place, place.c_str(), place.size() + 1);
  const std::lock_guard guard(api_lock());
  const ncclResult_t result = call.comm ? check(call) : refuse_handle(kKindNames[static_cast<size_t>(kind)]);
  if (group.depth > 0) {
    if (group.error == ncclSuccess) group.error = result;
    if (result == ncclSuccess) group.calls.push_back(std::move(call));
  } else if (result == ncclSuccess) {
    queue({std::move(call)});
  }
  return result;
}

// ---- communicators -------------------------------------------------------------------------------------------------

// A GPU works on what is queued while nobody waits for it. Here somebody must wait; another rank that waits for this
// one is somebody. Runs on a thread of the communicator's own.
void serve_ranks(const std::shared_ptr<ncclComm>& comm) {
  std::unique_lock lock(api_lock());
  while (!comm->ended && comm->error == ncclSuccess) {
    // ncclCommAbort does not take the lock, so that its word may be missed.
    if (!comm->changed.wait_for(lock, std::chrono::seconds(1), [&] { return comm->ended || !comm->pending.empty(); }))
      continue;
    lock.unlock();
    const bool news = comm->mesh->has_news(100);
    lock.lock();
    const bool usable = !comm->ended && comm->error == ncclSuccess;  // may have changed meanwhile
    if (news && usable && !comm->pending.empty() && comm->mesh->has_news(0))
      returned(drain_until(std::shared_ptr<Record>(comm->pending.front())));
  }
}

// Runs what is queued. With the API's lock.
ncclResult_t finish(ncclComm& comm) {
  comm.finalized = true;
  if (comm.error == ncclSuccess && !comm.pending.empty()) returned(drain_until(comm.last));
  return comm.error;
}

std::shared_ptr<ncclComm> remove(ncclComm_t handle) {
  const std::lock_guard guard(state_lock);
  const auto found = communicators().find(handle);
  if (found == communicators().end()) return nullptr;
  std::shared_ptr<ncclComm> comm = std::move(found->second);
  communicators().erase(found);
  return comm;
}

void end(ncclComm& comm) {
  comm.ended = true;
  comm.changed.notify_all();
  if (!comm.mesh) return;
  comm.mesh->interrupt();
  comm.mesh->hang_up();
}

ncclResult_t device_status() {
  const std::lock_guard guard(api_lock());
  return api_status() == cudaSuccess ? ncclSuccess : ncclUnhandledCudaError;
}

}  // namespace

std::map<std::string, NcclTraffic> cudasim::nccl_traffic() {
  const std::lock_guard guard(api_lock());
  return traffic();
}

// ---- the API -------------------------------------------------------------------------------------------------------

ncclResult_t ncclGetVersion(int* version) {
  if (!version) return refuse("ncclGetVersion is given no place for the version");
  *version = NCCL_VERSION_CODE;
  return ncclSuccess;
}

const char* ncclGetErrorString(ncclResult_t result) {
  switch (result) {
    case ncclSuccess:
      return "no error";
    case ncclUnhandledCudaError:
      return "a CUDA call failed";
    case ncclSystemError:
      return "a system call failed";
    case ncclInternalError:
      return "internal error";
    case ncclInvalidArgument:
      return "invalid argument";
    case ncclInvalidUsage:
      return "invalid usage";
    case ncclRemoteError:
      return "another rank has failed, gone or fallen silent";
    case ncclInProgress:
      return "in progress";
    case ncclNumResults:
      break;
  }
  return "unknown result";
}

const char* ncclGetLastError(ncclComm_t) {
  thread_local std::string text;
  const std::lock_guard guard(state_lock);
  text = last_text();
  return text.c_str();
}

ncclResult_t ncclGetUniqueId(ncclUniqueId* id) {
  static_assert(sizeof(Meeting) <= sizeof(ncclUniqueId));
  if (!id) return refuse("ncclGetUniqueId is given no place for the id");
  if (const ncclResult_t status = device_status(); status != ncclSuccess) return status;
  try {
    const Meeting meeting = open_meeting(settings().nccl_address, settings().nccl_timeout);
    *id = {};
    std::memcpy(id->internal, &meeting, sizeof meeting);
  } catch (const std::runtime_error& error) {
    return refuse(std::string("ncclGetUniqueId fails: ") + error.what(), ncclSystemError);
  }
  return ncclSuccess;
}

ncclResult_t ncclCommInitRank(ncclComm_t* comm, int nranks, ncclUniqueId id, int rank) {
  if (!comm) return refuse("ncclCommInitRank is given no place for the communicator");
  *comm = nullptr;
  const std::string what = "ncclCommInitRank of rank " + std::to_string(rank) + " of " + std::to_string(nranks);
  if (nranks < 1 || rank < 0 || rank >= nranks) return refuse(what + ": no such rank");
  if (const ncclResult_t status = device_status(); status != ncclSuccess) return status;
  Meeting meeting;
  std::memcpy(&meeting, id.internal, sizeof meeting);
  if (!is_meeting(meeting)) return refuse(what + ": the id is none of ncclGetUniqueId");
  std::unique_ptr<Mesh> mesh;
  try {
    if (nranks > 1) mesh = join_meeting(meeting, nranks, rank, settings().nccl_timeout);
  } catch (const std::runtime_error& error) {
    return refuse(what + ": " + error.what(), ncclRemoteError);
  }
  const auto made = std::make_shared<ncclComm>(nranks, rank, std::move(mesh));
  if (nranks > 1) std::thread(serve_ranks, made).detach();
  const std::lock_guard guard(state_lock);
  communicators().emplace(made.get(), made);
  *comm = made.get();
  return ncclSuccess;
}

ncclResult_t ncclCommFinalize(ncclComm_t handle) {
  const auto comm = find(handle);
  if (!comm) return refuse_handle("ncclCommFinalize");
  const std::lock_guard guard(api_lock());
  return finish(*comm);
}

ncclResult_t ncclCommDestroy(ncclComm_t handle) {
  const auto comm = remove(handle);
  if (!comm) return refuse_handle("ncclCommDestroy");
  const std::lock_guard guard(api_lock());
  const ncclResult_t result = comm->error == ncclSuccess ? finish(*comm) : ncclSuccess;
  end(*comm);
  return result;
}

ncclResult_t ncclCommAbort(ncclComm_t handle) {
  const auto comm = remove(handle);
  if (!comm) return refuse_handle("ncclCommAbort");
  end(*comm);
  return ncclSuccess;
}

ncclResult_t ncclCommGetAsyncError(ncclComm_t handle, ncclResult_t* error) {
  const auto comm = find(handle);
  if (!comm || !error) return refuse_handle("ncclCommGetAsyncError");
  *error = comm->error;
  return ncclSuccess;
}

ncclResult_t ncclCommCount(ncclComm_t handle, int* count) {
  const auto comm = find(handle);
  if (!comm || !count) return refuse_handle("ncclCommCount");
  *count = comm->ranks;
  return ncclSuccess;
}

ncclResult_t ncclCommUserRank(ncclComm_t handle, int* rank) {
  const auto comm = find(handle);
  if (!comm || !rank) return refuse_handle("ncclCommUserRank");
  *rank = comm->rank;
  return ncclSuccess;
}

ncclResult_t ncclAllReduce(const void* send, void* recv, size_t count, ncclDataType_t type, ncclRedOp_t op,
                           ncclComm_t comm, cudaStream_t stream, std::source_location where) {
  return collective(Kind::all_reduce, send, recv, count, type, op, kNone, comm, stream, where);
}
ncclResult_t ncclReduceScatter(const void* send, void* recv, size_t count, ncclDataType_t type, ncclRedOp_t op,
                               ncclComm_t comm, cudaStream_t stream, std::source_location where) {
  return collective(Kind::reduce_scatter, send, recv, count, type, op, kNone, comm, stream, where);
}
ncclResult_t ncclAllGather(const void* send, void* recv, size_t count, ncclDataType_t type, ncclComm_t comm,
                           cudaStream_t stream, std::source_location where) {
  return collective(Kind::all_gather, send, recv, count, type, kNone, kNone, comm, stream, where);
}
ncclResult_t ncclBroadcast(const void* send, void* recv, size_t count, ncclDataType_t type, int root, ncclComm_t comm,
                           cudaStream_t stream, std::source_location where) {
  return collective(Kind::broadcast, send, recv, count, type, kNone, root, comm, stream, where);
}
ncclResult_t ncclReduce(const void* send, void* recv, size_t count, ncclDataType_t type, ncclRedOp_t op, int root,
                        ncclComm_t comm, cudaStream_t stream, std::source_location where) {
  return collective(Kind::reduce, send, recv, count, type, op, root, comm, stream, where);
}

ncclResult_t ncclGroupStart() {
  ++group.depth;
  return ncclSuccess;
}

ncclResult_t ncclGroupEnd() {
  if (group.depth == 0) return refuse("ncclGroupEnd without ncclGroupStart", ncclInvalidUsage);
  if (--group.depth > 0) return ncclSuccess;
  Group ended = std::exchange(group, {});
  const std::lock_guard guard(api_lock());
  for (const Call& call : ended.calls) {  // once more: the stream or the buffer may be gone
    if (ended.error == ncclSuccess) ended.error = check(call);
  }
  if (ended.error == ncclSuccess) queue(std::move(ended.calls));
  return ended.error;
}
