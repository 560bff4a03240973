// Device memory: one reserved range of addresses, closed (PROT_NONE) unless kernels or copies run, so that host code
// that reaches into it faults. Each allocation has its own pages and ends as near to a closed page as 256-byte
// alignment allows; the bytes left over before and after it are red zones with a pattern that is checked. Addresses are
// not reused, so freed memory stays closed. Pinned memory: the same in a second range, always open.
#include <signal.h>
#include <sys/mman.h>
#include <ucontext.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <map>

#include "dev/cudasim/observe.h"

namespace cudasim {

namespace {

constexpr size_t kPage = 4096, kAlignment = 256, kRedZone = 256;
constexpr size_t kReserved = size_t{4} << 40;         // addresses, not memory
constexpr size_t kFillByMapping = size_t{256} << 20;  // from this size on, pages are created when touched
constexpr unsigned char kPattern[2] = {0xe5, 0x7f};   // a NaN both as bf16 and as float

struct Range {
  char *begin = nullptr, *end = nullptr;
  char* unused = nullptr;  // nothing from here on was ever allocated

  bool contains(const void* pointer) const {
    return pointer >= static_cast<const void*>(begin) && pointer < static_cast<const void*>(end);
  }
  void reserve() {
    if (begin) return;
    for (size_t size = kReserved; size >= size_t{1} << 30; size /= 2) {
      void* pages = mmap(nullptr, size, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
      if (pages == MAP_FAILED) continue;
      begin = static_cast<char*>(pages);
      end = begin + size;
      unused = begin + kPage;
      return;
    }
    std::perror("cudasim: no addresses for device memory");
    std::abort();
  }
};

struct Memory {
  Range device, pinned;
  std::map<const char*, Allocation> live, freed;  // by begin
  size_t used = 0;                                // bytes of live device memory
  bool unlocked = false;
};

Memory& memory() {
  static auto* memory = new Memory;
  return *memory;
}

const Allocation* nearest(const std::map<const char*, Allocation>& allocations, const void* pointer) {
  auto next = allocations.upper_bound(static_cast<const char*>(pointer));
  const Allocation* best = nullptr;
  size_t distance = size_t{1} << 20;  // anything farther away is unrelated
  const char* byte = static_cast<const char*>(pointer);
  if (next != allocations.end() && static_cast<size_t>(next->second.begin - byte) < distance) {
    best = &next->second;
    distance = static_cast<size_t>(best->begin - byte);
  }
  if (next != allocations.begin()) {
    const Allocation& before = std::prev(next)->second;
    const char* end = before.begin + before.bytes;
    if (byte < end || static_cast<size_t>(byte - end) < distance) best = &before;
  }
  return best;
}

// A file of 0xFF bytes that mappings share until they write.
int filled_file(size_t size) {
  static const int file = [size] {
    const int file = memfd_create("cudasim", MFD_CLOEXEC);
    if (file < 0 || ftruncate(file, static_cast<off_t>(size)) != 0) return -1;
    void* pages = mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    if (pages == MAP_FAILED) return -1;
    std::memset(pages, 0xff, size);
    munmap(pages, size);
    return file;
  }();
  return file;
}

bool open_filled(char* low, size_t size) {
  if (size < kFillByMapping) {
    if (mprotect(low, size, PROT_READ | PROT_WRITE) != 0) return false;
    std::memset(low, 0xff, size);
    return true;
  }
  const size_t chunk = size_t{64} << 20;
  const int file = filled_file(chunk);
  for (size_t at = 0; at < size; at += chunk) {
    const size_t bytes = std::min(chunk, size - at);
    if (file < 0 ||
        mmap(low + at, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_FIXED | MAP_NORESERVE, file, 0) == MAP_FAILED)
      return false;
  }
  return true;
}

// The red zones of an allocation: the 256 bytes before it and the rest of its last page.
template <class F>
void for_red_zones(const Allocation& allocation, F&& f) {
  f(std::max(allocation.low, allocation.begin - kRedZone), allocation.begin);
  f(allocation.begin + allocation.bytes, allocation.high);
}

void paint(char* from, char* to) {
  for (char* byte = from; byte < to; ++byte) *byte = static_cast<char>(kPattern[reinterpret_cast<uintptr_t>(byte) % 2]);
}

const char* first_overwritten(const char* from, const char* to) {
  for (const char* byte = from; byte < to; ++byte) {
    if (*byte != static_cast<char>(kPattern[reinterpret_cast<uintptr_t>(byte) % 2])) return byte;
  }
  return nullptr;
}

cudaError_t allocate(Range& range, void** pointer, size_t bytes, bool pinned, const Place& where) {
  Memory& all = memory();
  range.reserve();
  install_fault_handler();
  Allocation allocation;
  const size_t user = (bytes + kAlignment - 1) / kAlignment * kAlignment;
  const size_t pages = (user + kRedZone + kPage - 1) / kPage * kPage;
  if (bytes > size_t{1} << 46 || pages + kPage > static_cast<size_t>(range.end - range.unused))
    return cudaErrorMemoryAllocation;
  allocation.low = range.unused;
  allocation.high = range.unused + pages;
  allocation.begin = allocation.high - user;
  allocation.bytes = bytes;
  allocation.where = where;
  allocation.pinned = pinned;
  if (!open_filled(allocation.low, pages)) return cudaErrorMemoryAllocation;
  range.unused = allocation.high + kPage;
  for_red_zones(allocation, paint);
  if (!pinned && !all.unlocked) mprotect(allocation.low, pages, PROT_NONE);
  all.live.emplace(allocation.begin, allocation);
  *pointer = allocation.begin;
  return cudaSuccess;
}

void release(const Allocation& allocation) {
  Memory& all = memory();
  observe_free(all.live.at(allocation.begin));
  mmap(allocation.low, static_cast<size_t>(allocation.high - allocation.low), PROT_NONE,
       MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED | MAP_NORESERVE, -1, 0);  // frees the memory, keeps the addresses
  if (!allocation.pinned) all.used -= allocation.bytes;
  all.freed.emplace(allocation.begin, allocation).first->second.shadow = nullptr;
  all.live.erase(allocation.begin);
}

cudaError_t free_pointer(void* pointer, bool pinned, const Place& where) {
  note_allocation();
  const std::lock_guard guard(api_lock());
  if (const cudaError_t status = api_status(); status != cudaSuccess) return returned(status);
  if (!pointer) return cudaSuccess;
  if (const cudaError_t status = may_call_unrecorded(pinned ? "cudaFreeHost" : "cudaFree"); status != cudaSuccess)
    return returned(status);
  const cudaError_t drained = drain_all();  // as in CUDA: nothing that still runs may use it
  if (drained != cudaSuccess) return returned(drained);
  const auto found = memory().live.find(static_cast<char*>(pointer));
  if (found == memory().live.end() || found->second.pinned != pinned) {
    const auto freed = memory().freed.find(static_cast<char*>(pointer));
    if (freed == memory().freed.end() || !freed->second.reset)  // otherwise its owner outlived the device
      report("freed a pointer that is not an allocation\n  " + describe_address(pointer));
    return returned(cudaErrorInvalidValue);
  }
  found->second.freed_where = where;
  release(Allocation(found->second));
  return cudaSuccess;
}

}  // namespace

Space space_of(const void* pointer) {
  if (memory().device.contains(pointer)) return Space::device;
  return memory().pinned.contains(pointer) ? Space::pinned : Space::host;
}

const Allocation* allocation_of(const void* pointer, size_t bytes) {
  const char* begin = static_cast<const char*>(pointer);
  auto next = memory().live.upper_bound(begin);
  if (next == memory().live.begin()) return nullptr;
  const Allocation& allocation = std::prev(next)->second;
  const size_t offset = static_cast<size_t>(begin - allocation.begin);
  return offset <= allocation.bytes && bytes <= allocation.bytes - offset ? &allocation : nullptr;
}

std::string describe_address(const void* pointer) {
  char text[64];
  std::snprintf(text, sizeof text, "address %p", pointer);
  std::string description = text;
  const Memory& all = memory();
  const bool device = all.device.contains(pointer);
  if (!device && !all.pinned.contains(pointer)) return description + ", neither device nor pinned memory";
  const Allocation* found = nearest(all.live, pointer);
  const Allocation* freed = nearest(all.freed, pointer);
  const char* byte = static_cast<const char*>(pointer);
  const auto holds = [&](const Allocation* a) { return a && byte >= a->begin && byte < a->begin + a->bytes; };
  const bool in_freed = holds(freed);
  if (in_freed || (!found && freed)) found = freed;
  if (!found) return description + (device ? ", in device memory" : ", in pinned memory") + ", far from any allocation";
  const std::string of = " of an allocation of " + std::to_string(found->bytes) + " bytes made at " +
                         place_text(found->where) +
                         (found != freed ? ""
                          : found->reset ? " and freed since by cudaDeviceReset"
                                         : " and freed since at " + place_text(found->freed_where));
  if (holds(found)) return description + ", byte " + std::to_string(byte - found->begin) + of;
  if (byte < found->begin)
    return description + ", " + std::to_string(found->begin - byte) + " bytes before the start" + of;
  return description + ", " + std::to_string(byte - found->begin - static_cast<ptrdiff_t>(found->bytes)) +
         " bytes past the end" + of;
}

void unlock_device_memory() {
  Memory& all = memory();
  install_fault_handler();
  if (all.unlocked) return;
  for (const auto& [begin, allocation] : all.live) {
    if (!allocation.pinned &&
        mprotect(allocation.low, static_cast<size_t>(allocation.high - allocation.low), PROT_READ | PROT_WRITE) != 0) {
      std::perror("cudasim: opening device memory");
      std::abort();
    }
  }
  all.unlocked = true;
}

void lock_device_memory() {
  Memory& all = memory();
  if (!all.unlocked) return;
  if (all.device.begin)
    mprotect(all.device.begin, static_cast<size_t>(all.device.unused - all.device.begin), PROT_NONE);
  all.unlocked = false;
}

bool check_red_zones(const std::string& after) {
  bool whole = true;
  for (const auto& [begin, allocation] : memory().live) {
    for_red_zones(allocation, [&](char* from, char* to) {
      const char* byte = first_overwritten(from, to);
      if (!byte) return;
      whole = false;
      report("write outside of allocations in " + after + "\n  " + describe_address(byte));
      paint(from, to);
    });
  }
  return whole;
}

void free_all_memory() {
  Memory& all = memory();
  while (!all.live.empty()) {
    Allocation allocation = all.live.begin()->second;
    allocation.reset = true;
    release(allocation);
  }
}

// ---- faults --------------------------------------------------------------------------------------------------------

namespace {

struct sigaction previous_handler;

// A lane's bad access becomes a report, and its block ends. Any other bad access is explained and then handled as it
// would have been without cudasim.
void handle_fault(int signal, siginfo_t* info, void* context) {
  const char* access = "accessed";
#if defined(__x86_64__)
  access = static_cast<ucontext_t*>(context)->uc_mcontext.gregs[REG_ERR] & 2 ? "wrote to" : "read";
#else
  static_cast<void>(context);
#endif
  const void* address = info->si_addr;
  Worker* worker = this_worker();
  if (worker && worker->running()) {
    cudaError_t error = cudaErrorIllegalAddress;
    if (info->si_code == SI_KERNEL) {  // the processor reports no address
      worker->reporting().describe("access to a misaligned address");
      error = cudaErrorMisalignedAddress;
    } else if (worker->fibers().in_guard_page(address)) {
      worker->reporting().describe("stack overflow", "\n  " + worker->lane_text(worker->current()) +
                                                         " needs more than " + std::to_string(FiberPool::kStackSize) +
                                                         " bytes");
    } else {
      worker->reporting().describe("access outside of allocations", "\n  " + worker->lane_text(worker->current()) +
                                                                        " " + access + " " + describe_address(address));
    }
    worker->fail(error);
  }
  if (space_of(address) != Space::host) {
    const std::string text =
        std::string("cudasim: host code touched ") +
        (space_of(address) == Space::device ? "device memory: it " : "pinned memory outside of allocations: it ") +
        access + " " + describe_address(address) + "\n";
    [[maybe_unused]] const ssize_t written = write(STDERR_FILENO, text.data(), text.size());
  }
  sigaction(signal, &previous_handler, nullptr);  // the access is retried and faults again
}

}  // namespace

void install_fault_handler() {
  struct sigaction now;
  if (sigaction(SIGSEGV, nullptr, &now) == 0 && (now.sa_flags & SA_SIGINFO) && now.sa_sigaction == handle_fault) return;
  previous_handler = now;
  struct sigaction ours = {};
  ours.sa_sigaction = handle_fault;
  ours.sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER;  // a switch of fibers may leave it
  sigaction(SIGSEGV, &ours, nullptr);
}

}  // namespace cudasim

// ---- the API -------------------------------------------------------------------------------------------------------

using namespace cudasim;

cudaError_t cudaMalloc(void** pointer, size_t bytes, std::source_location where) {
  note_allocation();
  const std::lock_guard guard(api_lock());
  if (const cudaError_t status = api_status(); status != cudaSuccess) return returned(status);
  if (!pointer) return returned(cudaErrorInvalidValue);
  *pointer = nullptr;
  if (const cudaError_t status = may_call_unrecorded("cudaMalloc"); status != cudaSuccess) return returned(status);
  if (bytes == 0) return cudaSuccess;
  Memory& all = memory();
  if (bytes > settings().memory - all.used) return returned(cudaErrorMemoryAllocation);
  const cudaError_t status = allocate(all.device, pointer, bytes, false, where);
  if (status == cudaSuccess) all.used += bytes;
  return returned(status);
}

cudaError_t cudaFree(void* pointer, std::source_location where) { return free_pointer(pointer, false, where); }

cudaError_t cudaHostAlloc(void** pointer, size_t bytes, unsigned, std::source_location where) {
  note_allocation();
  const std::lock_guard guard(api_lock());
  if (const cudaError_t status = api_status(); status != cudaSuccess) return returned(status);
  if (!pointer) return returned(cudaErrorInvalidValue);
  *pointer = nullptr;
  if (const cudaError_t status = may_call_unrecorded("cudaHostAlloc"); status != cudaSuccess) return returned(status);
  if (bytes == 0) return cudaSuccess;
  return returned(allocate(memory().pinned, pointer, bytes, true, where));
}

cudaError_t cudaMallocHost(void** pointer, size_t bytes, std::source_location where) {
  return cudaHostAlloc(pointer, bytes, cudaHostAllocDefault, where);
}

cudaError_t cudaFreeHost(void* pointer, std::source_location where) { return free_pointer(pointer, true, where); }

cudaError_t cudaMemGetInfo(size_t* free, size_t* total) {
  const std::lock_guard guard(api_lock());
  if (const cudaError_t status = api_status(); status != cudaSuccess) return returned(status);
  if (free) *free = settings().memory - memory().used;
  if (total) *total = settings().memory;
  return cudaSuccess;
}
