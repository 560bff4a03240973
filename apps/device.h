// Where a program's model lives. Programs that include this are built up to three times: for the CPU alone; with the
// GPU's model by nvcc (its name and "cu"); and with the same on dev/cudasim ("sim"), for machines without a GPU.
#pragma once

#include <unistd.h>

#include <memory>
#include <string>

#include "llm/flags/command_line.h"
#include "llm/models/model.h"
#ifdef WROUGHT_GPU
#include "llm/models/gpu.h"
#endif

struct DeviceFlags {
#ifdef WROUGHT_GPU
  static constexpr bool kHasGpu = true;
  std::string device = "cuda";
#else
  static constexpr bool kHasGpu = false;
  std::string device = "cpu";
#endif
  std::string precision;  // empty: bf16 where the device has it
  bool reference = false;
  bool exact = false;  // fp32 unless told otherwise; add_device_flags() sets it
  int threads = 0;

  bool on_gpu() const { return device == "cuda"; }
};

inline void add_device_flags(CLI::App& app, DeviceFlags& flags, bool exact) {
  flags.exact = exact;
  app.add_option("--device", flags.device,
                 DeviceFlags::kHasGpu ? "cpu | cuda" : "cpu (cuda: the program of this name that ends in cu)")
      ->capture_default_str();
  app.add_option(
      "--precision", flags.precision,
      exact ? "fp32 | tf32 | bf16; default: fp32" : "fp32 | tf32 | bf16; default: bf16 where the device has it");
  app.add_option("--threads", flags.threads, "of the CPU; 0: all cores")->check(CLI::Range(0, 4096));
  app.add_flag("--reference", flags.reference, "plain loops and kernels only");
}

// Throws UsageError for what this program or machine has not; sets the number of threads, and the precision if it is
// open.
inline void settle_device(DeviceFlags& flags) {
  if (flags.device != "cpu" && flags.device != "cuda") {
    fail_usage("--device is '%s', expected one of cpu cuda", flags.device.c_str());
  }
  if (flags.threads > 0) set_cpu_threads(flags.threads);
#ifdef WROUGHT_GPU
  if (flags.on_gpu()) check_gpu();
#else
  if (flags.on_gpu()) {
    fail_usage("--device cuda needs the program of this name that ends in cu (make cuda), or in sim (make sim)");
  }
#endif
  if (flags.precision.empty()) {
    const bool bf16 = !flags.exact && !flags.reference && (flags.on_gpu() || cpu_can(Precision::bf16));
    flags.precision = bf16 ? "bf16" : "fp32";
  }
  if (flags.precision != "fp32" && flags.precision != "tf32" && flags.precision != "bf16") {
    fail_usage("--precision is '%s', expected one of fp32 tf32 bf16", flags.precision.c_str());
  }
  if (flags.on_gpu()) return;
  if (flags.precision == "tf32") fail_usage("--precision tf32 needs --device cuda; on the CPU it is fp32 or bf16");
  if (flags.reference && flags.precision != "fp32") {
    fail_usage("--reference has no --precision %s on the CPU: its plain loops run in fp32", flags.precision.c_str());
  }
  if (flags.precision == "bf16") check_cpu_can(Precision::bf16);
}

inline Precision precision_of(const DeviceFlags& flags) {
  return flags.precision == "bf16" ? Precision::bf16 : flags.precision == "tf32" ? Precision::tf32 : Precision::fp32;
}

// What it runs on, for a person: "2 threads", or the GPU's name.
inline std::string device_name(const DeviceFlags& flags) {
#ifdef WROUGHT_GPU
  if (flags.on_gpu()) return gpu_name() + ", " + flags.precision;
#endif
  return strprintf("%d threads, %s", cpu_threads(), flags.precision.c_str());
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
  double needed = 0;
  for (const MemoryRow& row : memory_plan(shape, options, B, T)) needed += static_cast<double>(row.bytes);
  const double machine = static_cast<double>(::sysconf(_SC_PHYS_PAGES)) * static_cast<double>(::sysconf(_SC_PAGESIZE));
  if (machine > 0 && needed > machine) {
    fail(
        "batches of %d x %d tokens take %.1f GB and this machine has %.1f GB; take fewer or shorter sequences at a "
        "time",
        B, T, needed / 1e9, machine / 1e9);
  }
  return make_cpu_model(shape, flags.reference, options);
}
