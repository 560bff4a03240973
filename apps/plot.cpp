// Draws what a run wrote down, or what a model looks at, as a picture (SVG).
//   build/plot metrics --run runs/stories --field loss --field val_loss --out loss.svg
//   build/plot attention --model runs/stories/latest --text "Once upon a time" --layer 1 --out attention.svg
#include <cstdio>
#include <map>
#include <set>

#include "apps/command_line.h"
#include "gpt2/attention_map.h"
#include "gpt2/chart.h"
#include "gpt2/file.h"
#include "gpt2/huggingface.h"
#include "gpt2/weights.h"

namespace {

namespace fs = std::filesystem;

struct PlotFlags {
  std::string out, title;
  std::vector<std::string> runs, fields = {"loss"};
  std::string x = "step";
  std::string model, text;
  int layer = 0, head = -1;
};

void write_picture(const std::string& svg, const std::string& out) {
  FileWriter file(out);
  file.write(svg);
  file.commit();
  std::printf("wrote %s (%zu bytes)\n", out.c_str(), svg.size());
}

std::string in_words(std::string name) {
  std::replace(name.begin(), name.end(), '_', ' ');
  return name;
}

std::string joined(const std::set<std::string>& names) {
  std::string all;
  for (const std::string& name : names) all += (all.empty() ? "" : ", ") + name;
  return all;
}

// ---- curves --------------------------------------------------------------------------------------------------------

// Of each field, its points over x; lines that lack one of the two, or have it as something else than a number, say
// nothing about it.
std::vector<Curve> curves_of(const fs::path& run, const PlotFlags& flags) {
  const fs::path path = fs::is_directory(run) ? run / "metrics.jsonl" : run;
  const MappedFile file(path);
  std::map<std::string, std::map<double, double>> points;
  std::set<std::string> present;
  std::string_view rest = file.text();
  while (!rest.empty()) {
    const size_t end = rest.find('\n');
    const nlohmann::json line = nlohmann::json::parse(rest.substr(0, end), nullptr, false);
    rest.remove_prefix(end == std::string_view::npos ? rest.size() : end + 1);
    if (!line.is_object()) continue;  // cut off by a crash
    for (const auto& [name, value] : line.items()) {
      if (value.is_number()) present.insert(name);
    }
    if (!line.contains(flags.x) || !line[flags.x].is_number()) continue;
    for (const std::string& field : flags.fields) {
      if (line.contains(field) && line[field].is_number()) points[field][line[flags.x]] = line[field];
    }
  }
  if (present.empty()) fail("%s: no line with numbers, expected a run's metrics", path.c_str());
  std::vector<Curve> curves;
  for (const std::string& field : flags.fields) {
    if (points[field].empty()) {
      fail("%s: no %s over %s; its numbers are: %s", path.c_str(), field.c_str(), flags.x.c_str(),
           joined(present).c_str());
    }
    curves.push_back({in_words(field), {points[field].begin(), points[field].end()}});
  }
  return curves;
}

void plot_metrics(const PlotFlags& flags) {
  std::vector<Curve> curves;
  for (const std::string& run : flags.runs) {
    for (Curve& curve : curves_of(run, flags)) {
      if (flags.runs.size() > 1) curve.name = run + ": " + curve.name;
      curves.push_back(std::move(curve));
    }
  }
  // "train loss" and "val loss" are both a loss.
  const std::string first = in_words(flags.fields[0]), last_word = first.substr(first.rfind(' ') + 1);
  bool alike = true;
  for (const std::string& field : flags.fields) alike = alike && in_words(field).ends_with(last_word);
  const std::string y_label = flags.fields.size() == 1 ? first : alike ? last_word : "";
  write_picture(curves_svg(flags.title, in_words(flags.x), y_label, curves), flags.out);
}

// ---- attention -----------------------------------------------------------------------------------------------------

std::string label(const Tokenizer& tokenizer, int32_t id) {
  std::string text;
  for (const char c : replace_invalid_utf8(tokenizer.decode(std::span(&id, 1)))) {
    text += c == ' ' ? "·" : c == '\n' ? "↵" : std::string(1, c);
  }
  return text;
}

void plot_attention(const PlotFlags& flags) {
  constexpr size_t kMostTokens = 64;
  const ModelConfig shape = read_model_config(flags.model);
  const std::optional<Tokenizer> tokenizer = find_tokenizer(flags.model);
  if (!tokenizer) fail("%s: has no tokenizer, whose tokens the picture would show", flags.model.c_str());
  check_tokenizer(*tokenizer, shape, flags.model);
  if (flags.layer >= shape.num_layers) {
    fail_usage("--layer %d: the model has %d, 0 to %d", flags.layer, shape.num_layers, shape.num_layers - 1);
  }
  if (flags.head >= shape.num_heads) {
    fail_usage("--head %d: the model has %d, 0 to %d", flags.head, shape.num_heads, shape.num_heads - 1);
  }
  const std::vector<int32_t> ids = tokenizer->encode(flags.text, Special::parsed);
  const size_t most = std::min(kMostTokens, static_cast<size_t>(shape.max_seq_len));
  if (ids.empty() || ids.size() > most) {
    fail_usage("--text is of %zu tokens, expected 1 to %zu", ids.size(), most);
  }
  const int T = static_cast<int>(ids.size());
  CpuModel<float> model(shape, false, {.trainable = trains_nothing(shape)});
  load_weights(model, flags.model);
  if (shape.num_classes > 0) model.set_pooling(std::vector<float>(ids.size(), 0).data(), 1, T);
  model.forward(ids.data(), 1, T, Pass::evaluate);
  const std::vector<float> weights = attention_weights(model, flags.layer, T);

  std::vector<std::string> labels;
  for (const int32_t id : ids) labels.push_back(label(*tokenizer, id));
  std::vector<SquareMap> maps;
  for (int h = 0; h < shape.num_heads; ++h) {
    if (flags.head >= 0 && h != flags.head) continue;
    const auto begin = weights.begin() + int64_t{h} * T * T;
    maps.push_back({strprintf("head %d", h), {begin, begin + int64_t{T} * T}});
  }
  const std::string title = flags.title.empty() ? strprintf("Attention in layer %d", flags.layer) : flags.title;
  write_picture(square_maps_svg(title, labels, maps), flags.out);
}

}  // namespace

