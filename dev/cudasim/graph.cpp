// Graphs: what a capturing stream records instead of queueing it, and launches of the result. A node is a kernel, a
// copy or a memset with its arguments; events are dependencies between nodes. A launch queues one operation per node,
// each of which runs a node that is ready, so that other streams may come between two nodes and nodes that do not
// depend on each other run in an order of the schedule.
#include <algorithm>
#include <atomic>
#include <thread>

#include "dev/cudasim/stream.h"

using namespace cudasim;

struct CUgraphNode_st {
  Work work;
  std::vector<size_t> dependencies;  // earlier nodes
};

namespace cudasim {

using Nodes = std::vector<CUgraphNode_st>;

struct Capture {
  CUstream_st* origin;
  cudaStreamCaptureMode mode;
  std::thread::id thread;
  bool invalidated = false, ended = false;
  Nodes nodes;
};

}  // namespace cudasim

struct CUgraph_st {
  std::shared_ptr<const Nodes> nodes;
};

struct CUgraphExec_st {
  std::shared_ptr<const Nodes> nodes;
  std::shared_ptr<Record> last;  // the end of the last launch
};

namespace {

struct Graphs {
  std::vector<std::shared_ptr<Capture>> captures;  // those in progress
  std::vector<std::unique_ptr<CUgraph_st>> graphs;
  std::vector<std::unique_ptr<CUgraphExec_st>> executables;
};

Graphs& graphs() {
  static auto* graphs = new Graphs;
  return *graphs;
}

template <class T>
T* find(const std::vector<std::unique_ptr<T>>& all, const T* handle) {
  for (const auto& one : all) {
    if (one.get() == handle) return one.get();
  }
  return nullptr;
}

// Ends the capture's use; cudaStreamEndCapture will say so. Returns the call's error.
cudaError_t invalidate(Capture& capture, const char* call, cudaError_t error) {
  if (capture.ended) return error;
  if (!capture.invalidated) report(std::string(call) + " breaks a stream's capture: " + cudaGetErrorString(error));
  capture.invalidated = true;
  return error;
}

// The legacy stream waits for every blocking stream, also a capturing one.
cudaError_t may_use_legacy(const char* call) {
  cudaError_t status = cudaSuccess;
  for (const auto& stream : all_streams()) {
    if (stream->captured.capture && stream->blocking)
      status = invalidate(*stream->captured.capture, call, cudaErrorStreamCaptureImplicit);
  }
  return status;
}

void add_nodes(std::vector<size_t>& nodes, const std::vector<size_t>& more) {
  for (const size_t node : more) {
    if (std::find(nodes.begin(), nodes.end(), node) == nodes.end()) nodes.push_back(node);
  }
}

// Whether all nodes come before the end of the capture's first stream.
bool all_joined(const Capture& capture) {
  std::vector<bool> reached(capture.nodes.size());
  for (const size_t node : capture.origin->captured.nodes) reached[node] = true;
  for (size_t node = capture.nodes.size(); node-- > 0;) {
    if (!reached[node]) return false;  // dependencies are earlier nodes
    for (const size_t earlier : capture.nodes[node].dependencies) reached[earlier] = true;
  }
  return true;
}

// Takes the capture's streams out of it.
void end(const std::shared_ptr<Capture>& capture) {
  capture->ended = true;
  for (const auto& stream : all_streams()) {
    if (stream->captured.capture == capture) stream->captured = {};
  }
  std::erase(graphs().captures, capture);
}

// One launch of a graph.
class GraphRun {
 public:
  explicit GraphRun(std::shared_ptr<const Nodes> nodes) : nodes_(std::move(nodes)), done_(nodes_->size()) {
    for (const CUgraphNode_st& node : *nodes_) numbers_.push_back(node.work.is_kernel ? next_launch_number() : 0);
  }

