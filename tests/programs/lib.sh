# Sourced by tests/programs/test_*.sh, which run a program whole. $BUILD holds the binaries, $SOURCE the checkout;
# $TMP is an empty folder, removed at the end.
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
  local want=$1 pattern=$2 code=0
  shift 2
  "$@" >"$TMP/out" 2>&1 </dev/null || code=$?
  [ $code -eq "$want" ] || { cat "$TMP/out"; die "exit $code instead of $want from: $*"; }
  grep -qE -- "$pattern" "$TMP/out" || { cat "$TMP/out"; die "no message like '$pattern' from: $*"; }
}

# expect_output REGEX: the last command's output must have a line like it.
expect_output() { grep -qE -- "$1" "$TMP/out" || { cat "$TMP/out"; die "no output like '$1'"; }; }
