# evaluate: loss of text and shards, with and without a stride; questions; everything it must refuse.
source "$(dirname "$0")/lib.sh"
export OMP_NUM_THREADS=1
evaluate=$BUILD/evaluate
model=run/latest

# A model of letters that has memorised one line, and twenty such lines.
make_model() {
  for _ in $(seq 1 150); do echo "abcdefgh ijkl mnop"; done >text.txt
  "$BUILD/train_gpt2" --data text.txt --run run --tokenizer chars --layers 1 --heads 2 --channels 32 --seq-len 32 --batch-size 8 \
    --steps 120 --lr 1e-2 --eval-every 0 --sample-tokens 0 >out || { cat out; die "no model to evaluate"; }
  head -20 text.txt >some.txt
}

make_mute() {  # the model without its tokenizer
  cp -rL $model mute && rm mute/tokenizer.json
}

make_questions() {
  {
    echo '{"ctx": "abcdefgh", "endings": ["ijkl", "mnop", "abcd", "kkkk"], "label": 0}'
    echo '{"ctx": "abcdefgh ijkl", "endings": ["ijkl", "mnop", "abcd", "kkkk"], "label": "1"}'
    echo '{"ctx": "abcdefgh ijkl", "endings": ["ijkl", "mnop", "abcd", "kkkk"], "label": 2}'
  } >hellaswag.jsonl
  {
    echo 'abcdefgh ijkl mnop'
    echo '{"text": "abcdefgh ijkl"}'
    echo '{"text": "abcdefgh mnop"}'
  } >lambada.jsonl
}

make_classes() {  # a classifier, and four texts, one of which it gets wrong
  {
    printf 'kind\tbody\n'
    for _ in $(seq 1 40); do printf 'up\tabcdefgh ijkl\ndown\tponm lkji\n'; done
  } >labelled.tsv
  "$BUILD/finetune" classify --model $model --data labelled.tsv --text-column body --label-column kind --run classes --epochs 4 --batch-size 8 \
    --lr 1e-2 >out 2>&1 || { cat out; die "no classifier to evaluate"; }
  classify() { "$evaluate" --model classes/latest --task classify --text-column body --label-column kind "$@"; }
  printf 'kind\tbody\nup\tabcdefgh ijkl\ndown\tponm lkji\ndown\tponm lkji\ndown\tabcdefgh ijkl\n' >four.tsv
}
value() { grep -oE "\"$1\": [-+.e0-9]+" out | grep -oE '[-+.e0-9]+$' || die "no $1 in: $(cat out)"; }
between() { awk -v x="$1" -v a="$2" -v b="$3" 'BEGIN { exit !(x >= a && x <= b) }' || die "$4: $1 is not in $2 .. $3"; }

# The loss of a text that was learnt; a missing file.
test_smoke() {
  make_model
  expect_ok "$evaluate" --model $model --data some.txt --json
  [ "$(value tokens) $(value words) $(value stride)" = "379 59 0" ] || die "counts: $(cat out)"
  between "$(value nats_per_token)" 0.001 0.5 "the loss of what was learnt"
  expect_error 1 'nothing.txt' "$evaluate" --model $model --data nothing.txt
}

# Loss of a text, and of shards of it.
test_text() {
  make_model
  make_mute
  expect_ok "$evaluate" --model $model --data some.txt
  expect_output '^379 tokens, 379 bytes, 59 words in 12 windows of 32$'
  expect_output '^loss 0\.[0-9]+ per token, 0\.[0-9]+ per byte, [0-9.]+ per word; 0\.[0-9]+ bits per byte$'
  expect_output '^perplexity 1\.[0-9]+ per token'
  expect_output '^379 of 379 tokens$'
  expect_ok "$evaluate" --model $model --data some.txt --json
  plain=$(value nats_per_token)
  [ "$(value tokens) $(value words) $(value stride)" = "379 59 0" ] || die "counts: $(cat out)"
  grep -q 'of 379' out && die "--json prints more than the result"
  between "$plain" 0.001 0.5 "the loss of what was learnt"
  between "$(awk -v x="$(value perplexity_per_token)" 'BEGIN { print log(x) }')" "$(awk -v x="$plain" 'BEGIN { print x - 1e-5 }')" \
    "$(awk -v x="$plain" 'BEGIN { print x + 1e-5 }')" "log of the perplexity"

  # The batch size changes nothing; a stride gives every token more context, and so less loss with short windows.
  expect_ok "$evaluate" --model $model --data some.txt --json --batch-size 1 --reference
  between "$(value nats_per_token)" "$(awk -v x="$plain" 'BEGIN { print x - 1e-4 }')" "$(awk -v x="$plain" 'BEGIN { print x + 1e-4 }')" "--batch-size 1"
  expect_ok "$evaluate" --model $model --data some.txt --json --seq-len 6
  short=$(value nats_per_token)
  expect_ok "$evaluate" --model $model --data some.txt --json --seq-len 6 --stride 1
  [ "$(value tokens)" = 379 ] || die "--stride does not score each token once"
  between "$(value nats_per_token)" 0.0001 "$(awk -v x="$short" 'BEGIN { print x - 0.01 }')" "--stride 1"

  # Shards, a folder, the first tokens only, and shards without a tokenizer.
  "$BUILD/tokenize" shard --tokenizer $model --data some.txt --out shards --val-fraction 0 >/dev/null
  expect_ok "$evaluate" --model $model --data shards/train.bin --json
  [ "$(value nats_per_token)" = "$plain" ] || die "a shard of the text has another loss: $(value nats_per_token), not $plain"
  mkdir folder && cp some.txt folder
  expect_ok "$evaluate" --model $model --data folder --json
  [ "$(value nats_per_token)" = "$plain" ] || die "a folder has another loss"
  expect_ok "$evaluate" --model $model --data some.txt --limit 100
  expect_output '^99 tokens'
  expect_ok "$evaluate" --model mute --data 'shards/tr*.bin'
  expect_output '^379 tokens in 12 windows of 32$'
  expect_output '^loss 0\.[0-9]+ per token$'
}

