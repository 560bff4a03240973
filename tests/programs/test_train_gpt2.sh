# train_gpt2: tiny runs from text to checkpoint, stopped and resumed, and everything it must refuse.
source "$(dirname "$0")/lib.sh"
export OMP_NUM_THREADS=1
trainer=$BUILD/train_gpt2

make_text() {
  for i in $(seq 1 200); do
    echo "Fox number $((i * 7 % 101)) jumps over dog number $((i * 13 % 17)) and says: hello, friends."
  done >text.txt
}

# train FLAGS...: the trainer with a tiny model on text.txt, unless FLAGS say otherwise.
train() {
  local given=" $* " flags=()
  for flag in '--data text.txt' '--layers 1' '--heads 2' '--channels 16' '--seq-len 16' '--batch-size 4' '--tokenizer bytes' '--sample-tokens 0' '--precision fp32'; do
    # shellcheck disable=SC2206
    [[ $given == *" ${flag% *} "* ]] || flags+=($flag)
  done
  ${run_by:-} "$trainer" "${flags[@]}" "$@"
}
losses() { grep -o '"loss":[^,}]*' "$1/metrics.jsonl"; }
latest() { readlink "$1/latest"; }
same_state() {  # two runs ended in the same state, bit for bit, with the same losses
  for file in model.safetensors optimizer.safetensors; do
    cmp "$1/latest/$file" "$2/latest/$file" || die "$file differs between $1 and $2"
  done
  diff <(losses "$1") <(losses "$2") >"$TMP/out" || { cat "$TMP/out"; die "losses differ between $1 and $2"; }
}

hard=(--steps 12 --save-every 5 --keep 0 --dropout 0.2 --total-batch-tokens 192 --eval-every 4)

make_unbroken() {  # a run of $hard
  make_text
  expect_ok train --run unbroken "${hard[@]}"
}

make_whole() {  # a run of 40 steps, with two checkpoints kept
  make_text
  expect_ok train --run whole --steps 40 --eval-every 20 --save-every 10 --keep 2 --sample-tokens 8 --sample-every 20 --prompt Fox
}

make_huge() {  # the model of whole with the largest floats as weights
  cp -rL whole/latest huge
  header=$(od -An -t u8 -N 8 huge/model.safetensors)
  size=$(stat -c %s huge/model.safetensors)
  { head -c $((8 + header)) whole/latest/model.safetensors; head -c $((size - 8 - header)) /dev/zero | tr '\0' '\177'; } >huge/model.safetensors
}

expect_refused() {  # CODE REGEX COMMAND...: and no run folder is left
  expect_error "$1" "$2" "${@:3}" --run refused
  [ ! -e refused ] || die "a refused run left $(find refused)"
}

# A short training, its sample, a resume, and an unknown flag.
test_smoke() {
  make_text
  expect_ok train --run short --steps 10 --save-every 5 --eval-every 10 --sample-tokens 8 --sample-every 10 --prompt Fox
  expect_output '^step 10/10 \| loss [0-9.]+ \| norm [0-9.]+ '
  expect_output '^step 10 \| validation loss [0-9.]+ per token'
  expect_output '^Fox'
  cp -r short unbroken && rm -r short/checkpoints/step_000010 && ln -sfn checkpoints/step_000005 short/latest
  expect_ok "$trainer" --run short --resume
  expect_output 'after step 5'
  same_state short unbroken
  expect_refused 2 'nonsense' train --nonsense
}

# From text to a model: output, log and checkpoints.
test_text_to_model() {
  make_whole
  expect_output '^step 40/40 \| loss [0-9.]+ \| norm [0-9.]+ \| lr [0-9.e-]+ \| [0-9]+ ms \| [0-9]+ tok/s \| [0-9]+ % of peak$'
  expect_output '^step 20 \| validation loss [0-9.]+ per token, [0-9.]+ nats per byte$'
  expect_output '^Fox'
  [ "$(grep -c -- '--- sample ---' out)" = 2 ] || die "expected two samples"
  [ "$(losses whole | wc -l)" = 40 ] || die "metrics.jsonl: expected 40 losses"
  [ "$(grep -c val_loss whole/metrics.jsonl)" = 3 ] || die "metrics.jsonl: expected validations at 0, 20 and 40"
  head -1 whole/metrics.jsonl | grep -q '"config":{.*"steps":40' || die "metrics.jsonl does not begin with the configuration"
  losses whole | awk -F: 'NR == 1 { first = $2 } END { exit !($2 < first - 0.3) }' || die "the loss does not fall"
  [ "$(ls whole/checkpoints | tr '\n' ' ')" = "step_000030 step_000040 " ] || die "--keep 2 kept $(ls whole/checkpoints)"
  [ "$(latest whole)" = checkpoints/step_000040 ] || die "latest points to $(latest whole)"
  for file in config.json model.safetensors tokenizer.json optimizer.safetensors trainer_state.json; do
    [ -s whole/latest/$file ] || die "the checkpoint has no $file"
  done
}

