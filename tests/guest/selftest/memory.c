// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
// Loads and stores of every width, unaligned, across page ends, in pairs, exclusive; and memory that faults.
#include "selftest.h"

#define ARENA (4UL << 20)

static void widths(u8 *arena)
{
    for (int i = 0; i < 100000; i++) {
        u64 at = random_number() % (ARENA - 16);
        u64 value = random_number();
        u8 *where = arena + at;
        switch (value >> 61) {
        case 0: *(volatile u8 *)where = (u8)value; mix((u64)(s64)*(volatile s8 *)where); break;
        case 1: *(volatile u16 *)where = (u16)value; mix((u64)(s64)*(volatile s16 *)where); break;
        case 2: *(volatile u32 *)where = (u32)value; mix((u64)(s64)*(volatile s32 *)where); break;
        case 3: *(volatile u64 *)where = value; mix(*(volatile u64 *)(where + 3)); break;
        case 4: __asm__ volatile("stp %1, %2, [%0]" ::"r"(where), "r"(value), "r"(at) : "memory"); break;
        case 5: {
            u64 low, high;
            __asm__ volatile("ldp %0, %1, [%2]" : "=r"(low), "=r"(high) : "r"(where) : "memory");
            mix(low ^ high);
            break;
        }
        case 6: {
            u64 word, after = (u64)where;
            __asm__ volatile("ldpsw %0, xzr, [%1], #8" : "=&r"(word), "+r"(after)::"memory");
            mix(word); mix(after - (u64)where);
            break;
        }
        default: {
            u64 index = at & 0xff, word;
            __asm__ volatile("ldr %0, [%1, %w2, uxtw #3]" : "=r"(word) : "r"(arena), "r"(index) : "memory");
            mix(word);
        }
        }
    }
}

// Every offset over a page end, each width: the two halves live in two physical pages.
static void page_ends(u8 *arena)
{
    for (u64 page = 1; page <= 16; page++)
        for (u64 back = 1; back < 8; back++) {
            u8 *where = arena + page * PAGE - back;
            *(volatile u64 *)where = random_number();
            mix(*(volatile u64 *)where); mix(*(volatile u32 *)(where + 1)); mix(*(volatile u16 *)(where + back - 1));
        }
}

static void atomics(u8 *arena)
{
    u64 *cell = (u64 *)arena;
    u32 *narrow = (u32 *)(arena + 64);
    u8 *byte = arena + 128;
    for (int i = 0; i < 20000; i++) {
        u64 value = random_number();
        mix(__atomic_fetch_add(cell, value, __ATOMIC_SEQ_CST)); mix(__atomic_fetch_and(narrow, (u32)value, __ATOMIC_ACQ_REL));
        mix(__atomic_fetch_or(narrow, (u32)(value >> 32), __ATOMIC_RELAXED)); mix(__atomic_exchange_n(byte, (u8)value, __ATOMIC_ACQUIRE));
        u64 expected = value & 1 ? *cell : value;
        mix(__atomic_compare_exchange_n(cell, &expected, value, 0, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST)); mix(expected);
        __atomic_store_n(narrow, (u32)value, __ATOMIC_RELEASE); mix(__atomic_load_n(cell, __ATOMIC_ACQUIRE));
    }
    // A pair, exclusively; and a store whose reservation was taken away.
    u64 low, high; u32 stored, refused;
    __asm__ volatile("1: ldaxp %0, %1, [%4]\n stlxp %w2, %1, %0, [%4]\n cbnz %w2, 1b\n clrex\n stxr %w3, %0, [%4]"
                     : "=&r"(low), "=&r"(high), "=&r"(stored), "=&r"(refused) : "r"(arena) : "memory");
    mix(low); mix(high); mix(stored); mix(refused); mix(cell[0]); mix(cell[1]);
}

void memory_part(void)
{
    u8 *arena = map(ARENA, PROT_READ | PROT_WRITE, MAP_PRIVATE);
    for (u64 i = 0; i < ARENA; i += PAGE / 2)
        *(u64 *)(arena + i) = random_number();
    widths(arena);
    page_ends(arena);
    atomics(arena);
    for (u64 i = 0; i < ARENA; i += 64)
        mix(*(u64 *)(arena + i));
}

struct info {
    s32 signal, error, code, pad;
    u64 address;
};
struct action {
    void (*handler)(int, struct info *, void *);
    u64 flags;
    void (*restorer)(void);
    u64 mask;
};

static u8 *guarded;
static u32 fault_count;

// Notes the fault and makes the page writable: the instruction is then executed again.
static void on_fault(int signal, struct info *info, void *context)
{
    (void)context;
    mix((u64)signal); mix((u64)info->code); mix(info->address - (u64)guarded);
    fault_count++;
    if (fault_count > 64)
        leave(3);
    syscall3(SYS_mprotect, info->address & ~(PAGE - 1), PAGE, PROT_READ | PROT_WRITE);
}

// Faults are precise: address and kind are right, and execution resumes with nothing done twice.
void fault_part(void)
{
    const u64 pages = 16;
    struct action action = { on_fault, 4 /* SA_SIGINFO */, 0, 0 };
    syscall6(SYS_rt_sigaction, SIGSEGV, (s64)&action, 0, 8, 0, 0);
    guarded = map(pages * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE);
    for (u64 i = 0; i < pages; i++)
        guarded[i * PAGE + 5] = (u8)i;
    syscall3(SYS_mprotect, guarded, pages * PAGE, PROT_READ);
    for (u64 i = 0; i < pages; i += 2) {
        // Write-back forms: had the base moved before the fault, the second try would go elsewhere.
        u64 base = (u64)guarded + i * PAGE, value = i * 0x0101010101010101UL;
        __asm__ volatile("str %1, [%0, #16]!" : "+r"(base) : "r"(value) : "memory");
        mix(base - (u64)guarded);
        __asm__ volatile("stp %1, %1, [%0], #504" : "+r"(base) : "r"(value) : "memory");
        mix(base - (u64)guarded);
        // Two pages, the second of which faults.
        *(volatile u64 *)(guarded + (i + 1) * PAGE - 4) = value;
    }
    mix(fault_count);
    syscall3(SYS_mprotect, guarded, PAGE, 0);
    mix(*(volatile u8 *)(guarded + 5));
    for (u64 i = 0; i < pages * PAGE; i += 4)
        mix(*(u32 *)(guarded + i));
}
