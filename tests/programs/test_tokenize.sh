# tokenize: vocabularies of each kind trained, text encoded and decoded, shards written; bad input refused.
source "$(dirname "$0")/lib.sh"
tokenize=$BUILD/tokenize
golden=$SOURCE/tests/golden
text=$golden/tokenizer_text.txt
export OMP_NUM_THREADS=1

# there_and_back NAME: trains that vocabulary, which must decode to the original text; sets $file and writes the ids.
there_and_back() {
  file=$TMP/${1%:*}.json
  expect_ok "$tokenize" train --tokenizer "$1" --data "$text" --out "$file"
  "$tokenize" encode --tokenizer "$file" --data "$text" >"$TMP/ids"
  "$tokenize" decode --tokenizer "$file" <"$TMP/ids" | cmp - "$text" || die "$1 does not decode to the original text"
}

# Each kind of vocabulary is trained and decodes to the original text; a missing text.
test_smoke() {
  for name in bytes chars bpe:300; do there_and_back $name; done
  expect_ok "$tokenize" shard --tokenizer "$TMP/bpe.json" --data "$text" --out "$TMP/shards" --val-fraction 0.2
  [ -s "$TMP/shards/train.bin" ] && [ -s "$TMP/shards/val.bin" ] || die "shards are missing"
  expect_error 1 'absent' "$tokenize" train --tokenizer chars --data "$TMP/absent.txt" --out "$TMP/x.json"
  [ ! -e "$TMP/x.json" ] || die "a failed training wrote a file"
}

# Every kind decodes to the original text.
test_kinds() {
  for name in bytes chars bpe:400; do
    there_and_back $name
    "$tokenize" encode --tokenizer "$file" --threads 2 <"$text" | cmp - "$TMP/ids" || die "standard input differs from --data"
  done
  "$tokenize" encode --tokenizer "$golden/tokenizer_bpe.json" --data "$text" | cmp - "$golden/tokenizer_ids.txt" || die "ids differ"

  expect_ok "$tokenize" encode --tokenizer bytes --text "Hi"
  expect_output '^72 105$'
  expect_ok "$tokenize" encode --tokenizer bytes --special --text "a<|endoftext|>"
  expect_output '^97 256$'
  expect_ok "$tokenize" encode --tokenizer bytes --text ""
  expect_ok "$tokenize" decode --tokenizer bytes --ids "72, 105"
  expect_output '^Hi$'

  # Shards.
  expect_ok "$tokenize" shard --tokenizer "$TMP/bpe.json" --data "$text" --out "$TMP/shards" --val-fraction 0.2
  [ -s "$TMP/shards/train.bin" ] && [ -s "$TMP/shards/val.bin" ] && [ -s "$TMP/shards/tokenizer.json" ] || die "shards are missing"
}

# A folder of books is cleaned.
test_clean() {
  mkdir -p "$TMP/books"
  printf 'x\n*** START OF THE PROJECT GUTENBERG EBOOK A ***\n\n\nOne.\n\n\nTwo.\n*** END OF THE PROJECT GUTENBERG EBOOK A ***\nx\n' >"$TMP/books/a.txt"
  printf 'A cup of coffee in the caf\xe9.\n' >"$TMP/books/b.txt"
  printf 'αβγδ\n' >"$TMP/books/c.txt"
  expect_ok "$tokenize" clean --in "$TMP/books" --out "$TMP/clean.txt"
  expect_output 'left out: .*/c.txt: 20.0 % of it is ASCII'
  expect_output 'clean.txt: 2 of 3 files, 54 bytes of .*; 1 lost Project Gutenberg.s licence, 1 were Latin-1'
  printf 'One.\n\nTwo.\n<|endoftext|>A cup of coffee in the café.\n' | cmp - "$TMP/clean.txt" || die "the clean text differs"
  expect_ok "$tokenize" clean --in "$TMP/books" --out "$TMP/clean.txt" --min-ascii 0
  expect_output '3 of 3 files'
  expect_error 2 'min-ascii' "$tokenize" clean --in "$TMP/books" --out "$TMP/c" --min-ascii 2
  mkdir "$TMP/greek" && mv "$TMP/books/c.txt" "$TMP/greek"
  expect_error 1 'none of 1 files is kept' "$tokenize" clean --in "$TMP/greek" --out "$TMP/c"
  expect_error 1 'absent' "$tokenize" clean --in "$TMP/absent" --out "$TMP/c"
  [ ! -e "$TMP/c" ] || die "a failed cleaning wrote a file"
}

