// The device that a program's model runs on. The program's main function chooses it: the library does not know which
// devices a build has.
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "llm/models/model.h"

struct Device {
  std::string name;  // "2 threads, fp32", or a GPU's name and precision
  // Makes a model for batches of (B, T). Throws Error if the device cannot hold its training.
  std::function<std::unique_ptr<Model>(const ModelConfig& shape, ModelOptions options, int B, int T)> make_model;
};
