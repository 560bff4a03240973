// One block at a time. A lane that waits keeps its fiber and switches to the next lane that can continue; a lane that
// ends hands its fiber to the next that has not started. So a kernel that never waits makes no switches, and one
// function, next_lane(), decides which lane runs next.
#include "dev/cudasim/worker.h"

#include <link.h>
#include <pthread.h>
#include <signal.h>
#include <sys/mman.h>

#include <algorithm>
#include <cstdlib>
#include <exception>
#include <numeric>

#include "dev/cudasim/observe.h"

constinit thread_local uint3 threadIdx = {0, 0, 0};
constinit thread_local uint3 blockIdx = {0, 0, 0};
constinit thread_local dim3 blockDim = {0, 0, 0};
constinit thread_local dim3 gridDim = {0, 0, 0};

namespace cudasim {

namespace {

constinit thread_local Worker* worker = nullptr;

constexpr size_t kSharedPages = 256 * 1024;  // room for the largest block and the red zone after it
constexpr size_t kSharedGuard = 1024;
constexpr uint16_t kGuardPattern = 0x7fe5;  // a NaN in bf16 and in float

// A thread that only spins on an atomic gets this many tries before others run, and this many turns in all.
constexpr unsigned kStepsPerTurn = 1000, kMaxTurns = 100000;

constexpr auto kForward = [] {
  std::array<uint8_t, 32> order;
  std::iota(order.begin(), order.end(), uint8_t{0});
  return order;
}();
constexpr auto kReverse = [] {
  std::array<uint8_t, 32> order;
  for (size_t i = 0; i < 32; ++i) order[i] = static_cast<uint8_t>(31 - i);
  return order;
}();

void shuffle(std::array<uint8_t, 32>& order, unsigned n, uint64_t& random) {
  std::iota(order.begin(), order.end(), uint8_t{0});
  for (unsigned i = n; i > 1; --i) std::swap(order[i - 1], order[next_random(random) % i]);
}

bool same_place(const Place& a, const Place& b) {
  return a.line() == b.line() && (a.file_name() == b.file_name() || !std::strcmp(a.file_name(), b.file_name()));
}

void fill_guard(char* from, size_t bytes) {
  for (size_t i = 0; i < bytes; ++i) from[i] = static_cast<char>(kGuardPattern >> (i % 2 * 8));
}
bool guard_is_whole(const char* from, size_t bytes) {
  for (size_t i = 0; i < bytes; ++i) {
    if (from[i] != static_cast<char>(kGuardPattern >> (i % 2 * 8))) return false;
  }
  return true;
}

uint3 block_at(uint64_t block, const dim3& grid) {
  return {static_cast<unsigned>(block % grid.x), static_cast<unsigned>(block / grid.x % grid.y),
          static_cast<unsigned>(block / grid.x / grid.y)};
}

std::string triple(const uint3& v) {
  char text[64];
  std::snprintf(text, sizeof text, "(%u, %u, %u)", v.x, v.y, v.z);
  return text;
}

std::string hex(unsigned mask) {
  char text[16];
  std::snprintf(text, sizeof text, "0x%08x", mask);
  return text;
}

// "lane 3", "lanes 0-15, 20"
std::string lanes_text(unsigned mask) {
  std::string text = std::popcount(mask) == 1 ? "lane" : "lanes";
  const char* separator = " ";
  for (int i = 0; i < 32; ++i) {
    if (!(mask >> i & 1)) continue;
    const int first = i;
    while (i < 31 && mask >> (i + 1) & 1) ++i;
    text.append(separator).append(std::to_string(first));
    if (i > first) text.append("-").append(std::to_string(i));
    separator = ", ";
  }
  return text;
}

}  // namespace

Worker* this_worker() { return worker; }
Worker* new_worker() { return new Worker; }
void run_block(Worker& worker, Grid& grid, uint64_t block) { worker.run(grid, block); }
uint64_t heartbeat(const Worker& worker) { return worker.heartbeat(); }

void end_hung_lane() {
  if (!worker || !worker->running()) return;
  worker->reporting().describe("a thread neither waits nor ends");
  worker->fail();
}

Worker::Worker() : fibers_(fiber_entry) {
  worker = this;
  lanes_.resize(kMaxThreads);
  // The program's own thread-local storage, with its `static thread_local` arrays. The program is listed first.
  dl_iterate_phdr(
      [](dl_phdr_info* info, size_t, void* self) {
        for (int i = 0; i < info->dlpi_phnum; ++i) {
          if (info->dlpi_phdr[i].p_type != PT_TLS || !info->dlpi_tls_data) continue;
          static_cast<Worker*>(self)->tls_begin_ = static_cast<char*>(info->dlpi_tls_data);
          static_cast<Worker*>(self)->tls_end_ = static_cast<char*>(info->dlpi_tls_data) + info->dlpi_phdr[i].p_memsz;
        }
        return 1;
      },
      this);
  for (const auto& [begin, bytes] : {std::pair<void*, size_t>{&threadIdx, sizeof threadIdx},
                                     {&blockIdx, sizeof blockIdx},
                                     {&blockDim, sizeof blockDim},
                                     {&gridDim, sizeof gridDim}}) {
    char* first = static_cast<char*>(begin);
    builtins_begin_ = builtins_begin_ ? std::min(builtins_begin_, first) : first;
    builtins_end_ = std::max(builtins_end_, first + bytes);
  }
  if (builtins_end_ - builtins_begin_ > 128) {
    std::fprintf(stderr, "cudasim: threadIdx, blockIdx and so on are not adjacent\n");
    std::abort();
  }
  dynamic_shared_ = static_cast<char*>(
      mmap(nullptr, kSharedPages, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0));
  pthread_attr_t attributes;
  void* stack = nullptr;
  if (dynamic_shared_ == MAP_FAILED || pthread_getattr_np(pthread_self(), &attributes) != 0 ||
      pthread_attr_getstack(&attributes, &stack, &main_.size) != 0) {
    std::perror("cudasim: a worker thread cannot start");
    std::abort();
  }
  pthread_attr_destroy(&attributes);
  main_.low = static_cast<char*>(stack);
  // Faults are handled on a separate stack: a lane's may be used up.
  stack_t signals = {};
  signals.ss_size = 64 * 1024;
  signals.ss_sp = mmap(nullptr, signals.ss_size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  sigaltstack(&signals, nullptr);
}

// ---- one block -----------------------------------------------------------------------------------------------------

void Worker::run(Grid& grid, uint64_t block) {
  start_block(grid, block);
  Lane* first = next_lane();
  Fiber& fiber = fibers_.take();
  first->fiber = &fiber;
  set_current(*first);
  running_ = true;
  own_work_ = false;
  switch_fiber(main_, fiber);
  running_ = false;
  end_block();
}

void Worker::start_block(Grid& grid, uint64_t block) {
  grid_ = &grid;
  block_index_ = block_at(block, grid.grid);
  fill_static_shared();
  blockIdx = block_index_;
  blockDim = grid.block;
  gridDim = grid.grid;
  std::memset(dynamic_shared_, 0xff, grid.shared_bytes);
  fill_guard(dynamic_shared_ + grid.shared_bytes, kSharedGuard);

  threads_ = grid.block.x * grid.block.y * grid.block.z;
  warp_count_ = (threads_ + 31) / 32;
  alive_ = threads_;
  at_barrier_ = 0;
  nonzero_ = 0;
  barrier_differs_ = false;
  yields_ = 0;
  random_ = grid.seed ^ (block + 1) * 0xd1342543de82ef95u;
  uint3 thread = {0, 0, 0};
  for (unsigned i = 0; i < threads_; ++i) {
    Lane& lane = lanes_[i];
    lane.thread = thread;
    lane.index = i;
    lane.state = LaneState::not_started;
    lane.fiber = nullptr;
    lane.waited_for_grids = false;
    if (!lane.copies.empty()) lane.copies.clear();
    if (!lane.copy_groups.empty()) lane.copy_groups.clear();
    if (++thread.x == grid.block.x) {
      thread.x = 0;
      if (++thread.y == grid.block.y) {
        thread.y = 0;
        ++thread.z;
      }
    }
  }
  for (unsigned w = 0; w < warp_count_; ++w) {
    Warp& warp = warps_[w];
    const unsigned lanes = std::min(32u, threads_ - 32 * w);
    warp.exists = warp.runnable = lanes == 32 ? 0xffffffffu : (1u << lanes) - 1;
    warp.waiting = 0;
    warp.ended = ~warp.exists;
  }
  start_block_pass();
  if (instrumented()) observe_block(*this, block);
}

void Worker::end_block() {
  if (instrumented()) observe_block_end(*this);
  if (!guard_is_whole(dynamic_shared_ + grid_->shared_bytes, kSharedGuard) && grid_->error == cudaSuccess) {
    size_t first = grid_->shared_bytes;
    while (guard_is_whole(dynamic_shared_ + first, 2)) first += 2;
    grid_->error = cudaErrorLaunchFailure;
    report("write beyond dynamic shared memory in " + block_text() + "\n  at byte " + std::to_string(first) + " of " +
           std::to_string(grid_->shared_bytes));
  }
}

// A value that a block did not write must not look valid: every byte of the program's thread-local storage becomes
// 0xFF, a NaN, except for what the runtime keeps there.
__attribute__((noinline)) void Worker::fill_static_shared() {
  Worker* const self = this;
  if (tls_begin_) std::memset(tls_begin_, 0xff, static_cast<size_t>(tls_end_ - tls_begin_));
  asm volatile("" ::: "memory");
  worker = self;
}

bool Worker::in_dynamic_shared(const char* address) const {
  return address >= dynamic_shared_ && address < dynamic_shared_ + kSharedPages;
}

bool Worker::is_shared(const void* pointer, size_t bytes) const {
  const char* begin = static_cast<const char*>(pointer);
  return (begin >= tls_begin_ && begin + bytes <= tls_end_) ||
         (begin >= dynamic_shared_ && begin + bytes <= dynamic_shared_ + grid_->shared_bytes);
}

// ---- lanes ---------------------------------------------------------------------------------------------------------

void Worker::set_current(Lane& lane) {
  current_ = &lane;
  threadIdx = lane.thread;
  lane.state = LaneState::running;
  steps_ = 0;
  heartbeat_.store(heartbeat_.load(std::memory_order_relaxed) + 1, std::memory_order_relaxed);
}

void Worker::fiber_entry(boost::context::detail::transfer_t transfer) {
  arrived(transfer);
  Worker& self = *worker;
  self.fiber_loop(*self.current_->fiber);
}

void Worker::fiber_loop(Fiber& self) {
  for (;;) {
    bool thrown = false;
    try {
      grid_->kernel->run_thread();
    } catch (const std::exception& error) {
      reporting().describe("exception in device code", "\n  " + lane_text(*current_) + ": " + error.what());
      thrown = true;
    } catch (...) {
      reporting().describe("exception in device code");
      thrown = true;
    }
    if (thrown) fail();
    Lane& lane = *current_;
    if (grid_->programmatic && !lane.waited_for_grids) {
      reporting().describe("return without the wait for earlier kernels");
      fail();
    }
    lane_ended(lane);
    lane.fiber = nullptr;
    Lane* next = next_lane();
    if (!next) {
      fibers_.put(self);
      switch_fiber(self, main_);
    } else if (next->fiber) {
      fibers_.put(self);
      set_current(*next);
      switch_fiber(self, *next->fiber);
    } else {
      next->fiber = &self;
      set_current(*next);
    }
  }
}

void Worker::leave(Lane& lane) {
  Lane* next = next_lane();  // never null: this one has not ended
  if (next != &lane && !next->fiber) next->fiber = &fibers_.take();
  set_current(*next);
  if (next != &lane) switch_fiber(*lane.fiber, *next->fiber);
}

void Worker::lane_ended(Lane& lane) {
  lane.state = LaneState::ended;
  --alive_;
  Warp& warp = warps_[lane.index / 32];
  warp.ended |= 1u << lane.index % 32;
  // __syncwarp does not wait for lanes that have ended.
  for (unsigned rest = warp.waiting; rest; rest &= rest - 1) {
    const Lane& other = lanes_[lane.index / 32 * 32 + static_cast<unsigned>(std::countr_zero(rest))];
    if (other.any_place && try_complete(warp, lane.index / 32, other, nullptr)) break;
  }
}

void Worker::start_warp_pass(Warp& warp) {
  warp.next = 0;
  if (grid_->schedule == Schedule::random) shuffle(warp.shuffled, 32, random_);
  warp.order = grid_->schedule == Schedule::forward   ? kForward.data()
               : grid_->schedule == Schedule::reverse ? kReverse.data()
                                                      : warp.shuffled.data();
}

void Worker::start_block_pass() {
  warp_position_ = 0;
  if (grid_->schedule == Schedule::random) {
    shuffle(warp_order_, warp_count_, random_);
  } else {
    for (unsigned i = 0; i < warp_count_; ++i)
      warp_order_[i] = static_cast<uint8_t>(grid_->schedule == Schedule::forward ? i : warp_count_ - 1 - i);
  }
  for (unsigned w = 0; w < warp_count_; ++w) start_warp_pass(warps_[w]);
}

// Lanes of a warp one after another until all wait or have ended, as often as collectives release some (at random: any
// warp that can may continue first); then the next warp; when all are stuck, the barrier.
Lane* Worker::next_lane() {
  for (;;) {
    while (warp_position_ < warp_count_) {
      const unsigned w = warp_order_[warp_position_];
      Warp& warp = warps_[w];
      for (; warp.runnable && warp.next < 32; ++warp.next) {
        const unsigned lane = warp.order[warp.next];
        if (!(warp.runnable >> lane & 1)) continue;
        ++warp.next;
        warp.runnable &= ~(1u << lane);
        return &lanes_[32 * w + lane];
      }
      if (!warp.runnable) {
        ++warp_position_;
        continue;
      }
      start_warp_pass(warp);
      if (grid_->schedule == Schedule::random) {
        const unsigned other =
            warp_position_ + static_cast<unsigned>(next_random(random_) % (warp_count_ - warp_position_));
        std::swap(warp_order_[warp_position_], warp_order_[other]);
      }
    }
    if (alive_ == 0) return nullptr;
    bool runnable = false;  // lanes that have yielded to others
    for (unsigned w = 0; w < warp_count_; ++w) runnable |= warps_[w].runnable != 0;
    if (!runnable) {
      if (at_barrier_ != alive_ || barrier_differs_) report_stuck();
      if (instrumented()) observe_barrier(*this);
      votes_ = {static_cast<int>(alive_), nonzero_};
      at_barrier_ = 0;
      nonzero_ = 0;
      for (unsigned w = 0; w < warp_count_; ++w) warps_[w].runnable = ~warps_[w].ended;
    }
    start_block_pass();
  }
}

// ---- waiting -------------------------------------------------------------------------------------------------------

detail::Votes Worker::barrier(int predicate, const char* what, Place where) {
  Lane& lane = *current_;
  lane.state = LaneState::at_barrier;
  lane.what = what;
  lane.where = where;
  lane.mask = 0;
  if (at_barrier_++ == 0) {
    barrier_where_ = where;
    barrier_differs_ = false;
  } else if (!same_place(where, barrier_where_)) {
    barrier_differs_ = true;
  }
  nonzero_ += predicate != 0;
  leave(lane);
  return votes_;
}

void Worker::collective(unsigned mask, void* mine, detail::Complete complete, void* context, const char* what,
                        Place where, bool any_place) {
  Lane& lane = *current_;
  Warp& warp = warps_[lane.index / 32];
  lane.what = what;
  lane.where = where;
  lane.mask = mask;
  lane.any_place = any_place;
  lane.mine = mine;
  lane.complete = complete;
  if (!(mask >> lane.index % 32 & 1)) {
    reporting().describe("call with a mask that does not name the caller",
                         "\n  " + lane_text(lane) + ": " + what + " (mask " + hex(mask) + "), " + place_text(where));
    fail();
  }
  lane.state = LaneState::at_collective;
  warp.waiting |= 1u << lane.index % 32;
  try_complete(warp, lane.index / 32, lane, context);
  leave(lane);
}

// Whether all lanes that `like` waits for have arrived at the same call: then they can continue.
bool Worker::try_complete(Warp& warp, unsigned warp_index, const Lane& like, void* context) {
  const unsigned needed = like.any_place ? like.mask & ~warp.ended : like.mask;
  if ((warp.waiting & needed) != needed) return false;
  Lane* const lanes = &lanes_[32 * warp_index];
  void* mine[32] = {};
  for (unsigned rest = needed; rest; rest &= rest - 1) {
    const unsigned i = static_cast<unsigned>(std::countr_zero(rest));
    const Lane& lane = lanes[i];
    if (lane.mask != like.mask || lane.complete != like.complete) return false;
    if (!like.any_place && (std::strcmp(lane.what, like.what) != 0 || !same_place(lane.where, like.where)))
      return false;
    mine[i] = lane.mine;
  }
  const OwnWork own_work(*this);
  like.complete(context, mine, needed);
  if (instrumented()) observe_collective(warp_index, needed, warp.ended, like.what, like.any_place);
  warp.waiting &= ~needed;
  warp.runnable |= needed;
  return true;
}

void Worker::yield_if_spinning() {
  if (++steps_ < kStepsPerTurn) return;
  Lane& lane = *current_;
  if (++yields_ > kMaxTurns) {
    reporting().describe("a thread spins on an atomic, and no other thread releases it");
    fail();
  }
  warps_[lane.index / 32].runnable |= 1u << lane.index % 32;
  ++warp_position_;  // other warps first: this one may be waiting for them
  leave(lane);
}

// ---- reports -------------------------------------------------------------------------------------------------------

std::string Worker::block_text() const {
  return kernel_name(grid_->kernel->address) + ", block " + triple(block_index_) + " of " + triple(grid_->grid) + ", " +
         std::to_string(threads_) + " threads";
}

std::string Worker::block_index_text(uint64_t block) const { return triple(block_at(block, grid_->grid)); }

std::string Worker::lane_text(const Lane& lane) const {
  return "thread " + triple(lane.thread) + " (warp " + std::to_string(lane.index / 32) + ", lane " +
         std::to_string(lane.index % 32) + ")";
}

void Worker::describe(const std::string& what, const std::string& details) {
  failure_ = what + " in " + block_text() + (details.empty() ? "\n  " + lane_text(*current_) : details);
}

void Worker::fail(cudaError_t error) {
  int none = cudaSuccess;
  if (grid_->error.compare_exchange_strong(none, error)) report(failure_);
  fibers_.reset();
  Fiber abandoned;
  switch_fiber(abandoned, main_);
  std::abort();  // no fiber switches back
}

// What each lane of each warp waits for; warps that wait for the same share a line.
std::string Worker::waiting_text() const {
  std::string text;
  std::vector<std::string> groups(warp_count_);
  for (unsigned w = 0; w < warp_count_; ++w) {
    unsigned rest = warps_[w].exists;
    while (rest) {
      const Lane& first = lanes_[32 * w + static_cast<unsigned>(std::countr_zero(rest))];
      const bool ended = first.state == LaneState::ended;
      unsigned alike = 0;
      for (unsigned i = 0; i < 32; ++i) {
        if (!(rest >> i & 1)) continue;
        const Lane& lane = lanes_[32 * w + i];
        if (lane.state != first.state) continue;
        if (ended ||
            (lane.mask == first.mask && !std::strcmp(lane.what, first.what) && same_place(lane.where, first.where)))
          alike |= 1u << i;
      }
      rest &= ~alike;
      groups[w] += ", " + lanes_text(alike) + ": ";
      if (ended) {
        groups[w] += "ended\n";
      } else {
        groups[w] += "wait at " + std::string(first.what);
        if (first.state == LaneState::at_collective) groups[w] += " (mask " + hex(first.mask) + ")";
        groups[w] += ", " + place_text(first.where) + "\n";
      }
    }
    if (~warps_[w].exists) groups[w] += ", " + lanes_text(~warps_[w].exists) + ": not in the block\n";
  }
  for (unsigned w = 0; w < warp_count_; ++w) {
    unsigned last = w;
    while (last + 1 < warp_count_ && groups[last + 1] == groups[w]) ++last;
    const std::string warps =
        last > w ? "warps " + std::to_string(w) + "-" + std::to_string(last) : "warp " + std::to_string(w);
    size_t line = 0;
    while (line < groups[w].size()) {
      const size_t end = groups[w].find('\n', line);
      text += "\n  " + warps + groups[w].substr(line, end - line);
      line = end + 1;
    }
    w = last;
  }
  return text;
}

void Worker::report_stuck() {
  reporting().describe(at_barrier_ == alive_ ? "divergent barrier" : "deadlock", waiting_text());
  fail();
}

// ---- what device code calls ----------------------------------------------------------------------------------------

namespace detail {

void collective(unsigned mask, void* mine, Complete complete, void* context, const char* what, Place where,
                bool any_place) {
  worker->collective(mask, mine, complete, context, what, where, any_place);
}

Votes barrier(int predicate, const char* what, Place where) { return worker->barrier(predicate, what, where); }

void check_width(int width, const char* what, Place where) {
  if (width >= 1 && width <= 32 && std::has_single_bit(static_cast<unsigned>(width))) return;
  worker->reporting().describe("shuffle with a bad width", "\n  " + worker->lane_text(worker->current()) + ": " + what +
                                                               " with width " + std::to_string(width) + ", " +
                                                               place_text(where));
  worker->fail();
}

void report_bad_source(int lane, int from, unsigned mask, const char* what, Place where) {
  worker->reporting().describe(
      "shuffle from a lane that takes no part",
      "\n  lane " + std::to_string(lane) + " of warp " + std::to_string(worker->current().index / 32) + " reads lane " +
          std::to_string(from) + ": " + what + " (mask " + hex(mask) + "), " + place_text(where));
  worker->fail();
}

void atomic_step() {
  if (worker) worker->yield_if_spinning();
}

void* dynamic_shared() { return worker->dynamic_shared(); }

int lane_index() { return static_cast<int>(worker->current().index % 32); }

}  // namespace detail

void wait_for_earlier_grids() { worker->current().waited_for_grids = true; }

// ---- cp.async ------------------------------------------------------------------------------------------------------

void async_copy(void* shared, const void* global, int bytes, int valid_bytes, Place where) {
  const uintptr_t pc = reinterpret_cast<uintptr_t>(__builtin_return_address(0));
  const auto bad = [&](const char* what) {
    worker->reporting().describe("bad asynchronous copy", "\n  " + worker->lane_text(worker->current()) + ": " + what +
                                                              ", " + std::to_string(bytes) + " bytes, " +
                                                              place_text(where));
    worker->fail();
  };
  if (bytes != 4 && bytes != 8 && bytes != 16) bad("size is not 4, 8 or 16");
  if (valid_bytes < 0 || valid_bytes > bytes) bad("fewer than 0 or more than all bytes are to be read");
  const uintptr_t alignment = static_cast<uintptr_t>(bytes) - 1;
  if (reinterpret_cast<uintptr_t>(shared) & alignment) bad("the target is not aligned to its size");
  if (reinterpret_cast<uintptr_t>(global) & alignment) bad("the source is not aligned to its size");
  if (!worker->is_shared(shared, static_cast<size_t>(bytes))) bad("the target is not in shared memory");
  if (instrumented())
    observe_async_issue(pc, shared, global, static_cast<size_t>(bytes), static_cast<size_t>(valid_bytes));
  const Worker::OwnWork own_work(*worker);
  std::memset(shared, 0xff, static_cast<size_t>(bytes));
  worker->current().copies.push_back({shared, global, bytes, valid_bytes, pc});
}

void async_commit() {
  const Worker::OwnWork own_work(*worker);
  Lane& lane = worker->current();
  lane.copy_groups.push_back(lane.copies.size());
}

void async_wait(int groups_still_allowed) {
  Lane& lane = worker->current();
  const size_t allowed = static_cast<size_t>(std::max(groups_still_allowed, 0));
  if (lane.copy_groups.size() <= allowed) return;
  const size_t groups = lane.copy_groups.size() - allowed, copies = lane.copy_groups[groups - 1];
  for (size_t i = 0; i < copies; ++i) {
    const AsyncCopy& copy = lane.copies[i];
    if (copy.valid_bytes > 0) std::memcpy(copy.to, copy.from, static_cast<size_t>(copy.valid_bytes));
    std::memset(static_cast<char*>(copy.to) + copy.valid_bytes, 0, static_cast<size_t>(copy.bytes - copy.valid_bytes));
    if (instrumented()) observe_async_done(copy.pc, copy.to, static_cast<size_t>(copy.bytes));
  }
  const Worker::OwnWork own_work(*worker);
  lane.copies.erase(lane.copies.begin(), lane.copies.begin() + static_cast<std::ptrdiff_t>(copies));
  lane.copy_groups.erase(lane.copy_groups.begin(), lane.copy_groups.begin() + static_cast<std::ptrdiff_t>(groups));
  for (size_t& end : lane.copy_groups) end -= copies;
}

}  // namespace cudasim
