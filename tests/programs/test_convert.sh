#!/usr/bin/env bash
# convert: Hugging Face directories, GGUF, llm.c's .bin and TensorFlow checkpoints, in all directions, and all errors.
source "$(dirname "$0")/lib.sh"
convert=$BUILD/convert
golden=$SOURCE/tests/golden
tensorflow=$golden/checkpoint_tensorflow
export OMP_NUM_THREADS=1

make_model() {  # the golden model, and its copies in llm.c's formats
  cp -r "$golden/checkpoint_gpt2" "$TMP/model"
  cp "$golden/checkpoint_llmc_fp32.bin" "$TMP/m.bin"
  cp "$golden/checkpoint_llmc_bf16.bin" "$TMP/m16.bin"
  chmod -R u+w "$TMP/model" "$TMP/m.bin" "$TMP/m16.bin"
}

make_back() {  # the model after conversion to llm.c's format and back
  expect_ok "$convert" --from "$TMP/m.bin" --to "$TMP/back"
}

make_text() {
  cat >"$TMP/text" <<'TEXT'
abcabcabc
TEXT
}

# A model is converted to llm.c's format and to GGUF, and back; an unknown format is refused.
test_smoke() {
  make_model
  expect_ok "$convert" --from "$TMP/model" --to "$TMP/here.bin"
  cmp "$TMP/here.bin" "$golden/checkpoint_llmc_fp32.bin" || die "fp32 file differs from the golden one"
  expect_ok "$convert" --from "$TMP/here.bin" --to "$TMP/back"
  expect_ok "$convert" --from "$TMP/model" --to "$TMP/again"
  cmp "$TMP/again/model.safetensors" "$TMP/back/model.safetensors" || die "the round trip changed the model"
  expect_ok "$convert" --from "$TMP/model" --to "$TMP/m.gguf"
  expect_ok "$convert" --from "$TMP/m.gguf" --to "$TMP/from-gguf"
  cmp "$TMP/from-gguf/model.safetensors" "$TMP/back/model.safetensors" || die "GGUF and back changed the model"
  expect_error 2 "--format" "$convert" --from a --to b --format onnx
}

# The golden model to llm.c and back: the same bytes, the same tensors.
test_llmc() {
  expect_ok "$convert" --help
  expect_output "--from"
  expect_error 2 "--from is required" "$convert"
  expect_error 2 "--format" "$convert" --from a --to b --format onnx

  cp -r "$golden/checkpoint_gpt2" "$TMP/model"
  expect_ok "$convert" --from "$TMP/model" --to "$TMP/m.bin"
  expect_output "llm.c version 3, fp32, 5160 parameters, 22664 bytes"
  expect_output "holds no tokenizer; the source had none"
  cmp "$TMP/m.bin" "$golden/checkpoint_llmc_fp32.bin" || die "fp32 file differs from the golden one"
  expect_ok "$convert" --from "$TMP/model" --to "$TMP/m16.bin" --format llmc-bf16
  cmp "$TMP/m16.bin" "$golden/checkpoint_llmc_bf16.bin" || die "bf16 file differs from the golden one"
  expect_ok "$convert" --from "$TMP/model" --to "$TMP/same.bin" --dtype bf16
  cmp "$TMP/same.bin" "$TMP/m16.bin" || die "--dtype bf16 is not --format llmc-bf16"
  expect_ok "$convert" --from "$TMP/m.bin" --to "$TMP/back"
  expect_output "has no tokenizer"
  expect_ok "$convert" --from "$TMP/back" --to "$TMP/again.bin"
  cmp "$TMP/again.bin" "$TMP/m.bin" || die "the round trip changed the model"
  expect_ok "$convert" --from "$TMP/m16.bin" --to "$TMP/m32.bin" --format llmc-fp32
  expect_ok "$convert" --from "$TMP/m32.bin" --to "$TMP/m16again.bin" --format llmc-bf16
  cmp "$TMP/m16again.bin" "$TMP/m16.bin" || die "bf16 -> fp32 -> bf16 changed the model"
}

