#include "llm/text/shards.h"

#include <glob.h>

#include <algorithm>
#include <bit>
#include <cstring>
#include <limits>

#include "llm/support/error.h"

namespace fs = std::filesystem;

static_assert(std::endian::native == std::endian::little, "shards are mapped as they are, and they are little-endian");

namespace {

constexpr int32_t kMagic = 20240520;
constexpr int kHeaderInts = 256;
constexpr size_t kHeaderBytes = kHeaderInts * sizeof(int32_t);
constexpr int kLargestVersion1Vocabulary = 65536;

// Bytes read from mapped shards before their pages are returned.
constexpr int64_t kMaxResident = int64_t{1} << 24;

// A block's maximum vectorises, a search does not: find the block first, then search inside it. Pages are returned
// afterwards.
template <class Id>
int64_t first_outside(std::span<const Id> ids, int vocab_size) {
  const uint32_t highest_allowed = static_cast<uint32_t>(vocab_size) - 1;
  if (highest_allowed >= std::numeric_limits<Id>::max()) return -1;
  constexpr size_t block = 16384;
  for (size_t begin = 0; begin < ids.size(); begin += block) {
    const auto part = ids.subspan(begin, std::min(block, ids.size() - begin));
    Id highest = 0;
    for (const Id id : part) highest = std::max(highest, id);
    if (begin % (64 * block) == 0) drop_pages(std::as_bytes(ids.first(begin)));
    if (highest <= highest_allowed) continue;
    const auto found = std::find_if(part.begin(), part.end(), [&](Id id) { return id > highest_allowed; });
    return static_cast<int64_t>(begin) + (found - part.begin());
  }
  drop_pages(std::as_bytes(ids));
  return -1;
}

}  // namespace

// ---- one shard -----------------------------------------------------------------------------------------------------

Shard::Shard(const fs::path& path) : file_(path) {
  if (file_.size() < kHeaderBytes) {
    fail("%s: not a token shard: it has %zu bytes, fewer than the %zu of a shard's header", path.c_str(), file_.size(),
         kHeaderBytes);
  }
  int32_t header[kHeaderInts];
  std::memcpy(header, file_.data(), kHeaderBytes);
  if (header[0] != kMagic) {
    fail("%s: not a token shard: its first number is %d, expected %d; shards are made from text by `tokenize shard`",
         path.c_str(), header[0], kMagic);
  }
  if (header[1] != 1 && header[1] != 2) {
    fail("%s: token shard of version %d, expected 1 (uint16 tokens) or 2 (uint32 tokens)", path.c_str(), header[1]);
  }
  bytes_per_token_ = header[1] == 1 ? 2 : 4;

  // The promised count is compared with what the file holds; nothing is computed from it that could overflow.
  const uint64_t promised = uint64_t{static_cast<uint32_t>(header[3])} << 32 | static_cast<uint32_t>(header[2]);
  const uint64_t body = file_.size() - kHeaderBytes;
  const uint64_t held = body / static_cast<uint64_t>(bytes_per_token_);
  if (promised > held) {
    fail("%s: truncated or damaged: its header promises %llu tokens, the file holds %llu; copy or make it again",
         path.c_str(), static_cast<unsigned long long>(promised), static_cast<unsigned long long>(held));
  }
  const uint64_t trailing = body - promised * static_cast<uint64_t>(bytes_per_token_);
  if (trailing != 0) {
    fail("%s: damaged: %llu bytes follow the %llu tokens that its header promises; copy or make it again", path.c_str(),
         static_cast<unsigned long long>(trailing), static_cast<unsigned long long>(promised));
  }
  if (promised == 0) fail("%s: a token shard without tokens", path.c_str());
  size_ = static_cast<int64_t>(promised);
  drop();
}

template <class Body>
auto Shard::with_tokens(Body&& body) const {
  const std::byte* tokens = file_.data() + kHeaderBytes;
  const size_t n = static_cast<size_t>(size_);
  return bytes_per_token_ == 2 ? body(std::span(reinterpret_cast<const uint16_t*>(tokens), n))
                               : body(std::span(reinterpret_cast<const uint32_t*>(tokens), n));
}

