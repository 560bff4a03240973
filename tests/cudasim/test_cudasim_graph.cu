// cudasim's graphs: does a captured sequence do at each launch what direct calls would do, with the arguments of the
// capture and the memory of the launch, and is everything that CUDA forbids during a capture an error?
#include <cudasim.h>
#include <doctest/doctest.h>

#include <functional>
#include <thread>

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
__global__ void append_kernel(T* order, T* count, T value) {  // one thread
  order[(*count)++] = value;
}

template <class T>
__global__ void lanes_kernel(T* order, T* count) {
  order[atomicAdd(count, 1)] = static_cast<T>(blockIdx.x * blockDim.x + threadIdx.x);
}

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

// What `calls` queues to the stream, captured.
struct Graph {
  cudaGraph_t graph = nullptr;
  cudaGraphExec_t executable = nullptr;
  template <class Calls>
  Graph(const Stream& stream, Calls&& calls) {
    CUDA_CHECK(cudaStreamBeginCapture(stream.handle, cudaStreamCaptureModeThreadLocal));
    calls();
    CUDA_CHECK(cudaStreamEndCapture(stream.handle, &graph));
    CUDA_CHECK(cudaGraphInstantiate(&executable, graph));
  }
  ~Graph() {
    cudaGraphExecDestroy(executable);
    cudaGraphDestroy(graph);
  }
  size_t nodes() const {
    size_t count = 0;
    CUDA_CHECK(cudaGraphGetNodes(graph, nullptr, &count));
    return count;
  }
  void launch(const Stream& stream) const { CUDA_CHECK(cudaGraphLaunch(executable, stream.handle)); }
};

cudaStreamCaptureStatus capture_status(const Stream& stream) {
  cudaStreamCaptureStatus status;
  CUDA_CHECK(cudaStreamIsCapturing(stream.handle, &status));
  return status;
}

void wait(const Stream& stream, const Event& event, const Stream& other) {  // stream waits for other
  CUDA_CHECK(cudaEventRecord(event.handle, other.handle));
  CUDA_CHECK(cudaStreamWaitEvent(stream.handle, event.handle));
}

}  // namespace

TEST_CASE("A captured sequence runs at each launch, with the arguments of the capture, and not before") {
  for_all_schedules([] {
    const Stream stream;
    const DeviceArray<int> array(std::vector<int>(10, 1)), copy(10), rows(10);
    const Pinned<int> seen(10);
    seen.data[9] = -1;
    int value = 5;
    CHECK(capture_status(stream) == cudaStreamCaptureStatusNone);
    const Graph graph(stream, [&] {
      CHECK(capture_status(stream) == cudaStreamCaptureStatusActive);
      launch(add_kernel<int>, 1, 32, 0, stream.handle, array.data(), value, 10);
      CUDA_CHECK(cudaMemsetAsync(rows.data(), 0, 40, stream.handle));
      CUDA_CHECK(cudaMemcpyAsync(copy.data(), array.data(), 40, cudaMemcpyDeviceToDevice, stream.handle));
      CUDA_CHECK(cudaMemcpy2DAsync(rows.data(), 8, copy.data(), 8, 4, 5, cudaMemcpyDeviceToDevice, stream.handle));
      launch(multiply_kernel<int>, 1, 32, 0, stream.handle, rows.data(), 10, 10);
      CUDA_CHECK(cudaMemcpyAsync(seen.data, rows.data(), 40, cudaMemcpyDeviceToHost, stream.handle));
    });
    value = 1000;
    CHECK(capture_status(stream) == cudaStreamCaptureStatusNone);
    CHECK(graph.nodes() == 6);
    CHECK(array.host() == std::vector<int>(10, 1));
    for (int run = 1; run <= 3; ++run) {
      graph.launch(stream);
      CUDA_CHECK(cudaStreamSynchronize(stream.handle));
      const int sum = 1 + 5 * run;
      CHECK(array.host() == std::vector<int>(10, sum));
      for (int i = 0; i < 10; ++i) CHECK(seen.data[i] == (i % 2 ? 0 : 10 * sum));
    }
  });
}

