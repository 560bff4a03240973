# The targets of make that README.md names, in a fresh clone of the files that git tracks, as they are now. Executed:
# every recipe of the Makefile, dev/setup.sh, CMake's configuration, and the runs that `make train` starts. Simulated:
# nothing is compiled and no test is run. Instead of `cmake --build`, a dry run lists the programs that a target links;
# these are put in place (train_gpt2 as built in $BUILD, the others as programs that do nothing). Instead of `ctest`,
# its list of tests to run is taken, and the programs of each must be among those.
source "$(dirname "$0")/lib.sh"
cd "$TMP"
export OMP_NUM_THREADS=2
skip() { echo "skipped: $*"; exit 77; }
[ -x "$BUILD/train_gpt2" ] || skip "no train_gpt2 in $BUILD"
git -C "$SOURCE" rev-parse --is-inside-work-tree >/dev/null 2>&1 || skip "the source is not a git checkout"

mkdir clone shims
git -C "$SOURCE" ls-files -z --cached --others --exclude-standard |
  tar -C "$SOURCE" --null --ignore-failed-read -T - -cf - 2>/dev/null | tar -C clone -xf -

cat >shims/cmake <<'END'
#!/bin/bash
# --build FOLDER ARGS...: puts in place the programs that would be linked. Otherwise CMake, with repeated answers
# cached.
set -euo pipefail
if [ "$1" != --build ]; then
  known=$TMP/configured.$(cksum <<<"$*" | tr -d ' ')
  if [ ! -e "$known" ]; then
    "$CMAKE" "$@" >"$known.part" 2>&1 || { code=$?; cat "$known.part"; exit $code; }
    mv "$known.part" "$known"
  fi
  cat "$known"
  exit 0
fi
folder=$2
cd "$folder"
# make, unlike ninja, stops at an object, a library or a precompiled header that another target would make.
if [ ! -e "$TMP/touched.$folder" ]; then
  cat CMakeFiles/*/link.txt 2>/dev/null | tr ' ' '\n' | grep -E '^[^/].*\.[ao]$' | sort -u >"$TMP/touched.$folder" || true
  sed 's|[^/]*$||; s|^$|.|' "$TMP/touched.$folder" | sort -u | xargs -r mkdir -p
  xargs -r touch <"$TMP/touched.$folder"
  for header in CMakeFiles/*/cmake_pch.hxx; do [ ! -e "$header" ] || touch "$header.gch"; done
fi
cd "$OLDPWD"
"$CMAKE" --build "$folder" --target help | grep -oE '[A-Za-z0-9_]+' | sort -u >"$TMP/targets"
for name in $(sed -n 's/.*--target //p' <<<"$*"); do
  grep -qx "$name" "$TMP/targets" || { echo "CMake knows no target $name"; exit 1; }
done
keep_going=-k
[ ! -e "$folder/build.ninja" ] || keep_going='-k 0'
"$CMAKE" "$@" -- -n $keep_going >"$TMP/dry" 2>&1 || true  # targets that depend on a missing program are not visited
sed -n 's/.*Linking CXX executable \([A-Za-z0-9_]*\).*/\1/p' "$TMP/dry" | sort -u >"$TMP/linked"
while read -r name; do
  case $name in
    train_gpt2) ln -sf "$PROGRAMS/train_gpt2" "$folder/$name" ;;
    *) printf '#!/bin/sh\necho "%s $*" >>"%s/ran"\n' "$name" "$TMP" >"$folder/$name" && chmod +x "$folder/$name" ;;
  esac
done <"$TMP/linked"
END
cat >shims/ctest <<'END'
#!/bin/bash
# Fails if a test selected by these arguments has a missing program: a target named in its command, or as $BUILD/NAME in
# its script.
set -euo pipefail
"$CTEST" "$@" -N -V >"$TMP/tests" 2>&1 || { cat "$TMP/tests"; exit 1; }
folder=$PWD/$(sed 's/.*--test-dir \([^ ]*\).*/\1/' <<<"$*")
grep -E 'Test command: ' "$TMP/tests" >"$TMP/commands" || { echo "no test is picked by: ctest $*"; exit 1; }
wrong=0
while read -r line; do
  names=$(grep -oE "$folder/[A-Za-z0-9_]+" <<<"$line" | sed 's|.*/||' || true)
  script=$(grep -oE '[^" ]*/tests/programs/test_[a-z0-9_]+\.sh' <<<"$line" || true)
  if [ -n "$script" ]; then  # only the named one of its functions test_NAME
    function=test_$(sed 's/.*\.sh"* *"*//; s/".*//' <<<"$line")
    names+=" $(awk -v mine="$function" '/^test_[a-z0-9_]+\(\)/ { other = mine != "test_all" && index($0, mine "()") != 1 } !other; /^}/ { other = 0 }' "$script" |
      grep -oE '\$\{?BUILD\}?/[A-Za-z0-9_]+' | sed 's|.*/||' | sort -u || true)"
  fi
  for name in $names; do
    [ -e "$folder/$name" ] || ! grep -qx "$name" "$TMP/targets" ||
      { echo "not built: $name, of the test: ${line#*command: }"; wrong=1; }
  done
