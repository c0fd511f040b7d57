//! Tables that grow, and lists that are replaced, while packets are judged.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use limiter_common::abi::{ABI_VERSION, Entry, Limits};
use limiter_common::{Address, Nanos, Prefix};
use limiter_tests::lab::HOST;
use limiter_tests::netns::output;
use limiter_tests::traffic::{Flood, Generator, same};
use limiter_tests::{Config, Daemon, Dice, Lab, frames, in_lab};
use limiter_user::config::{Capacity, Interface, Mode};
use limiter_user::dataplane::Change;
use limiter_user::dataplane::kernel::OpenOptions;

use crate::dataplane::opened;

const BLOCKED: [&str; 3] = ["198.51.100.7", "203.0.113.9", "2001:db8:bad::7"];

fn options(lab: &Lab) -> OpenOptions {
    let capacity = Capacity {
        addresses_v4: 1 << 20,
        addresses_v6: 1 << 20,
        prefixes_v4: 1 << 16,
        prefixes_v6: 1 << 16,
        sources: 64,
    };
    let pins_directory = lab.scratch.bpffs().join("limiter");
    OpenOptions { pins_directory, capacity, log_drops: false, replace: false }
}

fn set(lab: &Lab) -> PathBuf {
    options(lab).pins_directory.join(format!("v{ABI_VERSION}"))
}

fn interface() -> Interface {
    Interface {
        name: HOST.interface.to_owned(),
        mode: Mode::Native,
        limits: Limits::NONE,
        limited: false,
        rules: Vec::new(),
    }
}

fn prefix(text: &str) -> Prefix {
    text.parse().unwrap_or_else(|error| panic!("{text}: {error}"))
}

fn blocked(prefix: Prefix) -> Change {
    Change { prefix, entry: Entry { block_until: Nanos::NEVER.0, allow_until: 0 } }
}

/// The `number`th of many addresses: every other one IPv6, each in another /64.
fn nth(number: u32) -> Address {
    if number.is_multiple_of(2) {
        Address::from(Ipv4Addr::from(0x6440_0000 + number / 2 * 3))
    } else {
        let [a, b, c, d] = number.to_be_bytes().map(u16::from);
        Address::from(Ipv6Addr::new(0x2001, 0xdb8, a << 8 | b, c << 8 | d, 0, 0, 0, 1))
    }
}

fn many(numbers: std::ops::Range<u32>) -> Vec<Change> {
    numbers.map(|number| blocked(Prefix::host(nth(number)))).collect()
}

fn attack() -> Result<Vec<Generator>> {
    BLOCKED.iter().map(|source| Ok(same(frames::udp(source.parse()?, 80)))).collect()
}

/// What bpftool says of a pin.
fn shown(lab: &Lab, kind: &str, pin: &Path) -> Result<serde_json::Value> {
    let mut command = lab.host.command("bpftool");
    command.args(["--json", kind, "show", "pinned"]).arg(pin);
    Ok(serde_json::from_str(&output(command, None)?)?)
}

fn entries(lab: &Lab, map: &str) -> Result<u64> {
    shown(lab, "map", &set(lab).join(map))?["max_entries"].as_u64().context("no size")
}

/// Names of pins that wait for another place.
fn spare(lab: &Lab) -> Result<Vec<String>> {
    let names = fs::read_dir(set(lab))?.map(|pin| Ok(pin?.file_name().to_string_lossy().into_owned()));
    let names: Vec<String> = names.collect::<Result<_>>()?;
    Ok(names.into_iter().filter(|name| name.starts_with(':')).collect())
}

