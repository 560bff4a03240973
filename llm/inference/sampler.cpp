#include "llm/inference/sampler.h"

#include <algorithm>
#include <bit>
#include <cfloat>
#include <cmath>
#include <cstring>
#include <numeric>
#include <stdexcept>

#include "kernels/cpu/dispatch.h"
#include "kernels/philox.h"
#include "llm/support/error.h"

namespace {

constexpr uint64_t kSampleSequence = 0x73616d706c65;  // differs from the sequences of initialisation and dropout

bool has_penalties(const SamplerConfig& config) {
  return config.repetition_penalty != 1 || config.frequency_penalty != 0 || config.presence_penalty != 0;
}

[[noreturn]] void fail_damaged() { fail("the model's logits are not finite: its weights are damaged"); }

// ---- the plain sampler ---------------------------------------------------------------------------------------------

// The weight of a token, relative to that of the most likely.
double weight(float logit, float max, double temperature) { return std::exp((logit - max) / temperature); }

struct Distribution {
  std::vector<int> ids;         // the tokens left: by id, with top_p < 1 from the most likely
  std::vector<double> weights;  // not normalised
};

// Steps 3 to 6. temperature > 0.
Distribution distribution(std::span<const float> logits, const SamplerConfig& config, float max) {
  std::vector<int> ids(logits.size());
  std::iota(ids.begin(), ids.end(), 0);
  const auto logit = [&](int id) { return logits[static_cast<size_t>(id)]; };
  if (config.top_k > 0 && static_cast<size_t>(config.top_k) < ids.size()) {
    std::vector<float> sorted(logits.begin(), logits.end());
    std::nth_element(sorted.begin(), sorted.begin() + config.top_k - 1, sorted.end(), std::greater<>());
    const float threshold = sorted[static_cast<size_t>(config.top_k) - 1];
    std::erase_if(ids, [&](int id) { return !(logit(id) >= threshold); });
  }

  if (config.top_p < 1) {
    std::stable_sort(ids.begin(), ids.end(), [&](int a, int b) { return logit(a) > logit(b); });
  }
  std::vector<double> p(ids.size());
  std::transform(ids.begin(), ids.end(), p.begin(), [&](int id) { return weight(logit(id), max, config.temperature); });
  if (config.top_p < 1) {
    const double total = std::accumulate(p.begin(), p.end(), 0.0);
    size_t n = 0;
    double sum = 0;
    while (n < p.size() && sum < config.top_p * total) sum += p[n++];
    p.resize(std::max<size_t>(1, n));
    ids.resize(p.size());
  }
  if (config.min_p > 0) {  // the most likely has weight 1
    std::erase_if(ids, [&](int id) { return weight(logit(id), max, config.temperature) < config.min_p; });
    std::erase_if(p, [&](double w) { return w < config.min_p; });
  }
  return {std::move(ids), std::move(p)};
}

int draw(const Distribution& tokens, double coin) {
  double left = coin * std::accumulate(tokens.weights.begin(), tokens.weights.end(), 0.0);
  size_t chosen = 0;
  for (size_t i = 0; i < tokens.weights.size() && left >= 0; ++i) {
    left -= tokens.weights[i];
    if (tokens.weights[i] > 0) chosen = i;  // if rounding leaves a remainder, the last possible token
  }
  return tokens.ids[chosen];
}

// ---- the fast sampler ----------------------------------------------------------------------------------------------

struct Candidate {
  float logit;
  int id;
  double weight;
};

// The order of top_p.
bool before(const Candidate& a, const Candidate& b) { return a.logit > b.logit || (a.logit == b.logit && a.id < b.id); }

const cpu::SamplingKernels& fast() {
  static const cpu::SamplingKernels* const best = cpu::fast_sampling_kernels(cpu::best_isa());
  return *best;
}

template <class T>
T* with_room(std::vector<T>& table, int n) {
  if (table.size() < static_cast<size_t>(n)) table.resize(static_cast<size_t>(n));
  return table.data();
}

// Memory of a thread, which grows to its largest vocabulary.
struct Tables {
  std::vector<float> maxima;                 // of each block of logits
  std::vector<double> sums;                  // of each block's weights
  std::vector<int> ids;                      // the list: tokens,
  std::vector<float> logits;                 // their logits
  std::vector<double> weights;               // and weights
  std::vector<float> selected;               // for nth_element
  std::vector<Candidate> candidates, spare;  // the list for select()
  static Tables& of_this_thread() {
    static thread_local Tables tables;
    return tables;
  }
};

// A row of logits, and a list of those of its tokens that matter.
class Row {
 public:
  // Throws Error if a logit is NaN or the largest is not finite.
  explicit Row(std::span<const float> logits);

