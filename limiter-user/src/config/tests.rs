use std::path::Path;

use limiter_common::abi::{CELLS, GATE, POLICY_ALL, POLICY_PATH_MTU};
use limiter_common::gcra::Quota;
use limiter_common::slots::Share;
use limiter_common::{Nanos, Transport};

use super::*;
use crate::access::{Caps, PerMinute, Width};
use crate::reports::{Length, Per};

const EXAMPLE: &str = include_str!("../../config.example.toml");
const ETH0: &str = "[[interface]]\nname = \"eth0\"\n";

fn config(text: &str) -> Config {
    parse(text, Path::new("limiter.toml")).unwrap_or_else(|problems| panic!("{problems}"))
}

/// Compares what is said of each case with the snapshot of the test.
#[track_caller]
fn check(snapshot: &str, cases: &[(&str, &str)]) {
    let mut told = String::new();
    for (name, text) in cases {
        let problems = match parse(text, Path::new("limiter.toml")) {
            Ok(config) => panic!("{name} was accepted: {config:#?}"),
            Err(problems) => problems,
        };
        told.push_str(&format!("-- {name}\n{problems}\n"));
    }
    insta::with_settings!({ omit_expression => true, prepend_module_to_snapshot => false }, {
        insta::assert_snapshot!(snapshot, told);
    });
}

#[test]
fn the_example_holds_every_key_with_its_default() {
    assert_eq!(config(EXAMPLE), config(ETH0));
    // And what is commented out in it is right too.
    let uncommented: String = EXAMPLE
        .lines()
        .skip(4)
        .map(|line| match line.strip_prefix("# ") {
            Some(code) if code.starts_with(['[', '{', ' ', ']']) || code.contains(" = ") => {
                format!("{code}\n")
            }
            _ => format!("{line}\n"),
        })
        .collect();
    let full = config(&uncommented);
    assert_eq!(full.lists.len(), 1);
    assert_eq!(
        full.interfaces[0].rules[0].limits,
        [
            "200/s burst 400",
            "200Mbit/s burst 25000000 bytes",
            "2k/s burst 2000 for each /24 or /48",
            "50k/s burst 50000 for all together"
        ]
    );
    let [policy] = full.policies.as_slice() else { panic!("one policy") };
    assert_eq!(
        (policy.threshold, policy.within, policy.block),
        (5, Nanos::from_secs(60), Length::Seconds(600))
    );
    assert_eq!((policy.per, policy.ipv6_prefix), (Per::Address, 64));
    let group = Some("www-data".to_owned());
    assert_eq!(full.hooks, [Hook { group, ..Hook::new("nginx", "/run/limiter/nginx.sock".into()) }]);
    assert_eq!(full.control.group.as_deref(), Some("limiter"));
}

/// The example of the design, word for word.
#[test]
fn a_configuration_in_use() {
    let config = config(
        r#"
protected = ["192.0.2.1", "10.0.0.0/8"]        # can never be blocked

[[interface]]
name = "eth0"
mode = "native"                                # native | generic | auto

[[list]]
name   = "drop"
action = "block"                               # block | allow
file   = "/etc/limiter/drop.txt"

[[rule]]                                       # without match: every packet of the interface
name  = "default"
limit = [ { per = "source", rate = "10k/s", burst = 20000 }, { per = "source", bits = "200Mbit/s" } ]

[[rule]]
name  = "dns"
match = { protocol = "udp", port = 53 }
limit = [ { per = "source", rate = "200/s", burst = 400 } ]

[control]
socket = "/run/limiter/limiter.sock"
[metrics]
listen = "127.0.0.1:9742"
[state]
directory = "/var/lib/limiter"
[pins]
directory = "/sys/fs/bpf/limiter"
"#,
    );
    assert_eq!(config.protected.len(), 2);
    let [interface] = config.interfaces.as_slice() else { panic!("one interface") };
    assert!(interface.limited);
    let all = &interface.limits.policies[POLICY_ALL];
    assert_eq!(Some(all.packets), Quota::packets(10_000, 20_000));
    assert_eq!(Some(all.bits), Quota::bits(200_000_000, 25_000_000));
    let path_mtu = Quota::packets(200, 400).unwrap().without_gate();
    assert_eq!(interface.limits.policies[POLICY_PATH_MTU].packets, path_mtu);
    let dns = Transport::with_port(17, 53);
    let service = interface.limits.service(&dns).unwrap();
    assert_eq!(Some(service.packets), Quota::packets(200, 400));
    assert!(service.bits.is_unlimited());
    assert_eq!(interface.limits.service(&Transport::with_port(17, 54)), None);
    assert_eq!((all.shares, service.shares), (0, 0));
}