#[test]
fn tables_grow_under_traffic() {
    const MANY: u32 = 400_000;
    in_lab("grow", |lab| {
        lab.witness.block(&BLOCKED)?;
        lab.host.enter(|| {
            let dataplane = opened(&options(lab))?;
            let mut writer = dataplane.writer();
            let first = BLOCKED.map(|text| blocked(prefix(text)));
            writer.apply(&first)?;
            let mut protection = dataplane.protection()?;
            let before = protection.protect(&interface())?;
            let pin = set(lab).join("links").join(HOST.interface);
            let link = shown(lab, "link", &pin)?["id"].clone();
            let (small_v4, small_v6) = (entries(lab, "exact_v4")?, entries(lab, "exact_v6")?);

            let flood = Flood::start(lab, 5_000, attack()?)?;
            for start in (0..MANY).step_by(8_000) {
                writer.apply(&many(start..start + 8_000))?;
            }
            let sent = flood.stop()?;
            let passed = lab.witness.blocked()?;
            ensure!(sent.frames > 500 && passed == 0, "{passed} of {} packets got through", sent.frames);

            let (v4, v6) = (entries(lab, "exact_v4")?, entries(lab, "exact_v6")?);
            println!(
                "{} packets sent; {small_v4} buckets became {v4}, and {small_v6} became {v6}",
                sent.frames
            );
            ensure!(v4 > 4 * small_v4 && v6 > 4 * small_v6, "the tables did not grow");
            let now = protection.attached(HOST.interface)?.context("detached")?;
            ensure!(!now.superseded && protection.put_there(&now), "{now:?} has the former tables");
            ensure!(now.program_id != before.program_id, "the program was not replaced");
            ensure!(shown(lab, "link", &pin)?["id"] == link, "the link is another one");
            ensure!(spare(lab)?.is_empty(), "pins are left over: {:?}", spare(lab)?);
            drop((writer, protection, dataplane));

            // All of it is there at the next start, which takes the tables as they are.
            let dataplane = opened(&options(lab))?;
            let mut installed: Vec<Prefix> =
                dataplane.writer().installed()?.iter().map(|change| change.prefix).collect();
            let mut expected: Vec<Prefix> =
                first.iter().chain(&many(0..MANY)).map(|change| change.prefix).collect();
            installed.sort_unstable();
            expected.sort_unstable();
            ensure!(installed == expected, "{} entries are left of {}", installed.len(), expected.len());
            ensure!(entries(lab, "exact_v4")? == v4, "made anew");
            Ok(())
        })
    });
}

#[test]
fn tables_grow_ahead_of_a_list() {
    const MANY: u32 = 200_000;
    in_lab("growahead", |lab| {
        lab.host.enter(|| {
            let dataplane = opened(&options(lab))?;
            let mut writer = dataplane.writer();
            let mut protection = dataplane.protection()?;
            protection.protect(&interface())?;
            let sizes = || Ok::<_, anyhow::Error>([entries(lab, "exact_v4")?, entries(lab, "exact_v6")?]);
            let small = sizes()?;
            let half = MANY as usize / 2;
            writer.prepare(half, half);
            let ready = sizes()?;
            ensure!(ready[0] > small[0] && ready[1] > small[1], "{small:?} became {ready:?}");
            let now = protection.attached(HOST.interface)?.context("detached")?;
            ensure!(!now.superseded && protection.put_there(&now), "{now:?} has the former tables");
            for start in (0..MANY).step_by(8_000) {
                writer.apply(&many(start..start + 8_000))?;
            }
            // The same list once more needs no more, nor does a short one.
            writer.prepare(half, half);
            writer.prepare(7, 7);
            let after = sizes()?;
            ensure!(after == ready, "{ready:?} became {after:?}");
            Ok(())
        })
    });
}

/// Both states in which a death can leave a growing table: before the links are updated, and before the pin is renamed.
#[test]
fn a_death_while_a_table_grows_loses_nothing() {
    in_lab("growdeath", |lab| {
        lab.witness.block(&BLOCKED)?;
        lab.host.enter(|| {
            let first = BLOCKED.map(|text| blocked(prefix(text)));
            let (pin, spare_pin) = (set(lab).join("exact_v4"), set(lab).join(":exact_v4"));
            let dataplane = opened(&options(lab))?;
            let mut writer = dataplane.writer();
            writer.apply(&first)?;
            let mut protection = dataplane.protection()?;
            protection.protect(&interface())?;
            let former = lab.scratch.bpffs().join("former");
            fs::hard_link(&pin, &former)?;
            writer.apply(&many(0..100_000))?;
            drop((writer, protection, dataplane));
            fs::rename(&pin, &spare_pin)?;
            fs::rename(&former, &pin)?;

            let flood = Flood::start(lab, 5_000, attack()?)?;
            let dataplane = opened(&options(lab))?;
            ensure!(spare(lab)?.is_empty(), "{:?}", spare(lab)?);
            let mut protection = dataplane.protection()?;
            let running = protection.attached(HOST.interface)?.context("detached")?;
            ensure!(running.superseded, "it has a table that nobody writes any more, which is not told");
            // As the enforcer does: what is missing is brought back from the store.
            dataplane.writer().apply(&first)?;
            dataplane.writer().apply(&many(0..100_000))?;
            let now = protection.protect(&interface())?;
            ensure!(!now.superseded && protection.attached(HOST.interface)? == Some(now), "not replaced");
            let listed = dataplane.writer().installed()?.len();
            ensure!(listed == 100_000 + first.len(), "{listed}");
            let sent = flood.stop()?;
            let passed = lab.witness.blocked()?;
            ensure!(passed == 0, "{passed} of {} packets got through", sent.frames);
            Ok(())
        })
    });
}

