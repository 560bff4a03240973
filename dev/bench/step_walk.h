// A training step of the CPU's model, taken apart: the operations of llm/models/cpu_model.cpp in their order, on the
// model's own tensors, each call timed. So every operation finds its factors where the step leaves them, in a cache or
// in memory, and the model has no timers. It checks that it is the same step: loss and gradient norm must equal those
// of the model.
#pragma once

#include <chrono>
#include <cmath>
#include <random>
#include <string>
#include <vector>

#include "kernels/embedding.h"
#include "kernels/residual.h"
#include "llm/models/cpu_model.h"
#include "llm/support/error.h"

inline double milliseconds_since(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - start).count();
}

inline double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  const size_t n = values.size();
  return n % 2 ? values[n / 2] : (values[n / 2 - 1] + values[n / 2]) / 2;
}

// Random tokens, the same ones every time.
struct Batch {
  int B, T;
  std::vector<int32_t> inputs, targets;
  std::vector<float> weights;

  Batch(int b, int t, int vocab_size)
      : B(b), T(t), weights(static_cast<size_t>(b) * static_cast<size_t>(t), 1.0f / static_cast<float>(b * t)) {
    std::mt19937 random(1);
    for (std::vector<int32_t>* tokens : {&inputs, &targets}) {
      for (size_t i = 0; i < weights.size(); ++i) {
        tokens->push_back(static_cast<int32_t>(random() % static_cast<uint32_t>(vocab_size)));
      }
    }
  }
};

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

class StepWalk {
 public:
  StepWalk(CpuModel<float>& model, const cpu::Kernels<float>& kernels, const Batch& batch)
      : model_(model), k_(kernels), batch_(batch) {
    model_.zero_grad();
    model_.forward(batch.inputs.data(), batch.B, batch.T, Pass::train);
    model_.backward(batch.targets.data(), batch.weights.data());
    const double loss = model_.step_loss(), norm = model_.grad_norm();
    model_.zero_grad();
    const int64_t bytes = arena_size(model_.table) * static_cast<int64_t>(sizeof(float));
    m_ = Buffer(bytes);
    v_ = Buffer(bytes);
    step();  // touches new memory, and is not counted
    if (!(std::abs(loss_ - loss) <= 1e-6 * loss) || !(std::abs(norm_ - norm) <= 1e-6 * norm)) {
      throw std::logic_error(strprintf("the operations make a loss of %.9g and a norm of %.9g, the model %.9g and %.9g",
                                       loss_, norm_, loss, norm));
    }
    for (Row& row : rows_) row.ms.clear();
  }

  // Takes a whole step.
  void step() {
    for (Row& row : rows_) row.calls = 0;
    const int L = model_.config.num_layers;
    squares_ = 0;
    at("zero_grad", "", 0, 4 * added_, [&] { model_.zero_grad(); });
    at("embedding_forward", "", 0, 4 * (2 * NC + T * C + N), [&] {
      cpu::embedding_forward(a_.encoded, batch_.inputs.data(), w_.wte, w_.wpe, nullptr, batch_.B, batch_.T, C);
    });
    for (int l = 0; l < L; ++l) forward_block(l);
    layernorm("lnf", a_.lnf, a_.lnf_mean, a_.lnf_rstd, stream(L), w_.lnfw, w_.lnfb);
    head();
    std::fill(a_.dresidual, a_.dresidual + static_cast<int64_t>(NC), 0.0f);
    layernorm_backward("lnf", dw_.lnfw, dw_.lnfb, stream(L), w_.lnfw, a_.lnf_mean, a_.lnf_rstd);
    for (int l = L - 1; l >= 0; --l) backward_block(l);
    at("embedding_backward", "", 0, 4 * (3 * NC + 2 * T * C + N), [&] {
      cpu::embedding_backward(dw_.wte, dw_.wpe, a_.dresidual, batch_.inputs.data(), nullptr, batch_.B, batch_.T, C);
    });
    update();
  }

  // In the order of their first call; the times are those of all steps since the first.
  const std::vector<Row>& rows() const { return rows_; }

 private:
  template <class Call>
  void at(const char* operation, const std::string& of, double flops, double bytes, Call&& call) {
    const auto start = std::chrono::steady_clock::now();
    call();
    const double ms = milliseconds_since(start);
    for (Row& row : rows_) {
      if (row.operation != operation || row.of != of) continue;
      ++row.calls;
      row.ms.push_back(ms);
      return;
    }
    rows_.push_back({operation, of, flops, bytes, true, 1, {ms}});
  }

