// Streams are queues, and nothing in them runs before a thread waits for it: what a program may not rely on having
// happened has not happened. Every operation has a number, in the order of the calls; from it follow the rules of the
// legacy default stream: its operations come after all earlier ones of blocking streams, and theirs after its earlier
// ones.
#include "dev/cudasim/stream.h"

#include "dev/cudasim/observe.h"

using namespace cudasim;

namespace {

struct Streams {
  std::vector<std::unique_ptr<CUstream_st>> all;  // all[0]: the default stream
  std::vector<std::unique_ptr<CUevent_st>> events;
  uint64_t next_number = 0, launches = 0;
  uint64_t random = 0;
  Streams() { all.push_back(std::make_unique<CUstream_st>()); }
};

Streams& streams() {
  static auto* streams = new Streams;
  return *streams;
}

CUevent_st* find_event(cudaEvent_t handle) {
  for (const auto& event : streams().events) {
    if (event.get() == handle) return event.get();
  }
  return nullptr;
}

void enqueue(CUstream_st& stream, std::function<cudaError_t()> run, std::shared_ptr<Record> after = nullptr) {
  stream.queue.push_back({streams().next_number++, std::move(run), std::move(after)});
}

// Queues the work, or records it if the stream is capturing.
void submit(CUstream_st& stream, Work work) {
  if (stream.captured.capture) return capture_work(stream, std::move(work));
  const uint64_t number = work.is_kernel ? next_launch_number() : 0;
  enqueue(stream, [run = std::move(work.run), number] { return run(number); });
}

// Keeps device memory open as long as work runs.
class Running {
 public:
  Running() {
    if (depth_++ == 0) unlock_device_memory();
  }
  ~Running() {
    if (--depth_ == 0) lock_device_memory();
  }

