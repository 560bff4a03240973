// Attention by cuDNN 9, through its C++ frontend: bf16, causal, no dropout, one document per row. Included only if the
// build found both (WROUGHT_CUDNN).
//
// cuDNN reads q, k and v in place, as strided views, and its "stats" (B, NH, T, 1) are lse (B, NH, T) unchanged: max +
// log(sum), of scaled scores, natural logarithm. So forward and backward of different tiers can be combined.
//
// Backward runs in its deterministic mode. The frontend implements that, on sm_80 and sm_90, by keeping ds whole, which
// takes memory of size T x T: so it runs over pieces of the batch (cudnn_backward_piece). Shapes of which a piece would
// need more than kWorkspaceLimit are refused, and so are shapes that cuDNN has no plan for. All this depends only on
// the shape and the machine, so a run's bits do not depend on how much memory happens to be free.
//
// A shape's plan is made by the first call of refusal() for it; a model does that in a dry run, and calls prepare() for
// the memory when it is built, so that no step allocates.
#pragma once

#define CUDNN_FRONTEND_SKIP_JSON_LIB  // it brings its own nlohmann-json
#include <cudnn_frontend.h>

#include <map>
#include <memory>
#include <mutex>
#include <tuple>
#include <unordered_map>
#include <vector>

#include "kernels/attention_choice.h"
#include "kernels/attention_plain.cuh"
#include "kernels/scratch.h"

