// Attention on the GPU, causal or not: the maths of attention.h, by flash attention (attention_plain.cuh explains the
// order of the work, attention_tensor_core.cuh how tensor cores are fed). Three tiers:
//   plain        float arithmetic, any storage type, any head size
//   tensor_core  causal only: bf16 products of mma.sync with float sums. It needs a head size of 32, 48, ... 128, and
//                tensors and tokens in them that start at multiples of 16 bytes; otherwise plain runs.
//   cudnn        causal only: NVIDIA's library. It needs bf16, no dropout (its mask would differ), one document per row
//                and a shape that cuDNN has a plan for; otherwise tensor_core runs. A build without cuDNN (no
//                WROUGHT_CUDNN) refuses this tier.
// attention_choice.h decides. What forward saves (out and lse) is the same in all tiers, and so is dropout's mask.
#pragma once

#include "kernels/attention_choice.h"
#include "kernels/attention_plain.cuh"
#include "kernels/attention_tensor_core.cuh"
#include "kernels/scratch.h"
#ifdef WROUGHT_CUDNN
#include "kernels/attention_cudnn.cuh"
#endif

inline constexpr int kDeltaThreads = 256, kDeltaLanes = 8;  // per block; that share a token
inline constexpr int kDeltaTokens = 2;                      // per group of lanes, loaded at once

// delta[b,h,t] = dout[t] . out[t] over the head's channels. Block (bh, y) has tokens of one head, so that its writes
// are contiguous; 8 lanes share a token, each taking every 8th pack of channels. Blocks that start together belong to
// different heads, whose channels are neighbours.
template <class floatX, bool kVector>
__global__ void __launch_bounds__(kDeltaThreads) attention_delta_kernel(float* delta,        // (B, NH, T)
                                                                        const floatX* dout,  // (B, T, C)
                                                                        const floatX* out,   // (B, T, C)
                                                                        AttentionProblem s) {
  wait_for_earlier_kernels();
  constexpr int n = Pack<floatX>::size, kGroups = kDeltaThreads / kDeltaLanes;
  const int bh = blockIdx.x, lane = threadIdx.x % kDeltaLanes;
  const int first_t =
      static_cast<int>(blockIdx.y) * kGroups * kDeltaTokens + static_cast<int>(threadIdx.x) / kDeltaLanes;
  const int64_t start = s.start(bh, s.C);
  float sums[kDeltaTokens] = {};
  for (int c = lane * n; c < s.HS; c += kDeltaLanes * n) {
    Pack<floatX> dout_packs[kDeltaTokens], out_packs[kDeltaTokens];
#pragma unroll
    for (int i = 0; i < kDeltaTokens; ++i) {
      const int t = first_t + i * kGroups;
      const int64_t at = start + static_cast<int64_t>(t) * s.C + c;
      dout_packs[i] = load_row_pack<kVector, n>(dout + at, t < s.T ? s.HS - c : 0);
      out_packs[i] = load_row_pack<kVector, n>(out + at, t < s.T ? s.HS - c : 0);
    }
#pragma unroll
    for (int i = 0; i < kDeltaTokens; ++i) {
#pragma unroll
      for (int k = 0; k < n; ++k) sums[i] += to_float(dout_packs[i][k]) * to_float(out_packs[i][k]);
    }
  }
#pragma unroll
  for (int i = 0; i < kDeltaTokens; ++i) {
#pragma unroll
    for (int offset = kDeltaLanes / 2; offset > 0; offset /= 2) {
      sums[i] += __shfl_xor_sync(kFullWarp, sums[i], offset);
    }
    const int t = first_t + i * kGroups;
    if (lane == 0 && t < s.T) delta[static_cast<int64_t>(bh) * s.T + t] = sums[i];
  }
}

// The launch; `aligned`: dout and out begin at multiples of 16 bytes.
template <class floatX>
void attention_delta(float* delta, const floatX* dout, const floatX* out, const AttentionProblem& s, bool aligned,
                     cudaStream_t stream) {
  const bool vector = aligned && s.HS % Pack<floatX>::size == 0;
  const dim3 grid(s.heads, ceil_div(s.T, kDeltaThreads / kDeltaLanes * kDeltaTokens));
  launch(vector ? attention_delta_kernel<floatX, true> : attention_delta_kernel<floatX, false>, grid, kDeltaThreads, 0,
         stream, delta, dout, out, s);
}

template <class floatX>
AttentionProblem attention_problem(const AttentionShape& s, float dropout, uint64_t seed, DropoutSequence sequence) {
  if (s.B < 1 || s.T < 1 || s.NH < 1 || s.NKV < 1 || s.HS < 1 || s.NH % s.NKV != 0 ||
      static_cast<int64_t>(s.B) * s.NH > INT32_MAX || static_cast<int64_t>(s.NH) * s.HS > INT32_MAX ||
      s.tokens() > INT32_MAX) {
    throw CudaError("attention: B " + std::to_string(s.B) + ", T " + std::to_string(s.T) + ", NH " +
                    std::to_string(s.NH) + ", NKV " + std::to_string(s.NKV) + ", HS " + std::to_string(s.HS) +
                    ": sizes must be positive, B NH, NH HS and B T below 2^31, and NKV must divide NH");
  }
  if (s.documents && !s.causal) throw CudaError("attention: documents in a row need causal attention");
  const float scale = static_cast<float>(1 / std::sqrt(static_cast<double>(s.HS)));
  const int cache_bytes = device_attribute(cudaDevAttrL2CacheSize, 50 << 20);
  const auto section = [&](int heads) {
    return attention_section(heads, static_cast<int64_t>(s.T) * s.HS * sizeof(floatX), cache_bytes);
  };
  return {.T = s.T,
          .C = s.channels(),
          .NH = s.NH,
          .NKV = s.NKV,
          .HS = s.HS,
          .sharing = s.sharing(),
          .heads = s.B * s.NH,
          .section = section(s.B * s.NH),
          .keys_section = section(s.B * s.NKV),
          .scale = scale,
          .dropout = dropout,
          .seed = seed,
          .sequence = sequence,
          .causal = s.causal,
          .documents = s.documents};
}

