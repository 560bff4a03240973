// The rest of the API: errors, the device and its limits, settings from the environment.
#include <algorithm>
#include <charconv>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <string_view>
#include <thread>

#include "dev/cudasim/internal.h"
#include "dev/cudasim/observe.h"

namespace cudasim {

// ---- settings ------------------------------------------------------------------------------------------------------

namespace {

bool parse_number(std::string_view text, uint64_t lowest, uint64_t highest, uint64_t& value) {
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  return error == std::errc() && end == text.data() + text.size() && value >= lowest && value <= highest;
}

Settings read_environment() {
  Settings result;
  result.threads = std::clamp(static_cast<int>(std::thread::hardware_concurrency()), 1, 16);
  const auto variable = [&](const char* name, const char* expected, auto&& parse) {
    const char* text = std::getenv(name);
    if (text && result.error.empty() && !parse(std::string_view(text)))
      result.error = std::string(name) + "=" + text + ": expected " + expected;
  };
  uint64_t number = 0;
  variable("CUDASIM_DEVICES", "0 or 1", [&](std::string_view text) {
    return parse_number(text, 0, 1, number) && (result.devices = static_cast<int>(number), true);
  });
  variable("CUDASIM_MEMORY", "the device's memory in bytes, at most 2^42", [&](std::string_view text) {
    return parse_number(text, 1, uint64_t{1} << 42, number) && (result.memory = number, true);
  });
  variable("CUDASIM_CAPABILITY", "a compute capability without the dot, from 50 to 129", [&](std::string_view text) {
    return parse_number(text, 50, 129, number) && (result.capability = static_cast<int>(number), true);
  });
  variable("CUDASIM_THREADS", "a number from 1 to 256", [&](std::string_view text) {
    return parse_number(text, 1, 256, number) && (result.threads = static_cast<int>(number), true);
  });
  variable("CUDASIM_NCCL_TIMEOUT", "seconds, more than 0 and at most 10^6", [&](std::string_view text) {
    double& seconds = result.nccl_timeout;
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), seconds);
    return error == std::errc() && end == text.data() + text.size() && seconds > 0 && seconds <= 1e6;
  });
  variable("CUDASIM_NCCL_ADDR", "a name or an IPv4 address of this machine", [&](std::string_view text) {
    result.nccl_address = text;
    return !text.empty();
  });
  variable("CUDASIM_MMA", "nearest or truncate", [&](std::string_view text) {
    result.mma_truncates = text == "truncate";
    return text == "nearest" || text == "truncate";
  });
  variable("CUDASIM_SCHEDULE", "forward, reverse or random:SEED", [&](std::string_view text) {
    if (text == "forward" || text == "reverse") {
      result.schedule = text == "forward" ? Schedule::forward : Schedule::reverse;
      return true;
    }
    if (!text.starts_with("random:") || !parse_number(text.substr(7), 0, UINT64_MAX, number)) return false;
    result.schedule = Schedule::random;
    result.seed = number;
    return true;
  });
  return result;
}

cudaError_t last_error = cudaSuccess, sticky = cudaSuccess;

std::atomic<uint64_t> allocation_count{0};

std::mutex report_lock;
std::string& last_report_text() {
  static auto* text = new std::string;
  return *text;
}

std::map<const void*, size_t>& shared_limits() {  // limits set by cudaFuncSetAttribute
  static auto* limits = new std::map<const void*, size_t>;
  return *limits;
}

}  // namespace

Settings& settings() {
  static auto* settings = new Settings(read_environment());
  return *settings;
}

void set_schedule(Schedule schedule, uint64_t seed) {
  const std::lock_guard guard(api_lock());
  settings().schedule = schedule;
  settings().seed = seed;
  restart_random();
}

void set_mma_truncates(bool truncates) {
  const std::lock_guard guard(api_lock());
  settings().mma_truncates = truncates;
}
bool mma_truncates() { return settings().mma_truncates; }

void set_threads(int threads) {
  const std::lock_guard guard(api_lock());
  settings().threads = std::clamp(threads, 1, 256);
}

