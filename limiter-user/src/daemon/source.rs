//! Where the configuration comes from: a file, or the command line.

use std::path::{Path, PathBuf};

use super::options::{Mode, Options};
use crate::config::{self, Api, Config};

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

    /// Reads and checks it; with the text.
    ///
    /// # Errors
    ///
    /// A line for each thing that is wrong.
    pub(super) fn load(&self) -> Result<(Config, String), Vec<String>> {
        let text = match self {
            Self::File(path) => match std::fs::read_to_string(path) {
                Ok(text) => text,
                Err(error) => {
                    let hint = crate::privileges::hint(&error);
                    return Err(vec![format!(
                        "{}: cannot read the configuration: {error}{hint}",
                        path.display()
                    )]);
                }
            },
            Self::CommandLine(text) => text.clone(),
        };
        Ok((self.parse(&text)?, text))
    }

    /// Checks a text that came from here.
    ///
    /// # Errors
    ///
    /// A line for each thing that is wrong.
    pub(super) fn parse(&self, text: &str) -> Result<Config, Vec<String>> {
        let file = match self {
            Self::File(path) => path.as_path(),
            Self::CommandLine(_) => Path::new("(command line)"),
        };
        config::parse(text, file)
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
    let listens = |config: &Config| config.api.as_ref().map(|api| api.listen.clone());
    note("[api] listen", listens(old) == listens(&new));
    note("[metrics]", old.metrics == new.metrics);
    note("[state] directory", old.state_directory == new.state_directory);
    note("[pins] directory", old.pins_directory == new.pins_directory);
    note("[capacity]", old.capacity == new.capacity);
    note("[audit]", old.audit == new.audit);
    note("[[hook]]", old.hooks == new.hooks);
    // Its files are read again; sockets stay what they are.
    let api = match (&old.api, &new.api) {
        (Some(old), Some(new)) => Some(Api { listen: old.listen.clone(), ..new.clone() }),
        (old, _) => old.clone(),
    };
    let config = Config {
        control: old.control.clone(),
        api,
        metrics: old.metrics,
        state_directory: old.state_directory.clone(),
        pins_directory: old.pins_directory.clone(),
        capacity: old.capacity,
        audit: old.audit.clone(),
        hooks: old.hooks.clone(),
        ..new
    };
    (config, differs)
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, SocketAddr};

    use clap::Parser;

    use super::*;

    fn source(line: &str) -> Source {
        let Ok(options) = Options::try_parse_from(line.split(' ')) else { panic!("{line} does not parse") };
        Source::new(&options)
    }

    #[test]
    fn interfaces_of_the_command_line_are_a_configuration() {
        let Ok((config, _)) = source("limiterd --interface eth0 --interface eth1 --mode auto").load() else {
            panic!("refused");
        };
        let modes: Vec<_> = config.interfaces.iter().map(|one| (one.name.as_str(), one.mode)).collect();
        assert_eq!(modes, [("eth0", config::Mode::Auto), ("eth1", config::Mode::Auto)]);
        assert!(config.interfaces.iter().all(|interface| !interface.limited));
        assert_eq!(config.pins_directory, Path::new(crate::cli::args::DEFAULT_PINS));
        assert_eq!(config.control.socket, Path::new(crate::cli::args::DEFAULT_SOCKET));
    }

    #[test]
    fn interface_names_cannot_smuggle_keys() {
        let options =
            Options::try_parse_from(["limiterd", "--interface", "eth0\"\n[control]\nsocket = \"/x"]);
        let Ok(options) = options else { panic!("does not parse") };
        let problems = Source::new(&options).load().expect_err("no interface has such a name");
        assert!(problems.iter().all(|problem| problem.contains("interface")), "{problems:?}");
    }

    #[test]
    fn a_missing_file_is_named() {
        let problems =
            source("limiterd --config /nonexistent/limiter.toml").load().expect_err("there is none");
        assert_eq!(problems.len(), 1);
        assert!(problems[0].starts_with("/nonexistent/limiter.toml: "), "{problems:?}");
    }

    fn api(listen: &str) -> Api {
        let file = |name: &str| PathBuf::from(format!("/etc/limiter/{name}"));
        Api {
            listen: vec![listen.parse().unwrap()],
            certificate: file("api.pem"),
            key: file("api.key"),
            client_ca: None,
            access: config::Access::default(),
        }
    }

    #[test]
    fn files_of_the_api_are_read_again_and_its_sockets_stay() {
        let Ok((mut old, _)) = source("limiterd --interface eth0").load() else { panic!("refused") };
        let mut new = old.clone();
        old.api = Some(api("127.0.0.1:1"));
        new.api = Some(Api { certificate: "/etc/limiter/new.pem".into(), ..api("127.0.0.1:2") });
        let (kept, needs_restart) = keep_fixed(&old, new);
        assert_eq!(kept.api, Some(Api { certificate: "/etc/limiter/new.pem".into(), ..api("127.0.0.1:1") }));
        assert_eq!(needs_restart.len(), 1, "{needs_restart:?}");
    }

    #[test]
    fn what_takes_a_restart_stays_and_is_named() {
        let Ok((old, _)) = source("limiterd --interface eth0").load() else { panic!("refused") };
        let Ok((mut new, _)) = source("limiterd --interface eth1").load() else { panic!("refused") };
        assert_eq!(keep_fixed(&old, new.clone()), (new.clone(), Vec::new()));
        new.metrics = Some(SocketAddr::from((Ipv4Addr::LOCALHOST, 1)));
        new.api = Some(api("127.0.0.1:1"));
        new.pins_directory = "/elsewhere".into();
        new.capacity.sources += 1;
        new.hooks.push(config::Hook::new("nginx", "/run/limiter/nginx.sock".into()));
        let (kept, needs_restart) = keep_fixed(&old, new.clone());
        assert_eq!(kept.interfaces, new.interfaces);
        assert_eq!((&kept.metrics, &kept.capacity), (&old.metrics, &old.capacity));
        assert_eq!(kept.pins_directory, old.pins_directory);
        assert_eq!((kept.api, kept.hooks), (None, Vec::new()));
        assert_eq!(needs_restart.len(), 5, "{needs_restart:?}");
    }
}
