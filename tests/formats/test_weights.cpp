#include <doctest/doctest.h>

#include <cstring>

#include "llm/formats/float16.h"
#include "llm/formats/weights.h"
#include "tests/helpers/model_files.h"

namespace fs = std::filesystem;
using doctest::Contains;

TEST_CASE("one tensor is written to bytes of a file and read back: every layout, every type, any alignment") {
  const Folder folder;
  const fs::path path = folder.path / "a.safetensors";
  const auto model = random_model(ModelConfig{5, 129, 1, 3, 51}, 3);
  for (const Dtype dtype : {Dtype::f32, Dtype::f16, Dtype::bf16}) {
    for (const ParamTensor& tensor : model->table) {
      std::vector<float> values = read_tensor(*model, Arena::params, tensor);
      SafetensorsWriter writer(path, {{"odd", "U8", {1}}, {"w", dtype_name(dtype), file_shape(tensor)}}, {});
      const std::byte one{1};
      writer.write("odd", {&one, 1});
      write_tensor(writer, "w", tensor, values.data(), dtype);
      writer.commit();
      const SafetensorsFile file(path);
      const TensorView& view = *file.find("w");
      CHECK(check_view(view, file_shape(tensor), "here") == dtype);
      std::vector<float> read(values.size(), 7.0f);
      from_file(read.data(), view.bytes, dtype, tensor);
      for (float& x : values) {
        if (dtype == Dtype::f16) x = float_from_f16(f16_from_float(x));
        if (dtype == Dtype::bf16) x = float_from_bf16(bf16_from_float(x));
      }
      CHECK_MESSAGE(read == values, tensor.name);
      if (!tensor.transposed || dtype != Dtype::f32) continue;
      float second;  // second value of the file's first row: (in, out)
      std::memcpy(&second, view.bytes.data() + sizeof second, sizeof second);
      CHECK(second == values[static_cast<size_t>(tensor.cols)]);
    }
  }
  CHECK(find_dtype("F64") == std::nullopt);
}

TEST_CASE("values are narrowed in pieces, and a value that F16 cannot hold is an error") {
  std::vector<float> values(1'000'003);
  for (size_t i = 0; i < values.size(); ++i) values[i] = 0.25f * static_cast<float>(i % 1000);
  std::vector<uint16_t> narrowed;
  const Sink gather = [&](std::span<const std::byte> bytes) {
    const size_t at = narrowed.size();
    narrowed.resize(at + bytes.size() / 2);
    std::memcpy(narrowed.data() + at, bytes.data(), bytes.size());
  };
  const int64_t n = static_cast<int64_t>(values.size());
  narrow(values.data(), n, Dtype::f16, "here", gather);
  REQUIRE(narrowed.size() == values.size());
  bool same = true;
  for (size_t i = 0; i < values.size(); ++i) same = same && float_from_f16(narrowed[i]) == values[i];
  CHECK(same);
  values[999'999] = -1e5f;
  CHECK_THROWS_WITH_AS(narrow(values.data(), n, Dtype::f16, "here", gather),
                       Contains("here: a value of -100000, beyond the 65504"), Error);
  values[999'999] = 3.4e38f;
  CHECK_THROWS_WITH_AS(narrow(values.data(), n, Dtype::bf16, "here", gather),
                       Contains("here: a value of 3.4e+38, beyond the 3.39e38 that bf16 reaches"), Error);
  values[999'999] = std::numeric_limits<float>::infinity();  // infinity exists in F16, too
  narrow(values.data(), n, Dtype::f16, "here", gather);
}
