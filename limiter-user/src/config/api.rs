//! `[api]`: the control API over TCP, for programs on other machines. Without the section there is none.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;

use super::access::{self, Access};
use super::file::path;
use super::reader::Value;

/// Where it listens unless said otherwise.
const LISTEN: [SocketAddr; 2] = [
    SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 9743),
    SocketAddr::new(IpAddr::V6(Ipv6Addr::LOCALHOST), 9743),
];
/// Addresses that it may listen at.
const MAX_LISTEN: usize = 16;

/// The API over TCP, with TLS 1.3.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Api {
    /// At least one. Unspecified addresses (`0.0.0.0`, `[::]`) only together with `client_ca`.
    pub listen: Vec<SocketAddr>,
    /// PEM: the server's certificate, and those that lead to its issuer.
    pub certificate: PathBuf,
    /// PEM: its key.
    pub key: PathBuf,
    /// PEM: who issues certificates of clients. If set, nobody connects without one.
    pub client_ca: Option<PathBuf>,
    /// Who may do what, beside the bearers of tokens.
    pub access: Access,
}

/// Reads the section.
pub(super) fn read(value: &Value<'_>) -> Option<Api> {
    let mut table = value.table("[api]")?;
    let client_ca = {
        let what = "a file of certificates, like \"/etc/limiter/clients.pem\"";
        table.optional("client_ca").and_then(|value| path(&value, what))
    };
    let listen = match table.optional("listen") {
        Some(value) => listen(&value, client_ca.is_some()),
        None => LISTEN.to_vec(),
    };
    let mut file = |key, what: &str| table.required(key, what).and_then(|value| path(&value, what));
    let certificate = file("certificate", "the server's certificate, like \"/etc/limiter/api.pem\"");
    let key = file("key", "the key of the certificate, like \"/etc/limiter/api.key\"");
    let access = access::read(&mut table);
    if !access.clients.is_empty() && client_ca.is_none() {
        table.problem("client_ca", "missing: clients are known by certificates that somebody has issued");
    }
    table.finish();
    Some(Api { listen, certificate: certificate?, key: key?, client_ca, access })
}

fn listen(value: &Value<'_>, mutual: bool) -> Vec<SocketAddr> {
    let what = "addresses and ports, like [\"127.0.0.1:9743\", \"[::1]:9743\"]";
    let mut taken: Vec<SocketAddr> = Vec::new();
    for value in value.array(what).unwrap_or_default() {
        let Some(text) = value.string("an address and port, like \"192.0.2.1:9743\"") else { continue };
        match text.parse::<SocketAddr>() {
            Ok(address) if address.ip().to_canonical().is_unspecified() && !mutual => value.problem(format!(
                "{text:?} is every address of this machine: name those that are meant, or ask all clients for a \
                 certificate with client_ca"
            )),
            Ok(address) if taken.contains(&address) => value.problem(format!("{text:?} is there twice")),
            Ok(address) => taken.push(address),
            Err(_) => value.problem(format!("{text:?} is no address and port, like \"192.0.2.1:9743\"")),
        }
    }
    if value.is_array() && value.array(what).is_some_and(|all| all.is_empty()) {
        value.problem("nothing to listen at; leave the section out if the API is not wanted");
    }
    if taken.len() > MAX_LISTEN {
        value.problem(format!("{} are too many: at most {MAX_LISTEN}", taken.len()));
    }
    taken
}
