//! Shell completions and man pages, from the same definitions as the parser.

use std::fs;
use std::io::{self, Write};
use std::path::Path;

use clap::CommandFactory;
use clap_complete::Shell;

use crate::cli::args::Arguments;
use crate::daemon::options::Options;

/// Writes the completions of `limiter` for `shell`.
pub fn completions(shell: Shell, out: &mut impl Write) {
    clap_complete::generate(shell, &mut Arguments::command(), "limiter", out);
}

/// Writes `limiter.1`, a page for each verb, and `limiterd.1` into `directory`.
pub fn man_pages(directory: &Path) -> io::Result<()> {
    fs::create_dir_all(directory)?;
    clap_mangen::generate_to(Arguments::command(), directory)?;
    clap_mangen::generate_to(Options::command(), directory)
}
