// A family of models for tests, as docs/writing-a-model.md builds it: GPT-2 without biases, with RMSNorm in place of
// layer norm, and with heads of queries that share heads of keys and values.
#pragma once

#include <string>
#include <vector>

#include "llm/models/tensor_table.h"
#include "llm/models/walk.h"

struct Toy {
  // 1. Tensors: C channels, KV channels of keys, Vp rows of the embedding.
  template <class T>
  struct Block {
    Norm<T> norm1, norm2;
    Linear<T> q, kv, attproj, fc, fcproj;  // C -> C, C -> 2 KV, C -> C, C -> 4C, 4C -> C
  };
  template <class T>
  struct Params {
    T *wte = nullptr, *wpe = nullptr;  // (Vp, C), (max_seq_len, C)
    std::vector<Block<T>> block;
    Norm<T> normf;
    Linear<T> head;  // C -> Vp, with the matrix wte
  };
  template <class T, class Visit>
  static void for_each_param(const ModelConfig& c, const LoraOptions& lora, Params<T>& p, Visit&& visit) {
    const int64_t C = c.channels, KV = c.kv_channels(), Vp = c.padded_vocab_size();
    TableRows<T, Visit> rows(lora, visit);
    rows.embedding(p.wte, "wte", "wte", Role::embedding, Vp, c.vocab_size, C, 0.05f);
    rows.embedding(p.wpe, "wpe", "wpe", Role::position, c.max_seq_len, c.max_seq_len, C, 0.05f);
    p.block.resize(static_cast<size_t>(c.num_layers));
    for (int l = 0; l < c.num_layers; ++l) {
      Block<T>& b = p.block[static_cast<size_t>(l)];
      const std::string at = "block." + std::to_string(l) + ".";
      const auto linear = [&](Linear<T>& w, const char* name, std::vector<const char*> parts, int64_t n, int64_t k) {
        const ParamTensor t{.hf_name = at + name, .layer = l, .rows = n, .cols = k, .product = name, .init_std = 0.05f};
        rows.linear(w, at, parts, false, t);
      };
      rows.rms_norm(b.norm1, "norm1", at, at + "norm1", l, C);
      linear(b.q, "q", {"q"}, C, C);
      linear(b.kv, "kv", {"k", "v"}, 2 * KV, C);
      linear(b.attproj, "attproj", {"attproj"}, C, C);
      rows.rms_norm(b.norm2, "norm2", at, at + "norm2", l, C);
      linear(b.fc, "fc", {"fc"}, 4 * C, C);
      linear(b.fcproj, "fcproj", {"fcproj"}, C, 4 * C);
    }
    rows.rms_norm(p.normf, "normf", "", "normf", c.num_layers, C);
    p.head = Linear<T>{.w = p.wte, .in = c.channels, .out = static_cast<int>(Vp), .used = c.vocab_size, .name = "head"};
    rows.adapters();
  }

  // 2. Activations of N = B T rows; gradients that the blocks use one after another.
  template <class T, class S>
  struct BlockActivations {
    NormRows<T, S> norm1, norm2;
    T *q, *kv, *att, *middle, *fch, *fch_gelu, *stream;
    S* lse;
  };
  template <class T, class S>
  struct Activations {
    std::vector<BlockActivations<T, S>> block;
    NormRows<T, S> normf;
    T *in, *pooled, *logits, *branch, *dstream, *dnorm, *dq, *dkv, *datt, *dfch, *dbranch;
    S* losses;
  };
  template <class T, class S, class Visit>
  static void for_each_activation(const ModelConfig& c, Recompute, int64_t B, int64_t T_, int64_t logits_rows,
                                  Activations<T, S>& a, Visit&& visit) {
    const int64_t C = c.channels, KV = c.kv_channels(), N = B * T_, one = 1;
    a.block.resize(static_cast<size_t>(c.num_layers));
    for (BlockActivations<T, S>& b : a.block) {
      const std::string at = "block." + std::to_string(&b - a.block.data()) + ".";
      visit(b.norm1.y, at + "norm1", N, C), visit(b.norm1.rstd, at + "norm1_rstd", N, one);
      visit(b.q, at + "q", N, C), visit(b.kv, at + "kv", N, 2 * KV), visit(b.lse, at + "lse", B * c.num_heads, T_);
      visit(b.att, at + "att", N, C), visit(b.middle, at + "middle", N, C), visit(b.stream, at + "stream", N, C);
      visit(b.norm2.y, at + "norm2", N, C), visit(b.norm2.rstd, at + "norm2_rstd", N, one);
      visit(b.fch, at + "fch", N, 4 * C), visit(b.fch_gelu, at + "fch_gelu", N, 4 * C);
    }
    visit(a.in, "in", N, C), visit(a.branch, "branch", N, C), visit(a.pooled, "pooled", B, C);
    visit(a.normf.y, "normf", N, C), visit(a.normf.rstd, "normf_rstd", N, one), visit(a.losses, "losses", N, one);
    visit(a.logits, "logits", logits_rows, int64_t{c.padded_outputs()}), visit(a.dstream, "dstream", N, C);
    visit(a.dbranch, "dbranch", N, C), visit(a.dnorm, "dnorm", N, C), visit(a.datt, "datt", N, C);
    visit(a.dq, "dq", N, C), visit(a.dkv, "dkv", N, 2 * KV), visit(a.dfch, "dfch", N, 4 * C);
  }

