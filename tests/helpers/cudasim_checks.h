// Shared by the tests of cudasim itself: its reports, its schedules.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "tests/helpers/device.h"

// Waits for a report that contains all of `parts`, then resets the device.
inline void check_report(cudaError_t expected, const std::vector<std::string>& parts) {
  CHECK(cudaDeviceSynchronize() == expected);
  const std::string report = cudasim::last_report();
  for (const std::string& part : parts) {
    INFO(report, "\nlacks: ", part);
    CHECK(report.find(part) != std::string::npos);
  }
  CHECK(cudaDeviceSynchronize() == expected);  // the error persists
  CHECK(cudaDeviceReset() == cudaSuccess);
  CHECK(cudaDeviceSynchronize() == cudaSuccess);
}

// f() under five schedules.
template <class F>
void for_all_schedules(F&& f) {
  using cudasim::Schedule;
  for (const auto& [schedule, seed] : {std::pair{Schedule::forward, 0},
                                       {Schedule::reverse, 0},
                                       {Schedule::random, 1},
                                       {Schedule::random, 2},
                                       {Schedule::random, 3}}) {
    cudasim::set_schedule(schedule, static_cast<uint64_t>(seed));
    f();
  }
  cudasim::set_schedule(Schedule::forward);
}
