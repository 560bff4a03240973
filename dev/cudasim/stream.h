// Streams and events, for stream.cpp, which runs what is queued, and graph.cpp, which records it instead while a stream
// is capturing.
#pragma once

#include <chrono>
#include <deque>
#include <functional>
#include <memory>
#include <vector>

#include "dev/cudasim/internal.h"

namespace cudasim {

// One recording of an event, or the end of another operation.
struct Record {
  CUstream_st* stream;
  bool done = false;
  std::chrono::steady_clock::time_point when = {};
};

struct Operation {
  uint64_t number;
  std::function<cudaError_t()> run;
  std::shared_ptr<Record> after;  // an event that must be recorded first
};

// A kernel, a copy or a memset. launch: the kernel's number, which seeds its random order.
struct Work {
  bool is_kernel;
  std::function<cudaError_t(uint64_t launch)> run;
};

struct Capture;

// A place in a capture: what comes next there depends on these nodes.
struct CapturePoint {
  std::shared_ptr<Capture> capture;  // null: none
  std::vector<size_t> nodes;
};

}  // namespace cudasim

struct CUstream_st {
  bool blocking = true;  // waits for the default stream, and vice versa
  std::deque<cudasim::Operation> queue;
  cudasim::CapturePoint captured;
};

struct CUevent_st {
  bool timing = true;
  std::shared_ptr<cudasim::Record> last;
  cudasim::CapturePoint captured;  // if it was last recorded in a capture
};

namespace cudasim {

// ---- stream.cpp ----------------------------------------------------------------------------------------------------

CUstream_st* find_stream(cudaStream_t handle);  // null: there is none
CUstream_st& legacy_stream();
const std::vector<std::unique_ptr<CUstream_st>>& all_streams();
uint64_t next_launch_number();
uint64_t next_random_choice();  // for the random schedule

// An operation whose end completes the record. run may be null: nothing.
std::shared_ptr<Record> enqueue_recorded(CUstream_st& stream, std::function<cudaError_t()> run,
                                         std::shared_ptr<Record> after);

// ---- graph.cpp: every call on a stream or an event asks here first -------------------------------------------------

// Whether `call` may add to the stream. An error also ends the captures that the call breaks.
cudaError_t may_enqueue(const CUstream_st& stream, const char* call);
// Whether `call` may wait for the stream or the event, or query it.
cudaError_t may_wait_for(const CUstream_st& stream, const char* call);
cudaError_t may_wait_for(const CUevent_st& event, const char* call);

void capture_work(CUstream_st& stream, Work work);  // of a capturing stream
// The wait if the stream or the event is captured: the stream then joins the capture. False: it is an ordinary one.
bool capture_wait(CUstream_st& stream, const CUevent_st& event, cudaError_t& status);

void drop_all_graphs();  // cudaDeviceReset

}  // namespace cudasim
