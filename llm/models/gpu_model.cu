// The forward and backward pass of GPT-2 on the GPU, written out as cpu_model.cpp does for the CPU.
#include <algorithm>
#include <chrono>
#include <new>
#include <stdexcept>

#include "kernels/attention_decode.cuh"
#include "kernels/classifier.cuh"
#include "kernels/dropout.cuh"
#include "kernels/ema.cuh"
#include "kernels/embedding.cuh"
#include "kernels/gelu.cuh"
#include "kernels/global_norm.cuh"
#include "kernels/kv_cache.cuh"
#include "kernels/layernorm.cuh"
#include "kernels/lora.cuh"
#include "kernels/muon.cuh"
#include "kernels/pool.cuh"
#include "kernels/residual.cuh"
#include "llm/models/gpu_model.cuh"
#include "llm/models/sharding.h"
#include "llm/support/error.h"

// ---- forward -------------------------------------------------------------------------------------------------------

template <class floatX>
void GpuModel<floatX>::run(const int32_t* inputs, int B, int T, Pass pass) {
  const bool pooled = config.num_classes > 0;
  const int Vp = config.padded_outputs(), C = config.channels, L = config.num_layers, N = B * T;
  resize(B, T);
  if (pass == Pass::train) prepare(B, T);
  slot_ = (slot_ + 1) % kBatchSlots;
  Slot& slot = slots_[slot_];
  CUDA_CHECK(cudaEventSynchronize(slot.done));  // waits only if the host is a whole ring ahead
  copy_in(slot, slot.inputs, slot.host_inputs, inputs, N);
  if (cached_ > 0) {
    copy_in(slot, slot.targets, slot.host_targets, std::vector<int32_t>(static_cast<size_t>(B), cached_ + 1).data(), B);
  }
  if (!documents_.empty()) copy_in(slot, slot.documents, slot.host_documents, documents_.data(), N);
  pass_ = pass;
  logits_rows_ = pass == Pass::generate ? B : head_rows(config, B, T);
  const float dropout = pass == Pass::train ? dropout_ : 0;

  // 1. Tokens and positions become rows of the residual stream.
  gather(0);
  gather(1);
  need(0);
  embedding_forward(acts_.encoded, slot.inputs, params_.wte, params_.wpe + int64_t{cached_} * C, documents(), dropout,
                    dropout_seed_, sequence(0, DropoutPlace::embedding), B, T, C, compute_);
  const BlockParams<floatX>& w0 = params_.block[0];
  const BlockActivations<floatX>& a0 = acts_.block[0];
  need(1);  // the first norm is made here, each other one with the residual connection before it
  layernorm_forward(a0.ln1, a0.ln1_mean, a0.ln1_rstd, acts_.encoded, w0.ln1w, w0.ln1b, N, C, compute_);
  // 2. Each block adds the outputs of attention and of its MLP to the stream, and makes the norm that follows: after
  // the last block, 3. The final norm.
  for (int l = 0; l < L; ++l) {
    gather(l + 2);  // the next unit arrives meanwhile; this block ends with its norm
    forward_block(l, dropout);
    need(l + 2);
    forward_block_output(l, dropout);
  }

  // 4. The head.
  const auto make_logits = [&](floatX* logits, const floatX* inp, int rows) {
    const floatX *matrix = params_.output_matrix(), *bias = params_.headb;
    matmul_forward(logits, static_cast<floatX*>(nullptr), inp, matrix, bias, rows, C, Vp, tiers_.matmul, compute_);
    lora_forward(params_.head_lora, logits, inp, rows, C, Vp, Vp, L, LoraPlace::head);
  };
  if (pass == Pass::generate && !pooled) {
    for (int64_t b = 0; b < B; ++b) make_logits(acts_.logits + b * Vp, acts_.lnf + (b * T + T - 1) * C, 1);
  } else {
    if (pooled) {
      copy_in(slot, slot.pooling, slot.host_pooling, pooling_.data(), N);
      pool_forward(acts_.pooled, acts_.lnf, slot.pooling, B, T, C, compute_);
    }
    make_logits(acts_.logits, head_input(), static_cast<int>(logits_rows_));
  }
  CUDA_CHECK(cudaEventRecord(slot.done, compute_));
}

template <class floatX>
void GpuModel<floatX>::forward_block(int l, float dropout) {
  const int C = config.channels, N = B_ * T_;
  const BlockParams<floatX>& w = params_.block[static_cast<size_t>(l)];
  const BlockActivations<floatX>& a = acts_.block[static_cast<size_t>(l)];
  floatX* no_gelu = nullptr;

  // 1. The projection to queries, keys and values. Its norm was made with the residual connection before it.
  matmul_forward(a.qkv, no_gelu, a.ln1, w.qkvw, w.qkvb, N, C, 3 * C, tiers_.matmul, compute_);
  lora_forward(w.q, a.qkv, a.ln1, N, C, C, 3 * C, l, LoraPlace::q);
  lora_forward(w.k, a.qkv + C, a.ln1, N, C, C, 3 * C, l, LoraPlace::k);
  lora_forward(w.v, a.qkv + 2 * C, a.ln1, N, C, C, 3 * C, l, LoraPlace::v);
  // 2. Attention, and its projection.
  forward_attention(l, dropout);
  matmul_forward(acts_.sublayer, no_gelu, a.atty, w.attprojw, w.attprojb, N, C, C, tiers_.matmul, compute_);
  lora_forward(w.attproj, acts_.sublayer, a.atty, N, C, C, C, l, LoraPlace::attproj);
  // 3. The residual connection, and the MLP's norm.
  residual_layernorm_forward(a.residual2, a.ln2, a.ln2_mean, a.ln2_rstd, stream(l), acts_.sublayer, w.ln2w, w.ln2b,
                             dropout, dropout_seed_, sequence(l, DropoutPlace::attproj), N, C, compute_);
  // 4. The MLP's first product with GELU: part of the product, unless an adapter adds to it first.
  matmul_forward(a.fch, w.fc.a ? no_gelu : a.fch_gelu, a.ln2, w.fcw, w.fcb, N, C, 4 * C, tiers_.matmul, compute_);
  lora_forward(w.fc, a.fch, a.ln2, N, C, 4 * C, 4 * C, l, LoraPlace::fc);
  if (w.fc.a) gelu_forward(a.fch_gelu, a.fch, int64_t{4} * N * C, compute_);
}

