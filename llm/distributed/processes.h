// The processes of a run, for the trainers: rendezvous before the run, and failing together.
#pragma once

#include <cstdio>
#include <exception>
#include <memory>
#include <new>

#include "llm/distributed/launch.h"
#include "llm/support/error.h"

// For a catch block: ends the run in all processes with the exception of this one, before anything is destroyed that
// they still wait for. Returns if they know already.
inline void end_everywhere(const Group& group) {
  if (group.told()) return;
  try {
    throw;
  } catch (const UsageError& error) {
    group.end(error.what(), 2);
  } catch (const std::bad_alloc&) {
    group.end("out of memory; a smaller {batch-size}, {seq-len} or {model} needs less, and so does a higher {zero}", 1);
  } catch (const std::exception& error) {
    group.end(error.what(), 1);
  }
}

// Runs body(group) in the group that the environment describes. Only rank 0 prints, errors aside.
template <class Body>
void run_in_group(Body&& body) {
  const std::unique_ptr<Group> group = start_group();
  if (group->size() == 1) return body(*group);
  if (group->rank() > 0 && !std::freopen("/dev/null", "w", stdout)) fail("/dev/null cannot be opened");
  try {
    body(*group);
    group->barrier();  // no process leaves while another still needs it
  } catch (...) {
    end_everywhere(*group);
    throw;
  }
}
