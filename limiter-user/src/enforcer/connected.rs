//! Who is connected with this machine: looked at when somebody who is no operator asks for wide blocks, and not every time.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use limiter_common::{Address, Nanos};
use tokio::sync::Mutex;

use super::{Caller, Error, Now, blocking};
use crate::admission::share::sample;
use crate::blocklist::Owner;
use crate::config::Config;

/// Between two looks.
const PAUSE: Nanos = Nanos::from_secs(10);
/// After this long, a request waits for the look: what is known is too old. Before, it goes on meanwhile.
const STALE: Nanos = Nanos::from_secs(30);
/// Nobody waits for longer: with a million connections a look takes seconds.
const PATIENCE: Duration = Duration::from_secs(2);

type Gather = fn() -> anyhow::Result<Vec<Address>>;

/// When to look, for all tasks that ask.
#[derive(Debug, Clone)]
pub(super) struct Connected {
    gather: Gather,
    clock: fn() -> Now,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    /// Somebody counts them.
    wanted: AtomicBool,
    /// When the last look ended, in nanoseconds of the boot; `u64::MAX` if there was none.
    looked: AtomicU64,
    /// Of who looks.
    turn: Mutex<()>,
}

impl Connected {
    pub(super) fn new(gather: Gather, clock: fn() -> Now, config: &Config) -> Self {
        let wanted = AtomicBool::new(config.peers_share.is_some());
        let shared = Shared { wanted, looked: AtomicU64::new(u64::MAX), turn: Mutex::new(()) };
        Self { gather, clock, shared: Arc::new(shared) }
    }

    pub(super) fn configure(&self, config: &Config) {
        self.shared.wanted.store(config.peers_share.is_some(), Ordering::Relaxed);
    }

    /// All of them at this moment. Takes long on a busy machine.
    pub(super) async fn all(&self) -> Result<Option<Vec<Address>>, Error> {
        let peers = blocking(self.gather).await?;
        if let Err(error) = &peers {
            tracing::warn!("who is connected is not known: {error:#}");
        }
        Ok(peers.ok())
    }

    /// Whether it matters to blocks of `caller`.
    pub(super) fn holds_back(&self, caller: &Caller) -> bool {
        caller.owner != Owner::Operator && self.shared.wanted.load(Ordering::Relaxed)
    }

    /// Looks, if it is time to, and hands what was seen to `tell`. That is awaited only if what was seen before is too old, and
    /// not for long.
    pub(super) async fn look(&self, tell: impl FnOnce(Vec<Address>) + Send + 'static) {
        if self.is_known(PAUSE) {
            return;
        }
        if self.is_known(STALE) {
            if self.shared.turn.try_lock().is_ok() {
                let connected = self.clone();
                tokio::spawn(async move { connected.look_once(tell).await });
            }
            return;
        }
        let connected = self.clone();
        let look = tokio::spawn(async move { connected.look_once(tell).await });
        // If it takes longer, it goes on for those who come later.
        let _ = tokio::time::timeout(PATIENCE, look).await;
    }

    /// Looks, unless somebody else just did.
    async fn look_once(&self, tell: impl FnOnce(Vec<Address>)) {
        let _turn = self.shared.turn.lock().await;
        if self.is_known(PAUSE) {
            return;
        }
        if let Ok(Some(addresses)) = self.all().await {
            tell(sample(addresses));
        }
        // Also if there was no answer: it would be asked for in vain all the time.
        self.shared.looked.store((self.clock)().boot.0, Ordering::Release);
    }

    /// Waits for the look that is under way.
    #[cfg(test)]
    pub(super) async fn settled(&self) {
        drop(self.shared.turn.lock().await);
    }

    /// Whether somebody looked within `time`.
    fn is_known(&self, time: Nanos) -> bool {
        let looked = self.shared.looked.load(Ordering::Acquire);
        looked != u64::MAX && (self.clock)().boot.saturating_sub(Nanos(looked)) < time
    }
}
