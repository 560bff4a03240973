// PackedDecoder for a family.
#pragma once

#include <cmath>
#include <deque>
#include <functional>
#include <vector>

#ifdef _OPENMP
#include <omp.h>
#endif

#include "llm/models/activations.h"
#include "llm/models/cpu.h"
#include "llm/models/cpu_device.h"
#include "llm/models/exchange.h"
#include "llm/models/packed_decoder.h"
#include "llm/models/packed_ops.h"
#include "llm/models/walk.h"

template <class Family>
class PackedModel final : public PackedDecoder {
 public:
  PackedModel(const ModelConfig& config, const PackedOptions& options);

  void write(const ParamTensor& tensor, const float* values) override;
  Logits logits(int i) override;
  void copy_page(int to, int from) override;
  PackedBytes bytes() const override { return {weights_.bytes(), cache_memory_.bytes(), activation_memory_.bytes()}; }
  int64_t bytes_per_pass() const override;

 private:
  static constexpr int kLogitsRows = 64;  // at a time
  void run(const DecodeRows& rows) override;
  template <class Part>
  void on_all_threads(Part&& part);  // part(ops, walk)

  const cpu::DecodeKernels& decode_;
  const cpu::Kernels<float>& kernels_;
  const int threads_;
  Buffer weights_, cache_memory_, activation_memory_, input_memory_;
  std::deque<PackedTensor> tensors_;  // of the table
  typename Family::template Params<PackedTensor> params_;
  typename Family::template Params<float> no_grads_;
  typename Family::template Activations<float, float> acts_;
  std::deque<Exchange> layers_;  // of each thread: there is nothing to exchange
  PackedInputs inputs_;
  PackedCache cache_;
  // Of the last pass.
  std::vector<int32_t> tokens_, before_, wanted_, positions_, sequences_, pages_;
  int64_t logits_at_ = -1;
};

template <class Family>
PackedModel<Family>::PackedModel(const ModelConfig& c, const PackedOptions& o)
    : PackedDecoder(c, o),
      decode_(*cpu::decode_kernels(cpu::best_isa())),
      kernels_(*cpu::fast_kernels(cpu::best_isa(), false)),
      threads_(cpu_threads()) {
  // 1. Weights.
  const auto rounded = [](int64_t bytes) { return (bytes + 63) / 64 * 64; };
  const auto place = [&](std::byte* memory) {
    int64_t at = 0;
    const auto take = [&](int64_t n) {
      std::byte* begin = memory + at;
      at += rounded(n * 4);
      return begin;
    };
    for (size_t i = 0; i < table.size(); ++i) {
      const ParamTensor& t = table[i];
      PackedTensor tensor;
      if (is_matrix(t)) {
        const int OC = static_cast<int>(t.rows), C = static_cast<int>(t.cols);
        tensor.matrix = {o.weights, OC, C, nullptr, nullptr};
        tensor.matrix.words = reinterpret_cast<uint32_t*>(take(decode_.packed_words(o.weights, OC, C)));
        if (o.weights == WeightType::int8) {
          tensor.matrix.scales = reinterpret_cast<float*>(take(OC + 64));
        }
      } else {
        tensor.numbers = reinterpret_cast<float*>(take(t.size()));
      }
      if (memory) tensors_.push_back(tensor);
    }
    return at;
  };
  weights_ = Buffer(place(nullptr));
  place(weights_.template as<std::byte>());
  auto tensor = tensors_.begin();
  Family::for_each_param(c, {}, params_, [&](PackedTensor*& pointer, const ParamTensor&) { pointer = &*tensor++; });
  Family::for_each_param(c, {}, no_grads_, [](float*&, const ParamTensor&) {});
  // 2. The cache.
  cache_.layers = c.num_layers, cache_.bf16 = o.cache_bf16;
  cache_.layer_elements = decode_.page_elements(c.kv_heads(), c.head_size());
  cache_memory_ = Buffer(cache_.layer_elements * c.num_layers * o.pages * (o.cache_bf16 ? 2 : 4));
  cache_.data = cache_memory_.template as<std::byte>();
  // 3. Activations, and inputs of products.
  AdapterScratch<float> none;
  const auto bind = [&](int rows, std::byte* memory) {
    return bind_activations<Family>(c, {.recompute = Recompute::block}, table, rows, 1, std::min(rows, kLogitsRows),
                                    acts_, none, memory);
  };
  activation_memory_ = Buffer(bind(o.max_rows, nullptr));
  bind(o.max_rows, activation_memory_.template as<std::byte>());
  for (const ParamTensor& t : table) {
    if (is_matrix(t)) {
      inputs_.words = std::max(inputs_.words, decode_.input_stride(o.weights, static_cast<int>(t.cols)));
    }
  }
  input_memory_ = Buffer(inputs_.bytes(o.max_rows) + threads_ * inputs_.bytes(PackedInputs::kOwnRows));
  inputs_.memory = input_memory_.template as<std::byte>();
  for (int t = 0; t < threads_; ++t) layers_.emplace_back(c.num_layers, ModelOptions{}, table);
}

