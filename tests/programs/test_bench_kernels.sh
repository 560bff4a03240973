#!/usr/bin/env bash
# bench_kernels_sim: its flags, its results, its page, and that the kernels of kernels/ keep within the budget.
. "$(dirname "$0")/lib.sh"
run="$BUILD/bench_kernels_sim"
[ -x "$run" ] || { echo "skipped: this build has no cudasim"; exit 0; }
cd "$TMP"

# Flags.
expect_ok "$run" --help
expect_output '--write-budget'
expect_ok "$run" --list
expect_output '^layernorm_backward$'
expect_error 2 'colour' "$run" --colour red
expect_error 2 '--seconds' "$run" --seconds 3 # only a GPU has times
expect_error 2 'is not a regular expression' "$run" --only '('
expect_error 2 "no operation matches 'nothing'" "$run" --only nothing
expect_error 2 'excludes' "$run" --budget a.json --write-budget b.json

# Results: one operation, all versions; valid JSON, and a page that needs no other file.
expect_ok "$run" --only '^residual_forward$' --json r.json --html r.html
expect_output 'coalesced'
[ "$(grep -c '"kernel": true' r.json)" -eq 1 ] || die "not exactly one version is the kernel of kernels/"
[ "$(grep -c '"error"' r.json)" -eq 0 ] || die "a version is wrong"
grep -q '"dram_bytes"' r.json || die "no counts"
grep -qE '(src|href)="?(https?:|//)|@import|url\(|<script' r.html && die "the page needs another file"
grep -q '<meta name="viewport"' r.html && grep -q '<svg' r.html && grep -q '</html>' r.html || die "the page is incomplete"
if command -v python3 >/dev/null; then
  python3 -m json.tool r.json >/dev/null || die "r.json is not JSON"
fi
expect_ok "$run" --only '^residual_forward$' --quick --json quick.json --rows rows.jsonl
[ "$(grep -c '^{"operation":"residual_forward","size":".*","name":".*}$' rows.jsonl)" -eq 2 ] || die "--rows has not a line per version"
[ "$(grep -c '"idea"' quick.json)" -eq 2 ] || die "--quick is not the first and the last version"
expect_error 1 'no/such/folder' "$run" --only '^residual_forward$' --json no/such/folder/x.json

# The budget: all kernels keep within it; a smaller figure, a missing kernel or ladder, and an unknown one are reported.
budget="$SOURCE/dev/bench/budget.json"
expect_ok "$run" --budget "$budget"
expect_output 'within the budget'
for kernel in $("$SOURCE/dev/gpu/list_kernels.sh" "$SOURCE/kernels"); do
  [ $kernel = adamw_prepare_kernel ] && continue # a single thread that writes a struct of 32 bytes
  grep -q "\b$kernel\b" "$budget" || die "the budget lacks $kernel: no ladder of dev/bench runs it"
done
small() { # small SED-EXPRESSION REGEX: the budget after this change must fail with a matching line
  sed "$1" "$budget" >changed.json
  cmp -s "$budget" changed.json && die "this changed nothing: $1"
  expect_error 1 "$2" "$run" --only '^layernorm_forward$' --budget changed.json
}
small '/layernorm_forward N/,/kernels/ s/"dram_bytes_to_least": .*/"dram_bytes_to_least": 0.5,/' \
  'layernorm_forward N.*counted .*, allowed 0.5'
small 's/"sector_ratio": 1.0/"sector_ratio": 0.9/' 'sectors, for each that its bytes need: counted 1, allowed 0.9'
small 's/layernorm_forward_kernel</another_kernel</' 'layernorm_forward_kernel.*: not in changed.json'
small 's/layernorm_forward_kernel</another_kernel</' 'another_kernel.*no longer runs'
small 's/"layernorm_forward N/"layernorm_forward M/' 'layernorm_forward N.*: not in changed.json'
small 's/"sector_ratio": 1.0,/"sector_ratio": "one",/' 'sector_ratio.*not a number'
echo '{' >broken.json
expect_error 1 'broken.json' "$run" --only '^residual_forward$' --budget broken.json
expect_error 1 'missing.json' "$run" --only '^residual_forward$' --budget missing.json

# The current counts are within a budget written from them.
expect_ok "$run" --only '^(residual|layernorm)_forward$' --write-budget new.json
expect_ok "$run" --only '^(residual|layernorm)_forward$' --budget new.json