template <class floatX>
void GpuModel<floatX>::forward_attention(int l, float dropout) {
  const int C = config.channels, NH = config.num_heads, HS = C / NH, B = B_, T = T_;
  const BlockActivations<floatX>& a = acts_.block[static_cast<size_t>(l)];
  const int64_t layer = int64_t{cache_B_} * cache_T_ * C;
  floatX *k = cache_memory_.as<floatX>() + 2 * l * layer, *v = k + layer, *q = cached_ > 0 ? acts_.sublayer : nullptr;
  // 1. In generation: keys and values go into the cache.
  if (cache_B_ > 0 && pass_ == Pass::generate) {
    kv_cache_append(q, k, v, static_cast<const floatX*>(a.qkv), cached_, B, T, NH, HS, cache_T_, compute_);
  }
  // 2. Each query's weighted sum of values: over the cache for a new token, else over the batch itself.
  if (cached_ > 0) {
    attention_decode<floatX>(a.atty, scratch_memory_.as<void>(), q, k, v, slots_[slot_].targets, B, NH, HS, cache_T_,
                             compute_);
  } else {
    attention_forward(a.atty, a.lse, a.qkv, documents(), dropout, dropout_seed_, sequence(l, DropoutPlace::attention),
                      B, T, C, NH, config.causal, tiers_.attention, compute_);
  }
}

template <class floatX>
void GpuModel<floatX>::forward_block_output(int l, float dropout) {
  const int C = config.channels, N = B_ * T_;
  const BlockParams<floatX>& w = params_.block[static_cast<size_t>(l)];
  const BlockActivations<floatX>& a = acts_.block[static_cast<size_t>(l)];
  const uint64_t sequence_mlp = sequence(l, DropoutPlace::mlp);
  floatX* no_gelu = nullptr;

  // 5. The MLP's second product.
  matmul_forward(acts_.sublayer, no_gelu, a.fch_gelu, w.fcprojw, w.fcprojb, N, 4 * C, C, tiers_.matmul, compute_);
  lora_forward(w.fcproj, acts_.sublayer, a.fch_gelu, N, 4 * C, C, C, l, LoraPlace::fcproj);
  // 6. The residual connection, and the next block's norm or the final one.
  if (l + 1 < config.num_layers) {
    const BlockParams<floatX>& next_w = params_.block[static_cast<size_t>(l + 1)];
    const BlockActivations<floatX>& next = acts_.block[static_cast<size_t>(l + 1)];
    residual_layernorm_forward(a.residual3, next.ln1, next.ln1_mean, next.ln1_rstd, a.residual2, acts_.sublayer,
                               next_w.ln1w, next_w.ln1b, dropout, dropout_seed_, sequence_mlp, N, C, compute_);
  } else {
    residual_layernorm_forward(a.residual3, acts_.lnf, acts_.lnf_mean, acts_.lnf_rstd, a.residual2, acts_.sublayer,
                               params_.lnfw, params_.lnfb, dropout, dropout_seed_, sequence_mlp, N, C, compute_);
  }
}

// ---- adapters ------------------------------------------------------------------------------------------------------

template <class floatX>
const floatX* GpuModel<floatX>::lora_hidden(const LoraParams<floatX>& w, const floatX* inp, int64_t N, int C, int layer,
                                            LoraPlace place) {
  if (options.lora.dropout > 0 && pass_ == Pass::train) {
    dropout_forward(acts_.lora_inp, inp, options.lora.dropout, dropout_seed_, sequence(layer, place), N * C, compute_);
    inp = acts_.lora_inp;
  }
  const floatX* no_bias = nullptr;
  matmul_forward(acts_.lora_h, static_cast<floatX*>(nullptr), inp, static_cast<const floatX*>(w.a), no_bias,
                 static_cast<int>(N), C, options.lora.rank, tiers_.matmul, compute_);
  return inp;
}

template <class floatX>
void GpuModel<floatX>::lora_forward(const LoraParams<floatX>& w, floatX* out, const floatX* inp, int64_t N, int C,
                                    int OC, int stride, int layer, LoraPlace place) {
  if (!w.a) return;
  const int rank = options.lora.rank;
  const int64_t rows_at_once = lora_rows_at_once(config, int64_t{B_} * T_, OC);
  const floatX* no_bias = nullptr;
  // 1. h = drop(inp) A^T, with `rank` columns.
  lora_hidden(w, inp, N, C, layer, place);
  // 2. out += scale * h B^T, as many rows at a time as lora_out holds.
  for (int64_t n = 0; n < N; n += rows_at_once) {
    const int rows = static_cast<int>(std::min(rows_at_once, N - n));
    matmul_forward(acts_.lora_out, static_cast<floatX*>(nullptr), acts_.lora_h + n * rank,
                   static_cast<const floatX*>(w.b), no_bias, rows, rank, OC, tiers_.matmul, compute_);
    lora_add(out + n * stride, acts_.lora_out, lora_scale(), rows, OC, stride, compute_);
  }
}

