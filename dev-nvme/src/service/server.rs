// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A client's session: executes and answers its commands in order. The client is not trusted.
//!
//! An invalid command is answered with an errno and changes nothing; the session goes on. It ends only with the
//! connection, or when framing is lost. The first command must be VERSION, and comes once.

use std::sync::Arc;
use std::time::{Duration, Instant};

use ipc::deadline::Deadline;
use ipc::eventfd::PeerEventfd;
use ipc::vfio_user::connection::{Connection, ConnectionError, Incoming};
use ipc::vfio_user::device::{
    DeviceInfo, IrqAction, IrqData, IrqInfo, IrqSet, PCI_CONFIG_REGION, PCI_IRQ_COUNT, PCI_MSIX_IRQ,
    PCI_REGION_COUNT, RegionDescription, RegionInfo,
};
use ipc::vfio_user::dma::{DmaMap, DmaUnmap};
use ipc::vfio_user::feature::{
    self, FeatureHeader, FeatureOp, LoggingReport, LoggingStart, MigDeviceState, MigrationFlags,
};
use ipc::vfio_user::header::Command;
use ipc::vfio_user::migration::MigData;
use ipc::vfio_user::region::{self, RegionAccess};
use ipc::vfio_user::version::Version;
use ipc::vfio_user::{DATA_LEN_MAX, Malformed, PAGE_LEN};
use rustix::io::Errno;
use zerocopy::IntoBytes;
use zerocopy::little_endian::U64;

use crate::device::{Device, DeviceError, Region};
use crate::engine::Host;
use crate::io::Buffer;
use crate::pci::VECTORS;
use crate::service::client_memory::ClientMemory;
use crate::service::dirty::range;
use crate::service::log::CLIENTS;
use crate::service::vectors::Vectors;

/// How long a client may take to read an answer.
const REPLY_DEADLINE: Duration = Duration::from_secs(10);

/// How long the connection's thread works before it polls for commands: the delay that a register access may see.
/// Polling after every job would cost far more.
const HELP_FOR: Duration = Duration::from_micros(50);

/// The most commands answered in a row before the thread works again.
const COMMANDS_AT_ONCE: u32 = 64;

/// The longest DMA message to a client of protocol 0.0. QEMU 11.1 loses the rest of a reply that its socket does not
/// accept at once, and Linux accepts a message as a whole, or not at all, only up to this length.
const PIECE_LEN_MAX_V0: usize = 32 << 10;

/// Why a command is answered with an error.
enum Refusal {
    /// The body breaks a rule.
    Malformed(Malformed),
    /// The device, or the host.
    Errno(Errno),
    /// The device refused; the reason is logged.
    Device(DeviceError),
    /// A descriptor is of the wrong kind.
    NoEventfd,
}

impl From<Malformed> for Refusal {
    fn from(malformed: Malformed) -> Self {
        Self::Malformed(malformed)
    }
}

impl From<Errno> for Refusal {
    fn from(errno: Errno) -> Self {
        Self::Errno(errno)
    }
}

impl From<DeviceError> for Refusal {
    fn from(error: DeviceError) -> Self {
        Self::Device(error)
    }
}

/// The body of an answer.
type Body = Result<Vec<u8>, Refusal>;

/// An open session.
pub struct Session {
    device: Arc<Device>,
    connection: Arc<Connection>,
    vectors: Arc<Vectors>,
    /// After version negotiation.
    memory: Option<Arc<ClientMemory>>,
    /// Some of the client's memory needs DMA messages.
    by_message: bool,
}

impl Session {
    /// A session on a new connection.
    #[must_use]
    pub fn new(device: Arc<Device>, connection: Arc<Connection>, vectors: Arc<Vectors>) -> Self {
        Self { device, connection, vectors, memory: None, by_message: false }
    }

