// A separate stack and a context to switch to, on Boost.Context's two functions (some tens of nanoseconds per switch).
#pragma once

#include <boost/context/detail/fcontext.hpp>
#include <cstddef>
#include <memory>
#include <vector>

namespace cudasim {

struct Fiber {
  boost::context::detail::fcontext_t context = nullptr;
  char* low = nullptr;  // lowest byte of the stack; below it is a page without access
  size_t size = 0;
  void* fake_stack = nullptr;  // AddressSanitizer's
};

// Leaves `from`, which continues when another fiber switches back to it.
void switch_fiber(Fiber& from, Fiber& to);

// The first function on a new fiber's stack.
void arrived(boost::context::detail::transfer_t transfer);

// Stacks of one worker, made as they are needed and reused.
class FiberPool {
 public:
  static constexpr size_t kStackSize = 256 * 1024;

  explicit FiberPool(void (*entry)(boost::context::detail::transfer_t)) : entry_(entry) {}
  Fiber& take();
  void put(Fiber& fiber) { free_.push_back(&fiber); }  // it waits, in its entry function, for another thread to run
  void reset();                                        // all are free, at the start of their entry function
  bool in_guard_page(const void* address) const;

 private:
  void make_context(Fiber& fiber, size_t index);

  void (*entry_)(boost::context::detail::transfer_t);
  std::vector<std::unique_ptr<Fiber>> fibers_;
  std::vector<Fiber*> free_;
};

}  // namespace cudasim