template <class floatX>
void GpuModel<floatX>::lora_backward(const LoraParams<floatX>& w, const LoraParams<float>& dw, floatX* dinp,
                                     const floatX* dout, const floatX* inp, int64_t N, int C, int OC, int stride,
                                     int layer, LoraPlace place) {
  if (!w.a) return;
  const int rank = options.lora.rank;
  const int64_t rows_at_once = lora_rows_at_once(config, int64_t{B_} * T_, OC);
  void* scratch = scratch_memory_.as<void>();
  // The steps of lora_forward, from the last to the first. They need h and drop(inp) again.
  const floatX *no_gelu = nullptr, *dropped = lora_hidden(w, inp, N, C, layer, place);
  // 2. dB += scale * dout^T h, and dh = scale * dout B.
  for (int64_t n = 0; n < N; n += rows_at_once) {
    const int rows = static_cast<int>(std::min(rows_at_once, N - n));
    lora_take(acts_.lora_out, dout + n * stride, lora_scale(), rows, OC, stride, compute_);
    matmul_backward(acts_.lora_dh + n * rank, dw.b, nullptr, scratch, acts_.lora_out, acts_.lora_h + n * rank, w.b,
                    no_gelu, rows, rank, OC, tiers_.matmul, compute_);
  }
  // 1. dA += dh^T drop(inp), and dinp += dropout's mask * (dh A).
  matmul_backward(dinp ? acts_.lora_out : nullptr, dw.a, nullptr, scratch, acts_.lora_dh, dropped, w.a, no_gelu,
                  static_cast<int>(N), C, rank, tiers_.matmul, compute_);
  if (!dinp) return;
  if (dropped != inp) {
    dropout_backward(acts_.lora_out, acts_.lora_out, options.lora.dropout, dropout_seed_, sequence(layer, place), N * C,
                     compute_);
  }
  lora_add(dinp, acts_.lora_out, 1, static_cast<int>(N), C, C, compute_);
}

// ---- loss ----------------------------------------------------------------------------------------------------------

template <class floatX>
double GpuModel<floatX>::loss(const int32_t* targets, double* sum) {
  const int N = static_cast<int>(head_rows(config, B_, T_));
  if (N == 0 || logits_rows_ != N) throw std::logic_error("loss() without forward()'s logits for every position");
  const int64_t counted = check_targets(targets, N);
  Slot& slot = slots_[slot_];
  copy_in(slot, slot.targets, slot.host_targets, targets, N);
  classifier_forward(acts_.losses, acts_.logits, slot.targets, N, config.outputs(), config.padded_outputs(), compute_);
  CUDA_CHECK(cudaMemsetAsync(&state_->evaluation, 0, sizeof(double), compute_));
  classifier_loss(&state_->evaluation, acts_.losses, nullptr, N, compute_);
  const double total = read_double(&state_->evaluation);
  if (sum) *sum = total;
  return counted > 0 ? total / static_cast<double>(counted) : 0;
}

// ---- backward ------------------------------------------------------------------------------------------------------

template <class floatX>
void GpuModel<floatX>::backward(const int32_t* targets, const float* weights) {
  const int V = config.outputs(), Vp = config.padded_outputs(), C = config.channels, L = config.num_layers, B = B_,
            T = T_, N = B * T, rows = static_cast<int>(head_rows(config, B, T)), end = last_block_of_backward();
  const int64_t NC = static_cast<int64_t>(N) * C;
  if (pass_ != Pass::train || logits_rows_ != rows || N == 0) {
    throw std::logic_error("backward() without forward(Pass::train)");
  }
  check_targets(targets, rows);
  logits_rows_ = 0;  // dlogits overwrite them: a second backward needs a new forward
  Slot& slot = slots_[slot_];
  copy_in(slot, slot.targets, slot.host_targets, targets, rows);
  copy_in(slot, slot.weights, slot.host_weights, weights, rows);
  begin_backward();
  void* scratch = scratch_memory_.as<void>();

  // The steps of run(), from the last to the first.
  // 4. The head: logits become losses and dlogits; dlogits give the gradients of the head's matrix and of its input.
  floatX* dlogits = acts_.logits;
  classifier_backward(dlogits, acts_.losses, slot.targets, slot.weights, rows, V, Vp, compute_);
  classifier_loss(&state_->loss, acts_.losses, slot.weights, rows, compute_);

  const floatX* no_gelu = nullptr;
  const bool pooled = config.num_classes > 0;
  floatX* dhead = end > L ? nullptr : pooled ? acts_.dpooled : acts_.dnorm;  // null: nothing below the head is trained
  matmul_backward(dhead, params_.head ? grads_.head : grads_.wte, grads_.headb, scratch, dlogits, head_input(),
                  params_.output_matrix(), no_gelu, rows, C, Vp, tiers_.matmul, compute_);
  lora_backward(params_.head_lora, grads_.head_lora, dhead, dlogits, head_input(), rows, C, Vp, Vp, L, LoraPlace::head);
  if (end > L) {
    CUDA_CHECK(cudaEventRecord(slot.done, compute_));
    return;
  }
  // 3. The final norm: from here on acts_.dresidual is the gradient of the stream.
  if (pooled) pool_backward(acts_.dnorm, acts_.dpooled, slot.pooling, B, T, C, compute_);
  CUDA_CHECK(cudaMemsetAsync(acts_.dresidual, 0, static_cast<size_t>(NC) * sizeof(floatX), compute_));
  layernorm_backward(acts_.dresidual, grads_.lnfw, grads_.lnfb, scratch, acts_.dnorm, stream(L), params_.lnfw,
                     acts_.lnf_mean, acts_.lnf_rstd, N, C, compute_);
  reduce(L + 1);
  // 2. The blocks, from the last down to `end`.
  for (int l = L - 1; l >= end; --l) {
    if (l > end) gather(l);  // the block below arrives meanwhile
    need(l + 1);
    begin_gradients(l + 1);
    const BlockParams<floatX>& w = params_.block[static_cast<size_t>(l)];
    const BlockActivations<floatX>& a = acts_.block[static_cast<size_t>(l)];
    // Buffers that the blocks share hold the last block's activations: those of the others are computed again.
    if (options.recompute == Recompute::block && l < L - 1) {
      layernorm_forward(a.ln1, a.ln1_mean, a.ln1_rstd, stream(l), w.ln1w, w.ln1b, N, C, compute_);
      forward_block(l, dropout_);
    }
    if (options.recompute == Recompute::gelu && l < L - 1) gelu_forward(a.fch_gelu, a.fch, 4 * NC, compute_);
    backward_block(l);
    reduce(l + 1);
  }
  // 1. Tokens and positions: each row of the stream's gradient is added to the rows of its token and its position.
  if (grads_.wte) {
    embedding_backward(grads_.wte, grads_.wpe, scratch, acts_.dresidual, slot.inputs, documents(), dropout_,
                       dropout_seed_, sequence(0, DropoutPlace::embedding), B, T, C, config.vocab_size, compute_);
  }
  reduce(0);
  CUDA_CHECK(cudaEventRecord(slot.done, compute_));
}