int main(int argc, char** argv) {
  CLI::App app("Draws what a run wrote down, or what a model looks at, as a picture (SVG).");
  PlotFlags flags;
  app.require_subcommand(1);
  CLI::App* metrics = app.add_subcommand("metrics", "numbers of a run's metrics.jsonl as curves");
  metrics->add_option("--run", flags.runs, "a run's folder, or its metrics.jsonl; may be repeated")->required();
  metrics->add_option("--field", flags.fields, "what to draw: loss, val_loss, lr ...; may be repeated")
      ->capture_default_str();
  metrics->add_option("--x", flags.x, "over what")->capture_default_str();
  metrics->add_option("--title", flags.title, "above the picture");
  CLI::App* attention = app.add_subcommand("attention", "how much of each token each other one gets");
  attention->add_option("--model", flags.model, "model directory with a tokenizer")->required();
  attention->add_option("--text", flags.text, "what the model reads")->required();
  attention->add_option("--layer", flags.layer, "0 is the first")->check(CLI::NonNegativeNumber)->capture_default_str();
  attention->add_option("--head", flags.head, "0 is the first; default: all of the layer, side by side")
      ->check(CLI::NonNegativeNumber);
  attention->add_option("--title", flags.title, "above the picture");
  for (CLI::App* command : {metrics, attention}) {
    command->add_option("--out", flags.out, "the SVG file to write")->required();
  }
  return run_program(app, argc, argv, [&] { metrics->parsed() ? plot_metrics(flags) : plot_attention(flags); });
}
