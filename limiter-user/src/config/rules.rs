//! `[[rule]]`: what is written becomes the [`Limits`] of each interface.

use limiter_common::abi::{
    CELLS, GATE, Limits, MAX_SERVICES, POLICY_ALL, POLICY_PATH_MTU, POLICY_SERVICES, Service,
};
use limiter_common::gcra::Quota;
use limiter_common::slots::{Policy, SERVICE, Share};

use super::reader::{Table, Value, nearest};
use super::units::{bit_rate, count, rate, size};
use super::{Interface, Rule};

/// Path MTU messages of one source, a second and at once: plenty for any honest path, little for a flood.
const PATH_MTU_RATE: u64 = 200;
const PATH_MTU_BURST: u64 = 400;
/// No honest one is longer: RFC 4443 section 2.4 (c), and RFC 1812 section 4.3.2.3 is below it.
const PATH_MTU_BYTES: u64 = 1_280;
/// Packets or bytes that a burst may be.
const MAX_BURST: u64 = u32::MAX as u64;
/// The least default burst of a bit rate: one frame of any size.
const MIN_BURST_BYTES: u64 = 65_536;

const PER: &str = "whom the limit is for: \"source\", \"prefix\" or \"service\"";
const RATE: &str = "packets a second, like \"10k/s\"";
const BITS: &str = "bits a second, like \"200Mbit/s\"";
const MATCH: &str = "{ protocol = \"udp\", port = 53 }";
const LIMIT: &str = "{ per = \"source\", rate = \"10k/s\", burst = 20000 }";

/// Names of IP protocols (IANA, "Assigned Internet Protocol Numbers") that a rule may use.
const PROTOCOLS: [(&str, u8); 18] = [
    ("icmp", 1),
    ("igmp", 2),
    ("ipip", 4),
    ("tcp", 6),
    ("egp", 8),
    ("udp", 17),
    ("dccp", 33),
    ("ipv6", 41),
    ("rsvp", 46),
    ("gre", 47),
    ("esp", 50),
    ("ah", 51),
    ("icmpv6", 58),
    ("ospf", 89),
    ("pim", 103),
    ("vrrp", 112),
    ("l2tp", 115),
    ("sctp", 132),
];
/// TCP, UDP and SCTP: the protocols whose ports are read.
const WITH_PORTS: [u8; 3] = [6, 17, 132];

/// A service as it is written: protocol number, and destination port or any.
type Matched = (u8, Option<u16>);

/// Rates and bursts, for the fingerprint: of packets and bits for each of [`Per`].
type Figures = [[u64; 4]; 3];

/// Whom a limit is for.
#[derive(Debug, Clone, Copy)]
enum Per {
    Source,
    Prefix,
    Service,
}

/// A `[[rule]]` that was understood.
#[derive(Debug)]
pub(super) struct WrittenRule<'a> {
    rule: Rule,
    policy: Policy,
    figures: Figures,
    /// Interfaces it is for; all if `None`.
    interfaces: Option<Vec<String>>,
    table: Table<'a>,
}

/// Reads a rule whose `name` was taken out already. `None` if there was a problem, which then is reported.
pub(super) fn read<'a>(
    mut table: Table<'a>,
    name: Option<String>,
    interfaces: &[&str],
) -> Option<WrittenRule<'a>> {
    let wanted = table.optional("interface").map(|value| named_interfaces(&value, interfaces));
    let service = table.optional("match").map(|value| service(&value));
    let what = format!("what the rule limits, like [ {LIMIT} ]");
    let limits = table.required("limit", &what).and_then(|value| limits(&value));
    table.finish();
    let limits = limits?;
    let service = match service {
        Some(service) => Some(service?),
        None => None,
    };
    let rule = Rule { name: name?, service, limits: limits.written, id: 0 };
    Some(WrittenRule { rule, policy: limits.policy, figures: limits.figures, interfaces: wanted, table })
}

