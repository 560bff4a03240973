# docs/writing-a-model.md: its code is that of the family that the tests use.
source "$(dirname "$0")/lib.sh"

test_code() {
  awk '/^```cpp$/ { code = 1; next } /^```$/ { code = 0 } code && NF { sub(/^ +/, ""); print }' \
    "$SOURCE/docs/writing-a-model.md" >shown
  [ "$(wc -l <shown)" -gt 20 ] || die "docs/writing-a-model.md shows $(wc -l <shown) lines of code"
  cat "$SOURCE"/tests/models/toy.h "$SOURCE"/tests/models/test_toy.c* | sed 's/^ *//' >real
  while IFS= read -r line; do
    grep -qF -- "$line" real || die "docs/writing-a-model.md shows a line that is not in tests/models/toy.h or its tests: $line"
  done <shown
  [ "$(wc -l <"$SOURCE/tests/models/toy.h")" -le 150 ] || die "tests/models/toy.h has more than 150 lines"
}