/// Killed at whatever moment of an import that makes the tables grow: no packet of a blocked source gets through, and the
/// link stays.
#[test]
fn killed_while_tables_grow() {
    const ROUNDS: usize = 16;
    in_lab("growkill", |lab| {
        let seed = Dice::seed();
        let mut dice = Dice::new(seed);
        lab.witness.block(&BLOCKED)?;
        let text: String = (0..80_000).map(|number| format!("{}\n", IpAddr::from(nth(number)))).collect();
        let file = lab.scratch.write("many.txt", text)?;
        let (mut longest, mut grown, mut cut_off) = (Duration::ZERO, 0, 0);
        for round in 0..ROUNDS {
            // One of its own for each round, whose tables are small.
            let name = format!("round{round}");
            let mut daemon = Daemon::prepare(lab, &name, &Config::default())?;
            daemon.restart()?;
            daemon.cli.ok(&format!("block add {}", BLOCKED.join(" ")))?;
            let pins = daemon.places.pins.join(format!("v{ABI_VERSION}"));
            let link = |pins: &Path| shown(lab, "link", &pins.join("links").join(HOST.interface));
            let before = link(&pins)?["id"].clone();
            let passed = lab.witness.blocked()?;
            let flood = Flood::start(lab, 5_000, attack()?)?;
            let mut import = daemon.cli.command(&["block", "import", &file.display().to_string()]).spawn()?;
            let started = Instant::now();
            if round == 0 {
                // Not killed: it tells how long it takes.
                ensure!(import.wait()?.success(), "the import failed");
                longest = started.elapsed();
            }
            let moment = longest.mul_f64(dice.below(1_000) as f64 / 1_000.0);
            while started.elapsed() < moment {
                std::hint::spin_loop();
            }
            daemon.kill()?;
            import.wait()?;
            cut_off += usize::from(pins.join(":exact_v4").exists() || pins.join(":exact_v6").exists());
            daemon.restart()?;
            let sent = flood.stop()?;
            let passed = lab.witness.blocked()? - passed;
            let what = format!("LIMITER_SEED={seed}, round {round}, killed after {moment:.1?}");
            ensure!(passed == 0, "{what}: {passed} of {} packets got through", sent.frames);
            ensure!(link(&pins)?["id"] == before, "{what}: another link");
            let status = daemon.cli.json("status")?;
            ensure!(status["not_in_force"] == 0, "{what}: {status}");
            let map = shown(lab, "map", &pins.join("exact_v4"))?;
            grown += usize::from(map["max_entries"].as_u64() > Some(1 << 12));
            daemon.cli.ok("detach")?;
        }
        println!(
            "LIMITER_SEED={seed}: killed {ROUNDS} times within {longest:.1?}: {grown} times the tables had grown, {cut_off} \
             times they were about to"
        );
        ensure!(grown > 0, "no table has grown");
        Ok(())
    });
}