template <class Family>
void PackedModel<Family>::write(const ParamTensor& tensor, const float* values) {
  const PackedTensor& to = tensors_[static_cast<size_t>(&tensor - table.data())];
  if (to.numbers) {
    std::copy_n(values, tensor.size(), to.numbers);
  } else {
    decode_.pack_matrix(to.matrix, values);
    check_scales(tensor, to.matrix);
  }
}

template <class Family>
int64_t PackedModel<Family>::bytes_per_pass() const {
  int64_t bytes = 0;
  for (size_t i = 0; i < table.size(); ++i) {
    const ParamTensor& t = table[i];
    if (t.role == Role::position || (t.role == Role::embedding && config.has_head())) continue;
    bytes += is_matrix(t)
                 ? 4 * decode_.packed_words(options.weights, static_cast<int>(t.rows), static_cast<int>(t.cols))
                 : 4 * t.size();
  }
  return bytes;
}

template <class Family>
void PackedModel<Family>::copy_page(int to, int from) {
  const int64_t bytes = cache_.layer_elements * cache_.layers * (cache_.bf16 ? 2 : 4);
  std::copy_n(cache_.data + from * bytes, bytes, cache_.data + to * bytes);
}

template <class Family>
template <class Part>
void PackedModel<Family>::on_all_threads(Part&& part) {
  const int N = static_cast<int>(tokens_.size());
  int64_t logits_at = logits_at_;
#pragma omp parallel num_threads(threads_)
  {
    int thread = 0, threads = 1;
#ifdef _OPENMP
    thread = omp_get_thread_num(), threads = omp_get_num_threads();
#endif
    PackedOps ops(decode_, kernels_, inputs_, max_rows, thread, threads);
    int64_t at = logits_at_;
    const Walk<Family, PackedOps> walk{config,
                                       params_,
                                       no_grads_,
                                       acts_,
                                       layers_[static_cast<size_t>(thread)],
                                       Recompute::block,
                                       N,
                                       1,
                                       Pass::decode,
                                       {.tokens = tokens_.data(), .documents = before_.data(), .rows = wanted_.data()},
                                       {},
                                       cache_,
                                       static_cast<int64_t>(wanted_.size()),
                                       std::min(max_rows, kLogitsRows),
                                       at};
    part(ops, walk);
    if (thread == 0) logits_at = at;
  }
  logits_at_ = logits_at;
}

template <class Family>
void PackedModel<Family>::run(const DecodeRows& rows) {
  const auto keep = [](std::vector<int32_t>& to, std::span<const int32_t> from) {
    to.assign(from.begin(), from.end());
  };
  keep(tokens_, rows.tokens);
  keep(wanted_, rows.wanted);
  keep(positions_, rows.positions);
  keep(sequences_, rows.sequences);
  keep(pages_, rows.pages);
  before_.resize(positions_.size());
  std::transform(positions_.begin(), positions_.end(), before_.begin(), std::negate<>());
  cache_.at = {positions_.data(), sequences_.data(), pages_.data(), rows.max_pages};
  logits_at_ = -1;
  on_all_threads([](PackedOps& ops, const Walk<Family, PackedOps>& walk) { Family::forward(ops, walk); });
}

template <class Family>
Decoder::Logits PackedModel<Family>::logits(int i) {
  const int64_t chunk = std::min(max_rows, kLogitsRows), first = i / chunk * chunk;
  if (logits_at_ != first) {
    on_all_threads([&](PackedOps& ops, const Walk<Family, PackedOps>& walk) {
      head_forward(ops, walk, Family::head_input(walk), first);
    });
  }
  const int64_t stride = config.padded_outputs(), count = std::min<int64_t>(chunk, std::ssize(wanted_) - first);
  return {acts_.logits + (i - first) * stride, static_cast<int>(first + count - i), stride};
}
