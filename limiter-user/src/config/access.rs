//! `[[api.client]]` and `[api.oauth]`: who may do what over TCP, beside the bearers of tokens.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use limiter_common::Prefix;

use super::file::{MAX_NAME, is_name, path};
use super::reader::{Table, Value};
use crate::access::{Caps, Scope, Scopes, Width};
use crate::duration::Lifetime;
use crate::tls::SYSTEM_CA;

/// The longest name, issuer, audience or scope of others.
const MAX_TEXT: usize = 512;

/// Who may do what.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Access {
    /// In the order of the file: the first that a certificate fits counts.
    pub clients: Vec<Client>,
    pub oauth: Option<OAuth>,
}

/// Whoever shows a certificate of this name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Client {
    pub name: ClientName,
    /// The NAME of `app:NAME`, which owns what this client claims.
    pub owner: String,
    pub scopes: Scopes,
    pub caps: Caps,
}

/// Where in a certificate the name is to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ClientName {
    /// A DNS name or URI of the subject's alternative names (RFC 5280 section 4.2.1.6).
    Alternative(String),
    /// The common name, for certificates that have nothing better.
    Common(String),
}

impl ClientName {
    #[must_use]
    pub fn text(&self) -> &str {
        match self {
            Self::Alternative(name) | Self::Common(name) => name,
        }
    }
}

/// An issuer of JWTs, and what they are good for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OAuth {
    /// What `iss` must be.
    pub issuer: String,
    /// What must be in `aud`.
    pub audience: String,
    pub jwks: Jwks,
    pub roles: Vec<Role>,
}

/// Where the issuer's public keys are, as a JWK set (RFC 7517 section 5).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Jwks {
    File(PathBuf),
    Url(KeysUrl),
}

/// `https://HOST[:PORT]/PATH`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeysUrl {
    url: hyper::Uri,
    /// PEM: who vouches for the server.
    pub ca: PathBuf,
}

impl KeysUrl {
    /// `None` if it is not of that form.
    #[must_use]
    pub fn new(text: &str, ca: PathBuf) -> Option<Self> {
        let url: hyper::Uri = text.parse().ok()?;
        let authority = url.authority()?.as_str();
        let host = url.host().filter(|host| !host.is_empty())?;
        let https = url.scheme_str() == Some("https") && !authority.contains('@');
        let port = url.port_u16().is_some_and(|port| port != 0) || !authority[host.len()..].contains(':');
        (https && port).then_some(Self { url, ca })
    }

    /// A name or an address, without brackets.
    #[must_use]
    pub fn host(&self) -> &str {
        self.url.host().unwrap_or_default().trim_start_matches('[').trim_end_matches(']')
    }

    #[must_use]
    pub fn port(&self) -> u16 {
        self.url.port_u16().unwrap_or(443)
    }

    /// Host and port, as they are written.
    #[must_use]
    pub fn authority(&self) -> &str {
        self.url.authority().map_or("", |authority| authority.as_str())
    }

    /// Path and query.
    #[must_use]
    pub fn path(&self) -> &str {
        self.url.path_and_query().map_or("/", |path| path.as_str())
    }
}

impl fmt::Display for KeysUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.url.fmt(f)
    }
}

/// What a word in `scope` of a JWT is good for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Role {
    pub scope: String,
    pub scopes: Scopes,
    pub caps: Caps,
}

/// Reads what `[api]` holds of it.
pub(super) fn read(api: &mut Table<'_>) -> Access {
    let mut names: Vec<ClientName> = Vec::new();
    let clients = api.tables("client").into_iter().filter_map(|table| client(table, &mut names)).collect();
    let oauth = api.optional("oauth").and_then(|value| oauth(&value));
    Access { clients, oauth }
}

fn client(mut table: Table<'_>, taken: &mut Vec<ClientName>) -> Option<Client> {
    let what = "a DNS name or URI of the client's certificate, like \"checkout.example.net\"";
    let alternative = table.optional("name");
    let common = table.optional("common_name");
    let found = match (&alternative, &common) {
        (Some(value), None) => text(value, what).map(|name| (value, ClientName::Alternative(name))),
        (None, Some(value)) => text(value, what).map(|name| (value, ClientName::Common(name))),
        (None, None) => {
            table.problem("name", format!("missing: {what}"));
            None
        }
        (Some(_), Some(value)) => {
            value.problem("a client has a name or a common_name, not both");
            None
        }
    };
    if let Some((value, name)) = &found {
        if taken.contains(name) {
            value.problem(format!("{:?} is the name of another client, too", name.text()));
        }
        taken.push(name.clone());
    }
    let owner = table.optional("owner");
    let owner = match (&owner, &found) {
        (Some(value), _) => own_name(value),
        (None, Some((_, name))) if is_own_name(name.text()) => Some(name.text().to_owned()),
        (None, Some((value, _))) => {
            value.problem(format!(
                "cannot be the name of an owner, too: add owner with 1 to {MAX_NAME} of A-Z a-z 0-9 - _ ."
            ));
            None
        }
        (None, None) => None,
    };
    let scopes = scopes(&mut table);
    let caps = caps(&mut table);
    table.finish();
    Some(Client { name: found?.1, owner: owner?, scopes: scopes?, caps })
}

fn own_name(value: &Value<'_>) -> Option<String> {
    let name = value.string("the NAME of app:NAME, which owns what the client claims")?;
    if !is_own_name(name) {
        value.problem(format!(
            "{name:?} cannot be an owner: expected 1 to {MAX_NAME} of A-Z a-z 0-9 - _ . that do not begin with {}",
            crate::access::RESERVED
        ));
        return None;
    }
    Some(name.to_owned())
}