# TensorFlow's checkpoint is the same model.
test_tensorflow() {
  expect_ok "$convert" --from "$tensorflow" --to "$TMP/tf.bin"
  expect_output "read .*OpenAI's TensorFlow checkpoint, F32"
  cmp "$TMP/tf.bin" "$golden/checkpoint_llmc_fp32.bin" || die "the TensorFlow checkpoint is another model"
}

# Files written by torch.save().
test_pytorch() {
  expect_ok "$convert" --from "$golden/checkpoint_pytorch" --to "$TMP/torch"
  expect_output "read .*a Hugging Face directory, F32"
  expect_ok "$convert" --from "$TMP/torch" --to "$TMP/torch.bin"
  cp -r "$golden/checkpoint_pytorch" "$TMP/bad_torch"
  chmod -R u+w "$TMP/bad_torch"
  sed -i 's/_rebuild_tensor_v2/_rebuild_tensor_v3/' "$TMP/bad_torch/pytorch_model.bin"
  expect_error 1 'bad_torch/pytorch_model.bin: data.pkl: it calls "torch._utils._rebuild_tensor_v3"' "$convert" --from "$TMP/bad_torch" --to "$TMP/none"
  [ ! -e "$TMP/none" ] || die "a refused model left a folder"
}

# Hugging Face to Hugging Face in every type: the same bytes, whole or in shards; llm.c's types in both directions.
test_types() {
  make_model
  make_back
  for dtype in fp32 bf16 fp16; do
    expect_ok "$convert" --from "$TMP/model" --to "$TMP/$dtype" --dtype $dtype
    expect_ok "$convert" --from "$TMP/$dtype" --to "$TMP/$dtype-again"  # in the source's type
    expect_ok "$convert" --from "$TMP/$dtype" --to "$TMP/$dtype-shards" --shard-bytes 4000
    [ -e "$TMP/$dtype-shards/model.safetensors.index.json" ] || die "no shards"
    expect_ok "$convert" --from "$TMP/$dtype-shards" --to "$TMP/$dtype-whole"
    for copy in again whole; do
      cmp "$TMP/$dtype-$copy/model.safetensors" "$TMP/$dtype/model.safetensors" || die "$dtype: $copy is not the same"
      cmp "$TMP/$dtype-$copy/config.json" "$TMP/$dtype/config.json" || die "$dtype: another config.json"
    done
  done
  cmp "$TMP/fp32/model.safetensors" "$TMP/back/model.safetensors" || die "fp32 by another path is not the same"
  expect_ok "$convert" --from "$TMP/bf16" --to "$TMP/from16.bin"
  expect_output "llm.c version 5, bf16"
  cmp "$TMP/from16.bin" "$TMP/m16.bin" || die "bf16 via a directory differs from direct bf16"
  expect_ok "$convert" --from "$TMP/fp16" --to "$TMP/from-fp16.bin"
  expect_output "llm.c version 3, fp32"  # fp32 holds every value of fp16
  expect_ok "$convert" --from "$TMP/from-fp16.bin" --to "$TMP/fp16-back" --dtype fp16
  cmp "$TMP/fp16-back/model.safetensors" "$TMP/fp16/model.safetensors" || die "fp16 -> fp32 -> fp16 changed the model"
  expect_ok "$convert" --from "$TMP/bf16" --to "$TMP/from16-32.bin" --dtype fp32
  cmp "$TMP/from16-32.bin" <("$convert" --from "$TMP/m16.bin" --to "$TMP/x.bin" --dtype fp32 >/dev/null && cat "$TMP/x.bin") ||
    die "bf16 in fp32 depends on the path of conversion"
  expect_error 2 "--dtype fp16: llm.c's .bin holds fp32 or bf16" "$convert" --from "$TMP/model" --to "$TMP/x2.bin" --dtype fp16
  expect_error 2 "contradict each other" "$convert" --from "$TMP/model" --to "$TMP/x2.bin" --dtype fp32 --format llmc-bf16
  expect_error 2 "--shard-bytes goes with a directory" "$convert" --from "$TMP/model" --to "$TMP/x2.bin" --shard-bytes 1000
  expect_error 2 "--shard-bytes" "$convert" --from "$TMP/model" --to "$TMP/none" --shard-bytes 0
  expect_error 2 "--dtype" "$convert" --from "$TMP/model" --to "$TMP/none" --dtype fp8
  [ ! -e "$TMP/x2.bin" ] || die "a refused conversion wrote its target"
  [ ! -e "$TMP/none" ] || die "a refused conversion left its target"
}

