// The operations of ops.h on paper: PlanOps records a walk over a model whose tensors have addresses but no memory.
// What it records is the only list of a model's operations: scratch and its checks are here, bytes and FLOPs in
// count.h.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "llm/models/activations.h"
#include "llm/models/adapters.h"
#include "llm/models/exchange.h"
#include "llm/models/ops.h"
#include "llm/models/sharding.h"
#include "llm/models/walk.h"

enum class Phase { forward, backward, update };  // the first two once per micro-batch, the last once per step

// A tensor, or a part of one, that an operation reads or writes.
struct Span {
  const void* data;
  int64_t bytes;
};

// An operation of a walk. Sizes that it does not have are 0.
struct PlannedOp {
  const char* name;       // as in ops.h, or a primitive of adapters.h
  const char* of = "";    // the linear or the norm: "qkv", "ln1"
  int64_t N = 0;          // rows
  int64_t C = 0, OC = 0;  // columns of the input; of the output
  int64_t used = 0;       // output columns without padding
  int B = 0, T = 0, NH = 0, NKV = 0, V = 0;
  bool bias = false;                 // forward: is there one; backward: is it trained
  bool dinp = true, dweight = true;  // of a backward pass: what is computed
  bool set = false;                  // whether the parameters' gradients are set, not added to
  bool sums = false;                 // of a norm: it sums the columns of dinp; of a linear: those of dout are known
  bool centred = true;               // of a norm: layer norm; else RMSNorm
  float dropout = 0;
  std::vector<Span> writes = {}, reads = {};
  // Set by PlanOps:
  Phase phase = Phase::forward;
  bool again = false;  // a forward operation that backward repeats
  int layer = 0;       // that is visited: -1 before the first, the number of layers after the last
};

// T: a type of the size of the tensors' elements.
template <class T>
class PlanOps {
 public:
  using floatX = T;
  using grad_t = float;
  using sum_t = float;
  using weight_t = T;
  using Cache = KeyValueCache<T>;
  using Rows = NormRows<T, float>;

  PlanOps(const Exchange& layers, const AdapterPass<T>& adapters) : layers_(layers), adapters_(adapters) {}

  std::vector<PlannedOp> ops;
  Phase phase = Phase::forward;

  // ---- forward -----------------------------------------------------------------------------------------------------

  void embedding_forward(T* out, const int32_t*, const T* wte, const T* wpe, const int32_t*, const Dropout& d, int B,
                         int T_, int C) {
    const int64_t N = int64_t{B} * T_;
    add({.name = "embedding_forward", .N = N, .C = C, .B = B, .T = T_, .dropout = d.rate}, {span(out, N * C)},
        {span(wte, C), span(wpe, int64_t{T_} * C)});
  }
  void norm_forward(const Rows& out, const T* inp, const Norm<T>& w, int N, int C) {
    add({.name = "norm_forward", .of = w.name, .N = N, .C = C, .centred = w.b != nullptr}, rows(out, N, C),
        {span(inp, int64_t{N} * C), span(w.w, C), span(w.b, C)});
  }
  void linear_forward(T* out, const T* inp, const Linear<T>& w, int N) {
    add(product("linear_forward", w, N), {span(out, int64_t{N} * w.out)},
        {span(inp, int64_t{N} * w.in), span(w.w, int64_t{w.in} * w.out), span(w.b, w.out)});
    adapters_forward(*this, adapters_, out, inp, w, N);
  }
  void linear_gelu_forward(T* out, T* activated, const T* inp, const Linear<T>& w, int N) {
    const int64_t n = int64_t{N} * w.out;
    if (w.adapted()) {
      linear_forward(out, inp, w, N);
      return gelu_forward(activated, out, n);
    }
    add(product("linear_gelu_forward", w, N), {span(out, n), span(activated, n)},
        {span(inp, int64_t{N} * w.in), span(w.w, int64_t{w.in} * w.out), span(w.b, w.out)});
  }
  void linear_residual_forward(T* out, T* sublayer, const T* residual, const T* inp, const Linear<T>& w,
                               const Dropout& d, int N) {
    const int64_t n = int64_t{N} * w.out;
    if (d.rate == 0 && !w.adapted()) {
      return add(product("linear_residual_forward", w, N), {span(out, n)},
                 {span(residual, n), span(inp, int64_t{N} * w.in), span(w.w, int64_t{w.in} * w.out), span(w.b, w.out)});
    }
    linear_forward(sublayer, inp, w, N);
    add({.name = "residual_forward", .of = w.name, .N = n, .dropout = d.rate}, {span(out, n)},
        {span(residual, n), span(sublayer, n)});
  }
  void gelu_forward(T* out, const T* inp, int64_t n) {
    add({.name = "gelu_forward", .N = n}, {span(out, n)}, {span(inp, n)});
  }
  void attention_forward(T* out, float* lse, const Qkv<const T>& inp, const AttentionShape& s, const Dropout& d) {
    add(attention("attention_forward", s, d), {span(out, s.tokens() * s.channels()), span(lse, s.tokens() * s.NH)},
        spans(inp, s));
  }
  void cache_append(const Cache&, int, const Qkv<const T>& inp, const AttentionShape& s) {
    add(attention("cache_append", s, {}), {}, spans(inp, s));
  }
  void attention_decode(T* out, const Cache&, int, const Qkv<const T>& inp, const AttentionShape& s) {
    add(attention("attention_decode", s, {}), {span(out, s.tokens() * s.channels())}, spans(inp, s));
  }
  void pool_forward(T* out, const T* inp, const float*, int B, int T_, int C) {
    add({.name = "pool_forward", .N = int64_t{B} * T_, .C = C, .B = B, .T = T_}, {span(out, int64_t{B} * C)},
        {span(inp, int64_t{B} * T_ * C)});
  }
  void take_rows(T* out, const T* inp, const int32_t*, int64_t n, int C) {
    add({.name = "take_rows", .N = n, .C = C}, {span(out, n * C)}, {span(inp, n * C)});
  }

