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
use crate::dataplane::Reader;
use crate::enforcer::Summary;
use crate::http::{serve_connection, stopped};

/// Connections at the same time: a handful of scrapers.
const MAX_CONNECTIONS: usize = 16;

/// Where the numbers come from.
#[derive(Clone)]
pub struct Sources {
    pub daemon: watch::Receiver<Arc<DaemonState>>,
    pub summary: watch::Receiver<Arc<Summary>>,
    pub reader: Arc<dyn Reader>,
}

/// # Errors
///
/// If the address is taken or not this machine's.
pub async fn bind(address: SocketAddr) -> anyhow::Result<TcpListener> {
    TcpListener::bind(address).await.with_context(|| {
        format!("cannot listen for metrics at {address}; is it taken? set metrics.listen to another address")
    })
}

/// Serves until the daemon stops.
pub async fn serve(listener: TcpListener, sources: Sources, mut stop: watch::Receiver<bool>) {
    let router = Router::new().route("/metrics", get(metrics)).with_state(sources);
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let mut connections = tokio::task::JoinSet::new();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = stopped(&mut stop) => break,
        };
        while connections.try_join_next().is_some() {}
        match accepted {
            // Above the bound the connection is closed: a scraper tries again by itself.
            Ok((stream, _)) => {
                let Ok(place) = Arc::clone(&places).try_acquire_owned() else { continue };
                let (router, stop) = (router.clone(), stop.clone());
                connections.spawn(async move {
                    serve_connection(stream, router, stop).await;
                    drop(place);
                });
            }
            Err(error) => {
                tracing::warn!("metrics: cannot accept: {error}");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
    drop(listener);
    while connections.join_next().await.is_some() {}
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
    };
    Ok(exposition(&snapshot)?)
}

fn failure(error: &anyhow::Error) -> Response {
    tracing::warn!("metrics: {error:#}");
    (StatusCode::INTERNAL_SERVER_ERROR, format!("{error:#}\n")).into_response()
}
