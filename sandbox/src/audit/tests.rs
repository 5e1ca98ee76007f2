// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Parsing what /proc prints, and judging it: each fact alone can be a drift.

use super::read::{id_map, limits, mounts, status};
use super::*;
use crate::profiles;

const STATUS: &str = "Name:\tbulkhead-smmu\nUmask:\t0022\nState:\tS (sleeping)\nUid:\t65534\t65534\t65534\t65534\n\
    TracerPid:\t0\nNSpid:\t812\t9\t1\nThreads:\t3\nCapInh:\t0000000000000000\nCapPrm:\t0000000000000000\nCapEff:\t0000000000000000\n\
    CapBnd:\t0000000000000000\nCapAmb:\t0000000000000000\nNoNewPrivs:\t1\nSeccomp:\t2\nSeccomp_filters:\t4\n";

const LIMITS: &str = "Limit                     Soft Limit           Hard Limit           Units     \n\
Max file size             67108864             67108864             bytes     \n\
Max core file size        0                    0                    bytes     \n\
Max data size             134217728            134217728            bytes     \n\
Max address space         402653184            402653184            bytes     \n\
Max processes             16                   16                   processes \n\
Max open files            32                   32                   files     \n\
Max locked memory         0                    0                    bytes     \n\
Max msgqueue size         0                    0                    bytes     \n\
Max nice priority         0                    0                    \n\
Max realtime timeout      unlimited            unlimited            us        \n";

const MOUNTS: &str =
    "77 76 0:45 / / ro,nosuid,nodev,noexec,relatime - tmpfs none ro,size=4k,nr_inodes=1,mode=555\n";

fn good() -> Observed {
    Observed {
        pid: 812,
        one_id: false,
        status: Ok(status(STATUS).unwrap()),
        thread_statuses: Ok(vec![status(STATUS).unwrap()]),
        dumpable: Ok(false),
        namespaces: ["user", "mnt", "pid", "net", "ipc", "uts"]
            .map(|name| (name, Ok(Namespace { id: 1, observer: 2 })))
            .into(),
        descriptors: Ok(Vec::new()),
        root_entries: Ok(Vec::new()),
        mounts: Ok(mounts(MOUNTS).unwrap()),
        uid_map: Ok(Vec::new()),
        gid_map: Ok(Vec::new()),
        limits: Ok(limits(LIMITS).unwrap()),
    }
}

#[test]
fn kernel_text_parses() {
    let status = status(STATUS).unwrap();
    assert_eq!((status.name.as_str(), status.threads, status.seccomp_filters), ("bulkhead-smmu", 3, Some(4)));
    assert_eq!((status.uids, status.ns_pids), ([65534; 4], vec![812, 9, 1]));
    assert_eq!(limits(LIMITS).unwrap()["Max realtime timeout"], (None, None));
    assert_eq!(id_map("     65534      65534          1\n").unwrap(), [(65534, 65534, 1)]);
    assert_eq!(mounts(MOUNTS).unwrap()[0].2, "tmpfs");
}

#[test]
fn odd_text_does_not_parse() {
    assert!(status("").is_none());
    for field in ["Seccomp:", "NoNewPrivs:", "CapBnd:", "NSpid:", "Uid:", "Threads:", "TracerPid:"] {
        assert!(status(&STATUS.replace(field, "Other:")).is_none(), "{field}");
    }
    assert!(status(&STATUS.replace("NoNewPrivs:\t1", "NoNewPrivs:\t2")).is_none());
    assert!(status(&STATUS.replace("Seccomp_filters:\t4", "Seccomp_filters:\tmany")).is_none());
    assert_eq!(status(&STATUS.replace("Seccomp_filters:\t4\n", "")).unwrap().seccomp_filters, None);
    assert!(id_map("1 2\n").is_none() && id_map("a b c\n").is_none());
    assert!(mounts("77 76 0:45\n").is_none());
    assert!(limits("head\nshort\n").is_none());
}

#[test]
fn right_process_has_no_drift() {
    assert_eq!(compare(&good(), &profiles::smmu()), []);
}

