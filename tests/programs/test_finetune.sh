# finetune: classify, instruct and dpo from a tiny pretrained model, their files, and everything they must refuse.
source "$(dirname "$0")/lib.sh"
export OMP_NUM_THREADS=1
finetune=$BUILD/finetune
base=base/latest

# A model of letters, pretrained briefly; its vocabulary has all characters used below.
make_base() {
  printf '%s\n' {a..z} {A..Z} {0..9} '#:.,!?"(){}<>|/_-' >letters.txt
  for i in $(seq 1 60); do echo "the cat sat on the mat. a dog ran to the man! say yes or no?"; cat letters.txt; done >text.txt
  "$BUILD/train_gpt2" --data text.txt --run base --tokenizer chars --layers 2 --heads 2 --channels 32 --seq-len 64 --batch-size 8 \
    --steps 30 --lr 3e-3 --eval-every 0 --sample-tokens 0 >out || { cat out; die "no model to finetune"; }
}

# Messages with and without pets: data for classify.
make_pets() {
  {
    printf 'kind\tbody\n'
    for i in $(seq 1 60); do
      printf 'pet\tthe cat %d sat\n' "$i"
      printf 'no pet\tbuy %d now!\n' "$i"
      printf 'no pet\tbuy "%d" more\n' "$i"
    done
    printf 'pet\t  \n'
  } >pets.tsv
}
classify() { "$finetune" classify --model $base --data pets.tsv --text-column body --label-column kind "$@"; }

make_classifier() {  # pets/latest
  make_base
  make_pets
  expect_ok classify --run pets --balance --batch-size 8 --epochs 3 --lr 2e-3 --position last-real --eval-examples 20
}

# Instructions and answers: data for instruct, with a short template.
make_rows() {
  {
    echo '['
    for i in $(seq 1 100); do
      [ "$i" = 1 ] || echo ','
      printf '{"instruction": "say %s", "input": "%s", "output": "yes %d"}' "$((i % 7))" "$([ $((i % 2)) = 0 ] || echo cat)" $((i % 7))
    done
    echo ']'
  } >rows.json
  echo '{"prompt": "{{Q}} {instruction}", "input": " ({input})", "response": " : {output}"}' >short.json
}
instruct() { "$finetune" instruct --model $base --data rows.json --template short.json "$@"; }

make_answers() {  # answers/latest
  make_base
  make_rows
  expect_ok instruct --run answers --epochs 4 --lr 3e-3 --batch-size 5 --responses 3 --response-tokens 12 --mask-prompt --batching by-length
}

# Pairs of answers, the first one preferred: data for dpo.
make_pairs() {
  {
    for i in $(seq 1 60); do
      printf '{"instruction": "say %d", "input": "", "output": "", "chosen": "yes %d", "rejected": "no %d!"}\n' $((i % 7)) $((i % 7)) $((i % 7))
    done
    echo '{"instruction": "say 3", "chosen": "yes", "rejected": "yes"}'
  } >pairs.jsonl
}
dpo() { "$finetune" dpo --model answers/latest --data pairs.jsonl "$@"; }

# The value of KEY in the last line of metrics.jsonl that has it.
metric() { grep -o "\"$2\":[-0-9.e]*" "$1/metrics.jsonl" | tail -1 | cut -d: -f2; }
holds() { awk "BEGIN { exit !($1) }" || die "$2: $1"; }
weights() { sha256sum <"$1/latest/model.safetensors"; }

# Steps of each kind; missing labels.
test_smoke() {
  make_base
  make_pets
  make_rows
  expect_ok classify --run pets --steps 3 --batch-size 4 --eval-examples 4
  expect_output 'classes: 0 no pet \(120\), 1 pet \(60\), in sorted order'
  expect_output '^true . predicted +no pet +pet +precision +recall'
  expect_ok instruct --run answers --steps 2 --batch-size 2 --responses 0
  printf '{"instruction": "say", "chosen": "yes", "rejected": "no"}\n%.0s' $(seq 20) >pairs.jsonl
  expect_ok "$finetune" dpo --model answers/latest --data pairs.jsonl --run preferred --steps 2 --batch-size 2
  expect_output 'step 1/2 . loss 0.6931 . margin .0.0000'
  expect_error 1 'label-column: there is no column "sort"' "$finetune" classify --model $base --data pets.tsv --text-column body --label-column sort
  [ ! -e runs ] || die "a refused run left a folder: $(ls runs)"
}