  // Runs a node whose dependencies are done: the first, the last, or any of those.
  cudaError_t run_one() {
    std::vector<size_t> ready;
    for (size_t node = 0; node < nodes_->size(); ++node) {
      const std::vector<size_t>& needs = (*nodes_)[node].dependencies;
      if (!done_[node] && std::all_of(needs.begin(), needs.end(), [&](size_t earlier) { return done_[earlier]; }))
        ready.push_back(node);
    }
    size_t choice = settings().schedule == Schedule::reverse ? ready.size() - 1 : 0;
    if (settings().schedule == Schedule::random && ready.size() > 1) choice = next_random_choice() % ready.size();
    const size_t node = ready[choice];
    done_[node] = true;
    return (*nodes_)[node].work.run(numbers_[node]);
  }

 private:
  std::shared_ptr<const Nodes> nodes_;
  std::vector<bool> done_;
  std::vector<uint64_t> numbers_;
};

}  // namespace

// ---- what other files call -----------------------------------------------------------------------------------------

namespace cudasim {

cudaError_t may_enqueue(const CUstream_st& stream, const char* call) {
  if (&stream == &legacy_stream()) return may_use_legacy(call);
  return stream.captured.capture && stream.captured.capture->invalidated ? cudaErrorStreamCaptureInvalidated
                                                                         : cudaSuccess;
}

cudaError_t may_call_unrecorded(const char* call) {
  cudaError_t status = cudaSuccess;
  for (const auto& capture : graphs().captures) {
    const bool own = capture->thread == std::this_thread::get_id();
    if (capture->mode == cudaStreamCaptureModeGlobal || (own && capture->mode == cudaStreamCaptureModeThreadLocal))
      status = invalidate(*capture, call, cudaErrorStreamCaptureUnsupported);
  }
  return status;
}

cudaError_t may_wait_for(const CUstream_st& stream, const char* call) {
  if (Capture* capture = stream.captured.capture.get()) {
    if (capture->invalidated) return cudaErrorStreamCaptureInvalidated;
    return invalidate(*capture, call, cudaErrorStreamCaptureUnsupported);
  }
  if (&stream == &legacy_stream()) {
    if (const cudaError_t status = may_use_legacy(call); status != cudaSuccess) return status;
  }
  return may_call_unrecorded(call);
}

cudaError_t may_wait_for(const CUevent_st& event, const char* call) {
  if (!event.captured.capture) return may_call_unrecorded(call);
  return invalidate(*event.captured.capture, call, cudaErrorCapturedEvent);
}

cudaError_t may_wait_for_all(const char* call) {
  for (const auto& capture : graphs().captures) invalidate(*capture, call, cudaErrorStreamCaptureUnsupported);
  return graphs().captures.empty() ? cudaSuccess : cudaErrorStreamCaptureUnsupported;
}

cudaError_t may_copy_at_once(const char* call) {
  const cudaError_t status = may_use_legacy(call);
  return status == cudaSuccess ? may_call_unrecorded(call) : status;
}

bool is_capturing(cudaStream_t handle) {
  const CUstream_st* stream = find_stream(handle);
  return stream && stream->captured.capture;
}

void capture_work(CUstream_st& stream, Work work) {
  CapturePoint& at = stream.captured;
  at.capture->nodes.push_back({std::move(work), std::move(at.nodes)});
  at.nodes = {at.capture->nodes.size() - 1};
}

bool capture_wait(CUstream_st& stream, const CUevent_st& event, cudaError_t& status) {
  const char* const call = "cudaStreamWaitEvent";
  CapturePoint& at = stream.captured;
  const CapturePoint& from = event.captured;
  if (!at.capture && !from.capture) return false;
  status = cudaSuccess;
  if (!from.capture) {
    status = invalidate(*at.capture, call, cudaErrorStreamCaptureIsolation);
  } else if (from.capture->ended) {
    status = at.capture ? invalidate(*at.capture, call, cudaErrorCapturedEvent) : cudaErrorCapturedEvent;
  } else if (from.capture->invalidated) {
    status = cudaErrorStreamCaptureInvalidated;
  } else if (at.capture && at.capture != from.capture) {
    invalidate(*at.capture, call, cudaErrorStreamCaptureMerge);
    status = invalidate(*from.capture, call, cudaErrorStreamCaptureMerge);
  } else if (&stream == &legacy_stream()) {
    status = invalidate(*from.capture, call, cudaErrorStreamCaptureImplicit);
  } else {
    at.capture = from.capture;
    add_nodes(at.nodes, from.nodes);
  }
  return true;
}

void drop_all_graphs() { graphs() = {}; }

}  // namespace cudasim

