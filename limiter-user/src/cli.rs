//! The command line: one file per verb, each fetching over the [`Client`] and leaving the words to `render`.
//!
//! Data goes to standard output and everything else to standard error. A reader that has seen enough (`| head`) is
//! not a failure.

mod api;
pub mod args;
mod audit;
mod confirm;
mod counters;
mod daemon;
mod events;
mod explain;
mod failure;
mod generate;
mod import;
mod lists;
pub mod packet;
mod render;
mod report;
mod ssh;
mod status;
mod token;

use std::io::{self, IsTerminal, Write};
use std::process::ExitCode;

use clap::Parser;

use crate::cli::args::{Allow, Arguments, Audit, Block, Color, Command, Global};
use crate::cli::failure::{Exit, Failure, Stop};
use crate::cli::render::Palette;
use crate::config::Action;
use crate::control::client::{Client, Remote, Token};
use crate::tls::Trust;

pub use crate::cli::generate::{completions, man_pages};

/// What a command needs: the daemon, and how to print.
struct Session<W> {
    client: Client,
    out: W,
    json: bool,
    palette: Palette,
    /// Where the caller is logged in from, if by SSH.
    ssh_peer: Option<String>,
}

impl<W: Write> Session<W> {
    fn json(&mut self, value: &impl serde::Serialize) -> Result<(), Stop> {
        serde_json::to_writer(&mut self.out, value).map_err(io::Error::from)?;
        writeln!(self.out)?;
        Ok(())
    }
}

/// Runs the command line of this process.
pub fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let json = arguments.global.json;
    match run(arguments) {
        Ok(exit) => exit.into(),
        Err(failure) => {
            // If not even this can be said, the exit code says it.
            let _ = failure.print(json, &mut io::stderr().lock());
            failure.exit.into()
        }
    }
}

fn run(arguments: Arguments) -> Result<Exit, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::failed(format_args!("cannot start: {error}")))?;
    let mut session = Session {
        client: client(&arguments.global)?,
        out: io::BufWriter::new(io::stdout().lock()),
        json: arguments.global.json,
        palette: Palette { enabled: coloured(arguments.global.color) },
        // Who is logged in here has no way in there.
        ssh_peer: ssh::peer().filter(|_| arguments.global.remote.remote.is_none()),
    };
    let outcome = runtime.block_on(command(&mut session, arguments.command));
    // Reading standard input blocks a thread of the runtime that cannot be interrupted.
    runtime.shutdown_background();
    let outcome = outcome.and_then(|exit| {
        session.out.flush()?;
        Ok(exit)
    });
    match outcome {
        Ok(exit) => Ok(exit),
        Err(Stop::SeenEnough) => Ok(Exit::Ok),
        Err(Stop::Failure(failure)) => {
            // What was printed before the failure is not lost.
            let _ = session.out.flush();
            Err(failure)
        }
    }
}

fn client(global: &Global) -> Result<Client, Failure> {
    let args = &global.remote;
    let Some(url) = &args.remote else { return Ok(Client::new(&global.socket)) };
    let identity = args.client_certificate.as_deref().zip(args.client_key.as_deref());
    let trust = Trust { pins: &args.pin, ca: args.ca.as_deref(), identity };
    let token = args.token_file.as_deref().map(Token::read).transpose();
    let remote = token.and_then(|token| Remote::new(url, trust, token));
    remote.map(Client::remote).map_err(|error| Failure::failed(format_args!("{error:#}")))
}

async fn command(session: &mut Session<impl Write>, command: Command) -> Result<Exit, Stop> {
    match command {
        Command::Block(Block::Add(add)) => lists::add(session, Action::Block, &add).await,
        Command::Block(Block::Remove(remove)) => lists::remove(session, Action::Block, &remove).await,
        Command::Block(Block::List(list)) => lists::list(session, Action::Block, list.owner.as_ref()).await,
        Command::Block(Block::Export(export)) => lists::export(session, &export.owner).await,
        Command::Block(Block::Test { address }) => explain::test(session, address).await,
        Command::Block(Block::Import(import)) => import::import(session, &import).await,
        Command::Allow(Allow::Add(add)) => lists::add(session, Action::Allow, &add).await,
        Command::Allow(Allow::Remove(remove)) => lists::remove(session, Action::Allow, &remove).await,
        Command::Allow(Allow::List(list)) => lists::list(session, Action::Allow, list.owner.as_ref()).await,
        Command::Report(report) => report::report(session, report).await,
        Command::Confirm { id } => confirm::confirm(session, id).await,
        Command::Status => status::status(session).await,
        Command::Counters(counters) => counters::counters(session, &counters).await,
        Command::Events => events::events(session).await,
        Command::Explain(explain) => explain::explain(session, &explain).await,
        Command::Reload { confirm } => daemon::reload(session, confirm).await,
        Command::Token(token) => token::token(session, token).await,
        Command::Detach(detach) => daemon::detach(session, detach).await,
        Command::Audit(Audit::Verify { directory }) => audit::verify(session, &directory),
        Command::Api(api) => api::api(session, api),
        Command::Completions { shell } => {
            completions(shell, &mut session.out);
            Ok(Exit::Ok)
        }
        Command::Man { directory } => {
            man_pages(&directory).map_err(|error| {
                Failure::failed(format_args!("cannot write man pages to {}: {error}", directory.display()))
            })?;
            Ok(Exit::Ok)
        }
    }
}

fn coloured(color: Color) -> bool {
    match color {
        Color::Always => true,
        Color::Never => false,
        // https://no-color.org: set and not empty.
        Color::Auto => {
            std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty()) && io::stdout().is_terminal()
        }
    }
}

#[cfg(test)]
mod tests;
