#!/usr/bin/env bash
# Checks whether training gives the same bits as in another commit: builds that commit too, runs both for 20 steps in
# many ways, and compares the losses in metrics.jsonl and every tensor of the last checkpoint, byte for byte.
#   dev/same_runs.sh COMMIT [PATTERN]     PATTERN: only the cases that match it (grep -E), such as 'zero|bf16'
# For a change that should only move, rename or speed up. The programs of this checkout are built into $BUILD (build),
# those of the other commit into $BUILD/same_runs/. Exit code 1 if a case differs, with the first tensors that do.
set -euo pipefail
[ $# -ge 1 ] && [ $# -le 2 ] || { sed -n '2,/^set /s/^# \{0,1\}//p' "$0" >&2; exit 2; }
cd "$(dirname "$0")/.."
commit=$(git rev-parse --verify --quiet "$1^{commit}") || { echo "error: '$1' is not a commit of this repository" >&2; exit 2; }
pattern=${2:-.}
build=${BUILD:-build}
mkdir -p "$build"
build=$(cd "$build" && pwd)
jobs=${JOBS:-$(nproc)}
old=$build/same_runs/$commit

# ---- both programs -------------------------------------------------------------------------------------------------
make_programs() { # make_programs SOURCE BUILD FLAGS...
  local source=$1 to=$2
  shift 2
  cmake -S "$source" -B "$to" "$@" >"$to/configure.log" 2>&1 &&
    cmake --build "$to" -j "$jobs" --target train_gpt2 train_gpt2sim finetune finetunesim >"$to/programs.log" 2>&1 ||
    { tail -20 "$to"/{configure,programs}.log >&2; echo "error: $source cannot be built" >&2; exit 1; }
}
mkdir -p "$old/source" "$old/build"
git archive "$commit" | tar -x -C "$old/source"
make_programs "$old/source" "$old/build" -DWROUGHT_TESTS=OFF
make_programs . "$build"

# ---- shared input ----------------------------------------------------------------------------------------------------
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
export OMP_NUM_THREADS=2 OMP_WAIT_POLICY=passive OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
for i in $(seq 1 3000); do
  echo "Fox number $((i * 7 % 101)) jumps over dog number $((i * i % 97)) and says: hello, friend $((i * 13 % 17))!"
done >text.txt
for i in $(seq 1 60); do
  printf 'pet\tthe cat %d sat\nno pet\tbuy %d now, and "%d" more!\n' "$i" "$i" "$i"
done >pets.tsv
for i in $(seq 1 60); do
  printf '{"instruction": "Add one to %d.", "input": "", "output": "%d", "chosen": "It is %d.", "rejected": "No, %d!"}\n' \
    "$i" "$((i + 1))" "$((i + 1))" "$i"
done >rows.jsonl

nano="--data text.txt --tokenizer bytes --batch-size 2 --seq-len 64"
odd="--data text.txt --tokenizer bytes --layers 2 --heads 3 --channels 51 --seq-len 33 --batch-size 3"
small="--data text.txt --tokenizer bytes --layers 2 --heads 2 --channels 64 --seq-len 16 --batch-size 2"
twenty="--steps 20 --sample-tokens 0 --eval-every 10 --eval-steps 4" six="--steps 6 --sample-tokens 0 --eval-steps 4"

# ---- running and comparing -----------------------------------------------------------------------------------------
cases=0 failed=0
compare() { # compare NAME COMMAND...: {} stands for the folder of the programs; the command creates the run "run"
  local name=$1 which programs
  shift
  grep -qE -- "$pattern" <<<"$name" || return 0
  cases=$((cases + 1))
  for which in old new; do
    programs=$build
    [ $which = new ] || programs=$old/build
    rm -rf run $which
    "${@//\{\}/$programs}" --run run >out 2>&1 || { cat out; echo "FAILED: $name does not run with the $which program"; failed=$((failed + 1)); return 0; }
    mv run $which
  done
  if python3 - old new <<'PYTHON'
import json, pathlib, sys

def losses(run):
    keep = ("step", "loss", "grad_norm", "val_loss", "lr")
    rows = [json.loads(line) for line in open(run / "metrics.jsonl")]
    return [{k: v for k, v in row.items() if k in keep or k.endswith(("_loss", "_accuracy"))} for row in rows]

def tensors(path):
    data = path.read_bytes()
    size = int.from_bytes(data[:8], "little")
    header = json.loads(data[8:8 + size])
    header.pop("__metadata__", None)
    return {name: (row["dtype"], row["shape"], data[8 + size + row["data_offsets"][0]:8 + size + row["data_offsets"][1]])
            for name, row in header.items()}

old, new = map(pathlib.Path, sys.argv[1:])
differ = [] if losses(old) and losses(old) == losses(new) else ["the losses in metrics.jsonl"]
files = [sorted(p.relative_to(run / "latest") for p in (run / "latest").rglob("*.safetensors")) for run in (old, new)]
if not files[0] or files[0] != files[1]:
    differ.append(f"the files: {', '.join(map(str, files[0]))}; {', '.join(map(str, files[1]))}")
for file in set(files[0]) & set(files[1]):
    before, after = tensors(old / "latest" / file), tensors(new / "latest" / file)
    if list(before) != list(after):
        differ.append(f"the names in {file}")
    differ += [f"{file}: {name}" for name in before if name in after and before[name] != after[name]]
for line in differ[:5]:
    print("  differs:", line)
sys.exit(bool(differ))
PYTHON
  then
    echo "same: $name"
  else
    echo "DIFFERS: $name"
    failed=$((failed + 1))
  fi
}

# shellcheck disable=SC2086
{
for shape in nano odd; do
  flags="${!shape} $twenty"
  compare "$shape fp32" {}/train_gpt2 $flags --precision fp32
  compare "$shape bf16" {}/train_gpt2 $flags --precision bf16
  compare "$shape muon" {}/train_gpt2 $flags --optimizer muon
  compare "$shape dropout, ema, accumulation" {}/train_gpt2 $flags --dropout 0.1 --ema 0.9 --total-batch-tokens $((4 * 33 * 64 * 3))
  compare "$shape rate by layer, decay of all" {}/train_gpt2 $flags --lr-decay-per-layer 0.7 --decay all --untied-head --no-qkv-bias
  compare "$shape recompute gelu" {}/train_gpt2 $flags --recompute gelu
  compare "$shape recompute block" {}/train_gpt2 $flags --recompute block --dropout 0.1
  compare "$shape reference" {}/train_gpt2 ${!shape} $six --reference
done
"$old/build/train_gpt2" ${odd/--seq-len 33/--seq-len 96} $twenty --run base >out 2>&1 || { cat out; exit 1; }
for train in all head last-blocks:1 lora; do
  compare "classify $train" {}/finetune classify --model base/latest --data pets.tsv --label-column 1 --text-column 2 --steps 20 --train $train
done
compare "classify, rate by layer" {}/finetune classify --model base/latest --data pets.tsv --label-column 1 --text-column 2 --steps 20 --lr-layer-decay 0.5 --decay-all
compare "classify, mean, not causal" {}/finetune classify --model base/latest --data pets.tsv --label-column 1 --text-column 2 --steps 20 --position mean-real --no-causal
rows="--model base/latest --data rows.jsonl --template phi3 --train-fraction 0.8 --val-fraction 0.1 --steps 20"
compare "instruct" {}/finetune instruct $rows --responses 0
compare "instruct lora" {}/finetune instruct $rows --responses 0 --train lora --lora-rank 3 --lora-dropout 0.1
compare "instruct packed, bf16" {}/finetune instruct $rows --responses 0 --batching packed --precision bf16
compare "dpo" {}/finetune dpo $rows
compare "dpo lora" {}/finetune dpo $rows --train lora --lora-targets q,v,fc
if command -v mpirun >/dev/null; then
  export OMP_NUM_THREADS=1
  for zero in 0 1 2 3; do
    compare "2 processes, zero $zero" mpirun --oversubscribe --bind-to none -n 2 {}/train_gpt2 ${odd/--batch-size 3/--batch-size 2} $twenty --zero $zero
  done
  compare "2 processes, muon, zero 0, ema" mpirun --oversubscribe --bind-to none -n 2 {}/train_gpt2 ${odd/--batch-size 3/--batch-size 2} $twenty --optimizer muon --ema 0.9
  export OMP_NUM_THREADS=2
else
  echo "left out: several processes (no mpirun)"
fi
for precision in fp32 bf16; do
  compare "sim $precision" {}/train_gpt2sim $small $twenty --precision $precision
  compare "sim odd $precision" {}/train_gpt2sim ${odd/--seq-len 33/--seq-len 17} $six --precision $precision --dropout 0.1
done
compare "sim muon, recompute block" {}/train_gpt2sim $small $six --optimizer muon --recompute block
compare "sim lora" {}/finetunesim classify --model base/latest --data pets.tsv --label-column 1 --text-column 2 --steps 4 --train lora --batch-size 2 --eval-examples 2
}
[ $cases -gt 0 ] || { echo "error: no case matches '$pattern'" >&2; exit 2; }
echo "$cases cases, $failed differ from ${commit:0:12}"
[ $failed -eq 0 ]
