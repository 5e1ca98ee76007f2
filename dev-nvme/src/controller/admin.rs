// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Admin commands, NVMe 1.4 section 5. None reads host memory, so each is executed here at once; returned data is
//! transferred afterwards, without the controller's lock.

use super::{Controller, Outcome, get, set};
use crate::queue::{CompletionQueue, ENTRIES_MAX, QUEUES_MAX, SubmissionQueue};
use crate::spec::command::{Command, admin};
use crate::spec::status::Status;

/// The outcome of an admin command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AdminOutcome {
    /// Complete.
    Done(Outcome),
    /// Complete once this data is in the host's memory.
    Data(Vec<u8>),
    /// Completes later.
    Held,
}

impl AdminOutcome {
    /// Success, with dword 0 zero.
    #[must_use]
    pub const fn status(status: Status) -> Self {
        Self::Done(Outcome::of(status))
    }

    /// Success, with dword 0 `dw0`.
    #[must_use]
    pub const fn value(dw0: u32) -> Self {
        Self::Done(Outcome { dw0, ..Outcome::of(Status::SUCCESS) })
    }
}

/// A queue as Create commands describe it: `CDW10`.
struct QueueShape {
    id: u16,
    size: u32,
}

impl QueueShape {
    fn of(command: &Command) -> Self {
        let cdw10 = command.cdw10.get();
        Self { id: low(cdw10), size: u32::from(low(cdw10 >> 16)) + 1 }
    }
}

/// The low half.
pub(super) fn low(value: u32) -> u16 {
    u16::try_from(value & 0xffff).unwrap_or(0)
}

impl Controller {
    /// Executes an admin command.
    pub fn admin(&mut self, command: &Command) -> AdminOutcome {
        self.unkept.control = true;
        if command.uses_what_is_not_offered() {
            return AdminOutcome::status(Status::INVALID_FIELD);
        }
        let status =
            |result: Result<(), Status>| AdminOutcome::status(result.err().unwrap_or(Status::SUCCESS));
        match command.opcode {
            admin::DELETE_IO_SQ => self.delete_io_sq(command),
            admin::CREATE_IO_SQ => status(self.create_io_sq(command)),
            admin::GET_LOG_PAGE => self.get_log_page(command),
            admin::DELETE_IO_CQ => status(self.delete_io_cq(command)),
            admin::CREATE_IO_CQ => status(self.create_io_cq(command)),
            admin::IDENTIFY => self.identify(command),
            admin::ABORT => self.abort(command),
            admin::SET_FEATURES => self.set_feature(command),
            admin::GET_FEATURES => self.get_feature(command),
            admin::DOORBELL_BUFFER_CONFIG => self.configure_shadow(command),
            admin::ASYNC_EVENT_REQUEST => self.request_event(command.cid.get()),
            _ => AdminOutcome::status(Status::INVALID_OPCODE),
        }
    }

    /// Section 5.3.
    fn create_io_cq(&mut self, command: &Command) -> Result<(), Status> {
        let shape = QueueShape::of(command);
        let cdw11 = command.cdw11.get();
        check_id(shape.id)?;
        if get(&self.completion, shape.id).is_some() {
            return Err(Status::INVALID_QUEUE_ID);
        }
        check_size(shape.size)?;
        check_base(command, cdw11)?;
        if self.registers.cc.iocqes() != 4 {
            return Err(Status::INVALID_QUEUE_SIZE);
        }
        let vector = low(cdw11 >> 16);
        if vector > QUEUES_MAX {
            return Err(Status::INVALID_VECTOR);
        }
        let vector = (cdw11 & INTERRUPTS_ENABLED != 0).then_some(vector);
        let queue = CompletionQueue::new(command.prp1.get(), shape.size, vector);
        set(&mut self.completion, shape.id, Some(queue));
        self.look_again();
        Ok(())
    }

