#include "llm/inference/engine.h"

#include <algorithm>
#include <exception>
#include <utility>

#include "kernels/kv_cache.h"
#include "llm/support/error.h"

const char* name_of(Ended ended) {
  const char* names[] = {"not_yet", "length", "end_token", "stopped"};
  return names[static_cast<int>(ended)];
}

Engine::Engine(Decoder& decoder, int sequences, bool reuse)
    : decoder_(decoder), sequences_(std::min(sequences, decoder.max_rows)), reuse_(reuse), tree_(decoder.pages) {
  if (sequences < 1) fail("an engine for %d sequences: expected at least 1", sequences);
}

// ---- requests ------------------------------------------------------------------------------------------------------

int Engine::context_of(const Request& request) const {
  const int longest = decoder_.config.max_seq_len;
  return request.context > 0 ? std::min(request.context, longest) : longest;
}

int Engine::pages_for(const Request& request) const {
  const int64_t all = static_cast<int64_t>(request.prompt.size()) + request.tokens;
  return pages_of(static_cast<int>(std::min<int64_t>(all, context_of(request))));
}

// The same for what is left of a sequence.
int Engine::pages_for(const Sequence& s) const {
  const int64_t all = static_cast<int64_t>(s.window.size()) + s.request.tokens - s.made;
  return pages_of(static_cast<int>(std::min<int64_t>(all, context_of(s.request))));
}

int64_t Engine::add(Request request) {
  const int V = decoder_.config.vocab_size, context = context_of(request);
  if (request.prompt.empty()) fail("the prompt is empty: generation needs at least one token to start from");
  for (const int32_t id : request.prompt) {
    if (id < 0 || id >= V) fail("token %d of the prompt is outside the vocabulary of %d", id, V);
  }
  if (request.tokens < 1) fail("%d tokens are asked for: expected at least 1", request.tokens);
  if (request.context < 0) fail("a context of %d tokens: expected at least 1, or 0 for the model's", request.context);
  if (request.slide < 1 || request.slide > context) {
    fail("a window of %d tokens cannot move by %d: expected 1 to %d", context, request.slide, context);
  }
  if (request.top && (*request.top < 0 || *request.top > V)) {
    fail("log-probabilities of %d tokens are asked for: expected 0 to %d", *request.top, V);
  }
  const int needed = pages_for(request);
  if (needed > tree_.pages()) {
    fail(
        "a request of %zu tokens and up to %d new ones takes %d tokens of cache; there are %d: ask for fewer, or take "
        "a "
        "larger {cache-tokens}",
        request.prompt.size(), request.tokens, needed * kPageTokens, tree_.pages() * kPageTokens);
  }
  Sampler sampler(request.sampler, request.seed, request.prompt, V);
  std::vector<int32_t> window = request.prompt;
  waiting_.push_back({next_, std::move(request), std::move(sampler), std::move(window), {}});
  fit_window(waiting_.back());
  return next_++;
}

void Engine::cancel(int64_t request) {
  const auto is = [&](const Sequence& s) { return s.number == request; };
  waiting_.remove_if(is);
  const auto found = std::find_if(running_.begin(), running_.end(), is);
  if (found == running_.end()) return;
  leave(*found);
  running_.erase(found);
}

// ---- joining and leaving -------------------------------------------------------------------------------------------

// Moves a window that has become too long.
void Engine::fit_window(Sequence& s) const {
  const int context = context_of(s.request), length = static_cast<int>(s.window.size());
  if (length > context) s.window.erase(s.window.begin(), s.window.end() - (context - s.request.slide + 1));
}

// The beginning of a window that may come from the cache: all but the last token, whose logits are wanted.
std::span<const int32_t> Engine::shareable(const Sequence& s) const {
  return std::span(s.window).first(reuse_ ? s.window.size() - 1 : 0);
}

Engine::Joins Engine::when_joins(const Sequence& s) const {
  if (static_cast<int>(running_.size()) >= sequences_) return Joins::when_there_is_room;
  const auto tokens = shareable(s);
  const PageTree::Found found = tree_.look(tokens);
  // If another one is just computing more of the same beginning, it is worth waiting for.
  for (const Sequence& other : running_) {
    const auto differ = std::mismatch(tokens.begin(), tokens.end(), other.window.begin(), other.window.end());
    const int common = static_cast<int>(differ.first - tokens.begin());
    if (common > found.length && common > other.path.length) return Joins::after_another;
  }
  const int room = tree_.unused() - found.unused - reserved_, shared = found.length / kPageTokens;
  return room >= pages_for(s) - shared ? Joins::now : Joins::when_there_is_room;
}

void Engine::join(Sequence& s) {
  PageTree::Node* further;
  int common;
  s.path = tree_.find(shareable(s), further, common);
  s.reserved = pages_for(s) - static_cast<int>(s.path.nodes.size());
  reserved_ += s.reserved;
  if (common > 0) {
    const int32_t from = further->page;
    const int32_t to = extend(s)->page;
    if (to != from) decoder_.copy_page(to, from);
    tree_.fill(s.path, std::span(s.window).subspan(static_cast<size_t>(s.path.length), static_cast<size_t>(common)));
  }
  counts_.reused += s.path.length;
}

PageTree::Node* Engine::extend(Sequence& s) {
  --s.reserved;
  --reserved_;
  return tree_.extend(s.path);
}

void Engine::leave(Sequence& s) {
  reserved_ -= std::exchange(s.reserved, 0);
  tree_.release(s.path);
}

// ---- a pass --------------------------------------------------------------------------------------------------------

