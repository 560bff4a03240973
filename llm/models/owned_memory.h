// Memory with one owner, which moves and is not copied.
#pragma once

#include <cstdint>
#include <utility>

// Kind: static void* allocate(int64_t bytes), which may throw std::bad_alloc, and void release(void*, int64_t bytes).
template <class Kind>
class OwnedMemory {
 public:
  OwnedMemory() = default;
  explicit OwnedMemory(int64_t bytes) : data_(bytes > 0 ? Kind::allocate(bytes) : nullptr), bytes_(bytes) {}
  ~OwnedMemory() {
    if (data_) Kind::release(data_, bytes_);
  }
  OwnedMemory(OwnedMemory&& other) noexcept
      : data_(std::exchange(other.data_, nullptr)), bytes_(std::exchange(other.bytes_, 0)) {}
  OwnedMemory& operator=(OwnedMemory&& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(bytes_, other.bytes_);
    return *this;
  }
  template <class T>
  T* as() const {
    return static_cast<T*>(data_);
  }
  int64_t bytes() const { return bytes_; }

 private:
  void* data_ = nullptr;
  int64_t bytes_ = 0;
};
