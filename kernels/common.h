// What the CPU twins share. Each operation is a template on the number type: float trains, double serves finite
// differences.
//
// Accumulation, the same in every kernel: parameter gradients +=, activation gradients =, the residual stream +=.
// Work is divided so that no result depends on the number of threads: every sum has one owner and one order.
#pragma once

#include <cstddef>
#include <cstdint>

namespace cpu {

// Statistics and sums: float, unless the tensors themselves are double.
template <class floatX>
struct accumulate {
  using type = float;
};
template <>
struct accumulate<double> {
  using type = double;
};
template <class floatX>
using accumulate_t = typename accumulate<floatX>::type;

}  // namespace cpu
