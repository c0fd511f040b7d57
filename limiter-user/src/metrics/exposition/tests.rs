use std::sync::Arc;
use std::time::Duration;

use limiter_common::Reason;
use limiter_common::abi::Count;

use super::*;
use crate::config::Action;
use crate::control::protocol::{InterfaceStatus, ListStatus};
use crate::dataplane::{InterfaceCounts, TableCapacity};
use crate::enforcer::Summary;
use crate::metrics::{DaemonState, LastReload};

fn snapshot() -> Snapshot {
    let counts =
        Reason::ALL.iter().zip(1..).map(|(reason, n)| (*reason, Count { packets: n, bytes: n * 60 }));
    let interface = |name: &str, mode: Option<&str>| InterfaceStatus {
        name: name.to_owned(),
        protected: mode.is_some(),
        mode: mode.map(str::to_owned),
        frags: true,
        problem: None,
    };
    let list = |name: &str, action, problem: Option<&str>| ListStatus {
        name: name.to_owned(),
        action,
        entries: 7,
        problem: problem.map(str::to_owned),
    };
    Snapshot {
        version: "1.2.3",
        abi: 1,
        daemon: Arc::new(DaemonState {
            started: UNIX_EPOCH + Duration::from_millis(1_700_000_000_500),
            interfaces: vec![
                interface("eth0", Some("native")),
                interface("eth1", Some("generic")),
                interface("a\"b\\c", None),
            ],
            reload: LastReload {
                successful: false,
                succeeded_at: UNIX_EPOCH + Duration::from_secs(1_700_000_100),
            },
        }),
        summary: Arc::new(Summary {
            blocks: 1_000_001,
            allows: 2,
            tables: vec![("addresses_v4", 1_000_000), ("prefixes_v4", 1)],
            lists: vec![list("drop", Action::Block, None), list("friends", Action::Allow, Some("gone"))],
            warnings: vec!["a sentence".to_owned()],
            missing: 3,
            durable: true,
        }),
        counts: vec![InterfaceCounts { interface: "eth0".to_owned(), counts: counts.collect() }],
        capacities: vec![
            TableCapacity { table: "addresses_v4", capacity: 1 << 20 },
            TableCapacity { table: "prefixes_v4", capacity: 1 << 18 },
        ],
        traffic: Arc::default(),
        hooks: vec![Arc::new(hook::Counts::new("nginx".into()))],
    }
}

#[test]
fn text() {
    insta::assert_snapshot!(exposition(&snapshot()).unwrap());
}

/// Before the first interface is there, and with a clock before 1970.
#[test]
fn empty() {
    let mut empty = snapshot();
    empty.daemon = Arc::new(DaemonState {
        started: UNIX_EPOCH - Duration::from_secs(1),
        interfaces: Vec::new(),
        reload: LastReload { successful: true, succeeded_at: UNIX_EPOCH },
    });
    empty.summary = Arc::new(Summary::default());
    empty.counts.clear();
    empty.capacities.clear();
    let text = exposition(&empty).unwrap();
    assert!(text.contains("limiter_start_time_seconds 0\n"), "{text}");
    assert!(!text.contains("limiter_packets_total{"), "{text}");
}
