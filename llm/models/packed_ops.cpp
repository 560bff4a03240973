#include "llm/models/packed_ops.h"

void PackedOps::product(float* out, const float* inp, const Linear<PackedTensor>& w, cpu::Finish finish, int N) {
  if (N == 0) return;
  const cpu::PackedMatrix& m = w.w->matrix;
  const int64_t stride = decode_.input_stride(m.type, m.C);
  const bool own = N <= PackedInputs::kOwnRows;
  std::byte* at = inputs_.memory;
  if (own) at += inputs_.bytes(max_rows_) + part_ * inputs_.bytes(PackedInputs::kOwnRows);
  const cpu::PackedRows x = inputs_.of(at, own ? PackedInputs::kOwnRows : max_rows_, stride);
  for (int64_t n = own ? 0 : begin(N); n < (own ? N : end(N)); ++n) decode_.pack_input(x, inp, m.type, n, m.C);
  if (!own) wait();
  if (w.b) finish.bias = w.b->numbers;
  const int panels = decode_.panels_of(m.OC);
  decode_.multiply(out, x, m, finish, N, static_cast<int>(begin(panels)), static_cast<int>(end(panels)));
  wait();
}
