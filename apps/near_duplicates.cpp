// Finds near-duplicate rows of a data set, and writes it without them.
//   build/near_duplicates --data instructions.json --field instruction --out unique.json
#include <cstdio>

#include "llm/corpora/duplicates.h"
#include "llm/corpora/rows.h"
#include "llm/flags/command_line.h"
#include "llm/models/cpu.h"
#include "llm/models/model.h"
#include "llm/support/file.h"
#include "llm/support/json.h"

int main(int argc, char** argv) {
  CLI::App app("Finds near-duplicate rows: cosine of their character 1- to 3-grams, weighted by TF-IDF.");
  std::string data, out;
  std::vector<std::string> fields;
  double threshold = 0.9;
  int threads = 0;
  bool quiet = false;
  app.add_option(
         "--data", data,
         "a JSON array of objects (.json), one object per line (.jsonl), columns with a line of names (.tsv, .csv), "
         "or bare lines")
      ->required();
  app.add_option("--field", fields,
                 "compare only these fields or columns; may be repeated; default: all text of a row");
  app.add_option("--threshold", threshold, "pairs have a cosine above it")->capture_default_str();
  app.add_option("--out", out, "write the rows without the later one of each pair, in the same format");
  app.add_flag("--quiet", quiet, "only the counts, not each pair");
  app.add_option("--threads", threads, "0: all cores")->check(CLI::Range(0, 1024));
  return run_program(app, argc, argv, [&] {
    if (threads > 0) set_cpu_threads(threads);
    if (!out.empty()) check_output_file(out);
    const Rows rows = read_rows(data, fields);
    const std::vector<DuplicatePair> pairs = near_duplicates(rows.text, threshold);
    for (const DuplicatePair& pair : pairs) {
      if (quiet) break;
      std::printf("rows %lld and %lld: %.4f\n  %s\n  %s\n", static_cast<long long>(rows.number[pair.first]),
                  static_cast<long long>(rows.number[pair.second]), pair.similarity,
                  in_quotes(rows.text[pair.first]).c_str(), in_quotes(rows.text[pair.second]).c_str());
    }
    const std::vector<bool> keep = without_duplicates(rows.text.size(), pairs);
    const size_t kept = static_cast<size_t>(std::count(keep.begin(), keep.end(), true));
    std::printf("%zu rows, %zu pairs above %g; %zu rows without near duplicates\n", rows.text.size(), pairs.size(),
                threshold, kept);
    if (out.empty()) return;
    write_rows(rows, keep, out);
    std::printf("wrote %s: %zu rows\n", out.c_str(), kept);
  });
}
