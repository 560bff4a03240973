// From addresses to names that a person knows: lines of code (libbacktrace, a part of GCC) and __shared__ variables
// (the program's symbol table).
#include <backtrace.h>
#include <cxxabi.h>

#include <cstdlib>
#include <map>

#include "dev/cudasim/observe.h"

namespace cudasim {

std::string code_place(uintptr_t pc) {
  static auto* known = new std::map<uintptr_t, std::string>;
  if (const auto found = known->find(pc); found != known->end()) return found->second;
  const auto ignore_error = [](void*, const char*, int) {};
  static backtrace_state* state = backtrace_create_state(nullptr, 1, ignore_error, nullptr);
  std::string text;
  if (state) {
    backtrace_pcinfo(
        state, pc - 1,
        [](void* to, uintptr_t, const char* file, int line, const char*) {
          std::string& text = *static_cast<std::string*>(to);
          if (!file) return 0;
          // The simulator's own headers tell nothing about the kernel.
          const bool own = std::strstr(file, "dev/cudasim/include/") || std::strstr(file, "/include/c++/");
          if (!own) text += (text.empty() ? "" : " < ") + std::string(file) + ":" + std::to_string(line);
          return 0;
        },
        ignore_error, &text);
  }
  if (text.empty()) {
    char address[64];
    std::snprintf(address, sizeof address, "instruction %p (no debug information)", reinterpret_cast<void*>(pc));
    text = address;
  }
  return (*known)[pc] = text;
}

const SharedVariable* shared_variable(size_t offset) {
  static const auto* variables = [] {
    auto* variables = new std::map<size_t, SharedVariable>;
    for_thread_local_symbols([&](const char* mangled, size_t begin, size_t bytes) {
      int status = 0;
      char* demangled = abi::__cxa_demangle(mangled, nullptr, nullptr, &status);
      std::string name = demangled ? demangled : mangled;
      std::free(demangled);
      if (const size_t colons = name.rfind("::"); colons != std::string::npos) name = name.substr(colons + 2);
      variables->emplace(begin, SharedVariable{name, begin, bytes});
    });
    return variables;
  }();
  auto next = variables->upper_bound(offset);
  if (next == variables->begin()) return nullptr;
  const SharedVariable& variable = std::prev(next)->second;
  return offset < variable.begin + variable.bytes ? &variable : nullptr;
}

}  // namespace cudasim
