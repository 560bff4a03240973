# Every flag that names an output, with everything that may be at its path: devices, pipes and open descriptors are
# written to directly, links are followed, the rest is refused by name before any work, and each keeps its kind.
source "$(dirname "$0")/lib.sh"
export OMP_NUM_THREADS=1

train=("$BUILD/train_gpt2" --data text.txt --tokenizer bytes --layers 1 --heads 1 --channels 16 --seq-len 16 --batch-size 2
  --steps 1 --sample-every 0 --eval-every 0)

# Commands that write a file OUT. `changes`: different bytes each time. `long`: takes minutes, or seconds here; runs to
# the point of writing only once.
files=(
  "plot loss --run run --out OUT"
  "plot metrics --run run --out OUT"
  "plot schedule --steps 5 --out OUT"
  "plot attention --model run/latest --prompt Line --out OUT"
  "tokenize train --tokenizer bytes --out OUT"
  "tokenize clean --in books --out OUT"
  "near_duplicates --data rows.tsv --out OUT"
  "convert --from run/latest --format llmc --force --to OUT"
  "predict --model gpt2-nano --batch-size 1 --seq-len 16 --json OUT"
  "plan --model gpt2 --json OUT"
  "long changes bench_cpu --quick --only lengths --precision fp32 --steps 1 --json OUT"
)
# Commands that write into a folder OUT. `refused`: only the refusals, because otherwise it would train.
folders=(
  "convert --from run/latest --to OUT"
  "extend_vocabulary --model run/latest --add-tokens <|x|> --to OUT"
  "tokenize shard --tokenizer bytes --data text.txt --out OUT"
  "train_gpt2 ${train[*]:1} --run OUT"
  "finetune classify --model run/latest --data classes.tsv --label-column 1 --text-column 2 --batch-size 2 --steps 1 --run OUT"
  "refused train_gpt2 ${train[*]:1} --search plan.json --run OUT"
  "refused finetune instruct --model run/latest --data rows.json --steps 1 --run OUT"
  "refused finetune dpo --model run/latest --data rows.json --steps 1 --run OUT"
)

