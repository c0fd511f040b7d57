//! `status`.

use std::io::Write;

use crate::cli::Session;
use crate::cli::failure::{Exit, Stop};
use crate::cli::render;

pub(super) async fn status(session: &mut Session<impl Write>) -> Result<Exit, Stop> {
    let status = session.client.status().await?;
    if session.json {
        session.json(&status)?;
    } else {
        render::status(&mut session.out, session.palette, &status)?;
    }
    if status.ready {
        return Ok(Exit::Ok);
    }
    if !session.json {
        writeln!(std::io::stderr(), "limiter: not ready")?;
    }
    Ok(Exit::Failed)
}
