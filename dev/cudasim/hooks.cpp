// Code compiled with -fsanitize=thread calls one of these functions before every access to memory that might be shared,
// and code compiled with -fsanitize=bounds-strict one when an index leaves an array. The compiler's names and
// signatures; the sanitizers' own runtimes are not linked. Host code in such a file calls them as well, which costs it
// a test.
#include "dev/cudasim/observe.h"

#define HOOK extern "C" __attribute__((visibility("default")))
#define CALLER reinterpret_cast<uintptr_t>(__builtin_return_address(0))

using cudasim::observe;

#define ACCESS(bytes)                                                                                       \
  HOOK void __tsan_read##bytes(void* from) { observe(CALLER, from, bytes, false, false, true); }            \
  HOOK void __tsan_write##bytes(void* to) { observe(CALLER, to, bytes, true, false, true); }                \
  HOOK void __tsan_unaligned_read##bytes(void* from) { observe(CALLER, from, bytes, false, false, false); } \
  HOOK void __tsan_unaligned_write##bytes(void* to) { observe(CALLER, to, bytes, true, false, false); }
ACCESS(1)
ACCESS(2)
ACCESS(4)
ACCESS(8)
ACCESS(16)
#undef ACCESS

HOOK void __tsan_read_range(void* from, size_t bytes) { observe(CALLER, from, bytes, false, false, false); }
HOOK void __tsan_write_range(void* to, size_t bytes) { observe(CALLER, to, bytes, true, false, false); }

HOOK void __tsan_init() { cudasim::set_instrumented(); }
HOOK void __tsan_func_entry(void*) {}
HOOK void __tsan_func_exit() {}
HOOK void __tsan_vptr_read(void*) {}
HOOK void __tsan_vptr_update(void*, void*) {}
HOOK void __tsan_atomic_thread_fence(int) { __atomic_thread_fence(__ATOMIC_SEQ_CST); }
HOOK void __tsan_atomic_signal_fence(int) {}

// Atomic operations are done here, in place of the instruction: memory orders can only become stronger.
#define ATOMIC_UPDATE(bits, T, name)                               \
  HOOK T __tsan_atomic##bits##_fetch_##name(T* at, T value, int) { \
    observe(CALLER, at, sizeof(T), true, true, true);              \
    return __atomic_fetch_##name(at, value, __ATOMIC_SEQ_CST);     \
  }
#define ATOMIC(bits, T)                                                                                 \
  HOOK T __tsan_atomic##bits##_load(const T* at, int) {                                                 \
    observe(CALLER, const_cast<T*>(at), sizeof(T), false, true, true);                                  \
    return __atomic_load_n(at, __ATOMIC_SEQ_CST);                                                       \
  }                                                                                                     \
  HOOK void __tsan_atomic##bits##_store(T* at, T value, int) {                                          \
    observe(CALLER, at, sizeof(T), true, true, true);                                                   \
    __atomic_store_n(at, value, __ATOMIC_SEQ_CST);                                                      \
  }                                                                                                     \
  HOOK T __tsan_atomic##bits##_exchange(T* at, T value, int) {                                          \
    observe(CALLER, at, sizeof(T), true, true, true);                                                   \
    return __atomic_exchange_n(at, value, __ATOMIC_SEQ_CST);                                            \
  }                                                                                                     \
  HOOK int __tsan_atomic##bits##_compare_exchange_strong(T* at, T* expected, T value, int, int) {       \
    observe(CALLER, at, sizeof(T), true, true, true);                                                   \
    return __atomic_compare_exchange_n(at, expected, value, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST); \
  }                                                                                                     \
  HOOK int __tsan_atomic##bits##_compare_exchange_weak(T* at, T* expected, T value, int, int) {         \
    observe(CALLER, at, sizeof(T), true, true, true);                                                   \
    return __atomic_compare_exchange_n(at, expected, value, true, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);  \
  }                                                                                                     \
  ATOMIC_UPDATE(bits, T, add)                                                                           \
  ATOMIC_UPDATE(bits, T, sub)                                                                           \
  ATOMIC_UPDATE(bits, T, and)                                                                           \
  ATOMIC_UPDATE(bits, T, or)                                                                            \
  ATOMIC_UPDATE(bits, T, xor)                                                                           \
  ATOMIC_UPDATE(bits, T, nand)
ATOMIC(8, uint8_t)
ATOMIC(16, uint16_t)
ATOMIC(32, uint32_t)
ATOMIC(64, uint64_t)
#undef ATOMIC
#undef ATOMIC_UPDATE

struct SourceLocation {  // the compiler's layout
  const char* file;
  uint32_t line, column;
};
HOOK void __ubsan_handle_out_of_bounds(SourceLocation* where, uintptr_t index) {
  cudasim::observe_bad_index(where->file, where->line, index);
}

namespace cudasim {
void note_read(const void* from, int bytes) {
  if (!instrumented()) return;
  observe(CALLER, const_cast<void*>(from), static_cast<size_t>(bytes), false, false, true);
}
}  // namespace cudasim
