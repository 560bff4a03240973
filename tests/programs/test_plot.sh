# plot: curves of a run's metrics, maps of a model's attention; what it must refuse.
source "$(dirname "$0")/lib.sh"
cd "$TMP"
export OMP_NUM_THREADS=2
plot=$BUILD/plot

expect_ok "$BUILD/train_gpt2" --layers 2 --heads 2 --channels 16 --seq-len 32 --batch-size 2 --steps 6 --eval-every 3 --sample-every 0 --run run
expect_ok "$plot" metrics --run run --field loss --field val_loss --title 'A < B' --out loss.svg
expect_output '^wrote loss.svg \([0-9]+ bytes\)$'
grep -q '>A &lt; B<' loss.svg && [ "$(grep -c '<path' loss.svg)" = 2 ] && grep -q '>val loss<' loss.svg || die "loss.svg: $(cat loss.svg)"
expect_ok "$plot" metrics --run run --run run/metrics.jsonl --field lr --out lr.svg
grep -q '>run/metrics.jsonl: lr<' lr.svg || die "lr.svg: $(cat lr.svg)"
expect_ok "$plot" attention --model run/latest --text 'One & two' --layer 1 --out heads.svg
grep -q '>head 1<' heads.svg && [ "$(grep -c '>&amp;<' heads.svg)" = 4 ] || die "heads.svg: $(cat heads.svg)"
expect_ok "$plot" attention --model run/latest --text 'One' --head 1 --out head.svg
grep -q '>head 0<' head.svg && die "head.svg has another head"
if command -v python3 >/dev/null; then
  for file in *.svg; do python3 -c 'import sys, xml.dom.minidom as m; m.parse(sys.argv[1])' $file || die "$file is no XML"; done
fi

printf '{"step": 1, "loss": null}\n{"cut of' >broken.jsonl
expect_error 1 'broken.jsonl: no loss over step; its numbers are: step' "$plot" metrics --run broken.jsonl --out no.svg
expect_error 1 'run/metrics.jsonl: no accuracy over step; its numbers are: .*grad_norm' "$plot" metrics --run run --field accuracy --out no.svg
expect_error 1 'no loss over epoch' "$plot" metrics --run run --x epoch --out no.svg
expect_error 1 'nothing' "$plot" metrics --run nothing --out no.svg
: >empty.jsonl
expect_error 1 'empty.jsonl: no line with numbers' "$plot" metrics --run empty.jsonl --out no.svg
expect_error 1 'nowhere/no.svg' "$plot" metrics --run run --out nowhere/no.svg
expect_error 2 '--layer 2: the model has 2, 0 to 1' "$plot" attention --model run/latest --text One --layer 2 --out no.svg
expect_error 2 '--head 2: the model has 2, 0 to 1' "$plot" attention --model run/latest --text One --head 2 --out no.svg
expect_error 2 '--text is of 0 tokens, expected 1 to 32' "$plot" attention --model run/latest --text '' --out no.svg
expect_error 2 '--text is of 44 tokens' "$plot" attention --model run/latest --text "$(printf '%044d' 0)" --out no.svg
expect_error 1 'run' "$plot" attention --model run --text One --out no.svg
expect_error 2 '--layer' "$plot" attention --model run/latest --text One --layer -1 --out no.svg
expect_error 2 '--out is required' "$plot" metrics --run run
expect_error 2 'subcommand' "$plot"
[ ! -e no.svg ] || die "a refused picture was written"
expect_ok "$plot" --help
