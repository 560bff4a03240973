// The cost of a training run on one or more GPUs, before any is rented: memory of each, time of a step by parts, tokens
// per second, days and dollars. The formulas are in plan.h, explained in docs/distributed.md.
//
//   build/plan --model gpt2-xl --gpus 64 --zero 1           one run; where memory is too small, prints what would fit
//   build/plan --scaling                                    GPT-2 on 8, 64 and 512 GPUs, and what limits each
//   build/plan --published                                  llm.c's published runs next to the prediction
#include "dev/predict/plan.h"

#include <map>
#include <optional>

#include "dev/bench/table.h"
#include "llm/flags/command_line.h"
#include "llm/flags/train_flags.h"
#include "llm/models/memory_plan.h"
#include "llm/support/file.h"

namespace {

using namespace plan;

struct Flags {
  std::string model = "gpt2", gpu = "h100", recompute = "none", precision = "bf16", moments = "float", json;
  int gpus = 8, gpus_per_node = 8, B = 64, T = 1024, zero = 0;
  int64_t total_batch_tokens = 0, loss_chunk = 0;
  double network_gbps = 400, tokens = 10e9, dollars = 2.5;
  bool markdown = false, scaling = false, published = false;
};

const char* part_name(size_t part) {
  static const char* const names[] = {"matrix products", "attention", "memory-bound kernels", "optimizer"};
  return names[part];
}

const ModelConfig& shape_of(const std::string& model) {
  const ModelPreset* preset = find_preset(model);
  if (!preset) fail_usage("--model is '%s', expected a preset such as gpt2, gpt2-medium or d4", model.c_str());
  return preset->shape;
}

// "1 2 4", or "none".
std::string list(const std::vector<int64_t>& numbers) {
  std::string text;
  for (const int64_t n : numbers) text += strprintf("%s%lld", text.empty() ? "" : " ", static_cast<long long>(n));
  return text.empty() ? "none" : text;
}

void check_batch(const Run& run) {
  const int64_t total = run.total_batch_tokens, at_once = run.tokens_at_once();
  if (total % at_once == 0) return;
  std::vector<int64_t> sizes, worlds, totals;
  for (int64_t B = 1; B <= run.B; ++B) {
    if (total % (B * run.T * run.gpus) == 0) sizes.push_back(B);
  }
  for (int64_t gpus = 1; gpus <= 2 * run.gpus; ++gpus) {
    const bool whole_nodes = gpus <= run.gpus_per_node || gpus % run.gpus_per_node == 0;
    if (whole_nodes && total % (int64_t{run.B} * run.T * gpus) == 0) worlds.push_back(gpus);
  }
  if (total > at_once) totals.push_back(total / at_once * at_once);
  totals.push_back((total / at_once + 1) * at_once);
  fail_usage(
      "--total-batch-tokens %lld is not a multiple of --batch-size %d x --seq-len %d x --gpus %d = %lld; these would "
      "be:\n"
      "  --batch-size          %s\n  --gpus                %s\n  --total-batch-tokens  %s",
      static_cast<long long>(total), run.B, run.T, run.gpus, static_cast<long long>(at_once), list(sizes).c_str(),
      list(worlds).c_str(), list(totals).c_str());
}

Run run_of(const Flags& flags) {
  const ModelConfig& shape = shape_of(flags.model);
  const Gpu* gpu = find_gpu(flags.gpu);
  if (!gpu) {
    std::string names;
    for (const Gpu& known : kGpus) names += std::string(" ") + known.name;
    fail_usage("--gpu is '%s', expected one of%s", flags.gpu.c_str(), names.c_str());
  }
  if (flags.T > shape.max_seq_len) {
    fail_usage("--seq-len is %d, and the context of %s is %d", flags.T, flags.model.c_str(), shape.max_seq_len);
  }
  if (flags.gpus > flags.gpus_per_node && flags.gpus % flags.gpus_per_node != 0) {
    fail_usage("--gpus %d do not fill nodes of --gpus-per-node %d: expected up to %d, or a multiple of it", flags.gpus,
               flags.gpus_per_node, flags.gpus_per_node);
  }
  Run run{.shape = shape, .gpu = *gpu};
  run.gpus = flags.gpus;
  run.gpus_per_node = flags.gpus_per_node;
  run.B = flags.B;
  run.T = flags.T;
  run.zero = flags.zero;
  run.recompute = flags.recompute == "none"   ? Recompute::none
                  : flags.recompute == "gelu" ? Recompute::gelu
                                              : Recompute::block;
  run.moments = flags.moments == "bf16" ? Moments::bf16 : Moments::f32;
  run.loss_chunk = flags.loss_chunk;
  run.bf16 = flags.precision == "bf16";
  run.network = flags.network_gbps * 1e9 / 8;
  run.total_batch_tokens = flags.total_batch_tokens > 0 ? flags.total_batch_tokens : run.tokens_at_once();
  check_batch(run);
  return run;
}

// ---- runs that do not fit -------------------------------------------------------------------------------------------

// Throws Error with the possible ways, each with its bytes.
void check_memory(const Run& run) {
  if (fits(run)) return;
  std::string ways;
  const auto try_way = [&](const std::string& flags, const Run& changed) {
    ways += strprintf("\n  %-48s %7.1f GB%s", flags.c_str(), static_cast<double>(memory_of(changed)) / 1e9,
                      fits(changed) ? ", fits" : "");
  };
  // The largest B that fits; the total batch stays, so it must divide the previous B.
  const auto smaller_batch = [&](const std::string& flags, Run changed) {
    while (changed.B > 1 && (run.B % changed.B != 0 || !fits(changed))) --changed.B;
    if (changed.B < run.B) try_way(flags + strprintf("--batch-size %d", changed.B), changed);
  };
  Run all = run;
  std::string all_flags;
  for (int zero = run.zero + 1; zero <= 3 && run.gpus > 1; ++zero) {
    Run changed = run;
    changed.zero = all.zero = zero;
    try_way(strprintf("--zero %d", zero), changed);
    all_flags = strprintf("--zero %d ", zero);
  }
  if (run.recompute == Recompute::none) {
    Run changed = run;
    changed.recompute = Recompute::gelu;
    try_way("--recompute gelu", changed);
  }
  if (run.recompute != Recompute::block) {
    Run changed = run;
    changed.recompute = all.recompute = Recompute::block;
    try_way("--recompute block", changed);
    all_flags += "--recompute block ";
  }
  if (run.moments == Moments::f32) {
    Run changed = run;
    changed.moments = all.moments = Moments::bf16;
    try_way("--moments bf16", changed);
    all_flags += "--moments bf16 ";
  }
  constexpr int64_t kChunk = 4096;
  if (run.loss_chunk == 0 && int64_t{run.B} * run.T > kChunk) {
    Run changed = run;
    changed.loss_chunk = all.loss_chunk = kChunk;
    try_way("--loss-chunk 4096", changed);
    all_flags += "--loss-chunk 4096 ";
  }
  smaller_batch("", run);
  if (!all_flags.empty()) {
    try_way(all_flags, all);
    smaller_batch(all_flags, all);
  }
  for (const Gpu& gpu : kGpus) {
    if (gpu.memory <= run.gpu.memory) continue;
    Run changed = run;
    changed.gpu = gpu;
    if (fits(changed)) try_way(strprintf("--gpu %s (%.0f GB)", gpu.name, gpu.memory / 1e9), changed);
  }
  fail("the run takes %.1f GB of each GPU, and %s has %.0f GB; these take less:%s",
       static_cast<double>(memory_of(run)) / 1e9, run.gpu.name, run.gpu.memory / 1e9,
       ways.empty() ? "\n  (no flag is left)" : ways.c_str());
}

// ---- one run -------------------------------------------------------------------------------------------------------

struct Cost {
  double days, dollars;
};
Cost cost_of(const Run& run, const Flags& flags) {
  const double seconds = flags.tokens / tokens_per_second(run);
  return {seconds / 86400, seconds / 3600 * run.gpus * flags.dollars};
}

void print_memory(const Run& run, bool markdown) {
  std::vector<std::vector<std::string>> table{{"memory of each GPU", "GB"}};
  for (const MemoryRow& row : memory_rows(run)) {
    table.push_back({row.name, strprintf("%.2f", static_cast<double>(row.bytes) / 1e9)});
  }
  table.push_back({strprintf("all, of %.0f GB", run.gpu.memory / 1e9),
                   strprintf("%.2f", static_cast<double>(memory_of(run)) / 1e9)});
  print_table(table, 1, markdown);
}

void print_step(const StepTime& time, bool markdown) {
  std::vector<std::vector<std::string>> table{{"a step", "ms", "share"}};
  const auto row = [&](const std::string& name, double seconds) {
    table.push_back({name, strprintf("%.2f", 1e3 * seconds), strprintf("%.1f %%", 100 * seconds / time.seconds())});
  };
  for (size_t part = 0; part < time.parts.size(); ++part) row(part_name(part), time.parts[part]);
  row("waiting for launches", time.launching);
  row("exposed communication", time.exposed);
  row("all", time.seconds());
  print_table(table, 1, markdown);
  if (time.communication == 0) return;
  std::printf("\ncommunication: %.4g M elements, %.2f ms, of which %.2f (%.0f %%) overlapped with computing\n",
              static_cast<double>(time.volume) / 1e6, 1e3 * time.communication,
              1e3 * std::max(0.0, time.communication - time.exposed),
              100 * std::max(0.0, 1 - time.exposed / time.communication));
}

void write_json(FileWriter& file, const Flags& flags, const Run& run, const StepTime& time) {
  nlohmann::json memory = nlohmann::json::object(), parts = nlohmann::json::object();
  for (const MemoryRow& row : memory_rows(run)) memory[row.name] = row.bytes;
  for (size_t part = 0; part < time.parts.size(); ++part) parts[part_name(part)] = 1e3 * time.parts[part];
  parts["waiting for launches"] = 1e3 * time.launching;
  parts["exposed communication"] = 1e3 * time.exposed;
  const Cost cost = cost_of(run, flags);
  const nlohmann::json json{{"predicted", true},
                            {"model", flags.model},
                            {"gpu", flags.gpu},
                            {"gpus", run.gpus},
                            {"gpus_per_node", run.gpus_per_node},
                            {"batch_size", run.B},
                            {"seq_len", run.T},
                            {"micro_batches", run.micro_batches()},
                            {"total_batch_tokens", run.total_batch_tokens},
                            {"zero", run.zero},
                            {"recompute", flags.recompute},
                            {"precision", flags.precision},
                            {"moments", flags.moments},
                            {"loss_chunk", flags.loss_chunk},
                            {"memory_bytes", memory},
                            {"memory_bytes_all", memory_of(run)},
                            {"step_ms", parts},
                            {"step_ms_all", 1e3 * time.seconds()},
                            {"communication_ms", 1e3 * time.communication},
                            {"communication_elements", time.volume},
                            {"tokens_per_second", tokens_per_second(run)},
                            {"mfu", model_flops_utilisation(run)},
                            {"tokens", flags.tokens},
                            {"days", cost.days},
                            {"dollars", cost.dollars}};
  file.write(json.dump(1) + "\n");
  file.commit();
}

void print_run(const Flags& flags) {
  std::optional<FileWriter> json;
  if (!flags.json.empty()) json.emplace(flags.json);
  const Run run = run_of(flags);
  check_memory(run);
  const StepTime time = step_time(run);
  const double rate = tokens_per_second(run);
  std::printf(
      "Predicted, not measured: %s on %d x %s in %d node%s, ZeRO stage %d, %s%s%s%s.\n"
      "%lld tokens per step: %lld micro-batch%s of %d x %d on each GPU.\n\n",
      flags.model.c_str(), run.gpus, run.gpu.name, run.nodes(), run.nodes() > 1 ? "s" : "", run.zero,
      flags.precision.c_str(), flags.recompute == "none" ? "" : (", recomputing " + flags.recompute).c_str(),
      flags.moments == "float" ? "" : (", moments in " + flags.moments).c_str(),
      flags.loss_chunk == 0
          ? ""
          : strprintf(", %lld rows of logits at a time", static_cast<long long>(flags.loss_chunk)).c_str(),
      static_cast<long long>(run.total_batch_tokens), static_cast<long long>(run.micro_batches()),
      run.micro_batches() > 1 ? "es" : "", run.B, run.T);
  print_memory(run, flags.markdown);
  std::printf("\n");
  print_step(time, flags.markdown);
  const Cost cost = cost_of(run, flags);
  std::printf("\n%.0f tokens/s, %.0f per GPU, %.1f %% of the peak\n", rate, rate / run.gpus,
              100 * model_flops_utilisation(run));
  std::printf("%.4g tokens: %.0f steps, %.3g days (%.3g hours), %.4g dollars at %g per GPU and hour\n", flags.tokens,
              std::ceil(flags.tokens / static_cast<double>(run.total_batch_tokens)), cost.days, 24 * cost.days,
              cost.dollars, flags.dollars);
  if (json) write_json(*json, flags, run, time);
}

// ---- scaling -------------------------------------------------------------------------------------------------------

// What a GPU loses compared with one that computes the batch of 8 by itself: the part that costs most, and its share of
// the time. `share`: the share of that batch that each GPU computes.
std::string limit_of(const StepTime& time, const StepTime& alone, double share) {
  std::map<double, std::string> losses;
  losses[time.parts[0] - share * alone.parts[0]] = "matrix products too small to fill the GPU";
  losses[time.parts[3] - share * alone.parts[3]] = "optimizer";
  losses[time.launching - share * alone.launching] = "launches";
  losses[time.exposed] = "exposed communication";
  const auto& [seconds, name] = *losses.rbegin();
  return strprintf("%s, %.1f %%", name.c_str(), 100 * seconds / time.seconds());
}

void print_scaling(const Flags& flags) {
  if (8 % flags.gpus_per_node != 0 && (flags.gpus_per_node % 8 != 0 || 64 % flags.gpus_per_node != 0)) {
    fail_usage("--gpus-per-node %d: 8, 64 and 512 GPUs do not fill such nodes, expected a power of 2 up to 64",
               flags.gpus_per_node);
  }
  std::vector<std::vector<std::string>> table{{"model", "batch", "GPUs", "tokens per step", "B", "micro-batches",
                                               "ms per step", "exposed", "tokens/s per GPU", "efficiency",
                                               "what costs most"}};
  const auto block = [&](const char* model, int B, int64_t tokens, bool weak) {
    Run run = run_of(flags);
    run.shape = shape_of(model);
    run.T = 1024;
    run.zero = 1;
    Run alone = run;
    alone.gpus = 1;
    alone.B = B;
    alone.total_batch_tokens = tokens;
    const StepTime base = step_time(alone);
    for (const int gpus : {8, 64, 512}) {
      run.gpus = gpus;
      run.total_batch_tokens = weak ? tokens * (gpus / 8) : tokens;
      run.B = static_cast<int>(std::min<int64_t>(B, run.total_batch_tokens / run.T / gpus));
      const StepTime time = step_time(run);
      const double rate = tokens_per_second(run) / gpus;
      const double share = static_cast<double>(run.total_batch_tokens) / static_cast<double>(tokens) / gpus;
      table.push_back({model, weak ? "grows" : "fixed", std::to_string(gpus), std::to_string(run.total_batch_tokens),
                       std::to_string(run.B), std::to_string(run.micro_batches()),
                       strprintf("%.1f", 1e3 * time.seconds()),
                       strprintf("%.1f %%", 100 * time.exposed / time.seconds()), strprintf("%.0f", rate),
                       strprintf("%.0f %%", 100 * rate / tokens_per_second(alone)), limit_of(time, base, share)});
    }
  };
  for (const bool weak : {false, true}) {
    block("gpt2", 64, 524288, weak);
    block("gpt2-xl", 16, 1048576, weak);
  }
  std::printf(
      "Predicted, not measured: %s, nodes of %d, %g Gbit/s between nodes per GPU, ZeRO stage 1, %s, T 1024.\n\n",
      flags.gpu.c_str(), flags.gpus_per_node, flags.network_gbps, flags.precision.c_str());
  print_table(table, 2, flags.markdown);
  std::printf("\nefficiency: tokens/s of a GPU, as a share of those of a single GPU with the batch of 8\n");
}

// ---- published runs ------------------------------------------------------------------------------------------------

void print_published(const Flags& flags) {
  std::vector<std::vector<std::string>> table{{"model", "GPUs", "published in", "role", "B", "tokens per step",
                                               "published ms", "predicted ms", "error", "MFU"}};
  for (const Published& published : kPublished) {
    const Run run = plan::run_of(published, shape_of(published.model));
    const double ms = 1e3 * step_time(run).seconds();
    table.push_back({published.model, strprintf("%d x %s", run.gpus, run.gpu.name), published.from,
                     published.calibrates ? "calibrates" : "blind", std::to_string(run.B),
                     std::to_string(run.total_batch_tokens), strprintf("%.0f", published.ms), strprintf("%.0f", ms),
                     strprintf("%+.1f %%", std::round(1000 * (ms / published.ms - 1)) / 10 + 0.0),
                     strprintf("%.1f %%", 100 * model_flops_utilisation(run))});
  }
  print_table(table, 4, flags.markdown);
  const Published& largest = kPublished[std::size(kPublished) - 1];
  double kept = 0;
  for (const MemoryRow& row : memory_rows(plan::run_of(largest, shape_of(largest.model)))) {
    if (row.name == "activations" || row.name == "logits") kept += static_cast<double>(row.bytes);
  }
  std::printf("\nActivations and logits of the last: %.0f MiB; llm.c's log has %.0f: %+.1f %%\n", kept / (1 << 20),
              kPublishedActivations, 100 * (kept / (1 << 20) / kPublishedActivations - 1));
}

}  // namespace

