// Bytes and FLOPs of a training step on a GPU: a plan's operations (plan_ops.h) as the launches that they make, for
// each kernel the bytes that it must move, the operations that it does, and how its work is divided. dev/predict
// computes a launch's time from these and the rates of a GPU.
//
// Bytes are the minimum of docs/kernels.md: every input of a launch once, every output once; sums added to, twice.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "kernels/scratch.h"
#include "llm/models/config.h"
#include "llm/models/options.h"
#include "llm/models/plan_ops.h"

enum class Unit { tensor_cores, float_units };

// What a matrix product does with its sums: stores them (bf16, or float), adds another tensor first, stores GELU of
// them too, multiplies by GELU's derivative, adds them to float gradients, or stores them as floats.
enum class Epilogue { store, residual, gelu, gelu_grad, add, part };

struct StepConfig {
  ModelConfig shape;
  int B = 16, T = 1024;
  bool bf16 = true;  // else float, multiplied as tf32
  ModelOptions options = {};
  float dropout = 0;
  bool cublaslt = false;  // products by cuBLASLt, except Muon's products
  // Attention by cuDNN, if it is causal and without dropout; backward, 5 products, over pieces of the batch that take
  // up to this workspace.
  bool cudnn = false;
  int64_t cudnn_workspace = kCudnnWorkspaceLimit;
};

// A kernel, with all its equal launches in a step.
struct LaunchRow {
  std::string operation;  // the launcher in kernels/
  std::string part;       // which of the model's operations, if there are several
  std::string kernel;     // the __global__ function; "memset": that of CUDA
  Phase phase;
  int layer = 0;  // of a product: -1 before the blocks, 0 in all of them, 1 after them
  Unit unit = Unit::float_units;
  int launches = 1;
  double bytes = 0, flops = 0;  // of one launch
  double trainer_flops = 0;     // of one launch, as trainers count: no padding, attention's whole square

  // A matrix product's sums (rows, columns) over a depth, in this many parts; `fraction` of its tiles are computed.
  // rows 0: not a product.
  double rows = 0, columns = 0, depth = 0, parts = 1, fraction = 1;
  Epilogue epilogue = Epilogue::store;
  // For other kernels: turns of a thread, for each of which dev/bench/kernel_work.h counts instructions; blocks (0: one
  // turn per thread); bytes of dynamic shared memory per block, and threads if they are not those of kernel_work.h; and
  // how often the last thread waits for memory.
  double turns = 0, blocks = 0, shared = 0, threads = 0, waits = 1;

  // A product's tiles of 128 x 128 numbers, times its parts.
  double tiles() const;
  bool equal_launch(const LaunchRow& other) const;
};

// The launches of a step with one micro-batch, by one process, in their order, equal ones together.
std::vector<LaunchRow> count_step(const StepConfig& config);

// Floating-point operations that training takes per token, forward and backward: 6 per parameter that is multiplied
// (PaLM, Chowdhery et al. 2022, appendix B), and 12 L C T for attention's two products.
double flops_per_token(const ModelConfig& config, int T);
