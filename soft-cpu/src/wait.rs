// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Waits: WFI, and WFE with its event register, its event stream and the exclusive monitor (Arm ARM D1.16, D11.2.4).
//!
//! Both sleep on the host. An interrupt and SEV wake the CPU. Another CPU's write to the location of the exclusive
//! monitor is an event too, but is not signalled: that would cost every store of every CPU a check for waiters. So a
//! waiting CPU polls the location itself, with sleeps that grow to [`NAP_MAX`]. Any wait for an event ends after
//! [`EVENT_WAIT_MAX`] at the latest, which the architecture allows: a guest checks its condition again.

use std::time::Duration;

use crate::clock::COUNTER_HZ;
use crate::cpu::Cpu;
use crate::sync::Ordering;

/// Ticks of the longest wait for an event: 10 ms.
const EVENT_WAIT_MAX: u64 = COUNTER_HZ / 100;
/// Sleep between two polls of a location: at least what a sleep and a wake-up cost, at most how long a lock's release
/// may go unnoticed.
const NAP_MIN: Duration = Duration::from_micros(20);
const NAP_MAX: Duration = Duration::from_micros(160);
/// Polls before the first sleep: about a microsecond, in which most locks change hands.
const SPINS: u32 = 32;

/// CNTKCTL_EL1: event stream enable, direction (falling edges), and the counter bit (four bits) whose edges are events.
const EVNTEN: u64 = 1 << 2;
const EVNTDIR: u64 = 1 << 3;
const EVNTI: u32 = 4;

/// What a CPU that executes nothing waits for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Wait {
    /// It does not wait.
    None,
    /// For an interrupt, masked or not.
    Interrupt,
    /// For an event, until the counter has this value.
    Event { until: u64, nap: Duration },
}

impl Cpu {
    /// WFI, and what is taken as such.
    pub(crate) fn wait_for_interrupt(&mut self) {
        self.wait = Wait::Interrupt;
        self.attend();
    }

    /// WFE.
    pub(crate) fn wait_for_event(&mut self) {
        for _ in 0..SPINS {
            if self.shared().take_event() || self.monitor_was_cleared() {
                return;
            }
            if self.shared().attention.load(Ordering::Relaxed) {
                break;
            }
            std::hint::spin_loop();
        }
        let now = self.clock.ticks();
        let until = now + ticks_to_stream_event(self.sys.cntkctl, now).min(EVENT_WAIT_MAX);
        self.wait = Wait::Event { until, nap: NAP_MIN };
        self.attend();
    }

    /// Whether what the CPU waits for has come; `irq` is its interrupt line.
    pub(crate) fn wait_is_over(&mut self, irq: bool) -> bool {
        match self.wait {
            Wait::None => true,
            Wait::Interrupt => irq,
            Wait::Event { until, .. } => {
                let unmasked = irq && self.daif & 2 == 0;
                self.shared().take_event()
                    || unmasked
                    || self.monitor_was_cleared()
                    || self.clock.ticks() >= until
            }
        }
    }

    /// Sleeps until there may be something to look at: a request of another thread, an interrupt, an event, or, in a
    /// CPU that is on, the time of a timer or of its wait.
    pub(crate) fn sleep(&mut self) {
        let timer = self.next_deadline().filter(|_| self.powered).map(|ticks| self.clock.until(ticks));
        let limit = match &mut self.wait {
            Wait::Event { until, nap } => {
                let left = self.clock.until(*until);
                if self.monitor.held().is_none() {
                    Some(left)
                } else {
                    let now = *nap;
                    *nap = (now * 2).min(NAP_MAX);
                    Some(left.min(now))
                }
            }
            Wait::None | Wait::Interrupt => None,
        };
        let for_event = limit.is_some();
        self.shared().park(for_event, [timer, limit].into_iter().flatten().min());
    }

    /// Whether the location that the monitor holds has changed: the monitor is then open, which is an event.
    fn monitor_was_cleared(&mut self) -> bool {
        let Some(held) = self.monitor.held() else { return false };
        // A page that is in no TLB now may be mapped elsewhere.
        let kept = self.peek(held.va, held.len) == Some(held.value);
        if !kept {
            self.monitor.clear();
        }
        !kept
    }

    /// What is at `va`, if the TLB has its page. Of sixteen bytes, each half by itself.
    fn peek(&self, va: u64, len: u8) -> Option<u128> {
        let table = self.tlb.table();
        Some(match len {
            1 => self.tlb.read::<0>(table, va)?.load().into(),
            2 => self.tlb.read::<1>(table, va)?.load().into(),
            4 => self.tlb.read::<2>(table, va)?.load().into(),
            8 => self.tlb.read::<3>(table, va)?.load().into(),
            _ => {
                let (low, high) = self.tlb.read_pair::<3>(table, va)?;
                u128::from(low.load()) | u128::from(high.load()) << 64
            }
        })
    }
}

/// How long until the event stream next makes an event; for ever if it is off.
fn ticks_to_stream_event(cntkctl: u64, now: u64) -> u64 {
    if cntkctl & EVNTEN == 0 {
        return u64::MAX;
    }
    let half = 1 << (cntkctl >> EVNTI & 0xf);
    let period = 2 * half;
    // A rising edge of the bit stands in the middle of a period, a falling one at its end.
    let edge = if cntkctl & EVNTDIR == 0 { half } else { 0 };
    let past = now.wrapping_sub(edge) % period;
    period - past
}

#[cfg(test)]
#[cfg(not(loom))]
mod tests {
    use super::{EVNTDIR, EVNTEN, ticks_to_stream_event};

    #[test]
    fn event_stream_follows_the_edges_of_its_bit() {
        let rising = EVNTEN | 3 << 4;
        for (now, ticks) in [(0, 8), (7, 1), (8, 16), (9, 15), (23, 1), (24, 16)] {
            assert_eq!(ticks_to_stream_event(rising, now), ticks, "rising, {now}");
        }
        let falling = rising | EVNTDIR;
        for (now, ticks) in [(0, 16), (15, 1), (16, 16), (8, 8)] {
            assert_eq!(ticks_to_stream_event(falling, now), ticks, "falling, {now}");
        }
        assert_eq!(ticks_to_stream_event(3 << 4, 5), u64::MAX, "it is off");
    }
}
