//! The questions that a verdict asks of the state around it.

use crate::abi::{Limits, Service};
use crate::address::Address;
use crate::lists::Listed;
use crate::nanos::Nanos;
use crate::packet::Transport;
use crate::parse::Lengths;
use crate::slots::{Charge, Policy};

/// The lookups that [`crate::decide()`] needs. Implemented by the BPF maps, by the daemon's own view for `explain`, and
/// in memory for tests.
pub trait Tables {
    /// Everything the lists say of `source`: the union of all entries that contain it.
    fn listed(&self, source: &Address) -> Listed;

    /// How lengths are to be read on this interface.
    fn lengths(&self) -> Lengths;

    /// The limits of the interface; `None` if nothing is limited.
    fn limits(&self) -> Option<&Limits>;

    /// Index of the policy for the most specific service that the packet is for, as [`Limits::service_index`] has it.
    #[inline(always)]
    fn service(&self, limits: &Limits, transport: &Transport) -> Option<usize> {
        limits.service_index(transport)
    }

    /// Charges one packet of `bytes` to `source` under the policy with this index; `None` if the state could not be
    /// reached.
    fn charge(&self, source: &Address, policy: usize, bytes: u32, now: Nanos) -> Option<Charge>;
}

impl Limits {
    /// The policy for the most specific service that the packet is for: its port, else its protocol.
    #[inline(always)]
    pub fn service(&self, transport: &Transport) -> Option<&Policy> {
        self.policies.get(self.service_index(transport)?)
    }

    /// Index of that policy.
    #[inline(always)]
    pub fn service_index(&self, transport: &Transport) -> Option<usize> {
        if self.service_count == 0 {
            return None;
        }
        let exact = match transport.port() {
            Some(port) => self.find(Service::new(transport.protocol(), Some(port))),
            None => None,
        };
        match exact {
            Some(index) => Some(index),
            None => self.find(Service::new(transport.protocol(), None)),
        }
    }

    /// Binary search with a fixed number of steps, which the verifier can follow.
    #[inline(always)]
    fn find(&self, wanted: Service) -> Option<usize> {
        let mut start = 0;
        let mut half = crate::abi::MAX_POLICIES / 2;
        while half > 0 {
            // `services` is filled up with a value behind all others, so the search never needs the count.
            if self.services.get(start + half - 1).is_some_and(|service| *service < wanted) {
                start += half;
            }
            half /= 2;
        }
        let found = self.services.get(start).is_some_and(|service| *service == wanted);
        found.then_some(crate::abi::POLICY_SERVICES + start)
    }
}

#[cfg(test)]
mod tests;
