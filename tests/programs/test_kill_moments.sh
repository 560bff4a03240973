# kill -9 of one of four processes at random moments: at the start, in steps, in saves. All others end soon and name it,
# the saved files are complete, and the run continues from there to the same bits as a run without a kill.
# KILLS=20 SEED=1 tests/programs/test_kill_moments.sh   for more kills
source "$(dirname "$0")/lib.sh"
cd "$TMP"
trainer=$BUILD/train_gpt2
source "$SOURCE/tests/programs/processes.sh"
RANDOM=${SEED:-$$}

for i in $(seq 1 400); do
  echo "Fox number $((i * 7 % 101)) jumps over dog number $((i * 13 % 17)) and says: hello, friends."
done >text.txt
flags="--data text.txt --layers 3 --heads 2 --channels 48 --seq-len 16 --tokenizer bytes --sample-tokens 0 --batch-size 2"
flags="$flags --total-batch-tokens 256 --dropout 0.1 --precision fp32 --zero 3 --steps 60 --save-every 2 --eval-every 20 --keep 2"
# shellcheck disable=SC2086
expect_ok processes 4 $flags --run whole
resumed=0 begun_anew=0
for kill in $(seq 1 "${KILLS:-4}"); do
  rm -rf run
  # shellcheck disable=SC2086
  processes 4 --run run $flags >out 2>&1 &
  job=$!
  # The first moment is the start; later ones are anywhere in the run, which saves every other step.
  after=$((RANDOM % 58)) rank=$((RANDOM % 4))
  [ "$kill" -gt 1 ] || after=0
  while kill -0 $job 2>/dev/null; do
    [ "$after" -eq 0 ] && [ -n "$(pgrep -f "$trainer --run run")" ] && break
    [ -e run/metrics.jsonl ] && [ "$(grep -c '"loss"' run/metrics.jsonl)" -ge "$after" ] && break
    sleep 0.01
  done
  sleep "0.0$((RANDOM % 10))"
  kill -KILL "$(pid_of_rank run $rank)" 2>/dev/null || true
  begun=$SECONDS code=0
  wait $job || code=$?
  [ $((SECONDS - begun)) -lt 30 ] || die "the others ended $((SECONDS - begun)) s after rank $rank at step $after"
  if [ $code = 0 ]; then
    echo "kill $kill: rank $rank at step $after came too late"
    same_state whole run
    continue
  fi
  [ -z "$(pgrep -f "$trainer --run run")" ] || die "processes are still running"
  if [ -e run/latest ]; then
    # shellcheck disable=SC2086
    expect_ok processes 4 --run run --resume
    resumed=$((resumed + 1))
  else
    rm -rf run
    # shellcheck disable=SC2086
    expect_ok processes 4 --run run $flags
    begun_anew=$((begun_anew + 1))
  fi
  same_state whole run
  echo "kill $kill: rank $rank after step $after, done in $((SECONDS - begun)) s with the resumed run"
done
echo "$resumed resumed, $begun_anew begun anew"
