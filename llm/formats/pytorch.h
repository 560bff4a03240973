// The weights that torch.save() wrote: a zip file of uncompressed entries: data.pkl with the tensors' names, shapes and
// places, and data/0, data/1, ... with their bytes. data.pkl is a pickle, which is a program: only the instructions
// that make a dictionary of tensors are read, and no code is ever run.
//
// Files from before PyTorch 1.6 are not zip files, and are not read.
#pragma once

#include <filesystem>
#include <vector>

#include "llm/formats/safetensors.h"
#include "llm/support/file.h"

// A mapped file. Opening checks everything but checksums: the zip's directory, every instruction of the pickle, shapes
// against sizes (without overflow), places inside their storage. Tensors may share a storage; one that is not
// contiguous in it is refused. Throws Error naming file and tensor.
class PytorchFile {
 public:
  explicit PytorchFile(const std::filesystem::path& path);
  // In the dictionary's order; types have safetensors' names: "F32".
  const std::vector<TensorView>& tensors() const { return tensors_; }
  const std::filesystem::path& path() const { return file_.path(); }

 private:
  MappedFile file_;
  std::vector<TensorView> tensors_;
};