done <"$TMP/commands"
! grep -E 'Could not find executable|NOT_AVAILABLE' "$TMP/tests" || wrong=1
wc -l <"$TMP/commands" >"$TMP/picked"
exit $wrong
END
cat >shims/g++ <<'END'
#!/bin/bash
# dev/setup.sh asks it for each header, in every target again: one answer each is enough.
set -euo pipefail
[ "${*: -1}" = - ] || exec "$GXX" "$@"
source=$(cat)
known=$TMP/header.$(cksum <<<"$source" | tr -d ' ')
[ -e "$known" ] || { "$GXX" "$@" <<<"$source" 2>/dev/null && echo 0 || echo 1; } >"$known"
exit "$(cat "$known")"
END
for name in apt-get sudo curl wget; do printf '#!/bin/sh\necho "%s: not in a test" >&2\nexit 1\n' $name >shims/$name; done
chmod +x shims/*
CMAKE=$(command -v cmake) CTEST=$(command -v ctest) GXX=$(command -v g++ || echo false)
export TMP CMAKE CTEST GXX PROGRAMS=$BUILD PATH="$TMP/shims:$PATH"
unset BUILD MAKEFLAGS MAKELEVEL MFLAGS DATA ARGS VERDICT CUDA_ARCH

cd clone
# Files that would otherwise be downloaded: only their size is checked.
mkdir data && touch data/gpt2.tiktoken
head -c 1115394 /dev/zero | tr '\0' a >data/tinyshakespeare.txt
head -c 20479 /dev/zero | tr '\0' a >data/the-verdict.txt
small="--tokenizer bytes --layers 1 --heads 1 --channels 16 --seq-len 16 --batch-size 2 --steps 1 --eval-every 0 --sample-every 0"

# target ARGS...: make in a clone in which nothing is built yet
target() {
  ran+=" ${1:-all}"
  rm -f "$TMP/linked" "$TMP/picked" "$TMP/ran"
  [ ! -e build ] || find build build-* -maxdepth 1 \( -type f -perm -100 -o -type l \) -delete 2>/dev/null || true
  local code=0
  make "$@" >"$TMP/out" 2>&1 || code=$?
  [ $code = 0 ] && return
  if grep -q '^missing: ' "$TMP/out"; then
    echo "skipped: make $*: $(grep '^missing: ' "$TMP/out")"
  elif [ "${1:-}" = cuda ] && grep -q '^left out: CUDA programs' "$TMP/out"; then
    echo "make cuda: $(grep '^left out: CUDA programs' "$TMP/out")"
  else
    cat "$TMP/out"
    die "exit $code from: make $*"
  fi
}
linked() { for name in "$@"; do grep -qx "$name" "$TMP/linked" || die "not built: $name"; done; }
ran=''

target configure
target test
linked train_gpt2 generate test_library test_kernels
if [ -e "$TMP/picked" ]; then
  all=$(cat "$TMP/picked")
  [ "$all" -gt 100 ] || die "make test picks $all tests"
fi
target test-all
target sanitize
make -n test-deep >/dev/null || die "make test-deep"
ran+=" test-deep"
target
linked train_gpt2 generate finetune evaluate tokenize convert plot
cp README.md book.txt
for data in book.txt shakespeare; do
  target train DATA=$data ARGS="$small"
  linked "$(cat build/trainer.txt)"
done
[ "$(cat build/trainer.txt)" != train_gpt2 ] || [ -e runs/book/latest/model.safetensors ] || die "make train saved no model"
target book ARGS=--quick
grep -q '^book --quick$' "$TMP/ran" || die "make book does not run book"
target cuda CUDA_ARCH=90a
target bench
if grep -qx train_gpt2sim "$TMP/targets"; then
  target sim
  linked train_gpt2sim
  target bench-sim
  grep -q '^bench_kernels_sim --json build/bench_sim.json --html build/bench_sim.html$' "$TMP/ran" || die "make bench-sim: $(cat "$TMP/ran")"
  target check-kernels
  linked test_checked
  [ "$(cat "$TMP/picked")" -gt 15 ] || die "make check-kernels runs $(cat "$TMP/picked") tests"
else
  echo "skipped: sim, bench-sim, check-kernels: cudasim is left out here"
  ran+=" sim bench-sim check-kernels"
fi
target clean
[ ! -e build ] && [ ! -e build-sanitize ] || die "make clean leaves a build"

# Are these all targets that README.md and the pages name?
named=$(sed -nE 's/^    make( +#.*| *)$/all/p; s/^    make ([a-z-]+).*/\1/p' README.md docs/*.md)
named+=" $(grep -hoE '`make [a-z-]+' README.md docs/*.md | sed 's/.* //')"
[ "$(wc -w <<<"$named")" -gt 10 ] || die "README.md names no targets: $named"
for name in $named; do
  [[ " $ran " = *" $name "* ]] || die "a page names make $name, which is not tried here"
done
