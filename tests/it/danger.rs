//! Thousands of attempts to lock everybody out, by everybody who may ask for something: the paths that the machine is
//! managed over are never lost.
//!
//! The gateway, the DNS servers, the operator, a proxy and a partner send packets all the time, and a client asks a service
//! behind the program for pages. What an operator forces comes back by itself if nobody confirms it, also over a kill.

use std::collections::BTreeMap;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use limiter_common::{Address, Prefix};
use limiter_tests::lab::{HOST, OUTSIDE};
use limiter_tests::tcp::{Client as Visitor, Server};
use limiter_tests::{Config, Control, Daemon, Dice, Lab, Sources, cli, effort, in_lab, wait};
use limiter_user::client::{Client, ClientError, Pin, ProblemKind, Remote, Report, Token, Trust};
use serde_json::{Value, json};

const SOON: Duration = Duration::from_secs(10);
const GATEWAYS: [&str; 2] = ["10.77.0.254", "fd77::fe"];
const RESOLVERS: [&str; 2] = ["10.77.0.253", "fd77::fd"];
const PROXIES: [&str; 2] = ["192.0.2.0/25", "2001:db8:cd::/48"];
/// Allowed, and so never dropped, whoever blocks it.
const PARTNERS: [&str; 2] = ["203.0.113.0/24", "2001:db8:77::/48"];
/// Attempts between two looks.
const BATCH: usize = 50;
const SCOPES: [&str; 7] = ["read", "report", "block:host", "block:prefix/8", "allow", "config", "admin"];
const REASON: &str = "an attempt";

/// Who must never be cut off, one address each.
fn managers() -> Vec<IpAddr> {
    let mut all: Vec<IpAddr> = vec![OUTSIDE.v4.into(), OUTSIDE.v6.into()];
    let texts = GATEWAYS.iter().chain(&RESOLVERS).chain(&["192.0.2.5", "2001:db8:cd::5"]);
    all.extend(
        texts.chain(&["203.0.113.9", "2001:db8:77::9"]).filter_map(|text| text.parse::<IpAddr>().ok()),
    );
    all
}

/// What nobody may block without force: all but the partners.
fn guarded() -> Vec<Prefix> {
    let hosts = managers().into_iter().take(6).chain([HOST.v4.into(), HOST.v6.into()]);
    let hosts = hosts.map(|address| Prefix::host(Address::from(address)));
    hosts.chain(PROXIES.iter().filter_map(|text| text.parse().ok())).collect()
}

/// Whether nobody may block this without force.
fn must_be_refused(text: &str) -> bool {
    let Ok(prefix) = text.trim().parse::<Prefix>() else { return false };
    guarded().iter().any(|guarded| guarded.covers(prefix) || prefix.covers(*guarded))
}

/// Something that should not be blocked, in one of the many ways to write it.
fn dangerous(dice: &mut Dice) -> String {
    let mut targets = managers();
    targets.extend([HOST.v4.into(), HOST.v6.into(), IpAddr::V4(Ipv4Addr::LOCALHOST)]);
    let target = *dice.of(&targets);
    let v4 = match target {
        IpAddr::V4(v4) => v4,
        IpAddr::V6(_) => Ipv4Addr::new(10, 77, 0, 254),
    };
    let [a, b, c, d] = v4.octets();
    let bits = if target.is_ipv4() { 32 } else { 128 };
    let length = u8::try_from(dice.below(bits + 1)).unwrap_or(0);
    match dice.below(12) {
        0..=2 => target.to_string(),
        3 => format!("{target}/{length}"),
        4 => Prefix::new(Address::from(target), length).map_or_else(String::new, |prefix| prefix.to_string()),
        5 => (*dice.of(&[
            "0.0.0.0/0",
            "::/0",
            "0.0.0.0/1",
            "128.0.0.0/1",
            "::/1",
            "8000::/1",
            "10.0.0.0/7",
            "10.0.0.0/8",
            "fd00::/8",
            "fc00::/7",
            "2000::/3",
            "::/96",
            "::ffff:0:0/96",
            "0.0.0.0/8",
            "127.0.0.1",
            "::1",
            "127.0.0.0/8",
            "::/128",
            "224.0.0.0/4",
            "255.255.255.255",
            "0.0.0.0",
            "10.77.0.0/16",
            "fd77::/64",
            "fd77::/32",
            "192.0.2.0/24",
        ]))
        .to_owned(),
        6 => format!("::ffff:{v4}"),
        7 => format!("::ffff:{a:02x}{b:02x}:{c:02x}{d:02x}/{}", 96 + length.min(32)),
        8 => format!("::FFFF:{v4}/{}", 96 + length.min(32)),
        9 => match dice.below(8) {
            0 => format!("{a}.{b}.{d}"),
            1 => u32::from(v4).to_string(),
            2 => format!("0x{:08x}", u32::from(v4)),
            3 => format!("{a:03}.{b:03}.{c:03}.{d:03}"),
            4 => format!("{v4}/255.255.255.0"),
            5 => format!("{v4}-{a}.{b}.{c}.255"),
            6 => (*dice.of(&["0/0", "10/8", "::/00", "*", "any", "", "10.77", "/0", "fd77::fe%eth0"]))
                .to_owned(),
            _ => format!(" {target} "),
        },
        10 => match target {
            IpAddr::V6(v6) => v6.segments().map(|part| format!("{part:04X}")).join(":"),
            IpAddr::V4(v4) => format!("64:ff9b::{v4}"),
        },
        _ => Ipv6Addr::from([0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, a, b, c, d]).to_string(),
    }
}

