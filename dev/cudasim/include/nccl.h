// The part of NCCL's API that a trainer on many GPUs uses, for g++ and cudasim: same names, same numbers, same meaning.
// One process is one rank with one device; ranks communicate over TCP (docs/cudasim.md). Every function may be called
// from any thread. Errors are returned, and reported like all of cudasim's reports.
#pragma once

#include <cuda_runtime.h>

#include <cstddef>
#include <source_location>

#define NCCL_MAJOR 2  // the version of these names and numbers
#define NCCL_MINOR 28
#define NCCL_PATCH 9
#define NCCL_SUFFIX ""
#define NCCL_VERSION(X, Y, Z) (((X) <= 2 && (Y) <= 8) ? (X)*1000 + (Y)*100 + (Z) : (X)*10000 + (Y)*100 + (Z))
#define NCCL_VERSION_CODE NCCL_VERSION(NCCL_MAJOR, NCCL_MINOR, NCCL_PATCH)
#define NCCL_UNIQUE_ID_BYTES 128

typedef struct ncclComm* ncclComm_t;

struct ncclUniqueId {
  char internal[NCCL_UNIQUE_ID_BYTES];
};

enum ncclResult_t {
  ncclSuccess = 0,
  ncclUnhandledCudaError = 1,
  ncclSystemError = 2,
  ncclInternalError = 3,
  ncclInvalidArgument = 4,
  ncclInvalidUsage = 5,
  ncclRemoteError = 6,
  ncclInProgress = 7,
  ncclNumResults = 8
};

enum ncclRedOp_t : int { ncclSum = 0, ncclProd = 1, ncclMax = 2, ncclMin = 3, ncclAvg = 4, ncclNumOps = 5 };

enum ncclDataType_t : int {  // half and the 8-bit floats are refused
  ncclInt8 = 0,
  ncclChar = 0,
  ncclUint8 = 1,
  ncclInt32 = 2,
  ncclInt = 2,
  ncclUint32 = 3,
  ncclInt64 = 4,
  ncclUint64 = 5,
  ncclFloat16 = 6,
  ncclHalf = 6,
  ncclFloat32 = 7,
  ncclFloat = 7,
  ncclFloat64 = 8,
  ncclDouble = 8,
  ncclBfloat16 = 9,
  ncclFloat8e4m3 = 10,
  ncclFloat8e5m2 = 11,
  ncclNumTypes = 12
};

ncclResult_t ncclGetVersion(int* version);
const char* ncclGetErrorString(ncclResult_t result);
// The last report about NCCL in this process, empty if there was none; valid until this thread's next call. comm is
// ignored.
const char* ncclGetLastError(ncclComm_t comm);

// ---- communicators -------------------------------------------------------------------------------------------------

// Opens a port of this process where the ranks of one communicator meet; it is open until all have arrived. The program
// brings the id to them.
ncclResult_t ncclGetUniqueId(ncclUniqueId* id);

// Returns when all ranks have called it, or after CUDASIM_NCCL_TIMEOUT seconds with an error.
ncclResult_t ncclCommInitRank(ncclComm_t* comm, int nranks, ncclUniqueId id, int rank);

ncclResult_t ncclCommFinalize(ncclComm_t comm);  // runs everything queued; no collective may follow
ncclResult_t ncclCommDestroy(ncclComm_t comm);   // the same, and the handle becomes invalid
// The handle becomes invalid; collectives that are queued or wait for other ranks end, with any value in their buffers.
ncclResult_t ncclCommAbort(ncclComm_t comm);

// The error of a collective: ncclInvalidUsage (the ranks do not make the same calls), ncclRemoteError (a rank has gone
// or is silent), ncclUnhandledCudaError (the device failed). The communicator can then only be destroyed.
ncclResult_t ncclCommGetAsyncError(ncclComm_t comm, ncclResult_t* error);
ncclResult_t ncclCommCount(ncclComm_t comm, int* count);
ncclResult_t ncclCommUserRank(ncclComm_t comm, int* rank);

// ---- collectives: operations of their stream ------------------------------------------------------------------------

// Counts are elements. Buffers lie in device (or pinned) memory; they are equal where noted below, or do not overlap.
// Elements are added rank by rank from rank 0 on, each sum rounded to the type; ncclAvg divides the sum. `where` is the
// place that reports name.

// recv (count) = the reduction of all ranks' send (count). In place: recv == send.
ncclResult_t ncclAllReduce(const void* send, void* recv, size_t count, ncclDataType_t type, ncclRedOp_t op,
                           ncclComm_t comm, cudaStream_t stream,
                           std::source_location where = std::source_location::current());
// recv (count) = this rank's part of the reduction of send (nranks, count). In place: recv == send + rank * count.
ncclResult_t ncclReduceScatter(const void* send, void* recv, size_t count, ncclDataType_t type, ncclRedOp_t op,
                               ncclComm_t comm, cudaStream_t stream,
                               std::source_location where = std::source_location::current());
// recv (nranks, count) = send (count) of all ranks. In place: send == recv + rank * count.
ncclResult_t ncclAllGather(const void* send, void* recv, size_t count, ncclDataType_t type, ncclComm_t comm,
                           cudaStream_t stream, std::source_location where = std::source_location::current());
// recv (count) = root's send (count), which other ranks do not need. In place: recv == send.
ncclResult_t ncclBroadcast(const void* send, void* recv, size_t count, ncclDataType_t type, int root, ncclComm_t comm,
                           cudaStream_t stream, std::source_location where = std::source_location::current());
// root's recv (count), which other ranks do not need = the reduction of all ranks' send (count). In place: recv ==
// send.
ncclResult_t ncclReduce(const void* send, void* recv, size_t count, ncclDataType_t type, ncclRedOp_t op, int root,
                        ncclComm_t comm, cudaStream_t stream,
                        std::source_location where = std::source_location::current());

// The outermost ncclGroupEnd queues the collectives that the calling thread called since ncclGroupStart, in their
// order; none of them if one is refused, and then it returns that error. On several streams: none begins before all
// streams have reached it, and all streams wait for the last.
ncclResult_t ncclGroupStart();
ncclResult_t ncclGroupEnd();
