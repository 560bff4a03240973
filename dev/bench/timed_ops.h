// The operations of a CPU model's step, each call timed: the model itself runs, so that every operation finds its
// factors where the step leaves them, in a cache or in memory. Products' backward passes are timed in their parts.
#pragma once

#include <algorithm>
#include <chrono>
#include <map>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "llm/models/cpu_model.h"

inline double milliseconds_since(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - start).count();
}

inline double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  const size_t n = values.size();
  return n % 2 ? values[n / 2] : (values[n / 2 - 1] + values[n / 2]) / 2;
}

// An operation at one place of a block, or of the step.
struct Row {
  std::string operation;     // the launcher in kernels/
  std::string of;            // which of the model's operations, if there are several
  double flops = 0;          // per call; 0 if the arithmetic is too little to count
  double bytes = 0;          // per call, the minimum: every input once, every output once, what is added to twice
  bool in_step = true;       // false: training does not call it
  int calls = 0;             // per step
  std::vector<double> ms{};  // per call
};

// The rows, in the order of their first call.
class Timings {
 public:
  template <class Call>
  void time(const char* operation, const std::string& of, double flops, double bytes, Call&& call) {
    const auto start = std::chrono::steady_clock::now();
    call();
    const double ms = milliseconds_since(start);
    for (Row& row : rows) {
      if (row.operation != operation || row.of != of) continue;
      if (row.in_step != in_step) return;  // an operation of a step, called in evaluation
      ++row.calls;
      row.ms.push_back(ms);
      return;
    }
    rows.push_back({operation, of, flops, bytes, in_step, 1, {ms}});
  }
  void begin_step() {
    for (Row& row : rows) row.calls = 0;
  }
  void forget() {  // the times so far
    for (Row& row : rows) row.ms.clear();
  }

  std::vector<Row> rows;
  bool in_step = true;  // false: what is timed now is evaluation
};

class TimedOps : public CpuOps<float> {
  using Base = CpuOps<float>;

 public:
  TimedOps(const Base& ops, Timings& timings) : Base(ops), t_(timings) {}

  void embedding_forward(float* out, const int32_t* tokens, const float* wte, const float* wpe,
                         const int32_t* documents, const Dropout& dropout, int B, int T, int C) {
    t_.time("embedding_forward", "", 0, 4 * (2.0 * B * T * C + double{1} * T * C + double{1} * B * T),
            [&] { Base::embedding_forward(out, tokens, wte, wpe, documents, dropout, B, T, C); });
  }
  void norm_forward(const Rows& out, const float* inp, const Norm<float>& w, int N, int C) {
    const double n = N, c = C, vectors = w.b ? 2 : 1;  // of parameters, and of statistics
    t_.time("layernorm_forward", w.name, 0, 4 * (2 * n * c + vectors * (c + n)),
            [&] { Base::norm_forward(out, inp, w, N, C); });
  }
  void linear_forward(float* out, const float* inp, const Linear<float>& w, int N) {
    const double n = N, c = w.in, oc = w.out;
    t_.time("matmul_forward", name(w, N), 2 * n * c * oc, 4 * (n * c + oc * c + (w.b ? oc : 0) + n * oc),
            [&] { Base::linear_forward(out, inp, w, N); });
  }
  void linear_gelu_forward(float* out, float* activated, const float* inp, const Linear<float>& w, int N) {
    linear_forward(out, inp, w, N);
    const int64_t n = int64_t{N} * w.out;
    t_.time("gelu_forward", "", 0, 4 * 2 * static_cast<double>(n), [&] { gelu_forward(activated, out, n); });
  }
  void linear_residual_forward(float* out, float* sublayer, const float* residual, const float* inp,
                               const Linear<float>& w, const Dropout& dropout, int N) {
    if (dropout.rate > 0) throw std::logic_error("dropout is not timed");
    linear_forward(sublayer, inp, w, N);
    const int64_t n = int64_t{N} * w.out;
    t_.time("residual_forward", "", 0, 4 * 3 * static_cast<double>(n),
            [&] { cpu::residual_forward(out, residual, sublayer, n); });
  }
  void attention_forward(float* out, float* lse, const Qkv<const float>& inp, const AttentionShape& s,
                         const Dropout& dropout) {
    t_.time("attention_forward", "", 2 * half_square(s), 4 * (2 * rows(s) + tokens(s) * s.NH),
            [&] { Base::attention_forward(out, lse, inp, s, dropout); });
  }
  void classifier_forward(float* losses, const float* logits, const int32_t* targets, int N, int V, int Vp) {
    t_.time("classifier_forward", rows_name("classifier", N), 0, 4 * (double{1} * N * V + 2.0 * N),
            [&] { Base::classifier_forward(losses, logits, targets, N, V, Vp); });
  }
  void classifier_backward(float* logits, float* losses, const int32_t* targets, const float* weights, int N, int V,
                           int Vp) {
    t_.time("classifier_backward", rows_name("classifier", N), 0,
            4 * (double{1} * N * V + double{1} * N * Vp + 3.0 * N),
            [&] { Base::classifier_backward(logits, losses, targets, weights, N, V, Vp); });
  }
  void embedding_backward(float* dwte, float* dwpe, float* dout, const int32_t* tokens, const int32_t* documents,
                          const Dropout& dropout, int B, int T, int C, int V) {
    t_.time("embedding_backward", "", 0, 4 * (3.0 * B * T * C + 2.0 * T * C + double{1} * B * T),
            [&] { Base::embedding_backward(dwte, dwpe, dout, tokens, documents, dropout, B, T, C, V); });
  }
  void norm_backward(float* dinp, const Norm<float>& d, float* dinp_sums, const float* dout, const float* inp,
                     const Norm<float>& w, const Rows& out, Sum sum, int N, int C) {
    const double n = N, c = C, vectors = w.b ? 2 : 1, sums = dinp_sums ? n * c + c : 0;
    t_.time("layernorm_backward", w.name, 0, 4 * (4 * n * c + c + vectors * (2 * c + n) + sums),
            [&] { Base::norm_backward(dinp, d, dinp_sums, dout, inp, w, out, sum, N, C); });
  }
  void linear_backward(float* dinp, const Linear<float>& d, const float* dout, const float* dout_sums, const float* inp,
                       const Linear<float>& w, Sum sum, int N) {
    const double n = N, c = w.in, oc = w.out, flops = 2 * n * c * oc;
    const std::string of = name(w, N);
    const auto part = [&](const char* operation, const char* what, double part_flops, double bytes, float* di,
                          float* dw, float* db) {
      Linear<float> only = d;
      only.w = dw, only.b = db;
      t_.time(operation, what[0] ? of + ": " + what : of, part_flops, bytes,
              [&] { Base::linear_backward(di, only, dout, dout_sums, inp, w, sum, N); });
    };
    part("matmul_backward", "dinp", flops, 4 * (n * oc + oc * c + n * c), dinp, nullptr, nullptr);
    if (sum == Sum::add) {
      part("matmul_backward", "dweight", flops, 4 * (n * oc + n * c + 2 * oc * c), nullptr, d.w, nullptr);
    } else {  // set, and the squares summed up unless other operations add to it
      part("matmul_dweight", "", flops, 4 * (n * oc + n * c + oc * c), nullptr, d.w, nullptr);
    }
    if (d.b) part("matmul_backward", "dbias", 0, 4 * ((dout_sums ? 1 : n) * oc + 2 * oc), nullptr, nullptr, d.b);
  }
  void linear_gelu_backward(float* dinp, const Linear<float>& d, const float* dout, const float* dout_sums,
                            const float* inp, const float* pre_gelu, const Linear<float>& w, Sum sum, int N) {
    linear_backward(dinp, d, dout, dout_sums, inp, w, sum, N);
    const int64_t n = int64_t{N} * w.in;
    t_.time("gelu_backward", "", 0, 4 * 3 * static_cast<double>(n), [&] { gelu_backward(dinp, dinp, pre_gelu, n); });
  }
  void attention_backward(const Qkv<float>& dinp, const float* dout, const float* out, const float* lse,
                          const Qkv<const float>& inp, const AttentionShape& s, const Dropout& dropout) {
    t_.time("attention_backward", "", 5 * half_square(s), 4 * (4 * rows(s) + tokens(s) * s.NH),
            [&] { Base::attention_backward(dinp, dout, out, lse, inp, s, dropout); });
  }

