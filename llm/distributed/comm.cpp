#include "llm/distributed/comm.h"

#include <cstring>

void Comm::barrier() {
  ++*progress_;
  wait_for_all();
}

namespace {

class SingleComm final : public Comm {
 public:
  SingleComm() : Comm(0, 1) {}
  void wait(Ticket) override {}

 private:
  Ticket queue_all_reduce(void*, int64_t, Number) override { return 0; }
  Ticket queue_reduce_scatter(void* out, const void* in, int64_t count, Number type) override {
    return copy(out, in, count, type);
  }
  Ticket queue_all_gather(void* out, const void* in, int64_t count, Number type) override {
    return copy(out, in, count, type);
  }
  Ticket queue_broadcast(void*, int64_t, Number, int) override { return 0; }
  void wait_for_all() override {}

  static Ticket copy(void* out, const void* in, int64_t count, Number type) {
    if (out != in) std::memcpy(out, in, static_cast<size_t>(count * bytes_of(type)));
    return 0;
  }
};

}  // namespace

std::unique_ptr<Comm> make_single_comm() { return std::make_unique<SingleComm>(); }
