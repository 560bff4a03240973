// How accesses of instrumented code are processed: hooks.cpp receives them, observe.cpp finds out what each one
// touches, check.cpp looks for errors, count.cpp counts. Instrumented launches run on one worker thread, so nothing
// here is locked.
#pragma once

#include "dev/cudasim/worker.h"

namespace cudasim {

// ---- an access of one lane -----------------------------------------------------------------------------------------

enum class Region : uint8_t { device, pinned, static_shared, dynamic_shared };

struct Access {
  uintptr_t pc;  // the return address of the hook: which instruction of the program
  char* address;
  uint32_t bytes;  // 1 to 16
  bool write, atomic;

  // Where it lies:
  Region region;
  size_t offset;  // from the start of the allocation, of the program's thread-local storage or of dynamic shared memory
  const Allocation* allocation;  // device and pinned
};

bool is_shared(const Access& access);

// ---- hooks.cpp -> observe.cpp --------------------------------------------------------------------------------------

void set_instrumented();

// An access by the running code, if that is a lane of a kernel; accesses to its own stack, its arguments and constants
// are ignored. Ends the launch with a report if the access is wrong.
void observe(uintptr_t pc, void* address, size_t bytes, bool write, bool atomic, bool must_be_aligned);

// An index beyond an array whose size is part of its type.
void observe_bad_index(const char* file, unsigned line, uint64_t index);

// A copy of cp.async was issued, and has been done.
void observe_async_issue(uintptr_t pc, void* to, const void* from, size_t bytes, size_t valid_bytes);
void observe_async_done(uintptr_t pc, void* to, size_t bytes);

// ---- the worker and the host -> observe.cpp -------------------------------------------------------------------------

// Events of a launch; called only for instrumented programs.
void observe_launch(const Worker& worker, const Grid& grid);
void observe_block(const Worker& worker, uint64_t index);
void observe_barrier(const Worker& worker);  // all threads of the block continue
void observe_collective(unsigned warp, unsigned mask, unsigned ended, const char* what, bool is_syncwarp);
void observe_block_end(const Worker& worker);
void observe_launch_end();

void observe_copy(void* to, const void* from, size_t bytes);  // by the host; from null: memset or unobserved
void observe_free(const Allocation& allocation);

// ---- observe.cpp -> check.cpp: reports end the launch --------------------------------------------------------------

bool checking();
void check_access(Worker& worker, const Access& access);
void check_async_issue(Worker& worker, const Access& target);
void start_checking_launch(size_t static_shared_bytes, size_t dynamic_shared_bytes);
void start_checking_block(uint64_t index);
void check_barrier();
void check_syncwarp(unsigned warp, unsigned mask);
void check_copy(void* to, const void* from, size_t bytes);
void forget_shadow(const Allocation& allocation);

// ---- observe.cpp -> count.cpp --------------------------------------------------------------------------------------

bool counting();
int counted_cache_bytes();  // while counting: the argument of start_counting()
void count_access(Worker& worker, const Access& access);
void start_counting_launch(const Grid& grid);
void start_counting_block(unsigned threads);
void count_barrier(unsigned warps);
void count_collective(unsigned warp, unsigned mask, unsigned ended, const char* what);
void end_counting_block(unsigned warps);
void end_counting_launch();

// ---- for reports ---------------------------------------------------------------------------------------------------

// "WHAT in KERNEL, BLOCK", then the text and the place of the instruction.
[[noreturn]] void fail_access(Worker& worker, const std::string& what, uintptr_t pc, const std::string& text,
                              cudaError_t error);
uintptr_t program_start();

// ---- places.cpp ----------------------------------------------------------------------------------------------------

// "tests/test_x.cu:31 < tests/test_x.cu:60": the line of an instruction, then those of the calls around it that the
// compiler inlined. pc: a return address, so the call before it is looked up.
std::string code_place(uintptr_t pc);

// The variable of the program's thread-local storage at an offset ("sums", with the function it is in) and the offset
// of its first byte; empty if there is none.
struct SharedVariable {
  std::string name;
  size_t begin = 0, bytes = 0;
};
const SharedVariable* shared_variable(size_t offset);

}  // namespace cudasim
