//! `api`: pins and first certificates. Needs no daemon.

use std::io::Write;

use serde::Serialize;

use crate::cli::Session;
use crate::cli::args::Api;
use crate::cli::failure::{Exit, Failure, Stop};
use crate::tls;

/// For `--json`.
#[derive(Serialize)]
struct Made {
    certificate: String,
    key: String,
    pin: String,
}

pub(super) fn api(session: &mut Session<impl Write>, api: Api) -> Result<Exit, Stop> {
    match api {
        Api::Pin { certificate } => {
            let pin =
                tls::pin_of(&certificate).map_err(|error| Failure::failed(format_args!("{error:#}")))?;
            if session.json {
                session.json(&serde_json::json!({ "pin": pin.to_string() }))?;
            } else {
                writeln!(session.out, "{pin}")?;
            }
        }
        Api::Certificate { names, out } => {
            let made = tls::generate::generate(&names, &out)
                .map_err(|error| Failure::failed(format_args!("{error:#}")))?;
            let (certificate, key) = (made.certificate.display(), made.key.display());
            if session.json {
                let pin = made.pin.to_string();
                session.json(&Made { certificate: certificate.to_string(), key: key.to_string(), pin })?;
            } else {
                writeln!(session.out, "[api]\ncertificate = \"{certificate}\"\nkey         = \"{key}\"\n")?;
                writeln!(session.out, "# clients: --pin {}", made.pin)?;
            }
        }
    }
    Ok(Exit::Ok)
}
