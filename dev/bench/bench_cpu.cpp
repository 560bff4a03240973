// The speed of the CPU's kernels on this machine: its ceilings, each operation of a step compared with them, whole
// steps, and how these grow with threads, with the sequence and with the model. docs/benchmarks.md explains how to read
// it.
//
//   build/bench_cpu                                     everything: some minutes
//   build/bench_cpu --only operations --model gpt2      one model's operations
//   build/bench_cpu --quick                             a tiny model, seconds: does it run?
#include <unistd.h>

#include <cstdlib>
#include <cstring>
#include <map>
#include <optional>
#include <random>
#include <tuple>

#include "dev/bench/table.h"
#include "dev/bench/timed_ops.h"
#include "llm/flags/command_line.h"
#include "llm/flags/train_flags.h"
#include "llm/models/batch.h"
#include "llm/models/config.h"
#include "llm/models/count.h"
#include "llm/models/cpu.h"
#include "llm/models/init.h"
#include "llm/models/memory_plan.h"
#include "llm/support/file.h"

namespace {

using Clock = std::chrono::steady_clock;
using nlohmann::json;
using Table = std::vector<std::vector<std::string>>;

struct Flags {
  std::vector<std::string> only{"operations", "steps", "threads", "lengths", "models"};
  std::vector<std::string> models{"gpt2", "gpt2-medium"};
  int B = 4, T = 64, tokens = 1024, steps = 5, threads = 0;
  std::string isa, precision, json;
  bool large = false, quick = false, markdown = false;
};

// Random tokens, the same ones every time.
Batch random_batch(int B, int T, int vocab_size) {
  Batch batch{B, T, {}, {}, {}, {}};
  std::mt19937 random(1);
  const size_t n = static_cast<size_t>(B) * static_cast<size_t>(T);
  batch.weights.assign(n, 1.0f / static_cast<float>(n));
  for (std::vector<int32_t>* tokens : {&batch.inputs, &batch.targets}) {
    for (size_t i = 0; i < n; ++i)
      tokens->push_back(static_cast<int32_t>(random() % static_cast<uint32_t>(vocab_size)));
  }
  return batch;
}

const char* name_of(Precision p) { return p == Precision::bf16 ? "bf16" : "fp32"; }

// A progress line on the terminal that names what is being measured; results go to the standard output.
void progress(const std::string& what) {
  const bool terminal = ::isatty(STDERR_FILENO) != 0;
  if (what.empty()) {
    if (terminal) std::fprintf(stderr, "\r\x1b[K");
    return;
  }
  std::fprintf(stderr, terminal ? "\r\x1b[Kmeasuring %s" : "measuring %s\n", what.c_str());
}

const ModelConfig& shape_of(const std::string& model) {
  const ModelPreset* preset = find_preset(model);
  if (!preset) fail_usage("--model is '%s', expected a preset such as gpt2, gpt2-medium or d4", model.c_str());
  return preset->shape;
}

// The memory that the system reports as available; 0: unknown.
double available_memory() {
  std::ifstream in("/proc/meminfo");
  std::string key, unit;
  double kilobytes = 0;
  while (in >> key >> kilobytes && std::getline(in, unit)) {
    if (key == "MemAvailable:") return 1024 * kilobytes;
  }
  return 0;
}

double planned_bytes(const ModelConfig& shape, Precision precision, int B, int T) {
  ModelOptions options;
  options.precision = precision;
  double bytes = 0;
  for (const MemoryRow& row : memory_plan(shape, options, B, T)) bytes += static_cast<double>(row.bytes);
  return bytes;
}

// ---- the ceilings --------------------------------------------------------------------------------------------------

struct Ceilings {
  struct Product {
    int N, C, OC;
    double flops_per_second;
  };
  std::map<Precision, std::vector<Product>> products;
  double array_bytes = 0, read = 0, copy = 0, in_place = 0;  // bytes per second
  double adamw_parameters = 0, adamw_ms = 0;

