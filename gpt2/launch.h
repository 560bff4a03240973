// How the processes of a run were started, and the group that they make.
//
//   mpirun, srun   MPI says who is who (comm_mpi.h), and tells all where rank 0 listens
//   variables      RANK, WORLD_SIZE, MASTER_ADDR, MASTER_PORT, and LOCAL_RANK, LOCAL_WORLD_SIZE where a machine has
//                  several: as torchrun sets them. WROUGHT_TOKEN, the same text for all processes of a run, keeps those
//                  of other runs away. With srun and MASTER_ADDR, Slurm's own variables do.
// $WROUGHT_JOIN_TIMEOUT: seconds in which all have to come, 120.
#pragma once

#include <memory>

#include "gpt2/group.h"

// One process, where nothing says otherwise. Throws Error: a variable that is missing or absurd, and what Group throws.
std::unique_ptr<Group> start_group();
