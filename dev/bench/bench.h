// Kernel benchmarks: for each operation a ladder, from the version that comes to mind first to the one in kernels/,
// each step one idea. On a GPU every version is checked against the CPU twin and timed; in cudasim it is checked and
// counted. One file per operation, bench_<operation>.cu, registers its ladders; bench_kernels.cu is the program.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "kernels/common.cuh"

namespace bench {

// The limit of a good version: the time that its bytes take at the memory's rate, or its operations at the rate of the
// tensor cores (bf16, dense) or the plain units (float).
enum class Limit { memory, tensor_cores, float_units };

struct Version {
  std::string name;  // "coalesced": one or two words, unique in its ladder
  std::string idea;  // one sentence: what it changes compared with the previous one, and why
  std::function<void(int set, cudaStream_t stream)> run;  // starts the kernels, on buffers number `set` of Buffers
  bool library = false;                                   // cuBLASLt or cuDNN: shown next to the ladder; only on a GPU
  bool in_kernels = false;  // part of kernels/, though not the last version: the budget covers it too
};

struct Ladder {
  std::string operation;  // "layernorm_forward"
  std::string size;       // "N=8192 C=768 bf16"
  Limit limit;
  double bytes;                   // the minimum to move: every input once, every output once
  double flops;                   // a multiply and an add count as two
  int sets;                       // sets of buffers that the versions may use (Problem::sets())
  std::vector<Version> versions;  // the last one that is not a library: the launcher in kernels/
  // Throws std::runtime_error that names the difference, unless the outputs in set 0 equal the CPU twin's outputs
  // within the tolerance of docs/testing.md. Called after each version's run(0); reset() reinitialises whatever run()
  // adds to.
  std::function<void()> check;
  std::function<void()> reset;  // may be null; sets outputs to NaN by poison(), so that no old value is taken for new
  // `bytes` at the sizes of a GPU. In cudasim its 50 MB of cache are made smaller in proportion, so that a tensor that
  // is read twice costs what it would there; 0: a cache of half of `bytes`.
  double gpu_bytes = 0;
};

// What the program tells a file that makes its ladders: where it runs, and so how large they should be.
class Problem {
 public:
  explicit Problem(bool on_gpu, size_t cache_bytes) : on_gpu_(on_gpu), cache_bytes_(cache_bytes) {}
  bool on_gpu() const { return on_gpu_; }
  // On a GPU the size of a training step; in cudasim a size that is counted in seconds.
  int64_t size(int64_t gpu, int64_t sim) const { return on_gpu_ ? gpu : sim; }
  // The number of sets of `bytes` each that, used in turn, are never still in the GPU's cache; in cudasim 1.
  int sets(double bytes) const;

 private:
  bool on_gpu_;
  size_t cache_bytes_;  // of the GPU's L2
};

// `sets` device tensors of the same n elements: random normal numbers (seed, scale), or zeros for scale 0. T: float,
// bf16, double; int32_t, int8_t and uint8_t (scale 0).
template <class T>
class Buffers {
 public:
  Buffers(int sets, int64_t n, uint64_t seed, double scale);
  ~Buffers();
  Buffers(const Buffers&) = delete;
  Buffers& operator=(const Buffers&) = delete;

  T* operator[](int set) const { return data_[set]; }
  int64_t size() const { return n_; }
  std::vector<T> host(int set) const { return host(set, 0, n_); }  // after all earlier launches
  std::vector<T> host(int set, int64_t begin, int64_t n) const;    // a part: a GPU's sizes are too large to check whole
  void write(int set, const std::vector<T>& values) const;         // to every element
  void copy(int set, const Buffers& from) const;                   // from its set 0, as long as this one
  void poison(int set) const;                                      // every byte 0xFF: a NaN as a float

 private:
  int64_t n_;
  std::vector<T*> data_;
};

// The rows of N that a check looks at, as ranges: all up to `most`; if there are more, a quarter of `most` at each of
// four places from first to last.
struct Rows {
  int64_t first, count;
};
std::vector<Rows> sample_rows(int64_t N, int64_t most);

// Compares actual, sums over K terms in float (of doubles: in double) that were then stored as T, with expected in
// double: each element within 4 u sqrt(K) rms, plus T's u for the final rounding (docs/testing.md), plus `slack`, the
// operation's own loss (rounding of intermediate tensors, cancellation). Throws std::runtime_error naming the worst.
template <class T>
void check_close(const char* name, const std::vector<T>& actual, const std::vector<double>& expected, double K,
                 double slack);

// Stored values as doubles for a twin: exact.
template <class T>
std::vector<double> to_doubles(const std::vector<T>& stored);

// Each file bench_<operation>.cu defines one such object: static bench::Register r([](const Problem& p) { ... }).
// Ladders own their buffers (shared_ptr in the lambdas) and are made one at a time, so the memory of one is free before
// the next.
using MakeLadder = std::function<Ladder(const Problem&)>;
struct Register {
  Register(const char* operation, MakeLadder make);
};

struct Registered {
  std::string operation;
  MakeLadder make;
};
std::vector<Registered> registered();  // from the simplest operation to the hardest

}  // namespace bench
