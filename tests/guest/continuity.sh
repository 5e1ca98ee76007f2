#!/bin/sh
# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
# Checks its own continuity while the machine under it is paused, saved, restored or moved.
#
# Every round prints `continuity N ok`. It fails when the counter skips, when a block of memory changed
# under it, or when a clock ran backwards. The first failure is printed and ends the program with code 1.
# Usage: continuity [ROUNDS [PAUSE]]; 0 rounds (the default) never ends; PAUSE is in seconds.
rounds=${1:-0}
pause=${2:-0.2}
block=/tmp/continuity.$$

fail() {
    echo "continuity $round FAILED: $*"
    exit 1
}

# 4 MiB in a tmpfs: guest memory that nobody writes again, so a lost or stale page shows as another hash.
dd if=/dev/urandom of=$block bs=64k count=64 2>/dev/null
expected=$(sha256sum <$block)
uptime_last=0
wall_last=0
round=0

while [ "$rounds" -eq 0 ] || [ "$round" -lt "$rounds" ]; do
    next=$((round + 1))
    echo $next >$block.round
    [ "$(cat $block.round)" -eq "$next" ] || fail "the counter reads $(cat $block.round), not $next"
    round=$next

    actual=$(sha256sum <$block)
    [ "$actual" = "$expected" ] || fail "memory hash is $actual, not $expected"

    # Hundredths of a second since boot (monotonic), and seconds of the real-time clock.
    read -r uptime rest </proc/uptime
    uptime=${uptime%.*}${uptime#*.}
    wall=$(date +%s)
    [ "$uptime" -ge "$uptime_last" ] || fail "time since boot ran back from $uptime_last to $uptime cs"
    [ "$wall" -ge "$wall_last" ] || fail "the clock ran back from $wall_last to $wall s"
    uptime_last=$uptime
    wall_last=$wall

    echo "continuity $round ok"
    sleep "$pause"
done
rm -f $block $block.round
