//! What must not be blocked at this moment, and who may ask for what nevertheless.

use std::sync::Arc;

use limiter_common::{Address, Nanos, Prefix};

use super::Worker;
use crate::admission::{self, Admitted, Guards};
use crate::blocklist::Owner;
use crate::config::{Action, Config};
use crate::enforcer::{Caller, Error, ImportOptions};
use crate::host::Lifelines;
use crate::prefixes::Prefixes;

/// How long the machine's addresses are believed to be what they were if nobody says otherwise. Asking for them takes
/// long on a machine with a large routing table; the daemon reloads the lists when it hears that they have changed.
const LIFELINES: Nanos = Nanos::from_secs(60);
/// The longest time that can be asked for: longer is a mistake, or for good.
const MAX_SECONDS: u64 = 100 * 366 * 24 * 3600;

impl Worker {
    /// What of a request may become claims: all of it, or nothing.
    pub(super) fn admit(
        &mut self,
        action: Action,
        prefixes: Prefixes,
        options: &ImportOptions,
        caller: &Caller,
    ) -> Result<Admitted, Error> {
        if options.force && caller.owner != Owner::Operator {
            return Err(Error::Denied(
                "only operators may override the guards; nothing was changed".to_owned(),
            ));
        }
        let invalid = |detail: &str| Error::Invalid { detail: detail.to_owned(), items: Vec::new() };
        if prefixes.is_empty() {
            return Err(invalid("no address or prefix is given"));
        }
        if options.seconds == Some(0) {
            return Err(invalid("the time is over before it begins; give at least a second"));
        }
        if options.seconds.is_some_and(|seconds| seconds > MAX_SECONDS) {
            return Err(invalid("longer than 100 years; leave the time out for good"));
        }
        let peer = match options.ssh_peer.as_deref().map(str::parse::<Address>) {
            Some(Ok(peer)) => Some(peer),
            Some(Err(_)) => return Err(invalid("ssh_peer is no address")),
            None => None,
        };
        let guards = match peer {
            _ if options.force => Arc::new(Guards::new()),
            None => self.guards(),
            Some(peer) => {
                let mut guards = Guards::clone(&self.guards());
                guards.put(Prefix::host(peer), "the address you are logged in from");
                Arc::new(guards)
            }
        };
        if action == Action::Block && !options.force {
            self.require_lifelines()?;
        }
        admission::admit(&guards, action, prefixes, options.force).map_err(|refusals| Error::Guarded {
            detail: format!("{} refused; nothing was changed. --force overrides the guards", refusals.count),
            items: refusals.lines().collect(),
        })
    }

    /// Nobody may block anything who could block what the machine needs.
    pub(super) fn require_lifelines(&self) -> Result<(), Error> {
        if self.lifelines.is_some() {
            return Ok(());
        }
        Err(Error::Guarded {
            detail: "this machine's own addresses, gateways and DNS servers are not known (the log says why), so they \
                     could be among these; nothing was changed. --force overrides the guards"
                .to_owned(),
            items: Vec::new(),
        })
    }

    /// If there is no answer, those that were known stay.
    pub(super) fn ask_for_lifelines(&mut self) {
        match (self.gather)() {
            Ok(lifelines) => {
                self.lifelines = Some(((self.clock)().boot, lifelines));
                self.guards = None;
            }
            Err(error) => tracing::warn!("this machine's own addresses are not known: {error:#}"),
        }
    }

    /// From here on `config` counts. Returns the former one.
    pub(super) fn take_config(&mut self, config: Arc<Config>) -> Arc<Config> {
        self.guards = None;
        std::mem::replace(&mut self.config, config)
    }

    /// What must stay reachable at this moment.
    pub(super) fn guards(&mut self) -> Arc<Guards> {
        let now = (self.clock)().boot;
        let fresh = |(then, _): &(Nanos, Lifelines)| now.saturating_sub(*then) < LIFELINES;
        if !self.lifelines.as_ref().is_some_and(fresh) {
            self.ask_for_lifelines();
        }
        let gathered = || {
            let mut guards = Guards::new();
            if let Some((_, lifelines)) = &self.lifelines {
                lifelines.guard(&mut guards);
            }
            for prefix in &self.config.protected {
                guards.add(*prefix, "protected by the configuration");
            }
            for prefix in &self.config.proxies {
                guards.add(*prefix, "a trusted proxy: report the client behind it, not the proxy");
            }
            Arc::new(guards)
        };
        Arc::clone(self.guards.get_or_insert_with(gathered))
    }
}