TEST_CASE("A captured copy reads the host's memory at each launch, pageable memory too") {
  const Stream stream;
  const DeviceArray<int> array(2);
  const Pinned<int> pinned(1);
  int pageable = 1;
  const Graph graph(stream, [&] {
    CUDA_CHECK(cudaMemcpyAsync(array.data(), &pageable, 4, cudaMemcpyHostToDevice, stream.handle));
    CUDA_CHECK(cudaMemcpyAsync(array.data() + 1, pinned.data, 4, cudaMemcpyHostToDevice, stream.handle));
  });
  for (const int value : {3, 4}) {
    pageable = *pinned.data = value;
    graph.launch(stream);
    CHECK(array.host() == std::vector<int>{value, value});
  }
}

TEST_CASE("Launches of graphs keep their order with other work of the stream and with each other") {
  for_all_schedules([] {
    const Stream stream, other;
    const DeviceArray<int> array(std::vector<int>(4, 1));
    const Graph graph(stream, [&] {
      launch(add_kernel<int>, 1, 32, 0, stream.handle, array.data(), 1, 4);
      launch(multiply_kernel<int>, 1, 32, 0, stream.handle, array.data(), 10, 4);
    });
    launch(add_kernel<int>, 1, 32, 0, stream.handle, array.data(), 2, 4);       // 3
    graph.launch(stream);                                                       // 40
    launch(multiply_kernel<int>, 1, 32, 0, stream.handle, array.data(), 2, 4);  // 80
    graph.launch(stream);                                                       // 810
    graph.launch(other);                                                        // 8110: after its last launch
    CUDA_CHECK(cudaStreamSynchronize(other.handle));
    CHECK(array.host() == std::vector<int>(4, 8110));
  });
}

TEST_CASE("An executable graph may be launched after the graph is destroyed, and be destroyed before it runs") {
  const Stream stream;
  const DeviceArray<int> array(std::vector<int>(4, 1));
  cudaGraphExec_t executable;
  {
    const Graph graph(stream, [&] { launch(add_kernel<int>, 1, 32, 0, stream.handle, array.data(), 1, 4); });
    CUDA_CHECK(cudaGraphInstantiate(&executable, graph.graph));
    graph.launch(stream);
  }
  CUDA_CHECK(cudaGraphLaunch(executable, stream.handle));
  CUDA_CHECK(cudaGraphExecDestroy(executable));
  CHECK(array.host() == std::vector<int>(4, 3));
  CHECK(cudaGraphLaunch(executable, stream.handle) == cudaErrorInvalidValue);
  CHECK(cudaGraphExecDestroy(executable) == cudaErrorInvalidValue);
  static_cast<void>(cudaGetLastError());
}

TEST_CASE("An empty capture is an empty graph") {
  const Stream stream;
  const Graph graph(stream, [] {});
  CHECK(graph.nodes() == 0);
  graph.launch(stream);
  CUDA_CHECK(cudaStreamSynchronize(stream.handle));
}

TEST_CASE("cudaGraphGetNodes fills the array that it is given") {
  const Stream stream;
  const DeviceArray<int> array(4);
  const Graph graph(stream, [&] {
    for (int i = 0; i < 3; ++i) CUDA_CHECK(cudaMemsetAsync(array.data(), i, 16, stream.handle));
  });
  int mark;
  const auto unset = reinterpret_cast<cudaGraphNode_t>(&mark);
  cudaGraphNode_t nodes[4] = {unset, unset, unset, unset};
  size_t count = 2;
  CHECK(cudaGraphGetNodes(graph.graph, nodes, &count) == cudaSuccess);
  CHECK(count == 2);
  CHECK(nodes[1] != unset);
  CHECK(nodes[2] == unset);
  count = 4;
  CHECK(cudaGraphGetNodes(graph.graph, nodes, &count) == cudaSuccess);
  CHECK(count == 3);
  CHECK(nodes[2] != nodes[1]);
  CHECK(nodes[3] == nullptr);
  CHECK(cudaGraphGetNodes(nullptr, nodes, &count) == cudaErrorInvalidValue);
  static_cast<void>(cudaGetLastError());
}

