// Files of plans, and which plans a run takes: with a device that only counts what it measures.
#include <doctest/doctest.h>
#include <stdlib.h>

#include <future>
#include <mutex>
#include <thread>

#include "llm/support/error.h"
#include "llm/support/file.h"
#include "llm/support/json.h"
#include "llm/training/plan_file.h"
#include "tests/helpers/temporary_folder.h"

namespace fs = std::filesystem;
using nlohmann::json;

namespace {

MatmulPlans some_plans() {
  MatmulPlans plans{"a GPU, 132 multiprocessors", "cuBLASLt 130000", "0123456789abcdef", {}};
  plans.products["8 x 8 x 8 (bf16)"] = {std::string(128, 'a'), 3, 12, 91.25, 95.4};
  plans.products["64 x 8 x 8 (bf16)"] = {std::string(128, '0'), 0, 1, 1.0 / 3, 1.0 / 3};
  return plans;
}

// An environment variable until the end of the scope; null: none.
struct Variable {
  std::string name;
  std::optional<std::string> before;
  Variable(const char* name, const char* value) : name(name) {
    if (const char* old = ::getenv(name)) before = old;
    value ? ::setenv(name, value, 1) : ::unsetenv(name);
  }
  ~Variable() { before ? ::setenv(name.c_str(), before->c_str(), 1) : ::unsetenv(name.c_str()); }
};

// A device with the products "p0" ... : those that are not known are measured, each time to another algorithm.
struct FakeDevice {
  MatmulPlans none{"a GPU", "cuBLASLt 1", "", {}};
  int products = 3, measured = 0;
  MatmulPlans used;  // by use()
  PlannedDevice device() {
    return {none,
            [this](const MatmulPlans& known) {
              MatmulPlans plans = known;
              plans.products.clear();
              for (int i = 0; i < products; ++i) {
                const std::string name = "p" + std::to_string(i);
                const auto found = known.products.find(name);
                MatmulPlan plan = found != known.products.end() ? found->second : MatmulPlan();
                if (found == known.products.end()) plan.algorithm = strprintf("%0128d", ++measured);
                plans.products[name] = plan;
              }
              return plans;
            },
            [this](const MatmulPlans& plans) { used = plans; }};
  }
};

// A run's folder in a temporary folder, which is also the user's cache folder.
struct Place {
  TemporaryFolder folder;
  Variable cache{"XDG_CACHE_HOME", folder.path.c_str()};
  Run run;
  std::string said;

  Place() {
    run.folder = folder.path / "run";
    fs::create_directories(run.folder);
  }
  // The line with the hash; what else was printed is in `said`.
  std::string settle(FakeDevice& fake, bool keep_copy = true) {
    std::string last;
    said.clear();
    settle_plans(run, keep_copy, fake.device(), Group({}), [&](const std::string& line) {
      said += last.empty() ? "" : last + "\n";
      last = line;
    });
    return last;
  }
  void resume() { run.resume_from = run.folder / "checkpoints/step_000002"; }
  fs::path copy() const { return run.folder / "plans.json"; }
  fs::path cached() const {
    FakeDevice fake;
    fake.none.binary = file_checksum("/proc/self/exe");
    return plans_cache_file(fake.none);
  }
};

std::string hash_in(const std::string& line) { return line.substr(line.rfind(' ') + 1); }

// The file without its checksum, changed, and with a checksum again: what this program could have written.
void rewrite(const fs::path& path, const std::function<void(MatmulPlans&)>& change) {
  MatmulPlans plans = read_plans(path);
  change(plans);
  write_plans(path, plans);
}

}  // namespace

