// GPT-2 (Radford et al. 2019), written once for all devices: its tensors, its activations, its forward and its backward
// pass, in the operations of ops.h. docs/model.md explains it with a drawing.
//
//   x = wte[token] + wpe[position]
//   for each block:  x += attproj(attention(qkv(ln1(x))))    x += fcproj(gelu(fc(ln2(x))))
//   logits = head(lnf(x))
#pragma once

#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

#include "llm/models/config.h"
#include "llm/models/ops.h"
#include "llm/models/tensor_table.h"
#include "llm/models/walk.h"
#include "llm/support/error.h"

struct Gpt2 {
  // ---- tensors -----------------------------------------------------------------------------------------------------

  // Gradients are bound to the same structs: tensors that are not trained are null there.
  template <class T>
  struct Block {
    Norm<T> ln1;
    Linear<T> qkv;      // C -> 3C: queries, keys, values
    Linear<T> attproj;  // C -> C
    Norm<T> ln2;
    Linear<T> fc;      // C -> 4C
    Linear<T> fcproj;  // 4C -> C
  };
  template <class T>
  struct Params {
    T* wte = nullptr;  // (Vp, C)  rows from V on are zero
    T* wpe = nullptr;  // (max_seq_len, C)
    std::vector<Block<T>> block;
    Norm<T> lnf;
    Linear<T> head;  // C -> padded outputs; a tied one is wte, without bias
  };

  // Calls visit(pointer member, tensor) for every parameter, in the order of the arena: a matrix's bias follows it, and
  // an adapter's B follows its A.
  template <class T, class Visit>
  static void for_each_param(const ModelConfig& config, const LoraOptions& lora, Params<T>& p, Visit&& visit) {
    const int L = config.num_layers;
    const int64_t C = config.channels, V = config.vocab_size, Vp = config.padded_vocab_size();
    if (config.kv_heads() != config.num_heads) {
      fail("a GPT-2 has as many heads of keys as of queries, not %d and %d", config.kv_heads(), config.num_heads);
    }
    // GPT-2's initialisation (section 2.3): N(0, 0.02), positions half of that, and the layers that write to the
    // residual stream scaled down by the square root of their number. Models narrower than GPT-2's 768 channels scale
    // it up by sqrt(768 / C), so that a product of a normalised row and a weight matrix is as large as at that width:
    // with 0.02 at C = 128, attention begins almost uniform and learns late (docs/performance.md has what it costs).
    const float std = 0.02f * std::sqrt(std::max(1.0f, 768.0f / static_cast<float>(C)));
    const float residual_std = std / std::sqrt(2.0f * static_cast<float>(L));
    TableRows<T, Visit> rows(lora, visit);
    rows.embedding(p.wte, "wte", "wte", Role::embedding, Vp, V, C, std);
    rows.embedding(p.wpe, "wpe", "wpe", Role::position, config.max_seq_len, config.max_seq_len, C, std / 2);
    p.block.resize(static_cast<size_t>(L));
    for (int l = 0; l < L; ++l) {
      Block<T>& b = p.block[static_cast<size_t>(l)];
      const std::string at = strprintf("block.%d.", l), h = strprintf("h.%d.", l);
      const auto linear = [&](Linear<T>& to, const std::vector<const char*>& parts, bool bias, ParamTensor t) {
        t.hf_name = h + t.hf_name, t.layer = l;
        rows.linear(to, at, parts, bias, t);
      };
      rows.norm(b.ln1, "ln1", at, h + "ln_1", l, C);
      linear(b.qkv, {"q", "k", "v"}, config.qkv_bias,
             {.hf_name = "attn.c_attn", .rows = 3 * C, .cols = C, .product = "qkv", .init_std = std});
      linear(b.attproj, {"attproj"}, true,
             {.hf_name = "attn.c_proj", .rows = C, .cols = C, .product = "attproj", .init_std = residual_std});
      rows.norm(b.ln2, "ln2", at, h + "ln_2", l, C);
      linear(b.fc, {"fc"}, true, {.hf_name = "mlp.c_fc", .rows = 4 * C, .cols = C, .product = "fc", .init_std = std});
      linear(b.fcproj, {"fcproj"}, true,
             {.hf_name = "mlp.c_proj", .rows = C, .cols = 4 * C, .product = "fcproj", .init_std = residual_std});
    }
    rows.norm(p.lnf, "lnf", "", "ln_f", L, C);
    const bool classifies = config.num_classes > 0;
    if (config.has_head()) {
      const float bound = 1 / std::sqrt(static_cast<float>(C));  // a classifier's head begins as torch.nn.Linear does
      ParamTensor head{.name = "head",
                       .hf_name = classifies ? "score.weight" : "lm_head.weight",
                       .layer = L,
                       .role = Role::head,
                       .rows = config.padded_outputs(),
                       .cols = C,
                       .file_rows = config.outputs(),
                       .product = "head",
                       .init = classifies ? Init::uniform : Init::normal,
                       .init_std = classifies ? bound : std};
      rows.tensor(p.head.w, head);
      if (classifies) {
        rows.tensor(p.head.b, {.name = "headb",
                               .hf_name = "score.bias",
                               .layer = L,
                               .role = Role::bias,
                               .rows = config.padded_outputs(),
                               .file_rows = config.outputs(),
                               .init = Init::uniform,
                               .init_std = bound});
      }
      head.hf_name = classifies ? "score" : "lm_head";
      rows.adapted(p.head, "", {"head"}, head);
    } else {
      p.head = Linear<T>{.w = p.wte,
                         .in = static_cast<int>(C),
                         .out = static_cast<int>(Vp),
                         .used = config.vocab_size,
                         .name = "head"};
    }
    rows.adapters();
  }

