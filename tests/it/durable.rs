//! Acknowledged means that it survives: the daemon is killed at random moments while several callers change the lists.
//!
//! Each caller speaks for an owner of its own, of the same prefixes as the others, and knows what must be: what was
//! acknowledged, and of its last request, whose answer never came, all of it or nothing. What has to be confirmed and was
//! not must be gone when its time is over, wherever the daemon was in between.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use limiter_tests::lab::HOST;
use limiter_tests::{Config, Control, Daemon, Dice, Sources, effort, in_lab, wait};
use nix::sys::signal::{Signal, kill};
use serde_json::{Value, json};

const OWNERS: [&str; 4] = ["operator", "fail2ban:sshd", "crowdsec", "app:shop"];
const SUBJECTS: usize = 300;
const SOON: Duration = Duration::from_secs(10);
/// How much later than its time a rollback may come while the daemon runs.
const LATE: Duration = Duration::from_secs(2);
/// As long as listing the claims and sending a frame for each may take.
const CHECKED_WITHIN: Duration = Duration::from_secs(1);

/// A prefix that is blocked and unblocked, and an address in it. They do not overlap.
fn subject(number: usize) -> (String, IpAddr) {
    let number = u16::try_from(number).expect("few subjects");
    let [high, low] = number.to_be_bytes();
    let (prefix, source) = match number % 8 {
        5 => (format!("2001:db8:{number:x}::/48"), format!("2001:db8:{number:x}:1::7")),
        6 => (format!("2001:db8:{number:x}::7"), format!("2001:db8:{number:x}::7")),
        7 => (format!("100.{}.{low}.16/28", 96 + high), format!("100.{}.{low}.23", 96 + high)),
        _ => (format!("100.{}.{low}.7", 64 + high), format!("100.{}.{low}.7", 64 + high)),
    };
    (prefix, source.parse().expect("an address"))
}

/// A block, by the number in its reason; `None`: no block.
type Word = Option<u32>;

/// What a caller was told of a subject.
#[derive(Debug, Clone, Default, PartialEq)]
struct Told {
    word: Word,
    /// What it will be unless that is confirmed.
    back: Option<Back>,
}

#[derive(Debug, Clone, PartialEq)]
struct Back {
    word: Word,
    /// The change; `None` if the answer never came.
    change: Option<String>,
    /// Not before, and not after.
    from: Instant,
    to: Instant,
}

impl Told {
    /// What it may be at some time between `start` and `end`.
    fn words(&self, start: Instant, end: Instant) -> Vec<Word> {
        match &self.back {
            None => vec![self.word],
            Some(back) if end < back.from => vec![self.word],
            Some(back) if start > back.to => vec![back.word],
            Some(back) => vec![self.word, back.word],
        }
    }
}

/// A request that was not answered: these are as before, or all like this.
#[derive(Debug, Clone)]
struct Doubt {
    what: String,
    after: BTreeMap<usize, Told>,
}

/// Somebody who changes the lists, and takes note.
struct Caller {
    owner: &'static str,
    dice: Dice,
    tags: u32,
    told: Vec<Told>,
    doubt: Option<Doubt>,
    /// How many requests of each kind were acknowledged.
    done: BTreeMap<&'static str, usize>,
}

impl Caller {
    fn new(owner: &'static str, seed: u64) -> Self {
        let told = vec![Told::default(); SUBJECTS];
        Self { owner, dice: Dice::new(seed), tags: 0, told, doubt: None, done: BTreeMap::new() }
    }

    /// Up to `most` subjects of those that `fit`.
    fn some(&mut self, most: usize, fit: impl Fn(&Told) -> bool) -> BTreeSet<usize> {
        let wanted = if self.dice.one_in(2) { 1 } else { 1 + self.dice.below(most) };
        let numbers = (0..4 * wanted).map(|_| self.dice.below(SUBJECTS)).collect::<Vec<_>>();
        numbers.into_iter().filter(|number| fit(&self.told[*number])).take(wanted).collect()
    }

    /// Asks for one thing after another until nobody answers.
    fn run(&mut self, mut control: Control<UnixStream>, acknowledged: &AtomicUsize) -> Result<()> {
        loop {
            let answered = match self.dice.below(16) {
                0..=5 => self.add(&mut control)?,
                6..=9 => self.remove(&mut control)?,
                10 => self.import(&mut control)?,
                11..=12 => self.add_to_confirm(&mut control)?,
                13 => self.remove_to_confirm(&mut control)?,
                _ => self.confirm(&mut control)?,
            };
            if !answered {
                return Ok(());
            }
            acknowledged.fetch_add(1, Ordering::SeqCst);
        }
    }

