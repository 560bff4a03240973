# extend_vocabulary: a model with more special tokens generates the same text as before; everything it must refuse.
source "$(dirname "$0")/lib.sh"
export OMP_NUM_THREADS=1
extend_vocabulary=$BUILD/extend_vocabulary

test_smoke() {
  for _ in $(seq 1 50); do echo "abcdefgh ijkl mnop"; done >text.txt
  "$BUILD/train_gpt2" --data text.txt --run run --tokenizer chars --layers 1 --heads 2 --channels 8 --seq-len 16 --batch-size 4 \
    --steps 20 --eval-every 0 --sample-tokens 0 --precision fp32 >out || { cat out; die "no model to extend"; }
  model=run/latest
  ids=$(grep -o '"vocab_size": [0-9]*' $model/config.json | grep -o '[0-9]*$')

  expect_ok "$extend_vocabulary" --model $model --add-tokens '<|user|>' '<|bot|>' --to chat
  expect_output "^$ids  <\|user\|>$"
  expect_output "^$((ids + 1))  <\|bot\|>$"
  expect_output "^wrote chat: vocabulary $((ids + 2)) \(was $ids\), tokenizer $((ids + 2)) ids \(was $ids\)$"
  [ "$("$BUILD/tokenize" encode --tokenizer chat --special --text '<|bot|>')" = $((ids + 1)) ] || die "the token is not in the tokenizer"
  "$BUILD/generate" --model $model --prompt abc --tokens 12 --greedy >before
  "$BUILD/generate" --model chat --prompt abc --tokens 12 --greedy >after
  cmp before after || die "the extended model generates another text"

  expect_ok "$extend_vocabulary" --model $model --add-tokens '[INST]' '[/INST]' --to brackets
  expect_output "^$ids  \[INST\]$"
  expect_output "^$((ids + 1))  \[/INST\]$"
  expect_error 1 'chat: exists already' "$extend_vocabulary" --model $model --add-tokens '<x>' --to chat
  expect_ok "$extend_vocabulary" --model $model --add-tokens '<x>' --init zeros --to chat --force
  expect_output "vocabulary $((ids + 1))"
  expect_error 2 'model is required' "$extend_vocabulary" --add-tokens '<x>' --to y
  expect_error 2 'add-tokens is required' "$extend_vocabulary" --model $model --to y
  expect_error 2 'init' "$extend_vocabulary" --model $model --add-tokens '<x>' --to y --init random
  expect_error 1 'found a file' "$extend_vocabulary" --model $model --add-tokens '<x>' --to text.txt
  expect_error 1 'is there already, with the id' "$extend_vocabulary" --model $model --add-tokens '<|endoftext|>' --to y
  expect_error 1 'expected one or more' "$extend_vocabulary" --model $model --add-tokens 'a b' --to y
  expect_error 1 'nowhere' "$extend_vocabulary" --model nowhere --add-tokens '<x>' --to y
  [ ! -e y ] || die "a refused extension left a folder"
}

run_tests "$@"
