// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The table: calls by name, and for each its arguments in order.

use super::ioctls::IOCTLS;
use super::{Argument, choice, flags, int, mixed, plain};

/// By the names of calls, in their order.
pub(super) const ARGUMENTS: &[(&str, &[Argument])] = &[
    (
        "arch_prctl",
        &[
            choice(
                "op",
                &[
                    ("ARCH_SET_FS", 0x1002),
                    ("ARCH_CET_STATUS", 0x3001),
                    ("ARCH_SHSTK_ENABLE", 0x5001),
                    ("ARCH_SHSTK_DISABLE", 0x5002),
                    ("ARCH_SHSTK_LOCK", 0x5003),
                    ("ARCH_SHSTK_STATUS", 0x5005),
                ],
            ),
            plain("addr"),
        ],
    ),
    (
        "clone",
        &[
            flags(
                "flags",
                &[
                    ("CLONE_VM", int(libc::CLONE_VM)),
                    ("CLONE_FS", int(libc::CLONE_FS)),
                    ("CLONE_FILES", int(libc::CLONE_FILES)),
                    ("CLONE_SIGHAND", int(libc::CLONE_SIGHAND)),
                    ("CLONE_PIDFD", int(libc::CLONE_PIDFD)),
                    ("CLONE_PTRACE", int(libc::CLONE_PTRACE)),
                    ("CLONE_VFORK", int(libc::CLONE_VFORK)),
                    ("CLONE_PARENT", int(libc::CLONE_PARENT)),
                    ("CLONE_THREAD", int(libc::CLONE_THREAD)),
                    ("CLONE_NEWNS", int(libc::CLONE_NEWNS)),
                    ("CLONE_SYSVSEM", int(libc::CLONE_SYSVSEM)),
                    ("CLONE_SETTLS", int(libc::CLONE_SETTLS)),
                    ("CLONE_PARENT_SETTID", int(libc::CLONE_PARENT_SETTID)),
                    ("CLONE_CHILD_CLEARTID", int(libc::CLONE_CHILD_CLEARTID)),
                    ("CLONE_UNTRACED", int(libc::CLONE_UNTRACED)),
                    ("CLONE_CHILD_SETTID", int(libc::CLONE_CHILD_SETTID)),
                    ("CLONE_NEWCGROUP", int(libc::CLONE_NEWCGROUP)),
                    ("CLONE_NEWUTS", int(libc::CLONE_NEWUTS)),
                    ("CLONE_NEWIPC", int(libc::CLONE_NEWIPC)),
                    ("CLONE_NEWUSER", int(libc::CLONE_NEWUSER)),
                    ("CLONE_NEWPID", int(libc::CLONE_NEWPID)),
                    ("CLONE_NEWNET", int(libc::CLONE_NEWNET)),
                    ("CLONE_IO", int(libc::CLONE_IO)),
                    ("SIGCHLD", 17),
                ],
            ),
            plain("stack"),
            plain("parent_tid"),
            plain("child_tid"),
            plain("tls"),
        ],
    ),
    (
        "execveat",
        &[plain("dirfd"), plain("pathname"), plain("argv"), plain("envp"), flags("flags", AT_FLAGS)],
    ),
    (
        "fadvise64",
        &[
            plain("fd"),
            plain("offset"),
            plain("size"),
            choice(
                "advice",
                &[
                    ("POSIX_FADV_NORMAL", int(libc::POSIX_FADV_NORMAL)),
                    ("POSIX_FADV_WILLNEED", int(libc::POSIX_FADV_WILLNEED)),
                    ("POSIX_FADV_DONTNEED", int(libc::POSIX_FADV_DONTNEED)),
                ],
            ),
        ],
    ),
    (
        "fallocate",
        &[
            plain("fd"),
            flags(
                "mode",
                &[
                    ("FALLOC_FL_KEEP_SIZE", int(libc::FALLOC_FL_KEEP_SIZE)),
                    ("FALLOC_FL_PUNCH_HOLE", int(libc::FALLOC_FL_PUNCH_HOLE)),
                    ("FALLOC_FL_COLLAPSE_RANGE", int(libc::FALLOC_FL_COLLAPSE_RANGE)),
                    ("FALLOC_FL_ZERO_RANGE", int(libc::FALLOC_FL_ZERO_RANGE)),
                    ("FALLOC_FL_INSERT_RANGE", int(libc::FALLOC_FL_INSERT_RANGE)),
                    ("FALLOC_FL_UNSHARE_RANGE", int(libc::FALLOC_FL_UNSHARE_RANGE)),
                ],
            ),
            plain("offset"),
            plain("size"),
        ],
    ),
    (
        "fcntl",
        &[
            plain("fd"),
            choice(
                "op",
                &[
                    ("F_DUPFD", int(libc::F_DUPFD)),
                    ("F_DUPFD_CLOEXEC", int(libc::F_DUPFD_CLOEXEC)),
                    ("F_GETFD", int(libc::F_GETFD)),
                    ("F_SETFD", int(libc::F_SETFD)),
                    ("F_GETFL", int(libc::F_GETFL)),
                    ("F_SETFL", int(libc::F_SETFL)),
                    ("F_ADD_SEALS", int(libc::F_ADD_SEALS)),
                    ("F_GET_SEALS", int(libc::F_GET_SEALS)),
                ],
            ),
            plain("arg"),
        ],
    ),
    (
        "futex",
        &[
            plain("uaddr"),
            mixed(
                "futex_op",
                0x7f,
                &[
                    ("FUTEX_WAIT", int(libc::FUTEX_WAIT)),
                    ("FUTEX_WAKE", int(libc::FUTEX_WAKE)),
                    ("FUTEX_REQUEUE", int(libc::FUTEX_REQUEUE)),
                    ("FUTEX_CMP_REQUEUE", int(libc::FUTEX_CMP_REQUEUE)),
                    ("FUTEX_WAKE_OP", int(libc::FUTEX_WAKE_OP)),
                    ("FUTEX_LOCK_PI", int(libc::FUTEX_LOCK_PI)),
                    ("FUTEX_UNLOCK_PI", int(libc::FUTEX_UNLOCK_PI)),
                    ("FUTEX_TRYLOCK_PI", int(libc::FUTEX_TRYLOCK_PI)),
                    ("FUTEX_WAIT_BITSET", int(libc::FUTEX_WAIT_BITSET)),
                    ("FUTEX_WAKE_BITSET", int(libc::FUTEX_WAKE_BITSET)),
                    ("FUTEX_PRIVATE_FLAG", int(libc::FUTEX_PRIVATE_FLAG)),
                    ("FUTEX_CLOCK_REALTIME", int(libc::FUTEX_CLOCK_REALTIME)),
                ],
            ),
            plain("val"),
            plain("timeout"),
            plain("uaddr2"),
            plain("val3"),
        ],
    ),
    (
        "getrusage",
        &[
            choice(
                "who",
                &[
                    ("RUSAGE_SELF", int(libc::RUSAGE_SELF)),
                    ("RUSAGE_THREAD", int(libc::RUSAGE_THREAD)),
                    ("RUSAGE_CHILDREN", 0xffff_ffff),
                ],
            ),
            plain("usage"),
        ],
    ),
    ("ioctl", &[plain("fd"), choice("op", IOCTLS), plain("arg")]),
    (
        "madvise",
        &[
            plain("addr"),
            plain("length"),
            choice(
                "advice",
                &[
                    ("MADV_NORMAL", int(libc::MADV_NORMAL)),
                    ("MADV_RANDOM", int(libc::MADV_RANDOM)),
                    ("MADV_SEQUENTIAL", int(libc::MADV_SEQUENTIAL)),
                    ("MADV_WILLNEED", int(libc::MADV_WILLNEED)),
                    ("MADV_DONTNEED", int(libc::MADV_DONTNEED)),
                    ("MADV_FREE", int(libc::MADV_FREE)),
                    ("MADV_REMOVE", int(libc::MADV_REMOVE)),
                    ("MADV_HUGEPAGE", int(libc::MADV_HUGEPAGE)),
                    ("MADV_NOHUGEPAGE", int(libc::MADV_NOHUGEPAGE)),
                    ("MADV_DONTDUMP", int(libc::MADV_DONTDUMP)),
                    ("MADV_DODUMP", int(libc::MADV_DODUMP)),
                    ("MADV_POPULATE_READ", int(libc::MADV_POPULATE_READ)),
                    ("MADV_POPULATE_WRITE", int(libc::MADV_POPULATE_WRITE)),
                    ("MADV_GUARD_INSTALL", 102),
                    ("MADV_GUARD_REMOVE", 103),
                ],
            ),
        ],
    ),
    (
        "memfd_create",
        &[
            plain("name"),
            flags(
                "flags",
                &[
                    ("MFD_CLOEXEC", libc::MFD_CLOEXEC as u64),
                    ("MFD_ALLOW_SEALING", libc::MFD_ALLOW_SEALING as u64),
                    ("MFD_HUGETLB", libc::MFD_HUGETLB as u64),
                    ("MFD_NOEXEC_SEAL", libc::MFD_NOEXEC_SEAL as u64),
                    ("MFD_EXEC", libc::MFD_EXEC as u64),
                ],
            ),
        ],
    ),
    (
        "mmap",
        &[
            plain("addr"),
            plain("length"),
            flags("prot", PROTECTION),
            mixed(
                "flags",
                0xf,
                &[
                    ("MAP_SHARED", int(libc::MAP_SHARED)),
                    ("MAP_PRIVATE", int(libc::MAP_PRIVATE)),
                    ("MAP_SHARED_VALIDATE", int(libc::MAP_SHARED_VALIDATE)),
                    ("MAP_FIXED", int(libc::MAP_FIXED)),
                    ("MAP_ANONYMOUS", int(libc::MAP_ANONYMOUS)),
                    ("MAP_GROWSDOWN", int(libc::MAP_GROWSDOWN)),
                    ("MAP_LOCKED", int(libc::MAP_LOCKED)),
                    ("MAP_NORESERVE", int(libc::MAP_NORESERVE)),
                    ("MAP_POPULATE", int(libc::MAP_POPULATE)),
                    ("MAP_NONBLOCK", int(libc::MAP_NONBLOCK)),
                    ("MAP_STACK", int(libc::MAP_STACK)),
                    ("MAP_HUGETLB", int(libc::MAP_HUGETLB)),
                    ("MAP_FIXED_NOREPLACE", int(libc::MAP_FIXED_NOREPLACE)),
                ],
            ),
            plain("fd"),
            plain("offset"),
        ],
    ),
    ("mprotect", &[plain("addr"), plain("size"), flags("prot", PROTECTION)]),
    (
        "mremap",
        &[
            plain("old_address"),
            plain("old_size"),
            plain("new_size"),
            flags(
                "flags",
                &[
                    ("MREMAP_MAYMOVE", int(libc::MREMAP_MAYMOVE)),
                    ("MREMAP_FIXED", int(libc::MREMAP_FIXED)),
                    ("MREMAP_DONTUNMAP", int(libc::MREMAP_DONTUNMAP)),
                ],
            ),
            plain("new_address"),
        ],
    ),
    ("newfstatat", &[plain("dirfd"), plain("pathname"), plain("statbuf"), flags("flags", AT_FLAGS)]),
    (
        "pidfd_send_signal",
        &[
            plain("pidfd"),
            choice(
                "sig",
                &[
                    ("SIGKILL", int(libc::SIGKILL)),
                    ("SIGTERM", int(libc::SIGTERM)),
                    ("SIGSTOP", int(libc::SIGSTOP)),
                    ("SIGCONT", int(libc::SIGCONT)),
                    ("SIGUSR1", int(libc::SIGUSR1)),
                ],
            ),
            plain("info"),
            plain("flags"),
        ],
    ),
    (
        "prctl",
        &[
            choice(
                "op",
                &[
                    ("PR_SET_PDEATHSIG", int(libc::PR_SET_PDEATHSIG)),
                    ("PR_GET_DUMPABLE", int(libc::PR_GET_DUMPABLE)),
                    ("PR_SET_DUMPABLE", int(libc::PR_SET_DUMPABLE)),
                    ("PR_SET_NAME", int(libc::PR_SET_NAME)),
                    ("PR_CAPBSET_READ", int(libc::PR_CAPBSET_READ)),
                    ("PR_CAPBSET_DROP", int(libc::PR_CAPBSET_DROP)),
                    ("PR_GET_SECUREBITS", int(libc::PR_GET_SECUREBITS)),
                    ("PR_SET_SECUREBITS", int(libc::PR_SET_SECUREBITS)),
                    ("PR_SET_NO_NEW_PRIVS", int(libc::PR_SET_NO_NEW_PRIVS)),
                    ("PR_GET_NO_NEW_PRIVS", int(libc::PR_GET_NO_NEW_PRIVS)),
                    ("PR_CAP_AMBIENT", int(libc::PR_CAP_AMBIENT)),
                    ("PR_SET_SECCOMP", int(libc::PR_SET_SECCOMP)),
                    ("PR_SET_VMA", int(libc::PR_SET_VMA)),
                ],
            ),
            plain("arg2"),
            plain("arg3"),
            plain("arg4"),
            plain("arg5"),
        ],
    ),
    (
        "preadv2",
        &[
            plain("fd"),
            plain("iov"),
            plain("iovcnt"),
            plain("offset_low"),
            plain("offset_high"),
            flags(
                "flags",
                &[
                    ("RWF_HIPRI", int(libc::RWF_HIPRI)),
                    ("RWF_DSYNC", int(libc::RWF_DSYNC)),
                    ("RWF_SYNC", int(libc::RWF_SYNC)),
                    ("RWF_NOWAIT", int(libc::RWF_NOWAIT)),
                    ("RWF_APPEND", int(libc::RWF_APPEND)),
                ],
            ),
        ],
    ),
    ("prlimit64", &[plain("pid"), plain("resource"), plain("new_limit"), plain("old_limit")]),
    (
        "recvmmsg",
        &[plain("sockfd"), plain("msgvec"), plain("vlen"), flags("flags", MESSAGE_FLAGS), plain("timeout")],
    ),
    (
        "rt_sigaction",
        &[
            choice("signum", &[("SIGCANCEL", 32), ("SIGSETXID", 33)]),
            plain("act"),
            plain("oldact"),
            plain("sigsetsize"),
        ],
    ),
    (
        "seccomp",
        &[
            choice(
                "operation",
                &[
                    ("SECCOMP_SET_MODE_STRICT", libc::SECCOMP_SET_MODE_STRICT as u64),
                    ("SECCOMP_SET_MODE_FILTER", libc::SECCOMP_SET_MODE_FILTER as u64),
                    ("SECCOMP_GET_ACTION_AVAIL", libc::SECCOMP_GET_ACTION_AVAIL as u64),
                ],
            ),
            flags(
                "flags",
                &[
                    ("SECCOMP_FILTER_FLAG_TSYNC", libc::SECCOMP_FILTER_FLAG_TSYNC),
                    ("SECCOMP_FILTER_FLAG_LOG", libc::SECCOMP_FILTER_FLAG_LOG),
                    ("SECCOMP_FILTER_FLAG_NEW_LISTENER", libc::SECCOMP_FILTER_FLAG_NEW_LISTENER),
                ],
            ),
            plain("args"),
        ],
    ),
    ("sendmmsg", &[plain("sockfd"), plain("msgvec"), plain("vlen"), flags("flags", MESSAGE_FLAGS)]),
    (
        "sendto",
        &[
            plain("sockfd"),
            plain("buf"),
            plain("size"),
            flags(
                "flags",
                &[
                    ("MSG_DONTWAIT", int(libc::MSG_DONTWAIT)),
                    ("MSG_NOSIGNAL", int(libc::MSG_NOSIGNAL)),
                    ("MSG_MORE", int(libc::MSG_MORE)),
                    ("MSG_OOB", int(libc::MSG_OOB)),
                ],
            ),
            plain("dest_addr"),
            plain("addrlen"),
        ],
    ),
    (
        "socketpair",
        &[
            choice(
                "domain",
                &[
                    ("AF_UNIX", int(libc::AF_UNIX)),
                    ("AF_INET", int(libc::AF_INET)),
                    ("AF_NETLINK", int(libc::AF_NETLINK)),
                    ("AF_INET6", int(libc::AF_INET6)),
                ],
            ),
            mixed(
                "type",
                0xf,
                &[
                    ("SOCK_STREAM", int(libc::SOCK_STREAM)),
                    ("SOCK_DGRAM", int(libc::SOCK_DGRAM)),
                    ("SOCK_RAW", int(libc::SOCK_RAW)),
                    ("SOCK_SEQPACKET", int(libc::SOCK_SEQPACKET)),
                    ("SOCK_CLOEXEC", int(libc::SOCK_CLOEXEC)),
                    ("SOCK_NONBLOCK", int(libc::SOCK_NONBLOCK)),
                ],
            ),
            plain("protocol"),
            plain("sv"),
        ],
    ),
    (
        "statx",
        &[plain("dirfd"), plain("pathname"), flags("flags", AT_FLAGS), plain("mask"), plain("statxbuf")],
    ),
    (
        "tgkill",
        &[
            plain("tgid"),
            plain("tid"),
            choice(
                "sig",
                &[
                    ("SIGABRT", int(libc::SIGABRT)),
                    ("SIGKILL", int(libc::SIGKILL)),
                    ("SIGUSR1", int(libc::SIGUSR1)),
                ],
            ),
        ],
    ),
    (
        "unshare",
        &[flags(
            "flags",
            &[
                ("CLONE_THREAD", int(libc::CLONE_THREAD)),
                ("CLONE_FS", int(libc::CLONE_FS)),
                ("CLONE_FILES", int(libc::CLONE_FILES)),
                ("CLONE_NEWNS", int(libc::CLONE_NEWNS)),
                ("CLONE_NEWUSER", int(libc::CLONE_NEWUSER)),
                ("CLONE_NEWPID", int(libc::CLONE_NEWPID)),
                ("CLONE_NEWNET", int(libc::CLONE_NEWNET)),
            ],
        )],
    ),
];

