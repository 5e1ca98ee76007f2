// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
// What the parts of the guest self-test share: system calls, a hash, a source of numbers.
//
// The program is freestanding: no C library, so that each instruction it runs is its own. A part feeds every
// result into a hash; the hash depends on what the machine computes and on nothing else (no addresses, times,
// process ids), so any two correct machines print the same.
#ifndef SELFTEST_H
#define SELFTEST_H

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long u64;
typedef signed char s8;
typedef short s16;
typedef int s32;
typedef long s64;

#define PAGE 4096UL

// arm64 Linux system call numbers (asm-generic/unistd.h).
enum {
    SYS_pipe2 = 59, SYS_read = 63, SYS_write = 64, SYS_exit = 93, SYS_nanosleep = 101, SYS_clock_gettime = 113,
    SYS_sched_yield = 124, SYS_rt_sigaction = 134, SYS_munmap = 215, SYS_clone = 220, SYS_mmap = 222,
    SYS_mprotect = 226, SYS_wait4 = 260,
};
enum { PROT_READ = 1, PROT_WRITE = 2, PROT_EXEC = 4, MAP_SHARED = 1, MAP_PRIVATE = 2, MAP_ANONYMOUS = 32 };
enum { SIGILL = 4, SIGSEGV = 11, SIGCHLD = 17 };

static inline s64 syscall6(s64 number, s64 a, s64 b, s64 c, s64 d, s64 e, s64 f)
{
    register s64 x8 __asm__("x8") = number;
    register s64 x0 __asm__("x0") = a;
    register s64 x1 __asm__("x1") = b;
    register s64 x2 __asm__("x2") = c;
    register s64 x3 __asm__("x3") = d;
    register s64 x4 __asm__("x4") = e;
    register s64 x5 __asm__("x5") = f;
    __asm__ volatile("svc #0" : "+r"(x0) : "r"(x8), "r"(x1), "r"(x2), "r"(x3), "r"(x4), "r"(x5) : "memory", "cc");
    return x0;
}
#define syscall3(number, a, b, c) syscall6((number), (s64)(a), (s64)(b), (s64)(c), 0, 0, 0)

static inline u8 *map(u64 len, int protection, int flags)
{
    return (u8 *)syscall6(SYS_mmap, 0, (s64)len, protection, flags | MAP_ANONYMOUS, -1, 0);
}

static inline s64 fork(void) { return syscall6(SYS_clone, SIGCHLD, 0, 0, 0, 0, 0); }

static inline __attribute__((noreturn)) void leave(int code)
{
    for (;;)
        syscall3(SYS_exit, code, 0, 0);
}

// The wait status of `child`.
static inline u32 wait_for(s64 child)
{
    u32 status = 0;
    syscall6(SYS_wait4, child, (s64)&status, 0, 0, 0, 0);
    return status;
}

// The FNV-1a hash of all results of the running part.
extern u64 hash;
void mix(u64 value);

// A xorshift generator: the same numbers on every run.
u64 random_number(void);

// Prints a line that says why, and ends the part with code 1.
__attribute__((noreturn)) void fail(const char *why);

// The parts. Each runs in a child of its own and leaves its hash in `hash`.
void integer_part(void);
void memory_part(void);
void fault_part(void);
void process_part(void);
void code_part(void);
void time_part(void);
void float_part(void);
void vector_part(void);

#endif
