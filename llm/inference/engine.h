// Continues many texts at once. A request joins between two passes and leaves when it has its tokens; a pass computes
// one token of each text that is being written, and what there is room for of the prompts of those that have joined.
//
// Memory is bounded and known beforehand: a decoder's cache has a number of pages, and a request waits until there are
// enough for it to run to its end. What two requests begin with in common is computed once.
// The logits of a request do not depend on the others (llm/models/decoder.h), and its draws depend only on its seed: it
// gets the same text by itself and among any others.
//
// The window: positions end at the model's context. When a text with its next token would be longer than that, the last
// `context - slide + 1` tokens move to the front, and are computed again, as a new text.
#pragma once

#include <cstdint>
#include <functional>
#include <list>
#include <optional>
#include <vector>

#include "llm/inference/page_tree.h"
#include "llm/inference/sampler.h"
#include "llm/models/decoder.h"

struct Request {
  std::vector<int32_t> prompt;  // not empty
  SamplerConfig sampler;
  uint64_t seed = 1337;             // token i draws number i of Philox's sequence
  int tokens = 200;                 // at most
  std::vector<int32_t> end_tokens;  // ends there; the token is not reported
  int context = 0;                  // tokens in view, at most; 0: the model's context
  int slide = 1;                    // tokens by which a full window moves
  std::optional<int> top;           // log-probabilities are wanted: of the token, and of as many most likely ones
};

enum class Ended { not_yet, length, end_token, stopped };
const char* name_of(Ended ended);  // "length", "end_token", "stopped"

struct NewToken {
  int64_t request;
  int32_t token;  // -1: none, the request ended before one
  Ended ended = Ended::not_yet;
  LogProbabilities probabilities = {};  // if they are wanted
};

struct EngineCounts {
  int64_t passes = 0, rows = 0;      // rows: tokens computed
  int64_t prompt = 0, reused = 0;    // prompts' tokens (and those of moved windows) computed, and found in the cache
  int64_t generated = 0, moved = 0;  // tokens, windows
};

class Engine {
 public:
  // sequences: that are written at a time, at most. Without reuse every token computes its whole window, and requests
  // share nothing: the same texts, slowly, to check that.
  Engine(Decoder& decoder, int sequences, bool reuse = true);

  // Returns its number. Throws Error for a prompt that is empty or holds ids that the model does not have, settings out
  // of range, and a request that needs more pages than there are.
  int64_t add(Request request);
  // Ends a request that has not ended; its pages are free again.
  void cancel(int64_t request);
  // One pass. sink gets each new token; it returns false to end that request with it ("stopped"). Does nothing if there
  // is nothing to do.
  void step(const std::function<bool(const NewToken&)>& sink);
  bool busy() const { return !waiting_.empty() || !running_.empty(); }
  size_t waiting() const { return waiting_.size(); }  // requests that have not joined
  const EngineCounts& counts() const { return counts_; }
  int pages_for(const Request& request) const;  // that it takes, at most

 private:
  struct Sequence {
    int64_t number;
    Request request;
    Sampler sampler;
    std::vector<int32_t> window;  // the tokens in view
    PageTree::Path path;          // those of them that are in the cache
    int made = 0;                 // tokens
    int reserved = 0;             // pages that it may still take
  };

  // A sequence's part of a pass: its next `count` tokens.
  struct Part {
    Sequence* sequence;
    int count;
    int wanted;  // number of its logits; -1: the tokens are not the window's last
  };
  struct Drawn {
    int32_t token;
    LogProbabilities probabilities;
  };

  int context_of(const Request& request) const;
  int pages_for(const Sequence& sequence) const;
  void fit_window(Sequence& sequence) const;
  std::span<const int32_t> shareable(const Sequence& sequence) const;
  enum class Joins { now, after_another, when_there_is_room };
  Joins when_joins(const Sequence& sequence) const;
  void join(Sequence& sequence);
  PageTree::Node* extend(Sequence& sequence);
  void leave(Sequence& sequence);
  std::vector<Part> next_parts();
  void compute(const std::vector<Part>& parts);
  std::vector<Drawn> draw(const std::vector<Part>& parts);
  Ended take(Sequence& sequence, const Drawn& drawn, const std::function<bool(const NewToken&)>& sink);

  Decoder& decoder_;
  const int sequences_;
  const bool reuse_;
  PageTree tree_;
  std::list<Sequence> waiting_, running_;
  int reserved_ = 0;  // by all that run
  int64_t next_ = 0;
  EngineCounts counts_;
};