  double flops(Precision precision) const {
    double best = 0;
    for (const Product& p : products.at(precision)) best = std::max(best, p.flops_per_second);
    return best;
  }
  double memory() const { return std::max({read, copy, in_place}); }
};

// The times of call() in seconds, after one that is not counted: as many as fit into `seconds`, 3 at least.
template <class Call>
std::vector<double> times_of(double seconds, Call&& call) {
  call();
  std::vector<double> times;
  const auto begin = Clock::now();
  while (times.size() < 3 || milliseconds_since(begin) < 1e3 * seconds) {
    const auto start = Clock::now();
    call();
    times.push_back(milliseconds_since(start) / 1e3);
  }
  return times;
}

double least(const std::vector<double>& times) { return *std::min_element(times.begin(), times.end()); }

std::vector<Ceilings::Product> measure_products(const cpu::Kernels<float>& kernels, bool quick) {
  std::vector<Ceilings::Product> products{{1024, 1024, 1024, 0}};
  if (quick) {
    products.push_back({256, 768, 768, 0});
  } else {
    for (const auto& [N, C, OC] :
         {std::tuple{512, 512, 512}, {2048, 2048, 2048}, {256, 768, 3072}, {1024, 768, 3072}, {1024, 4096, 1024}}) {
      products.push_back({N, C, OC, 0});
    }
  }
  for (Ceilings::Product& p : products) {
    const auto values = [](int rows, int cols) {
      return std::vector<float>(static_cast<size_t>(rows) * static_cast<size_t>(cols), 0.5f);
    };
    const std::vector<float> inp = values(p.N, p.C), weight = values(p.OC, p.C);
    std::vector<float> out = values(p.N, p.OC);
    const auto times = times_of(quick ? 0 : 0.5, [&] {
      kernels.matmul_forward(out.data(), inp.data(), weight.data(), nullptr, p.N, p.C, p.OC);
    });
    p.flops_per_second = 2.0 * p.N * p.C * p.OC / least(times);
  }
  return products;
}

// Not in a lambda: the compiler turns accesses through a captured pointer into gathers.
uint64_t sum_of(const uint64_t* a, int64_t n) {
  uint64_t sum = 0;
#pragma omp parallel for reduction(+ : sum)
  for (int64_t i = 0; i < n; ++i) sum += a[i];
  return sum;
}

void increment(uint64_t* a, int64_t n) {
#pragma omp parallel for
  for (int64_t i = 0; i < n; ++i) ++a[i];
}

// Bandwidth, with arrays far larger than any cache: the best pass. Read: integers are added up, because their sum has
// no order that the compiler would have to keep. Copy: the C library's memcpy. In place: values are changed and written
// back, as AdamW does; read and written bytes both count, as for the copy.
void measure_memory(Ceilings& c, bool quick) {
  const long cache = ::sysconf(_SC_LEVEL3_CACHE_SIZE);
  int64_t bytes = std::clamp<int64_t>(8 * static_cast<int64_t>(cache), 256 << 20, 1 << 30);
  if (quick) bytes = 16 << 20;
  const double available = available_memory();
  if (available > 0) bytes = std::min(bytes, static_cast<int64_t>(available / 4));
  const int64_t n = bytes / 8;
  const Buffer from(8 * n), to(8 * n);
  uint64_t* a = from.as<uint64_t>();
  uint64_t* b = to.as<uint64_t>();
#pragma omp parallel for
  for (int64_t i = 0; i < n; ++i) a[i] = b[i] = static_cast<uint64_t>(i);
  const double seconds = quick ? 0 : 1;
  uint64_t total = 0;
  const std::vector<double> reads = times_of(seconds, [&] { total += sum_of(a, n); });
  const uint64_t once = static_cast<uint64_t>(n) * static_cast<uint64_t>(n - 1) / 2;
  if (total != (reads.size() + 1) * once) throw std::logic_error("the sum of the numbers read is wrong");
  constexpr int64_t kSlice = 1 << 17;  // numbers per thread and copy
  const std::vector<double> copies = times_of(seconds, [&] {
#pragma omp parallel for
    for (int64_t i = 0; i < n; i += kSlice) {
      std::memcpy(b + i, a + i, sizeof(uint64_t) * static_cast<size_t>(std::min(kSlice, n - i)));
    }
  });
  const std::vector<double> updates = times_of(seconds, [&] { increment(b, n); });
  c.array_bytes = 8.0 * static_cast<double>(n);
  c.read = c.array_bytes / least(reads);
  c.copy = 2 * c.array_bytes / least(copies);
  c.in_place = 2 * c.array_bytes / least(updates);
}

// One pass of AdamW over as many parameters as GPT-2 has. The median.
void measure_adamw(Ceilings& c, const cpu::Kernels<float>& kernels, bool quick) {
  const int64_t n = num_parameters(param_table(shape_of("gpt2"))) / (quick ? 100 : 1);
  const int64_t bytes = n * static_cast<int64_t>(sizeof(float));
  const Buffer memory[4] = {Buffer(bytes), Buffer(bytes), Buffer(bytes), Buffer(bytes)};
  float* of[4];
  for (int k = 0; k < 4; ++k) of[k] = memory[k].as<float>();
  const auto times = times_of(quick ? 0 : 1, [&] {
    kernels.adamw_update(of[0], of[1], of[2], of[3], 1, 1e-4f, 0.9f, 0.95f, 0.1f, 0.05f, 1e-8f, 0.1f, n);
  });
  c.adamw_parameters = static_cast<double>(n);
  c.adamw_ms = 1e3 * median(times);
}

// ---- the benchmark -------------------------------------------------------------------------------------------------

class Bench {
 public:
  Bench(const Flags& flags, cpu::Isa isa, std::vector<Precision> precisions)
      : flags_(flags), isa_(isa), precisions_(std::move(precisions)), all_threads_(cpu_threads()) {}

