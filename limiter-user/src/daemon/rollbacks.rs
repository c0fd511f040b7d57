//! Changes that are taken back because nobody confirmed them: nobody asks for that, so the daemon itself puts it on record.

use tokio::sync::mpsc::UnboundedReceiver;

use crate::audit::{self, Trail};
use crate::enforcer::RolledBack;
use crate::host;

/// Writes down each of them, until the enforcer ends.
pub(super) async fn record(mut rollbacks: UnboundedReceiver<RolledBack>, trail: Trail) {
    while let Some(RolledBack { what, owner, actor, prefixes, count, before }) = rollbacks.recv().await {
        let subjects: Vec<String> = prefixes.iter().map(ToString::to_string).collect();
        let (what, reason) = (format!("{what}.rollback"), format!("{actor} did not confirm it in time"));
        let event = audit::Event {
            actor: audit::DAEMON,
            owner: &owner,
            what: &what,
            subjects: if count > subjects.len() as u64 { &[] } else { &subjects },
            count,
            before,
            reason: Some(&reason),
            ..audit::Event::default()
        };
        trail.record(event, host::now().wall).await;
    }
}
