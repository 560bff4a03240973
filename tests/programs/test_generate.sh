# generate: text from a tiny trained model, the flags' effect, everything it must refuse.
source "$(dirname "$0")/lib.sh"
export OMP_NUM_THREADS=1
generate=$BUILD/generate
model=run/latest

# A model of letters that memorises one line, which ends with a line break.
make_model() {
  for _ in $(seq 1 150); do echo "abcdefgh ijkl mnop"; done >text.txt
  "$BUILD/train_gpt2" --data text.txt --run run --tokenizer chars --layers 1 --heads 2 --channels 32 --seq-len 32 --batch-size 8 \
    --steps 120 --lr 1e-2 --eval-every 0 --sample-tokens 0 >out || { cat out; die "no model to generate from"; }
}

make_mute() {  # the model without its tokenizer
  cp -rL $model mute && rm mute/tokenizer.json
}

make_bytes() {  # an untrained model of bytes
  "$BUILD/train_gpt2" --data text.txt --run bytes --tokenizer bytes --layers 1 --heads 1 --channels 8 --seq-len 16 --batch-size 4 \
    --steps 1 --sample-tokens 0 >out || { cat out; die "no model to generate from"; }
}

# The line that was learnt; a character missing from the vocabulary.
test_smoke() {
  make_model
  expect_ok "$generate" --model $model --prompt "abc" --tokens 16 --greedy
  [ "$(cat out)" = "abcdefgh ijkl mnop" ] || die "the line was not learnt: $(cat out)"
  expect_ok "$generate" --model $model --prompt "abc" --tokens 16 --greedy --no-cache
  [ "$(cat out)" = "abcdefgh ijkl mnop" ] || die "--no-cache changes the text: $(cat out)"
  expect_error 1 'token 9999 .*outside the vocabulary' "$generate" --model $model --ids --prompt 9999
}

# Every way to ask for greedy, on every device; and the effect of the seed.
test_sampling() {
  make_model
  expect_ok "$generate" --model $model --prompt "abc" --tokens 16 --greedy
  [ "$(cat out)" = "abcdefgh ijkl mnop" ] || die "the line was not learnt: $(cat out)"
  expect_ok "$generate" --model $model --prompt "abc" --tokens 16 --temperature 0
  [ "$(cat out)" = "abcdefgh ijkl mnop" ] || die "temperature 0 is not greedy"
  expect_ok "$generate" --model $model --prompt "abc" --tokens 16 --temperature 50 --top-k 1 --reference
  [ "$(cat out)" = "abcdefgh ijkl mnop" ] || die "--top-k 1 is not greedy"
  expect_ok "$generate" --model $model --prompt "abc" --tokens 16 --temperature 50 --top-p 0
  [ "$(cat out)" = "abcdefgh ijkl mnop" ] || die "--top-p 0 is not greedy"

  # On the GPU, here that of dev/cudasim, in both precisions.
  if [ -x "${generate}sim" ]; then
    for precision in fp32 bf16; do
      expect_ok "${generate}sim" --model $model --prompt "abc" --tokens 16 --greedy --precision $precision
      [ "$(cat out)" = "abcdefgh ijkl mnop" ] || die "wrong text from the GPU in $precision: $(cat out)"
    done
    expect_ok "${generate}sim" --model $model --prompt "abc" --tokens 16 --greedy --device cpu
    [ "$(cat out)" = "abcdefgh ijkl mnop" ] || die "--device cpu: $(cat out)"
  fi
  expect_error 2 'device cuda needs the program of this name that ends in cu' "$generate" --model $model --device cuda
  expect_error 2 "device is 'tpu', expected one of cpu cuda" "$generate" --model $model --device tpu
  expect_error 2 "precision is 'fp8', expected one of fp32" "$generate" --model $model --precision fp8

  # The seed determines the text; without one every text is new.
  sample() { "$generate" --model $model --prompt a --tokens 40 --temperature 20 --keep-going "$@"; }
  [ "$(sample --seed 1)" = "$(sample --seed 1 --threads 1)" ] || die "the same seed gives different texts"
  [ "$(sample --seed 1)" != "$(sample --seed 2)" ] || die "--seed changes nothing"
  [ "$(sample)" != "$(sample)" ] || die "without --seed every text is the same"
}

