// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
// Processes: copy on write, deaths seen by the parent, sharing; code made at run time; and the passing of time.
#include "selftest.h"

#define ARENA (6UL << 20)
#define CHILDREN 12
#define SHARED_ROUNDS 50000

static u64 sum(const u8 *arena)
{
    u64 result = 0;
    for (u64 i = 0; i < ARENA; i += 8)
        result = result * 31 + *(const u64 *)(arena + i);
    return result;
}

// A child changes its copy, says what it sees, and ends; some die on purpose.
static __attribute__((noreturn)) void child(u8 *arena, int number, int answer)
{
    for (u64 i = (u64)number * 8; i < ARENA; i += PAGE)
        *(u64 *)(arena + i) = i ^ (u64)number;
    u64 seen = sum(arena);
    syscall3(SYS_write, answer, &seen, sizeof seen);
    if (number == 4)
        *(volatile u64 *)0 = 1;
    if (number == 5) {
        syscall3(SYS_mprotect, arena, PAGE, PROT_READ);
        *(volatile u8 *)arena = 1;
    }
    if (number == 6)
        __asm__ volatile("udf #0");
    if (number == 7)
        ((void (*)(void))arena)(); // not executable
    leave(number);
}

static void copy_on_write(void)
{
    u8 *arena = map(ARENA, PROT_READ | PROT_WRITE, MAP_PRIVATE);
    for (u64 i = 0; i < ARENA; i += 8)
        *(u64 *)(arena + i) = random_number();
    u64 before = sum(arena);
    int ends[2];
    syscall3(SYS_pipe2, ends, 0, 0);
    for (int number = 0; number < CHILDREN; number++) {
        s64 pid = fork();
        if (pid == 0)
            child(arena, number, ends[1]);
        u64 seen = 0;
        syscall3(SYS_read, ends[0], &seen, sizeof seen);
        mix(seen);
        mix(wait_for(pid) & ~0x80u); // whether a core was dumped is the guest's setting
    }
    if (sum(arena) != before)
        fail("a child wrote into its parent's memory");
}

// Two processes count in one shared cell: an exclusive store must not survive a switch of processes.
static void shared_count(void)
{
    u64 *cell = (u64 *)map(PAGE, PROT_READ | PROT_WRITE, MAP_SHARED);
    s64 pids[3];
    for (int i = 0; i < 3; i++)
        if ((pids[i] = fork()) == 0) {
            for (int round = 0; round < SHARED_ROUNDS; round++) {
                __atomic_fetch_add(cell, 1, __ATOMIC_RELAXED);
                if (round % 4096 == 0)
                    syscall3(SYS_sched_yield, 0, 0, 0);
            }
            leave(0);
        }
    for (int i = 0; i < 3; i++)
        mix(wait_for(pids[i]));
    mix(*cell);
    if (*cell != 3 * SHARED_ROUNDS)
        fail("increments were lost between processes");
}

void process_part(void)
{
    copy_on_write();
    shared_count();
}

static void publish_code(u8 *from, u64 len)
{
    u64 type;
    __asm__ volatile("mrs %0, ctr_el0" : "=r"(type));
    u64 data_line = 4UL << (type >> 16 & 15), code_line = 4UL << (type & 15);
    for (u64 at = (u64)from & ~(data_line - 1); at < (u64)from + len; at += data_line)
        __asm__ volatile("dc cvau, %0" ::"r"(at) : "memory");
    __asm__ volatile("dsb ish" ::: "memory");
    for (u64 at = (u64)from & ~(code_line - 1); at < (u64)from + len; at += code_line)
        __asm__ volatile("ic ivau, %0" ::"r"(at) : "memory");
    __asm__ volatile("dsb ish\n isb" ::: "memory");
}

// Functions written at run time over older ones, in place and by unmapping: stale code must never run.
void code_part(void)
{
    u32 *code = (u32 *)map(PAGE, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE);
    for (u32 number = 0; number < 2000; number++) {
        u32 at = number % 37;
        code[at] = 0x52800000 | (number & 0xffff) << 5; // movz w0, #number
        code[at + 1] = 0xd65f03c0;                      // ret
        publish_code((u8 *)(code + at), 8);
        u32 answer = ((u32(*)(void))(code + at))();
        mix(answer);
        if (answer != number)
            fail("code that was replaced ran again");
        if (number % 500 == 499) {
            syscall3(SYS_munmap, code, PAGE, 0);
            code = (u32 *)map(PAGE, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE);
        }
    }
}

struct time {
    s64 seconds, nanoseconds;
};

static u64 now(int clock)
{
    struct time time;
    syscall3(SYS_clock_gettime, clock, &time, 0);
    return (u64)time.seconds * 1000000000 + (u64)time.nanoseconds;
}

// Sleep takes at least as long as asked; no clock runs back. The times themselves are not hashed.
void time_part(void)
{
    const u64 asked = 200000000;
    const u64 too_long = 20000000000;
    u64 monotonic = now(1), counter_before, counter_after;
    __asm__ volatile("isb\n mrs %0, cntvct_el0" : "=r"(counter_before)::"memory");
    struct time span = { 0, (s64)asked };
    syscall3(SYS_nanosleep, &span, 0, 0);
    u64 slept = now(1) - monotonic;
    __asm__ volatile("isb\n mrs %0, cntvct_el0" : "=r"(counter_after)::"memory");
    if (slept < asked)
        fail("a sleep ended early");
    if (slept > too_long)
        fail("a sleep of 0.2 s took more than 20 s");
    if (counter_after <= counter_before)
        fail("the counter stood still during a sleep");
    u64 last = now(1);
    for (int i = 0; i < 2000; i++) {
        u64 next = now(1);
        if (next < last)
            fail("the monotonic clock ran back");
        last = next;
    }
    mix(1);
}
