// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
// What the guest's programs that drive a disk share: the kernel's asynchronous I/O, texts and numbers, the clock.
// A program defines PROGRAM, its name, first.
#ifndef AIO_H
#define AIO_H

#include "selftest/selftest.h"

enum {
    SYS_io_setup = 0, SYS_io_submit = 2, SYS_io_getevents = 4, SYS_fcntl = 25, SYS_openat = 56, SYS_lseek = 62,
};
enum { AT_FDCWD = -100, O_RDWR = 2, O_NONBLOCK = 04000, O_DIRECT = 0200000, F_GETFL = 3, F_SETFL = 4, SEEK_END = 2 };
enum { IOCB_CMD_PREAD = 0, IOCB_CMD_PWRITE = 1, IOCB_CMD_FDSYNC = 3 };

// linux/aio_abi.h
struct iocb {
    u64 data;
    u32 key, rw_flags;
    u16 opcode;
    s16 priority;
    u32 fd;
    u64 buffer, length;
    s64 offset;
    u64 reserved;
    u32 flags, event_fd;
};
struct io_event {
    u64 data, object;
    s64 result, result2;
};
struct time {
    s64 seconds, nanoseconds;
};

static inline u64 length_of(const char *text)
{
    u64 length = 0;
    while (text[length])
        length++;
    return length;
}

static inline void say(const char *text) { syscall3(SYS_write, 1, text, length_of(text)); }

static inline void say_number(u64 number)
{
    char digits[21];
    u32 at = sizeof digits - 1;
    digits[at] = 0;
    do
        digits[--at] = (char)('0' + number % 10);
    while (number /= 10);
    say(digits + at);
}

void fail(const char *why)
{
    say(PROGRAM ": ");
    say(why);
    say("\n");
    leave(1);
}

static inline u64 number_of(const char *text)
{
    u64 number = 0;
    if (!*text)
        fail("a number is missing");
    for (; *text; text++) {
        if (*text < '0' || *text > '9' || number > 1UL << 40)
            fail("a number is none");
        number = number * 10 + (u64)(*text - '0');
    }
    return number;
}

static inline int same(const char *one, const char *other)
{
    while (*one && *one == *other)
        one++, other++;
    return *one == *other;
}

// Microseconds of the guest's own clock.
static inline u64 now(void)
{
    struct time time;
    syscall3(SYS_clock_gettime, 1, &time, 0);
    return (u64)time.seconds * 1000000 + (u64)time.nanoseconds / 1000;
}

#endif