# Every kind of tokenizer and data.
test_kinds_of_data() {
  make_whole
  expect_ok train --run chars --steps 1 --tokenizer chars
  expect_ok train --run bpe --steps 1 --tokenizer bpe:300
  expect_output '^tokenizer: bpe, 300 ids$'
  mkdir -p texts/more && cp text.txt texts/a.txt && cp text.txt texts/more/b.md
  expect_ok train --data texts/ --steps 1
  expect_ok train --data texts/ --steps 1
  [ -e runs/texts/latest ] && [ -e runs/texts-2/latest ] || die "the default folders are $(ls runs)"
  expect_ok train --run noval --steps 2 --val-fraction 0
  grep -q val_loss noval/metrics.jsonl && die "it validated without validation data"
  expect_ok train --run epochs --epochs 0.05
  expect_ok train --data whole/data/train.bin --val-data whole/data/val.bin --tokenizer whole/latest --run shards --steps 2
  [ "$(grep -c val_loss shards/metrics.jsonl)" -ge 2 ] || die "--val-data was not used"
  echo 'whole/data/tr*.bin' >parts.list
  expect_ok train --data parts.list --tokenizer '' --vocab-size 300 --run listed --steps 1
  expect_ok train --data 'whole/data/tr*.bin' --tokenizer '' --vocab-size 300 --run bare --steps 1
  cmp bare/latest/model.safetensors listed/latest/model.safetensors || die "a list gives other shards than the glob"
  expect_output '^tokenizer: none'
  [ ! -e bare/latest/tokenizer.json ] || die "a tokenizer appeared without one given"
}

# Training from a model directory: its shape, its tokenizer.
test_from_model() {
  make_whole
  expect_ok "$trainer" --data text.txt --model whole/latest --seq-len 12 --batch-size 2 --steps 2 --run tuned
  expect_output '\(1 layers, 2 heads, 16 channels, context 16, vocabulary 257\)'
  first=$(losses tuned | head -1 | cut -d: -f2)
  awk "BEGIN { exit !($first < 5.2) }" || die "the first loss is $first: the weights of whole were not used"
}

# Resumed from the middle, as after a crash that left later lines in the log: the run equals an unbroken one.
test_same_again() {
  make_unbroken
  cp -r unbroken crashed
  rm -r crashed/checkpoints/step_000010 crashed/checkpoints/step_000012
  mkdir crashed/checkpoints/step_000010.tmp
  ln -sfn checkpoints/step_000005 crashed/latest
  printf '{"step":13,"lo' >>crashed/metrics.jsonl
  expect_ok "$trainer" --run crashed --resume
  expect_output 'after step 5'
  same_state unbroken crashed
  [ "$(grep -c '"config"' crashed/metrics.jsonl)" = 1 ] || die "the resumed run logged its configuration again"
  [ ! -e crashed/checkpoints/step_000010.tmp ] || die "a half-written checkpoint was not removed"
  expect_ok train --run again "${hard[@]}"
  same_state unbroken again
  expect_ok train --run seed "${hard[@]}" --seed 2
  cmp -s unbroken/latest/model.safetensors seed/latest/model.safetensors && die "--seed changes nothing"

  # A finished run, and one that is extended.
  expect_ok "$trainer" --run again --resume
  expect_output 'nothing to do: again has done 12 of 12 steps'
  expect_ok "$trainer" --run again --resume --steps 14
  [ "$(latest again)" = checkpoints/step_000014 ] || die "a longer run ended at $(latest again)"
  [ "$(losses again | wc -l)" = 14 ] || die "metrics.jsonl: expected 14 losses"

  # The reference does not depend on the number of threads.
  expect_ok train --run one --steps 4 --reference --threads 1
  expect_ok train --run two --steps 4 --reference --threads 2
  same_state one two
}

