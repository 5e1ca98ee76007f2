// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Why a physical device cannot be assigned on this host: the call, its errno, what that means, what to do.

use ipc::protocol::budget;
use ipc::protocol::control::SAVED_LEN_MAX;
use ipc::saved::stream::StreamError;
use ipc::vfio_user::Malformed;
use ipc::vfio_user::feature::MigState;
use rustix::io::Errno;
use thiserror::Error;

use super::compat::Lacking;

/// Why setting up the device failed.
#[derive(Clone, Debug, PartialEq, Error)]
pub enum KernelError {
    /// The kernel refuses a call.
    #[error("{call} is refused by the kernel: {errno}{}", .meaning.map(|text| format!(": {text}")).unwrap_or_default())]
    Refused {
        /// The call's name in the kernel's headers.
        call: &'static str,
        /// The error.
        errno: Errno,
        /// What that means here, and what to do; absent if the errno is clear by itself.
        meaning: Option<&'static str>,
    },
    /// The kernel's answer is malformed.
    #[error("the kernel's description of the device is not understood: {0}")]
    Malformed(#[from] Malformed),
    /// The IOMMU is not an SMMUv3.
    #[error(
        "the device is not behind an SMMUv3 that IOMMU_GET_HW_INFO describes: a guest with a vSMMUv3 cannot use it"
    )]
    NotSmmu,
    /// The guest's model has features that the host lacks.
    #[error("the host's SMMU lacks features of the guest's vSMMU: {}", list(.0))]
    Lacking(Vec<Lacking>),
    /// The device is bound to another iommufd.
    #[error("the device is in use already: another process has bound it")]
    InUse,
    /// Its state cannot be saved.
    #[error("a physical device cannot be saved")]
    NotSaved,
    /// There is no file to read or write its state.
    #[error("the kernel gives no file for the device's state, or takes no more of it")]
    NoStateFile,
    /// The state takes too long.
    #[error("the device's state is not transferred within {} s", budget::vfio::DATA.as_secs())]
    StateSlow,
    /// The state is too long.
    #[error("the device's state is longer than {SAVED_LEN_MAX:#x} bytes")]
    StateLong,
    /// The state in the stream has another length than its end says.
    #[error("the end of the physical device's state says {stated:#x} bytes, but there were {found:#x}")]
    StateLen {
        /// As its end says.
        stated: u64,
        /// As it came.
        found: u64,
    },
    /// The stream of state units fails.
    #[error("the physical device's state: {0}")]
    Stream(String),
    /// A next life has left the device in a state that this one cannot go on from.
    #[error("the next process has left the device in the migration state {0:?}, not STOP")]
    NotStopped(Option<MigState>),
}

impl From<StreamError> for KernelError {
    fn from(error: StreamError) -> Self {
        Self::Stream(error.to_string())
    }
}

fn list(lacking: &[Lacking]) -> String {
    lacking.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}

/// Adds the call's name and the errno's meaning to an error.
pub fn refused(
    call: &'static str,
    meaning: impl FnOnce(Errno) -> Option<&'static str>,
) -> impl FnOnce(Errno) -> KernelError {
    move |errno| KernelError::Refused { call, errno, meaning: meaning(errno) }
}

/// For calls whose errors need no explanation.
pub fn plain(_: Errno) -> Option<&'static str> {
    None
}

/// `IOMMU_IOAS_MAP_FILE`.
pub fn of_map_file(errno: Errno) -> Option<&'static str> {
    match errno {
        Errno::NOTTY => Some("guest RAM is mapped as a file, which needs Linux 6.13 or newer"),
        Errno::NOMEM => Some(
            "the limit on locked memory is too low: every device pins all of the guest's RAM; raise it (ulimit -l)",
        ),
        Errno::INVAL | Errno::ADDRINUSE => {
            Some("the host reserves these addresses, or they are beyond its SMMU's input size")
        }
        _ => None,
    }
}

/// `IOMMU_HWPT_ALLOC` of a nesting parent.
pub fn of_parent(errno: Errno) -> Option<&'static str> {
    match errno {
        Errno::OPNOTSUPP => {
            Some("the host's SMMU cannot nest: it lacks stage 1 or stage 2, or has an erratum")
        }
        _ => None,
    }
}

/// `IOMMU_VIOMMU_ALLOC`.
pub fn of_viommu(errno: Errno) -> Option<&'static str> {
    match errno {
        Errno::OPNOTSUPP => Some(
            "the kernel lets no guest have stage 1 here: the host's root complex must be coherent (CANWBS in its ACPI \
             IORT table) or its SMMU force write-back (IDR3.FWB); or the kernel lacks CONFIG_ARM_SMMU_V3_IOMMUFD",
        ),
        Errno::NOTTY => Some("nested translation needs Linux 6.13 or newer"),
        _ => None,
    }
}

/// `IOMMU_VEVENTQ_ALLOC`.
pub fn of_events(errno: Errno) -> Option<&'static str> {
    (errno == Errno::NOTTY).then_some("reporting a guest's faults needs Linux 6.15 or newer")
}

/// `VFIO_DEVICE_BIND_IOMMUFD`.
pub fn of_bind(errno: Errno) -> Option<&'static str> {
    match errno {
        Errno::PERM | Errno::BUSY => {
            Some("another process uses the device, or its IOMMU group in the old way")
        }
        Errno::NOTTY | Errno::BADF => Some("the descriptor is not of a VFIO device, or not of an iommufd"),
        _ => None,
    }
}
