# train_gpt2's ways to find settings: --find-lr, --patience, --search, --lr-decay-per-layer.
source "$(dirname "$0")/lib.sh"
export OMP_NUM_THREADS=1

make_text() {
  for i in $(seq 1 200); do
    echo "Fox number $((i * 7 % 101)) jumps over dog number $((i * 13 % 17)) and says: hello, friends."
  done >text.txt
}
tiny=(--data text.txt --layers 1 --heads 2 --channels 16 --seq-len 16 --batch-size 4 --tokenizer bytes --sample-tokens 0 --precision fp32)
train() { "$BUILD/train_gpt2" "${tiny[@]}" "$@"; }
val_losses() { grep -o '"val_loss":[0-9.e+-]*' "$1/metrics.jsonl" | cut -d: -f2; }

# A learning rate: --find-lr.
test_find_lr() {
  make_text
  expect_ok train --find-lr --steps 60
  expect_output '^lr 1\.00e-06 \| loss [0-9.]+ \| smoothed [0-9.]+$'
  expect_output '^tried [0-9]+ rates, up to [0-9.e+-]+; the smoothed loss was lowest at [0-9.e+-]+$'
  lr=$(grep -oE '^suggestion: --lr [0-9.e+-]+$' out | grep -oE '[0-9.e+-]+$')
  awk -v lr="$lr" 'BEGIN { exit !(lr > 1e-4 && lr < 0.5) }' || die "the suggestion is $lr"
  [ ! -e runs ] || die "--find-lr left a run"
  expect_ok train --run plain --steps 30 --lr "$lr"
  cp -r plain before
  expect_ok "$BUILD/train_gpt2" --find-lr --model plain/latest --data text.txt --seq-len 16 --steps 20 --precision fp32 --lr 1
  diff -r plain before || die "--find-lr changed the model that it started from"
  expect_ok train --find-lr --steps 60
  [ "$(grep -oE '^suggestion: .*' out)" = "suggestion: --lr $lr" ] || die "the suggestion changes from call to call"
  expect_error 2 'contradict one another: give one of them' train --find-lr --memory
  expect_error 2 'start from weights with --model' train --find-lr --run plain --resume
}