# A classifier is trained, saved and used.
test_classify() {
  make_classifier
  expect_output '180 texts in pets.tsv; its first line names the columns: "kind", "body"; 1 without text are left out'
  expect_output 'classes: 0 no pet \(120\), 1 pet \(60\), in sorted order'
  expect_output 'balanced: 120 texts'
  expect_output 'sets: 84 to train, 12 to validate, 24 to test; 14 tokens each, the longest of the training set, 0 texts were cut'
  expect_output 'training: 30 steps of 8, 10 per epoch'
  expect_output 'true . predicted +no pet +pet +precision +recall'
  holds "$(metric pets test_accuracy) > 0.9" "the pets were not learnt"
  grep -q '"id2label"' pets/latest/config.json || die "the classes are not in config.json"
  [ "$(grep -c test_accuracy pets/metrics.jsonl)" = 4 ] || die "expected an evaluation before the first epoch and after each"
  expect_ok "$BUILD/generate" --model pets/latest --classify "the cat 99 sat"
  [ "$(head -1 out)" = pet ] || die "wrong class for a pet: $(cat out)"
  expect_output '^0\.[0-9]{4}  no pet$'
  expect_ok "$BUILD/generate" --model pets/latest --classify "buy 99 now!" --reference
  [ "$(head -1 out)" = "no pet" ] || die "wrong class for no pet: $(cat out)"
  expect_ok "$BUILD/generate" --model pets/latest --classify "the cat sat and sat and sat"
  expect_output 'has 27 tokens, of which only the first 14 were used'
  expect_error 1 'a classifier of 2 classes, expected a model that predicts the next token: ask it with --classify' "$BUILD/generate" --model pets/latest --prompt a
  expect_error 1 'is not a classifier' "$BUILD/generate" --model $base --classify a
  expect_error 1 'empty' "$BUILD/generate" --model pets/latest --classify ""
  expect_error 2 'excludes' "$BUILD/generate" --model pets/latest --classify a --prompt b

  # A run repeats itself; the seed matters. Training continues from a classifier's own head.
  n=0
  for seed in 1 1 2; do
    expect_ok classify --run "seed$((n += 1))" --steps 4 --seed $seed --precision fp32
  done
  [ "$(weights seed1)" = "$(weights seed2)" ] || die "the same seed gives another model"
  [ "$(weights seed1)" != "$(weights seed3)" ] || die "--seed changes nothing"
  expect_ok "$finetune" classify --model pets/latest --data pets.tsv --text-column 2 --label-column 1 --run more --steps 1 --lr 1e-9
  expect_output 'head: that of the classifier in pets/latest'
  holds "$(metric more train_accuracy) > 0.9" "the classifier's head is lost"
}