# Every instruction set trains to the same curve (the program itself omits those that the machine lacks).
test_instruction_sets() {
  make_text
  for isa in portable avx2 avx512 avx512_bf16; do
    WROUGHT_ISA=$isa expect_ok train --run $isa --steps 6 --seq-len 16 --total-batch-tokens 192
    paste -d: <(losses portable) <(losses $isa) |
      awk -F: '{ d = $2 - $4; if (d < 0) d = -d; if (d > 1e-5) exit 1 } END { exit NR != 6 }' || die "$isa differs from portable"
  done
}

# bf16, if the CPU has it: close to fp32, the same bits when repeated and after a resume.
test_bf16() {
  make_text
  if grep -q avx512_bf16 /proc/cpuinfo; then
    half=(--precision bf16 --steps 12 --save-every 6 --dropout 0.1)
    expect_ok train --run half "${half[@]}"
    expect_ok train --run single --steps 12 --save-every 6 --dropout 0.1
    paste -d: <(losses half) <(losses single) |
      awk -F: '{ d = $2 / $4 - 1; if (d < 0) d = -d; if (d > 0.01) exit 1 } END { exit NR != 12 }' || die "bf16 is far from fp32"
    cmp -s half/latest/model.safetensors single/latest/model.safetensors && die "--precision bf16 changes nothing"
    ln -sfn checkpoints/step_000006 half/latest
    cp -r half resumed && rm -r resumed/checkpoints/step_000012
    expect_ok "$trainer" --run resumed --resume
    ln -sfn checkpoints/step_000012 half/latest
    same_state half resumed
    expect_ok train --check --precision bf16
  else
    echo "left out: training in bf16 (this CPU has no AVX512-BF16)"
  fi
}

# Accumulation equals a bigger batch.
test_accumulation() {
  make_text
  expect_ok train --run big --steps 6 --batch-size 8
  for size in 4 2; do
    expect_ok train --run accumulated-$size --steps 6 --batch-size $size --total-batch-tokens 128
    paste -d: <(losses big) <(losses accumulated-$size) |
      awk -F: '{ d = $2 - $4; if (d < 0) d = -d; if (d > 1e-4) exit 1 } END { exit NR != 6 }' || die "accumulation differs from a bigger batch"
  done
}

# Recomputation changes memory, not results, and may be changed on resume.
test_recompute() {
  make_text
  for recompute in gelu block; do
    expect_ok train --run $recompute --layers 2 --steps 4 --dropout 0.1 --recompute $recompute
    expect_ok train --memory --layers 2 --recompute $recompute
    sed -n 's/^total *\([0-9]*\) bytes$/\1/p' out >$recompute.bytes
  done
  expect_ok train --run kept --layers 2 --steps 2 --dropout 0.1 --schedule constant --warmup-steps 0
  expect_ok "$trainer" --run kept --resume --steps 4 --recompute block
  expect_ok train --run keptwhole --layers 2 --steps 4 --dropout 0.1 --schedule constant --warmup-steps 0
  same_state kept keptwhole
  same_state gelu block
  [ "$(cat block.bytes)" -lt "$(cat gelu.bytes)" ] || die "--recompute block saves nothing"
}

# Muon: learns, has no v for the blocks' matrices, and resumes like an unbroken run; not as AdamW.
test_muon() {
  make_unbroken
  expect_ok train --run muon "${hard[@]}" --optimizer muon
  head -1 muon/metrics.jsonl | grep -q '"optimizer":"muon"' || die "the record lacks the optimizer"
  losses muon | awk -F: 'NR == 1 { first = $2 } END { exit !($2 < first - 0.3) }' || die "the loss does not fall under Muon"
  cmp -s unbroken/latest/model.safetensors muon/latest/model.safetensors && die "--optimizer muon changes nothing"
  grep -q '"m.h.0.attn.c_attn.weight"' muon/latest/optimizer.safetensors || die "no momentum was saved"
  grep -q '"v.h.0.attn.c_attn.weight"' muon/latest/optimizer.safetensors && die "a v that Muon does not have was saved"
  cp -r muon muonresumed
  rm -r muonresumed/checkpoints/step_000010 muonresumed/checkpoints/step_000012
  ln -sfn checkpoints/step_000005 muonresumed/latest
  expect_ok "$trainer" --run muonresumed --resume
  same_state muon muonresumed
  expect_error 2 '--optimizer: the run has "muon", given is "adamw"' "$trainer" --run muon --resume --steps 20 --optimizer adamw
  expect_error 2 '--optimizer: the run has "adamw", given is "muon"' "$trainer" --run unbroken --resume --steps 20 --optimizer muon
  cp -r unbroken exchanged  # a state that names one optimizer but holds that of the other; without its checksum, as version 1
  sed -i -z -E 's/"optimizer": "adamw"/"optimizer": "muon"/; s/,\n  "(checksum|version)": ("[^"]*"|[0-9]+)//g' exchanged/latest/trainer_state.json
  expect_error 1 'optimizer.safetensors: the state of --optimizer adamw, expected that of muon' "$trainer" --run exchanged --resume --steps 20
  expect_ok train --memory --optimizer muon
  expect_output '^Muon, AdamW m '
  expect_output '^Muon scratch +[0-9]+$'
  [ ! -e runs ] || die "a refused run, or --memory, left a folder: $(ls runs)"
}