# Questions with choices, and last words.
test_questions() {
  make_model
  make_questions
  expect_ok "$evaluate" --model $model --task hellaswag --data hellaswag.jsonl
  expect_output '^hellaswag: 3 questions \| accuracy 0\.6667 \+- 0\.3333 \| normalised by length 0\.6667 \+- 0\.3333$'
  expect_output '^3 of 3 questions$'
  expect_ok "$evaluate" --model $model --task hellaswag --data hellaswag.jsonl --limit 2 --json --batch-size 100
  [ "$(value questions) $(value accuracy) $(value accuracy_normalised)" = "2 1.0 1.0" ] || die "--limit 2: $(cat out)"
  echo '{"activity_label": "a", "ctx_a": "abcdefgh", "ctx_b": "ijkl", "endings": ["a", "mn[x]op", "b", "c"], "label": 1}' >activity.jsonl
  expect_error 1 "activity.jsonl: line 1: the vocabulary lacks the character U.003A" "$evaluate" --model $model --task hellaswag \
    --data activity.jsonl --activity
  expect_error 1 "activity.jsonl: line 1: the vocabulary lacks .*\[" "$evaluate" --model $model --task hellaswag --data activity.jsonl

  # Two choices; the longer one loses by sum and wins by mean. A context of 57 characters is cut to fit 32.
  head -3 text.txt | tr '\n' ' ' >long
  {
    echo "{\"question\": \"$(cat long)abcdefgh\", \"choices\": [\"ijkl mnop\", \"mnop\"], \"answer\": \"A\"}"
    echo '{"context": "abcdefgh", "choices": ["mnop", "ijkl"], "answer": 1}'
  } >choices.jsonl
  expect_ok "$evaluate" --model $model --task choice --data choices.jsonl
  expect_output '^choice: 2 questions \| accuracy 1\.0000 .*normalised by length 1\.0000 .*\| 1 cut at the left to fit the context$'

  expect_ok "$evaluate" --model $model --task lambada --data lambada.jsonl
  expect_output '^lambada: 3 passages \| accuracy 0\.6667 \+- 0\.3333 \| perplexity of the last word [0-9.]+$'
}

test_classes() {
  make_model
  make_classes
  expect_ok classify --data four.tsv
  expect_output '^classify: 4 texts \| accuracy 0\.7500 \+- 0\.2500 \| loss [0-9.]+$'
  expect_output '^true . predicted +down +up +precision +recall$'
  expect_output '^down +2 +1 +1\.0000 +0\.6667$'
  expect_output '^up +0 +1 +0\.5000 +1\.0000$'
  expect_output '^4 of 4 texts$'
  expect_ok classify --data four.tsv --limit 3 --batch-size 2 --json
  [ "$(value texts) $(value accuracy) $(value shortened)" = "3 1.0 0" ] || die "--limit 3: $(cat out)"
  printf 'kind\tbody\nup\tabcdefgh ijkl mnop abcdefgh ijkl\n' >long.tsv
  expect_ok classify --data long.tsv
  expect_output '\| 1 cut to [0-9]+ tokens$'
  mkdir -p parts/train/up parts/test/up && echo 'abcdefgh ijkl' | tee parts/train/up/1.TXT >parts/test/up/2.txt
  expect_ok "$evaluate" --model classes/latest --task classify --data parts
  expect_output '^.train/ and test/ in parts are taken together; for one of them, name that folder.$'
  expect_output '^classify: 2 texts'
  expect_error 1 'a classifier, which --task classify is for' "$evaluate" --model classes/latest --data some.txt
  expect_error 1 'is not a classifier' "$evaluate" --model $model --task classify --data four.tsv
  printf 'kind\tbody\nleft\tabc\n' >left.tsv
  expect_error 1 'left.tsv: line 2: the label "left" is not one of the classes' classify --data left.tsv
  expect_error 1 'column' "$evaluate" --model classes/latest --task classify --data four.tsv
  expect_error 2 'go with --task classify' "$evaluate" --model $model --data some.txt --header no
}

