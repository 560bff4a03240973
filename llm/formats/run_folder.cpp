#include "llm/formats/run_folder.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <ctime>
#include <fstream>
#include <nlohmann/json.hpp>

#include "llm/support/error.h"
#include "llm/support/file.h"

namespace fs = std::filesystem;

namespace {

const char* const kLockFile = "lock";
const std::string kLockText = "pid ";  // what the file begins with

std::string own_lock_text() {
  char host[256] = "", date[64] = "";
  ::gethostname(host, sizeof host - 1);
  const std::time_t now = std::time(nullptr);
  std::tm utc{};
  ::gmtime_r(&now, &utc);
  std::strftime(date, sizeof date, "%Y-%m-%d %H:%M:%S UTC", &utc);
  return kLockText + strprintf("%d on %s since %s", static_cast<int>(::getpid()), host, date);
}

std::string lock_text(int fd) {
  char text[512];
  const ssize_t n = ::pread(fd, text, sizeof text, 0);
  const std::string all(text, n > 0 ? static_cast<size_t>(n) : 0);
  return all.substr(0, all.find('\n'));
}

bool same_file(const struct stat& a, const struct stat& b) { return a.st_dev == b.st_dev && a.st_ino == b.st_ino; }

int lock_now(int fd) {  // 0, or why not
  while (::flock(fd, LOCK_EX | LOCK_NB) != 0) {
    if (errno != EINTR) return errno;
  }
  return 0;
}

bool has_digits_only(std::string_view text) {
  return !text.empty() && text.find_first_not_of("0123456789") == std::string_view::npos;
}

// Whether own(name) holds for all of the folder's entries; a missing folder has none.
template <class Own>
bool has_only(const fs::path& folder, Own&& own) {
  const fs::file_status status = fs::symlink_status(folder);
  if (!fs::exists(status)) return true;
  if (!fs::is_directory(status)) return false;
  return std::all_of(fs::directory_iterator(folder), fs::directory_iterator(),
                     [&](const fs::directory_entry& entry) { return own(entry.path().filename().string()); });
}

// Whether metrics.jsonl begins as the trainers begin it, or was cut off before that.
bool begins_a_record(const fs::path& metrics) {
  if (!fs::is_regular_file(fs::symlink_status(metrics))) return false;
  std::ifstream file(metrics);
  std::string line;
  if (!std::getline(file, line)) return true;
  const nlohmann::json first = nlohmann::json::parse(line, nullptr, false);
  return first.is_discarded() ? file.eof() : first.is_object() && first.contains("config") && first.contains("step");
}

}  // namespace

// ---- the lock ------------------------------------------------------------------------------------------------------

RunLock::Descriptor::~Descriptor() {
  if (fd >= 0) ::close(fd);
}

RunLock::RunLock(const fs::path& run, const Say& say) : run_(run) {
  std::error_code none;
  made_ = !fs::exists(run, none);
  make_directories(run);
  folder_.fd = ::open(run.c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC);
  if (folder_.fd < 0) fail("%s: expected a folder: %s", run.c_str(), std::strerror(errno));
  const fs::path path = run / kLockFile;
  int error = 0;
  for (;;) {
    file_.fd = ::openat(folder_.fd, kLockFile, O_RDWR | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0666);
    if (file_.fd < 0 && errno == ELOOP) {
      fail("%s: expected the lock of a run, found a symbolic link; remove it or choose another {run}", path.c_str());
    }
    if (file_.fd < 0) fail("%s: cannot be written: %s", path.c_str(), std::strerror(errno));
    error = lock_now(file_.fd);
    if (error == EWOULDBLOCK) {
      const std::string who = lock_text(file_.fd);
      fail(
          "%s is in use: another process writes to it%s; wait until it has ended, or end it (on SIGTERM it saves "
          "and ends), or choose another {run}",
          run.c_str(), who.empty() ? "" : (": " + who).c_str());
    }
    if (error != 0) break;
    // The process that held it may have removed the file since it was opened here: then this file is no longer
    // RUN/lock.
    if (holds_file()) break;
    ::close(file_.fd);
  }
  if (error == ENOLCK || error == EOPNOTSUPP || error == ENOSYS) {
    say(strprintf("lock: the file system of %s has none (%s): take care that no other process writes to this run",
                  run.c_str(), std::strerror(error)));
  } else if (error != 0) {
    fail("%s: cannot be locked: %s", path.c_str(), std::strerror(error));
  }
  const std::string before = lock_text(file_.fd), text = own_lock_text() + "\n";
  was_left_ = before.starts_with(kLockText);
  if (!before.empty() && !was_left_) {
    fail("%s: expected the lock of a run, found another file; move it away or choose another {run}", path.c_str());
  }
  if (::ftruncate(file_.fd, 0) != 0 ||
      ::pwrite(file_.fd, text.data(), text.size(), 0) != static_cast<ssize_t>(text.size())) {
    fail("%s: cannot be written: %s", path.c_str(), std::strerror(errno));
  }
}

