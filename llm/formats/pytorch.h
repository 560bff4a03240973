// The weights that torch.save() wrote: a zip file whose entries are stored as they are, data.pkl with the tensors'
// names, shapes and places, and data/0, data/1, ... with their bytes. data.pkl is a pickle, which is a program: of its
// instructions only those are read that a dictionary of tensors is made of, and no code is ever run.
//
// Files from before PyTorch 1.6, which are no zip files, are not read.
#pragma once

#include <filesystem>
#include <vector>

#include "llm/formats/safetensors.h"
#include "llm/support/file.h"

// A mapped file. Opening checks everything but checksums: the zip's directory, every instruction of the pickle, shapes
// against sizes (without overflow), places inside their storage. Tensors may share a storage; one that does not lie in
// it row by row is refused. Throws Error naming file and tensor.
class PytorchFile {
 public:
  explicit PytorchFile(const std::filesystem::path& path);
  // As the dictionary has them; types by safetensors' names: "F32".
  const std::vector<TensorView>& tensors() const { return tensors_; }
  const std::filesystem::path& path() const { return file_.path(); }

 private:
  MappedFile file_;
  std::vector<TensorView> tensors_;
};
