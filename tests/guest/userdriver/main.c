// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
// A user's program in the guest that drives an NVMe controller by VFIO, while something is done to its machine.
//
//   userdriver DEVICE GROUP
//
// has the controller write the page of Identify Controller over and over, each time at another I/O address that was mapped
// for it and is unmapped behind it, and prints the number of each turn. The bytes are to be those of the first turn; where
// they are not, or nothing comes, it prints why, and ends with exit code 1. Calls: linux/vfio.h, type 1 v2; the controller:
// NVM Express 1.4, sections 3.1 and 5.15. Freestanding, as the self-test is, and for the same reason.
#define PROGRAM "userdriver"
#include "../aio.h"

enum { SYS_ioctl = 29, SYS_pread64 = 67, SYS_pwrite64 = 68 };

// linux/vfio.h: _IO(';', 100 + number)
#define VFIO(number) (';' << 8 | (100 + (number)))
enum {
    SET_IOMMU = VFIO(2), GROUP_SET_CONTAINER = VFIO(4), GROUP_GET_DEVICE_FD = VFIO(6), DEVICE_GET_REGION_INFO = VFIO(8),
    IOMMU_MAP_DMA = VFIO(13), IOMMU_UNMAP_DMA = VFIO(14),
};
enum { TYPE1v2 = 3, BAR0 = 0, CONFIG = 7, DMA_READ = 1, DMA_WRITE = 2 };
struct region {
    u32 size_of_this, flags, index, capabilities;
    u64 length, offset;
};
struct dma_map {
    u32 size_of_this, flags;
    u64 memory, iova, length;
};
struct dma_unmap {
    u32 size_of_this, flags;
    u64 iova, length;
};

// PCI Local Bus 3.0, section 6.2.2
enum { COMMAND = 4, MEMORY_SPACE = 2, BUS_MASTER = 4 };

enum { CC = 0x14, CSTS = 0x1c, AQA = 0x24, ASQ = 0x28, ACQ = 0x30, SUBMISSION_TAIL = 0x1000, COMPLETION_HEAD = 0x1004 };
enum { ENTRIES = 16, ENTRY_DWORDS = 16, IDENTIFY = 6, OF_CONTROLLER = 1, IDENTITY_LENGTH = 4096 };
struct completion {
    u32 result, reserved;
    u16 head, queue, id, status;
};

// Pages of the guest's kernel are no larger.
#define AREA 0x10000UL
#define QUEUES_AT 0x100000UL
#define IDENTITY_AT 0x40000000UL
enum { PLACES = 8, PATIENCE_US = 20000000 };

static s64 container, device;
static u64 bar0, config;

static s64 control(s64 file, u64 request, const void *argument)
{
    return syscall3(SYS_ioctl, file, (s64)request, (s64)argument);
}

static s64 opened(const char *path)
{
    s64 file = syscall6(SYS_openat, AT_FDCWD, (s64)path, O_RDWR, 0, 0, 0);
    if (file < 0)
        fail(path);
    return file;
}

static u64 region(u32 index)
{
    struct region region = { .size_of_this = sizeof region, .index = index };
    if (control(device, DEVICE_GET_REGION_INFO, &region) < 0)
        fail("the device has no such region");
    return region.offset;
}

static void write_register(u64 at, u64 value, u64 length)
{
    if (syscall6(SYS_pwrite64, device, (s64)&value, (s64)length, (s64)(bar0 + at), 0, 0) != (s64)length)
        fail("a register cannot be written");
}

static u32 read_register(u64 at)
{
    u32 value = 0;
    if (syscall6(SYS_pread64, device, (s64)&value, sizeof value, (s64)(bar0 + at), 0, 0) != sizeof value)
        fail("a register cannot be read");
    return value;
}

static void map_at(u64 iova, const u8 *memory)
{
    struct dma_map map = { sizeof map, DMA_READ | DMA_WRITE, (u64)memory, iova, AREA };
    if (control(container, IOMMU_MAP_DMA, &map) < 0)
        fail("memory cannot be mapped for the device");
}

static void unmap(u64 iova)
{
    struct dma_unmap unmap = { sizeof unmap, 0, iova, AREA };
    if (control(container, IOMMU_UNMAP_DMA, &unmap) < 0 || unmap.length != AREA)
        fail("memory cannot be unmapped");
}

static void await_ready(u32 wanted)
{
    for (u64 until = now() + PATIENCE_US; (read_register(CSTS) & 3) != wanted;)
        if (now() > until)
            fail("the controller does not become ready");
}