    fn add(&mut self, control: &mut Control<UnixStream>) -> Result<bool> {
        let about = self.some(40, |_| true);
        let word = self.next_word();
        let body = json!({ "prefixes": prefixes(&about), "reason": reason(word), "owner": self.owner,
            "seconds": if self.dice.one_in(2) { json!(3600) } else { Value::Null } });
        self.change(control, "add", "/v1/blocks", &body, about, |_| Told { word, back: None })
    }

    fn remove(&mut self, control: &mut Control<UnixStream>) -> Result<bool> {
        let about = self.some(40, |told| told.word.is_some());
        let body = json!({ "prefixes": prefixes(&about), "owner": self.owner });
        self.change(control, "remove", "/v1/blocks/remove", &body, about, |_| Told::default())
    }

    fn import(&mut self, control: &mut Control<UnixStream>) -> Result<bool> {
        let about = self.some(80, |_| true);
        if about.is_empty() {
            return Ok(true);
        }
        let word = self.next_word();
        let query = format!("?owner={}&reason={}", self.owner, reason(word).unwrap_or_default());
        let answer = control.import(&query, &prefixes(&about).join("\n"));
        self.note("import", &about, answer, |_, _| Told { word, back: None })
    }

    fn add_to_confirm(&mut self, control: &mut Control<UnixStream>) -> Result<bool> {
        let about = self.some(20, |told| told.back.is_none());
        let word = self.next_word();
        let seconds = 1 + self.dice.below(3) as u64;
        let body = json!({ "prefixes": prefixes(&about), "reason": reason(word), "owner": self.owner,
            "confirm_seconds": seconds });
        let back = self.back(seconds);
        self.change(control, "add --confirm", "/v1/blocks", &body, about, |told| Told {
            word,
            back: Some(Back { word: told.word, ..back.clone() }),
        })
    }

    fn remove_to_confirm(&mut self, control: &mut Control<UnixStream>) -> Result<bool> {
        let about = self.some(20, |told| told.back.is_none() && told.word.is_some());
        let seconds = 1 + self.dice.below(3) as u64;
        let body = json!({ "prefixes": prefixes(&about), "owner": self.owner, "confirm_seconds": seconds });
        let back = self.back(seconds);
        self.change(control, "remove --confirm", "/v1/blocks/remove", &body, about, |told| Told {
            word: None,
            back: Some(Back { word: told.word, ..back.clone() }),
        })
    }

    fn confirm(&mut self, control: &mut Control<UnixStream>) -> Result<bool> {
        let changes: Vec<&Back> = self.told.iter().filter_map(|told| told.back.as_ref()).collect();
        let Some(back) = changes.get(self.dice.below(changes.len().max(1))) else { return Ok(true) };
        let (Some(change), from) = (back.change.clone(), back.from) else { return Ok(true) };
        let answer = control.post(&format!("/v1/changes/{change}/confirm"), &Value::Null);
        let of = |told: &Told| told.back.as_ref().is_some_and(|back| back.change.as_ref() == Some(&change));
        let about: BTreeSet<usize> = (0..SUBJECTS).filter(|number| of(&self.told[*number])).collect();
        match &answer {
            // Rolled back already, which has to be seen.
            Ok(reply) if reply.status == 404 => {
                ensure!(Instant::now() >= from, "change {change} is gone before its time");
                for number in about {
                    if let Some(back) = &mut self.told[number].back {
                        back.to = back.to.min(Instant::now());
                    }
                }
                Ok(true)
            }
            _ => self.note("confirm", &about, answer, |told, _| Told { back: None, ..told.clone() }),
        }
    }

    fn next_word(&mut self) -> Word {
        self.tags += 1;
        Some(self.tags)
    }

    /// What has to be confirmed in so many seconds from now, but for what was before.
    fn back(&self, seconds: u64) -> Back {
        let from = Instant::now() + Duration::from_secs(seconds);
        Back { word: None, change: None, from, to: from }
    }

    fn change(
        &mut self,
        control: &mut Control<UnixStream>,
        what: &'static str,
        path: &str,
        body: &Value,
        about: BTreeSet<usize>,
        after: impl Fn(&Told) -> Told,
    ) -> Result<bool> {
        if about.is_empty() {
            return Ok(true);
        }
        let sent = Instant::now();
        let answer = control.post(path, body);
        let took = sent.elapsed();
        self.note(what, &about, answer, |told, change| {
            let mut after = after(told);
            if let Some(back) = &mut after.back {
                back.change = change;
                back.to = back.from + took + LATE;
            }
            after
        })
    }