fn named_interfaces(value: &Value<'_>, known: &[&str]) -> Vec<String> {
    let what = "the name of an interface, or an array of them";
    let values = if value.is_array() { value.array(what).unwrap_or_default() } else { vec![value.clone()] };
    if values.is_empty() {
        value.problem("the rule would apply nowhere; leave the key out to apply it to every interface");
    }
    let mut found: Vec<String> = Vec::new();
    for value in values {
        let Some(name) = value.string(what) else {
            continue;
        };
        if !known.contains(&name) {
            let near =
                nearest(name, known).map_or_else(String::new, |near| format!("; did you mean \"{near}\"?"));
            value.problem(format!("there is no [[interface]] with name = {name:?}{near}"));
        } else if found.iter().any(|found| found == name) {
            value.problem(format!("{name:?} is there twice"));
        } else {
            found.push(name.to_owned());
        }
    }
    found
}

fn service(value: &Value<'_>) -> Option<Matched> {
    let mut table = value.table(MATCH)?;
    let what = "a protocol, like \"udp\" or a number from 0 to 255";
    let protocol = table.required("protocol", what);
    let port = table.optional("port");
    table.finish();
    let protocol = protocol.and_then(|value| self::protocol(&value, what));
    let port = match port {
        Some(value) => {
            let number = value.integer(0..=65_535).and_then(|port| u16::try_from(port).ok());
            if protocol.is_some_and(|protocol| !WITH_PORTS.contains(&protocol)) {
                value.problem("only tcp, udp and sctp have ports; leave it out");
            }
            Some(number?)
        }
        None => None,
    };
    Some((protocol?, port))
}

fn protocol(value: &Value<'_>, what: &str) -> Option<u8> {
    if value.is_integer() {
        return value.integer(0..=255).and_then(|number| u8::try_from(number).ok());
    }
    let name = value.string(what)?;
    if let Some((_, number)) = PROTOCOLS.iter().find(|(known, _)| *known == name) {
        return Some(*number);
    }
    let names: Vec<&str> = PROTOCOLS.iter().map(|(name, _)| *name).collect();
    match nearest(name, &names) {
        Some(near) => value.problem(format!("{name:?} is not known; did you mean \"{near}\"?")),
        None => value.problem(format!("{name:?} is not known; expected {what}")),
    }
    None
}

/// The `limit` of a rule.
#[derive(Debug)]
struct Understood {
    policy: Policy,
    figures: Figures,
    written: Vec<String>,
}

impl Understood {
    /// The figures of packets and of bits, and where the quotas are.
    fn at(&mut self, per: Per) -> (&mut [u64; 4], [&mut Quota; 2]) {
        let Self { policy: Policy { packets, bits, shared, .. }, figures, .. } = self;
        let [source, prefix, service] = figures;
        let [of_prefix, of_prefix_bits, of_service, of_service_bits] = shared;
        match per {
            Per::Source => (source, [packets, bits]),
            Per::Prefix => (prefix, [&mut of_prefix.quota, &mut of_prefix_bits.quota]),
            Per::Service => (service, [&mut of_service.quota, &mut of_service_bits.quota]),
        }
    }
}

/// What one element of `limit` limits.
enum Limit {
    Packets(Written),
    Bits(Written),
}

struct Written {
    rate: u64,
    burst: u64,
    text: String,
}

fn limits(value: &Value<'_>) -> Option<Understood> {
    let elements = value.array(&format!("limits, like [ {LIMIT} ]"))?;
    if elements.is_empty() {
        value.problem(format!("the rule limits nothing; expected at least one, like {LIMIT}"));
        return None;
    }
    let mut understood =
        Understood { policy: Policy::UNLIMITED, figures: Figures::default(), written: Vec::new() };
    let mut good = true;
    for element in elements {
        let Some((per, limit)) = limit(&element) else {
            good = false;
            continue;
        };
        let (figures, [packets, bits]) = understood.at(per);
        let (quota, new, figures, kind, Written { rate, burst, text }) = match limit {
            Limit::Packets(written) => {
                let quota = Quota::packets(written.rate, written.burst)?;
                (packets, quota, &mut figures[..2], "packet", written)
            }
            Limit::Bits(written) => {
                (bits, Quota::bits(written.rate, written.burst)?, &mut figures[2..], "bit", written)
            }
        };
        if !quota.is_unlimited() {
            element.problem(format!(
                "a second {kind} rate for the same; a rule has one `rate` and one `bits` per source, prefix and service"
            ));
        }
        figures.copy_from_slice(&[rate, burst]);
        match per {
            Per::Source => *quota = new,
            // Gates are for the many that are alone.
            Per::Prefix | Per::Service => {
                *quota = new.without_gate();
                understood.policy.shares = 1;
            }
        }
        understood.written.push(text + per.suffix());
    }
    good.then_some(understood)
}

