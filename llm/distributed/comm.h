// Sums and exchanges of numbers over the processes of a run, one process per device. Three implementations: a single
// process (here), MPI for the CPU (comm_mpi.h), NCCL for the GPU (comm_nccl.h).
//
// All processes make the same calls in the same order. A call only queues the work; it runs in the order of the calls,
// concurrently with what the caller computes. wait(ticket) must precede reading its results and reusing its memory.
// With a GPU, memory is device memory, and the GPU's queue waits, not the host.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <memory>
#include <utility>

enum class Number { f32, f64, bf16 };
inline int64_t bytes_of(Number type) { return type == Number::f64 ? 8 : type == Number::f32 ? 4 : 2; }

// Elements moved, as the theory of ring algorithms counts them but without the factor (R - 1) / R: an all-reduce of n
// moves 2n, a reduce-scatter or an all-gather of n in total (over the ranks) moves n.
struct Traffic {
  int64_t all_reduced = 0, reduce_scattered = 0, all_gathered = 0, broadcast = 0;

  int64_t volume() const { return 2 * all_reduced + reduce_scattered + all_gathered; }
};

struct CommTime {
  double busy = 0;    // seconds that collectives took
  double waited = 0;  // the part of them in which the caller or its GPU had to wait

  double beside_computing() const { return busy > 0 ? std::max(0.0, 1 - waited / busy) : 0; }  // the overlapped share
};

class Comm {
 public:
  using Ticket = int64_t;

  virtual ~Comm() = default;
  int rank() const { return rank_; }
  int size() const { return size_; }

  // On every rank, the sum of all ranks' data (count).
  Ticket all_reduce(void* data, int64_t count, Number type) {
    traffic_.all_reduced += count;
    ++*progress_;
    return queue_all_reduce(data, count, type);
  }
  // out (count): this rank's part of the sum of `in` (size, count) over all ranks. out may be that part of in.
  Ticket reduce_scatter(void* out, const void* in, int64_t count, Number type) {
    traffic_.reduce_scattered += count * size_;
    ++*progress_;
    return queue_reduce_scatter(out, in, count, type);
  }
  // out (size, count): `in` (count) of every rank, in the order of the ranks. in may be its part of out.
  Ticket all_gather(void* out, const void* in, int64_t count, Number type) {
    traffic_.all_gathered += count * size_;
    ++*progress_;
    return queue_all_gather(out, in, count, type);
  }
  // On every rank, root's data (count).
  Ticket broadcast(void* data, int64_t count, Number type, int root) {
    traffic_.broadcast += count;
    ++*progress_;
    return queue_broadcast(data, count, type, root);
  }
  virtual void wait(Ticket ticket) = 0;       // also for all calls queued before it
  virtual void attach(void* /* stream */) {}  // on a GPU: the caller's queue, to order work with
  void barrier();                             // waits until all ranks have come here

  // Both since the last call: what was queued, and the time of what has finished. A single process takes no time.
  Traffic take_traffic() { return std::exchange(traffic_, Traffic()); }
  virtual CommTime take_time() { return {}; }
  // Increases with every call; if it stops, a process hangs (Group::watch).
  std::shared_ptr<const std::atomic<int64_t>> progress() const { return progress_; }

 protected:
  Comm(int rank, int size) : rank_(rank), size_(size) {}
  virtual Ticket queue_all_reduce(void* data, int64_t count, Number type) = 0;
  virtual Ticket queue_reduce_scatter(void* out, const void* in, int64_t count, Number type) = 0;
  virtual Ticket queue_all_gather(void* out, const void* in, int64_t count, Number type) = 0;
  virtual Ticket queue_broadcast(void* data, int64_t count, Number type, int root) = 0;
  virtual void wait_for_all() = 0;  // the host waits, for all ranks

 private:
  const int rank_, size_;
  Traffic traffic_;
  const std::shared_ptr<std::atomic<int64_t>> progress_ = std::make_shared<std::atomic<int64_t>>(0);
};

// For a single process: nothing is sent.
std::unique_ptr<Comm> make_single_comm();