    /// Takes note of an answer, or that there was none. False in that case.
    fn note(
        &mut self,
        what: &'static str,
        about: &BTreeSet<usize>,
        answer: Result<limiter_tests::control::Reply>,
        after: impl Fn(&Told, Option<String>) -> Told,
    ) -> Result<bool> {
        let all = |caller: &Self, change: Option<String>| -> BTreeMap<usize, Told> {
            about.iter().map(|number| (*number, after(&caller.told[*number], change.clone()))).collect()
        };
        match answer {
            Err(_) => {
                self.doubt = Some(Doubt { what: what.to_owned(), after: all(self, None) });
                Ok(false)
            }
            Ok(reply) if reply.is_ok() => {
                let change = reply.body["change"].as_str().map(str::to_owned);
                for (number, told) in all(self, change) {
                    self.told[number] = told;
                }
                *self.done.entry(what).or_default() += 1;
                Ok(true)
            }
            // Too many changes that are not confirmed, or imports: nothing was changed.
            Ok(reply)
                if reply.problem() == "invalid" && reply.body.to_string().contains("not confirmed yet") =>
            {
                Ok(true)
            }
            Ok(reply) if reply.status == 503 => Ok(true),
            Ok(reply) => bail!("{what} of {}: {} {}", self.owner, reply.status, reply.body),
        }
    }

    /// Compares what it was told with what is listed, and settles what is in doubt. `start` is a moment before the listing,
    /// `waiting` the changes that were not confirmed then.
    fn settle(&mut self, listed: &Listed, waiting: &BTreeSet<String>, start: Instant) -> Result<()> {
        let end = Instant::now();
        let mut outcome = BTreeSet::new();
        if let Some(Doubt { what, after }) = self.doubt.take() {
            for (number, after) in after {
                let word = listed.word(self.owner, number);
                let before = &self.told[number];
                let as_before = before.words(start, end).contains(&word);
                let as_after = after.words(start, end).contains(&word);
                // A confirmation shows by the change being gone.
                let waits = before.back.as_ref().and_then(|back| back.change.as_ref());
                let done = match waits.filter(|_| what == "confirm") {
                    Some(change) => Some(!waiting.contains(change)),
                    None if as_before && as_after => None,
                    None => Some(as_after),
                };
                ensure!(
                    as_before || as_after,
                    "{what} of {} was not answered; {} was {before:?}, could be {after:?}, and is {word:?}",
                    self.owner,
                    subject(number).0
                );
                outcome.extend(done);
                let mut told = if done == Some(false) { before.clone() } else { after };
                if told.word != word || done.is_none() {
                    told = Told { word, back: None };
                }
                self.told[number] = told;
            }
            ensure!(outcome.len() <= 1, "{what} of {} was done in part", self.owner);
        }
        for (number, told) in self.told.iter_mut().enumerate() {
            let word = listed.word(self.owner, number);
            let may = told.words(start, end);
            ensure!(
                may.contains(&word),
                "{} of {}: told {told:?}, so it may be {may:?}, and is {word:?}",
                subject(number).0,
                self.owner
            );
            // What is rolled back, or may be by now, is settled by what is there.
            if told.back.as_ref().is_some_and(|back| word == back.word || start > back.to) {
                *told = Told { word, back: None };
            }
        }
        Ok(())
    }
}

fn prefixes(about: &BTreeSet<usize>) -> Vec<String> {
    about.iter().map(|number| subject(*number).0).collect()
}

fn reason(word: Word) -> Option<String> {
    word.map(|word| format!("n{word}"))
}

/// All blocks, by owner and prefix.
struct Listed(BTreeMap<(String, String), Word>);

impl Listed {
    fn read(control: &mut Control<UnixStream>) -> Result<Self> {
        let mut claims = BTreeMap::new();
        for claim in control.lines("/v1/blocks")? {
            let field = |name: &str| claim[name].as_str().unwrap_or_default().to_owned();
            let word = field("reason").strip_prefix('n').and_then(|word| word.parse().ok());
            ensure!(word.is_some(), "nobody asked for {claim}");
            claims.insert((field("owner"), field("prefix")), word);
        }
        Ok(Self(claims))
    }

    fn word(&self, owner: &str, number: usize) -> Word {
        let key = (owner.to_owned(), subject(number).0);
        self.0.get(&key).copied().flatten()
    }
}

/// Sends a packet of each subject, and looks which get through. False if that took so long that nobody knows what must.
fn ensure_enforced(sources: &Sources<'_>, callers: &[Caller]) -> Result<bool> {
    let (start, end) = (Instant::now(), Instant::now() + CHECKED_WITHIN);
    let (mut blocked, mut free) = (Vec::new(), Vec::new());
    for number in 0..SUBJECTS {
        let words = |caller: &Caller| caller.told[number].words(start, end);
        if callers.iter().any(|caller| !words(caller).contains(&None)) {
            blocked.push(subject(number).1);
        } else if callers.iter().all(|caller| words(caller) == [None]) {
            free.push(subject(number).1);
        }
    }
    let judged = sources.ensure_judged(&blocked, &free);
    if Instant::now() > end { Ok(false) } else { judged.map(|()| true) }
}