TEST_CASE("Launches of a graph are counted, and ordered at random, as direct launches are") {
  const Stream stream;
  const DeviceArray<int> order(2 * 5 * 70), count(std::vector<int>{0});
  const auto calls = [&] {
    launch(lanes_kernel<int>, 5, 70, 0, stream.handle, order.data(), count.data());
    launch(lanes_kernel<int>, 5, 70, 0, stream.handle, order.data(), count.data());
  };
  const Graph graph(stream, calls);
  const std::string name = "(anonymous namespace)::lanes_kernel<int>";
  const auto run = [&](auto&& start) {
    cudasim::set_threads(1);
    cudasim::set_schedule(cudasim::Schedule::random, 7);
    const uint64_t before = cudasim::kernel_launches()[name];
    CUDA_CHECK(cudaMemsetAsync(count.data(), 0, 4, stream.handle));
    start();
    std::vector<int> result = order.host();
    CHECK(cudasim::kernel_launches()[name] == before + 2);
    cudasim::set_schedule(cudasim::Schedule::forward);
    cudasim::set_threads(2);
    return result;
  };
  const std::vector<int> direct = run(calls), launched = run([&] { graph.launch(stream); });
  CHECK(launched == direct);
  CHECK(std::vector<int>(direct.begin(), direct.begin() + 350) != std::vector<int>(direct.begin() + 350, direct.end()));
}

// ---- several streams -----------------------------------------------------------------------------------------------

TEST_CASE("Streams join a capture by waiting for its events; only those order the nodes of different streams") {
  std::set<std::vector<int>> orders;
  for_all_schedules([&] {
    const Stream a, b;
    const Event fork, join;
    const DeviceArray<int> order(4), count(std::vector<int>{0});
    const auto append = [&](const Stream& stream, int value) {
      launch(append_kernel<int>, 1, 1, 0, stream.handle, order.data(), count.data(), value);
    };
    const Graph graph(a, [&] {
      append(a, 1);
      wait(b, fork, a);
      CHECK(capture_status(b) == cudaStreamCaptureStatusActive);
      append(a, 2);
      append(b, 3);
      wait(a, join, b);
      append(a, 4);
    });
    CHECK(graph.nodes() == 4);
    CHECK(capture_status(b) == cudaStreamCaptureStatusNone);
    for (int run = 0; run < 4; ++run) {
      CUDA_CHECK(cudaMemsetAsync(count.data(), 0, 4, a.handle));
      graph.launch(a);
      CUDA_CHECK(cudaStreamSynchronize(a.handle));
      orders.insert(order.host());
    }
  });
  CHECK(orders == std::set<std::vector<int>>{{1, 2, 3, 4}, {1, 3, 2, 4}});
}

TEST_CASE("An event of a capture means the place where it was recorded last before the wait") {
  for_all_schedules([] {
    const Stream a, b, c;
    const Event event;
    const DeviceArray<int> array(std::vector<int>(1, 1));
    const auto add = [&](const Stream& stream) { launch(add_kernel<int>, 1, 1, 0, stream.handle, array.data(), 1, 1); };
    const auto multiply = [&](const Stream& stream) {
      launch(multiply_kernel<int>, 1, 1, 0, stream.handle, array.data(), 10, 1);
    };
    const Graph graph(a, [&] {
      add(a);  // 2
      wait(b, event, a);
      multiply(b);  // 20
      wait(c, event, b);
      add(c);  // 21
      wait(a, event, c);
      multiply(a);  // 210
    });
    graph.launch(b);
    CUDA_CHECK(cudaStreamSynchronize(b.handle));
    CHECK(array.host()[0] == 210);
  });
}

TEST_CASE("Other streams' work may come between the nodes of a launch") {
  bool between = false;
  for_all_schedules([&] {
    const Stream a, b;
    const DeviceArray<int> order(8), count(std::vector<int>{0});
    const auto append = [&](const Stream& stream, int value) {
      launch(append_kernel<int>, 1, 1, 0, stream.handle, order.data(), count.data(), value);
    };
    const Graph graph(a, [&] {
      for (int i = 0; i < 4; ++i) append(a, i);
    });
    graph.launch(a);
    for (int i = 10; i < 14; ++i) append(b, i);
    const std::vector<int> result = order.host();
    const bool grouped = result == std::vector<int>{0, 1, 2, 3, 10, 11, 12, 13} ||
                         result == std::vector<int>{10, 11, 12, 13, 0, 1, 2, 3};
    between = between || !grouped;
  });
  CHECK(between);
}

// ---- what a capture forbids ----------------------------------------------------------------------------------------

