// NCCL on cudasim: every rank is a process, forked before it uses CUDA.
#include <arpa/inet.h>
#include <doctest/doctest.h>
#include <nccl.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <limits>
#include <stdexcept>
#include <thread>

#include "tests/helpers/device.h"
#include "tests/helpers/test_set.h"

namespace {

// ---- ranks are processes -------------------------------------------------------------------------------------------

#define EXPECT(condition)                                                                                   \
  do {                                                                                                      \
    if (!(condition))                                                                                       \
      throw std::runtime_error(std::string(__FILE__) + ":" + std::to_string(__LINE__) + ": " + #condition); \
  } while (0)
#define NCCL_OK(call) EXPECT((call) == ncclSuccess)

// What the processes of a test share.
struct Shared {
  std::atomic<bool> has_id{false};
  ncclUniqueId id;
  std::atomic<int> steps{0};
};

void wait_for(const std::function<bool()>& condition) {
  while (!condition()) usleep(1000);  // the process's alarm ends it
}

struct Rank {
  int rank, ranks;
  Shared& shared;
  ncclComm_t comm = nullptr;

  ncclUniqueId id() const {
    if (rank == 0) {
      NCCL_OK(ncclGetUniqueId(&shared.id));
      shared.has_id = true;
    }
    wait_for([&] { return shared.has_id.load(); });
    return shared.id;
  }
  void meet() const {  // waits for all ranks, once per test
    ++shared.steps;
    wait_for([&] { return shared.steps >= ranks; });
  }
  void join() { NCCL_OK(ncclCommInitRank(&comm, ranks, id(), rank)); }
  void leave() {
    NCCL_OK(ncclCommDestroy(comm));
    CUDA_CHECK(cudaDeviceSynchronize());
  }
};

struct Ended {
  int status;
  std::string output;
};

// Runs body(rank) in a process for each rank. `timeout`: CUDASIM_NCCL_TIMEOUT.
template <class F>
std::vector<Ended> run_ranks(int ranks, const char* timeout, F&& body) {
  void* page = mmap(nullptr, sizeof(Shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  REQUIRE(page != MAP_FAILED);
  Shared& shared = *new (page) Shared;
  std::vector<std::pair<pid_t, int>> children;
  std::fflush(stdout);
  for (int rank = 0; rank < ranks; ++rank) {
    int ends[2];
    REQUIRE(pipe(ends) == 0);
    const pid_t pid = fork();
    REQUIRE(pid >= 0);
    if (pid == 0) {
      alarm(kSanitized ? 300 : 30);
      for (const int signal_number : {SIGSEGV, SIGABRT, SIGTERM})
        signal(signal_number, SIG_DFL);  // not the framework's
      dup2(ends[1], 1);
      dup2(ends[1], 2);
      setenv("CUDASIM_NCCL_TIMEOUT", timeout, 1);
      setenv("CUDASIM_THREADS", "1", 1);
      int status = 0;
      try {
        Rank me{rank, ranks, shared};
        body(me);
      } catch (const std::exception& error) {
        std::printf("failed: %s\n", error.what());
        status = 1;
      }
      std::fflush(stdout);
      _exit(status);
    }
    close(ends[1]);
    children.emplace_back(pid, ends[0]);
  }
  std::vector<Ended> ended;
  for (const auto& [pid, output] : children) {
    Ended child;
    char text[4096];
    for (ssize_t n; (n = read(output, text, sizeof text)) > 0;) child.output.append(text, static_cast<size_t>(n));
    close(output);
    waitpid(pid, &child.status, 0);
    ended.push_back(child);
  }
  munmap(page, sizeof(Shared));
  return ended;
}

// The same; all ranks must succeed without a report.
template <class F>
void all_well(int ranks, F&& body) {
  const std::vector<Ended> ended = run_ranks(ranks, "20", body);
  for (size_t r = 0; r < ended.size(); ++r) {
    INFO("rank ", r, " of ", ranks, ": ", ended[r].output);
    CHECK(ended[r].status == 0);
    CHECK(ended[r].output.empty());
  }
}

// The same; the outputs of the ranks must contain these texts. A rank without a text is not checked.
template <class F>
void all_report(int ranks, const char* timeout, const std::vector<std::string>& texts, F&& body) {
  const std::vector<Ended> ended = run_ranks(ranks, timeout, body);
  for (size_t r = 0; r < texts.size(); ++r) {
    INFO("rank ", r, ": ", ended[r].output, "\nlacks: ", texts[r]);
    CHECK(ended[r].output.find(texts[r]) != std::string::npos);
    CHECK(ended[r].status == 0);
  }
}

// ---- numbers -------------------------------------------------------------------------------------------------------

template <class T>
T number(int rank, size_t i) {
  const int k = static_cast<int>((i * 37 + static_cast<size_t>(rank) * 101) % 1000);
  if constexpr (std::is_signed_v<T> && std::is_integral_v<T> && sizeof(T) >= sizeof(int)) {
    return static_cast<T>(k % 100 - 50);  // the product of four does not overflow
  } else if constexpr (std::is_integral_v<T>) {
    return static_cast<T>(k * 1234567 + rank);  // wraps around
  } else {
    return T(static_cast<float>(k - 500) / 7);
  }
}

template <class T>
std::vector<T> numbers(int rank, size_t n) {
  std::vector<T> values(n);
  for (size_t i = 0; i < n; ++i) values[i] = number<T>(rank, i);
  return values;
}

template <class T>
T reduced(int ranks, size_t i, ncclRedOp_t op) {
  T result = number<T>(0, i);
  for (int rank = 1; rank < ranks; ++rank) {
    const T x = number<T>(rank, i);
    if (op == ncclSum || op == ncclAvg) result = static_cast<T>(result + x);
    if (op == ncclProd) result = static_cast<T>(result * x);
    if (op == ncclMax) result = x > result ? x : result;
    if (op == ncclMin) result = x < result ? x : result;
  }
  if (op == ncclAvg) result = static_cast<T>(result / static_cast<T>(ranks));
  return result;
}

template <class T>
bool equal_bits(const std::vector<T>& a, const std::vector<T>& b) {
  return a.empty() ? b.empty() : same_bits(a, b);
}

template <class T>
struct TypeOf;
#define TYPE_OF(T, value)                         \
  template <>                                     \
  struct TypeOf<T> {                              \
    static constexpr ncclDataType_t type = value; \
  };
TYPE_OF(int8_t, ncclInt8)
TYPE_OF(uint8_t, ncclUint8)
TYPE_OF(int32_t, ncclInt32)
TYPE_OF(uint32_t, ncclUint32)
TYPE_OF(int64_t, ncclInt64)
TYPE_OF(uint64_t, ncclUint64)
TYPE_OF(float, ncclFloat32)
TYPE_OF(double, ncclFloat64)
TYPE_OF(bf16, ncclBfloat16)

// All collectives on n elements per rank, out of place and in place.
template <class T>
void check_collectives(const Rank& me, size_t n, ncclRedOp_t op) {
  constexpr ncclDataType_t type = TypeOf<T>::type;
  const size_t ranks = static_cast<size_t>(me.ranks), rank = static_cast<size_t>(me.rank), all = n * ranks;
  const int root = me.ranks - 1;
  const std::vector<T> mine = numbers<T>(me.rank, all);
  std::vector<T> expected(all), gathered(all);
  for (size_t i = 0; i < all; ++i) expected[i] = reduced<T>(me.ranks, i, op);
  for (size_t r = 0; r < ranks; ++r) {
    for (size_t i = 0; i < n; ++i) gathered[r * n + i] = number<T>(static_cast<int>(r), i);
  }
  const auto part = [&](const std::vector<T>& whole, size_t r) {
    return std::vector<T>(whole.begin() + static_cast<ptrdiff_t>(r * n),
                          whole.begin() + static_cast<ptrdiff_t>((r + 1) * n));
  };
  const DeviceArray<T> send(mine), whole(all), piece(n);

  NCCL_OK(ncclAllReduce(send.data(), whole.data(), all, type, op, me.comm, nullptr));
  EXPECT(equal_bits(whole.host(), expected));
  NCCL_OK(ncclReduceScatter(send.data(), piece.data(), n, type, op, me.comm, nullptr));
  EXPECT(equal_bits(piece.host(), part(expected, rank)));
  NCCL_OK(ncclReduce(send.data(), me.rank == root ? whole.data() : nullptr, all, type, op, root, me.comm, nullptr));
  if (me.rank == root) EXPECT(equal_bits(whole.host(), expected));
  NCCL_OK(ncclAllGather(send.data(), whole.data(), n, type, me.comm, nullptr));
  EXPECT(equal_bits(whole.host(), gathered));
  NCCL_OK(ncclBroadcast(me.rank == root ? send.data() : nullptr, whole.data(), all, type, root, me.comm, nullptr));
  EXPECT(equal_bits(whole.host(), numbers<T>(root, all)));
  EXPECT(equal_bits(send.host(), mine));

  whole.write(mine);
  NCCL_OK(ncclAllReduce(whole.data(), whole.data(), all, type, op, me.comm, nullptr));
  EXPECT(equal_bits(whole.host(), expected));
  whole.write(mine);
  NCCL_OK(ncclReduceScatter(whole.data(), whole.data() + rank * n, n, type, op, me.comm, nullptr));
  EXPECT(equal_bits(part(whole.host(), rank), part(expected, rank)));
  whole.write(mine);
  NCCL_OK(ncclReduce(whole.data(), whole.data(), all, type, op, root, me.comm, nullptr));
  EXPECT(equal_bits(whole.host(), me.rank == root ? expected : mine));
  std::vector<T> only_mine(all);
  for (size_t i = 0; i < n; ++i) only_mine[rank * n + i] = mine[i];
  whole.write(only_mine);
  NCCL_OK(ncclAllGather(whole.data() + rank * n, whole.data(), n, type, me.comm, nullptr));
  EXPECT(equal_bits(whole.host(), gathered));
  whole.write(mine);
  NCCL_OK(ncclBroadcast(whole.data(), whole.data(), all, type, root, me.comm, nullptr));
  EXPECT(equal_bits(whole.host(), numbers<T>(root, all)));
}

template <class T>
__global__ void add_kernel(T* inout, T value, int n) {
  for (int i = static_cast<int>(threadIdx.x); i < n; i += static_cast<int>(blockDim.x)) inout[i] += value;
}

__global__ void store_out_of_bounds_kernel(float* out) {
  if (threadIdx.x == 0) out[1 << 20] = 1;
}

}  // namespace

TEST_CASE("NCCL: all collectives, types, reductions and sizes, out of place and in place, on 1 to 4 ranks") {
  for (int ranks = 1; ranks <= 4; ++ranks) {
    all_well(ranks, [](Rank& me) {
      me.join();
      int count = 0, rank = 0;
      NCCL_OK(ncclCommCount(me.comm, &count));
      NCCL_OK(ncclCommUserRank(me.comm, &rank));
      EXPECT(count == me.ranks);
      EXPECT(rank == me.rank);
      for (const ncclRedOp_t op : {ncclSum, ncclProd, ncclMax, ncclMin, ncclAvg}) {
        for (const size_t n : {0, 1, 33}) {
          check_collectives<int8_t>(me, n, op);
          check_collectives<uint8_t>(me, n, op);
          check_collectives<int32_t>(me, n, op);
          check_collectives<uint32_t>(me, n, op);
          check_collectives<int64_t>(me, n, op);
          check_collectives<uint64_t>(me, n, op);
          check_collectives<float>(me, n, op);
          check_collectives<double>(me, n, op);
          check_collectives<bf16>(me, n, op);
        }
      }
      check_collectives<float>(me, 100003, ncclSum);
      check_collectives<bf16>(me, 100003, ncclSum);
      check_collectives<double>(me, 300007, ncclAvg);  // more than are reduced at a time
      me.leave();
    });
  }
}

TEST_CASE("NCCL: int32 sums wrap around, and the maximum of a number and a NaN is the number") {
  all_well(2, [](Rank& me) {
    me.join();
    const int32_t most = std::numeric_limits<int32_t>::max();
    const DeviceArray<int32_t> whole(std::vector<int32_t>{most, me.rank});
    NCCL_OK(ncclAllReduce(whole.data(), whole.data(), 2, ncclInt32, ncclSum, me.comm, nullptr));
    EXPECT((whole.host() == std::vector<int32_t>{-2, 1}));
    const DeviceArray<float> values(std::vector<float>{me.rank == 0 ? NAN : 3.0f, me.rank == 1 ? NAN : 4.0f});
    NCCL_OK(ncclAllReduce(values.data(), values.data(), 2, ncclFloat, ncclMax, me.comm, nullptr));
    EXPECT((values.host() == std::vector<float>{3, 4}));
    me.leave();
  });
}

TEST_CASE("NCCL: results are the same bits however a buffer is cut, also by ReduceScatter and AllGather") {
  all_well(3, [](Rank& me) {
    me.join();
    const size_t n = 99999, part = n / 3;
    const DeviceArray<float> send(numbers<float>(me.rank, n)), whole(n), cut(n), scattered(part), gathered(n);
    const auto at = [](const DeviceArray<float>& array, size_t i) { return array.data() + i; };
    NCCL_OK(ncclAllReduce(send.data(), whole.data(), n, ncclFloat, ncclSum, me.comm, nullptr));
    size_t from = 0;
    for (const size_t to : {size_t{1}, size_t{34}, size_t{50000}, n}) {
      NCCL_OK(ncclAllReduce(at(send, from), at(cut, from), to - from, ncclFloat, ncclSum, me.comm, nullptr));
      from = to;
    }
    NCCL_OK(ncclReduceScatter(send.data(), scattered.data(), part, ncclFloat, ncclSum, me.comm, nullptr));
    NCCL_OK(ncclAllGather(scattered.data(), gathered.data(), part, ncclFloat, me.comm, nullptr));
    EXPECT(equal_bits(whole.host(), cut.host()));
    EXPECT(equal_bits(whole.host(), gathered.host()));
    me.leave();
  });
}

// ---- order ---------------------------------------------------------------------------------------------------------

TEST_CASE("NCCL: a collective is an operation of its stream, under all schedules") {
  all_well(2, [](Rank& me) {
    me.join();
    using cudasim::Schedule;
    for (const Schedule schedule : {Schedule::forward, Schedule::reverse, Schedule::random}) {
      cudasim::set_schedule(schedule, 5);
      cudaStream_t first, second;
      cudaEvent_t event;
      CUDA_CHECK(cudaStreamCreateWithFlags(&first, cudaStreamNonBlocking));
      CUDA_CHECK(cudaStreamCreateWithFlags(&second, cudaStreamNonBlocking));
      CUDA_CHECK(cudaEventCreate(&event));
      const DeviceArray<float> values(std::vector<float>(100, static_cast<float>(me.rank)));
      CUDA_CHECK(cudaDeviceSynchronize());
      launch(add_kernel<float>, 1, 32, 0, first, values.data(), 10.0f, 100);
      NCCL_OK(ncclAllReduce(values.data(), values.data(), 100, ncclFloat, ncclSum, me.comm, first));
      launch(add_kernel<float>, 1, 32, 0, first, values.data(), 100.0f, 100);
      CUDA_CHECK(cudaEventRecord(event, first));
      CUDA_CHECK(cudaStreamWaitEvent(second, event));
      NCCL_OK(ncclAllReduce(values.data(), values.data(), 100, ncclFloat, ncclSum, me.comm, second));
      CUDA_CHECK(cudaStreamSynchronize(second));
      EXPECT(values.host() == std::vector<float>(100, 242));
      CUDA_CHECK(cudaStreamDestroy(first));
      CUDA_CHECK(cudaStreamDestroy(second));
      CUDA_CHECK(cudaEventDestroy(event));
    }
    me.leave();
  });
}

TEST_CASE("NCCL: no collective runs before the host waits") {
  all_well(1, [](Rank& me) {
    cudasim::set_schedule(cudasim::Schedule::forward);  // the other schedules run work that they need not
    me.join();
    cudaStream_t stream;
    CUDA_CHECK(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
    const DeviceArray<float> send(std::vector<float>(10, 1)), receive(std::vector<float>(10, 2));
    CUDA_CHECK(cudaDeviceSynchronize());
    NCCL_OK(ncclAllReduce(send.data(), receive.data(), 10, ncclFloat, ncclSum, me.comm, stream));
    float early = 0;
    CUDA_CHECK(cudaMemcpy(&early, receive.data(), sizeof early, cudaMemcpyDeviceToHost));  // on the default stream
    EXPECT(early == 2);
    EXPECT(cudaStreamQuery(stream) == cudaErrorNotReady);
    EXPECT(cudaStreamQuery(stream) == cudaSuccess);
    EXPECT(receive.host() == std::vector<float>(10, 1));
    me.leave();
  });
}

TEST_CASE("NCCL: calls on one communicator run in call order, whichever stream is waited for first") {
  all_well(2, [](Rank& me) {
    me.join();
    cudaStream_t streams[2];
    for (cudaStream_t& stream : streams) CUDA_CHECK(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
    const DeviceArray<float> a(std::vector<float>(10, 1)), b(std::vector<float>(20, 2));
    NCCL_OK(ncclAllReduce(a.data(), a.data(), 10, ncclFloat, ncclSum, me.comm, streams[0]));
    NCCL_OK(ncclAllReduce(b.data(), b.data(), 20, ncclFloat, ncclSum, me.comm, streams[1]));
    CUDA_CHECK(cudaStreamSynchronize(streams[me.rank]));
    EXPECT(a.host() == std::vector<float>(10, 2));
    EXPECT(b.host() == std::vector<float>(20, 4));
    me.leave();
  });
}

TEST_CASE("NCCL: queued work runs when another rank waits for it") {
  all_well(2, [](Rank& me) {
    me.join();
    const DeviceArray<float> values(std::vector<float>(10, 1));
    launch(add_kernel<float>, 1, 32, 0, nullptr, values.data(), 1.0f, 10);
    NCCL_OK(ncclAllReduce(values.data(), values.data(), 10, ncclFloat, ncclSum, me.comm, nullptr));
    if (me.rank == 0) {
      CUDA_CHECK(cudaDeviceSynchronize());
      me.shared.steps = 1;
    }
    wait_for([&] { return me.shared.steps == 1; });  // rank 1 waits for rank 0, not for a stream
    EXPECT(values.host() == std::vector<float>(10, 4));
    me.leave();
  });
}

TEST_CASE("NCCL: groups are queued at their end, and synchronise their streams") {
  all_well(2, [](Rank& me) {
    me.join();
    cudaStream_t streams[2];
    for (cudaStream_t& stream : streams) CUDA_CHECK(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
    const DeviceArray<float> a(std::vector<float>(10, 1)), b(std::vector<float>(10, 2)), c(10);
    CUDA_CHECK(cudaDeviceSynchronize());
    NCCL_OK(ncclGroupStart());
    NCCL_OK(ncclAllReduce(a.data(), a.data(), 10, ncclFloat, ncclSum, me.comm, streams[0]));
    NCCL_OK(ncclGroupStart());
    NCCL_OK(ncclAllReduce(b.data(), b.data(), 10, ncclFloat, ncclSum, me.comm, streams[1]));
    NCCL_OK(ncclGroupEnd());
    CUDA_CHECK(cudaDeviceSynchronize());
    EXPECT(cudasim::nccl_traffic()["ncclAllReduce"].calls == 0);
    EXPECT(a.host() == std::vector<float>(10, 1));
    launch(add_kernel<float>, 1, 32, 0, streams[1], a.data(), 5.0f, 10);  // before the group, on the other stream
    NCCL_OK(ncclGroupEnd());
    EXPECT(cudasim::nccl_traffic()["ncclAllReduce"].calls == 2);
    CUDA_CHECK(cudaMemcpyAsync(c.data(), b.data(), 40, cudaMemcpyDeviceToDevice, streams[0]));  // after it
    CUDA_CHECK(cudaStreamSynchronize(streams[0]));
    EXPECT(a.host() == std::vector<float>(10, 12));
    EXPECT(c.host() == std::vector<float>(10, 4));
    me.leave();
  });
}

TEST_CASE("NCCL: several communicators, and the counts of their traffic") {
  all_well(2, [](Rank& me) {
    me.join();
    const ncclComm_t first = me.comm;
    me.meet();  // no rank still needs the first id
    if (me.rank == 0) {
      NCCL_OK(ncclGetUniqueId(&me.shared.id));
      me.shared.steps = 3;
    }
    wait_for([&] { return me.shared.steps == 3; });
    NCCL_OK(ncclCommInitRank(&me.comm, 2, me.shared.id, 1 - me.rank));  // ranks in reverse order
    const DeviceArray<bf16> part(std::vector<bf16>(100, bf16(1.0f))), whole(200);
    NCCL_OK(ncclAllGather(part.data(), whole.data(), 100, ncclBfloat16, first, nullptr));
    NCCL_OK(ncclReduceScatter(whole.data(), part.data(), 100, ncclBfloat16, ncclSum, me.comm, nullptr));
    NCCL_OK(ncclBroadcast(part.data(), part.data(), 7, ncclBfloat16, 0, first, nullptr));
    NCCL_OK(ncclBroadcast(part.data(), part.data(), 3, ncclInt8, 0, first, nullptr));
    EXPECT(to_float(part.host()[0]) == 2);
    auto traffic = cudasim::nccl_traffic();
    EXPECT(traffic["ncclAllGather"].elements == 200);
    EXPECT(traffic["ncclAllGather"].bytes == 400);
    EXPECT(traffic["ncclReduceScatter"].calls == 1);
    EXPECT(traffic["ncclReduceScatter"].bytes == 400);
    EXPECT(traffic["ncclBroadcast"].calls == 2);
    EXPECT(traffic["ncclBroadcast"].elements == 10);
    EXPECT(traffic["ncclBroadcast"].bytes == 17);
    EXPECT(traffic.count("ncclReduce") == 0);
    NCCL_OK(ncclCommDestroy(first));
    me.leave();
  });
}

// ---- reports -------------------------------------------------------------------------------------------------------

TEST_CASE("NCCL: when ranks make different calls, each rank reports both calls") {
  using Make = std::function<ncclResult_t(Rank&, void*)>;
  const auto all_reduce = [](size_t count, ncclDataType_t type, ncclRedOp_t op) -> Make {
    return [=](Rank& me, void* data) { return ncclAllReduce(data, data, count, type, op, me.comm, nullptr); };
  };
  const auto broadcast = [](int root) -> Make {
    return [=](Rank& me, void* data) { return ncclBroadcast(data, data, 5, ncclInt8, root, me.comm, nullptr); };
  };
  const Make scatter = [](Rank& me, void* data) {
    return ncclReduceScatter(data, data, 0, ncclFloat, ncclSum, me.comm, nullptr);
  };
  struct Case {
    Make zero, one;
    std::string zero_text, one_text;
  };
  const Case cases[] = {
      {all_reduce(50, ncclFloat, ncclSum), scatter, "ncclAllReduce of 50 float by ncclSum at ",
       "ncclReduceScatter of 0 float by ncclSum at "},
      {all_reduce(50, ncclFloat, ncclSum), all_reduce(51, ncclFloat, ncclSum), "of 50 float", "of 51 float"},
      {all_reduce(50, ncclInt32, ncclSum), all_reduce(50, ncclFloat, ncclSum), "of 50 int32", "of 50 float"},
      {all_reduce(50, ncclFloat, ncclMax), all_reduce(50, ncclFloat, ncclAvg), "by ncclMax", "by ncclAvg"},
      {broadcast(0), broadcast(1), "ncclBroadcast of 5 int8 from rank 0 at ", "from rank 1 at "},
  };
  for (const Case& c : cases) {
    const std::vector<Ended> ended = run_ranks(3, "20", [&](Rank& me) {
      me.join();
      const DeviceArray<float> data(std::vector<float>(100, 1));
      NCCL_OK(ncclAllReduce(data.data(), data.data(), 9, ncclFloat, ncclSum, me.comm, nullptr));
      NCCL_OK((me.rank == 1 ? c.one : c.zero)(me, data.data()));
      EXPECT(cudaDeviceSynchronize() == cudaErrorLaunchFailure);
      ncclResult_t error;
      NCCL_OK(ncclCommGetAsyncError(me.comm, &error));
      EXPECT(error == ncclInvalidUsage);
      EXPECT(all_reduce(1, ncclFloat, ncclSum)(me, data.data()) == ncclInvalidUsage);  // no longer usable
      EXPECT(ncclGetLastError(me.comm) == cudasim::last_report());
      CUDA_CHECK(cudaDeviceReset());
      NCCL_OK(ncclCommDestroy(me.comm));
    });
    for (const Ended& rank : ended) {
      INFO(rank.output);
      CHECK(rank.status == 0);
      CHECK(rank.output.find("rank 1 calls ") != std::string::npos);
      CHECK(rank.output.find(c.one_text) != std::string::npos);
      CHECK(rank.output.find(", rank 0 ") != std::string::npos);
      CHECK(rank.output.find(c.zero_text) != std::string::npos);
      CHECK(rank.output.find("test_cudasim_nccl.cu:") != std::string::npos);
      CHECK(rank.output.find("as call 2 of this communicator") != std::string::npos);
    }
  }
}

TEST_CASE("NCCL: an invalid call is refused, and the communicator stays usable") {
  all_report(2, "20", {"", ""}, [](Rank& me) {
    me.join();
    const DeviceArray<float> ten(10), twenty(20);
    std::vector<float> host(10);
    const auto refused = [&](ncclResult_t result, const std::string& text,
                             ncclResult_t expected = ncclInvalidArgument) {
      if (result != expected || cudasim::last_report().find(text) == std::string::npos)
        throw std::runtime_error("not in the report: " + text);
    };
    float *a = ten.data(), *b = twenty.data();
    const auto reduce = [&](const void* send, void* receive, size_t count, ncclDataType_t type = ncclFloat) {
      return ncclAllReduce(send, receive, count, type, ncclSum, me.comm, nullptr);
    };
    const auto gather = [&](const void* send, void* receive, size_t count) {
      return ncclAllGather(send, receive, count, ncclFloat, me.comm, nullptr);
    };
    const auto scatter = [&](const void* send, void* receive, size_t count) {
      return ncclReduceScatter(send, receive, count, ncclFloat, ncclSum, me.comm, nullptr);
    };
    refused(reduce(a, b, 40), "the send buffer of ncclAllReduce of 40 float by ncclSum at ");
    refused(reduce(b, a, 11), "the receive buffer of ncclAllReduce of 11 float");
    refused(reduce(b, a, 11), "leaves its allocation: 11 elements, 44 bytes\n  starts at address ");
    refused(reduce(b, a, 11), "byte 0 of an allocation of 40 bytes made at ");
    refused(reduce(a, b, 10, ncclDouble), "10 elements, 80 bytes");
    refused(gather(a, b, 11), "the send buffer of ncclAllGather");
    refused(gather(b, a, 6), "the receive buffer of ncclAllGather of 6 float");
    refused(scatter(a, b, 6), "the send buffer of ncclReduceScatter of 6 float");
    refused(reduce(host.data(), b, 10), "is not device memory\n  address ");
    refused(reduce(a, nullptr, 10), "the receive buffer of ncclAllReduce");
    refused(reduce(reinterpret_cast<char*>(b) + 2, a, 10), "does not begin at a multiple of 4 bytes");
    float* freed;
    CUDA_CHECK(cudaMalloc(&freed, 40));
    CUDA_CHECK(cudaFree(freed));
    refused(reduce(freed, a, 10), "freed since");
    refused(reduce(b, b + 1, 10), "the buffers of ncclAllReduce of 10 float by ncclSum at ");
    refused(gather(b + 5 * (1 - me.rank), b, 5), "in place is send == receive + rank * count");
    refused(scatter(b, b + 5 * (1 - me.rank), 5), "in place is receive == send + rank * count");
    refused(reduce(a, b, SIZE_MAX / 4), "the byte count overflows");
    refused(reduce(a, b, 1, ncclHalf), "with half elements");
    refused(reduce(a, b, 1, ncclFloat8e4m3), "with float8 e4m3 elements");
    refused(reduce(a, b, 1, static_cast<ncclDataType_t>(99)), "with no type elements");
    refused(ncclAllReduce(a, b, 1, ncclFloat, ncclNumOps, me.comm, nullptr), "with reduction 5");
    refused(ncclAllReduce(a, b, 1, ncclFloat, static_cast<ncclRedOp_t>(-1), me.comm, nullptr), "with reduction -1");
    refused(ncclBroadcast(a, b, 1, ncclFloat, 2, me.comm, nullptr), "with root 2 of 2 ranks");
    refused(ncclAllReduce(a, b, 1, ncclFloat, ncclSum, nullptr, nullptr), "ncclAllReduce is given no communicator");
    cudaStream_t stream;
    CUDA_CHECK(cudaStreamCreate(&stream));
    CUDA_CHECK(cudaStreamDestroy(stream));
    refused(ncclAllReduce(a, b, 1, ncclFloat, ncclSum, me.comm, stream), "is not a stream (destroyed?)");
    cudaGraph_t graph;
    CUDA_CHECK(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
    CUDA_CHECK(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal));
    refused(ncclAllReduce(a, b, 1, ncclFloat, ncclSum, me.comm, stream), "in a stream that is capturing: not modelled",
            ncclInvalidUsage);
    CUDA_CHECK(cudaStreamEndCapture(stream, &graph));
    refused(ncclGroupEnd(), "ncclGroupEnd without ncclGroupStart", ncclInvalidUsage);
    NCCL_OK(ncclGroupStart());  // a refused call makes its group fail
    NCCL_OK(reduce(a, b, 10));
    EXPECT(reduce(a, b, 40) == ncclInvalidArgument);
    EXPECT(ncclGroupEnd() == ncclInvalidArgument);
    NCCL_OK(ncclGroupStart());  // and so does one that became invalid
    CUDA_CHECK(cudaMalloc(&freed, 40));
    NCCL_OK(reduce(a, freed, 10));
    CUDA_CHECK(cudaFree(freed));
    EXPECT(ncclGroupEnd() == ncclInvalidArgument);
    EXPECT(cudasim::nccl_traffic().empty());
    refused(ncclGetUniqueId(nullptr), "ncclGetUniqueId is given a null pointer");
    refused(ncclGetVersion(nullptr), "ncclGetVersion is given a null pointer");
    ncclComm_t none;
    refused(ncclCommInitRank(&none, 2, ncclUniqueId{}, 0), "the id is not from ncclGetUniqueId");
    refused(ncclCommInitRank(&none, 2, me.shared.id, 2), "ncclCommInitRank of rank 2 of 2: no such rank");
    EXPECT(none == nullptr);
    EXPECT(cudaDeviceSynchronize() == cudaSuccess);

    float* pinned;  // a GPU can use it
    CUDA_CHECK(cudaMallocHost(&pinned, 40));
    for (int i = 0; i < 10; ++i) pinned[i] = 3;
    NCCL_OK(reduce(pinned, a, 10));
    EXPECT(ten.host() == std::vector<float>(10, 6));
    NCCL_OK(ncclCommFinalize(me.comm));
    refused(reduce(a, a, 10), "ncclAllReduce after ncclCommFinalize", ncclInvalidUsage);
    NCCL_OK(ncclCommDestroy(me.comm));
    refused(reduce(a, a, 10), "ncclAllReduce is given no communicator");
    refused(ncclCommDestroy(me.comm), "ncclCommDestroy is given no communicator");
  });
}

TEST_CASE("NCCL: a rank that has ended is named by the others") {
  const std::string text = "rank 2 has gone";
  all_report(3, "20", {text, text}, [](Rank& me) {
    me.join();
    const DeviceArray<float> data(std::vector<float>(1000, 1));
    NCCL_OK(ncclAllReduce(data.data(), data.data(), 1000, ncclFloat, ncclSum, me.comm, nullptr));
    CUDA_CHECK(cudaDeviceSynchronize());
    if (me.rank == 2) _exit(0);
    NCCL_OK(ncclAllReduce(data.data(), data.data(), 999, ncclFloat, ncclSum, me.comm, nullptr));
    EXPECT(cudaDeviceSynchronize() == cudaErrorLaunchFailure);
    ncclResult_t error;
    NCCL_OK(ncclCommGetAsyncError(me.comm, &error));
    EXPECT(error == ncclRemoteError);
    EXPECT(cudasim::last_report().find("waits for it in ncclAllReduce of 999 float by ncclSum at ") !=
           std::string::npos);
  });
}

TEST_CASE("NCCL: a rank whose device fails counts as ended for the others") {
  all_report(2, "20", {"rank 1 has gone", "write outside of allocations"}, [](Rank& me) {
    me.join();
    const DeviceArray<float> data(std::vector<float>(10, 1));
    if (me.rank == 1) launch(store_out_of_bounds_kernel, 1, 32, 0, nullptr, data.data() - (1 << 20) - 1);
    NCCL_OK(ncclAllReduce(data.data(), data.data(), 10, ncclFloat, ncclSum, me.comm, nullptr));
    EXPECT(cudaDeviceSynchronize() == (me.rank == 1 ? cudaErrorIllegalAddress : cudaErrorLaunchFailure));
    ncclResult_t error;
    NCCL_OK(ncclCommGetAsyncError(me.comm, &error));
    EXPECT(error == (me.rank == 1 ? ncclUnhandledCudaError : ncclRemoteError));
    if (me.rank == 0) me.shared.steps = 1;
    wait_for([&] { return me.shared.steps == 1; });  // rank 1 is still running when rank 0 detects it
  });
}

TEST_CASE("NCCL: a rank that does not call is named after the timeout") {
  const std::string text = "rank 1 has not called ncclBroadcast (call 1) for 0.5 s";
  all_report(3, "0.5", {text, "", text}, [](Rank& me) {
    me.join();
    if (me.rank != 1) {
      const DeviceArray<float> data(std::vector<float>(10, 1));
      NCCL_OK(ncclBroadcast(data.data(), data.data(), 10, ncclFloat, 0, me.comm, nullptr));
      EXPECT(cudaDeviceSynchronize() == cudaErrorLaunchFailure);
      ++me.shared.steps;
    }
    wait_for([&] { return me.shared.steps == 2; });
  });
}

TEST_CASE("NCCL: waiting ranks report ranks that do not join or join with other numbers") {
  const std::string missing = "rank 1, 3 of 4 did not arrive within 0.3 s";
  all_report(4, "0.3", {missing, "", missing, ""}, [](Rank& me) {
    const ncclUniqueId id = me.id();
    if (me.rank % 2 == 0) EXPECT(ncclCommInitRank(&me.comm, 4, id, me.rank) == ncclRemoteError);
    me.meet();
  });
  all_report(2, "20", {" says nranks ", " says nranks "}, [](Rank& me) {
    EXPECT(ncclCommInitRank(&me.comm, 3 + me.rank, me.id(), me.rank) == ncclRemoteError);
    me.meet();
  });
  const std::string twice = "two processes claim to be rank 1";
  all_report(2, "20", {twice, twice}, [](Rank& me) {
    EXPECT(ncclCommInitRank(&me.comm, 3, me.id(), 1) == ncclRemoteError);
    me.meet();
  });
  all_report(2, "0.3", {"", "ncclCommInitRank of rank 1 of 2: "}, [](Rank& me) {
    const ncclUniqueId id = me.id();
    if (me.rank == 0) return;
    EXPECT(ncclCommInitRank(&me.comm, 2, id, 1) == ncclRemoteError);
  });
}

TEST_CASE("NCCL: connections from other programs are closed and delay no rank") {
  all_well(2, [](Rank& me) {
    const ncclUniqueId id = me.id();
    if (me.rank == 1) {
      uint32_t address, port;  // after a tag and a number of 8 bytes each
      std::memcpy(&address, id.internal + 16, 4);
      std::memcpy(&port, id.internal + 20, 4);
      sockaddr_in to = {};
      to.sin_family = AF_INET;
      to.sin_addr.s_addr = address;
      to.sin_port = htons(static_cast<uint16_t>(port));
      const auto stranger = [&](const std::string& says) {
        const int fd = socket(AF_INET, SOCK_STREAM, 0);
        EXPECT(connect(fd, reinterpret_cast<const sockaddr*>(&to), sizeof to) == 0);
        EXPECT(write(fd, says.data(), says.size()) == static_cast<ssize_t>(says.size()));
        return fd;
      };
      stranger("");      // stays and sends nothing
      stranger("GET ");  // or too little
      const int fd = stranger("GET / HTTP/1.1\r\nHost: nobody.example\r\n\r\n");
      char byte;
      EXPECT(read(fd, &byte, 1) <= 0);  // closed
    }
    NCCL_OK(ncclCommInitRank(&me.comm, 2, id, me.rank));
    check_collectives<float>(me, 10, ncclSum);
    me.leave();
  });
}

TEST_CASE("NCCL: abort from another thread ends a waiting collective") {
  all_well(2, [](Rank& me) {
    me.join();
    const DeviceArray<float> data(std::vector<float>(10, 1));
    if (me.rank == 0) {
      NCCL_OK(ncclAllReduce(data.data(), data.data(), 10, ncclFloat, ncclSum, me.comm, nullptr));
      NCCL_OK(ncclAllReduce(data.data(), data.data(), 10, ncclFloat, ncclSum, me.comm, nullptr));
      std::thread other([&] {
        usleep(100'000);
        ncclResult_t error;
        NCCL_OK(ncclCommGetAsyncError(me.comm, &error));  // asking does not wait
        EXPECT(error == ncclSuccess);
        NCCL_OK(ncclCommAbort(me.comm));
      });
      CUDA_CHECK(cudaDeviceSynchronize());
      other.join();
      me.shared.steps = 1;
    }
    wait_for([&] { return me.shared.steps == 1; });
    if (me.rank == 1) NCCL_OK(ncclCommAbort(me.comm));
  });
}

TEST_CASE("NCCL: a communicator does not survive cudaDeviceReset with queued calls") {
  all_report(2, "20", {"", "rank 0 has gone"}, [](Rank& me) {
    me.join();
    const DeviceArray<float> data(std::vector<float>(10, 1));
    NCCL_OK(ncclAllReduce(data.data(), data.data(), 10, ncclFloat, ncclSum, me.comm, nullptr));
    if (me.rank == 0) {
      CUDA_CHECK(cudaDeviceReset());
      ncclResult_t error;
      NCCL_OK(ncclCommGetAsyncError(me.comm, &error));
      EXPECT(error == ncclUnhandledCudaError);
      me.shared.steps = 1;
      NCCL_OK(ncclCommDestroy(me.comm));
    }
    wait_for([&] { return me.shared.steps == 1; });
    if (me.rank == 1) EXPECT(cudaDeviceSynchronize() == cudaErrorLaunchFailure);
  });
}

TEST_CASE("NCCL: the environment variables, versions and error texts") {
  all_well(2, [](Rank& me) {
    setenv("CUDASIM_NCCL_ADDR", "localhost", 1);
    me.join();
    check_collectives<float>(me, 10, ncclSum);
    me.leave();
    int version = 0;
    NCCL_OK(ncclGetVersion(&version));
    EXPECT(version == NCCL_VERSION_CODE);
    EXPECT(std::string(ncclGetErrorString(ncclInvalidUsage)) == "invalid usage");
    EXPECT(std::string(ncclGetErrorString(ncclNumResults)) == "unknown result");
    EXPECT(std::string(ncclGetLastError(nullptr)).empty());
  });
  all_report(1, "20", {"ncclGetUniqueId fails: CUDASIM_NCCL_ADDR=no.such.name.invalid: "}, [](Rank&) {
    setenv("CUDASIM_NCCL_ADDR", "no.such.name.invalid", 1);
    ncclUniqueId id;
    EXPECT(ncclGetUniqueId(&id) == ncclSystemError);
  });
  all_report(1, "soon", {"CUDASIM_NCCL_TIMEOUT=soon: expected seconds"}, [](Rank&) {
    ncclUniqueId id;
    EXPECT(ncclGetUniqueId(&id) == ncclUnhandledCudaError);
  });
}
