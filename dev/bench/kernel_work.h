// The demands of each kernel of a step on a GPU in addition to bytes and operations: the instructions that its warps
// issue, and how many bytes its threads have in flight. A change of a kernel needs a change of its row here, and of its
// bytes and blocks in llm/models/count.cpp; the GPU's rates are in rates.json.
//
// "SASS": read off the disassembly for sm_90a (nvcc 13.0, nvdisasm -c), bf16, whole packs, without dropout. Code that
// runs only for tails, dropout or masks is left out, as far as branches show it.
#pragma once

#include <algorithm>
#include <cmath>
#include <string>

#include "kernels/scratch.h"
#include "llm/models/count.h"

struct KernelWork {
  const char* kernel;
  const char* operation;  // of the launcher; null: any
  int threads;            // per block
  int registers;          // per thread (ptxas -v)
  double in_flight;       // bytes of loads in flight per thread
  double instructions;    // per warp in which each lane takes a turn (LaunchRow::turns)
  const char* from;
};

inline constexpr KernelWork kKernelWork[] = {
    {"memset", nullptr, 256, 32, 64, 8, "CUDA's own: estimate"},
    {"embedding_forward_kernel", nullptr, 256, 25, 32, 111, "SASS: all of it, two loads in flight"},
    {"layernorm_forward_kernel", nullptr, 128, 32, 32, 145,
     "SASS: 67 for two packs, 31 and 80 for one; two loads in flight"},
    {"layernorm_backward_kernel", nullptr, 256, 128, 96, 254, "SASS: 508 for a pack of two rows, six loads in flight"},
    {"layernorm_backward_wide_kernel", nullptr, 256, 64, 96, 249, "SASS: 184 for two packs and 157 for one"},
    {"layernorm_backward_sum_kernel", nullptr, 1024, 32, 16, 5, "SASS: 17 for four loads of 4 bytes"},
    {"classifier_backward_kernel", nullptr, 512, 52, 192, 137,
     "SASS: 13 to copy a pack, 65 and 59 in the two passes; twelve packs in flight"},
    {"classifier_loss_kernel", nullptr, 1024, 32, 64, 12, "estimate"},
    {"bias_partial_kernel", nullptr, 256, 113, 128, 31, "SASS: 245 for eight packs, eight loads in flight"},
    {"add_parts_kernel", nullptr, 256, 32, 64, 5, "SASS: 68 for 16 loads of 4 bytes, in flight together"},
    {"residual_forward_kernel", nullptr, 256, 40, 32, 60, "estimate; with dropout 250 more"},
    {"gelu_forward_kernel", nullptr, 256, 40, 16, 380, "SASS: 45 an element of 8, and the pack's own"},
    {"attention_delta_kernel", nullptr, 256, 32, 32, 109, "SASS: 218 for two packs, two loads in flight"},
    {"embedding_dwpe_kernel", nullptr, 256, 32, 32, 20, "SASS: 81 for four loads of 8 bytes, in flight together"},
    {"radix_sort_count_kernel", nullptr, 256, 32, 8, 30, "estimate"},
    {"radix_sort_scan_kernel", nullptr, 256, 32, 4, 40, "estimate"},
    {"radix_sort_scatter_kernel", nullptr, 256, 40, 8, 80, "estimate"},
    {"embedding_dwte_kernel", nullptr, 256, 56, 64, 40,
     "SASS: eight loads of 8 bytes in flight; instructions: estimate"},
    {"embedding_dwte_combine_kernel", nullptr, 256, 40, 16, 60, "estimate"},
    {"global_norm_chunk_kernel", nullptr, 256, 31, 16, 24, "SASS: 125 for four loads, tails left out"},
    {"global_norm_kernel", nullptr, 1024, 32, 8, 12, "estimate"},
    {"adamw_prepare_kernel", nullptr, 1, 32, 8, 300, "estimate"},
    {"adamw_update_kernel", "adamw_update_bf16", 256, 48, 48, 400,
     "SASS: 100 an element of 4, random numbers included, four loads in flight"},
    {"adamw_update_kernel", nullptr, 256, 40, 64, 220, "SASS: 55 an element of 4, four loads in flight"},
    {"ema_update_kernel", nullptr, 256, 40, 32, 30, "estimate"},
    {"muon_momentum_kernel", nullptr, 256, 40, 32, 60, "estimate"},
    {"muon_normalize_kernel", nullptr, 256, 40, 16, 40, "estimate"},
    {"muon_apply_kernel", nullptr, 256, 40, 32, 60, "estimate"},
};