  // ---- backward ----------------------------------------------------------------------------------------------------

  void classifier_backward(T* logits, float* losses, const int32_t*, const float*, int N, int V, int Vp) {
    add({.name = "classifier_backward", .N = N, .C = Vp, .V = V}, {span(logits, int64_t{N} * Vp), span(losses, N)},
        {span(logits, int64_t{N} * Vp)});
  }
  void zero(T* out, int64_t n) { add({.name = "zero", .N = n}, {span(out, n)}, {}); }
  void embedding_backward(float*, float*, T* dout, const int32_t*, const int32_t*, const Dropout& d, int B, int T_,
                          int C, int V) {
    const int64_t N = int64_t{B} * T_;
    add({.name = "embedding_backward", .N = N, .C = C, .B = B, .T = T_, .V = V, .dropout = d.rate}, {},
        {span(dout, N * C)});
  }
  void norm_backward(T* dinp, const Norm<float>& d, float* dinp_sums, const T* dout, const T* inp, const Norm<T>& w,
                     const Rows& out, Sum sum, int N, int C) {
    const int64_t n = int64_t{N} * C;
    add({.name = "norm_backward",
         .of = w.name,
         .N = N,
         .C = C,
         .dweight = d.w != nullptr,
         .set = sum != Sum::add,
         .sums = dinp_sums != nullptr,
         .centred = w.b != nullptr},
        {span(dinp, n), span(dinp_sums, C)},
        {span(dinp, n), span(dout, n), span(inp, n), span(w.w, C), span(out.mean, N), span(out.rstd, N)});
  }
  void linear_backward(T* dinp, const Linear<float>& d, const T* dout, const float* dout_sums, const T* inp,
                       const Linear<T>& w, Sum sum, int N) {
    add(product_backward("linear_backward", dinp, d, dout_sums, w, sum, N), {span(dinp, int64_t{N} * w.in)},
        {span(dout, int64_t{N} * w.out), span(dout_sums, w.out), span(inp, int64_t{N} * w.in),
         span(w.w, int64_t{w.in} * w.out)});
    adapters_backward(*this, adapters_, dinp, d, dout, inp, w, N);
  }
  void linear_gelu_backward(T* dinp, const Linear<float>& d, const T* dout, const float* dout_sums, const T* inp,
                            const T* pre_gelu, const Linear<T>& w, Sum sum, int N) {
    const int64_t n = int64_t{N} * w.in;
    if (w.adapted()) {
      linear_backward(dinp, d, dout, dout_sums, inp, w, sum, N);
      return add({.name = "gelu_backward", .N = n}, {span(dinp, n)}, {span(dinp, n), span(pre_gelu, n)});
    }
    add(product_backward("linear_gelu_backward", dinp, d, dout_sums, w, sum, N), {span(dinp, n)},
        {span(dout, int64_t{N} * w.out), span(dout_sums, w.out), span(inp, n), span(pre_gelu, n),
         span(w.w, int64_t{w.in} * w.out)});
  }
  void attention_backward(const Qkv<T>& dinp, const T* dout, const T* out, const float* lse, const Qkv<const T>& inp,
                          const AttentionShape& s, const Dropout& d) {
    const int64_t n = s.tokens() * s.channels();
    std::vector<Span> reads = spans(inp, s);
    reads.insert(reads.end(), {span(dout, n), span(out, n), span(lse, s.tokens() * s.NH)});
    add(attention("attention_backward", s, d), spans(dinp, s), reads);
  }
  const T* dropout_backward(T* dinp, const T* dout, const Dropout& d, int64_t n) {
    if (d.rate == 0) return dout;
    add({.name = "dropout_backward", .N = n, .dropout = d.rate}, {span(dinp, n)}, {span(dout, n)});
    return dinp;
  }
  void pool_backward(T* dinp, const T* dout, const float*, int B, int T_, int C) {
    add({.name = "pool_backward", .N = int64_t{B} * T_, .C = C, .B = B, .T = T_}, {span(dinp, int64_t{B} * T_ * C)},
        {span(dout, int64_t{B} * C)});
  }

