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

# All precisions, on any number of threads, with and without a cache, write what was learnt.
test_precisions() {
  make_model
  for flags in "--precision fp32" "--precision bf16" "--precision int8" "--precision int8 --cache fp32" "--precision fp32 --cache bf16" \
    "--precision int8 --threads 2" "--precision bf16 --no-cache" --reference; do
    # shellcheck disable=SC2086
    expect_ok "$generate" --model $model --prompt "abc" --tokens 16 --greedy $flags
    [ "$(cat out)" = "abcdefgh ijkl mnop" ] || die "$flags: $(cat out)"
  done
  expect_ok "$generate" --model $model --prompt abc --memory --precision int8
  expect_output 'weights .*int8'
  expect_output 'cache .*tokens, bf16'
  for isa in portable avx2; do
    expect_ok env WROUGHT_ISA=$isa "$generate" --model $model --prompt "abc" --tokens 16 --greedy --precision int8
    [ "$(cat out)" = "abcdefgh ijkl mnop" ] || die "$isa: $(cat out)"
  done
}

# Prompts from a file, samples of each: the texts that the same seeds write one by one, in the order of the prompts.
test_prompts() {
  make_model
  alone() { "$generate" --model $model --temperature 9 --keep-going "$@" 2>/dev/null; }
  alone --prompt abc --tokens 20 --seed 5 >one
  alone --prompt abc --tokens 20 --seed 6 >two
  alone --prompt h --tokens 9 --seed 5 >three
  { echo '{"prompt": "abc", "id": "first"}' && echo '{"prompt": "h", "tokens": 9}'; } >prompts.jsonl
  for flags in "" "--batch 1" "--batch 2 --cache-tokens 32" "--precision fp32 --no-cache"; do
    # shellcheck disable=SC2086
    alone --prompts prompts.jsonl --samples 2 --tokens 20 --seed 5 $flags >lines || die "$flags: $(cat lines)"
    [ "$(wc -l <lines)" = 4 ] || die "$flags: $(cat lines)"
    python3 - <<'END' || die "$flags: $(cat lines)"
import json
lines = [json.loads(line) for line in open("lines")]
text = lambda name: open(name).read()[:-1]
assert [(l["index"], l["sample"], l["seed"]) for l in lines] == [(0, 0, 5), (0, 1, 6), (1, 0, 5), (1, 1, 6)], lines
assert [l["prompt"] + l["text"] for l in lines[:3]] == [text("one"), text("two"), text("three")], lines
assert [len(l["tokens"]) for l in lines] == [20, 20, 9, 9] and all(l["ended"] == "length" for l in lines), lines
assert lines[0]["id"] == "first" and "id" not in lines[2] and "logprobs" not in lines[0], lines
END
  done
  printf 'abc\nh\n' >prompts.txt
  alone --prompts prompts.txt --tokens 20 --seed 5 >lines
  grep -qF "$(python3 -c 'import json; print(json.dumps(open("one").read()[3:-1]))')" lines || die "a text file: $(cat lines)"
  expect_ok "$generate" --model $model --prompts prompts.txt --tokens 20 --samples 3
  expect_output '6 texts, 120 tokens in .* tokens/s'
  expect_output 'more were shared'

  # Log-probabilities: of the chosen token, which greedy makes the most likely one.
  expect_ok "$generate" --model $model --prompt abc --tokens 5 --greedy --logprobs 2
  grep -v tokens/s out >line
  python3 - <<'END' || die "$(cat out)"
import json
line = json.loads(open("line").read())
assert line["text"] == "defgh" and len(line["logprobs"]) == 5, line
for entry, token in zip(line["logprobs"], line["tokens"]):
    top = entry["top"]
    assert entry["token"] == token == top[0]["token"] and entry["logprob"] == top[0]["logprob"], entry
    assert 0 >= top[0]["logprob"] >= top[1]["logprob"] and len(top) == 2 and len(entry["text"]) == 1, entry
END
}

# Where a text ends, and what a text may repeat.
test_ends_and_penalties() {
  make_model
  expect_ok "$generate" --model $model --prompt "abc" --tokens 16 --greedy --stop kl --stop "h i"
  [ "$(cat out)" = "abcdefg" ] || die "--stop: $(cat out)"
  expect_ok "$generate" --model $model --prompt "abc" --tokens 3 --greedy --stop nothing --stop fgh
  [ "$(cat out)" = "abcdef" ] || die "a stop string that never comes: $(cat out)"
  expect_ok "$generate" --model $model --prompt "abc" --tokens 16 --greedy --stop ijk --json
  expect_output '"ended":"stopped".*"stop":"ijk".*"text":"defgh "'
  expect_ok "$generate" --model $model --prompt "abc" --tokens 60 --greedy --repetition-penalty 1e6
  [ "$(head -c 18 out | fold -w 1 | sort | uniq -d | wc -l)" -le 1 ] || die "--repetition-penalty: $(cat out)"
  expect_ok "$generate" --model $model --prompt "abc" --tokens 16 --temperature 50 --min-p 1
  [ "$(cat out)" = "abcdefgh ijkl mnop" ] || die "--min-p 1 is not greedy: $(cat out)"
}

# Everything it must refuse.
test_refused() {
  make_model
  make_mute
  make_bytes
  expect_error 2 'model is required' "$generate"
  for flags in '--tokens 0' '--tokens -1' '--tokens 1e9' '--tokens 99999999999' '--temperature -1' '--temperature nan' '--temperature 101' \
    '--top-k -1' '--top-p 1.1' '--top-p nan' '--seed -1' '--seed x' '--threads -1' '--nonsense' '--ids' '--ids --prompt abc' \
    '--ids --prompt 5 --special' '--ids --prompt 5 --no-special' '--classify abc --special' '--ids --prompt 5x' '--ids --prompt 99999999999' \
    '--min-p 2' '--min-p nan' '--repetition-penalty 0' '--repetition-penalty nan' '--frequency-penalty 3' '--presence-penalty x' '--samples 0' \
    '--batch 0' '--cache-tokens -1' '--cache fp8' '--logprobs -1' '--prompts' '--prompts a --prompt b' '--stop=' '--classify abc --precision int8' \
    '--memory --reference' '--cache bf16 --reference' '--cache fp32 --reference' '--classify abc --json' '--classify abc --memory' '--reference --precision int8'; do
    # shellcheck disable=SC2086
    expect_error 2 . "$generate" --model $model $flags
  done
  expect_error 1 'token 9999 .*outside the vocabulary' "$generate" --model $model --ids --prompt 9999
  expect_error 1 'token -1 .*outside the vocabulary' "$generate" --model $model --ids --prompt -1
  expect_error 1 'nowhere.jsonl: ' "$generate" --model $model --prompts nowhere.jsonl
  echo '{"prompt": "abc", "temprature": 1}' >bad.jsonl
  expect_error 1 'bad.jsonl: line 1: there is no setting "temprature"' "$generate" --model $model --prompts bad.jsonl
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
