# A run over two machines, which are network namespaces with an address, a host name and a cable each: by variables, by
# ssh.sh and by mpirun; connections from other programs; the cable pulled.
source "$(dirname "$0")/lib.sh"
cd "$TMP"
skip() { echo "skipped: $*"; exit 77; }
[ -x "$BUILD/train_gpt2sim" ] || skip "train_gpt2sim was not built"
[ "$(id -u)" = 0 ] || skip "network namespaces need root"
command -v ip >/dev/null || skip "no ip (iproute2)"
a=wrought-$$-a b=wrought-$$-b
cleanup() {
  local ns pids
  for ns in $a $b; do
    pids=$(ip netns pids $ns 2>/dev/null || true)
    # shellcheck disable=SC2086
    [ -z "$pids" ] || kill -KILL $pids 2>/dev/null || true
    ip netns del $ns 2>/dev/null || true
  done
  wait 2>/dev/null || true
  rm -rf "$TMP"
}
trap cleanup EXIT
for ns in $a $b; do
  ip netns add $ns 2>out || skip "a network namespace cannot be made here: $(tail -n 1 out)"
  ip netns exec $ns true 2>out || skip "a network namespace cannot be entered here: $(tail -n 1 out)"
done
ip link add w$$a netns $a type veth peer name w$$b netns $b 2>out || skip "no cable (veth) between the two: $(cat out)"
for end in "$a w$$a 10.77.0.1" "$b w$$b 10.77.0.2"; do
  read -r ns link address <<<"$end"
  ip -n "$ns" addr add "$address/24" dev "$link"
  ip -n "$ns" link set "$link" up
  ip -n "$ns" link set lo up
