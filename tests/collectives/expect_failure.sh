#!/bin/sh
# expect_failure.sh REGEX COMMAND...: the command must fail within a minute and say REGEX.
regex=$1
shift
output=$(timeout 60 "$@" 2>&1)
code=$?
echo "$output"
echo "exit code $code"
[ "$code" -ne 0 ] && [ "$code" -ne 124 ] && echo "$output" | grep -Eq "$regex"
