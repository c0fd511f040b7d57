//! `counters`.

use std::io::Write;

use crate::cli::Session;
use crate::cli::args::Counters;
use crate::cli::failure::{Exit, Stop};
use crate::cli::render;

pub(super) async fn counters(session: &mut Session<impl Write>, args: &Counters) -> Result<Exit, Stop> {
    let counters = session.client.counters().await?;
    if session.json {
        session.json(&counters)?;
    } else {
        render::counters(&mut session.out, session.palette, &counters, args.all)?;
    }
    Ok(Exit::Ok)
}
