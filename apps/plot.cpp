// Draws a run's metrics, a model's block or its attention, as a picture (SVG).
//   build/plot loss --run runs/stories --out loss.svg
//   build/plot accuracy --run runs/sms-spam --out accuracy.svg
//   build/plot metrics --run runs/stories --field grad_norm --out norm.svg
//   build/plot schedule --steps 1000 --schedule cosine --out schedule.svg
//   build/plot model --model gpt2 --out model.svg
//   build/plot attention --model runs/stories/latest --prompt "Once upon a time" --layer 1 --out attention.svg
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <map>
#include <span>

#include "llm/flags/cli.h"
#include "llm/flags/train_flags.h"
#include "llm/formats/huggingface.h"
#include "llm/formats/open_weights.h"
#include "llm/inference/attention_map.h"
#include "llm/models/plan_ops.h"
#include "llm/support/chart.h"
#include "llm/support/error.h"
#include "llm/support/file.h"
#include "llm/support/metrics.h"
#include "llm/training/schedule.h"

namespace {

namespace fs = std::filesystem;

struct PlotFlags {
  std::string out, title;
  std::vector<std::string> runs, fields = {"loss"};
  std::string x = "step";
  std::string model, prompt;
  int layer = 0, head = -1;
  TrainConfig train;
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

std::string joined(const std::map<std::string, size_t>& names) {
  std::string all;
  for (const auto& [name, index] : names) all += (all.empty() ? "" : ", ") + name;
  return all;
}

// ---- curves --------------------------------------------------------------------------------------------------------

// A second unit for the steps: tokens if each step takes the same number, else epochs; none if the run has neither.
ScaleAbove scale_above(const Metrics& metrics) {
  const double tokens = metrics.batch_tokens;
  double epochs = 0, last = 0;
  metrics.for_each_pair("step", "step", [&](double step, double) { last = std::max(last, step); });
  metrics.for_each_pair("step", "epoch", [&](double step, double epoch) {
    if (step > 0) epochs = epoch / step;
  });
  if (tokens > 0 && last > 0) {
    const double seen = tokens * last;
    if (seen >= 2e9) return {"tokens seen (billions)", 1e-9 * tokens};
    if (seen >= 2e6) return {"tokens seen (millions)", 1e-6 * tokens};
    return {"tokens seen", tokens};
  }
  if (epochs > 0) return {"epochs", epochs};
  return {};
}

// A number that a run may have, and its label.
struct Field {
  const char *key, *name;
};

// For each run all the fields that it has; throws Error for a run that has none of them.
std::vector<Curve> curves_of(const std::vector<Metrics>& runs, std::span<const Field> fields, const std::string& x,
                             double scale, const char* what) {
  std::vector<Curve> curves;
  for (const Metrics& run : runs) {
    const size_t before = curves.size();
    for (const Field& field : fields) {
      std::vector<std::pair<double, double>> points = run.points(field.key, x, scale);
      if (points.empty()) continue;
      const std::string place = runs.size() > 1 ? run.given + ": " : "";
      curves.push_back({place + field.name, std::move(points)});
    }
    if (curves.size() == before) {
      fail("%s: no %s over %s; its numbers are: %s", run.path.c_str(), what, x.c_str(), joined(run.present).c_str());
    }
  }
  return curves;
}

std::vector<Metrics> read_runs(const PlotFlags& flags) { return {flags.runs.begin(), flags.runs.end()}; }

std::string title_or(const PlotFlags& flags, const char* otherwise) {
  return flags.title.empty() ? otherwise : flags.title;
}

void plot_loss(const PlotFlags& flags) {
  const Field fields[] = {{"loss", "training"}, {"val_loss", "validation"}};
  const std::vector<Metrics> runs = read_runs(flags);
  const std::vector<Curve> curves = curves_of(runs, fields, "step", 1, "loss");
  ScaleAbove above = scale_above(runs[0]);
  for (const Metrics& run : runs) {
    const ScaleAbove other = scale_above(run);
    if (other.label != above.label || other.per_x != above.per_x) above = {};  // no single scale is right for all
  }
  write_picture(curves_svg(title_or(flags, "Loss"), "step", "loss (nats)", curves, above), flags.out);
}

void plot_accuracy(const PlotFlags& flags) {
  const Field fields[] = {{"train_accuracy", "training"}, {"val_accuracy", "validation"}};
  const std::vector<Curve> curves =
      curves_of(read_runs(flags), fields, "epoch", 100, "accuracy (finetune classify writes it)");
  write_picture(curves_svg(title_or(flags, "Accuracy"), "epoch", "accuracy (%)", curves, {}), flags.out);
}

void plot_metrics(const PlotFlags& flags) {
  std::vector<Curve> curves;
  for (const std::string& run : flags.runs) {
    const Metrics metrics(run);
    for (const std::string& field : flags.fields) {
      Curve curve{(flags.runs.size() > 1 ? run + ": " : "") + in_words(field), metrics.points(field, flags.x, 1)};
      if (curve.points.empty()) {
        fail("%s: no %s over %s; its numbers are: %s", metrics.path.c_str(), field.c_str(), flags.x.c_str(),
             joined(metrics.present).c_str());
      }
      curves.push_back(std::move(curve));
    }
  }
  // "train loss" and "val loss" are both a loss.
  const std::string first = in_words(flags.fields[0]), last_word = first.substr(first.rfind(' ') + 1);
  bool alike = true;
  for (const std::string& field : flags.fields) alike = alike && in_words(field).ends_with(last_word);
  const std::string y_label = flags.fields.size() == 1 ? first : alike ? last_word : "";
  write_picture(curves_svg(flags.title, in_words(flags.x), y_label, curves, {}), flags.out);
}

// ---- schedule ------------------------------------------------------------------------------------------------------

// The trainers' flags that determine a learning rate.
void add_schedule_flags(CLI::App& app, TrainConfig& config) {
  const std::set<std::string_view> names = {"model", "steps", "lr", "min-lr", "start-lr", "warmup-steps", "schedule"};
  for_each_flag(config, [&](Flag flag, auto& field) {
    const std::string_view name = flag.name;
    if (!names.contains(name)) return;
    // Without data, neither --epochs nor a model directory gives the length.
    if (name == "model") flag.help = "a preset, for its steps and rate; another model needs --steps and --lr";
    if (name == "steps") flag.help = "optimizer steps; 0: the preset's";
    flag.group = "Schedule";
    add_flag(app, flag, field);
  });
}

void plot_schedule(PlotFlags& flags) {
  constexpr int64_t kPoints = 390;  // curves_svg() draws each of this many
  TrainConfig& c = flags.train;
  validate(c);
  if (const ModelPreset* preset = find_preset(c.model)) {
    if (c.lr == 0) c.lr = preset->lr;
    if (c.steps == 0) c.steps = preset->steps;
  } else if (c.lr == 0 || c.steps == 0) {
    fail_usage("--model %s is not a preset, which would set the steps and the rate: give --steps and --lr",
               c.model.c_str());
  }
  if (c.warmup_steps < 0) c.warmup_steps = default_warmup_steps(c.steps);
  validate(c);  // again, now that all values are known
  const Schedule schedule{c.schedule, c.lr, c.min_lr, c.warmup_steps, c.steps, c.start_lr};
  std::set<int64_t> steps = {std::max<int64_t>(c.warmup_steps - 1, 0), std::min(c.warmup_steps, c.steps - 1)};
  const int64_t n = std::min(c.steps, kPoints);
  for (int64_t i = 0; i < n; ++i) {
    steps.insert(n == 1 ? 0
                        : static_cast<int64_t>(std::llround(static_cast<double>(c.steps - 1) * static_cast<double>(i) /
                                                            static_cast<double>(n - 1))));
  }
  Curve curve{c.schedule, {}};
  for (const int64_t step : steps) curve.points.push_back({static_cast<double>(step), learning_rate(schedule, step)});
  write_picture(curves_svg(title_or(flags, "Learning rate"), "step", "learning rate", {curve}, {}), flags.out);
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
  const std::vector<int32_t> ids = tokenizer->encode(flags.prompt, Special::parsed);
  const size_t most = std::min(kMostTokens, static_cast<size_t>(shape.max_seq_len));
  if (ids.empty() || ids.size() > most) {
    fail_usage("--prompt has %zu tokens, expected 1 to %zu", ids.size(), most);
  }
  const int T = static_cast<int>(ids.size());
  CpuModel<float> model(shape, false, {.trainable = trains_nothing(shape)});
  load_weights(model, flags.model);
  const std::vector<float> pooling(ids.size(), 0);  // the head is not read
  model.forward({.tokens = ids.data(),
                 .B = 1,
                 .T = T,
                 .pass = Pass::evaluate,
                 .pooling = shape.num_classes > 0 ? pooling.data() : nullptr});
  const std::vector<float> weights = attention_weights(model, flags.layer, T);
  if (!std::all_of(weights.begin(), weights.end(), [](float x) { return std::isfinite(x); })) {
    fail("%s: attention of layer %d is not finite: its weights are damaged", flags.model.c_str(), flags.layer);
  }

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

// ---- a block -------------------------------------------------------------------------------------------------------

// The operations of one block, as the walk itself makes them, and the activations between them.
void plot_model(const PlotFlags& flags) {
  const ModelPreset* preset = find_preset(flags.model);
  if (!preset && !fs::exists(flags.model)) {
    fail_usage("--model is '%s', expected a preset such as gpt2, gpt2-medium or d4, or a model directory",
               flags.model.c_str());
  }
  const ModelConfig shape = preset ? preset->shape : read_model_config(flags.model);
  if (flags.layer >= shape.num_layers) {
    fail_usage("--layer %d: the model has %d, 0 to %d", flags.layer, shape.num_layers, shape.num_layers - 1);
  }
  const int T = shape.max_seq_len;
  const Plan plan = plan_of(shape, {}, 1, T, T, 0, true);
  const auto names = [&](const std::vector<Span>& spans) {
    std::vector<std::string> all;
    for (const Span& span : spans) {
      const PlannedBuffer& buffer = plan.buffers[buffer_at(plan, span.data)];
      if (!buffer.activation) continue;
      all.push_back(strprintf("%s (%lld, %lld)", buffer.name.c_str(), static_cast<long long>(buffer.rows),
                              static_cast<long long>(buffer.cols)));
    }
    return all;
  };
  std::vector<FlowStep> steps;
  for (const PlannedOp& op : plan.ops) {
    if (op.layer != flags.layer) continue;
    steps.push_back({std::string(op.name) + (op.of[0] ? ": " : "") + op.of, names(op.reads), names(op.writes),
                     op.phase == Phase::backward});
  }
  const std::string title =
      flags.title.empty() ? strprintf("Block %d of %s, one sequence of %d tokens", flags.layer, flags.model.c_str(), T)
                          : flags.title;
  write_picture(flow_svg(title, steps), flags.out);
}

}  // namespace

int main(int argc, char** argv) {
  CLI::App app("Draws a run's metrics, a model's block or its attention, as a picture (SVG).");
  PlotFlags flags;
  app.require_subcommand(1);
  CLI::App* loss = app.add_subcommand("loss", "training and validation loss over the steps");
  CLI::App* accuracy =
      app.add_subcommand("accuracy", "a classifier's training and validation accuracy over the epochs");
  CLI::App* metrics = app.add_subcommand("metrics", "any numbers of a run's metrics.jsonl as curves");
  CLI::App* schedule = app.add_subcommand("schedule", "the learning rate over the steps, by the trainers' flags");
  CLI::App* model = app.add_subcommand("model", "a block's operations, forward and backward, and what is between them");
  CLI::App* attention = app.add_subcommand("attention", "how much each token attends to each other one");
  for (CLI::App* command : {loss, accuracy, metrics}) {
    command->add_option("--run", flags.runs, "a run's folder, or its metrics.jsonl; may be repeated")->required();
  }
  metrics->add_option("--field", flags.fields, "what to draw: loss, val_loss, lr ...; may be repeated")
      ->capture_default_str();
  metrics->add_option("--x", flags.x, "the number on the x axis")->capture_default_str();
  add_schedule_flags(*schedule, flags.train);
  attention->add_option("--model", flags.model, "model directory with a tokenizer")->required();
  attention->add_option("--prompt", flags.prompt, "what the model reads")->required();
  model->add_option("--model", flags.model, "a preset such as gpt2, or a model directory")->required();
  for (CLI::App* command : {model, attention}) {
    command->add_option("--layer", flags.layer, "layer to draw; 0 is the first")
        ->check(CLI::Range(0, 1 << 30))
        ->capture_default_str();
  }
  attention->add_option("--head", flags.head, "head to draw; 0 is the first; default: all of the layer, side by side")
      ->check(CLI::Range(0, 1 << 30));
  const std::pair<CLI::App*, void (*)(PlotFlags&)> commands[] = {
      {loss, [](PlotFlags& f) { plot_loss(f); }},       {accuracy, [](PlotFlags& f) { plot_accuracy(f); }},
      {metrics, [](PlotFlags& f) { plot_metrics(f); }}, {schedule, plot_schedule},
      {model, [](PlotFlags& f) { plot_model(f); }},     {attention, [](PlotFlags& f) { plot_attention(f); }}};
  for (const auto& [command, draw] : commands) {
    command->add_option("--title", flags.title, "title above the picture");
    command->add_option("--out", flags.out, "the SVG file to write")->required();
  }
  return run_program(app, argc, argv, [&] {
    for (const auto& [command, draw] : commands) {
      if (command->parsed()) draw(flags);
    }
  });
}