fn harmless(dice: &mut Dice) -> String {
    let [_, b, c, d] = u32::try_from(dice.word() >> 32).unwrap_or(0).to_be_bytes();
    format!("100.{}.{c}.{d}", 64 + b % 64)
}

/// What one attempt is about: something dangerous, at times among much that is not.
fn about(dice: &mut Dice) -> Vec<String> {
    let many = match dice.below(20) {
        0 => 3_000,
        1..=4 => 20,
        _ => 0,
    };
    let mut texts: Vec<String> = (0..many).map(|_| harmless(dice)).collect();
    for _ in 0..=dice.below(3) {
        let at = dice.below(texts.len() + 1);
        // Else hardly anything would ever be granted.
        texts.insert(at, if dice.one_in(3) { harmless(dice) } else { dangerous(dice) });
    }
    texts
}

/// Everybody who may ask for something.
struct Callers<'a> {
    lab: &'a Lab,
    daemon: &'a Daemon,
    control: Control<UnixStream>,
    tokens: Vec<(&'static str, Client)>,
    runtime: tokio::runtime::Runtime,
    hook: UnixDatagram,
    dice: Dice,
    /// Attempts, and how many of them were granted, by caller.
    tried: BTreeMap<String, (usize, usize)>,
    /// Of what was granted last.
    granted: Option<IpAddr>,
}