  float max() const { return max_; }
  int first_of_largest() const;
  // What draw(distribution(...), coin) is, or -1 if that depends on rounding. temperature > 0.
  int draw(const SamplerConfig& config, double coin);
  // The n most likely tokens in order, without those whose logits are -inf.
  std::span<const Candidate> most_likely(int n);

 private:
  void collect(float low, float high);  // appends the tokens with low <= logit < high to the list, by id
  void collect_top(int k);              // the list: the k largest logits and those that equal the k-th. 0 < k < V
  double weigh(double scale);  // weighs what the list has since the last call; returns the sum of those weights
  template <class Stays>
  void keep(const Stays& stays);  // of the list: the places for which stays(place)
  void make_candidates();

  int draw_from_all(double scale, double coin);
  int draw_from_list(double coin);
  int draw_from_nucleus(const SamplerConfig& config, double total, double coin);
  double collect_nucleus(const SamplerConfig& config, double scale);
  double guess_cut(const SamplerConfig& config, double scale, double total) const;
  bool reaches_min_p(float logit, double w, const SamplerConfig& config) const;
  double margin(double total) const;

  const float* logits_;
  int V_, blocks_;
  Tables& t_;
  float max_;
  int n_ = 0, weighed_ = 0;  // the list: its tokens, and how many of them have weights
};

Row::Row(std::span<const float> logits)
    : logits_(logits.data()),
      V_(static_cast<int>(logits.size())),
      blocks_((V_ + cpu::kSamplingBlock - 1) / cpu::kSamplingBlock),
      t_(Tables::of_this_thread()) {
  if (V_ == 0) fail_damaged();
  float* maxima = with_room(t_.maxima, blocks_);
  const bool numbers = fast().block_maxima(maxima, logits_, V_);
  max_ = *std::max_element(maxima, maxima + blocks_);
  if (!numbers || !std::isfinite(max_)) fail_damaged();  // -inf is a valid logit: never this token
}

int Row::first_of_largest() const {
  const auto block = std::find(t_.maxima.begin(), t_.maxima.begin() + blocks_, max_) - t_.maxima.begin();
  return static_cast<int>(std::find(logits_ + block * cpu::kSamplingBlock, logits_ + V_, max_) - logits_);
}

void Row::collect(float low, float high) {
  int* ids = with_room(t_.ids, V_);
  float* logits = with_room(t_.logits, V_);
  constexpr int kBlock = cpu::kSamplingBlock;
  int n = n_;
  for (int b = 0; b < blocks_; ++b) {
    if (!(t_.maxima[static_cast<size_t>(b)] >= low)) continue;
    const float* x = logits_ + b * kBlock;
    unsigned char inside[kBlock] = {};
    if (b < V_ / kBlock) {  // a fixed length: vectors
      for (int i = 0; i < kBlock; ++i) inside[i] = (x[i] >= low) & (x[i] < high);
    } else {
      for (int i = 0; i < V_ % kBlock; ++i) inside[i] = (x[i] >= low) & (x[i] < high);
    }
    uint64_t bits = 0;  // of the bytes, each 0 or 1
    for (int i = 0; i < kBlock; i += 8) {
      uint64_t eight;
      std::memcpy(&eight, inside + i, 8);
      bits |= (eight * 0x0102040810204080) >> 56 << i;
    }
    for (; bits != 0; bits &= bits - 1) {
      const int k = std::countr_zero(bits);
      ids[n] = b * kBlock + k;
      logits[n++] = x[k];
    }
  }
  n_ = n;
}

void Row::collect_top(int k) {
  std::vector<float>& selected = t_.selected;
  const auto kth_largest = [&](const std::vector<float>& of, int n) {
    selected.assign(of.begin(), of.begin() + n);
    const auto kth = selected.begin() + std::min(k, n) - 1;
    std::nth_element(selected.begin(), kth, selected.begin() + n, std::greater<>());
    return *kth;
  };
  collect(kth_largest(t_.maxima, blocks_), INFINITY);  // k blocks have such a logit, so the list has at least k tokens,
  if (n_ < k) {                                        // unless there are fewer blocks
    n_ = 0;
    collect(-INFINITY, INFINITY);
  }
  const float threshold = kth_largest(t_.logits, n_);
  keep([&](size_t i) { return t_.logits[i] >= threshold; });
}

double Row::weigh(double scale) {
  double* weights = with_room(t_.weights, n_);
  fast().softmax_weights(weights + weighed_, t_.logits.data() + weighed_, max_, scale, n_ - weighed_);
  const double sum = std::accumulate(weights + weighed_, weights + n_, 0.0);
  weighed_ = n_;
  return sum;
}

template <class Stays>
void Row::keep(const Stays& stays) {
  size_t kept = 0, weighed = 0;
  for (size_t i = 0; i < static_cast<size_t>(n_); ++i) {
    if (!stays(i)) continue;
    t_.ids[kept] = t_.ids[i];
    t_.logits[kept] = t_.logits[i];
    if (i < static_cast<size_t>(weighed_)) t_.weights[weighed++] = t_.weights[i];
    ++kept;
  }
  n_ = static_cast<int>(kept);
  weighed_ = static_cast<int>(weighed);
}

void Row::make_candidates() {
  t_.candidates.resize(static_cast<size_t>(n_));
  for (size_t i = 0; i < t_.candidates.size(); ++i) {
    t_.candidates[i] = {t_.logits[i], t_.ids[i], i < static_cast<size_t>(weighed_) ? t_.weights[i] : 0};
  }
}

std::span<const Candidate> Row::most_likely(int n) {
  if (n == 0) return {};
  if (n < V_) {
    collect_top(n);
  } else {
    collect(-INFINITY, INFINITY);
  }
  keep([&](size_t i) { return t_.logits[i] > -INFINITY; });
  make_candidates();
  std::sort(t_.candidates.begin(), t_.candidates.end(), before);
  return std::span<const Candidate>(t_.candidates).first(static_cast<size_t>(std::min(n, n_)));
}

// By how much a sum of weights, or a share of one, may differ from that of the plain sampler, times two. Each of the
// four sums that meet in a comparison rounds up to V times, by 2^-53 of `total` each; the weights are off by
// kSamplingError, and by 745 roundings because here the temperature is a factor.
double Row::margin(double total) const {
  return total * 2 * (4 * 0x1p-53 * V_ + 2 * (cpu::kSamplingError + 745 * 0x1p-52));
}

bool Row::reaches_min_p(float logit, double w, const SamplerConfig& config) const {
  const bool near = std::abs(w - config.min_p) <= 1e-11 * config.min_p;
  return (near ? weight(logit, max_, config.temperature) : w) >= config.min_p;
}

int Row::draw(const SamplerConfig& config, double coin) {
  const double scale = 1 / config.temperature;
  if (!std::isfinite(scale) || (config.min_p > 0 && config.min_p < 1e-300)) return -1;  // the errors above do not hold
  const bool limited = config.top_k > 0 && config.top_k < V_;
  if (limited) collect_top(config.top_k);
  if (config.top_p < 1) {
    const double total = limited ? weigh(scale) : collect_nucleus(config, scale);
    return draw_from_nucleus(config, total, coin);
  }
  if (!limited && config.min_p == 0) return draw_from_all(scale, coin);
  if (!limited) {
    const double low = max_ + config.temperature * std::log(config.min_p);
    collect(static_cast<float>(std::max<double>(low - 1e-6 * (std::abs(low) + std::abs(max_)), -FLT_MAX)), INFINITY);
  }
  weigh(scale);
  if (config.min_p > 0) keep([&](size_t i) { return reaches_min_p(t_.logits[i], t_.weights[i], config); });
  return draw_from_list(coin);
}

int Row::draw_from_all(double scale, double coin) {
  double* sums = with_room(t_.sums, blocks_);
  fast().softmax_block_sums(sums, logits_, max_, scale, V_);
  const double total = std::accumulate(sums, sums + blocks_, 0.0), target = coin * total, unsure = margin(total);
  double sum = 0;
  int block = 0;
  while (block < blocks_ && sum + sums[block] <= target) sum += sums[block++];
  if (block == blocks_) return -1;
  double weights[cpu::kSamplingBlock];
  const int begin = block * cpu::kSamplingBlock, n = std::min(cpu::kSamplingBlock, V_ - begin);
  fast().softmax_weights(weights, logits_ + begin, max_, scale, n);
  for (int i = 0; i < n; sum += weights[i++]) {
    if (sum + weights[i] <= target) continue;
    return target - sum > unsure && sum + weights[i] - target > unsure ? begin + i : -1;
  }
  return -1;
}

int Row::draw_from_list(double coin) {
  const double total = std::accumulate(t_.weights.begin(), t_.weights.begin() + n_, 0.0);
  const double target = coin * total, unsure = margin(total);
  double sum = 0;
  for (size_t i = 0; i < static_cast<size_t>(n_); sum += t_.weights[i++]) {
    if (sum + t_.weights[i] <= target) continue;
    return target - sum > unsure && sum + t_.weights[i] - target > unsure ? t_.ids[i] : -1;
  }
  return -1;
}

// About ln of the smallest weight in the nucleus, rather too small. What is outside has many tokens, so every n-th
// block tells how heavy it is.
double Row::guess_cut(const SamplerConfig& config, double scale, double total) const {
  constexpr int kSample = 48, kBuckets = 128, kPerNat = 4;
  const int stride = std::max(1, blocks_ / kSample);
  double mass[kBuckets] = {}, weights[cpu::kSamplingBlock];
  for (int b = 0; b < blocks_; b += stride) {
    const float* logits = logits_ + b * cpu::kSamplingBlock;
    const int n = std::min(cpu::kSamplingBlock, V_ - b * cpu::kSamplingBlock);
    fast().softmax_weights(weights, logits, max_, scale, n);
    for (int i = 0; i < n; ++i) {
      const double depth = static_cast<double>(max_ - logits[i]) * scale * kPerNat;
      mass[static_cast<int>(std::min<double>(depth, kBuckets - 1))] += weights[i];
    }
  }
  int bucket = kBuckets;
  for (double outside = 0; bucket > 1 && outside <= 0.9 * (1 - config.top_p) * total;)
    outside += stride * mass[--bucket];
  return -static_cast<double>(bucket + 1) / kPerNat;
}

// The list: at least the nucleus of all tokens, weighed. Returns the weight of all tokens.
double Row::collect_nucleus(const SamplerConfig& config, double scale) {
  double* sums = with_room(t_.sums, blocks_);
  fast().softmax_block_sums(sums, logits_, max_, scale, V_);
  const double total = std::accumulate(sums, sums + blocks_, 0.0);
  const double enough = config.top_p * total + margin(total);
  // Tokens lighter than this are together lighter than what the nucleus may lack.
  const double last = std::log((1 - config.top_p) * total / V_);
  float high = INFINITY;
  double sum = 0;
  for (double cut = guess_cut(config, scale, total); sum < enough; cut -= 3) {
    const bool all = cut < last - 3;  // only if `enough` hangs on rounding
    const double low = all ? -INFINITY : max_ + config.temperature * std::max(cut, last);
    const float next = static_cast<float>(std::max<double>(low, -FLT_MAX));
    collect(next, high);
    sum += weigh(scale);
    high = next;
    if (all) break;
  }
  return total;
}

// Those before the pivot first, their number returned and their weight added to `left`. Without branches: each is a
// guess. spare: room for them all.
int64_t divide(std::span<Candidate>::iterator begin, std::span<Candidate>::iterator end, const Candidate pivot,
               Candidate* spare, double& left) {
  int64_t before_it = 0, others = 0;
  for (auto read = begin; read < end; ++read) {
    const Candidate c = *read;
    const bool is_before = (c.logit > pivot.logit) | ((c.logit == pivot.logit) & (c.id < pivot.id));
    begin[before_it] = c;
    spare[others] = c;
    before_it += is_before;
    others += !is_before;
    left += c.weight * is_before;
  }
  std::copy(spare, spare + others, begin + before_it);
  return before_it;
}

// The place of the first candidate, in the order of top_p, up to which the weights have a sum above `target`; or -1 if
// that is not sure by `unsure`. Those before it are then at the places before it. Expected time: linear.
int64_t select(std::span<Candidate> candidates, double target, double unsure, Candidate* spare) {
  auto begin = candidates.begin(), end = candidates.end();
  double sum = 0;  // before `begin`
  for (int depth = 0; end - begin > 16; ++depth) {
    if (depth == 100) return -1;
    Candidate ends[3] = {begin[0], begin[(end - begin) / 2], end[-1]};
    std::sort(ends, ends + 3, before);
    double left = 0;
    const auto middle = begin + divide(begin, end, ends[1], spare, left);
    if (sum + left > target) {
      end = middle;
    } else {
      sum += left;
      begin = middle;
    }
  }
  std::sort(begin, end, before);
  for (; begin < end; sum += (begin++)->weight) {
    if (sum + begin->weight <= target) continue;
    const int64_t place = begin - candidates.begin();
    return sum + begin->weight - target > unsure && (place == 0 || target - sum > unsure) ? place : -1;
  }
  return -1;
}

// total: the weight of the tokens whose nucleus this is; the list has at least the nucleus.
int Row::draw_from_nucleus(const SamplerConfig& config, double total, double coin) {
  make_candidates();
  Candidate* spare = with_room(t_.spare, n_);
  const double unsure = margin(total);
  const int64_t last = select(t_.candidates, config.top_p * total, unsure, spare);
  if (last < 0) return -1;
  std::span<Candidate> nucleus = std::span(t_.candidates).first(static_cast<size_t>(last) + 1);
  if (config.min_p > 0) {
    const auto end = std::partition(nucleus.begin(), nucleus.end(),
                                    [&](const Candidate& c) { return reaches_min_p(c.logit, c.weight, config); });
    nucleus = nucleus.first(static_cast<size_t>(end - nucleus.begin()));
  }
  const double left = std::accumulate(nucleus.begin(), nucleus.end(), 0.0,
                                      [](double sum, const Candidate& c) { return sum + c.weight; });
  const int64_t chosen = select(nucleus, coin * left, unsure, spare);
  return chosen < 0 ? -1 : nucleus[static_cast<size_t>(chosen)].id;
}

void check_range(const char* name, double value, double low, double high) {
  if (!(value >= low && value <= high)) fail_usage("{%s} is %g: expected %g to %g", name, value, low, high);
}

}  // namespace

