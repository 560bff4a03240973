// Plans of matrix products (llm/models/matmul_plans.h) in files: where they are kept, and which ones a run takes.
//
//   {"version": 1, "device": "...", "library": "...", "binary": "...",
//    "products": {"16384 x 2304 x 768 (...)": {"algorithm": "0a1b...", "candidate": 3, "candidates": 12,
//                                              "microseconds": 91.2, "first_microseconds": 95.4}, ...},
//    "checksum": "..."}    of all the rest: nothing is taken from a file that was cut or changed
//
// A run takes them from the file of {plans}; without that, if it continues, from the copy in its own folder; else from
// a file in the user's cache folder, one per device, version of the library and program. What is not there, or is there
// for another device, library or program, is measured, and kept in that file.
#pragma once

#include <filesystem>
#include <functional>
#include <string>

#include "llm/distributed/group.h"
#include "llm/formats/run_folder.h"
#include "llm/models/matmul_plans.h"
#include "llm/training/run.h"

// Throws Error, which ends with what to do: not readable, cut, changed by hand, or of a newer version.
MatmulPlans read_plans(const std::filesystem::path& path);
// Throws Error. The folder must be there.
void write_plans(const std::filesystem::path& path, const MatmulPlans& plans);

// What decides the bits, in 16 hexadecimal digits: device, library, products and their algorithms.
std::string plans_hash(const MatmulPlans& plans);

// Where they are kept by default: in $XDG_CACHE_HOME/wrought or ~/.cache/wrought. Empty: the environment has neither.
std::filesystem::path plans_cache_file(const MatmulPlans& plans);

// What a program does with the plans of its device: llm/models/gpu.h.
struct PlannedDevice {
  MatmulPlans none;                                           // device and library, without products
  std::function<MatmulPlans(const MatmulPlans& known)> make;  // those of the run's step, measured if not known
  std::function<void(const MatmulPlans&)> use;                // takes them over
};

// Finds the run's plans, or measures them; keeps them in the file that they should have come from, and with
// `keep_copy` in the run's folder; prints a line with their hash. Before the models are made, on every rank: rank 0's
// plans are those of all. A rank whose device or library is another has no plans: its products run by the library's
// first algorithms, and a line says so. Does nothing without a library. Throws Error for a file that was named and is
// damaged, and for a damaged copy in the run's folder; a damaged file in the cache folder is made anew.
void settle_plans(const Run& run, bool keep_copy, const PlannedDevice& device, const Group& group, const Say& say);
