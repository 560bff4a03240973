#include <doctest/doctest.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <map>
#include <numeric>
#include <set>

#include "llm/support/error.h"
#include "llm/text/dataloader.h"

namespace fs = std::filesystem;

namespace {

// Shards whose token i is i itself, cut at the given places: the tokens of a batch show where it was read.
struct Counting {
  fs::path dir = fs::temp_directory_path() / strprintf("wrought_test_dataloader_%d", ::getpid());
  explicit Counting(int32_t n, std::vector<int32_t> cuts = {}) {
    fs::create_directories(dir);
    cuts.push_back(n);
    int32_t begin = 0;
    for (size_t s = 0; s < cuts.size(); ++s) {
      std::vector<int32_t> tokens(static_cast<size_t>(cuts[s] - begin));
      std::iota(tokens.begin(), tokens.end(), begin);
      write_shard(dir / strprintf("%03zu.bin", s), tokens, 1 << 30);
      begin = cuts[s];
    }
  }
  ~Counting() { fs::remove_all(dir); }
  TokenSequence open() const { return TokenSequence::open((dir / "*.bin").string()); }
};

// The beginning of each window of a batch; also checks that inputs, targets and weights are those of these windows.
std::vector<int64_t> starts(const Batch& batch, const LoaderConfig& config) {
  REQUIRE(batch.B == config.B);
  REQUIRE(batch.T == config.T);
  const size_t BT = static_cast<size_t>(config.B) * static_cast<size_t>(config.T);
  REQUIRE(batch.inputs.size() == BT);
  REQUIRE(batch.targets.size() == BT);
  REQUIRE(batch.weights == std::vector<float>(BT, 1.0f));
  std::vector<int64_t> found;
  for (int b = 0; b < config.B; ++b) {
    const size_t row = static_cast<size_t>(b) * static_cast<size_t>(config.T);
    found.push_back(batch.inputs[row]);
    for (size_t t = 0; t < static_cast<size_t>(config.T); ++t) {
      REQUIRE(batch.inputs[row + t] == batch.inputs[row] + static_cast<int32_t>(t));
      REQUIRE(batch.targets[row + t] == batch.inputs[row + t] + 1);
    }
  }
  return found;
}

// The windows of the next epoch, of one rank, in order.
std::vector<int64_t> epoch_starts(DataLoader& loader, const LoaderConfig& config) {
  std::vector<int64_t> found;
  for (int64_t k = 0; k < loader.batches_per_epoch(); ++k) {
    for (const int64_t start : starts(loader.next(), config)) found.push_back(start);
  }
  return found;
}

}  // namespace

TEST_CASE("sequential batches have the same places as in llm.c, and so does the end of an epoch") {
  const Counting data(1000);
  const LoaderConfig config = {.B = 3, .T = 7, .shuffled = false};
  DataLoader loader(data.open(), config);
  REQUIRE(loader.batches_per_epoch() == (1000 - 1) / (3 * 7));
  for (int64_t k = 0; k < 2 * loader.batches_per_epoch(); ++k) {
    const int64_t first = (k % loader.batches_per_epoch()) * 3 * 7;
    REQUIRE(starts(loader.next(), config) == std::vector<int64_t>{first, first + 7, first + 14});
  }
}

TEST_CASE("an epoch visits every window once, and drops fewer than fill a batch") {
  const Counting data(1000);
  for (const bool shuffled : {false, true}) {
    for (const int64_t stride : {1, 3, 7, 11}) {  // overlapping, adjacent and spaced windows
      CAPTURE(shuffled);
      CAPTURE(stride);
      const int64_t windows = shuffled ? (1000 - 7) / stride : (1000 - 8) / stride + 1;
      for (int64_t epoch = 0; epoch < 3; ++epoch) {
        const LoaderConfig config = {.B = 4, .T = 7, .stride = stride, .shuffled = shuffled, .seed = 5};
        DataLoader loader(data.open(), config);
        loader.seek({epoch, 0});
        std::vector<int64_t> seen = epoch_starts(loader, config);
        std::sort(seen.begin(), seen.end());
        REQUIRE(std::adjacent_find(seen.begin(), seen.end()) == seen.end());  // none occurs twice
        const int64_t phase = seen.front() % stride;
        if (!shuffled) CHECK(phase == 0);
        for (const int64_t start : seen) REQUIRE(start % stride == phase);
        REQUIRE(seen.front() >= 0);
        REQUIRE(seen.back() / stride < windows);
        const int64_t dropped = windows - static_cast<int64_t>(seen.size());
        CHECK(dropped >= 0);
        CHECK(dropped < 4);
      }
    }
  }
}