  json run() {
    measure_ceilings();
    if (wants("operations") || wants("steps")) {
      for (const std::string& model : flags_.models) {
        for (const Precision precision : precisions_) operations(model, precision);
      }
      if (wants("steps")) print_steps();
    }
    if (wants("threads")) threads();
    if (wants("lengths")) lengths();
    if (wants("models")) models();
    return json_;
  }

 private:
  bool wants(const char* part) const {
    return std::find(flags_.only.begin(), flags_.only.end(), part) != flags_.only.end();
  }
  const cpu::Kernels<float>& kernels(Precision precision) const {
    return *cpu::fast_kernels(isa_, precision == Precision::bf16);
  }
  void show(const char* title, const Table& table, size_t left) {
    progress("");
    std::printf(flags_.markdown ? "\n**%s**\n\n" : "\n%s\n\n", title);
    print_table(table, left, flags_.markdown);
    std::fflush(stdout);
  }

  void measure_ceilings() {
    progress("the ceilings");
    for (const Precision p : precisions_) ceilings_.products[p] = measure_products(kernels(p), flags_.quick);
    measure_memory(ceilings_, flags_.quick);
    measure_adamw(ceilings_, kernels(Precision::fp32), flags_.quick);
    const double adamw_rate = 28 * ceilings_.adamw_parameters / ceilings_.adamw_ms * 1e3;
    Table table{{"ceiling", "of", "rate"}};
    json products = json::array();
    for (const auto& [precision, list] : ceilings_.products) {
      for (const Ceilings::Product& p : list) {
        products.push_back({{"precision", name_of(precision)},
                            {"N", p.N},
                            {"C", p.C},
                            {"OC", p.OC},
                            {"gflop_per_s", p.flops_per_second / 1e9},
                            {"largest", p.flops_per_second == ceilings_.flops(precision)}});
        table.push_back({std::string("matmul_forward ") + name_of(precision), strprintf("%d x %d x %d", p.N, p.C, p.OC),
                         strprintf("%.0f GFLOP/s%s", p.flops_per_second / 1e9,
                                   p.flops_per_second == ceilings_.flops(precision) ? " *" : "  ")});
      }
    }
    const std::string arrays = strprintf("arrays of %.0f MB", ceilings_.array_bytes / 1e6);
    table.push_back({"read (sum)", arrays, strprintf("%.1f GB/s  ", ceilings_.read / 1e9)});
    table.push_back({"copy", arrays, strprintf("%.1f GB/s  ", ceilings_.copy / 1e9)});
    table.push_back({"update in place", arrays, strprintf("%.1f GB/s  ", ceilings_.in_place / 1e9)});
    table.push_back({"adamw_update",
                     strprintf("%.4gM parameters, %.2f ms", ceilings_.adamw_parameters / 1e6, ceilings_.adamw_ms),
                     strprintf("%.1f GB/s  ", adamw_rate / 1e9)});
    std::printf("%s, %d threads%s\n", cpu::name_of(isa_), all_threads_,
                flags_.quick ? "; --quick: too small and too short to tell how fast this machine is" : "");
    show("Ceilings (*: the largest of its precision; copy and in place count bytes read and written)", table, 2);
    json_["isa"] = cpu::name_of(isa_);
    json_["threads"] = all_threads_;
    json_["quick"] = flags_.quick;
    json_["batch_size"] = flags_.B;
    json_["seq_len"] = flags_.T;
    json_["ceilings"] = {{"products", products},
                         {"array_mb", ceilings_.array_bytes / 1e6},
                         {"read_gb_per_s", ceilings_.read / 1e9},
                         {"copy_gb_per_s", ceilings_.copy / 1e9},
                         {"in_place_gb_per_s", ceilings_.in_place / 1e9},
                         {"adamw_parameters", ceilings_.adamw_parameters},
                         {"adamw_ms", ceilings_.adamw_ms},
                         {"adamw_gb_per_s", adamw_rate / 1e9}};
    for (const char* part : {"operations", "steps", "thread_scaling", "length_scaling", "model_scaling", "left_out"}) {
      json_[part] = json::array();
    }
  }