  void forward_block(int l) {
    const BlockParams<float>& w = w_.block[static_cast<size_t>(l)];
    const BlockActivations<float>& a = a_.block[static_cast<size_t>(l)];
    layernorm("ln1", a.ln1, a.ln1_mean, a.ln1_rstd, stream(l), w.ln1w, w.ln1b);
    product("qkv", a.qkv, a.ln1, w.qkvw, w.qkvb, N, C, 3 * C);
    at("attention_forward", "", 2 * half_square(), 4 * (4 * NC + N * NH),
       [&] { k_.attention_forward(a.atty, a.lse, a.qkv, nullptr, 0, 0, 0, batch_.B, batch_.T, C, NH, true); });
    product("attproj", a_.sublayer, a.atty, w.attprojw, w.attprojb, N, C, C);
    residual(a.residual2, stream(l));
    layernorm("ln2", a.ln2, a.ln2_mean, a.ln2_rstd, a.residual2, w.ln2w, w.ln2b);
    product("fc", a.fch, a.ln2, w.fcw, w.fcb, N, C, 4 * C);
    at("gelu_forward", "", 0, 4 * 8 * NC, [&] { k_.gelu_forward(a.fch_gelu, a.fch, 4 * static_cast<int64_t>(NC)); });
    product("fcproj", a_.sublayer, a.fch_gelu, w.fcprojw, w.fcprojb, N, 4 * C, C);
    residual(a.residual3, a.residual2);
  }

  // The output head, its loss and its gradient: chunk by chunk, as in the model.
  void head() {
    const int V = model_.config.vocab_size, Vp = model_.config.padded_vocab_size();
    const int chunk = static_cast<int>(logits_chunk_rows(model_.config, N));
    double loss = 0;
    for (int n = 0; n < N; n += chunk) {
      const int rows = std::min(chunk, N - n);
      const std::string of = rows == chunk ? "" : strprintf("%d rows", rows);
      const double logits = static_cast<double>(rows) * V, padded = static_cast<double>(rows) * Vp;
      float* lnf = a_.lnf + static_cast<int64_t>(n) * C;
      product("head" + (of.empty() ? "" : ", " + of), a_.logits, lnf, w_.wte, nullptr, rows, C, Vp);
      at("classifier_forward", of, 0, 4 * (logits + 2 * rows),
         [&] { k_.classifier_forward(a_.losses + n, a_.logits, batch_.targets.data() + n, rows, V, Vp); });
      rows_of("classifier_forward", of).in_step = false;  // only in evaluation
      at("classifier_backward", of, 0, 4 * (logits + padded + 3 * rows), [&] {
        k_.classifier_backward(a_.logits, a_.losses + n, batch_.targets.data() + n, batch_.weights.data() + n, rows, V,
                               Vp);
      });
      product_backward("head" + (of.empty() ? "" : ", " + of), a_.dnorm + static_cast<int64_t>(n) * C, dw_.wte, nullptr,
                       a_.logits, lnf, w_.wte, rows, C, Vp, n == 0);
    }
    for (int n = 0; n < N; ++n) loss += static_cast<double>(batch_.weights[static_cast<size_t>(n)]) * a_.losses[n];
    loss_ = loss;
  }

  void backward_block(int l) {
    const BlockParams<float>&w = w_.block[static_cast<size_t>(l)], &dw = dw_.block[static_cast<size_t>(l)];
    const BlockActivations<float>& a = a_.block[static_cast<size_t>(l)];
    product_backward("fcproj", a_.dfch, dw.fcprojw, dw.fcprojb, a_.dresidual, a.fch_gelu, w.fcprojw, N, 4 * C, C);
    at("gelu_backward", "", 0, 4 * 12 * NC,
       [&] { k_.gelu_backward(a_.dfch, a_.dfch, a.fch, 4 * static_cast<int64_t>(NC)); });
    product_backward("fc", a_.dnorm, dw.fcw, dw.fcb, a_.dfch, a.ln2, w.fcw, N, C, 4 * C);
    layernorm_backward("ln2", dw.ln2w, dw.ln2b, a.residual2, w.ln2w, a.ln2_mean, a.ln2_rstd);
    product_backward("attproj", a_.datty, dw.attprojw, dw.attprojb, a_.dresidual, a.atty, w.attprojw, N, C, C);
    at("attention_backward", "", 5 * half_square(), 4 * (8 * NC + N * NH), [&] {
      k_.attention_backward(a_.dqkv, a_.datty, a.atty, a.lse, a.qkv, nullptr, 0, 0, 0, batch_.B, batch_.T, C, NH, true);
    });
    product_backward("qkv", a_.dnorm, dw.qkvw, dw.qkvb, a_.dqkv, a.ln1, w.qkvw, N, C, 3 * C);
    layernorm_backward("ln1", dw.ln1w, dw.ln1b, stream(l), w.ln1w, a.ln1_mean, a.ln1_rstd);
  }