    /// Serves until the connection ends, and returns why.
    #[must_use]
    pub fn run(mut self) -> ConnectionError {
        let mut buffer = Buffer::default();
        let (mut helped, mut taken) = (false, 0);
        let end = loop {
            // First all commands that have arrived: one per turn they could arrive faster than they are answered.
            // Then this thread helps with jobs, as long as they are quick.
            let deadline = if helped { Deadline::now() } else { Deadline::after(Deadline::SPAN_MAX) };
            match self.connection.receive(deadline) {
                Err(ConnectionError::Timeout { .. }) => {}
                Err(error) => break error,
                Ok(mut incoming) => {
                    if let Err(error) = self.answer(&mut incoming) {
                        break error;
                    }
                    taken += 1;
                    if taken < COMMANDS_AT_ONCE {
                        helped = true;
                        continue;
                    }
                }
            }
            taken = 0;
            let since = Instant::now();
            helped = self.device.engine().help(&mut buffer);
            while helped && since.elapsed() < HELP_FOR && self.device.engine().help(&mut buffer) {}
        };
        self.device.engine().set_helped(false);
        end
    }

    fn answer(&mut self, incoming: &mut Incoming) -> Result<(), ConnectionError> {
        let body = self.execute(incoming);
        let deadline = Deadline::after(REPLY_DEADLINE);
        let errno = match body {
            Ok(body) => return self.connection.reply(incoming, &[&body], &[], deadline),
            Err(Refusal::Malformed(malformed)) => {
                CLIENTS.warn(&format_args!("client: {malformed}"));
                Errno::INVAL
            }
            Err(Refusal::NoEventfd) => {
                CLIENTS.warn(&"client: DEVICE_SET_IRQS: a descriptor is not an eventfd, or a full one");
                Errno::INVAL
            }
            Err(Refusal::Device(error)) => {
                CLIENTS.warn(&format_args!("client: {error}"));
                Errno::IO
            }
            Err(Refusal::Errno(errno)) => {
                CLIENTS.warn(&format_args!("client: {:?} refused: {errno}", incoming.command()));
                errno
            }
        };
        self.connection.fail(incoming, errno, deadline)
    }

    fn execute(&mut self, incoming: &mut Incoming) -> Body {
        let command = incoming.command();
        if command == Command::VERSION {
            return self.version(&incoming.body);
        }
        let Some(memory) = self.memory.clone() else { return Err(Errno::PROTO.into()) };
        let body = &incoming.body;
        match command {
            Command::DMA_MAP => {
                let map = DmaMap::decode(body, incoming.fds.len())?;
                let mapped = memory.windows.add(&map, incoming.fds.pop())?;
                self.by_message |= !mapped;
                // This thread must be free to read the client's answers, and the client free to send them.
                self.device.engine().set_helped(!self.by_message);
                self.offer_shadow_doorbells(!self.by_message);
                Ok(Vec::new())
            }
            Command::DMA_UNMAP => unmap(&memory, body),
            Command::DEVICE_GET_INFO => {
                DeviceInfo::decode_request(body)?;
                Ok(DeviceInfo::pci().as_bytes().to_vec())
            }
            Command::DEVICE_GET_REGION_INFO => region_info(body),
            Command::DEVICE_GET_IRQ_INFO => irq_info(body),
            Command::DEVICE_SET_IRQS => self.set_irqs(incoming),
            Command::REGION_READ => self.region_read(body),
            Command::REGION_WRITE => self.region_write(body),
            Command::REGION_WRITE_MULTI => self.region_write_multi(body),
            Command::DEVICE_RESET => {
                self.device.reset()?;
                memory.windows.log.stop();
                Ok(Vec::new())
            }
            Command::DEVICE_FEATURE => self.feature(&memory, body),
            Command::MIG_DATA_READ => {
                let piece = self.device.read_migration_data(MigData::decode_read(body)?)?;
                Ok([MigData::new(piece.len()).as_bytes(), &piece].concat())
            }
            Command::MIG_DATA_WRITE => {
                self.device.write_migration_data(MigData::decode_write(body)?)?;
                Ok(Vec::new())
            }
            _ => Err(Errno::NOTSUP.into()),
        }
    }

    fn version(&mut self, body: &[u8]) -> Body {
        if self.memory.is_some() {
            return Err(Errno::PROTO.into());
        }
        let proposed = Version::decode(body)?;
        let answer = proposed.agree()?;
        let ours = if answer.minor == 0 { PIECE_LEN_MAX_V0 } else { DATA_LEN_MAX };
        let transfer = proposed.capabilities.data_len().min(ours);
        let memory = Arc::new(ClientMemory::new(Arc::clone(&self.connection), transfer));
        let host = Host { memory: Arc::clone(&memory) as _, interrupts: Arc::clone(&self.vectors) as _ };
        self.device.connect(host);
        self.offer_shadow_doorbells(false);
        self.memory = Some(memory);
        Ok(answer.encode())
    }

