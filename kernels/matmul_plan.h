// What is known of how a library multiplies: values without CUDA, to be kept in files and sent to other processes.
#pragma once

#include <map>
#include <string>

// A product's algorithm, and how it was chosen.
struct MatmulPlan {
  std::string algorithm;              // cuBLASLt's description of it (cublasLtMatmulAlgo_t), in hexadecimal
  int candidate = 0, candidates = 1;  // its number of that many, as the library's heuristic orders them
  double microseconds = 0, first_microseconds = 0;  // of a product, by it and by candidate 0; 0: not measured

  bool operator==(const MatmulPlan&) const = default;
};

using ProductPlans = std::map<std::string, MatmulPlan>;  // by the product, as text: sizes, types, epilogue
