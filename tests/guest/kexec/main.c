// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
// Starts another kernel from inside a guest's kernel, without firmware and without a reset of the machine.
//
//   kexec IMAGE INITRAMFS COMMAND-LINE
//
// does not return; where it does, it printed why, with exit code 1. The second kernel gets the first one's device tree, with
// the new command line (which may be as long as the old one) and the new initramfs. Nothing is shut down before by anybody
// but the kernel. Freestanding, as the self-test is, and for the same reason. Calls: kexec_load(2), Linux
// Documentation/arch/arm64/booting; the tree's format: Devicetree Specification, "Flattened Devicetree Format".
#include "../selftest/selftest.h"

enum { SYS_openat = 56, SYS_kexec_load = 104, SYS_reboot = 142 };
enum { AT_FDCWD = -100, O_RDONLY = 0 };
// linux/reboot.h, linux/kexec.h
#define MAGIC_1 0xfee1deadUL
#define MAGIC_2 672274793UL
#define CMD_KEXEC 0x45584543UL
#define KEXEC_ARCH_AARCH64 (183UL << 16)

// Where the parts go: RAM of this machine, and of QEMU's, begins at 1 GiB; a guest has at least 512 MiB.
#define RAM 0x40000000UL
#define KERNEL_AT (RAM + (64UL << 20))
#define INITRAMFS_AT (RAM + (192UL << 20))
#define TREE_AT (RAM + (320UL << 20))
#define ENTRY_AT (RAM + (324UL << 20))
#define PART_LENGTH_MAX (96UL << 20)
#define TREE_LENGTH_MAX (2UL << 20)

struct segment {
    const void *from;
    u64 from_length, to, to_length;
};
struct part {
    u8 *bytes;
    u64 length;
};

static u64 length_of(const char *text)
{
    u64 length = 0;
    while (text[length])
        length++;
    return length;
}

static int equal(const char *one, const char *other)
{
    while (*one && *one == *other)
        one++, other++;
    return *one == *other;
}

static void say(const char *text) { syscall3(SYS_write, 1, text, length_of(text)); }

void fail(const char *why)
{
    say("kexec: ");
    say(why);
    say("\n");
    leave(1);
}

static struct part whole(const char *path, u64 length_max)
{
    s64 file = syscall6(SYS_openat, AT_FDCWD, (s64)path, O_RDONLY, 0, 0, 0);
    if (file < 0)
        fail(path);
    struct part part = { map(length_max, PROT_READ | PROT_WRITE, MAP_PRIVATE), 0 };
    for (;;) {
        s64 read = syscall3(SYS_read, file, part.bytes + part.length, length_max - part.length);
        if (read < 0)
            fail("a file cannot be read");
        if (read == 0)
            return part;
        part.length += (u64)read;
        if (part.length == length_max)
            fail("a file is too long");
    }
}

static u32 word(const u8 *at) { return (u32)at[0] << 24 | (u32)at[1] << 16 | (u32)at[2] << 8 | at[3]; }

static void set_number(u8 *value, u32 length, u64 number)
{
    while (length--) {
        value[length] = (u8)number;
        number >>= 8;
    }
}

static void set_text(u8 *value, u32 length, const char *text)
{
    if (length_of(text) >= length)
        fail("the command line is longer than the one that the machine began with");
    for (u32 at = 0; at < length; at++)
        value[at] = *text ? (u8)*text++ : 0;
}

// Changes the properties of /chosen in place.
static void change(struct part tree, const char *line, u64 initramfs, u64 initramfs_end)
{
    enum { BEGIN_NODE = 1, END_NODE = 2, PROPERTY = 3, NOP = 4 };
    if (tree.length < 40 || word(tree.bytes) != 0xd00dfeed)
        fail("the kernel has no device tree to pass on");
    const char *names = (const char *)tree.bytes + word(tree.bytes + 12);
    u32 found = 0, depth = 0, chosen = 0;
    for (u8 *at = tree.bytes + word(tree.bytes + 8); found < 3;) {
        u32 token = word(at);
        at += 4;
        if (token == BEGIN_NODE) {
            if (++depth == 2)
                chosen = equal((const char *)at, "chosen");
            at += (length_of((const char *)at) + 4) & ~3UL;
        } else if (token == END_NODE) {
            depth--;
        } else if (token == PROPERTY) {
            u32 length = word(at);
            const char *name = names + word(at + 4);
            u8 *value = at + 8;
            at = value + ((length + 3) & ~3U);
            if (!chosen || depth != 2)
                continue;
            if (equal(name, "bootargs"))
                found++, set_text(value, length, line);
            else if (equal(name, "linux,initrd-start"))
                found++, set_number(value, length, initramfs);
            else if (equal(name, "linux,initrd-end"))
                found++, set_number(value, length, initramfs_end);
        } else if (token != NOP) {
            fail("the device tree lacks a command line or an initramfs");
        }
    }
}

static u64 pages(u64 length) { return (length + PAGE - 1) & ~(PAGE - 1); }

// The kernel enters here: the stack begins with the number of arguments, then the arguments.
__attribute__((noreturn, used)) void start_in_c(const u64 *stack)
{
    const char **argument = (const char **)(stack + 1);
    if (stack[0] != 4)
        fail("usage: kexec IMAGE INITRAMFS COMMAND-LINE");
    struct part kernel = whole(argument[1], PART_LENGTH_MAX), initramfs = whole(argument[2], PART_LENGTH_MAX);
    struct part tree = whole("/sys/firmware/fdt", TREE_LENGTH_MAX);
    change(tree, argument[3], INITRAMFS_AT, INITRAMFS_AT + initramfs.length);
    // Linux jumps here with its MMU off: x0 is the tree, x1 to x3 are zero, and on to the kernel.
    struct {
        u32 code[6];
        u64 tree, kernel;
    } entry = { { 0x580000c0, 0xaa1f03e1, 0xaa1f03e2, 0xaa1f03e3, 0x58000084, 0xd61f0080 }, TREE_AT, KERNEL_AT };
    struct segment segments[] = {
        { kernel.bytes, kernel.length, KERNEL_AT, pages(kernel.length) },
        { initramfs.bytes, initramfs.length, INITRAMFS_AT, pages(initramfs.length) },
        { tree.bytes, tree.length, TREE_AT, pages(tree.length) },
        { &entry, sizeof entry, ENTRY_AT, PAGE },
    };
    if (syscall6(SYS_kexec_load, ENTRY_AT, 4, (s64)segments, KEXEC_ARCH_AARCH64, 0, 0) < 0)
        fail("the kernel does not take the image");
    syscall6(SYS_reboot, (s64)MAGIC_1, (s64)MAGIC_2, (s64)CMD_KEXEC, 0, 0, 0);
    fail("the kernel does not start the image");
}
__asm__(".globl _start\n_start:\n mov x0, sp\n mov x29, xzr\n mov x30, xzr\n b start_in_c\n");