  // false, with a message and a note in the results: the system has less memory than that.
  bool fits(const std::string& what, const ModelConfig& shape, Precision precision, int B, int T) {
    const double needed = planned_bytes(shape, precision, B, T), available = available_memory();
    if (available == 0 || needed < 0.95 * available) return true;
    progress("");
    const std::string line =
        strprintf("left out: %s (it takes %.1f GB, and %.1f GB are free)", what.c_str(), needed / 1e9, available / 1e9);
    std::printf("\n%s\n", line.c_str());
    json_["left_out"].push_back(line);
    return false;
  }

  // ---- operations, and steps as their sum --------------------------------------------------------------------------

  void operations(const std::string& name, Precision precision) {
    const ModelConfig& shape = shape_of(name);
    const std::string what = name + " " + name_of(precision);
    if (!fits(what, shape, precision, flags_.B, flags_.T)) return;
    ModelOptions options;
    options.precision = precision;
    progress(what + ": operations");
    const Batch batch = random_batch(flags_.B, flags_.T, shape.vocab_size);
    std::vector<Row> rows = timed_rows(shape, options, batch);
    if (wants("operations")) print_operations(what, name, precision, rows);
    if (!wants("steps")) return;
    progress(what + ": steps");
    CpuModel<float> model(shape, false, options);
    init_weights(model, 1);
    const double ms = time_steps(model, batch);
    step_ms_[{name, precision, flags_.B, flags_.T, all_threads_}] = ms;
    breakdowns_.push_back({name, precision, ms, std::move(rows)});
  }

  std::vector<Row> timed_rows(const ModelConfig& shape, const ModelOptions& options, const Batch& batch) {
    Timings timings;
    TimedModel model(shape, options, kernels(options.precision), timings);
    init_weights(model, 1);
    double cleared = 0;  // gradients that are added to, so they begin as zeros
    for (const ParamTensor& p : model.table) {
      cleared += p.vector() || p.role == Role::position ? static_cast<double>(p.size()) : 0;
    }
    for (int s = -1; s < flags_.steps; ++s) {
      timings.begin_step();
      timings.time("zero_grad", "", 0, 4 * cleared, [&] { model.zero_grad(); });
      model.forward(batch.inputs.data(), batch.B, batch.T, Pass::train);
      model.backward(batch.targets.data(), batch.weights.data());
      model.update({.lr = 1e-5f}, 1.0f);
      timings.in_step = false;
      model.forward(batch.inputs.data(), batch.B, batch.T, Pass::evaluate);
      model.loss(batch.targets.data(), nullptr);
      timings.in_step = true;
      if (s < 0) timings.forget();  // touched new memory
    }
    return std::move(timings.rows);
  }