# Text beyond the context of 32, and a prompt that is longer than it.
test_context() {
  make_model
  expect_ok "$generate" --model $model --prompt "a" --tokens 100 --greedy
  [ "$(wc -c <out)" = 102 ] || die "expected the prompt, 100 characters and a line end: $(wc -c <out)"
  expect_ok "$generate" --model $model --prompt "$(head -3 text.txt)" --tokens 2 --greedy

  cp out "$TMP/beyond"
  expect_ok "$generate" --model $model --prompt "$(head -3 text.txt)" --tokens 2 --greedy --no-cache
  cmp -s out "$TMP/beyond" || die "--no-cache changes the text: $(cat out)"
  expect_ok "$generate" --model $model --prompt "a" --tokens 60 --greedy
  cp out "$TMP/cached"
  expect_ok "$generate" --model $model --prompt "a" --tokens 60 --greedy --no-cache
  cmp -s out "$TMP/cached" || die "--no-cache changes the text: $(cat out)"
  expect_ok "$generate" --model $model --prompt "a" --tokens 60 --greedy --slide 16
  [ "$(wc -c <out)" = 62 ] && [ "$(head -c 33 out)" = "$(head -c 33 "$TMP/cached")" ] || die "--slide 16: $(cat out)"
  expect_error 2 '--slide 33 is beyond the model.s context of 32' "$generate" --model $model --prompt a --slide 33
  expect_error 2 '--slide' "$generate" --model $model --prompt a --slide 0
}

# Ids in and out, also with a model without a tokenizer; end-of-text stops, except with --keep-going.
test_ids_and_ends() {
  make_model
  make_mute
  "$BUILD/tokenize" encode --tokenizer $model --text abc >ids
  expect_ok "$generate" --model mute --ids --prompt " $(cat ids) " --tokens 3 --greedy
  [ "$(cat out)" = "$("$BUILD/tokenize" encode --tokenizer $model --text def) " ] || die "ids: $(cat out)"
  expect_ok "$generate" --model mute --tokenizer $model --prompt abc --tokens 3 --greedy
  [ "$(cat out)" = abcdef ] || die "--tokenizer FILE: $(cat out)"
  expect_ok "$BUILD/convert" --from $model --to mute.bin  # also files instead of directories
  expect_ok "$generate" --model mute.bin --tokenizer $model --prompt abc --tokens 3 --greedy
  [ "$(cat out)" = abcdef ] || die "from llm.c's .bin: $(cat out)"
  expect_ok "$generate" --model "$SOURCE/tests/golden/checkpoint_tensorflow" --ids --prompt "1 2 3" --tokens 5 --greedy
  cp out tensorflow
  expect_ok "$generate" --model "$SOURCE/tests/golden/checkpoint_gpt2" --ids --prompt "1 2 3" --tokens 5 --greedy
  cmp out tensorflow || die "the TensorFlow checkpoint gives another text"
  { for _ in $(seq 1 150); do printf 'abcd<|endoftext|>'; done; } >ends.txt
  "$BUILD/train_gpt2" --data ends.txt --run ends --tokenizer chars --layers 1 --heads 2 --channels 32 --seq-len 16 --batch-size 4 \
    --steps 120 --lr 1e-2 --eval-every 0 --sample-tokens 0 >out || { cat out; die "no model to generate from"; }
  expect_ok "$generate" --model ends/latest --tokens 50 --greedy  # no prompt: starts a new text
  [ "$(cat out)" = abcd ] || die "end-of-text does not stop it: $(cat out)"
  expect_ok "$generate" --model ends/latest --tokens 9 --greedy --keep-going
  [ "$(cat out)" = abcdabcd ] || die "--keep-going: $(cat out)"
  expect_ok "$generate" --model ends/latest --prompt '<|endoftext|>ab' --tokens 50 --greedy
  [ "$(cat out)" = '<|endoftext|>abcd' ] || die "a prompt with an end-of-text: $(cat out)"
}

# A text of bytes is cut only between characters.
test_bytes() {
  make_model
  make_bytes
  expect_ok "$generate" --model bytes/latest --prompt 'a' --tokens 200 --temperature 100 --seed 3
  iconv -f UTF-8 -t UTF-8 out >/dev/null || die "the output is not UTF-8"

  # Every byte is output, also zeros; on a terminal zeros and other control characters are escaped.
  for _ in $(seq 1 300); do printf 'ab\0'; done >zeros.txt
  "$BUILD/train_gpt2" --data zeros.txt --run zeros --tokenizer bytes --layers 1 --heads 2 --channels 32 --seq-len 16 --batch-size 8 \
    --steps 60 --lr 1e-2 --eval-every 0 --prompt a --sample-tokens 6 >out || { cat out; die "no model to generate from"; }
  [ "$(tr -dc '\0' <out | wc -c)" -gt 0 ] || die "the trainer's sample has no zeros: $(od -c out | tail -8)"
  expect_ok "$generate" --model zeros/latest --prompt a --tokens 5 --greedy
  printf 'ab\0ab\0\n' | cmp - out || die "zeros in a text: $(od -c out)"
  if command -v script >/dev/null; then
    script -qec "$generate --model zeros/latest --prompt a --tokens 5 --greedy" /dev/null >out </dev/null
    grep -qF 'ab\x00ab\x00' out || die "zeros on a terminal: $(od -c out)"
    script -qec "$generate --model zeros/latest --prompt $'\\x1b[2J' --tokens 1 --greedy" /dev/null >out </dev/null
    grep -qF '\x1b[2J' out || die "an escape on a terminal: $(od -c out)"
  fi
}

