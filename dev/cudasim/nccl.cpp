// NCCL's API: communicators, the checks when a collective is called, groups, and how calls get into streams.
#include <stdexcept>
#include <thread>

#include "dev/cudasim/nccl_call.h"

using namespace cudasim;
using namespace cudasim::nccl;

namespace {

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

}  // namespace

ncclResult_t cudasim::nccl::refuse(const std::string& text, ncclResult_t result) {
  report(text);
  const std::lock_guard guard(state_lock);
  last_text() = text;
  return result;
}

namespace {

std::shared_ptr<ncclComm> find(ncclComm_t handle) {
  const std::lock_guard guard(state_lock);
  const auto found = communicators().find(handle);
  return found == communicators().end() ? nullptr : found->second;
}

ncclResult_t refuse_handle(const char* what) {
  return refuse(std::string(what) + " is given no communicator: null, destroyed or aborted");
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

// Nothing queued in any of the streams from now on runs before everything already queued in all of them.
void join_streams(const std::set<cudaStream_t>& streams) {
  if (streams.size() < 2) return;
  std::vector<std::shared_ptr<Record>> ends;
  for (const cudaStream_t stream : streams) ends.push_back(enqueue_operation(stream, nullptr, nullptr));
  for (const cudaStream_t stream : streams) {
    for (const auto& end : ends) enqueue_operation(stream, nullptr, end);
  }
}

// With the API's lock. Calls on one communicator run in their order, whatever their streams.
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
  const bool reduces = header.kind != Kind::all_gather && header.kind != Kind::broadcast;
  if (reduces && (header.op < 0 || header.op >= ncclNumOps))
    return refuse(std::string(name) + " with reduction " + std::to_string(header.op) + ": not one of ncclRedOp_t");
  const bool rooted = header.kind == Kind::broadcast || header.kind == Kind::reduce;
  if (rooted && (header.root < 0 || header.root >= comm.ranks))
    return refuse(std::string(name) + " with root " + std::to_string(header.root) + " of " +
                  std::to_string(comm.ranks) + " ranks");
  if (header.count > SIZE_MAX / call.element_bytes() / static_cast<size_t>(comm.ranks))
    return refuse(header.text() + ": the byte count overflows");
  if (!is_stream(call.stream)) return refuse("the stream of " + header.text() + " is not a stream (destroyed?)");
  if (is_capturing(call.stream))
    return refuse(header.text() + " in a stream that is capturing: not modelled", ncclInvalidUsage);
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

// A GPU works on its queues even if no thread waits for it. Here a thread must wait; another rank that waits for this
// one needs it to. So this runs on the communicator's own thread.
void serve_ranks(const std::shared_ptr<ncclComm>& comm) {
  std::unique_lock lock(api_lock());
  while (!comm->ended && comm->error == ncclSuccess) {
    // ncclCommAbort does not take the lock, so its notification may be missed.
    if (!comm->changed.wait_for(lock, std::chrono::seconds(1), [&] { return comm->ended || !comm->pending.empty(); }))
      continue;
    lock.unlock();
    const bool news = comm->mesh->has_news(100);
    lock.lock();
    const bool usable = !comm->ended && comm->error == ncclSuccess;  // may have changed meanwhile
    if (news && usable && !comm->pending.empty() && comm->mesh->has_news(0))
      returned(drain_until(std::shared_ptr<Record>(comm->pending.front())));  // a copy: running it removes it
  }
}

// Runs everything queued. With the API's lock.
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
  if (!version) return refuse("ncclGetVersion is given a null pointer for the version");
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
      return "another rank has failed, exited or stopped responding";
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
  if (!id) return refuse("ncclGetUniqueId is given a null pointer for the id");
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
  if (!comm) return refuse("ncclCommInitRank is given a null pointer for the communicator");
  *comm = nullptr;
  const std::string what = "ncclCommInitRank of rank " + std::to_string(rank) + " of " + std::to_string(nranks);
  if (nranks < 1 || rank < 0 || rank >= nranks) return refuse(what + ": no such rank");
  if (const ncclResult_t status = device_status(); status != ncclSuccess) return status;
  Meeting meeting;
  std::memcpy(&meeting, id.internal, sizeof meeting);
  if (!is_meeting(meeting)) return refuse(what + ": the id is not from ncclGetUniqueId");
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
  for (const Call& call : ended.calls) {  // again: the stream or the buffer may no longer exist
    if (ended.error == ncclSuccess) ended.error = check(call);
  }
  if (ended.error == ncclSuccess) queue(std::move(ended.calls));
  return ended.error;
}