// Whether q, k and v of every token begin at multiples of 16 bytes.
template <class T>
bool aligned16(const Qkv<T>& x) {
  constexpr int64_t n = 16 / sizeof(T);
  return aligned16(x.q, x.k, x.v) && x.q_row % n == 0 && x.kv_row % n == 0;
}

template <class floatX>
AttentionChoice choose_attention(AttentionTier wanted, const AttentionProblem& s, const AttentionRows& rows,
                                 bool aligned, bool others_aligned) {
#ifndef WROUGHT_CUDNN
  (void)rows;
  if (wanted == AttentionTier::cudnn) throw CudaError("attention: this build has no cuDNN");
#endif
  const AttentionCase c{
      wanted, std::is_same_v<floatX, bf16>, s.causal, s.dropout > 0, s.documents != nullptr, aligned, others_aligned,
      s.HS};
#ifdef WROUGHT_CUDNN
  AttentionChoice choice = choose_attention(c, [&] { return attention_cudnn::refusal(s, rows); });
  if (choice.tier == AttentionTier::cudnn && !attention_cudnn::started()) {
    choice.why = "if it has a plan for this shape (known only on a GPU); else our own";
  }
  return choice;
#else
  return choose_attention(c, [] { return std::string(); });
#endif
}

inline std::string attention_shape(const AttentionProblem& s) {
  return std::to_string(s.heads / s.NH) + " x " + std::to_string(s.T) + ", " + std::to_string(s.NH) + " heads" +
         (s.NKV < s.NH ? ", " + std::to_string(s.NKV) + " of keys," : "") + " of " + std::to_string(s.HS);
}

template <class floatX>
void attention_forward(floatX* out,                   // (B, T, NH, HS)
                       float* lse,                    // (B, NH, T)  saved for backward
                       const Qkv<const floatX>& inp,  // q, k, v
                       float dropout, uint64_t seed, DropoutSequence sequence, const AttentionShape& shape,
                       AttentionTier tier, cudaStream_t stream) {
  const AttentionProblem s = attention_problem<floatX>(shape, dropout, seed, sequence);
  DryOperation operation([&] { return DryRun::Operation{"attention_forward", attention_shape(s)}; });
  const AttentionChoice choice =
      choose_attention<floatX>(tier, s, attention_rows(inp), aligned16(out) && aligned16(inp), aligned16(lse));
  operation.chose([&] { return choice; });
  if constexpr (std::is_same_v<floatX, bf16>) {
#ifdef WROUGHT_CUDNN
    if (choice.tier == AttentionTier::cudnn) return attention_cudnn::forward(out, lse, inp, s, stream);
#endif
    if (choice.tier == AttentionTier::tensor_core) {
      attention_tensor_core::forward(out, lse, inp, s, stream);
      return;
    }
  }
  attention_plain::forward(out, lse, inp, s, stream);
}

template <class floatX>
void attention_backward(const Qkv<floatX>& dinp,       // =
                        void* scratch,                 // attention_backward_scratch() bytes
                        const floatX* dout,            // (B, T, NH, HS)
                        const floatX* out,             // (B, T, NH, HS)
                        const float* lse,              // (B, NH, T)
                        const Qkv<const floatX>& inp,  // q, k, v
                        float dropout, uint64_t seed, DropoutSequence sequence, const AttentionShape& shape,
                        AttentionTier tier, cudaStream_t stream) {
  const AttentionProblem s = attention_problem<floatX>(shape, dropout, seed, sequence);
  DryOperation operation([&] { return DryRun::Operation{"attention_backward", attention_shape(s)}; });
  const AttentionChoice choice = choose_attention<floatX>(
      tier, s, attention_rows(inp, &dinp), aligned16(dout) && aligned16(dinp) && aligned16(inp), aligned16(out, lse));
  operation.chose([&] { return choice; });
#ifdef WROUGHT_CUDNN
  if constexpr (std::is_same_v<floatX, bf16>) {
    if (choice.tier == AttentionTier::cudnn) {
      return attention_cudnn::backward({dinp, dout, out, lse, inp}, s, stream);
    }
  }
#endif
  float* delta = static_cast<float*>(scratch);
  attention_delta(delta, dout, out, s, aligned16(dout, out), stream);
  if constexpr (std::is_same_v<floatX, bf16>) {
    if (choice.tier == AttentionTier::tensor_core) {
      attention_tensor_core::backward(dinp, dout, lse, delta, inp, s, stream);
      return;
    }
  }
  attention_plain::backward(dinp, dout, lse, delta, inp, s, stream);
}