  // ---- what adapters need ------------------------------------------------------------------------------------------

  void matmul(T* out, const T* inp, const T* w, int N, int C, int OC) {
    add({.name = "matmul", .of = "adapter", .N = N, .C = C, .OC = OC, .used = OC}, {span(out, int64_t{N} * OC)},
        {span(inp, int64_t{N} * C), span(w, int64_t{C} * OC)});
  }
  void matmul_backward(T* dinp, float* dw, const T* dout, const T* inp, const T* w, int N, int C, int OC) {
    add({.name = "matmul_backward",
         .of = "adapter",
         .N = N,
         .C = C,
         .OC = OC,
         .used = OC,
         .dinp = dinp != nullptr,
         .dweight = dw != nullptr},
        {span(dinp, int64_t{N} * C)},
        {span(dout, int64_t{N} * OC), span(inp, int64_t{N} * C), span(w, int64_t{C} * OC)});
  }
  void dropout_part(T* out, const T* inp, const Dropout& d, int64_t, int64_t n) {
    add({.name = "dropout_part", .of = "adapter", .N = n, .dropout = d.rate}, {span(out, n)}, {span(inp, n)});
  }
  void lora_add(T* out, const T* inp, float, int N, int OC, int stride) {
    const int64_t n = int64_t{N - 1} * stride + OC;
    add({.name = "lora_add", .of = "adapter", .N = N, .C = OC, .OC = stride}, {span(out, n)},
        {span(out, n), span(inp, int64_t{N} * OC)});
  }
  void lora_take(T* out, const T* inp, float, int N, int OC, int stride) {
    add({.name = "lora_take", .of = "adapter", .N = N, .C = OC, .OC = stride}, {span(out, int64_t{N} * OC)},
        {span(inp, int64_t{N - 1} * stride + OC)});
  }

 private:
  template <class U>
  static Span span(const U* data, int64_t n) {
    return {data, n * static_cast<int64_t>(sizeof(U))};
  }
  static std::vector<Span> rows(const Rows& out, int N, int C) {
    return {span(out.y, int64_t{N} * C), span(out.mean, N), span(out.rstd, N)};
  }
  // Queries, keys and values; those whose tokens alternate in one tensor as one.
  template <class U>
  static std::vector<Span> spans(const Qkv<U>& x, const AttentionShape& s) {
    std::vector<Span> all;
    int64_t last_row = 0;  // of the last span's tokens
    const auto append = [&](const U* data, int64_t row, int width) {
      const Span one = span(data, (s.tokens() - 1) * row + width);
      const auto* begin = static_cast<const std::byte*>(one.data);
      if (!all.empty()) {
        const auto* before = static_cast<const std::byte*>(all.back().data);
        if (row == last_row && before <= begin && begin < before + row * static_cast<int64_t>(sizeof(U))) {
          all.back().bytes = begin + one.bytes - before;
          return;
        }
      }
      all.push_back(one);
      last_row = row;
    };
    append(x.q, x.q_row, s.channels());
    append(x.k, x.kv_row, s.kv_channels());
    append(x.v, x.kv_row, s.kv_channels());
    return all;
  }
  static PlannedOp product(const char* name, const Linear<T>& w, int N) {
    return {.name = name, .of = w.name, .N = N, .C = w.in, .OC = w.out, .used = w.used, .bias = w.b != nullptr};
  }
  static PlannedOp product_backward(const char* name, const T* dinp, const Linear<float>& d, const float* dout_sums,
                                    const Linear<T>& w, Sum sum, int N) {
    PlannedOp op = product(name, w, N);
    op.bias = d.b != nullptr, op.dinp = dinp != nullptr, op.dweight = d.w != nullptr;
    op.set = sum != Sum::add, op.sums = dout_sums != nullptr;
    return op;
  }
  static PlannedOp attention(const char* name, const AttentionShape& s, const Dropout& d) {
    return {.name = name,
            .N = s.tokens(),
            .C = s.channels(),
            .B = s.B,
            .T = s.T,
            .NH = s.NH,
            .NKV = s.NKV,
            .dropout = d.rate};
  }
  void add(PlannedOp op, std::vector<Span> writes, std::vector<Span> reads) {
    const auto present = [](std::vector<Span> spans) {
      std::erase_if(spans, [](const Span& s) { return s.data == nullptr; });
      return spans;
    };
    op.writes = present(std::move(writes)), op.reads = present(std::move(reads));
    op.phase = phase, op.layer = layers_.layer();
    op.again = phase == Phase::backward && layers_.repeats();
    ops.push_back(std::move(op));
  }

