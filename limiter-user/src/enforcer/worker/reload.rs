//! A reload: planned as a whole, made in parts.

use std::sync::Arc;

use super::Worker;
use super::edits::Parts;
use crate::admission::Guards;
use crate::blocklist::Edit;
use crate::config::Config;
use crate::enforcer::lists::{self, ListFile, Listed};
use crate::enforcer::{Error, Reply, render};

/// What a reload makes of the lists: the edits, the lists then, and what is different.
type Reload = (Parts, Vec<Listed>, Vec<String>);

/// A reload that was planned.
pub(super) struct Reloading {
    pub(super) parts: Parts,
    pub(super) undo: Vec<Edit>,
    /// The configuration that was in force before.
    pub(super) former: Arc<Config>,
    pub(super) lists: Vec<Listed>,
    pub(super) sentences: Vec<String>,
    pub(super) reply: Reply<Vec<String>>,
}

impl Worker {
    /// Plans a reload. From here on its guards and capacities count, until it [fails](Self::fail).
    pub(super) fn begin_reload(
        &mut self,
        config: Arc<Config>,
        files: Vec<ListFile>,
        reply: Reply<Vec<String>>,
    ) -> Option<Reloading> {
        let former = self.take_config(config);
        match self.plan_reload(&former, files) {
            Ok((parts, lists, sentences)) => {
                let sets = parts.iter().flatten().filter(|edit| matches!(edit, Edit::Set(_)));
                self.kernel.expect(sets.map(|edit| edit.key().prefix));
                Some(Reloading { parts, undo: Vec::new(), former, lists, sentences, reply })
            }
            Err(error) => {
                self.take_config(former);
                self.answer(reply, Err(error));
                None
            }
        }
    }

    pub(super) fn plan_reload(&mut self, former: &Config, files: Vec<ListFile>) -> Result<Reload, Error> {
        let known = self.lifelines.clone();
        self.ask_for_lifelines();
        let guards = self.guards();
        let moved = known.map(|(_, known)| known) != self.lifelines.as_ref().map(|(_, now)| now.clone());
        let created = render::seconds((self.clock)().wall);
        let capacity = self.config.capacity;
        let lists::Plan { edits, lists, mut sentences } =
            lists::plan(&mut self.list, &guards, capacity, &self.lists, files, created)
                .map_err(|error| Error::Failed(error.to_string()))?;
        if former.protected != self.config.protected {
            sentences.push(format!("{} prefixes are protected", self.config.protected.len()));
        }
        if former.proxies != self.config.proxies {
            sentences.push(format!("{} prefixes are trusted proxies", self.config.proxies.len()));
        }
        let guarded = |config: &Config| (config.protected.clone(), config.proxies.clone());
        if moved || guarded(former) != guarded(&self.config) {
            sentences.extend(self.blocked_though_guarded(&guards));
        }
        Ok((self.parts(edits)?, lists, sentences))
    }

    /// Blocks, but for those of lists, that a guard would refuse now.
    pub(super) fn blocked_though_guarded(&self, guards: &Guards) -> Option<String> {
        let keys = self.list.keys().filter(|key| self.list.owner_of(key.owner).is_stored());
        let mut refused = keys.filter_map(|key| guards.refusal(key.action, key.prefix));
        let first = refused.next()?;
        Some(format!(
            "{} blocks overlap what is guarded now and stay until they are removed, the first: {first}",
            1 + refused.count()
        ))
    }

    /// Makes the next part of a reload. True if it was the last.
    pub(super) fn reload_part(&mut self, reloading: &mut Reloading) -> Result<bool, Error> {
        let part = reloading.parts.pop_front().unwrap_or_default();
        let last = reloading.parts.is_empty();
        reloading.undo.extend(self.make_part(part, last)?);
        Ok(last)
    }
}