  void print_operations(const std::string& what, const std::string& name, Precision precision,
                        const std::vector<Row>& rows) {
    Table table{{"operation", "of", "calls", "ms", "rate", "limit", "of its ceiling"}};
    for (const Row& row : rows) {
      const double ms = median(row.ms), computing = row.flops / ceilings_.flops(precision),
                   moving = row.bytes / ceilings_.memory();
      const bool memory = moving > computing;
      const double share = std::max(computing, moving) / ms * 1e3;
      const double rate = (memory ? row.bytes : row.flops) / ms / 1e6;
      table.push_back({row.operation, row.of, std::to_string(row.in_step ? row.calls : 0), strprintf("%.3f", ms),
                       strprintf(memory ? "%.1f GB/s   " : "%.1f GFLOP/s", rate), memory ? "bytes" : "FLOPs",
                       strprintf("%.1f %%", 100 * share)});
      json_["operations"].push_back({{"model", name},
                                     {"precision", name_of(precision)},
                                     {"operation", row.operation},
                                     {"of", row.of},
                                     {"calls", row.in_step ? row.calls : 0},
                                     {"samples", row.ms.size()},
                                     {"ms", ms},
                                     {"flops", row.flops},
                                     {"bytes", row.bytes},
                                     {"limit", memory ? "bytes" : "flops"},
                                     {memory ? "gb_per_s" : "gflop_per_s", rate},
                                     {"share", share}});
    }
    show(strprintf("Operations of a step: %s, B %d, T %d (calls per step; ms per call, the median)", what.c_str(),
                   flags_.B, flags_.T)
             .c_str(),
         table, 2);
  }

  // Median milliseconds of a whole step. The first two touch new memory and are not counted.
  double time_steps(CpuModel<float>& model, const Batch& batch) {
    OptimizerConfig optimizer;
    optimizer.lr = 1e-5f;
    std::vector<double> times;
    for (int s = -2; s < flags_.steps; ++s) {
      const auto start = Clock::now();
      model.zero_grad();
      model.forward(batch.inputs.data(), batch.B, batch.T, Pass::train);
      model.backward(batch.targets.data(), batch.weights.data());
      model.update(optimizer, 1.0f);
      const double ms = milliseconds_since(start);
      if (!model.result(0).updated) throw std::logic_error("a step's loss or gradient is not finite");
      if (s >= 0) times.push_back(ms);
    }
    return median(times);
  }

  // The same for a new model, unless this run has measured it already.
  double step_ms(const std::string& name, Precision precision, int B, int T, int threads) {
    const auto key = std::tuple{name, precision, B, T, threads};
    if (const auto found = step_ms_.find(key); found != step_ms_.end()) return found->second;
    progress(strprintf("%s %s, B %d, T %d, %d threads", name.c_str(), name_of(precision), B, T, threads));
    ModelOptions options;
    options.precision = precision;
    CpuModel<float> model(shape_of(name), false, options);
    init_weights(model, 1);
    set_cpu_threads(threads);
    const double ms = time_steps(model, random_batch(B, T, model.config.vocab_size));
    set_cpu_threads(all_threads_);
    return step_ms_[key] = ms;
  }

  static double parameters(const std::string& name) {
    return static_cast<double>(num_parameters(param_table(shape_of(name))));
  }
  // 6 operations per parameter and token, as a share of the rate of the largest product.
  double share(const std::string& name, Precision precision, double tokens, double ms) const {
    return 6 * parameters(name) * tokens / ms * 1e3 / ceilings_.flops(precision);
  }

  struct Breakdown {
    std::string model;
    Precision precision;
    double ms;
    std::vector<Row> rows;
  };