  // ---- activations -------------------------------------------------------------------------------------------------

  // T: type of tensors; S: of statistics. N = B*T.
  template <class T, class S>
  struct BlockActivations {
    NormRows<T, S> ln1;  // (N, C)
    T* qkv;              // (N, 3C)
    T* atty;             // (N, C)
    S* lse;              // (B, NH, T)
    T* residual2;        // (N, C)  the stream after attention
    NormRows<T, S> ln2;  // (N, C)
    T* fch;              // (N, 4C)
    T* fch_gelu;         // (N, 4C)
    T* residual3;        // (N, C)  the stream after the MLP
  };
  template <class T, class S>
  struct Activations {
    T* encoded;  // (N, C)  the stream at the start
    std::vector<BlockActivations<T, S>> block;
    NormRows<T, S> lnf;  // (N, C)
    T* pooled;           // (B, C)  what the head reads if it reads one row of each sequence, or some of the rows
    T* logits;           // (logits_rows, Vp)  dlogits in backward
    S* losses;           // (N)
    T* sublayer;         // (N, C)  a sublayer's output before it joins the stream, if the product does not add it
    // gradients, used by one block after another
    T* dresidual;       // (N, C)  of the stream, through the whole network
    S* dresidual_sums;  // (C)  its column sums
    T* dsublayer;       // (N, C)
    T* dnorm;           // (N, C)
    T* datty;           // (N, C)
    T* dqkv;            // (N, 3C)
    T* dfch;            // (N, 4C)
    T* dpooled = nullptr;
  };

  // Calls visit(pointer member, name, rows, cols) for every activation of a (B, T) batch, in the order of the arena.
  // Those that backward recomputes share one buffer: the blocks' pointers are the same.
  template <class T, class S, class Visit>
  static void for_each_activation(const ModelConfig& config, Recompute recompute, int64_t B, int64_t T_,
                                  int64_t logits_rows, Activations<T, S>& a, Visit&& visit) {
    const int64_t C = config.channels, NH = config.num_heads, N = B * T_;
    const auto norm = [&](NormRows<T, S>& to, const std::string& name) {
      visit(to.y, name, N, C);
      visit(to.mean, name + "_mean", N, int64_t{1});
      visit(to.rstd, name + "_rstd", N, int64_t{1});
    };
    visit(a.encoded, "encoded", N, C);
    a.block.resize(static_cast<size_t>(config.num_layers));
    for (int l = 0; l < config.num_layers; ++l) {
      BlockActivations<T, S>& b = a.block[static_cast<size_t>(l)];
      if (l > 0) b = a.block[0];  // keeps what is shared; the rest is set below
      const bool all_shared = recompute == Recompute::block, gelu_shared = recompute != Recompute::none;
      const std::string own = strprintf("block.%d.", l), shared = "blocks.", at = all_shared ? shared : own;
      if (l == 0 || !all_shared) {
        norm(b.ln1, at + "ln1");
        visit(b.qkv, at + "qkv", N, 3 * C);
        visit(b.atty, at + "atty", N, C);
        visit(b.lse, at + "lse", B * NH, T_);
        visit(b.residual2, at + "residual2", N, C);
        norm(b.ln2, at + "ln2");
        visit(b.fch, at + "fch", N, 4 * C);
      }
      if (l == 0 || !gelu_shared) visit(b.fch_gelu, (gelu_shared ? shared : own) + "fch_gelu", N, 4 * C);
      visit(b.residual3, own + "residual3", N, C);
    }
    norm(a.lnf, "lnf");
    visit(a.pooled, "pooled", B, C);
    visit(a.logits, "logits", logits_rows, int64_t{config.padded_outputs()});
    visit(a.losses, "losses", N, int64_t{1});
    visit(a.sublayer, "sublayer", N, C);
    visit(a.dresidual, "dresidual", N, C);
    visit(a.dresidual_sums, "dresidual_sums", int64_t{1}, C);
    visit(a.dsublayer, "dsublayer", N, C);
    visit(a.dnorm, "dnorm", N, C);
    visit(a.datty, "datty", N, C);
    visit(a.dqkv, "dqkv", N, 3 * C);
    visit(a.dfch, "dfch", N, 4 * C);
    if (config.num_classes > 0) visit(a.dpooled, "dpooled", B, C);
  }

