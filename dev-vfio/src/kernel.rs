// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A real device: its end (`device`) by VFIO's character device, its IOMMU (`nested`) by iommufd, as Linux has them.
//!
//! `interrupts` are the device's, `sys` is the kernel's interface, one function per ioctl, and the only unsafe code. `objects` owns what is made in iommufd,
//! `events` reads the guest's faults, `dirty` chooses how written pages are found, `compat` holds the host's SMMU against what
//! the guest was promised, `error` says what a refusal means. Used by `service` over descriptors that the launcher
//! opened: nothing here opens a path, except `host_check`, which is a program of its own and not sealed.

pub mod compat;
pub mod device;
pub mod dirty;
pub mod error;
pub mod events;
pub mod host_check;
pub mod interrupts;
pub mod nested;
pub mod objects;
pub mod sys;
