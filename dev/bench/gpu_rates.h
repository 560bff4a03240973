// gpu_rates: what this GPU can do, and how close products and attention of GPT-2's sizes come to it, measured in
// seconds (dev/gpu/gpu_check.sh). Each result is a line of JSON on standard output as soon as it is known.
#pragma once

#include <nlohmann/json.hpp>

#include "dev/bench/bench.h"
#include "dev/bench/time_launches.cuh"

namespace rates {

using json = nlohmann::ordered_json;

struct Options {
  bool small = false;    // sizes that cudasim computes in a second
  double seconds = 1.2;  // ceilings: seconds per product under full load; half of them to warm up
};

void print(const json& row);

void measure_ceilings(const bench::Timer& timer, const Options& options);   // gpu_rates.cu
void measure_products(const bench::Timer& timer, const Options& options);   // gpu_rates_matmul.cu
void measure_rounding(const bench::Timer& timer, const Options& options);   // gpu_rates_matmul.cu
void measure_attention(const bench::Timer& timer, const Options& options);  // gpu_rates_attention.cu

// For measure_ceilings(), in the file that has the products: products of n x n matrices in bf16 by each tier for
// options.seconds, on normal random numbers and on a constant.
void measure_full_load(const bench::Timer& timer, const Options& options);

// sqrt(sum (a - b)^2 / sum b^2) over the first elements of two outputs.
template <class T>
double relative_difference(const bench::Buffers<T>& a, const bench::Buffers<T>& b) {
  const int64_t n = std::min<int64_t>(a.size(), 1 << 20);
  const std::vector<double> x = bench::to_doubles(a.host(0, 0, n)), y = bench::to_doubles(b.host(0, 0, n));
  double difference = 0, squares = 0;
  for (size_t i = 0; i < x.size(); ++i) {
    difference += (x[i] - y[i]) * (x[i] - y[i]);
    squares += y[i] * y[i];
  }
  return std::sqrt(difference / squares);
}

}  // namespace rates
