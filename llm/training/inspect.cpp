#include "llm/training/inspect.h"

#include <algorithm>
#include <cstdio>

#include "kernels/philox.h"
#include "llm/flags/train_flags.h"
#include "llm/formats/open_weights.h"
#include "llm/models/batch.h"
#include "llm/models/check.h"
#include "llm/models/cpu.h"
#include "llm/models/init.h"
#include "llm/support/error.h"
#include "llm/support/output.h"

void print_memory(const std::vector<MemoryRow>& rows) {
  double total = 0;  // absurd sizes pass 2^63
  for (const MemoryRow& row : rows) {
    std::printf("%-24s %-16s %14lld\n", row.name.c_str(), row.shape.c_str(), static_cast<long long>(row.bytes));
    total += static_cast<double>(row.bytes);
  }
  std::printf("%-41s %14.0f bytes\n", "total", total);
}

void print_kernels(const std::vector<KernelRow>& rows) {
  size_t widths[3] = {};  // of the first columns, as far as they are not the last of their line
  for (const KernelRow& row : rows) {
    const std::string* columns[3] = {&row.operation, &row.of, &row.shape};
    for (int k = 0; k < 3; ++k) widths[k] = std::max(widths[k], columns[k]->size() + (columns[k]->empty() ? 0 : 2));
  }
  const auto padded = [](const std::string& text, size_t width) {
    return text + std::string(width - text.size(), ' ');
  };
  for (const KernelRow& row : rows) {
    std::string line = padded(row.operation, widths[0]) + padded(row.of, widths[1]) + padded(row.shape, widths[2]);
    if (row.times > 0) line += strprintf("%4d x  ", row.times);
    line += row.tier + (row.why.empty() ? "" : ": " + row.why);
    line.resize(line.find_last_not_of(' ') + 1);
    say(line);
    for (const std::string& kernel : row.kernels) say("    " + kernel);
  }
}

void check_against_reference(Model& model, Model& reference, const Run& run) {
  for (Model* m : {&model, &reference}) {
    init_weights(*m, run.config.seed);
    if (!run.weights_from.empty()) load_weights(*m, run.weights_from);
  }
  Batch batch;
  batch.B = run.config.batch_size;
  batch.T = run.config.seq_len;
  const size_t n = static_cast<size_t>(batch.B) * static_cast<size_t>(batch.T);
  for (size_t i = 0; i < 2 * n; ++i) {
    const double uniform = philox_uniform(run.config.seed, 0x636865636b, i);
    (i < n ? batch.inputs : batch.targets).push_back(static_cast<int32_t>(uniform * run.shape.vocab_size));
  }
  batch.weights.assign(n, 1.0f / static_cast<float>(n));

  bool ok = true;
  std::printf("%-24s %12s %12s %10s   %s\n", "tensor", "largest |d|", "relative", "1 - cosine", "bound");
  for (const CheckRow& row : compare_models(model, reference, batch, model_options(run.config).precision,
                                            {static_cast<float>(run.config.dropout), run.config.seed, 0})) {
    std::printf("%-24s %12.3e %12.3e %10.1e   %s%s\n", row.tensor.c_str(), row.max_abs, row.relative, 1 - row.cosine,
                row.bound.c_str(), row.ok ? "" : "  <-- beyond");
    ok = ok && row.ok;
  }
  if (!ok) fail("the model differs from the reference beyond tolerance: see the rows marked above");
  say("the model agrees with the reference");
}