# Moments in bf16: half their memory, resumed bit for bit, and exchanged for float ones and back.
test_moments() {
  make_unbroken
  expect_ok train --run moments "${hard[@]}" --moments bf16
  head -1 moments/metrics.jsonl | grep -q '"moments":"bf16"' || die "the record lacks the moments' type"
  cmp -s unbroken/latest/optimizer.safetensors moments/latest/optimizer.safetensors && die "--moments bf16 changes nothing"
  paste -d: <(losses moments) <(losses unbroken) |
    awk -F: '{ d = $2 / $4 - 1; if (d > 0.01 || d < -0.01) exit 1 }' || die "--moments bf16 gives another loss"
  cp -r moments resumed
  rm -r resumed/checkpoints/step_000010 resumed/checkpoints/step_000012
  ln -sfn checkpoints/step_000005 resumed/latest
  cp -r resumed asfloat
  expect_ok "$trainer" --run resumed --resume
  same_state moments resumed
  expect_ok "$trainer" --run asfloat --resume --moments float
  cmp -s asfloat/latest/optimizer.safetensors moments/latest/optimizer.safetensors && die "--moments float changes nothing on resume"
  expect_ok "$trainer" --run asfloat --resume --moments bf16 --steps 14
  for moments in float bf16; do
    expect_ok train --memory --moments $moments
    sed -n 's/^AdamW [mv] .* \([0-9]*\)$/\1/p' out >$moments.bytes
  done
  paste float.bytes bf16.bytes | awk '$1 != 2 * $2 { exit 1 } END { exit NR != 2 }' || die "--moments bf16 does not halve m and v"
  expect_ok train --kernels --moments bf16
  expect_output '^adamw_update_bf16 +fast'
  expect_refused 2 'moments bf16 is for AdamW.s moments, and --optimizer muon keeps its momentum in float' train --moments bf16 --optimizer muon
  expect_refused 2 "moments is 'fp8', expected one of float bf16" train --moments fp8
}

# Logits chunk by chunk: less memory, the same losses; another chunk may be given on resume.
test_loss_chunk() {
  make_text
  expect_ok train --run whole --steps 8 --schedule constant --warmup-steps 0
  for chunk in 1 13 64 1000; do
    expect_ok train --run chunk-$chunk --steps 8 --schedule constant --warmup-steps 0 --loss-chunk $chunk
    paste -d: <(losses chunk-$chunk) <(losses whole) |
      awk -F: '{ d = $2 - $4; if (d > 1e-5 || d < -1e-5) exit 1 } END { exit NR != 8 }' || die "--loss-chunk $chunk gives another loss"
    expect_ok train --memory --loss-chunk $chunk
    expect_output "^logits +\($((chunk < 64 ? chunk : 64)), 384\) "
  done
  head -1 chunk-13/metrics.jsonl | grep -q '"loss-chunk":13' || die "the record lacks the chunk"
  expect_ok "$trainer" --run chunk-13 --resume --steps 9 --loss-chunk 5
  expect_refused 2 'loss-chunk is -1, expected 0 to' train --loss-chunk -1
  expect_refused 2 'loss-chunk' train --loss-chunk few
}