template <class floatX>
void GpuModel<floatX>::backward_block(int l) {
  const int C = config.channels, NH = config.num_heads, B = B_, T = T_, N = B * T;
  const int64_t NC = static_cast<int64_t>(N) * C;
  const BlockParams<floatX>& w = params_.block[static_cast<size_t>(l)];
  const BlockParams<float>& dw = grads_.block[static_cast<size_t>(l)];
  const BlockActivations<floatX>& a = acts_.block[static_cast<size_t>(l)];
  void* scratch = scratch_memory_.as<void>();
  const floatX* no_gelu = nullptr;
  // The gradient of a sublayer's output: that of the stream, unless dropout lies between them.
  const auto dsublayer = [&](DropoutPlace place) -> const floatX* {
    if (dropout_ == 0) return acts_.dresidual;
    dropout_backward(acts_.dsublayer, acts_.dresidual, dropout_, dropout_seed_, sequence(l, place), NC, compute_);
    return acts_.dsublayer;
  };

  // The steps of forward_block and forward_block_output, from the last to the first.
  // 6, 5. The residual connection, and the MLP's second product. GELU's derivative is part of the product, unless an
  // adapter adds to it first.
  const floatX* dy = dsublayer(DropoutPlace::mlp);
  matmul_backward(acts_.dfch, dw.fcprojw, dw.fcprojb, scratch, dy, a.fch_gelu, w.fcprojw, w.fcproj.a ? no_gelu : a.fch,
                  N, 4 * C, C, tiers_.matmul, compute_);
  lora_backward(w.fcproj, dw.fcproj, acts_.dfch, dy, a.fch_gelu, N, 4 * C, C, C, l, LoraPlace::fcproj);
  if (w.fcproj.a) gelu_backward(acts_.dfch, acts_.dfch, a.fch, 4 * NC, compute_);
  // 4. The MLP's first product, and the norm, which adds to the stream's gradient.
  matmul_backward(acts_.dnorm, dw.fcw, dw.fcb, scratch, acts_.dfch, a.ln2, w.fcw, no_gelu, N, C, 4 * C, tiers_.matmul,
                  compute_);
  lora_backward(w.fc, dw.fc, acts_.dnorm, acts_.dfch, a.ln2, N, C, 4 * C, 4 * C, l, LoraPlace::fc);
  layernorm_backward(acts_.dresidual, dw.ln2w, dw.ln2b, scratch, acts_.dnorm, a.residual2, w.ln2w, a.ln2_mean,
                     a.ln2_rstd, N, C, compute_);

  // 3, 2. The residual connection, attention's projection, and attention.
  dy = dsublayer(DropoutPlace::attproj);
  matmul_backward(acts_.datty, dw.attprojw, dw.attprojb, scratch, dy, a.atty, w.attprojw, no_gelu, N, C, C,
                  tiers_.matmul, compute_);
  lora_backward(w.attproj, dw.attproj, acts_.datty, dy, a.atty, N, C, C, C, l, LoraPlace::attproj);
  attention_backward(acts_.dqkv, scratch, acts_.datty, a.atty, a.lse, a.qkv, documents(), dropout_, dropout_seed_,
                     sequence(l, DropoutPlace::attention), B, T, C, NH, config.causal, tiers_.attention, compute_);
  // 1. The projection to queries, keys and values, and the norm, which adds to the stream's gradient.
  matmul_backward(acts_.dnorm, dw.qkvw, dw.qkvb, scratch, acts_.dqkv, a.ln1, w.qkvw, no_gelu, N, C, 3 * C,
                  tiers_.matmul, compute_);
  lora_backward(w.q, dw.q, acts_.dnorm, acts_.dqkv, a.ln1, N, C, C, 3 * C, l, LoraPlace::q);
  lora_backward(w.k, dw.k, acts_.dnorm, acts_.dqkv + C, a.ln1, N, C, C, 3 * C, l, LoraPlace::k);
  lora_backward(w.v, dw.v, acts_.dnorm, acts_.dqkv + 2 * C, a.ln1, N, C, C, 3 * C, l, LoraPlace::v);
  layernorm_backward(acts_.dresidual, dw.ln1w, dw.ln1b, scratch, acts_.dnorm, stream(l), w.ln1w, a.ln1_mean, a.ln1_rstd,
                     N, C, compute_);
}

// ---- update --------------------------------------------------------------------------------------------------------

template <class floatX>
void GpuModel<floatX>::zero_grad() {
  forget_gradients();
  clear_grads(grad_memory_.as<void>(), kept_size(table, options, Arena::grads));
  CUDA_CHECK(cudaMemsetAsync(&state_->loss, 0, sizeof(double), compute_));
}

template <class floatX>
void GpuModel<floatX>::clear_grads(void* grads, int64_t n) {
  CUDA_CHECK(cudaMemsetAsync(grads, 0, static_cast<size_t>(n) * sizeof(float), compute_));
}

template <class floatX>
void GpuModel<floatX>::add_grads(void* to, const void* from, int64_t n) {
  float* sum = static_cast<float*>(to);
  residual_forward(sum, sum, static_cast<const float*>(from), n, compute_);
}

template <class floatX>
double GpuModel<floatX>::step_loss() {
  return read_double(&state_->loss);
}

