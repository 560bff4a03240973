// The start and duration of each kernel of any CUDA program: a library that the CUDA driver loads into the program,
// which needs no change and pays nothing without it. Libraries' kernels (cuBLASLt, cuDNN) are recorded as well as ours.
//
//   CUDA_INJECTION64_PATH=build/libkernel_times.so KERNEL_TIMES=times.tsv build/train_gpt2cu ...
//
// One line per kernel, memset or copy: start and duration in nanoseconds, name; in the order in which CUPTI delivers
// them. dev/gpu/kernel_times.awk turns them into a step's table.
#include <cupti.h>
#include <cxxabi.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <string>

namespace {

constexpr size_t kBufferBytes = size_t{8} << 20;
std::FILE* output = nullptr;
uint64_t began = 0;  // times are relative to this: nanoseconds since the epoch exceed awk's numbers

// Stops the program: incomplete times would look like complete ones.
[[noreturn]] void stop(const char* what, CUptiResult status) {
  const char* text = "";
  cuptiGetResultString(status, &text);
  std::fprintf(stderr, "error: libkernel_times.so: %s: %s\n", what, text);
  std::_Exit(1);
}

void check(CUptiResult status, const char* what) {
  if (status != CUPTI_SUCCESS) stop(what, status);
}

// "void ns::gelu_forward_kernel<bf16, true>(...)" -> "gelu_forward_kernel"; other libraries' templates keep their
// arguments, which distinguish them.
std::string readable(const char* mangled) {
  int status = 0;
  char* demangled = abi::__cxa_demangle(mangled, nullptr, nullptr, &status);
  std::string name = demangled ? demangled : mangled;
  std::free(demangled);
  if (name.rfind("void ", 0) == 0) name.erase(0, 5);
  const size_t end = name.find("_kernel");
  if (end != std::string::npos && name.find('<') > end) {
    name.resize(end + 7);
    const size_t scope = name.rfind("::");
    if (scope != std::string::npos) name.erase(0, scope + 2);
  } else if (name.size() > 160) {
    name.resize(160);
  }
  for (char& c : name) {
    if (c == '\t' || c == '\n' || c == '"' || c == '\\') c = ' ';
  }
  return name;
}

template <class Record>
void write(const Record& record, const char* name) {
  std::fprintf(output, "%llu\t%llu\t%s\n", static_cast<unsigned long long>(record.start - began),
               static_cast<unsigned long long>(record.end - record.start), name);
}

void CUPTIAPI request_buffer(uint8_t** buffer, size_t* size, size_t* most_records) {
  *buffer = static_cast<uint8_t*>(std::aligned_alloc(8, kBufferBytes));
  *size = *buffer ? kBufferBytes : 0;
  *most_records = 0;  // as many as fit
}

void CUPTIAPI complete_buffer(CUcontext context, uint32_t stream, uint8_t* buffer, size_t, size_t valid) {
  static auto* names = new std::map<std::string, std::string>;  // CUPTI calls from a single thread, its own
  CUpti_Activity* record = nullptr;
  while (cuptiActivityGetNextRecord(buffer, valid, &record) == CUPTI_SUCCESS) {
    if (record->kind == CUPTI_ACTIVITY_KIND_CONCURRENT_KERNEL) {
      const auto* kernel = reinterpret_cast<const CUpti_ActivityKernel10*>(record);
      const auto [at, added] = names->try_emplace(kernel->name);
      if (added) at->second = readable(kernel->name);
      write(*kernel, at->second.c_str());
    } else if (record->kind == CUPTI_ACTIVITY_KIND_MEMSET) {
      write(*reinterpret_cast<const CUpti_ActivityMemset4*>(record), "memset");
    } else if (record->kind == CUPTI_ACTIVITY_KIND_MEMCPY) {
      write(*reinterpret_cast<const CUpti_ActivityMemcpy6*>(record), "memcpy");
    }
  }
  size_t dropped = 0;
  check(cuptiActivityGetNumDroppedRecords(context, stream, &dropped), "counting what was dropped");
  if (dropped > 0) {
    std::fprintf(stderr, "error: libkernel_times.so: CUPTI dropped %zu records\n", dropped);
    std::_Exit(1);
  }
  std::free(buffer);
}

void finish() {
  check(cuptiActivityFlushAll(1), "writing the last times");
  if (std::fclose(output) != 0) {
    std::fprintf(stderr, "error: libkernel_times.so: the times cannot be written: the disk is full\n");
    std::_Exit(1);
  }
}

}  // namespace

// The driver calls this once, when the program first needs it.
extern "C" __attribute__((visibility("default"))) int InitializeInjection() {
  const char* path = std::getenv("KERNEL_TIMES");
  output = path && *path ? std::fopen(path, "w") : nullptr;
  if (!output) {
    std::fprintf(stderr, "error: libkernel_times.so: KERNEL_TIMES is '%s', expected a file that can be written\n",
                 path ? path : "");
    std::_Exit(1);
  }
  check(cuptiGetTimestamp(&began), "reading the clock");
  check(cuptiActivityRegisterCallbacks(request_buffer, complete_buffer), "setting up");
  for (const CUpti_ActivityKind kind :
       {CUPTI_ACTIVITY_KIND_CONCURRENT_KERNEL, CUPTI_ACTIVITY_KIND_MEMSET, CUPTI_ACTIVITY_KIND_MEMCPY}) {
    check(cuptiActivityEnable(kind), "asking for kernels' times");
  }
  std::atexit(finish);
  return 1;
}