#[test]
fn rules_find_their_services_and_interfaces() {
    let text = r#"
interface = [ { name = "eth0" }, { name = "eth1", mode = "auto" } ]
rule = [
  { name = "udp", match = { protocol = 17 }, limit = [ { per = "source", rate = "3/s" } ] },
  { name = "dns", match = { protocol = "udp", port = 53 }, limit = [ { per = "source", rate = "2/s" } ] },
  { name = "web", interface = "eth1", match = { protocol = "tcp", port = 443 }, limit = [ { per = "source", rate = "1/s" } ] },
]
[metrics]
listen = false
"#;
    let config = config(text);
    assert_eq!(config.metrics, None);
    let rate = |interface: usize, protocol, port: Option<u16>| {
        let transport = match port {
            Some(port) => Transport::with_port(protocol, port),
            None => Transport::opaque(protocol),
        };
        config.interfaces[interface].limits.service(&transport).map(|policy| policy.packets)
    };
    for interface in [0, 1] {
        assert_eq!(rate(interface, 17, Some(53)), Quota::packets(2, 2));
        assert_eq!(rate(interface, 17, Some(54)), Quota::packets(3, 3));
        assert_eq!(rate(interface, 17, None), Quota::packets(3, 3));
        assert_eq!(rate(interface, 1, None), None);
    }
    assert_eq!(rate(0, 6, Some(443)), None);
    assert_eq!(rate(1, 6, Some(443)), Quota::packets(1, 1));
    assert!(config.interfaces[0].limits.policies[POLICY_ALL].packets.is_unlimited());
}

#[test]
fn policies_keep_their_identity_exactly_as_long_as_their_rule_does() {
    let ids = |name: &str, rate: &str, burst: &str| {
        let text = format!(
            "{ETH0}[[rule]]\nname = {name:?}\nlimit = [ {{ per = \"source\", rate = {rate:?}, burst = {burst} }} ]\n\
             [[rule]]\nname = \"other\"\nmatch = {{ protocol = \"tcp\" }}\nlimit = [ {{ per = \"source\", rate = \"1/s\" }} ]"
        );
        let limits = config(&text).interfaces[0].limits;
        [limits.policies[0].id, limits.policies[1].id, limits.policies[2].id]
    };
    let first = ids("a", "1k/s", "5");
    assert_eq!(first, ids("a", "1000/s", "5"));
    for changed in [ids("b", "1k/s", "5"), ids("a", "2k/s", "5"), ids("a", "1k/s", "6")] {
        assert_ne!(first[0], changed[0]);
        assert_eq!(first[1..], changed[1..]);
    }
    assert!(first.iter().all(|id| *id != 0 && *id < 1 << 31));
    assert!(first[0] != first[1] && first[1] != first[2] && first[0] != first[2]);
}

#[test]
fn a_bit_burst_by_default_holds_any_frame() {
    let text =
        format!("{ETH0}[[rule]]\nname = \"slow\"\nlimit = [ {{ per = \"source\", bits = \"8kbit/s\" }} ]");
    assert_eq!(config(&text).interfaces[0].rules[0].limits, ["8kbit/s burst 65536 bytes"]);
}

#[test]
fn problems_of_syntax() {
    check(
        "problems_of_syntax",
        &[
            ("not closed", "protected = [\"192.0.2.1\"\n[[interface]]\nname = \"eth0\"\n"),
            ("no value", "[[interface]]\nname =\n"),
            ("twice", "[control]\nsocket = \"/a\"\nsocket = \"/b\"\n"),
            ("not TOML", "interface: eth0\n"),
            ("two errors", "a = = 1\nb = 'x\n"),
        ],
    );
}

#[test]
fn problems_of_keys_and_kinds() {
    check(
        "problems_of_keys_and_kinds",
        &[
            ("nothing", ""),
            (
                "unknown keys",
                "protect = []\nfoo = 1\n[[interface]]\nname = \"eth0\"\nmodus = \"auto\"\n[control]\nsokcet = \"/x\"\n",
            ),
            (
                "wrong kinds",
                "protected = \"10.0.0.0/8\"\ncontrol = 3\n[[interface]]\nname = 0\nmode = true\n[capacity]\nsources = \"1M\"\n",
            ),
            ("one table instead of several", "[interface]\nname = \"eth0\"\n"),
            ("missing", "[[interface]]\n[[list]]\n[[rule]]\n"),
        ],
    );
}