/// The changes that wait for being confirmed.
fn waiting(control: &mut Control<UnixStream>) -> Result<BTreeSet<String>> {
    let changes = control.get("/v1/changes")?.body;
    let changes = changes["changes"].as_array().context("no changes")?;
    Ok(changes.iter().filter_map(|change| change["id"].as_str().map(str::to_owned)).collect())
}

/// Lets a random time pass.
fn pass(dice: &mut Dice, most: Duration) {
    let end = Instant::now() + most.mul_f64(dice.below(1 << 20) as f64 / f64::from(1 << 20));
    while Instant::now() < end {
        std::hint::spin_loop();
    }
}

#[test]
fn what_was_acknowledged_survives_kills() {
    let kills = effort(20, 200);
    in_lab("durable", |lab| {
        let seed = Dice::seed();
        let mut dice = Dice::new(seed);
        let mut callers: Vec<Caller> = OWNERS.iter().map(|owner| Caller::new(owner, dice.word())).collect();
        let sources = Sources::watched(lab)?;
        let mut daemon = Daemon::start(lab, &Config::default())?;
        let (mut slowest, mut enforced, mut in_doubt) = (Duration::ZERO, 0, BTreeMap::new());
        for round in 0..kills {
            let pid = daemon.pid()?;
            let acknowledged = AtomicUsize::new(0);
            let goal = dice.below(150);
            std::thread::scope(|scope| -> Result<()> {
                let mut running = Vec::new();
                for caller in &mut callers {
                    let control = Control::open(&daemon.places.socket)?;
                    running.push(scope.spawn(|| caller.run(control, &acknowledged)));
                }
                let ended = |running: &[std::thread::ScopedJoinHandle<'_, _>]| {
                    running.iter().any(std::thread::ScopedJoinHandle::is_finished)
                };
                let reached = wait::until_true("requests are answered", SOON, || {
                    Ok(acknowledged.load(Ordering::SeqCst) >= goal || ended(&running))
                });
                pass(&mut dice, Duration::from_millis(5));
                kill(pid, Signal::SIGKILL)?;
                for running in running {
                    running.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
                }
                reached.map(drop)
            })
            .with_context(|| format!("round {round}"))?;
            daemon.wait_ended()?;
            if dice.one_in(4) {
                // Once more, in the middle of its start.
                daemon.launch()?;
                pass(&mut dice, Duration::from_millis(150));
                daemon.kill()?;
            }
            slowest = slowest.max(daemon.restart()?);
            let mut control = Control::open(&daemon.places.socket)?;
            let start = Instant::now();
            let waiting = waiting(&mut control)?;
            let listed = Listed::read(&mut control)?;
            for caller in &mut callers {
                if let Some(doubt) = &caller.doubt {
                    *in_doubt.entry(doubt.what.clone()).or_insert(0) += 1;
                }
                caller.settle(&listed, &waiting, start).with_context(|| format!("round {round}"))?;
            }
            let whole = ensure_enforced(&sources, &callers);
            enforced += usize::from(whole.with_context(|| format!("round {round}"))?);
        }
        // Nobody confirms any more.
        let mut control = Control::open(&daemon.places.socket)?;
        wait::until_true(
            "nothing waits for being confirmed",
            SOON,
            || Ok(waiting(&mut control)?.is_empty()),
        )?;
        let listed = Listed::read(&mut control)?;
        let later = Instant::now() + SOON;
        for caller in &mut callers {
            for (number, told) in caller.told.iter().enumerate() {
                let (is, must) = (listed.word(caller.owner, number), told.words(later, later));
                ensure!(must == [is], "{} of {}: {is:?}, not {must:?}", subject(number).0, caller.owner);
            }
        }
        let mut done = BTreeMap::new();
        for (what, count) in callers.iter().flat_map(|caller| &caller.done) {
            *done.entry(what).or_insert(0) += count;
        }
        println!(
            "killed {kills} times; acknowledged: {done:?}; not answered: {in_doubt:?}; {} claims at the end; the kernel was \
             asked {enforced} times for {SUBJECTS} sources; slowest restart {slowest:.0?}",
            listed.0.len()
        );
        ensure!(enforced > kills / 2, "too slow to see what is enforced");
        ensure!(daemon.cli.counter(HOST.interface, "blocked")? > 0);
        Ok(())
    });
}
