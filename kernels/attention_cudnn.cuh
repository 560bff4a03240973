// Attention by cuDNN 9, through its C++ frontend: bf16, causal, no dropout, a document a row. Included only where the
// build found both (WROUGHT_CUDNN).
//
// cuDNN sees q, k and v where they are, as strided views of inp (B, T, 3, NH, HS), and its "stats" (B, NH, T, 1) are
// lse (B, NH, T) as it is: max + log(sum), of scaled scores, natural logarithm. So forward and backward of different
// tiers go together.
//
// Backward runs in its deterministic mode. Where the frontend makes that by keeping ds whole (on sm_80 and sm_90: 2
// bytes for every query and key of every head), it wants memory of size T x T; shapes that would need more than
// kWorkspaceLimit are refused, and so is what cuDNN has no plan for. Both depend on the shape and the machine alone, so
// a run's bits do not depend on how much memory happens to be free.
#pragma once

#define CUDNN_FRONTEND_SKIP_JSON_LIB  // it brings its own nlohmann-json
#include <cudnn_frontend.h>

#include <map>
#include <memory>
#include <mutex>
#include <tuple>
#include <unordered_map>
#include <vector>

#include "kernels/attention_plain.cuh"

namespace attention_cudnn {

namespace fe = cudnn_frontend;

inline constexpr int64_t kWorkspaceLimit = int64_t{256} << 20;

enum Tensor : int64_t { kQ = 1, kK, kV, kOut, kLse, kDout, kDq, kDk, kDv };

inline std::string shape_name(const AttentionSizes& s) {
  return "cuDNN's attention for B " + std::to_string(s.heads / s.NH) + ", T " + std::to_string(s.T) + ", NH " +
         std::to_string(s.NH) + ", HS " + std::to_string(s.HS);
}

inline void check(cudnnStatus_t status, const char* what) {
  if (status == CUDNN_STATUS_SUCCESS) return;
  throw CudaError(std::string(what) + ": " + cudnnGetErrorString(status));
}

// One graph with its plan, made once a shape; null where cuDNN has none.
struct Plan {
  std::unique_ptr<fe::graph::Graph> graph;
  int64_t workspace = 0;  // bytes
};

// What a device has: its handle, its plans, and one workspace, as large as the largest plan that ran.
struct Device {
  cudnnHandle_t handle = nullptr;
  std::map<std::tuple<int, int, int, int, bool>, Plan> plans;  // by B, T, NH, HS and direction
  void* workspace = nullptr;
  int64_t workspace_bytes = 0;
};

inline std::unique_ptr<fe::graph::Graph> make_graph(const AttentionSizes& s, bool backward) {
  auto graph = std::make_unique<fe::graph::Graph>();
  graph->set_io_data_type(fe::DataType_t::BFLOAT16)
      .set_intermediate_data_type(fe::DataType_t::FLOAT)
      .set_compute_data_type(fe::DataType_t::FLOAT);
  const int64_t B = s.heads / s.NH, T = s.T, C = s.C, NH = s.NH, HS = s.HS;
  const std::vector<int64_t> dim = {B, NH, T, HS}, inp_stride = {T * 3 * C, HS, 3 * C, 1};
  const std::vector<int64_t> out_stride = {T * C, HS, C, 1}, lse_dim = {B, NH, T, 1}, lse_stride = {NH * T, T, 1, 1};
  const auto attributes = [&](const char* name, Tensor uid, const std::vector<int64_t>& stride) {
    return fe::graph::Tensor_attributes().set_name(name).set_uid(uid).set_dim(dim).set_stride(stride);
  };
  const auto q = graph->tensor(attributes("q", kQ, inp_stride));
  const auto k = graph->tensor(attributes("k", kK, inp_stride));
  const auto v = graph->tensor(attributes("v", kV, inp_stride));
  if (!backward) {
    auto [out, lse] = graph->sdpa(q, k, v,
                                  fe::graph::SDPA_attributes()
                                      .set_name("attention_forward")
                                      .set_generate_stats(true)
                                      .set_attn_scale(s.scale)
                                      .set_diagonal_alignment(fe::DiagonalAlignment_t::TOP_LEFT)
                                      .set_diagonal_band_right_bound(0));
    out->set_output(true).set_uid(kOut).set_dim(dim).set_stride(out_stride);
    lse->set_output(true).set_uid(kLse).set_dim(lse_dim).set_stride(lse_stride).set_data_type(fe::DataType_t::FLOAT);
    return graph;
  }
  const auto out = graph->tensor(attributes("out", kOut, out_stride));
  const auto dout = graph->tensor(attributes("dout", kDout, out_stride));
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
  dq->set_output(true).set_uid(kDq).set_dim(dim).set_stride(inp_stride);
  dk->set_output(true).set_uid(kDk).set_dim(dim).set_stride(inp_stride);
  dv->set_output(true).set_uid(kDv).set_dim(dim).set_stride(inp_stride);
  return graph;
}

// Whether a step of making a plan went well; false where cuDNN does not support the graph. Throws for all else.
inline bool supported(fe::error_t status, const AttentionSizes& s) {
  if (status.is_good()) return true;
  if (status.get_code() == fe::error_code_t::GRAPH_NOT_SUPPORTED ||
      status.get_code() == fe::error_code_t::HEURISTIC_QUERY_FAILED) {
    return false;
  }
  throw CudaError(shape_name(s) + ": " + status.get_message());
}

inline Plan make_plan(cudnnHandle_t handle, const AttentionSizes& s, bool backward) {
  Plan plan{make_graph(s, backward)};
  fe::graph::Graph& graph = *plan.graph;
  const bool made = supported(graph.validate(), s) && supported(graph.build_operation_graph(handle), s) &&
                    supported(graph.create_execution_plans({fe::HeurMode_t::A}), s) &&
                    supported(graph.check_support(), s) &&
                    supported(graph.build_plans(fe::BuildPlanPolicy_t::HEURISTICS_CHOICE), s) &&
                    supported(graph.get_workspace_size(plan.workspace), s);
  if (!made || plan.workspace > kWorkspaceLimit) return {};
  return plan;
}

// Runs the plan for the shape on the stream; false where there is none, and nothing was done. The workspace is the
// device's one: callers keep attention to one stream at a time.
inline bool run(const AttentionSizes& s, bool backward, std::unordered_map<int64_t, void*> tensors,
                cudaStream_t stream) {
  static std::mutex mutex;
  static std::map<int, Device> devices;
  const std::lock_guard<std::mutex> lock(mutex);
  int id = 0;
  CUDA_CHECK(cudaGetDevice(&id));
  Device& device = devices[id];
  if (device.handle == nullptr) check(cudnnCreate(&device.handle), "cuDNN");
  const std::tuple key(s.heads / s.NH, s.T, s.NH, s.HS, backward);
  auto found = device.plans.find(key);
  if (found == device.plans.end()) found = device.plans.emplace(key, make_plan(device.handle, s, backward)).first;
  const Plan& plan = found->second;
  if (plan.graph == nullptr) return false;
  if (plan.workspace > device.workspace_bytes) {
    CUDA_CHECK(cudaFree(device.workspace));  // waits for the device
    device.workspace = nullptr;
    device.workspace_bytes = 0;
    CUDA_CHECK(cudaMalloc(&device.workspace, static_cast<size_t>(plan.workspace)));
    device.workspace_bytes = plan.workspace;
  }
  check(cudnnSetStream(device.handle, stream), "cuDNN");
  auto status = plan.graph->execute(device.handle, tensors, device.workspace);
  if (status.is_bad()) throw CudaError(shape_name(s) + ": " + status.get_message());
  return true;
}

inline bool forward(bf16* out, float* lse, const bf16* inp, const AttentionSizes& s, cudaStream_t stream) {
  bf16* q = const_cast<bf16*>(inp);  // only read; the map's type knows no const
  return run(s, false, {{kQ, q}, {kK, q + s.C}, {kV, q + 2 * s.C}, {kOut, out}, {kLse, lse}}, stream);
}

inline bool backward(bf16* dinp, const bf16* dout, const bf16* out, const float* lse, const bf16* inp,
                     const AttentionSizes& s, cudaStream_t stream) {
  bf16* q = const_cast<bf16*>(inp);
  return run(s, true,
             {{kQ, q},
              {kK, q + s.C},
              {kV, q + 2 * s.C},
              {kOut, const_cast<bf16*>(out)},
              {kLse, const_cast<float*>(lse)},
              {kDout, const_cast<bf16*>(dout)},
              {kDq, dinp},
              {kDk, dinp + s.C},
              {kDv, dinp + 2 * s.C}},
             stream);
}

}  // namespace attention_cudnn