 private:
  static inline int depth_ = 0;
};

// Runs one operation: the stream's next, or one that must come before it.
void advance(CUstream_st& stream) {
  CUstream_st& legacy = *streams().all[0];
  const Operation& next = stream.queue.front();
  if (&stream == &legacy) {
    for (const auto& other : streams().all) {
      if (other.get() != &legacy && other->blocking && !other->queue.empty() &&
          other->queue.front().number < next.number)
        return advance(*other);
    }
  } else if (stream.blocking && !legacy.queue.empty() && legacy.queue.front().number < next.number) {
    return advance(legacy);
  }
  if (next.after && !next.after->done) return advance(*next.after->stream);
  const Operation operation = std::move(stream.queue.front());
  stream.queue.pop_front();
  const cudaError_t status = operation.run ? operation.run() : cudaSuccess;
  if (status == cudaSuccess) return;
  set_sticky_error(status);
  for (const auto& other : streams().all) other->queue.clear();
}

// Which stream to advance while a thread waits for `wanted` (null: for all): forward: only those needed; reverse: the
// others first, the youngest stream first; random: any.
CUstream_st* pick(CUstream_st* wanted) {
  std::vector<CUstream_st*> busy;
  for (const auto& stream : streams().all) {
    if (!stream->queue.empty()) busy.push_back(stream.get());
  }
  if (busy.empty()) return nullptr;
  switch (settings().schedule) {
    case Schedule::forward:
      return wanted ? wanted : busy.front();
    case Schedule::reverse:
      return busy.back();
    case Schedule::random:
      break;
  }
  return busy[next_random_choice() % busy.size()];
}

cudaError_t drain(CUstream_st* wanted) {
  const auto pending = [&] {
    if (wanted) return !wanted->queue.empty();
    for (const auto& stream : streams().all) {
      if (!stream->queue.empty()) return true;
    }
    return false;
  };
  if (!pending()) return sticky_error();
  const Running running;
  while (pending()) advance(*pick(wanted));
  return sticky_error();
}

cudaError_t drain_record(const std::shared_ptr<Record>& record) {
  if (record->done) return sticky_error();
  const Running running;
  while (!record->done && sticky_error() == cudaSuccess) advance(*pick(record->stream));
  return sticky_error();
}

// ---- copies --------------------------------------------------------------------------------------------------------

struct Rows {  // of a copy: `height` pieces of `width` bytes
  char* to;
  size_t to_pitch;
  const char* from;
  size_t from_pitch, width, height;
  void copy() const {
    for (size_t y = 0; y < height; ++y) {
      std::memmove(to + y * to_pitch, from + y * from_pitch, width);
      observe_copy(to + y * to_pitch, from + y * from_pitch, width);
    }
  }
};

// Device and pinned pointers must lie in live allocations, and in the kind of memory that `kind` names.
cudaError_t check_side(const void* pointer, size_t bytes, bool device, bool any, const char* what) {
  const Space space = space_of(pointer);
  if (!any && device != (space == Space::device)) {
    report(std::string(what) + (device ? " is not device memory\n  " : " is device memory, passed as host memory\n  ") +
           describe_address(pointer));
    return cudaErrorInvalidValue;
  }
  if (space != Space::host && !allocation_of(pointer, bytes)) {
    report(std::string(what) + " of " + std::to_string(bytes) + " bytes leaves its allocation\n  starts at " +
           describe_address(pointer));
    return cudaErrorInvalidValue;
  }
  return cudaSuccess;
}

cudaError_t check_sides(const Rows& rows, cudaMemcpyKind kind) {
  const size_t to_bytes = (rows.height - 1) * rows.to_pitch + rows.width,
               from_bytes = (rows.height - 1) * rows.from_pitch + rows.width;
  const bool any = kind == cudaMemcpyDefault;
  const cudaError_t status =
      check_side(rows.to, to_bytes, kind == cudaMemcpyHostToDevice || kind == cudaMemcpyDeviceToDevice, any,
                 "the target of a copy");
  if (status != cudaSuccess) return status;
  return check_side(rows.from, from_bytes, kind == cudaMemcpyDeviceToHost || kind == cudaMemcpyDeviceToDevice, any,
                    "the source of a copy");
}

cudaError_t copy(Rows rows, cudaMemcpyKind kind, cudaStream_t handle, bool wait, const char* call) {
  const std::lock_guard guard(api_lock());
  if (const cudaError_t status = api_status(); status != cudaSuccess) return returned(status);
  CUstream_st* stream = find_stream(handle);
  if (!stream) return returned(cudaErrorInvalidResourceHandle);
  if (const cudaError_t status = wait ? may_copy_at_once(call) : may_enqueue(*stream, call); status != cudaSuccess)
    return returned(status);
  if (kind < cudaMemcpyHostToHost || kind > cudaMemcpyDefault) return returned(cudaErrorInvalidMemcpyDirection);
  if (rows.width == 0 || rows.height == 0) return cudaSuccess;
  if (rows.width > rows.to_pitch || rows.width > rows.from_pitch) return returned(cudaErrorInvalidPitchValue);
  if (const cudaError_t status = check_sides(rows, kind); status != cudaSuccess) return returned(status);
  const bool captured = stream->captured.capture != nullptr;
  if (space_of(rows.from) == Space::host && !wait && !captured) {  // pageable: copies its current contents
    auto snapshot = std::make_shared<std::vector<char>>(rows.width * rows.height);
    Rows{snapshot->data(), rows.width, rows.from, rows.from_pitch, rows.width, rows.height}.copy();
    rows.from = snapshot->data();
    rows.from_pitch = rows.width;
    submit(*stream, {false, [rows, snapshot](uint64_t) {
                       rows.copy();
                       return cudaSuccess;
                     }});
  } else {
    submit(*stream, {false, [rows, kind, captured](uint64_t) {
                       // A graph may outlive the memory that it was captured with.
                       if (captured && check_sides(rows, kind) != cudaSuccess) return cudaErrorIllegalAddress;
                       rows.copy();
                       return cudaSuccess;
                     }});
  }
  // A copy within the device is always asynchronous.
  const bool within = space_of(rows.to) == Space::device && space_of(rows.from) == Space::device;
  return returned(wait && !within ? drain(stream) : cudaSuccess);
}

cudaError_t set_memory(void* to, int value, size_t bytes, cudaStream_t handle, bool recorded, const char* call) {
  const std::lock_guard guard(api_lock());
  if (const cudaError_t status = api_status(); status != cudaSuccess) return returned(status);
  CUstream_st* stream = find_stream(handle);
  if (!stream) return returned(cudaErrorInvalidResourceHandle);
  if (const cudaError_t status = recorded ? may_enqueue(*stream, call) : may_copy_at_once(call); status != cudaSuccess)
    return returned(status);
  if (bytes == 0) return cudaSuccess;
  const auto check = [=] {
    return check_side(to, bytes, true, space_of(to) == Space::pinned, "the target of a memset");
  };
  if (const cudaError_t status = check(); status != cudaSuccess) return returned(status);
  submit(*stream, {false, [=, captured = stream->captured.capture != nullptr](uint64_t) {
                     if (captured && check() != cudaSuccess) return cudaErrorIllegalAddress;
                     std::memset(to, value, bytes);
                     observe_copy(to, nullptr, bytes);
                     return cudaSuccess;
                   }});
  return cudaSuccess;
}

}  // namespace

