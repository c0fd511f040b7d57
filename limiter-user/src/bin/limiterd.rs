//! The daemon.

use std::process::ExitCode;

fn main() -> ExitCode {
    limiter_user::daemon::main()
}