/// Of mmap and mprotect.
const PROTECTION: &[(&str, u64)] = &[
    ("PROT_NONE", int(libc::PROT_NONE)),
    ("PROT_READ", int(libc::PROT_READ)),
    ("PROT_WRITE", int(libc::PROT_WRITE)),
    ("PROT_EXEC", int(libc::PROT_EXEC)),
    ("PROT_GROWSDOWN", int(libc::PROT_GROWSDOWN)),
    ("PROT_GROWSUP", int(libc::PROT_GROWSUP)),
];

/// Of calls that take a descriptor and a path.
const AT_FLAGS: &[(&str, u64)] = &[
    ("AT_EMPTY_PATH", int(libc::AT_EMPTY_PATH)),
    ("AT_SYMLINK_NOFOLLOW", int(libc::AT_SYMLINK_NOFOLLOW)),
    ("AT_NO_AUTOMOUNT", int(libc::AT_NO_AUTOMOUNT)),
];

/// Of sendmmsg and recvmmsg.
const MESSAGE_FLAGS: &[(&str, u64)] = &[
    ("MSG_DONTWAIT", int(libc::MSG_DONTWAIT)),
    ("MSG_NOSIGNAL", int(libc::MSG_NOSIGNAL)),
    ("MSG_CMSG_CLOEXEC", int(libc::MSG_CMSG_CLOEXEC)),
];
