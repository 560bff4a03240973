// A call of a collective, which nccl.cpp checks and queues and nccl_collective.cpp runs.
#pragma once

#include <nccl.h>

#include <condition_variable>
#include <cstring>
#include <deque>

#include "dev/cudasim/internal.h"
#include "dev/cudasim/nccl_mesh.h"

struct ncclComm {
  const int ranks, rank;
  const std::unique_ptr<cudasim::Mesh> mesh;  // null for a single rank
  std::atomic<ncclResult_t> error{ncclSuccess};
  std::atomic<bool> ended{false};  // destroyed or aborted

  // With the API's lock:
  bool finalized = false;
  uint64_t calls = 0;                                    // so far
  std::shared_ptr<cudasim::Record> last;                 // the end of the last call
  std::deque<std::shared_ptr<cudasim::Record>> pending;  // the ends of the calls that have not begun
  std::condition_variable_any changed;                   // pending or ended

  ncclComm(int ranks, int rank, std::unique_ptr<cudasim::Mesh> mesh)
      : ranks(ranks), rank(rank), mesh(std::move(mesh)) {}
};

namespace cudasim::nccl {

enum class Kind : uint32_t { all_reduce, reduce_scatter, all_gather, broadcast, reduce };
inline constexpr const char* kKindNames[] = {"ncclAllReduce", "ncclReduceScatter", "ncclAllGather", "ncclBroadcast",
                                             "ncclReduce"};
inline constexpr const char* kOpNames[ncclNumOps] = {"ncclSum", "ncclProd", "ncclMax", "ncclMin", "ncclAvg"};

struct Type {
  const char* name;
  size_t bytes;  // 0: not modelled
};
inline constexpr Type kTypes[ncclNumTypes] = {
    {"int8", 1}, {"uint8", 1}, {"int32", 4},  {"uint32", 4}, {"int64", 8},       {"uint64", 8},
    {"half", 0}, {"float", 4}, {"double", 8}, {"bf16", 2},   {"float8 e4m3", 0}, {"float8 e5m2", 0},
};

constexpr uint32_t kMarker = 0x4e43434c;
constexpr int kNone = -1;

// What a rank is about to do, sent to the other ranks.
struct Header {
  uint32_t marker = kMarker;
  Kind kind = Kind::all_reduce;
  uint64_t number = 0;  // the call's number on its communicator, from 1 on
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

// Reports; returns result. ncclGetLastError() has the text.
ncclResult_t refuse(const std::string& text, ncclResult_t result = ncclInvalidArgument);

// The communicator can no longer be used; the other ranks find out.
void break_off(ncclComm& comm, ncclResult_t error);

// Runs the call, the next of its communicator, when its stream has reached it.
cudaError_t run(const Call& call);

}  // namespace cudasim::nccl
