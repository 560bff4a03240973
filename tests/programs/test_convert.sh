#!/usr/bin/env bash
# convert: Hugging Face directories <-> llm.c .bin, both ways, and every way to get it wrong.
source "$(dirname "$0")/lib.sh"
convert=$BUILD/convert
golden=$SOURCE/tests/golden

expect_ok "$convert" --help
expect_output "--from"
expect_error 2 "--from is required" "$convert"
expect_error 2 "--format" "$convert" --from a --to b --format onnx

# Golden to llm.c and back: the same bytes, the same tensors.
cp -r "$golden/checkpoint_gpt2" "$TMP/model"
expect_ok "$convert" --from "$TMP/model" --to "$TMP/m.bin"
expect_output "llm.c version 3, fp32, 5160 parameters, 22664 bytes"
expect_output "holds no tokenizer; the source had none"
cmp "$TMP/m.bin" "$golden/checkpoint_llmc_fp32.bin" || die "fp32 file differs from the golden one"
expect_ok "$convert" --from "$TMP/model" --to "$TMP/m16.bin" --format llmc-bf16
cmp "$TMP/m16.bin" "$golden/checkpoint_llmc_bf16.bin" || die "bf16 file differs from the golden one"
expect_ok "$convert" --from "$TMP/m.bin" --to "$TMP/back"
expect_output "has no tokenizer"
expect_ok "$convert" --from "$TMP/back" --to "$TMP/again.bin"
cmp "$TMP/again.bin" "$TMP/m.bin" || die "the round trip changed the model"
expect_ok "$convert" --from "$TMP/m16.bin" --to "$TMP/m32.bin" --format llmc-fp32
expect_ok "$convert" --from "$TMP/m32.bin" --to "$TMP/m16again.bin" --format llmc-bf16
cmp "$TMP/m16again.bin" "$TMP/m16.bin" || die "bf16 -> fp32 -> bf16 changed the model"

# Hugging Face to Hugging Face keeps the tokenizer.
cat >"$TMP/text" <<'TEXT'
abcabcabc
TEXT
expect_ok "$BUILD/tokenize" train --tokenizer chars --data "$TMP/text" --out "$TMP/model/tokenizer.json"
expect_ok "$convert" --from "$TMP/model" --to "$TMP/copy"
expect_output "tokenizer.json: kept \(chars, 5 ids\)"
cmp "$TMP/copy/tokenizer.json" "$TMP/model/tokenizer.json" || die "the tokenizer changed"
cmp "$TMP/copy/model.safetensors" "$TMP/back/model.safetensors" || die "the weights changed"

# Nothing is written over without --force.
before=$(cksum "$TMP/m.bin" "$TMP/copy"/*)
expect_error 1 "m.bin: is there already; --force" "$convert" --from "$TMP/model" --to "$TMP/m.bin"
expect_error 1 "copy: is there already; --force" "$convert" --from "$TMP/m.bin" --to "$TMP/copy"
expect_error 2 "expected a folder, found a file" "$convert" --from "$TMP/m.bin" --to "$TMP/m.bin" --format hf --force
expect_error 2 "expected a file for llm.c's format" "$convert" --from "$TMP/m.bin" --to "$TMP/copy" --format llmc-fp32 --force
[ "$before" = "$(cksum "$TMP/m.bin" "$TMP/copy"/*)" ] || die "a refused conversion changed its target"
expect_ok "$convert" --from "$TMP/m16.bin" --to "$TMP/m.bin" --force
expect_ok "$convert" --from "$TMP/m16.bin" --to "$TMP/copy" --force

# Bad sources: an error, and no target.
head -c 2000 "$TMP/m16.bin" >"$TMP/cut.bin"
expect_error 1 "cut.bin: 2000 bytes, expected 11844 .* cut off" "$convert" --from "$TMP/cut.bin" --to "$TMP/none"
expect_error 1 "expected at least the header's" "$convert" --from "$TMP/text" --to "$TMP/none"
expect_error 1 "none: no such file" "$convert" --from "$TMP/none" --to "$TMP/other"
head -c 9000 "$TMP/model/model.safetensors" >"$TMP/back/model.safetensors"
expect_error 1 "model.safetensors: .*may be cut off" "$convert" --from "$TMP/back" --to "$TMP/none"
sed -i 's/"n_layer": 3/"n_layer": 4000/; s/"n_embd": 10/"n_embd": 1000000/' "$TMP/copy/config.json"
expect_error 1 "expected \(103, 1000000\)" "$convert" --from "$TMP/copy" --to "$TMP/none"
expect_error 1 "config.json" "$convert" --from "$TMP" --to "$TMP/none"
expect_error 1 "cannot be|Not a directory" "$convert" --from "$TMP/model" --to /dev/null/folder
[ ! -e "$TMP/none" ] || die "a failed conversion left its target"