# Hugging Face to GGUF in every type and back: the same tensors and tokenizer; Q8_0 from its second time on.
test_gguf() {
  local model=$golden/checkpoint_gguf
  for dtype in fp32 bf16 fp16 q8_0; do
    expect_ok "$convert" --from "$model" --to "$dtype.gguf" --dtype $dtype
    expect_output "GGUF version 3, (F32|BF16|F16|Q8_0), 38272 parameters, $(stat -c %s $dtype.gguf) bytes"
    expect_output "tokenizer: kept \(bpe, 300 ids\)"
    cp $dtype.gguf same.gguf
    expect_ok "$convert" --from same.gguf --to again.gguf --force  # in the source's type
    cmp <(tail -c 20000 $dtype.gguf) <(tail -c 20000 again.gguf) || die "$dtype: a second time is not the same"
    expect_ok "$convert" --from $dtype.gguf --to "$dtype"
    expect_output "read $dtype.gguf: a GGUF file, (F32|BF16|F16|Q8_0)"
    cmp "$dtype/tokenizer.json" "$model/tokenizer.json" || die "$dtype: another tokenizer"
    grep -q '"eos_token_id": 299' "$dtype/config.json" || die "$dtype: another end of text"
  done
  expect_output "note: Q8_0 was read as the F32 numbers"
  cmp fp32/model.safetensors "$model/model.safetensors" || die "fp32 and back changed the model"
  for dtype in bf16 fp16; do  # the same numbers as by the direct way; what is always F32 in GGUF is rounded in both
    expect_ok "$convert" --from "$model" --to $dtype-direct --dtype $dtype
    expect_ok "$convert" --from $dtype.gguf --to $dtype-rounded --dtype $dtype
    cmp $dtype-rounded/model.safetensors $dtype-direct/model.safetensors || die "$dtype by GGUF is another model"
  done
  expect_ok "$convert" --from q8_0 --to q8_0-again.gguf --dtype q8_0
  cmp <(tail -c 20000 q8_0.gguf) <(tail -c 20000 q8_0-again.gguf) || die "Q8_0 by a directory is not the same"
  expect_ok "$convert" --from q8_0.gguf --to q8_0.bin
  expect_output "llm.c version 3, fp32"
  expect_ok "$convert" --from q8_0.gguf --to no-name --format gguf --dtype fp32
  expect_ok "$convert" --from no-name --to q8_0-by-no-name
  cmp q8_0-by-no-name/model.safetensors q8_0/model.safetensors || die "a GGUF file without its ending is another model"
  expect_ok "$convert" --from q8_0.bin --to bin.gguf
  expect_output "bin has no tokenizer, so llama.cpp will take and give ids only"

  # Rows that are not whole blocks.
  expect_ok "$convert" --from "$golden/checkpoint_gpt2" --to odd.gguf --dtype q8_0
  expect_output 'note: rows that are not a multiple of 32 .* F16 instead: "token_embd.weight", "blk.0.attn_qkv.weight"'
}

