//! `block import`: streams a file to the daemon, which parses it.

use std::io::{self, IsTerminal, Write};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use futures_util::stream;
use hyper::body::Bytes;
use tokio::io::{AsyncRead, AsyncReadExt};

use crate::cli::Session;
use crate::cli::args::Import;
use crate::cli::failure::{Exit, Failure, Stop};
use crate::cli::render::{self, grouped};
use crate::control::client::ImportOptions;
use crate::control::protocol::AddResponse;

const PIECE: usize = 256 << 10;
const REDRAW: Duration = Duration::from_millis(200);

pub(super) async fn import(session: &mut Session<impl Write>, import: &Import) -> Result<Exit, Stop> {
    let (input, size) = open(&import.file)
        .await
        .map_err(|error| Failure::failed(format_args!("cannot read {}: {error}", import.file.display())))?;
    let options = ImportOptions {
        seconds: import.lifetime.seconds(),
        reason: import.reason.clone(),
        force: import.force,
        ssh_peer: session.ssh_peer.clone(),
        owner: import.owner.as_ref().map(ToString::to_string),
        size,
        dry_run: import.dry_run,
    };
    let sent = Arc::new(AtomicU64::new(0));
    let counter = Arc::clone(&sent);
    let pieces = stream::unfold(Some(input), move |input| {
        let counter = Arc::clone(&counter);
        async move {
            let mut input = input?;
            let mut piece = vec![0; PIECE];
            match input.read(&mut piece).await {
                Ok(0) => None,
                Ok(read) => {
                    counter.fetch_add(read as u64, Ordering::Relaxed);
                    piece.truncate(read);
                    Some((Ok(Bytes::from(piece)), Some(input)))
                }
                Err(error) => Some((Err(error), None)),
            }
        }
    });

    let start = Instant::now();
    let request = session.client.import(pieces, &options);
    let done = if io::stderr().is_terminal() && !session.json {
        with_progress(request, &sent, size).await
    } else {
        request.await
    }?;
    if session.json {
        session.json(&done)?;
    } else {
        let dry_run = render::rehearsed(done.dry_run);
        writeln!(session.out, "{dry_run}{} in {:.1} s", figures(&done), start.elapsed().as_secs_f64())?;
        render::cuts(&mut session.out, session.palette, done.cuts)?;
        for prefix in &done.shadowed_by_allow {
            writeln!(io::stderr(), "limiter: {prefix} is also allowed, so it is not dropped")?;
        }
    }
    Ok(Exit::Ok)
}

/// The file, and its size if it has one.
async fn open(path: &Path) -> io::Result<(Box<dyn AsyncRead + Send + Sync + Unpin>, Option<u64>)> {
    if path.as_os_str() == "-" {
        return Ok((Box::new(tokio::io::stdin()), None));
    }
    let file = tokio::fs::File::open(path).await?;
    let metadata = file.metadata().await?;
    if metadata.is_dir() {
        return Err(io::ErrorKind::IsADirectory.into());
    }
    let size = metadata.is_file().then_some(metadata.len());
    Ok((Box::new(file), size))
}

/// Draws what was sent on one line of the terminal until the answer is there.
async fn with_progress<T>(answer: impl Future<Output = T>, sent: &AtomicU64, size: Option<u64>) -> T {
    let mut answer = std::pin::pin!(answer);
    let mut redraw = tokio::time::interval(REDRAW);
    let outcome = loop {
        tokio::select! {
            outcome = &mut answer => break outcome,
            _ = redraw.tick() => {
                let sent = sent.load(Ordering::Relaxed);
                // Progress that cannot be shown is no reason to stop.
                let _ = match size {
                    Some(size) if sent >= size => write!(io::stderr(), "\r\x1b[Kapplying …"),
                    Some(size) => {
                        let percent = sent.saturating_mul(100).checked_div(size).unwrap_or(100);
                        write!(io::stderr(), "\r\x1b[K{percent} % sent")
                    }
                    None => write!(io::stderr(), "\r\x1b[K{} KiB sent", sent >> 10),
                };
            }
        }
    };
    let _ = write!(io::stderr(), "\r\x1b[K");
    outcome
}

/// `1,000,000 read, 999,998 added, 2 unchanged`.
fn figures(done: &AddResponse) -> String {
    let read = done.added + done.updated + done.unchanged;
    let mut text = format!("{} read, {} added", grouped(read), grouped(done.added));
    for (number, what) in [(done.updated, "updated"), (done.unchanged, "unchanged")] {
        if number > 0 {
            text.push_str(&format!(", {} {what}", grouped(number)));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_say_what_happened() {
        let done = AddResponse { added: 999_998, unchanged: 2, ..AddResponse::default() };
        assert_eq!(figures(&done), "1,000,000 read, 999,998 added, 2 unchanged");
        assert_eq!(figures(&AddResponse::default()), "0 read, 0 added");
    }
}
