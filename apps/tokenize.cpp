// Text to token ids and back, from the command line: clean a corpus, train a vocabulary, encode, decode, write shards.
#include <unistd.h>

#include <cerrno>
#include <charconv>
#include <cstring>
#include <iostream>
#include <iterator>
#include <utility>

#include "llm/corpora/gutenberg.h"
#include "llm/flags/command_line.h"
#include "llm/support/error.h"
#include "llm/support/file.h"
#include "llm/text/corpus.h"
#include "llm/text/tokenizer.h"

namespace {

struct Flags {
  std::string data, tokenizer, out, text;
  bool lossy = false, special = false;
  double val_fraction = 0.1, min_ascii = 0.9;
  int threads = 0;
};

// All of standard input, as a shell redirects it.
std::string read_stdin() {
  std::string text;
  char buffer[1 << 16];
  for (;;) {
    const ssize_t n = ::read(STDIN_FILENO, buffer, sizeof buffer);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) fail("standard input cannot be read: %s", std::strerror(errno));
    if (n == 0) return text;
    text.append(buffer, static_cast<size_t>(n));
  }
}

void print(std::string_view text) {
  if (std::fwrite(text.data(), 1, text.size(), stdout) != text.size() || std::fflush(stdout) != 0) {
    fail("standard output cannot be written: %s", std::strerror(errno));
  }
}

// Like a file by read_corpus(): UTF-8, or made so if `lossy`.
std::string as_utf8(std::string text, const char* where, bool lossy) {
  const size_t bad = find_invalid_utf8(text);
  if (bad == std::string::npos) return text;
  if (lossy) return replace_invalid_utf8(text);
  fail("%s: not UTF-8: byte 0x%02X at offset %zu; convert it, or let --lossy replace such bytes by U+FFFD", where,
       static_cast<unsigned char>(text[bad]), bad);
}

// To standard error, so that it is not mistaken for ids.
void say_if_fewer(const std::string& name, const Tokenizer& tokenizer) {
  const std::string why = why_fewer_tokens(name, tokenizer);
  if (!why.empty()) std::fprintf(stderr, "%s\n", spell_settings(why).c_str());
}

void train(const Flags& flags) {
  check_output_file(flags.out);
  const std::string text = tokenizer_needs_text(flags.tokenizer) ? read_corpus(flags.data, flags.lossy) : "";
  const Tokenizer tokenizer = make_tokenizer(flags.tokenizer, text);
  say_if_fewer(flags.tokenizer, tokenizer);
  tokenizer.save(flags.out);
  print(strprintf("%s: %s, %d tokens, checksum %s\n", flags.out.c_str(), tokenizer.kind().c_str(),
                  tokenizer.vocab_size(), tokenizer.checksum().c_str()));
}

void encode(const Flags& flags, bool has_text) {
  const std::string text = has_text              ? as_utf8(flags.text, "--text", flags.lossy)
                           : !flags.data.empty() ? read_corpus(flags.data, flags.lossy)
                                                 : as_utf8(read_stdin(), "standard input", flags.lossy);
  const Tokenizer tokenizer = make_tokenizer(flags.tokenizer, text);
  say_if_fewer(flags.tokenizer, tokenizer);
  std::string line;
  const Special special = flags.special ? Special::parsed : Special::text;
  const char* between = "";
  tokenizer.encode_parts(text, special, flags.threads, [&](std::span<const int32_t> ids) {
    for (const int32_t id : ids) {
      line += std::exchange(between, " ");
      line += std::to_string(id);
    }
    print(std::exchange(line, ""));
  });
  print("\n");
}

void decode(const Flags& flags, bool has_text) {
  if (tokenizer_needs_text(flags.tokenizer)) {
    fail_usage("--tokenizer %s: decoding needs the vocabulary that encoded, as a file", flags.tokenizer.c_str());
  }
  const Tokenizer tokenizer = make_tokenizer(flags.tokenizer, "");
  const std::string input = has_text ? flags.text : read_stdin();
  const auto is_separator = [](char c) { return std::strchr(" \t\r\n,", c) != nullptr; };
  std::vector<int32_t> ids;
  const char* end = input.data() + input.size();
  for (const char* p = input.data(); p < end;) {
    if (is_separator(*p)) {
      ++p;
      continue;
    }
    int32_t id = 0;
    const auto [stop, error] = std::from_chars(p, end, id);
    if (error != std::errc() || (stop < end && !is_separator(*stop))) {
      const std::string word(p, std::find_if(p, std::min(p + 20, end), is_separator));
      fail("the ids to decode: '%s' at byte %zu is not a token id", word.c_str(),
           static_cast<size_t>(p - input.data()));
    }
    ids.push_back(id);
    p = stop;
  }
  print(tokenizer.decode(ids));
}