namespace {

// `call` fails with `expected` while `stream` captures, and breaks the capture; the report names the call.
void check_forbidden(const Stream& stream, cudaStreamCaptureMode mode, cudaError_t expected, const std::string& name,
                     const std::function<cudaError_t()>& call) {
  INFO(name);
  const DeviceArray<int> array(4);
  CUDA_CHECK(cudaStreamBeginCapture(stream.handle, mode));
  CUDA_CHECK(cudaMemsetAsync(array.data(), 0, 16, stream.handle));
  CHECK(call() == expected);
  CHECK(cudaGetLastError() == expected);
  CHECK(cudasim::last_report().find(name + " breaks a stream's capture: " + cudaGetErrorString(expected)) == 0);
  CHECK(capture_status(stream) == cudaStreamCaptureStatusInvalidated);
  CHECK(cudaMemsetAsync(array.data(), 0, 16, stream.handle) == cudaErrorStreamCaptureInvalidated);
  CHECK(cudaStreamSynchronize(stream.handle) == cudaErrorStreamCaptureInvalidated);
  cudaGraph_t graph = reinterpret_cast<cudaGraph_t>(&mode);
  CHECK(cudaStreamEndCapture(stream.handle, &graph) == cudaErrorStreamCaptureInvalidated);
  CHECK(graph == nullptr);
  CHECK(capture_status(stream) == cudaStreamCaptureStatusNone);
  CUDA_CHECK(cudaMemsetAsync(array.data(), 0, 16, stream.handle));
  CUDA_CHECK(cudaStreamSynchronize(stream.handle));
  CHECK(array.host() == std::vector<int>(4, 0));
  static_cast<void>(cudaGetLastError());
}

}  // namespace

TEST_CASE("During a capture: no allocation, no synchronous copy, no waiting, no query; in relaxed mode only the last") {
  const Stream stream, other;
  const Event event;
  CUDA_CHECK(cudaEventRecord(event.handle, other.handle));
  const DeviceArray<int> array(4);
  int host[4];
  void *device = nullptr, *pinned = nullptr;
  CUDA_CHECK(cudaMalloc(&device, 4));
  CUDA_CHECK(cudaMallocHost(&pinned, 4));
  void* more = nullptr;
  const std::vector<std::pair<std::string, std::function<cudaError_t()>>> unrecorded = {
      {"cudaMalloc", [&] { return cudaMalloc(&more, 4); }},
      {"cudaFree", [&] { return cudaFree(device); }},
      {"cudaHostAlloc", [&] { return cudaHostAlloc(&more, 4, cudaHostAllocDefault); }},
      {"cudaFreeHost", [&] { return cudaFreeHost(pinned); }},
      {"cudaMemcpy", [&] { return cudaMemcpy(host, array.data(), 16, cudaMemcpyDeviceToHost); }},
      {"cudaMemcpy2D", [&] { return cudaMemcpy2D(host, 4, array.data(), 4, 4, 4, cudaMemcpyDeviceToHost); }},
      {"cudaMemset", [&] { return cudaMemset(array.data(), 0, 16); }},
      {"cudaStreamSynchronize", [&] { return cudaStreamSynchronize(other.handle); }},
      {"cudaStreamQuery", [&] { return cudaStreamQuery(other.handle); }},
      {"cudaEventSynchronize", [&] { return cudaEventSynchronize(event.handle); }},
      {"cudaEventQuery", [&] { return cudaEventQuery(event.handle); }}};
  for (const auto& [name, call] : unrecorded) {
    for (const cudaStreamCaptureMode mode : {cudaStreamCaptureModeGlobal, cudaStreamCaptureModeThreadLocal})
      check_forbidden(stream, mode, cudaErrorStreamCaptureUnsupported, name, call);
  }
  for (const auto& [name, call] : unrecorded) {
    if (name == "cudaStreamQuery" || name == "cudaEventQuery") continue;  // "not ready"
    INFO(name);
    const Graph graph(stream, [] {});
    cudaGraph_t relaxed;
    CUDA_CHECK(cudaStreamBeginCapture(stream.handle, cudaStreamCaptureModeRelaxed));
    CHECK(call() == cudaSuccess);
    CHECK(cudaStreamEndCapture(stream.handle, &relaxed) == cudaSuccess);
    CUDA_CHECK(cudaGraphDestroy(relaxed));
  }
  for (const cudaStreamCaptureMode mode :
       {cudaStreamCaptureModeGlobal, cudaStreamCaptureModeThreadLocal, cudaStreamCaptureModeRelaxed}) {
    const auto forbidden = [&](cudaError_t expected, const char* name, const std::function<cudaError_t()>& call) {
      check_forbidden(stream, mode, expected, name, call);
    };
    forbidden(cudaErrorStreamCaptureUnsupported, "cudaDeviceSynchronize", [] { return cudaDeviceSynchronize(); });
    forbidden(cudaErrorStreamCaptureUnsupported, "cudaStreamSynchronize",
              [&] { return cudaStreamSynchronize(stream.handle); });
    forbidden(cudaErrorStreamCaptureUnsupported, "cudaStreamQuery", [&] { return cudaStreamQuery(stream.handle); });
    forbidden(cudaErrorStreamCaptureUnsupported, "cudaStreamDestroy", [&] { return cudaStreamDestroy(stream.handle); });
    forbidden(cudaErrorIllegalState, "cudaStreamBeginCapture",
              [&] { return cudaStreamBeginCapture(stream.handle, mode); });
  }
}

