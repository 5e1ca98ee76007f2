// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Channels over real socket pairs.
