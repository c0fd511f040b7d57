//! All automation of the project: `cargo xtask --help`. One module per command; this file only chooses.

mod bench;
mod build;
mod ci;
mod demo;
mod dist;
mod ebpf;
mod fuzz;
mod run;
mod setup;
mod shell;
mod test;
mod workspace;

// As build.rs does: `use crate::toolchain` elsewhere means this file.
#[path = "../../limiter-ebpf/toolchain.rs"]
mod toolchain;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Build, test and run limiter.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", after_help = EXAMPLES)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

const EXAMPLES: &str = "\
Examples:
  cargo xtask demo --seconds 15              everything, live, in a network namespace of its own (as root)
  cargo xtask build                          optimised limiterd and limiter in target/release
  cargo xtask test                           all tests, host and kernel (as root)
  cargo xtask test vlan                      the tests with `vlan` in their names
  cargo xtask run -- --interface eth0        protect eth0 until stopped (as root)
  cargo xtask fuzz parse --seconds 600       look for frames that break the parser
  cargo xtask bench verdicts                 nanoseconds a packet beside hash tables, tries and LRU maps (as root)
  cargo xtask ebpf report                    what the verifier says about each program
  cargo xtask ebpf path clean                instructions and calls of sample frames, here clean ones
  cargo xtask ci                             what CI runs, in the same order
  cargo xtask ci clippy                      of that, the steps with `clippy` in their names";

#[derive(Subcommand)]
enum Command {
    /// Make the eBPF toolchain and the test tools available; silent when they are
    Setup(setup::Arguments),
    /// Show the real daemon under a flood, in network namespaces of its own
    Demo(demo::Arguments),
    /// Build optimised, self-contained `limiterd` and `limiter`
    Build,
    /// Build and run `limiterd` as root
    Run(run::Arguments),
    /// Run all tests, host and kernel
    Test(test::Arguments),
    /// Measure limiter beside the usual ways to do the same job (as root)
    Bench(bench::Arguments),
    /// Run the fuzz targets
    Fuzz(fuzz::Arguments),
    /// Look into the eBPF object
    #[command(subcommand)]
    Ebpf(ebpf::Command),
    /// Run what CI runs, in the same order
    Ci(ci::Arguments),
    /// Make shell completions, man pages and a tarball in target/dist
    Dist,
}

fn main() -> ExitCode {
    let done = match Arguments::parse().command {
        Command::Setup(arguments) => setup::setup(&arguments),
        Command::Demo(arguments) => demo::demo(&arguments),
        Command::Build => build::build(),
        Command::Run(arguments) => run::run(&arguments),
        Command::Test(arguments) => test::test(&arguments),
        Command::Bench(arguments) => bench::bench(&arguments),
        Command::Fuzz(arguments) => fuzz::fuzz(&arguments),
        Command::Ebpf(command) => ebpf::ebpf(&command),
        Command::Ci(arguments) => ci::ci(&arguments),
        Command::Dist => dist::dist(),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Not by returning it from here: that would print a backtrace to people who set RUST_BACKTRACE.
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
