// The forward and backward pass of GPT-2 on the CPU, written out. Kernels are in kernels/; the shapes are in
// tensor_table.h and activations.h.
#include <sys/mman.h>
#ifdef _OPENMP
#include <omp.h>
#endif

#include <chrono>
#include <cmath>
#include <new>
#include <stdexcept>

#include "kernels/attention_decode.h"
#include "kernels/dropout.h"
#include "kernels/ema.h"
#include "kernels/embedding.h"
#include "kernels/kv_cache.h"
#include "kernels/lora.h"
#include "kernels/muon.h"
#include "kernels/pool.h"
#include "kernels/residual.h"
#include "llm/models/cpu_model.h"
#include "llm/models/sharding.h"
#include "llm/support/error.h"

// Elements that a thread takes at a time in loops over an arena.
static constexpr int64_t kPiece = 1 << 16;

// ---- forward -------------------------------------------------------------------------------------------------------

template <class floatX>
void CpuModel<floatX>::run(const int32_t* inputs, int B, int T, Pass pass) {
  const int C = config.channels, L = config.num_layers, N = B * T;
  resize(B, T);
  inputs_.assign(inputs, inputs + N);
  pass_ = pass;
  logits_rows_ = pass == Pass::generate ? B : head_rows(config, B, T);
  first_logits_row_ = -1;
  const float dropout = pass == Pass::train ? dropout_ : 0;
  const int64_t NC = static_cast<int64_t>(N) * C;

  // 1. Tokens and positions become rows of the residual stream.
  gather(0);
  gather(1);
  need(0);
  cpu::embedding_forward(acts.encoded, inputs, params.wte, params.wpe + int64_t{cached_} * C, documents(), B, T, C);
  if (dropout > 0) {
    cpu::dropout_forward(acts.encoded, acts.encoded, dropout, dropout_seed_, sequence(0, DropoutPlace::embedding), NC);
  }
  // 2. Each block adds the outputs of attention and of its MLP to the stream.
  for (int l = 0; l < L; ++l) {
    gather(l + 2);  // the next unit arrives meanwhile
    need(l + 1);
    forward_block(l, dropout);
    forward_block_output(l, dropout);
  }
  // 3. The final norm. 4. The head follows when logits are asked for (make_logits).
  need(L + 1);
  k_.layernorm_forward(acts.lnf, acts.lnf_mean, acts.lnf_rstd, stream(L), params.lnfw, params.lnfb, N, C);

  if (config.num_classes > 0) cpu::pool_forward(acts.pooled, acts.lnf, pooling_.data(), B, T, C);
  if (pass == Pass::generate) {  // the last position of each sequence, side by side: all that the head reads
    for (int b = 0; b < B; ++b) {
      const floatX* last = acts.lnf + (static_cast<int64_t>(b) * T + T - 1) * C;
      std::copy(last, last + C, acts.lnf + static_cast<int64_t>(b) * C);
    }
  }
}

// Logits are computed chunk by chunk on demand, by read_logits(), loss() or backward(): all at once they would take
// most of the memory and fit into no cache.
template <class floatX>
int64_t CpuModel<floatX>::logits_chunk() const {
  return logits_chunk_rows(config, head_rows(config, B_, T_));
}

template <class floatX>
int64_t CpuModel<floatX>::make_logits(int64_t row) {
  const int Vp = config.padded_outputs(), C = config.channels;
  const int64_t first = row / logits_chunk() * logits_chunk(), rows = std::min(logits_chunk(), logits_rows_ - first);
  if (first_logits_row_ != first) {
    k_.matmul_forward(acts.logits, head_input() + first * C, params.output_matrix(), params.headb,
                      static_cast<int>(rows), C, Vp);
    lora_forward(params.head_lora, acts.logits, head_input() + first * C, rows, C, Vp, Vp, config.num_layers,
                 LoraPlace::head);
    first_logits_row_ = first;
  }
  return rows;
}

template <class floatX>
void CpuModel<floatX>::forward_block(int l, float dropout) {
  const int C = config.channels, N = B_ * T_;
  const int64_t NC = static_cast<int64_t>(N) * C;
  const BlockParams<floatX>& w = params.block[static_cast<size_t>(l)];
  const BlockActivations<floatX>& a = acts.block[static_cast<size_t>(l)];

  // 1. Norm, and the projection to queries, keys and values.
  k_.layernorm_forward(a.ln1, a.ln1_mean, a.ln1_rstd, stream(l), w.ln1w, w.ln1b, N, C);
  k_.matmul_forward(a.qkv, a.ln1, w.qkvw, w.qkvb, N, C, 3 * C);
  lora_forward(w.q, a.qkv, a.ln1, N, C, C, 3 * C, l, LoraPlace::q);
  lora_forward(w.k, a.qkv + C, a.ln1, N, C, C, 3 * C, l, LoraPlace::k);
  lora_forward(w.v, a.qkv + 2 * C, a.ln1, N, C, C, 3 * C, l, LoraPlace::v);
  // 2. Attention, and its projection.
  forward_attention(l, dropout);
  k_.matmul_forward(acts.sublayer, a.atty, w.attprojw, w.attprojb, N, C, C);
  lora_forward(w.attproj, acts.sublayer, a.atty, N, C, C, C, l, LoraPlace::attproj);
  // 3. The residual connection.
  if (dropout > 0) {
    cpu::dropout_forward(acts.sublayer, acts.sublayer, dropout, dropout_seed_, sequence(l, DropoutPlace::attproj), NC);
  }
  cpu::residual_forward(a.residual2, stream(l), acts.sublayer, NC);

  // 4. Norm, and the MLP's first product with GELU.
  k_.layernorm_forward(a.ln2, a.ln2_mean, a.ln2_rstd, a.residual2, w.ln2w, w.ln2b, N, C);
  k_.matmul_forward(a.fch, a.ln2, w.fcw, w.fcb, N, C, 4 * C);
  lora_forward(w.fc, a.fch, a.ln2, N, C, 4 * C, 4 * C, l, LoraPlace::fc);
  k_.gelu_forward(a.fch_gelu, a.fch, 4 * NC);
}

