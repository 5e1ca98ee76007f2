// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
use std::cell::RefCell;
use std::os::fd::AsFd;

use ipc::vfio_user::header::Command;

use super::*;

const TIB: u64 = 1 << 40;

/// A server that takes windows of up to `len_max`, `count_max` of them.
struct Server {
    len_max: u64,
    count_max: usize,
    has: RefCell<Vec<(u64, u64, Option<u64>)>>,
    refused: RefCell<usize>,
}

fn server(len_max: u64, count_max: usize) -> Server {
    Server { len_max, count_max, has: RefCell::default(), refused: RefCell::default() }
}

impl Server {
    fn map(&self, window: DmaWindow<'_>) -> Result<(), ClientError> {
        let refuse = |errno: Errno| {
            *self.refused.borrow_mut() += 1;
            let errno = errno.raw_os_error().cast_unsigned();
            Err(ConnectionError::Remote { command: Command::DMA_MAP, errno }.into())
        };
        if window.len > self.len_max {
            return refuse(Errno::NOSPC);
        }
        if self.has.borrow().len() == self.count_max {
            return refuse(Errno::INVAL);
        }
        self.has.borrow_mut().push((window.start, window.len, window.memory.map(|(_, offset)| offset)));
        Ok(())
    }
}

#[test]
fn all_addresses_are_declared_in_pieces_that_the_server_takes() {
    for (len_max, pieces) in [(u64::MAX, 1), (1 << 48, 1), (8 * TIB, 32), (5 * TIB, 64)] {
        let server = server(len_max, usize::MAX);
        let mut windows = Windows::new(4096);
        windows.declare(&[DmaWindow::EVERYWHERE], |window| server.map(window)).unwrap();
        let has = server.has.borrow();
        let mut next = 0;
        for (start, len, memory) in has.iter().copied() {
            assert_eq!((start, memory), (next, None));
            next += len;
        }
        assert_eq!((next, has.len()), (IOVA_SPACE_LEN, pieces), "{len_max:#x}");
        assert!(*server.refused.borrow() <= 6, "the length is found out once");
        let taken_back = RefCell::new(Vec::new());
        windows
            .withdraw(|start, len| {
                taken_back.borrow_mut().push((start, len));
                Ok(())
            })
            .unwrap();
        assert!(taken_back.borrow().iter().copied().eq(has.iter().map(|(start, len, _)| (*start, *len))));
    }
}

#[test]
fn memory_is_cut_with_its_file_and_gaps_stay_gaps() {
    let file = std::fs::File::open("/dev/null").unwrap();
    let server = server(2 * TIB, usize::MAX);
    let given = [
        DmaWindow { start: 0, len: TIB, memory: None },
        DmaWindow { start: TIB, len: 3 * TIB, memory: Some((file.as_fd(), 0x1000)) },
    ];
    Windows::new(4096).declare(&given, |window| server.map(window)).unwrap();
    let memory = |offset| Some(0x1000 + offset);
    let expected = [(0, TIB, None), (TIB, 2 * TIB, memory(0)), (3 * TIB, TIB, memory(2 * TIB))];
    assert_eq!(*server.has.borrow(), expected);
}

#[test]
fn a_server_that_takes_too_few_is_told_apart_and_what_it_has_is_taken_back() {
    for (named, takes) in [(16, 4096), (4096, 16)] {
        let server = server(8 * TIB, takes);
        let mut windows = Windows::new(named);
        let error = windows.declare(&[DmaWindow::EVERYWHERE], |window| server.map(window)).unwrap_err();
        assert_eq!(
            error.to_string(),
            "the server takes no more than 16 DMA windows of 0x80000000000 bytes: not all addresses of the guest's SMMU"
        );
        assert!(*server.refused.borrow() <= 7, "one too many is not halved");
        let count = RefCell::new(0);
        windows
            .withdraw(|_, _| {
                *count.borrow_mut() += 1;
                Ok(())
            })
            .unwrap();
        assert_eq!(count.take(), 16);
    }
    // One that takes none, and one that refuses for a reason of its own, say so themselves.
    let none = server(0, 0);
    let error = Windows::new(4096).declare(&[DmaWindow::EVERYWHERE], |window| none.map(window)).unwrap_err();
    assert!(error.is_refusal(), "{error}");
    assert_eq!(*none.refused.borrow(), 19, "from 2^48 to 2^30");
    let busy =
        |_: DmaWindow<'_>| Err(ConnectionError::Remote { command: Command::DMA_MAP, errno: 16 }.into());
    let error = Windows::new(4096).declare(&[DmaWindow::EVERYWHERE], busy).unwrap_err();
    assert!(error.is_refusal(), "{error}");
}
