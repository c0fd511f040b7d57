//! Where the configuration comes from: a file, or the command line.

use std::path::{Path, PathBuf};

use super::options::{Mode, Options};
use crate::config::{self, Config};

/// A place that can be read again.
#[derive(Debug, Clone)]
pub(super) enum Source {
    File(PathBuf),
    /// `--interface`: what a file would say.
    CommandLine(String),
}

impl Source {
    pub(super) fn new(options: &Options) -> Self {
        if options.interface.is_empty() {
            return Self::File(options.config.clone());
        }
        let mode = match options.mode {
            Mode::Native => "native",
            Mode::Generic => "generic",
            Mode::Auto => "auto",
        };
        let table = |name: &String| {
            format!("[[interface]]\nname = {}\nmode = \"{mode}\"\n", toml::Value::from(name.as_str()))
        };
        Self::CommandLine(options.interface.iter().map(table).collect())
    }

    /// Reads and checks it.
    ///
    /// # Errors
    ///
    /// A line for each thing that is wrong.
    pub(super) fn load(&self) -> Result<Config, Vec<String>> {
        let (text, file) = match self {
            Self::File(path) => match std::fs::read_to_string(path) {
                Ok(text) => (text, path.as_path()),
                Err(error) => {
                    return Err(vec![format!("{}: cannot read the configuration: {error}", path.display())]);
                }
            },
            Self::CommandLine(text) => (text.clone(), Path::new("(command line)")),
        };
        config::parse(&text, file)
            .map_err(|problems| problems.to_string().lines().map(str::to_owned).collect())
    }
}

/// `new`, but with what cannot change while the daemon runs as in `old`; and what that is, as sentences.
pub(super) fn keep_fixed(old: &Config, new: Config) -> (Config, Vec<String>) {
    let mut differs = Vec::new();
    let mut note = |key: &str, same: bool| {
        if !same {
            differs.push(format!("{key} has changed in the configuration; that takes a restart of limiterd"));
        }
    };
    note("[control]", old.control == new.control);
    note("[metrics]", old.metrics == new.metrics);
    note("[state] directory", old.state_directory == new.state_directory);
    note("[pins] directory", old.pins_directory == new.pins_directory);
    note("[capacity]", old.capacity == new.capacity);
    let config = Config {
        control: old.control.clone(),
        metrics: old.metrics,
        state_directory: old.state_directory.clone(),
        pins_directory: old.pins_directory.clone(),
        capacity: old.capacity,
        ..new
    };
    (config, differs)
}