template <class floatX>
void CpuModel<floatX>::forward_attention(int l, float dropout) {
  const int C = config.channels, NH = config.num_heads, HS = C / NH, B = B_, T = T_;
  const BlockActivations<floatX>& a = acts.block[static_cast<size_t>(l)];
  const int64_t layer = int64_t{cache_B_} * cache_T_ * C;
  floatX *k = static_cast<floatX*>(cache_memory_.data()) + 2 * l * layer, *v = k + layer;
  floatX* q = cached_ > 0 ? acts.sublayer : nullptr;
  // 1. In generation: keys and values go into the cache.
  if (cache_B_ > 0 && pass_ == Pass::generate) {
    cpu::kv_cache_append(q, k, v, a.qkv, cached_, B, T, NH, HS, cache_T_);
  }
  // 2. Each query's weighted sum of values: over the cache for a new token, else over the batch itself.
  if (cached_ > 0) {
    const std::vector<int32_t> lengths(static_cast<size_t>(B), cached_ + 1);
    cpu::attention_decode(a.atty, q, k, v, lengths.data(), B, NH, HS, cache_T_);
  } else {
    k_.attention_forward(a.atty, a.lse, a.qkv, documents(), dropout, dropout_seed_,
                         sequence(l, DropoutPlace::attention), B, T, C, NH, config.causal);
  }
}

template <class floatX>
void CpuModel<floatX>::forward_block_output(int l, float dropout) {
  const int C = config.channels, N = B_ * T_;
  const int64_t NC = static_cast<int64_t>(N) * C;
  const BlockParams<floatX>& w = params.block[static_cast<size_t>(l)];
  const BlockActivations<floatX>& a = acts.block[static_cast<size_t>(l)];

  // 5. The MLP's second product.
  k_.matmul_forward(acts.sublayer, a.fch_gelu, w.fcprojw, w.fcprojb, N, 4 * C, C);
  lora_forward(w.fcproj, acts.sublayer, a.fch_gelu, N, 4 * C, C, C, l, LoraPlace::fcproj);
  // 6. The residual connection.
  if (dropout > 0) {
    cpu::dropout_forward(acts.sublayer, acts.sublayer, dropout, dropout_seed_, sequence(l, DropoutPlace::mlp), NC);
  }
  cpu::residual_forward(a.residual3, a.residual2, acts.sublayer, NC);
}

// ---- adapters ------------------------------------------------------------------------------------------------------

// The head runs chunk by chunk; each chunk has its part of the mask.
template <class floatX>
int64_t CpuModel<floatX>::lora_dropout_at(const floatX* inp, LoraPlace place) const {
  return place == LoraPlace::head ? inp - head_input() : 0;
}

template <class floatX>
const floatX* CpuModel<floatX>::lora_hidden(const LoraParams<floatX>& w, const floatX* inp, int64_t N, int C, int layer,
                                            LoraPlace place) {
  if (options.lora.dropout > 0 && pass_ == Pass::train) {
    cpu::dropout_part(acts.lora_inp, inp, options.lora.dropout, dropout_seed_, sequence(layer, place),
                      lora_dropout_at(inp, place), N * C);
    inp = acts.lora_inp;
  }
  k_.matmul_forward(acts.lora_h, inp, w.a, nullptr, static_cast<int>(N), C, options.lora.rank);
  return inp;
}

template <class floatX>
void CpuModel<floatX>::lora_forward(const LoraParams<floatX>& w, floatX* out, const floatX* inp, int64_t N, int C,
                                    int OC, int stride, int layer, LoraPlace place) {
  if (!w.a) return;
  const int rank = options.lora.rank;
  const int64_t rows_at_once = lora_rows_at_once(config, int64_t{B_} * T_, OC);
  // 1. h = drop(inp) A^T, with `rank` columns.
  lora_hidden(w, inp, N, C, layer, place);
  // 2. out += scale * h B^T, as many rows at a time as lora_out holds.
  for (int64_t n = 0; n < N; n += rows_at_once) {
    const int rows = static_cast<int>(std::min(rows_at_once, N - n));
    k_.matmul_forward(acts.lora_out, acts.lora_h + n * rank, w.b, nullptr, rows, rank, OC);
    cpu::lora_add(out + n * stride, acts.lora_out, lora_scale(), rows, OC, stride);
  }
}