/// A list of a million addresses is replaced by another one. What is in both is never let through; what is in one is
/// judged by one of them.
#[test]
fn a_list_of_a_million_is_replaced_under_traffic() {
    const HALF: u32 = 500_000;
    in_lab("replace", |lab| {
        let address =
            |number: u32| Ipv4Addr::from(0x6440_0000 + number.wrapping_mul(2_654_435_761) % (1 << 22) * 7);
        let text = |numbers: std::ops::Range<u32>| -> String {
            let mut all: Vec<Ipv4Addr> = numbers.map(address).collect();
            all.sort_unstable();
            all.dedup();
            all.iter().map(|address| format!("{address}\n")).collect()
        };
        let file = lab.scratch.write("drop.txt", text(0..2 * HALF))?;
        let tables = format!("[[list]]\nname = \"drop\"\naction = \"block\"\nfile = {file:?}\n");
        let daemon = Daemon::start(lab, &Config { tables, ..Config::default() })?;
        let in_both: Vec<Ipv4Addr> = (0..200).map(|n| address(HALF + n * 2_003)).collect();
        let texts: Vec<String> = in_both.iter().map(ToString::to_string).collect();
        lab.witness.block(&texts.iter().map(String::as_str).collect::<Vec<_>>())?;
        let mut turn = 0;
        let generator: Generator = Box::new(move |next| {
            turn += 1;
            *next = frames::udp(in_both[turn % in_both.len()].into(), 80);
        });
        let flood = Flood::start(lab, 20_000, vec![generator])?;
        for round in 0..4 {
            let range = if round % 2 == 0 { HALF..3 * HALF } else { 0..2 * HALF };
            fs::write(&file, text(range))?;
            daemon.cli.ok("reload")?;
            let passed = lab.witness.blocked()?;
            ensure!(passed == 0, "round {round}: {passed} packets of addresses in both lists got through");
        }
        let sent = flood.stop()?;
        println!("{} packets sent while the list was replaced 4 times, 0 passed", sent.frames);
        ensure!(sent.frames > 1_000, "only {} packets were sent", sent.frames);
        let (gone, stays) = (address(2 * HALF + 77), address(77));
        let blocked = |address: Ipv4Addr| {
            Ok::<_, anyhow::Error>(daemon.cli.run(&["block", "test", &address.to_string()])?.code)
        };
        ensure!(blocked(stays)? == 0, "{stays} is not blocked");
        ensure!(blocked(gone)? == 5, "{gone} is blocked still");
        Ok(())
    });
}

/// What may be said of an address at the moment: by entries that are certainly in force, and by those whose end is too
/// near to tell.
fn verdicts(model: &[(Prefix, Entry)], address: Address, now: Nanos) -> Vec<bool> {
    const NEAR: u64 = 60_000_000;
    let listed = model.iter().filter(|(prefix, _)| prefix.contains(address));
    let entry = listed.fold(Entry::NONE, |all, (_, entry)| all.union(entry.rounded()));
    let passes = |at: Nanos| !entry.blocks(at) || entry.allows(at);
    let (early, late) = (Nanos(now.0.saturating_sub(NEAR)), Nanos(now.0 + NEAR));
    let mut possible = vec![passes(early), passes(now), passes(late)];
    possible.dedup();
    possible
}

fn now() -> Nanos {
    let time = nix::time::clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC).expect("it always works");
    Nanos(time.tv_sec().unsigned_abs() * 1_000_000_000 + time.tv_nsec().unsigned_abs())
}

/// Few bits vary, so that prefixes nest; the rest of the table is full of others.
fn some_address(dice: &mut Dice) -> Address {
    let mut byte = |mask: u8| dice.byte() & mask;
    if byte(1) == 0 {
        Address::V4([198, 51, byte(3), byte(0x87)])
    } else {
        let mut bytes = [0; 16];
        (bytes[0], bytes[1], bytes[5], bytes[7], bytes[8], bytes[15]) =
            (0x20, 1, byte(1), byte(3), byte(0x80), byte(7));
        Address::V6(bytes)
    }
}

fn some_prefix(dice: &mut Dice) -> Prefix {
    let address = some_address(dice);
    let lengths: &[u8] = match address {
        Address::V4(_) => &[0, 8, 15, 16, 22, 23, 24, 25, 31, 32, 32, 32, 32],
        Address::V6(_) => &[0, 16, 32, 47, 48, 63, 64, 64, 65, 127, 128, 128, 128],
    };
    Prefix::new(address, *dice.of(lengths)).expect("not longer than the address")
}

fn some_entry(dice: &mut Dice, prefix: Prefix) -> Entry {
    let mut until = |never: usize| match dice.below(10) {
        n if n < never => Nanos::NEVER.0,
        n if n < 8 => 0,
        n => now().0 + (n as u64 - 7) * 1_500_000_000,
    };
    let block_until = until(6);
    // Else what is sent meanwhile would be allowed, too.
    let allow_until = if prefix.length() == 0 { 0 } else { until(1) };
    Entry { block_until, allow_until }
}

