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

// The kernels of cudasim's own tests are plain ones: they do not wait for earlier kernels.
struct PlainLaunches : doctest::IReporter {
  explicit PlainLaunches(const doctest::ContextOptions&) {}
  void test_case_start(const doctest::TestCaseData& test) override {
    programmatic_launches(std::string(test.m_file.c_str()).find("tests/cudasim/") == std::string::npos);
  }
  void report_query(const doctest::QueryData&) override {}
  void test_run_start() override {}
  void test_run_end(const doctest::TestRunStats&) override {}
  void test_case_reenter(const doctest::TestCaseData&) override {}
  void test_case_end(const doctest::CurrentTestCaseStats&) override {}
  void test_case_exception(const doctest::TestCaseException&) override {}
  void subcase_start(const doctest::SubcaseSignature&) override {}
  void subcase_end() override {}
  void log_assert(const doctest::AssertData&) override {}
  void log_message(const doctest::MessageData&) override {}
  void test_case_skipped(const doctest::TestCaseData&) override {}
};
REGISTER_LISTENER("plain_launches", 1, PlainLaunches);  // however many files include this, once

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