# An average of the weights: the saved model holds it, training continues from the weights.
test_average() {
  make_unbroken
  expect_ok train --run averaged "${hard[@]}" --ema 0.9
  paste -d: <(losses averaged) <(losses unbroken) | awk -F: '$2 != $4 { exit 1 }' || die "--ema changes training"
  cmp -s averaged/latest/model.safetensors unbroken/latest/model.safetensors && die "--ema changes nothing"
  grep -q '"weights.wte.weight"' averaged/latest/optimizer.safetensors || die "the weights to continue from were not saved"
  cp -r averaged averagedresumed
  rm -r averagedresumed/checkpoints/step_000010 averagedresumed/checkpoints/step_000012
  ln -sfn checkpoints/step_000005 averagedresumed/latest
  expect_ok "$trainer" --run averagedresumed --resume
  same_state averaged averagedresumed
  expect_error 2 '--ema: the run has 0.9, given is 0.5' "$trainer" --run averaged --resume --steps 20 --ema 0.5
  expect_error 2 '--ema is 1, expected 0 to' train --ema 1
  expect_ok train --memory --ema 0.9
  expect_output '^average of weights '
  [ ! -e runs ] || die "a refused run, or --memory, left a folder: $(ls runs)"
}

# The book's model: an untied head, no bias on queries, keys and values, PyTorch's weights, decay of everything.
test_book_model() {
  make_text
  book=(--steps 12 --save-every 5 --keep 0 --untied-head --no-qkv-bias --init book --weight-decay 5 --warmup-steps 4 --start-lr 1e-5)
  expect_ok train --run book "${book[@]}" --decay all
  expect_output '^model: 11744 parameters'  # 257 x 16 twice, 16 x 16, a block without 48 biases, the last layernorm
  losses book | awk -F: 'NR == 1 { first = $2 } END { exit !($2 < first) }' || die "the loss of the book's model does not fall"
  grep -m 1 -o '"lr":[^,}]*,"ms"' book/metrics.jsonl | grep -q '^"lr":1e-05,' || die "--start-lr is not the rate of the first step"
  cp -r book bookresumed
  rm -r bookresumed/checkpoints/step_000010 bookresumed/checkpoints/step_000012
  ln -sfn checkpoints/step_000005 bookresumed/latest
  expect_ok "$trainer" --run bookresumed --resume
  same_state book bookresumed
  expect_ok train --run matrices "${book[@]}"
  cmp -s book/latest/model.safetensors matrices/latest/model.safetensors && die "--decay changes nothing"
  expect_ok train --check --untied-head --no-qkv-bias
  expect_ok "$trainer" --data text.txt --model book/latest --seq-len 16 --batch-size 4 --steps 1 --run bookmore
  expect_output '^model: 11744 parameters'
  expect_error 2 '--init contradict --model book/latest' "$trainer" --data text.txt --model book/latest --untied-head --run refused
}

# A signal: the step is finished and saved, and the run can be resumed.
test_signals() {
  make_text
  constant=(--schedule constant --warmup-steps 0 --eval-every 0 --save-every 0 --dropout 0.1)
  for signal in INT TERM; do
    # Replaces the shell, which would keep the signal; a script's background jobs ignore SIGINT by default.
    run_by="exec env --default-signal=INT" train --run stopped$signal "${constant[@]}" --steps 1000000 >out 2>&1 &
    pid=$!
    for _ in $(seq 600); do grep -qs '"step":3,' stopped$signal/metrics.jsonl && break; sleep 0.05; done
    kill -s $signal $pid
    code=0
    wait $pid || code=$?
    [ $code -eq 0 ] || { tail -5 out; die "exit $code after SIG$signal"; }
    step=$(sed -n 's/^stopped by signal [0-9]* after step \([0-9]*\); continue with.*--resume$/\1/p' out)
    [ -n "$step" ] || { tail -5 out; die "SIG$signal: no word of where to continue"; }
    [ "$(latest stopped$signal)" = "checkpoints/$(printf step_%06d "$step")" ] || die "SIG$signal: the last step was not saved"
  done
  expect_ok "$trainer" --run stoppedTERM --resume --steps $((step + 2))
  expect_ok train --run unstopped "${constant[@]}" --steps $((step + 2))
  same_state stoppedTERM unstopped
}