// ---- the API -------------------------------------------------------------------------------------------------------

cudaError_t cudaStreamBeginCapture(cudaStream_t handle, cudaStreamCaptureMode mode) {
  const std::lock_guard guard(api_lock());
  if (const cudaError_t status = api_status(); status != cudaSuccess) return returned(status);
  CUstream_st* stream = find_stream(handle);
  if (!stream) return returned(cudaErrorInvalidResourceHandle);
  if (mode < cudaStreamCaptureModeGlobal || mode > cudaStreamCaptureModeRelaxed) return returned(cudaErrorInvalidValue);
  if (stream == &legacy_stream()) return returned(cudaErrorStreamCaptureUnsupported);
  if (stream->captured.capture)
    return returned(invalidate(*stream->captured.capture, "cudaStreamBeginCapture", cudaErrorIllegalState));
  auto capture = std::make_shared<Capture>();
  capture->origin = stream;
  capture->mode = mode;
  capture->thread = std::this_thread::get_id();
  stream->captured = {capture, {}};
  graphs().captures.push_back(std::move(capture));
  return cudaSuccess;
}

cudaError_t cudaStreamEndCapture(cudaStream_t handle, cudaGraph_t* graph) {
  const std::lock_guard guard(api_lock());
  if (const cudaError_t status = api_status(); status != cudaSuccess) return returned(status);
  CUstream_st* stream = find_stream(handle);
  if (!stream) return returned(cudaErrorInvalidResourceHandle);
  if (!graph) return returned(cudaErrorInvalidValue);
  *graph = nullptr;
  const std::shared_ptr<Capture> capture = stream->captured.capture;
  if (!capture) return returned(cudaErrorIllegalState);
  const char* const call = "cudaStreamEndCapture";
  if (capture->origin != stream) return returned(invalidate(*capture, call, cudaErrorStreamCaptureUnmatched));
  if (capture->mode != cudaStreamCaptureModeRelaxed && capture->thread != std::this_thread::get_id())
    return returned(invalidate(*capture, call, cudaErrorStreamCaptureWrongThread));
  cudaError_t status = cudaSuccess;
  if (capture->invalidated) {
    status = cudaErrorStreamCaptureInvalidated;
  } else if (!all_joined(*capture)) {
    status = invalidate(*capture, call, cudaErrorStreamCaptureUnjoined);
  } else {
    graphs().graphs.push_back(
        std::make_unique<CUgraph_st>(CUgraph_st{std::make_shared<const Nodes>(std::move(capture->nodes))}));
    *graph = graphs().graphs.back().get();
  }
  end(capture);
  return returned(status);
}

cudaError_t cudaStreamIsCapturing(cudaStream_t handle, cudaStreamCaptureStatus* capturing) {
  const std::lock_guard guard(api_lock());
  if (const cudaError_t status = api_status(); status != cudaSuccess) return returned(status);
  const CUstream_st* stream = find_stream(handle);
  if (!stream) return returned(cudaErrorInvalidResourceHandle);
  if (!capturing) return returned(cudaErrorInvalidValue);
  if (stream == &legacy_stream()) {  // the one use of it that breaks no capture
    for (const auto& other : all_streams()) {
      if (other->captured.capture && other->blocking) return returned(cudaErrorStreamCaptureImplicit);
    }
  }
  const Capture* capture = stream->captured.capture.get();
  *capturing = !capture               ? cudaStreamCaptureStatusNone
               : capture->invalidated ? cudaStreamCaptureStatusInvalidated
                                      : cudaStreamCaptureStatusActive;
  return cudaSuccess;
}

