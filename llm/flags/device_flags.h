// Flags that say where a program's model lives and in which precision it computes.
#pragma once

#include <string>

#include "llm/flags/command_line.h"
#include "llm/models/cpu.h"
#include "llm/models/model.h"

struct DeviceFlags {
  bool has_gpu = false;  // this build: no flag
  std::string device = "cpu";
  std::string precision;  // empty: bf16 where the device has it
  bool reference = false;
  bool exact = false;    // fp32 unless told otherwise
  bool decodes = false;  // with weights of any type on the CPU, int8 among them
  int threads = 0;

  bool on_gpu() const { return device == "cuda"; }
};

inline void add_device_flags(CLI::App& app, DeviceFlags& flags, bool exact, bool has_gpu) {
  flags.exact = exact;
  flags.has_gpu = has_gpu;
  flags.device = has_gpu ? "cuda" : "cpu";
  app.add_option("--device", flags.device,
                 has_gpu ? "cpu | cuda" : "cpu (cuda: the program of this name that ends in cu)")
      ->capture_default_str();
  std::string help = std::string("fp32 | tf32 | bf16") + (flags.decodes ? " | int8" : "") + "; default: ";
  app.add_option("--precision", flags.precision, help + (exact ? "fp32" : "bf16 where the device has it"));
  app.add_option("--threads", flags.threads, "CPU threads; 0: all cores")->check(CLI::Range(0, 4096));
  app.add_flag("--reference", flags.reference, "plain loops and kernels only");
}

// Settles an open precision. Throws UsageError for what this build or CPU does not have.
inline void settle_device_flags(DeviceFlags& flags) {
  if (flags.device != "cpu" && flags.device != "cuda") {
    fail_usage("--device is '%s', expected one of cpu cuda", flags.device.c_str());
  }
  if (flags.on_gpu() && !flags.has_gpu) {
    fail_usage("--device cuda needs the program of this name that ends in cu (make cuda), or in sim (make sim)");
  }
  if (flags.precision.empty()) {
    const bool bf16 = !flags.exact && !flags.reference && (flags.on_gpu() || cpu_can(Precision::bf16));
    flags.precision = bf16 ? "bf16" : "fp32";
  }
  const bool int8 = flags.decodes && flags.precision == "int8";
  if (flags.precision != "fp32" && flags.precision != "tf32" && flags.precision != "bf16" && !int8) {
    fail_usage("--precision is '%s', expected one of fp32 tf32 bf16%s", flags.precision.c_str(),
               flags.decodes ? " int8" : "");
  }
  if (int8 && flags.on_gpu()) fail_usage("--precision int8 needs --device cpu");
  if (flags.on_gpu()) return;
  if (flags.precision == "tf32") fail_usage("--precision tf32 needs --device cuda; on the CPU it is fp32 or bf16");
  if (flags.reference && flags.precision != "fp32") {
    fail_usage("--reference has no --precision %s on the CPU: its plain loops run in fp32", flags.precision.c_str());
  }
  if (flags.precision == "bf16" && !flags.decodes) check_cpu_can(Precision::bf16);
}

inline Precision precision_of(const DeviceFlags& flags) {
  return flags.precision == "bf16" ? Precision::bf16 : flags.precision == "tf32" ? Precision::tf32 : Precision::fp32;
}
