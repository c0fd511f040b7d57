//! The metrics listener: `GET /metrics`, and nothing else.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use limiter_common::abi::ABI_VERSION;
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, watch};

use super::exposition::{CONTENT_TYPE, exposition};
use super::{DaemonState, Snapshot};
use crate::control::server::Traffic;
use crate::dataplane::Reader;
use crate::enforcer::Summary;
use crate::hook::Counts;
use crate::http::{Activity, Version, accept_all, serve_connection, stopped};

/// Connections at the same time: a handful of scrapers.
const MAX_CONNECTIONS: usize = 16;

/// Where the numbers come from.
#[derive(Clone)]
pub struct Sources {
    pub daemon: watch::Receiver<Arc<DaemonState>>,
    pub summary: watch::Receiver<Arc<Summary>>,
    pub reader: Arc<dyn Reader>,
    pub traffic: Arc<Traffic>,
    pub hooks: Vec<Arc<Counts>>,
}

/// Between two attempts at an address that is not there: at boot, it comes with the network.
const PAUSE: Duration = Duration::from_secs(5);

/// Serves at `address` until the daemon stops. While that is not this machine's, or taken, `problem` says so: being
/// measured must not be what protection waits for.
pub async fn run(
    address: SocketAddr,
    sources: Sources,
    mut stop: watch::Receiver<bool>,
    problem: watch::Sender<Option<String>>,
) {
    let listener = loop {
        match TcpListener::bind(address).await {
            Ok(listener) => break listener,
            Err(error) => {
                let sentence = format!(
                    "metrics are not served: cannot listen at {address}: {error}; trying again. If the address is wrong, \
                     change metrics.listen and restart the daemon"
                );
                problem.send_if_modified(|former| {
                    let news = former.as_deref() != Some(&sentence);
                    if news {
                        tracing::warn!("{sentence}");
                        *former = Some(sentence);
                    }
                    news
                });
            }
        }
        tokio::select! {
            () = tokio::time::sleep(PAUSE) => {}
            () = stopped(&mut stop) => return,
        }
    };
    if problem.send_replace(None).is_some() {
        tracing::info!("metrics are served at {address}");
    }
    serve(listener, sources, stop).await;
}

async fn serve(listener: TcpListener, sources: Sources, stop: watch::Receiver<bool>) {
    let router = Router::new().route("/metrics", get(metrics)).with_state(sources);
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let connected = |(stream, _)| {
        // Above the bound the connection is closed: a scraper tries again by itself.
        let place = Arc::clone(&places).try_acquire_owned().ok()?;
        let (router, stop) = (router.clone(), stop.clone());
        Some(async move {
            serve_connection(stream, Version::Http1, router, Activity::local(), stop).await;
            drop(place);
        })
    };
    accept_all("metrics", listener, connected, stop.clone()).await;
}

async fn metrics(State(sources): State<Sources>) -> Response {
    // Reading the kernel's counters takes system calls.
    match tokio::task::spawn_blocking(move || scrape(&sources)).await {
        Ok(Ok(text)) => ([(header::CONTENT_TYPE, CONTENT_TYPE)], text).into_response(),
        Ok(Err(error)) => failure(&error),
        Err(error) => failure(&error.into()),
    }
}

fn scrape(sources: &Sources) -> anyhow::Result<String> {
    let snapshot = Snapshot {
        version: env!("CARGO_PKG_VERSION"),
        abi: ABI_VERSION,
        daemon: Arc::clone(&sources.daemon.borrow()),
        summary: Arc::clone(&sources.summary.borrow()),
        counts: sources.reader.counts().context("cannot read the kernel's counters")?,
        capacities: sources.reader.capacities(),
        traffic: Arc::clone(&sources.traffic),
        hooks: sources.hooks.clone(),
    };
    Ok(exposition(&snapshot)?)
}

fn failure(error: &anyhow::Error) -> Response {
    tracing::warn!("metrics: {error:#}");
    (StatusCode::INTERNAL_SERVER_ERROR, format!("{error:#}\n")).into_response()
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;
    use crate::dataplane::memory::MemoryDataplane;
    use crate::metrics::LastReload;

    /// The clock jumps to the next attempt.
    #[tokio::test(start_paused = true)]
    async fn a_taken_address_is_told_and_tried_again() {
        let taken = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = taken.local_addr().unwrap();
        let reload = LastReload { successful: true, succeeded_at: SystemTime::UNIX_EPOCH };
        let state = DaemonState { started: SystemTime::UNIX_EPOCH, interfaces: Vec::new(), reload };
        let (_daemon, daemon) = watch::channel(Arc::new(state));
        let (_summary, summary) = watch::channel(Arc::default());
        let reader = Arc::new(MemoryDataplane::new(1));
        let sources = Sources { daemon, summary, reader, traffic: Arc::default(), hooks: Vec::new() };
        let (stop, stopping) = watch::channel(false);
        let (problem, mut told) = watch::channel(None::<String>);
        let server = tokio::spawn(run(address, sources, stopping, problem));
        let sentence = told.wait_for(Option::is_some).await.unwrap().clone().unwrap_or_default();
        assert!(sentence.contains(&address.to_string()), "{sentence}");
        drop(taken);
        told.wait_for(Option::is_none).await.unwrap();
        tokio::net::TcpStream::connect(address).await.unwrap();
        stop.send_replace(true);
        server.await.unwrap();
    }
}
