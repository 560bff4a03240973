#!/usr/bin/env bash
# Downloads GPT-2's vocabulary (vocab.bpe and encoder.json, 1.5 MB) from OpenAI into data/gpt2/, where --tokenizer gpt2
# looks for it. Does nothing if it exists.
#   dev/data/gpt2_tokenizer.sh [FOLDER]
set -euo pipefail
folder=${1:-$(cd "$(dirname "$0")/../.." && pwd)/data/gpt2}
url=https://openaipublic.blob.core.windows.net/gpt-2/encodings/main

if [ -s "$folder/vocab.bpe" ] && [ -s "$folder/encoder.json" ]; then
  echo "$folder already has GPT-2's vocabulary"
  exit 0
fi
command -v curl >/dev/null || { echo "error: curl is missing; on Debian: apt-get install curl" >&2; exit 1; }
mkdir -p "$folder"
trap 'rm -f "$folder"/*.part' EXIT
for file in vocab.bpe encoder.json; do
  if ! curl --fail --silent --show-error --location --retry 2 --max-time 120 --output "$folder/$file.part" "$url/$file"; then
    echo "error: $url/$file could not be downloaded; is there a network?" >&2
    echo "Without one, fetch vocab.bpe and encoder.json elsewhere and copy both into $folder" >&2
    exit 1
  fi
done
# Both or none: a vocabulary with half its files would cause an error at every start.
mv "$folder/encoder.json.part" "$folder/encoder.json"
mv "$folder/vocab.bpe.part" "$folder/vocab.bpe"
echo "$folder: vocab.bpe and encoder.json"
