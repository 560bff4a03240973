// Comm over NCCL, in the memory of GPUs, without a CUDA header. cudasim has its own NCCL, so that this very code runs
// there.
#pragma once

#include <memory>

#include "llm/distributed/comm.h"
#include "llm/distributed/group.h"

// Selects this process's GPU: the one with its number on the machine, or the only one that it sees. Throws Error if the
// machine has fewer GPUs than processes.
void choose_gpu(const Group& group);

// All processes of the group make the call. Throws Error in builds without NCCL, and with NCCL's text if NCCL fails.
std::unique_ptr<Comm> make_nccl_comm(const Group& group);
