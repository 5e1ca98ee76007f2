#!/bin/sh
# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
# The first process of a Debian of which only files were unpacked: has debootstrap install and configure its packages,
# then powers off. The texts it prints are read by tests/xtask/src/userland/machine.rs: keep both in step.
export PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root TERM=vt102
if [ $# = 0 ]; then
    mount -t proc proc /proc
    mount -t sysfs sysfs /sys
    # What an ordinary user unpacked is that user's. Names of users are not known yet.
    find / -xdev ! -uid 0 -exec chown -h 0:0 {} +
    /debootstrap/debootstrap --second-stage
    # A new shell: this one and its C library were replaced, and as long as they run they keep the disk from being read-only.
    exec "$0" $?
fi
# debootstrap takes it away behind it.
[ -e /proc/uptime ] || mount -t proc proc /proc
[ "$1" = 0 ] || tail -n 40 /debootstrap/debootstrap.log
echo "userland: packages configured: $(dpkg-query -f '${db:Status-Abbrev}\n' -W | grep -c '^ii ')"
dpkg --audit
# Behind it the kernel speaks too: what stands between the two marks is dpkg's alone.
echo "userland: second stage ended, exit code $1"
sync
mount -o remount,ro /
echo o >/proc/sysrq-trigger
# The kernel powers off in a thread of its own.
sleep 60