template <class floatX>
void GpuModel<floatX>::queue_squares() {
  double *out = &state_->sums[2], *sums = scratch_memory_.as<double>();
  if (in_parts()) {
    int64_t chunks = 0;
    for (int u = 0; u <= last_unit(); ++u) {
      const int64_t n = unit(u).shard;
      global_norm_chunks(sums + chunks, own_floats(Arena::grads, u), n, compute_);
      chunks += ceil_div<int64_t>(n, kGlobalNormChunk);
    }
    global_norm_sum(out, sums, chunks, compute_);
  } else {
    global_norm_squared(out, sums, grad_memory_.as<float>(), arena_size(table, Arena::grads), compute_);
  }
}

template <class floatX>
double GpuModel<floatX>::grad_norm() {
  finish_gradients();
  queue_squares();
  if (in_parts()) comm().wait(comm().all_reduce(&state_->sums[2], 1, Number::f64));
  return std::sqrt(read_double(&state_->sums[2]));
}

template <class floatX>
void GpuModel<floatX>::update(const OptimizerConfig& o, float grad_clip) {
  finish_gradients();
  settle_params();
  queue_squares();
  double *sums = state_->sums, *signal = signals_ + slot_;
  *signal = o.signal;
  CUDA_CHECK(cudaMemcpyAsync(sums, &state_->loss, sizeof(double), cudaMemcpyDeviceToDevice, compute_));
  CUDA_CHECK(cudaMemcpyAsync(sums + 1, signal, sizeof(double), cudaMemcpyHostToDevice, compute_));
  if (parallel()) comm().wait(comm().all_reduce(sums, in_parts() ? 3 : 2, Number::f64));
  adamw_prepare(&state_->step, sums + 2, sums, grad_clip, o.beta1, o.beta2, compute_);
  float* master = master_memory_.as<float>();
  for (int u = 0; in_parts() && u <= last_unit(); ++u) {
    const ParamUnit& part = unit(u);
    const int64_t i = part.kept_at, whole = part.offset + comm().rank() * part.shard;
    floatX* params = own_params(u);
    adamw_update(params, master ? master + i : nullptr, m_memory_.as<float>() + i, v_memory_.as<float>() + i,
                 own_floats(Arena::grads, u), decay_memory_.as<uint8_t>() + whole / kParamAlignment, &state_->step,
                 o.lr * unit_lr_scale(u), o.beta1, o.beta2, o.eps, o.weight_decay, rounding_seed(whole), part.shard,
                 compute_);
    if (options.ema > 0) {
      ema_update(average_memory_.as<float>() + i, float_weights(params, i), &state_->step, options.ema, part.shard,
                 compute_);
    }
  }
  for (const ParamRun& run : in_parts() ? std::vector<ParamRun>() : adamw_runs(table)) {  // one, or more with Muon
    const int64_t i = run.grad_offset;  // the master copy holds what is trained
    adamw_update(param_memory_.as<floatX>() + run.offset, master ? master + i : nullptr, m_memory_.as<float>() + i,
                 v_memory_.as<float>() + run.v_offset, grad_memory_.as<float>() + i,
                 decay_memory_.as<uint8_t>() + i / kParamAlignment, &state_->step, o.lr * run.lr_scale, o.beta1,
                 o.beta2, o.eps, o.weight_decay, rounding_seed(i), run.size, compute_);
  }
  for (const ParamTensor& tensor : table) {
    if (!tensor.muon || !tensor.trainable()) continue;
    const int rows = static_cast<int>(tensor.rows / tensor.stacked), cols = static_cast<int>(tensor.cols);
    for (int64_t k = 0; k < tensor.size(); k += int64_t{rows} * cols) {
      const int64_t i = tensor.grad_offset + k;
      muon_update(param_memory_.as<floatX>() + tensor.offset + k, master ? master + i : nullptr,
                  m_memory_.as<float>() + i, muon_memory_.as<floatX>(), scratch_memory_.as<double>(),
                  grad_memory_.as<float>() + i, &state_->step, o.lr * tensor.lr_scale, o.momentum,
                  tensor.decay ? o.weight_decay : 0, rounding_seed(i), rows, cols, tiers_.matmul, compute_);
    }
  }
  for (const ParamRun& run : options.ema > 0 && !in_parts() ? trained_runs(table) : std::vector<ParamRun>()) {
    ema_update(average_memory_.as<float>() + run.grad_offset,
               float_weights(param_memory_.as<floatX>() + run.offset, run.grad_offset), &state_->step, options.ema,
               run.size, compute_);
  }
  gather_changed();
  const int64_t k = update_calls_++ % kResults;
  CUDA_CHECK(cudaMemcpyAsync(results_ + k, state_, sizeof(State), cudaMemcpyDeviceToHost, compute_));
  CUDA_CHECK(cudaEventRecord(result_copied_[k], compute_));
  CUDA_CHECK(cudaEventRecord(slots_[slot_].done, compute_));  // its signal was read
}

template <class floatX>
float GpuModel<floatX>::unit_lr_scale(int u) const {
  for (const ParamTensor& tensor : table) {
    if (tensor.unit == u) return tensor.lr_scale;
  }
  return 1;
}

// The weights to average: float parameters themselves, or the master copy of bf16 ones from element i on. (bf16 without
// a master copy has no average: options that ask for one are refused.)
template <class floatX>
const float* GpuModel<floatX>::float_weights(const floatX* params, int64_t i) const {
  if constexpr (std::is_same_v<floatX, float>) {
    (void)i;
    return params;
  } else {
    (void)params;
    return master_memory_.as<float>() + i;
  }
}

