#!/bin/sh
# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
# The guest's first process: mounts what a shell needs, then gives the console to a shell.
# `bulkhead.run=PROGRAM` on the kernel command line runs that program instead, then powers off.
# The texts it prints are read by tests/src/guest.rs: keep both in step.
export PATH=/bin HOME=/ TERM=vt102 PS1='bulkhead-guest:\w# '
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
mount -t tmpfs tmpfs /tmp
hostname bulkhead-guest
for module in /modules/*.ko; do [ ! -e "$module" ] || insmod "$module"; done
echo "bulkhead-guest: user space is up, uptime $(cut -d' ' -f1 /proc/uptime) s"

for word in $(cat /proc/cmdline); do
    case $word in
    bulkhead.run=*)
        ${word#bulkhead.run=}
        echo "bulkhead-guest: run ended, exit code $?"
        poweroff -f
        ;;
    esac
done

# /dev/console cannot be a controlling terminal; the device behind it can, and then Ctrl-C works.
tty=console
for name in $(cat /sys/class/tty/console/active); do tty=$name; done
while :; do
    setsid -c sh -i </dev/$tty >/dev/$tty 2>&1
    echo "bulkhead-guest: the shell ended; here is another (power off: poweroff -f)"
done
