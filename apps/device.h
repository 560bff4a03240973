// Where a program's model lives. Programs that include this are built up to three times: for the CPU only; with the
// GPU's model by nvcc (its name and "cu"); and with the same on dev/cudasim ("sim"), for machines without a GPU.
#pragma once

#include <unistd.h>

#include <memory>
#include <string>

#include "llm/flags/command_line.h"
#include "llm/flags/device_flags.h"
#include "llm/models/cpu.h"
#include "llm/models/cpu_model.h"
#include "llm/models/device.h"
#include "llm/models/memory_plan.h"
#include "llm/models/model.h"
#ifdef WROUGHT_GPU
#include "llm/models/gpu.h"
inline constexpr bool kHasGpu = true;
#else
inline constexpr bool kHasGpu = false;
#endif

inline void add_device_flags(CLI::App& app, DeviceFlags& flags, bool exact) {
  add_device_flags(app, flags, exact, kHasGpu);
}

// Those of a program that decodes: in float unless told otherwise.
inline void add_decode_flags(CLI::App& app, DeviceFlags& flags) {
  flags.decodes = true;
  add_device_flags(app, flags, true, kHasGpu);
}

// Throws UsageError for what this program or machine does not have; sets the number of threads, and the precision if it
// is open.
inline void settle_device(DeviceFlags& flags) {
  if (flags.threads > 0) set_cpu_threads(flags.threads);
  settle_device_flags(flags);
#ifdef WROUGHT_GPU
  if (flags.on_gpu()) check_gpu();
#endif
}

// Throws Error if the rows' sum is more than this machine has. what: takes them; todo: what takes less.
inline void check_machine_memory(const std::vector<MemoryRow>& rows, const std::string& what, const std::string& todo) {
  double needed = 0;
  for (const MemoryRow& row : rows) needed += static_cast<double>(row.bytes);
  const double machine = static_cast<double>(::sysconf(_SC_PHYS_PAGES)) * static_cast<double>(::sysconf(_SC_PAGESIZE));
  if (machine > 0 && needed > machine) {
    fail("%s take %.1f GB and this machine has %.1f GB; %s", what.c_str(), needed / 1e9, machine / 1e9, todo.c_str());
  }
}

// A model for batches of (B, T) in the flags' precision. Throws Error if the device cannot hold its training.
inline std::unique_ptr<Model> make_device_model(const DeviceFlags& flags, const ModelConfig& shape,
                                                ModelOptions options, int B, int T) {
  options.precision = precision_of(flags);
#ifdef WROUGHT_GPU
  if (flags.on_gpu()) {
    check_gpu_memory(shape, options, B, T, free_gpu_memory());
    return make_gpu_model(shape, options, B, T, flags.reference);
  }
#endif
  check_machine_memory(memory_plan(shape, options, B, T), strprintf("batches of %d x %d tokens", B, T),
                       "take fewer or shorter sequences at a time");
  return make_cpu_model(shape, flags.reference, options);
}

inline Device device_of(const DeviceFlags& flags) {
  std::string name = strprintf("%d threads, %s", cpu_threads(), flags.precision.c_str());
#ifdef WROUGHT_GPU
  if (flags.on_gpu()) name = gpu_name() + ", " + flags.precision;
#endif
  return {name, [flags](const ModelConfig& shape, ModelOptions options, int B, int T) {
            return make_device_model(flags, shape, options, B, T);
          }};
}