void set_time_limit(double seconds) {
  const std::lock_guard guard(api_lock());
  settings().time_limit = seconds;
}

// ---- errors and reports --------------------------------------------------------------------------------------------

std::recursive_mutex& api_lock() {
  static auto* lock = new std::recursive_mutex;
  return *lock;
}

cudaError_t sticky_error() { return sticky; }
void set_sticky_error(cudaError_t error) {
  if (sticky == cudaSuccess) sticky = error;
}

cudaError_t api_status() {
  if (!settings().error.empty()) {
    static bool told = false;
    if (!told) std::fprintf(stderr, "cudasim: %s\n", settings().error.c_str());
    told = true;
    return cudaErrorInitializationError;
  }
  return settings().devices == 0 ? cudaErrorNoDevice : sticky;
}

cudaError_t returned(cudaError_t status) {
  if (status != cudaSuccess) last_error = status;
  return status;
}

void note_allocation() { ++allocation_count; }
uint64_t allocations() { return allocation_count; }

void report(const std::string& text) {
  const std::lock_guard guard(report_lock);
  last_report_text() = text;
  std::fprintf(stderr, "cudasim: %s\n", text.c_str());
}

std::string last_report() {
  const std::lock_guard guard(report_lock);
  return last_report_text();
}

std::string place_text(const Place& place) {
  return std::string(place.file_name()) + ":" + std::to_string(place.line());
}

// ---- launches ------------------------------------------------------------------------------------------------------

namespace detail {

cudaError_t check_launch(const cudaLaunchConfig_t& config, const void* kernel) {
  const std::lock_guard guard(api_lock());
  if (const cudaError_t status = api_status(); status != cudaSuccess) return returned(status);
  if (!kernel) return returned(cudaErrorInvalidDeviceFunction);
  if (config.numAttrs > 0 && !config.attrs) return returned(cudaErrorInvalidValue);
  for (unsigned i = 0; i < config.numAttrs; ++i) {
    const cudaLaunchAttributeID id = config.attrs[i].id;
    if (id != cudaLaunchAttributeIgnore && id != cudaLaunchAttributeProgrammaticStreamSerialization)
      return returned(cudaErrorNotSupported);
  }
  const dim3 grid = config.gridDim, block = config.blockDim;
  const bool zero = !grid.x || !grid.y || !grid.z || !block.x || !block.y || !block.z;
  if (zero || grid.x > 0x7fffffffu || grid.y > 65535 || grid.z > 65535 || block.x > kMaxThreads ||
      block.y > kMaxThreads || block.z > 64 || block.x * block.y * block.z > kMaxThreads)
    return returned(cudaErrorInvalidConfiguration);
  const auto limit = shared_limits().find(kernel);
  if (config.dynamicSmemBytes > (limit == shared_limits().end() ? kDefaultMaxShared - kStaticShared : limit->second))
    return returned(cudaErrorInvalidValue);
  return cudaSuccess;
}

}  // namespace detail
}  // namespace cudasim

// ---- the API -------------------------------------------------------------------------------------------------------

using namespace cudasim;