cudaError_t cudaGraphGetNodes(cudaGraph_t handle, cudaGraphNode_t* nodes, size_t* count) {
  const std::lock_guard guard(api_lock());
  const CUgraph_st* graph = find(graphs().graphs, handle);
  if (!graph || !count) return returned(cudaErrorInvalidValue);
  const size_t all = graph->nodes->size();
  if (nodes) {
    for (size_t i = 0; i < *count; ++i) nodes[i] = i < all ? const_cast<cudaGraphNode_t>(&(*graph->nodes)[i]) : nullptr;
  }
  *count = nodes ? std::min(*count, all) : all;
  return cudaSuccess;
}

cudaError_t cudaGraphInstantiate(cudaGraphExec_t* executable, cudaGraph_t handle, unsigned long long flags) {
  note_allocation();
  const std::lock_guard guard(api_lock());
  if (const cudaError_t status = api_status(); status != cudaSuccess) return returned(status);
  const CUgraph_st* graph = find(graphs().graphs, handle);
  if (!graph || !executable) return returned(cudaErrorInvalidValue);
  if (flags != 0) return returned(cudaErrorNotSupported);
  graphs().executables.push_back(std::make_unique<CUgraphExec_st>(CUgraphExec_st{graph->nodes, nullptr}));
  *executable = graphs().executables.back().get();
  return cudaSuccess;
}

static std::atomic<uint64_t> graph_count = 0;
uint64_t cudasim::graph_launches() { return graph_count; }

cudaError_t cudaGraphLaunch(cudaGraphExec_t handle, cudaStream_t stream_handle) {
  const std::lock_guard guard(api_lock());
  if (const cudaError_t status = api_status(); status != cudaSuccess) return returned(status);
  CUgraphExec_st* executable = find(graphs().executables, handle);
  CUstream_st* stream = find_stream(stream_handle);
  if (!executable) return returned(cudaErrorInvalidValue);
  if (!stream) return returned(cudaErrorInvalidResourceHandle);
  const char* const call = "cudaGraphLaunch";
  if (const cudaError_t status = may_enqueue(*stream, call); status != cudaSuccess) return returned(status);
  if (Capture* capture = stream->captured.capture.get())  // CUDA would make it a child graph
    return returned(invalidate(*capture, call, cudaErrorNotSupported));
  ++graph_count;
  const auto run = std::make_shared<GraphRun>(executable->nodes);
  std::shared_ptr<Record> after = std::exchange(executable->last, nullptr);  // one launch of a graph at a time
  for (size_t left = executable->nodes->size(); left > 0; --left) {
    executable->last = enqueue_recorded(
        *stream, [run] { return run->run_one(); }, std::move(after));
    after = nullptr;
  }
  return cudaSuccess;
}

cudaError_t cudaGraphDestroy(cudaGraph_t handle) {
  note_allocation();
  const std::lock_guard guard(api_lock());
  if (!find(graphs().graphs, handle)) return returned(cudaErrorInvalidValue);
  std::erase_if(graphs().graphs, [&](const auto& other) { return other.get() == handle; });
  return cudaSuccess;
}

// Launches that have not run yet keep the nodes.
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t handle) {
  note_allocation();
  const std::lock_guard guard(api_lock());
  if (!find(graphs().executables, handle)) return returned(cudaErrorInvalidValue);
  std::erase_if(graphs().executables, [&](const auto& other) { return other.get() == handle; });
  return cudaSuccess;
}
