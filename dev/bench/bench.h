// Kernel benchmarks: for each operation a ladder, from the version that comes to mind first to the one in kernels/,
// each step one idea. On a GPU every version is checked against the CPU twin and timed; in cudasim it is checked and
// counted. One file an operation, bench_<operation>.cu, which registers its ladders; bench_kernels.cu is the program.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "kernels/common.cuh"

namespace bench {

// What a good version is limited by: the time that its bytes take at the memory's rate, or its operations at the tensor
// cores' (bf16, dense) or the plain units' rate (float).
enum class Limit { memory, tensor_cores, float_units };

struct Version {
  std::string name;  // "coalesced": one or two words, unique in its ladder
  std::string idea;  // one sentence: what it does differently from the one before, and why
  std::function<void(int set, cudaStream_t stream)> run;  // starts the kernels, on buffers number `set` of Buffers
  bool library = false;     // cuBLASLt or cuDNN: shown beside the ladder; only on a GPU
  bool in_kernels = false;  // of kernels/, though not the last: the budget holds it too
};

struct Ladder {
  std::string operation;  // "layernorm_forward"
  std::string size;       // "N=8192 C=768 bf16"
  Limit limit;
  double bytes;                   // the least that must move: every input once, every output once
  double flops;                   // a multiply and an add are two
  int sets;                       // of buffers that the versions may be given (Problem::sets())
  std::vector<Version> versions;  // the last that is no library: the launcher in kernels/
  // Throws std::runtime_error that says what differs, unless the outputs in set 0 are the CPU twin's within the
  // tolerance of docs/testing.md. Called after each version's run(0); whatever run() adds to is set anew by reset().
  std::function<void()> check;
  std::function<void()> reset;  // may be null; sets outputs to NaN by poison(), so that nothing old is taken for new
  // `bytes` as they are with the sizes of a GPU. In cudasim its 50 MB of cache are made smaller in proportion, so that
  // a tensor that is read twice costs what it would there; 0: a cache of half of `bytes`.
  double gpu_bytes = 0;
};

// What the program tells a file that makes its ladders: where it runs, so how large to be.
class Problem {
 public:
  explicit Problem(bool on_gpu, size_t cache_bytes) : on_gpu_(on_gpu), cache_bytes_(cache_bytes) {}
  bool on_gpu() const { return on_gpu_; }
  // On a GPU the size that a training step has; in cudasim one that is counted in seconds.
  int64_t size(int64_t gpu, int64_t sim) const { return on_gpu_ ? gpu : sim; }
  // So many sets of buffers of `bytes` each that, used in turn, none is still in the GPU's cache; in cudasim 1.
  int sets(double bytes) const;

 private:
  bool on_gpu_;
  size_t cache_bytes_;  // of the GPU's L2
};

// `sets` device tensors of the same n elements: random normal numbers (seed, scale), or zeros for scale 0. T: float,
// bf16, double; int32_t and uint8_t (scale 0).
template <class T>
class Buffers {
 public:
  Buffers(int sets, int64_t n, uint64_t seed, double scale);
  ~Buffers();
  Buffers(const Buffers&) = delete;
  Buffers& operator=(const Buffers&) = delete;

  T* operator[](int set) const { return data_[set]; }
  int64_t size() const { return n_; }
  std::vector<T> host(int set) const { return host(set, 0, n_); }  // after everything that was launched before
  std::vector<T> host(int set, int64_t begin, int64_t n) const;    // a part: of a GPU's sizes not all can be checked
  void write(int set, const std::vector<T>& values) const;         // to every element
  void copy(int set, const Buffers& from) const;                   // from its set 0, as long as this one
  void poison(int set) const;                                      // every byte 0xFF: a NaN as a float

 private:
  int64_t n_;
  std::vector<T*> data_;
};

// The rows of N that a check looks at, as stretches of neighbours: all up to `most`; of more, a quarter of `most` at
// each of four places from first to last.
struct Rows {
  int64_t first, count;
};
std::vector<Rows> sample_rows(int64_t N, int64_t most);

// actual, sums over K terms in float (of doubles: in double) that were then stored as T, against expected in double:
// each element within 4 u sqrt(K) rms, plus T's u for the rounding at the end (docs/testing.md), plus `slack`, what the
// operation itself loses (rounding of intermediate tensors, cancellation). Throws std::runtime_error naming the worst.
template <class T>
void check_close(const char* name, const std::vector<T>& actual, const std::vector<double>& expected, double K,
                 double slack);

// What is stored, as doubles for a twin: exact.
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
std::vector<Registered> registered();  // from the simplest operation to the hardest, as a reader wants them

}  // namespace bench