  // ---- forward -----------------------------------------------------------------------------------------------------

  // Dropout sites of a block; site 0 is after the embedding.
  enum Place { kEmbedding, kAttention, kAttproj, kMlp };

  template <class Ops>
  static void forward(Ops& ops, const Walk<Gpt2, Ops>& m) {
    const int C = m.config.channels, L = m.config.num_layers;
    // 1. Tokens and positions become rows of the residual stream.
    ops.embedding_forward(m.a.encoded, m.batch.tokens, m.w.wte, m.w.wpe, m.batch.documents, m.dropout_at(0, kEmbedding),
                          m.B, m.T, C);
    // 2. Each block adds the outputs of attention and of its MLP to the stream.
    m.layers.forward([&](int l) {
      const auto [w, d, b] = m.block(l);
      block_forward(ops, m, l);
      ops.linear_residual_forward(b.residual3, m.a.sublayer, b.residual2, b.fch_gelu, w.fcproj, m.dropout_at(l, kMlp),
                                  m.N());
    });
    // 3. The final norm, and the rows of it that the head reads.
    ops.norm_forward(m.a.lnf, stream(m, L), m.w.lnf, m.N(), C);
    if (m.config.num_classes > 0) {
      ops.pool_forward(m.a.pooled, m.a.lnf.y, m.batch.pooling, m.B, m.T, C);
    } else if (m.takes_rows()) {
      ops.take_rows(m.a.pooled, m.a.lnf.y, m.batch.rows, m.head_rows, C);
    }
    // 4. The head; if the logits do not fit, chunk by chunk when they are asked for.
    if (m.head_rows <= m.logits_rows) head_forward(ops, m, head_input(m), 0);
  }

  // The stream that layer l reads.
  template <class Ops>
  static typename Ops::floatX* stream(const Walk<Gpt2, Ops>& m, int l) {
    return l == 0 ? m.a.encoded : m.block(l - 1).a.residual3;
  }

  // From a block's first norm to the input of the MLP's second product: what backward may compute again.
  template <class Ops>
  static void block_forward(Ops& ops, const Walk<Gpt2, Ops>& m, int l) {
    const auto [w, d, b] = m.block(l);
    const int N = m.N(), C = m.config.channels;
    // 1. The first norm, and the projection to queries, keys and values.
    ops.norm_forward(b.ln1, stream(m, l), w.ln1, N, C);
    ops.linear_forward(b.qkv, b.ln1.y, w.qkv, N);
    // 2. Attention: of rows of a cache to what is there, else over the batch itself.
    const AttentionShape shape = m.attention();
    const Qkv<const typename Ops::floatX> qkv = packed_qkv(b.qkv, shape);
    if (m.pass == Pass::decode) {
      ops.cache_append(m.cache, l, qkv, shape);
      ops.attention_decode(b.atty, m.cache, l, qkv, shape);
    } else {
      ops.attention_forward(b.atty, b.lse, qkv, shape, m.dropout_at(l, kAttention));
    }
    // 3. Its projection joins the stream. The MLP's norm.
    ops.linear_residual_forward(b.residual2, m.a.sublayer, stream(m, l), b.atty, w.attproj, m.dropout_at(l, kAttproj),
                                N);
    ops.norm_forward(b.ln2, b.residual2, w.ln2, N, C);
    // 4. The MLP's first product with GELU.
    ops.linear_gelu_forward(b.fch, b.fch_gelu, b.ln2.y, w.fc, N);
  }

  // What the head reads: (head rows, C).
  template <class Ops>
  static const typename Ops::floatX* head_input(const Walk<Gpt2, Ops>& m) {
    return m.config.num_classes > 0 || m.takes_rows() ? m.a.pooled : m.a.lnf.y;
  }

  // ---- backward ----------------------------------------------------------------------------------------------------