# A loss that is not finite: five in a row end the run.
test_not_finite() {
  make_whole
  make_huge
  expect_error 1 'not finite in 5 steps in a row, up to step [0-9]+; the last good checkpoint is broken/checkpoints/step_[0-9]+: .*--model' \
    train --run broken --steps 100 --lr 10 --weight-decay 10 --grad-clip 0 --schedule constant --save-every 2
  grep -q "$(latest broken)" out || die "the checkpoint named is not the latest"
  [ "$(grep -c '"skipped":true' broken/metrics.jsonl)" = 5 ] || die "expected 5 steps logged as skipped"
  expect_output 'NOT FINITE'
  expect_error 1 'no checkpoint was saved yet' "$trainer" --data text.txt --model huge --batch-size 4 --steps 9 --run never
  expect_output '^no sample: the model.s logits are not finite'
}

# Inspection without training: --memory, --check, --kernels.
test_inspection() {
  make_whole
  make_huge
  expect_ok train --memory --run looked
  expect_output '^total +[0-9]+ bytes$'
  expect_output '^block.0.fch +\(64, 64\) +16384$'
  expect_ok train --check --run looked --dropout 0.1
  expect_output 'the model agrees with the reference'
  WROUGHT_ISA=portable expect_ok train --kernels --precision fp32 --run looked
  expect_output '^matmul_forward +fast, portable$'
  expect_output '^attention_backward +fast, portable$'
  expect_output '^embedding_forward +plain loops$'
  grep -q 'dropout\|muon' out && die "--kernels names operations that the run does not have"
  expect_ok train --kernels --reference --precision fp32 --dropout 0.1 --optimizer muon --run looked
  expect_output '^dropout_backward +plain loops$'
  expect_output '^muon_update +plain loops$'
  grep -q fast out && die "--reference names fast kernels"
  expect_error 1 'precision bf16 needs a CPU with AVX512-BF16' env WROUGHT_ISA=avx2 "$trainer" --kernels --precision bf16 --data text.txt --tokenizer bytes
  expect_error 2 "give one of them" train --check --reference --run looked
  expect_error 1 'beyond tolerance' "$trainer" --data text.txt --model huge --check
  [ ! -e looked ] || die "--memory, --kernels or --check made a run"
  [ ! -e runs ] || die "an inspection left a run: $(ls runs)"
}

# A full disk: latest stays, and the run continues when there is room again.
test_full_disk() {
  make_whole
  cp -r whole full
  before=$(latest full)
  (
    trap '' XFSZ  # without it the system ends a program that passes the limit
    ulimit -f 40  # KB: the model fits, the optimizer's state does not
    expect_error 1 'optimizer.safetensors.*(File too large|No space left)' "$trainer" --run full --resume --steps 44
  )
  [ "$(latest full)" = "$before" ] || die "a failed save moved latest"
  [ "$(ls full/checkpoints | tr '\n' ' ')" = "step_000030 step_000040 " ] || die "a failed save left $(ls full/checkpoints)"
  expect_ok "$trainer" --run full --resume --steps 44
  [ "$(latest full)" = checkpoints/step_000044 ] || die "the run did not continue after a full disk"
  if [ -e /dev/full ]; then
    code=0
    "$trainer" --help >/dev/full 2>err || code=$?
    code=0
    train --memory >/dev/full 2>err || code=$?
    [ $code -eq 1 ] && grep -q 'cannot be written' err || die "a full disk at standard output was not reported"
  fi
}

# Text and data that cannot be trained on.
test_bad_data() {
  make_whole
  printf 'ab\xffcd' | cat - text.txt >invalid.txt
  : >empty.txt
  head -c 40 text.txt >short.txt
  mkdir -p nothing
  expect_refused 1 'absent.txt.*No such file' train --data absent.txt
  expect_refused 1 'empty.txt: the file is empty' train --data empty.txt
  expect_refused 1 'invalid.txt: not UTF-8: byte 0xFF at offset 2' train --data invalid.txt
  expect_refused 1 'needs [0-9]+; give more text' train --data short.txt
  expect_refused 1 'validation has [0-9]+ tokens.*--val-fraction' train --data text.txt --val-fraction 0.001
  expect_refused 1 'holds no text' train --data nothing
  expect_ok "$trainer" --data invalid.txt --lossy --run lossy --steps 1

  shard=whole/data/train.bin
  expect_refused 1 'absent.bin' train --data absent.bin
  expect_refused 1 'no file matches' train --data 'absent*.bin'
  echo 'absent*.bin' >absent.list
  expect_refused 1 'absent.list, line 1: .*no file matches' train --data absent.list
  head -c 500 $shard >bad.bin
  expect_refused 1 'fewer than the 1024' train --data bad.bin
  head -c 5000 $shard >bad.bin
  expect_refused 1 'truncated' train --data bad.bin
  { cat $shard; printf xx; } >bad.bin
  expect_refused 1 '2 bytes follow' train --data bad.bin
  { printf 'oops'; tail -c +5 $shard; } >bad.bin
  expect_refused 1 'not a token shard' train --data bad.bin
  { head -c 4 $shard; printf '\7\0\0\0'; tail -c +9 $shard; } >bad.bin
  expect_refused 1 'version 7, expected 1' train --data bad.bin
  expect_refused 1 'token 0 is 70, but the vocabulary has 50 entries' train --data $shard --tokenizer '' --vocab-size 50
  expect_refused 2 'made from text' train --data $shard --tokenizer bpe:300
  expect_refused 2 'goes with --data shards' train --data text.txt --val-data $shard
}

