// A run's folder: its contents, who may write to it, whether it is still there, and whether a new run may begin in it.
//
//   RUN/checkpoints/step_000100/             one checkpoint of the run (llm/training/checkpoint.h)
//   RUN/latest -> checkpoints/step_000100    changed last, in one step
//   RUN/best -> checkpoints/step_000060      with --patience: the lowest validation loss
//   RUN/plans.json                           on a GPU: the algorithms of its products (llm/training/plan_file.h)
//
//   RUN/lock   "pid N on HOST since DATE": held by flock() while a process writes to the run. The system releases it
//              when the process ends, however it ends; the file of a killed process blocks no other.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <string>
#include <vector>

// Prints a line for the user.
using Say = std::function<void(const std::string&)>;

// ---- the lock ------------------------------------------------------------------------------------------------------

// Holds RUN/lock, and knows the folder by more than its path. Programs that the process starts do not inherit the lock.
class RunLock {
 public:
  // Makes the folder if it is not there. Throws Error if another process holds the lock (and names it), or if the file
  // cannot be written. On a file system without locks it says so and continues.
  RunLock(const std::filesystem::path& run, const Say& say);
  ~RunLock();  // removes RUN/lock, unless clear_beginning() needs it, and the folder if it made it and it is empty
  RunLock(const RunLock&) = delete;
  RunLock& operator=(const RunLock&) = delete;

  // Throws Error if the path no longer leads to the folder that was locked (it was removed, moved or replaced), or
  // RUN/lock is no longer the file that is held. Called before each write, so that none goes to a folder that was
  // moved, or to one that another process writes to.
  void check() const;
  bool was_left() const { return was_left_; }  // whether a killed process had left the file

 private:
  struct Descriptor {
    int fd = -1;
    ~Descriptor();
  };
  bool leads_here() const;  // whether run_ still does
  bool holds_file() const;  // whether RUN/lock is still the file that is held

  std::filesystem::path run_;
  Descriptor folder_, file_;
  bool made_ = false, was_left_ = false;
};

// ---- a run that only began -----------------------------------------------------------------------------------------

// False if the folder has nothing of a run; true if it has only what a run leaves that ended before its first
// checkpoint. Throws Error, ending with `advice`, if it has more, or something that no run writes. `was_left`: whether
// a RUN/lock shows that a run had begun.
bool holds_only_a_beginning(const std::filesystem::path& run, bool was_left, const char* advice);

// Makes the folder ready for a new run: throws as above, or removes what is left of one that had only begun, and says
// so.
void clear_beginning(const std::filesystem::path& run, const RunLock& lock, const char* advice, const Say& say);

// ---- checkpoints ---------------------------------------------------------------------------------------------------

inline constexpr const char* kPlansFile = "plans.json";
inline constexpr const char* kStateFile = "trainer_state.json";  // written last: a folder with it is a whole checkpoint
inline const std::string kUnfinished = ".tmp";                   // the ending of unfinished files and folders

// Whether this is the name of an unfinished checkpoint, RUN/checkpoints/step_NNNNNN.tmp or step_NNNNNN.old.tmp.
bool is_unfinished_checkpoint(const std::string& name);

std::string checkpoint_name(int64_t step);  // step_NNNNNN
// The step of a finished checkpoint's folder by its name, or -1.
int64_t step_of(const std::filesystem::path& folder);
// The finished checkpoints in RUN/checkpoints, newest first.
std::vector<std::filesystem::path> finished_checkpoints(const std::filesystem::path& run);

// Makes RUN/NAME, latest or best, a link to one of the run's checkpoints, in one step.
void point_at(const std::filesystem::path& run, const char* name, const std::filesystem::path& checkpoint);
// Points RUN/best at one of its checkpoints, which then stays, whatever `keep` says, until another is the best.
void mark_best(const std::filesystem::path& run, const std::filesystem::path& checkpoint);

// The folder that RUN/latest names, or `run` itself if it is a checkpoint. Throws Error if there is none (and says what
// was found).
std::filesystem::path latest_checkpoint(const std::filesystem::path& run);
