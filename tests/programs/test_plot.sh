# plot: losses, accuracies and other metrics of runs, learning rates, maps of a model's attention; all it must refuse.
source "$(dirname "$0")/lib.sh"
export OMP_NUM_THREADS=1
plot=$BUILD/plot

make_run() {
  for i in $(seq 200); do echo "Line $i of a text & no story."; done >text.txt
  expect_ok "$BUILD/train_gpt2" --data text.txt --tokenizer bytes --layers 2 --heads 2 --channels 16 --seq-len 32 --batch-size 2 --steps 6 --eval-every 3 --sample-every 0 --run run
}

are_xml() {  # checks every picture here
  command -v python3 >/dev/null || return 0
  for file in *.svg; do python3 -c 'import sys, xml.dom.minidom as m; m.parse(sys.argv[1])' $file || die "$file is not XML"; done
}

# Losses and accuracies of runs, a schedule, a map of attention; a missing run.
test_smoke() {
  make_run
  expect_ok "$plot" loss --run run --out losses.svg
  for text in '>training<' '>validation<' '>loss (nats)<'; do
    grep -q "$text" losses.svg || die "losses.svg has no $text"
  done
  expect_ok "$plot" schedule --steps 135 --lr 1e-3 --warmup-steps 27 --schedule cosine --out schedule.svg
  expect_ok "$plot" model --model gpt2 --layer 11 --out model.svg
  for text in 'linear_forward: qkv' 'attention_backward' 'block.11.fch_gelu (1024, 3072)' 'dqkv (1024, 2304)'; do
    grep -qF ">$text<" model.svg || die "model.svg has no $text"
  done
  expect_ok "$plot" model --model run/latest --out small.svg
  expect_error 2 'layer 12: the model has 12, 0 to 11' "$plot" model --model gpt2 --layer 12 --out no.svg
  expect_error 2 "model is 'nothing', expected a preset such as gpt2, .*, or a model directory" "$plot" model --model nothing --out no.svg
  expect_ok "$plot" attention --model run/latest --prompt 'One & two' --layer 1 --out heads.svg
  grep -q '>head 1<' heads.svg || die "heads.svg: $(cat heads.svg)"
  expect_error 1 'nothing' "$plot" metrics --run nothing --out no.svg
  [ ! -e no.svg ] || die "a refused picture was written"
}

# Losses, accuracies and other numbers of runs.
test_numbers() {
  make_run
  expect_ok "$plot" metrics --run run --field loss --field val_loss --title 'A < B' --out loss.svg
  expect_output '^wrote loss.svg \([0-9]+ bytes\)$'
  grep -q '>A &lt; B<' loss.svg && [ "$(grep -c '<path' loss.svg)" = 2 ] && grep -q '>val loss<' loss.svg || die "loss.svg: $(cat loss.svg)"
  expect_ok "$plot" metrics --run run --run run/metrics.jsonl --field lr --out lr.svg
  grep -q '>run/metrics.jsonl: lr<' lr.svg || die "lr.svg: $(cat lr.svg)"
  expect_ok "$plot" loss --run run --out losses.svg
  for text in '>training<' '>validation<' '>loss (nats)<' '>tokens seen<' '>Loss<'; do
    grep -q "$text" losses.svg || die "losses.svg has no $text"
  done
  sed '/"config"/d' run/metrics.jsonl >other.jsonl
  expect_ok "$plot" loss --run run --run other.jsonl --title 'two runs' --out two.svg
  [ "$(grep -c '<path' two.svg)" = 4 ] && grep -q '>run: validation<' two.svg && grep -q '>other.jsonl: training<' two.svg || die "two.svg: $(cat two.svg)"
  grep -q 'tokens seen' two.svg && die "two.svg counts tokens, which one of its runs does not record"
  cat >spam.jsonl <<'END'
{"step": 0, "config": {"data": "x"}}
{"step": 0, "epoch": 0.0, "train_accuracy": 0.5, "val_accuracy": 0.25}
{"step": 4, "loss": 0.5, "lr": 0.1}
{"step": 8, "epoch": 2.0, "train_accuracy": 1.0, "val_accuracy": 0.75}
END
  expect_ok "$plot" accuracy --run spam.jsonl --out accuracy.svg
  for text in '>accuracy (%)<' '>100<' '>training<' '>validation<' '>epoch<'; do
    grep -q "$text" accuracy.svg || die "accuracy.svg has no $text"
  done
  expect_ok "$plot" loss --run spam.jsonl --out epochs.svg
  grep -q '>epochs<' epochs.svg && ! grep -q '>validation<' epochs.svg || die "epochs.svg: $(cat epochs.svg)"
  are_xml
}