# Every --train and --position; micro-batches give the same step.
test_classify_ways() {
  make_classifier
  for flags in '--train head' '--train last-blocks:1' '--train lora --lora-rank 2' '--position first' '--position mean' \
    '--position mean-real' '--no-causal' '--head-init normal' '--recompute block' '--max-length 5' '--dropout 0.1' \
    '--schedule cosine --min-lr 1e-5 --warmup-steps 1' '--lr-decay-per-layer 0.5 --decay all'; do
    rm -rf way
    # shellcheck disable=SC2086
    expect_ok classify --run way --steps 2 --eval-examples 8 $flags
  done
  # Old names of flags: they work as before, with a note.
  expect_ok classify --run renamed --steps 2 --eval-examples 8 --lr-layer-decay 0.5 --decay-all
  expect_output '^note: --lr-layer-decay is now --lr-decay-per-layer$'
  expect_output '^note: --decay-all is now --decay all$'
  [ "$(weights renamed)" = "$(weights way)" ] || die "the old names of flags mean something else"
  expect_error 2 'lr-decay-per-layer is 2' classify --run refused --lr-layer-decay=2
  expect_ok "$finetune" classify --help
  ! grep -E 'lr-layer-decay|decay-all' out || die "--help has old names"
  # Adapters by themselves, on their base, equal the merged model; on a changed base they are refused.
  expect_ok classify --run adapted --steps 2 --eval-examples 8 --train lora --lora-rank 2
  expect_ok "$BUILD/convert" --from adapted/latest/adapter --to merged
  cmp merged/model.safetensors adapted/latest/model.safetensors || die "the adapter on its base is not the merged model"
  expect_ok "$BUILD/generate" --model adapted/latest --classify "the cat sat"
  cp out merged_says
  expect_ok "$BUILD/generate" --model adapted/latest/adapter --classify "the cat sat"
  cmp out merged_says || die "an adapter's answer differs from that of the merged model"
  sed -i 's#"base_model_name_or_path": "[^"]*"#"base_model_name_or_path": "pets/latest"#' adapted/latest/adapter/adapter_config.json
  expect_error 1 'trained on another base model than pets/latest' "$BUILD/convert" --from adapted/latest/adapter --to other

  expect_ok classify --run whole --steps 1 --reference --grad-clip 0
  expect_ok classify --run parts --steps 1 --reference --grad-clip 0 --micro-batch 2
  holds "($(metric whole grad_norm) - $(metric parts grad_norm)) ^ 2 < 1e-10" "micro-batches make another step"

  # From scratch: a preset's shape and random weights.
  expect_ok "$finetune" classify --model gpt2-nano --tokenizer bytes --data pets.tsv --text-column 2 --label-column 1 --run random --steps 2 --eval-examples 8
  mkdir gpt2-nano  # a folder of a preset's name changes nothing; ./gpt2-nano is the folder
  expect_error 2 'name its tokenizer with --tokenizer' "$finetune" classify --model gpt2-nano --data pets.tsv
  expect_error 2 'goes with a --model that is a preset' classify --tokenizer bytes
  expect_error 2 'made from text' "$finetune" classify --model gpt2-nano --tokenizer chars --data pets.tsv
  [ ! -e runs ] || die "a refused run left a folder: $(ls runs)"
}

# Other formats, separate validation and test sets, and the book's recipes on data of their shape.
test_classify_data() {
  make_base
  make_pets
  sed 1d pets.tsv | awk -F '\t' '{ print "{\"label\": \"" $1 "\", \"text\": " (gsub(/"/, "\\\"", $2) >= 0 ? "\"" $2 "\"" : "") "}" }' >pets.jsonl
  expect_ok "$finetune" classify --model $base --data pets.jsonl --val-data pets.jsonl --run lines --steps 1 --eval-examples 4
  expect_output 'sets: 180 to train, 180 to validate, 0 to test'
  mkdir -p tree/a tree/b && for i in 1 2 3 4 5 6 7 8 9; do echo "the cat $i" >tree/a/$i.txt; echo "dog $i" >tree/b/$i.txt; done
  expect_ok "$finetune" classify --model $base --data tree --batch-size 2 --run tree_run --steps 1 --train-fraction 0.5 --val-fraction 0 --seed 1

  { for i in $(seq 1 40); do printf 'ham\tsee you at %d\nham\tthe "cat" is back\nspam\twin %d now!\n' "$i" "$i"; done; } >sms.tsv
  expect_ok "$finetune" classify --recipe spam --model $base --data sms.tsv --run sms --epochs 1 --lr 1e-3 --max-length 24
  expect_output 'classes: 0 ham \(80\), 1 spam \(40\), in the order of --labels'
  expect_output 'sets: 56 to train, 8 to validate, 16 to test'
  expect_output 'train \(last-blocks:1\)'
  expect_error 2 'max-length is 120, but the model.s context is 64' "$finetune" classify --recipe spam --model $base --data sms.tsv
  for part in train test; do
    for label in pos neg unsup; do
      mkdir -p aclImdb/$part/$label
      for i in $(seq 1 20); do echo "the $label cat sat on $i" >aclImdb/$part/$label/$i.txt; done
    done
  done
  expect_ok "$finetune" classify --recipe imdb --model $base --data aclImdb --run imdb --steps 1 --max-length 32
  expect_output 'classes: 0 neg \(40\), 1 pos \(40\)'
  expect_output 'sets: 56 to train, 8 to validate, 16 to test; 32 tokens each'
  expect_output 'in aclImdb; train/ and test/ in it are taken together .to keep them apart: --data aclImdb/train --test-data aclImdb/test.'
  expect_ok "$finetune" classify --recipe imdb --model $base --data aclImdb/train --test-data aclImdb/test --run imdb_apart --steps 1 --max-length 32
  expect_output 'sets: 40 to train, 0 to validate, 40 to test; 32 tokens each'
  [ ! -e runs ] || die "a refused run left a folder: $(ls runs)"
}

