# dev/data/the_verdict.sh with our own curl, so that no network is needed.
. "$SOURCE/tests/programs/lib.sh"
script=$SOURCE/dev/data/the_verdict.sh
data=$TMP/data
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
expect_error 1 "found 1000 bytes, expected 20479; try again" "$script" "$data"
nothing_left "a short download"
fake_curl 20479 0
expect_ok "$script" "$data"
expect_output "saved .*the-verdict.txt"
[ "$(ls -A "$data")" = the-verdict.txt ] || die "more than the text was saved"
fake_curl 0 9
expect_ok "$script" "$data"  # the file exists: curl is not called
echo changed >"$data/the-verdict.txt"
expect_error 1 "found 8 bytes, expected 20479; remove it" "$script" "$data"
[ "$(cat "$data/the-verdict.txt")" = changed ] || die "a file of the user was overwritten"
expect_error 1 . "$script" /dev/null/data
