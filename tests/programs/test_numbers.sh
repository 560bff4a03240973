# Every flag with a number, of every program: a value that is not a number is a usage error that names the flag, first.
source "$(dirname "$0")/lib.sh"

checked=0 seen=
check_flags() {  # PROGRAM [SUBCOMMAND]
  expect_ok "$@" --help
  local flag kind bad wrong
  while read -r flag kind; do
    wrong=('' nan)
    if [[ $seen != *" $kind "* ]]; then  # once per kind: all values that are not its numbers
      seen+=" $kind "
      wrong+=(inf -inf 1e ' 5' '5 ' 0x10 1,5 five)
      [ "$kind" = FLOAT ] && wrong+=(1e999) || wrong+=(1.5 010 99999999999999999999)
      [ "$kind" != UINT ] || wrong+=(-1)
    fi
    for bad in "${wrong[@]}"; do
      expect_error 2 "$flag" "$@" "$flag=$bad"
      checked=$((checked + 1))
    done
  done < <(sed -nE 's/^ +(-[A-Za-z0-9],)?(--[a-z0-9-]+) (INT|UINT|FLOAT)([^A-Za-z].*|)$/\2 \3/p' "$TMP/out" | sort -u)
}

for program in train_gpt2 generate finetune evaluate tokenize convert plot near_duplicates extend_vocabulary make_stories \
               plan predict bench_cpu; do
  [ -x "$BUILD/$program" ] || continue
  expect_ok "$BUILD/$program" --help
  commands=$(sed -n '/^Subcommands:/,$p' "$TMP/out" | sed -nE 's/^  ([a-z_]+) .*/\1/p')
  [ -n "$commands" ] || check_flags "$BUILD/$program"
  for command in $commands; do check_flags "$BUILD/$program" "$command"; done
done
[ $checked -gt 100 ] || die "only $checked values were tried: has the format of --help changed?"
