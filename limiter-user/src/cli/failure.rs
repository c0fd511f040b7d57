//! How a command ends: exit codes, and what is said on standard error.

use std::fmt;
use std::io::{self, Write};
use std::process::ExitCode;

use crate::cli::render::printable;
use crate::control::client::ClientError;
use crate::control::protocol::{Problem, ProblemKind};

/// The exit codes that scripts may rely on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Exit {
    Ok = 0,
    Failed = 1,
    Usage = 2,
    Unreachable = 3,
    NotAuthorised = 4,
    /// Not found, or `block test` says not blocked.
    NotFound = 5,
    Guarded = 6,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// A command that did not do what was asked.
#[derive(Debug)]
pub(super) struct Failure {
    pub(super) exit: Exit,
    pub(super) message: String,
    /// A line for each thing that was refused.
    pub(super) items: Vec<String>,
    /// What the daemon said, for `--json`.
    pub(super) problem: Option<Box<Problem>>,
}

impl Failure {
    pub(super) fn new(exit: Exit, message: impl fmt::Display) -> Self {
        Self { exit, message: message.to_string(), items: Vec::new(), problem: None }
    }

    pub(super) fn failed(message: impl fmt::Display) -> Self {
        Self::new(Exit::Failed, message)
    }

    pub(super) fn usage(message: impl fmt::Display) -> Self {
        Self::new(Exit::Usage, message)
    }

    /// Says it on standard error: as a sentence, or as problem details.
    pub(super) fn print(&self, json: bool, errors: &mut impl Write) -> io::Result<()> {
        if json {
            let problem = self.problem.as_deref().cloned().unwrap_or_else(|| Problem {
                kind: match self.exit {
                    Exit::Usage => ProblemKind::Invalid,
                    Exit::NotAuthorised => ProblemKind::NotAuthorised,
                    Exit::NotFound => ProblemKind::NotFound,
                    Exit::Guarded => ProblemKind::Guarded,
                    Exit::Ok | Exit::Failed | Exit::Unreachable => ProblemKind::Failed,
                },
                title: match self.exit {
                    Exit::Unreachable => "daemon not reachable".to_owned(),
                    Exit::Ok
                    | Exit::Failed
                    | Exit::Usage
                    | Exit::NotAuthorised
                    | Exit::NotFound
                    | Exit::Guarded => "failed".to_owned(),
                },
                status: 0,
                detail: self.message.clone(),
                items: self.items.clone(),
            });
            serde_json::to_writer(&mut *errors, &problem)?;
            return writeln!(errors);
        }
        writeln!(errors, "limiter: {}", printable(&self.message))?;
        for item in self.items.iter().take(SHOWN_ITEMS) {
            writeln!(errors, "  {}", printable(item))?;
        }
        match self.items.len().saturating_sub(SHOWN_ITEMS) {
            0 => Ok(()),
            more => writeln!(errors, "  and {more} more"),
        }
    }
}

/// Lines shown to people; `--json` has all that the daemon sent.
const SHOWN_ITEMS: usize = 20;

/// Why a command ends early.
#[derive(Debug)]
pub(super) enum Stop {
    Failure(Failure),
    /// The reader of the output is gone: `| head`.
    SeenEnough,
}

impl From<Failure> for Stop {
    fn from(failure: Failure) -> Self {
        Self::Failure(failure)
    }
}

impl From<ClientError> for Stop {
    fn from(error: ClientError) -> Self {
        Self::Failure(error.into())
    }
}

/// Errors of printing; whoever reads something says what it was.
impl From<io::Error> for Stop {
    fn from(error: io::Error) -> Self {
        if error.kind() == io::ErrorKind::BrokenPipe {
            Self::SeenEnough
        } else {
            Self::Failure(Failure::failed(format_args!("cannot write the output: {error}")))
        }
    }
}

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Self {
        let exit = match &error {
            ClientError::Unreachable { .. } | ClientError::Silent { .. } => Exit::Unreachable,
            ClientError::Denied { .. } | ClientError::Untrusted { .. } => Exit::NotAuthorised,
            ClientError::Broken(_) => Exit::Failed,
            ClientError::Input(_) => Exit::Failed,
            ClientError::Refused(problem) => exit_of(problem.kind),
        };
        let message = error.to_string();
        match error {
            ClientError::Refused(problem) => {
                Self { exit, message, items: problem.items.clone(), problem: Some(Box::new(problem)) }
            }
            ClientError::Unreachable { .. }
            | ClientError::Silent { .. }
            | ClientError::Denied { .. }
            | ClientError::Untrusted { .. }
            | ClientError::Broken(_)
            | ClientError::Input(_) => Self { exit, message, items: Vec::new(), problem: None },
        }
    }
}

fn exit_of(kind: ProblemKind) -> Exit {
    match kind {
        ProblemKind::Unavailable => Exit::Unreachable,
        ProblemKind::Invalid => Exit::Usage,
        ProblemKind::NotAuthorised => Exit::NotAuthorised,
        ProblemKind::NotFound => Exit::NotFound,
        ProblemKind::Guarded => Exit::Guarded,
        ProblemKind::Full | ProblemKind::NotDurable | ProblemKind::Busy | ProblemKind::Failed => Exit::Failed,
    }
}