const char* cudaGetErrorName(cudaError_t error) {
  switch (error) {
#define NAME(name) \
  case name:       \
    return #name;
    NAME(cudaSuccess)
    NAME(cudaErrorInvalidValue)
    NAME(cudaErrorMemoryAllocation)
    NAME(cudaErrorInitializationError)
    NAME(cudaErrorInvalidConfiguration)
    NAME(cudaErrorInvalidPitchValue)
    NAME(cudaErrorInvalidHostPointer)
    NAME(cudaErrorInvalidDevicePointer)
    NAME(cudaErrorInvalidMemcpyDirection)
    NAME(cudaErrorInsufficientDriver)
    NAME(cudaErrorInvalidDeviceFunction)
    NAME(cudaErrorNoDevice)
    NAME(cudaErrorInvalidDevice)
    NAME(cudaErrorNoKernelImageForDevice)
    NAME(cudaErrorInvalidResourceHandle)
    NAME(cudaErrorIllegalState)
    NAME(cudaErrorNotReady)
    NAME(cudaErrorIllegalAddress)
    NAME(cudaErrorLaunchOutOfResources)
    NAME(cudaErrorPeerAccessAlreadyEnabled)
    NAME(cudaErrorMisalignedAddress)
    NAME(cudaErrorLaunchFailure)
    NAME(cudaErrorNotSupported)
    NAME(cudaErrorStreamCaptureUnsupported)
    NAME(cudaErrorStreamCaptureInvalidated)
    NAME(cudaErrorStreamCaptureMerge)
    NAME(cudaErrorStreamCaptureUnmatched)
    NAME(cudaErrorStreamCaptureUnjoined)
    NAME(cudaErrorStreamCaptureIsolation)
    NAME(cudaErrorStreamCaptureImplicit)
    NAME(cudaErrorCapturedEvent)
    NAME(cudaErrorStreamCaptureWrongThread)
    NAME(cudaErrorUnknown)
#undef NAME
  }
  return "unrecognized error code";
}

const char* cudaGetErrorString(cudaError_t error) {
  switch (error) {
    case cudaSuccess:
      return "no error";
    case cudaErrorInvalidValue:
      return "invalid argument";
    case cudaErrorMemoryAllocation:
      return "out of memory";
    case cudaErrorInitializationError:
      return "initialization error";
    case cudaErrorInvalidConfiguration:
      return "invalid configuration argument";
    case cudaErrorInvalidPitchValue:
      return "invalid pitch argument";
    case cudaErrorInvalidHostPointer:
      return "invalid host pointer";
    case cudaErrorInvalidDevicePointer:
      return "invalid device pointer";
    case cudaErrorInvalidMemcpyDirection:
      return "invalid copy direction for memcpy";
    case cudaErrorInsufficientDriver:
      return "CUDA driver version is insufficient for CUDA runtime version";
    case cudaErrorInvalidDeviceFunction:
      return "invalid device function";
    case cudaErrorNoDevice:
      return "no CUDA-capable device is detected";
    case cudaErrorInvalidDevice:
      return "invalid device ordinal";
    case cudaErrorNoKernelImageForDevice:
      return "no kernel image is available for execution on the device";
    case cudaErrorInvalidResourceHandle:
      return "invalid resource handle";
    case cudaErrorIllegalState:
      return "the operation cannot be performed in the present state";
    case cudaErrorNotReady:
      return "device not ready";
    case cudaErrorIllegalAddress:
      return "an illegal memory access was encountered";
    case cudaErrorLaunchOutOfResources:
      return "too many resources requested for launch";
    case cudaErrorPeerAccessAlreadyEnabled:
      return "peer access is already enabled";
    case cudaErrorMisalignedAddress:
      return "misaligned address";
    case cudaErrorLaunchFailure:
      return "unspecified launch failure";
    case cudaErrorNotSupported:
      return "operation not supported";
    case cudaErrorStreamCaptureUnsupported:
      return "operation not permitted when stream is capturing";
    case cudaErrorStreamCaptureInvalidated:
      return "operation failed due to a previous error during capture";
    case cudaErrorStreamCaptureMerge:
      return "operation would result in a merge of separate capture sequences";
    case cudaErrorStreamCaptureUnmatched:
      return "capture was not ended in the same stream as it began";
    case cudaErrorStreamCaptureUnjoined:
      return "capturing stream has unjoined work";
    case cudaErrorStreamCaptureIsolation:
      return "dependency created on uncaptured work in another stream";
    case cudaErrorStreamCaptureImplicit:
      return "operation would make the legacy stream depend on a capturing blocking stream";
    case cudaErrorCapturedEvent:
      return "operation not permitted on an event last recorded in a capturing stream";
    case cudaErrorStreamCaptureWrongThread:
      return "attempt to terminate a thread-local capture sequence from another thread";
    case cudaErrorUnknown:
      break;
  }
  return "unknown error";
}

cudaError_t cudaPeekAtLastError() {
  const std::lock_guard guard(api_lock());
  return sticky != cudaSuccess ? sticky : last_error;
}

