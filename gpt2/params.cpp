#include "gpt2/params.h"

#include "kernels/muon.h"

void validate(const ModelConfig& config, const std::string& where) {
  const auto in_range = [&](const char* field, int64_t value, int64_t low, int64_t high) {
    if (value < low || value > high) {
      fail("%s: %s is %lld, expected %lld to %lld", where.c_str(), field, static_cast<long long>(value),
           static_cast<long long>(low), static_cast<long long>(high));
    }
  };
  in_range("the context length", config.max_seq_len, 1, 1 << 24);
  in_range("the vocabulary size", config.vocab_size, 1, 1 << 28);
  in_range("the number of layers", config.num_layers, 1, 4096);
  in_range("the number of heads", config.num_heads, 1, 65536);
  in_range("the number of channels", config.channels, 1, 1 << 20);
  if (config.channels % config.num_heads != 0) {
    fail("%s: %d heads do not divide %d channels; choose channels as a multiple of heads (64 a head is usual)",
         where.c_str(), config.num_heads, config.channels);
  }
}

double flops_per_token(const ModelConfig& config, int T) {
  const double C = config.channels, L = config.num_layers;
  const double multiplied = L * 12 * C * C + static_cast<double>(config.vocab_size) * C;
  return 6 * multiplied + 12 * L * C * T;
}

namespace {

int64_t aligned_size(const ParamTensor& tensor) {
  return (tensor.size() + kParamAlignment - 1) / kParamAlignment * kParamAlignment;
}

}  // namespace

std::vector<ParamTensor> param_table(const ModelConfig& config, Optimizer optimizer) {
  std::vector<ParamTensor> table;
  Params<float> unused;
  int64_t offset = 0, v_offset = 0;
  for_each_param(config, unused, [&](float*&, ParamTensor tensor) {
    if (optimizer == Optimizer::adamw) tensor.muon = 0;
    tensor.offset = offset;
    offset += aligned_size(tensor);
    if (tensor.muon == 0) {
      tensor.v_offset = v_offset;
      v_offset += aligned_size(tensor);
    }
    table.push_back(std::move(tensor));
  });
  return table;
}

int64_t arena_size(const std::vector<ParamTensor>& table) { return table.back().offset + aligned_size(table.back()); }

int64_t v_size(const std::vector<ParamTensor>& table) {
  int64_t n = 0;
  for (const ParamTensor& tensor : table) n += tensor.muon == 0 ? aligned_size(tensor) : 0;
  return n;
}

std::vector<ParamRun> adamw_runs(const std::vector<ParamTensor>& table) {
  std::vector<ParamRun> runs;
  bool open = false;  // the last run goes on
  for (const ParamTensor& tensor : table) {
    if (tensor.muon == 0) {
      if (!open) runs.push_back({tensor.offset, tensor.v_offset, 0});
      runs.back().size += aligned_size(tensor);
    }
    open = tensor.muon == 0;
  }
  return runs;
}

int64_t muon_scratch(const std::vector<ParamTensor>& table) {
  int64_t most = 0;
  for (const ParamTensor& tensor : table) {
    if (tensor.muon == 0) continue;
    most = std::max(most, muon_scratch(static_cast<int>(tensor.rows / tensor.muon), static_cast<int>(tensor.cols)));
  }
  return most;
}

int64_t num_parameters(const std::vector<ParamTensor>& table) {
  int64_t n = 0;
  for (const ParamTensor& tensor : table) n += tensor.file_size();
  return n;
}
