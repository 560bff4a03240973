# tokenize encode: bytes that are not UTF-8 mean the same in --data, standard input and --text; trainings that end early.
source "$(dirname "$0")/lib.sh"
tokenize=$BUILD/tokenize

printf 'abc\xff\xfede\xe2\x82f' >"$TMP/text.txt"
expected='97 98 99 239 191 189 239 191 189 100 101 239 191 189 102'  # as Python's bytes.decode(errors="replace")
data() { "$tokenize" encode --tokenizer bytes --data "$TMP/text.txt" "$@"; }
input() { "$tokenize" encode --tokenizer bytes "$@" <"$TMP/text.txt"; }
text() { "$tokenize" encode --tokenizer bytes --text "$(cat "$TMP/text.txt")" "$@"; }
for way in data input text; do
  expect_ok $way --lossy
  expect_output "^$expected\$"
  expect_error 1 'not UTF-8: byte 0xFF at offset 3;.* --lossy' $way
done
input() { "$tokenize" encode --tokenizer "$TMP/chars.json" "$@" <"$TMP/text.txt"; }
printf 'abcdef\xef\xbf\xbd' >"$TMP/chars.txt"
expect_ok "$tokenize" train --tokenizer chars --data "$TMP/chars.txt" --out "$TMP/chars.json"
expect_ok input --lossy
expect_output '^0 1 2 6 6 3 4 6 5$'
expect_error 1 'offset 3' input

# Ids that decode to bytes that are not UTF-8 (cut inside a character) cannot be encoded again without --lossy.
expect_ok "$tokenize" decode --tokenizer bytes --ids '97 226 130'
expect_error 1 'standard input: not UTF-8: byte 0xE2 at offset 1' \
  sh -c '"$0" decode --tokenizer bytes --ids "97 226 130" | "$0" encode --tokenizer bytes' "$tokenize"

# A training that gives fewer tokens than requested says why; a complete one says nothing.
printf 'aab aab' >"$TMP/short.txt"
for command in "train --out $TMP/x.json" encode "shard --out $TMP/shards --val-fraction 0"; do
  # shellcheck disable=SC2086
  expect_ok "$tokenize" ${command%% *} --tokenizer bpe:1000 --data "$TMP/short.txt" $(echo "$command" | cut -sd' ' -f2-)
  expect_output '^--tokenizer bpe:1000: the training ended with 259 tokens: no pair of tokens occurs twice any more'
done
expect_ok "$tokenize" train --tokenizer bpe:258 --data "$TMP/short.txt" --out "$TMP/x.json"
! grep -q 'ended' "$TMP/out" || die "a complete training says that it ended early"
