# Sourced by tests/programs/test_*.sh, which test whole programs. $BUILD holds the binaries, $SOURCE the checkout; $TMP
# is an empty folder, removed at the end.
set -euo pipefail
: "${BUILD:?set BUILD to the folder with the binaries}" "${SOURCE:?set SOURCE to the checkout}"
TMP=$(mktemp -d)
trap 'rm -rf "$TMP"' EXIT

die() { echo "FAILED: $*" >&2; exit 1; }

# expect_ok COMMAND...: must exit 0; its output is left in $TMP/out.
expect_ok() {
  local code=0
  "$@" >"$TMP/out" 2>&1 || code=$?
  [ $code -eq 0 ] || { cat "$TMP/out"; die "exit $code from: $*"; }
}

# expect_error CODE REGEX COMMAND...: must exit CODE with output that matches REGEX (grep -E).
expect_error() {
  local expected=$1 pattern=$2 code=0
  shift 2
  "$@" >"$TMP/out" 2>&1 </dev/null || code=$?
  [ $code -eq "$expected" ] || { cat "$TMP/out"; die "exit $code instead of $expected from: $*"; }
  grep -qE -- "$pattern" "$TMP/out" || { cat "$TMP/out"; die "no message like '$pattern' from: $*"; }
}

# expect_output REGEX: the last command's output must have a line that matches.
expect_output() { grep -qE -- "$1" "$TMP/out" || { cat "$TMP/out"; die "no output like '$1'"; }; }

# A script is a list of functions test_NAME, each of which can run by itself in an empty folder ($TMP, the current one).
# `run_tests "$@"` at the end runs the named one, or all of them, each in its own process. test_smoke is run by `make
# test`: the program once, in seconds.
run_tests() {
  local name code failed=0
  if [ "${1:-all}" != all ]; then
    declare -F "test_$1" >/dev/null || die "there is no test_$1 in $0"
    cd "$TMP"
    "test_$1"
    return
  fi
  for name in $(sed -n 's/^test_\([a-z0-9_]*\)().*/\1/p' "$0"); do
    code=0
    bash "$0" "$name" || code=$?
    [ $code = 0 ] || [ $code = 77 ] || { echo "FAILED: $(basename "$0") $name" >&2; failed=1; }  # 77: skipped; it printed the reason
  done
  return $failed
}
