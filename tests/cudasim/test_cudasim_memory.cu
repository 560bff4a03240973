// cudasim's host side: device memory that host code cannot touch, streams in which nothing happens until the host
// waits, events, errors, and the environment variables.
#include <cudasim.h>
#include <doctest/doctest.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <numeric>

#include "tests/helpers/cudasim_checks.h"

namespace {

template <class T>
__global__ void add_kernel(T* inout, T value, int n) {
  const int i = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x);
  if (i < n) inout[i] += value;
}

template <class T>
__global__ void multiply_kernel(T* inout, T value, int n) {
  const int i = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x);
  if (i < n) inout[i] *= value;
}

template <class T>
__global__ void copy_kernel(T* out, const T* inp, int n) {
  for (int i = static_cast<int>(threadIdx.x); i < n; i += static_cast<int>(blockDim.x)) out[i] = inp[i];
}

template <class T>
__global__ void write_one_kernel(T* out, int64_t at) {
  if (threadIdx.x == 5) out[at] = T{1};
}

template <class T>
__global__ void read_one_kernel(T* out, const T* inp, int64_t at) {
  if (threadIdx.x == 5) *out = inp[at];
}

struct Child {
  int status;
  std::string output;  // stdout and stderr
};

// Runs f in a child process.
template <class F>
Child in_child(F&& f) {
  int ends[2];
  REQUIRE(pipe(ends) == 0);
  std::fflush(stdout);
  const pid_t pid = fork();
  REQUIRE(pid >= 0);
  if (pid == 0) {
    dup2(ends[1], 1);
    dup2(ends[1], 2);
    signal(SIGSEGV, SIG_DFL);  // not the test framework's handler,
    void* anything;
    cudaMalloc(&anything, 1);  // only cudasim's
    f();
    std::fflush(stdout);
    _exit(0);
  }
  close(ends[1]);
  Child child;
  char text[4096];
  for (ssize_t n; (n = read(ends[0], text, sizeof text)) > 0;) child.output.append(text, static_cast<size_t>(n));
  close(ends[0]);
  waitpid(pid, &child.status, 0);
  return child;
}

// Runs the test case `name` of this program in a process with `variable` = `value`.
Child rerun(const std::string& name, const std::string& variable, const std::string& value) {
  return in_child([&] {
    setenv(variable.c_str(), value.c_str(), 1);
    unsetenv("CUDASIM_KERNELS");
    const std::string filter = "--test-case=" + name;
    execl("/proc/self/exe", "test", filter.c_str(), "--no-skip", static_cast<char*>(nullptr));
  });
}

bool contains(const std::string& text, const std::string& part) {
  INFO(text, "\nlacks: ", part);
  CHECK(text.find(part) != std::string::npos);
  return text.find(part) != std::string::npos;
}

}  // namespace

// ---- memory --------------------------------------------------------------------------------------------------------

TEST_CASE("Fresh device and pinned memory is NaN") {
  float *device, *pinned;
  CUDA_CHECK(cudaMalloc(&device, 3000 * sizeof(float)));
  CUDA_CHECK(cudaMallocHost(&pinned, 3000 * sizeof(float)));
  CHECK(reinterpret_cast<uintptr_t>(device) % 256 == 0);
  CHECK(reinterpret_cast<uintptr_t>(pinned) % 256 == 0);
  for (int i = 0; i < 3000; ++i) REQUIRE(__float_as_uint(pinned[i]) == 0xffffffffu);
  pinned[7] = 0;
  CUDA_CHECK(cudaMemcpy(pinned, device, 3000 * sizeof(float), cudaMemcpyDeviceToHost));
  for (int i = 0; i < 3000; ++i) REQUIRE(__float_as_uint(pinned[i]) == 0xffffffffu);
  CUDA_CHECK(cudaFree(device));
  CUDA_CHECK(cudaFreeHost(pinned));
  CHECK(cudaFree(nullptr) == cudaSuccess);
  CHECK(cudaFreeHost(nullptr) == cudaSuccess);
}