template <class floatX>
void GpuModel<floatX>::exchange_average() {
  if (options.ema == 0 || updates() == 0) return;
  settle_params();
  float* master = master_memory_.as<float>();
  for (int u = 0; in_parts() && u <= last_unit(); ++u) {
    const int64_t i = unit(u).kept_at;
    ema_exchange(own_params(u), master ? master + i : nullptr, average_memory_.as<float>() + i, unit(u).shard,
                 compute_);
  }
  if (in_parts()) return gather_changed();
  for (const ParamRun& run : trained_runs(table)) {
    ema_exchange(param_memory_.as<floatX>() + run.offset, master ? master + run.grad_offset : nullptr,
                 average_memory_.as<float>() + run.grad_offset, run.size, compute_);
  }
}

template <class floatX>
StepResult GpuModel<floatX>::result(int steps_back) {
  if (steps_back < 0 || steps_back >= std::min<int64_t>(update_calls_, kResults)) {
    throw std::logic_error("result() of an update that is not one of the last two");
  }
  const int64_t k = (update_calls_ - 1 - steps_back) % kResults;
  CUDA_CHECK(cudaEventSynchronize(result_copied_[k]));
  const State& state = results_[k];
  return {state.step.loss, state.loss, state.step.norm, state.step.updated != 0, state.sums[1]};
}

template <class floatX>
int64_t GpuModel<floatX>::updates() {
  AdamWStep step;
  copy_now(&step, &state_->step, sizeof step, cudaMemcpyDeviceToHost);
  return step.updates;
}

template <class floatX>
void GpuModel<floatX>::set_updates(int64_t count) {
  AdamWStep step{};
  step.updates = count;
  copy_now(&state_->step, &step, sizeof step, cudaMemcpyHostToDevice);
}

// ---- memory --------------------------------------------------------------------------------------------------------

template <class floatX>
GpuModel<floatX>::GpuModel(const ModelConfig& c, const ModelOptions& o, int B, int T, const GpuTiers& tiers)
    : Model(c, o), tiers_(tiers) {
  const int64_t n = arena_size(table, Arena::grads), element = sizeof(floatX);
  const auto kept = [&](Arena arena) { return kept_size(table, options, arena); };
  param_memory_ = DeviceBuffer(kept(Arena::params) * element);
  if (sizeof(floatX) == 2 && options.master_weights) master_memory_ = DeviceBuffer(kept(Arena::m) * 4);
  grad_memory_ = DeviceBuffer(kept(Arena::grads) * 4);
  m_memory_ = DeviceBuffer(kept(Arena::m) * 4);
  v_memory_ = DeviceBuffer(kept(Arena::v) * 4);
  average_memory_ = DeviceBuffer(kept(Arena::average) * 4);
  if (const int64_t elements = muon_scratch(table); elements > 0) {
    muon_memory_ = DeviceBuffer(elements * static_cast<int64_t>(sizeof(floatX)));
  }
  if (sharded(options, Arena::params)) {
    whole_params_ = DeviceBuffer(whole_size(units) * element);
    bind_units(config, options.lora, table, units, params_, whole_params_.as<floatX>());
  } else {
    bind_params(config, options.lora, table, params_, param_memory_.as<floatX>());
  }
  if (sharded(options, Arena::grads)) {
    whole_grads_ = DeviceBuffer(whole_size(units) * 4);
    bind_units(config, options.lora, table, units, grads_, whole_grads_.as<float>());
  } else {
    bind_params(config, options.lora, table, grads_, grad_memory_.as<float>(), Arena::grads);
  }
  if (parallel()) comm().attach(compute_);

  std::vector<uint8_t> decay(static_cast<size_t>(n / kParamAlignment));
  for (const ParamTensor& tensor : table) {
    if (!tensor.trainable()) continue;
    const auto first = decay.begin() + tensor.grad_offset / kParamAlignment;
    std::fill(first, first + ceil_div(tensor.size(), kParamAlignment), static_cast<uint8_t>(tensor.decay));
  }
  decay_memory_ = DeviceBuffer(static_cast<int64_t>(decay.size()));
  copy_now(decay_memory_.as<void>(), decay.data(), decay.size(), cudaMemcpyHostToDevice);
  state_memory_ = DeviceBuffer(sizeof(State));
  state_ = state_memory_.as<State>();
  pinned_results_ = PinnedBuffer(kResults * sizeof(State) + kBatchSlots * sizeof(double));
  results_ = pinned_results_.as<State>();
  signals_ = reinterpret_cast<double*>(results_ + kResults);
  resize(B, T);
  prepare(B, T);
}

template <class floatX>
GpuModel<floatX>::~GpuModel() {
  settle();
  if (DryRun::current()) return;
  cudaStreamSynchronize(copies_);
  cudaStreamSynchronize(compute_);
}

template <class floatX>
void GpuModel<floatX>::resize(int B, int T) {
  if (B == B_ && T == T_) return;
  const int64_t tokens = int64_t{B} * T;
  const int64_t activations = bind_activations<floatX>(config, options, B, T, head_rows(config, B, T), acts_, nullptr);
  const int64_t scratch = gpu_scratch_bytes(config, options, B, T);
  if (activations > activation_memory_.bytes() || scratch > scratch_memory_.bytes() || tokens > batch_tokens_) {
    CUDA_CHECK(cudaStreamSynchronize(compute_));
    B_ = T_ = 0;  // if an allocation throws, nothing is bound
    logits_rows_ = batch_tokens_ = 0;
    const auto grow = [](DeviceBuffer& buffer, int64_t bytes) {
      if (bytes <= buffer.bytes()) return;
      buffer = DeviceBuffer();  // the old memory is freed before the new is allocated
      buffer = DeviceBuffer(bytes);
    };
    grow(activation_memory_, activations);
    grow(scratch_memory_, scratch);
    grow(batch_memory_, kBatchSlots * kSlotArrays * slot_elements(tokens) * 4);
    const int64_t elements = batch_memory_.bytes() / (kBatchSlots * kSlotArrays * 4) / 64 * 64;
    pinned_batches_ = PinnedBuffer(batch_memory_.bytes());
    for (int k = 0; k < kBatchSlots; ++k) {
      int32_t *device = batch_memory_.as<int32_t>() + k * kSlotArrays * elements,
              *host = pinned_batches_.as<int32_t>() + k * kSlotArrays * elements;
      Slot& slot = slots_[k];
      slot.inputs = device;
      slot.targets = device + elements;
      slot.weights = reinterpret_cast<float*>(device + 2 * elements);
      slot.host_inputs = host;
      slot.host_targets = host + elements;
      slot.host_weights = reinterpret_cast<float*>(host + 2 * elements);
      slot.documents = device + 3 * elements;
      slot.host_documents = host + 3 * elements;
      slot.pooling = reinterpret_cast<float*>(slot.documents);
      slot.host_pooling = reinterpret_cast<float*>(slot.host_documents);
    }
    batch_tokens_ = elements;
  }
  bind_activations(config, options, B, T, head_rows(config, B, T), acts_, activation_memory_.as<std::byte>());
  B_ = B;
  T_ = T;
}

