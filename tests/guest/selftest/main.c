// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
// Runs every part in a child process and prints one line for each:
//
//   selftest integer 0123456789abcdef
//   selftest vector FAILED signal 4
//   selftest total 0123456789abcdef        (over the hashes of all parts; only if none failed)
//
// The exit code is the number of parts that failed. A part in a child cannot hurt the others: a machine that
// lacks an instruction loses the part that needs it, by SIGILL, and the rest still reports.
#include "selftest.h"

#define FNV_OFFSET 0xcbf29ce484222325UL
#define FNV_PRIME 0x100000001b3UL

u64 hash;
static u64 seed;

void mix(u64 value)
{
    for (int i = 0; i < 8; i++) {
        hash = (hash ^ (value & 0xff)) * FNV_PRIME;
        value >>= 8;
    }
}

u64 random_number(void)
{
    seed ^= seed << 13;
    seed ^= seed >> 7;
    seed ^= seed << 17;
    return seed;
}

static char line[160];
static u32 line_len;

static void put(const char *text)
{
    while (*text && line_len < sizeof line)
        line[line_len++] = *text++;
}

static void put_hex(u64 value)
{
    for (int shift = 60; shift >= 0; shift -= 4)
        if (line_len < sizeof line)
            line[line_len++] = "0123456789abcdef"[(value >> shift) & 15];
}

static void put_decimal(u32 value)
{
    if (value >= 10)
        put_decimal(value / 10);
    char digit[2] = { (char)('0' + value % 10), 0 };
    put(digit);
}

static void end_line(void)
{
    put("\n");
    syscall3(SYS_write, 1, line, line_len);
    line_len = 0;
}

void fail(const char *why)
{
    put("selftest: ");
    put(why);
    end_line();
    leave(1);
}

// Runs one part in a child; true if it ended well, with its hash in `*result`.
static int run(const char *name, void (*part)(void), u64 *result)
{
    int ends[2];
    syscall3(SYS_pipe2, ends, 0, 0);
    s64 child = fork();
    if (child == 0) {
        hash = FNV_OFFSET;
        seed = 0x2545f4914f6cdd1dUL;
        part();
        syscall3(SYS_write, ends[1], &hash, sizeof hash);
        leave(0);
    }
    u32 status = wait_for(child);
    put("selftest ");
    put(name);
    if (status == 0) {
        syscall3(SYS_read, ends[0], result, sizeof *result);
        put(" ");
        put_hex(*result);
    } else if (status & 0x7f) {
        put(" FAILED signal ");
        put_decimal(status & 0x7f);
    } else {
        put(" FAILED code ");
        put_decimal(status >> 8 & 0xff);
    }
    end_line();
    return status == 0;
}

static const struct {
    const char *name;
    void (*run)(void);
} parts[] = {
    { "integer", integer_part }, { "memory", memory_part }, { "fault", fault_part },
    { "process", process_part }, { "code", code_part },     { "time", time_part },
    { "float", float_part },     { "vector", vector_part },
};

__attribute__((used)) static int run_all(void)
{
    int failed = 0;
    u64 total = FNV_OFFSET;
    for (u32 i = 0; i < sizeof parts / sizeof parts[0]; i++) {
        u64 result = 0;
        failed += !run(parts[i].name, parts[i].run, &result);
        hash = total;
        mix(result);
        total = hash;
    }
    if (failed == 0) {
        put("selftest total ");
        put_hex(total);
        end_line();
    }
    return failed;
}

// The kernel enters here with the stack pointer aligned and no return address.
__attribute__((noreturn, used)) void start_in_c(void) { leave(run_all()); }
__asm__(".globl _start\n_start:\n mov x29, xzr\n mov x30, xzr\n b start_in_c\n");