  void update() {
    double parameters = 0, rest = 0;
    for (const ParamTensor& p : model_.table) {
      parameters += static_cast<double>(p.size());
      if (p.role != Role::weight) rest += static_cast<double>(p.size());
    }
    at("global_norm_squared", "", 0, 4 * rest, [&] {  // for gradients not summed up when they were computed
      for (const ParamTensor& p : model_.table) {
        if (p.role != Role::weight)
          squares_ += k_.global_norm_squared(dw_.wte + p.offset, p.size());  // wte is first in the arena
      }
    });
    norm_ = std::sqrt(squares_);
    const float scale = norm_ > 1 ? static_cast<float>(1 / norm_) : 1.0f;
    at("adamw_update", "", 0, 28 * parameters, [&] {
      for (const ParamTensor& p : model_.table) {
        const auto in = [&](float* arena) { return arena + p.offset; };
        k_.adamw_update(in(w_.wte), in(static_cast<float*>(m_.data())), in(static_cast<float*>(v_.data())), in(dw_.wte),
                        scale, 1e-5f, 0.9f, 0.95f, 0.1f, 0.05f, 1e-8f, p.decay ? 0.1f : 0.0f, p.size());
      }
    });
  }

  // out (rows, OC) = inp (rows, IC) weight^T + bias
  void product(const std::string& of, float* out, const float* inp, const float* weight, const float* bias, int rows,
               int IC, int OC) {
    const double n = rows, c = IC, oc = OC;
    at("matmul_forward", of, 2 * n * c * oc, 4 * (n * c + oc * c + (bias ? oc : 0) + n * oc),
       [&] { k_.matmul_forward(out, inp, weight, bias, rows, IC, OC); });
  }

  void product_backward(const std::string& of, float* dinp, float* dweight, float* dbias, const float* dout,
                        const float* inp, const float* weight, int rows, int IC, int OC, bool first = true) {
    const double n = rows, c = IC, oc = OC;
    const auto part = [&](const char* name, double flops, double bytes, float* di, float* dw, float* db) {
      at("matmul_backward", of + ": " + name, flops, bytes,
         [&] { k_.matmul_backward(di, dw, db, dout, inp, weight, rows, IC, OC); });
    };
    part("dinp", 2 * n * c * oc, 4 * (n * oc + oc * c + n * c), dinp, nullptr, nullptr);
    if (first) {  // of the step: set, and the squares summed up except for wte, which the embedding adds to
      at("matmul_dweight", of, 2 * n * c * oc, 4 * (n * oc + n * c + oc * c),
         [&] { k_.matmul_dweight(dweight, dweight == dw_.wte ? nullptr : &squares_, dout, inp, rows, IC, OC); });
    } else {
      part("dweight", 2 * n * c * oc, 4 * (n * oc + n * c + 2 * oc * c), nullptr, dweight, nullptr);
    }
    if (dbias) part("dbias", 0, 4 * (n * oc + 2 * oc), nullptr, nullptr, dbias);
  }

  void layernorm(const char* of, float* out, float* mean, float* rstd, const float* inp, const float* weight,
                 const float* bias) {
    at("layernorm_forward", of, 0, 4 * (2 * NC + 2 * C + 2 * N),
       [&] { k_.layernorm_forward(out, mean, rstd, inp, weight, bias, N, C); });
  }

  void layernorm_backward(const char* of, float* dweight, float* dbias, const float* inp, const float* weight,
                          const float* mean, const float* rstd) {
    at("layernorm_backward", of, 0, 4 * (4 * NC + 5 * C + 2 * N),
       [&] { k_.layernorm_backward(a_.dresidual, dweight, dbias, a_.dnorm, inp, weight, mean, rstd, N, C); });
  }

  void residual(float* out, const float* inp) {
    at("residual_forward", "", 0, 4 * 3 * NC,
       [&] { cpu::residual_forward(out, inp, a_.sublayer, static_cast<int64_t>(NC)); });
  }

  Row& rows_of(const std::string& operation, const std::string& of) {
    return *std::find_if(rows_.begin(), rows_.end(),
                         [&](const Row& row) { return row.operation == operation && row.of == of; });
  }
  const float* stream(int l) const { return l == 0 ? a_.encoded : a_.block[static_cast<size_t>(l - 1)].residual3; }
  // Operations of a product of attention: every head's T x T, the causal half, including the diagonal.
  double half_square() const { return NC * (T + 1); }

  CpuModel<float>& model_;
  const cpu::Kernels<float>& k_;
  const Batch& batch_;
  const Params<float>&w_ = model_.params, &dw_ = model_.grads;
  const Activations<float>& a_ = model_.acts;
  const int T = batch_.T, N = batch_.B * batch_.T, C = model_.config.channels, NH = model_.config.num_heads;
  const double NC = static_cast<double>(N) * C;  // for bytes and operations, which would overflow int
  Buffer m_, v_;  // AdamW's moments, freed with this object: the model makes its own when it updates
  std::vector<Row> rows_;
  double loss_ = 0, norm_ = 0, squares_ = 0;
  const double added_ = [this] {  // gradients that are added to, so they begin as zeros
    double n = 0;
    for (const ParamTensor& p : model_.table)
      n += p.vector() || p.role == Role::position ? static_cast<double>(p.size()) : 0;
    return n;
  }();
};
