// What a collective does when its stream reaches it: all ranks first tell each other what they are about to do (a
// header), and only if that is the same do they exchange numbers. Each element is reduced by one rank, in the order of
// the ranks, so that a result depends neither on time nor on how a buffer is divided.
#include <algorithm>
#include <cmath>

#include "cuda_bf16.h"
#include "dev/cudasim/nccl_call.h"
#include "dev/cudasim/observe.h"

namespace cudasim::nccl {

namespace {

constexpr size_t kPieceBytes = 1 << 20;  // reduced at a time, so that a rank needs little memory

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

// ---- the ranks together --------------------------------------------------------------------------------------------

struct Stopped {
  cudaError_t status;
};

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
      throw Stopped{cudaSuccess};  // as a GPU's stream continues after ncclCommAbort
    case Outcome::gone:
      stop(call, ncclRemoteError, who + " has gone: it has ended, or given up (then it reports why)" + where);
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
      stop(call, ncclInternalError, "a rank sent something that is not a call; do all ranks run the same program?");
    stop(call, ncclInvalidUsage,
         "the ranks of a communicator do not make the same calls\n  rank " + std::to_string(r) + " calls " +
             headers[r].text() + ", rank 0 " + headers[0].text() + ", as call " + std::to_string(call.header.number) +
             " of this communicator");
  }
}

// Rank r gets and reduces count(r) elements of every rank's from(r); this rank's result goes to `out`.
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

// receive (from all ranks, rank r's count(r) elements at to(r)) = every rank's `own`.
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
      // The other ranks' own part is empty, so any address will do.
      return gather_parts(
          call, call.is_root() ? call.send : call.receive, [&](size_t) { return call.receive; },
          [&](size_t r) { return r == root ? n : 0; });
  }
}

}  // namespace

void break_off(ncclComm& comm, ncclResult_t error) {
  ncclResult_t none = ncclSuccess;
  if (comm.error.compare_exchange_strong(none, error) && comm.mesh) comm.mesh->hang_up();
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

}  // namespace cudasim::nccl