  // 3. Forward.
  template <class Ops>
  static auto* stream(const Walk<Toy, Ops>& m, int l) {
    return l == 0 ? m.a.in : m.block(l - 1).a.stream;
  }
  template <class Ops>
  static auto* head_input(const Walk<Toy, Ops>& m) {
    return m.takes_rows() ? m.a.pooled : m.a.normf.y;
  }
  template <class Ops>
  static void forward(Ops& ops, const Walk<Toy, Ops>& m) {
    const int C = m.config.channels, L = m.config.num_layers, N = m.N();
    const AttentionShape s = m.attention();
    const auto& a = m.a;
    ops.embedding_forward(a.in, m.batch.tokens, m.w.wte, m.w.wpe, m.batch.documents, m.dropout_at(0, 0), m.B, m.T, C);
    m.layers.forward([&](int l) {
      const auto [w, d, b] = m.block(l);
      ops.norm_forward(b.norm1, stream(m, l), w.norm1, N, C);
      ops.linear_forward(b.q, b.norm1.y, w.q, N);
      ops.linear_forward(b.kv, b.norm1.y, w.kv, N);
      if (m.pass == Pass::decode) {
        ops.cache_append(m.cache, l, split_qkv(b.q, b.kv, s), s);
        ops.attention_decode(b.att, m.cache, l, split_qkv(b.q, b.kv, s), s);
      } else {
        ops.attention_forward(b.att, b.lse, split_qkv(b.q, b.kv, s), s, m.dropout_at(l, 1));
      }
      ops.linear_residual_forward(b.middle, a.branch, stream(m, l), b.att, w.attproj, m.dropout_at(l, 2), N);
      ops.norm_forward(b.norm2, b.middle, w.norm2, N, C);
      ops.linear_gelu_forward(b.fch, b.fch_gelu, b.norm2.y, w.fc, N);
      ops.linear_residual_forward(b.stream, a.branch, b.middle, b.fch_gelu, w.fcproj, m.dropout_at(l, 3), N);
    });
    ops.norm_forward(a.normf, stream(m, L), m.w.normf, N, C);
    if (m.takes_rows()) ops.take_rows(a.pooled, a.normf.y, m.batch.rows, m.head_rows, C);
    if (m.head_rows <= m.logits_rows) head_forward(ops, m, head_input(m), 0);
  }

  // 4. Backward: the same from the last to the first. What q and kv give their input is added one after the other.
  template <class Ops>
  static void backward(Ops& ops, const Walk<Toy, Ops>& m) {
    const int C = m.config.channels, L = m.config.num_layers, N = m.N();
    const AttentionShape s = m.attention();
    const auto& a = m.a;
    head_backward(ops, m, a.dnorm, a.normf.y);
    ops.zero(a.dstream, m.NC());
    ops.norm_backward(a.dstream, m.d.normf, nullptr, a.dnorm, stream(m, L), m.w.normf, a.normf, m.sum, N, C);
    m.layers.backward(m.end, [&](int l) {
      const auto [w, d, b] = m.block(l);
      const auto dout = [&](int k) { return ops.dropout_backward(a.dbranch, a.dstream, m.dropout_at(l, k), m.NC()); };
      ops.linear_gelu_backward(a.dfch, d.fcproj, dout(3), nullptr, b.fch_gelu, b.fch, w.fcproj, m.sum, N);
      ops.linear_backward(a.dnorm, d.fc, a.dfch, nullptr, b.norm2.y, w.fc, m.sum, N);
      ops.norm_backward(a.dstream, d.norm2, nullptr, a.dnorm, b.middle, w.norm2, b.norm2, m.sum, N, C);
      ops.linear_backward(a.datt, d.attproj, dout(2), nullptr, b.att, w.attproj, m.sum, N);
      ops.attention_backward(split_qkv(a.dq, a.dkv, s), a.datt, b.att, b.lse, split_qkv(b.q, b.kv, s), s,
                             m.dropout_at(l, 1));
      ops.linear_backward(a.dnorm, d.q, a.dq, nullptr, b.norm1.y, w.q, m.sum, N);
      ops.norm_backward(a.dstream, d.norm1, nullptr, a.dnorm, stream(m, l), w.norm1, b.norm1, m.sum, N, C);
      ops.linear_backward(a.dnorm, d.kv, a.dkv, nullptr, b.norm1.y, w.kv, m.sum, N);
      ops.norm_backward(a.dstream, d.norm1, nullptr, a.dnorm, stream(m, l), w.norm1, b.norm1, Sum::add, N, C);
    });
    if (!m.d.wte) return;
    ops.embedding_backward(m.d.wte, m.d.wpe, a.dstream, m.batch.tokens, m.batch.documents, m.dropout_at(0, 0), m.B, m.T,
                           C, m.config.vocab_size);
  }
};