TEST_CASE("ranks take the batches of a single process in turn, across the ends of epochs, from any position") {
  const Counting data(300);
  for (const bool shuffled : {false, true}) {
    for (const int ranks : {2, 3, 5, 20}) {  // the last is more than the batches of an epoch
      const LoaderConfig config = {.B = 3, .T = 7, .shuffled = shuffled, .seed = 5};
      for (const LoaderPosition from : {LoaderPosition{0, 0}, LoaderPosition{1, 5}}) {
        DataLoader alone(data.open(), config);
        REQUIRE(alone.batches_per_epoch() == (shuffled ? 13 : 14));
        alone.seek(from);
        std::vector<DataLoader> loaders;
        for (int rank = 0; rank < ranks; ++rank) {
          LoaderConfig own = config;
          own.rank = rank;
          own.ranks = ranks;
          loaders.emplace_back(data.open(), own);
          loaders.back().seek(from);
        }
        for (int k = 0; k < 20; ++k) {
          const LoaderPosition at = alone.position();
          for (DataLoader& loader : loaders) {
            CHECK(loader.position() == at);
            REQUIRE(starts(loader.next(), config) == starts(alone.next(), config));
          }
        }
      }
    }
  }
}

TEST_CASE("each epoch and each seed has its own order and phase; dropped windows change too") {
  const Counting data(5000);
  const auto order = [&](uint64_t seed, int64_t epoch) {
    const LoaderConfig config = {.B = 16, .T = 20, .seed = seed};
    DataLoader loader(data.open(), config);
    loader.seek({epoch, 0});
    return epoch_starts(loader, config);
  };
  std::set<int64_t> phases;
  std::set<std::vector<int64_t>> orders;
  std::map<int64_t, int> visits;  // by window, over the epochs
  for (int64_t epoch = 0; epoch < 60; ++epoch) {
    std::vector<int64_t> windows = order(1, epoch);
    phases.insert(windows.front() % 20);
    for (int64_t& window : windows) ++visits[window /= 20];
    CHECK_FALSE(std::is_sorted(windows.begin(), windows.end()));
    orders.insert(windows);
  }
  CHECK(orders.size() == 60);
  CHECK(phases.size() >= 16);   // out of 20: 60 draws miss more than 4 of them with a probability below 1e-3
  CHECK(visits.size() == 249);  // though an epoch has 240 of the 249
  CHECK(order(1, 0) == order(1, 0));
  CHECK(order(1, 0) != order(2, 0));
}

TEST_CASE("fixed windows are those of the sequential order, shuffled anew each epoch") {
  const Counting data(1001 + 6);  // at a random phase the last window would not always fit
  LoaderConfig config = {.B = 2, .T = 10, .seed = 5, .fixed = true};
  DataLoader loader(data.open(), config);
  REQUIRE(loader.batches_per_epoch() == 50);
  std::set<std::vector<int64_t>> orders;
  for (int epoch = 0; epoch < 3; ++epoch) {
    std::vector<int64_t> windows = epoch_starts(loader, config);
    orders.insert(windows);
    std::sort(windows.begin(), windows.end());
    for (size_t w = 0; w < windows.size(); ++w) CHECK(windows[w] == static_cast<int64_t>(10 * w));
  }
  CHECK(orders.size() == 3);
}

TEST_CASE("the permutation prefers no place") {
  // 13 windows, 1,300 epochs: each window should come 100 times at each place. The statistic is chi-square with 12
  // degrees of freedom, above 45 with a probability of 1e-5; and the seed is fixed.
  const Counting data(13 * 4 + 4);
  const LoaderConfig config = {.B = 1, .T = 4, .seed = 3};
  DataLoader loader(data.open(), config);
  REQUIRE(loader.batches_per_epoch() == 13);
  for (const int64_t place : {0, 6, 12}) {
    std::vector<int> count(13);
    for (int64_t epoch = 0; epoch < 1300; ++epoch) {
      loader.seek({epoch, place});
      ++count[static_cast<size_t>(loader.next().inputs[0] / 4)];
    }
    double chi_square = 0;
    for (const int n : count) chi_square += (n - 100.0) * (n - 100.0) / 100.0;
    CHECK(chi_square < 45);
  }
}

TEST_CASE("the order never changes: saved positions mean the same batches for ever") {
  const Counting data(2000);
  const LoaderConfig config = {.B = 4, .T = 16, .seed = 1337};
  DataLoader loader(data.open(), config);
  CHECK(starts(loader.next(), config) == std::vector<int64_t>{1363, 19, 1571, 35});
  loader.seek({7, 11});
  CHECK(starts(loader.next(), config) == std::vector<int64_t>{517, 1413, 485, 1205});
}