# Models that transformers would misread have a model_type unknown to it, with a note. Older files have gpt2.
test_model_types() {
  make_base
  make_pets
  while read -r type position flags; do
    rm -rf typed
    # shellcheck disable=SC2086
    expect_ok classify --run typed --steps 1 --eval-examples 8 --position $position $flags
    grep -q "\"model_type\": \"$type\"" typed/latest/config.json || die "--position $position $flags: $(grep model_type typed/latest/config.json)"
    case $type in
      gpt2) ! grep -q 'transformers' out || die "$(cat out)" ;;
      *) expect_output 'transformers does not have (--position |attention).*refuses this model' ;;
    esac
    expect_ok "$BUILD/generate" --model typed/latest --classify "the cat sat"
    cp out typed.out
    sed -i 's/wrought_gpt2/gpt2/' typed/latest/config.json
    expect_ok "$BUILD/generate" --model typed/latest --classify "the cat sat"
    cmp out typed.out || die "a different model_type changes the class"
    rm -rf typed
    # shellcheck disable=SC2086
    expect_ok classify --run typed --steps 1 --eval-examples 8 --position $position $flags --train lora --lora-rank 2
    peft=LORA
    [ $type = gpt2 ] || peft=WROUGHT_LORA
    grep -q "\"peft_type\": \"$peft\"" typed/latest/adapter/adapter_config.json || die "the peft_type of an adapter of $type is not $peft"
    expect_ok "$BUILD/generate" --model typed/latest/adapter --classify "the cat sat"
  done <<END
gpt2 last-real
wrought_gpt2 last
wrought_gpt2 mean-real
wrought_gpt2 last-real --no-causal
END
}

