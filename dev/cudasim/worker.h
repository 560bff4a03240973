// The OS thread that a block runs on, and the block that it runs.
#pragma once

#include <array>
#include <utility>

#include "dev/cudasim/fiber.h"
#include "dev/cudasim/internal.h"

namespace cudasim {

enum class LaneState : uint8_t { not_started, running, at_collective, at_barrier, ended };

// A copy of cp.async under way.
struct AsyncCopy {
  void* to;
  const void* from;
  int bytes, valid_bytes;
  uintptr_t pc;  // of the instruction
};

// One CUDA thread.
struct Lane {
  uint3 thread;  // its threadIdx
  unsigned index;
  LaneState state;
  Fiber* fiber;  // null before it has started and after it has ended

  // What it waits for:
  Place where;
  const char* what;
  unsigned mask;
  bool any_place;
  void* mine;
  detail::Complete complete;

  bool waited_for_grids;  // called wait_for_earlier_grids()

  std::vector<AsyncCopy> copies;    // issued, not done yet
  std::vector<size_t> copy_groups;  // ends in `copies` of the committed groups, oldest first
};

struct Warp {
  unsigned exists;    // lanes of the block in this warp
  unsigned runnable;  // lanes that can continue
  unsigned waiting;   // lanes at a collective
  unsigned ended;
  const uint8_t* order;  // of lanes, in this pass
  unsigned next;         // position in order
  std::array<uint8_t, 32> shuffled;
};

class Worker {
 public:
  Worker();

  void run(Grid& grid, uint64_t block);

  // Called from the lane that runs now:
  void collective(unsigned mask, void* mine, detail::Complete complete, void* context, const char* what, Place where,
                  bool any_place);
  detail::Votes barrier(int predicate, const char* what, Place where);
  void yield_if_spinning();
  void* dynamic_shared() const { return dynamic_shared_; }
  Lane& current() { return *current_; }
  bool running() const { return running_; }
  uint64_t heartbeat() const { return heartbeat_.load(std::memory_order_relaxed); }
  const FiberPool& fibers() const { return fibers_; }

  // Ends the block, and with it the launch, with the report that describe() has stored. The stacks of all lanes are
  // abandoned, including that of the caller: destructors do not run, so nothing that owns memory may be alive there.
  // Hence two calls.
  Worker& reporting() {  // call it first: the rest is the runtime's work, until the block ends
    own_work_ = true;
    return *this;
  }
  void describe(const std::string& what, const std::string& details = "");  // "WHAT in KERNEL, BLOCK", details
  [[noreturn]] void fail(cudaError_t error = cudaErrorLaunchFailure);
  std::string block_text() const;
  std::string lane_text(const Lane& lane) const;
  bool is_shared(const void* pointer, size_t bytes) const;  // of this block, static or dynamic

  // For the observers of lanes (observe.h):
  bool observed() const { return running_ && !own_work_; }  // a lane's own code runs
  // Until the end of its scope the runtime works on a lane's behalf. Its templates too: the linker may have taken the
  // instrumented ones.
  class OwnWork {
   public:
    explicit OwnWork(Worker& worker) : worker_(worker), before_(std::exchange(worker.own_work_, true)) {}
    ~OwnWork() { worker_.own_work_ = before_; }
    OwnWork(const OwnWork&) = delete;
    OwnWork& operator=(const OwnWork&) = delete;

   private:
    Worker& worker_;
    const bool before_;
  };
  const Grid& grid() const { return *grid_; }
  const Lane& lane(unsigned index) const { return lanes_[index]; }
  unsigned threads() const { return threads_; }
  unsigned warp_count() const { return warp_count_; }
  std::string block_index_text(uint64_t block) const;
  bool on_stack(const char* address) const {  // of the lane that runs
    return address >= current_->fiber->low && address < current_->fiber->low + current_->fiber->size;
  }
  bool in_dynamic_shared(const char* address) const;
  size_t dynamic_shared_offset(const char* address) const { return static_cast<size_t>(address - dynamic_shared_); }
  bool in_thread_storage(const char* address) const { return address >= tls_begin_ && address < tls_end_; }
  size_t thread_storage_offset(const char* address) const { return static_cast<size_t>(address - tls_begin_); }
  size_t thread_storage_bytes() const { return static_cast<size_t>(tls_end_ - tls_begin_); }
  bool is_builtin(const char* address) const { return address >= builtins_begin_ && address < builtins_end_; }

 private:
  static void fiber_entry(boost::context::detail::transfer_t transfer);
  void fiber_loop(Fiber& self);
  void start_block(Grid& grid, uint64_t block);
  void end_block();
  void fill_static_shared();
  void set_current(Lane& lane);
  void leave(Lane& lane);  // runs others until the lane can continue
  Lane* next_lane();       // null: all have ended
  void start_warp_pass(Warp& warp);
  void start_block_pass();
  bool try_complete(Warp& warp, unsigned warp_index, const Lane& like, void* context);
  void lane_ended(Lane& lane);
  [[noreturn]] void report_stuck();
  std::string waiting_text() const;

  Fiber main_;
  FiberPool fibers_;
  Lane* current_ = nullptr;
  bool running_ = false;
  bool own_work_ = false;               // the runtime works on a lane's behalf
  std::atomic<uint64_t> heartbeat_{0};  // changes whenever another lane continues
  std::string failure_;

  Grid* grid_ = nullptr;
  uint3 block_index_ = {0, 0, 0};
  unsigned threads_ = 0, warp_count_ = 0;
  std::vector<Lane> lanes_;
  std::array<Warp, 32> warps_;
  std::array<uint8_t, 32> warp_order_;
  unsigned warp_position_ = 0;
  unsigned alive_ = 0;
  uint64_t random_ = 0;

  // The barrier that threads wait at.
  unsigned at_barrier_ = 0;
  int nonzero_ = 0;
  Place barrier_where_;
  bool barrier_differs_ = false;  // not all reached the same one
  detail::Votes votes_ = {0, 0};  // of the last barrier that opened

  unsigned steps_ = 0;  // atomic operations since the last switch
  unsigned yields_ = 0;

  char* dynamic_shared_ = nullptr;
  char *tls_begin_ = nullptr, *tls_end_ = nullptr;
  char *builtins_begin_ = nullptr,
       *builtins_end_ = nullptr;  // threadIdx and so on: adjacent variables of one file
};

Worker* this_worker();  // null on host threads

}  // namespace cudasim
