// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Hello: the first frame in each direction of every channel, which identifies its sender.
//!
//! All processes of a VM speak one version of the protocol; their builds may differ, where one was started anew from
//! another program. Each end compares the peer's [`Hello`] with the expected one: a mismatch is a violation, and
//! nothing more is read from that channel. The generation counts the lives of a process; by it frames of an earlier
//! life are recognised.

use core::fmt;

use serde::{Deserialize, Serialize};

use crate::error::{Breach, Violation};

/// The identity of this build: the version, or what the packager has set `BULKHEAD_BUILD` to.
pub const BUILD: &str = match option_env!("BULKHEAD_BUILD") {
    Some(build) => build,
    None => env!("CARGO_PKG_VERSION"),
};

/// The version of the contract between the processes of a VM: of messages, of shared memory, of saved states. Raised
/// with every change of one of them that a process of an earlier build would take for something else.
pub const PROTOCOL: u32 = 3;

/// What the file of a program of a VM's processes contains, in front of its [`PROTOCOL`]: whoever is to open one for
/// somebody else knows it by that.
pub const PROGRAM_MARK_HEAD: [u8; 48] = *b"program of a virtual machine of Bulkhead, speaks";
/// The same with the protocol.
pub const PROGRAM_MARK: [u8; 52] = {
    let mut mark = [0; 52];
    let (head, protocol) = mark.split_at_mut(PROGRAM_MARK_HEAD.len());
    head.copy_from_slice(&PROGRAM_MARK_HEAD);
    protocol.copy_from_slice(&PROTOCOL.to_le_bytes());
    mark
};

/// The roles, each with its name and how many of it a VM has: a new one is a line here.
macro_rules! roles {
    ($($(#[$doc:meta])+ $role:ident = $name:literal, $number:ident;)+) => {
        /// What a process is in a VM. Append only: the numbers travel.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        pub enum Role {
            $($(#[$doc])+ $role,)+
        }

        impl Role {
            /// Every role.
            pub const ALL: &[Self] = &[$(Self::$role),+];

            /// Its name, in names of processes, logs and the API.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$role => $name,)+
                }
            }

            const fn number(self) -> Number {
                match self {
                    $(Self::$role => Number::$number,)+
                }
            }
        }
    };
}

/// How many processes of a role a VM has.
#[derive(Clone, Copy)]
enum Number {
    One,
    Many,
}

roles! {
    /// Life cycle, policy, memory objects, control API.
    Coordinator = "coordinator", One;
    /// The guest's CPUs.
    Vcpu = "vcpu", One;
    /// A vSMMUv3.
    Smmu = "smmu", Many;
    /// An assigned device.
    Vfio = "vfio", Many;
    /// The emulated NVMe controller.
    Nvme = "nvme", Many;
    /// A vhost-user back end.
    Virtio = "virtio", Many;
    /// Carries RAM, state and messages of a migration.
    Mover = "mover", One;
}

impl Role {
    /// Whether a VM has exactly one process of this role, whose name has no number then.
    #[must_use]
    pub const fn is_single(self) -> bool {
        matches!(self.number(), Number::One)
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The body of a hello.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// The sender's role.
    pub role: Role,
    /// The protocol that it speaks, [`PROTOCOL`].
    pub protocol: u32,
    /// The sender's build, [`BUILD`]: for messages only.
    pub build: String,
    /// The generation of the process that the coordinator started, on its control channel; elsewhere that of the
    /// channel (see [`Rewire`](crate::protocol::control::Request::Rewire)). Equal at both ends.
    pub generation: u32,
}

impl Hello {
    /// A hello from this build.
    #[must_use]
    pub fn new(role: Role, generation: u32) -> Self {
        Self { role, protocol: PROTOCOL, build: BUILD.to_owned(), generation }
    }

    /// Checks a peer's hello.
    ///
    /// # Errors
    /// `Breach::Hello` if any field but the build differs from `expected`.
    pub fn check(&self, expected: &Self) -> Result<(), Violation> {
        let of = |Self { role, protocol, build: _, generation }: &Self| (*role, *protocol, *generation);
        if of(self) == of(expected) {
            return Ok(());
        }
        let breach = Breach::Hello { found: self.to_string(), expected: expected.to_string() };
        Err(Violation::new("hello", breach))
    }
}

impl fmt::Display for Hello {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The build is text of the peer: cut and escaped before it reaches a log.
        let build: String = self.build.chars().take(64).flat_map(char::escape_default).collect();
        write!(f, "{} protocol {} build {build} generation {}", self.role, self.protocol, self.generation)
    }
}