RunLock::~RunLock() {
  // If a run was killed while it wrote its data, only the file that it left tells the next one so.
  const auto exists = [&](const char* name) { return ::faccessat(folder_.fd, name, F_OK, 0) == 0; };
  if (!was_left_ || !exists("data") || exists("metrics.jsonl"))
    ::unlinkat(folder_.fd, kLockFile, 0);  // while it is held
  if (made_ && leads_here()) ::rmdir(run_.c_str());
}

bool RunLock::leads_here() const {
  struct stat held = {}, named = {};
  return ::stat(run_.c_str(), &named) == 0 && ::fstat(folder_.fd, &held) == 0 && same_file(held, named);
}

bool RunLock::holds_file() const {
  struct stat held = {}, named = {};
  return ::fstat(file_.fd, &held) == 0 && ::fstatat(folder_.fd, kLockFile, &named, AT_SYMLINK_NOFOLLOW) == 0 &&
         same_file(held, named);
}

void RunLock::check() const {
  if (leads_here()) {
    if (holds_file()) return;
    fail(
        "%s was removed or replaced while the run wrote to it: nothing keeps other processes away any more, so the run "
        "ends here; {run} %s {resume} continues from its last checkpoint",
        (run_ / kLockFile).c_str(), run_.c_str());
  }
  struct stat held = {}, named = {};
  const bool replaced = ::stat(run_.c_str(), &named) == 0;
  if (!replaced && errno != ENOENT && errno != ENOTDIR && errno != ESTALE) return;  // the write itself will report it
  char name[4096] = "";
  if (::readlink(strprintf("/proc/self/fd/%d", folder_.fd).c_str(), name, sizeof name - 1) < 0) name[0] = '\0';
  const std::string now = name;
  if (::fstat(folder_.fd, &held) != 0 || held.st_nlink == 0 || now.empty() || now.ends_with(" (deleted)")) {
    fail("%s was removed while the run wrote to it: nothing of the run is left; start it again", run_.c_str());
  }
  fail(
      "%s was moved to %s while the run wrote to it%s; the run ends here, and what it saved is there: a run of "
      "train_gpt2 continues with {run} %s {resume}",
      run_.c_str(), now.c_str(), replaced ? ", and another folder is in its place" : "", now.c_str());
}

// ---- a run that only began -----------------------------------------------------------------------------------------

bool holds_only_a_beginning(const fs::path& run, bool was_left, const char* advice) {
  std::string found;
  for (const char* trace : {"checkpoints", "metrics.jsonl", "data", "latest"}) {
    if (found.empty() && fs::exists(fs::symlink_status(run / trace))) found = trace;
  }
  if (found.empty()) return false;
  const bool has_record = fs::exists(fs::symlink_status(run / "metrics.jsonl"));
  const bool only_began =
      (has_record || was_left) && (!has_record || begins_a_record(run / "metrics.jsonl")) &&
      !fs::exists(fs::symlink_status(run / "latest")) &&
      has_only(run / "checkpoints",
               [](const std::string& name) { return is_unfinished_checkpoint(name) && !name.ends_with(".old.tmp"); }) &&
      has_only(run / "data", [](std::string name) {
        if (name.ends_with(".tmp")) name.resize(name.size() - 4);
        return name == "train.bin" || name == "val.bin" || name == "entropy.json";
      });
  if (only_began) return true;
  fail("%s already holds a run (it has %s); %s", run.c_str(), found.c_str(), advice);
}