done
# on ADDRESS COMMAND...: runs it there. A stand-in for ssh, also for mpirun's daemons.
cat >on <<END
#!/usr/bin/env bash
case \$1 in 10.77.0.1) ns=$a ;; 10.77.0.2) ns=$b ;; *) echo "no machine \$1" >&2; exit 255 ;; esac
name=host\${1##*.}
shift
exec ip netns exec \$ns unshare --uts sh -c "hostname \$name && \$*"
END
chmod +x on
./on 10.77.0.2 true 2>out || skip "a machine cannot have its own name here: $(tail -n 1 out)"
ip netns exec $b bash -c 'exec 2>/dev/null 3<>/dev/tcp/10.77.0.1/9' || [ $? = 1 ] || die "one cannot reach the other"

export OMP_NUM_THREADS=1 CUDASIM_THREADS=1 OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
trainer=$BUILD/train_gpt2sim
source "$SOURCE/tests/programs/processes.sh"
for i in $(seq 1 100); do
  echo "Fox number $((i * 7 % 101)) jumps over dog number $((i * 13 % 17)) and says: hello, friends."
done >text.txt
flags="--data text.txt --layers 1 --heads 2 --channels 16 --seq-len 16 --tokenizer bytes --sample-tokens 0 --eval-every 0
  --eval-steps 2 --batch-size 1 --total-batch-tokens 32 --precision fp32 --warmup-steps 2 --schedule constant"
wait_for() { # wait_for FILE COMMAND...: waits; shows the file after more than 20 s
  local file=$1
  shift
  for _ in $(seq 1 200); do
    if "$@" 2>/dev/null >/dev/null; then return; fi
    sleep 0.1
  done
  cat "$file"
  die "not within 20 s: $*"
}
listens() { ip netns exec $a ss -ltn | grep ":$1 "; }

# shellcheck disable=SC2086
{
# ---- by variables, with connections from other programs -------------------------------------------------------------
expect_ok "$BUILD/train_gpt2sim" $flags --run one --steps 6
export WORLD_SIZE=2 MASTER_ADDR=10.77.0.1 MASTER_PORT=29601 CUDASIM_NCCL_ADDR=10.77.0.1 WROUGHT_JOIN_TIMEOUT=20
start="$BUILD/train_gpt2sim ${flags//$'\n'/ } --run two --steps 6 --zero 1"
WROUGHT_TOKEN=ours RANK=0 ./on 10.77.0.1 $start >rank0 2>&1 &
rank0=$!
wait_for rank0 listens 29601
ip netns exec $b bash -c 'exec 3<>/dev/tcp/10.77.0.1/29601; echo "GET / HTTP/1.0" >&3; timeout 3 cat <&3 >/dev/null'
expect_error 1 "refused rank 1: its WROUGHT_TOKEN is not rank 0's" env WROUGHT_TOKEN=theirs RANK=1 ./on 10.77.0.2 $start
expect_error 1 'refused rank 2: its WORLD_SIZE is 3' env WROUGHT_TOKEN=ours WORLD_SIZE=3 RANK=2 ./on 10.77.0.2 $start
expect_error 1 'rank 0 cannot listen on port 29601 of host1: .*Choose another MASTER_PORT' env WROUGHT_TOKEN=ours RANK=0 ./on 10.77.0.1 $start
expect_error 1 'MASTER_ADDR is not set' env -u MASTER_ADDR RANK=1 ./on 10.77.0.2 $start
expect_error 1 'RANK is not set' env -u RANK ./on 10.77.0.2 $start
expect_ok env WROUGHT_TOKEN=ours RANK=1 ./on 10.77.0.2 $start
wait $rank0 || { cat rank0; die "rank 0 ended by $?"; }
grep -q 'refused a connection from 10.77.0.2:[0-9]*: it is not a process of wrought' rank0 || { cat rank0; die "nothing about the stranger"; }
[ "$(grep -c 'refused a connection' rank0)" = 3 ] || { cat rank0; die "others were refused, too"; }
same_curve one two 1e-5
expect_error 1 'rank 1 on host2 got no answer at 10.77.0.1 port 29601 in 1 s' env WROUGHT_JOIN_TIMEOUT=1 RANK=1 ./on 10.77.0.2 $start
unset WORLD_SIZE MASTER_ADDR MASTER_PORT

# ---- by mpirun -----------------------------------------------------------------------------------------------------
if command -v mpirun >/dev/null && ldd "$BUILD/train_gpt2" | grep libmpi >/dev/null; then
  expect_ok "$BUILD/train_gpt2" $flags --run one-mpi --steps 6
  expect_ok ./on 10.77.0.1 mpirun $mpi --mca plm_rsh_agent "$PWD/on" --mca oob_tcp_if_include 10.77.0.0/24 \
    --mca btl_tcp_if_include 10.77.0.0/24 -host 10.77.0.1:1,10.77.0.2:1 -n 2 "$BUILD/train_gpt2" $flags --run two-mpi --steps 6
  same_curve one-mpi two-mpi 1e-5
  grep -q '"ranks": 2' two-mpi/latest/trainer_state.json || die "not two processes"
else
  echo "left out: mpirun (it is not here, or train_gpt2 was built without MPI)"
fi

# ---- by ssh.sh; the cable pulled -----------------------------------------------------------------------------------
printf '# name and processes\n10.77.0.1 slots=1\n\n10.77.0.2 slots=1\n' >hosts.txt
over_ssh() { "$SOURCE/apps/launch/ssh.sh" --hosts hosts.txt --ssh ./on "$@"; }
over_ssh --port 29602 -- "$BUILD/train_gpt2sim" $flags --run cut --steps 100000 --save-every 2 --zero 3 >cut.out 2>&1 &
job=$!
wait_for cut.out test -s cut/latest/trainer_state.json
begun=$SECONDS
ip -n $b link set w$$b down
code=0
wait $job || code=$?
[ $((SECONDS - begun)) -lt 30 ] || die "the processes ended $((SECONDS - begun)) s after the cut"
[ "$code" = 75 ] || { cat cut.out; die "exit $code instead of 75"; }
grep -qE 'error: rank 1 \(host2, process [0-9]+\) gave no sign of life for 15 s' cut.out || { cat cut.out; die "rank 0 does not say who"; }
grep -qE 'error: rank 1 ends: rank 0 gave no sign of life for 15 s' cut.out || { cat cut.out; die "rank 1 does not say who"; }
ip -n $b link set w$$b up
steps=$(sed -n 's/^  "step": \([0-9]*\).*/\1/p' cut/latest/trainer_state.json)
expect_ok "$BUILD/train_gpt2sim" --run cut --resume --steps $((steps + 1))
# An error ends all, with its code; so does a missing machine.
expect_error 2 'expected 0 to 3' over_ssh --port 29603 -- "$BUILD/train_gpt2sim" $flags --run no --steps 10 --zero 4
echo '10.77.0.3 slots=1' >>hosts.txt
expect_error 255 'no connection to 10.77.0.3' env WROUGHT_JOIN_TIMEOUT=3 "$SOURCE/apps/launch/ssh.sh" --hosts hosts.txt --ssh ./on --port 29604 -- "$BUILD/train_gpt2sim" $flags --run no --steps 10
[ ! -e no ] || die "files were left: $(ls -R no)"
[ -z "$(ip netns pids $a)$(ip netns pids $b)" ] || die "processes are still running"
}