void shard(const Flags& flags) {
  check_output_folder("--out", flags.out);
  const std::string text = read_corpus(flags.data, flags.lossy);
  const Tokenizer tokenizer = make_tokenizer(flags.tokenizer, text);
  say_if_fewer(flags.tokenizer, tokenizer);
  make_directories(flags.out);
  const PreparedData data = prepare_shards(text, tokenizer, flags.val_fraction, flags.out, flags.threads);
  const std::filesystem::path saved = std::filesystem::path(flags.out) / "tokenizer.json";
  tokenizer.save(saved);
  for (const std::filesystem::path& path : {data.train, data.val, saved}) {
    if (!path.empty()) print(path.string() + "\n");
  }
}

void clean(const Flags& flags) {
  const CleanReport report = clean_books(flags.data, flags.out, flags.min_ascii);
  for (const CleanedFile& file : report.files) {
    if (!file.reason.empty()) print(strprintf("left out: %s: %s\n", file.path.c_str(), file.reason.c_str()));
  }
  print(
      strprintf("%s: %lld of %zu files, %lld bytes of %lld; %lld lost Project Gutenberg's licence, %lld were Latin-1\n",
                flags.out.c_str(), static_cast<long long>(report.kept), report.files.size(),
                static_cast<long long>(report.bytes_out), static_cast<long long>(report.bytes_in),
                static_cast<long long>(report.with_licence), static_cast<long long>(report.latin1)));
}

}  // namespace

int main(int argc, char** argv) {
  CLI::App app("Text to token ids and back.");
  app.require_subcommand(1);
  Flags flags;
  const char* kNames = "bytes, chars, bpe:N (N tokens, trained on the data), gpt2, or a tokenizer file or folder";
  const auto add_tokenizer = [&](CLI::App* command) {
    command->add_option("--tokenizer", flags.tokenizer, kNames)->required()->type_name("NAME|PATH");
  };
  const auto add_data = [&](CLI::App* command) {
    command->add_flag("--lossy", flags.lossy, "replace bytes that are not UTF-8 by U+FFFD instead of stopping");
    return command->add_option("--data", flags.data, "a text file, or a folder of .txt, .md and .text files")
        ->type_name("PATH");
  };
  const auto add_threads = [&](CLI::App* command) {
    command->add_option("--threads", flags.threads, "threads for encoding; 0: all cores")->check(CLI::Range(0, 1024));
  };

  CLI::App* train_command = app.add_subcommand("train", "Make a vocabulary and save it as a tokenizer.json.");
  add_tokenizer(train_command);
  add_data(train_command);
  train_command->add_option("--out", flags.out, "the file to write")->required()->type_name("FILE");

  CLI::App* encode_command = app.add_subcommand("encode", "Print the ids of --text, of --data, or of standard input.");
  add_tokenizer(encode_command);
  CLI::Option* data = add_data(encode_command);
  CLI::Option* text = encode_command->add_option("--text", flags.text, "the text itself");
  text->excludes(data);
  encode_command->add_flag(
      "--special", flags.special,
      "<|endoftext|> and the vocabulary's other special tokens in the text are those tokens, not text");
  add_threads(encode_command);

  CLI::App* decode_command = app.add_subcommand("decode", "Print the text of ids (from --ids or standard input).");
  add_tokenizer(decode_command);
  CLI::Option* ids = decode_command->add_option("--ids", flags.text, "the ids, separated by spaces or commas");

  CLI::App* shard_command =
      app.add_subcommand("shard", "Write a corpus as token shards: train.bin, val.bin, tokenizer.json.");
  add_tokenizer(shard_command);
  add_data(shard_command)->required();
  shard_command->add_option("--out", flags.out, "the folder to write into")->required()->type_name("DIR");
  shard_command
      ->add_option("--val-fraction", flags.val_fraction, "share of the characters, from the end, for validation")
      ->check(CLI::Range(0.0, 1.0))
      ->capture_default_str();
  add_threads(shard_command);

  CLI::App* clean_command = app.add_subcommand(
      "clean", "Make one clean text from a folder of books: no licences, single blank lines, joined by <|endoftext|>.");
  clean_command->add_option("--in", flags.data, "the folder; every .txt, .md and .text file below it")
      ->required()
      ->type_name("DIR");
  clean_command->add_option("--out", flags.out, "the file to write")->required()->type_name("FILE");
  clean_command
      ->add_option("--min-ascii", flags.min_ascii,
                   "leave out files with a smaller share of ASCII characters (other scripts); 0: keep all")
      ->check(CLI::Range(0.0, 1.0))
      ->capture_default_str();

  return run_program(app, argc, argv, [&] {
    if (*train_command) {
      if (flags.data.empty() && tokenizer_needs_text(flags.tokenizer)) {
        fail_usage("--tokenizer %s is made from text: name it with --data", flags.tokenizer.c_str());
      }
      train(flags);
    } else if (*encode_command) {
      encode(flags, text->count() > 0);
    } else if (*decode_command) {
      decode(flags, ids->count() > 0);
    } else if (*clean_command) {
      clean(flags);
    } else {
      shard(flags);
    }
  });
}