impl Per {
    fn parse(text: &str) -> Option<Self> {
        match text {
            "source" => Some(Self::Source),
            "prefix" => Some(Self::Prefix),
            "service" => Some(Self::Service),
            _ => None,
        }
    }

    /// What people are told behind the figures.
    const fn suffix(self) -> &'static str {
        match self {
            Self::Source => "",
            Self::Prefix => " for each /24 or /48",
            Self::Service => " for all together",
        }
    }
}

fn limit(value: &Value<'_>) -> Option<(Per, Limit)> {
    let mut table = value.table(LIMIT)?;
    let per = table.required("per", PER).and_then(|value| {
        let text = value.string(PER)?;
        let per = Per::parse(text);
        if per.is_none() {
            value.problem(format!("{text:?} is not known; expected {PER}"));
        }
        per
    });
    let (packets, bits, burst) = (table.optional("rate"), table.optional("bits"), table.optional("burst"));
    let limit = match (packets, bits) {
        (Some(rate), None) => packet_limit(&rate, burst),
        (None, Some(bits)) => bit_limit(&bits, burst),
        (Some(_), Some(_)) => {
            value.problem("has both `rate` and `bits`; write two limits, each with its own burst");
            None
        }
        (None, None) => {
            value.problem(format!("limits nothing: expected `rate`, {RATE}, or `bits`, {BITS}"));
            None
        }
    };
    table.finish();
    Some((per?, limit?))
}

fn packet_limit(value: &Value<'_>, burst: Option<Value<'_>>) -> Option<Limit> {
    let packets = figure(value, rate, RATE, 1..=Quota::MAX_PACKETS_PER_SECOND, "1/s to 10M/s");
    let burst = match burst {
        Some(value) if value.is_integer() => value.integer(1..=MAX_BURST),
        Some(value) => {
            figure(&value, count, "packets, like 20000 or \"20k\"", 1..=MAX_BURST, "1 to 4294967295")
        }
        None => packets,
    };
    let (rate, burst) = (packets?, burst?);
    let text = format!("{} burst {burst}", value.as_string()?.trim());
    Some(Limit::Packets(Written { rate, burst, text }))
}

fn bit_limit(value: &Value<'_>, burst: Option<Value<'_>>) -> Option<Limit> {
    let bounds = Quota::MIN_BITS_PER_SECOND..=Quota::MAX_BITS_PER_SECOND;
    let bits = figure(value, bit_rate, BITS, bounds, "1kbit/s to 1Tbit/s");
    let burst = match burst {
        Some(value) if value.is_integer() => value.integer(1..=MAX_BURST),
        Some(value) => {
            let what = "bytes, like 65536, \"64KiB\" or \"10Mbit\"";
            figure(&value, size, what, 1..=MAX_BURST, "1 to 4294967295 bytes")
        }
        None => bits.map(|bits| (bits / 8).clamp(MIN_BURST_BYTES, MAX_BURST)),
    };
    let (rate, burst) = (bits?, burst?);
    let text = format!("{} burst {burst} bytes", value.as_string()?.trim());
    Some(Limit::Bits(Written { rate, burst, text }))
}

