//! The start of a start: what takes privileges that the daemon does not keep.

use crate::config::Config;
use crate::control::peers::Operators;
use crate::control::server::{self, Socket};
use crate::daemon::options::Options;
use crate::dataplane::kernel;
use crate::hook;
use crate::privileges::{self, Needs};

/// What takes privileges that the daemon does not keep.
pub(super) struct Prepared {
    pub(super) operators: Operators,
    pub(super) socket: Socket,
    pub(super) hooks: Vec<hook::Prepared>,
    /// What an operator should know of it, as sentences.
    pub(super) notes: Vec<String>,
}

impl Prepared {
    /// Does it, then gives up the privileges.
    pub(super) fn new(options: &Options, config: &Config) -> anyhow::Result<Self> {
        let mut notes = Vec::new();
        // Nobody is the wiser if the machine stays without protection for a group.
        let operators = Operators::new(&config.control).unwrap_or_else(|error| {
            notes.push(format!("only root may use the control socket: {error:#}, and restart the daemon"));
            Operators::default()
        });
        kernel::prepare(&config.pins_directory)?;
        let (operators, socket) = match server::bind(&config.control.socket, operators) {
            Ok(socket) => (operators, socket),
            // A user of its own may give files to the groups that it is in, and to no others.
            Err(error) if operators.group.is_some() => {
                notes.push(format!(
                    "only root may use the control socket: {error:#}; put the user of limiterd into the group (for the \
                     unit: SupplementaryGroups=), and restart the daemon"
                ));
                (Operators::default(), server::bind(&config.control.socket, Operators::default())?)
            }
            Err(error) => return Err(error),
        };
        let hooks = hook::prepare(&config.hooks);

        let listen = config.api.iter().flat_map(|api| api.listen.iter().copied()).chain(config.metrics);
        let kept = privileges::reduce(Needs::new(listen, options.replace).kept())?;
        tracing::info!("privileges are given up, but for {}", privileges::names(kept));
        Ok(Self { operators, socket, hooks, notes })
    }
}
