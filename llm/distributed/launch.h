// How the processes of a run were started, and the group that they make.
//
//   mpirun, srun   MPI says who is who (comm_mpi.h), and tells all where rank 0 listens
//   variables      RANK, WORLD_SIZE, MASTER_ADDR, MASTER_PORT, and LOCAL_RANK, LOCAL_WORLD_SIZE where a machine has
//                  several: as torchrun sets them, and then the port is one more where it says that MASTER_PORT is its
//                  own. WROUGHT_TOKEN, the same text for all processes of a run, keeps those of other runs away; else
//                  torchrun's --rdzv-id does. With srun and MASTER_ADDR, Slurm's own variables do.
// $WROUGHT_JOIN_TIMEOUT: seconds in which all have to come, 120.
#pragma once

#include <algorithm>
#include <cstdlib>
#include <memory>

#include "llm/distributed/comm_mpi.h"
#include "llm/distributed/group.h"
#include "llm/support/error.h"

// For programs that are one process: throws Error where several were started, which would all do the same.
inline void check_one_process(const char* program) {
  const char* world = std::getenv("WORLD_SIZE");
  const int started = std::max(mpi_launched(), world ? std::atoi(world) : 1);
  if (started > 1) {
    fail(
        "%s is one process, and %d were started, which would all do the same: start it by itself (train_gpt2 takes "
        "several)",
        program, started);
  }
}

// One process, where nothing says otherwise. Throws Error: a variable that is missing or absurd, and what Group throws.
std::unique_ptr<Group> start_group();