// Makes the plans and workspaces of the libraries that training at (B, T) calls, so that a step allocates nothing.
template <class floatX>
void GpuModel<floatX>::prepare(int B, int T) {
  if (DryRun::current() || !prepared_.emplace(B, T).second) return;
#if defined(WROUGHT_CUBLASLT) || defined(WROUGHT_CUDNN)
  dry_step<floatX>(config, options, B, T, 0, tiers_);
#endif
#ifdef WROUGHT_CUBLASLT
  CublasLt::instance().prepare(compute_);
#endif
#ifdef WROUGHT_CUDNN
  attention_cudnn::prepare();
#endif
}

template <class floatX>
std::vector<DryRun::Operation> dry_step(const ModelConfig& config, const ModelOptions& options, int B, int T,
                                        float dropout, const GpuTiers& tiers) {
  ModelOptions alone = options;  // several processes launch the same kernels on parts
  alone.ranks = 1;
  alone.zero = 0;
  alone.comm = nullptr;
  const size_t rows = static_cast<size_t>(B) * static_cast<size_t>(T);
  const std::vector<int32_t> tokens(rows, 0);
  const std::vector<float> weights(rows, 1.0f);
  DryRun run;
  GpuModel<floatX> model(config, alone, B, T, tiers);
  model.set_dropout(dropout, 0, 0);
  if (config.num_classes > 0) model.set_pooling(weights.data(), B, T);
  model.zero_grad();
  model.forward(tokens.data(), B, T, Pass::train);
  model.backward(tokens.data(), weights.data());
  model.update({}, 1);
  for (DryRun::Operation& operation : run.operations) {
    if (!operation.weight) continue;
    const ParamTensor* tensor = model.tensor_at(operation.weight);
    operation.of = tensor ? tensor->product : "";
  }
  return std::move(run.operations);
}

template <class floatX>
const ParamTensor* GpuModel<floatX>::tensor_at(const void* params) const {
  for (const ParamTensor& tensor : table) {
    if (param_memory_.as<floatX>() + tensor.offset == params) return &tensor;
  }
  return nullptr;
}

template <class floatX>
void GpuModel<floatX>::resize_cache(int B, int T) {
  CUDA_CHECK(cudaStreamSynchronize(compute_));
  cache_memory_ = DeviceBuffer();
  if (B == 0) return;
  const int NH = config.num_heads;
  const int64_t scratch = attention_decode_scratch(B, NH, config.channels / NH, T);
  if (scratch > scratch_memory_.bytes()) scratch_memory_ = DeviceBuffer(scratch);
  cache_memory_ = DeviceBuffer(cache_elements(B, T) * static_cast<int64_t>(sizeof(floatX)));
}

// Queues a copy to the GPU through the slot's pinned part, so that the caller's memory is free again at once; work that
// is queued for compute_ afterwards waits for it.
template <class floatX>
template <class T>
void GpuModel<floatX>::copy_in(Slot& slot, T* device, T* host, const T* from, int n) {
  std::copy(from, from + n, host);
  CUDA_CHECK(cudaMemcpyAsync(device, host, static_cast<size_t>(n) * sizeof(T), cudaMemcpyHostToDevice, copies_));
  CUDA_CHECK(cudaEventRecord(slot.copied, copies_));
  CUDA_CHECK(cudaStreamWaitEvent(compute_, slot.copied));
}

template <class floatX>
int64_t GpuModel<floatX>::allocated_bytes() const {
  int64_t sum = 0;
  for (const DeviceBuffer* buffer :
       {&param_memory_, &master_memory_, &grad_memory_, &m_memory_, &v_memory_, &average_memory_, &whole_params_,
        &whole_grads_, &muon_memory_, &cache_memory_, &activation_memory_, &scratch_memory_, &batch_memory_,
        &decay_memory_, &state_memory_}) {
    sum += buffer->bytes();
  }
  return sum;
}

// ---- access --------------------------------------------------------------------------------------------------------

// Copies in the order of compute_'s queue; returns when the copy is done.
template <class floatX>
void GpuModel<floatX>::copy_now(void* to, const void* from, size_t bytes, cudaMemcpyKind kind) const {
  CUDA_CHECK(cudaMemcpyAsync(to, from, bytes, kind, compute_));
  CUDA_CHECK(cudaStreamSynchronize(compute_));
}

template <class floatX>
double GpuModel<floatX>::read_double(const double* from) const {
  double value;
  copy_now(&value, from, sizeof value, cudaMemcpyDeviceToHost);
  return value;
}

template <class floatX>
template <class Number>
void GpuModel<floatX>::read_floats(const Number* from, float* out, int64_t n) const {
  if constexpr (std::is_same_v<Number, float>) {
    copy_now(out, from, static_cast<size_t>(n) * sizeof(float), cudaMemcpyDeviceToHost);
  } else {
    std::vector<bf16> values(static_cast<size_t>(n));
    copy_now(values.data(), from, values.size() * sizeof(bf16), cudaMemcpyDeviceToHost);
    std::transform(values.begin(), values.end(), out, [](bf16 x) { return __bfloat162float(x); });
  }
}

