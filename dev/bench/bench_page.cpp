#include "dev/bench/bench_run.h"
namespace bench {
std::string html_page(const json&) { return ""; }
}  // namespace bench