int main(int argc, char** argv) {
  CLI::App app(
      "Plans a training run on one or more GPUs: memory, time of a step, days and dollars. Nothing is measured.");
  Flags flags;
  app.add_option("--model", flags.model, "a preset, as for train_gpt2's --model")->capture_default_str();
  app.add_option("--gpu", flags.gpu, "GPU type: a100 (80 GB) | h100 | h200 | b200, each as in servers of 8")
      ->capture_default_str();
  app.add_option("--gpus", flags.gpus, "GPUs in all, one rank each")
      ->check(CLI::Range(1, 65536))
      ->capture_default_str();
  app.add_option("--gpus-per-node", flags.gpus_per_node, "GPUs that NVLink connects")
      ->check(CLI::Range(1, 72))
      ->capture_default_str();
  app.add_option("--batch-size", flags.B, "B: sequences per micro-batch and GPU")
      ->check(CLI::Range(1, 65536))
      ->capture_default_str();
  app.add_option("--seq-len", flags.T, "T: tokens per sequence")->check(CLI::Range(1, 1 << 20))->capture_default_str();
  app.add_option("--total-batch-tokens", flags.total_batch_tokens,
                 "tokens per step on all GPUs, a multiple of B*T*GPUs; 0: one micro-batch each")
      ->check(CLI::Range(0, 1 << 30))
      ->capture_default_str();
  app.add_option("--zero", flags.zero,
                 "ZeRO stage: 0, or sharded: 1 optimizer state, 2 also gradients, 3 also parameters")
      ->check(CLI::Range(0, 3))
      ->capture_default_str();
  app.add_option("--recompute", flags.recompute, "activations to recompute: none | gelu | block, as in train_gpt2cu")
      ->check(CLI::IsMember({"none", "gelu", "block"}))
      ->capture_default_str();
  app.add_option("--precision", flags.precision, "number type: bf16 (with master weights) | tf32")
      ->check(CLI::IsMember({"bf16", "tf32"}))
      ->capture_default_str();
  app.add_option("--moments", flags.moments, "AdamW's moments: float | bf16, as in train_gpt2cu")
      ->check(CLI::IsMember({"float", "bf16"}))
      ->capture_default_str();
  app.add_option("--loss-chunk", flags.loss_chunk,
                 "rows of logits in memory at a time, as in train_gpt2cu; 0: all of a micro-batch")
      ->check(CLI::Range(0, 1 << 30))
      ->capture_default_str();
  app.add_option("--network-gbps", flags.network_gbps, "Gbit/s between nodes, per GPU and direction")
      ->check(CLI::Range(0.001, 1e5))
      ->capture_default_str();
  app.add_option("--tokens", flags.tokens, "tokens to train on")->check(CLI::Range(1.0, 1e18))->capture_default_str();
  app.add_option("--dollars-per-gpu-hour", flags.dollars, "price of a GPU")
      ->check(CLI::Range(0.0, 1e6))
      ->capture_default_str();
  CLI::Option* json = app.add_option("--json", flags.json, "file that gets the plan of a run too");
  app.add_flag("--markdown", flags.markdown, "print the tables as Markdown");
  CLI::Option* scaling =
      app.add_flag("--scaling", flags.scaling, "GPT-2 on 8, 64 and 512 of these GPUs")->excludes(json);
  app.add_flag("--published", flags.published, "llm.c's published runs, and the predictions for them")
      ->excludes(scaling)
      ->excludes(json);
  return run_program(app, argc, argv, [&] {
    if (flags.scaling) return print_scaling(flags);
    if (flags.published) return print_published(flags);
    print_run(flags);
  });
}
