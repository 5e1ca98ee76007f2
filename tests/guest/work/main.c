// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
// Keeps a disk busy from inside a guest, looks at every byte, and measures the longest time without a completion.
//
//   work DEVICE DEPTH
//
// DEPTH requests, up to 64, are under way at any time, around the page cache: one to four blocks of 4 KiB are written
// or read, now and then all that was written is flushed. What a block holds follows from its number and from how often
// it was written, so that one that was lost, written twice in the wrong order, or sent elsewhere is found when it is
// read. Each request has other memory than the one before, which must not change once the request has completed: a
// device that uses it afterwards, or by a translation that is over, is found too.
//
// A line on standard input is answered when each request has completed twice more:
//
//   work: gap MICROSECONDS us, HELD held, COUNT completed
//
// the longest time between two completions since the answer before, by the guest's clock, and how many requests were
// begun before it and completed behind it. The line "q" ends the program, when nothing is under way any more. Whatever
// is wrong ends it with a line that says FAILED. Freestanding, as the self-test is.
#define PROGRAM "work: FAILED"
#include "../aio.h"

#define DEPTH_MAX 64
#define BLOCK 4096UL
#define WORDS (BLOCK / sizeof(u64))
#define BLOCKS_MAX 4
// Places of one request, and its pieces of memory.
#define PLACES 32
#define PIECES 4
// One of so many requests is a flush.
#define FLUSH_EVERY 64

// The head of the kernel's ring of completions, at the address that is the context's number.
struct ring {
    u32 id, count, head, tail;
};

struct piece {
    u64 *memory;
    // What it holds: from which block on, and how often each was written.
    u64 block, count;
    u32 times[BLOCKS_MAX];
};

struct request {
    struct iocb order;
    struct piece *piece;
    u64 place, count;
};

static struct request requests[DEPTH_MAX];
static struct piece pieces[DEPTH_MAX][PIECES];
// How often each block was written.
static u32 times[DEPTH_MAX * PLACES * BLOCKS_MAX];
static u64 depth, context;
static u64 seed = 0x2545f4914f6cdd1dUL;

static u64 draw(u64 below)
{
    seed ^= seed << 13;
    seed ^= seed >> 7;
    seed ^= seed << 17;
    return seed % below;
}

static u64 first_word(u64 block, u32 time) { return (block << 32 | time) * 0x9e3779b97f4a7c15UL; }

static void fill(u64 *words, u64 block, u32 time)
{
    u64 word = first_word(block, time);
    for (u64 i = 0; i < WORDS; i++, word += 0x9e3779b97f4a7c15UL)
        words[i] = word;
}

static void check(const u64 *words, u64 block, u32 time, const char *why)
{
    u64 word = first_word(block, time), wrong = 0;
    for (u64 i = 0; i < WORDS; i++, word += 0x9e3779b97f4a7c15UL)
        wrong |= words[i] ^ word;
    if (!wrong)
        return;
    say(PROGRAM ": block ");
    say_number(block);
    say(", written ");
    say_number(time);
    say(" times, begins with ");
    say_number(words[0]);
    say(", not with ");
    say_number(first_word(block, time));
    say(": ");
    say(why);
    say("\n");
    leave(1);
}

static void check_piece(const struct piece *piece, const char *why)
{
    for (u64 i = 0; i < piece->count; i++)
        check(piece->memory + i * WORDS, piece->block + i, piece->times[i], why);
}

// Makes the next request, at a place of its own.
static void prepare(struct request *request, u32 fd)
{
    u64 index = (u64)(request - requests);
    struct iocb *order = &request->order;
    order->data = index;
    order->fd = fd;
    if (draw(FLUSH_EVERY) == 0) {
        request->piece = 0;
        order->opcode = IOCB_CMD_FDSYNC;
        order->buffer = order->length = 0;
        order->offset = 0;
        return;
    }
    struct piece *piece = request->piece = &pieces[index][draw(PIECES)];
    check_piece(piece, "memory changed after its request had completed");
    u64 block = (draw(PLACES) * depth + index) * BLOCKS_MAX, count = draw(BLOCKS_MAX) + 1;
    int write = draw(2) || !times[block];
    piece->block = block;
    for (piece->count = 0; piece->count < count && (write || times[block + piece->count]); piece->count++) {
        u64 i = piece->count, *words = piece->memory + i * WORDS;
        if (write)
            fill(words, block + i, ++times[block + i]);
        else
            for (u64 at = 0; at < WORDS; at += 8)
                words[at] = ~0UL;
        piece->times[i] = times[block + i];
    }
    order->opcode = write ? IOCB_CMD_PWRITE : IOCB_CMD_PREAD;
    order->buffer = (u64)piece->memory;
    order->length = piece->count * BLOCK;
    order->offset = (s64)(block * BLOCK);
}