# What GGUF has no place for, and damaged files: an error, and no target.
test_gguf_errors() {
  make_model
  make_text
  expect_error 2 "--dtype q8_0 goes with a .gguf file" "$convert" --from "$TMP/model" --to none --dtype q8_0
  expect_error 2 "--dtype q8_0 goes with a .gguf file" "$convert" --from "$TMP/model" --to none.bin --dtype q8_0
  expect_error 2 "--shard-bytes goes with a directory; GGUF is one file" "$convert" --from "$TMP/model" --to none.gguf --shard-bytes 9999
  mkdir none.gguf
  expect_error 2 "expected a file for llama.cpp's format, found a folder" "$convert" --from "$TMP/model" --to none.gguf --force
  rmdir none.gguf
  expect_ok "$BUILD/tokenize" train --tokenizer chars --data "$TMP/text" --out "$TMP/model/tokenizer.json"
  expect_error 1 "no place for a tokenizer of chars, only BPE" "$convert" --from "$TMP/model" --to none.gguf
  rm "$TMP/model/tokenizer.json"
  sed -i 's/"model_type"/"causal": false, &/' "$TMP/model/config.json"
  expect_error 1 "no place for attention that is not causal" "$convert" --from "$TMP/model" --to none.gguf

  q8_0=$golden/checkpoint_gguf/q8_0.gguf
  head -c 40000 "$q8_0" >cut.gguf
  expect_error 1 'cut.gguf: tensor "blk.0.ffn_down.weight": .* takes .* bytes from byte .*, but the file has 40000; it is cut off' "$convert" --from cut.gguf --to none
  cp "$TMP/text" text.gguf
  expect_error 1 'text.gguf: the file does not begin with "GGUF"' "$convert" --from text.gguf --to none
  sed 's/general.architecture/general.architecturf/' "$q8_0" >other.gguf
  expect_error 1 'other.gguf: general.architecture is missing, expected "gpt2"' "$convert" --from other.gguf --to none
  sed 's/tokenizer.ggml.pre/tokenizer.ggml.prf/' "$q8_0" >split.gguf
  expect_error 1 'split.gguf: tokenizer.ggml.pre is missing, expected "gpt-2"' "$convert" --from split.gguf --to none
  for target in none none.bin none.gguf; do [ ! -e $target ] || die "a refused conversion left $target"; done
}

# Every program that opens a model opens a GGUF file, and finds its tokenizer there.
test_gguf_read() {
  local model=$golden/checkpoint_gguf runs=0
  expect_ok "$convert" --from "$model" --to m.gguf
  printf 'One day a cat sat on the mat. Once a hat was there, and a dog sat on it for a long time.\n%.0s' 1 2 3 4 5 6 7 8 >text.txt
  for from in m.gguf "$model"; do
    expect_ok "$BUILD/generate" --model "$from" --prompt "One day" --greedy --tokens 20
    cat "$TMP/out" >>generated
    expect_ok "$BUILD/evaluate" --model "$from" --data text.txt
    cat "$TMP/out" >>evaluated
    expect_ok "$BUILD/train_gpt2" --model "$from" --data text.txt --seq-len 16 --batch-size 2 --steps 3 --eval-every 0 --sample-tokens 0 --run "run$((++runs))"
    expect_ok "$BUILD/extend_vocabulary" --model "$from" --add-tokens "<|user|>" --to "extended$runs"
  done
  for file in generated evaluated; do
    [ "$(head -n $(($(wc -l <$file) / 2)) $file)" = "$(tail -n $(($(wc -l <$file) / 2)) $file)" ] || { cat $file; die "$file: not the same as from the directory"; }
  done
  cmp run1/latest/model.safetensors run2/latest/model.safetensors || die "training from a GGUF file is another run"
  cmp run1/latest/tokenizer.json run2/latest/tokenizer.json || die "another tokenizer"
  for file in model.safetensors tokenizer.json; do
    cmp extended1/$file extended2/$file || die "extend_vocabulary: another $file"
  done
}

# Hugging Face to Hugging Face keeps the tokenizer.
test_kept() {
  make_model
  make_back
  make_text
  expect_ok "$BUILD/tokenize" train --tokenizer chars --data "$TMP/text" --out "$TMP/model/tokenizer.json"
  expect_ok "$convert" --from "$TMP/model" --to "$TMP/copy"
  expect_output "tokenizer.json: kept \(chars, 5 ids\)"
  cmp "$TMP/copy/tokenizer.json" "$TMP/model/tokenizer.json" || die "the tokenizer changed"
  cmp "$TMP/copy/model.safetensors" "$TMP/back/model.safetensors" || die "the weights changed"

  # Other fields of config.json about tokens and classes are kept.
  cp -r "$TMP/model" "$TMP/named"
  sed -i 's/"vocab_size"/"id2label": {"0": "ham", "1": "spam"}, "eos_token_id": 7, &/; s/"eos_token_id": null,//; s/"eos_token_id": 4,//' "$TMP/named/config.json"
  expect_ok "$convert" --from "$TMP/named" --to "$TMP/named-copy"
  grep -q '"1": "spam"' "$TMP/named-copy/config.json" || die "the names of the classes are lost"
  grep -q '"eos_token_id": 7' "$TMP/named-copy/config.json" || die "the end-of-text id has changed"
}

