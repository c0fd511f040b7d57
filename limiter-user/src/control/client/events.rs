//! What happens, as it is told.

use std::time::Duration;

use http_body_util::BodyExt;
use hyper::Method;
use hyper::body::Incoming;

use super::{ANSWER, Client, ClientError, MAX_LINE, Place, describe, empty};
use crate::control::protocol::{Event, Lagged};

/// Longer than between two heartbeats.
const SILENCE: Duration = Duration::from_secs(40);

/// Events as they come.
#[derive(Debug)]
pub struct EventStream {
    body: Incoming,
    rest: Vec<u8>,
    at: Place,
}

/// What came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Heard {
    Event(Event),
    /// So many were missed.
    Lagged(Lagged),
}

impl Client {
    /// What happens from now on.
    pub async fn events(&self) -> Result<EventStream, ClientError> {
        let answer = self.send(Method::GET, "/v1/events", "", empty(), ANSWER).await?;
        Ok(EventStream { body: answer.response.into_body(), rest: Vec::new(), at: self.at() })
    }
}

impl EventStream {
    /// The next; `None` when the daemon stops.
    ///
    /// # Errors
    ///
    /// If the daemon has gone, or what comes are no events.
    pub async fn next(&mut self) -> Result<Option<Heard>, ClientError> {
        loop {
            while let Some(end) = self.rest.windows(2).position(|pair| pair == b"\n\n") {
                let later = self.rest.split_off(end + 2);
                let piece = std::mem::replace(&mut self.rest, later);
                if let Some(heard) = heard(&piece)? {
                    return Ok(Some(heard));
                }
            }
            if self.rest.len() > MAX_LINE {
                return Err(ClientError::Broken("an event is too long".to_owned()));
            }
            let Ok(frame) = tokio::time::timeout(SILENCE, self.body.frame()).await else {
                return Err(ClientError::Silent { at: self.at.clone() });
            };
            let Some(frame) = frame else { return Ok(None) };
            let frame = frame.map_err(|error| ClientError::Broken(describe(&error)))?;
            if let Ok(data) = frame.into_data() {
                self.rest.extend_from_slice(&data);
            }
        }
    }
}

/// What a piece says; `None` for comments, and for events of later versions.
fn heard(piece: &[u8]) -> Result<Option<Heard>, ClientError> {
    let broken = |error: &dyn std::fmt::Display| ClientError::Broken(format!("an event: {error}"));
    let text = str::from_utf8(piece).map_err(|error| broken(&error))?;
    let field = |name: &str| text.lines().find_map(|line| line.strip_prefix(name));
    let (Some(name), Some(data)) = (field("event: "), field("data: ")) else { return Ok(None) };
    match name {
        "lagged" => serde_json::from_str(data).map(Heard::Lagged),
        "added" | "removed" | "expired" | "refused" => serde_json::from_str(data).map(Heard::Event),
        _ => return Ok(None),
    }
    .map(Some)
    .map_err(|error| broken(&error))
}