template <class floatX>
void CpuModel<floatX>::lora_backward(const LoraParams<floatX>& w, const LoraParams<floatX>& dw, floatX* dinp,
                                     const floatX* dout, const floatX* inp, int64_t N, int C, int OC, int stride,
                                     int layer, LoraPlace place) {
  if (!w.a) return;
  const int rank = options.lora.rank;
  const int64_t rows_at_once = lora_rows_at_once(config, int64_t{B_} * T_, OC);
  // The steps of lora_forward, from the last to the first. They need h and drop(inp) again.
  const floatX* dropped = lora_hidden(w, inp, N, C, layer, place);
  // 2. dB += scale * dout^T h, and dh = scale * dout B.
  for (int64_t n = 0; n < N; n += rows_at_once) {
    const int rows = static_cast<int>(std::min(rows_at_once, N - n));
    cpu::lora_take(acts.lora_out, dout + n * stride, lora_scale(), rows, OC, stride);
    k_.matmul_backward(acts.lora_dh + n * rank, dw.b, nullptr, acts.lora_out, acts.lora_h + n * rank, w.b, rows, rank,
                       OC);
  }
  // 1. dA += dh^T drop(inp), and dinp += dropout's mask * (dh A).
  k_.matmul_backward(dinp ? acts.lora_out : nullptr, dw.a, nullptr, acts.lora_dh, dropped, w.a, static_cast<int>(N), C,
                     rank);
  if (!dinp) return;
  if (dropped != inp) {
    cpu::dropout_part(acts.lora_out, acts.lora_out, options.lora.dropout, dropout_seed_, sequence(layer, place),
                      lora_dropout_at(inp, place), N * C);
  }
  cpu::lora_add(dinp, acts.lora_out, 1, static_cast<int>(N), C, C);
}

// ---- loss ----------------------------------------------------------------------------------------------------------

template <class floatX>
double CpuModel<floatX>::loss(const int32_t* targets, double* sum) {
  const int N = static_cast<int>(head_rows(config, B_, T_));
  if (N == 0 || logits_rows_ != N) throw std::logic_error("loss() without forward()'s logits for every position");
  const int64_t counted = check_targets(targets, N);
  for (int64_t n = 0; n < N; n += logits_chunk()) {
    const int rows = static_cast<int>(make_logits(n));
    k_.classifier_forward(acts.losses + n, acts.logits, targets + n, rows, config.outputs(), config.padded_outputs());
  }
  double total = 0;
  for (int n = 0; n < N; ++n) total += acts.losses[n];
  if (sum) *sum = total;
  return counted > 0 ? total / static_cast<double>(counted) : 0;
}

// ---- backward ------------------------------------------------------------------------------------------------------

template <class floatX>
void CpuModel<floatX>::backward(const int32_t* targets, const float* weights) {
  const int V = config.outputs(), Vp = config.padded_outputs(), C = config.channels, L = config.num_layers, B = B_,
            T = T_, N = B * T, end = last_block_of_backward();
  const int64_t NC = static_cast<int64_t>(N) * C, rows_of_head = head_rows(config, B, T);
  if (pass_ != Pass::train || logits_rows_ != rows_of_head || N == 0) {
    throw std::logic_error("backward() without forward(Pass::train)");
  }
  check_targets(targets, static_cast<int>(rows_of_head));
  allocate_grads();
  begin_backward();

  // The steps of run(), from the last to the first.
  // 4. The head: chunk by chunk, logits become losses and dlogits; dlogits give the gradients of the head's matrix and
  // of its input.
  double loss = 0;
  const bool pooled = config.num_classes > 0;
  floatX* dhead = end > L ? nullptr : pooled ? acts.dpooled : acts.dnorm;  // null: nothing below the head is trained
  floatX* dmatrix = params.head ? grads.head : grads.wte;
  for (int64_t n = 0; n < rows_of_head; n += logits_chunk()) {
    const int rows = static_cast<int>(make_logits(n));
    floatX* dlogits = acts.logits;  // overwrite the logits
    first_logits_row_ = -1;
    k_.classifier_backward(dlogits, acts.losses + n, targets + n, weights + n, rows, V, Vp);
    const floatX* inp = head_input() + n * C;
    floatX* dinp = dhead ? dhead + n * C : nullptr;
    matmul_backward(dinp, dmatrix, grads.headb, dlogits, inp, params.output_matrix(), rows, C, Vp, n == 0);
    lora_backward(params.head_lora, grads.head_lora, dinp, dlogits, inp, rows, C, Vp, Vp, L, LoraPlace::head);
  }
  logits_rows_ = 0;  // a second backward needs a new forward
  for (int64_t n = 0; n < rows_of_head; ++n) loss += static_cast<double>(weights[n]) * acts.losses[n];
  loss_ += loss;
  squares_known_ = weight_grads_unset_;  // for block weights, whose gradients only this backward sets
  if (end > L) {
    // only the head is trained
    weight_grads_unset_ = false;
    return;
  }

  // 3. The final norm: from here on acts.dresidual is the gradient of the stream.
  if (pooled) cpu::pool_backward(acts.dnorm, acts.dpooled, pooling_.data(), B, T, C);
  std::fill(acts.dresidual, acts.dresidual + NC, floatX(0));
  k_.layernorm_backward(acts.dresidual, grads.lnfw, grads.lnfb, acts.dnorm, stream(L), params.lnfw, acts.lnf_mean,
                        acts.lnf_rstd, N, C);
  reduce(L + 1);
  // 2. The blocks, from the last down to `end`.
  for (int l = L - 1; l >= end; --l) {
    if (l > end) gather(l);  // the block below arrives meanwhile
    need(l + 1);
    begin_gradients(l + 1);
    // Buffers that the blocks share hold the last block's activations: those of the others are computed again.
    if (options.recompute == Recompute::block && l < L - 1) forward_block(l, dropout_);
    if (options.recompute == Recompute::gelu && l < L - 1) {
      const BlockActivations<floatX>& a = acts.block[static_cast<size_t>(l)];
      k_.gelu_forward(a.fch_gelu, a.fch, 4 * NC);
    }
    backward_block(l);
    reduce(l + 1);
  }
  // 1. Tokens and positions: each row of the stream's gradient is added to the rows of its token and its position.
  if (grads.wte) {
    if (dropout_ > 0) {
      cpu::dropout_backward(acts.dresidual, acts.dresidual, dropout_, dropout_seed_,
                            sequence(0, DropoutPlace::embedding), NC);
    }
    cpu::embedding_backward(grads.wte, grads.wpe, acts.dresidual, inputs_.data(), documents(), B, T, C);
  }
  weight_grads_unset_ = false;
  reduce(0);
}