// ---- what other files call -----------------------------------------------------------------------------------------

namespace cudasim {

CUstream_st* find_stream(cudaStream_t handle) {
  if (handle == nullptr || handle == cudaStreamLegacy) return streams().all[0].get();
  for (const auto& stream : streams().all) {
    if (stream.get() == handle) return stream.get();
  }
  return nullptr;
}

CUstream_st& legacy_stream() { return *streams().all[0]; }
const std::vector<std::unique_ptr<CUstream_st>>& all_streams() { return streams().all; }
uint64_t next_launch_number() { return streams().launches++; }
uint64_t next_random_choice() {
  uint64_t state = settings().seed ^ ++streams().random * 0x2545f4914f6cdd1du;
  return next_random(state);
}

std::shared_ptr<Record> enqueue_recorded(CUstream_st& stream, std::function<cudaError_t()> run,
                                         std::shared_ptr<Record> after) {
  auto record = std::make_shared<Record>(Record{&stream});
  enqueue(
      stream,
      [run = std::move(run), record] {
        const cudaError_t status = run ? run() : cudaSuccess;
        record->done = true;
        record->when = std::chrono::steady_clock::now();
        return status;
      },
      std::move(after));
  return record;
}

cudaError_t drain_all() { return drain(nullptr); }

bool is_stream(cudaStream_t stream) { return find_stream(stream) != nullptr; }

std::shared_ptr<Record> enqueue_operation(cudaStream_t stream, std::function<cudaError_t()> run,
                                          std::shared_ptr<Record> after) {
  return enqueue_recorded(*find_stream(stream), std::move(run), std::move(after));
}

cudaError_t drain_until(const std::shared_ptr<Record>& record) { return drain_record(record); }

void restart_random() { streams().launches = streams().random = 0; }

void drop_all_streams() {
  streams().all.resize(1);
  streams().all[0]->queue.clear();
  streams().events.clear();
  drop_all_graphs();
}

namespace detail {

cudaError_t enqueue_launch(const cudaLaunchConfig_t& config, std::unique_ptr<Kernel> kernel) {
  const std::lock_guard guard(api_lock());
  CUstream_st* stream = find_stream(config.stream);
  if (!stream) return returned(cudaErrorInvalidResourceHandle);
  if (const cudaError_t status = may_enqueue(*stream, "a launch"); status != cudaSuccess) return returned(status);
  bool programmatic = false;
  for (unsigned i = 0; i < config.numAttrs; ++i)
    programmatic |= config.attrs[i].id == cudaLaunchAttributeProgrammaticStreamSerialization &&
                    config.attrs[i].val.programmaticStreamSerializationAllowed;
  submit(*stream, {true, [config, programmatic, kernel = std::shared_ptr<Kernel>(std::move(kernel))](uint64_t number) {
                     Grid grid;
                     grid.kernel = kernel.get();
                     grid.grid = config.gridDim;
                     grid.block = config.blockDim;
                     grid.shared_bytes = config.dynamicSmemBytes;
                     grid.programmatic = programmatic;
                     grid.schedule = settings().schedule;
                     grid.seed = settings().seed ^ number * 0x9e3779b97f4a7c15u;
                     grid.blocks = uint64_t{config.gridDim.x} * config.gridDim.y * config.gridDim.z;
                     const cudaError_t status = run_grid(grid);
                     if (status != cudaSuccess) return status;
                     return check_red_zones(kernel_name(kernel->address)) ? cudaSuccess : cudaErrorIllegalAddress;
                   }});
  return cudaSuccess;
}

}  // namespace detail
}  // namespace cudasim

// ---- the API -------------------------------------------------------------------------------------------------------

