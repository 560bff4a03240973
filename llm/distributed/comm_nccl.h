// Comm over NCCL, in the memory of GPUs, without a CUDA header. cudasim has an NCCL of its own, so that this very code
// runs there.
#pragma once

#include <memory>

#include "llm/distributed/comm.h"
#include "llm/distributed/group.h"

// The GPU of this process from now on: that of its number on the machine, or the only one that it sees. Throws Error if
// the machine has fewer GPUs than processes.
void choose_gpu(const Group& group);

// All processes of the group make the call. Throws Error in builds without NCCL, and what NCCL says.
std::unique_ptr<Comm> make_nccl_comm(const Group& group);
