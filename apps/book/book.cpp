// The figures of "Build a Large Language Model (From Scratch)" (S. Raschka), chapters 2 to 5 and appendices A and D,
// that follow from just its text and its seeds: computed by wrought and compared with what the book reports, letter for
// letter, losses to 1e-5; and appendix A's training by two processes compared with one. docs/book has a page for each
// chapter.
//   make book                                     downloads the text and GPT-2's vocabulary, runs everything
//   build/book --text the-verdict.txt --quick     without chapter 5's training, which takes minutes
//   build/book --chapter 4 --chapter A            only those two
// Exit code 1 if a figure differs.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <numeric>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "apps/book/book_tokenizers.h"
#include "apps/book/processes.h"
#include "kernels/attention.h"
#include "kernels/matmul.h"
#include "llm/flags/command_line.h"
#include "llm/formats/open_weights.h"
#include "llm/inference/generate.h"
#include "llm/models/cpu.h"
#include "llm/models/gpt2.h"
#include "llm/models/init_book.h"
#include "llm/support/error.h"
#include "llm/support/file.h"
#include "llm/support/progress.h"
#include "llm/text/corpus.h"
#include "llm/text/dataloader.h"
#include "llm/training/schedule.h"

namespace {

namespace fs = std::filesystem;
using Ids = std::vector<int32_t>;

constexpr uint64_t kSeed = 123;                               // the book's seed, everywhere
constexpr const char* kVerdictChecksum = "6ce9d6dfc5d3c445";  // file_checksum() of the-verdict.txt, 20,479 bytes
constexpr int kBatch = 2, kContext = 256;                     // chapter 5's

// ---- the table -----------------------------------------------------------------------------------------------------

// One line per figure, printed as soon as it is known.
class Table {
 public:
  static void chapter(const std::string& name) { std::printf("\n%s\n", name.c_str()); }

  // Passes if compute() returns what the book prints, letter for letter. `why_not`, if not empty, says why the figure
  // cannot be computed here.
  template <class Compute>
  void figure(const std::string& what, const std::string& book, const std::string& why_not, Compute&& compute) {
    if (!why_not.empty()) return left_out(what, book, why_not);
    const std::string ours = compute();
    judged(what, book, ours, ours == book);
  }
  // Passes within 1e-5 of all the digits that the book prints: fp32 sums in another order may differ by that.
  template <class Compute>
  void loss(const std::string& what, double book, const std::string& why_not, Compute&& compute) {
    if (!why_not.empty()) return left_out(what, strprintf("%.6f", book), why_not);
    const double ours = compute();
    judged(what, strprintf("%.6f", book), strprintf("%.6f", ours), std::abs(ours - book) <= 1e-5);
  }
  void judged(const std::string& what, const std::string& book, const std::string& ours, bool pass) {
    print(what, book, ours, pass ? "pass" : "FAIL");
    ++(pass ? passed_ : failed_);
  }
  void left_out(const std::string& what, const std::string& book, const std::string& why) {
    print(what, book, "", why);
    ++left_out_;
  }
  void finish() const {
    std::printf("\n%d of the book's figures pass, %d fail, %d are left out\n", passed_, failed_, left_out_);
    if (failed_ > 0) fail("%d of the book's figures differ: the rows that say FAIL", failed_);
  }

 private:
  static void print(const std::string& what, const std::string& book, const std::string& ours,
                    const std::string& verdict) {
    std::printf("  %-44s | %-28s | %-28s | %s\n", what.c_str(), book.c_str(), ours.c_str(), verdict.c_str());
    std::fflush(stdout);
  }

