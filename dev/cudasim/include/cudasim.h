// What cudasim offers beyond CUDA: hooks for kernels/ptx.cuh, and control for tests. docs/cudasim.md explains it all.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <set>
#include <source_location>
#include <string>
#include <type_traits>
#include <vector>

#include "cudasim_types.h"

namespace cudasim {

using Place = std::source_location;

// ---- for tests -----------------------------------------------------------------------------------------------------

// The order in which blocks, the warps of a block, the lanes of a warp and the streams continue. Correct programs give
// the same result under each.
enum class Schedule { forward, reverse, random };
void set_schedule(Schedule schedule, uint64_t seed = 0);

// OS threads that run blocks, from the next launch on; with 1, blocks run one after another in the schedule's order.
void set_threads(int threads);

// How mma adds: rounded to the nearest once per term, or (CUDASIM_MMA=truncate) toward zero once per instruction.
void set_mma_truncates(bool truncates);
bool mma_truncates();

// Processor time that one thread may take until it waits or ends; after that it is reported as hung. 60 seconds.
void set_time_limit(double seconds);

// The text of the last report (a deadlock, a barrier that part of a block missed, ...); empty if there was none.
std::string last_report();

// Names of the __global__ functions that ran so far in this process, with namespaces and template arguments.
std::set<std::string> launched_kernels();
std::map<std::string, uint64_t> kernel_launches();  // with the number of launches of each

// How often this process so far requested or released memory, host or device, streams or events: what a step that is to
// be captured in a graph must not do.
uint64_t allocations();

// Graphs that this process launched so far.
uint64_t graph_launches();

// The process's NCCL calls so far, by operation ("ncclAllReduce", ...). elements: of the larger of a call's two
// buffers: count, for ncclReduceScatter and ncclAllGather nranks * count.
struct NcclTraffic {
  uint64_t calls = 0, elements = 0, bytes = 0;
};
std::map<std::string, NcclTraffic> nccl_traffic();

// ---- checks and counts: for code compiled for them (wrought_checked_sources in CMakeLists.txt) ----------------------

// Whether the program has such code. Then every access of a kernel to memory is checked: the first wrong one ends the
// launch with a report.
bool instrumented();

// The checks cost time and memory; without them only counts are made. On by default.
void set_checks(bool on);

// The accesses of all launches of one kernel between start_counting() and stop_counting(). A request is one access of a
// warp: what its lanes access at the same execution of the same instruction.
struct LineCounts {
  std::string place;  // "kernels/common.cuh:150 < kernels/gelu.cuh:31": the access, then the calls around it
  uint64_t requests = 0;
  uint64_t bytes = 0;                             // that lanes requested, each byte once per request
  uint64_t sectors = 0, least_sectors = 0;        // global memory, 32 bytes each; least: the minimum for those bytes
  uint64_t wavefronts = 0, least_wavefronts = 0;  // shared memory; the difference: bank conflicts
  uint64_t partial = 0;                           // requests by only some of the warp's lanes
};

struct KernelCounts {
  std::string name;  // as in launched_kernels()
  uint64_t launches = 0, blocks = 0, warps = 0;

  // Global memory, by warps' requests.
  uint64_t read_requests = 0, write_requests = 0;
  uint64_t read_bytes = 0, write_bytes = 0;  // each byte once per request
  uint64_t sectors = 0, least_sectors = 0;

  // Global memory after a cache of start_counting()'s size that is empty when the launch starts: 32 bytes for each
  // sector that is not in it, and for each that is written back. distinct: bytes that the launch touched, each once.
  // kept: after a cache that still holds what earlier launches left in it; what is written back at the end counts for
  // the last launch.
  uint64_t dram_read_bytes = 0, dram_write_bytes = 0;
  uint64_t kept_dram_read_bytes = 0, kept_dram_write_bytes = 0;
  uint64_t distinct_read_bytes = 0, distinct_write_bytes = 0;

