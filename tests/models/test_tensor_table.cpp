#include <doctest/doctest.h>

#include <map>
#include <set>

#include "llm/models/cpu.h"
#include "llm/models/families.h"
#include "llm/models/gpt2.h"
#include "llm/models/tensor_table.h"

namespace {

ModelConfig gpt2(int L, int NH, int C) {
  return {.max_seq_len = 1024, .vocab_size = 50257, .num_layers = L, .num_heads = NH, .channels = C};
}

const ModelConfig kOdd = {.max_seq_len = 19, .vocab_size = 61, .num_layers = 3, .num_heads = 3, .channels = 51};

}  // namespace

TEST_CASE("GPT-2's four sizes have the published numbers of parameters") {
  CHECK(num_parameters(param_table(gpt2(12, 12, 768))) == 124'439'808);
  CHECK(num_parameters(param_table(gpt2(24, 16, 1024))) == 354'823'168);
  CHECK(num_parameters(param_table(gpt2(36, 20, 1280))) == 774'030'080);
  CHECK(num_parameters(param_table(gpt2(48, 25, 1600))) == 1'557'611'200);
}

TEST_CASE("the tensors follow one another in the arena: aligned, no overlap, no gap of a cache line") {
  for (const ModelConfig& config : {kOdd, gpt2(12, 12, 768), ModelConfig{1, 1, 1, 1, 1}}) {
    const std::vector<ParamTensor> table = param_table(config);
    REQUIRE(table.size() == 4 + 12 * static_cast<size_t>(config.num_layers));
    int64_t end = 0;
    for (const ParamTensor& tensor : table) {
      CAPTURE(tensor.name);
      CHECK(tensor.offset % kParamAlignment == 0);
      CHECK(tensor.offset >= end);
      CHECK(tensor.offset < end + kParamAlignment);
      end = tensor.offset + tensor.size();
    }
    CHECK(arena_size(table) >= end);
    CHECK(arena_size(table) % kParamAlignment == 0);
  }
}

TEST_CASE("under Muon the blocks' matrices have no v; under AdamW every tensor has its place in the arena") {
  const std::vector<ParamTensor> adamw = param_table(kOdd), muon = param_table(kOdd, {.optimizer = Optimizer::muon});
  REQUIRE(adamw.size() == muon.size());
  int64_t end = 0, left_out = 0;
  for (size_t k = 0; k < adamw.size(); ++k) {
    CAPTURE(adamw[k].name);
    CHECK(adamw[k].v_offset == adamw[k].offset);
    CHECK_FALSE(adamw[k].muon);
    CHECK(muon[k].offset == adamw[k].offset);
    CHECK(muon[k].muon == muon[k].transposed);
    CHECK(muon[k].stacked == (muon[k].name.find(".qkv") != std::string::npos ? 3 : 1));
    const int64_t size = (muon[k].size() + kParamAlignment - 1) / kParamAlignment * kParamAlignment;
    CHECK(muon[k].v_offset == (muon[k].muon ? -1 : end));
    (muon[k].muon ? left_out : end) += size;
  }
  CHECK(arena_size(adamw, Arena::v) == arena_size(adamw));
  CHECK(arena_size(muon, Arena::v) == end);
  CHECK(left_out + end == arena_size(muon));
  CHECK(muon_scratch(adamw) == 0);
  CHECK(muon_scratch(muon) == 2 * (163 * 64) + 2 * (41 * 64));  // X of 4 x 51 x 51, A of 51 x 51, to 64 each

  // The runs cover the tensors with a v, in the same order in both.
  REQUIRE(adamw_runs(adamw).size() == 1);
  CHECK(adamw_runs(adamw)[0].size == arena_size(adamw));
  const std::vector<ParamRun> runs = adamw_runs(muon);
  CHECK(runs.size() == 1 + 3 * 4);
  int64_t v = 0;
  for (const ParamRun& run : runs) {
    CHECK(run.v_offset == v);
    v += run.size;
    int64_t covered = 0;
    for (const ParamTensor& tensor : muon) {
      if (tensor.offset < run.offset || tensor.offset >= run.offset + run.size) continue;
      CHECK(tensor.v_offset - run.v_offset == tensor.offset - run.offset);
      covered += (tensor.size() + kParamAlignment - 1) / kParamAlignment * kParamAlignment;
    }
    CHECK(covered == run.size);
  }
  CHECK(v == arena_size(muon, Arena::v));
}

TEST_CASE("bind_params points to the table's offsets") {
  const std::vector<ParamTensor> table = param_table(kOdd);
  std::vector<float> arena(static_cast<size_t>(arena_size(table)));
  Gpt2::Params<float> params;
  bind_params<Gpt2>(kOdd, {}, table, params, arena.data());
  size_t k = 0;
  Gpt2::for_each_param(kOdd, {}, params, [&](float*& pointer, const ParamTensor& tensor) {
    CHECK(tensor.name == table[k].name);
    CHECK(pointer - arena.data() == table[k].offset);
    ++k;
  });
  CHECK(k == table.size());
  CHECK(params.wte == arena.data());
  REQUIRE(params.block.size() == 3);
  for (const ParamTensor& tensor : table) {
    if (tensor.name == "block.2.fcprojw") CHECK(params.block[2].fcproj.w - arena.data() == tensor.offset);
    if (tensor.name == "lnfb") CHECK(params.lnf.b - arena.data() == tensor.offset);
  }
}

TEST_CASE("names are unique, and names and shapes in files are those of GPT2LMHeadModel") {
  std::set<std::string> names, hf_names;
  for (const ParamTensor& tensor : param_table(kOdd)) {
    CAPTURE(tensor.name);
    CHECK(names.insert(tensor.name).second);
    CHECK(hf_names.insert(tensor.hf_name).second);
    CHECK(tensor.vector() == (tensor.rows == 1 && tensor.file_rows == 1));
    CHECK(tensor.file_rows == (tensor.name == "wte" ? 61 : tensor.rows));
    // Conv1D keeps (in, out): the linear layers are transposed in files, the embeddings are not.
    const bool linear = tensor.hf_name.find(".c_") != std::string::npos && !tensor.vector();
    CHECK(tensor.transposed == linear);
  }
  for (const char* expected : {"wte.weight", "wpe.weight", "h.0.ln_1.weight", "h.0.ln_1.bias", "h.1.attn.c_attn.weight",
                               "h.1.attn.c_attn.bias", "h.2.attn.c_proj.weight", "h.2.attn.c_proj.bias",
                               "h.0.ln_2.weight", "h.0.ln_2.bias", "h.1.mlp.c_fc.weight", "h.1.mlp.c_fc.bias",
                               "h.2.mlp.c_proj.weight", "h.2.mlp.c_proj.bias", "ln_f.weight", "ln_f.bias"}) {
    CHECK_MESSAGE(hf_names.count(expected) == 1, expected);
  }
}

TEST_CASE("a row gives its tensor's place and role") {
  ModelConfig config = kOdd;
  config.num_classes = 5;
  ModelOptions options;
  options.lora.rank = 2;
  const std::vector<ParamTensor> table = param_table(config, options);
  std::map<std::string, ParamTensor> rows;
  int layer = -1;
  for (size_t k = 0; k < table.size(); ++k) {
    const ParamTensor& tensor = table[k];
    CAPTURE(tensor.name);
    rows[tensor.name] = tensor;
    CHECK(of_head(tensor, config) == (tensor.name == "head" || tensor.name == "headb"));
    CHECK(tensor.transposed == (tensor.role == Role::weight));
    if (tensor.role == Role::bias) {  // follows its matrix
      CHECK(table[k - 1].layer == tensor.layer);
      CHECK(table[k - 1].stacked == tensor.stacked);
      CHECK(table[k - 1].name.substr(0, tensor.name.size() - 1) == tensor.name.substr(0, tensor.name.size() - 1));
    }
    if (tensor.adapter()) continue;
    CHECK(tensor.layer >= layer);
    layer = tensor.layer;
  }
  CHECK(layer == 3);
  const auto is = [&](const char* name, int of_layer, Role role) {
    CAPTURE(name);
    REQUIRE(rows.contains(name));
    CHECK(rows[name].layer == of_layer);
    CHECK((rows[name].role == role));
  };
  is("wte", -1, Role::embedding);
  is("wpe", -1, Role::position);
  is("block.0.ln1w", 0, Role::norm);
  is("block.1.qkvb", 1, Role::bias);
  is("block.2.fcprojw", 2, Role::weight);
  is("lnfb", 3, Role::norm);
  is("head", 3, Role::head);
  is("headb", 3, Role::bias);
  is("block.1.vw.lora_b", 1, Role::adapter);
  is("head.lora_a", 3, Role::adapter);
  CHECK(rows["block.1.vw.lora_b"].adapts == "block.1.qkvw");
  CHECK(rows["block.1.vw.lora_b"].first_row == 2 * 51);
  CHECK(rows["block.2.fcw.lora_a"].adapts == "block.2.fcw");
  CHECK(rows["block.2.fcw.lora_a"].first_row == 0);
}

TEST_CASE("an RMSNorm has the weight of a layer norm, and no bias") {
  std::vector<ParamTensor> tensors;
  const auto visit = [&](float*&, const ParamTensor& tensor) { tensors.push_back(tensor); };
  const LoraOptions lora;
  TableRows<float, decltype(visit)> rows(lora, visit);
  Norm<float> rms, layer;
  rows.rms_norm(rms, "ln1", "block.1.", "h.1.ln_1", 1, 51);
  CHECK(std::string(rms.name) == "ln1");
  rows.norm(layer, "ln1", "block.1.", "h.1.ln_1", 1, 51);
  REQUIRE(tensors.size() == 3);
  CHECK(tensors[0].name == "block.1.ln1w");
  CHECK(tensors[0].hf_name == "h.1.ln_1.weight");
  CHECK((tensors[0].init == Init::ones));
  CHECK(tensors[1].name == tensors[0].name);
  CHECK(tensors[2].name == "block.1.ln1b");
  for (const ParamTensor& tensor : tensors) {
    CHECK((tensor.role == Role::norm));
    CHECK(tensor.layer == 1);
    CHECK(tensor.size() == 51);
  }
}

TEST_CASE("matrices decay and start normal; vectors do neither") {
  for (const ParamTensor& tensor : param_table(kOdd)) {
    CAPTURE(tensor.name);
    CHECK(tensor.decay == !tensor.vector());
    CHECK((tensor.init == Init::normal) == !tensor.vector());
    if (tensor.vector()) CHECK((tensor.init == Init::ones) == (tensor.name.back() == 'w'));
    const bool residual = tensor.name.find("projw") != std::string::npos;
    if (residual) CHECK(tensor.init_std == doctest::Approx(0.02 * std::sqrt(768.0 / 51) / std::sqrt(6.0)));
  }
}

TEST_CASE("GPT-2's sizes start as GPT-2 does; narrower models start with larger numbers") {
  const auto std_of = [](const ModelConfig& config, const std::string& name) {
    for (const ParamTensor& tensor : param_table(config)) {
      if (tensor.name == name) return tensor.init_std;
    }
    return -1.0f;
  };
  for (const ModelConfig& config : {gpt2(12, 12, 768), gpt2(24, 16, 1024), gpt2(48, 25, 1600)}) {
    CHECK(std_of(config, "wte") == 0.02f);
    CHECK(std_of(config, "wpe") == 0.01f);
    CHECK(std_of(config, "block.1.qkvw") == 0.02f);
    CHECK(std_of(config, "block.1.attprojw") == doctest::Approx(0.02 / std::sqrt(2.0 * config.num_layers)));
  }
  CHECK(std_of(gpt2(4, 4, 192), "wte") == doctest::Approx(0.04));
  CHECK(std_of(gpt2(4, 4, 192), "wpe") == doctest::Approx(0.02));
}

TEST_CASE("errors: a tensor without a role, two of one name, an unknown family: each is named") {
  std::vector<ParamTensor> rows = find_family("gpt2").rows(kOdd, {});
  rows[3].role = Role::none;
  CHECK_THROWS_WITH_AS(arrange_table(rows, kOdd, {}),
                       doctest::Contains("the tensor block.0.ln1b of a gpt2 has no role"), Error);
  rows = find_family("gpt2").rows(kOdd, {});
  rows[5].name = "wte";
  CHECK_THROWS_WITH_AS(arrange_table(rows, kOdd, {}), doctest::Contains("two tensors of a gpt2 are called wte"), Error);
  ModelConfig other = kOdd;
  other.family = "gpt5";
  CHECK_THROWS_WITH_AS(param_table(other), doctest::Contains("no family of models \"gpt5\"; expected one of: gpt2"),
                       Error);
  CHECK_THROWS_AS(make_cpu_model(other, true), Error);
  CHECK_THROWS_AS(register_family(find_family("gpt2")), std::logic_error);
}