  int passed_ = 0, failed_ = 0, left_out_ = 0;
};

std::string grouped(int64_t n) {  // 163009536 -> "163,009,536"
  std::string text = std::to_string(n);
  for (size_t at = text.size(); at > 3;) text.insert(at -= 3, 1, ',');
  return text;
}

std::string joined(const Ids& ids, const char* between = " ") {
  std::string text;
  for (const int32_t id : ids) text += strprintf("%s%d", text.empty() ? "" : between, id);
  return text;
}

std::string decimals(const std::vector<double>& values) {
  std::string text;
  for (const double x : values) text += strprintf("%s%.4f", text.empty() ? "" : " ", x);
  return text;
}

// ---- what the figures are made from --------------------------------------------------------------------------------

// Tokens as chapter 5's loader cuts them: windows of T tokens and the token after each, side by side. The last tokens,
// too few for a window, are dropped.
struct Windows {
  Ids ids;
  int64_t count() const { return ids.empty() ? 0 : (static_cast<int64_t>(ids.size()) - 1) / kContext; }
  int64_t batches() const { return (count() + kBatch - 1) / kBatch; }

  Batch batch(std::span<const int64_t> windows) const {
    Batch made{static_cast<int>(windows.size()), kContext, {}, {}, {}};
    for (const int64_t w : windows) {
      const auto from = ids.begin() + w * kContext;
      made.inputs.insert(made.inputs.end(), from, from + kContext);
      made.targets.insert(made.targets.end(), from + 1, from + kContext + 1);
    }
    made.weights.assign(made.inputs.size(), 1.0f / static_cast<float>(made.inputs.size()));
    return made;
  }
};

struct Book {
  std::string text;                    // the-verdict, or the text given
  std::optional<Tokenizer> tokenizer;  // GPT-2's
  std::string no_text, no_tokens;      // why figures that need the text, or its GPT-2 ids, are left out; or ""
  std::string no_tokenizer;
  Windows train, val;  // the first 90 % of the text's characters, and the rest
};

Book open_book(const std::string& text_path, const std::string& tokenizer) {
  Book book;
  if (!fs::exists(text_path)) {
    fail("%s is missing; dev/data/the_verdict.sh downloads the book's text, or --text names your copy",
         text_path.c_str());
  }
  book.text = read_corpus(text_path, false);
  if (file_checksum(text_path) != kVerdictChecksum) book.no_text = "skipped: not the-verdict (checksum)";
  try {
    book.tokenizer = make_tokenizer(tokenizer, "");
    if (book.tokenizer->vocab_size() != 50257) fail("it has %d ids, not 50257", book.tokenizer->vocab_size());
  } catch (const Error& error) {
    if (tokenizer != "gpt2") fail("--tokenizer %s is not GPT-2's: %s", tokenizer.c_str(), error.what());
    book.no_tokenizer = "skipped: no GPT-2 vocabulary (dev/data/gpt2_tokenizer.sh)";
  }
  book.no_tokens = book.no_text.empty() ? book.no_tokenizer : book.no_text;
  if (book.no_tokens.empty()) {
    const size_t cut = validation_begin(book.text, 0.1);
    book.train.ids = book.tokenizer->encode(std::string_view(book.text).substr(0, cut));
    book.val.ids = book.tokenizer->encode(std::string_view(book.text).substr(cut));
  }
  return book;
}

// The book's GPT: GPT-2's shape, but with a separate head and no bias for queries, keys and values.
ModelConfig book_config(int context, int layers = 12, int heads = 12, int channels = 768) {
  ModelConfig config{context, 50257, layers, heads, channels};
  config.tied_head = config.qkv_bias = false;
  return config;
}

int64_t parameters(const ModelConfig& config) { return num_parameters(param_table(config)); }

using Block = Gpt2::Block<float>;

// The number of parameters, biases included, in these products of a block.
int64_t block_parameters(const ModelConfig& config, const std::vector<Linear<float> Block::*>& products) {
  int64_t n = 0;
  Gpt2::Params<float> p;
  Gpt2::for_each_param(config, {}, p, [&](float*& pointer, const ParamTensor& tensor) {
    if (tensor.layer != 0) return;
    for (const auto product : products) {
      const Linear<float>& linear = p.block[0].*product;
      n += &pointer == &linear.w || &pointer == &linear.b ? tensor.size() : 0;
    }
  });
  return n;
}

// Mean loss over the first `batches` (-1: all) with the windows in that order; dropout is off.
double mean_loss(Model& model, const Windows& windows, const std::vector<int64_t>& order, int64_t batches = -1) {
  double sum = 0;
  int64_t n = 0;
  for (size_t at = 0; at < order.size() && n != batches; at += kBatch, ++n) {
    const Batch batch = windows.batch(std::span(order).subspan(at, std::min<size_t>(kBatch, order.size() - at)));
    model.forward(batch.inputs.data(), batch.B, batch.T, Pass::evaluate);
    sum += model.loss(batch.targets.data());
  }
  return sum / static_cast<double>(n);
}

std::vector<int64_t> in_order(const Windows& windows) {
  std::vector<int64_t> order(static_cast<size_t>(windows.count()));
  std::iota(order.begin(), order.end(), 0);
  return order;
}

Ids most_likely(Model& model, Ids ids, int tokens, int context, bool cache = true) {
  GenerateConfig config;
  config.sampler.temperature = 0;
  config.tokens = tokens;
  config.context = context;
  config.cache = cache;
  return generate(model, std::move(ids), config, [](int32_t) { return true; });
}

// ---- chapter 2: text -----------------------------------------------------------------------------------------------

// A batch of the sequential loader over the whole text.
std::string loader_row(const Book& book, int B, int64_t stride, int row) {
  const ScratchFolder folder;
  const PreparedData data = prepare_shards(book.text, *book.tokenizer, 0, folder.path(), 1);
  DataLoader loader(TokenSequence::open(data.train.string()), LoaderConfig{B, 4, stride, false, 0, 0, 1});
  const Batch& batch = loader.next();
  const auto part = [&](const Ids& ids) { return joined(Ids(ids.begin() + row * 4, ids.begin() + row * 4 + 4)); };
  return part(batch.inputs) + " -> " + part(batch.targets);
}

void chapter_2(Table& table, const Book& book) {
  Table::chapter("Chapter 2: text");
  std::optional<WordTokenizer> words;
  std::optional<SimpleBpe> bpe;
  if (book.no_text.empty()) {
    words.emplace(book.text);
    bpe.emplace(book.text, 1000);
  }
  table.figure("characters", "20,479", book.no_text, [&] { return grouped(static_cast<int64_t>(book.text.size())); });
  table.figure("words and punctuation", "4,690", book.no_text,
               [&] { return grouped(static_cast<int64_t>(split_words(book.text).size())); });
  table.figure("their vocabulary", "1,130", book.no_text, [&] { return grouped(words->size() - 2); });
  table.figure("with <|endoftext|> and <|unk|>", "1,132", book.no_text, [&] { return grouped(words->size()); });
  table.figure("ids of \"Hello, do you like tea?\"", "1131 5 355 1126 628 975 10", book.no_text,
               [&] { return joined(words->encode("Hello, do you like tea?")); });
  table.figure("GPT-2's BPE: tokens", "5,145", book.no_tokens,
               [&] { return grouped(static_cast<int64_t>(book.tokenizer->encode(book.text).size())); });
  table.figure(
      "its ids of \"Hello, do ... <|endoftext|> In\"", "15496 11 466 345 588 8887 30 220 50256 554", book.no_tokenizer,
      [&] { return joined(book.tokenizer->encode("Hello, do you like tea? <|endoftext|> In", Special::parsed)); });
  table.figure("loader: length and stride 4, row 0", "40 367 2885 1464 -> 367 2885 1464 1807", book.no_tokens,
               [&] { return loader_row(book, 8, 4, 0); });
  table.figure("loader: row 7", "284 3285 326 11 -> 3285 326 11 287", book.no_tokens,
               [&] { return loader_row(book, 8, 4, 7); });
  table.figure("loader: stride 1, row 1", "367 2885 1464 1807 -> 2885 1464 1807 3619", book.no_tokens,
               [&] { return loader_row(book, 2, 1, 1); });
  table.figure("BPE trained to 1,000 ids: merges", "742", book.no_text, [&] { return std::to_string(bpe->merges()); });
  table.figure("its ids of \"Jack embraced beauty ...\"", "17", book.no_text,
               [&] { return std::to_string(bpe->encode("Jack embraced beauty through art and life.").size()); });
  table.figure("embedding(6, 3), seed 123: row 3", "-0.4015 0.9666 -1.1481", "", [] {
    std::vector<float> weights(6 * 3);
    TorchRandom(kSeed).normal(weights);
    return decimals({weights.begin() + 9, weights.begin() + 12});
  });
}

// ---- chapter 3: attention ------------------------------------------------------------------------------------------

// The last token's output of causal attention over the chapter's six tokens of three channels, by layers (2, 3) that
// PyTorch makes after seed 123: queries, keys, values, and the output projection if there is more than one head.
std::string attention_example(int heads) {
  constexpr int T = 6, C = 2, in = 3;
  const std::vector<float> inputs = {0.43f, 0.15f, 0.89f, 0.55f, 0.87f, 0.66f, 0.57f, 0.85f, 0.64f,
                                     0.22f, 0.58f, 0.33f, 0.77f, 0.25f, 0.10f, 0.05f, 0.80f, 0.55f};
  TorchRandom random(kSeed);
  const auto uniform = [&](int n, int fan_in) {
    std::vector<float> values(static_cast<size_t>(n));
    random.uniform(values, -1 / std::sqrt(fan_in), 1 / std::sqrt(fan_in));
    return values;
  };
  std::vector<float> qkvw;  // (3, C, in)
  for (int k = 0; k < 3; ++k) {
    const std::vector<float> weight = uniform(C * in, in);
    qkvw.insert(qkvw.end(), weight.begin(), weight.end());
  }
  std::vector<float> qkv(T * 3 * C), lse(static_cast<size_t>(heads) * T), out(T * C);
  cpu::matmul_forward(qkv.data(), inputs.data(), qkvw.data(), static_cast<const float*>(nullptr), T, in, 3 * C);
  const AttentionShape shape{1, T, heads, heads, static_cast<int>(C) / heads};
  cpu::attention_forward<float>(out.data(), lse.data(), packed_qkv<const float>(qkv.data(), shape), 0, 0, 0, shape);
  if (heads > 1) {
    const std::vector<float> projw = uniform(C * C, C), projb = uniform(C, C), attended = out;
    cpu::matmul_forward(out.data(), attended.data(), projw.data(), projb.data(), T, C, C);
  }
  return decimals({out.end() - C, out.end()});
}

void chapter_3(Table& table) {
  Table::chapter("Chapter 3: attention");
  table.figure("causal attention, 6 tokens: the last", "-0.5299 -0.1081", "", [] { return attention_example(1); });
  table.figure("two heads and a projection: the last", "0.2575 0.4028", "", [] { return attention_example(2); });
  table.figure("parameters: 768 channels, 12 heads", "2,360,064", "", [] {
    return grouped(block_parameters(book_config(1024), {&Block::qkv, &Block::attproj}));
  });
}

// ---- chapter 4: the GPT --------------------------------------------------------------------------------------------

void chapter_4(Table& table) {
  Table::chapter("Chapter 4: the GPT");
  table.figure("parameters: feed-forward layers", "4,722,432", "", [] {
    return grouped(block_parameters(book_config(1024), {&Block::fc, &Block::fcproj}));
  });
  table.figure("124M", "163,009,536", "", [] { return grouped(parameters(book_config(1024))); });
  table.figure("without its head", "124,412,160", "", [] {
    ModelConfig config = book_config(1024);
    config.tied_head = true;
    return grouped(parameters(config));
  });
  table.figure("GPT-2: tied head, bias of q, k, v", "124,439,808", "",
               [] { return grouped(parameters(ModelConfig{})); });
  table.figure("355M", "406,212,608", "", [] { return grouped(parameters(book_config(1024, 24, 16, 1024))); });
  table.figure("774M", "838,220,800", "", [] { return grouped(parameters(book_config(1024, 36, 20, 1280))); });
  table.figure("1558M", "1,637,792,000", "", [] { return grouped(parameters(book_config(1024, 48, 25, 1600))); });
  table.figure("untrained, seed 123, after \"Hello, I am\"", "27018 24086 47843 30961 42348 7267", "", [] {
    const auto model = make_cpu_model(book_config(1024), false);
    init_weights_book(*model, kSeed);
    return joined(most_likely(*model, {15496, 11, 314, 716}, 6, 1024));
  });
  table.figure("KV cache: 20 tokens more, and without it", "identical", "", [] {
    const auto model = make_cpu_model(book_config(1024), false);
    init_weights_book(*model, kSeed);
    const Ids cached = most_likely(*model, {15496, 11, 314, 716}, 20, 16);  // the window is full after 12
    const Ids computed = most_likely(*model, {15496, 11, 314, 716}, 20, 16, false);
    return cached == computed ? std::string("identical") : joined(cached) + " | " + joined(computed);
  });
}

// ---- chapter 5: pretraining ----------------------------------------------------------------------------------------

// How often each of chapter 5's nine tokens is drawn in 1,000 draws, as torch draws.
std::string draws(float temperature, const Ids& shown) {
  std::vector<float> p = {4.51f, 0.89f, -1.90f, 6.75f, 1.63f, -1.62f, -1.89f, 6.28f, 1.79f};
  const float max = *std::max_element(p.begin(), p.end()) / temperature;
  for (float& x : p) x = std::exp(x / temperature - max);
  const float sum = std::accumulate(p.begin(), p.end(), 0.0f);
  for (float& x : p) x /= sum;
  TorchRandom random(kSeed);
  Ids counts(p.size());
  for (int i = 0; i < 1000; ++i) ++counts[static_cast<size_t>(random.multinomial(p))];
  Ids picked;
  for (const int32_t id : shown) picked.push_back(counts[static_cast<size_t>(id)]);
  return joined(picked, " / ");
}

// For each token that any coin gives, the share of all coins that give it.
std::vector<double> shares(const std::vector<float>& logits, int top_k) {
  constexpr int coins = 200'000;
  SamplerConfig config;
  config.top_k = top_k;
  std::vector<double> share(logits.size());
  for (int i = 0; i < coins; ++i) share[static_cast<size_t>(sample(logits, config, (i + 0.5) / coins))] += 1.0 / coins;
  std::erase(share, 0.0);
  return share;
}

void sampling(Table& table) {
  table.figure("1,000 draws: forward, toward, closer", "582 / 343 / 73", "", [] { return draws(1, {3, 7, 0}); });
  table.figure("at temperature 0.1: forward, toward", "985 / 15", "", [] { return draws(0.1f, {3, 7}); });
  table.figure("at temperature 5: closer, every, effort", "165 / 75 / 42", "", [] { return draws(5, {0, 1, 2}); });
  table.figure("top-k 3: probabilities", "0.0615 0.5775 0.3610", "", [] {
    return decimals(shares({4.51f, 0.89f, -1.90f, 6.75f, 1.63f, -1.62f, -1.89f, 6.28f, 1.79f}, 3));
  });
  table.figure("top-k 2 of 1, 2, 2, 3: tokens that stay", "3", "", [] {
    return std::to_string(shares({1, 2, 2, 3}, 2).size());
  });
}

void untrained(Table& table, const Book& book) {
  const auto model = make_cpu_model(book_config(kContext), false);
  init_weights_book(*model, kSeed);
  const Ids inputs = {16833, 3626, 6100, 40, 1107, 588}, targets = {3626, 6100, 345, 1107, 588, 11311};
  model->forward(inputs.data(), 2, 3, Pass::evaluate);
  const double loss = model->loss(targets.data());
  table.figure("untrained, seed 123: loss of 2 x 3 tokens", "10.7940", "", [&] { return decimals({loss}); });
  const double perplexity = std::exp(loss);
  table.judged("its perplexity", "48725.82", strprintf("%.2f", perplexity),
               std::abs(perplexity / 48725.8203 - 1) <= 1e-5);
  table.figure("most likely after \"Every effort moves you\"", "rentingetic wasn\u0645 refres RexMeCHicular stren",
               book.no_tokenizer, [&] {
                 const Ids made = most_likely(*model, book.tokenizer->encode("Every effort moves you"), 10, kContext);
                 return book.tokenizer->decode(made).substr(1);
               });
  table.figure("batches of training and validation", "9 / 1", book.no_tokens, [&] {
    return strprintf("%lld / %lld", static_cast<long long>(book.train.count() / kBatch),
                     static_cast<long long>(book.val.batches()));
  });
  table.loss("untrained: training loss", 10.987583054436577, book.no_tokens,
             [&] { return mean_loss(*model, book.train, in_order(book.train)); });
  table.loss("untrained: validation loss", 10.98110580444336, book.no_tokens,
             [&] { return mean_loss(*model, book.val, in_order(book.val)); });
}

// Ten epochs over the text. The windows come in the book's order: its loaders draw from the generator that the weights
// were drawn from, once for each pass over a loader, and once more if it shuffles. Dropout's masks are ours, as the
// book's masks depend on its device; so the losses are near those of the book but not equal.
void pretraining(Table& table, const Book& book) {
  constexpr int epochs = 10, eval_every = 5, eval_batches = 5;
  constexpr float dropout = 0.1f;
  OptimizerConfig optimizer;
  optimizer.lr = 4e-4f;
  optimizer.beta2 = 0.999f;
  ModelOptions options;
  options.decay_all = true;
  const auto model = make_cpu_model(book_config(kContext), false, options);
  TorchRandom random = init_weights_book(*model, kSeed);
  const auto shuffled = [&] {
    random.integer();
    TorchRandom sampler(static_cast<uint64_t>(random.integer()));
    return sampler.permutation(book.train.count());
  };

  const int64_t per_epoch = book.train.count() / kBatch;  // a last batch that is not full is dropped
  double train_loss = 0, val_loss = 0;
  Progress progress(0, epochs * per_epoch);
  for (int64_t step = 0, epoch = 0; epoch < epochs; ++epoch) {
    const std::vector<int64_t> order = shuffled();
    for (int64_t b = 0; b < per_epoch; ++b, ++step) {
      const Batch batch = book.train.batch(std::span(order).subspan(static_cast<size_t>(b) * kBatch, kBatch));
      model->zero_grad();
      model->forward(input_of(batch, Pass::train, {dropout, kSeed, static_cast<uint64_t>(step)}));
      model->backward(batch.targets.data(), batch.weights.data());
      model->update(optimizer, 0);
      if (step % eval_every == 0) {
        train_loss = mean_loss(*model, book.train, shuffled(), eval_batches);
        random.integer();
        val_loss = mean_loss(*model, book.val, in_order(book.val), eval_batches);
      }
      progress.show(step + 1,
                    strprintf("epoch %lld, step %lld: train loss %.3f, validation loss %.3f",
                              static_cast<long long>(epoch + 1), static_cast<long long>(step), train_loss, val_loss));
    }
  }
  progress.clear();
  table.judged("after 10 epochs: training loss", "below 1 (0.569)", strprintf("%.3f", train_loss), train_loss < 1);
  table.judged("after 10 epochs: validation loss", "6.2 to 6.6 (6.373)", strprintf("%.3f", val_loss),
               val_loss >= 6.2 && val_loss <= 6.6);
  std::printf(
      "  Every effort moves you%s\n",
      book.tokenizer->decode(most_likely(*model, book.tokenizer->encode("Every effort moves you"), 25, kContext))
          .c_str());
}

void openai(Table& table, const Book& book, const std::string& dir) {
  const ModelConfig config = dir.empty() ? ModelConfig{} : read_model_config(dir);
  const bool xl = config.num_layers == 48;
  if (!xl && config.num_layers != 12) {
    fail_usage("--gpt2 %s has %d layers; the book has figures for GPT-2 with 12 and with 48", dir.c_str(),
               config.num_layers);
  }
  const std::string why_not = dir.empty() ? "skipped: no --gpt2 DIR with OpenAI's weights" : book.no_tokens;
  std::unique_ptr<Model> model;
  if (why_not.empty()) {
    model = make_cpu_model(config, false);
    load_weights(*model, dir);
  }
  const auto loss_of = [&](const Windows& windows) { return mean_loss(*model, windows, in_order(windows)); };
  const std::string name = xl ? "GPT-2 1558M: " : "GPT-2 124M: ";
  table.loss(name + "training loss", xl ? 3.3046312861972384 : 3.754748503367106, why_not,
             [&] { return loss_of(book.train); });
  table.loss(name + "validation loss", xl ? 3.1195147037506104 : 3.559617757797241, why_not,
             [&] { return loss_of(book.val); });
}

void chapter_5(Table& table, const Book& book, const std::string& gpt2, bool quick) {
  Table::chapter("Chapter 5: pretraining");
  untrained(table, book);
  sampling(table);
  openai(table, book, gpt2);
  const std::string why_not = quick ? "skipped: --quick" : book.no_tokens;
  if (why_not.empty()) return pretraining(table, book);
  table.left_out("after 10 epochs: training loss", "below 1 (0.569)", why_not);
  table.left_out("after 10 epochs: validation loss", "6.2 to 6.6 (6.373)", why_not);
}

// ---- appendices ----------------------------------------------------------------------------------------------------

void appendix_a(Table& table, const Book& book) {
  Table::chapter("Appendix A: PyTorch");
  // Any error with files and processes becomes this row's result.
  const auto row = [&](const std::string& what, const std::string& there, Outcome (*compute)(const std::string&)) {
    Outcome here;
    try {
      here = compute(book.text);
    } catch (const std::exception& error) {
      here.ours = spell_settings(error.what());
    }
    if (!here.why_not.empty()) return table.left_out(what, there, here.why_not);
    table.judged(what, there, here.ours, here.pass);
  };
  row("two processes: the data shared out", "each to one, half to each", windows_shared_out);
  row("two processes: gradients averaged", "the losses of one process", gradients_averaged);
}

void appendix_d(Table& table, const Book& book) {
  Table::chapter("Appendix D: the training loop");
  constexpr int epochs = 15;
  table.figure("warm-up: 20 % of 15 epochs' steps", "27", book.no_tokens, [&] {
    return std::to_string(static_cast<int64_t>(0.2 * static_cast<double>(book.train.count() / kBatch * epochs)));
  });
  table.figure("rates at steps 0, 13, 27, 81, 134", "1e-05 0.000486667 0.001 0.000505 1.02094e-05", "", [] {
    const Schedule schedule{"cosine", 1e-3, 1e-5, 27, 135, 1e-5};
    std::string text;
    for (const int64_t step : {0, 13, 27, 81, 134}) {
      text += strprintf("%s%.6g", text.empty() ? "" : " ", learning_rate(schedule, step));
    }
    return text;
  });
}

}  // namespace