TEST_CASE("a file gives plans back as they were, and their hash is that of the algorithms, device and library") {
  const TemporaryFolder folder;
  const fs::path path = folder.path / "plans.json";
  const MatmulPlans plans = some_plans();
  write_plans(path, plans);
  CHECK(read_plans(path) == plans);
  CHECK(plans_hash(plans).size() == 16);

  MatmulPlans same = plans;
  same.binary = "another";
  same.products.begin()->second.microseconds = 7;
  CHECK(plans_hash(same) == plans_hash(plans));
  const auto changed = [&](auto&& change) {
    MatmulPlans other = plans;
    change(other);
    return plans_hash(other) != plans_hash(plans);
  };
  CHECK(changed([](MatmulPlans& p) { p.device = "another"; }));
  CHECK(changed([](MatmulPlans& p) { p.library = "another"; }));
  CHECK(changed([](MatmulPlans& p) { p.products.begin()->second.algorithm[5] = 'b'; }));
  CHECK(changed([](MatmulPlans& p) { p.products.erase(p.products.begin()); }));
}

TEST_CASE("a file of plans that is cut anywhere, or changed anywhere, is refused, and the error says what to do") {
  const TemporaryFolder folder;
  const fs::path path = folder.path / "plans.json";
  write_plans(path, some_plans());
  const std::string text(MappedFile(path).text());
  const auto refused = [&](const std::string& content) {
    folder.write("plans.json", content);
    try {
      read_plans(path);
    } catch (const Error& error) {
      const std::string what = error.what();
      return what.starts_with(path.string()) && what.ends_with("delete it, and the plans are measured anew");
    }
    return false;
  };
  for (size_t n = 0; n + 2 < text.size(); ++n) {  // the last two bytes are "}\n"
    INFO("cut to ", n, " bytes");
    CHECK(refused(text.substr(0, n)));
  }
  for (size_t i = 0; i < text.size(); ++i) {
    if (!std::isalnum(static_cast<unsigned char>(text[i]))) continue;
    std::string changed = text;
    changed[i] = text[i] == '7' ? '8' : '7';
    if (json::parse(changed, nullptr, false) == json::parse(text)) continue;
    INFO("byte ", i);
    CHECK(refused(changed));
  }
  CHECK(refused("[]"));
  CHECK(refused("{}"));
  CHECK(refused(R"({"version": 2, "checksum": "0"})"));

  const auto checksummed = [](json j) {  // as this program makes it: hash_of() of the rest
    const std::string rest = j.dump();
    j["checksum"] = strprintf("%016llx", static_cast<unsigned long long>(hash64(rest.data(), rest.size(), 0)));
    return j.dump();
  };
  json whole = json::parse(text);
  whole.erase("checksum");
  CHECK(!refused(checksummed(whole)));
  for (const char* field : {"device", "library", "binary", "products"}) {
    json lacks = whole, other = whole;
    lacks.erase(field);
    other[field] = 5;
    CHECK(refused(checksummed(lacks)));
    CHECK(refused(checksummed(other)));
  }
  for (const char* field : {"algorithm", "candidate", "candidates", "microseconds", "first_microseconds"}) {
    json lacks = whole;
    lacks["products"].begin()->erase(field);
    CHECK(refused(checksummed(lacks)));
  }
}

TEST_CASE("the cache file: one per device, library and program, in XDG_CACHE_HOME or ~/.cache") {
  const MatmulPlans plans = some_plans();
  const std::string name = "plans-a_GPU__132_multiprocessors-cuBLASLt_130000-0123456789abcdef.json";
  {
    const Variable cache("XDG_CACHE_HOME", "/some/cache"), home("HOME", "/home/x");
    CHECK(plans_cache_file(plans) == "/some/cache/wrought/" + name);
  }
  for (const char* none : {static_cast<const char*>(nullptr), "", "relative/cache"}) {
    const Variable cache("XDG_CACHE_HOME", none);
    {
      const Variable home("HOME", "/home/x");
      CHECK(plans_cache_file(plans) == "/home/x/.cache/wrought/" + name);
    }
    const Variable home("HOME", nullptr);
    CHECK(plans_cache_file(plans).empty());
  }
}