#[test]
fn problems_of_values() {
    check(
        "problems_of_values",
        &[
            ("prefixes", &format!("protected = [\"192.0.2.1\", \"10.0.0.0/33\", \"router\", 7]\n{ETH0}")),
            (
                "interfaces",
                "interface = [ { name = \"eth0\" }, { name = \"eth0\" }, { name = \"a/b\" }, { name = \"\" }, { name = \"sixteen-letters-\" }, { name = \"eth1\", mode = \"genric\" }, { name = \"eth2\", mode = \"offload\" } ]\n",
            ),
            (
                "lists",
                &format!(
                    "{ETH0}[[list]]\nname = \"drop\"\naction = \"deny\"\nfile = \"drop.txt\"\n[[list]]\nname = \"drop\"\naction = \"allow\"\nfile = \"/x\"\n[[list]]\nname = \"a b\"\naction = \"block\"\nfile = \"/x\"\n"
                ),
            ),
            (
                "sections",
                &format!(
                    "{ETH0}[capacity]\naddresses_v4 = 0\nprefixes_v6 = 99999999\n[control]\nsocket = \"/{}\"\ngroup = \"\"\n[metrics]\nlisten = \"localhost\"\n[audit]\ndirectory = \"log\"\nsize = \"64\"\nkeep = 0\n[state]\ndirectory = \"state\"\n[pins]\ndirectory = true\n",
                    "x".repeat(107)
                ),
            ),
            ("metrics switched on without saying where", &format!("{ETH0}[metrics]\nlisten = true\n")),
        ],
    );
}

#[test]
fn proxies_and_the_brake() {
    assert_eq!(config(ETH0).blocks_per_minute, Some(10_000));
    for (written, blocks) in [("500", Some(500)), ("0", None), ("false", None)] {
        let config =
            config(&format!("proxies = [\"192.0.2.0/24\"]\n{ETH0}[guards]\nblocks_per_minute = {written}\n"));
        assert_eq!(config.blocks_per_minute, blocks);
        assert_eq!(config.proxies, ["192.0.2.0/24".parse().unwrap()]);
    }
    assert_eq!(config(ETH0).peers_share, Some(50));
    for (written, share) in [("1", Some(1)), ("99", Some(99)), ("false", None)] {
        assert_eq!(config(&format!("{ETH0}[guards]\npeers_share = {written}\n")).peers_share, share);
    }
    for wrong in ["0", "100", "\"25%\"", "0.25", "true"] {
        let problems =
            parse(&format!("{ETH0}[guards]\npeers_share = {wrong}\n"), Path::new("x")).unwrap_err();
        assert_eq!(problems.problems[0].key, "guards.peers_share", "{wrong}");
    }
    let text =
        format!("proxies = [\"cdn\"]\n{ETH0}[guards]\nblocks_per_minute = true\n[guards.peers]\nshare = 1\n");
    let problems = parse(&text, Path::new("x")).unwrap_err();
    let keys: Vec<&str> = problems.problems.iter().map(|problem| problem.key.as_str()).collect();
    assert_eq!(keys, ["proxies[0]", "guards.blocks_per_minute", "guards.peers"]);
}

#[test]
fn problems_of_policies() {
    let policy = |body: &str| format!("{ETH0}[[policy]]\n{body}\n");
    let cases = [
        ("nothing", policy("")),
        (
            "wrong kinds",
            policy(
                "category = 1\nthreshold = \"5\"\nwithin = 60\nblock = 600\nper = 1\nipv6_prefix = \"/64\"",
            ),
        ),
        (
            "out of bounds",
            policy(
                "category = \"log in\"\nthreshold = 0\nwithin = \"2d\"\nblock = \"permanent\"\nper = \"user\"\nipv6_prefix = 32",
            ),
        ),
        (
            "not understood",
            policy(
                "category = \"x\"\nthreshold = 5\nwithin = \"soon\"\nblock = \"escalates\"\nwindow = \"1m\"",
            ),
        ),
    ];
    let cases: Vec<(&str, &str)> = cases.iter().map(|(name, text)| (*name, text.as_str())).collect();
    check("problems_of_policies", &cases);
}

