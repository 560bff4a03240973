#include "dev/cudasim/fiber.h"

#include <sys/mman.h>

#include <cstdio>
#include <cstdlib>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif

namespace cudasim {

using boost::context::detail::jump_fcontext;
using boost::context::detail::make_fcontext;
using boost::context::detail::transfer_t;

namespace {
constexpr size_t kGuard = 4096;

#if defined(__SANITIZE_ADDRESS__)
void about_to_switch(Fiber& from, const Fiber& to) {
  __sanitizer_start_switch_fiber(&from.fake_stack, to.low, to.size);
}
void has_switched(void* fake_stack) { __sanitizer_finish_switch_fiber(fake_stack, nullptr, nullptr); }
void forget_frames(const Fiber& fiber) { __asan_unpoison_memory_region(fiber.low, fiber.size); }
#else
void about_to_switch(Fiber&, const Fiber&) {}
void has_switched(void*) {}
void forget_frames(const Fiber&) {}
#endif
}  // namespace

void arrived(transfer_t transfer) {
  has_switched(nullptr);
  static_cast<Fiber*>(transfer.data)->context = transfer.fctx;
}

void switch_fiber(Fiber& from, Fiber& to) {
  about_to_switch(from, to);
  const transfer_t transfer = jump_fcontext(to.context, &from);
  has_switched(from.fake_stack);
  static_cast<Fiber*>(transfer.data)->context = transfer.fctx;
}

void FiberPool::make_context(Fiber& fiber, size_t index) {
  // Stacks lie a multiple of the caches' size apart; without separate offsets they would all use the same cache lines.
  const size_t offset = index % 64 * 320;
  fiber.context = make_fcontext(fiber.low + fiber.size - offset, fiber.size - offset, entry_);
  fiber.fake_stack = nullptr;
}

Fiber& FiberPool::take() {
  if (free_.empty()) {
    void* pages = mmap(nullptr, kGuard + kStackSize, PROT_READ | PROT_WRITE,
                       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_STACK, -1, 0);
    if (pages == MAP_FAILED || mprotect(pages, kGuard, PROT_NONE) != 0) {
      std::perror("cudasim: no memory for the stack of a thread (or too many mappings: vm.max_map_count)");
      std::abort();
    }
    auto fiber = std::make_unique<Fiber>();
    fiber->low = static_cast<char*>(pages) + kGuard;
    fiber->size = kStackSize;
    make_context(*fiber, fibers_.size());
    free_.push_back(fiber.get());
    fibers_.push_back(std::move(fiber));
  }
  Fiber& fiber = *free_.back();
  free_.pop_back();
  return fiber;
}

void FiberPool::reset() {
  free_.clear();
  for (size_t i = fibers_.size(); i-- > 0;) {
    forget_frames(*fibers_[i]);
    make_context(*fibers_[i], i);
    free_.push_back(fibers_[i].get());
  }
}

bool FiberPool::in_guard_page(const void* address) const {
  const char* byte = static_cast<const char*>(address);
  for (const auto& fiber : fibers_) {
    if (byte >= fiber->low - kGuard && byte < fiber->low) return true;
  }
  return false;
}

}  // namespace cudasim
