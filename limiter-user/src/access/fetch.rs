//! An issuer's keys over HTTPS: one GET, bounded in time and size. Redirects are not followed: where keys come from is what
//! the configuration says.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::{BodyExt, Empty, Limited};
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper::header::{ACCEPT, HOST};
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::config::KeysUrl;
use crate::tls::{self, Trust};

/// For all of it: the name, the connection, the answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// Fetches again and again.
#[derive(Debug, Default)]
pub(super) struct Fetcher {
    /// Issuers of the system's that could not be understood the last time.
    left_out: usize,
}

impl Fetcher {
    /// What is at `from`, if it has at most `longest` bytes.
    ///
    /// # Errors
    ///
    /// Why it cannot be had, as a text.
    pub(super) async fn fetch(&mut self, from: &KeysUrl, longest: usize) -> Result<Bytes, String> {
        let fetched = async {
            let config = self.trust(from.ca.clone()).await?;
            get(config, from, longest).await
        };
        match tokio::time::timeout(PATIENCE, fetched).await {
            Ok(outcome) => outcome,
            Err(_) => Err(format!("it did not come within {} s", PATIENCE.as_secs())),
        }
    }

    /// Whoever those in `ca` vouch for. They are read each time, since they change with the system.
    async fn trust(&mut self, ca: PathBuf) -> Result<Arc<ClientConfig>, String> {
        let shown = ca.display().to_string();
        let read = tokio::task::spawn_blocking(move || {
            tls::client_and_left_out(Trust { pins: &[], ca: Some(&ca), identity: None })
        });
        let (config, left_out) = read.await.map_err(said)?.map_err(|error| format!("{error:#}"))?;
        if left_out > 0 && left_out != self.left_out {
            tracing::warn!(
                "{left_out} of the certificates in {shown} cannot be understood; going by the others"
            );
        }
        self.left_out = left_out;
        Ok(config)
    }
}

async fn get(config: Arc<ClientConfig>, from: &KeysUrl, longest: usize) -> Result<Bytes, String> {
    let name = ServerName::try_from(from.host().to_owned()).map_err(said)?;
    let stream = TcpStream::connect((from.host(), from.port())).await.map_err(said)?;
    let stream = TlsConnector::from(config).connect(name, stream).await.map_err(said)?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(said)?;
    let request = hyper::Request::get(from.path())
        .header(HOST, from.authority())
        .header(ACCEPT, "application/jwk-set+json, application/json")
        .body(Empty::<Bytes>::new())
        .map_err(said)?;
    let answer = async {
        let answer = sender.send_request(request).await.map_err(said)?;
        if answer.status() != hyper::StatusCode::OK {
            return Err(format!("the answer is {}", answer.status()));
        }
        let body = Limited::new(answer.into_body(), longest).collect().await.map_err(said)?;
        Ok(body.to_bytes())
    };
    tokio::select! {
        answer = answer => answer,
        // It goes on until the answer is there, unless it fails.
        Err(error) = connection => Err(said(error)),
    }
}

fn said(error: impl fmt::Display) -> String {
    error.to_string()
}