# Weights in other formats than a directory; models and tokenizers that do not match.
test_models_and_tokenizers() {
  make_whole
  expect_ok train --run bpe --steps 1 --tokenizer bpe:300
  expect_ok "$BUILD/convert" --from whole/latest --to whole.bin
  for model in whole/latest whole.bin; do
    expect_ok "$trainer" --data text.txt --model $model --tokenizer bytes --run from --steps 1 --batch-size 1 --sample-tokens 0
    grep -o 'loss [0-9.]* ' out | head -2 >losses.$(basename $model)
    rm -r from
  done
  cmp losses.latest losses.whole.bin || die "training from llm.c's .bin begins elsewhere"

  expect_refused 1 'not a preset.*config.json is missing' "$trainer" --data text.txt --model gpt5
  expect_refused 2 'context of the model in whole/latest is 16' "$trainer" --data text.txt --model whole/latest --seq-len 17
  expect_refused 2 'has its own shape' "$trainer" --data text.txt --model whole/latest --layers 2
  expect_refused 1 'tokenizer bpe/latest.*300.*257' "$trainer" --data text.txt --model whole/latest --tokenizer bpe/latest
  expect_refused 2 'vocab-size is 100, but the tokenizer has 257' train --data text.txt --vocab-size 100
  expect_refused 2 'prompt cannot be encoded' train --data text.txt --tokenizer chars --sample-tokens 5 --prompt 'ꙮ'
  cp -rL whole/latest cut && head -c 9000 whole/latest/model.safetensors >cut/model.safetensors
  expect_refused 1 'cut/model.safetensors' "$trainer" --data text.txt --model cut
  cp -rL whole/latest mute && rm mute/tokenizer.json
  expect_refused 1 'mute has no tokenizer.json' "$trainer" --data text.txt --model mute
  expect_refused 1 'text.txt: .*not a model file of llm.c' "$trainer" --data text.txt --model text.txt --tokenizer bytes
  sed -i 's/GPT2LMHeadModel/GPT2ForSequenceClassification/' mute/config.json
  expect_refused 1 'mute: a classifier of 2 classes' "$trainer" --data text.txt --model mute --tokenizer bytes
  expect_refused 1 'this machine has' "$trainer" --data text.txt --layers 4096 --channels 1048576 --heads 1 --tokenizer bytes
}

# Flags that are refused.
test_bad_flags() {
  make_text
  for flags in '--steps 1e3' '--steps -1' '--steps 99999999999999999999' '--seed -1' '--lr nan' '--lr -1' '--lr 11' '--layers x' \
    '--layers -1' '--layers 5000' '--batch-size 2.5' '--batch-size 9999999999' '--beta2 1' '--dropout 1' '--schedule stairs' \
    '--optimizer sgd' '--keep -1' '--threads -1' '--val-fraction 0.95' '--save-every -2' '--nonsense' 'loose' '--steps 5 --epochs 1' \
    '--steps 5 --warmup-steps 6' '--lr 0.1 --min-lr 0.2' '--lr 0.1 --start-lr 0.2' '--init zeros' '--init book' '--decay none' '--total-batch-tokens 65' '--memory --check' '--kernels --memory' '--kernels --check' '--resume' '--lossy maybe' \
    '--batch-size 1000000 --seq-len 1000000' '--total-batch-tokens 8999999999999936' \
    '--precision fp8' '--precision tf32' '--precision tf32 --memory' '--precision tf32 --check' '--precision bf16 --reference' \
    '--precision bf16 --no-master-weights' '--recompute all' '--no-master-weights'; do
    code=0
    # shellcheck disable=SC2086
    "$trainer" --data text.txt --channels 16 --heads 2 --tokenizer bytes $([[ $flags == *len* ]] || echo --seq-len 16) $flags >out 2>&1 || code=$?
    [ $code -eq 2 ] || { cat out; die "exit $code instead of 2 from: $flags"; }
  done
  expect_refused 2 'precision tf32 needs a GPU .build/train_gpt2cu.' train --precision tf32
  WROUGHT_ISA=avx512 expect_refused 1 'bf16 needs a CPU with AVX512-BF16 instructions; this one has (avx512|avx2|portable)' train --precision bf16
  expect_refused 1 '3 heads do not divide 16 channels' train --heads 3
  expect_ok "$trainer" --help
  expect_output '--total-batch-tokens'
  [ ! -e runs/text ] || die "a refused run left its folder"
}