impl Callers<'_> {
    fn attempt(&mut self) -> Result<()> {
        match self.dice.below(100) {
            0..=34 => self.operator(),
            35..=36 => self.command(),
            37..=76 => self.token(),
            77..=97 => self.datagram(),
            _ => self.list(),
        }
    }

    fn note(&mut self, who: &str, about: &[String], granted: bool) -> Result<()> {
        let (tried, done) = self.tried.entry(who.to_owned()).or_default();
        *tried += 1;
        *done += usize::from(granted);
        let refused = about.iter().find(|text| must_be_refused(text));
        ensure!(!(granted && refused.is_some()), "{who} blocked {refused:?}");
        if granted {
            let drops = |text: &&String| text.starts_with("100.");
            self.granted = about.iter().find(drops).and_then(|text| text.parse().ok()).or(self.granted);
        }
        Ok(())
    }

    fn operator(&mut self) -> Result<()> {
        let about = about(&mut self.dice);
        let dice = &mut self.dice;
        let owner = *dice.of(&["operator", "operator", "crowdsec", "fail2ban:sshd", "feed:drop", "app:shop"]);
        let mut body = json!({ "prefixes": about, "reason": REASON, "owner": owner });
        match dice.below(6) {
            0 => body["confirm_seconds"] = json!(1 + dice.below(5)),
            1 => body["escalate"] = json!(true),
            2 => body["seconds"] = json!(600),
            _ => {}
        }
        let (what, reply) = match dice.below(8) {
            0 => ("imports", self.control.import(&format!("?owner={owner}"), &about.join("\n"))?),
            1 => {
                let about = reports(&about);
                let reply = self.control.post("/v1/reports", &Value::Array(about))?;
                ensure!(reply.status < 500, "{} {}", reply.status, reply.body);
                // What is refused is told beside what is counted.
                return self.note("operator reports", &[], reply.is_ok());
            }
            _ => ("operator", self.control.post("/v1/blocks", &body)?),
        };
        ensure!(reply.status < 500, "{} {}", reply.status, reply.body);
        self.note(what, &about, reply.is_ok())
    }

    /// The real command line, as somebody who is logged in from outside.
    fn command(&mut self) -> Result<()> {
        let about = about(&mut self.dice);
        let mut words = vec!["block", "add", "--"];
        words.extend(about.iter().take(50).map(String::as_str));
        let mut command = self.daemon.cli.command(&words);
        command.env("SSH_CONNECTION", format!("{} 50000 {} 22", OUTSIDE.v4, HOST.v4));
        let said = cli::answer(command)?;
        ensure!([0, 2, 6].contains(&said.code), "{about:?}: {said:?}");
        self.note("limiter", &about[..about.len().min(50)], said.code == 0)
    }

    fn token(&mut self) -> Result<()> {
        let about = about(&mut self.dice);
        let (scope, client) = self.dice.of(&self.tokens);
        let who = format!("token {scope}");
        let refs: Vec<&str> = about.iter().map(String::as_str).collect();
        let (kind, time) = (self.dice.below(8), self.dice.one_in(2).then_some(Duration::from_secs(600)));
        let runtime = &self.runtime;
        // Over the link that others try to cut.
        let done = self.lab.outside.enter(|| {
            Ok(runtime.block_on(async {
                let done = match kind {
                    0 => {
                        let about = refs.iter().filter_map(|text| text.trim().parse().ok());
                        let reports: Vec<Report> =
                            about.map(|address| Report::new(address, "abuse")).collect();
                        client.report(&reports).await.map(|_| false)
                    }
                    1 => client.reload().await.map(|_| false),
                    _ => client.block(&refs, time, REASON).await.map(|_| true),
                };
                match done {
                    // Who is refused before all was sent may not get to hear it. Then the way must still be there.
                    Err(ClientError::Broken(_)) => client.lookup(HOST.v4.into()).await.map(|_| false),
                    done => done,
                }
            }))
        })?;
        match done {
            Ok(blocked) => self.note(&who, if blocked { &about } else { &[] }, true),
            Err(ClientError::Refused(problem)) if problem.kind != ProblemKind::Failed => {
                self.note(&who, &about, false)
            }
            Err(error) => bail!("{who}, {} texts: {error}", about.len()),
        }
    }

    fn datagram(&mut self) -> Result<()> {
        let category = *self.dice.of(&["abuse", "accounts", "unknown"]);
        for text in about(&mut self.dice).iter().take(5) {
            let body = json!({ "address": text, "category": category, "account": "alice", "weight": 3 });
            let frame = format!("<134>Nov 22 08:00:00 web nginx: {body}");
            // A queue that is full is a report that is lost, no more.
            let sent = self.hook.send(frame.as_bytes());
            self.note("hook", &[], sent.is_ok())?;
        }
        Ok(())
    }

    /// A list of somebody else, which is read again.
    fn list(&mut self) -> Result<()> {
        let lines: Vec<String> = (0..20).flat_map(|_| about(&mut self.dice)).collect();
        self.lab.scratch.write("feed.txt", lines.join("\n"))?;
        let reply = self.control.post("/v1/reload", &Value::Null)?;
        ensure!(reply.status < 500, "{} {}", reply.status, reply.body);
        self.note("list", &[], reply.is_ok())
    }
}

fn reports(about: &[String]) -> Vec<Value> {
    let one = |text: &String| json!({ "address": text, "category": "abuse", "account": "alice" });
    about.iter().filter(|text| text.parse::<IpAddr>().is_ok()).map(one).collect()
}

