// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
// Measures a disk from inside a guest: accesses that go around the page cache, many under way at once.
//
//   diskrate DEVICE read|write random|sequential LENGTH DEPTH MILLISECONDS
//
// prints `diskrate: COUNT accesses in MICROSECONDS us`, or why it could not, with exit code 1. LENGTH is bytes of one
// access, up to 1 MiB; DEPTH is how many are under way, up to 64. Every access is checked for its full length. Random places
// come from a generator that starts the same on every run. Freestanding, as the self-test is, and for the same reason:
// there is no C library for the guest to fetch.
#define PROGRAM "diskrate"
#include "../aio.h"

#define DEPTH_MAX 64
#define LENGTH_MAX (1UL << 20)

static struct iocb requests[DEPTH_MAX];
static struct io_event events[DEPTH_MAX];

// True for `yes`, false for `no`.
static int either(const char *text, const char *yes, const char *no)
{
    if (!same(text, yes) && !same(text, no))
        fail("a word is neither of the two that it may be");
    return same(text, yes);
}

static u64 place(u64 number, u64 places, int random)
{
    static u64 seed = 0x2545f4914f6cdd1dUL;
    seed ^= seed << 13;
    seed ^= seed >> 7;
    seed ^= seed << 17;
    return (random ? seed : number) % places;
}

static int measure(const char **words)
{
    int write = either(words[1], "write", "read"), random = either(words[2], "random", "sequential");
    u64 length = number_of(words[3]), depth = number_of(words[4]), span = number_of(words[5]) * 1000;
    if (length % 512 || length < 512 || length > LENGTH_MAX || depth < 1 || depth > DEPTH_MAX)
        fail("LENGTH is 512 bytes to 1 MiB, DEPTH is 1 to 64");
    s64 fd = syscall6(SYS_openat, AT_FDCWD, (s64)words[0], O_RDWR | O_DIRECT, 0, 0, 0);
    if (fd < 0)
        fail("the device cannot be opened");
    s64 size = syscall3(SYS_lseek, fd, 0, SEEK_END);
    u64 context = 0;
    u8 *memory = map(depth * LENGTH_MAX, PROT_READ | PROT_WRITE, MAP_PRIVATE);
    if (size < (s64)length || (s64)memory < 0 || syscall3(SYS_io_setup, depth, &context, 0) < 0)
        fail("the device is too small, or there is no memory");
    for (u64 at = 0; at < depth * LENGTH_MAX; at += PAGE)
        memory[at] = 1;
    u64 places = (u64)size / length, begun = 0, done = 0, since = now();
    struct iocb *ready[DEPTH_MAX];
    u64 count = depth;
    for (u64 i = 0; i < depth; i++)
        ready[i] = &requests[i];
    while (count > 0) {
        for (u64 i = 0; i < count; i++) {
            u64 index = (u64)(ready[i] - requests);
            // The other fields stay zero.
            ready[i]->data = index;
            ready[i]->opcode = write ? IOCB_CMD_PWRITE : IOCB_CMD_PREAD;
            ready[i]->fd = (u32)fd;
            ready[i]->buffer = (u64)(memory + index * LENGTH_MAX);
            ready[i]->length = length;
            ready[i]->offset = (s64)(place(begun++, places, random) * length);
        }
        if (syscall3(SYS_io_submit, context, count, ready) != (s64)count)
            fail("a request was refused");
        s64 came = syscall6(SYS_io_getevents, (s64)context, 1, (s64)depth, (s64)events, 0, 0);
        if (came < 1)
            fail("no request came back");
        int over = now() - since >= span;
        count = 0;
        for (s64 i = 0; i < came; i++) {
            if (events[i].result != (s64)length)
                fail("a request failed");
            done++;
            if (!over)
                ready[count++] = &requests[events[i].data];
        }
    }
    // What is still under way when the time is over is not counted; the kernel ends it with the program.
    u64 took = now() - since;
    say("diskrate: ");
    say_number(done);
    say(" accesses in ");
    say_number(took);
    say(" us\n");
    return 0;
}

// The kernel enters here: the stack begins with the number of arguments, then the arguments.
__attribute__((noreturn, used)) void start_in_c(const u64 *stack)
{
    if (stack[0] != 7)
        fail("usage: diskrate DEVICE read|write random|sequential LENGTH DEPTH MILLISECONDS");
    leave(measure((const char **)(stack + 2)));
}
__asm__(".globl _start\n_start:\n mov x0, sp\n mov x29, xzr\n mov x30, xzr\n b start_in_c\n");