// Null: a tensor-core kernel (below), or not one of ours.
inline const KernelWork* find_kernel_work(const LaunchRow& row) {
  for (const KernelWork& work : kKernelWork) {
    if (row.kernel == work.kernel && (!work.operation || row.operation == work.operation)) return &work;
  }
  return nullptr;
}

// Blocks of a launch that a multiprocessor holds at a time: by threads, registers and dynamic shared memory (compute
// capability 9.0: 2,048, 65,536 and 228 KiB, of which each block takes 1 KiB more than it requests).
inline double resident_blocks(const LaunchRow& row, const KernelWork& work) {
  const double threads = row.threads > 0 ? row.threads : work.threads;
  const double registers = static_cast<double>(pieces_of(work.registers, 8) * 8) * std::max(32.0, threads);
  return std::max(1.0, std::floor(std::min({32.0, 2048 / std::max(32.0, threads), 65536 / registers,
                                            228 * 1024.0 / (row.shared + 1024)})));
}

// ---- products on tensor cores by mma.sync --------------------------------------------------------------------------

// matmul_tensor_core(): the largest tile that leaves work for all multiprocessors.
struct OwnTile {
  double rows, columns;
};
inline OwnTile own_tile(const LaunchRow& row) {
  const auto tiles = [&](double m, double n) {
    return std::ceil(row.rows / m) * std::ceil(row.columns / n) * row.parts;
  };
  if (tiles(128, 256) >= 256) return {128, 256};
  return tiles(128, 128) >= 128 ? OwnTile{128, 128} : OwnTile{64, 64};
}

// SASS, per warp: the main loop has 155 for the 64 mma of 64 x 64 x 32 (169 in tiles of 128 x 128; tiles of 64 x 64
// have 83 for 16 mma of 32 x 32 x 32).
inline double main_instructions_per_mma(const OwnTile& tile) { return tile.rows < 128 ? 5.2 : 2.4; }

// Per lane and sum: SASS. bf16 in packs of 8: 80 and 445 (GELU and what is before it), 450 (its derivative); floats in
// fours: 56 where they are added, 38 where they are stored.
inline double epilogue_instructions(Epilogue epilogue) {
  switch (epilogue) {
    case Epilogue::store:
      return 11;
    case Epilogue::residual:
      return 14;
    case Epilogue::gelu:
      return 50;
    case Epilogue::gelu_grad:
      return 52;
    case Epilogue::add:
      return 15;
    case Epilogue::part:
      return 11;
  }
  return 0;
}

// ---- attention by mma.sync -----------------------------------------------------------------------------------------

// What a warp does at a time: queries x keys, with this many instructions, including mma. Two warps per scheduler do
// not hide each other's waits: the time is that of the mma plus that of all instructions.
struct AttentionTurn {
  const char* kernel;
  int head_size;  // up to this
  double own, other, instructions;
};
inline constexpr AttentionTurn kAttentionTurns[] = {
    // "pass" of dev/gpu/sass_report.sh: without dropout and masks. Before factors b came in pairs: 758, 490, 345 at 64.
    {"attention_forward_tensor_core_kernel", 64, 32, 64, 626},
    {"attention_forward_tensor_core_kernel", 128, 32, 32, 623},
    {"attention_backward_keys_tensor_core_kernel", 64, 32, 16, 274},
    {"attention_backward_keys_tensor_core_kernel", 128, 16, 32, 402},
    {"attention_backward_queries_tensor_core_kernel", 64, 32, 16, 215},
    {"attention_backward_queries_tensor_core_kernel", 128, 16, 32, 382},
};
// Null: not one of these kernels.
inline const AttentionTurn* find_attention_turn(const std::string& kernel, int head_size) {
  const AttentionTurn* found = nullptr;
  for (const AttentionTurn& turn : kAttentionTurns) {
    if (kernel == turn.kernel && (found == nullptr || found->head_size < head_size)) found = &turn;
  }
  return found;
}