  void print_steps() {
    if (breakdowns_.empty()) return;
    const double tokens = static_cast<double>(flags_.B) * flags_.T;
    Table table{{"step", "parameters", "ms", "tokens/s", "of the ceiling"}}, parts{{"ms per step"}};
    std::vector<std::string> groups;  // in the order of a step
    std::vector<std::map<std::string, double>> of_groups;
    for (const Breakdown& b : breakdowns_) {
      const double of_ceiling = share(b.model, b.precision, tokens, b.ms);
      table.push_back({b.model + " " + name_of(b.precision), strprintf("%.0f", parameters(b.model)),
                       strprintf("%.1f", b.ms), strprintf("%.0f", tokens / b.ms * 1e3),
                       strprintf("%.1f %%", 100 * of_ceiling)});
      std::map<std::string, double>& group_ms = of_groups.emplace_back();
      double sum = 0;
      for (const Row& row : b.rows) {
        if (!row.in_step) continue;
        std::string group = row.operation;
        if (const size_t colon = row.of.find(": "); colon != std::string::npos) group += row.of.substr(colon + 1);
        if (std::find(groups.begin(), groups.end(), group) == groups.end()) groups.push_back(group);
        group_ms[group] += row.calls * median(row.ms);
        sum += row.calls * median(row.ms);
      }
      group_ms["rest"] = b.ms - sum;
      json part_list = json::array();
      for (const std::string& group : groups) {
        part_list.push_back({{"operation", group}, {"ms", group_ms[group]}, {"share", group_ms[group] / b.ms}});
      }
      json_["steps"].push_back({{"model", b.model},
                                {"precision", name_of(b.precision)},
                                {"parameters", parameters(b.model)},
                                {"ms", b.ms},
                                {"tokens_per_s", tokens / b.ms * 1e3},
                                {"share", of_ceiling},
                                {"parts", part_list},
                                {"sum_ms", sum},
                                {"rest_ms", b.ms - sum}});
    }
    show(strprintf("Steps: B %d, T %d (of the ceiling: 6 x parameters x tokens/s)", flags_.B, flags_.T).c_str(), table,
         1);
    groups.push_back("rest");
    for (const std::string& group : groups) parts.push_back({group});
    parts.push_back({"step"});
    for (size_t k = 0; k < breakdowns_.size(); ++k) {
      const Breakdown& b = breakdowns_[k];
      parts[0].push_back(b.model + " " + name_of(b.precision));
      for (size_t g = 0; g < groups.size(); ++g) {
        const double ms = of_groups[k][groups[g]];
        parts[g + 1].push_back(strprintf("%.2f  %5.1f %%", ms, 100 * ms / b.ms));
      }
      parts.back().push_back(strprintf("%.2f  100.0 %%", b.ms));
    }
    show("Their parts (calls x median of each operation; rest: the measured step minus their sum)", parts, 1);
  }

  // ---- how a step grows --------------------------------------------------------------------------------------------

  void threads() {
    const std::string& name = flags_.models[0];
    std::vector<int> counts;
    for (int n = 1; n < all_threads_; n *= 2) counts.push_back(n);
    counts.push_back(all_threads_);
    Table table{{"threads", "precision", "ms per step", "tokens/s", "times as fast as 1", "of linear"}};
    for (const Precision precision : precisions_) {
      if (!fits(name + "'s threads", shape_of(name), precision, flags_.B, flags_.T)) continue;
      for (const int n : counts) {
        const double ms = step_ms(name, precision, flags_.B, flags_.T, n),
                     times = step_ms(name, precision, flags_.B, flags_.T, 1) / ms,
                     rate = static_cast<double>(flags_.B) * flags_.T / ms * 1e3;
        table.push_back({std::to_string(n), name_of(precision), strprintf("%.1f", ms), strprintf("%.0f", rate),
                         strprintf("%.2f", times), strprintf("%.0f %%", 100 * times / n)});
        json_["thread_scaling"].push_back({{"model", name},
                                           {"precision", name_of(precision)},
                                           {"threads", n},
                                           {"ms", ms},
                                           {"tokens_per_s", rate},
                                           {"speedup", times}});
      }
    }
    if (table.size() > 1)
      show(strprintf("Threads: %s, B %d, T %d", name.c_str(), flags_.B, flags_.T).c_str(), table, 2);
  }