// One token of each text that is being written; what room is left goes to the others, in the order of their numbers.
std::vector<Engine::Part> Engine::next_parts() {
  int room = decoder_.max_rows;
  std::vector<Part> parts;
  const auto pending = [](const Sequence& s) { return static_cast<int>(s.window.size()) - s.path.length; };
  for (Sequence& s : running_) room -= pending(s) == 1;
  for (Sequence& s : running_) {
    const int left = pending(s), count = left == 1 ? 1 : std::min(left, room);
    if (left > 1) room -= count;
    if (count > 0) parts.push_back({&s, count, -1});
  }
  int wanted = 0;
  for (Part& part : parts) {
    if (part.count == pending(*part.sequence)) part.wanted = wanted++;
  }
  return parts;
}

void Engine::compute(const std::vector<Part>& parts) {
  std::vector<int32_t> tokens, positions, sequences, pages, wanted;
  size_t max_pages = 0;
  for (const Part& part : parts) {
    Sequence& s = *part.sequence;
    while (static_cast<int>(s.path.nodes.size()) * kPageTokens < s.path.length + part.count) extend(s);
    max_pages = std::max(max_pages, s.path.nodes.size());
  }
  for (size_t i = 0; i < parts.size(); ++i) {
    const Sequence& s = *parts[i].sequence;
    for (int k = 0; k < parts[i].count; ++k) {
      tokens.push_back(s.window[static_cast<size_t>(s.path.length + k)]);
      positions.push_back(s.path.length + k);
      sequences.push_back(static_cast<int32_t>(i));
    }
    if (parts[i].wanted >= 0) wanted.push_back(static_cast<int32_t>(tokens.size()) - 1);
    for (const PageTree::Node* node : s.path.nodes) pages.push_back(node->page);
    pages.resize((i + 1) * max_pages);
  }
  decoder_.forward({tokens, positions, sequences, pages, static_cast<int>(max_pages), wanted});
  for (const Part& part : parts) {
    Sequence& s = *part.sequence;
    if (s.made == 0 || part.count > 1) counts_.prompt += part.count;
    tree_.fill(s.path,
               std::span(s.window).subspan(static_cast<size_t>(s.path.length), static_cast<size_t>(part.count)));
  }
  ++counts_.passes;
  counts_.rows += static_cast<int64_t>(tokens.size());
}

// A token for each sequence whose logits are there, on all threads: the draws do not depend on one another.
std::vector<Engine::Drawn> Engine::draw(const std::vector<Part>& parts) {
  std::vector<Sequence*> drawing;
  for (const Part& part : parts) {
    if (part.wanted >= 0) drawing.push_back(part.sequence);
  }
  const int n = static_cast<int>(drawing.size());
  const size_t V = static_cast<size_t>(decoder_.config.vocab_size);
  std::vector<Drawn> drawn(drawing.size());
  std::vector<std::exception_ptr> errors(drawing.size());
  const auto draw_one = [&](int i, const float* logits) {
    const size_t k = static_cast<size_t>(i);
    try {
      Sequence& s = *drawing[k];
      drawn[k].token = s.sampler.next({logits, V});
      if (s.request.top) drawn[k].probabilities = log_probabilities({logits, V}, drawn[k].token, *s.request.top);
    } catch (...) {
      errors[k] = std::current_exception();
    }
  };
  for (int i = 0; i < n;) {
    const auto [logits, count, stride] = decoder_.logits(i);  // of as many as are in memory at once
    const int here = std::min(count, n - i);
#pragma omp parallel for if (here > 1)
    for (int k = 0; k < here; ++k) draw_one(i + k, logits + k * stride);
    i += here;
  }
  for (const std::exception_ptr& error : errors) {
    if (error) std::rethrow_exception(error);
  }
  return drawn;
}

Ended Engine::take(Sequence& s, const Drawn& drawn, const std::function<bool(const NewToken&)>& sink) {
  const std::vector<int32_t>& ends = s.request.end_tokens;
  NewToken token{s.number, drawn.token, Ended::not_yet, drawn.probabilities};
  if (std::find(ends.begin(), ends.end(), drawn.token) != ends.end()) {
    token.token = -1;
    token.ended = Ended::end_token;
  } else {
    s.window.push_back(drawn.token);
    ++counts_.generated;
    if (++s.made == s.request.tokens) token.ended = Ended::length;
  }
  const bool more = sink(token);
  return token.ended == Ended::not_yet && !more ? Ended::stopped : token.ended;
}

void Engine::step(const std::function<bool(const NewToken&)>& sink) {
  // 1. Those that wait join, in their order. One whose beginning is just being computed lets others pass; one that
  // waits for pages does not, or small requests could keep it waiting for ever.
  for (auto s = waiting_.begin(); s != waiting_.end();) {
    const auto next = std::next(s);
    const Joins when = when_joins(*s);
    if (when == Joins::when_there_is_room) break;
    if (when == Joins::now) {
      join(*s);
      running_.splice(running_.end(), waiting_, s);
    }
    s = next;
  }
  if (running_.empty()) return;
  // 2. The pass, and a token for each text.
  const std::vector<Part> parts = next_parts();
  compute(parts);
  const std::vector<Drawn> drawn = draw(parts);
  // 3. Those that have ended leave; one whose window is full joins anew.
  for (const Part& part : parts) {
    if (part.wanted < 0) continue;
    Sequence& s = *part.sequence;
    const auto at = std::find_if(running_.begin(), running_.end(), [&](const Sequence& other) { return &other == &s; });
    if (take(s, drawn[static_cast<size_t>(part.wanted)], sink) != Ended::not_yet) {
      leave(s);
      running_.erase(at);
    } else if (!reuse_ || static_cast<int>(s.window.size()) > context_of(s.request)) {
      counts_.moved += static_cast<int>(s.window.size()) > context_of(s.request);
      leave(s);
      fit_window(s);
      waiting_.splice(waiting_.begin(), running_, at);
    }
  }
}