/// A number with a unit, within bounds.
fn figure(
    value: &Value<'_>,
    parse: impl Fn(&str) -> Option<u64>,
    what: &str,
    bounds: std::ops::RangeInclusive<u64>,
    words: &str,
) -> Option<u64> {
    let text = value.string(what)?;
    match parse(text) {
        Some(figure) if bounds.contains(&figure) => Some(figure),
        Some(_) => {
            value.problem(format!("{text:?} is out of bounds: {words}"));
            None
        }
        None => {
            value.problem(format!("{text:?} is not understood; expected {what}"));
            None
        }
    }
}

/// Gives each interface the limits of the rules that are for it.
pub(super) fn compile(written: &[WrittenRule<'_>], interfaces: &mut [Interface]) {
    for interface in &mut *interfaces {
        let mine = |rule: &&WrittenRule<'_>| match &rule.interfaces {
            Some(names) => names.contains(&interface.name),
            None => true,
        };
        let rules: Vec<&WrittenRule<'_>> = written.iter().filter(mine).collect();
        let (general, mut services): (Vec<_>, Vec<_>) =
            rules.iter().copied().partition(|written| written.rule.service.is_none());
        unique(&general, &interface.name, "without `match`");
        services.sort_by_key(|written| written.rule.service);
        for same in services.chunk_by(|a, b| a.rule.service == b.rule.service) {
            unique(same, &interface.name, "with the same `match`");
        }
        services.dedup_by_key(|written| written.rule.service);
        if let Some(first_too_many) = services.get(MAX_SERVICES) {
            let text = format!("too many: {} can have {MAX_SERVICES} rules with `match`", interface.name);
            first_too_many.table.problem("match", text);
            services.truncate(MAX_SERVICES);
        }
        interface.limits = limits_of(&interface.name, general.first().copied(), &services);
        interface.limited = !rules.is_empty();
        let identified = |written: &&WrittenRule<'_>| {
            let policy = match written.rule.service {
                None => Some(POLICY_ALL),
                Some(service) => services.iter().position(|other| other.rule.service == Some(service)),
            };
            let policy = policy.and_then(|at| match written.rule.service {
                None => interface.limits.policies.get(at),
                Some(_) => interface.limits.policies.get(POLICY_SERVICES + at),
            });
            Rule { id: policy.map_or(0, |policy| policy.id), ..written.rule.clone() }
        };
        interface.rules = rules.iter().map(identified).collect();
    }
    share_tables(interfaces);
}

/// Gives every quota cells of its own, and gates if it has any; and all those for everybody a place for batches, of which
/// each interface's program has its own.
fn share_tables(interfaces: &mut [Interface]) {
    let count = |uses: fn(&Quota) -> bool| {
        let policies = interfaces.iter().flat_map(|interface| &interface.limits.policies);
        let quotas = policies.flat_map(|policy| {
            policy.shared.iter().map(|bound| &bound.quota).chain([&policy.packets, &policy.bits])
        });
        quotas.filter(|quota| uses(quota)).count()
    };
    let mut cells = Shares::new(CELLS.entries, count(|quota| !quota.is_unlimited()));
    let mut gates = Shares::new(GATE.entries, count(Quota::has_gate));
    for policies in interfaces.iter_mut().map(|interface| &mut interface.limits.policies) {
        for (policy, batch) in policies.iter_mut().zip((1..).step_by(2)) {
            policy.packet_cells = cells.next(!policy.packets.is_unlimited());
            policy.bit_cells = cells.next(!policy.bits.is_unlimited());
            policy.packet_gates = gates.next(policy.packets.has_gate());
            policy.bit_gates = gates.next(policy.bits.has_gate());
            for bound in &mut policy.shared {
                bound.cells = cells.next(!bound.quota.is_unlimited());
            }
            for (bound, batch) in policy.shared[SERVICE..].iter_mut().zip(batch..) {
                bound.batch = if bound.quota.is_unlimited() { 0 } else { batch };
            }
        }
    }
}

/// Deals out equal shares of a table, each of the largest power of two that all of them find room for.
struct Shares {
    next: Share,
}

