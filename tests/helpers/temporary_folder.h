// A folder for a test's files, removed at the end with its contents.
#pragma once

#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <string>

#include "llm/support/error.h"

struct TemporaryFolder {
  std::filesystem::path path;

  TemporaryFolder() {
    static int number = 0;
    path = std::filesystem::temp_directory_path() / strprintf("wrought_test_%d_%d", ::getpid(), number++);
    std::filesystem::create_directories(path);
  }
  ~TemporaryFolder() {
    std::error_code ignored;
    std::filesystem::remove_all(path, ignored);
  }
  TemporaryFolder(const TemporaryFolder&) = delete;
  TemporaryFolder& operator=(const TemporaryFolder&) = delete;

  // Writes a file with this text below the folder and returns its path.
  std::filesystem::path write(const std::string& name, const std::string& text) const {
    const std::filesystem::path file = path / name;
    std::filesystem::create_directories(file.parent_path());
    std::ofstream(file, std::ios::binary) << text;
    return file;
  }
};