  void lengths() {
    const std::string& name = flags_.models[0];
    const ModelConfig& shape = shape_of(name);
    Table table{{"T", "B", "precision", "ms per step", "us per token", "of the first", "FLOP of the first", "peak GB"}};
    for (const Precision precision : precisions_) {
      double first_us = 0, first_flops = 0;
      for (int T = flags_.quick ? 16 : 64; T <= std::min({flags_.tokens, shape.max_seq_len, 1024}); T *= 2) {
        const int B = flags_.tokens / T;
        if (B * T != flags_.tokens) continue;
        if (!fits(strprintf("%s, T %d", name.c_str(), T), shape, precision, B, T)) continue;
        const double ms = step_ms(name, precision, B, T, all_threads_), us = 1e3 * ms / flags_.tokens,
                     flops = flops_per_token(shape, T), bytes = planned_bytes(shape, precision, B, T);
        if (first_us == 0) {
          first_us = us;
          first_flops = flops;
        }
        table.push_back({std::to_string(T), std::to_string(B), name_of(precision), strprintf("%.1f", ms),
                         strprintf("%.1f", us), strprintf("%.2f", us / first_us),
                         strprintf("%.2f", flops / first_flops), strprintf("%.2f", bytes / 1e9)});
        json_["length_scaling"].push_back({{"model", name},
                                           {"precision", name_of(precision)},
                                           {"T", T},
                                           {"B", B},
                                           {"ms", ms},
                                           {"us_per_token", us},
                                           {"flops_per_token", flops},
                                           {"planned_bytes", bytes}});
      }
    }
    if (table.size() > 1) {
      show(strprintf("Sequences: %s, %d tokens per step (FLOP: 6 per parameter and 12 L C T; peak memory: computed by "
                     "memory_plan(), not measured)",
                     name.c_str(), flags_.tokens)
               .c_str(),
           table, 3);
    }
  }

  void models() {
    std::vector<std::string> names{"d4", "d6", "gpt2", "gpt2-medium"};
    if (flags_.quick) names = {"gpt2-nano", "d4"};
    if (flags_.large) names.insert(names.end(), {"gpt2-large", "gpt2-xl"});
    const double tokens = static_cast<double>(flags_.B) * flags_.T;
    Table table{{"model", "precision", "parameters", "ms per step", "tokens/s", "of the ceiling", "peak GB"}};
    for (const Precision precision : precisions_) {
      for (const std::string& name : names) {
        const ModelConfig& shape = shape_of(name);
        if (flags_.T > shape.max_seq_len || !fits(name, shape, precision, flags_.B, flags_.T)) continue;
        const double ms = step_ms(name, precision, flags_.B, flags_.T, all_threads_),
                     of_ceiling = share(name, precision, tokens, ms),
                     bytes = planned_bytes(shape, precision, flags_.B, flags_.T);
        table.push_back({name, name_of(precision), strprintf("%.0f", parameters(name)), strprintf("%.1f", ms),
                         strprintf("%.0f", tokens / ms * 1e3), strprintf("%.1f %%", 100 * of_ceiling),
                         strprintf("%.2f", bytes / 1e9)});
        json_["model_scaling"].push_back({{"model", name},
                                          {"precision", name_of(precision)},
                                          {"parameters", parameters(name)},
                                          {"ms", ms},
                                          {"tokens_per_s", tokens / ms * 1e3},
                                          {"share", of_ceiling},
                                          {"planned_bytes", bytes}});
      }
    }
    if (table.size() > 1) {
      show(strprintf("Models: B %d, T %d (peak memory: computed by memory_plan(), not measured)", flags_.B, flags_.T)
               .c_str(),
           table, 2);
    }
  }

