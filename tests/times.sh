#!/bin/sh
# Prints how long the tests of each end-to-end suite took when they ran last, as `tests/src/turn.rs` keeps it. Suites run
# beside each other: the sums are more than what one waits.
set -eu
cd "$(dirname "$0")/../target/times"
cat ./* | sed 's/^timed:://' | awk '
    { suite = $1; sub(/::.*/, "", suite); tests[suite]++; sum[suite] += $2 }
    $2 >= longest[suite] { longest[suite] = $2; name[suite] = substr($1, length(suite) + 3) }
    END {
        for (suite in sum)
            printf "%-15s %3d tests %5.0f s, the longest %4.0f s: %s\n", suite, tests[suite], sum[suite], longest[suite], name[suite]
    }' | sort -k4 -rn