fn config(lab: &Lab) -> Config {
    let path = |name: &str| lab.scratch.path(name);
    let tables = format!(
        "[guards]\nblocks_per_minute = false\n\
         [api]\nlisten = [\"{}:9743\"]\ncertificate = {:?}\nkey = {:?}\n\
         [[policy]]\ncategory = \"abuse\"\nthreshold = 1\nwithin = \"1m\"\nblock = \"10m\"\n\
         [[policy]]\ncategory = \"accounts\"\nthreshold = 3\nwithin = \"1m\"\nblock = \"escalate\"\nper = \"account\"\n\
         [[hook]]\nname = \"web\"\nsocket = {:?}\n\
         [[list]]\nname = \"feed\"\naction = \"block\"\nfile = {:?}\n",
        HOST.v4,
        path("api.pem"),
        path("api.key"),
        path("web.sock"),
        path("feed.txt")
    );
    let protected = vec![OUTSIDE.v4.to_string(), OUTSIDE.v6.to_string()];
    Config { protected, tables, ..Config::default() }
}

/// A daemon on a host with a gateway and DNS servers.
fn started(lab: &Lab) -> Result<Daemon> {
    for (family, gateway) in ["-4", "-6"].iter().zip(GATEWAYS) {
        lab.host.ip(&format!("{family} route add default via {gateway} dev {}", HOST.interface))?;
    }
    let servers: String = RESOLVERS.iter().map(|server| format!("nameserver {server}\n")).collect();
    let servers = lab.scratch.write("resolv.conf", servers)?;
    lab.scratch.write("feed.txt", "100.63.0.1\n")?;
    let mut daemon = Daemon::prepare(lab, "limiter", &config(lab))?;
    // Keys of the top come before all sections.
    let text = fs::read_to_string(&daemon.places.config)?;
    fs::write(&daemon.places.config, format!("proxies = {PROXIES:?}\n{text}"))?;
    let directory = lab.scratch.path("");
    daemon.cli.ok(&format!("api certificate --name {} --out {}", HOST.v4, directory.display()))?;
    let script = format!("mount --bind {} /etc/resolv.conf; exec \"$0\" \"$@\"", servers.display());
    daemon.wrapper =
        ["unshare", "--mount", "--propagation", "private", "sh", "-ec", &script].map(str::to_owned).to_vec();
    daemon.restart()?;
    daemon.cli.ok(&format!("allow add {} --reason partners", PARTNERS.join(" ")))?;
    Ok(daemon)
}

fn tokens(lab: &Lab, daemon: &Daemon) -> Result<Vec<(&'static str, Client)>> {
    let pin: Pin =
        daemon.cli.ok(&format!("api pin {}", lab.scratch.path("api.pem").display()))?.trim().parse()?;
    let url = format!("https://{}:9743", HOST.v4).parse()?;
    let client = |(number, scope): (usize, &&'static str)| {
        let said = daemon.cli.ok(&format!("token create --name t{number} --scope {scope}"))?;
        let token = said.lines().find(|line| line.starts_with("lmt_")).context("no token was printed")?;
        let trust = Trust { pins: &[pin], ca: None, identity: None };
        Ok((*scope, Client::remote(Remote::new(&url, trust, Some(Token::new(token)?))?)))
    };
    SCOPES.iter().enumerate().map(client).collect()
}

#[test]
fn nobody_locks_the_managers_out() {
    let attempts = effort(2_000, 10_000);
    in_lab("danger", |lab| {
        let seed = Dice::seed();
        let sources = Sources::watched(lab)?;
        let daemon = started(lab)?;
        let hook = UnixDatagram::unbound()?;
        hook.set_nonblocking(true)?;
        hook.connect(lab.scratch.path("web.sock"))?;
        let mut callers = Callers {
            lab,
            daemon: &daemon,
            control: Control::open(&daemon.places.socket)?,
            tokens: tokens(lab, &daemon)?,
            runtime: tokio::runtime::Builder::new_current_thread().enable_all().build()?,
            hook,
            dice: Dice::new(seed),
            tried: BTreeMap::new(),
            granted: None,
        };
        let _server = Server::start(lab)?;
        let visitor = Visitor::over_v4(lab)?;
        let managers = managers();
        for attempt in 0..attempts {
            callers.attempt().with_context(|| format!("LIMITER_SEED={seed}, attempt {attempt}"))?;
            if attempt % BATCH == BATCH - 1 {
                // Else nothing would be dropped at all.
                let blocked: Vec<IpAddr> = callers.granted.take().into_iter().collect();
                sources
                    .ensure_judged(&blocked, &managers)
                    .with_context(|| format!("LIMITER_SEED={seed}, attempt {attempt}"))?;
            }
        }
        let served = visitor.stop();
        let refused: Vec<String> = callers
            .tried
            .iter()
            .map(|(who, (tried, granted))| format!("{who} {granted} of {tried}"))
            .collect();
        let blocks = daemon.cli.json("status")?["blocks"].as_u64().context("no blocks")?;
        println!(
            "{attempts} attempts, granted: {}; {blocks} prefixes are blocked; the managers got through all the time; {served}",
            refused.join(", ")
        );
        ensure!(served.failed == 0 && served.requests > 50, "{served}: {:?}", served.problem);
        ensure!(blocks > attempts as u64 / 4, "hardly anything was granted: the test proves little");
        let blocked = daemon.cli.ok("block list --json")?;
        let claims = blocked.lines().map(|line| Ok(serde_json::from_str::<Value>(line)?));
        let claims = claims.collect::<Result<Vec<_>>>()?;
        let found =
            claims.iter().filter_map(|claim| claim["prefix"].as_str()).find(|text| must_be_refused(text));
        ensure!(found.is_none(), "{found:?} is in the list");
        Ok(())
    });
}