// ---- settings ------------------------------------------------------------------------------------------------------

void validate(const SamplerConfig& config) {
  if (!(config.temperature >= 0 && config.temperature <= DBL_MAX)) {
    fail_usage("{temperature} is %g: expected a number from 0 (greedy) on", config.temperature);
  }
  if (config.top_k < 0) fail_usage("{top-k} is %d: expected a whole number from 0 (all tokens) on", config.top_k);
  check_range("top-p", config.top_p, 0, 1);
  check_range("min-p", config.min_p, 0, 1);
  if (!(config.repetition_penalty > 0 && config.repetition_penalty <= DBL_MAX)) {
    fail_usage("{repetition-penalty} is %g: expected a number above 0 (1: none)", config.repetition_penalty);
  }
  check_range("frequency-penalty", config.frequency_penalty, -2, 2);
  check_range("presence-penalty", config.presence_penalty, -2, 2);
}

// ---- one sequence --------------------------------------------------------------------------------------------------

Sampler::Sampler(const SamplerConfig& config, uint64_t seed, std::span<const int32_t> prompt, int vocab_size)
    : config_(config), seed_(seed), vocab_size_(vocab_size) {
  validate(config);
  if (vocab_size < 1) throw std::logic_error("Sampler: expected a vocabulary of at least one token");
  if (has_penalties(config)) seen_at_.assign(static_cast<size_t>(vocab_size), -1);
  for (size_t i = 0; i < prompt.size(); ++i) {
    if (prompt[i] < 0 || prompt[i] >= vocab_size) {
      fail("token %d at position %zu of the prompt is outside the vocabulary of %d", prompt[i], i, vocab_size);
    }
    remember(prompt[i], false);
  }
}

