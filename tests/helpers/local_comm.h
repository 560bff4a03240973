// A Comm between threads of one process, for tests of several processes: sums in the order of the ranks.
#pragma once

#include <algorithm>
#include <barrier>
#include <cstring>
#include <exception>
#include <functional>
#include <memory>
#include <thread>
#include <vector>

#include "llm/distributed/comm.h"

// State shared by the ranks.
struct LocalWorld {
  explicit LocalWorld(int size) : meeting(size), in(static_cast<size_t>(size)) {}
  std::barrier<> meeting;
  std::vector<const void*> in;
};

class LocalComm final : public Comm {
 public:
  LocalComm(int rank, int size, LocalWorld& world) : Comm(rank, size), world_(world) {}
  void wait(Ticket) override {}

 private:
  Ticket queue_all_reduce(void* data, int64_t count, Number type) override {
    add(data, data, count, 0, type);
    return 1;
  }
  Ticket queue_reduce_scatter(void* out, const void* in, int64_t count, Number type) override {
    add(out, in, count, rank() * count, type);
    return 1;
  }
  Ticket queue_all_gather(void* out, const void* in, int64_t count, Number type) override {
    const size_t bytes = static_cast<size_t>(count * bytes_of(type));
    std::vector<char> own(bytes);  // `in` may be part of `out`, and memcpy must not overlap
    std::memcpy(own.data(), in, bytes);
    world_.in[static_cast<size_t>(rank())] = own.data();
    world_.meeting.arrive_and_wait();
    for (size_t r = 0; r < world_.in.size(); ++r) std::memcpy(static_cast<char*>(out) + r * bytes, world_.in[r], bytes);
    world_.meeting.arrive_and_wait();
    return 1;
  }
  Ticket queue_broadcast(void* data, int64_t count, Number type, int root) override {
    world_.in[static_cast<size_t>(rank())] = data;
    world_.meeting.arrive_and_wait();
    if (rank() != root) {
      std::memcpy(data, world_.in[static_cast<size_t>(root)], static_cast<size_t>(count * bytes_of(type)));
    }
    world_.meeting.arrive_and_wait();
    return 1;
  }
  void wait_for_all() override { world_.meeting.arrive_and_wait(); }

  // out[i] = sum over the ranks of in[first + i].
  void add(void* out, const void* in, int64_t count, int64_t first, Number type) {
    if (type == Number::f64) {
      add_numbers<double>(out, in, count, first);
    } else {
      add_numbers<float>(out, in, count, first);
    }
  }
  template <class T>
  void add_numbers(void* out, const void* in, int64_t count, int64_t first) {
    world_.in[static_cast<size_t>(rank())] = in;
    world_.meeting.arrive_and_wait();
    std::vector<T> sum(static_cast<size_t>(count));
    for (const void* from : world_.in) {
      for (int64_t i = 0; i < count; ++i) sum[static_cast<size_t>(i)] += static_cast<const T*>(from)[first + i];
    }
    world_.meeting.arrive_and_wait();  // all ranks have read
    std::copy(sum.begin(), sum.end(), static_cast<T*>(out));
  }

  LocalWorld& world_;
};

// Runs body(comm) as `size` ranks at once; throws the error of the lowest rank that fails.
inline void in_ranks(int size, const std::function<void(Comm&)>& body) {
  LocalWorld world(size);
  std::vector<std::exception_ptr> errors(static_cast<size_t>(size));
  std::vector<std::thread> threads;
  for (int r = 0; r < size; ++r) {
    threads.emplace_back([&, r] {
      try {
        LocalComm comm(r, size, world);
        body(comm);
      } catch (...) {
        errors[static_cast<size_t>(r)] = std::current_exception();
        world.meeting.arrive_and_drop();
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  for (const std::exception_ptr& error : errors) {
    if (error) std::rethrow_exception(error);
  }
}
