// The memory requests of kernels as a GPU would see them: per warp.
//
// Lanes run one after another, so requests are assembled afterwards: a lane's n-th execution of an instruction belongs
// with the other lanes' n-th. At barriers and collectives of all lanes the warp is together again, and the executions
// are counted anew.
#include <algorithm>
#include <bit>
#include <climits>
#include <unordered_map>
#include <utility>

#include "dev/cudasim/observe.h"

namespace cudasim {

namespace {

constexpr size_t kSector = 32, kBank = 4, kBanks = 32;

// ---- the cache before memory ---------------------------------------------------------------------------------------

// Sectors of 32 bytes, the least recently used goes first; what was written goes back when it leaves.
class Cache {
 public:
  explicit Cache(size_t bytes) : capacity_(std::max<size_t>(bytes / kSector, 1)) {}

  void touch(uintptr_t sector, bool write) {
    const auto [entry, is_new] = index_.try_emplace(sector, 0u);
    if (is_new) {
      if (!write) read_ += kSector;
      if (index_.size() > capacity_) {
        entry->second = oldest_;
        leave(oldest_);
        index_.erase(nodes_[entry->second].sector);
      } else {
        entry->second = static_cast<uint32_t>(nodes_.size());
        nodes_.emplace_back();
      }
      nodes_[entry->second] = {sector, kNone, kNone, false};
    } else {
      if (entry->second == newest_) {
        nodes_[newest_].dirty |= write;
        return;
      }
      unlink(entry->second);
    }
    Node& node = nodes_[entry->second];
    node.dirty |= write;
    node.older = newest_;
    node.newer = kNone;
    if (newest_ != kNone) nodes_[newest_].newer = entry->second;
    newest_ = entry->second;
    if (oldest_ == kNone) oldest_ = entry->second;
  }

  void write_back_all() {
    for (uint32_t i = oldest_; i != kNone; i = nodes_[i].newer) written_ += nodes_[i].dirty ? kSector : 0;
    index_.clear();
    nodes_.clear();
    oldest_ = newest_ = kNone;
  }

  void move_bytes_to(uint64_t& read, uint64_t& written) {  // those since the last call
    read += std::exchange(read_, 0);
    written += std::exchange(written_, 0);
  }

 private:
  static constexpr uint32_t kNone = UINT32_MAX;
  struct Node {
    uintptr_t sector = 0;
    uint32_t older = kNone, newer = kNone;
    bool dirty = false;
  };

  void unlink(uint32_t i) {
    const Node& node = nodes_[i];
    (node.older == kNone ? oldest_ : nodes_[node.older].newer) = node.newer;
    (node.newer == kNone ? newest_ : nodes_[node.newer].older) = node.older;
  }
  void leave(uint32_t i) {
    if (nodes_[i].dirty) written_ += kSector;
    unlink(i);
  }