#[test]
fn problems_of_hooks() {
    let hook = |body: &str| format!("{ETH0}[[hook]]\n{body}\n");
    let cases = [
        ("nothing", hook("")),
        ("wrong kinds", hook("name = 1\nsocket = 2\ngroup = 3\ncategory = 4")),
        (
            "not understood",
            hook(
                "name = \"web server\"\nsocket = \"nginx.sock\"\ngroup = \"\"\ncategory = \"a b\"\nmode = 0",
            ),
        ),
        ("too long", hook(&format!("name = \"a\"\nsocket = \"/{}\"", "x".repeat(107)))),
        (
            "taken",
            hook(
                "name = \"a\"\nsocket = \"/run/a\"\n[[hook]]\nname = \"a\"\nsocket = \"/run/a\"\n[[hook]]\nname = \"b\"\nsocket = \"/run/limiter/limiter.sock\"",
            ),
        ),
        ("not several", format!("{ETH0}[hook]\nname = \"a\"\n")),
    ];
    let cases: Vec<(&str, &str)> = cases.iter().map(|(name, text)| (*name, text.as_str())).collect();
    check("problems_of_hooks", &cases);
}

#[test]
fn problems_of_rules() {
    let rule = |body: &str| format!("{ETH0}[[rule]]\nname = \"r\"\n{body}\n");
    let cases = [
        ("no limit", rule("match = { protocol = \"tcp\" }")),
        ("empty limit", rule("limit = []")),
        ("neither and both", rule("limit = [ { per = \"source\" }, { per = \"source\", rate = \"1/s\", bits = \"1Mbit/s\" } ]")),
        ("per", rule("limit = [ { rate = \"1/s\" }, { per = \"net\", rate = \"1/s\" } ]")),
        (
            "figures",
            rule(
                "limit = [ { per = \"source\", rate = \"10k\" }, { per = \"source\", rate = 100 }, { per = \"source\", rate = \"20M/s\" }, { per = \"source\", bits = \"200MB/s\" }, { per = \"source\", bits = \"1bit/s\", burst = \"64K\" }, { per = \"source\", rate = \"1/s\", burst = 0 } ]",
            ),
        ),
        ("twice the same", rule("limit = [ { per = \"source\", rate = \"1/s\" }, { per = \"source\", rate = \"2/s\" } ]")),
        (
            "match",
            format!(
                "{}{}",
                rule("match = { protocol = \"upd\", port = 70000 }\nlimit = [ { per = \"source\", rate = \"1/s\" } ]"),
                "[[rule]]\nname = \"s\"\nmatch = { protocol = \"icmp\", port = 1, destination = \"::1\" }\nlimit = [ { per = \"source\", rate = \"1/s\" } ]\n[[rule]]\nname = \"t\"\nmatch = { port = 1 }\nlimit = [ { per = \"source\", rate = \"1/s\" } ]"
            ),
        ),
        (
            "interfaces",
            rule("interface = [\"eth0\", \"eth1\", \"wlan\", \"eth0\"]\nlimit = [ { per = \"source\", rate = \"1/s\" } ]"),
        ),
        (
            "rules for the same",
            "interface = [ { name = \"eth0\" }, { name = \"eth1\" } ]\n[[rule]]\nname = \"a\"\nlimit = [ { per = \"source\", rate = \"1/s\" } ]\n[[rule]]\nname = \"b\"\ninterface = \"eth1\"\nlimit = [ { per = \"source\", rate = \"1/s\" } ]\n[[rule]]\nname = \"c\"\nmatch = { protocol = \"udp\" }\nlimit = [ { per = \"source\", rate = \"1/s\" } ]\n[[rule]]\nname = \"c\"\nmatch = { protocol = \"udp\" }\nlimit = [ { per = \"source\", rate = \"1/s\" } ]\n[[rule]]\nname = \"d\"\nmatch = { protocol = 17 }\nlimit = [ { per = \"source\", rate = \"1/s\" } ]\n".to_owned(),
        ),
    ];
    let cases: Vec<(&str, &str)> = cases.iter().map(|(name, text)| (*name, text.as_str())).collect();
    check("problems_of_rules", &cases);
}

