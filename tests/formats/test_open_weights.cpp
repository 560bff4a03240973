#include <doctest/doctest.h>

#include "llm/formats/open_weights.h"
#include "llm/models/cpu.h"
#include "tests/helpers/model_files.h"

namespace fs = std::filesystem;
using doctest::Contains;

namespace {

const fs::path kGolden = GOLDEN_DIR;

}  // namespace

TEST_CASE("every kind of file is recognised by its contents, and gives the same model") {
  const std::pair<const char*, WeightsKind> files[] = {{"checkpoint_gpt2", WeightsKind::huggingface},
                                                       {"checkpoint_tensorflow", WeightsKind::tensorflow},
                                                       {"checkpoint_llmc_fp32.bin", WeightsKind::llmc}};
  const ModelConfig shape{12, 103, 3, 5, 10};
  const auto expected = make_cpu_model(shape, true);
  load_weights(*expected, kGolden / "checkpoint_gpt2");
  for (const auto& [name, kind] : files) {
    CAPTURE(name);
    CHECK(weights_kind(kGolden / name) == kind);
    CHECK(read_model_config(kGolden / name) == shape);
    check_weights(shape, kGolden / name);
    const auto model = random_model(shape, 1);
    load_weights(*model, kGolden / name);
    CHECK(same(*model, *expected, {Arena::params}));

    const auto other = random_model(ModelConfig{12, 103, 3, 2, 10}, 1), untouched = random_model(other->config, 1);
    CHECK_THROWS_WITH_AS(load_weights(*other, kGolden / name), Contains("another shape: n_head 5, expected 2"), Error);
    CHECK_THROWS_AS(check_weights(other->config, kGolden / name), Error);
    CHECK(same(*other, *untouched, {Arena::params}));
  }
  const Folder folder;
  CHECK_THROWS_WITH_AS(weights_kind(folder.path),
                       Contains("expected config.json (Hugging Face), adapter_config.json (PEFT) or hparams.json"),
                       Error);
  CHECK_THROWS_WITH_AS(weights_kind(folder.path / "none"), Contains("none: no such file or folder"), Error);
  write_text(folder.path / "text", std::string(2000, 'x'));
  CHECK_THROWS_WITH_AS(open_weights(folder.path / "text"), Contains("not a model file of llm.c"), Error);
}
