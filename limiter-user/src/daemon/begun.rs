//! What is in force at a start: the configuration of the disk, unless it is one that nobody [confirmed](super::unconfirmed) in
//! time.

use super::source::Source;
use super::unconfirmed::{self, Unconfirmed};
use crate::config::Config;
use crate::host;

/// A configuration, and whether somebody has to confirm it.
pub(super) struct Begun {
    pub(super) config: Config,
    pub(super) text: String,
    pub(super) unconfirmed: Option<Unconfirmed>,
    /// It was rolled back just now.
    pub(super) rolled_back: bool,
    /// What an operator should know of it, as sentences.
    pub(super) notes: Vec<String>,
}

impl Begun {
    /// `config` is what is on the disk, and `text` how it is written.
    pub(super) fn new(source: &Source, config: Config, text: String) -> Self {
        let now = host::now();
        let directory = config.state_directory.clone();
        let mut begun = Self { config, text, unconfirmed: None, rolled_back: false, notes: Vec::new() };
        let found = host::boot_id()
            .map_err(|error| format!("{error:#}"))
            .and_then(|boot| Unconfirmed::read(&directory, boot, now));
        let mut change = match found {
            Ok(Some(change)) => change,
            Ok(None) => return begun,
            Err(why) => {
                begun.notes.push(format!("whether the configuration was confirmed is not known: {why}"));
                return begun;
            }
        };
        if !change.tries(&begun.text) {
            // Somebody has written another one since.
            if let Err(error) = unconfirmed::forget(&directory) {
                tracing::warn!("change {} cannot be taken out of the state: {error}", change.id);
            }
            return begun;
        }
        if !change.is_over && change.ends > now.boot {
            begun.unconfirmed = Some(change);
            return begun;
        }
        match source.parse(&change.former) {
            Ok(former) => {
                tracing::warn!(
                    "the configuration on the disk was not confirmed in time: the one before is used"
                );
                begun.config = former;
                begun.text.clone_from(&change.former);
                begun.rolled_back = !change.is_over;
                change.is_over = true;
                begun.unconfirmed = Some(change);
            }
            Err(problems) => begun.notes.push(format!(
                "the configuration was not confirmed, but the one before cannot be used any more: {}",
                problems.join("; ")
            )),
        }
        begun
    }
}
