//! What may be written on the command line of `limiter`. Types only; examples come first in each verb's `--help`.

mod remote;
mod token;

use std::path::PathBuf;
use std::str::FromStr;

use clap::{Args, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;
use limiter_common::{Address, Prefix};

use crate::blocklist::Owner;
use crate::cli::packet::PacketKind;
use crate::duration::{InvalidLifetime, Lifetime};
pub use remote::{Api, Remote};
pub use token::{CreateToken, Token};

/// Where `limiterd` listens unless configured otherwise.
pub const DEFAULT_SOCKET: &str = "/run/limiter/limiter.sock";
/// Where `limiterd` pins unless configured otherwise.
pub const DEFAULT_PINS: &str = "/sys/fs/bpf/limiter";

/// Where the audit trail is unless configured otherwise.
pub const DEFAULT_AUDIT: &str = "/var/lib/limiter/audit";

const EXIT_CODES: &str = "\
Exit codes: 0 ok, 1 failed, 2 usage, 3 daemon not reachable, 4 not authorised,
5 not found or `test` says not blocked, 6 refused by a guard.";

/// Block addresses at the driver, see what is dropped, and ask why
///
/// Examples:
///   limiter block add 192.0.2.7 --for 1h --reason "login flood"
///   limiter block import drop.txt
///   limiter explain 192.0.2.7 udp/53
///   limiter status
#[derive(Debug, Parser)]
#[command(
    name = "limiter", version, verbatim_doc_comment, arg_required_else_help = true,
    subcommand_required = true, disable_help_subcommand = true, after_help = EXIT_CODES, max_term_width = 100
)]
pub struct Arguments {
    #[command(flatten)]
    pub global: Global,
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Args)]
pub struct Global {
    /// The daemon's control socket
    #[arg(long, global = true, help_heading = "Global options", value_name = "PATH", default_value = DEFAULT_SOCKET)]
    pub socket: PathBuf,
    #[command(flatten)]
    pub remote: Remote,
    /// Print JSON, which is stable, instead of tables, which are not
    #[arg(long, global = true, help_heading = "Global options")]
    pub json: bool,
    /// When to colour; NO_COLOR is honoured
    #[arg(long, global = true, help_heading = "Global options", value_name = "WHEN", default_value = "auto")]
    pub color: Color,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Color {
    Auto,
    Always,
    Never,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Block addresses and prefixes, and see what is blocked
    #[command(subcommand)]
    Block(Block),
    /// Allow addresses and prefixes whatever blocks them
    #[command(subcommand)]
    Allow(Allow),
    /// Say what an address did, and let policies decide
    ///
    /// Examples:
    ///   limiter report 192.0.2.7 --category login_failed
    ///   limiter report 192.0.2.7 --category login_failed --account alice --weight 3
    ///
    /// The weights of what is reported in a category add up; a policy of the configuration says when that is enough
    /// for a block. Exits with 5 if no policy is for the category, with 6 if a guard refuses.
    #[command(verbatim_doc_comment)]
    Report(Report),
    /// Keep a change that was made with --confirm, or list those that wait
    ///
    /// Examples:
    ///   limiter block add 192.0.2.0/24 --confirm 60s
    ///   limiter confirm
    ///   limiter confirm 1763791234567
    ///
    /// What nobody confirms in time is rolled back, also if the daemon was killed in between.
    #[command(verbatim_doc_comment)]
    Confirm {
        /// As `--confirm` said it
        id: Option<u64>,
    },
    /// Whether everything is protected
    ///
    /// Examples:
    ///   limiter status
    ///   limiter status --json
    ///
    /// Exits with 0 only if the daemon is ready: its lists are loaded and every configured interface is protected.
    #[command(verbatim_doc_comment)]
    Status,
    /// What was passed and dropped, by interface and reason
    ///
    /// Examples:
    ///   limiter counters
    ///   limiter counters --all --json
    #[command(verbatim_doc_comment)]
    Counters(Counters),
    /// Blocks and allows as they come and go
    ///
    /// Examples:
    ///   limiter events
    ///   limiter events --json
    ///
    /// A line for each request that changed something or was refused, and for claims that ended, whoever asked.
    #[command(verbatim_doc_comment)]
    Events,
    /// What happens to packets of an address, and why
    ///
    /// Examples:
    ///   limiter explain 192.0.2.7
    ///   limiter explain 192.0.2.7 udp/53
    ///   limiter explain 2001:db8::1 icmpv6 --interface eth0
    ///
    /// Runs the decision that the kernel runs, on what the daemon knows, and names every entry that has a say.
    #[command(verbatim_doc_comment)]
    Explain(Explain),
    /// Read the configuration and its lists again
    ///
    /// Examples:
    ///   limiter reload
    ///   limiter reload --confirm 60s
    ///
    /// A configuration with a problem changes nothing. One that nobody confirms in time is rolled back, also if the daemon
    /// was killed in between, and is not taken from the disk again; files that it names stay as they are. Settings that
    /// take a restart come into force with one; if there was one meanwhile, it takes another to roll them back.
    #[command(verbatim_doc_comment)]
    Reload {
        /// Roll it back after this time, up to 1h, unless `limiter confirm` keeps it
        #[arg(long, value_name = "TIME")]
        confirm: Option<Lifetime>,
    },
    /// Tokens for programs that use the API over the network
    #[command(subcommand)]
    Token(Token),
    /// Take protection off interfaces
    ///
    /// Examples:
    ///   limiter detach eth0
    ///   limiter detach
    ///
    /// Without a name, off all. Nothing else does this: protection outlives the daemon. Works with the daemon dead,
    /// as root. A living daemon keeps off these interfaces until it is reloaded or restarted.
    #[command(verbatim_doc_comment)]
    Detach(Detach),
    /// Check the record of who asked for what
    #[command(subcommand)]
    Audit(Audit),
    /// Keys and certificates of the API over the network
    #[command(subcommand)]
    Api(Api),
    /// Print a script that completes commands in a shell
    #[command(hide = true)]
    Completions {
        /// Which shell
        shell: Shell,
    },
    /// Write man pages into a directory
    #[command(hide = true)]
    Man {
        /// Made if it is not there
        directory: PathBuf,
    },
}

#[derive(Debug, Subcommand)]
pub enum Audit {
    /// Check that no record was changed, taken out or cut off
    ///
    /// Examples:
    ///   limiter audit verify
    ///   limiter audit verify --directory /var/log/limiter
    ///
    /// Reads the files, and needs no daemon. Exits with 1 if anything is wrong.
    #[command(verbatim_doc_comment)]
    Verify {
        /// Where the trail is, as in the section audit of the configuration
        #[arg(long, value_name = "DIRECTORY", default_value = DEFAULT_AUDIT)]
        directory: PathBuf,
    },
}

#[derive(Debug, Subcommand)]
pub enum Block {
    /// Block addresses or prefixes
    ///
    /// Examples:
    ///   limiter block add 192.0.2.7
    ///   limiter block add 192.0.2.7 2001:db8:bad::/48 --for 4h --reason "scanner"
    ///   generate-offenders | limiter block add - --for 10m
    ///   limiter block add 192.0.2.7 --for escalate --owner fail2ban:sshd
    ///   limiter block add 192.0.2.0/24 --dry-run
    ///
    /// All of them or none. What is blocked already gets the new reason and end. With `--for escalate`, whoever comes
    /// back after a block is blocked for longer, as the section escalation of the configuration says. With --dry-run, nothing is changed: it says what would
    /// be, and how many hosts that are connected by TCP would be cut off.
    #[command(verbatim_doc_comment)]
    Add(Add),
    /// Take blocks off again
    ///
    /// Examples:
    ///   limiter block remove 192.0.2.7
    ///   limiter block remove 192.0.2.7 2001:db8:bad::/48
    ///   limiter block remove 192.0.2.7 --all-owners
    ///   limiter block remove --owner feed:spam --all
    ///
    /// Your own claims, unless it says whose; others still block, and are told. Exits with 5 if one was not there; the
    /// others are removed.
    #[command(verbatim_doc_comment)]
    Remove(Remove),
    /// List blocks
    ///
    /// Examples:
    ///   limiter block list
    ///   limiter block list --json | jq -r .prefix
    ///   limiter block list --owner fail2ban:sshd
    ///
    /// HITS and SEEN are sampled estimates of what was dropped of late, for the sources that send most.
    /// As JSON, one object a line.
    #[command(verbatim_doc_comment)]
    List(List),
    /// Whether an address is dropped by a block
    ///
    /// Examples:
    ///   limiter block test 192.0.2.7 && echo dropped
    ///
    /// Exits with 0 if it is, and says by which entry; with 5 if not.
    #[command(verbatim_doc_comment)]
    Test {
        /// An address, not a prefix
        address: Address,
    },
    /// Block every address and prefix in a file
    ///
    /// Examples:
    ///   limiter block import drop.txt --for 7d --reason "feed of today"
    ///   fetch-a-feed | limiter block import - --for 1d
    ///   limiter block import drop.txt --dry-run
    ///
    /// One a line; `#` and `;` start comments. All of them or none.
    #[command(verbatim_doc_comment)]
    Import(Import),
    /// Print blocks in the form that import reads
    ///
    /// Examples:
    ///   limiter block export > blocks.txt
    ///
    /// One owner's blocks, one a line; the operator's unless it says whose. Ends and reasons are comments. With
    /// --json the same as list.
    #[command(verbatim_doc_comment)]
    Export(Export),
}

#[derive(Debug, Subcommand)]
pub enum Allow {
    /// Allow addresses or prefixes, whatever blocks them
    ///
    /// Examples:
    ///   limiter allow add 203.0.113.10 --reason "monitoring"
    ///   limiter allow add 198.51.100.0/24 --for 1h
    ///
    /// Allow wins over block, whatever the prefix lengths, and over limits.
    #[command(verbatim_doc_comment)]
    Add(Add),
    /// Take allows off again
    ///
    /// Examples:
    ///   limiter allow remove 203.0.113.10
    ///
    /// Exits with 5 if one was not there; the others are removed.
    #[command(verbatim_doc_comment)]
    Remove(Remove),
    /// List allows
    ///
    /// Examples:
    ///   limiter allow list
    #[command(verbatim_doc_comment)]
    List(List),
}

#[derive(Debug, Args)]
pub struct Add {
    /// Addresses or prefixes; `-` reads them from standard input
    #[arg(required = true, value_name = "ADDRESS", value_parser = source)]
    pub addresses: Vec<Source>,
    /// For how long: 30s, 10m, 4h, 7d, permanent; escalate: longer each time
    #[arg(long = "for", value_name = "TIME", default_value = "permanent")]
    pub length: Length,
    /// Why, for whoever finds it later
    #[arg(long, value_name = "TEXT")]
    pub reason: Option<String>,
    /// Whose claims these are: feed:NAME, crowdsec, fail2ban:JAIL, app:NAME
    #[arg(long, value_name = "OWNER")]
    pub owner: Option<Owner>,
    /// Past the guards: own addresses, gateway, DNS, SSH peer, protected prefixes, very wide prefixes
    #[arg(long)]
    pub force: bool,
    /// Say what would happen, and change nothing
    #[arg(long)]
    pub dry_run: bool,
    /// Roll it back after this time, up to 1h, unless `limiter confirm` keeps it
    #[arg(long, value_name = "TIME", conflicts_with = "dry_run")]
    pub confirm: Option<Lifetime>,
}

#[derive(Debug, Args)]
pub struct Report {
    /// The peer of the connection
    pub address: Address,
    /// What it did, as policies name it: login_failed
    #[arg(long, value_name = "NAME")]
    pub category: String,
    /// How much it counts
    #[arg(long, value_name = "NUMBER", default_value_t = 1)]
    pub weight: u32,
    /// The user account it was about
    #[arg(long, value_name = "NAME")]
    pub account: Option<String>,
    /// The device it was about
    #[arg(long, value_name = "NAME")]
    pub device: Option<String>,
}

#[derive(Debug, Args)]
pub struct Remove {
    /// Addresses or prefixes; `-` reads them from standard input
    #[arg(required_unless_present = "all", value_name = "ADDRESS", value_parser = source)]
    pub addresses: Vec<Source>,
    /// Whose claims: feed:NAME, crowdsec, fail2ban:JAIL, app:NAME
    #[arg(long, value_name = "OWNER")]
    pub owner: Option<Owner>,
    /// Whoever claims it, but for the files of lists
    #[arg(long, conflicts_with = "owner")]
    pub all_owners: bool,
    /// Everything that the owner claims; asks before
    #[arg(long, requires = "owner", conflicts_with = "addresses")]
    pub all: bool,
    /// With --all, do not ask
    #[arg(long, requires = "all")]
    pub yes: bool,
    /// Say what would happen, and change nothing
    #[arg(long)]
    pub dry_run: bool,
    /// Roll it back after this time, up to 1h, unless `limiter confirm` keeps it
    #[arg(long, value_name = "TIME", conflicts_with = "dry_run")]
    pub confirm: Option<Lifetime>,
}

#[derive(Debug, Args)]
pub struct List {
    /// Only what this owner claims: operator, list:NAME, feed:NAME, crowdsec, fail2ban:JAIL, app:NAME
    #[arg(long, value_name = "OWNER")]
    pub owner: Option<Owner>,
}

#[derive(Debug, Args)]
pub struct Export {
    /// Whose blocks: operator, list:NAME, feed:NAME, crowdsec, fail2ban:JAIL, app:NAME
    #[arg(long, value_name = "OWNER", default_value = "operator")]
    pub owner: Owner,
}

#[derive(Debug, Args)]
pub struct Import {
    /// A file; `-` reads standard input
    pub file: PathBuf,
    /// For how long: 30s, 10m, 4h, 7d, permanent
    #[arg(long = "for", value_name = "TIME", default_value = "permanent")]
    pub lifetime: Lifetime,
    /// Why, for whoever finds it later
    #[arg(long, value_name = "TEXT")]
    pub reason: Option<String>,
    /// Whose claims these are: feed:NAME, crowdsec, fail2ban:JAIL, app:NAME
    #[arg(long, value_name = "OWNER")]
    pub owner: Option<Owner>,
    /// Past the guards: own addresses, gateway, DNS, SSH peer, protected prefixes, very wide prefixes
    #[arg(long)]
    pub force: bool,
    /// Say what would happen, and change nothing
    #[arg(long)]
    pub dry_run: bool,
}

#[derive(Debug, Args)]
pub struct Counters {
    /// Show reasons that never happened, too
    #[arg(long)]
    pub all: bool,
}

#[derive(Debug, Args)]
pub struct Explain {
    /// The source of the packets
    pub address: Address,
    /// tcp, udp, sctp, icmp, icmpv6 or a number, and the destination port: udp/53
    #[arg(value_name = "PROTO/PORT")]
    pub packet: Option<PacketKind>,
    /// Only as seen on this interface
    #[arg(long, value_name = "NAME")]
    pub interface: Option<String>,
}

#[derive(Debug, Args)]
pub struct Detach {
    /// All if none is named
    #[arg(value_name = "INTERFACE")]
    pub interfaces: Vec<String>,
    /// Do not ask the daemon
    #[arg(long)]
    pub offline: bool,
    /// Where the daemon pins, if it cannot be asked
    #[arg(long, value_name = "DIRECTORY", default_value = DEFAULT_PINS)]
    pub pins: PathBuf,
}

/// How long a block lasts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Length {
    For(Lifetime),
    /// Longer each time.
    Escalate,
}

impl FromStr for Length {
    type Err = InvalidLifetime;

    fn from_str(text: &str) -> Result<Self, InvalidLifetime> {
        if text == "escalate" { Ok(Self::Escalate) } else { text.parse().map(Self::For) }
    }
}

/// Where addresses come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    Prefix(Prefix),
    Stdin,
}

fn source(text: &str) -> Result<Source, limiter_common::prefix::InvalidPrefix> {
    if text == "-" { Ok(Source::Stdin) } else { text.parse().map(Source::Prefix) }
}