TEST_CASE("plans are measured once, kept in the cache, and the next run takes them from there") {
  Place place;
  FakeDevice fake;
  const std::string first = place.settle(fake);
  CHECK(fake.measured == 3);
  CHECK(place.said == "");
  CHECK(first == "plans: " + place.cached().string() + ", 3 products (3 measured now), hash " + hash_in(first));
  CHECK(read_plans(place.copy()) == read_plans(place.cached()));
  CHECK(hash_in(first) == plans_hash(read_plans(place.copy())));

  const std::string second = place.settle(fake);
  CHECK(fake.measured == 3);
  CHECK(second == "plans: " + place.cached().string() + ", 3 products, hash " + hash_in(first));

  fake.products = 5;  // two more: only those are measured, and added
  CHECK(place.settle(fake).find("5 products (2 measured now)") != std::string::npos);
  CHECK(fake.measured == 5);
  fake.products = 2;  // fewer: the run's copy has what it takes, the cache all
  place.settle(fake);
  CHECK(fake.measured == 5);
  CHECK(read_plans(place.copy()).products.size() == 2);
  CHECK(read_plans(place.cached()).products.size() == 5);
}

TEST_CASE("plans of another device, library or program are not taken, and a line says what runs instead") {
  for (const bool named : {false, true}) {
    CAPTURE(named);
    Place place;
    if (named) place.run.config.plans = place.folder.path / "mine.json";
    const fs::path file = named ? fs::path(place.run.config.plans) : place.cached();
    FakeDevice fake;
    place.settle(fake);
    CHECK(fs::exists(place.cached()) == !named);
    int measured = 3;
    const auto check = [&](const char* why, const std::function<void(MatmulPlans&)>& change) {
      rewrite(file, change);
      place.settle(fake);
      CHECK(place.said == "plans: " + file.string() + " is for another " + why + ": measured anew\n");
      CHECK(fake.measured == (measured += 3));
      place.settle(fake);  // the file has them now
      CHECK(place.said == "");
      CHECK(fake.measured == measured);
    };
    check("device (an older GPU, here a GPU)", [](MatmulPlans& p) { p.device = "an older GPU"; });
    check("version of the library (cuBLASLt 0, here cuBLASLt 1)", [](MatmulPlans& p) { p.library = "cuBLASLt 0"; });
    const std::string own = file_checksum("/proc/self/exe");
    check(strprintf("build of the program (0, here %s)", own.c_str()).c_str(), [](MatmulPlans& p) { p.binary = "0"; });
  }
}

TEST_CASE("a damaged file: in the cache it is made anew, one that was named ends the run") {
  Place place;
  FakeDevice fake;
  place.settle(fake);
  const std::string text(MappedFile(place.cached()).text());
  place.folder.write("named.json", text.substr(0, text.size() / 2));
  fs::copy_file(place.folder.path / "named.json", place.cached(), fs::copy_options::overwrite_existing);
  place.settle(fake);
  CHECK(fake.measured == 6);
  CHECK(place.said.starts_with("plans: " + place.cached().string() + ": "));
  CHECK(place.said.ends_with("the plans are measured anew: measured anew now\n"));
  CHECK(read_plans(place.cached()).products.size() == 3);

  place.run.config.plans = place.folder.path / "named.json";
  CHECK_THROWS_WITH_AS(place.settle(fake), doctest::Contains("delete it, and the plans are measured anew"), Error);
  CHECK(fake.measured == 6);
}

TEST_CASE("a cache that cannot be written, or that nothing names, is reported, and the run continues") {
  Place place;
  FakeDevice fake;
  {
    const fs::path file = place.folder.write("a file", "");
    const Variable cache("XDG_CACHE_HOME", file.c_str());
    const std::string line = place.settle(fake);
    CHECK(place.said.starts_with("plans: not kept for other runs: "));
    CHECK(line.starts_with("plans: " + place.copy().string() + ", 3 products (3 measured now), hash "));
  }
  {
    const Variable cache("XDG_CACHE_HOME", nullptr), home("HOME", nullptr);
    place.settle(fake);
    CHECK(place.said.starts_with("plans: no folder to keep them in"));
    CHECK(place.settle(fake, false).starts_with("plans: not kept, 3 products (3 measured now), hash "));
  }
  CHECK(fake.measured == 9);
  place.run.config.plans = place.folder.path / "absent/plans.json";  // named: the user relies on it
  CHECK_THROWS_AS(place.settle(fake), Error);
}

