# near_duplicates: pairs printed and left out, for each kind of file; everything it must refuse.
source "$(dirname "$0")/lib.sh"
export OMP_NUM_THREADS=1
near_duplicates=$BUILD/near_duplicates

test_smoke() {
  cat >rows.json <<'ROWS'
[{"instruction": "Rewrite the sentence in the passive voice.", "output": "one"},
 {"instruction": "Name three rivers of Asia.", "output": "two"},
 {"instruction": "Rewrite the sentence in the passive voice!", "output": "three"},
 {"instruction": "name three rivers of asia.", "output": "four"}]
ROWS
  expect_ok "$near_duplicates" --data rows.json --field instruction --out unique.json
  expect_output '^rows 1 and 3: 0\.9[0-9]+$'
  expect_output '^rows 2 and 4: 1\.0000$'
  expect_output '^  "Rewrite the sentence in the passive voice!"$'
  expect_output '^4 rows, 2 pairs above 0\.9; 2 rows without near duplicates$'
  expect_output '^wrote unique.json: 2 rows$'
  [ "$(grep -c '"output": "\(one\|two\)"' unique.json)" = 2 ] && [ "$(grep -c instruction unique.json)" = 2 ] || die "unique.json: $(cat unique.json)"
  expect_ok "$near_duplicates" --data rows.json --field output --quiet
  expect_output '^4 rows, 0 pairs above 0\.9; 4 rows'
  expect_ok "$near_duplicates" --data rows.json --field instruction --threshold 0.999 --threads 1
  expect_output '^4 rows, 1 pairs above 0\.999'

  printf 'label\ttext\nham\tsee you at eight\nspam\tsee you at eight\nham\tno\n' >rows.tsv
  expect_ok "$near_duplicates" --data rows.tsv --field text --out unique.tsv
  [ "$(cat unique.tsv)" = "$(printf 'label\ttext\nham\tsee you at eight\nham\tno')" ] || die "unique.tsv: $(cat unique.tsv)"
  printf 'a line\nanother one\nA line\n' >rows.txt
  expect_ok "$near_duplicates" --data rows.txt --quiet --out unique.txt
  [ "$(cat unique.txt)" = "$(printf 'a line\nanother one')" ] || die "unique.txt: $(cat unique.txt)"
  printf 'id,text\n1,"see you\nat eight"\n2,"See you\nat eight"\n3,no\n' >rows.csv
  expect_ok "$near_duplicates" --data rows.csv --field text --out unique.csv
  expect_output '^rows 2 and 4: 1\.0000$'
  [ "$(cat unique.csv)" = "$(printf 'id,text\n1,"see you\nat eight"\n3,no')" ] || die "unique.csv: $(cat unique.csv)"

  expect_error 2 'data is required' "$near_duplicates"
  for flags in '--threshold 0' '--threshold 1' '--threshold nan' '--threshold x' '--threads -1' '--nonsense'; do
    # shellcheck disable=SC2086
    expect_error 2 . "$near_duplicates" --data rows.json $flags
  done
  expect_error 2 'bare lines have no fields' "$near_duplicates" --data rows.txt --field text
  expect_error 1 'absent.json' "$near_duplicates" --data absent.json
  expect_error 1 'row 1: "input" is not there' "$near_duplicates" --data rows.json --field input
  expect_error 1 'cannot be' "$near_duplicates" --data rows.txt --out /nonexistent/x
}

run_tests "$@"