void clear_beginning(const fs::path& run, const RunLock& lock, const char* advice, const Say& say) {
  if (!holds_only_a_beginning(run, lock.was_left(), advice)) return;
  say(run.string() + " holds a run that ended before its first checkpoint: it begins anew");
  for (const char* trace : {"checkpoints", "data", "metrics.jsonl", kPlansFile}) {
    std::error_code error;
    fs::remove_all(run / trace, error);
    if (error) fail("%s: cannot be removed: %s", (run / trace).c_str(), error.message().c_str());
  }
}

// ---- checkpoints ---------------------------------------------------------------------------------------------------

bool is_unfinished_checkpoint(const std::string& name) {
  std::string_view rest = name;
  if (!rest.starts_with("step_") || !rest.ends_with(".tmp")) return false;
  rest.remove_prefix(5);
  rest.remove_suffix(4);
  if (rest.ends_with(".old")) rest.remove_suffix(4);
  return has_digits_only(rest);
}

std::string checkpoint_name(int64_t step) { return strprintf("step_%06lld", static_cast<long long>(step)); }

int64_t step_of(const fs::path& folder) {
  const std::string name = folder.filename().string();
  const std::string digits = name.rfind("step_", 0) == 0 ? name.substr(5) : "";
  if (digits.empty() || digits.size() > 18 || digits.find_first_not_of("0123456789") != std::string::npos) return -1;
  return std::stoll(digits);
}

std::vector<fs::path> finished_checkpoints(const fs::path& run) {
  std::vector<fs::path> found;
  std::error_code none;  // a missing folder has none
  for (const fs::directory_entry& entry : fs::directory_iterator(run / "checkpoints", none)) {
    if (step_of(entry.path()) >= 0 && fs::exists(entry.path() / kStateFile)) found.push_back(entry.path());
  }
  std::sort(found.begin(), found.end(), [](const fs::path& a, const fs::path& b) { return step_of(a) > step_of(b); });
  return found;
}

void point_at(const fs::path& run, const char* name, const fs::path& checkpoint) {
  const fs::path link = run / name, temporary = run / (name + kUnfinished);
  ::unlink(temporary.c_str());
  if (::symlink(checkpoint.lexically_relative(run).c_str(), temporary.c_str()) != 0) {
    fail("%s: cannot be written: %s", temporary.c_str(), std::strerror(errno));
  }
  if (::rename(temporary.c_str(), link.c_str()) != 0) {
    const int reason = errno;
    ::unlink(temporary.c_str());
    fail("%s: cannot be replaced by a link to %s: %s", link.c_str(), checkpoint.c_str(), std::strerror(reason));
  }
  sync_directory(run);
}

void mark_best(const fs::path& run, const fs::path& checkpoint) { point_at(run, "best", checkpoint); }

fs::path latest_checkpoint(const fs::path& run) {
  if (fs::exists(run / kStateFile)) return run;
  const fs::path link = run / "latest";
  if (fs::exists(link / kStateFile)) return fs::is_symlink(link) ? run / fs::read_symlink(link) : link;

  const std::vector<fs::path> finished = finished_checkpoints(run);
  std::string found = "no checkpoint";
  if (!fs::exists(run)) {
    found = "no such folder";
  } else if (!finished.empty()) {
    found = "\"latest\" leads nowhere, but there is " + finished[0].string() + ": name that folder to continue from it";
  } else if (fs::exists(run / "metrics.jsonl")) {
    found = "no checkpoint: the run ended before its first one; start it again, without {resume}";
  } else if (fs::exists(run / "config.json")) {
    found = "a model without a training state: start from it with {model} instead";
  }
  fail("%s: expected a run or a checkpoint to resume, found %s", run.c_str(), found.c_str());
}