TEST_CASE("a run that continues takes the copy in its folder") {
  Place place;
  FakeDevice fake;
  const std::string hash = hash_in(place.settle(fake));
  fs::remove(place.cached());
  FakeDevice other;  // another run, which measures otherwise
  other.measured = 100;
  place.run.folder = place.folder.path / "other run";
  fs::create_directories(place.run.folder);
  CHECK(hash_in(place.settle(other)) != hash);

  place.run.folder = place.folder.path / "run";
  place.resume();
  CHECK(place.settle(fake) == "plans: " + place.copy().string() + ", 3 products, hash " + hash);
  CHECK(fake.measured == 3);

  fake.products = 4;  // a product that it did not have is added to the copy, not to the cache
  place.settle(fake);
  CHECK(fake.measured == 4);
  CHECK(read_plans(place.copy()).products.size() == 4);
  CHECK(read_plans(place.cached()).products.size() == 3);

  place.run.config.plans = place.cached();  // named: this file, and it becomes the copy
  fake.products = 3;
  CHECK(hash_in(place.settle(fake)) != hash);
  CHECK(read_plans(place.copy()) == read_plans(place.cached()));
  place.run.config.plans = "";

  rewrite(place.copy(), [](MatmulPlans& p) { p.device = "an older GPU"; });
  place.settle(fake);
  CHECK(place.said == "plans: " + place.copy().string() +
                          " is for another device (an older GPU, here a GPU): measured anew, and the run's numbers "
                          "differ in the last bits from here on\n");

  fs::resize_file(place.copy(), fs::file_size(place.copy()) / 2);
  CHECK_THROWS_WITH_AS(place.settle(fake), doctest::Contains("delete it, and the plans are measured anew"), Error);
  fs::remove(place.copy());
  CHECK(place.settle(fake).find(place.cached().string()) != std::string::npos);
  CHECK(fs::exists(place.copy()));
}

TEST_CASE("without a library, or without a product of it, nothing is printed and no file is written") {
  Place place;
  FakeDevice fake;
  fake.products = 0;
  CHECK(place.settle(fake) == "");
  fake.products = 3;
  fake.none = {};
  CHECK(place.settle(fake) == "");
  CHECK(fake.measured == 0);
  CHECK(!fs::exists(place.copy()));
  CHECK(!fs::exists(place.folder.path / "wrought"));
}

TEST_CASE("all ranks take rank 0's plans; one with another device is named and takes none") {
  Place place;
  FakeDevice fakes[3];
  fakes[2].none.device = "another GPU";
  std::promise<int> port;
  std::shared_future<int> known = port.get_future().share();
  std::mutex mutex;
  std::string said;
  std::vector<std::thread> threads;
  for (int r = 0; r < 3; ++r) {
    threads.emplace_back([&, r] {
      const Group group({r, 3, r, 3, {"127.0.0.1"}, r == 0 ? 0 : known.get(), "a token", 20},
                        [&](int p) { port.set_value(p); });
      settle_plans(place.run, true, fakes[r].device(), group, [&](const std::string& line) {
        const std::lock_guard<std::mutex> lock(mutex);
        said += line + "\n";
      });
      group.barrier();
    });
  }
  for (std::thread& thread : threads) thread.join();
  CHECK(fakes[0].measured == 3);
  CHECK(fakes[1].measured + fakes[2].measured == 0);
  CHECK(fakes[1].used == read_plans(place.copy()));
  CHECK(fakes[2].used.products.empty());
  CHECK(said.find("plans: rank 2 (") != std::string::npos);
  CHECK(said.find("rank 0's plans are for another device (a GPU, here another GPU)") != std::string::npos);
  CHECK(said.find("rank 1") == std::string::npos);
}