# Everything it must refuse.
test_refused() {
  make_model
  make_mute
  make_bytes
  expect_error 2 'model is required' "$generate"
  for flags in '--tokens 0' '--tokens -1' '--tokens 1e9' '--tokens 99999999999' '--temperature -1' '--temperature nan' '--temperature 101' \
    '--top-k -1' '--top-p 1.1' '--top-p nan' '--seed -1' '--seed x' '--threads -1' '--nonsense' '--ids' '--ids --prompt abc' \
    '--ids --prompt 5 --special' '--ids --prompt 5 --no-special' '--classify abc --special' '--ids --prompt 5x' '--ids --prompt 99999999999'; do
    # shellcheck disable=SC2086
    expect_error 2 . "$generate" --model $model $flags
  done
  expect_error 1 'token 9999 .*outside the vocabulary' "$generate" --model $model --ids --prompt 9999
  expect_error 1 'token -1 .*outside the vocabulary' "$generate" --model $model --ids --prompt -1
  expect_error 1 'lacks the character' "$generate" --model $model --prompt 'ꙮ'
  expect_error 1 'UTF-8' "$generate" --model $model --prompt $'\xff'
  expect_error 1 "nowhere: no such file or folder; expected a model's folder" "$generate" --model nowhere
  expect_error 1 'mute.*tokenizer' "$generate" --model mute --prompt abc
  expect_error 1 'tokenizer|ids' "$generate" --model $model --tokenizer bytes/latest --prompt abc
  expect_error 1 'config.json' "$generate" --model "$TMP" --prompt abc
  bad() { rm -rf bad && cp -rL $model bad; }
  bad && truncate -s 5000 bad/model.safetensors
  expect_error 1 'bad/model.safetensors' "$generate" --model bad --prompt abc
  bad && rm bad/model.safetensors
  expect_error 1 'bad: no weights in it, expected model.safetensors' "$generate" --model bad --prompt abc
  bad && sed -i 's/"vocab_size"/"causal": false, &/' bad/config.json
  expect_error 1 'bad: attention that is not causal, expected a model that predicts' "$generate" --model bad --prompt abc
  bad && sed -i 's/GPT2LMHeadModel/GPT2ForSequenceClassification/' bad/config.json
  expect_error 1 'bad: a classifier of 2 classes, expected a model that predicts' "$generate" --model bad --prompt abc
  bad && sed -i 's/"n_head": 2/"n_head": 3/' bad/config.json
  expect_error 1 'heads do not divide' "$generate" --model bad --prompt abc
  bad && sed -i 's/"n_embd": 32/"n_embd": 64/' bad/config.json
  expect_error 1 'wte.weight. is .19, 32. F32, expected .19, 64.' "$generate" --model bad --prompt abc
  header=$(od -An -t u8 -N 8 $model/model.safetensors)
  size=$(stat -L -c %s $model/model.safetensors)
  bad && { head -c $((8 + header)) $model/model.safetensors; head -c $((size - 8 - header)) /dev/zero | tr '\0' '\377'; } >bad/model.safetensors
  expect_error 1 'bad/model.safetensors: tensor "transformer.wte.weight": value \[0, 0\] is NaN, expected finite numbers' \
    "$generate" --model bad --prompt abc  # every weight is NaN
  bad && { head -c $((8 + header)) $model/model.safetensors; head -c $((size - 8 - header)) /dev/zero | tr '\0' '\177'; } >bad/model.safetensors
  expect_error 1 'logits are not finite' "$generate" --model bad --prompt abc  # every weight is the largest float
  if [ -e /dev/full ]; then
    code=0
    "$generate" --model $model --prompt abc --tokens 3 >/dev/full 2>err || code=$?
    [ $code -eq 1 ] && grep -q 'cannot be written' err || die "a full disk was not reported: exit $code"
  fi
}

run_tests "$@"
