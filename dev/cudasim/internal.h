// What the files of the runtime share.
//   fiber.*    a stack and a context to switch to          worker.cpp  one block: lanes, warps, barriers, reports
//   grid.cpp   the worker threads and the order of blocks  memory.cpp  device and pinned memory, faults
//   stream.*   streams, events, copies                     graph.cpp   captures and graphs
//   runtime.cpp the rest of the API                        names.cpp   kernels' names
//   nccl.cpp   NCCL's API  nccl_collective.cpp what its calls do  nccl_mesh.* the connections between its ranks
// For instrumented code (observe.h): hooks.cpp, observe.cpp, check.cpp, count.cpp, places.cpp.
#pragma once

#include <cuda_runtime.h>
#include <cudasim.h>

#include <atomic>
#include <functional>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <vector>

namespace cudasim {

// ---- settings (runtime.cpp) ----------------------------------------------------------------------------------------

constexpr size_t kMaxShared = 227 * 1024;        // dynamic shared memory of a block, after cudaFuncSetAttribute
constexpr size_t kDefaultMaxShared = 48 * 1024;  // without; static memory included,
constexpr size_t kStaticShared = 1024;           // a kernel's assumed static part, which ptxas pads a little to
constexpr unsigned kMaxThreads = 1024;
constexpr int kMultiprocessors = 4;

struct Settings {
  std::string error;  // what is wrong with the environment variables; empty: nothing
  int devices = 1;
  size_t memory = size_t{64} << 30;
  int capability = 80;  // 10 times the compute capability that the device reports
  Schedule schedule = Schedule::forward;
  uint64_t seed = 0;
  int threads = 1;
  bool mma_truncates = false;
  double time_limit = 60;                  // seconds of processor time per lane between two switches
  double nccl_timeout = 60;                // seconds that one rank waits for another
  std::string nccl_address = "127.0.0.1";  // where ncclGetUniqueId listens
};
Settings& settings();  // from the environment, then as tests set them

// A small generator: the next number of the sequence that the state determines (SplitMix64).
inline uint64_t next_random(uint64_t& state) {
  uint64_t z = state += 0x9e3779b97f4a7c15u;
  z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
  z = (z ^ z >> 27) * 0x94d049bb133111ebu;
  return z ^ z >> 31;
}

// ---- state of the device: everything below is used with this lock held ----------------------------------------------

std::recursive_mutex& api_lock();
cudaError_t sticky_error();
void set_sticky_error(cudaError_t error);  // an error of asynchronous work; kept until cudaDeviceReset
cudaError_t api_status();                  // what every call checks first: environment, device, sticky error
cudaError_t returned(cudaError_t status);  // status, also kept for cudaGetLastError
void note_allocation();                    // for allocations()

// ---- reports -------------------------------------------------------------------------------------------------------

void report(const std::string& text);  // to stderr and last_report(); from any thread
std::string place_text(const Place& place);
std::string kernel_name(const void* kernel);  // demangled, with template arguments, without parameters
void note_kernel(const void* kernel);         // for launched_kernels() and CUDASIM_KERNELS

// The program's thread-local variables, including __shared__ ones: offsets from the start of its storage.
void for_thread_local_symbols(const std::function<void(const char* mangled, size_t offset, size_t bytes)>& f);

// ---- grids ---------------------------------------------------------------------------------------------------------

// A launch in progress.
struct Grid {
  const detail::Kernel* kernel = nullptr;
  dim3 grid, block;
  size_t shared_bytes = 0;
  Schedule schedule = Schedule::forward;
  uint64_t seed = 0;          // of this launch
  bool programmatic = false;  // may begin before earlier kernels have ended: its threads must wait for those
  uint64_t blocks = 0;
  std::atomic<uint64_t> next{0};  // blocks handed out
  std::atomic<int> error{cudaSuccess};
};

// Runs all blocks on the workers; returns the error of the report that ended it, or cudaSuccess.
cudaError_t run_grid(Grid& grid);

class Worker;
Worker* new_worker();  // on the thread that will run it
void run_block(Worker& worker, Grid& grid, uint64_t block);
uint64_t heartbeat(const Worker& worker);
void end_hung_lane();  // in a signal handler on the worker's thread

// ---- memory --------------------------------------------------------------------------------------------------------

struct Shadow;

struct Allocation {
  char* begin = nullptr;
  size_t bytes = 0;
  char *low = nullptr, *high = nullptr;  // its pages: red zones before begin and after begin + bytes
  Place where, freed_where;
  bool pinned = false;
  bool reset = false;                // freed by cudaDeviceReset
  mutable Shadow* shadow = nullptr;  // of check.cpp
};

enum class Space { host, pinned, device };
Space space_of(const void* pointer);
// The live allocation that contains all of [pointer, pointer + bytes); null if none does.
const Allocation* allocation_of(const void* pointer, size_t bytes);
std::string describe_address(const void* pointer);

void unlock_device_memory();                     // before kernels and copies run
void lock_device_memory();                       // after: host code that touches it faults
bool check_red_zones(const std::string& after);  // whether all are intact; reports those that are not
void free_all_memory();                          // cudaDeviceReset
void install_fault_handler();

// ---- streams -------------------------------------------------------------------------------------------------------

cudaError_t drain_all();  // cudaDeviceSynchronize
void drop_all_streams();  // cudaDeviceReset
void restart_random();    // afterwards only the schedule's seed matters

// For operations that are neither kernels nor copies. A record is the end of an operation in its stream; run (null:
// nothing) waits for `after` (null: nothing) and for everything queued in the stream before it, and has device memory
// open.
struct Record;
bool is_stream(cudaStream_t stream);
std::shared_ptr<Record> enqueue_operation(cudaStream_t stream, std::function<cudaError_t()> run,
                                          std::shared_ptr<Record> after);
cudaError_t drain_until(const std::shared_ptr<Record>& record);

// ---- captures (graph.cpp): an error also breaks the captures that forbid the call ----------------------------------

bool is_capturing(cudaStream_t stream);
// For calls that a capture would not record: those that allocate, free or wait. Allowed in relaxed mode.
cudaError_t may_call_unrecorded(const char* call);
cudaError_t may_wait_for_all(const char* call);  // cudaDeviceSynchronize: never while a stream is capturing
cudaError_t may_copy_at_once(const char* call);  // cudaMemcpy, cudaMemset: they also use the legacy stream
}  // namespace cudasim