#[test]
fn too_many_services() {
    let rule = |port| {
        format!(
            "[[rule]]\nname = \"r{port}\"\nmatch = {{ protocol = \"tcp\", port = {port} }}\nlimit = [ {{ per = \"source\", rate = \"1/s\" }} ]\n"
        )
    };
    let rules = |count| format!("{ETH0}{}", (0..count).map(rule).collect::<String>());
    assert_eq!(config(&rules(62)).interfaces[0].limits.service_count, 62);
    let problems = parse(&rules(63), Path::new("x")).unwrap_err();
    assert_eq!(problems.problems[0].key, "rule[62].match");
}

/// Whatever is cut off or overwritten, there is an answer, and problems have places within the text.
#[test]
fn any_text_has_an_answer() {
    let text = EXAMPLE.replace("\n# [", "\n[").replace("\n# ", "\n");
    let cuts = (0..text.len()).filter(|at| text.is_char_boundary(*at));
    for at in cuts {
        for broken in [text[..at].to_owned(), format!("{}\"{}", &text[..at], &text[at..])] {
            if let Err(problems) = parse(&broken, Path::new("x")) {
                assert!(!problems.problems.is_empty());
                let lines = 1 + broken.matches('\n').count();
                assert!(problems.problems.iter().all(|problem| (1..=lines).contains(&problem.line)));
            }
        }
    }
    for nested in ["[", "{a=", "a.", "[[a", "[a.", "\u{0}", "é"] {
        let _ = parse(&nested.repeat(10_000), Path::new("x"));
        let _ = parse(&format!("a = {}", nested.repeat(10_000)), Path::new("x"));
    }
}

/// Or a slow policy's times would be taken for a fast one's, see `slots`.
#[test]
fn policies_have_cells_of_their_own() {
    let text = r#"
        [[interface]]
        name = "eth0"
        [[interface]]
        name = "eth1"
        [[rule]]
        name = "all"
        limit = [ { per = "source", rate = "1/s" } ]
        [[rule]]
        name = "dns"
        interface = "eth1"
        match = { protocol = "udp", port = 53 }
        limit = [ { per = "source", rate = "10k/s" } ]
    "#;
    let config = config(text);
    let (mut taken, mut gates) = (Vec::new(), Vec::new());
    for interface in &config.interfaces {
        for policy in &interface.limits.policies {
            taken.extend(
                [policy.packet_cells, policy.bit_cells].into_iter().filter(|share| *share != Share::NONE),
            );
            gates.extend(
                [policy.packet_gates, policy.bit_gates].into_iter().filter(|share| *share != Share::NONE),
            );
        }
    }
    // All packets, and path MTU by both, on both; DNS on one.
    assert_eq!(taken.len(), 7);
    // Of these, only DNS has a burst that is large enough.
    assert_eq!(gates, [Share { at: 0, count: GATE.entries }]);
    taken.sort_by_key(|cells| cells.at);
    assert!(taken.windows(2).all(|pair| pair[0].at + pair[0].count <= pair[1].at), "{taken:?}");
    assert!(taken.iter().all(|cells| cells.at + cells.count <= CELLS.entries), "{taken:?}");
}

