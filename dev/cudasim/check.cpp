// Data races and uninitialised reads.
//
// Two accesses to the same byte, at least one of them a write and not both atomic, are a race unless they are ordered:
// both by the same thread; in one block, by a barrier between them; in one warp, by a __syncwarp that names both lanes.
// Blocks of a launch are not ordered. A later access can only race with the last write or the reads since, and of those
// reads four suffice: one, the last by another lane of its warp, by another warp of its block, by another block. If the
// next write races with any read, it races with one of these.
#include <sys/mman.h>

#include <algorithm>
#include <array>

#include "dev/cudasim/observe.h"

namespace cudasim {

namespace {

constinit bool checks_on = true;

// ---- the record of memory -------------------------------------------------------------------------------------------

// An access to the bytes of a granule. Bytes that are touched one at a time may be forgotten, never confused.
struct Touch {
  uint32_t run;      // which block of all that ever ran; 0: none
  uint32_t place;    // the instruction, from the program's start
  uint32_t barrier;  // barriers that the block had passed
  uint16_t clock;    // of the lane: 1 + the __syncwarp it has passed since
  uint16_t thread : 11, atomic : 1, halves : 2;
};
static_assert(sizeof(Touch) == 16);

struct Granule {
  Touch write;
  Touch read, read_by_lane, read_by_warp, read_by_block;
};

// Granules have 2 bytes. But as long as a line of 16 bytes is touched only in larger pieces, one granule, the first,
// represents a whole piece.
constexpr size_t kGranuleBytes = 2, kLineBytes = 16;
struct Granules {
  Granule* granules;
  uint8_t* pieces;  // per line: the bytes of its pieces, 0 before it is touched
};

template <class T>
T* map_zeros(size_t count) {
  void* pages =
      mmap(nullptr, count * sizeof(T), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (pages == MAP_FAILED) {
    std::perror("cudasim: no memory for the checks");
    std::abort();
  }
  return static_cast<T*>(pages);
}

}  // namespace

constexpr size_t granule_count(size_t bytes) { return (bytes / kLineBytes + 1) * (kLineBytes / kGranuleBytes); }
constexpr size_t line_count(size_t bytes) { return bytes / kLineBytes + 1; }

// The shadow of an allocation.
struct Shadow {
  size_t bytes;
  Granules granules;
  uint8_t* written;  // per byte: whether it was ever written

