# book: the figures that need neither the book's text nor GPT-2's vocabulary; the others are left out with a reason.
source "$(dirname "$0")/lib.sh"
export OMP_NUM_THREADS=1
export ASAN_OPTIONS=detect_leaks=0 # OpenMPI leaks some memory at its end
unset WROUGHT_DATA
book=$BUILD/book

make_text() {
  for i in $(seq 1 30); do echo "Fox number $((i * 7 % 101)) jumps over dog number $((i * 13 % 17)): no verdict."; done >text.txt
}

# passes WHAT: its row has the book's figure twice (perplexity: to 1e-5), and passes.
passes() {
  awk -F ' *[|] ' -v what="  $1" '
    $1 == what && ($2 == $3 || ($2 + 0 == 48725.82 && $3 / $2 - 1 < 1e-5 && 1 - $3 / $2 < 1e-5)) && $4 == "pass" { found = 1 }
    END { exit !found }' out ||
    { cat out; die "no row passes: $1"; }
}
left_out() { grep -qF "  $1" out && grep -F "  $1" out | grep -qE "\| $2" || { cat out; die "not left out: $1"; }; }
# Checks the results in the rows about two processes, and their verdict.
two_processes() { # two_processes WHAT OURS VERDICT
  grep -qE "^  two processes: $1 +\| .* \| $2 +\| $3" out || { cat out; die "no such row: two processes: $1, $2, $3"; }
}
shared='the data shared out' averaged='gradients averaged'
mpi=
if command -v mpirun >/dev/null && [[ $(ldd "$BUILD/train_gpt2") == *libmpi* ]]; then mpi=1; fi

# The chapters that take no time; a chapter that does not exist.
test_smoke() {
  make_text
  expect_ok "$book" --text text.txt --chapter 2 --chapter 3 --chapter D
  passes 'embedding(6, 3), seed 123: row 3'
  passes 'two heads and a projection: the last'
  passes 'rates at steps 0, 13, 27, 81, 134'
  left_out 'words and punctuation' 'skipped: not the-verdict \(checksum\)'
  expect_error 2 'chapter' "$book" --chapter 9
}

# All chapters, without the training of chapter 5.
test_figures() {
  make_text
  expect_ok "$book" --text text.txt --quick
  passes 'embedding(6, 3), seed 123: row 3'
  passes 'two heads and a projection: the last'
  passes '124M'
  passes 'untrained, seed 123, after "Hello, I am"'
  passes 'untrained, seed 123: loss of 2 x 3 tokens'
  passes 'its perplexity'
  passes '1,000 draws: forward, toward, closer'
  passes 'rates at steps 0, 13, 27, 81, 134'
  left_out 'words and punctuation' 'skipped: not the-verdict \(checksum\)'
  left_out 'BPE trained to 1,000 ids: merges' 'skipped: not the-verdict'
  left_out 'untrained: validation loss' 'skipped: not the-verdict'
  left_out 'its ids of "Hello, do' 'skipped: no GPT-2 vocabulary'
  left_out 'GPT-2 124M: training loss' 'skipped: no --gpt2 DIR'
  left_out 'after 10 epochs: training loss' 'skipped: --quick'
  # Windows of 100 bytes in batches of two, which go alternately to the two; with an odd number the first gets one more.
  bytes=$(wc -c <text.txt) batches=$((($(wc -c <text.txt) - 1) / 200))
  two_processes "$shared" "$(((batches + 1) / 2 * 2)) \+ $((batches / 2 * 2)) of $(((bytes - 1) / 100)), none twice" pass
  if [ $mpi ]; then
    two_processes "$averaged" '20 losses, ([0-9.]+e-0[6-9]|0.0e\+00) apart' pass
  else
    two_processes "$averaged" '' 'skipped: (no mpirun|train_gpt2 was built without MPI)'
  fi
  expect_output '^2[0-9] of the book.s figures pass, 0 fail, [0-9]+ are left out$'
}

# A trainer that is missing, or does not work.
test_trainers() {
  make_text
  appendix() { "$@" "$PWD/own/book" --text text.txt --chapter A; }
  mkdir own scratch nothing
  cp "$book" own/book
  export TMPDIR=$PWD/scratch
  expect_ok appendix
  two_processes "$averaged" '' 'skipped: no train_gpt2 next to'
  expect_output '^1 of the book.s figures pass, 0 fail, 1 are left out$'
  cp "$BUILD/train_gpt2" own/trainer
  trainer_is() { printf '#!/bin/bash\n%s\n' "$1" >own/train_gpt2 && chmod +x own/train_gpt2; }
  trainer_is 'exec "$(dirname "$0")/trainer" "$@"'
  expect_ok appendix env PATH="$PWD/nothing"
  two_processes "$averaged" '' 'skipped: no mpirun'
  trainer_is 'echo a word; echo; echo "----"; exit 3'
  if command -v mpirun >/dev/null; then
    expect_error 1 '1 of the book.s figures differ' appendix
    two_processes "$averaged" 'a word' FAIL
    trainer_is 'echo "error: the disk is full" >&2; echo goodbye; exit 1'
    expect_error 1 . appendix
    two_processes "$averaged" 'error: the disk is full' FAIL
    trainer_is 'exit 0'
    expect_error 1 . appendix
    two_processes "$averaged" '.*trainer_state.json.*' FAIL
    trainer_is '[ ! "$OMPI_COMM_WORLD_SIZE" ] || { echo "error: this program was built without MPI" >&2; exit 1; }; exec "$(dirname "$0")/trainer" "$@"'
    expect_ok appendix
    two_processes "$averaged" '' 'skipped: train_gpt2 was built without MPI'
  fi
  if [ $mpi ]; then
    # Two processes with another learning rate than one.
    trainer_is '[ ! "$OMPI_COMM_WORLD_SIZE" ] || set -- "${@/#3e-3/2.99e-3}"; exec "$(dirname "$0")/trainer" "$@"'
    expect_error 1 . appendix
    two_processes "$averaged" '20 losses, [0-9.]+e-0[1-4] apart' FAIL
    # Two processes, one of which dies.
    trainer_is '[ "$OMPI_COMM_WORLD_RANK" != 1 ] || exit 4; exec "$(dirname "$0")/trainer" "$@"'
    expect_error 1 . appendix
    two_processes "$averaged" '.+' FAIL
  fi
  head -c 300 text.txt >short.txt
  expect_ok "$book" --text short.txt --chapter A
  two_processes "$shared" '' 'skipped: the text has less than 401 bytes'
  [ -z "$(ls scratch)" ] || die "left over: $(ls scratch)"
  unset TMPDIR
}

test_refused() {
  make_text
  expect_error 1 'data/the-verdict.txt is missing; dev/data/the_verdict.sh' "$book" --quick
  expect_error 1 'nowhere.txt is missing' "$book" --quick --text nowhere.txt
  printf 'ab\xff' >bad.txt
  expect_error 1 'bad.txt: not UTF-8' "$book" --quick --text bad.txt
  "$BUILD/tokenize" train --tokenizer bpe:300 --data text.txt --out small.json >out || { cat out; die "no tokenizer to refuse"; }
  expect_error 1 'small.json is not GPT-2.s: it has [0-9]+ ids, not 50257' "$book" --quick --text text.txt --tokenizer small.json
  expect_error 1 'absent.json is not GPT-2.s' "$book" --quick --text text.txt --tokenizer absent.json
  expect_error 2 . "$book" --nonsense
  expect_error 2 'chapter' "$book" --chapter 9
  expect_error 2 . "$book" --threads -1
}

run_tests "$@"