void Sampler::remember(int32_t id, bool generated) {
  if (seen_at_.empty()) return;
  int32_t& at = seen_at_[static_cast<size_t>(id)];
  if (at < 0) {
    at = static_cast<int32_t>(seen_.size());
    seen_.push_back({id, 0});
  }
  seen_[static_cast<size_t>(at)].generated += generated;
}

// Steps 1 and 2; the result is valid until the next call on this thread.
std::span<const float> Sampler::penalised(std::span<const float> logits) const {
  if (logits.size() != static_cast<size_t>(vocab_size_)) {
    throw std::logic_error(strprintf("Sampler: expected %d logits, found %zu", vocab_size_, logits.size()));
  }
  if (seen_.empty()) return logits;
  static thread_local std::vector<float> changed;
  changed.assign(logits.begin(), logits.end());
  for (const Seen& token : seen_) {
    float& logit = changed[static_cast<size_t>(token.id)];
    if (!std::isfinite(logit)) continue;
    double x = logit;
    x = x > 0 ? x / config_.repetition_penalty : x * config_.repetition_penalty;
    if (token.generated > 0) x -= config_.frequency_penalty * token.generated + config_.presence_penalty;
    logit = static_cast<float>(std::clamp<double>(x, -FLT_MAX, FLT_MAX));
  }
  return changed;
}

