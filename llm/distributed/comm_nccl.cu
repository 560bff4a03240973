#include <algorithm>
#include <string>

#include "kernels/common.cuh"
#include "llm/distributed/comm_nccl.h"
#include "llm/support/error.h"

void choose_gpu(const Group& group) {
  if (group.size() == 1) return;
  int devices = 0;
  CUDA_CHECK(cudaGetDeviceCount(&devices));
  if (devices == 1) return;  // each process may see a different one
  if (group.local_rank() >= devices) {
    fail("process %d of this machine has no GPU: there are %d; start as many processes per machine as it has GPUs",
         group.local_rank() + 1, devices);
  }
  CUDA_CHECK(cudaSetDevice(group.local_rank()));
}

#ifdef WROUGHT_NCCL

#include <nccl.h>

namespace {

#define NCCL_CHECK(call) check_nccl((call), #call, __FILE__, __LINE__)

void check_nccl(ncclResult_t result, const char* call, const char* file, int line) {
  if (result == ncclSuccess || result == ncclInProgress) return;
  fail("%s:%d: %s: %s (%s); NCCL_DEBUG=INFO says more", file, line, call, ncclGetErrorString(result),
       ncclGetLastError(nullptr));
}

ncclDataType_t type_of(Number type) {
  return type == Number::f64 ? ncclFloat64 : type == Number::f32 ? ncclFloat32 : ncclBfloat16;
}

// Its own stream, and events: a collective begins when what the caller had queued is done, and the caller's queue waits
// where wait() says so. The host never waits.
class NcclComm final : public Comm {
 public:
  explicit NcclComm(const Group& group) : Comm(group.rank(), group.size()), group_(group) {
    ncclUniqueId id{};
    group.on_root([&] { NCCL_CHECK(ncclGetUniqueId(&id)); });
    const std::string bytes = group.broadcast(std::string(id.internal, sizeof id.internal));
    std::copy(bytes.begin(), bytes.end(), id.internal);
    group.together([&] { NCCL_CHECK(ncclCommInitRank(&comm_, size(), id, rank())); });
    CUDA_CHECK(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking));
    CUDA_CHECK(cudaEventCreateWithFlags(&ready_, cudaEventDisableTiming));
    for (Collective& one : collectives_) {
      CUDA_CHECK(cudaEventCreate(&one.begun));
      CUDA_CHECK(cudaEventCreate(&one.done));
    }
    for (Wait& one : waits_) CUDA_CHECK(cudaEventCreate(&one.begun));
  }
  ~NcclComm() override {
    cudaStreamSynchronize(stream_);
    ncclCommDestroy(comm_);
    for (const Wait& one : waits_) cudaEventDestroy(one.begun);
    for (const Collective& one : collectives_) {
      cudaEventDestroy(one.begun);
      cudaEventDestroy(one.done);
    }
    cudaEventDestroy(ready_);
    cudaStreamDestroy(stream_);
  }

  void attach(void* stream) override { caller_ = static_cast<cudaStream_t>(stream); }
  void wait(Ticket ticket) override {
    Wait& wait = waits_[++waits_queued_ % kEvents];
    wait.ticket = ticket;
    CUDA_CHECK(cudaEventRecord(wait.begun, caller_));
    // An old ticket's event may serve a later collective by now; waiting for that one covers this one, too.
    CUDA_CHECK(cudaStreamWaitEvent(caller_, collectives_[ticket % kEvents].done));
  }

  // Covers the collectives and waits that are done; the others are measured next time, unless later ones have reused
  // their events.
  CommTime take_time() override {
    CommTime time;
    for (measured_ = std::max(measured_, queued_ - kEvents); measured_ < queued_; ++measured_) {
      const Collective& one = collectives_[(measured_ + 1) % kEvents];
      if (!done(one.done)) break;
      time.busy += seconds_between(one.begun, one.done);
    }
    for (waits_measured_ = std::max(waits_measured_, waits_queued_ - kEvents); waits_measured_ < waits_queued_;
         ++waits_measured_) {
      const Wait& wait = waits_[(waits_measured_ + 1) % kEvents];
      if (wait.ticket > measured_ || !done(wait.begun)) break;
      if (wait.ticket <= queued_ - kEvents) continue;
      time.waited += std::max(0.0, seconds_between(wait.begun, collectives_[wait.ticket % kEvents].done));
    }
    return time;
  }

 private:
  struct Collective {
    cudaEvent_t begun, done;
  };
  struct Wait {
    cudaEvent_t begun;
    Ticket ticket;
  };

  template <class Call>
  Ticket queue(Call&& call) {
    CUDA_CHECK(cudaEventRecord(ready_, caller_));
    CUDA_CHECK(cudaStreamWaitEvent(stream_, ready_));
    const Ticket ticket = ++queued_;
    const Collective& one = collectives_[ticket % kEvents];
    CUDA_CHECK(cudaEventRecord(one.begun, stream_));
    NCCL_CHECK(call());
    CUDA_CHECK(cudaEventRecord(one.done, stream_));
    return ticket;
  }
  static size_t elements(int64_t count) { return static_cast<size_t>(count); }

  Ticket queue_all_reduce(void* data, int64_t count, Number type) override {
    return queue([&] { return ncclAllReduce(data, data, elements(count), type_of(type), ncclSum, comm_, stream_); });
  }
  Ticket queue_reduce_scatter(void* out, const void* in, int64_t count, Number type) override {
    return queue([&] { return ncclReduceScatter(in, out, elements(count), type_of(type), ncclSum, comm_, stream_); });
  }
  Ticket queue_all_gather(void* out, const void* in, int64_t count, Number type) override {
    return queue([&] { return ncclAllGather(in, out, elements(count), type_of(type), comm_, stream_); });
  }
  Ticket queue_broadcast(void* data, int64_t count, Number type, int root) override {
    return queue([&] { return ncclBroadcast(data, data, elements(count), type_of(type), root, comm_, stream_); });
  }
  void wait_for_all() override {
    CUDA_CHECK(cudaStreamSynchronize(stream_));
    group_.barrier();
  }

  static bool done(cudaEvent_t event) {
    const cudaError_t status = cudaEventQuery(event);
    if (status != cudaErrorNotReady) CUDA_CHECK(status);
    if (status == cudaErrorNotReady) (void)cudaGetLastError();  // or a later call would report it
    return status == cudaSuccess;
  }
  static double seconds_between(cudaEvent_t from, cudaEvent_t to) {
    float milliseconds = 0;
    CUDA_CHECK(cudaEventElapsedTime(&milliseconds, from, to));
    return 1e-3 * milliseconds;
  }

  static constexpr int64_t kEvents = 1024;
  const Group& group_;
  ncclComm_t comm_ = nullptr;
  cudaStream_t stream_ = nullptr, caller_ = nullptr;
  cudaEvent_t ready_ = nullptr;
  Collective collectives_[kEvents] = {};
  Wait waits_[kEvents] = {};
  int64_t queued_ = 0, measured_ = 0, waits_queued_ = 0, waits_measured_ = 0;
};

}  // namespace

std::unique_ptr<Comm> make_nccl_comm(const Group& group) { return std::make_unique<NcclComm>(group); }

#else

std::unique_ptr<Comm> make_nccl_comm(const Group&) {
  fail(
      "this program was built without NCCL, and cannot train on several GPUs: install it (nccl.h and libnccl) and "
      "build again");
}

#endif