template <class floatX>
void CpuModel<floatX>::matmul_backward(floatX* dinp, floatX* dweight, floatX* dbias, const floatX* dout,
                                       const floatX* inp, const floatX* weight, int N, int C, int OC, bool first) {
  const bool set = weight_grads_unset_ && first && dweight;
  k_.matmul_backward(dinp, set ? nullptr : dweight, dbias, dout, inp, weight, N, C, OC);
  if (!set) return;
  const bool complete = dweight != grads.wte && dweight != grads.head;  // to these two more is added later
  k_.matmul_dweight(dweight, complete ? &squares_ : nullptr, dout, inp, N, C, OC);
}

template <class floatX>
void CpuModel<floatX>::backward_block(int l) {
  const int C = config.channels, NH = config.num_heads, B = B_, T = T_, N = B * T;
  const int64_t NC = static_cast<int64_t>(N) * C;
  const BlockParams<floatX>& w = params.block[static_cast<size_t>(l)];
  const BlockParams<floatX>& dw = grads.block[static_cast<size_t>(l)];
  const BlockActivations<floatX>& a = acts.block[static_cast<size_t>(l)];

  // The steps of forward_block and forward_block_output, from the last to the first.
  // 6. The residual connection.
  const floatX* dsublayer = acts.dresidual;  // the residual connection hands the gradient to both of its inputs
  if (dropout_ > 0) {
    cpu::dropout_backward(acts.dsublayer, acts.dresidual, dropout_, dropout_seed_, sequence(l, DropoutPlace::mlp), NC);
    dsublayer = acts.dsublayer;
  }
  // 5. The MLP's second product.
  matmul_backward(acts.dfch, dw.fcprojw, dw.fcprojb, dsublayer, a.fch_gelu, w.fcprojw, N, 4 * C, C, true);
  lora_backward(w.fcproj, dw.fcproj, acts.dfch, dsublayer, a.fch_gelu, N, 4 * C, C, C, l, LoraPlace::fcproj);
  // 4. GELU, the MLP's first product, and the norm, which adds to the stream's gradient.
  k_.gelu_backward(acts.dfch, acts.dfch, a.fch, 4 * NC);
  matmul_backward(acts.dnorm, dw.fcw, dw.fcb, acts.dfch, a.ln2, w.fcw, N, C, 4 * C, true);
  lora_backward(w.fc, dw.fc, acts.dnorm, acts.dfch, a.ln2, N, C, 4 * C, 4 * C, l, LoraPlace::fc);
  k_.layernorm_backward(acts.dresidual, dw.ln2w, dw.ln2b, acts.dnorm, a.residual2, w.ln2w, a.ln2_mean, a.ln2_rstd, N,
                        C);

  // 3. The residual connection.
  if (dropout_ > 0) {
    cpu::dropout_backward(acts.dsublayer, acts.dresidual, dropout_, dropout_seed_, sequence(l, DropoutPlace::attproj),
                          NC);
  }
  // 2. Attention's projection, and attention.
  matmul_backward(acts.datty, dw.attprojw, dw.attprojb, dsublayer, a.atty, w.attprojw, N, C, C, true);
  lora_backward(w.attproj, dw.attproj, acts.datty, dsublayer, a.atty, N, C, C, C, l, LoraPlace::attproj);
  k_.attention_backward(acts.dqkv, acts.datty, a.atty, a.lse, a.qkv, documents(), dropout_, dropout_seed_,
                        sequence(l, DropoutPlace::attention), B, T, C, NH, config.causal);
  // 1. The projection to queries, keys and values, and the norm, which adds to the stream's gradient.
  matmul_backward(acts.dnorm, dw.qkvw, dw.qkvb, acts.dqkv, a.ln1, w.qkvw, N, C, 3 * C, true);
  lora_backward(w.q, dw.q, acts.dnorm, acts.dqkv, a.ln1, N, C, C, 3 * C, l, LoraPlace::q);
  lora_backward(w.k, dw.k, acts.dnorm, acts.dqkv + C, a.ln1, N, C, C, 3 * C, l, LoraPlace::k);
  lora_backward(w.v, dw.v, acts.dnorm, acts.dqkv + 2 * C, a.ln1, N, C, C, 3 * C, l, LoraPlace::v);
  k_.layernorm_backward(acts.dresidual, dw.ln1w, dw.ln1b, acts.dnorm, stream(l), w.ln1w, a.ln1_mean, a.ln1_rstd, N, C);
}