# Nothing is overwritten without --force.
test_overwriting() {
  make_model
  expect_ok "$convert" --from "$TMP/model" --to "$TMP/copy"
  before=$(cksum "$TMP/m.bin" "$TMP/copy"/*)
  expect_error 1 "m.bin: exists already; --force" "$convert" --from "$TMP/model" --to "$TMP/m.bin"
  expect_error 1 "copy: exists already; --force" "$convert" --from "$TMP/m.bin" --to "$TMP/copy"
  expect_error 1 "expected a folder, found a file" "$convert" --from "$TMP/m.bin" --to "$TMP/m.bin" --format hf --force
  expect_error 2 "expected a file for llm.c's format" "$convert" --from "$TMP/m.bin" --to "$TMP/copy" --format llmc-fp32 --force
  [ "$before" = "$(cksum "$TMP/m.bin" "$TMP/copy"/*)" ] || die "a refused conversion changed its target"
  expect_ok "$convert" --from "$TMP/m16.bin" --to "$TMP/m.bin" --force
  expect_ok "$convert" --from "$TMP/m16.bin" --to "$TMP/copy" --force
}

# Bad sources: an error, and no target.
test_bad_sources() {
  make_model
  make_back
  make_text
  expect_ok "$convert" --from "$TMP/model" --to "$TMP/copy"
  expect_ok "$convert" --from "$TMP/model" --to "$TMP/fp32-shards" --shard-bytes 4000
  head -c 2000 "$TMP/m16.bin" >"$TMP/cut.bin"
  expect_error 1 "cut.bin: 2000 bytes, expected 11844 .* cut off" "$convert" --from "$TMP/cut.bin" --to "$TMP/none"
  expect_error 1 "expected at least the header's" "$convert" --from "$TMP/text" --to "$TMP/none"
  cp -r "$tensorflow" "$TMP/tf"
  data=$TMP/tf/model.ckpt.data-00000-of-00001
  printf '\377' | dd of="$data" bs=1 seek=9000 conv=notrunc status=none
  expect_error 1 'data-00000-of-00001: tensor "model/h[0-9].*" has checksum .*, expected' "$convert" --from "$TMP/tf" --to "$TMP/none"
  truncate -s 9000 "$data"
  expect_error 1 'data-00000-of-00001: tensor "model/.*it is cut off' "$convert" --from "$TMP/tf" --to "$TMP/none"
  truncate -s 1000 "$TMP/tf/model.ckpt.index"
  expect_error 1 "model.ckpt.index: .*expected the magic number" "$convert" --from "$TMP/tf" --to "$TMP/none"
  rm "$TMP/fp32-shards/model-00002"*
  expect_error 1 'weight_map names "model-00002-of-.*", but there is no such file' "$convert" --from "$TMP/fp32-shards" --to "$TMP/none"
  expect_error 1 "none: no such file" "$convert" --from "$TMP/none" --to "$TMP/other"
  head -c 9000 "$TMP/model/model.safetensors" >"$TMP/back/model.safetensors"
  expect_error 1 "model.safetensors: .*may be cut off" "$convert" --from "$TMP/back" --to "$TMP/none"
  sed -i 's/"n_layer": 3/"n_layer": 4000/; s/"n_embd": 10/"n_embd": 1000000/' "$TMP/copy/config.json"
  expect_error 1 "expected \(103, 1000000\)" "$convert" --from "$TMP/copy" --to "$TMP/none"
  expect_error 1 "config.json" "$convert" --from "$TMP" --to "$TMP/none"
  expect_error 1 "expected a folder, found a character device" "$convert" --from "$TMP/model" --to /dev/null/folder
  [ ! -e "$TMP/none" ] || die "a failed conversion left its target"
}

run_tests "$@"
