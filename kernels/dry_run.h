// A dry run: while a DryRun lives, its thread's launchers choose kernels as usual, but launch() and CUDA_CHECK do
// nothing. What would run, and why, is recorded: for --kernels, and to make the plans of libraries before a step.
#pragma once

#include <cxxabi.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <source_location>
#include <string>
#include <utility>
#include <vector>

// A function's name as the compiler writes it, without its parameters: "_Z1fIfEvPT_" is "f<float>".
inline std::string readable_name(const char* mangled) {
  int status = 0;
  char* demangled = abi::__cxa_demangle(mangled, nullptr, nullptr, &status);
  std::string text = demangled ? demangled : mangled;
  std::free(demangled);
  if (text.starts_with("void ")) text.erase(0, 5);
  int angle = 0;
  for (size_t i = 0; i < text.size(); ++i) {  // "f<(Major)0>(float*)"
    angle += (text[i] == '<') - (text[i] == '>');
    if (text[i] == '(' && angle == 0) text.resize(i);
  }
  return text;
}

class DryRun {
 public:
  struct Launch {
    std::string kernel;  // with its template arguments; empty without a CUDA driver, which knows it
    int64_t blocks;
    int threads;  // per block
    size_t shared_bytes;
    auto operator<=>(const Launch&) const = default;
  };
  // One call of a launcher; calls may be nested.
  struct Operation {
    std::string name, shape = "";     // the launcher; "16384 x 2304 x 768"; empty: not given
    const void* weight = nullptr;     // identifies a matrix product
    std::string of = "";              // which of a model's products, if known
    std::string tier = "", why = "";  // what it chose, if there is a choice, and why nothing faster
    std::vector<Launch> launches = {};
  };
  std::vector<Operation> operations;

  DryRun() : before_(std::exchange(current_, this)) {}
  ~DryRun() { current_ = before_; }
  DryRun(const DryRun&) = delete;
  DryRun& operator=(const DryRun&) = delete;

  static DryRun* current() { return current_; }  // this thread's dry run; null: kernels are launched

  // A launch by the launcher at `where`, or by the open operation. Consecutive launches of a launcher that opens none
  // are one operation until one of them is repeated.
  void add(Launch launch, const std::source_location& where) {
    const std::string name = open_ ? "" : launcher_name(where.function_name());
    const auto goes_on = [&](const Operation& last) {
      return last.name == name && last.shape.empty() &&
             std::find(last.launches.begin(), last.launches.end(), launch) == last.launches.end();
    };
    if (!open_ && (operations.empty() || !goes_on(operations.back()))) operations.push_back({name});
    operations.back().launches.push_back(std::move(launch));
  }

 private:
  friend class DryOperation;

  // "void layernorm_backward(float*, ...) [with ...]", or that of a lambda in it: "layernorm_backward".
  static std::string launcher_name(std::string text) {
    text = text.substr(0, text.find('('));
    if (text.ends_with(">")) text = text.substr(0, text.find('<'));
    return text.substr(text.rfind(' ') + 1);
  }

  static inline thread_local DryRun* current_ = nullptr;
  DryRun* before_;
  bool open_ = false;
};

// For a launcher that has a choice to explain: launches during its lifetime belong to it. Of nested ones the outer
// counts. describe() -> DryRun::Operation is only called in a dry run.
class DryOperation {
 public:
  template <class Describe>
  explicit DryOperation(Describe&& describe) : run_(DryRun::current_) {
    if (run_ && run_->open_) run_ = nullptr;
    if (!run_) return;
    run_->operations.push_back(describe());
    run_->open_ = true;
  }
  ~DryOperation() {
    if (run_) run_->open_ = false;
  }
  DryOperation(const DryOperation&) = delete;
  DryOperation& operator=(const DryOperation&) = delete;

  // choice() -> what was chosen: text() and why.
  template <class Choice>
  void chose(Choice&& choice) {
    if (!run_) return;
    const auto made = choice();
    run_->operations.back().tier = made.text();
    run_->operations.back().why = made.why;
  }

 private:
  DryRun* run_;
};
