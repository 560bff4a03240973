# make_stories run whole.
source "$(dirname "$0")/lib.sh"
export OMP_NUM_THREADS=1
run="$BUILD/make_stories"

field() { sed -n "s/^ *\"$2\": \([^,]*\),*$/\1/p" "$1.entropy.json"; }

# The defaults; the .json describes the file; the seed determines the text.
test_smoke() {
  expect_ok "$run"
  expect_output '^stories.txt: [0-9]+ stories, [0-9]+ bytes; .* nats per byte$'
  size=$(stat -c %s stories.txt)
  [ "$size" -ge 8000000 ] && [ "$size" -lt 8003000 ] || die "default size $size"
  [ "$(tail -c 14 stories.txt | od -An -c | tr -d ' \n')" = '\n<|endoftext|>' ] || die "the wrong end of the file"

  # The .json describes the file.
  stories=$(field stories.txt stories)
  [ "$(grep -o '<|endoftext|>' stories.txt | wc -l)" -eq "$stories" ] || die "number of stories"
  [ "$(field stories.txt bytes)" -eq $((size - 13 * stories)) ] || die "number of bytes"
  [ "$(field stories.txt seed)" -eq 0 ] || die "seed"
  awk -v s="$(field stories.txt nats_per_story)" -v b="$(field stories.txt nats_per_byte)" -v n="$stories" \
    -v bytes="$(field stories.txt bytes)" -v h="$(field stories.txt entropy_of_source_nats_per_story)" \
    'BEGIN { r = s * n / bytes / b; e = s / h; exit !(r > 0.999999 && r < 1.000001 && e > 0.98 && e < 1.02) }' ||
    die "nats per byte, per story and of the source are inconsistent"
  [ ! -e stories.txt.tmp ] || die "a temporary file is left"

  # The seed determines the text; a shorter corpus is the beginning of a longer one; standard output is the same.
  expect_ok "$run" --bytes 20K --seed 5 --out a.txt
  expect_ok "$run" --bytes 20000 --seed 5 --out b.txt
  cmp a.txt b.txt || die "the same seed gives other bytes"
  expect_ok "$run" --bytes 40K --seed 5 --out long.txt
  cmp -n "$(stat -c %s a.txt)" a.txt long.txt || die "a longer corpus begins differently"
  expect_ok "$run" --bytes 20K --seed 6 --out c.txt
  cmp -s a.txt c.txt && die "another seed gives the same bytes"
  "$run" --bytes 20K --seed 5 --out - >piped.txt 2>summary.txt
  cmp a.txt piped.txt || die "standard output differs"
  grep -q 'nats per byte' summary.txt || die "no summary on standard error"
  [ ! -e -.entropy.json ] || die "a file was written next to standard output"
  expect_ok "$run" --bytes 1 --out one.txt
  [ "$(field one.txt stories)" -eq 1 ] || die "one byte needs one story"
  expect_ok "$run" --help
  expect_output '--bytes'
  expect_error 2 'bytes' "$run" --bytes 0
}

# Bad input: 2 for usage, 1 for other errors; existing files stay.
test_bad_input() {
  expect_ok "$run" --bytes 20K --seed 5 --out a.txt
  expect_error 2 'bytes' "$run" --bytes 0
  expect_error 2 'bytes' "$run" --bytes -5
  expect_error 2 'bytes' "$run" --bytes many
  expect_error 2 'bytes' "$run" --bytes 2000G
  expect_error 2 'bytes' "$run" --bytes 99999999999999999999G
  expect_error 2 'seed' "$run" --seed -1
  expect_error 2 'out' "$run" --out ''
  expect_error 2 'colour' "$run" --colour red
  expect_error 1 'no/such/folder' "$run" --bytes 1K --out no/such/folder/x.txt
  mkdir folder
  expect_error 1 'folder: is not a regular file' "$run" --bytes 1K --out folder
  expect_error 1 '/dev/null: is not a regular file' "$run" --bytes 1K --out /dev/null
  [ -c /dev/null ] || die "/dev/null was replaced"
  if [ -e /dev/full ]; then
    cp a.txt kept.txt
    ln -s /dev/full a.txt.tmp
    expect_error 1 'No space left on device' "$run" --bytes 20K --seed 6 --out a.txt
    cmp a.txt kept.txt || die "a full disk changed the file"
    code=0
    "$run" --bytes 20K --out - >/dev/full 2>"$TMP/out" || code=$?
    [ $code -eq 1 ] || die "exit $code for a full standard output"
    expect_output 'No space left on device'
  fi
}

run_tests "$@"