#[test]
fn each_fact_alone_is_a_drift() {
    type Change = (&'static str, fn(&mut Observed));
    let changes: [Change; 22] = [
        ("seccomp", |seen| seen.status.as_mut().unwrap().seccomp_mode = 0),
        ("seccomp", |seen| seen.status.as_mut().unwrap().seccomp_filters = Some(3)),
        ("no_new_privs", |seen| seen.status.as_mut().unwrap().no_new_privs = false),
        ("capabilities", |seen| seen.status.as_mut().unwrap().capabilities.inheritable = 1),
        ("capabilities", |seen| seen.status.as_mut().unwrap().capabilities.permitted = 1),
        ("capabilities", |seen| seen.status.as_mut().unwrap().capabilities.effective = 1),
        ("capabilities", |seen| seen.status.as_mut().unwrap().capabilities.bounding = 1 << 40),
        ("capabilities", |seen| seen.status.as_mut().unwrap().capabilities.ambient = 1),
        ("tracer", |seen| seen.status.as_mut().unwrap().tracer = 77),
        ("threads", |seen| seen.thread_statuses.as_mut().unwrap()[0].seccomp_filters = Some(2)),
        ("threads", |seen| seen.thread_statuses.as_mut().unwrap()[0].capabilities.effective = 1),
        ("dumpable", |seen| seen.dumpable = Ok(true)),
        ("user", |seen| seen.status.as_mut().unwrap().uids[2] = 0),
        ("pid namespace", |seen| seen.status.as_mut().unwrap().ns_pids = vec![812]),
        ("namespace", |seen| drop(seen.namespaces.insert("net", Ok(Namespace { id: 2, observer: 2 })))),
        ("root", |seen| seen.root_entries = Ok(vec!["etc".to_owned()])),
        ("mounts", |seen| seen.mounts.as_mut().unwrap()[0].1 = "rw,nosuid,nodev,noexec".to_owned()),
        ("mounts", |seen| seen.mounts.as_mut().unwrap().push(("/x".into(), "ro".into(), "proc".into()))),
        ("mounts", |seen| seen.mounts.as_mut().unwrap()[0].2 = "ext4".to_owned()),
        ("uid_map", |seen| seen.uid_map = Ok(vec![(0, 0, u32::MAX)])),
        ("gid_map", |seen| seen.gid_map = Ok(vec![(0, 0, 1)])),
        ("limits", |seen| seen.limits.as_mut().unwrap().get_mut("Max open files").unwrap().1 = Some(33)),
    ];
    for (what, change) in changes {
        let mut seen = good();
        change(&mut seen);
        if what != "threads" {
            seen.thread_statuses = seen.status.clone().map(|status| vec![status]);
        }
        let drifts = compare(&seen, &profiles::smmu());
        assert_eq!(drifts.len(), 1, "{what}: {drifts:?}");
        assert!(drifts[0].what == what && !drifts[0].unread, "{what}: {drifts:?}");
    }
}

#[test]
fn each_unread_fact_is_a_drift_that_says_so() {
    let unread = || Unreadable { file: "/proc/1/x".to_owned(), why: "no".to_owned() };
    type Change = fn(&mut Observed, Unreadable);
    let changes: [Change; 8] = [
        |seen, why| seen.status = Err(why),
        |seen, why| seen.dumpable = Err(why),
        |seen, why| seen.descriptors = Err(why),
        |seen, why| seen.root_entries = Err(why),
        |seen, why| seen.mounts = Err(why),
        |seen, why| seen.uid_map = Err(why),
        |seen, why| seen.limits = Err(why),
        |seen, why| drop(seen.namespaces.insert("mnt", Err(why))),
    ];
    for change in changes {
        let mut seen = good();
        change(&mut seen, unread());
        let drifts = compare(&seen, &profiles::smmu());
        assert!(drifts.len() == 1 && drifts[0].unread, "{drifts:?}");
        assert!(drifts[0].detail.contains("/proc/1/x cannot be read: no"), "{drifts:?}");
    }
}