# Everything classify must refuse.
test_classify_refused() {
  make_classifier
  expect_error 2 'subcommand' "$finetune"
  expect_error 2 'model DIR is missing' "$finetune" classify --data pets.tsv
  expect_error 2 'data is missing' "$finetune" classify --model $base
  expect_error 1 'does not name a column "text"; it has "kind", "body"' "$finetune" classify --model $base --data pets.tsv
  expect_error 1 'label-column: there is no column "sort"; there are 2: "kind", "body"' "$finetune" classify --model $base --data pets.tsv --text-column body --label-column sort
  expect_error 1 'no column "3"; there are 2: 1 to 2' "$finetune" classify --model $base --data pets.tsv --text-column 3 --label-column 1 --header no
  grep -v '^no' pets.tsv >one.tsv
  expect_error 1 'every row has the label "pet"' "$finetune" classify --model $base --data one.tsv --text-column body --label-column kind
  { cat one.tsv; printf 'rare\ta rare one\n'; } >rare.tsv
  expect_error 1 '"rare" has no example in the (validation|test|training) set' \
    "$finetune" classify --model $base --data rare.tsv --text-column body --label-column kind
  printf 'text,label\n"the cat,a\nthe dog,b\n' >quotes.csv
  expect_error 1 'quotes.csv: line 2: a quote is opened and never closed' "$finetune" classify --model $base --data quotes.csv
  printf 'text\tlabel\nthe ca\xff\ta\n' >latin.tsv
  expect_error 1 'latin.tsv: line 2: byte 6 of the text is not UTF-8' "$finetune" classify --model $base --data latin.tsv
  printf 'text\tlabel\n \ta\n' >empty.tsv
  expect_error 1 'no row is left: 1 have no text' "$finetune" classify --model $base --data empty.tsv
  for i in $(seq 1 20); do printf 'the cat sat on the mat and on the mat and on the mat and then on the mat\ta\nno\tb\n'; done >long.tsv
  sed -i '1i text\tlabel' long.tsv
  expect_ok "$finetune" classify --model $base --data long.tsv --run long --steps 1
  expect_output "64 tokens each, the model's context, 20 texts were cut"
  expect_error 2 'max-length is 65, but the model.s context is 64' "$finetune" classify --model $base --data long.tsv --max-length 65
  expect_error 1 'fewer than one batch of --batch-size 500' classify --batch-size 500
  expect_error 2 'last-blocks:1 to last-blocks:2' classify --train last-blocks:3
  expect_error 1 'rank 99' classify --train lora --lora-rank 99
  expect_error 1 'already holds a run' classify --run pets
  expect_error 1 'nowhere' "$finetune" classify --model nowhere --data pets.tsv
  expect_error 2 'tf32 needs --device cuda' classify --precision tf32
  for flags in '--epochs -1' '--epochs 0' '--lr 0' '--lr nan' '--batch-size 0' '--position middle' '--recipe cake' '--train some' \
    '--micro-batch 3' '--steps 1 --epochs 1' '--lora-rank 4' '--nonsense' '--header maybe' '--val-data pets.tsv --val-fraction 0.2'; do
    # shellcheck disable=SC2086
    expect_error 2 . classify $flags
  done
  [ ! -e runs ] || die "a refused run left a folder: $(ls runs)"
}