  const Exchange& layers_;
  const AdapterPass<T>& adapters_;
};

// ---- the walk on paper ---------------------------------------------------------------------------------------------

// A tensor of a model on paper.
struct PlannedBuffer {
  std::string name;
  const std::byte* data;
  int64_t bytes;  // of the tensor
  int64_t rows, cols;
  bool activation;  // else a parameter
  int64_t room;     // bytes that it takes in its arena
};

struct Plan {
  std::vector<PlannedOp> ops;
  std::vector<PlannedBuffer> buffers;  // by address
};

// The operations of forward and backward of a (B, T) micro-batch, of one process. element: bytes of a tensor's element,
// 2 or 4. logits_rows: that are in memory at a time.
template <class Family, class T>
Plan plan_of(const ModelConfig& config, ModelOptions options, int B, int T_, int64_t logits_rows, float dropout) {
  options.ranks = 1, options.zero = 0, options.comm = nullptr;  // several processes compute the same on parts
  // Addresses far apart: nothing is there.
  const auto at = [](uintptr_t arena) { return arena << 44; };
  const std::vector<ParamTensor> table = param_table(config, options);
  Plan plan;
  typename Family::template Params<T> params;
  typename Family::template Params<float> grads;
  T* const weights = reinterpret_cast<T*>(at(1));
  bind_params<Family>(config, options.lora, table, params, weights);
  bind_params<Family>(config, options.lora, table, grads, reinterpret_cast<float*>(at(2)), Arena::grads);
  for (const ParamTensor& tensor : table) {
    plan.buffers.push_back({tensor.name, reinterpret_cast<const std::byte*>(weights + tensor.offset),
                            tensor.size() * static_cast<int64_t>(sizeof(T)), tensor.rows, tensor.cols, false,
                            (tensor.size() + tensor.padding) * static_cast<int64_t>(sizeof(T))});
  }
  typename Family::template Activations<T, float> acts;
  AdapterScratch<T> scratch;
  std::byte* const arena = reinterpret_cast<std::byte*>(at(3));
  bind_activations<Family>(config, options, table, B, T_, logits_rows, acts, scratch, arena);
  int64_t offset = 0;
  for_each_in_arena<Family>(config, options, table, B, T_, logits_rows, acts, scratch,
                            [&](auto*& pointer, const std::string& name, int64_t rows, int64_t cols) {
                              const int64_t bytes = rows * cols * static_cast<int64_t>(sizeof(*pointer)),
                                            room = activation_bytes(rows, cols, sizeof(*pointer));
                              plan.buffers.push_back({name, arena + offset, bytes, rows, cols, true, room});
                              offset += room;
                            });
  bind_activations<Family>(config, options, table, B, T_, logits_rows, acts, scratch, arena);

  Exchange layers(config.num_layers, options, table);
  AdapterPass<T> adapters;
  if (options.lora.rank > 0) {
    adapters = {options.lora.rank, 1, {options.lora.dropout, 0, 0}, scratch};
  }
  PlanOps<T> ops(layers, adapters);
  int64_t logits_at = -1;
  const auto* batch = reinterpret_cast<const int32_t*>(at(4));
  const auto* floats = reinterpret_cast<const float*>(at(5));
  const int64_t rows = head_rows(config, B, T_);
  Walk<Family, PlanOps<T>> m{config,
                             params,
                             grads,
                             acts,
                             layers,
                             options.recompute,
                             B,
                             T_,
                             Pass::train,
                             {batch, nullptr, floats, nullptr, batch, floats},
                             {dropout, 0, 0},
                             {},
                             rows,
                             std::min(logits_rows, rows),
                             logits_at};
  m.end = last_trained_layer(table, config.num_layers);
  m.sum = Sum::set;
  layers.begin_forward();
  Family::forward(ops, m);
  ops.phase = Phase::backward;
  layers.begin_backward(true);
  Family::backward(ops, m);
  plan.ops = std::move(ops.ops);
  return plan;
}

// The same for the family of this model; bf16: of the tensors' elements, else float.
Plan plan_of(const ModelConfig& config, const ModelOptions& options, int B, int T, int64_t logits_rows, float dropout,
             bool bf16);

// The number of the buffer that has this address; plan.buffers.size() if none has.
size_t buffer_at(const Plan& plan, const void* data);

// Throws Error naming the operation if one reads what none has written, goes beyond its tensors, or if backward would
// read an activation that another layer has overwritten.
void check_plan(const Plan& plan);

// The bytes of scratch that the GPU's kernels need for these operations.
int64_t gpu_scratch_bytes(const std::vector<PlannedOp>& ops);