TEST_CASE("Host code that touches device memory dies with an explanation") {
  const DeviceArray<int> array(100);
  const volatile int* element = array.data() + 25;
  Child child = in_child([&] { std::printf("%d\n", *element); });
  CHECK(WIFSIGNALED(child.status));
  CHECK(WTERMSIG(child.status) == SIGSEGV);
  CHECK(contains(child.output, "host code touched device memory: it read address "));
  CHECK(contains(child.output, "byte 100 of an allocation of 400 bytes made at "));
  CHECK(contains(child.output, "tests/helpers/device.h:"));

  launch(add_kernel<int>, 1, 100, 0, nullptr, array.data(), 1, 100);  // closed again after work has run
  CUDA_CHECK(cudaDeviceSynchronize());
  child = in_child([&] { array.data()[99] = 1; });
  CHECK(WIFSIGNALED(child.status));
  CHECK(contains(child.output, "host code touched device memory: it wrote to address "));
  CHECK(contains(child.output, "byte 396 of an allocation of 400 bytes made at "));
}

TEST_CASE("cudasim does not report other faults of host code") {
  const Child child = in_child([] {
    void* closed = mmap(nullptr, 4096, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    *static_cast<volatile int*>(closed) = 1;
  });
  CHECK(WIFSIGNALED(child.status));
  CHECK(WTERMSIG(child.status) == SIGSEGV);
  CHECK(child.output.empty());
}

TEST_CASE("Accesses of kernels outside allocations are reported: red zones, closed pages, freed memory, null") {
  const auto check = [](int64_t at, cudaError_t status, const std::vector<std::string>& parts, auto&& start) {
    const DeviceArray<float> array(100), other(1);
    start(array.data(), other.data(), at);
    check_report(status, parts);
  };
  const auto write = [](float* array, float*, int64_t at) {
    launch(write_one_kernel<float>, 1, 32, 0, nullptr, array, at);
  };
  const auto read = [](float* array, float* other, int64_t at) {
    launch(read_one_kernel<float>, 1, 32, 0, nullptr, other, array, at);
  };
  // Near the allocation: detected after the kernel, by the pattern.
  check(100, cudaErrorIllegalAddress,
        {"write outside of allocations in ", "write_one_kernel<float>",
         "0 bytes past the end of an allocation of 400 bytes"},
        write);
  check(-1, cudaErrorIllegalAddress,
        {"write outside of allocations", "4 bytes before the start of an allocation of 400 bytes"}, write);
  // Farther away: reported at once, with the thread.
  check(128, cudaErrorIllegalAddress,
        {"access outside of allocations in ", "write_one_kernel<float>, block (0, 0, 0)",
         "thread (5, 0, 0) (warp 0, lane 5)", "wrote to address ",
         "112 bytes past the end of an allocation of 400 bytes made at ", "tests/helpers/device.h:"},
        write);
  check(1000, cudaErrorIllegalAddress, {"access outside of allocations in ", "read_one_kernel<float>", "read address "},
        read);
  check(-2000, cudaErrorIllegalAddress, {"access outside of allocations in ", "bytes before the start"}, read);

  float* freed;
  CUDA_CHECK(cudaMalloc(&freed, 400));
  CUDA_CHECK(cudaFree(freed));
  launch(write_one_kernel<float>, 1, 32, 0, nullptr, freed, 3);
  check_report(cudaErrorIllegalAddress,
               {"access outside", "byte 12 of an allocation of 400 bytes made at ", "and freed since"});
  launch(write_one_kernel<float>, 1, 32, 0, nullptr, static_cast<float*>(nullptr), 3);
  check_report(cudaErrorIllegalAddress,
               {"access outside", "thread (5, 0, 0)", "0xc, neither device nor pinned memory"});
}

#if defined(__x86_64__)
TEST_CASE("An access of 16 bytes to a misaligned address is reported") {
  typedef float Vector __attribute__((vector_size(16)));  // moved by instructions that insist on alignment
  const Child child = in_child([] {
    const DeviceArray<float> array(100);
    launch(write_one_kernel<Vector>, 1, 32, 0, nullptr, reinterpret_cast<Vector*>(array.data() + 1), 1);
    std::printf("%s\n", cudaGetErrorName(cudaDeviceSynchronize()));
  });
  CHECK(contains(child.output, "misaligned address"));  // UndefinedBehaviorSanitizer, where enabled, reports it first
  if (WEXITSTATUS(child.status) == 0) {
    CHECK(contains(child.output, "thread (5, 0, 0) (warp 0, lane 5)"));
    CHECK(contains(child.output, "cudaErrorMisalignedAddress"));
  }
}
#endif

TEST_CASE("Copies are checked against allocations and the direction") {
  const DeviceArray<float> array(100);
  std::vector<float> host(100);
  static_cast<void>(cudaGetLastError());
  CHECK(cudaMemcpy(host.data(), array.data() + 1, 400, cudaMemcpyDeviceToHost) == cudaErrorInvalidValue);
  CHECK(contains(cudasim::last_report(), "the source of a copy of 400 bytes leaves its allocation"));
  CHECK(cudaMemcpy(array.data(), host.data(), 401, cudaMemcpyHostToDevice) == cudaErrorInvalidValue);
  CHECK(cudaMemcpy(array.data(), host.data(), 400, cudaMemcpyDeviceToHost) == cudaErrorInvalidValue);
  CHECK(cudaMemcpy(host.data(), host.data(), 400, cudaMemcpyDeviceToDevice) == cudaErrorInvalidValue);
  CHECK(cudaMemset(array.data(), 0, 401) == cudaErrorInvalidValue);
  CHECK(cudaMemset(host.data(), 0, 4) == cudaErrorInvalidValue);
  CHECK(cudaGetLastError() == cudaErrorInvalidValue);
  CHECK(cudaGetLastError() == cudaSuccess);
  CHECK(cudaMemcpy(array.data(), host.data(), 400, cudaMemcpyDefault) == cudaSuccess);
  CHECK(cudaMemcpy(array.data(), host.data(), 0, cudaMemcpyHostToDevice) == cudaSuccess);
  CHECK(cudaFree(array.data() + 1) == cudaErrorInvalidValue);
  CHECK(cudaFree(host.data()) == cudaErrorInvalidValue);
  CHECK(cudaFreeHost(array.data()) == cudaErrorInvalidValue);
  void* twice;
  CUDA_CHECK(cudaMalloc(&twice, 8));
  CHECK(cudaFree(twice) == cudaSuccess);
  CHECK(cudaFree(twice) == cudaErrorInvalidValue);
  CHECK(contains(cudasim::last_report(), "and freed since"));
  static_cast<void>(cudaGetLastError());
}

TEST_CASE("Copies of rows and fills of bytes") {
  std::vector<int> host(30);
  std::iota(host.begin(), host.end(), 0);
  const DeviceArray<int> array(40);
  CUDA_CHECK(cudaMemset(array.data(), 0, 160));
  CUDA_CHECK(cudaMemcpy2DAsync(array.data() + 1, 32, host.data(), 40, 12, 3, cudaMemcpyHostToDevice));
  const std::vector<int> result = array.host();
  for (int i = 0; i < 40; ++i) {
    const int y = (i - 1) / 8, x = (i - 1) % 8;
    CHECK(result[static_cast<size_t>(i)] == (i >= 1 && y < 3 && x < 3 ? 10 * y + x : 0));
  }
  CHECK(cudaMemcpy2D(array.data(), 8, host.data(), 40, 12, 3, cudaMemcpyHostToDevice) == cudaErrorInvalidPitchValue);
  static_cast<void>(cudaGetLastError());
}

TEST_CASE("Memory is limited; untouched memory costs nothing") {
  size_t free = 0, total = 0;
  CUDA_CHECK(cudaMemGetInfo(&free, &total));
  CHECK(total == size_t{64} << 30);
  const size_t before = free;
  void *a = nullptr, *b = nullptr;
  CHECK(cudaMalloc(&a, size_t{65} << 30) == cudaErrorMemoryAllocation);
  CHECK(a == nullptr);
  CHECK(cudaGetLastError() == cudaErrorMemoryAllocation);
  CHECK(cudaMalloc(&a, size_t{40} << 30) == cudaSuccess);
  CUDA_CHECK(cudaMemGetInfo(&free, &total));
  CHECK(free == before - (size_t{40} << 30));
  CHECK(cudaMalloc(&b, size_t{40} << 30) == cudaErrorMemoryAllocation);
  float host[2] = {3, 4};
  char* middle = static_cast<char*>(a) + (size_t{37} << 30);
  CUDA_CHECK(cudaMemcpy(middle, host, 4, cudaMemcpyHostToDevice));
  CUDA_CHECK(cudaMemcpy(host, middle, 8, cudaMemcpyDeviceToHost));
  CHECK(host[0] == 3);
  CHECK(__float_as_uint(host[1]) == 0xffffffffu);
  CHECK(cudaFree(a) == cudaSuccess);
  CHECK(cudaMalloc(&b, size_t{40} << 30) == cudaSuccess);
  CHECK(cudaFree(b) == cudaSuccess);
  CHECK(cudaMalloc(&b, SIZE_MAX) == cudaErrorMemoryAllocation);
  CUDA_CHECK(cudaMemGetInfo(&free, &total));
  CHECK(free == before);
  static_cast<void>(cudaGetLastError());
}

// ---- streams -------------------------------------------------------------------------------------------------------

namespace {

struct Stream {
  cudaStream_t handle;
  explicit Stream(unsigned flags = cudaStreamNonBlocking) { CUDA_CHECK(cudaStreamCreateWithFlags(&handle, flags)); }
  ~Stream() { cudaStreamDestroy(handle); }
};

struct Event {
  cudaEvent_t handle;
  Event() { CUDA_CHECK(cudaEventCreate(&handle)); }
  ~Event() { cudaEventDestroy(handle); }
};

template <class T>
struct Pinned {
  T* data = nullptr;
  explicit Pinned(size_t n) { CUDA_CHECK(cudaMallocHost(&data, n * sizeof(T))); }
  ~Pinned() { cudaFreeHost(data); }
};

}  // namespace

TEST_CASE("No work runs before the host waits") {
  for_all_schedules([] {
    const Stream stream;
    const DeviceArray<int> array(std::vector<int>(10, 1));
    const Pinned<int> pinned(10);
    std::vector<int> pageable(10, -1);
    for (int i = 0; i < 10; ++i) pinned.data[i] = -1;
    launch(add_kernel<int>, 1, 32, 0, stream.handle, array.data(), 5, 10);
    CUDA_CHECK(cudaMemcpyAsync(pinned.data, array.data(), 40, cudaMemcpyDeviceToHost, stream.handle));
    CUDA_CHECK(cudaMemcpyAsync(pageable.data(), array.data(), 40, cudaMemcpyDeviceToHost, stream.handle));
    CHECK(pinned.data[3] == -1);
    CHECK(pageable[3] == -1);
    CUDA_CHECK(cudaStreamSynchronize(stream.handle));
    CHECK(pinned.data[3] == 6);
    CHECK(pageable[3] == 6);
  });
}

TEST_CASE("Waiting for one stream does not run another that it does not depend on") {
  const Stream a, b;
  const Pinned<int> done(2);
  const DeviceArray<int> ones(std::vector<int>(1, 1));
  done.data[0] = done.data[1] = 0;
  CUDA_CHECK(cudaMemcpyAsync(done.data, ones.data(), 4, cudaMemcpyDeviceToHost, a.handle));
  CUDA_CHECK(cudaMemcpyAsync(done.data + 1, ones.data(), 4, cudaMemcpyDeviceToHost, b.handle));
  CUDA_CHECK(cudaStreamSynchronize(b.handle));
  CHECK(done.data[0] == 0);
  CHECK(done.data[1] == 1);
  CUDA_CHECK(cudaDeviceSynchronize());
  CHECK(done.data[0] == 1);
}

TEST_CASE("Copies from pageable memory read it at the call, copies from pinned memory read it later") {
  for_all_schedules([] {
    const Stream stream;
    const DeviceArray<int> from_pageable(1), from_pinned(1);
    int pageable = 1;
    const Pinned<int> pinned(1);
    *pinned.data = 1;
    CUDA_CHECK(cudaMemcpyAsync(from_pageable.data(), &pageable, 4, cudaMemcpyHostToDevice, stream.handle));
    CUDA_CHECK(cudaMemcpyAsync(from_pinned.data(), pinned.data, 4, cudaMemcpyHostToDevice, stream.handle));
    pageable = *pinned.data = 2;
    CHECK(from_pageable.host()[0] == 1);
    CHECK(from_pinned.host()[0] == 2);
  });
}

TEST_CASE("Streams are ordered only by events") {
  int wrong = 0;
  for_all_schedules([&] {
    for (const bool wait : {true, false}) {
      const Stream producer, consumer;
      const Event ready;
      const DeviceArray<int> array(std::vector<int>(100, 1));
      launch(add_kernel<int>, 4, 32, 0, producer.handle, array.data(), 2, 100);
      CUDA_CHECK(cudaEventRecord(ready.handle, producer.handle));
      if (wait) CUDA_CHECK(cudaStreamWaitEvent(consumer.handle, ready.handle));
      launch(multiply_kernel<int>, 4, 32, 0, consumer.handle, array.data(), 10, 100);
      CUDA_CHECK(cudaStreamSynchronize(consumer.handle));
      const std::vector<int> result = array.host();
      if (wait) CHECK(result == std::vector<int>(100, 30));
      if (!wait && result != std::vector<int>(100, 30)) ++wrong;
    }
  });
  CHECK(wrong >= 2);  // without the event some schedules show the error
}

TEST_CASE("Waiting for an event means its last recording before the wait") {
  for_all_schedules([] {
    const Stream a, b;
    const Event event;
    const DeviceArray<int> array(std::vector<int>(1, 1));
    CUDA_CHECK(cudaStreamWaitEvent(b.handle, event.handle));  // never recorded: nothing to wait for
    launch(add_kernel<int>, 1, 1, 0, a.handle, array.data(), 1, 1);
    CUDA_CHECK(cudaEventRecord(event.handle, a.handle));
    CUDA_CHECK(cudaStreamWaitEvent(b.handle, event.handle));
    launch(multiply_kernel<int>, 1, 1, 0, b.handle, array.data(), 10, 1);
    CUDA_CHECK(cudaEventRecord(event.handle, b.handle));
    CUDA_CHECK(cudaStreamWaitEvent(a.handle, event.handle));
    launch(add_kernel<int>, 1, 1, 0, a.handle, array.data(), 3, 1);
    CUDA_CHECK(cudaEventSynchronize(event.handle));
    CUDA_CHECK(cudaStreamSynchronize(a.handle));
    CHECK(array.host()[0] == 23);
  });
}

TEST_CASE("The default stream and blocking streams wait for each other, others do not") {
  for_all_schedules([] {
    const Stream a(cudaStreamDefault), b(cudaStreamDefault);
    const DeviceArray<int> array(std::vector<int>(1, 1));
    launch(add_kernel<int>, 1, 1, 0, a.handle, array.data(), 1, 1);               // 2
    launch(multiply_kernel<int>, 1, 1, 0, nullptr, array.data(), 10, 1);          // 20, after a
    launch(add_kernel<int>, 1, 1, 0, b.handle, array.data(), 1, 1);               // 21, after the default stream
    launch(multiply_kernel<int>, 1, 1, 0, cudaStreamLegacy, array.data(), 3, 1);  // 63
    launch(add_kernel<int>, 1, 1, 0, a.handle, array.data(), 7, 1);               // 70
    CUDA_CHECK(cudaStreamSynchronize(a.handle));
    CHECK(array.host()[0] == 70);
  });
  const Stream apart;
  const Pinned<int> done(1);
  *done.data = 0;
  const DeviceArray<int> one(std::vector<int>(1, 1));
  CUDA_CHECK(cudaMemcpyAsync(done.data, one.data(), 4, cudaMemcpyDeviceToHost, apart.handle));
  CUDA_CHECK(cudaStreamSynchronize(nullptr));
  CHECK(*done.data == 0);
  CUDA_CHECK(cudaStreamSynchronize(apart.handle));
  CHECK(*done.data == 1);
}

TEST_CASE("Synchronous calls: cudaMemcpy and cudaFree wait, cudaMemset and copies within the device do not") {
  const DeviceArray<int> a(std::vector<int>(1, 1)), b(1);
  const Pinned<int> seen(1);
  *seen.data = 0;
  const Stream blocking(cudaStreamDefault);
  CUDA_CHECK(cudaMemcpyAsync(seen.data, a.data(), 4, cudaMemcpyDeviceToHost, blocking.handle));
  CUDA_CHECK(cudaMemset(b.data(), 0, 4));
  CUDA_CHECK(cudaMemcpy(b.data(), a.data(), 4, cudaMemcpyDeviceToDevice));
  size_t free, total;
  CUDA_CHECK(cudaMemGetInfo(&free, &total));
  CHECK(*seen.data == 0);
  int host = 0;
  CUDA_CHECK(cudaMemcpy(&host, b.data(), 4, cudaMemcpyDeviceToHost));
  CHECK(host == 1);
  CHECK(*seen.data == 1);
  *seen.data = 0;
  CUDA_CHECK(cudaMemcpyAsync(seen.data, a.data(), 4, cudaMemcpyDeviceToHost, blocking.handle));
  void* other;
  CUDA_CHECK(cudaMalloc(&other, 4));
  CHECK(*seen.data == 0);
  CUDA_CHECK(cudaFree(other));
  CHECK(*seen.data == 1);
}

TEST_CASE("Queries make progress; the time between events is measured") {
  const Stream stream;
  const Event start, end;
  const DeviceArray<int> array(std::vector<int>(1, 0));
  float milliseconds = -1;
  CUDA_CHECK(cudaEventRecord(start.handle, stream.handle));
  for (int i = 0; i < 5; ++i) launch(add_kernel<int>, 1, 1, 0, stream.handle, array.data(), 1, 1);
  CUDA_CHECK(cudaEventRecord(end.handle, stream.handle));
  CHECK(cudaEventElapsedTime(&milliseconds, start.handle, end.handle) == cudaErrorNotReady);
  int polls = 0;
  while (cudaEventQuery(end.handle) == cudaErrorNotReady) ++polls;
  CHECK(polls == 7);
  CHECK(cudaStreamQuery(stream.handle) == cudaSuccess);
  CHECK(cudaEventElapsedTime(&milliseconds, start.handle, end.handle) == cudaSuccess);
  CHECK(milliseconds >= 0);
  CHECK(cudaGetLastError() == cudaSuccess);  // "not ready" is not an error
  CUDA_CHECK(cudaMemsetAsync(array.data(), 0, 4, stream.handle));
  CHECK(cudaStreamQuery(stream.handle) == cudaErrorNotReady);
  CHECK(cudaStreamQuery(stream.handle) == cudaSuccess);
}

TEST_CASE("Invalid handles are errors") {
  cudaStream_t stream;
  CUDA_CHECK(cudaStreamCreate(&stream));
  CHECK(cudaStreamDestroy(stream) == cudaSuccess);
  CHECK(cudaStreamDestroy(stream) == cudaErrorInvalidResourceHandle);
  CHECK(cudaStreamSynchronize(stream) == cudaErrorInvalidResourceHandle);
  CHECK(cudaStreamDestroy(nullptr) == cudaErrorInvalidResourceHandle);
  cudaEvent_t event;
  CUDA_CHECK(cudaEventCreateWithFlags(&event, cudaEventDisableTiming));
  CHECK(cudaEventRecord(event, stream) == cudaErrorInvalidResourceHandle);
  CUDA_CHECK(cudaEventRecord(event));
  CUDA_CHECK(cudaEventSynchronize(event));
  float milliseconds;
  CHECK(cudaEventElapsedTime(&milliseconds, event, event) == cudaErrorInvalidResourceHandle);  // without timing
  CHECK(cudaEventDestroy(event) == cudaSuccess);
  CHECK(cudaEventQuery(event) == cudaErrorInvalidResourceHandle);
  static_cast<void>(cudaGetLastError());
}

TEST_CASE("An error of a kernel persists, stops the work queued after it, and is cleared by cudaDeviceReset") {
  const DeviceArray<float> array(10);
  const Pinned<float> copy(10);
  copy.data[0] = 1;
  launch(write_one_kernel<float>, 1, 32, 0, nullptr, array.data(), int64_t{1} << 20);
  CUDA_CHECK(cudaMemcpyAsync(copy.data, array.data(), 40, cudaMemcpyDeviceToHost));
  CHECK(cudaPeekAtLastError() == cudaSuccess);  // nothing has run yet
  CHECK(cudaDeviceSynchronize() == cudaErrorIllegalAddress);
  CHECK(copy.data[0] == 1);
  CHECK(cudaPeekAtLastError() == cudaErrorIllegalAddress);
  CHECK(cudaGetLastError() == cudaErrorIllegalAddress);
  CHECK(cudaGetLastError() == cudaErrorIllegalAddress);
  void* more = nullptr;
  CHECK(cudaMalloc(&more, 4) == cudaErrorIllegalAddress);
  CHECK_THROWS_AS(launch(write_one_kernel<float>, 1, 32, 0, nullptr, array.data(), 0), CudaError);
  CHECK(cudaDeviceReset() == cudaSuccess);
  CHECK(cudaGetLastError() == cudaSuccess);
  CHECK(cudaMalloc(&more, 4) == cudaSuccess);
  CHECK(cudaFree(more) == cudaSuccess);
}

TEST_CASE("A forked child has its own workers") {
  const DeviceArray<int> array(std::vector<int>(1, 1));
  CUDA_CHECK(cudaDeviceSynchronize());
  const Child child = in_child([&] {
    launch(add_kernel<int>, 1, 1, 0, nullptr, array.data(), 41, 1);
    std::printf("%d", array.host()[0]);
  });
  CHECK(child.output == "42");
}

// ---- the device and the environment ---------------------------------------------------------------------------------

TEST_CASE("The device's properties") {
  int count = 0, device = -1, value = 0;
  CHECK(cudaGetDeviceCount(&count) == cudaSuccess);
  CHECK(count == 1);
  CHECK(cudaGetDevice(&device) == cudaSuccess);
  CHECK(device == 0);
  CHECK(cudaSetDevice(0) == cudaSuccess);
  CHECK(cudaSetDevice(1) == cudaErrorInvalidDevice);
  cudaDeviceProp properties;
  CHECK(cudaGetDeviceProperties(&properties, 0) == cudaSuccess);
  CHECK(std::string(properties.name) == "cudasim");
  CHECK(properties.major == 8);
  CHECK(properties.minor == 0);
  CHECK(properties.multiProcessorCount == 4);
  CHECK(properties.warpSize == 32);
  CHECK(cudaDeviceGetAttribute(&value, cudaDevAttrMaxSharedMemoryPerBlockOptin, 0) == cudaSuccess);
  CHECK(value == 227 * 1024);
  CHECK(cudaDeviceGetAttribute(&value, cudaDevAttrMaxBlockDimZ, 0) == cudaSuccess);
  CHECK(value == 64);
  CHECK(cudaGetDeviceProperties(&properties, 1) == cudaErrorInvalidDevice);
  CHECK(std::string(cudaGetErrorName(cudaErrorInvalidDevice)) == "cudaErrorInvalidDevice");
  CHECK(std::string(cudaGetErrorString(cudaErrorNoDevice)) == "no CUDA-capable device is detected");
  static_cast<void>(cudaGetLastError());
}

TEST_CASE("child: report" * doctest::skip()) {  // run by a case below
  int count = -1;
  const cudaError_t status = cudaGetDeviceCount(&count);
  std::printf("devices %d %s\n", count, cudaGetErrorName(status));
  cudaDeviceProp properties = {};
  if (cudaGetDeviceProperties(&properties, 0) == cudaSuccess)
    std::printf("capability %d.%d\n", properties.major, properties.minor);
  size_t free = 0, total = 0;
  std::printf("memory %s", cudaGetErrorName(cudaMemGetInfo(&free, &total)));
  std::printf(" %zu\n", total);
  void* p;
  std::printf("malloc %s\n", cudaGetErrorName(cudaMalloc(&p, 1001)));
  std::printf("malloc again %s\n", cudaGetErrorName(cudaMalloc(&p, 1000)));
}

TEST_CASE("child: order" * doctest::skip()) {
  struct Local {
    static void kernel(int* order, int* count) { order[atomicAdd(count, 1)] = static_cast<int>(threadIdx.x); }
  };
  const DeviceArray<int> order(32), count(std::vector<int>{0});
  launch(Local::kernel, 1, 32, 0, nullptr, order.data(), count.data());
  for (const int i : order.host()) std::printf("%d ", i);
  std::printf("\n");
}

TEST_CASE("The environment: devices, memory, schedule, threads; invalid values are errors") {
  CHECK(contains(rerun("child: report", "CUDASIM_DEVICES", "0").output, "devices 0 cudaErrorNoDevice"));
  CHECK(contains(rerun("child: report", "CUDASIM_DEVICES", "0").output, "malloc cudaErrorNoDevice"));
  CHECK(contains(rerun("child: report", "CUDASIM_DEVICES", "1").output, "devices 1 cudaSuccess"));
  CHECK(contains(rerun("child: report", "CUDASIM_MEMORY", "2000").output,
                 "memory cudaSuccess 2000\nmalloc cudaSuccess\nmalloc again cudaErrorMemoryAllocation"));
  CHECK(contains(rerun("child: report", "CUDASIM_MEMORY", "2001").output, "malloc again cudaSuccess"));
  CHECK(contains(rerun("child: report", "CUDASIM_MEMORY", "2000").output, "capability 8.0"));
  CHECK(contains(rerun("child: report", "CUDASIM_CAPABILITY", "75").output, "capability 7.5"));
  CHECK(contains(rerun("child: order", "CUDASIM_SCHEDULE", "forward").output, "0 1 2 3 4 5 "));
  CHECK(contains(rerun("child: order", "CUDASIM_SCHEDULE", "reverse").output, "31 30 29 "));
  const std::string random = rerun("child: order", "CUDASIM_SCHEDULE", "random:7").output;
  CHECK(random == rerun("child: order", "CUDASIM_SCHEDULE", "random:7").output);
  CHECK(random != rerun("child: order", "CUDASIM_SCHEDULE", "random:8").output);
  CHECK(contains(rerun("child: order", "CUDASIM_THREADS", "3").output, "0 1 2 3 4 5 "));
  for (const auto& [variable, value] :
       std::vector<std::pair<std::string, std::string>>{{"CUDASIM_DEVICES", "2"},
                                                        {"CUDASIM_DEVICES", ""},
                                                        {"CUDASIM_MEMORY", "64G"},
                                                        {"CUDASIM_MEMORY", "-1"},
                                                        {"CUDASIM_CAPABILITY", "8.0"},
                                                        {"CUDASIM_SCHEDULE", "backward"},
                                                        {"CUDASIM_SCHEDULE", "random"},
                                                        {"CUDASIM_SCHEDULE", "random:x"},
                                                        {"CUDASIM_THREADS", "0"},
                                                        {"CUDASIM_THREADS", "two"}}) {
    const std::string output = rerun("child: report", variable, value).output;
    CHECK(contains(output, "cudasim: " + variable + "=" + value + ": expected "));
    CHECK(contains(output, "malloc cudaErrorInitializationError"));
  }
}

TEST_CASE("CUDASIM_KERNELS: the names of the kernels that ran are appended to the file") {
  char path[] = "/tmp/cudasim_kernels_XXXXXX";
  const int file = mkstemp(path);
  REQUIRE(file >= 0);
  for (int run = 0; run < 2; ++run) {
    in_child([&] {
      setenv("CUDASIM_KERNELS", path, 1);
      execl("/proc/self/exe", "test", "--test-case=Copies from pageable*,Streams are ordered*",
            static_cast<char*>(nullptr));
    });
  }
  char text[1000] = {};
  CHECK(read(file, text, sizeof text - 1) > 0);
  close(file);
  unlink(path);
  const std::string once = "(anonymous namespace)::add_kernel\n(anonymous namespace)::multiply_kernel\n";
  CHECK(std::string(text) == once + once);
}
