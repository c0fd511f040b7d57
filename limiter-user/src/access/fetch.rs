//! An issuer's keys over HTTPS: one GET, bounded in time and size. Redirects are not followed: where keys come from is what
//! the configuration says.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::{BodyExt, Empty, Limited};
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper::header::{ACCEPT, HOST};
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::config::KeysUrl;
use crate::tls::{self, Trust};

/// For all of it: the name, the connection, the answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// What is at `from`, if it has at most `longest` bytes.
///
/// # Errors
///
/// Why it cannot be had, as a text.
pub(super) async fn fetch(from: &KeysUrl, longest: usize) -> Result<Bytes, String> {
    match tokio::time::timeout(PATIENCE, get(from, longest)).await {
        Ok(outcome) => outcome,
        Err(_) => Err(format!("it did not come within {} s", PATIENCE.as_secs())),
    }
}

async fn get(from: &KeysUrl, longest: usize) -> Result<Bytes, String> {
    let config = tls::client(Trust { pins: &[], ca: Some(&from.ca), identity: None });
    let config = config.map_err(|error| format!("{error:#}"))?;
    let name = ServerName::try_from(from.host().to_owned()).map_err(said)?;
    let stream = TcpStream::connect((from.host(), from.port())).await.map_err(said)?;
    let stream = TlsConnector::from(Arc::clone(&config)).connect(name, stream).await.map_err(said)?;
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