TEST_CASE("a loader that seeks continues as one that was not interrupted, across the end of an epoch") {
  const Counting data(700, {90, 91, 350});
  for (const bool shuffled : {false, true}) {
    const LoaderConfig config = {.B = 2, .T = 9, .shuffled = shuffled, .seed = 11, .rank = 1, .ranks = 2};
    DataLoader whole(data.open(), config);
    const int64_t n = 2 * whole.batches_per_epoch() + 3;
    std::vector<LoaderPosition> positions;
    std::vector<std::vector<int64_t>> batches;
    for (int64_t k = 0; k < n; ++k) {
      positions.push_back(whole.position());
      batches.push_back(starts(whole.next(), config));
    }
    CHECK(positions.front() == LoaderPosition{0, 0});
    CHECK(positions.back() == LoaderPosition{4, 4});
    DataLoader resumed(data.open(), config);
    for (size_t k = 0; k < positions.size(); ++k) {
      resumed.seek(positions[k]);
      CHECK(resumed.position() == positions[k]);
      for (size_t next = k; next < std::min(positions.size(), k + 4); ++next) {
        REQUIRE(starts(resumed.next(), config) == batches[next]);
      }
    }
  }
}

TEST_CASE("hundreds of shards are one sequence, and four ranks read all of it, each window once") {
  std::vector<int32_t> cuts;
  for (int32_t cut = 31; cut < 12'000; cut += 37) cuts.push_back(cut);  // 324 shards
  const Counting cut(12'000, cuts);
  std::vector<int64_t> seen;
  int64_t batches = 0;
  for (int rank = 0; rank < 4; ++rank) {
    const LoaderConfig config = {.B = 2, .T = 9, .seed = 3, .rank = rank, .ranks = 4, .fixed = true};
    DataLoader loader(cut.open(), config);
    batches = loader.batches_per_epoch();
    for (int64_t k = rank; k < batches; k += 4) {
      for (const int64_t start : starts(loader.next(), config)) seen.push_back(start);
    }
  }
  std::sort(seen.begin(), seen.end());
  CHECK(static_cast<int64_t>(seen.size()) == 2 * batches);
  CHECK(std::adjacent_find(seen.begin(), seen.end()) == seen.end());
}

TEST_CASE("windows cross from shard to shard") {
  const Counting cut(400, {1, 2, 50, 53, 54, 200});
  const LoaderConfig config = {.B = 3, .T = 10, .stride = 1, .seed = 2};
  DataLoader loader(cut.open(), config);
  CHECK(epoch_starts(loader, config).size() == 390);
}

TEST_CASE("a batch stays as it is while the next one is made") {
  const Counting data(100'000);
  const LoaderConfig config = {.B = 8, .T = 512, .seed = 4};
  DataLoader loader(data.open(), config);
  for (int k = 0; k < 40; ++k) {
    const Batch& batch = loader.next();
    const Batch before = batch;
    for (int pass = 0; pass < 20; ++pass) REQUIRE(batch.inputs == before.inputs);
    REQUIRE(batch.targets == before.targets);
  }
}

TEST_CASE("windows beyond 2^32 tokens are found") {
  const fs::path path = fs::temp_directory_path() / strprintf("wrought_test_dataloader_%d.bin", ::getpid());
  const int64_t count = 5'000'000'000, far = (int64_t{1} << 32) + 6;  // a file of 10 GB with holes
  write_shard(path, std::vector<int32_t>{1}, 50257);
  const int fd = ::open(path.c_str(), O_RDWR | O_CLOEXEC);
  REQUIRE(fd >= 0);
  const int32_t header_count[2] = {static_cast<int32_t>(count), static_cast<int32_t>(count >> 32)};
  const uint16_t ids[2] = {123, 456};
  struct stat status = {};
  const bool made = ::ftruncate(fd, 1024 + 2 * count) == 0 && ::pwrite(fd, header_count, 8, 8) == 8 &&
                    ::pwrite(fd, ids, 4, 1024 + 2 * far) == 4 && ::fstat(fd, &status) == 0 &&
                    status.st_blocks < 100'000;
  ::close(fd);
  if (made) {
    DataLoader sequential(TokenSequence::open(path.string()), {.B = 2, .T = 1, .shuffled = false});
    CHECK(sequential.batches_per_epoch() == (count - 1) / 2);
    sequential.seek({0, far / 2});
    CHECK(sequential.next().inputs == std::vector<int32_t>{123, 456});
    DataLoader shuffled(TokenSequence::open(path.string()), {.B = 2, .T = 1});
    shuffled.seek({0, (count - 1) / 2 - 1});  // the permutation of all 5e9 - 1 windows stays in range
    for (int k = 0; k < 100; ++k) CHECK_NOTHROW(shuffled.next());
  } else {
    MESSAGE("skipped: the file system of " << path << " does not make files with holes");
  }
  fs::remove(path);
}

TEST_CASE("the minimum of data is enough, one token less is an error that names both counts") {
  for (const bool shuffled : {false, true}) {
    const LoaderConfig config = {.B = 3, .T = 8, .shuffled = shuffled};
    const int32_t least = shuffled ? 3 * 8 + 8 : 3 * 8 + 1;
    {
      const Counting data(least);
      DataLoader loader(data.open(), config);
      CHECK(loader.batches_per_epoch() == 1);
      for (int k = 0; k < 50; ++k) starts(loader.next(), config);  // at every phase
    }
    const Counting data(least - 1);
    const std::string message = strprintf("the data has %d tokens", least - 1);
    CHECK_THROWS_WITH_AS(DataLoader(data.open(), config), doctest::Contains(message.c_str()), Error);
    CHECK_THROWS_WITH_AS(DataLoader(data.open(), config), doctest::Contains(strprintf("needs %d;", least).c_str()),
                         Error);
  }
  const Counting tiny(1);
  CHECK_THROWS_AS(DataLoader(tiny.open(), {.B = 1, .T = 1, .shuffled = false}), Error);
  CHECK_THROWS_AS(DataLoader(tiny.open(), {.B = 1, .T = INT32_MAX, .stride = INT64_MAX}), Error);
  CHECK_THROWS_AS(DataLoader(TokenSequence(), {}), Error);
}

TEST_CASE("configurations and positions outside their range are errors") {
  const Counting data(1000);
  CHECK_THROWS_AS(DataLoader(data.open(), {.B = 0}), Error);
  CHECK_THROWS_AS(DataLoader(data.open(), {.B = 65536, .T = 65536}), Error);
  CHECK_THROWS_AS(DataLoader(data.open(), {.T = -1}), Error);
  CHECK_THROWS_AS(DataLoader(data.open(), {.T = 4, .stride = -1}), Error);
  CHECK_THROWS_AS(DataLoader(data.open(), {.T = 4, .rank = 2, .ranks = 2}), Error);
  CHECK_THROWS_AS(DataLoader(data.open(), {.T = 4, .rank = -1, .ranks = 2}), Error);
  CHECK_THROWS_AS(DataLoader(data.open(), {.T = 4, .ranks = 0}), Error);
  DataLoader loader(data.open(), {.B = 4, .T = 4});
  const int64_t n = loader.batches_per_epoch();
  CHECK_THROWS_AS(loader.seek({-1, 0}), Error);
  CHECK_THROWS_AS(loader.seek({0, -1}), Error);
  CHECK_THROWS_WITH_AS(loader.seek({3, n}), doctest::Contains(strprintf("no batch %d in epoch 3", int(n)).c_str()),
                       Error);
  CHECK(loader.position() == LoaderPosition{0, 0});
  CHECK_NOTHROW(loader.seek({3, n - 1}));
}

TEST_CASE("errors on the prefetching thread are thrown by next(), and the position stays") {
  const Counting data(100);
  std::string bytes(MappedFile(data.dir / "000.bin").text());
  bytes.replace(1024 + 4 * 50, 4, "\xFF\xFF\xFF\xFF");  // token 50
  FileWriter writer(data.dir / "000.bin");
  writer.write(bytes);
  writer.commit();
  DataLoader loader(data.open(), {.B = 2, .T = 10, .shuffled = false});
  loader.next();
  loader.next();
  for (int again = 0; again < 2; ++again) {
    CHECK(loader.position() == LoaderPosition{0, 2});
    CHECK_THROWS_WITH_AS(loader.next(), doctest::Contains("token 50 is 4294967295"), Error);
  }
  loader.seek({0, 3});
  CHECK(loader.next().inputs[0] == 60);
}

TEST_CASE("a loader may be moved or destroyed at any time, with a batch in progress or an error pending") {
  const Counting data(100'000);
  const LoaderConfig config = {.B = 8, .T = 512, .shuffled = false};
  for (int k = 0; k < 20; ++k) {
    DataLoader first(data.open(), config);
    if (k % 2) first.next();
    DataLoader second(std::move(first));
    CHECK(second.next().inputs[0] == (k % 2) * 8 * 512);
    second.seek({0, 0});
    if (k % 3) second.next();
  }
}
