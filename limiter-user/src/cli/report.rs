//! `report`.

use std::io::Write;

use crate::cli::Session;
use crate::cli::args::Report;
use crate::cli::failure::{Exit, Stop};
use crate::cli::render::printable;
use crate::control::protocol;

pub(super) async fn report(session: &mut Session<impl Write>, args: Report) -> Result<Exit, Stop> {
    let Report { address, category, weight, account, device } = args;
    let report = protocol::Report { address: address.into(), category, weight, account, device };
    let response = session.client.report(std::slice::from_ref(&report)).await?;
    if session.json {
        session.json(&response)?;
    } else {
        for blocked in &response.blocked {
            let time = humantime::format_duration(std::time::Duration::from_secs(blocked.seconds));
            writeln!(
                session.out,
                "{} is blocked for {time}: {}",
                blocked.prefix,
                printable(&blocked.reason)
            )?;
        }
        if response.unknown > 0 {
            writeln!(
                session.out,
                "no policy is for {}: nothing follows from it; see [[policy]] of the configuration",
                printable(&report.category)
            )?;
        } else if response.blocks == 0 {
            writeln!(session.out, "counted")?;
        }
    }
    Ok(if response.unknown > 0 { Exit::NotFound } else { Exit::Ok })
}
