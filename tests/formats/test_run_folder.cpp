// The lock on a run's folder: who gets it, what becomes of it, file systems without locks; what a run that only began
// has; its checkpoints.
#include <doctest/doctest.h>
#include <fcntl.h>
#include <spawn.h>
#include <sys/file.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <fstream>
#include <memory>

#include "llm/formats/run_folder.h"
#include "llm/support/error.h"
#include "tests/helpers/model_files.h"

namespace fs = std::filesystem;
using doctest::Contains;

namespace {

int flock_error = 0;  // the error with which flock() fails

const Say kSilent = [](const std::string&) {};

std::string path_of(const Folder& folder) { return (folder.path / "run").string(); }

}  // namespace

// Replaces flock() of the C library.
extern "C" int flock(int fd, int operation) noexcept {
  if (flock_error == 0) return static_cast<int>(::syscall(SYS_flock, fd, operation));
  errno = flock_error;
  return -1;
}

TEST_CASE("a lock that is a symbolic link is refused; a lock removed while held is noticed") {
  const Folder folder;
  const fs::path run = path_of(folder);
  for (const char* to : {"nowhere", "/dev/null", "file"}) {
    CAPTURE(to);
    fs::create_directory(run);
    if (to == std::string("file")) std::ofstream(run / "file") << "";
    fs::create_symlink(to, run / "lock");
    CHECK_THROWS_WITH_AS(RunLock(run, kSilent), Contains("expected the lock of a run, found a symbolic link"), Error);
    CHECK(fs::is_symlink(run / "lock"));
    CHECK_FALSE(fs::exists(run / "nowhere"));
    fs::remove_all(run);
  }
  const RunLock lock(run, kSilent);
  CHECK_NOTHROW(lock.check());
  fs::remove(run / "lock");
  CHECK_THROWS_WITH_AS(lock.check(), Contains("was removed or replaced while the run wrote to it"), Error);
  const RunLock other(run, kSilent);
  CHECK_THROWS_WITH_AS(lock.check(), Contains("was removed or replaced while the run wrote to it"), Error);
  CHECK_NOTHROW(other.check());
}

TEST_CASE("the lock is made with its folder, refused to a second process, removed at the end") {
  const Folder folder;
  const fs::path run = path_of(folder);
  {
    const RunLock lock(run, kSilent);
    CHECK_FALSE(lock.was_left());
    const std::string text = contents(run / "lock");
    CHECK(text.starts_with(strprintf("pid %d on ", static_cast<int>(::getpid()))));
    CHECK(text.ends_with(" UTC\n"));
    CHECK_THROWS_WITH_AS(RunLock(run, kSilent), Contains(text.substr(0, text.size() - 1).c_str()), Error);
    CHECK_THROWS_WITH_AS(RunLock(run / ".", kSilent), Contains("is in use"), Error);
    CHECK(contents(run / "lock") == text);
    CHECK_NOTHROW(lock.check());
  }
  CHECK_FALSE(fs::exists(run));  // the lock made the folder, and it is empty
  fs::create_directory(run);
  { const RunLock lock(run, kSilent); }
  CHECK(fs::is_empty(run));
  {
    const RunLock lock(run, kSilent);
    fs::create_directory(run / "data");
  }
  CHECK(fs::exists(run / "data"));
}