/// An operator insists on it, and is gone: everybody gets back in by waiting, also if the daemon dies meanwhile.
#[test]
fn what_is_forced_and_not_confirmed_comes_back() {
    let rounds = effort(4, 20);
    in_lab("forced", |lab| {
        let seed = Dice::seed();
        let mut dice = Dice::new(seed);
        let sources = Sources::watched(lab)?;
        let mut daemon = started(lab)?;
        let _server = Server::start(lab)?;
        let managers = managers();
        sources.ensure_judged(&[], &managers)?;
        // The partners are allowed, whatever is blocked.
        let allowed: Vec<Prefix> = PARTNERS.iter().filter_map(|text| text.parse().ok()).collect();
        let is_allowed = |address: &IpAddr| {
            let host = Prefix::host(Address::from(*address));
            allowed.iter().any(|allowed| allowed.covers(host))
        };
        let (partners, others): (Vec<IpAddr>, Vec<IpAddr>) =
            managers.iter().partition(|address| is_allowed(address));
        for round in 0..rounds {
            let wide = ["0.0.0.0/0", "::/0", "128.0.0.0/1", "10.0.0.0/7"];
            let hosts = others.iter().map(ToString::to_string);
            let mut all: Vec<String> = wide.into_iter().map(str::to_owned).chain(hosts).collect();
            all.truncate(2 + dice.below(all.len()));
            let line = format!("block add {} --force --confirm {}s", all.join(" "), 1 + dice.below(3));
            daemon.cli.ok(&line)?;
            sources.ensure_judged(&others, &partners).with_context(|| line.clone())?;
            if round % 4 != 3 {
                daemon.kill()?;
                sources.ensure_judged(&others, &partners).context("killed")?;
                daemon.restart()?;
            }
            let mut control = Control::open(&daemon.places.socket)?;
            wait::until_true("it is rolled back", SOON, || {
                Ok(control.get("/v1/changes")?.body["changes"].as_array().is_some_and(Vec::is_empty))
            })?;
            sources.ensure_judged(&[], &managers).with_context(|| format!("LIMITER_SEED={seed}: {line}"))?;
            ensure!(daemon.cli.ok("block list --json")?.lines().count() == 1, "something is left of {line}");
        }
        let trail = fs::read_to_string(daemon.places.state.join("audit/audit.jsonl"))?;
        let rollbacks = trail.lines().filter(|line| line.contains("\"block.add.rollback\"")).count();
        ensure!(rollbacks == rounds, "{rollbacks} rollbacks are on record: {trail}");
        daemon
            .cli
            .ok(&format!("audit verify --directory {}", daemon.places.state.join("audit").display()))?;
        let visitor = Visitor::over_v4(lab)?;
        wait::until_true("pages are served", SOON, || Ok(visitor.served().requests > 20))?;
        let served = visitor.stop();
        ensure!(served.failed == 0, "{served}: {:?}", served.problem);
        println!("{rounds} times everybody was cut off, and back when nobody confirmed it; {served}");
        Ok(())
    });
}