# Learning rates, and maps of attention.
test_schedules_and_maps() {
  make_run
  expect_ok "$plot" schedule --steps 135 --lr 1e-3 --start-lr 1e-5 --min-lr 1e-5 --warmup-steps 27 --schedule cosine --out schedule.svg
  grep -q '>0.001<' schedule.svg && grep -q '>140<' schedule.svg || die "schedule.svg: $(cat schedule.svg)"
  expect_ok "$plot" schedule --steps 1 --warmup-steps 0 --out step.svg
  expect_ok "$plot" schedule --model gpt2 --out preset.svg
  grep -q '>20000<' preset.svg && grep -q '>0.0006<' preset.svg || die "preset.svg: $(cat preset.svg)"
  expect_ok "$plot" attention --model run/latest --prompt 'One & two' --layer 1 --out heads.svg
  grep -q '>head 1<' heads.svg && [ "$(grep -c '>&amp;<' heads.svg)" = 4 ] || die "heads.svg: $(cat heads.svg)"
  expect_ok "$plot" attention --model run/latest --prompt 'One' --head 1 --out head.svg
  grep -q '>head 0<' head.svg && die "head.svg has another head"
  are_xml
}

test_refused() {
  make_run
  printf '{"step": 1, "loss": null}\n{"cut of' >broken.jsonl
  expect_error 1 'broken.jsonl: no loss over step; its numbers are: step' "$plot" metrics --run broken.jsonl --out no.svg
  expect_error 1 'run/metrics.jsonl: no accuracy over step; its numbers are: .*grad_norm' "$plot" metrics --run run --field accuracy --out no.svg
  expect_error 1 'no loss over epoch' "$plot" metrics --run run --x epoch --out no.svg
  expect_error 1 'run/metrics.jsonl: no accuracy \(finetune classify writes it\) over epoch; its numbers are: ' "$plot" accuracy --run run --out no.svg
  echo '{"step": 1, "lr": 0.1}' >lr.jsonl
  expect_error 1 'lr.jsonl: no loss over step; its numbers are: lr, step' "$plot" loss --run run --run lr.jsonl --out no.svg
  mkdir -p hollow
  expect_error 1 'hollow/metrics.jsonl: missing, expected' "$plot" loss --run hollow --out no.svg
  expect_error 2 '--warmup-steps 9 is more than --steps 5' "$plot" schedule --steps 5 --warmup-steps 9 --out no.svg
  expect_error 2 '--warmup-steps 30000 is more than --steps 20000' "$plot" schedule --model gpt2 --warmup-steps 30000 --out no.svg
  expect_error 2 '--min-lr 1 is above --lr' "$plot" schedule --min-lr 1 --out no.svg
  expect_error 2 '--schedule is .sine., expected one of' "$plot" schedule --schedule sine --out no.svg
  expect_error 2 '--model nowhere is not a preset' "$plot" schedule --model nowhere --steps 5 --out no.svg
  expect_error 2 '--dropout' "$plot" schedule --dropout 0.5 --out no.svg
  expect_error 1 'nothing' "$plot" metrics --run nothing --out no.svg
  : >empty.jsonl
  expect_error 1 'empty.jsonl: no line with numbers' "$plot" metrics --run empty.jsonl --out no.svg
  mkdir folder.svg
  expect_error 1 'folder.svg' "$plot" loss --run run --out folder.svg
  expect_error 1 'nowhere/no.svg' "$plot" metrics --run run --out nowhere/no.svg
  expect_error 2 '--layer 2: the model has 2, 0 to 1' "$plot" attention --model run/latest --prompt One --layer 2 --out no.svg
  expect_error 2 '--head 2: the model has 2, 0 to 1' "$plot" attention --model run/latest --prompt One --head 2 --out no.svg
  expect_error 2 '--prompt has 0 tokens, expected 1 to 32' "$plot" attention --model run/latest --prompt '' --out no.svg
  expect_error 2 '--prompt has 44 tokens' "$plot" attention --model run/latest --prompt "$(printf '%044d' 0)" --out no.svg
  expect_error 1 'run' "$plot" attention --model run --prompt One --out no.svg
  expect_error 2 '--layer' "$plot" attention --model run/latest --prompt One --layer -1 --out no.svg
  expect_error 2 '--out is required' "$plot" metrics --run run
  expect_error 2 'subcommand' "$plot"
  [ ! -e no.svg ] || die "a refused picture was written"
  expect_ok "$plot" --help
  for command in loss accuracy metrics schedule attention; do
    expect_output "^  $command "
  done
}

run_tests "$@"
