# book: the figures that need neither the book's text nor GPT-2's vocabulary; the others say why they are left out.
source "$(dirname "$0")/lib.sh"
cd "$TMP"
export OMP_NUM_THREADS=2
unset WROUGHT_DATA
book=$BUILD/book

for i in $(seq 1 30); do echo "Fox number $((i * 7 % 101)) jumps over dog number $((i * 13 % 17)): no verdict."; done >text.txt
expect_ok "$book" --text text.txt --quick
# passes WHAT: its row has the book's figure twice (perplexity: to 1e-5), and says so.
passes() {
  awk -F ' *[|] ' -v what="  $1" '
    $1 == what && ($2 == $3 || ($2 + 0 == 48725.82 && $3 / $2 - 1 < 1e-5 && 1 - $3 / $2 < 1e-5)) && $4 == "pass" { found = 1 }
    END { exit !found }' out ||
    { cat out; die "no row passes: $1"; }
}
left_out() { grep -qF "  $1" out && grep -F "  $1" out | grep -qE "\| $2" || { cat out; die "not left out: $1"; }; }
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
left_out 'two processes: gradients averaged' 'not yet'
expect_output '^2[0-9] of the book.s figures pass, 0 fail, [0-9]+ are left out$'

# ---- what it must refuse -------------------------------------------------------------------------------------------
expect_error 1 'data/the-verdict.txt is missing; dev/data/the_verdict.sh' "$book" --quick
expect_error 1 'nowhere.txt is missing' "$book" --quick --text nowhere.txt
printf 'ab\xff' >bad.txt
expect_error 1 'bad.txt: not UTF-8' "$book" --quick --text bad.txt
"$BUILD/tokenize" train --tokenizer bpe:300 --data text.txt --out small.json >out || { cat out; die "no tokenizer to refuse"; }
expect_error 1 'small.json is not GPT-2.s: it has [0-9]+ ids, not 50257' "$book" --quick --text text.txt --tokenizer small.json
expect_error 1 'absent.json is not GPT-2.s' "$book" --quick --text text.txt --tokenizer absent.json
expect_error 2 . "$book" --nonsense
expect_error 2 . "$book" --threads -1
