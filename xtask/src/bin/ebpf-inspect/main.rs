//! Looks into the compiled eBPF object: what the kernel's verifier says about it, and what a frame runs through.

mod machine;
mod object;
mod path;
mod verifier;

use std::{fs, path::PathBuf, process::ExitCode};

use anyhow::{Context as _, Result};
use clap::{Parser, Subcommand};

#[derive(Parser)]
struct Arguments {
    /// The object
    object: PathBuf,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// What the verifier says about each program (as root)
    Report,
    /// What sample frames run through
    Path(path::Arguments),
}

fn main() -> ExitCode {
    match inspect() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn inspect() -> Result<()> {
    let Arguments { object, command } = Arguments::parse();
    let bytes = fs::read(&object).with_context(|| format!("reading {}", object.display()))?;
    match command {
        Command::Report => verifier::report(&bytes),
        Command::Path(arguments) => path::path(&bytes, &arguments),
    }
    .with_context(|| format!("object {}", object.display()))
}