    /// Shadow doorbells in memory that needs DMA messages would cost more messages than they save.
    fn offer_shadow_doorbells(&self, offered: bool) {
        self.device.engine().with(|controller| controller.offer_shadow_doorbells(offered));
    }

    fn region_read(&self, body: &[u8]) -> Body {
        let (access, count) = RegionAccess::decode_read(body)?;
        let (region, offset) = target(&access)?;
        let mut reply = access.as_bytes().to_vec();
        let head = reply.len();
        reply.resize(head + count, 0);
        self.device.read(region, offset, reply.get_mut(head..).unwrap_or_default());
        Ok(reply)
    }

    fn region_write(&self, body: &[u8]) -> Body {
        let (access, data) = RegionAccess::decode_write(body)?;
        let (region, offset) = target(&access)?;
        self.device.write(region, offset, data)?;
        Ok(access.as_bytes().to_vec())
    }

    fn region_write_multi(&self, body: &[u8]) -> Body {
        let writes = region::decode_multi(body)?;
        for write in &writes {
            let (region, offset) = target(&write.access)?;
            self.device.write(region, offset, write.bytes())?;
        }
        Ok(U64::new(writes.len() as u64).as_bytes().to_vec())
    }

    fn set_irqs(&self, incoming: &mut Incoming) -> Body {
        let (set, data, action) = IrqSet::decode(&incoming.body, incoming.fds.len())?;
        if set.index.get() != PCI_MSIX_IRQ {
            // Nothing to disable where there is nothing; anything else cannot be done.
            let disables = set.count.get() == 0 && data == IrqData::None;
            return if disables { Ok(Vec::new()) } else { Err(Errno::INVAL.into()) };
        }
        let (start, count) = (set.start.get(), set.count.get());
        let vectors = &self.vectors;
        match (data, action) {
            (IrqData::None, IrqAction::Trigger) if count == 0 => {
                vectors.each(0, VECTORS.into(), |_, vector| vector.connect(None))?;
            }
            (IrqData::Eventfd, IrqAction::Trigger) => {
                let eventfds: Option<Vec<_>> = incoming.fds.drain(..).map(PeerEventfd::prove).collect();
                let mut eventfds = eventfds.ok_or(Refusal::NoEventfd)?.into_iter();
                vectors.each(start, count, |_, vector| vector.connect(eventfds.next()))?;
            }
            // VFIO has no notification of masking by the device.
            (IrqData::Eventfd, IrqAction::Mask | IrqAction::Unmask) => return Err(Errno::NOTSUP.into()),
            (data, action) => vectors.each(start, count, |number, vector| {
                let wanted = match data {
                    IrqData::Bool(wanted) => wanted.get(number).is_some_and(|wanted| *wanted != 0),
                    IrqData::None | IrqData::Eventfd => true,
                };
                match action {
                    _ if !wanted => {}
                    IrqAction::Mask => vector.mask(true),
                    IrqAction::Unmask => vector.mask(false),
                    IrqAction::Trigger => vector.raise(),
                }
            })?,
        }
        Ok(Vec::new())
    }