test_usage() {
  expect_error 2 'subcommand' "$tokenize"
  expect_error 2 'tokenizer is required' "$tokenize" encode --text a
  expect_error 2 'name it with --data' "$tokenize" train --tokenizer chars --out "$TMP/x.json"
  expect_error 2 'expected bpe:N' "$tokenize" train --tokenizer bpe:many --data "$text" --out "$TMP/x.json"
  expect_error 2 'a BPE vocabulary has 257' "$tokenize" train --tokenizer bpe:100 --data "$text" --out "$TMP/x.json"
  expect_error 2 'neither bytes, chars' "$tokenize" encode --tokenizer nothing --text a
  expect_error 2 'excludes' "$tokenize" encode --tokenizer bytes --text a --data "$text"
  expect_error 2 'decoding needs the vocabulary' "$tokenize" decode --tokenizer bpe:300 --ids 1
  expect_error 2 'threads' "$tokenize" encode --tokenizer bytes --text a --threads -1
  expect_error 2 'val-fraction' "$tokenize" shard --tokenizer bytes --data "$text" --out "$TMP/s" --val-fraction 1.5
  [ ! -e "$TMP/x.json" ] || die "a refused training wrote a file"
}

# Bad input: no file is written.
test_bad_input() {
  expect_ok "$tokenize" train --tokenizer chars --data "$text" --out "$TMP/chars.json"
  printf 'ab\xffcd' >"$TMP/invalid.txt"
  : >"$TMP/empty.txt"
  head -c 3000 "$golden/tokenizer_bpe.json" >"$TMP/cut.json"
  expect_error 1 'absent' "$tokenize" train --tokenizer chars --data "$TMP/absent.txt" --out "$TMP/x.json"
  expect_error 1 'empty' "$tokenize" train --tokenizer bpe:300 --data "$TMP/empty.txt" --out "$TMP/x.json"
  expect_error 1 'byte.* 2' "$tokenize" train --tokenizer bpe:300 --data "$TMP/invalid.txt" --out "$TMP/x.json"
  [ ! -e "$TMP/x.json" ] || die "a failed training wrote a file"
  expect_ok "$tokenize" encode --tokenizer bytes --data "$TMP/invalid.txt" --lossy
  expect_output '^97 98 239 191 189 99 100$'
  expect_error 1 'cut off or damaged' "$tokenize" encode --tokenizer "$TMP/cut.json" --text a
  expect_error 1 'lacks the character' "$tokenize" encode --tokenizer "$TMP/chars.json" --text "ꙮ"
  expect_error 1 'outside the vocabulary' "$tokenize" decode --tokenizer bytes --ids 999
  expect_error 1 "'12x' at byte 3 is not a token id" "$tokenize" decode --tokenizer bytes --ids "72 12x"
  expect_error 1 'is not a token id' "$tokenize" decode --tokenizer bytes --ids 99999999999
  expect_error 1 'cannot be written' "$tokenize" train --tokenizer bytes --out /nonexistent/x.json
  (cd "$TMP" && WROUGHT_DATA= expect_error 1 'dev/data/gpt2_tokenizer.sh' "$tokenize" encode --tokenizer gpt2 --text a)
  if [ -e /dev/full ]; then
    code=0
    "$tokenize" encode --tokenizer bytes --text a >/dev/full 2>"$TMP/err" || code=$?
    [ $code -eq 1 ] && grep -q 'No space left' "$TMP/err" || die "a full disk was not reported"
  fi
}

run_tests "$@"
