// Low-rank adapters of linears (LoraOptions; Hu et al. 2021), in the primitives that each device has:
//   matmul, matmul_backward    as in kernels/matmul.h, without bias; dweight +=
//   dropout_part               out (n) = drop(inp), elements `first` on of a tensor
//   lora_add, lora_take        kernels/lora.h
#pragma once

#include <algorithm>
#include <vector>

#include "llm/models/ops.h"
#include "llm/models/tensor_table.h"

// Memory for one adapter at a time, of models with N rows.
template <class T>
struct AdapterScratch {
  T *h = nullptr, *dh = nullptr;   // (N, rank)
  T *out = nullptr, *x = nullptr;  // (N, width) at least
  int64_t out_elements = 0;
};

// What all adapters of a pass share.
template <class T>
struct AdapterPass {
  int rank = 0;
  float scale = 0;  // alpha / rank
  PassDropout dropout = {};
  AdapterScratch<T> scratch = {};
};

// Calls visit(pointer, name, rows, cols) for the scratch of N rows of a model of this table: none with rank 0.
template <class T, class Visit>
void for_each_adapter_scratch(const std::vector<ParamTensor>& table, int rank, int64_t N, AdapterScratch<T>& s,
                              Visit&& visit) {
  if (rank == 0) return;
  int64_t width = 1, widest = 1;  // of a block's matrices; of any adapter's output
  for (const ParamTensor& tensor : table) {
    if (tensor.adapter()) widest = std::max(widest, tensor.rows);
    if (tensor.role == Role::weight) width = std::max({width, tensor.rows, tensor.cols});
  }
  const int64_t rows = std::max(N, (widest + width - 1) / width);  // room for a row of any output
  s.out_elements = rows * width;
  visit(s.h, "lora_h", N, int64_t{rank});
  visit(s.dh, "lora_dh", N, int64_t{rank});
  visit(s.out, "lora_out", rows, width);
  visit(s.x, "lora_inp", N, width);
}

// x or, in s.x, drop(x).
template <class Ops, class T>
const T* adapter_input(Ops& ops, const AdapterPass<T>& pass, const LoraParams<T>& w, const T* x, int64_t first_row,
                       int N, int C) {
  if (pass.dropout.rate == 0) return x;
  ops.dropout_part(pass.scratch.x, x, pass.dropout.at(w.site), first_row * C, int64_t{N} * C);
  return pass.scratch.x;
}

// Adds the adapters of a linear to its output: out (N, w.out) += scale * drop(x) A^T B^T.
template <class Ops, class T>
void adapters_forward(Ops& ops, const AdapterPass<T>& pass, T* out, const T* x, const Linear<T>& w, int N) {
  const AdapterScratch<T>& s = pass.scratch;
  for (const LoraParams<T>& adapter : w.adapters) {
    if (!adapter.a) continue;
    const int at_once = static_cast<int>(std::min<int64_t>(N, s.out_elements / adapter.out));
    // 1. h = drop(x) A^T, with `rank` columns.
    const T* dropped = adapter_input(ops, pass, adapter, x, w.first_row, N, w.in);
    ops.matmul(s.h, dropped, adapter.a, N, w.in, pass.rank);
    // 2. out += scale * h B^T, as many rows at a time as s.out holds.
    for (int64_t n = 0; n < N; n += at_once) {
      const int rows = static_cast<int>(std::min<int64_t>(at_once, N - n));
      ops.matmul(s.out, s.h + n * pass.rank, adapter.b, rows, pass.rank, adapter.out);
      ops.lora_add(out + n * w.out + adapter.first, s.out, pass.scale, rows, adapter.out, w.out);
    }
  }
}

// Its backward pass: adds to dx (N, w.in), unless that is null, and to the adapters' gradients.
template <class Ops, class T, class G>
void adapters_backward(Ops& ops, const AdapterPass<T>& pass, T* dx, const Linear<G>& dw, const T* dout, const T* x,
                       const Linear<T>& w, int N) {
  const AdapterScratch<T>& s = pass.scratch;
  const int C = w.in;
  for (size_t k = 0; k < w.adapters.size(); ++k) {
    const LoraParams<T>& adapter = w.adapters[k];
    const LoraParams<G>& d = dw.adapters[k];
    if (!adapter.a) continue;
    const int at_once = static_cast<int>(std::min<int64_t>(N, s.out_elements / adapter.out));
    // The steps of adapters_forward, from the last to the first. They need h and drop(x) again.
    const T* dropped = adapter_input(ops, pass, adapter, x, w.first_row, N, C);
    ops.matmul(s.h, dropped, adapter.a, N, C, pass.rank);
    // 2. dB += scale * dout^T h, and dh = scale * dout B.
    for (int64_t n = 0; n < N; n += at_once) {
      const int rows = static_cast<int>(std::min<int64_t>(at_once, N - n));
      ops.lora_take(s.out, dout + n * w.out + adapter.first, pass.scale, rows, adapter.out, w.out);
      ops.matmul_backward(s.dh + n * pass.rank, d.b, s.out, s.h + n * pass.rank, adapter.b, rows, pass.rank,
                          adapter.out);
    }
    // 1. dA += dh^T drop(x), and dx += dropout's mask * (dh A).
    ops.matmul_backward(dx ? s.out : nullptr, d.a, s.dh, dropped, adapter.a, N, C, pass.rank);
    if (!dx) continue;
    if (dropped != x) {
      ops.dropout_part(s.out, s.out, pass.dropout.at(adapter.site), w.first_row * C, int64_t{N} * C);
    }
    ops.lora_add(dx, s.out, 1, N, C, C);
  }
}
