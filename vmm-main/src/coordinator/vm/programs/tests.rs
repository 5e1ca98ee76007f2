// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Whom an answer of the launcher is for, and which life runs what it brought.

use ipc::hello::Role;
use ipc::shm::memory_file;
use rustix::fs::fstat;
use tokio::sync::oneshot;

use super::*;

const NVME0: InstanceId = InstanceId::new(Role::Nvme, 0);

type Told = oneshot::Receiver<Result<Restarted, Problem>>;

fn want(programs: &mut Programs, launcher: &mpsc::Sender<FromCoordinator>, path: &str) -> Told {
    let (answer, told) = oneshot::channel();
    programs.want(launcher, "nvme0".to_owned(), path.to_owned(), answer);
    told
}

fn refusal(told: &mut Told) -> Problem {
    told.try_recv().unwrap().unwrap_err()
}

fn file() -> OwnedFd {
    memory_file::create("program").unwrap()
}

fn runs(programs: &Programs, is_restarted: bool) -> Option<u64> {
    programs.of(NVME0, is_restarted).map(|file| fstat(file).unwrap().st_ino)
}

#[test]
fn answer_to_an_earlier_request_is_for_nobody_and_leaves_the_later_one() {
    let (launcher, mut asked) = mpsc::channel(4);
    let mut programs = Programs::default();
    drop(want(&mut programs, &launcher, "/first"));
    let mut told = want(&mut programs, &launcher, "/second");
    let numbers = [1, 2].map(|_| match asked.try_recv().unwrap() {
        FromCoordinator::OpenProgram { number, .. } => number,
        other => panic!("{other:?}"),
    });
    assert!(programs.opened((numbers[0], Ok(file()))).is_none());
    assert!(programs.opened((numbers[0], Err(io::Error::other("late")))).is_none());
    assert!(told.try_recv().is_err(), "it is not answered by that");
    let (process, program, _) = programs.opened((numbers[1], Ok(file()))).unwrap();
    assert_eq!((process.as_str(), program.path.as_str()), ("nvme0", "/second"));
    assert!(programs.opened((numbers[1], Ok(file()))).is_none(), "nor is anything answered twice");
}

#[test]
fn second_client_is_refused_while_the_first_waits_and_a_refusal_of_the_launcher_is_told() {
    let (launcher, mut asked) = mpsc::channel(4);
    let mut programs = Programs::default();
    let mut first = want(&mut programs, &launcher, "/first");
    let mut second = want(&mut programs, &launcher, "/second");
    let problem = refusal(&mut second);
    assert_eq!((problem.class, problem.what.as_str()), (Class::State, "another program is being opened"));
    let Ok(FromCoordinator::OpenProgram { number, path }) = asked.try_recv() else { panic!("not asked") };
    assert_eq!(path, "/first");
    assert!(asked.try_recv().is_err(), "it is asked for one");
    assert!(programs.opened((number, Err(io::Error::other("it is empty")))).is_none());
    let problem = refusal(&mut first);
    assert_eq!((problem.class, problem.place.as_str()), (Class::Usage, "/first"));
    assert!(problem.what.ends_with("it is empty"), "{problem}");
    drop(want(&mut programs, &launcher, "/third"));
    assert!(asked.try_recv().is_ok(), "the next is asked for");
}

#[test]
fn launcher_that_takes_no_message_costs_the_client_a_refusal_and_the_next_may_ask() {
    let (launcher, mut asked) = mpsc::channel(1);
    launcher.try_send(FromCoordinator::Running).unwrap();
    let mut programs = Programs::default();
    let problem = refusal(&mut want(&mut programs, &launcher, "/first"));
    assert_eq!((problem.class, problem.what.as_str()), (Class::State, "the launcher is busy"));
    asked.try_recv().unwrap();
    let mut told = want(&mut programs, &launcher, "/second");
    assert!(told.try_recv().is_err() && asked.try_recv().is_ok());
}

#[test]
fn program_is_that_of_the_next_life_alone_until_the_commit_and_of_none_after_a_refusal() {
    let mut programs = Programs::default();
    let begin = |programs: &mut Programs, ticket, path: &str| {
        let file = file();
        let inode = fstat(&file).unwrap().st_ino;
        programs.begin(ticket, "nvme0", Program { path: path.to_owned(), file });
        inode
    };
    let refused = begin(&mut programs, 1, "/refused");
    assert_eq!((runs(&programs, true), runs(&programs, false)), (Some(refused), None));
    programs.answered(0);
    assert_eq!(runs(&programs, true), Some(refused), "the end of another command");
    programs.answered(1);
    assert_eq!(runs(&programs, true), None);
    // Of a restart into the table's program there is none to keep.
    programs.commit();
    assert_eq!((runs(&programs, false), programs.path_of(NVME0)), (None, None));

    let kept = begin(&mut programs, 2, "/kept");
    programs.commit();
    programs.answered(2);
    assert_eq!((runs(&programs, true), runs(&programs, false)), (Some(kept), Some(kept)));
    assert_eq!(programs.path_of(NVME0), Some("/kept"));
    begin(&mut programs, 3, "/refused");
    programs.answered(3);
    assert_eq!((runs(&programs, true), programs.path_of(NVME0)), (Some(kept), Some("/kept")));
}