cudaError_t cudaMemcpy(void* to, const void* from, size_t bytes, cudaMemcpyKind kind) {
  return copy({static_cast<char*>(to), bytes, static_cast<const char*>(from), bytes, bytes, 1}, kind, nullptr, true,
              "cudaMemcpy");
}
cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t bytes, cudaMemcpyKind kind, cudaStream_t stream) {
  return copy({static_cast<char*>(to), bytes, static_cast<const char*>(from), bytes, bytes, 1}, kind, stream, false,
              "cudaMemcpyAsync");
}
cudaError_t cudaMemcpy2D(void* to, size_t to_pitch, const void* from, size_t from_pitch, size_t width, size_t height,
                         cudaMemcpyKind kind) {
  return copy({static_cast<char*>(to), to_pitch, static_cast<const char*>(from), from_pitch, width, height}, kind,
              nullptr, true, "cudaMemcpy2D");
}
cudaError_t cudaMemcpy2DAsync(void* to, size_t to_pitch, const void* from, size_t from_pitch, size_t width,
                              size_t height, cudaMemcpyKind kind, cudaStream_t stream) {
  return copy({static_cast<char*>(to), to_pitch, static_cast<const char*>(from), from_pitch, width, height}, kind,
              stream, false, "cudaMemcpy2DAsync");
}
cudaError_t cudaMemset(void* to, int value, size_t bytes) {
  return set_memory(to, value, bytes, nullptr, false, "cudaMemset");
}
cudaError_t cudaMemsetAsync(void* to, int value, size_t bytes, cudaStream_t stream) {
  return set_memory(to, value, bytes, stream, true, "cudaMemsetAsync");
}

cudaError_t cudaDeviceSynchronize() {
  const std::lock_guard guard(api_lock());
  if (const cudaError_t status = api_status(); status != cudaSuccess) return returned(status);
  if (const cudaError_t status = may_wait_for_all("cudaDeviceSynchronize"); status != cudaSuccess)
    return returned(status);
  return returned(drain_all());
}

cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned flags) {
  note_allocation();
  const std::lock_guard guard(api_lock());
  if (const cudaError_t status = api_status(); status != cudaSuccess) return returned(status);
  if (!stream || flags > cudaStreamNonBlocking) return returned(cudaErrorInvalidValue);
  streams().all.push_back(std::make_unique<CUstream_st>());
  streams().all.back()->blocking = flags != cudaStreamNonBlocking;
  *stream = streams().all.back().get();
  return cudaSuccess;
}
cudaError_t cudaStreamCreate(cudaStream_t* stream) { return cudaStreamCreateWithFlags(stream, cudaStreamDefault); }

cudaError_t cudaStreamDestroy(cudaStream_t handle) {
  note_allocation();
  const std::lock_guard guard(api_lock());
  if (const cudaError_t status = api_status(); status != cudaSuccess) return returned(status);
  CUstream_st* stream = find_stream(handle);
  if (!stream || stream == streams().all[0].get()) return returned(cudaErrorInvalidResourceHandle);
  if (const cudaError_t status = may_wait_for(*stream, "cudaStreamDestroy"); status != cudaSuccess)
    return returned(status);
  const cudaError_t status = drain(stream);
  std::erase_if(streams().all, [&](const auto& other) { return other.get() == stream; });
  return returned(status);
}

cudaError_t cudaStreamSynchronize(cudaStream_t handle) {
  const std::lock_guard guard(api_lock());
  if (const cudaError_t status = api_status(); status != cudaSuccess) return returned(status);
  CUstream_st* stream = find_stream(handle);
  if (!stream) return returned(cudaErrorInvalidResourceHandle);
  if (const cudaError_t status = may_wait_for(*stream, "cudaStreamSynchronize"); status != cudaSuccess)
    return returned(status);
  return returned(drain(stream));
}

// A program that polls advances by one operation each time.
cudaError_t cudaStreamQuery(cudaStream_t handle) {
  const std::lock_guard guard(api_lock());
  if (const cudaError_t status = api_status(); status != cudaSuccess) return returned(status);
  CUstream_st* stream = find_stream(handle);
  if (!stream) return returned(cudaErrorInvalidResourceHandle);
  if (const cudaError_t status = may_wait_for(*stream, "cudaStreamQuery"); status != cudaSuccess)
    return returned(status);
  if (stream->queue.empty()) return cudaSuccess;
  const Running running;
  advance(*stream);
  return sticky_error() == cudaSuccess ? cudaErrorNotReady : returned(sticky_error());
}