/// Each of the six limits of a rule is one of its own.
#[test]
fn limits_that_sources_share() {
    let rule = |limits: &str| {
        let config = config(&format!("{ETH0}[[rule]]\nname = \"all\"\nlimit = [ {limits} ]\n"));
        let interface = config.interfaces.into_iter().next().unwrap();
        (interface.limits.policies[POLICY_ALL], interface.rules[0].limits.clone())
    };
    let (policy, written) = rule(
        r#"{ per = "service", bits = "1Gbit/s" }, { per = "prefix", rate = "3k/s" }, { per = "source", rate = "1k/s" },
           { per = "prefix", bits = "2Mbit/s" }, { per = "source", bits = "4Mbit/s" }, { per = "service", rate = "5k/s" }"#
            .replace('\n', " ")
            .as_str(),
    );
    assert_eq!(policy.shares, 1);
    assert_eq!(Some(policy.packets), Quota::packets(1_000, 1_000));
    assert_eq!(Some(policy.bits), Quota::bits(4_000_000, 500_000));
    let shared = [
        Quota::packets(3_000, 3_000),
        Quota::bits(2_000_000, 250_000),
        Quota::packets(5_000, 5_000),
        Quota::bits(1_000_000_000, 125_000_000),
    ];
    assert_eq!(
        policy.shared.map(|bound| Some(bound.quota)),
        shared.map(|quota| quota.map(Quota::without_gate))
    );
    assert_eq!(policy.shared.map(|bound| bound.batch), [0, 0, 1, 2]);
    let shares = policy.shared.map(|bound| bound.cells);
    assert!(
        shares
            .iter()
            .all(|share| share.count > 0 && shares.iter().filter(|other| *other == share).count() == 1)
    );
    assert_eq!(written[0], "1Gbit/s burst 125000000 bytes for all together");
    assert_eq!(written[1], "3k/s burst 3000 for each /24 or /48");
    assert_eq!(written[2], "1k/s burst 1000");

    // A rule may have no limit per source at all, and whatever is shared makes another rule of it.
    let (service, _) = rule(r#"{ per = "service", rate = "1k/s" }"#);
    assert!(service.packets.is_unlimited() && !service.is_unlimited());
    let (prefix, _) = rule(r#"{ per = "prefix", rate = "1k/s" }"#);
    let (source, _) = rule(r#"{ per = "source", rate = "1k/s" }"#);
    assert!(service.id != prefix.id && prefix.id != source.id && source.id != service.id);
}

#[test]
fn the_api_over_tcp() {
    let files = "certificate = \"/etc/limiter/api.pem\"\nkey = \"/etc/limiter/api.key\"\n";
    assert_eq!(config(ETH0).api, None);
    let api = config(&format!("{ETH0}[api]\n{files}")).api.unwrap();
    let listen: Vec<String> = api.listen.iter().map(ToString::to_string).collect();
    assert_eq!(listen, ["127.0.0.1:9743", "[::1]:9743"]);
    assert_eq!((api.certificate.as_path(), api.client_ca), (Path::new("/etc/limiter/api.pem"), None));
    let text = format!("{ETH0}[api]\n{files}listen = [\"0.0.0.0:1\"]\nclient_ca = \"/etc/ca.pem\"\n");
    assert_eq!(config(&text).api.unwrap().listen.len(), 1);

    let case = |listen: &str| format!("{ETH0}[api]\n{files}listen = {listen}\n");
    check(
        "api",
        &[
            ("no files", &format!("{ETH0}[api]\nkey = \"api.key\"\n")),
            ("every address", &case("[\"0.0.0.0:9743\", \"[::]:9743\", \"[::ffff:0.0.0.0]:9743\"]")),
            ("no address", &case("[\"edge1:9743\", \"192.0.2.1\", 9743]")),
            ("twice and nothing", &case("[\"127.0.0.1:1\", \"127.0.0.1:1\"]")),
            ("nothing", &case("[]")),
            ("a word", &case("\"127.0.0.1:1\"")),
            ("an unknown key", &format!("{ETH0}[api]\n{files}clientca = \"/x\"\n")),
        ],
    );
}

const API: &str = "[api]\ncertificate = \"/etc/limiter/api.pem\"\nkey = \"/etc/limiter/api.key\"\nclient_ca = \"/etc/limiter/ca.pem\"\n";

#[test]
fn who_may_use_the_api() {
    let text = r#"
        [[api.client]]
        name = "checkout.example.net"
        scopes = ["report", "block:host"]
        max_ttl = "1h"
        max_prefix = 32
        quota = "1000/min"
        from = ["10.0.0.0/8"]
        [[api.client]]
        name = "spiffe://example.net/edge"
        owner = "edge"
        scopes = ["block:prefix/24"]
        [[api.client]]
        common_name = "old"
        scopes = ["read"]
        [api.oauth]
        issuer = "https://login.example.net"
        audience = "limiter"
        jwks = "/etc/limiter/jwks.json"
        [[api.oauth.role]]
        scope = "limiter:report"
        scopes = ["report:host"]
        max_ttl = "10m"
    "#;
    let access = config(&format!("{ETH0}{API}{text}")).api.unwrap().access;
    let [checkout, edge, old] = access.clients.as_slice() else { panic!("{:?}", access.clients) };
    assert_eq!(
        (checkout.owner.as_str(), checkout.scopes.to_string()),
        ("checkout.example.net", "report block:host".to_owned())
    );
    let caps = &checkout.caps;
    assert_eq!(caps.max_ttl, Some(std::time::Duration::from_secs(3600)));
    assert_eq!((caps.max_prefix, caps.quota), (Width::new(32), PerMinute::new(1000)));
    assert_eq!(caps.from, ["10.0.0.0/8".parse().unwrap()]);
    assert_eq!((edge.name.text(), edge.owner.as_str()), ("spiffe://example.net/edge", "edge"));
    assert_eq!(edge.caps, Caps::default());
    assert_eq!(old.name, ClientName::Common("old".to_owned()));
    let oauth = access.oauth.unwrap();
    assert_eq!((oauth.issuer.as_str(), oauth.audience.as_str()), ("https://login.example.net", "limiter"));
    assert_eq!(
        (oauth.roles[0].scope.as_str(), oauth.roles[0].scopes.to_string()),
        ("limiter:report", "report".to_owned())
    );
}

#[test]
fn problems_of_access() {
    let client = |body: &str| format!("{ETH0}{API}[[api.client]]\n{body}\n");
    let oauth = |body: &str| format!("{ETH0}{API}[api.oauth]\n{body}\n");
    let keys = "issuer = \"https://x\"\naudience = \"y\"\n";
    let cases = [
        ("nothing of a client", client("")),
        (
            "no certificates",
            format!(
                "{ETH0}{}[[api.client]]\nname = \"a\"\nscopes = [\"read\"]\n",
                API.replace("client_ca", "# client_ca")
            ),
        ),
        ("two names", client("name = \"a\"\ncommon_name = \"a\"\nscopes = [\"read\"]")),
        (
            "twice",
            client("name = \"a\"\nscopes = [\"read\"]\n[[api.client]]\nname = \"a\"\nscopes = [\"read\"]"),
        ),
        ("no owner", client("name = \"spiffe://a/b\"\nscopes = [\"read\"]")),
        ("a reserved owner", client("name = \"spiffe://a/b\"\nowner = \"jwt.alice\"\nscopes = [\"read\"]")),
        ("scopes", client("name = \"a\"\nscopes = [\"write\", 7, \"block:prefix/4\"]")),
        ("no scopes", client("name = \"a\"\nscopes = []")),
        (
            "caps",
            client(
                "name = \"a\"\nscopes = [\"read\"]\nmax_ttl = \"long\"\nmax_prefix = 4\nquota = 1000\nfrom = []\nexpires = \"90d\"",
            ),
        ),
        (
            "caps again",
            client(
                "name = \"a\"\nscopes = [\"read\"]\nmax_ttl = \"permanent\"\nquota = \"1000/h\"\nfrom = [\"10.0.0.0/33\"]",
            ),
        ),
        ("nothing of an issuer", oauth("")),
        ("a URL", oauth(&format!("{keys}jwks = \"http://x/jwks\"\nrole = []"))),
        ("whom to trust for a file", oauth(&format!("{keys}jwks = \"/jwks\"\njwks_ca = \"/ca\"\nrole = []"))),
        (
            "roles",
            oauth(&format!(
                "{keys}jwks = \"/jwks\"\n[[api.oauth.role]]\n[[api.oauth.role]]\nscope = \"a b\"\nscopes = [\"read\"]\n[[api.oauth.role]]\nscope = \"a b\"\nscopes = [\"read\"]\nname = 1"
            )),
        ),
    ];
    let cases: Vec<(&str, &str)> = cases.iter().map(|(name, text)| (*name, text.as_str())).collect();
    check("problems_of_access", &cases);
}

#[test]
fn urls_of_keys() {
    let parts = |text: &str| {
        let url = KeysUrl::new(text, "/ca.pem".into())?;
        Some(format!("{} {} {} {}", url.host(), url.port(), url.authority(), url.path()))
    };
    for (text, expected) in [
        ("https://login.example.net/jwks.json", "login.example.net 443 login.example.net /jwks.json"),
        ("https://login.example.net:8443/a?b=c", "login.example.net 8443 login.example.net:8443 /a?b=c"),
        ("https://[2001:db8::1]:1/", "2001:db8::1 1 [2001:db8::1]:1 /"),
        ("https://192.0.2.1", "192.0.2.1 443 192.0.2.1 /"),
    ] {
        assert_eq!(parts(text).as_deref(), Some(expected));
    }
    for text in [
        "",
        "/jwks",
        "http://login.example.net/",
        "https://",
        "https:///jwks",
        "https://a:0/",
        "https://a:65536/",
        "https://user:secret@login.example.net/",
        "https://a b/",
    ] {
        assert_eq!(parts(text), None, "{text:?}");
    }
}
