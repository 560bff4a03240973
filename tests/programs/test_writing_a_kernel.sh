#!/usr/bin/env bash
# docs/writing-a-kernel.md: its files, taken from the page, are right, its tests detect faults, its counts are right.
. "$(dirname "$0")/lib.sh"
[ -x "$BUILD/test_sim" ] && [ -x "$BUILD/test_checked" ] || { echo "skipped: this build has no cudasim"; exit 0; }
command -v python3 >/dev/null || { echo "skipped: dev/mutation/mutate needs python3"; exit 0; }
page=$SOURCE/docs/writing-a-kernel.md root=$TMP/root
mkdir -p "$root"/{kernels,tests/kernels,dev/bench,dev/mutation}

# A file: its name on its own line, then a block of code. The explanations of survivors: the block that looks like them.
awk -v root="$root" '
  /^`.*`:$/ { name = substr($0, 2, length($0) - 3) }
  /^```/ { inside = !inside; if (!inside) name = ""; next }
  inside && name != "" { print > (root "/" name) }
  inside && / ## .* ## / { print > (root "/dev/mutation/survivors.txt") }' "$page"
for file in kernels/rmsnorm.h kernels/rmsnorm.cuh tests/kernels/test_rmsnorm.cu dev/bench/bench_rmsnorm.cu dev/mutation/survivors.txt; do
  [ -s "$root/$file" ] || die "the page has no $file"
done

# Steps 4 and 5: the tests pass, and detect every fault but the explained one.
expect_ok "$SOURCE/dev/mutation/mutate" --root "$root" --build "$BUILD" --jobs 1 kernels/rmsnorm.cuh
faults=$(grep -oE 'plants [0-9]+ faults' "$page" | grep -oE '[0-9]+')
expect_output "^\\| kernels/rmsnorm.cuh \\| $faults \\| .* 100.0 % \\|"
grep -q SURVIVED "$TMP/out" && { cat "$TMP/out"; die "a fault survives without an explanation on the page"; }

# Step 6: the ladder, compiled like another one, and linked in its place.
cd "$BUILD"
compile=$(python3 - "$BUILD" "$root" <<'END'
import json, shlex, sys
build, root = sys.argv[1:]
for entry in json.load(open(build + "/compile_commands.json")):
    if entry["file"].endswith("checked/dev_bench_bench_residual.cu.cpp"):
        words = shlex.split(entry["command"])
        out = words.index("-o") + 1
        print(words[out], shlex.join([words[0], "-I" + root, *words[1:out], root + "/ladder.o", "-c", root + "/ladder.cpp"]), sep="\n")
END
)
[ -n "$compile" ] || die "compile_commands.json does not say how a ladder is compiled"
echo "#include \"$root/dev/bench/bench_rmsnorm.cu\"" >"$root/ladder.cpp"
expect_ok bash -c "$(sed 1d <<<"$compile")"
object=$(head -n 1 <<<"$compile")
if [ -f CMakeFiles/bench_kernels_sim.dir/link.txt ]; then
  link=$(cat CMakeFiles/bench_kernels_sim.dir/link.txt)
else
  link=$(ninja -t commands bench_kernels_sim | tail -n 1)
fi
expect_ok bash -c "$(sed "s|$object|$root/ladder.o|; s|-o bench_kernels_sim |-o $root/bench |" <<<"$link")"
expect_ok "$root/bench" --only '^rmsnorm'
grep -E '^ +(a|version) .* (row|ideal)' "$page" | while IFS= read -r line; do
  grep -qF -- "$line" "$TMP/out" || { cat "$TMP/out"; die "the counts differ from those on the page: $line"; }
done