cudaError_t cudaStreamWaitEvent(cudaStream_t handle, cudaEvent_t event_handle, unsigned) {
  const std::lock_guard guard(api_lock());
  if (const cudaError_t status = api_status(); status != cudaSuccess) return returned(status);
  CUstream_st* stream = find_stream(handle);
  CUevent_st* event = find_event(event_handle);
  if (!stream || !event) return returned(cudaErrorInvalidResourceHandle);
  cudaError_t status = may_enqueue(*stream, "cudaStreamWaitEvent");
  if (status != cudaSuccess || capture_wait(*stream, *event, status)) return returned(status);
  if (event->last) enqueue(*stream, nullptr, event->last);
  return cudaSuccess;
}

cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned flags) {
  note_allocation();
  const std::lock_guard guard(api_lock());
  if (const cudaError_t status = api_status(); status != cudaSuccess) return returned(status);
  if (!event || (flags & ~(cudaEventBlockingSync | cudaEventDisableTiming))) return returned(cudaErrorInvalidValue);
  streams().events.push_back(std::make_unique<CUevent_st>());
  streams().events.back()->timing = !(flags & cudaEventDisableTiming);
  *event = streams().events.back().get();
  return cudaSuccess;
}
cudaError_t cudaEventCreate(cudaEvent_t* event) { return cudaEventCreateWithFlags(event, cudaEventDefault); }

cudaError_t cudaEventDestroy(cudaEvent_t handle) {
  note_allocation();
  const std::lock_guard guard(api_lock());
  if (const cudaError_t status = api_status(); status != cudaSuccess) return returned(status);
  if (!find_event(handle)) return returned(cudaErrorInvalidResourceHandle);
  std::erase_if(streams().events, [&](const auto& other) { return other.get() == handle; });
  return cudaSuccess;
}

cudaError_t cudaEventRecord(cudaEvent_t handle, cudaStream_t stream_handle) {
  const std::lock_guard guard(api_lock());
  if (const cudaError_t status = api_status(); status != cudaSuccess) return returned(status);
  CUevent_st* event = find_event(handle);
  CUstream_st* stream = find_stream(stream_handle);
  if (!event || !stream) return returned(cudaErrorInvalidResourceHandle);
  if (const cudaError_t status = may_enqueue(*stream, "cudaEventRecord"); status != cudaSuccess)
    return returned(status);
  event->captured = stream->captured;
  event->last = stream->captured.capture ? nullptr : enqueue_recorded(*stream, nullptr, nullptr);
  return cudaSuccess;
}

cudaError_t cudaEventSynchronize(cudaEvent_t handle) {
  const std::lock_guard guard(api_lock());
  if (const cudaError_t status = api_status(); status != cudaSuccess) return returned(status);
  CUevent_st* event = find_event(handle);
  if (!event) return returned(cudaErrorInvalidResourceHandle);
  if (const cudaError_t status = may_wait_for(*event, "cudaEventSynchronize"); status != cudaSuccess)
    return returned(status);
  return returned(event->last ? drain_record(event->last) : cudaSuccess);
}

cudaError_t cudaEventQuery(cudaEvent_t handle) {
  const std::lock_guard guard(api_lock());
  if (const cudaError_t status = api_status(); status != cudaSuccess) return returned(status);
  CUevent_st* event = find_event(handle);
  if (!event) return returned(cudaErrorInvalidResourceHandle);
  if (const cudaError_t status = may_wait_for(*event, "cudaEventQuery"); status != cudaSuccess) return returned(status);
  if (!event->last || event->last->done) return cudaSuccess;
  const Running running;
  advance(*event->last->stream);
  return sticky_error() == cudaSuccess ? cudaErrorNotReady : returned(sticky_error());
}

cudaError_t cudaEventElapsedTime(float* milliseconds, cudaEvent_t start_handle, cudaEvent_t end_handle) {
  const std::lock_guard guard(api_lock());
  if (const cudaError_t status = api_status(); status != cudaSuccess) return returned(status);
  const CUevent_st *start = find_event(start_handle), *end = find_event(end_handle);
  if (!milliseconds) return returned(cudaErrorInvalidValue);
  if (!start || !end || !start->timing || !end->timing || !start->last || !end->last)
    return returned(cudaErrorInvalidResourceHandle);
  if (!start->last->done || !end->last->done) return cudaErrorNotReady;
  *milliseconds = std::chrono::duration<float, std::milli>(end->last->when - start->last->when).count();
  return cudaSuccess;
}