    /// Section 5.4.
    fn create_io_sq(&mut self, command: &Command) -> Result<(), Status> {
        let shape = QueueShape::of(command);
        let cdw11 = command.cdw11.get();
        check_id(shape.id)?;
        if get(&self.submission, shape.id).is_some() {
            return Err(Status::INVALID_QUEUE_ID);
        }
        check_size(shape.size)?;
        check_base(command, cdw11)?;
        if self.registers.cc.iosqes() != 6 {
            return Err(Status::INVALID_QUEUE_SIZE);
        }
        let cqid = low(cdw11 >> 16);
        if cqid == 0 || get(&self.completion, cqid).is_none() {
            return Err(Status::COMPLETION_QUEUE_INVALID);
        }
        let queue = SubmissionQueue::new(command.prp1.get(), shape.size, cqid);
        self.unkept.made |= 1 << shape.id;
        set(&mut self.submission, shape.id, Some(queue));
        self.look_again();
        Ok(())
    }

    /// Section 5.5.
    fn delete_io_cq(&mut self, command: &Command) -> Result<(), Status> {
        let id = QueueShape::of(command).id;
        if id == 0 || get(&self.completion, id).is_none() {
            return Err(Status::INVALID_QUEUE_ID);
        }
        if self.submission.iter().flatten().any(|sq| sq.cqid == id) {
            return Err(Status::INVALID_QUEUE_DELETION);
        }
        set(&mut self.completion, id, None);
        Ok(())
    }

    /// Section 5.6. Completes when the last command fetched from the queue has; commands not fetched are dropped with
    /// the queue, as the host has to expect.
    fn delete_io_sq(&mut self, command: &Command) -> AdminOutcome {
        let id = QueueShape::of(command).id;
        let invalid = AdminOutcome::status(Status::INVALID_QUEUE_ID);
        if id == 0 {
            return invalid;
        }
        match super::get_mut(&mut self.submission, id) {
            None => invalid,
            Some(sq) if sq.deletion.is_some() => invalid,
            Some(sq) if sq.jobs == 0 => {
                set(&mut self.submission, id, None);
                AdminOutcome::status(Status::SUCCESS)
            }
            Some(sq) => {
                sq.deletion = Some(command.cid.get());
                AdminOutcome::Held
            }
        }
    }

    /// Section 5.1. Fetched commands are about to complete, and unfetched ones are not searched: only outstanding
    /// Asynchronous Event Requests are ever aborted.
    fn abort(&mut self, command: &Command) -> AdminOutcome {
        const NOT_ABORTED: u32 = 1;
        let (sqid, cid) = (low(command.cdw10.get()), low(command.cdw10.get() >> 16));
        let waiting = self.events.requests.iter().position(|request| sqid == 0 && *request == cid);
        match waiting {
            Some(at) => {
                self.events.requests.remove(at);
                self.hold_admin(cid, Status::ABORT_REQUESTED, 0);
                AdminOutcome::value(0)
            }
            None => AdminOutcome::value(NOT_ABORTED),
        }
    }
}

/// `CDW11` bit 1 of Create I/O Completion Queue.
const INTERRUPTS_ENABLED: u32 = 1 << 1;
/// `CDW11` bit 0 of both Create commands.
const PHYSICALLY_CONTIGUOUS: u32 = 1 << 0;

fn check_id(id: u16) -> Result<(), Status> {
    if (1..=QUEUES_MAX).contains(&id) { Ok(()) } else { Err(Status::INVALID_QUEUE_ID) }
}

fn check_size(size: u32) -> Result<(), Status> {
    if (2..=ENTRIES_MAX).contains(&size) { Ok(()) } else { Err(Status::INVALID_QUEUE_SIZE) }
}

/// `CAP.CQR`: a queue is in one piece, and begins at a page.
fn check_base(command: &Command, cdw11: u32) -> Result<(), Status> {
    if cdw11 & PHYSICALLY_CONTIGUOUS == 0 {
        return Err(Status::INVALID_FIELD);
    }
    if !command.prp1.get().is_multiple_of(crate::prp::PAGE_LEN) {
        return Err(Status::PRP_OFFSET_INVALID);
    }
    Ok(())
}
