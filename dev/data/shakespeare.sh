#!/bin/sh
# Downloads tinyshakespeare (1,115,394 bytes of plays, public domain) to FOLDER/tinyshakespeare.txt; without an argument
# to data/ of this checkout. Does nothing if the file exists already.
#   dev/data/shakespeare.sh [FOLDER]
set -eu

url=https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/input.txt
expected=1115394
folder=${1:-$(cd "$(dirname "$0")/../.." && pwd)/data}
file=$folder/tinyshakespeare.txt

size_of() { wc -c <"$1" | tr -d ' '; }
die() { echo "error: $*" >&2; exit 1; }

if [ -e "$file" ]; then
  size=$(size_of "$file")
  [ "$size" -eq $expected ] || die "$file: found $size bytes, expected $expected; remove it to download it again"
  exit 0
fi

mkdir -p "$folder"
part=$file.$$.part  # only for this process; the final name always holds the whole file
trap 'rm -f "$part"' EXIT
trap 'exit 1' HUP INT TERM

echo "downloading $url"
failed=
if command -v curl >/dev/null 2>&1; then
  curl --fail --silent --show-error --location --connect-timeout 20 --max-time 300 --output "$part" "$url" || failed=1
elif command -v wget >/dev/null 2>&1; then
  wget --quiet --timeout=20 --tries=2 --output-document="$part" "$url" || failed=1
else
  die "neither curl nor wget is installed; install one, or copy the text to $file yourself"
fi
[ -z "$failed" ] || die "tinyshakespeare could not be downloaded (is there a network?). It is needed once: save
  $url
as $file. Without it, \`make train\` trains on the built-in stories, and DATA=file on any text of yours."

size=$(size_of "$part")
[ "$size" -eq $expected ] || die "$url: received $size bytes, expected $expected; try again later"
mv "$part" "$file"
echo "saved $file ($expected bytes)"
