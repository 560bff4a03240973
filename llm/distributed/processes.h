// The processes of a run, for the trainers: they find one another before the run, and end together.
#pragma once

#include <cstdio>
#include <exception>
#include <memory>
#include <thread>

#include "llm/distributed/launch.h"
#include "llm/training/report.h"

// In a catch block of something that this process alone has met: the run ends, with what was thrown, in all processes,
// before anything that they still wait for goes away. Returns where they know already.
inline void end_everywhere(const Group& group) {
  if (group.told()) return;
  try {
    throw;
  } catch (const UsageError& error) {
    group.end(error.what(), 2);
  } catch (const std::bad_alloc&) {
    group.end("out of memory; a smaller --batch-size, --seq-len or --model needs less, and so does a higher --zero", 1);
  } catch (const std::exception& error) {
    group.end(error.what(), 1);
  }
}

// Runs body(group) in the group that the environment says. Rank 0 alone prints what is no error.
template <class Body>
void run_in_group(const TrainConfig& config, Body&& body) {
  const std::unique_ptr<Group> group = start_group();
  if (group->size() == 1) return body(*group);
  if (group->rank() > 0 && !std::freopen("/dev/null", "w", stdout)) fail("/dev/null cannot be opened");
  if (config.threads == 0) {  // those of this machine share its cores
    set_cpu_threads(std::max(1, static_cast<int>(std::thread::hardware_concurrency()) / group->local_size()));
  }
  try {
    body(*group);
    group->barrier();  // nobody leaves while another still wants something
  } catch (...) {
    end_everywhere(*group);
    throw;
  }
}
