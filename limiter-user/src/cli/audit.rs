//! `audit verify`.

use std::io::Write;
use std::path::Path;

use crate::audit::{self, Verified};
use crate::cli::Session;
use crate::cli::failure::{Exit, Failure, Stop};
use crate::cli::render::printable;

pub(super) fn verify(session: &mut Session<impl Write>, directory: &Path) -> Result<Exit, Stop> {
    let verified = audit::verify(directory).map_err(|error| {
        let shown = directory.display();
        Failure::failed(format_args!(
            "cannot read the audit trail in {shown}: {error}; name another one with --directory"
        ))
    })?;
    if session.json {
        session.json(&verified)?;
    } else {
        let Verified { files, records, first, last, problems } = &verified;
        for problem in problems {
            writeln!(session.out, "{}", printable(problem))?;
        }
        let verdict =
            if problems.is_empty() { "nothing is missing, nothing was changed" } else { "not as written" };
        writeln!(session.out, "{records} records ({first} to {last}) in {files} files: {verdict}")?;
    }
    Ok(if verified.problems.is_empty() { Exit::Ok } else { Exit::Failed })
}