# Answers are learnt, saved and generated.
test_instruct() {
  make_answers
  expect_output 'sets: 85 to train, 5 to validate, 10 to test'
  expect_output 'training: 68 steps of 5, 17 per epoch'
  expect_output 'answers: 3 in answers/responses.json'
  holds "$(metric answers val_loss) < 1" "the answers were not learnt"
  [ "$(grep -c '"model_response": "yes' answers/responses.json)" = 3 ] || die "wrong answers: $(cat answers/responses.json)"
  grep -qF '{{Q}} {instruction}' answers/latest/chat_template.json || die "the template is not in the model directory"
  expect_ok "$BUILD/generate" --model answers/latest --prompt "{Q} say 3 : " --greedy --tokens 12
  expect_output 'yes'

  # An evaluation is the same singly and in batches; the model keeps its template; micro-batches give the same step.
  expect_ok "$finetune" instruct --model answers/latest --data rows.json --run again --steps 1 --responses 0 --lr 1e-9 --batch-size 1 --mask-prompt
  holds "($(metric again val_loss) - $(metric answers val_loss)) ^ 2 < 1e-6" "another loss in other batches"
  expect_ok instruct --run whole2 --steps 1 --reference --grad-clip 0 --batch-size 6 --responses 0
  expect_ok instruct --run parts2 --steps 1 --reference --grad-clip 0 --batch-size 6 --micro-batch 2 --responses 0
  holds "($(metric whole2 grad_norm) - $(metric parts2 grad_norm)) ^ 2 < 1e-8" "micro-batches make another step"
  holds "($(metric whole2 loss) - $(metric parts2 loss)) ^ 2 < 1e-10" "micro-batches make another loss"
  expect_ok "$finetune" instruct --model $base --data rows.json --template phi3 --run phi3 --steps 1 --responses 0 --max-length 36
  expect_output '[0-9]+ examples to train on are longer than 36 tokens and lost their ends'
  expect_error 1 'lost their ends; 85 of them had nothing left to learn' "$finetune" instruct --model $base --data rows.json --run alpaca --mask-prompt
  expect_output 'the training set has 0 examples, fewer than one batch'
}

# Without --mask-prompt, prompts are targets: a row with a prompt longer than the context is cut, and trained on.
test_prompts_as_targets() {
  make_base
  make_rows
  for flags in '' '--batching packed'; do
    rm -rf alpaca
    # shellcheck disable=SC2086
    expect_ok "$finetune" instruct --model $base --data rows.json --run alpaca --steps 1 --responses 0 --lr 1e-9 $flags
    expect_output 'length: 85 examples to train on are longer than 64 tokens and lost their ends$'
    expect_output 'step 0 . training loss [0-9.]+ per token . validation loss [0-9.]+ per token'
  done
}

# A template's markers are the vocabulary's special tokens, which this vocabulary could not write as text. Markers in a
# row are text.
test_markers() {
  make_base
  make_rows
  expect_ok "$BUILD/extend_vocabulary" --model $base --add-tokens '@user@' '@bot@' --to chat
  echo '{"prompt": "@user@ {instruction}", "input": " ({input})", "response": " @bot@{output}"}' >markers.json
  sed '1,/say 3/s/say 3/@user@/' rows.json >marked_rows.json
  echo '[{"instruction": "say", "chosen": "yes", "rejected": "no"}]' >one_pair.json
  while IFS='|' read -r code pattern flags; do
    rm -rf marked
    # shellcheck disable=SC2086
    if [ "$code" = 0 ]; then expect_ok $flags --run marked; else expect_error "$code" "$pattern" $flags --run marked; fi
  done <<END
0||$finetune instruct --model chat --template markers.json --data rows.json --steps 1 --responses 1 --response-tokens 2
0||$finetune dpo --model chat --template markers.json --data one_pair.json --steps 1 --batch-size 1 --train-fraction 1 --val-fraction 0
1|rows.json: row 1: the vocabulary lacks the character U.0040|$finetune instruct --model $base --template markers.json --data rows.json
1|one_pair.json: row 1: the vocabulary lacks the character U.0040|$finetune dpo --model $base --template markers.json --data one_pair.json
1|marked_rows.json: row 3: the vocabulary lacks the character U.0040|$finetune instruct --model chat --template markers.json --data marked_rows.json
END
  expect_ok "$BUILD/generate" --model chat --prompt '@user@ say 3 @bot@' --tokens 1
  expect_error 1 'lacks the character U.0040' "$BUILD/generate" --model chat --prompt '@user@ say 3 @bot@' --tokens 1 --no-special
}

# Packed into shared rows, steps and evaluations equal those of examples in separate rows, with less padding.
test_packed() {
  make_base
  make_rows
  expect_ok instruct --run loose --steps 6 --batch-size 6 --responses 0 --lr 1e-3 --precision fp32
  for flags in '' '--pack-length 64' '--pack-length 40 --micro-batch 3'; do
    rm -rf packed
    # shellcheck disable=SC2086
    expect_ok instruct --run packed --steps 6 --batch-size 6 --responses 0 --lr 1e-3 --precision fp32 --batching packed $flags
    for key in loss grad_norm val_loss train_loss; do
      holds "($(metric loose $key) - $(metric packed $key)) ^ 2 < 1e-8" "packing changes $key"
    done
    holds "$(metric packed padding) <= $(metric loose padding)" "packing makes padding"
  done
  expect_ok instruct --run packed2 --steps 6 --batch-size 3 --responses 0 --batching packed
  holds "$(metric packed2 padding) == 0" "three examples that fit into one row are padded"
  expect_ok instruct --run cut --steps 1 --responses 0 --batching packed --pack-length 20
  expect_output '[0-9]+ examples to train on are longer than 20 tokens and lost their ends'
  expect_ok instruct --run everything --steps 2 --responses 1 --response-tokens 2 --batching packed --dropout 0.1 --train lora --recompute block
}

# A signal finishes the step, saves, and exits 0.
test_signal() {
  make_base
  make_rows
  "$finetune" instruct --model $base --data rows.json --template short.json --run stopped --epochs 100000 --eval-examples 2 >log 2>&1 &
  pid=$!
  for i in $(seq 1 200); do grep -q '^step 3/' log && break; sleep 0.1; done
  kill -TERM $pid
  code=0
  wait $pid || code=$?
  [ $code -eq 0 ] || { tail -3 log; die "exit $code after SIGTERM"; }
  grep -q 'stopped by signal 15 after step' log || die "the signal is not reported: $(tail -3 log)"
  expect_ok "$BUILD/generate" --model stopped/latest --prompt say --tokens 3
}

# The GPU's model, on cudasim, takes the same steps.
test_gpu() {
  [ -x "$BUILD/finetunesim" ] || { echo "skipped: this build has no cudasim"; exit 77; }
  make_base
  make_pets
  make_rows
  for on in '' sim; do
    expect_ok "$BUILD/finetune$on" classify --model $base --data pets.tsv --text-column 2 --label-column 1 --run "classify_on$on" \
      --steps 2 --batch-size 2 --eval-examples 4 --max-length 8 --precision fp32 --train-fraction 0.9 --val-fraction 0.05
  done
  holds "($(metric classify_on loss) - $(metric classify_onsim loss)) ^ 2 < 1e-10" "another step on the GPU"
  for on in '' sim; do
    expect_ok "$BUILD/finetune$on" instruct --model $base --data rows.json --template short.json --run "packed_on$on" --steps 2 \
      --batch-size 3 --batching packed --responses 0 --eval-examples 3 --train-fraction 0.1 --val-fraction 0.05 --precision fp32
  done
  holds "($(metric packed_on loss) - $(metric packed_onsim loss)) ^ 2 < 1e-10" "another packed step on the GPU"
}

# Everything instruct must refuse.
test_instruct_refused() {
  make_classifier
  make_rows
  echo '{"prompt": "{instruction} {system}", "input": "{input}", "response": "{output}"}' >unknown.json
  expect_error 1 'unknown.json: prompt: unknown key \{system\}' "$finetune" instruct --model $base --data rows.json --template unknown.json
  expect_error 2 "template is 'gpt5', expected alpaca, phi3" "$finetune" instruct --model $base --data rows.json --template gpt5
  echo '[{"instruction": "a", "output": "b"}, {"instruction": "a"}]' >missing.json
  expect_error 1 'missing.json: row 2: the key "output" is missing, found "instruction"' "$finetune" instruct --model $base --data missing.json
  echo '{"instruction": "a"' >broken.jsonl
  expect_error 1 'broken.jsonl: line 1: not JSON' "$finetune" instruct --model $base --data broken.jsonl
  expect_error 1 'the model is a classifier' "$finetune" instruct --model pets/latest --data rows.json
  expect_error 2 'head is its token embedding' instruct --train head
  expect_error 2 'judge and --judge-model' instruct --judge http://127.0.0.1:1
  expect_error 2 'judge' instruct --judge nonsense --judge-model m
  expect_error 2 'position' instruct --position last
  expect_error 2 'pack-length is 65, but the model.s context is 64' instruct --batching packed --pack-length 65
  expect_error 2 'pack-length is 0' instruct --batching packed --pack-length 0
  expect_error 2 'pack-length' instruct --batching packed --pack-length -1
  expect_error 2 'pack-length goes with --batching packed' instruct --pack-length 40
  expect_error 2 'pack-length goes with --batching packed' instruct --pack-length 40 --batching by-length
  expect_error 2 'max-length 50 is above --pack-length 40' instruct --batching packed --pack-length 40 --max-length 50
  expect_error 2 "batching is 'stacked', expected one of shuffled by-length packed" instruct --batching stacked
  [ ! -e runs ] || die "a refused run left a folder: $(ls runs)"
}

# A loss that is not finite is an error: from weights broken by an update, where the run keeps its last save, and from a
# model of the largest floats.
test_not_finite() {
  make_base
  make_pets
  make_rows
  expect_error 1 '^error: step [1-9][0-9]*: the training loss is not finite: the weights are broken; start again with a lower --lr' classify \
    --train head --run broken --steps 100 --lr 10 --weight-decay 10 --grad-clip 0 --eval-every 1 --eval-examples 4 --precision fp32
  expect_ok "$BUILD/convert" --from broken/latest --to broken/copy
  cp -rL $base huge
  header=$(od -An -t u8 -N 8 huge/model.safetensors)
  size=$(stat -c %s huge/model.safetensors)
  { head -c $((8 + header)) $base/model.safetensors; head -c $((size - 8 - header)) /dev/zero | tr '\0' '\177'; } >huge/model.safetensors
  printf '{"instruction": "say", "chosen": "yes", "rejected": "no"}\n%.0s' $(seq 20) >same_pairs.jsonl
  for flags in 'instruct --data rows.json' 'dpo --data same_pairs.jsonl'; do
    rm -rf never
    # shellcheck disable=SC2086
    expect_error 1 '^error: step 0: the (training|validation) loss is not finite: the model to start from is damaged' \
      "$finetune" $flags --template short.json --model huge --run never --steps 1
    [ ! -e never/latest ] || die "a model without finite results was saved"
  done
}

# A preference is learnt; everything dpo must refuse.
test_dpo() {
  make_answers
  make_pairs
  expect_ok dpo --run preferred --epochs 4 --lr 3e-4 --batch-size 5
  expect_output '1 pairs of pairs.jsonl are left out: chosen and rejected are equal'
  expect_output 'step 0 . validation loss 0.6931 . margin .0.0000'
  expect_output 'step 1/40 . loss 0.6931 . margin .0.0000 \(chosen .0.0000, rejected .0.0000\)'
  holds "$(metric preferred val_loss) < 0.69 && $(metric preferred val_margin) > 0.01" "no preference was learnt"
  holds "$(metric preferred test_accuracy) > 0.9" "no preference was learnt"
  # A reference computed once gives the same result; so does one that is named.
  expect_ok dpo --run live --steps 4 --lr 3e-4 --batch-size 5 --reference
  expect_ok dpo --run cached --steps 4 --lr 3e-4 --batch-size 5 --reference --cache-reference
  expect_ok dpo --run named --steps 4 --lr 3e-4 --batch-size 5 --reference --cache-reference --reference-model answers/latest
  for other in cached named; do
    holds "($(metric live val_margin) - $(metric $other val_margin)) ^ 2 < 1e-10" "the reference of $other"
  done
  expect_ok dpo --run other --steps 1 --reference-model $base --log-prob sum --beta 0.5
  expect_ok dpo --run whole3 --steps 1 --reference --grad-clip 0 --batch-size 4
  expect_ok dpo --run parts3 --steps 1 --reference --grad-clip 0 --batch-size 4 --micro-batch 1
  holds "($(metric whole3 grad_norm) - $(metric parts3 grad_norm)) ^ 2 < 1e-10" "micro-batches make another step"
  expect_ok dpo --run adapters --steps 2 --train lora --lora-rank 2 --lora-targets q,v
  expect_ok "$BUILD/generate" --model adapters/latest --prompt say --tokens 3

  echo '[{"instruction": "a", "chosen": "b", "rejected": "b"}]' >equal.json
  expect_error 1 'each of its 1 rows "chosen" equals "rejected"' "$finetune" dpo --model $base --data equal.json
  expect_error 1 'the key "chosen" is missing' "$finetune" dpo --model $base --data rows.json
  expect_error 2 "expected a model's folder" dpo --reference-model nowhere
  expect_error 2 'beta is 0' dpo --beta 0
  expect_error 2 "batching is 'packed'" dpo --batching packed
  [ ! -e runs ] || die "a refused run left a folder: $(ls runs)"
}

run_tests "$@"