cudaError_t cudaGetLastError() {
  const std::lock_guard guard(api_lock());
  const cudaError_t error = cudaPeekAtLastError();
  last_error = cudaSuccess;
  return error;
}

cudaError_t cudaDeviceReset() {
  const std::lock_guard guard(api_lock());
  drop_all_streams();
  free_all_memory();
  shared_limits().clear();
  last_error = sticky = cudaSuccess;
  return returned(api_status());
}

cudaError_t cudaGetDeviceCount(int* count) {
  const std::lock_guard guard(api_lock());
  const cudaError_t status = api_status();
  if (!count) return returned(cudaErrorInvalidValue);
  *count = status == cudaErrorNoDevice || status == cudaErrorInitializationError ? 0 : settings().devices;
  return returned(status);
}

cudaError_t cudaSetDevice(int device) {
  const std::lock_guard guard(api_lock());
  if (const cudaError_t status = api_status(); status != cudaSuccess) return returned(status);
  return returned(device == 0 ? cudaSuccess : cudaErrorInvalidDevice);
}

cudaError_t cudaGetDevice(int* device) {
  const std::lock_guard guard(api_lock());
  if (const cudaError_t status = api_status(); status != cudaSuccess) return returned(status);
  if (!device) return returned(cudaErrorInvalidValue);
  *device = 0;
  return cudaSuccess;
}

cudaError_t cudaGetDeviceProperties(cudaDeviceProp* properties, int device) {
  const std::lock_guard guard(api_lock());
  if (const cudaError_t status = api_status(); status != cudaSuccess) return returned(status);
  if (!properties) return returned(cudaErrorInvalidValue);
  if (device != 0) return returned(cudaErrorInvalidDevice);
  cudaDeviceProp p = {};
  std::snprintf(p.name, sizeof p.name, "cudasim");
  p.totalGlobalMem = settings().memory;
  p.sharedMemPerBlock = kDefaultMaxShared;
  p.sharedMemPerBlockOptin = kMaxShared;
  p.sharedMemPerMultiprocessor = kMaxShared + 1024;
  p.reservedSharedMemPerBlock = 1024;
  p.regsPerBlock = p.regsPerMultiprocessor = 65536;
  p.warpSize = 32;
  p.maxThreadsPerBlock = kMaxThreads;
  p.maxThreadsPerMultiProcessor = 2048;
  p.maxBlocksPerMultiProcessor = 32;
  p.maxThreadsDim[0] = p.maxThreadsDim[1] = kMaxThreads;
  p.maxThreadsDim[2] = 64;
  p.maxGridSize[0] = 0x7fffffff;
  p.maxGridSize[1] = p.maxGridSize[2] = 65535;
  p.major = settings().capability / 10;
  p.minor = settings().capability % 10;
  p.multiProcessorCount = kMultiprocessors;
  p.memoryBusWidth = 512;
  p.l2CacheSize = 4 << 20;
  p.asyncEngineCount = 1;
  p.concurrentKernels = p.unifiedAddressing = 1;
  *properties = p;
  return cudaSuccess;
}

cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int device) {
  cudaDeviceProp p;
  if (!value) return returned(cudaErrorInvalidValue);
  if (const cudaError_t status = cudaGetDeviceProperties(&p, device); status != cudaSuccess) return status;
  switch (attribute) {
    case cudaDevAttrMaxThreadsPerBlock:
      *value = p.maxThreadsPerBlock;
      break;
    case cudaDevAttrMaxBlockDimX:
    case cudaDevAttrMaxBlockDimY:
    case cudaDevAttrMaxBlockDimZ:
      *value = p.maxThreadsDim[attribute - cudaDevAttrMaxBlockDimX];
      break;
    case cudaDevAttrMaxGridDimX:
    case cudaDevAttrMaxGridDimY:
    case cudaDevAttrMaxGridDimZ:
      *value = p.maxGridSize[attribute - cudaDevAttrMaxGridDimX];
      break;
    case cudaDevAttrMaxSharedMemoryPerBlock:
      *value = static_cast<int>(p.sharedMemPerBlock);
      break;
    case cudaDevAttrWarpSize:
      *value = p.warpSize;
      break;
    case cudaDevAttrMaxRegistersPerBlock:
    case cudaDevAttrMaxRegistersPerMultiprocessor:
      *value = p.regsPerBlock;
      break;
    case cudaDevAttrClockRate:  // kHz; of a device that does not exist
    case cudaDevAttrMemoryClockRate:
      *value = 1000000;
      break;
    case cudaDevAttrMultiProcessorCount:
      *value = p.multiProcessorCount;
      break;
    case cudaDevAttrGlobalMemoryBusWidth:
      *value = p.memoryBusWidth;
      break;
    case cudaDevAttrL2CacheSize:
      *value = counting() ? counted_cache_bytes() : p.l2CacheSize;
      break;
    case cudaDevAttrMaxThreadsPerMultiProcessor:
      *value = p.maxThreadsPerMultiProcessor;
      break;
    case cudaDevAttrComputeCapabilityMajor:
      *value = p.major;
      break;
    case cudaDevAttrComputeCapabilityMinor:
      *value = p.minor;
      break;
    case cudaDevAttrMaxSharedMemoryPerMultiprocessor:
      *value = static_cast<int>(p.sharedMemPerMultiprocessor);
      break;
    case cudaDevAttrCooperativeLaunch:
      *value = 0;
      break;
    case cudaDevAttrMaxSharedMemoryPerBlockOptin:
      *value = static_cast<int>(p.sharedMemPerBlockOptin);
      break;
    case cudaDevAttrMaxBlocksPerMultiprocessor:
      *value = p.maxBlocksPerMultiProcessor;
      break;
    default:
      return returned(cudaErrorInvalidValue);
  }
  return cudaSuccess;
}

cudaError_t cudaDeviceGetPCIBusId(char* id, int length, int device) {
  if (device != 0) return returned(cudaErrorInvalidDevice);
  if (!id || length < 13) return returned(cudaErrorInvalidValue);
  std::snprintf(id, static_cast<size_t>(length), "0000:00:00.0");
  return cudaSuccess;
}

cudaError_t cudaRuntimeGetVersion(int* version) {
  if (!version) return returned(cudaErrorInvalidValue);
  *version = 13000;
  return cudaSuccess;
}
cudaError_t cudaDriverGetVersion(int* version) { return cudaRuntimeGetVersion(version); }

cudaError_t cudaFuncSetAttribute(const void* kernel, cudaFuncAttribute attribute, int value) {
  const std::lock_guard guard(api_lock());
  if (const cudaError_t status = api_status(); status != cudaSuccess) return returned(status);
  if (!kernel) return returned(cudaErrorInvalidDeviceFunction);
  if (attribute == cudaFuncAttributePreferredSharedMemoryCarveout) return cudaSuccess;
  if (attribute != cudaFuncAttributeMaxDynamicSharedMemorySize || value < 0 || static_cast<size_t>(value) > kMaxShared)
    return returned(cudaErrorInvalidValue);
  shared_limits()[kernel] = static_cast<size_t>(value);
  return cudaSuccess;
}

cudaError_t cudaFuncGetName(const char** name, const void* kernel) {
  const std::lock_guard guard(api_lock());
  if (!name || !kernel) return returned(cudaErrorInvalidValue);
  static auto* names = new std::map<const void*, std::string>;
  *name = (*names)[kernel].assign(kernel_name(kernel)).c_str();
  return cudaSuccess;
}

cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessor(int* blocks, const void* kernel, int threads, size_t shared) {
  if (!blocks || !kernel || threads < 1 || threads > static_cast<int>(kMaxThreads))
    return returned(cudaErrorInvalidValue);
  const int by_threads = 2048 / ((threads + 31) / 32 * 32);
  const int by_shared = static_cast<int>((kMaxShared + 1024) / (shared + 1024));
  *blocks = std::min({32, by_threads, by_shared});
  return cudaSuccess;
}