  // Shared memory: a wavefront serves 32 banks of 4 bytes.
  uint64_t shared_requests = 0, wavefronts = 0, least_wavefronts = 0;

  // Per warp: collectives by name ("__shfl_xor_sync", "mma.m16n8k16", "ldmatrix.x4", "__syncwarp", ...), atomics, and
  // requests of any kind by only some of the warp's lanes. Per block: barriers.
  std::map<std::string, uint64_t> collectives;
  uint64_t atomics = 0, partial_requests = 0, requests = 0;
  uint64_t barriers = 0;

  std::vector<LineCounts> lines;  // by place
  uint64_t bank_conflicts() const { return wavefronts - least_wavefronts; }
};

// cache_bytes: size of the least recently used cache between kernels and memory. Launches still run one after another.
void start_counting(size_t cache_bytes);
std::vector<KernelCounts> stop_counting();  // after all launches have run; by name

// ---- for ptx.cuh: instructions with a CPU body ---------------------------------------------------------------------

namespace detail {
using Complete = void (*)(void* context, void* const* lanes, unsigned mask);

// The calling lane waits until all lanes of `mask` have called this with the same complete, what and mask and (unless
// any_place) from the same place; then complete(context, lanes, mask) runs once, where lanes[i] is what lane i passed
// as `mine`, and all continue. Lanes of the mask that ended: a report, unless any_place.
void collective(unsigned mask, void* mine, Complete complete, void* context, const char* what, Place where,
                bool any_place = false);

// The calling thread waits until all threads of the block that have not ended have called this from the same place.
struct Votes {
  int threads, nonzero;  // that arrived; with a nonzero predicate
};
Votes barrier(int predicate, const char* what, Place where);

void check_width(int width, const char* what, Place where);  // of a shuffle: 1, 2, 4, 8, 16 or 32
[[noreturn]] void report_bad_source(int lane, int from, unsigned mask, const char* what, Place where);
void atomic_step();  // after an atomic operation: lets other threads run if this one only waits for a value
void* dynamic_shared();
int lane_index();  // 0 to 31, of the calling thread
}  // namespace detail

// An instruction of a whole warp: all 32 lanes must arrive here; then f(lanes), lanes[i] pointing to what lane i passed
// as `mine`, runs once and all continue.
template <class Args, class F>
void warp_collective(Args& mine, F&& f, const char* what, Place where = Place::current()) {
  using Function = std::remove_reference_t<F>;
  detail::collective(
      0xffffffffu, &mine,
      [](void* context, void* const* lanes, unsigned) {
        Args* typed[32];
        for (int i = 0; i < 32; ++i) typed[i] = static_cast<Args*>(lanes[i]);
        (*reinterpret_cast<Function*>(context))(typed);
      },
      const_cast<void*>(reinterpret_cast<const void*>(std::addressof(f))), what, where);
}

// A collective's body reads for all lanes; here the calling lane reports its own reads, for checks and counts.
void note_read(const void* from, int bytes);

// griddepcontrol.wait: earlier kernels have ended here anyway, so it does nothing. But in a launch with programmatic
// stream serialization, each thread must have called it before it accesses global memory (checked in instrumented code)
// and before it ends.
void wait_for_earlier_grids();

// cp.async: the copy happens at the wait; until then the target is 0xFF in every byte. The first valid_bytes bytes
// are copied, the rest become 0. Both addresses must be multiples of `bytes` (4, 8 or 16).
void async_copy(void* shared, const void* global, int bytes, int valid_bytes, Place where = Place::current());
void async_commit();                        // closes a group of the calling thread's copies
void async_wait(int groups_still_allowed);  // copies all groups but the newest, in the order of the commits

// The block's dynamic shared memory, 0xFF in every byte when the block starts.
template <class T>
T* dynamic_shared() {
  return static_cast<T*>(detail::dynamic_shared());
}

}  // namespace cudasim
