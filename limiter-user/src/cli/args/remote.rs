//! Where the daemon is, if not on this machine; and `limiter api`.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use crate::control::client::Url;
use crate::tls::Pin;

const HEADING: &str = "Daemon on another machine";

#[derive(Debug, Args)]
pub struct Remote {
    /// Ask the daemon there, like https://edge1:9743
    #[arg(long, global = true, help_heading = HEADING, value_name = "URL", conflicts_with = "socket")]
    pub remote: Option<Url>,
    /// A file with the token to send, which `limiter token create` there printed
    #[arg(long, global = true, help_heading = HEADING, value_name = "FILE", requires = "remote")]
    pub token_file: Option<PathBuf>,
    /// The key it must have, as `limiter api pin` there prints it; can be repeated
    #[arg(long, global = true, help_heading = HEADING, value_name = "sha256:BASE64", requires = "remote")]
    pub pin: Vec<Pin>,
    /// Certificates of issuers, one of which vouches for its name
    #[arg(long, global = true, help_heading = HEADING, value_name = "FILE", requires = "remote")]
    pub ca: Option<PathBuf>,
    /// The certificate to show
    #[arg(long, global = true, help_heading = HEADING, value_name = "FILE", requires = "client_key")]
    pub client_certificate: Option<PathBuf>,
    /// The key of that certificate
    #[arg(long, global = true, help_heading = HEADING, value_name = "FILE", requires = "client_certificate")]
    pub client_key: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
pub enum Api {
    /// Print the pin of a certificate's key, for --pin and curl --pinnedpubkey
    ///
    /// Examples:
    ///   limiter api pin
    ///   limiter api pin /etc/limiter/api.pem
    ///
    /// It stays the same when the certificate is renewed with the same key.
    #[command(verbatim_doc_comment)]
    Pin {
        /// The certificate
        #[arg(default_value = DEFAULT_CERTIFICATE)]
        certificate: PathBuf,
    },
    /// Make a key and a self-signed certificate for a first try
    ///
    /// Examples:
    ///   limiter api certificate --name edge1 --name 192.0.2.1
    ///   limiter api certificate --name edge1 --out /tmp/try
    ///
    /// Clients know it by its pin, which is printed. Nothing is overwritten.
    #[command(verbatim_doc_comment)]
    Certificate {
        /// A name or address by which clients call the machine; can be repeated
        #[arg(long = "name", value_name = "NAME", required = true)]
        names: Vec<String>,
        /// Where api.pem and api.key go
        #[arg(long, value_name = "DIRECTORY", default_value = "/etc/limiter")]
        out: PathBuf,
    },
}

const DEFAULT_CERTIFICATE: &str = "/etc/limiter/api.pem";