// ---- update --------------------------------------------------------------------------------------------------------

template <class floatX>
void CpuModel<floatX>::zero_grad() {
  allocate_grads();
  forget_gradients();
  loss_ = 0;
  weight_grads_unset_ = true;
  squares_known_ = false;
  squares_ = 0;
  if (sharded(options, Arena::grads)) {  // each backward starts from zeros
    weight_grads_unset_ = false;
    return clear_grads(grad_memory_.data(), kept_size(table, options, Arena::grads));
  }
  clear_kept_grads(false);
}

template <class floatX>
void CpuModel<floatX>::clear_grads(void* grads, int64_t n) {
  floatX* g = static_cast<floatX*>(grads);
#pragma omp parallel for
  for (int64_t i = 0; i < n; ++i) g[i] = 0;
}

template <class floatX>
void CpuModel<floatX>::add_grads(void* to, const void* from, int64_t n) {
  floatX* out = static_cast<floatX*>(to);
  const floatX* in = static_cast<const floatX*>(from);
#pragma omp parallel for
  for (int64_t i = 0; i < n; ++i) out[i] += in[i];
}

// Smaller tensors are cleared by one thread: starting the others takes longer.
constexpr int64_t kParallelElements = 100'000;

template <class floatX>
void CpuModel<floatX>::clear_kept_grads(bool of_weights) const {
  for (const ParamTensor& tensor : table) {
    const bool is_weight = tensor.role == Role::weight || tensor.role == (params.head ? Role::head : Role::embedding);
    if (is_weight != of_weights || !tensor.trainable()) continue;
    floatX* g = static_cast<floatX*>(grad_memory_.data()) + tensor.grad_offset;
    if (tensor.size() < kParallelElements) {
      std::fill(g, g + tensor.size(), floatX(0));
      continue;
    }
#pragma omp parallel for
    for (int64_t i = 0; i < tensor.size(); ++i) g[i] = 0;
  }
}

template <class floatX>
void CpuModel<floatX>::settle_grads() const {
  if (weight_grads_unset_ && grad_memory_.data()) clear_kept_grads(true);
  weight_grads_unset_ = false;
}

template <class floatX>
double CpuModel<floatX>::squares() {
  const floatX* g = static_cast<const floatX*>(grad_memory_.data());
  double sum = 0;
  if (in_parts()) {
    for (int u = 0; u <= last_unit(); ++u) {
      sum += k_.global_norm_squared(own_part(Arena::grads, u), unit(u).shard);
    }
    return sum;
  }
  if (!squares_known_ || parallel()) return k_.global_norm_squared(g, arena_size(table, Arena::grads));
  sum = squares_;
  for (const ParamTensor& tensor : table) {
    if (tensor.role != Role::weight && tensor.trainable()) {
      sum += k_.global_norm_squared(g + tensor.grad_offset, tensor.size());
    }
  }
  return sum;
}

template <class floatX>
double CpuModel<floatX>::grad_norm() {
  allocate_grads();
  settle_grads();
  finish_gradients();
  double sum = squares();
  if (in_parts()) comm().wait(comm().all_reduce(&sum, 1, Number::f64));
  return std::sqrt(sum);
}

template <class floatX>
std::vector<typename CpuModel<floatX>::Piece> CpuModel<floatX>::adamw_pieces() {
  std::vector<Piece> pieces;
  for (const ParamTensor& p : table) {
    if (p.v_offset < 0) continue;
    Piece whole{&p,
                static_cast<floatX*>(param_memory_.data()) + p.offset,
                static_cast<const floatX*>(grad_memory_.data()) + p.grad_offset,
                p.grad_offset,
                p.v_offset,
                p.size()};
    if (in_parts()) {
      const TensorPart part = part_of(p, unit(p.unit), comm().rank());
      const int64_t at = part.kept_at - unit(p.unit).kept_at;  // offset in this rank's part of the unit
      whole = {&p,
               own_part(Arena::params, p.unit) + at,
               own_part(Arena::grads, p.unit) + at,
               part.kept_at,
               part.kept_at,
               part.count};
    }
    for (int64_t i = 0; i < whole.count; i += kPiece) {
      pieces.push_back(
          {&p, whole.param + i, whole.grad + i, whole.at + i, whole.v_at + i, std::min(kPiece, whole.count - i)});
    }
  }
  return pieces;
}