TEST_CASE("A capture of one thread: another thread may allocate, unless the mode is global; only that thread ends it") {
  const Stream stream;
  cudaGraph_t graph;
  cudaError_t allocated, ended;
  const auto elsewhere = [&] {
    std::thread([&] {
      void* memory = nullptr;
      allocated = cudaMalloc(&memory, 4);
      if (memory) cudaFree(memory);
      ended = cudaStreamEndCapture(stream.handle, &graph);
    }).join();
  };
  CUDA_CHECK(cudaStreamBeginCapture(stream.handle, cudaStreamCaptureModeThreadLocal));
  elsewhere();
  CHECK(allocated == cudaSuccess);
  CHECK(ended == cudaErrorStreamCaptureWrongThread);
  CHECK(cudaStreamEndCapture(stream.handle, &graph) == cudaErrorStreamCaptureInvalidated);
  CUDA_CHECK(cudaStreamBeginCapture(stream.handle, cudaStreamCaptureModeGlobal));
  elsewhere();
  CHECK(allocated == cudaErrorStreamCaptureUnsupported);
  CHECK(cudaStreamEndCapture(stream.handle, &graph) == cudaErrorStreamCaptureInvalidated);
  CUDA_CHECK(cudaStreamBeginCapture(stream.handle, cudaStreamCaptureModeRelaxed));
  elsewhere();
  CHECK(allocated == cudaSuccess);
  CHECK(ended == cudaSuccess);
  CUDA_CHECK(cudaGraphDestroy(graph));
  static_cast<void>(cudaGetLastError());
}

TEST_CASE("The legacy stream cannot be captured, or used while a blocking stream is") {
  const Stream blocking(cudaStreamDefault), apart;
  const DeviceArray<int> array(std::vector<int>(4, 1));
  const Event event;
  CHECK(cudaStreamBeginCapture(nullptr, cudaStreamCaptureModeRelaxed) == cudaErrorStreamCaptureUnsupported);
  CHECK(cudaStreamBeginCapture(cudaStreamLegacy, cudaStreamCaptureModeRelaxed) == cudaErrorStreamCaptureUnsupported);
  cudaStreamCaptureStatus status;
  cudaGraph_t graph;
  CUDA_CHECK(cudaStreamBeginCapture(blocking.handle, cudaStreamCaptureModeRelaxed));
  CHECK(cudaStreamIsCapturing(nullptr, &status) == cudaErrorStreamCaptureImplicit);
  CUDA_CHECK(cudaStreamEndCapture(blocking.handle, &graph));  // asking has not broken it
  CUDA_CHECK(cudaGraphDestroy(graph));
  const std::vector<std::pair<std::string, std::function<cudaError_t()>>> uses = {
      {"cudaMemset", [&] { return cudaMemset(array.data(), 0, 16); }},
      {"cudaMemsetAsync", [&] { return cudaMemsetAsync(array.data(), 0, 16); }},
      {"cudaEventRecord", [&] { return cudaEventRecord(event.handle); }},
      {"cudaStreamWaitEvent", [&] { return cudaStreamWaitEvent(nullptr, event.handle); }},
      {"cudaStreamSynchronize", [&] { return cudaStreamSynchronize(nullptr); }}};
  for (const auto& [name, call] : uses)
    check_forbidden(blocking, cudaStreamCaptureModeRelaxed, cudaErrorStreamCaptureImplicit, name, call);
  CUDA_CHECK(cudaStreamBeginCapture(apart.handle, cudaStreamCaptureModeThreadLocal));  // does not concern it
  CUDA_CHECK(cudaMemsetAsync(array.data(), 0, 16));
  CUDA_CHECK(cudaStreamEndCapture(apart.handle, &graph));
  CUDA_CHECK(cudaGraphDestroy(graph));
  CHECK(array.host() == std::vector<int>(4, 0));
  static_cast<void>(cudaGetLastError());
}