/// Random changes, growth among them, under traffic: each verdict of the program that is on the interface is what a plain
/// list of entries says.
#[test]
fn every_verdict_is_that_of_a_plain_model() {
    const STEPS: u32 = 3_000;
    in_lab("model", |lab| {
        let seed = Dice::seed();
        let mut dice = Dice::new(seed);
        lab.witness.block(&["203.0.113.9"])?;
        lab.host.enter(|| {
            let dataplane = opened(&options(lab))?;
            let mut writer = dataplane.writer();
            let constant = blocked(prefix("203.0.113.9"));
            writer.apply(&[constant])?;
            let constant = (constant.prefix, constant.entry);
            let mut protection = dataplane.protection()?;
            let mut attached = protection.protect(&interface())?;
            let flood = Flood::start(lab, 3_000, vec![same(frames::udp("203.0.113.9".parse()?, 80))])?;
            let mut model = vec![constant];
            let mut filler = 0;
            let (mut asked, mut grown) = (0, 0);
            for step in 0..STEPS {
                let mut changes = Vec::new();
                match dice.below(20) {
                    0 => {
                        changes = many(filler..filler + 4_000);
                        filler += 4_000;
                    }
                    1 => writer.tidy(),
                    2 => attached = protection.protect(&interface())?,
                    3..7 if model.len() > 1 => {
                        let (prefix, _) = model[1 + dice.below(model.len() - 1)];
                        changes.push(Change { prefix, entry: Entry::NONE });
                    }
                    _ => changes.extend((0..=dice.below(3)).map(|_| {
                        let prefix = some_prefix(&mut dice);
                        Change { prefix, entry: some_entry(&mut dice, prefix) }
                    })),
                }
                writer.apply(&changes)?;
                for Change { prefix, entry } in changes.iter().filter(|change| !is_filler(change.prefix)) {
                    model.retain(|(listed, _)| listed != prefix);
                    if !entry.is_none() {
                        model.push((*prefix, *entry));
                    }
                }
                if model.len() > 60 {
                    let gone: Vec<Change> = model
                        .split_off(30)
                        .into_iter()
                        .map(|(prefix, _)| Change { prefix, entry: Entry::NONE })
                        .collect();
                    writer.apply(&gone)?;
                }
                let current = protection.attached(HOST.interface)?.context("detached")?;
                ensure!(!current.superseded, "step {step}: {current:?}");
                grown += u32::from(current.program_id != attached.program_id);
                attached = current;
                for turn in 0..12 {
                    // Some of what the tables are full of, and some that are not in them yet.
                    let number = u32::try_from(dice.below(filler as usize + 1_000))?;
                    let address = if turn < 8 { some_address(&mut dice) } else { nth(number) };
                    let mut model = model.clone();
                    if turn >= 8 && number < filler {
                        let Change { prefix, entry } = blocked(Prefix::host(address));
                        model.push((prefix, entry));
                    }
                    let before = verdicts(&model, address, now());
                    let found = limiter_user::dataplane::kernel::testrun::passes(
                        attached.program_id,
                        &frames::udp(address.into(), 80),
                    )?;
                    let possible = [before, verdicts(&model, address, now())].concat();
                    asked += 1;
                    ensure!(
                        possible.contains(&found),
                        "LIMITER_SEED={seed}, step {step}: {address} passes: {found}, by {model:?}"
                    );
                }
            }
            let sent = flood.stop()?;
            let passed = lab.witness.blocked()?;
            ensure!(passed == 0, "LIMITER_SEED={seed}: {passed} of {} packets got through", sent.frames);
            println!("LIMITER_SEED={seed}: {asked} verdicts, {grown} growths, {} packets", sent.frames);
            ensure!(grown > 0, "no table has grown");
            Ok(())
        })
    });
}

fn is_filler(prefix: Prefix) -> bool {
    match prefix.address() {
        Address::V4([100..=127, ..]) => true,
        Address::V6([0x20, 1, 0xd, 0xb8, ..]) => true,
        Address::V4(_) | Address::V6(_) => false,
    }
}