int Sampler::next(std::span<const float> logits) {
  const std::span<const float> changed = penalised(logits);
  Row row(changed);
  int id;
  if (config_.temperature == 0) {
    id = row.first_of_largest();
  } else {
    const double coin = philox_uniform(seed_, kSampleSequence, drawn_);
    id = row.draw(config_, coin);
    if (id < 0) {
      id = draw(distribution(changed, config_, row.max()), coin);
      ++drawn_plainly_;
    }
  }
  ++drawn_;
  remember(id, true);
  return id;
}

std::vector<double> Sampler::probabilities(std::span<const float> logits) const {
  const std::span<const float> changed = penalised(logits);
  const Row row(changed);
  std::vector<double> p(logits.size());
  if (config_.temperature == 0) {
    p[static_cast<size_t>(row.first_of_largest())] = 1;
    return p;
  }
  const Distribution tokens = distribution(changed, config_, row.max());
  const double total = std::accumulate(tokens.weights.begin(), tokens.weights.end(), 0.0);
  for (size_t i = 0; i < tokens.ids.size(); ++i) p[static_cast<size_t>(tokens.ids[i])] = tokens.weights[i] / total;
  return p;
}

// ---- without memory ------------------------------------------------------------------------------------------------

int sample(std::span<const float> logits, const SamplerConfig& config, double coin) {
  validate(config);
  if (has_penalties(config)) throw std::logic_error("sample: a penalty needs the tokens so far: use Sampler");
  const Row row(logits);
  if (config.temperature == 0) return row.first_of_largest();
  return draw(distribution(logits, config, row.max()), coin);
}

LogProbabilities log_probabilities(std::span<const float> logits, int chosen, int alternatives) {
  if (chosen < 0 || static_cast<size_t>(chosen) >= logits.size() || alternatives < 0) {
    throw std::logic_error(
        strprintf("log_probabilities: token %d of %zu logits, %d alternatives", chosen, logits.size(), alternatives));
  }
  Row row(logits);
  const double max = row.max(), sum = fast().softmax_sum(logits.data(), row.max(), static_cast<int>(logits.size()));
  const auto of = [&](float logit) { return logit - max - std::log(sum); };
  LogProbabilities result{of(logits[static_cast<size_t>(chosen)]), {}};
  for (const Candidate& token : row.most_likely(alternatives)) result.top.push_back({token.id, of(token.logit)});
  return result;
}