int main(int argc, char** argv) {
  CLI::App app("The figures of the book \"Build a Large Language Model (From Scratch)\", computed and compared.");
  std::string text = "data/the-verdict.txt", tokenizer = "gpt2", gpt2;
  bool quick = false;
  int threads = 0;
  std::vector<std::string> chapters;
  app.add_option("--text", text, "the-verdict.txt; with another text, the rows that need that one are skipped")
      ->capture_default_str();
  app.add_option("--tokenizer", tokenizer, "GPT-2's vocabulary: gpt2 (from data/ or $WROUGHT_DATA), a file or folder")
      ->capture_default_str();
  app.add_option("--gpt2", gpt2, "model directory with OpenAI's weights, 124M or 1558M, for two more rows");
  app.add_flag("--quick", quick, "leave out chapter 5's training, which takes minutes");
  app.add_option("--chapter", chapters, "2, 3, 4, 5, A or D; may be repeated; default: all")
      ->check(CLI::IsMember({"2", "3", "4", "5", "A", "D"}));
  app.add_option("--threads", threads, "0: all cores")->check(CLI::Range(0, 4096));

  return run_program(app, argc, argv, [&] {
    if (threads > 0) set_cpu_threads(threads);
    const Book book = open_book(text, tokenizer);
    Table table;
    std::printf("  %-44s | %-28s | %-28s |\n", "what", "the book", "ours");
    const auto wanted = [&](const char* chapter) {
      return chapters.empty() || std::find(chapters.begin(), chapters.end(), chapter) != chapters.end();
    };
    if (wanted("2")) chapter_2(table, book);
    if (wanted("3")) chapter_3(table);
    if (wanted("4")) chapter_4(table);
    if (wanted("5")) chapter_5(table, book, gpt2, quick);
    if (wanted("A")) appendix_a(table, book);
    if (wanted("D")) appendix_d(table, book);
    table.finish();
  });
}