template <class floatX>
template <class Number>
void GpuModel<floatX>::write_floats(Number* to, const float* in, int64_t n) const {
  if constexpr (std::is_same_v<Number, float>) {
    copy_now(to, in, static_cast<size_t>(n) * sizeof(float), cudaMemcpyHostToDevice);
  } else {
    std::vector<bf16> values(static_cast<size_t>(n));
    std::transform(in, in + n, values.begin(), [](float x) { return __float2bfloat16_rn(x); });
    copy_now(to, values.data(), values.size() * sizeof(bf16), cudaMemcpyHostToDevice);
  }
}

template <class floatX>
void GpuModel<floatX>::read_logits(int64_t row, float* out) {
  if (row < 0 || row >= logits_rows_) {
    throw std::logic_error("read_logits() of a row that the last forward() did not compute");
  }
  read_floats(acts_.logits + row * config.padded_outputs(), out, config.outputs());
}

template <class floatX>
void GpuModel<floatX>::read_losses(float* out) {
  read_floats(acts_.losses, out, head_rows(config, B_, T_));
}

// A tensor's offset in an arena's floats, for parameters in the master copy, which holds what is trained; -1: absent.
int64_t float_offset(Arena arena, const ParamTensor& tensor) {
  return tensor.offset_in(arena == Arena::params ? Arena::grads : arena);
}

// An arena's floats: for parameters the master copy, null if there is none.
template <class floatX>
float* GpuModel<floatX>::float_arena(Arena arena) const {
  const DeviceBuffer* memory[] = {&master_memory_, &grad_memory_, &m_memory_, &v_memory_, &average_memory_};
  return memory[static_cast<int>(arena)]->template as<float>();
}

template <class floatX>
void GpuModel<floatX>::read(Arena arena, const ParamTensor& tensor, float* out) const {
  arrive(arena);
  const int u = tensor.unit;
  if (arena == Arena::params && !(float_arena(arena) && tensor.trainable())) {
    if (sharded(options, arena)) {
      return read_parts(static_cast<const floatX*>(own_params(u)), tensor, out);
    }
    read_floats(param_memory_.as<floatX>() + tensor.offset, out, tensor.size());
    return;
  }
  const int64_t offset = float_offset(arena, tensor);
  if (offset < 0) {
    std::fill(out, out + tensor.size(), 0.0f);
  } else if (in_parts()) {
    const float* own = arena == Arena::grads ? own_floats(arena, u) : float_arena(arena) + unit(u).kept_at;
    read_parts(own, tensor, out);
  } else {
    read_floats(float_arena(arena) + offset, out, tensor.size());
  }
}

// Reads a tensor from every rank's part of it; `own`: this rank's part of its unit.
template <class floatX>
template <class Number>
void GpuModel<floatX>::read_parts(const Number* own, const ParamTensor& tensor, float* out) const {
  constexpr int64_t kAtOnce = 1 << 22;
  const DeviceBuffer others(std::min(kAtOnce, tensor.size()) * static_cast<int64_t>(sizeof(Number)));
  for (int r = 0; r < options.ranks; ++r) {
    const TensorPart part = part_of(tensor, unit(tensor.unit), r);
    for (int64_t i = 0; i < part.count; i += kAtOnce) {
      const int64_t n = std::min(kAtOnce, part.count - i);
      const Number* from =
          r == comm().rank() ? own + part.kept_at - unit(tensor.unit).kept_at + i : others.as<Number>();
      comm().wait(
          comm().broadcast(const_cast<Number*>(from), n, sizeof(Number) == 2 ? ::Number::bf16 : ::Number::f32, r));
      read_floats(from, out + part.from + i, n);
    }
  }
}

template <class floatX>
void GpuModel<floatX>::write(Arena arena, const ParamTensor& tensor, const float* in) {
  settle_params();
  const int64_t offset = float_offset(arena, tensor);
  if (offset < 0 && arena != Arena::params)
    throw std::logic_error("write() to an arena that does not have " + tensor.name);
  const TensorPart part =
      in_parts() ? part_of(tensor, unit(tensor.unit), comm().rank()) : TensorPart{0, tensor.size(), 0};
  if (arena == Arena::params && !sharded(options, arena)) {
    write_floats(param_memory_.as<floatX>() + tensor.offset, in, tensor.size());
  } else if (arena == Arena::params) {
    write_floats(param_memory_.as<floatX>() + part.kept_at, in + part.from, part.count);
    gather_changed();
  }
  if (float* to = float_arena(arena); to && offset >= 0) {
    const bool parts = arena == Arena::grads ? sharded(options, arena) : in_parts();
    if (parts) {
      write_floats(to + part.kept_at, in + part.from, part.count);
    } else {
      write_floats(to + offset, in, tensor.size());
    }
  }
}

template <class floatX>
void* GpuModel<floatX>::arena_memory(Arena arena) const {
  const DeviceBuffer* memory[] = {&param_memory_, &grad_memory_, &m_memory_, &v_memory_, &average_memory_};
  return memory[static_cast<int>(arena)]->template as<void>();
}

template <class floatX>
void GpuModel<floatX>::set_dropout(float dropout, uint64_t seed, uint64_t sequence) {
  check_dropout(dropout);
  pass_ = Pass::evaluate;  // an earlier forward gets no backward: that would draw other masks
  dropout_ = dropout;
  dropout_seed_ = seed;
  dropout_base_ = sequence;
}

template class GpuModel<float>;
template class GpuModel<bf16>;
template std::vector<DryRun::Operation> dry_step<float>(const ModelConfig&, const ModelOptions&, int, int, float,
                                                        const GpuTiers&);
template std::vector<DryRun::Operation> dry_step<bf16>(const ModelConfig&, const ModelOptions&, int, int, float,
                                                       const GpuTiers&);