namespace attention_cudnn {

namespace fe = cudnn_frontend;

inline constexpr int64_t kWorkspaceLimit = kCudnnWorkspaceLimit;

enum Tensor : int64_t { kQ = 1, kK, kV, kOut, kLse, kDout, kDq, kDk, kDv };

inline std::string shape_name(const AttentionProblem& s) {
  return "cuDNN's attention for B " + std::to_string(s.heads / s.NH) + ", T " + std::to_string(s.T) + ", NH " +
         std::to_string(s.NH) + ", NKV " + std::to_string(s.NKV) + ", HS " + std::to_string(s.HS);
}

inline void check(cudnnStatus_t status, const char* what) {
  if (status == CUDNN_STATUS_SUCCESS) return;
  throw CudaError(std::string(what) + ": " + cudnnGetErrorString(status));
}

// One graph with its plan, made once per shape; or why there is none.
struct Plan {
  std::unique_ptr<fe::graph::Graph> graph;
  int64_t workspace = 0;  // bytes
  std::string why;        // empty: it runs
};

// What a device has: its handle, its plans, and one workspace for all of them.
struct Device {
  cudnnHandle_t handle = nullptr;
  // By B, T, NH, NKV, HS, and the elements from one token to the next.
  std::map<std::tuple<int, int, int, int, int, AttentionRows>, Plan> plans;
  void* workspace = nullptr;  // kWorkspaceLimit bytes; null: no plan needs one so far
};

inline std::unique_ptr<fe::graph::Graph> make_graph(const AttentionProblem& s, const AttentionRows& rows) {
  auto graph = std::make_unique<fe::graph::Graph>();
  graph->set_io_data_type(fe::DataType_t::BFLOAT16)
      .set_intermediate_data_type(fe::DataType_t::FLOAT)
      .set_compute_data_type(fe::DataType_t::FLOAT);
  const int64_t B = s.heads / s.NH, T = s.T, NH = s.NH, HS = s.HS;
  const std::vector<int64_t> dim = {B, NH, T, HS}, kv_dim = {B, s.NKV, T, HS};
  const std::vector<int64_t> lse_dim = {B, NH, T, 1}, lse_stride = {NH * T, T, 1, 1};
  const auto stride = [&](int64_t row) { return std::vector<int64_t>{T * row, HS, row, 1}; };
  const auto attributes = [&](const char* name, Tensor uid, const std::vector<int64_t>& dims, int64_t row) {
    return fe::graph::Tensor_attributes().set_name(name).set_uid(uid).set_dim(dims).set_stride(stride(row));
  };
  const auto q = graph->tensor(attributes("q", kQ, dim, rows.q));
  const auto k = graph->tensor(attributes("k", kK, kv_dim, rows.kv));
  const auto v = graph->tensor(attributes("v", kV, kv_dim, rows.kv));
  if (!rows.backward()) {
    auto [out, lse] = graph->sdpa(q, k, v,
                                  fe::graph::SDPA_attributes()
                                      .set_name("attention_forward")
                                      .set_generate_stats(true)
                                      .set_attn_scale(s.scale)
                                      .set_diagonal_alignment(fe::DiagonalAlignment_t::TOP_LEFT)
                                      .set_diagonal_band_right_bound(0));
    out->set_output(true).set_uid(kOut).set_dim(dim).set_stride(stride(s.C));
    lse->set_output(true).set_uid(kLse).set_dim(lse_dim).set_stride(lse_stride).set_data_type(fe::DataType_t::FLOAT);
    return graph;
  }
  const auto out = graph->tensor(attributes("out", kOut, dim, s.C));
  const auto dout = graph->tensor(attributes("dout", kDout, dim, s.C));
  const auto lse = graph->tensor(fe::graph::Tensor_attributes()
                                     .set_name("lse")
                                     .set_uid(kLse)
                                     .set_dim(lse_dim)
                                     .set_stride(lse_stride)
                                     .set_data_type(fe::DataType_t::FLOAT));
  auto [dq, dk, dv] = graph->sdpa_backward(q, k, v, out, dout, lse,
                                           fe::graph::SDPA_backward_attributes()
                                               .set_name("attention_backward")
                                               .set_attn_scale(s.scale)
                                               .set_diagonal_alignment(fe::DiagonalAlignment_t::TOP_LEFT)
                                               .set_diagonal_band_right_bound(0)
                                               .set_deterministic_algorithm(true));
  dq->set_output(true).set_uid(kDq).set_dim(dim).set_stride(stride(rows.dq));
  dk->set_output(true).set_uid(kDk).set_dim(kv_dim).set_stride(stride(rows.dkv));
  dv->set_output(true).set_uid(kDv).set_dim(kv_dim).set_stride(stride(rows.dkv));
  return graph;
}

// Whether a step of making a plan went well; false where cuDNN does not support the graph, as plan.why then says.
// Throws for all else.
inline bool supported(Plan& plan, fe::error_t status, const AttentionProblem& s) {
  if (status.is_good()) return true;
  if (status.get_code() == fe::error_code_t::GRAPH_NOT_SUPPORTED ||
      status.get_code() == fe::error_code_t::HEURISTIC_QUERY_FAILED) {
    plan.why = "cuDNN has no plan (" + status.get_message() + ")";
    return false;
  }
  throw CudaError(shape_name(s) + ": " + status.get_message());
}

inline Plan make_plan(cudnnHandle_t handle, const AttentionProblem& s, const AttentionRows& rows) {
  Plan plan{make_graph(s, rows), 0, ""};
  fe::graph::Graph& graph = *plan.graph;
  const bool made = supported(plan, graph.validate(), s) && supported(plan, graph.build_operation_graph(handle), s) &&
                    supported(plan, graph.create_execution_plans({fe::HeurMode_t::A}), s) &&
                    supported(plan, graph.check_support(), s) &&
                    supported(plan, graph.build_plans(fe::BuildPlanPolicy_t::HEURISTICS_CHOICE), s) &&
                    supported(plan, graph.get_workspace_size(plan.workspace), s);
  if (made) plan.why = cudnn_workspace_refusal(plan.workspace, kWorkspaceLimit);
  if (!plan.why.empty()) plan.graph.reset();
  return plan;
}

inline std::mutex& lock() {
  static auto* only = new std::mutex;
  return *only;
}

// The state of this process's GPU.
inline Device& device() {
  static auto* devices = new std::map<int, Device>;
  int id = 0;
  if (cudaGetDevice(&id) != cudaSuccess) id = 0;  // in a dry run without a GPU
  return (*devices)[id];
}

// The plan for a shape; null in a dry run without a GPU.
inline const Plan* plan_of(const AttentionProblem& s, const AttentionRows& rows) {
  Device& d = device();
  if (d.handle == nullptr) {
    const cudnnStatus_t status = cudnnCreate(&d.handle);
    if (status != CUDNN_STATUS_SUCCESS) d.handle = nullptr;
    if (status != CUDNN_STATUS_SUCCESS && DryRun::current()) return nullptr;
    check(status, "cuDNN");
  }
  const std::tuple key(s.heads / s.NH, s.T, s.NH, s.NKV, s.HS, rows);
  auto found = d.plans.find(key);
  if (found == d.plans.end()) found = d.plans.emplace(key, make_plan(d.handle, s, rows)).first;
  return &found->second;
}

// Whether there is a GPU that plans were asked of.
inline bool started() {
  const std::lock_guard<std::mutex> guard(lock());
  return device().handle != nullptr;
}

// Sequences per call.
inline int piece(const AttentionProblem& s, bool backward) {
  const int B = s.heads / s.NH;
  return backward ? cudnn_backward_piece(B, s.T, s.NH, s.HS, kWorkspaceLimit) : B;
}

// Why cuDNN does not run a shape; empty: it does, or, in a dry run without a GPU, it may.
inline std::string refusal(const AttentionProblem& s, const AttentionRows& rows) {
  const std::lock_guard<std::mutex> guard(lock());
  const int B = s.heads / s.NH, whole = piece(s, rows.backward()), rest = B % whole;
  std::string why;
  for (const int sequences : {whole, rest}) {
    AttentionProblem part = s;
    part.heads = sequences * s.NH;
    const Plan* plan = sequences > 0 && why.empty() ? plan_of(part, rows) : nullptr;
    if (plan) why = plan->why;
  }
  return why;
}

// As large as any plan may need from the start: graphs keep its address.
inline void allocate_workspace(Device& d, int64_t bytes) {
  if (bytes == 0 || d.workspace) return;
  CUDA_CHECK(cudaMalloc(&d.workspace, static_cast<size_t>(kWorkspaceLimit)));
}

// Memory for every plan that there is: after the plans of a step were made, and before its first run.
inline void prepare() {
  const std::lock_guard<std::mutex> guard(lock());
  Device& d = device();
  for (const auto& [key, plan] : d.plans) {
    if (plan.graph) allocate_workspace(d, plan.workspace);
  }
}

// Runs the plan of a shape that cuDNN does not refuse. The workspace is the device's one: callers keep attention to one
// stream at a time.
inline void run(const AttentionProblem& s, const AttentionRows& rows, std::unordered_map<int64_t, void*> tensors,
                cudaStream_t stream) {
  if (DryRun::current()) return;
  const std::lock_guard<std::mutex> guard(lock());
  const Plan& plan = *plan_of(s, rows);
  Device& d = device();
  allocate_workspace(d, plan.workspace);  // only for a shape that was not prepared
  check(cudnnSetStream(d.handle, stream), "cuDNN");
  auto status = plan.graph->execute(d.handle, tensors, d.workspace);
  if (status.is_bad()) throw CudaError(shape_name(s) + ": " + status.get_message());
}

inline void* writable(const void* data) { return const_cast<void*>(data); }  // only read; the map's type knows no const

inline void forward(bf16* out, float* lse, const Qkv<const bf16>& inp, const AttentionProblem& s, cudaStream_t stream) {
  run(s, attention_rows(inp),
      {{kQ, writable(inp.q)}, {kK, writable(inp.k)}, {kV, writable(inp.v)}, {kOut, out}, {kLse, lse}}, stream);
}

inline void backward(const AttentionBackward<bf16>& all, const AttentionProblem& s, cudaStream_t stream) {
  backward_in_pieces(all, s, piece(s, true), [&](const AttentionBackward<bf16>& x, const AttentionProblem& part) {
    run(part, attention_rows(x.inp, &x.dinp),
        {{kQ, writable(x.inp.q)},
         {kK, writable(x.inp.k)},
         {kV, writable(x.inp.v)},
         {kOut, writable(x.out)},
         {kLse, writable(x.lse)},
         {kDout, writable(x.dout)},
         {kDq, x.dinp.q},
         {kDk, x.dinp.k},
         {kDv, x.dinp.v}},
        stream);
  });
}

}  // namespace attention_cudnn