  size_t capacity_;
  uint64_t read_ = 0, written_ = 0;  // bytes
  std::unordered_map<uintptr_t, uint32_t> index_;
  std::vector<Node> nodes_;
  uint32_t oldest_ = kNone, newest_ = kNone;
};

// ---- requests ------------------------------------------------------------------------------------------------------

struct Request {
  unsigned mask = 0;
  uintptr_t address[32];
};

// An instruction, as a warp executes it.
struct Instruction {
  uintptr_t pc = 0;
  uint32_t bytes = 0;
  bool write = false, atomic = false, shared = false;
  uint32_t comings[32] = {};      // per lane
  std::vector<Request> requests;  // the incomplete ones, oldest first
  size_t first = 0;               // index into requests: those before are complete
};

struct WarpRequests {
  std::unordered_map<uint64_t, size_t> index;
  std::vector<Instruction> instructions;
};

// Bytes of an allocation that a launch has touched: one bit each.
struct Touched {
  std::vector<uint64_t> read, written;
};

// ---- counts --------------------------------------------------------------------------------------------------------

struct Kernel {
  KernelCounts counts;
  std::map<uintptr_t, LineCounts> lines;
};

struct Counting {
  explicit Counting(size_t bytes) : cache_bytes(bytes), cache(bytes), kept(bytes) {}
  size_t cache_bytes;
  Cache cache, kept;  // empty when a launch begins; keeps the contents from earlier launches
  std::map<const void*, Kernel> kernels;
  Kernel* kernel = nullptr;  // the one that runs, or ran last
  std::vector<WarpRequests> warps = std::vector<WarpRequests>(32);
  std::vector<unsigned> exists = std::vector<unsigned>(32);
  std::map<const char*, Touched> touched;
};
Counting* active = nullptr;

uint64_t mark(std::vector<uint64_t>& bits, size_t begin, size_t end) {  // returns how many were not marked
  uint64_t fresh = 0;
  for (size_t i = begin; i < end;) {
    const size_t in_word = std::min<size_t>(end - i, 64 - i % 64);
    const uint64_t mask = (in_word == 64 ? ~uint64_t{0} : (uint64_t{1} << in_word) - 1) << i % 64;
    fresh += static_cast<uint64_t>(std::popcount(mask & ~bits[i / 64]));
    bits[i / 64] |= mask;
    i += in_word;
  }
  return fresh;
}

void count_global(const Instruction& instruction, const Request& request, LineCounts& line) {
  KernelCounts& counts = active->kernel->counts;
  uintptr_t sorted[32];
  size_t lanes = 0;
  for (unsigned rest = request.mask; rest; rest &= rest - 1)
    sorted[lanes++] = request.address[static_cast<size_t>(std::countr_zero(rest))];
  std::sort(sorted, sorted + lanes);

  uint64_t bytes = 0, sectors = 0;
  uintptr_t end = 0, next_sector = 0;
  for (size_t i = 0; i < lanes; ++i) {
    const uintptr_t begin = std::max(sorted[i], end), stop = sorted[i] + instruction.bytes;
    if (stop <= begin) continue;
    end = stop;
    bytes += stop - begin;
    for (uintptr_t sector = std::max(begin / kSector, next_sector); sector <= (stop - 1) / kSector; ++sector) {
      ++sectors;
      active->cache.touch(sector, instruction.write);
      active->kept.touch(sector, instruction.write);
      next_sector = sector + 1;
    }
    const Allocation* allocation = allocation_of(reinterpret_cast<void*>(begin), 1);
    if (!allocation) continue;
    Touched& touched = active->touched[allocation->begin];
    if (touched.read.empty()) {
      touched.read.resize(allocation->bytes / 64 + 1);
      touched.written.resize(allocation->bytes / 64 + 1);
    }
    const size_t offset = begin - reinterpret_cast<uintptr_t>(allocation->begin);
    if (instruction.write) counts.distinct_write_bytes += mark(touched.written, offset, offset + (stop - begin));
    if (!instruction.write || instruction.atomic)
      counts.distinct_read_bytes += mark(touched.read, offset, offset + (stop - begin));
  }
  const uint64_t least = (bytes + kSector - 1) / kSector;
  (instruction.write ? counts.write_requests : counts.read_requests) += 1;
  (instruction.write ? counts.write_bytes : counts.read_bytes) += bytes;
  counts.atomics += instruction.atomic;
  counts.sectors += sectors;
  counts.least_sectors += least;
  line.bytes += bytes;
  line.sectors += sectors;
  line.least_sectors += least;
}

// Accesses of 16 bytes are served for 8 lanes at a time, those of 8 for 16. Among these, each bank serves one word of 4
// bytes per wavefront, to every lane that reads it.
void count_shared(const Instruction& instruction, const Request& request, LineCounts& line) {
  KernelCounts& counts = active->kernel->counts;
  const unsigned lanes_at_once = instruction.bytes > 8 ? 8 : instruction.bytes > 4 ? 16 : 32;
  const size_t words_a_lane = std::max<size_t>(instruction.bytes / kBank, 1);
  uint64_t wavefronts = 0, least = 0;
  for (unsigned first = 0; first < 32; first += lanes_at_once) {
    uintptr_t words[kBanks][kBanks];
    unsigned used[kBanks] = {}, most = 0;
    for (unsigned lane = first; lane < first + lanes_at_once; ++lane) {
      if (!(request.mask >> lane & 1)) continue;
      for (size_t w = 0; w < words_a_lane; ++w) {
        const uintptr_t word = request.address[lane] / kBank + w, bank = word % kBanks;
        if (std::find(words[bank], words[bank] + used[bank], word) != words[bank] + used[bank]) continue;
        words[bank][used[bank]++] = word;
        most = std::max(most, used[bank]);
      }
    }
    wavefronts += most;
    least += most > 0;
  }
  ++counts.shared_requests;
  counts.atomics += instruction.atomic;
  counts.wavefronts += wavefronts;
  counts.least_wavefronts += least;
  line.bytes += static_cast<uint64_t>(std::popcount(request.mask)) * instruction.bytes;
  line.wavefronts += wavefronts;
  line.least_wavefronts += least;
}

void finish(const Instruction& instruction, const Request& request, unsigned exists) {
  LineCounts& line = active->kernel->lines[instruction.pc];
  ++line.requests;
  ++active->kernel->counts.requests;
  if (request.mask != exists) {
    ++line.partial;
    ++active->kernel->counts.partial_requests;
  }
  instruction.shared ? count_shared(instruction, request, line) : count_global(instruction, request, line);
}

// The warp is together again, or has ended.
void finish_all(WarpRequests& warp, unsigned exists) {
  for (Instruction& instruction : warp.instructions) {
    for (size_t i = instruction.first; i < instruction.requests.size(); ++i)
      finish(instruction, instruction.requests[i], exists);
    instruction.requests.clear();
    instruction.first = 0;
    std::fill_n(instruction.comings, 32, 0u);
  }
}

}  // namespace

bool counting() { return active != nullptr; }

int counted_cache_bytes() { return static_cast<int>(std::min<size_t>(active->cache_bytes, INT_MAX)); }

void count_access(Worker& worker, const Access& access) {
  const unsigned thread = worker.current().index, lane = thread % 32;
  WarpRequests& warp = active->warps[thread / 32];
  // A range is several accesses by one instruction; they differ in size, or are distinguished by their order. cp.async
  // is two accesses of one size, to global and to shared memory.
  const uint64_t key = uint64_t{access.pc} << 6 | uint64_t{access.bytes} << 1 | is_shared(access);
  const auto [found, is_new] = warp.index.try_emplace(key, warp.instructions.size());
  if (is_new) {
    Instruction& instruction = warp.instructions.emplace_back();
    instruction.pc = access.pc;
    instruction.bytes = access.bytes;
    instruction.write = access.write;
    instruction.atomic = access.atomic;
    instruction.shared = is_shared(access);
  }
  Instruction& instruction = warp.instructions[found->second];
  const size_t coming = instruction.comings[lane]++;
  while (instruction.requests.size() <= coming) instruction.requests.emplace_back();
  Request& request = instruction.requests[coming];
  request.mask |= 1u << lane;
  request.address[lane] = reinterpret_cast<uintptr_t>(access.address);
  const unsigned exists = active->exists[thread / 32];
  while (instruction.first < instruction.requests.size() && instruction.requests[instruction.first].mask == exists)
    finish(instruction, instruction.requests[instruction.first++], exists);
}

void start_counting_launch(const Grid& grid) {
  Kernel& kernel = active->kernels[grid.kernel->address];
  if (kernel.counts.launches++ == 0) kernel.counts.name = kernel_name(grid.kernel->address);
  active->kernel = &kernel;
  active->touched.clear();
  for (WarpRequests& warp : active->warps) {
    warp.index.clear();
    warp.instructions.clear();
  }
}

void start_counting_block(unsigned threads) {
  KernelCounts& counts = active->kernel->counts;
  ++counts.blocks;
  counts.warps += (threads + 31) / 32;
  for (unsigned w = 0; w < (threads + 31) / 32; ++w)
    active->exists[w] = threads - 32 * w >= 32 ? 0xffffffffu : (1u << (threads - 32 * w)) - 1;
}

void count_barrier(unsigned warps) {
  ++active->kernel->counts.barriers;
  for (unsigned w = 0; w < warps; ++w) finish_all(active->warps[w], active->exists[w]);
}

void count_collective(unsigned warp, unsigned mask, unsigned ended, const char* what) {
  KernelCounts& counts = active->kernel->counts;
  ++counts.collectives[what];
  ++counts.requests;
  const unsigned exists = active->exists[warp];
  if (mask != exists) ++counts.partial_requests;
  if ((mask | ended) == 0xffffffffu) finish_all(active->warps[warp], exists);
}

void end_counting_block(unsigned warps) {
  for (unsigned w = 0; w < warps; ++w) finish_all(active->warps[w], active->exists[w]);
}

void end_counting_launch() {
  KernelCounts& counts = active->kernel->counts;
  active->cache.write_back_all();
  active->cache.move_bytes_to(counts.dram_read_bytes, counts.dram_write_bytes);
  active->kept.move_bytes_to(counts.kept_dram_read_bytes, counts.kept_dram_write_bytes);
}

void start_counting(size_t cache_bytes) {
  const std::lock_guard guard(api_lock());
  delete active;
  active = instrumented() ? new Counting(cache_bytes) : nullptr;
}

std::vector<KernelCounts> stop_counting() {
  const std::lock_guard guard(api_lock());
  drain_all();
  std::vector<KernelCounts> result;
  if (!active) return result;
  if (active->kernel) {
    KernelCounts& last = active->kernel->counts;
    active->kept.write_back_all();
    active->kept.move_bytes_to(last.kept_dram_read_bytes, last.kept_dram_write_bytes);
  }
  for (auto& [address, kernel] : active->kernels) {
    std::map<std::string, LineCounts> lines;  // one line may have several instructions
    for (const auto& [pc, counts] : kernel.lines) {
      LineCounts& line = lines[code_place(pc)];
      line.requests += counts.requests;
      line.bytes += counts.bytes;
      line.sectors += counts.sectors;
      line.least_sectors += counts.least_sectors;
      line.wavefronts += counts.wavefronts;
      line.least_wavefronts += counts.least_wavefronts;
      line.partial += counts.partial;
    }
    for (auto& [place, line] : lines) {
      line.place = place;
      kernel.counts.lines.push_back(line);
    }
    result.push_back(kernel.counts);
  }
  delete active;
  active = nullptr;
  std::sort(result.begin(), result.end(), [](const auto& a, const auto& b) { return a.name < b.name; });
  return result;
}

}  // namespace cudasim