# command ROW OUT: sets `words`, and the attributes of the row
command() {
  local -a row
  read -ra row <<<"$1"
  long='' changes='' refused=''
  while :; do
    case ${row[0]} in
      long) long=1 ;;
      changes) changes=1 ;;
      refused) refused=1 ;;
      *) break ;;
    esac
    row=("${row[@]:1}")
  done
  words=("$BUILD/${row[0]}" "${row[@]:1}")
  local last=$((${#words[@]} - 1))
  [ "${words[last]}" = OUT ] || die "no OUT at the end of: $1"
  words[last]=$2
}
kind() { echo "$(stat -c '%F %t %T' "$1" 2>/dev/null || echo nothing) $(readlink "$1" || true)"; }
# refuse MESSAGE ROW OUT [CODE]: it ends with this message before any other output, and OUT stays
refuse() {
  local before
  command "$2" "$3"
  before=$(kind "${3%/}")
  expect_error "${4:-1}" "$1" timeout 60 "${words[@]}"
  [ "$(grep -vc 'lists the flags' out)" = 1 ] || { cat out; die "worked before it refused: ${words[*]}"; }
  [ "$(kind "${3%/}")" = "$before" ] || die "$3 is now $(kind "${3%/}"), after: ${words[*]}"
}

make_data() {
  for i in $(seq 60); do echo "Line $i of a text, in which nothing much happens."; done >text.txt
  mkdir books && cp text.txt books/book.txt
  printf 'text\nthe same line of text\nthe same line of texts\nanother\n' >rows.tsv
  for i in $(seq 20); do printf 'good\tyes %d\nbad\tno %d\n' $i $i; done >classes.tsv
  echo '[{"instruction": "a", "input": "", "output": "b", "chosen": "b", "rejected": "c"}]' >rows.json
  echo '{"method": "grid", "parameters": {"lr": [0.1]}}' >plan.json
  expect_ok "${train[@]}" --run run
}

# Everything that may be at the path of an output.
make_places() {
  mkdir places && cd places
  mkdir -p folder in
  echo old >file
  mkfifo fifo
  ln -s fifo fifo_link
  ln -s loop_b loop_a && ln -s loop_a loop_b
  ln -s folder folder_link
  devices=(null)
  mknod null c 1 3 2>/dev/null && echo x 2>/dev/null >null ||
    { echo "skipped: own devices, which are not allowed here"; devices=(); }
  blocks=()
  mknod block b 7 200 2>/dev/null && blocks=(block)
  sockets=()
  python3 -c 'import socket; socket.socket(socket.AF_UNIX).bind("socket")' 2>/dev/null && sockets=(socket) ||
    echo "skipped: a socket, which takes Python to make"
  [ ${#devices[@]} = 0 ] || ln -s null null_link
  cd ..
}

# Files: written through links, to pipes, devices and descriptors; the rest is refused.
test_files() {
  make_data
  make_places
  if [ -x "$BUILD/bench_kernels_sim" ]; then
    for flag in json html rows write-budget; do
      files+=("long changes bench_kernels_sim --quick --only ^residual_forward\$ --$flag OUT")
    done
  else
    echo "skipped: bench_kernels_sim, which is not built here"
  fi
  for row in "${files[@]}"; do
    for place in "${blocks[@]}"; do refuse "places/$place: is a block device" "$row" places/$place; done
    for place in "${sockets[@]}"; do refuse "places/$place: is a socket" "$row" places/$place; done
    refuse 'places/loop_a: .*Too many levels of symbolic links' "$row" places/loop_a
    refuse "places/new/': expected a file name" "$row" places/new/
    refuse 'nowhere/new: cannot be written: .*No such file' "$row" nowhere/new
    refuse 'places/file/new: cannot be written: Not a directory' "$row" places/file/new
    for place in folder folder_link; do
      case $row in
        convert*) refuse "places/$place: expected a file for llm.c's format, found a folder" "$row" places/$place 2 ;;
        *) refuse "places/$place: is a folder" "$row" places/$place ;;
      esac
    done

    command "$row" places/dangling
    rm -f places/in/target && ln -sf in/target places/dangling
    expect_ok "${words[@]}"
    [ -L places/dangling ] && [ -s places/in/target ] || die "a link was not followed by: ${words[*]}"
    [ -z "$long" ] || continue
    mv places/in/target expected
    echo old >places/in/target
    ln places/in/target places/in/before
    expect_ok "${words[@]}"
    [ -L places/dangling ] && cmp places/in/target expected || die "a link was not followed by: ${words[*]}"
    [ "$(cat places/in/before)" = old ] || die "the file was not replaced whole by: ${words[*]}"
    rm places/in/before
    for place in fifo fifo_link; do
      command "$row" places/$place
      timeout 60 cat places/fifo >read &
      expect_ok timeout 60 "${words[@]}"
      wait $! || die "the FIFO received nothing from: ${words[*]}"
      cmp read expected || die "the FIFO received another file from: ${words[*]}"
    done
    for place in ${devices[@]+null null_link}; do
      command "$row" places/$place
      expect_ok "${words[@]}"
    done
    [ -p places/fifo ] && [ "$(readlink places/fifo_link)" = fifo ] || die "the FIFO is missing after: ${words[*]}"
    [ ${#devices[@]} = 0 ] || { [ -c places/null ] && [ "$(readlink places/null_link)" = null ]; } ||
      die "the device is missing after: ${words[*]}"
    # A descriptor that the program was given: its output is between what others write to the same file.
    command "$row" /proc/self/fd/7
    { echo before >&7 && expect_ok "${words[@]}" && echo after >&7; } 7>read
    { echo before && cat expected && echo after; } | cmp - read || die "wrong output at its descriptor: ${words[*]}"
  done
  [ -z "$(find places -name '*.tmp')" ] || die "left over: $(find places -name '*.tmp')"
  [ "$(cat places/file)" = old ] || die "places/file has changed"
}

# A reader that closes its end: the pipe holds less than the output.
test_lost_reader() {
  make_places
  mkdir books
  for i in $(seq 20000); do echo "Line $i of a text, in which nothing much happens."; done >books/book.txt
  head -c 1 places/fifo >/dev/null &
  expect_error 1 'places/fifo: cannot be written: Broken pipe' timeout 60 "$BUILD/tokenize" clean --in books --out places/fifo
  wait $!
}

# make_stories writes a second file next to its output, and only writes files.
test_make_stories() {
  make_places
  for place in folder fifo ${devices[@]+null null_link}; do
    refuse "places/$place: is not a regular file" "make_stories --bytes 1K --out OUT" places/$place
  done
  ln -sf in/stories places/dangling
  expect_ok "$BUILD/make_stories" --bytes 1K --out places/dangling
  [ -L places/dangling ] && [ -s places/in/stories ] || die "make_stories did not follow a link"
}

# Folders: written through links; the rest is refused.
test_folders() {
  make_data
  make_places
  ln -sfn in/nowhere places/dangling
  for row in "${folders[@]}"; do
    refuse 'places/file: expected a folder, found a file' "$row" places/file
    refuse 'places/file: expected a folder, found a file' "$row" places/file/below
    refuse 'places/fifo_link: expected a folder, found a FIFO' "$row" places/fifo_link
    refuse 'places/fifo: expected a folder, found a FIFO' "$row" places/fifo
    for place in "${blocks[@]}"; do refuse 'expected a folder, found a block device' "$row" places/$place; done
    for place in "${sockets[@]}"; do refuse 'expected a folder, found a socket' "$row" places/$place; done
    for place in ${devices[@]+null null_link}; do
      refuse "places/$place: expected a folder, found a character device" "$row" places/$place
    done
    refuse 'places/dangling: expected a folder, found a link to in/nowhere' "$row" places/dangling
    refuse 'places/loop_a: .*Too many levels of symbolic links' "$row" places/loop_a
    [ -z "$refused" ] || continue
    rm -rf places/folder && mkdir places/folder
    command "$row" places/folder_link
    expect_ok "${words[@]}"
    [ "$(readlink places/folder_link)" = folder ] && [ -n "$(ls places/folder)" ] || die "a link was not followed by: ${words[*]}"
  done
}

# /dev/stdout and the like, in a private /dev.
test_standard_streams() {
  make_places
  cat >private.sh <<'END'
set -euo pipefail
mount -t tmpfs tmpfs /dev
mknod -m 666 /dev/null c 1 3
mknod -m 666 /dev/full c 1 7
ln -s /proc/self/fd /dev/fd
ln -s /proc/self/fd/1 /dev/stdout
ln -s /proc/self/fd/2 /dev/stderr
ln -s /proc/self/fd/0 /dev/stdin
touch ready
die() { echo "FAILED: $*" >&2; exit 1; }
plot() { "$BUILD/plot" schedule --steps 5 --out "$@"; }
plot file.svg >/dev/null
size=$(stat -c %s file.svg)
# Other output is not part of the file.
plot /dev/stdout 2>said | cmp - file.svg || die "/dev/stdout, a pipe"
[ "$(cat said)" = "wrote /dev/stdout ($size bytes)" ] || die "said: $(cat said)"
plot /dev/stdout >out.svg 2>said
cmp out.svg file.svg || die "/dev/stdout, a file"
"$BUILD/tokenize" train --tokenizer bytes --out /dev/stdout >out.json 2>said
"$BUILD/tokenize" train --tokenizer bytes --out file.json >/dev/null
cmp out.json file.json || die "/dev/stdout, a tokenizer"
plot /dev/stderr 2>out.svg >/dev/null
cmp out.svg file.svg || die "/dev/stderr"
plot /dev/fd/5 5>out.svg >/dev/null
cmp out.svg file.svg || die "/dev/fd/5"
plot >(cat >out.svg) >/dev/null
tries=0
while ! cmp -s out.svg file.svg; do ((++tries < 100)) || die "a process substitution"; sleep 0.1; done
plot /dev/null >out
for bad in "/dev/stdin </dev/null:is not open for writing" "/dev/fd/9:is not open" "/dev/full:No space left on device"; do
  code=0
  eval "plot ${bad%%:*}" >out 2>&1 || code=$?
  [ $code = 1 ] && grep -q "${bad#*:}" out || die "exit $code for $bad: $(cat out)"
done
[ -c /dev/null ] && [ -c /dev/full ] || die "a device was replaced"
[ "$(readlink /dev/stdout /dev/stderr /dev/stdin /dev/fd | tr '\n' ' ')" = "/proc/self/fd/1 /proc/self/fd/2 /proc/self/fd/0 /proc/self/fd " ] ||
  die "a link was replaced"
[ "$(find /dev -type f | wc -l)" = 0 ] || die "in /dev: $(find /dev -type f)"
END
  if [ ${#devices[@]} = 0 ] || ! BUILD=$BUILD unshare --mount --propagation private bash private.sh 2>private.err; then
    [ ! -e ready ] || { cat private.err; die "in a private /dev"; }
    echo "skipped: /dev/stdout and the like, which need a private mount namespace with devices"
    exit 77
  fi
}

run_tests "$@"