template <class floatX>
void CpuModel<floatX>::update(const OptimizerConfig& o, float grad_clip) {
  allocate_grads();
  settle_grads();
  finish_gradients();
  settle_params();
  double sums[] = {loss_, o.signal, squares()};  // over all processes; without parts all have the same squares
  if (parallel()) comm().wait(comm().all_reduce(sums, options.zero > 0 ? 3 : 2, Number::f64));
  StepResult result{sums[0], loss_, std::sqrt(sums[2]), false, sums[1]};
  result.updated = std::isfinite(result.loss) && std::isfinite(result.grad_norm);
  if (results_.size() == 2) results_.erase(results_.begin());
  results_.push_back(result);
  if (!result.updated) return;
  const double t = static_cast<double>(++updates_);
  const float grad_scale =
      grad_clip > 0 && result.grad_norm > grad_clip ? static_cast<float>(grad_clip / result.grad_norm) : 1.0f;
  if (!m_memory_.data()) m_memory_ = Buffer(arena_bytes(Arena::m));
  if (!v_memory_.data()) v_memory_ = Buffer(arena_bytes(Arena::v));
  if (options.ema > 0 && !average_memory_.data()) average_memory_ = Buffer(arena_bytes(Arena::average));
  const int64_t scratch = muon_scratch(table) * static_cast<int64_t>(sizeof(floatX));
  if (scratch > 0 && !muon_memory_.data()) muon_memory_ = Buffer(scratch);
  const floatX beta1_correction = static_cast<floatX>(1 - std::pow(static_cast<double>(o.beta1), t));
  const floatX beta2_correction = static_cast<floatX>(1 - std::pow(static_cast<double>(o.beta2), t));
  const floatX average_rate = static_cast<floatX>(cpu::ema_rate(options.ema, updates_));
  const auto at = [](const Buffer& memory, int64_t offset) { return static_cast<floatX*>(memory.data()) + offset; };
  const auto average = [&](const ParamTensor& p, const floatX* weights, int64_t i, int64_t count) {
    if (p.averaged) cpu::ema_update(at(average_memory_, i), weights, average_rate, count);
  };
  // AdamW's tensors in pieces, all in one parallel region: most tensors are too small for their own.
  const std::vector<Piece> pieces = adamw_pieces();
#pragma omp parallel for schedule(static, 1)
  for (size_t k = 0; k < pieces.size(); ++k) {
    const Piece& piece = pieces[k];
    const ParamTensor& p = *piece.tensor;
    k_.adamw_update(piece.param, at(m_memory_, piece.at), at(v_memory_, piece.v_at), piece.grad, grad_scale,
                    o.lr * p.lr_scale, o.beta1, o.beta2, beta1_correction, beta2_correction, o.eps,
                    p.decay ? o.weight_decay : 0, piece.count);
    average(p, piece.param, piece.at, piece.count);  // while it is in the cache
  }
  for (const ParamTensor& p : table) {
    if (!p.muon || !p.trainable()) continue;
    const int rows = static_cast<int>(p.rows / p.stacked), cols = static_cast<int>(p.cols);
    for (int64_t k = 0; k < p.size(); k += int64_t{rows} * cols) {
      const int64_t i = p.grad_offset + k;
      cpu::muon_update<floatX>(at(param_memory_, p.offset + k), at(m_memory_, i), at(muon_memory_, 0),
                               at(grad_memory_, i), grad_scale, o.lr * p.lr_scale, o.momentum,
                               p.decay ? o.weight_decay : 0, rows, cols, k_.matmul_forward, k_.matmul_backward);
    }
    average(p, at(param_memory_, p.offset), p.grad_offset, p.size());
  }
  gather_changed();
}

template <class floatX>
void CpuModel<floatX>::exchange_average() {
  if (!average_memory_.data() || updates_ == 0) return;
  settle_params();
  if (in_parts()) {
    for (int u = 0; u <= last_unit(); ++u) {
      floatX* weights = own_part(Arena::params, u);
      std::swap_ranges(weights, weights + unit(u).shard, own_part(Arena::average, u));
    }
    return gather_changed();
  }
  for (const ParamTensor& p : table) {
    if (!p.averaged) continue;
    floatX* weights = static_cast<floatX*>(param_memory_.data()) + p.offset;
    std::swap_ranges(weights, weights + p.size(), static_cast<floatX*>(average_memory_.data()) + p.grad_offset);
  }
}

template <class floatX>
StepResult CpuModel<floatX>::result(int steps_back) {
  if (steps_back < 0 || steps_back >= static_cast<int>(results_.size())) {
    throw std::logic_error("result() of an update that is not one of the last two");
  }
  return results_[results_.size() - 1 - static_cast<size_t>(steps_back)];
}

// ---- memory --------------------------------------------------------------------------------------------------------

