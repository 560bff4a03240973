# dev/data/shakespeare.sh with our own curl, so that no network is needed.
. "$SOURCE/tests/programs/lib.sh"
script=$SOURCE/dev/data/shakespeare.sh
data=$TMP/data
text=$data/tinyshakespeare.txt
mkdir "$TMP/bin"
export PATH="$TMP/bin:$PATH"

# fake_curl BYTES CODE: a curl that writes BYTES bytes to --output FILE and exits with CODE.
fake_curl() {
  cat >"$TMP/bin/curl" <<END
#!/bin/sh
while [ "\$1" != --output ]; do shift; done
head -c $1 /dev/zero >"\$2"
exit $2
END
  chmod +x "$TMP/bin/curl"
}
nothing_left() { [ -z "$(ls -A "$data")" ] || { ls -la "$data"; die "$1 left a file"; }; }

fake_curl 1000 6
expect_error 1 "is there a network" "$script" "$data"
nothing_left "a broken download"

fake_curl 1000 0
expect_error 1 "received 1000 bytes, expected 1115394" "$script" "$data"
nothing_left "a short download"

fake_curl 1115394 0
expect_ok "$script" "$data"
expect_output "saved .*tinyshakespeare.txt"
[ "$(ls -A "$data")" = tinyshakespeare.txt ] || die "more than the text was saved"

fake_curl 0 9
expect_ok "$script" "$data"  # the file exists: curl is not called
[ ! -s "$TMP/out" ] || die "it printed something although the file exists"

echo changed >"$text"
expect_error 1 "found 8 bytes, expected 1115394" "$script" "$data"
[ "$(cat "$text")" = changed ] || die "a file of the user was overwritten"

expect_error 1 "cannot create" "$script" /dev/null/data
