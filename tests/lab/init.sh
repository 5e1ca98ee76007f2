#!/bin/sh
# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
# The lab server's first process: mounts what the scenarios need, runs them, sends the kernel's log, powers off.
# `lab.shell` on the kernel's command line gives the console to a person instead.
export PATH=/bin HOME=/root TERM=vt102 PS1='lab:\w# '
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev 2>/dev/null
mkdir -p /dev/pts /dev/shm
mount -t devpts devpts /dev/pts
mount -t tmpfs tmpfs /dev/shm
mount -t tmpfs tmpfs /tmp
mount -t tmpfs tmpfs /run
mount -t debugfs debugfs /sys/kernel/debug
mount -t securityfs securityfs /sys/kernel/security
ip link set lo up
hostname lab
if grep -q lab.shell /proc/cmdline; then
    ln -sf /lab/target/aarch64-unknown-linux-gnu/debug/lab-runner /bin/lab-runner
    export PATH=/bin:/lab/target/aarch64-unknown-linux-gnu/debug
    echo "lab: programs are on the PATH, kernels in /lab/guest, suites in /lab/suites; \`poweroff -f\` ends it"
    setsid -c sh -i </dev/ttyAMA0 >/dev/ttyAMA0 2>&1
else
    /lab/target/aarch64-unknown-linux-gnu/debug/lab-runner
    for port in /sys/class/virtio-ports/*; do
        [ "$(cat "$port/name")" = bulkhead.log ] && dmesg >"/dev/${port##*/}"
    done
fi
poweroff -f