TEST_CASE("Events do not cross the border of a capture") {
  const Stream stream, other;
  const Event inside, outside;
  const DeviceArray<int> array(4);
  CUDA_CHECK(cudaEventRecord(outside.handle, other.handle));
  const auto record = [&] { CUDA_CHECK(cudaEventRecord(inside.handle, stream.handle)); };
  const auto forbidden = [&](cudaError_t expected, const char* name, const std::function<cudaError_t()>& call) {
    check_forbidden(stream, cudaStreamCaptureModeThreadLocal, expected, name, call);
  };
  forbidden(cudaErrorStreamCaptureIsolation, "cudaStreamWaitEvent",
            [&] { return cudaStreamWaitEvent(stream.handle, outside.handle); });
  forbidden(cudaErrorCapturedEvent, "cudaEventSynchronize", [&] {
    record();
    return cudaEventSynchronize(inside.handle);
  });
  forbidden(cudaErrorCapturedEvent, "cudaEventQuery", [&] {
    record();
    return cudaEventQuery(inside.handle);
  });
  forbidden(cudaErrorStreamCaptureImplicit, "cudaStreamWaitEvent", [&] {
    record();
    return cudaStreamWaitEvent(nullptr, inside.handle);
  });
  const Graph graph(stream, record);
  CHECK(cudaEventQuery(inside.handle) == cudaErrorCapturedEvent);
  CHECK(cudaStreamWaitEvent(other.handle, inside.handle) == cudaErrorCapturedEvent);
  forbidden(cudaErrorCapturedEvent, "cudaStreamWaitEvent",
            [&] { return cudaStreamWaitEvent(stream.handle, inside.handle); });
  CUDA_CHECK(cudaEventRecord(inside.handle, other.handle));  // an ordinary one again
  CUDA_CHECK(cudaEventSynchronize(inside.handle));
  CUDA_CHECK(cudaStreamBeginCapture(stream.handle, cudaStreamCaptureModeThreadLocal));
  record();
  CUDA_CHECK(cudaStreamBeginCapture(other.handle, cudaStreamCaptureModeThreadLocal));
  CHECK(cudaStreamWaitEvent(other.handle, inside.handle) == cudaErrorStreamCaptureMerge);
  cudaGraph_t none;
  CHECK(cudaStreamEndCapture(other.handle, &none) == cudaErrorStreamCaptureInvalidated);
  CHECK(cudaStreamWaitEvent(other.handle, inside.handle) == cudaErrorStreamCaptureInvalidated);
  CHECK(capture_status(other) == cudaStreamCaptureStatusNone);
  CHECK(cudaStreamEndCapture(stream.handle, &none) == cudaErrorStreamCaptureInvalidated);
  static_cast<void>(cudaGetLastError());
}

TEST_CASE("A capture ends in its first stream, with the work of all others joined") {
  const Stream stream, other;
  const Event fork, join;
  const DeviceArray<int> array(std::vector<int>(4, 1));
  cudaGraph_t graph;
  CHECK(cudaStreamEndCapture(stream.handle, &graph) == cudaErrorIllegalState);
  const auto begin = [&](bool work) {
    CUDA_CHECK(cudaStreamBeginCapture(stream.handle, cudaStreamCaptureModeThreadLocal));
    wait(other, fork, stream);
    if (work) CUDA_CHECK(cudaMemsetAsync(array.data(), 0, 16, other.handle));
  };
  begin(true);
  CHECK(cudaStreamEndCapture(stream.handle, &graph) == cudaErrorStreamCaptureUnjoined);
  CHECK(graph == nullptr);
  CHECK(capture_status(stream) == cudaStreamCaptureStatusNone);
  CHECK(capture_status(other) == cudaStreamCaptureStatusNone);
  begin(true);
  CHECK(cudaStreamEndCapture(other.handle, &graph) == cudaErrorStreamCaptureUnmatched);
  CHECK(cudaStreamEndCapture(stream.handle, &graph) == cudaErrorStreamCaptureInvalidated);
  begin(false);  // no work to join
  CHECK(cudaStreamEndCapture(stream.handle, &graph) == cudaSuccess);
  CUDA_CHECK(cudaGraphDestroy(graph));
  begin(true);
  wait(stream, join, other);
  CHECK(cudaStreamEndCapture(stream.handle, &graph) == cudaSuccess);
  CUDA_CHECK(cudaGraphDestroy(graph));
  CHECK(cudaGraphDestroy(graph) == cudaErrorInvalidValue);
  CHECK(array.host() == std::vector<int>(4, 1));
  static_cast<void>(cudaGetLastError());
}