static void begin(struct request *request, u32 fd)
{
    struct iocb *order = &request->order;
    prepare(request, fd);
    if (syscall3(SYS_io_submit, context, 1, &order) != 1)
        fail("a request was refused");
}

// How many have completed and were not looked at.
static u64 unseen(void)
{
    const volatile struct ring *ring = (const volatile struct ring *)context;
    u32 head = ring->head, tail = ring->tail;
    return tail >= head ? tail - head : ring->count - head + tail;
}

// The first byte of a line that has come on standard input, or zero.
static char line(void)
{
    char bytes[16];
    return syscall3(SYS_read, 0, bytes, sizeof bytes) > 0 ? bytes[0] : 0;
}

static int work(const char *device)
{
    s64 fd = syscall6(SYS_openat, AT_FDCWD, (s64)device, O_RDWR | O_DIRECT, 0, 0, 0);
    if (fd < 0)
        fail("the device cannot be opened");
    u8 *memory = map(depth * PIECES * BLOCKS_MAX * BLOCK, PROT_READ | PROT_WRITE, MAP_PRIVATE);
    if (syscall3(SYS_lseek, fd, 0, SEEK_END) < (s64)(depth * PLACES * BLOCKS_MAX * BLOCK) || (s64)memory < 0 ||
        syscall3(SYS_io_setup, depth, &context, 0) < 0)
        fail("the device is too small, or there is no memory");
    for (u64 i = 0; i < depth * PIECES; i++)
        pieces[i / PIECES][i % PIECES].memory = (u64 *)(memory + i * BLOCKS_MAX * BLOCK);
    // The shell gets the terminal back as it was.
    s64 flags = syscall3(SYS_fcntl, 0, F_GETFL, 0);
    syscall3(SYS_fcntl, 0, F_SETFL, flags | O_NONBLOCK);
    for (u64 i = 0; i < depth; i++)
        begin(&requests[i], (u32)fd);
    say("work: begun\n");
    u64 under_way = depth, completed = 0, answer_at = 0, longest = 0, held = 0, held_before = 0, last = now();
    int ending = 0;
    while (under_way > 0) {
        struct io_event event;
        if (syscall6(SYS_io_getevents, (s64)context, 1, 1, (s64)&event, 0, 0) != 1)
            fail("no request came back");
        u64 time = now();
        if (time - last > longest) {
            longest = time - last;
            held = held_before;
        }
        last = time;
        struct request *request = &requests[event.data];
        under_way--;
        completed++;
        u64 waiting = unseen();
        held_before = under_way > waiting ? under_way - waiting : 0;
        if (event.result != (s64)request->order.length)
            fail("a request failed");
        if (request->piece && request->order.opcode == IOCB_CMD_PREAD)
            check_piece(request->piece, "what was read");
        if (!ending) {
            begin(request, (u32)fd);
            under_way++;
        }
        if (answer_at == 0) {
            char first = line();
            ending = ending || first == 'q';
            answer_at = first && first != 'q' ? completed + 2 * depth : 0;
        }
        if (answer_at && completed >= answer_at) {
            say("work: gap ");
            say_number(longest);
            say(" us, ");
            say_number(held);
            say(" held, ");
            say_number(completed);
            say(" completed\n");
            answer_at = longest = 0;
            last = now();
        }
    }
    syscall3(SYS_fcntl, 0, F_SETFL, flags);
    say("work: ended, ");
    say_number(completed);
    say(" completed\n");
    return 0;
}

// The kernel enters here: the stack begins with the number of arguments, then the arguments.
__attribute__((noreturn, used)) void start_in_c(const u64 *stack)
{
    const char **words = (const char **)(stack + 1);
    if (stack[0] != 3)
        fail("usage: work DEVICE DEPTH");
    depth = number_of(words[2]);
    if (depth < 1 || depth > DEPTH_MAX)
        fail("DEPTH is 1 to 64");
    leave(work(words[1]));
}
__asm__(".globl _start\n_start:\n mov x0, sp\n mov x29, xzr\n mov x30, xzr\n b start_in_c\n");