  const Flags& flags_;
  const cpu::Isa isa_;
  const std::vector<Precision> precisions_;
  const int all_threads_;
  Ceilings ceilings_;
  std::map<std::tuple<std::string, Precision, int, int, int>, double> step_ms_;  // model, precision, B, T, threads
  std::vector<Breakdown> breakdowns_;
  json json_;
};

// ---- flags ---------------------------------------------------------------------------------------------------------

void run(Flags flags, const CLI::App& app) {
  if (flags.quick) {
    const auto set = [&](const char* name, auto& field, auto value) {
      if (app.count(name) == 0) field = value;
    };
    set("--model", flags.models, std::vector<std::string>{"gpt2-nano"});
    set("--batch-size", flags.B, 2);
    set("--seq-len", flags.T, 16);
    set("--tokens", flags.tokens, 32);
    set("--steps", flags.steps, 2);
  }
  for (const std::string& name : flags.models) {
    if (flags.T > shape_of(name).max_seq_len) {
      fail_usage("--seq-len is %d, and the context of %s is %d", flags.T, name.c_str(), shape_of(name).max_seq_len);
    }
  }
  if (flags.threads > 0) set_cpu_threads(flags.threads);
  // The model takes the best instruction set that the environment allows.
  if (!flags.isa.empty()) ::setenv("WROUGHT_ISA", flags.isa.c_str(), 1);
  const cpu::Isa isa = cpu::best_isa();
  if (!flags.isa.empty() && flags.isa != cpu::name_of(isa)) {
    fail("--isa %s: this CPU cannot run it; the best that it can run is %s", flags.isa.c_str(), cpu::name_of(isa));
  }
  std::vector<Precision> precisions;
  if (flags.precision != "bf16") precisions.push_back(Precision::fp32);
  if (flags.precision == "bf16") check_cpu_can(Precision::bf16);
  if (flags.precision != "fp32" && cpu::fast_kernels(isa, true)) precisions.push_back(Precision::bf16);

  std::optional<FileWriter> out;
  if (!flags.json.empty()) out.emplace(flags.json);  // fail now, not after minutes
  const json results = Bench(flags, isa, precisions).run();
  if (!out) return;
  out->write(results.dump(1) + "\n");
  out->commit();
}

}  // namespace

int main(int argc, char** argv) {
  CLI::App app(
      "Measures the CPU's kernels: ceilings of this machine, each operation of a training step compared with them, "
      "whole "
      "steps,\nand how they grow with threads, sequence and model.");
  Flags flags;
  app.add_option("--only", flags.only, "some of: operations steps threads lengths models; the ceilings always run")
      ->check(CLI::IsMember({"operations", "steps", "threads", "lengths", "models"}));
  app.add_option("--model", flags.models,
                 "presets as for train_gpt2's --model, for operations and steps; threads and lengths use the first")
      ->capture_default_str();
  app.add_option("--precision", flags.precision, "fp32 | bf16; default: both, if the CPU multiplies bf16")
      ->check(CLI::IsMember({"fp32", "bf16"}));
  std::vector<std::string> isas;
  for (const cpu::Isa isa : cpu::kIsas) isas.push_back(cpu::name_of(isa));
  app.add_option("--isa", flags.isa, "instruction set: portable | avx2 | avx512 | avx512_bf16; default: the best here")
      ->check(CLI::IsMember(isas));
  app.add_option("--threads", flags.threads, "threads, and the largest number of the threads part; 0: all cores")
      ->check(CLI::Range(0, 4096))
      ->capture_default_str();
  app.add_option("--batch-size", flags.B, "B: sequences per step")
      ->check(CLI::Range(1, 1 << 12))
      ->capture_default_str();
  app.add_option("--seq-len", flags.T, "T: tokens per sequence")->check(CLI::Range(1, 1 << 16))->capture_default_str();
  app.add_option("--tokens", flags.tokens, "tokens per step, B x T, while T grows")
      ->check(CLI::Range(16, 1 << 20))
      ->capture_default_str();
  app.add_option("--steps", flags.steps, "steps per median")->check(CLI::Range(1, 10000))->capture_default_str();
  app.add_flag("--large", flags.large, "models: gpt2-large and gpt2-xl too, if memory has room for them");
  app.add_flag("--quick", flags.quick, "a tiny model and few repeats: shows whether it runs, not how fast");
  app.add_option("--json", flags.json, "file that gets all results too");
  app.add_flag("--markdown", flags.markdown, "print the tables as Markdown");
  return run_program(app, argc, argv, [&] { run(flags, app); });
}
