// What attention works on: sizes, and where queries, keys and values lie. For its kernels on the CPU and the GPU, and
// for a model's operations.
#pragma once

#include <cstdint>

// B sequences of T tokens; NH heads of queries and NKV heads of keys and values, of HS channels each. NH / NKV
// neighbouring heads of queries share a head of keys and values: 1 in multi-head attention (Vaswani et al. 2017), all
// in multi-query attention (Shazeer 2019), grouped-query attention between them (Ainslie et al. 2023).
struct AttentionShape {
  int B, T, NH, NKV, HS;
  bool causal = true;  // token t looks at tokens up to t; else at all T
  // (B, T): where the document of each token begins (attention.h); null: a row is one document
  const int32_t* documents = nullptr;

  int sharing() const { return NH / NKV; }  // heads of queries per head of keys
  int channels() const { return NH * HS; }  // of a token's queries, and of its output
  int kv_channels() const { return NKV * HS; }
  int packed_channels() const { return channels() + 2 * kv_channels(); }
  int64_t tokens() const { return int64_t{B} * T; }
};

// Queries (B, T, NH, HS), keys and values (B, T, NKV, HS), or the gradients of these. A token's heads follow each
// other; from one token to the next are q_row and kv_row elements.
template <class T>
struct Qkv {
  T *q, *k, *v;
  int64_t q_row, kv_row;
  template <class U>  // const T
  operator Qkv<U>() const {
    return {q, k, v, q_row, kv_row};
  }
};

// Those in one tensor (B, T, NH + 2 NKV, HS): of each token the queries, then the keys, then the values.
template <class T>
Qkv<T> packed_qkv(T* rows, const AttentionShape& s) {
  T* keys = rows + s.channels();
  return {rows, keys, keys + s.kv_channels(), s.packed_channels(), s.packed_channels()};
}

// Queries in one tensor (B, T, NH, HS); keys and values in another (B, T, 2 NKV, HS), the keys first.
template <class T>
Qkv<T> split_qkv(T* queries, T* keys_values, const AttentionShape& s) {
  return {queries, keys_values, keys_values + s.kv_channels(), s.channels(), 2 * s.kv_channels()};
}