  // The column sums of the stream's gradient are the gradient of the bias of a projection to the stream, unless dropout
  // is in between: then null.
  template <class Ops>
  static auto* stream_sums(const Walk<Gpt2, Ops>& m, const auto& projection, int l, Place place) {
    return projection.b && m.dropout_at(l, place).rate == 0 ? m.a.dresidual_sums : nullptr;
  }
  // Those that the MLP of the block below layer l takes.
  template <class Ops>
  static auto* sums_below(const Walk<Gpt2, Ops>& m, int l) {
    return l == m.end ? nullptr : stream_sums(m, m.block(l - 1).d.fcproj, l - 1, kMlp);
  }

  // The steps of forward, from the last to the first.
  template <class Ops>
  static void backward(Ops& ops, const Walk<Gpt2, Ops>& m) {
    const int C = m.config.channels, L = m.config.num_layers, N = m.N();
    const bool pooled = m.config.num_classes > 0;
    // 4. The head, chunk by chunk: logits become losses and dlogits, which give the gradients of its matrix and input.
    auto* dhead = m.end > L ? nullptr : pooled ? m.a.dpooled : m.a.dnorm;  // null: nothing below it is trained
    head_backward(ops, m, dhead, head_input(m));
    if (m.end > L) return;
    // 3. The final norm: from here on dresidual is the gradient of the stream.
    if (pooled) ops.pool_backward(m.a.dnorm, m.a.dpooled, m.batch.pooling, m.B, m.T, C);
    ops.zero(m.a.dresidual, m.NC());
    ops.norm_backward(m.a.dresidual, m.d.lnf, sums_below(m, L), m.a.dnorm, stream(m, L), m.w.lnf, m.a.lnf, m.sum, N, C);
    // 2. The blocks.
    m.layers.backward(
        m.end, [&](int l) { recompute(ops, m, l); }, [&](int l) { block_backward(ops, m, l); });
    // 1. Tokens and positions: each row of the stream's gradient is added to the rows of its token and its position.
    if (m.d.wte) {
      ops.embedding_backward(m.d.wte, m.d.wpe, m.a.dresidual, m.batch.tokens, m.batch.documents,
                             m.dropout_at(0, kEmbedding), m.B, m.T, C, m.config.vocab_size);
    }
  }

  // Buffers that the blocks share hold the last block's activations: those of the others are computed again.
  template <class Ops>
  static void recompute(Ops& ops, const Walk<Gpt2, Ops>& m, int l) {
    const auto [w, d, b] = m.block(l);
    if (l == m.config.num_layers - 1) return;
    if (m.recompute == Recompute::gelu) ops.gelu_forward(b.fch_gelu, b.fch, 4 * m.NC());
    if (m.recompute == Recompute::block) block_forward(ops, m, l);
  }

  template <class Ops>
  static void block_backward(Ops& ops, const Walk<Gpt2, Ops>& m, int l) {
    const auto [w, d, b] = m.block(l);
    const auto& a = m.a;
    const int C = m.config.channels, N = m.N();
    // 6. The residual connection hands the stream's gradient to both of its inputs. 5. The MLP's second product, and
    // GELU.
    const auto* dmlp = ops.dropout_backward(a.dsublayer, a.dresidual, m.dropout_at(l, kMlp), m.NC());
    ops.linear_gelu_backward(a.dfch, d.fcproj, dmlp, stream_sums(m, d.fcproj, l, kMlp), b.fch_gelu, b.fch, w.fcproj,
                             m.sum, N);
    // 4. The MLP's first product, and the norm, which adds to the stream's gradient.
    ops.linear_backward(a.dnorm, d.fc, a.dfch, nullptr, b.ln2.y, w.fc, m.sum, N);
    auto* sums = stream_sums(m, d.attproj, l, kAttproj);
    ops.norm_backward(a.dresidual, d.ln2, sums, a.dnorm, b.residual2, w.ln2, b.ln2, m.sum, N, C);
    // 3. The residual connection. 2. Attention's projection, and attention.
    const auto* datt = ops.dropout_backward(a.dsublayer, a.dresidual, m.dropout_at(l, kAttproj), m.NC());
    ops.linear_backward(a.datty, d.attproj, datt, sums, b.atty, w.attproj, m.sum, N);
    const AttentionShape shape = m.attention();
    ops.attention_backward(packed_qkv(a.dqkv, shape), a.datty, b.atty, b.lse, packed_qkv(b.qkv, shape), shape,
                           m.dropout_at(l, kAttention));
    // 1. The projection to queries, keys and values, and the norm, which adds to the stream's gradient.
    ops.linear_backward(a.dnorm, d.qkv, a.dqkv, nullptr, b.ln1.y, w.qkv, m.sum, N);
    ops.norm_backward(a.dresidual, d.ln1, sums_below(m, l), a.dnorm, stream(m, l), w.ln1, b.ln1, m.sum, N, C);
  }
};