# Early stopping: --patience.
# At a rate with which validation soon gets worse, the run ends, and its best checkpoint stays.
test_patience() {
  make_text
  many=(--steps 400 --eval-every 5 --save-every 5 --keep 2 --lr 0.3 --warmup-steps 0 --schedule constant --patience 3)
  expect_ok train --run early "${many[@]}"
  expect_output '^stopped early: validation was best at step [0-9]+, with [0-9.]+: that model is in early/best$'
  best=$(grep -oE 'best at step [0-9]+' out | grep -oE '[0-9]+')
  [ "$(readlink early/best)" = "$(printf 'checkpoints/step_%06d' "$best")" ] || die "best points to $(readlink early/best), not to step $best"
  [ -s early/best/model.safetensors ] && [ -s early/latest/model.safetensors ] || die "a checkpoint is missing"
  [ "$(readlink early/latest)" = "$(printf 'checkpoints/step_%06d' $((best + 15)))" ] || die "$(readlink early/latest): not three validations after $best"
  val_losses early | awk -v n=$((best / 5)) 'NR > 1 { if (min == "" || $1 < min) { min = $1; at = NR - 1 } } END { exit !(at == n && NR - 1 == n + 3) }' ||
    die "step $best is not the best: $(val_losses early | tr '\n' ' ')"
  expect_ok train --run patient --steps 40 --eval-every 10 --patience 100
  grep -q 'stopped early' out && die "stopped without reason"
  [ "$(readlink patient/best)" = checkpoints/step_000040 ] || die "best points to $(readlink patient/best)"
  # A run resumed in the middle ends where the unbroken run did.
  cp -r early resumed
  first=$(ls early/checkpoints | head -1)
  ln -sfn "checkpoints/$first" resumed/latest
  rm resumed/best
  for step in resumed/checkpoints/*; do [ "$(basename "$step")" = "$first" ] || rm -r "$step"; done
  if [ "$(readlink early/best)" = "checkpoints/$first" ]; then ln -s "checkpoints/$first" resumed/best; fi
  expect_ok "$BUILD/train_gpt2" --run resumed --resume
  cmp early/latest/model.safetensors resumed/latest/model.safetensors || die "the resumed run ended elsewhere"
  [ "$(readlink early/latest) $(readlink early/best)" = "$(readlink resumed/latest) $(readlink resumed/best)" ] || die "the resumed run's links differ"
  expect_error 2 'patience' train --run x --steps 4 --patience 2 --val-fraction 0
  expect_error 2 'patience' train --run x --patience -1
  [ ! -e x ] || die "a refused run left its folder"
}

# A rate for each layer.
test_layers() {
  make_text
  deep=("${tiny[@]}")
  deep[3]=2  # layers
  expect_ok "$BUILD/train_gpt2" "${deep[@]}" --run layers --steps 10 --lr-decay-per-layer 0.5
  expect_ok "$BUILD/train_gpt2" "${deep[@]}" --run same --steps 10
  cmp -s layers/latest/model.safetensors same/latest/model.safetensors && die "--lr-decay-per-layer changes nothing"
  expect_error 2 'lr-decay-per-layer is 0' train --lr-decay-per-layer 0
  expect_error 2 'lr-decay-per-layer' "$BUILD/train_gpt2" --run layers --resume --steps 20 --lr-decay-per-layer 0.9
}

# A search of a grid, with trials below the median stopped, and one of random points.
test_search() {
  make_text
  echo '{"flags": {"lr": [1e-5, 1e-2], "heads": [1, 2, 3]}}' >grid.json
  expect_ok train --search grid.json --run grid --steps 20 --eval-every 5
  expect_output '^=== trial 5 of 6: lr 0\.01, heads 2$'
  expect_output '^failed: .*heads do not divide'
  expect_output '^trial +best loss +step +flags$'
  expect_output '^trial_003 +- +0  lr 1e-05, heads 3  \(failed\)$'
  expect_output '^best: grid/trial_00[45], [0-9.]+: lr 0\.01, heads [12]$'
  [ -s grid/trial_001/latest/model.safetensors ] && [ -s grid/trial_005/metrics.jsonl ] || die "trials must be runs: $(ls grid)"
  [ "$(grep -c '"run"' grid/search.json)" = 6 ] && [ "$(grep -c '"failed"' grid/search.json)" = 2 ] || die "search.json: $(cat grid/search.json)"
  expect_error 1 'grid already holds a search' train --search grid.json --run grid
  # The median: after three good trials a bad one ends early.
  echo '{"median_stopping": true, "flags": {"seed": [1, 2], "lr": [1e-2, 8e-3, 1e-5]}}' >median.json
  expect_ok train --search median.json --steps 40 --eval-every 5
  expect_output '^its best loss is above the median'
  expect_output '^trial_006 .*lr 1e-05  \(stopped by the median\)$'
  [ "$(val_losses runs/search/trial_006 | wc -l)" = 3 ] || die "trial 6 continued: $(val_losses runs/search/trial_006)"
  [ "$(readlink runs/search/trial_006/latest)" = checkpoints/step_000010 ] || die "a stopped trial has no checkpoint"
  echo '{"method": "random", "trials": 2, "flags": {"lr": {"min": 1e-3, "max": 1e-2, "log": true}}}' >random.json
  expect_ok train --search random.json --steps 5
  expect_output '^best: runs/search-2/trial_00[12]'

  echo '{"flags": {"lr": [1e-3, 20]}}' >range.json
  expect_error 2 'lr is 20' train --search range.json --run x
  echo '{"flags": {"rate": [1]}}' >unknown.json
  expect_error 1 'unknown.json: --rate is not a flag' train --search unknown.json --run x
  expect_error 1 'nothing.json' train --search nothing.json --run x
  expect_error 2 'contradicts' train --search grid.json --run x --resume
  expect_error 2 'needs validation data' train --search grid.json --run x --val-fraction 0
  [ ! -e x ] || die "a refused search left a folder"
  echo '{"flags": {"heads": [3]}}' >failing.json
  expect_error 1 'no trial has a validation loss' train --search failing.json --run failing --steps 2
}

run_tests "$@"