 private:
  static double tokens(const AttentionShape& s) { return static_cast<double>(s.tokens()); }
  static double rows(const AttentionShape& s) { return tokens(s) * (s.channels() + s.kv_channels()); }
  // Operations of a product of attention: every head's T x T, the causal half, including the diagonal.
  static double half_square(const AttentionShape& s) { return tokens(s) * s.channels() * (s.T + 1); }
  // Logits that do not fit are computed in chunks: the last, with fewer rows, has its own name.
  std::string rows_name(const char* of, int N) {
    int& most = most_rows_[of];
    most = std::max(most, N);
    return N == most ? "" : std::to_string(N) + " rows";
  }
  std::string name(const Linear<float>& w, int N) {
    const std::string rows = rows_name(w.name, N);
    return w.name + (rows.empty() ? "" : ", " + rows);
  }

  Timings& t_;
  std::map<std::string, int> most_rows_;
};

class TimedDevice : public CpuDevice<float> {
  using Base = CpuDevice<float>;

 public:
  using Ops = TimedOps;
  TimedDevice(const cpu::Kernels<float>& kernels, Timings& timings) : Base(kernels), t_(timings) {}

  Ops ops(const AdapterPass<float>& adapters, Pass pass) { return Ops(Base::ops(adapters, pass), t_); }
  void queue_squares(const std::vector<std::pair<const float*, int64_t>>& stretches, bool known) {
    double n = 0;
    for (const auto& stretch : stretches) n += static_cast<double>(stretch.second);
    t_.time("global_norm_squared", "", 0, 4 * n, [&] { Base::queue_squares(stretches, known); });
  }
  void update(const UpdateArenas<float, float, float>& at, const UpdatePlan& plan, const ModelOptions& options,
              const OptimizerConfig& optimizer) {
    double n = 0;
    for (const Stretch& s : plan.adamw) n += static_cast<double>(s.size);
    t_.time("adamw_update", "", 0, 28 * n, [&] { Base::update(at, plan, options, optimizer); });
  }

 private:
  Timings& t_;
};

using TimedModel = FamilyModel<Gpt2, TimedDevice>;
