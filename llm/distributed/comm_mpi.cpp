#include "llm/distributed/comm_mpi.h"

#include "llm/support/error.h"

#ifdef WROUGHT_MPI

#define OMPI_SKIP_MPICXX 1  // its C++ names are deprecated, and do not compile without warnings
#define MPICH_SKIP_MPICXX 1
#include <mpi.h>

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <functional>
#include <limits>
#include <mutex>
#include <stdexcept>
#include <thread>
#include <utility>
#include <vector>

namespace {

MPI_Datatype type_of(Number type) {
  if (type == Number::bf16) throw std::logic_error("MPI has no sums of bf16");
  return type == Number::f64 ? MPI_DOUBLE : MPI_FLOAT;
}

int int_of(int64_t n) {
  if (n > std::numeric_limits<int>::max()) throw std::logic_error("more elements than one call of MPI takes");
  return static_cast<int>(n);
}

double now() { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); }

class MpiComm final : public Comm {
 public:
  MpiComm(int rank, int size) : Comm(rank, size), thread_([this] { run(); }) {}
  ~MpiComm() override {
    {
      const std::lock_guard lock(mutex_);
      end_ = true;
    }
    changed_.notify_all();
    thread_.join();
  }

  void wait(Ticket ticket) override {
    std::unique_lock lock(mutex_);
    if (done_ >= ticket) return;
    const double start = now();
    changed_.wait(lock, [&] { return done_ >= ticket; });
    time_.waited += now() - start;
  }
  CommTime take_time() override {
    const std::lock_guard lock(mutex_);
    return std::exchange(time_, CommTime());
  }

 private:
  Ticket queue_all_reduce(void* data, int64_t count, Number type) override {
    const MPI_Datatype mpi_type = type_of(type);
    return queue([=] {  // in pieces that stay in the cache, and below what an int counts
      for (int64_t i = 0; i < count; i += kPiece) {
        MPI_Allreduce(MPI_IN_PLACE, static_cast<char*>(data) + i * bytes_of(type), int_of(std::min(kPiece, count - i)),
                      mpi_type, MPI_SUM, MPI_COMM_WORLD);
      }
    });
  }
  Ticket queue_reduce_scatter(void* out, const void* in, int64_t count, Number type) override {
    const MPI_Datatype mpi_type = type_of(type);
    const int n = int_of(count);
    return queue([=, this] {  // in place MPI means another place than the rank's part
      const size_t bytes = static_cast<size_t>(count * bytes_of(type));
      scratch_.resize(std::max(scratch_.size(), bytes));
      MPI_Reduce_scatter_block(in, scratch_.data(), n, mpi_type, MPI_SUM, MPI_COMM_WORLD);
      std::memcpy(out, scratch_.data(), bytes);
    });
  }
  Ticket queue_all_gather(void* out, const void* in, int64_t count, Number type) override {
    const int bytes = int_of(count * bytes_of(type));
    const bool in_place = in == static_cast<char*>(out) + int64_t{rank()} * bytes;
    return queue(
        [=] { MPI_Allgather(in_place ? MPI_IN_PLACE : in, bytes, MPI_BYTE, out, bytes, MPI_BYTE, MPI_COMM_WORLD); });
  }
  Ticket queue_broadcast(void* data, int64_t count, Number type, int root) override {
    const int64_t bytes = count * bytes_of(type);
    return queue([=] {
      for (int64_t i = 0; i < bytes; i += 1 << 30) {
        MPI_Bcast(static_cast<char*>(data) + i, int_of(std::min<int64_t>(1 << 30, bytes - i)), MPI_BYTE, root,
                  MPI_COMM_WORLD);
      }
    });
  }
  void wait_for_all() override {
    wait(queue([] { MPI_Barrier(MPI_COMM_WORLD); }));
  }

  Ticket queue(std::function<void()> job) {
    {
      const std::lock_guard lock(mutex_);
      jobs_.push_back(std::move(job));
      ++queued_;
    }
    changed_.notify_all();
    return queued_;
  }

  void run() {
    std::unique_lock lock(mutex_);
    for (;;) {
      changed_.wait(lock, [&] { return end_ || !jobs_.empty(); });
      if (jobs_.empty()) return;
      const std::function<void()> job = std::move(jobs_.front());
      jobs_.pop_front();
      lock.unlock();
      const double start = now();
      job();
      lock.lock();
      time_.busy += now() - start;
      ++done_;
      changed_.notify_all();
    }
  }

  static constexpr int64_t kPiece = 1 << 22;
  std::vector<char> scratch_;  // the thread's
  std::mutex mutex_;           // of what follows
  std::condition_variable changed_;
  std::deque<std::function<void()>> jobs_;
  Ticket queued_ = 0, done_ = 0;
  CommTime time_;
  bool end_ = false;
  std::thread thread_;
};

}  // namespace

MpiProcess start_mpi() {
  MpiProcess process;
  if (mpi_launched() == 0) return process;
  int provided = 0;
  MPI_Init_thread(nullptr, nullptr, MPI_THREAD_SERIALIZED, &provided);
  if (provided < MPI_THREAD_SERIALIZED) {
    fail("this machine's MPI cannot be called from several threads: expected MPI_THREAD_SERIALIZED of MPI_Init_thread");
  }
  std::atexit([] { MPI_Finalize(); });
  MPI_Comm_rank(MPI_COMM_WORLD, &process.rank);
  MPI_Comm_size(MPI_COMM_WORLD, &process.size);
  MPI_Comm local;
  MPI_Comm_split_type(MPI_COMM_WORLD, MPI_COMM_TYPE_SHARED, 0, MPI_INFO_NULL, &local);
  MPI_Comm_rank(local, &process.local_rank);
  MPI_Comm_size(local, &process.local_size);
  MPI_Comm_free(&local);
  if (mpi_launched() > process.size && process.size == 1) {
    fail(
        "the launcher started %d processes, but MPI sees only one: it is not the launcher of the MPI that this "
        "program was built with; start it with that one's mpirun",
        mpi_launched());
  }
  return process;
}

std::string mpi_broadcast(const std::string& text) {
  int64_t length = static_cast<int64_t>(text.size());
  MPI_Bcast(&length, 1, MPI_INT64_T, 0, MPI_COMM_WORLD);
  std::string all = text;
  all.resize(static_cast<size_t>(length));
  MPI_Bcast(all.data(), int_of(length), MPI_BYTE, 0, MPI_COMM_WORLD);
  return all;
}

std::unique_ptr<Comm> make_mpi_comm() {
  int rank = 0, size = 1, started = 0;
  MPI_Initialized(&started);
  if (!started) {
    fail(
        "processes on CPUs exchange their numbers by MPI, and it did not start these: start them with mpirun or srun; "
        "the variables RANK and WORLD_SIZE start the GPU's trainer");
  }
  MPI_Comm_rank(MPI_COMM_WORLD, &rank);
  MPI_Comm_size(MPI_COMM_WORLD, &size);
  return std::make_unique<MpiComm>(rank, size);
}

#else

namespace {

[[noreturn]] void fail_without_mpi() {
  fail(
      "a launcher has started %d processes, but this program was built without MPI, and would train the same model in "
      "each of them: install MPI (on Debian libopenmpi-dev and openmpi-bin) and build again",
      mpi_launched());
}

}  // namespace

MpiProcess start_mpi() {
  if (mpi_launched() > 1) fail_without_mpi();
  return {};
}
std::string mpi_broadcast(const std::string&) { fail_without_mpi(); }
std::unique_ptr<Comm> make_mpi_comm() { fail_without_mpi(); }

#endif