TEST_CASE("a process that is killed releases the lock, and a program that it started does not hold it") {
  const Folder folder;
  const fs::path run = path_of(folder);
  int ready[2];
  REQUIRE(::pipe(ready) == 0);
  const pid_t holder = ::fork();
  if (holder == 0) {
    const RunLock lock(run, kSilent);
    char program[] = "sleep", seconds[] = "60";
    char* arguments[] = {program, seconds, nullptr};
    pid_t child = 0;
    if (::posix_spawnp(&child, "sleep", nullptr, nullptr, arguments, environ) != 0) ::_exit(1);
    if (::write(ready[1], &child, sizeof child) != sizeof child) ::_exit(1);
    ::pause();
    ::_exit(1);
  }
  pid_t child = 0;
  REQUIRE(::read(ready[0], &child, sizeof child) == sizeof child);
  const struct End {  // also if a check below throws: CTest waits for every process that holds the test's output
    pid_t pid;
    ~End() { ::kill(pid, SIGKILL); }
  } end{child};
  // The kernel lets posix_spawnp() return before it has closed the new program's files that are not for it.
  const auto holds_lock = [&] {
    for (const fs::directory_entry& file : fs::directory_iterator(strprintf("/proc/%d/fd", static_cast<int>(child)))) {
      std::error_code gone;
      if (fs::read_symlink(file.path(), gone) == run / "lock") return true;
    }
    return false;
  };
  for (int waited = 0; holds_lock() && waited < 10'000; ++waited) ::usleep(1000);
  CHECK_THROWS_WITH_AS(RunLock(run, kSilent), Contains(strprintf("pid %d on ", static_cast<int>(holder)).c_str()),
                       Error);
  ::kill(holder, SIGKILL);
  ::waitpid(holder, nullptr, 0);
  REQUIRE(::kill(child, 0) == 0);  // still there
  CHECK(fs::exists(run / "lock"));
  {
    const RunLock lock(run, kSilent);
    CHECK(lock.was_left());
  }
  CHECK_FALSE(fs::exists(run / "lock"));
  ::close(ready[0]);
  ::close(ready[1]);
}

TEST_CASE("a lock that was left stays as long as it tells who owns the data") {
  const Folder folder;
  const fs::path run = path_of(folder);
  fs::create_directories(run / "data");
  write_text(run / "data" / "train.bin.tmp", "x");
  write_text(run / "lock", "pid 1 on elsewhere since 2020-01-01 00:00:00 UTC\n");
  write_text(run / "plans.json", "{}");
  { const RunLock refused(run, kSilent); }
  {
    const RunLock lock(run, kSilent);
    CHECK(lock.was_left());
    std::string said;
    clear_beginning(run, lock, "", [&](const std::string& line) { said = line; });
    CHECK(said == run.string() + " holds a run that ended before its first checkpoint: it begins anew");
    CHECK(!fs::exists(run / "plans.json"));
    CHECK(!fs::exists(run / "data"));
  }
  CHECK(fs::is_empty(run));
}

TEST_CASE("a file named lock that is not a lock, and a run folder that is not a folder, are refused") {
  const Folder folder;
  fs::create_directory(path_of(folder));
  write_text(folder.path / "run" / "lock", "mine");
  CHECK_THROWS_WITH_AS(RunLock(path_of(folder), kSilent), Contains("found another file"), Error);
  CHECK(contents(folder.path / "run" / "lock") == "mine");
  write_text(folder.path / "run" / "lock", "");  // a process was killed before it wrote to it
  CHECK_NOTHROW(RunLock(path_of(folder), kSilent));
  write_text(folder.path / "file", "x");
  CHECK_THROWS_AS(RunLock(folder.path / "file", kSilent), Error);
  CHECK_THROWS_AS(RunLock("/dev/null/run", kSilent), Error);
}

TEST_CASE("a file system without locks is reported and does not stop the run; other failures do") {
  const Folder folder;
  const std::string run = path_of(folder);
  for (const int error : {ENOLCK, EOPNOTSUPP, ENOSYS}) {
    CAPTURE(error);
    std::string said;
    flock_error = error;
    {
      const RunLock lock(run, [&](const std::string& line) { said += line + "\n"; });
      CHECK_NOTHROW(lock.check());
    }
    flock_error = 0;
    CHECK(said.starts_with("lock: the file system of " + run + " has none ("));
    CHECK(std::count(said.begin(), said.end(), '\n') == 1);
  }
  flock_error = EBADF;
  CHECK_THROWS_WITH_AS(RunLock(run, kSilent), Contains("cannot be locked: Bad file descriptor"), Error);
  flock_error = 0;
}

TEST_CASE("check() notices a folder that was removed, moved or replaced; a link to it is the same folder") {
  const Folder folder;
  const fs::path run = folder.path / "run", away = folder.path / "away";
  {
    const RunLock lock(run, kSilent);
    fs::rename(run, away);
    CHECK_THROWS_WITH_AS(lock.check(), Contains(("was moved to " + away.string()).c_str()), Error);
    fs::create_directory(run);
    CHECK_THROWS_WITH_AS(lock.check(), Contains("another folder is in its place"), Error);
    fs::remove(run);
    fs::create_symlink("away", run);
    CHECK_NOTHROW(lock.check());
    fs::remove(run);
    fs::rename(away, run);
    CHECK_NOTHROW(lock.check());
    fs::remove_all(run);
    CHECK_THROWS_WITH_AS(lock.check(), Contains("was removed while"), Error);
    fs::create_directory(run);
    CHECK_THROWS_WITH_AS(lock.check(), Contains("was removed while"), Error);
  }
  CHECK(fs::is_empty(run));
}

TEST_CASE("the files of a run that only began are told from those of any other") {
  const std::string record = "{\"config\":{},\"step\":0}\n";
  const struct {
    const char* what;
    std::vector<const char*> files;  // those that end in / are folders
    std::string metrics;             // empty: no such file
    bool was_left;
    int expected;  // 0: nothing, 1: a beginning, 2: refused
  } cases[] = {
      {"empty", {}, "", false, 0},
      {"a lock that was left", {}, "", true, 0},
      {"files of others", {"notes", "text.txt"}, "", false, 0},
      {"data, and no sign of the owner", {"data/train.bin"}, "", false, 2},
      {"data, and a lock that was left", {"data/train.bin", "data/val.bin.tmp"}, "", true, 1},
      {"a record", {}, record, false, 1},
      {"a record that was cut off", {}, "{\"config\":{", false, 1},
      {"a whole beginning", {"data/train.bin", "data/val.bin", "data/entropy.json", "checkpoints/"}, record, false, 1},
      {"an unfinished checkpoint", {"checkpoints/step_000010.tmp/model.safetensors"}, record, false, 1},
      {"one that was replaced", {"checkpoints/step_000010.old.tmp/model.safetensors"}, record, false, 2},
      {"another record", {}, "{\"loss\":1}\n", false, 2},
      {"another text", {}, "mine\nyours\n", true, 2},
      {"a checkpoint", {"checkpoints/step_000010/trainer_state.json"}, record, false, 2},
      {"latest", {"latest/"}, record, false, 2},
      {"data of others", {"data/book.txt"}, record, true, 2},
      {"a file named data", {"data"}, record, true, 2},
  };
  for (const auto& [what, files, metrics, was_left, expected] : cases) {
    CAPTURE(what);
    const Folder folder;
    for (const std::string file : files) {
      fs::create_directories((folder.path / file).parent_path());
      if (!file.ends_with('/')) write_text(folder.path / file, "x");
    }
    if (!metrics.empty()) write_text(folder.path / "metrics.jsonl", metrics);
    if (expected == 2) {
      CHECK_THROWS_WITH_AS(holds_only_a_beginning(folder.path, was_left, "the advice"), Contains("; the advice"),
                           Error);
    } else {
      CHECK(holds_only_a_beginning(folder.path, was_left, "") == (expected == 1));
    }
  }
}

TEST_CASE("names of unfinished checkpoints are recognised") {
  for (const char* name : {"step_000010.tmp", "step_1.tmp", "step_000010.old.tmp"})
    CHECK(is_unfinished_checkpoint(name));
  for (const char* name :
       {"step_000010", "step_.tmp", "step_mine.tmp", "step_10.new.tmp", "10.tmp", "step_10.tmp.tmp"}) {
    CHECK_FALSE(is_unfinished_checkpoint(name));
  }
}

TEST_CASE("a run's checkpoints: finished ones by their step, and the one that latest names") {
  const Folder folder;
  const fs::path all = folder.path / "checkpoints";
  for (const char* name :
       {"step_000002", "step_000010", "step_1000000", "step_000003.tmp", "step_", "step_12x", "mine"}) {
    fs::create_directories(all / name);
    write_text(all / name / kStateFile, "{}");
  }
  fs::create_directories(all / "step_000011");  // without a state
  CHECK(checkpoint_name(10) == "step_000010");
  CHECK(checkpoint_name(1'000'000) == "step_1000000");
  for (const int64_t step : {0, 10, 1'000'000}) CHECK(step_of(all / checkpoint_name(step)) == step);
  for (const char* name : {"step_", "step_12x", "mine", "step_-1", "step_1234567890123456789"})
    CHECK(step_of(name) == -1);
  CHECK(finished_checkpoints(folder.path) ==
        std::vector<fs::path>{all / "step_1000000", all / "step_000010", all / "step_000002"});
  CHECK(finished_checkpoints(folder.path / "none").empty());
  point_at(folder.path, "latest", all / "step_000002");
  CHECK(latest_checkpoint(folder.path) == all / "step_000002");
  CHECK(latest_checkpoint(all / "step_000010") == all / "step_000010");
  point_at(folder.path, "latest", all / "step_000010");  // what was there is replaced
  CHECK(latest_checkpoint(folder.path) == all / "step_000010");
  mark_best(folder.path, all / "step_000002");
  CHECK(fs::read_symlink(folder.path / "best") == "checkpoints/step_000002");
}

TEST_CASE("without a checkpoint, the error names what was found instead") {
  const Folder folder;
  CHECK_THROWS_WITH_AS(latest_checkpoint(folder.path / "none"), Contains("no such folder"), Error);
  CHECK_THROWS_WITH_AS(latest_checkpoint(fs::path(GOLDEN_DIR) / "checkpoint_gpt2"),
                       Contains("a model without a training state"), Error);
  const fs::path saved = folder.path / "checkpoints" / "step_000001";
  fs::create_directories(saved);
  write_text(saved / kStateFile, "{}");
  CHECK_THROWS_WITH_AS(latest_checkpoint(folder.path), Contains(saved.c_str()), Error);
  fs::create_symlink("checkpoints/step_000009", folder.path / "latest");
  CHECK_THROWS_WITH_AS(latest_checkpoint(folder.path), Contains("\"latest\" leads nowhere"), Error);
}
