//! Where the caller is logged in from.

use std::fs;

/// The variable that sshd sets (ssh(1)).
const VARIABLE: &str = "SSH_CONNECTION";
/// More ancestors than a session has.
const MOST: usize = 64;

/// The address that the caller is logged in from, if by SSH. `sudo` takes the variable away from the environment, but not
/// from that of the shell that it was called in.
pub(super) fn peer() -> Option<String> {
    if let Ok(connection) = std::env::var(VARIABLE) {
        return peer_of(&connection);
    }
    let mut process = std::os::unix::process::parent_id();
    for _ in 0..MOST {
        if process <= 1 {
            return None;
        }
        // That of others can be read by root, and by nobody else.
        let environment = fs::read(format!("/proc/{process}/environ")).unwrap_or_default();
        if let Some(connection) = variable(&environment) {
            return peer_of(&connection);
        }
        process = parent(&fs::read_to_string(format!("/proc/{process}/stat")).ok()?)?;
    }
    None
}

/// The value of the variable in `environment`, which ends each with a zero (proc_pid_environ(5)).
fn variable(environment: &[u8]) -> Option<String> {
    let mut variables = environment.split(|byte| *byte == 0);
    let value = variables.find_map(|text| text.strip_prefix(VARIABLE.as_bytes())?.strip_prefix(b"="))?;
    Some(String::from_utf8_lossy(value).into_owned())
}

/// The fourth field, behind a name in parentheses that may hold anything (proc_pid_stat(5)).
fn parent(stat: &str) -> Option<u32> {
    let (_, fields) = stat.rsplit_once(')')?;
    fields.split_ascii_whitespace().nth(1)?.parse().ok()
}

/// The first of four words is the client's address.
fn peer_of(connection: &str) -> Option<String> {
    let peer = connection.split_ascii_whitespace().next()?;
    // A link-local peer has a zone behind it.
    let address = peer.split_once('%').map_or(peer, |(address, _)| address);
    address.parse::<std::net::IpAddr>().ok()?;
    Some(address.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_peer_of_a_session() {
        for (variable, expected) in [
            ("203.0.113.9 51234 192.0.2.1 22", Some("203.0.113.9")),
            ("2001:db8::9 51234 2001:db8::1 22", Some("2001:db8::9")),
            ("fe80::9%eth0 51234 fe80::1%eth0 22", Some("fe80::9")),
            ("UNKNOWN 65535 UNKNOWN 65535", None),
            ("", None),
        ] {
            assert_eq!(peer_of(variable).as_deref(), expected, "{variable:?}");
        }
    }

    #[test]
    fn the_environment_of_an_ancestor() {
        let environment = b"OLD_SSH_CONNECTION=a\0SSH_CONNECTION=203.0.113.9 1 192.0.2.1 22\0SHELL=/bin/sh\0";
        assert_eq!(variable(environment).as_deref(), Some("203.0.113.9 1 192.0.2.1 22"));
        assert_eq!(variable(b"SSH_CONNECTIONS=x\0"), None);
        assert_eq!(parent("42 (a) (b) S 7 42 1"), Some(7));
        let stat = fs::read_to_string("/proc/self/stat").unwrap();
        assert_eq!(parent(&stat), Some(std::os::unix::process::parent_id()));
    }
}