impl Shares {
    fn new(entries: u32, count: usize) -> Self {
        let count = u32::try_from(count).unwrap_or(u32::MAX).clamp(1, entries);
        Self { next: Share { at: 0, count: entries / count.next_power_of_two() } }
    }

    fn next(&mut self, wanted: bool) -> Share {
        if !wanted {
            return Share::NONE;
        }
        let share = self.next;
        self.next.at += share.count;
        share
    }
}

/// Reports all but the first of `rules`.
fn unique(rules: &[&WrittenRule<'_>], interface: &str, what: &str) {
    let Some((first, others)) = rules.split_first() else {
        return;
    };
    for other in others {
        let text = format!(
            "a second rule {what} for {interface}, beside \"{}\"; only one can apply",
            first.rule.name
        );
        other.table.problem("match", text);
    }
}

/// `services` are sorted and at most [`MAX_SERVICES`].
fn limits_of(interface: &str, general: Option<&WrittenRule<'_>>, services: &[&WrittenRule<'_>]) -> Limits {
    let mut limits = Limits::NONE;
    if general.is_none() && services.is_empty() {
        return limits;
    }
    let mut ids = Vec::new();
    let mut policy = |policy: Policy, name: &str, service: Option<Matched>, figures: Figures| Policy {
        id: fingerprint(interface, name, service, figures, &mut ids),
        ..policy
    };
    if let Some(written) = general {
        limits.policies[POLICY_ALL] = policy(written.policy, &written.rule.name, None, written.figures);
    }
    let bits = PATH_MTU_RATE * PATH_MTU_BYTES * 8;
    let bytes = PATH_MTU_BURST * PATH_MTU_BYTES;
    if let (Some(packets), Some(bits_quota)) =
        (Quota::packets(PATH_MTU_RATE, PATH_MTU_BURST), Quota::bits(bits, bytes))
    {
        let figures = [[PATH_MTU_RATE, PATH_MTU_BURST, bits, bytes], [0; 4], [0; 4]];
        // Without gates, which are for the many packets of the rules.
        let budget =
            Policy { packets: packets.without_gate(), bits: bits_quota.without_gate(), ..Policy::UNLIMITED };
        // No rule can have this name.
        limits.policies[POLICY_PATH_MTU] = policy(budget, "path mtu", None, figures);
    }
    for (i, written) in services.iter().enumerate() {
        let (Some((protocol, port)), Some(slot)) = (written.rule.service, limits.services.get_mut(i)) else {
            continue;
        };
        *slot = Service::new(protocol, port);
        limits.policies[POLICY_SERVICES + i] =
            policy(written.policy, &written.rule.name, written.rule.service, written.figures);
        limits.service_count += 1;
    }
    limits
}

/// A [`Policy::id`]: 30 bits that stay the same exactly as long as the rule and its figures do, and that are not in
/// `taken`, to which they are added.
fn fingerprint(
    interface: &str,
    name: &str,
    service: Option<Matched>,
    [source, others @ ..]: Figures,
    taken: &mut Vec<u32>,
) -> u32 {
    // FNV-1a: it has to be stable from one version to the next, which the standard library's hashers are not.
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    let mut feed = |bytes: &[u8]| {
        for byte in bytes {
            hash = (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        }
    };
    feed(interface.as_bytes());
    feed(&[0]);
    feed(name.as_bytes());
    feed(&[0]);
    if let Some((protocol, port)) = service {
        feed(&[1, protocol, u8::from(port.is_some())]);
        feed(&port.unwrap_or(0).to_be_bytes());
    }
    for figure in source {
        feed(&figure.to_be_bytes());
    }
    for figure in others.as_flattened().iter().filter(|_| others != [[0; 4]; 2]) {
        feed(&figure.to_be_bytes());
    }
    let mut id = u32::try_from((hash ^ hash >> 30) & 0x3fff_ffff).unwrap_or(0);
    while id == 0 || taken.contains(&id) {
        id = (id + 1) & 0x3fff_ffff;
    }
    taken.push(id);
    id
}
