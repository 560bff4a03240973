// The algorithms by which a library computes a model's matrix products: an input of a run, since other algorithms give
// other last bits. The GPU's interface (gpu.h) makes and uses them; callers keep them in files.
#pragma once

#include <string>

#include "kernels/matmul_plan.h"

struct MatmulPlans {
  std::string device, library;  // that they were measured on and are for; empty: this build plans nothing
  std::string binary;           // the program, by whatever name the caller has for it
  ProductPlans products;

  bool operator==(const MatmulPlans&) const = default;
};
