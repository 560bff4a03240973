// The worker threads, which take a grid's blocks one by one. They live as long as the process; blocks run only there.
#include <pthread.h>
#include <signal.h>
#include <time.h>
#include <unistd.h>

#include <chrono>
#include <condition_variable>
#include <cstdlib>
#include <mutex>

#include "dev/cudasim/observe.h"

namespace cudasim {

namespace {

// A permutation of [0, n): the i-th block to run. Random: i -> a i + b modulo n with a prime to n.
class BlockOrder {
 public:
  BlockOrder(Schedule schedule, uint64_t seed, uint64_t n) : n_(n) {
    if (schedule == Schedule::reverse) {
      multiplier_ = n - 1;
      offset_ = n - 1;
    } else if (schedule == Schedule::random) {
      do multiplier_ = next_random(seed) % n;
      while (common_divisor(multiplier_, n) != 1);
      offset_ = next_random(seed) % n;
    }
  }
  uint64_t operator()(uint64_t i) const {
    return static_cast<uint64_t>((static_cast<unsigned __int128>(multiplier_) * i + offset_) % n_);
  }

 private:
  static uint64_t common_divisor(uint64_t a, uint64_t b) { return b ? common_divisor(b, a % b) : a; }
  uint64_t n_, multiplier_ = 1, offset_ = 0;
};

class WorkerThreads {
 public:
  WorkerThreads() : process_(getpid()) {}
  pid_t process() const { return process_; }

  void run(Grid& grid, int threads) {
    const BlockOrder order(grid.schedule, grid.seed, grid.blocks);
    const int wanted = static_cast<int>(std::min<uint64_t>(static_cast<uint64_t>(threads), grid.blocks));
    std::unique_lock lock(mutex_);
    while (started_ < wanted) start_thread();
    grid_ = &grid;
    order_ = &order;
    tickets_ = wanted;
    busy_ = wanted;
    if (wanted == 1) {
      work_.notify_one();
    } else {
      work_.notify_all();
    }
    while (!done_.wait_for(lock, std::chrono::milliseconds(200), [&] { return busy_ == 0; })) end_hung_lanes();
    grid_ = nullptr;
  }

 private:
  struct Watched {
    pthread_t thread;
    const Worker* worker;
    uint64_t heartbeat = 0;
    double since = 0;  // the thread's processor time when the heartbeat last changed
  };

  // Processor time, not wall-clock time: a busy machine or a debugger's break must not make a thread look hung.
  void end_hung_lanes() {
    for (Watched& watched : watched_) {
      clockid_t clock;
      timespec time;
      if (pthread_getcpuclockid(watched.thread, &clock) != 0 || clock_gettime(clock, &time) != 0) continue;
      const double now = static_cast<double>(time.tv_sec) + 1e-9 * static_cast<double>(time.tv_nsec);
      if (const uint64_t heartbeat = cudasim::heartbeat(*watched.worker); heartbeat != watched.heartbeat) {
        watched.heartbeat = heartbeat;
        watched.since = now;
      } else if (now - watched.since > settings().time_limit) {
        watched.since = now;
        struct sigaction action = {};
        action.sa_handler = [](int) { end_hung_lane(); };
        action.sa_flags = SA_NODEFER;
        sigaction(SIGURG, &action, nullptr);
        pthread_kill(watched.thread, SIGURG);
      }
    }
  }

  void start_thread() {
    pthread_attr_t attributes;
    pthread_attr_init(&attributes);
    pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
    // The C library takes thread-local storage, and so all __shared__ arrays of the program, out of the stack.
    pthread_attr_setstacksize(&attributes, size_t{64} << 20);
    pthread_t thread;
    const int status = pthread_create(
        &thread, &attributes,
        [](void* self) -> void* {
          static_cast<WorkerThreads*>(self)->serve();
          return nullptr;
        },
        this);
    pthread_attr_destroy(&attributes);
    if (status != 0) {
      std::fprintf(stderr, "cudasim: cannot start a worker thread: %s\n", std::strerror(status));
      std::abort();
    }
    ++started_;
  }

  void serve() {
    Worker& worker = *new_worker();
    std::unique_lock lock(mutex_);
    watched_.push_back({pthread_self(), &worker});
    for (;;) {
      work_.wait(lock, [&] { return tickets_ > 0; });
      --tickets_;
      Grid& grid = *grid_;
      const BlockOrder& order = *order_;
      lock.unlock();
      if (instrumented()) observe_launch(worker, grid);
      while (grid.error.load(std::memory_order_relaxed) == cudaSuccess) {
        const uint64_t i = grid.next.fetch_add(1, std::memory_order_relaxed);
        if (i >= grid.blocks) break;
        run_block(worker, grid, order(i));
      }
      if (instrumented()) observe_launch_end();
      lock.lock();
      if (--busy_ == 0) done_.notify_one();
    }
  }

  const pid_t process_;
  std::mutex mutex_;
  std::condition_variable work_, done_;
  Grid* grid_ = nullptr;
  const BlockOrder* order_ = nullptr;
  int started_ = 0, tickets_ = 0, busy_ = 0;
  std::vector<Watched> watched_;
};

}  // namespace

cudaError_t run_grid(Grid& grid) {
  static WorkerThreads* threads = nullptr;  // never destroyed: its threads use it until the process ends
  if (!threads || threads->process() != getpid()) threads = new WorkerThreads;  // a forked child has no threads
  note_kernel(grid.kernel->address);
  threads->run(grid, instrumented() ? 1 : settings().threads);
  return static_cast<cudaError_t>(grid.error.load());
}

}  // namespace cudasim