Buffer::Buffer(int64_t bytes) : bytes_(bytes) {
  data_ = ::mmap(nullptr, static_cast<size_t>(bytes), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (data_ == MAP_FAILED) {
    data_ = nullptr;
    throw std::bad_alloc();
  }
  ::madvise(data_, static_cast<size_t>(bytes), MADV_HUGEPAGE);  // fewer TLB misses where the system has large pages
}

Buffer::~Buffer() {
  if (data_) ::munmap(data_, static_cast<size_t>(bytes_));
}

namespace {

const cpu::Kernels<float>& fast_kernels(Precision precision) {
  const cpu::Kernels<float>* kernels = cpu::fast_kernels(cpu::best_isa(), precision == Precision::bf16);
  if (!kernels) {
    fail("{precision} bf16 needs a CPU with AVX512-BF16 instructions; this one has %s: take {precision} fp32",
         cpu::name_of(cpu::best_isa()));
  }
  return *kernels;
}

template <class floatX>
const cpu::Kernels<floatX>& choose_kernels(bool reference, Precision precision) {
  if constexpr (std::is_same_v<floatX, float>) {
    if (!reference) return fast_kernels(precision);
  }
  return cpu::kPlainKernels<floatX>;
}

}  // namespace

template <class floatX>
CpuModel<floatX>::CpuModel(const ModelConfig& c, bool reference, const ModelOptions& options)
    : Model(c, options), k_(choose_kernels<floatX>(reference, options.precision)) {
  param_memory_ = Buffer(arena_bytes(Arena::params));
  if (sharded(options, Arena::params)) {
    whole_params_ = Buffer(whole_size(units) * static_cast<int64_t>(sizeof(floatX)));
    bind_units(config, options.lora, table, units, params, static_cast<floatX*>(whole_params_.data()));
  } else {
    bind_params(config, options.lora, table, params, static_cast<floatX*>(param_memory_.data()));
  }
}

template <class floatX>
CpuModel<floatX>::~CpuModel() {
  settle();
}

template <class floatX>
void CpuModel<floatX>::allocate_grads() {
  if (grad_memory_.data()) return;
  grad_memory_ = Buffer(arena_bytes(Arena::grads));
  if (sharded(options, Arena::grads)) {
    whole_grads_ = Buffer(whole_size(units) * static_cast<int64_t>(sizeof(floatX)));
    return bind_units(config, options.lora, table, units, grads, static_cast<floatX*>(whole_grads_.data()));
  }
  bind_params(config, options.lora, table, grads, static_cast<floatX*>(grad_memory_.data()), Arena::grads);
}

template <class floatX>
void CpuModel<floatX>::resize(int B, int T) {
  if (B == B_ && T == T_) return;
  const int64_t bytes = bind_activations<floatX>(config, options, B, T,
                                                 logits_chunk_rows(config, head_rows(config, B, T)), acts, nullptr);
  if (bytes > activation_memory_.bytes()) {
    B_ = T_ = 0;  // if the allocation throws, nothing is bound
    logits_rows_ = 0;
    activation_memory_ = Buffer();  // the old memory is freed before the new is allocated
    activation_memory_ = Buffer(bytes);
  }
  bind_activations(config, options, B, T, logits_chunk_rows(config, head_rows(config, B, T)), acts,
                   static_cast<std::byte*>(activation_memory_.data()));
  B_ = B;
  T_ = T;
}

template <class floatX>
void CpuModel<floatX>::resize_cache(int B, int T) {
  cache_memory_ = Buffer();
  if (B > 0) cache_memory_ = Buffer(cache_elements(B, T) * static_cast<int64_t>(sizeof(floatX)));
}

// ---- access --------------------------------------------------------------------------------------------------------

template <class floatX>
void CpuModel<floatX>::read_logits(int64_t row, float* out) {
  if (row < 0 || row >= logits_rows_) {
    throw std::logic_error("read_logits() of a row that the last forward() did not compute");
  }
  make_logits(row);
  const floatX* from = acts.logits + (row - first_logits_row_) * config.padded_outputs();
  std::copy(from, from + config.outputs(), out);
}

template <class floatX>
void CpuModel<floatX>::read_losses(float* out) {
  std::copy(acts.losses, acts.losses + head_rows(config, B_, T_), out);
}

template <class floatX>
void* CpuModel<floatX>::arena_memory(Arena which) const {
  const Buffer* memory[] = {&param_memory_, &grad_memory_, &m_memory_, &v_memory_, &average_memory_};
  return memory[static_cast<int>(which)]->data();
}

template <class floatX>
int64_t CpuModel<floatX>::arena_bytes(Arena which) const {
  return kept_size(table, options, which) * static_cast<int64_t>(sizeof(floatX));
}

// From stage 1 on, gradients that are not sharded are also sums only in this rank's own part.
template <class floatX>
bool CpuModel<floatX>::reads_parts(Arena which) const {
  return which == Arena::grads ? in_parts() : sharded(options, which);
}

template <class floatX>
void CpuModel<floatX>::read(Arena which, const ParamTensor& tensor, float* out) const {
  if (which == Arena::grads) settle_grads();
  arrive(which);
  const floatX* from = arena(which);
  const int64_t offset = tensor.offset_in(which);
  if (!from || offset < 0) {
    std::fill(out, out + tensor.size(), 0.0f);
  } else if (reads_parts(which)) {
    const ParamUnit& u = unit(tensor.unit);
    for (int r = 0; r < options.ranks; ++r) {
      const TensorPart part = part_of(tensor, u, r);
      if (part.count == 0) continue;
      if (r == comm().rank()) {
        const floatX* begin = own_part(which, tensor.unit) + part.kept_at - u.kept_at;
        std::copy(begin, begin + part.count, out + part.from);
      }
      comm().wait(comm().broadcast(out + part.from, part.count, Number::f32, r));
    }
  } else {
    std::copy(from + offset, from + offset + tensor.size(), out);
  }
}

template <class floatX>
const float* CpuModel<floatX>::view(Arena which, const ParamTensor& tensor) const {
  if constexpr (std::is_same_v<floatX, float>) {
    if (reads_parts(which)) return nullptr;
    if (which == Arena::grads) settle_grads();
    arrive(which);
    const int64_t offset = tensor.offset_in(which);
    if (arena(which) && offset >= 0) return arena(which) + offset;
  }
  return nullptr;
}

template <class floatX>
void CpuModel<floatX>::write(Arena which, const ParamTensor& tensor, const float* in) {
  Buffer* memory[] = {&param_memory_, &grad_memory_, &m_memory_, &v_memory_, &average_memory_};
  Buffer& to = *memory[static_cast<int>(which)];
  const int64_t offset = tensor.offset_in(which);
  if (offset < 0) throw std::logic_error("write() to an arena that does not have " + tensor.name);
  if (which == Arena::grads) {
    allocate_grads();
    settle_grads();
    squares_known_ = false;
  }
  settle_params();
  if (!to.data()) to = Buffer(arena_bytes(which));
  floatX* out = static_cast<floatX*>(to.data()) + offset;
  int64_t size = tensor.size();
  if (sharded(options, which)) {
    const TensorPart part = part_of(tensor, unit(tensor.unit), comm().rank());
    out = static_cast<floatX*>(to.data()) + part.kept_at;
    in += part.from;
    size = part.count;
    if (which == Arena::params) gather_changed();
  }
  // By all threads, piece by piece: on machines with several memories each then holds its share of the weights.
  const int64_t pieces = (size + kPiece - 1) / kPiece;
#pragma omp parallel for schedule(static, 1)
  for (int64_t k = 0; k < pieces; ++k) {
    std::copy(in + k * kPiece, in + std::min(size, (k + 1) * kPiece), out + k * kPiece);
  }
}

template <class floatX>
int64_t CpuModel<floatX>::allocated_bytes() const {
  int64_t sum = 0;
  for (const Buffer* buffer : {&param_memory_, &grad_memory_, &whole_params_, &whole_grads_, &m_memory_, &v_memory_,
                               &average_memory_, &muon_memory_, &activation_memory_, &cache_memory_}) {
    sum += buffer->bytes();
  }
  return sum;
}

template <class floatX>
void CpuModel<floatX>::set_dropout(float dropout, uint64_t seed, uint64_t sequence) {
  check_dropout(dropout);
  pass_ = Pass::evaluate;  // an earlier forward gets no backward: that would draw other masks
  dropout_ = dropout;
  dropout_seed_ = seed;
  dropout_base_ = sequence;
}

template class CpuModel<float>;
template class CpuModel<double>;

std::unique_ptr<Model> make_cpu_model(const ModelConfig& config, bool reference, const ModelOptions& options) {
  return std::make_unique<CpuModel<float>>(config, reference, options);
}

std::vector<KernelRow> cpu_kernels(const ModelOptions& options, double dropout, bool reference) {
  using cpu::kPlainKernels;
  const cpu::Kernels<float>& k = choose_kernels<float>(reference, options.precision);
  std::vector<KernelRow> rows;
  const auto row = [&](const char* operation, bool plain) {
    const std::string fast = std::string("fast, ") + cpu::name_of(cpu::best_isa());
    const bool product = std::string(operation).find("matmul") == 0 || std::string(operation).find("attention") == 0;
    const bool rounds = product && !plain && options.precision == Precision::bf16;
    rows.push_back({operation, "", "", 0, plain ? "plain loops" : fast + (rounds ? ", factors in bf16" : ""), "", {}});
  };
  const auto chosen = [&](const char* operation, auto member) {
    row(operation, k.*member == kPlainKernels<float>.*member);
  };
  const auto loops = [&](const char* operation) { row(operation, true); };  // has no fast version
  using Table = cpu::Kernels<float>;
  loops("embedding_forward");
  chosen("layernorm_forward", &Table::layernorm_forward);
  chosen("matmul_forward", &Table::matmul_forward);
  chosen("attention_forward", &Table::attention_forward);
  loops("residual_forward");
  chosen("gelu_forward", &Table::gelu_forward);
  if (dropout > 0) loops("dropout_forward");
  chosen("classifier_backward", &Table::classifier_backward);
  chosen("matmul_backward", &Table::matmul_backward);
  chosen("matmul_dweight", &Table::matmul_dweight);
  chosen("attention_backward", &Table::attention_backward);
  chosen("gelu_backward", &Table::gelu_backward);
  chosen("layernorm_backward", &Table::layernorm_backward);
  if (dropout > 0) loops("dropout_backward");
  loops("embedding_backward");
  chosen("global_norm_squared", &Table::global_norm_squared);
  chosen("adamw_update", &Table::adamw_update);
  if (options.optimizer == Optimizer::muon) loops("muon_update");
  if (options.ema > 0) loops("ema_update");
  return rows;
}

bool cpu_can(Precision precision) {
  return precision != Precision::tf32 && cpu::fast_kernels(cpu::best_isa(), precision == Precision::bf16);
}
void check_cpu_can(Precision precision) { fast_kernels(precision); }

double measure_peak_flops(Precision precision) {
  const cpu::Kernels<float>& kernels = fast_kernels(precision);
  const int n = 1024;
  std::vector<float> a(static_cast<size_t>(n) * n, 1.0f), b(a), c(a);
  double best = 0, spent = 0;
  while (spent < 0.2) {  // long enough for a moment when nothing else runs
    const auto start = std::chrono::steady_clock::now();
    kernels.matmul_forward(c.data(), a.data(), b.data(), nullptr, n, n, n);
    const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    best = std::max(best, 2.0 * n * n * n / seconds);
    spent += seconds;
  }
  return best;
}

#ifdef _OPENMP
void set_cpu_threads(int threads) { omp_set_num_threads(threads); }
int cpu_threads() { return omp_get_max_threads(); }
#else
void set_cpu_threads(int) {}
int cpu_threads() { return 1; }
#endif
