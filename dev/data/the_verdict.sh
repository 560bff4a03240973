#!/usr/bin/env bash
# Downloads "The Verdict" (Edith Wharton, 1908, public domain; 20,479 bytes), the text of "Build a Large Language Model
# (From Scratch)", to FOLDER/the-verdict.txt; without an argument to data/ of this checkout. Does nothing if the file
# exists.
#   dev/data/the_verdict.sh [FOLDER]
set -euo pipefail
url=https://raw.githubusercontent.com/rasbt/LLMs-from-scratch/main/ch02/01_main-chapter-code/the-verdict.txt
expected=20479
folder=${1:-$(cd "$(dirname "$0")/../.." && pwd)/data}
file=$folder/the-verdict.txt
die() { echo "error: $*" >&2; exit 1; }
check() {  # FILE WHERE-FROM ADVICE
  local size
  size=$(wc -c <"$1" | tr -d ' ')
  [ "$size" -eq $expected ] || die "$2: found $size bytes, expected $expected; $3"
}

if [ -e "$file" ]; then
  check "$file" "$file" "remove it to download it again"
  exit 0
fi
command -v curl >/dev/null || die "curl is missing; on Debian: apt-get install curl"
mkdir -p "$folder"
part=$file.$$.part  # the final name always holds the whole file
trap 'rm -f "$part"' EXIT
curl --fail --silent --show-error --location --retry 2 --max-time 120 --output "$part" "$url" ||
  die "$url could not be downloaded (is there a network?); save it elsewhere and copy it to $file"
check "$part" "$url" "try again later"
mv "$part" "$file"
echo "saved $file ($expected bytes)"