void Shard::copy(int64_t from, int64_t count, int32_t* to) const {
  if (from < 0 || count < 0 || from > size_ - count) {
    fail("%s: %lld tokens from position %lld requested, it has %lld", path().c_str(), static_cast<long long>(count),
         static_cast<long long>(from), static_cast<long long>(size_));
  }
  int32_t any = 0;  // negative as soon as one id is
  with_tokens([&](auto tokens) {
    const auto* ids = tokens.data() + from;
    for (int64_t i = 0; i < count; ++i) {
      to[i] = static_cast<int32_t>(ids[i]);
      any |= to[i];
    }
  });
  if (any >= 0) return;
  const int64_t bad = std::find_if(to, to + count, [](int32_t id) { return id < 0; }) - to;
  fail("%s: damaged: token %lld is %u, and no vocabulary is that large", path().c_str(),
       static_cast<long long>(from + bad), static_cast<uint32_t>(to[bad]));
}

int64_t Shard::find_outside(int vocab_size) const {
  return with_tokens([&](auto tokens) { return first_outside(tokens, vocab_size); });
}

uint64_t Shard::sample_hash() const {
  constexpr size_t page = 4096, pages = 16;
  const std::byte* data = file_.data();
  if (file_.size() <= page * pages) return hash64(data, file_.size(), 0);
  const uint64_t size = file_.size();
  uint64_t hash = hash64(&size, sizeof(size), 0);
  for (size_t k = 0; k < pages; ++k) {
    const size_t at = (file_.size() - page) * k / (pages - 1);
    hash = hash64(data + at, page, hash);
  }
  drop();
  return hash;
}

ShardWriter::ShardWriter(const fs::path& path, int vocab_size) : path_(path), file_(path), vocab_size_(vocab_size) {
  const int32_t header[kHeaderInts] = {};
  file_.write(header, sizeof(header));
}

void ShardWriter::write(std::span<const int32_t> tokens) {
  for (size_t i = 0; i < tokens.size(); ++i) {
    if (tokens[i] < 0 || tokens[i] >= vocab_size_) {
      fail("%s: token %lld is %d, outside the vocabulary of %d", path_.c_str(),
           static_cast<long long>(size_) + static_cast<long long>(i), tokens[i], vocab_size_);
    }
  }
  if (vocab_size_ <= kLargestVersion1Vocabulary) {
    const std::vector<uint16_t> narrow(tokens.begin(), tokens.end());
    file_.write(narrow.data(), narrow.size() * sizeof(uint16_t));
  } else {
    file_.write(tokens.data(), tokens.size_bytes());
  }
  size_ += static_cast<int64_t>(tokens.size());
}

void ShardWriter::commit() {
  if (size_ == 0) fail("%s: there are no tokens to write", path_.c_str());
  const int32_t header[] = {kMagic, vocab_size_ <= kLargestVersion1Vocabulary ? 1 : 2, static_cast<int32_t>(size_),
                            static_cast<int32_t>(size_ >> 32)};
  file_.write_at(0, header, sizeof(header));
  file_.commit();
}

void write_shard(const fs::path& path, std::span<const int32_t> tokens, int vocab_size) {
  ShardWriter shard(path, vocab_size);
  shard.write(tokens);
  shard.commit();
}

// ---- many shards ---------------------------------------------------------------------------------------------------

bool names_shards(const std::string& data) {
  const std::string ending = ending_of(data);
  return ending == ".bin" || ending == ".list" || data.find('*') != std::string::npos;
}