# A run's folder, and resuming: refused runs change nothing.
test_bad_resume() {
  make_whole
  make_huge
  mkdir nothing
  sum() { find "$1" -type f -exec cksum {} + | sort; }
  sum whole >sums
  expect_error 1 'whole already holds a run' train --run whole --steps 1
  expect_error 1 'text.txt.*(folder|directory)' train --run text.txt --steps 1
  expect_error 2 'the run has 1, given is 2' "$trainer" --run whole --resume --layers 2
  expect_error 2 '--lr: the run has 0.00[0-9]+, given is 0.5' "$trainer" --run whole --resume --lr 0.5 --schedule cosine
  expect_output '--schedule: the run has "linear", given is "cosine"'
  expect_error 1 'nowhere: .*no such folder' "$trainer" --run nowhere --resume
  expect_error 1 'found no checkpoint' "$trainer" --run nothing --resume
  sum whole | diff - sums || die "a refused run changed the folder"
  if [ "$(id -u)" = 0 ]; then
    echo "skipped: a folder that cannot be written (root may write everywhere)"
  else
    mkdir -m 500 locked
    expect_error 1 'locked.*Permission denied' train --run locked/run --steps 1
  fi
  damaged() {  # a copy of whole, to be damaged
    rm -rf damaged && cp -r whole damaged
  }
  damaged && printf 'X' | dd of=damaged/latest/model.safetensors bs=1 seek=5000 conv=notrunc status=none
  expect_error 1 'model.safetensors: damaged: its checksum' "$trainer" --run damaged --resume --steps 50
  damaged && truncate -s -4 damaged/latest/optimizer.safetensors
  expect_error 1 'optimizer.safetensors: damaged' "$trainer" --run damaged --resume --steps 50
  damaged && rm damaged/latest/tokenizer.json
  expect_error 1 'tokenizer.json' "$trainer" --run damaged --resume --steps 50
  damaged && echo '{' >damaged/latest/trainer_state.json
  expect_error 1 'trainer_state.json: not JSON' "$trainer" --run damaged --resume --steps 50
  for change in 's/"step": 40/"step": "40"/' 's/"batch": [0-9]*/"batch": 99999999/' 's/"epoch": [0-9]*/"epoch": -1/' \
    's/"lr": [^,]*/"lr": "x"/' 's/"seq-len": 16/"seq-len": 0/' 's/"updates": 40/"updates": 41/'; do
    damaged && sed -i -z -E 's/,\n  "(checksum|version)": ("[^"]*"|[0-9]+)//g' damaged/latest/trainer_state.json
    sed -i "$change" damaged/latest/trainer_state.json
    expect_error 1 'trainer_state.json|position|batch|epoch' "$trainer" --run damaged --resume --steps 50
  done
  damaged && cp whole/data/val.bin damaged/data/train.bin
  expect_error 1 'not what the run began with' "$trainer" --run damaged --resume --steps 50
  damaged && rm damaged/latest
  expect_error 1 'leads nowhere, but there is damaged/checkpoints/step_000040' "$trainer" --run damaged --resume
  expect_ok "$trainer" --run damaged/checkpoints/step_000030 --resume --steps 31
  [ "$(latest damaged)" = checkpoints/step_000031 ] || die "continuing from a named checkpoint ended at $(latest damaged)"
  expect_error 1 'outside a run' "$trainer" --run huge --resume
}

run_tests "$@"