    fn feature(&self, memory: &ClientMemory, body: &[u8]) -> Body {
        let (header, feature, op, data) = FeatureHeader::decode(body)?;
        let can = |get: bool, set: bool| match op {
            FeatureOp::Get => get,
            FeatureOp::Set => set,
            FeatureOp::Probe { get: wants_get, set: wants_set } => (get || !wants_get) && (set || !wants_set),
        };
        let possible = match feature {
            feature::MIGRATION | feature::DMA_LOGGING_REPORT => can(true, false),
            feature::MIG_DEVICE_STATE => can(true, true),
            feature::DMA_LOGGING_START | feature::DMA_LOGGING_STOP => can(false, true),
            _ => false,
        };
        if !possible {
            return Err(Errno::NOTTY.into());
        }
        let reply = match (feature, op) {
            (_, FeatureOp::Probe { .. }) => data.to_vec(),
            (feature::MIGRATION, _) => {
                let flags = MigrationFlags::STOP_COPY | MigrationFlags::P2P | MigrationFlags::PRE_COPY;
                MigrationFlags { flags: flags.into() }.as_bytes().to_vec()
            }
            (feature::MIG_DEVICE_STATE, FeatureOp::Set) => {
                self.device.set_migration_state(MigDeviceState::decode(data)?)?;
                data.to_vec()
            }
            (feature::MIG_DEVICE_STATE, _) => {
                MigDeviceState::new(self.device.migration_state()).as_bytes().to_vec()
            }
            (feature::DMA_LOGGING_START, _) => {
                let (start, ranges) = LoggingStart::decode(data)?;
                let logged =
                    ranges.iter().map(|logged| range(logged.iova.get(), logged.length.get())).collect();
                if !memory.windows.log.start(logged) {
                    return Err(Errno::INVAL.into());
                }
                let start = LoggingStart { page_size: PAGE_LEN.into(), ..start };
                [start.as_bytes(), ranges.as_bytes()].concat()
            }
            (feature::DMA_LOGGING_STOP, _) => {
                memory.windows.log.stop();
                data.to_vec()
            }
            _ => {
                let (report, len) = LoggingReport::decode(data)?;
                if !memory.windows.log.is_on() {
                    return Err(Errno::INVAL.into());
                }
                let (iova, length, page) = (report.iova.get(), report.length.get(), report.page_size.get());
                [report.as_bytes(), &memory.windows.log.harvest(iova, length, page, len)].concat()
            }
        };
        let argsz = u32::try_from(size_of::<FeatureHeader>() + reply.len()).unwrap_or(u32::MAX);
        let header = FeatureHeader { argsz: argsz.into(), ..header };
        Ok([header.as_bytes(), &reply].concat())
    }
}

/// The region and offset of an access that is inside it.
fn target(access: &RegionAccess) -> Result<(Region, u64), Errno> {
    let region = match access.region.get() {
        0 => Region::Bar0,
        PCI_CONFIG_REGION => Region::Config,
        _ => return Err(Errno::INVAL),
    };
    let offset = access.offset.get();
    let end = offset.checked_add(access.count.get().into());
    if end.is_none_or(|end| end > region.len()) {
        return Err(Errno::INVAL);
    }
    Ok((region, offset))
}

fn region_info(body: &[u8]) -> Body {
    let request = RegionInfo::decode_request(body)?;
    let index = request.index.get();
    let region = match index {
        0 => Some(Region::Bar0),
        PCI_CONFIG_REGION => Some(Region::Config),
        index if index < PCI_REGION_COUNT => None,
        _ => return Err(Errno::INVAL.into()),
    };
    let flags = if region.is_some() { RegionInfo::READ | RegionInfo::WRITE } else { 0 };
    let info = RegionInfo {
        flags: flags.into(),
        cap_offset: 0.into(),
        size: region.map_or(0, Region::len).into(),
        offset: 0.into(),
        ..request
    };
    Ok(RegionDescription { info, sparse: None }.encode(request.argsz.get()))
}

fn irq_info(body: &[u8]) -> Body {
    let index = IrqInfo::decode_request(body)?.index.get();
    let info = match index {
        PCI_MSIX_IRQ => IrqInfo::new(index, IrqInfo::EVENTFD | IrqInfo::MASKABLE, VECTORS.into()),
        index if index < PCI_IRQ_COUNT => IrqInfo::new(index, 0, 0),
        _ => return Err(Errno::INVAL.into()),
    };
    Ok(info.as_bytes().to_vec())
}

fn unmap(memory: &ClientMemory, body: &[u8]) -> Body {
    let (unmap, bitmap) = DmaUnmap::decode(body)?;
    let (address, size) = (unmap.address.get(), unmap.size.get());
    if unmap.flags == DmaUnmap::ALL {
        memory.windows.clear();
    } else {
        memory.windows.remove(address, size)?;
    }
    let mut reply = unmap.as_bytes().to_vec();
    if let Some(bitmap) = bitmap {
        let len = usize::try_from(bitmap.size.get()).unwrap_or(0);
        reply.extend_from_slice(bitmap.as_bytes());
        reply.extend(memory.windows.log.harvest(address, size, bitmap.page_len.get(), len));
    }
    Ok(reply)
}