void TokenSequence::add(const std::string& path_or_glob) {
  std::vector<std::string> paths;
  std::error_code ignored;
  const bool pattern = path_or_glob.find_first_of("*?[") != std::string::npos;
  // glob() recurses for each folder.
  constexpr ptrdiff_t kMaxFolders = 256;
  if (const ptrdiff_t folders = std::count(path_or_glob.begin(), path_or_glob.end(), '/');
      pattern && folders > kMaxFolders) {
    fail("%s...: a pattern with %td folders, expected at most %td", path_or_glob.substr(0, 100).c_str(), folders,
         kMaxFolders);
  }
  if (!pattern || fs::exists(path_or_glob, ignored)) {  // a file's own name may hold such a character
    paths = {path_or_glob};
  } else {
    glob_t matches = {};
    ::glob(path_or_glob.c_str(), 0, nullptr, &matches);  // whatever goes wrong leaves no path
    paths.assign(matches.gl_pathv, matches.gl_pathv + matches.gl_pathc);
    ::globfree(&matches);
    if (paths.empty()) fail("%s: no file matches", path_or_glob.c_str());
  }
  for (const std::string& path : paths) {
    shards_.push_back(std::make_shared<const Shard>(path));
    begin_.push_back(size_);
    size_ += shards_.back()->size();
  }
}

TokenSequence TokenSequence::open(const std::string& path) {
  TokenSequence sequence;
  if (ending_of(path) != ".list") {
    sequence.add(path);
    return sequence;
  }
  const MappedFile file(path);
  check_not_utf16(file.text(), path);
  for_each_line(file, [&](std::string_view line, size_t number) {
    if (number == 1 && line.starts_with("\xEF\xBB\xBF")) line.remove_prefix(3);  // a byte order mark
    if (line.find('\0') != std::string_view::npos) {
      fail("%s, line %zu: a zero byte, which no path has; expected the path of a shard, or a glob", path.c_str(),
           number);
    }
    line = line.substr(0, line.find_last_not_of(" \t\r") + 1);
    if (line.empty() || line[0] == '#') return;
    try {
      sequence.add((fs::path(path).parent_path() / line).string());
    } catch (const Error& error) {
      fail("%s, line %zu: %s", path.c_str(), number, error.what());
    }
  });
  if (sequence.size_ == 0) fail("%s: names no shard; expected the path of one, or a glob, in each line", path.c_str());
  return sequence;
}

void TokenSequence::copy(int64_t from, int64_t count, int32_t* to) const {
  if (from < 0 || count < 0 || from > size_ - count) {
    fail("%lld tokens from position %lld requested, the data has %lld", static_cast<long long>(count),
         static_cast<long long>(from), static_cast<long long>(size_));
  }
  if (count == 0) return;
  size_t s = static_cast<size_t>(std::upper_bound(begin_.begin(), begin_.end(), from) - begin_.begin()) - 1;
  while (count > 0) {
    const int64_t inside = from - begin_[s];
    const int64_t n = std::min({count, shards_[s]->size() - inside, kMaxResident / 4});
    shards_[s]->copy(inside, n, to);
    // Touching a page maps 64 KB around it.
    if (read_->fetch_add(4 * n + 65536) > kMaxResident) {
      *read_ = 0;
      for (const auto& shard : shards_) shard->drop();
    }
    from += n;
    to += n;
    count -= n;
    if (inside + n == shards_[s]->size()) ++s;
  }
}

void TokenSequence::check_vocabulary(int vocab_size, int part, int parts) const {
  if (vocab_size < 1) fail("a vocabulary of %d entries, expected at least 1", vocab_size);
  for (size_t s = static_cast<size_t>(part); s < shards_.size(); s += static_cast<size_t>(parts)) {
    const Shard& shard = *shards_[s];
    const int64_t at = shard.find_outside(vocab_size);
    if (at < 0) continue;
    int32_t value = 0;
    shard.copy(at, 1, &value);
    fail("%s: token %lld is %d, but the vocabulary has %d entries: the data was made with another tokenizer",
         shard.path().c_str(), static_cast<long long>(at), value, vocab_size);
  }
}

std::string TokenSequence::checksum() const {
  uint64_t hash = 0;
  for (const auto& shared : shards_) {
    const Shard& shard = *shared;
    const uint64_t part = shard.sample_hash();
    hash = hash64(&part, sizeof(part), hash);
  }
  return strprintf("%016llx", static_cast<unsigned long long>(hash));
}
