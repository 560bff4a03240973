// Names of kernels, from the program's own symbol table, which unlike dladdr() has functions of anonymous namespaces.
#include <cxxabi.h>
#include <elf.h>
#include <fcntl.h>
#include <link.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdlib>
#include <fstream>
#include <map>
#include <mutex>

#include "dev/cudasim/internal.h"

namespace cudasim {

namespace {

// f(name, symbol) for every symbol in the program's file; none if it was stripped.
template <class F>
void for_symbols(F&& f) {
  const int file = open("/proc/self/exe", O_RDONLY | O_CLOEXEC);
  if (file < 0) return;
  struct stat status;
  void* mapped = MAP_FAILED;
  if (fstat(file, &status) == 0)
    mapped = mmap(nullptr, static_cast<size_t>(status.st_size), PROT_READ, MAP_PRIVATE, file, 0);
  close(file);
  if (mapped == MAP_FAILED) return;
  const char* bytes = static_cast<const char*>(mapped);
  const auto* header = reinterpret_cast<const ElfW(Ehdr)*>(bytes);
  const auto* sections = reinterpret_cast<const ElfW(Shdr)*>(bytes + header->e_shoff);
  for (int s = 0; s < header->e_shnum; ++s) {
    if (sections[s].sh_type != SHT_SYMTAB) continue;
    const auto* table = reinterpret_cast<const ElfW(Sym)*>(bytes + sections[s].sh_offset);
    const char* names = bytes + sections[sections[s].sh_link].sh_offset;
    for (size_t i = 0; i < sections[s].sh_size / sizeof *table; ++i) f(names + table[i].st_name, table[i]);
  }
  munmap(mapped, static_cast<size_t>(status.st_size));
}

// Address -> mangled name of every function.
std::map<uintptr_t, std::string> read_functions() {
  std::map<uintptr_t, std::string> functions;
  uintptr_t base = 0;  // where the program, listed first, is loaded
  dl_iterate_phdr(
      [](dl_phdr_info* info, size_t, void* to) {
        *static_cast<uintptr_t*>(to) = info->dlpi_addr;
        return 1;
      },
      &base);
  for_symbols([&](const char* name, const ElfW(Sym) & symbol) {
    if ((symbol.st_info & 15) == STT_FUNC && symbol.st_value != 0) functions.emplace(base + symbol.st_value, name);
  });
  return functions;
}

// "void ns::kernel<float, 4>(float*, int)" -> "ns::kernel<float, 4>"
std::string without_signature(const std::string& demangled) {
  const std::string anonymous = "(anonymous namespace)";
  std::string name;
  int angle = 0, round = 0;
  for (size_t i = 0; i < demangled.size(); ++i) {
    const char c = demangled[i];
    if (demangled.compare(i, anonymous.size(), anonymous) == 0) {
      name += anonymous;
      i += anonymous.size() - 1;
      continue;
    }
    if (c == '<') ++angle;
    if (c == '>') --angle;
    if (angle == 0) {
      if (c == '(') break;                       // the parameters
      if (c == ' ' && round == 0) name.clear();  // the text so far was the result's type
      if (c == ' ') continue;
    }
    name += c;
  }
  return name;
}

std::string without_template_arguments(const std::string& name) {
  std::string text;
  int angle = 0;
  for (const char c : name) {
    if (c == '<') ++angle;
    if (angle == 0) text += c;
    if (c == '>') --angle;
  }
  return text;
}

std::recursive_mutex& names_lock() {
  static auto* lock = new std::recursive_mutex;
  return *lock;
}

struct Launched {
  std::string name;
  uint64_t times;
};
std::map<const void*, Launched>& launched() {
  static auto* kernels = new std::map<const void*, Launched>;
  return *kernels;
}

// One line per kernel, appended: several programs may share the file.
void write_launched() {
  const char* path = std::getenv("CUDASIM_KERNELS");
  if (!path || !*path) return;
  std::set<std::string> names;
  for (const auto& [address, kernel] : launched()) names.insert(without_template_arguments(kernel.name));
  std::ofstream file(path, std::ios::app);
  for (const std::string& name : names) file << name << '\n';
  if (!file.flush()) std::fprintf(stderr, "cudasim: cannot write CUDASIM_KERNELS=%s\n", path);
}

}  // namespace

std::string kernel_name(const void* kernel) {
  const std::lock_guard guard(names_lock());
  static const auto* symbols = new std::map<uintptr_t, std::string>(read_functions());
  const auto found = symbols->find(reinterpret_cast<uintptr_t>(kernel));
  if (found == symbols->end()) return "a kernel without a name";
  int status = 0;
  char* demangled = abi::__cxa_demangle(found->second.c_str(), nullptr, nullptr, &status);
  const std::string name = demangled ? without_signature(demangled) : found->second;
  std::free(demangled);
  return name;
}

void for_thread_local_symbols(const std::function<void(const char* mangled, size_t offset, size_t bytes)>& f) {
  for_symbols([&](const char* name, const ElfW(Sym) & symbol) {
    if ((symbol.st_info & 15) == STT_TLS && symbol.st_size > 0) f(name, symbol.st_value, symbol.st_size);
  });
}

void note_kernel(const void* kernel) {
  const std::lock_guard guard(names_lock());
  if (launched().empty()) std::atexit(write_launched);
  auto found = launched().find(kernel);
  if (found == launched().end()) found = launched().emplace(kernel, Launched{kernel_name(kernel), 0}).first;
  ++found->second.times;
}

std::set<std::string> launched_kernels() {
  const std::lock_guard guard(names_lock());
  std::set<std::string> names;
  for (const auto& [address, kernel] : launched()) names.insert(kernel.name);
  return names;
}

std::map<std::string, uint64_t> kernel_launches() {
  const std::lock_guard guard(names_lock());
  std::map<std::string, uint64_t> times;
  for (const auto& [address, kernel] : launched()) times[kernel.name] += kernel.times;
  return times;
}

}  // namespace cudasim
