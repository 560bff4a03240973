// Sums and exchanges: within one process and, if mpirun started this test, between several over MPI.
#include <doctest/doctest.h>

#include <numeric>
#include <stdexcept>
#include <vector>

#include "llm/distributed/comm.h"
#include "llm/distributed/comm_mpi.h"

namespace {

const MpiProcess& process() {
  static const MpiProcess started = start_mpi();
  return started;
}

std::unique_ptr<Comm> make_comm() { return process().size > 1 ? make_mpi_comm() : make_single_comm(); }

// What rank r has at i.
template <class T>
T value(int r, int64_t i) {
  return static_cast<T>((r + 1) * 1000 + i % 977);
}

template <class T>
std::vector<T> values(int r, int64_t n) {
  std::vector<T> all(static_cast<size_t>(n));
  for (int64_t i = 0; i < n; ++i) all[static_cast<size_t>(i)] = value<T>(r, i);
  return all;
}

template <class T>
void check_all(Number type) {
  const std::unique_ptr<Comm> comm = make_comm();
  const int R = comm->size(), rank = comm->rank();
  for (const int64_t n : {1, 33, 100'003, 5'000'000}) {  // the last is sent in pieces
    CAPTURE(n);
    std::vector<T> data = values<T>(rank, n);
    comm->wait(comm->all_reduce(data.data(), n, type));
    bool right = true;
    for (int64_t i = 0; i < n; ++i) {
      T sum = 0;
      for (int r = 0; r < R; ++r) sum += value<T>(r, i);
      right = right && data[static_cast<size_t>(i)] == sum;
    }
    CHECK(right);
    if (n > 1'000'000) continue;

    for (const bool in_place : {false, true}) {
      CAPTURE(in_place);
      std::vector<T> whole = values<T>(rank, R * n), part(static_cast<size_t>(n));
      T* own = in_place ? whole.data() + rank * n : part.data();
      comm->wait(comm->reduce_scatter(own, whole.data(), n, type));
      right = true;
      for (int64_t i = 0; i < n; ++i) {
        T sum = 0;
        for (int r = 0; r < R; ++r) sum += value<T>(r, rank * n + i);
        right = right && own[i] == sum;
      }
      CHECK(right);

      part = values<T>(rank, n);
      whole.assign(static_cast<size_t>(R * n), T(-1));
      if (in_place) std::copy(part.begin(), part.end(), whole.begin() + rank * n);
      comm->wait(comm->all_gather(whole.data(), in_place ? whole.data() + rank * n : part.data(), n, type));
      right = true;
      for (int r = 0; r < R; ++r) {
        for (int64_t i = 0; i < n; ++i) right = right && whole[static_cast<size_t>(r * n + i)] == value<T>(r, i);
      }
      CHECK(right);
    }
    for (int root = 0; root < R; ++root) {
      data = values<T>(rank, n);
      comm->wait(comm->broadcast(data.data(), n, type, root));
      CHECK(data == values<T>(root, n));
    }
  }
}

}  // namespace

TEST_CASE("sums and exchanges of floats and doubles, in place and out of place") {
  check_all<float>(Number::f32);
  check_all<double>(Number::f64);
}

TEST_CASE("calls queue up, and a later ticket waits for the earlier ones") {
  const std::unique_ptr<Comm> comm = make_comm();
  std::vector<double> x(1000, 1), y(1000, 2);
  comm->all_reduce(x.data(), 1000, Number::f64);
  comm->all_reduce(y.data(), 1000, Number::f64);
  const Comm::Ticket last = comm->all_reduce(x.data(), 1000, Number::f64);
  comm->wait(last);
  const double R = comm->size();
  CHECK(x.back() == R * R);
  CHECK(y.back() == 2 * R);
  comm->wait(last);  // a second wait returns at once
  comm->barrier();
}

TEST_CASE("network traffic and calls are counted") {
  const std::unique_ptr<Comm> comm = make_comm();
  const int R = comm->size();
  const int64_t before = *comm->progress();
  std::vector<float> data(static_cast<size_t>(10 * R));
  comm->all_reduce(data.data(), 10, Number::f32);
  comm->reduce_scatter(data.data(), data.data(), 10, Number::f32);
  comm->all_gather(data.data(), data.data() + 10 * comm->rank(), 10, Number::f32);
  comm->wait(comm->broadcast(data.data(), 10, Number::f32, 0));
  CHECK(*comm->progress() == before + 4);
  const Traffic traffic = comm->take_traffic();
  CHECK(traffic.all_reduced == 10);
  CHECK(traffic.reduce_scattered == 10 * R);
  CHECK(traffic.all_gathered == 10 * R);
  CHECK(traffic.broadcast == 10);
  CHECK(traffic.volume() == 20 + 20 * R);
  CHECK(comm->take_traffic().volume() == 0);
  const CommTime time = comm->take_time();
  CHECK((time.busy > 0) == (R > 1));
  CHECK(time.waited >= 0);
  CHECK(time.waited <= time.busy + 1);
  CHECK(comm->take_time().busy == 0);
}

TEST_CASE("bf16 can be moved, not summed") {
  if (process().size == 1) return;
  const std::unique_ptr<Comm> comm = make_comm();
  std::vector<uint16_t> data(static_cast<size_t>(comm->size()), static_cast<uint16_t>(comm->rank() + 7));
  comm->wait(comm->all_gather(data.data(), data.data() + comm->rank(), 1, Number::bf16));
  for (int r = 0; r < comm->size(); ++r) CHECK(data[static_cast<size_t>(r)] == r + 7);
  CHECK_THROWS_AS(comm->all_reduce(data.data(), 1, Number::bf16), std::logic_error);
  CHECK(mpi_broadcast(comm->rank() == 0 ? std::string("a\0b", 3) : "") == std::string("a\0b", 3));
}