fn is_own_name(name: &str) -> bool {
    is_name(name) && !name.starts_with(crate::access::RESERVED)
}

fn oauth(value: &Value<'_>) -> Option<OAuth> {
    let mut table = value.table("[api.oauth]")?;
    let mut required = |key, what: &str| table.required(key, what).and_then(|value| text(&value, what));
    let issuer = required("issuer", "who issues the tokens, like \"https://login.example.net\"");
    let audience = required("audience", "what the tokens are for, like \"limiter\"");
    let what = "a file with the issuer's keys, like \"/etc/limiter/jwks.json\", or its https:// URL";
    let jwks = table.required("jwks", what);
    let ca = table.optional("jwks_ca");
    let jwks = jwks.and_then(|value| jwks_of(&value, ca.as_ref(), what));
    let mut words: Vec<String> = Vec::new();
    let roles: Vec<Role> =
        table.tables("role").into_iter().filter_map(|table| role(table, &mut words)).collect();
    if roles.is_empty() && table.optional("role").is_none() {
        table.problem(
            "role",
            "missing: nobody would be allowed anything; add [[api.oauth.role]] with scope and scopes",
        );
    }
    table.finish();
    Some(OAuth { issuer: issuer?, audience: audience?, jwks: jwks?, roles })
}

fn jwks_of(value: &Value<'_>, ca: Option<&Value<'_>>, what: &str) -> Option<Jwks> {
    let ca_file = match ca {
        Some(ca) => path(ca, "a file of certificates, like \"/etc/limiter/login.pem\"")?,
        None => PathBuf::from(SYSTEM_CA),
    };
    match value.as_string() {
        Some(text) if text.contains("://") => {
            let url = KeysUrl::new(text, ca_file).map(Jwks::Url);
            if url.is_none() {
                value.problem(format!(
                    "{text:?} is no URL of keys, like \"https://login.example.net/jwks.json\""
                ));
            }
            url
        }
        _ => {
            if let Some(ca) = ca {
                ca.problem("is for keys at a URL; leave it out, or let jwks begin with https://");
            }
            path(value, what).map(Jwks::File)
        }
    }
}

fn role(mut table: Table<'_>, taken: &mut Vec<String>) -> Option<Role> {
    let what = "a word of the token's scope, like \"limiter:report\"";
    let scope = table.required("scope", what).and_then(|value| {
        let scope = text(&value, what)?;
        if scope.contains(char::is_whitespace) {
            value.problem(format!("{scope:?} are several words; expected {what}"));
        }
        if taken.contains(&scope) {
            value.problem(format!("{scope:?} is the scope of another role, too"));
        }
        taken.push(scope.clone());
        Some(scope)
    });
    let scopes = scopes(&mut table);
    let caps = caps(&mut table);
    table.finish();
    Some(Role { scope: scope?, scopes: scopes?, caps })
}

/// A text that is to be compared with one of others.
fn text(value: &Value<'_>, what: &str) -> Option<String> {
    let text = value.string(what)?;
    if text.is_empty() || text.len() > MAX_TEXT || text.contains(char::is_control) {
        value.problem(format!("expected {what}, of at most {MAX_TEXT} bytes"));
        return None;
    }
    Some(text.to_owned())
}

fn scopes(table: &mut Table<'_>) -> Option<Scopes> {
    let what = "what may be done, like [\"report\", \"block:host\"]";
    let value = table.required("scopes", what)?;
    let words = value.array(what)?;
    if words.is_empty() {
        value.problem("nothing would be allowed; leave the table out if that is meant");
    }
    let scope = |value: &Value<'_>| {
        let text = value.string("a scope, like \"report\"")?;
        match text.parse::<Scope>() {
            Ok(scope) => Some(scope),
            Err(error) => {
                value.problem(format!("{text:?} is no scope: {error}"));
                None
            }
        }
    };
    Some(words.iter().filter_map(scope).collect())
}

fn caps(table: &mut Table<'_>) -> Caps {
    let max_ttl = table.optional("max_ttl").and_then(|value| {
        let what = "the longest time of a block, like \"1h\"";
        let text = value.string(what)?;
        match text.parse() {
            Ok(Lifetime::Seconds(seconds)) => Some(Duration::from_secs(seconds)),
            Ok(Lifetime::Permanent) => {
                value.problem("leave it out if blocks may be for good");
                None
            }
            Err(error) => {
                value.problem(format!("{text:?} is no time: {error}; expected {what}"));
                None
            }
        }
    });
    let max_prefix = table.optional("max_prefix").and_then(|value| {
        let range = u64::from(Width::WIDEST.v4())..=u64::from(Width::HOST.v4());
        Width::new(value.integer(range)?)
    });
    let quota = table.optional("quota").and_then(|value| {
        let text = value.string("how many entries a minute, like \"1000/min\"")?;
        match text.parse() {
            Ok(quota) => Some(quota),
            Err(error) => {
                value.problem(format!("{text:?} is no quota: {error}"));
                None
            }
        }
    });
    let from = table.optional("from").map(|value| networks(&value)).unwrap_or_default();
    Caps { max_ttl, max_prefix, quota, from, expires: None }
}

fn networks(value: &Value<'_>) -> Vec<Prefix> {
    let networks = super::file::prefixes(value);
    if value.is_array() && networks.is_empty() {
        // Or a typing error would open what was to be closed.
        value.problem("no network is named; leave it out if requests may come from anywhere");
    }
    networks
}