// Has the device, with its DMA translated, its interrupts off, and its admin queues in `queues`.
static void begin(const char *name, const char *group_number, const u8 *queues)
{
    char path[32] = "/dev/vfio/";
    u64 length = length_of(path);
    for (; *group_number && length < sizeof path - 1; length++)
        path[length] = *group_number++;
    container = opened("/dev/vfio/vfio");
    s64 group = opened(path);
    if (control(group, GROUP_SET_CONTAINER, &(int){ (int)container }) < 0)
        fail("the group is not taken");
    if (syscall3(SYS_ioctl, container, SET_IOMMU, TYPE1v2) < 0)
        fail("the kernel has no such IOMMU for it");
    device = control(group, GROUP_GET_DEVICE_FD, name);
    if (device < 0)
        fail("the group has no such device");
    bar0 = region(BAR0);
    config = region(CONFIG);
    u16 command = MEMORY_SPACE | BUS_MASTER;
    if (syscall6(SYS_pwrite64, device, (s64)&command, sizeof command, (s64)(config + COMMAND), 0, 0) < 0)
        fail("the device cannot be enabled");
    map_at(QUEUES_AT, queues);
    write_register(CC, 0, 4);
    await_ready(0);
    write_register(AQA, (ENTRIES - 1) << 16 | (ENTRIES - 1), 4);
    write_register(ASQ, QUEUES_AT, 8);
    write_register(ACQ, QUEUES_AT + AREA / 2, 8);
    write_register(CC, 6 << 16 | 4 << 20 | 1, 4);
    await_ready(1);
}

// The number of the command counts up from 0.
static void identify(u64 number, u8 *queues, u64 iova)
{
    u64 at = number % ENTRIES;
    volatile u32 *command = (u32 *)queues + at * ENTRY_DWORDS;
    for (u32 dword = 0; dword < ENTRY_DWORDS; dword++)
        command[dword] = 0;
    command[0] = IDENTIFY | (u32)(u16)number << 16;
    command[6] = (u32)iova;
    command[7] = (u32)(iova >> 32);
    command[10] = OF_CONTROLLER;
    __asm__ volatile("dsb sy" ::: "memory");
    write_register(SUBMISSION_TAIL, (at + 1) % ENTRIES, 4);
    const volatile struct completion *completion = (struct completion *)(queues + AREA / 2) + at;
    u16 phase = (number / ENTRIES) % 2 == 0;
    for (u64 until = now() + PATIENCE_US; (completion->status & 1) != phase;) {
        if (now() > until)
            fail("the controller does not answer");
        syscall3(SYS_sched_yield, 0, 0, 0);
    }
    __asm__ volatile("dmb sy" ::: "memory");
    if (completion->status >> 1)
        fail("the controller refuses");
    if (completion->id != (u16)number)
        fail("the controller answers what was not asked");
    write_register(COMPLETION_HEAD, (at + 1) % ENTRIES, 4);
}

__attribute__((noreturn, used)) void start_in_c(const u64 *stack)
{
    const char **argument = (const char **)(stack + 1);
    if (stack[0] != 3)
        fail("usage: userdriver DEVICE GROUP");
    u8 *memory = map(4 * AREA, PROT_READ | PROT_WRITE, MAP_PRIVATE);
    // Where a page of any kernel begins.
    u8 *queues = (u8 *)(((u64)memory + AREA - 1) & ~(AREA - 1)), *identity = queues + AREA;
    u8 first[IDENTITY_LENGTH];
    begin(argument[1], argument[2], queues);
    for (u64 number = 0;; number++) {
        u64 iova = IDENTITY_AT + number % PLACES * AREA;
        // Volatile: no call of memset, which there is not.
        for (u64 at = 0; at < IDENTITY_LENGTH; at++)
            ((volatile u8 *)identity)[at] = 0xff;
        map_at(iova, identity);
        identify(number, queues, iova);
        unmap(iova);
        for (u64 at = 0; at < IDENTITY_LENGTH; at++) {
            if (number == 0)
                first[at] = identity[at];
            else if (first[at] != identity[at])
                fail("the controller wrote something else");
        }
        if (number == 0 && first[0] == 0xff)
            fail("the controller wrote nothing");
        say_number(number + 1);
        say("\n");
    }
}
__asm__(".globl _start\n_start:\n mov x0, sp\n mov x29, xzr\n mov x30, xzr\n b start_in_c\n");
