// Comm over MPI, in the memory of the host; and what MPI knows of the processes that it started. Where the build has no
// MPI, mpi_started() finds out that there is one process, or throws Error where a launcher has started several.
#pragma once

#include <algorithm>
#include <cstdlib>
#include <memory>
#include <string>

#include "llm/distributed/comm.h"

// How many processes a launcher of MPI programs has started with this one; 0: none has.
inline int mpi_launched() {
  for (const char* name :
       {"OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "PMIX_SIZE", "MV2_COMM_WORLD_SIZE", "SLURM_STEP_NUM_TASKS"}) {
    if (const char* value = std::getenv(name)) return std::max(1, std::atoi(value));
  }
  return 0;
}

struct MpiProcess {
  int rank = 0, size = 1;
  int local_rank = 0, local_size = 1;  // among those of this machine
};

// Starts MPI if mpirun or srun has started this process (their variables say so), once a program and before it has
// threads; it ends with the program. A size of 1 otherwise.
MpiProcess start_mpi();

// Returns rank 0's text on every rank. After start_mpi(), for what is to be known before a Comm is there.
std::string mpi_broadcast(const std::string& text);

// A separate thread makes the calls, so that they run in parallel with the caller's work. Sums of bf16 throw
// std::logic_error. Throws Error where start_mpi() found one process. Errors of MPI end the program with MPI's message.
std::unique_ptr<Comm> make_mpi_comm();
