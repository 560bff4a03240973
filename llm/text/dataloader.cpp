#include "llm/text/dataloader.h"

#include <algorithm>
#include <bit>
#include <exception>
#include <limits>
#include <semaphore>
#include <thread>
#include <utility>

#include "llm/support/error.h"

// ---- the order of windows ------------------------------------------------------------------------------------------

namespace {

// The finaliser of SplitMix64 (Steele, Lea and Flood 2014): every bit of the result depends on every bit of x.
uint64_t mix(uint64_t x) {
  x += 0x9E3779B97F4A7C15u;
  x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9u;
  x = (x ^ x >> 27) * 0x94D049BB133111EBu;
  return x ^ x >> 31;
}

// A permutation of [0, n) chosen by `key`, one element at a time and without a table. A Feistel network permutes the
// numbers of 2h bits for any round function; 2h is the smallest with n <= 2^2h, and a result outside [0, n) is sent
// through again (cycle walking), which remains a permutation and takes fewer than 4 passes on average.
int64_t permute(int64_t index, int64_t n, uint64_t key) {
  const int half = std::max(1, (static_cast<int>(std::bit_width(static_cast<uint64_t>(n - 1))) + 1) / 2);
  const uint64_t mask = (uint64_t{1} << half) - 1;
  uint64_t x = static_cast<uint64_t>(index);
  do {
    uint64_t left = x >> half, right = x & mask;
    for (uint64_t round = 0; round < 6; ++round) {
      left ^= mix(key ^ right ^ round << 56) & mask;  // right has at most 32 bits
      std::swap(left, right);
    }
    x = left << half | right;
  } while (x >= static_cast<uint64_t>(n));
  return static_cast<int64_t>(x);
}

LoaderConfig checked(LoaderConfig config) {
  if (config.B < 1 || config.T < 1 || config.B > std::numeric_limits<int32_t>::max() / config.T) {
    fail("a batch of %d windows of %d tokens: both must be at least 1 and their product below 2^31", config.B,
         config.T);
  }
  if (config.stride < 0) fail("a stride of %lld tokens, expected at least 1", static_cast<long long>(config.stride));
  if (config.ranks < 1 || config.rank < 0 || config.rank >= config.ranks) {
    fail("process rank %d of %d, expected a rank from 0 to the number of processes less one", config.rank,
         config.ranks);
  }
  if (config.stride == 0) config.stride = config.T;
  return config;
}

}  // namespace

// ---- batches -------------------------------------------------------------------------------------------------------

struct DataLoader::Impl {
  const TokenSequence tokens;
  const LoaderConfig config;
  const bool random_phase = config.shuffled && !config.fixed;
  int64_t windows = 0, batches = 0;  // per epoch
  LoaderPosition position;           // of the batch that next() returns next
  Batch current;                     // the batch that next() returned last
  Batch ahead;                       // the batch at `position`, made by the thread

  // `position`, `ahead`, `error` and `end` belong to the thread from wanted.release() to made.acquire() (`under_way`),
  // and to the caller otherwise.
  std::binary_semaphore wanted{0}, made{0};
  bool under_way = false;
  bool end = false;          // tells the thread to end
  std::exception_ptr error;  // what went wrong in making the batch, or null
  std::thread thread;

  Impl(TokenSequence sequence, const LoaderConfig& given) : tokens(std::move(sequence)), config(checked(given)) {
    const int64_t n = tokens.size(), T = config.T, stride = config.stride, per_batch = config.B;
    // A window at w * stride (+ phase) needs T + 1 tokens. At a random phase, only windows that fit at the largest
    // phase, stride - 1, count: (w + 1) * stride - 1 + T < n.
    windows = n <= T ? 0 : random_phase ? (n - T) / stride : (n - T - 1) / stride + 1;
    batches = windows / per_batch;
    if (batches == 0) {
      const double apart = static_cast<double>(per_batch) * static_cast<double>(stride);
      const double needed = static_cast<double>(T) + (random_phase ? apart : apart - static_cast<double>(stride) + 1);
      fail(
          "the data has %lld tokens, but one batch of %d x %d tokens%s needs %.0f; give more text, or lower "
          "{batch-size} or {seq-len}",
          static_cast<long long>(n), config.B, config.T, random_phase ? " at a random phase" : "", needed);
    }
    const size_t BT = static_cast<size_t>(config.B) * static_cast<size_t>(config.T);
    const std::vector<int32_t> none(BT);
    current = ahead = {config.B, config.T, none, none, std::vector<float>(BT, 1.0f)};
    thread = std::thread([this] { run(); });
  }

  ~Impl() {
    finish();
    end = true;
    wanted.release();
    thread.join();
  }

  LoaderPosition ahead_of(LoaderPosition p, int64_t by) const {
    p.batch += by;
    return {p.epoch + p.batch / batches, p.batch % batches};
  }

  // ---- on the thread ----

  void run() {
    for (wanted.acquire(); !end; wanted.acquire()) {
      try {
        fill();
      } catch (...) {
        error = std::current_exception();
      }
      made.release();
    }
  }

  void fill() {
    const int64_t T = config.T;
    const LoaderPosition own = ahead_of(position, config.rank);
    const uint64_t key = mix(mix(config.seed) + static_cast<uint64_t>(own.epoch));
    const int64_t phase = random_phase ? static_cast<int64_t>(mix(key) % static_cast<uint64_t>(config.stride)) : 0;
    const int64_t first = own.batch * config.B;
    for (int64_t b = 0; b < config.B; ++b) {
      const int64_t window = config.shuffled ? permute(first + b, windows, key) : first + b;
      const int64_t from = phase + window * config.stride;
      tokens.copy(from, T, ahead.inputs.data() + b * T);
      tokens.copy(from + 1, T, ahead.targets.data() + b * T);
    }
  }

  // ---- on the caller's thread ----

  void prefetch() {
    under_way = true;
    wanted.release();
  }

  // Waits for the batch that is under way, if any; returns its error, or null.
  std::exception_ptr finish() {
    if (!under_way) return nullptr;
    made.acquire();
    under_way = false;
    return std::exchange(error, nullptr);
  }
};

DataLoader::DataLoader(TokenSequence tokens, const LoaderConfig& config)
    : impl_(std::make_unique<Impl>(std::move(tokens), config)) {}
DataLoader::~DataLoader() = default;
DataLoader::DataLoader(DataLoader&&) noexcept = default;

const Batch& DataLoader::next() {
  Impl& loader = *impl_;
  if (!loader.under_way) loader.prefetch();  // the first batch, or the first after a seek or an error
  if (const std::exception_ptr error = loader.finish()) std::rethrow_exception(error);
  std::swap(loader.current, loader.ahead);
  loader.position = loader.ahead_of(loader.position, loader.config.ranks);
  loader.prefetch();
  return loader.current;
}

LoaderPosition DataLoader::position() const { return impl_->position; }
int64_t DataLoader::batches_per_epoch() const { return impl_->batches; }

void DataLoader::seek(LoaderPosition position) {
  if (position.epoch < 0 || position.batch < 0 || position.batch >= impl_->batches) {
    fail(
        "the data has no batch %lld in epoch %lld: an epoch has %lld, counted from 0; was the position saved "
        "with other data or another batch size?",
        static_cast<long long>(position.batch), static_cast<long long>(position.epoch),
        static_cast<long long>(impl_->batches));
  }
  impl_->finish();  // that batch is no longer needed, nor is its error
  impl_->position = position;
}