TEST_CASE("A graph within a graph is not modelled") {
  const Stream stream;
  const Graph graph(stream, [] {});
  check_forbidden(stream, cudaStreamCaptureModeRelaxed, cudaErrorNotSupported, "cudaGraphLaunch",
                  [&] { return cudaGraphLaunch(graph.executable, stream.handle); });
}

TEST_CASE("Wrong arguments are errors at the capture; they do not break it") {
  const Stream stream;
  const DeviceArray<int> array(4);
  int host[4];
  const Graph graph(stream, [&] {
    CHECK(cudaMemcpyAsync(array.data(), host, 20, cudaMemcpyHostToDevice, stream.handle) == cudaErrorInvalidValue);
    CHECK(cudaMemsetAsync(host, 0, 16, stream.handle) == cudaErrorInvalidValue);
    CHECK_THROWS_AS(launch(add_kernel<int>, 1, 2000, 0, stream.handle, array.data(), 1, 4), CudaError);
  });
  CHECK(graph.nodes() == 0);
  CHECK(cudaStreamBeginCapture(stream.handle, static_cast<cudaStreamCaptureMode>(3)) == cudaErrorInvalidValue);
  CHECK(cudaGraphLaunch(graph.executable, reinterpret_cast<cudaStream_t>(&host)) == cudaErrorInvalidResourceHandle);
  cudaGraphExec_t executable;
  CHECK(cudaGraphInstantiate(&executable, nullptr) == cudaErrorInvalidValue);
  static_cast<void>(cudaGetLastError());
}

// ---- memory that is gone -------------------------------------------------------------------------------------------

TEST_CASE("A launch whose memory was freed is reported: by kernels, copies and memsets") {
  const int line = __LINE__ + 3;
  for (const int kind : {0, 1, 2}) {
    const Stream stream;
    int* freed = nullptr;
    CUDA_CHECK(cudaMalloc(&freed, 16));
    int host[4] = {};
    const Graph graph(stream, [&] {
      if (kind == 0) launch(add_kernel<int>, 1, 4, 0, stream.handle, freed, 1, 4);
      if (kind == 1) CUDA_CHECK(cudaMemcpyAsync(freed, host, 16, cudaMemcpyHostToDevice, stream.handle));
      if (kind == 2) CUDA_CHECK(cudaMemsetAsync(freed, 0, 16, stream.handle));
    });
    CUDA_CHECK(cudaFree(freed));
    graph.launch(stream);
    check_report(cudaErrorIllegalAddress,
                 {kind == 0   ? "access outside of allocations in (anonymous namespace)::add_kernel<int>"
                  : kind == 1 ? "the target of a copy of 16 bytes leaves its allocation"
                              : "the target of a memset of 16 bytes leaves its allocation",
                  "tests/cudasim/test_cudasim_graph.cu:" + std::to_string(line + 1), "freed since at"});
  }
}

TEST_CASE("An error of a node stops the nodes after it; a reset ends captures and graphs") {
  const Stream stream;
  const DeviceArray<int> array(std::vector<int>(4, 1));
  const Pinned<int> seen(1);
  *seen.data = -1;
  const Graph graph(stream, [&] {
    launch(add_kernel<int>, 1, 32, 0, stream.handle, array.data() + (1 << 20), 1, 4);
    CUDA_CHECK(cudaMemcpyAsync(seen.data, array.data(), 4, cudaMemcpyDeviceToHost, stream.handle));
  });
  graph.launch(stream);
  CHECK(cudaStreamSynchronize(stream.handle) == cudaErrorIllegalAddress);
  CHECK(*seen.data == -1);
  CHECK(cudaGraphLaunch(graph.executable, stream.handle) == cudaErrorIllegalAddress);
  CHECK(cudaDeviceReset() == cudaSuccess);
  CHECK(cudaGraphLaunch(graph.executable, nullptr) == cudaErrorInvalidValue);
  static_cast<void>(cudaGetLastError());
}
