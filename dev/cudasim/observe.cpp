// What an access touches: device memory, shared memory, or something that a kernel must not touch.
#include "dev/cudasim/observe.h"

#include <elf.h>
#include <link.h>

#include <algorithm>

namespace cudasim {

namespace {

constinit bool has_instrumented_code = false;

// The parts of the program that are never written after it has started: constants, tables.
bool is_constant(const char* address) {
  struct Segment {
    const char *begin, *end;
  };
  static const auto* constants = [] {
    auto* segments = new std::vector<Segment>;
    dl_iterate_phdr(
        [](dl_phdr_info* info, size_t, void* to) {
          for (int i = 0; i < info->dlpi_phnum; ++i) {
            const ElfW(Phdr)& part = info->dlpi_phdr[i];
            if (part.p_type == PT_GNU_RELRO || (part.p_type == PT_LOAD && !(part.p_flags & PF_W))) {
              const char* begin = reinterpret_cast<const char*>(info->dlpi_addr + part.p_vaddr);
              static_cast<std::vector<Segment>*>(to)->push_back({begin, begin + part.p_memsz});
            }
          }
          return 1;  // the program is listed first
        },
        segments);
    return segments;
  }();
  return std::any_of(constants->begin(), constants->end(),
                     [&](const Segment& segment) { return address >= segment.begin && address < segment.end; });
}

// allocation_of() for a byte, with a cache of the answers per page.
struct Found {
  const char* page = nullptr;
  const Allocation* allocation = nullptr;
};
Found found_pages[1024];

const Allocation* find_allocation(const char* address) {
  const char* page = address - reinterpret_cast<uintptr_t>(address) % 4096;
  Found& found = found_pages[reinterpret_cast<uintptr_t>(page) / 4096 % 1024];
  if (found.page == page && address >= found.allocation->begin &&
      address < found.allocation->begin + found.allocation->bytes)
    return found.allocation;
  const Allocation* allocation = allocation_of(address, 1);
  if (allocation) found = {page, allocation};
  return allocation;
}

std::string access_text(Worker& worker, bool write, size_t bytes) {
  return worker.lane_text(worker.current()) + (write ? " writes " : " reads ") + std::to_string(bytes) +
         (bytes == 1 ? " byte" : " bytes");
}

// Fills in where the access lies; false: nowhere relevant. Ends the launch if a kernel must not touch it.
bool locate(Worker& worker, Access& access) {
  const Space space = space_of(access.address);
  if (space != Space::host) {
    access.region = space == Space::device ? Region::device : Region::pinned;
    access.allocation = find_allocation(access.address);
    access.offset = access.allocation ? static_cast<size_t>(access.address - access.allocation->begin) : 0;
    if (access.allocation && access.offset + access.bytes <= access.allocation->bytes) return true;
    fail_access(
        worker, "access outside of allocations", access.pc,
        access_text(worker, access.write, access.bytes) + " at " +
            describe_address(access.address + (access.allocation ? access.allocation->bytes - access.offset : 0)),
        cudaErrorIllegalAddress);
  }
  if (worker.in_dynamic_shared(access.address)) {
    access.region = Region::dynamic_shared;
    access.offset = worker.dynamic_shared_offset(access.address);
    if (access.offset + access.bytes <= worker.grid().shared_bytes) return true;
    fail_access(worker, "access beyond dynamic shared memory", access.pc,
                access_text(worker, access.write, access.bytes) + " at byte " + std::to_string(access.offset) + " of " +
                    std::to_string(worker.grid().shared_bytes),
                cudaErrorIllegalAddress);
  }
  if (worker.in_thread_storage(access.address)) {
    access.region = Region::static_shared;
    access.offset = worker.thread_storage_offset(access.address);
    const SharedVariable* variable = shared_variable(access.offset);
    if (variable && access.offset + access.bytes <= variable->begin + variable->bytes) return true;
    fail_access(worker, "access outside of shared variables", access.pc,
                access_text(worker, access.write, access.bytes) +
                    (variable ? " that begin at byte " + std::to_string(access.offset - variable->begin) + " of " +
                                    variable->name + ", which has " + std::to_string(variable->bytes)
                              : std::string(" between two variables")),
                cudaErrorIllegalAddress);
  }
  const char* kernel = reinterpret_cast<const char*>(worker.grid().kernel);
  if (access.address >= kernel && access.address < kernel + worker.grid().kernel->bytes) return false;
  if (!access.write && is_constant(access.address)) return false;
  char address[32];
  std::snprintf(address, sizeof address, "%p", static_cast<void*>(access.address));
  fail_access(worker, "access to the host's memory", access.pc,
              access_text(worker, access.write, access.bytes) + " at address " + address +
                  ", neither device, pinned nor shared memory",
              cudaErrorIllegalAddress);
}

void observe_one(Worker& worker, Access& access, bool must_be_aligned) {
  if (!locate(worker, access)) return;
  if (!is_shared(access) && worker.grid().programmatic && !worker.current().waited_for_grids) {
    fail_access(worker, "access to global memory before the wait for earlier kernels", access.pc,
                access_text(worker, access.write, access.bytes), cudaErrorLaunchFailure);
  }
  if (must_be_aligned && reinterpret_cast<uintptr_t>(access.address) % access.bytes != 0) {
    fail_access(worker, "access to a misaligned address", access.pc,
                access_text(worker, access.write, access.bytes) + " at address ..." +
                    std::to_string(reinterpret_cast<uintptr_t>(access.address) % 256) +
                    " modulo 256, expected a multiple of " + std::to_string(access.bytes),
                cudaErrorMisalignedAddress);
  }
  // An atomic operation here begins with a load; on a GPU it does not.
  if (counting() && !(access.atomic && !access.write)) count_access(worker, access);
  if (checking()) check_access(worker, access);
}

}  // namespace

bool is_shared(const Access& access) {
  return access.region == Region::static_shared || access.region == Region::dynamic_shared;
}

bool instrumented() { return has_instrumented_code; }
void set_instrumented() { has_instrumented_code = true; }

void observe(uintptr_t pc, void* address, size_t bytes, bool write, bool atomic, bool must_be_aligned) {
  Worker* worker = this_worker();
  if (!worker || !worker->observed()) return;
  Access access = {pc, static_cast<char*>(address), 0, write, atomic, Region::device, 0, nullptr};
  const Worker::OwnWork own_work(*worker);
  if (worker->on_stack(access.address) || worker->is_builtin(access.address)) return;
  for (size_t done = 0; done < bytes; done += access.bytes) {
    access.address = static_cast<char*>(address) + done;
    access.bytes = static_cast<uint32_t>(std::min<size_t>(bytes - done, 16));
    observe_one(*worker, access, must_be_aligned);
  }
}

void observe_bad_index(const char* file, unsigned line, uint64_t index) {
  Worker* worker = this_worker();
  if (worker && worker->running()) worker->reporting();
  const std::string place = std::string(file) + ":" + std::to_string(line);
  if (!worker || !worker->running()) {
    std::fprintf(stderr, "error: index %lld is outside of its array at %s\n", static_cast<long long>(index),
                 place.c_str());
    std::abort();
  }
  worker->describe("index outside of an array", "\n  " + worker->lane_text(worker->current()) + " takes element " +
                                                    std::to_string(static_cast<int64_t>(index)) + ", " + place);
  worker->fail(cudaErrorIllegalAddress);
}

void observe_async_issue(uintptr_t pc, void* to, const void* from, size_t bytes, size_t valid_bytes) {
  Worker* worker = this_worker();
  if (!worker || !worker->observed()) return;
  if (valid_bytes > 0) observe(pc, const_cast<void*>(from), valid_bytes, false, false, false);
  Access target = {pc, static_cast<char*>(to), static_cast<uint32_t>(bytes), true, false, Region::device, 0, nullptr};
  const Worker::OwnWork own_work(*worker);
  if (!locate(*worker, target)) return;
  if (counting()) count_access(*worker, target);
  if (checking()) check_async_issue(*worker, target);
}

void observe_async_done(uintptr_t pc, void* to, size_t bytes) {
  Worker* worker = this_worker();
  if (!worker || !worker->observed() || !checking()) return;
  Access target = {pc, static_cast<char*>(to), static_cast<uint32_t>(bytes), true, false, Region::device, 0, nullptr};
  const Worker::OwnWork own_work(*worker);
  if (locate(*worker, target)) check_access(*worker, target);
}

// Strings of the callers are not destroyed: their stack is abandoned.
void fail_access(Worker& worker, const std::string& what, uintptr_t pc, const std::string& text, cudaError_t error) {
  worker.describe(what, "\n  " + text + ", " + code_place(pc));
  worker.fail(error);
}

extern "C" const char __executable_start;  // the linker's
uintptr_t program_start() { return reinterpret_cast<uintptr_t>(&__executable_start); }

// ---- events of a launch ---------------------------------------------------------------------------------------------

void observe_launch(const Worker& worker, const Grid& grid) {
  start_checking_launch(worker.thread_storage_bytes(), grid.shared_bytes);
  if (counting()) start_counting_launch(grid);
}

void observe_block(const Worker& worker, uint64_t index) {
  start_checking_block(index);
  if (counting()) start_counting_block(worker.threads());
}

void observe_barrier(const Worker& worker) {
  check_barrier();
  if (counting()) count_barrier(worker.warp_count());
}

void observe_collective(unsigned warp, unsigned mask, unsigned ended, const char* what, bool is_syncwarp) {
  if (is_syncwarp) check_syncwarp(warp, mask);
  if (counting()) count_collective(warp, mask, ended, what);
}

void observe_block_end(const Worker& worker) {
  if (counting()) end_counting_block(worker.warp_count());
}

void observe_launch_end() {
  if (counting()) end_counting_launch();
}

// ---- the host ------------------------------------------------------------------------------------------------------

void observe_copy(void* to, const void* from, size_t bytes) {
  if (instrumented() && space_of(to) == Space::device) check_copy(to, from, bytes);
}

void observe_free(const Allocation& allocation) {
  forget_shadow(allocation);
  for (Found& found : found_pages) {
    if (found.allocation == &allocation) found = {};
  }
}

}  // namespace cudasim