  explicit Shadow(size_t bytes)
      : bytes(bytes),
        granules{map_zeros<Granule>(granule_count(bytes)), map_zeros<uint8_t>(line_count(bytes))},
        written(map_zeros<uint8_t>(bytes)) {}
  ~Shadow() {
    munmap(granules.granules, granule_count(bytes) * sizeof(Granule));
    munmap(granules.pieces, line_count(bytes));
    munmap(written, bytes);
  }
  Shadow(const Shadow&) = delete;
  Shadow& operator=(const Shadow&) = delete;
};

namespace {

Shadow& shadow_of(const Allocation& allocation) {
  if (!allocation.shadow) allocation.shadow = new Shadow(allocation.bytes);
  return *allocation.shadow;
}

// The shadow of shared memory: what a block leaves there does not count for the next.
struct SharedShadow {
  std::vector<Granule> granules;
  std::vector<uint8_t> pieces, written;
  void make_room(size_t bytes) {
    if (written.size() >= bytes) return;
    granules.resize(granule_count(bytes));
    pieces.resize(line_count(bytes));
    written.resize(bytes);
  }
  void start_block(size_t bytes) {
    if (bytes == 0) return;
    std::fill_n(pieces.begin(), line_count(bytes), uint8_t{0});
    std::fill_n(written.begin(), bytes, uint8_t{0});
  }
};

// ---- the block that runs -------------------------------------------------------------------------------------------

// What each lane of a warp knows of the others' clocks; used only after a __syncwarp since the last barrier.
struct WarpClocks {
  uint32_t run = 0, barrier = 0;
  uint16_t own[32];
  uint16_t known[32][32];
};

struct Block {
  uint32_t run = 0, first_run_of_launch = 1;
  uint32_t barrier = 0;
  std::vector<uint64_t> blocks_of_launch;  // by run
  std::array<WarpClocks, 32> warps;
  SharedShadow static_shared, dynamic_shared;
  size_t static_shared_bytes = 0, dynamic_shared_bytes = 0;
};
Block& block = *new Block;

bool has_clocks(const WarpClocks& clocks) { return clocks.run == block.run && clocks.barrier == block.barrier; }

Touch make_touch(Worker& worker, const Access& access) {
  const unsigned thread = worker.current().index;
  const WarpClocks& clocks = block.warps[thread / 32];
  Touch touch = {};
  touch.run = block.run;
  touch.place = static_cast<uint32_t>(access.pc - program_start());
  touch.barrier = block.barrier;
  touch.clock = has_clocks(clocks) ? clocks.own[thread % 32] : 1;
  touch.thread = static_cast<uint16_t>(thread & 0x7ffu);
  touch.atomic = access.atomic;
  return touch;
}

bool is_ordered(const Touch& before, const Touch& now) {
  if (before.run != now.run) return false;
  if (before.thread == now.thread || before.barrier != now.barrier) return true;
  if (before.thread / 32 != now.thread / 32) return false;
  const WarpClocks& clocks = block.warps[now.thread / 32];
  return has_clocks(clocks) && clocks.known[now.thread % 32][before.thread % 32] >= before.clock;
}

// ---- reports -------------------------------------------------------------------------------------------------------

std::string memory_text(const Access& access) {
  if (access.region == Region::dynamic_shared)
    return "byte " + std::to_string(access.offset) + " of dynamic shared memory";
  if (access.region == Region::static_shared) {
    const SharedVariable* variable = shared_variable(access.offset);
    return "byte " + std::to_string(access.offset - variable->begin) + " of the shared variable " + variable->name;
  }
  return "byte " + std::to_string(access.offset) + " of an allocation of " + std::to_string(access.allocation->bytes) +
         " bytes made at " + place_text(access.allocation->where);
}

const char* verb(bool write, bool atomic) { return atomic ? "updates (atomic)" : write ? "writes" : "reads"; }

std::string count_text(size_t bytes) { return std::to_string(bytes) + (bytes == 1 ? " byte" : " bytes"); }

[[noreturn]] void report_race(Worker& worker, const Access& access, const Touch& before, bool before_writes) {
  {
    const unsigned thread = worker.current().index;
    const bool same_block = before.run == block.run, same_warp = same_block && before.thread / 32u == thread / 32u;
    std::string text = "\n  " + worker.lane_text(worker.current()) + " " + verb(access.write, access.atomic) + " " +
                       count_text(access.bytes) + " at " + memory_text(access) + ", " + code_place(access.pc) + "\n  ";
    if (!same_block) {
      const uint64_t other = block.blocks_of_launch[before.run - block.first_run_of_launch];
      text += "block " + worker.block_index_text(other) + ", ";
    }
    text += worker.lane_text(worker.lane(before.thread)) + " " + verb(before_writes, before.atomic) + " there, " +
            code_place(program_start() + before.place) + "\n  ";
    text += same_warp    ? "without a __syncwarp between the two"
            : same_block ? "without a __syncthreads between the two"
                         : "and blocks of a launch run in any order";
    worker.describe(is_shared(access) ? "race on shared memory" : "race on global memory", text);
  }
  worker.fail();
}

[[noreturn]] void report_unwritten(Worker& worker, const Access& access, size_t byte) {
  Access first = access;
  first.offset += byte;
  fail_access(
      worker,
      is_shared(access) ? "read of shared memory that was not written" : "read of global memory that was not written",
      access.pc,
      worker.lane_text(worker.current()) + " reads " + count_text(access.bytes) + ", of which " + memory_text(first) +
          " was never written",
      cudaErrorLaunchFailure);
}

// ---- the checks ----------------------------------------------------------------------------------------------------

void check_granule(Worker& worker, const Access& access, Granule& granule, const Touch& now, uint32_t oldest_run) {
  const auto races = [&](const Touch& before) {
    return before.run >= oldest_run && (before.halves & now.halves) && !(before.atomic && now.atomic) &&
           !is_ordered(before, now);
  };
  Touch& last = granule.read;
  if (access.write) {
    if (races(granule.write)) report_race(worker, access, granule.write, true);
    for (const Touch* read : {&granule.read, &granule.read_by_lane, &granule.read_by_warp, &granule.read_by_block}) {
      if (races(*read)) report_race(worker, access, *read, false);
    }
    granule.write = now;
    if (!now.atomic) last.run = granule.read_by_lane.run = granule.read_by_warp.run = granule.read_by_block.run = 0;
    return;
  }
  // A repetition by the same thread: any write in between would have emptied it.
  if (last.run == now.run && last.thread == now.thread && last.barrier == now.barrier && last.clock == now.clock &&
      last.halves == now.halves && !now.atomic)
    return;
  if (races(granule.write)) report_race(worker, access, granule.write, true);
  if (last.run != now.run) {
    if (last.run >= oldest_run) granule.read_by_block = last;
    granule.read_by_warp.run = granule.read_by_lane.run = 0;
  } else if (last.thread / 32 != now.thread / 32) {
    granule.read_by_warp = last;
    granule.read_by_lane.run = 0;
  } else if (last.thread != now.thread) {
    granule.read_by_lane = last;
  }
  last = now;
}

bool has_pieces(size_t offset, size_t bytes, size_t piece) { return offset % piece == 0 && bytes % piece == 0; }

// Splits a line's pieces until they are small enough for an access.
void split(Granules& memory, size_t offset, size_t bytes) {
  const size_t line = offset / kLineBytes, old = memory.pieces[line];
  size_t piece = old ? old / 2 : kLineBytes;
  while (piece > kGranuleBytes && !has_pieces(offset, bytes, piece)) piece /= 2;
  memory.pieces[line] = static_cast<uint8_t>(piece);
  if (old == 0) return;
  Granule* first = memory.granules + line * (kLineBytes / kGranuleBytes);
  for (size_t from = 0; from < kLineBytes; from += old) {
    for (size_t to = from + piece; to < from + old; to += piece)
      first[to / kGranuleBytes] = first[from / kGranuleBytes];
  }
}

SharedShadow& shared_shadow(const Access& access) {
  return access.region == Region::static_shared ? block.static_shared : block.dynamic_shared;
}

void check_races(Worker& worker, const Access& access) {
  Touch now = make_touch(worker, access);
  Granules memory;
  uint32_t oldest_run = block.run;
  if (is_shared(access)) {
    SharedShadow& shadow = shared_shadow(access);
    memory = {shadow.granules.data(), shadow.pieces.data()};
  } else {
    memory = shadow_of(*access.allocation).granules;
    oldest_run = block.first_run_of_launch;
  }
  const size_t end = access.offset + access.bytes;
  for (size_t at = access.offset; at < end;) {
    const size_t line = at / kLineBytes, in_line = std::min(end, (line + 1) * kLineBytes) - at;
    size_t piece = memory.pieces[line];
    if (piece == 0 || (piece > kGranuleBytes && !has_pieces(at, in_line, piece))) {
      split(memory, at, in_line);
      piece = memory.pieces[line];
    }
    const size_t next = std::min(at + in_line, at / piece * piece + piece);
    now.halves = next - at > 1 ? 3 : at % 2 ? 2 : 1;
    check_granule(worker, access, memory.granules[at / piece * piece / kGranuleBytes], now, oldest_run);
    at = next;
  }
}

}  // namespace

void set_checks(bool on) {
  const std::lock_guard guard(api_lock());
  checks_on = on;
}
bool checking() { return checks_on; }

void check_access(Worker& worker, const Access& access) {
  if (access.region == Region::pinned) return;  // the host may write it at any time
  uint8_t* written =
      (is_shared(access) ? shared_shadow(access).written.data() : shadow_of(*access.allocation).written) +
      access.offset;
  if (!access.write || access.atomic) {
    if (const void* byte = std::memchr(written, 0, access.bytes))
      report_unwritten(worker, access, static_cast<size_t>(static_cast<const uint8_t*>(byte) - written));
  }
  check_races(worker, access);
  if (access.write) std::memset(written, 1, access.bytes);
}

// Until the copy is waited for, its target is uninitialised.
void check_async_issue(Worker& worker, const Access& target) {
  check_races(worker, target);
  std::memset(&shared_shadow(target).written[target.offset], 0, target.bytes);
}

// ---- the block's course ---------------------------------------------------------------------------------------------

void start_checking_launch(size_t static_shared_bytes, size_t dynamic_shared_bytes) {
  block.first_run_of_launch = block.run + 1;
  block.blocks_of_launch.clear();
  block.static_shared.make_room(static_shared_bytes);
  block.dynamic_shared.make_room(dynamic_shared_bytes);
  block.static_shared_bytes = static_shared_bytes;
  block.dynamic_shared_bytes = dynamic_shared_bytes;
}

void start_checking_block(uint64_t index) {
  ++block.run;
  block.barrier = 0;
  block.blocks_of_launch.push_back(index);
  block.static_shared.start_block(block.static_shared_bytes);
  block.dynamic_shared.start_block(block.dynamic_shared_bytes);
}

void check_barrier() { ++block.barrier; }

void check_syncwarp(unsigned warp, unsigned mask) {
  WarpClocks& clocks = block.warps[warp];
  if (!has_clocks(clocks)) {
    clocks.run = block.run;
    clocks.barrier = block.barrier;
    for (int i = 0; i < 32; ++i) {
      clocks.own[i] = 1;
      std::fill_n(clocks.known[i], 32, uint16_t{0});
      clocks.known[i][i] = 1;
    }
  }
  if (*std::max_element(clocks.own, clocks.own + 32) == UINT16_MAX) {  // may hide a race, never invents one
    check_barrier();
    return;
  }
  uint16_t joined[32] = {};
  for (int i = 0; i < 32; ++i) {
    if (!(mask >> i & 1)) continue;
    for (int j = 0; j < 32; ++j) joined[j] = std::max(joined[j], clocks.known[i][j]);
  }
  for (int i = 0; i < 32; ++i) {
    if (!(mask >> i & 1)) continue;
    std::copy_n(joined, 32, clocks.known[i]);
    clocks.known[i][i] = ++clocks.own[i];
  }
}

// ---- the host -------------------------------------------------------------------------------------------------------

void check_copy(void* to, const void* from, size_t bytes) {
  const Allocation* target = allocation_of(to, bytes);
  const Allocation* source = from && space_of(from) == Space::device ? allocation_of(from, bytes) : nullptr;
  if (!target) return;
  uint8_t* written = shadow_of(*target).written + (static_cast<char*>(to) - target->begin);
  if (source) {
    std::memmove(written, shadow_of(*source).written + (static_cast<const char*>(from) - source->begin), bytes);
  } else {
    std::memset(written, 1, bytes);
  }
}

void forget_shadow(const Allocation& allocation) {
  delete allocation.shadow;
  allocation.shadow = nullptr;
}

}  // namespace cudasim
