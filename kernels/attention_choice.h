// Which attention kernels run (attention.cuh's tiers), and why: the decision without the kernels.
#pragma once

#include <algorithm>
#include <cstdint>
#include <string>

#include "kernels/scratch.h"

enum class AttentionTier { plain, tensor_core, cudnn };

struct AttentionChoice {
  AttentionTier tier;
  std::string why;  // why nothing faster runs; empty: nothing faster exists
  std::string text() const {
    const char* names[] = {"own plain kernels", "own kernels on tensor cores", "cuDNN"};
    return names[static_cast<int>(tier)];
  }
};

// Whether there are tensor-core kernels for heads of HS channels: 32, 48, ... 128.
constexpr bool tensor_core_head_size(int HS) { return HS % 16 == 0 && HS >= 32 && HS <= 128; }

// What the decision depends on.
struct AttentionCase {
  AttentionTier wanted;
  bool bf16, causal, dropout, documents;
  bool aligned;         // what the tensor-core kernels read 16 bytes at a time begins at multiples of 16 bytes
  bool others_aligned;  // the other tensors too, as cuDNN requires
  int HS;
};

// cuDNN's deterministic backward pass keeps ds, 2 bytes for every query and key of every head, and sums dq in float.
inline int64_t cudnn_backward_bytes(int B, int T, int NH, int HS) {
  return int64_t{B} * NH * T * (2 * int64_t{T} + 4 * int64_t{HS});
}
// So it runs over pieces of the batch: as few as fit `limit` (or of a sequence each), of nearly the same size. Returns
// the sequences per piece; the last may have fewer. Sequences do not depend on each other.
inline int cudnn_backward_piece(int B, int T, int NH, int HS, int64_t limit) {
  const int64_t most = std::max<int64_t>(limit / cudnn_backward_bytes(1, T, NH, HS), 1);
  return static_cast<int>(pieces_of(B, pieces_of(B, most)));
}

// Empty if cuDNN may take this many bytes.
inline std::string cudnn_workspace_refusal(int64_t bytes, int64_t limit) {
  if (bytes <= limit) return "";
  return "cuDNN would take " + std::to_string(bytes) + " bytes of workspace, limit " + std::to_string(limit);
}

// cudnn_refusal() -> std::string, empty if cuDNN has a plan; called only if nothing else rules cuDNN out.
template <class CudnnRefusal>
AttentionChoice choose_attention(const AttentionCase& c, CudnnRefusal&& cudnn_refusal) {
  std::string why;
  if (c.wanted == AttentionTier::plain)
    return {AttentionTier::plain, c.bf16 ? "the plain kernels were asked for" : "tensor cores would round float"};
  if (!c.bf16) return {AttentionTier::plain, "tensor cores would round float"};
  if (!c.causal) return {AttentionTier::plain, "not causal: the other kernels need causal attention"};
  if (c.wanted == AttentionTier::cudnn) {
    why = c.dropout                          ? "cuDNN's dropout would draw a different mask"
          : c.documents                      ? "cuDNN is skipped: rows hold several documents"
          : !(c.aligned && c.others_aligned) ? "cuDNN is skipped: a tensor does not begin at a multiple of 16 bytes"
                                             : cudnn_refusal();
    if (why.empty()) return {AttentionTier::cudnn, ""};
  } else {
#ifndef WROUGHT_CUDNN
    why = "built without cuDNN";
#endif
  }
  if (c.aligned && tensor_core_head_size(c.HS)) return {AttentionTier::tensor_core, why};
  if (!why.empty()) why += "; ";
  return {AttentionTier::plain, why + (c.aligned ? "no kernel on tensor cores for heads of " + std::to_string(c.HS)
                                                 : "a tensor does not begin at a multiple of 16 bytes")};
}