# Everything it must refuse.
test_refused() {
  make_model
  make_mute
  make_questions
  expect_error 2 'model is required' "$evaluate" --data some.txt
  expect_error 2 'data is required' "$evaluate" --model $model
  for flags in '--task nothing' '--stride -1' '--stride 33' '--stride x' '--seq-len 33' '--seq-len -1' '--batch-size 0' '--limit -1' \
    '--threads -1' '--precision fp8' '--activity' '--nonsense' '--task lambada --stride 2' '--task choice --activity'; do
    # shellcheck disable=SC2086
    expect_error 2 . "$evaluate" --model $model --data some.txt $flags
  done
  echo '{"ctx": "abcd", "endings": ["a", "b", "c"], "label": 0}' >three.jsonl
  echo '{"ctx": "abcd", "endings": ["a", "b", "c", "d"], "label": 7}' >seven.jsonl
  { cat hellaswag.jsonl; echo '{"ctx": '; } >cut.jsonl
  expect_error 1 'three.jsonl: line 1: "endings" has 3, expected four' "$evaluate" --model $model --task hellaswag --data three.jsonl
  expect_error 1 'seven.jsonl: line 1: "label" is 7, expected one of 4' "$evaluate" --model $model --task hellaswag --data seven.jsonl
  expect_error 1 'cut.jsonl: line 4: not JSON' "$evaluate" --model $model --task hellaswag --data cut.jsonl
  expect_error 1 'text.txt: line 1: not JSON' "$evaluate" --model $model --task choice --data text.txt
  : >empty.jsonl
  expect_error 1 'all lines are blank' "$evaluate" --model $model --task lambada --data empty.jsonl
  echo word >word.txt
  expect_error 1 'word.txt: line 1: expected a passage of two words' "$evaluate" --model $model --task lambada --data word.txt
  expect_error 1 'nowhere' "$evaluate" --model nowhere --data some.txt
  expect_error 1 'nothing.txt' "$evaluate" --model $model --data nothing.txt
  expect_error 1 'mute.*tokenizer' "$evaluate" --model mute --data some.txt
  printf a >one.txt
  expect_error 1 '1 tokens, expected two or more' "$evaluate" --model $model --data one.txt
  expect_error 1 'lacks the character' "$evaluate" --model $model --data cut.jsonl
  : >empty.txt
  expect_error 1 'empty.txt: the file is empty, expected text$' "$evaluate" --model $model --data empty.txt
}

# Results are numbers: weights that are NaN are refused, and so is a loss that is not finite.
test_numbers() {
  make_model
  make_questions
  make_classes
  filled() {  # filled MODEL BYTE: makes bad/, the model with BYTE (octal) for every byte of its weights
    rm -rf bad && cp -rL "$1" bad
    header=$(od -An -t u8 -N 8 "$1/model.safetensors")
    size=$(stat -L -c %s "$1/model.safetensors")
    { head -c $((8 + header)) "$1/model.safetensors"; head -c $((size - 8 - header)) /dev/zero | tr '\0' "\\$2"; } >bad/model.safetensors
  }
  cat >questions.txt <<END
some.txt --data some.txt
hellaswag --task hellaswag --data hellaswag.jsonl
lambada --task lambada --data lambada.jsonl
END
  while read -r _ flags; do
    # shellcheck disable=SC2086
    filled $model 377
    expect_error 1 'bad/model.safetensors: tensor "transformer.wte.weight": value \[0, 0\] is NaN' "$evaluate" --model bad $flags
    filled $model 177 # the largest floats
    expect_error 1 "not finite: the model's weights are damaged" "$evaluate" --model bad $flags
  done <questions.txt
  for program in "$evaluate --task classify --data four.tsv --text-column body --label-column kind" "$BUILD/generate --classify abcd"; do
    filled classes/latest 377
    # shellcheck disable=SC2086
    expect_error 1 'bad/model.safetensors: tensor "score.bias|tensor "transformer.wte.weight": value \[0, 0\] is NaN' $program --model bad
    filled classes/latest 177
    # shellcheck disable=SC2086
    expect_error 1 "not finite: (its|the model's) weights are damaged" $program --model bad
  done
}

run_tests "$@"
