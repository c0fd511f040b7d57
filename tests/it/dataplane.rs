//! Maps, pins and links as the daemon uses them, without the daemon.

use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use limiter_common::abi::{ABI_VERSION, Entry, Limits};
use limiter_common::{Nanos, Prefix};
use limiter_tests::lab::HOST;
use limiter_tests::{Lab, Scratch, in_lab, stranger};
use limiter_user::config::{Capacity, Interface, Mode};
use limiter_user::dataplane::kernel::{self, AttachMode, Dataplane, OpenOptions, ProtectError};
use limiter_user::dataplane::{ApplyError, Change};

const MILLION: u32 = 1_000_000;

fn small() -> Capacity {
    Capacity { addresses_v4: 64, addresses_v6: 64, prefixes_v4: 64, prefixes_v6: 64, sources: 64 }
}

fn options(scratch: &Scratch, capacity: Capacity) -> OpenOptions {
    let pins_directory = scratch.bpffs().join("limiter");
    OpenOptions { pins_directory, capacity, log_drops: false, replace: false }
}

/// Opens it. For a moment, a child that another test starts has a copy of the lock that was there before.
pub(crate) fn opened(options: &OpenOptions) -> Result<Dataplane> {
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        match Dataplane::open(options) {
            Err(error) if format!("{error:#}").contains("another limiterd") && Instant::now() < deadline => {
                std::thread::yield_now();
            }
            opened => return opened,
        }
    }
}

fn interface(mode: Mode) -> Interface {
    Interface {
        name: HOST.interface.to_owned(),
        mode,
        limits: Limits::NONE,
        limited: false,
        rules: Vec::new(),
    }
}

fn block(text: &str) -> Change {
    let prefix: Prefix = text.parse().unwrap_or_else(|error| panic!("{text}: {error}"));
    let entry = Entry { block_until: Nanos::NEVER.0, allow_until: 7_000_000_000 };
    Change { prefix, entry: entry.rounded() }
}

fn remove(text: &str) -> Change {
    Change { entry: Entry::NONE, ..block(text) }
}

fn sorted(mut changes: Vec<Change>) -> Vec<Change> {
    changes.sort_by_key(|change| change.prefix);
    changes
}

fn in_scratch(purpose: &str, test: impl FnOnce(&Scratch) -> Result<()>) {
    let scratch = Scratch::new(purpose).unwrap_or_else(|error| panic!("{error:#}"));
    test(&scratch).unwrap_or_else(|error| panic!("{error:#}"));
}

#[test]
fn lists_are_read_back_as_they_were_written() {
    in_scratch("lists", |scratch| {
        let dataplane = opened(&options(scratch, small()))?;
        let mut writer = dataplane.writer();
        let texts =
            ["192.0.2.1", "192.0.2.2", "10.0.0.0/8", "0.0.0.0/0", "2001:db8::1", "2001:db8::/32", "::/0"];
        let all: Vec<Change> = texts.iter().map(|text| block(text)).collect();
        writer.apply(&all)?;
        ensure!(sorted(writer.installed()?) == sorted(all.clone()), "not what was written");
        writer.apply(&all).context("again")?;

        // Removing is in order with adding, and what is not there is no error.
        writer.apply(&[
            remove("192.0.2.1"),
            remove("203.0.113.1"),
            remove("10.0.0.0/8"),
            remove("172.16.0.0/12"),
            block("192.0.2.1"),
            remove("192.0.2.2"),
            remove("2001:db8::/32"),
        ])?;
        let left: Vec<Change> =
            ["192.0.2.1", "0.0.0.0/0", "2001:db8::1", "::/0"].iter().map(|text| block(text)).collect();
        ensure!(sorted(writer.installed()?) == sorted(left), "not what was left");
        Ok(())
    });
}

#[test]
fn a_full_table_says_so_and_evicts_nothing() {
    in_scratch("full", |scratch| {
        let dataplane = opened(&options(scratch, small()))?;
        let mut writer = dataplane.writer();
        for (format, table) in [("192.0.2.", "addresses_v4"), ("2001:db8::", "addresses_v6")] {
            let changes: Vec<Change> = (0..=64).map(|i| block(&format!("{format}{i}"))).collect();
            match writer.apply(&changes) {
                Err(ApplyError::Full { table: found, capacity: 64 }) => ensure!(found == table, "{found}"),
                other => anyhow::bail!("{table}: {other:?}"),
            }
            let installed = writer.installed()?;
            ensure!(changes[..64].iter().all(|change| installed.contains(change)), "{table}: evicted");
            ensure!(!installed.contains(&changes[64]), "{table}: took one too many");
            writer.apply(&changes[..64]).context("entries of a full table can still be changed")?;
        }
        let changes: Vec<Change> = (0..=64).map(|i| block(&format!("10.{i}.0.0/16"))).collect();
        let refused = writer.apply(&changes);
        ensure!(matches!(refused, Err(ApplyError::Full { table: "prefixes_v4", .. })), "{refused:?}");
        Ok(())
    });
}

#[test]
fn a_million_addresses_are_written_and_read_back() {
    in_scratch("million", |scratch| {
        let capacity = Capacity { addresses_v4: MILLION, ..small() };
        let dataplane = opened(&options(scratch, capacity))?;
        let mut writer = dataplane.writer();
        let changes: Vec<Change> = (0..MILLION)
            .map(|i| {
                let address = std::net::Ipv4Addr::from(0x0b00_0000 + i * 13);
                Change { prefix: Prefix::host(address.into()), ..block("::") }
            })
            .collect();
        let start = Instant::now();
        writer.apply(&changes)?;
        let written = start.elapsed();
        let installed = writer.installed()?.len();
        eprintln!("1,000,000 addresses written in {written:?}, read in {:?}", start.elapsed() - written);
        ensure!(installed == changes.len(), "{installed} are there");
        Ok(())
    });
}

#[test]
fn what_an_earlier_run_left_is_adopted() {
    in_lab("adopt", |lab| {
        lab.host.enter(|| {
            let options = options(&lab.scratch, small());
            let first = {
                let dataplane = opened(&options)?;
                ensure!(!dataplane.adopted(), "there was nothing to adopt");
                dataplane.writer().apply(&[block("192.0.2.1")])?;
                dataplane.protection()?.protect(&interface(Mode::Native))?
            };
            ensure!(first.mode == AttachMode::Native, "{first:?}");

            let dataplane = opened(&options)?;
            ensure!(dataplane.adopted() && dataplane.notes().is_empty(), "{dataplane:?}");
            ensure!(dataplane.writer().installed()? == [block("192.0.2.1")], "the list is gone");
            let mut protection = dataplane.protection()?;
            ensure!(protection.attached(HOST.interface)? == Some(first.clone()), "not attached any more");
            let second = protection.protect(&interface(Mode::Native))?;
            ensure!(second.program_id != first.program_id, "the program was not replaced");
            ensure!(protection.attached(HOST.interface)? == Some(second), "the new one is not attached");
            ensure!(protection.linked()? == [HOST.interface], "{:?}", protection.linked()?);

            let refused = Dataplane::open(&options).map(drop).unwrap_err().to_string();
            ensure!(refused.contains(&format!("pid {}", std::process::id())), "{refused}");

            ensure!(protection.release(HOST.interface)?, "there was no link");
            ensure!(protection.attached(HOST.interface)?.is_none(), "still attached");
            Ok(())
        })
    });
}

#[test]
fn a_renamed_interface_keeps_its_link() {
    in_lab("rename", |lab| {
        lab.host.enter(|| {
            let dataplane = opened(&options(&lab.scratch, small()))?;
            let mut protection = dataplane.protection()?;
            let first = protection.protect(&interface(Mode::Native))?;
            lab.host.ip(&format!("link set {} down", HOST.interface))?;
            lab.host.ip(&format!("link set {} name lan0.7", HOST.interface))?;
            let renamed = Interface { name: "lan0.7".to_owned(), ..interface(Mode::Native) };
            let second = protection.protect(&renamed)?;
            ensure!(second.ifindex == first.ifindex && second.program_id != first.program_id, "{second:?}");
            ensure!(protection.linked()? == ["lan0.7"], "{:?}", protection.linked()?);
            ensure!(protection.attached("lan0.7")? == Some(second), "not attached");
            ensure!(protection.attached(HOST.interface)?.is_none(), "the old name is still attached");
            Ok(())
        })
    });
}

/// Where links are pinned.
fn links(scratch: &Scratch) -> PathBuf {
    options(scratch, small()).pins_directory.join(format!("v{ABI_VERSION}/links"))
}

fn rename(lab: &Lab, from: &str, to: &str) -> Result<()> {
    lab.host.ip(&format!("link set {from} down"))?;
    lab.host.ip(&format!("link set {from} name {to}"))?;
    Ok(())
}

fn named(name: &str) -> Interface {
    Interface { name: name.to_owned(), ..interface(Mode::Native) }
}

#[test]
fn interfaces_that_swap_their_names_keep_their_programs() {
    in_lab("swap", |lab| {
        lab.host.ip("link add one0 type veth peer name two0")?;
        lab.host.enter(|| {
            let dataplane = opened(&options(&lab.scratch, small()))?;
            let mut protection = dataplane.protection()?;
            let one = protection.protect(&named("one0"))?;
            let two = protection.protect(&named("two0"))?;
            rename(lab, "one0", "three0")?;
            rename(lab, "two0", "one0")?;
            rename(lab, "three0", "two0")?;
            ensure!(protection.linked()? == ["one0", "two0"], "{:?}", protection.linked()?);
            let now_one = protection.protect(&named("one0"))?;
            ensure!(now_one.ifindex == two.ifindex, "{now_one:?}");
            let still = protection.attached("two0")?.context("two0 was detached for one0")?;
            ensure!(still.program_id == one.program_id, "two0 was attached anew: {still:?}");
            ensure!(protection.linked()? == ["one0", "two0"], "{:?}", protection.linked()?);
            let now_two = protection.protect(&named("two0"))?;
            ensure!(protection.attached("one0")? == Some(now_one), "one0 lost its program");
            ensure!(protection.attached("two0")? == Some(now_two), "two0 lost its program");
            let mut pins: Vec<_> =
                fs::read_dir(links(&lab.scratch))?.flatten().map(|pin| pin.file_name()).collect();
            pins.sort();
            ensure!(pins == ["one0", "two0"], "{pins:?}");
            Ok(())
        })
    });
}

#[test]
fn a_link_belongs_to_the_interface_that_it_is_on() {
    in_lab("belongs", |lab| {
        lab.host.enter(|| {
            let dataplane = opened(&options(&lab.scratch, small()))?;
            let mut protection = dataplane.protection()?;
            let attached = protection.protect(&interface(Mode::Native))?;
            rename(lab, HOST.interface, "lan0")?;
            // Nobody could protect it under its new name: the former program is all it has.
            ensure!(protection.linked()? == ["lan0"], "{:?}", protection.linked()?);
            ensure!(!protection.release(HOST.interface)?, "released by the name of its pin");
            let now = protection.attached("lan0")?.context("detached")?;
            ensure!(now.program_id == attached.program_id, "{now:?}");
            // What is not readable is not ours to judge, and no reason to leave another interface alone.
            fs::create_dir(links(&lab.scratch).join("other0"))?;
            protection.protect(&named("lan0"))?;
            ensure!(protection.release("lan0")?, "no link");
            ensure!(protection.attached("lan0")?.is_none(), "still attached");
            Ok(())
        })
    });
}

#[test]
fn a_dead_pin_does_not_keep_a_mode_from_changing() {
    in_lab("deadpin", |lab| {
        lab.host.ip("link add lan0 type veth peer name peer0")?;
        lab.host.enter(|| {
            let dataplane = opened(&options(&lab.scratch, small()))?;
            let mut protection = dataplane.protection()?;
            protection.protect(&interface(Mode::Native))?;
            protection.protect(&named("lan0"))?;
            lab.host.ip("link delete lan0")?;
            rename(lab, HOST.interface, "lan0")?;
            let generic = Interface { mode: Mode::Generic, ..named("lan0") };
            let attached = protection.protect(&generic)?;
            ensure!(attached.mode == AttachMode::Generic, "{attached:?}");
            ensure!(protection.attached("lan0")? == Some(attached), "not attached");
            ensure!(fs::read_dir(links(&lab.scratch))?.count() == 1, "pins are left over");

            // As after a death in the middle: the old link's pin is aside, and dead.
            lab.host.ip("link delete lan0")?;
            fs::rename(links(&lab.scratch).join("lan0"), links(&lab.scratch).join(":1"))?;
            let protection = dataplane.protection()?;
            ensure!(protection.linked()?.is_empty(), "{:?}", protection.linked()?);
            Ok(())
        })
    });
}

#[test]
fn a_death_in_the_middle_of_a_start_leaves_nothing_behind() {
    in_scratch("death", |scratch| {
        let options = options(scratch, small());
        // A new set that was not complete, and a map that did not take the place of another one.
        fs::create_dir_all(options.pins_directory.join(format!("v{ABI_VERSION}-new/links")))?;
        opened(&options)?.writer().apply(&[block("192.0.2.1")])?;
        let set = options.pins_directory.join(format!("v{ABI_VERSION}"));
        fs::hard_link(set.join("slots"), set.join(":slots"))?;
        let dataplane = opened(&options)?;
        ensure!(dataplane.adopted(), "not adopted");
        ensure!(dataplane.writer().installed()? == [block("192.0.2.1")], "the list is gone");
        ensure!(!set.join(":slots").exists(), "a pin is left over");
        ensure!(fs::read_dir(&options.pins_directory)?.count() == 1, "a set is left over");
        Ok(())
    });
}

#[test]
fn detaching_without_the_daemon_takes_all_it_can() {
    in_lab("detach", |lab| {
        lab.host.enter(|| {
            let options = options(&lab.scratch, small());
            let dataplane = opened(&options)?;
            dataplane.protection()?.protect(&interface(Mode::Native))?;
            let running = kernel::detach(&options.pins_directory, &["nosuch0".to_owned()])?;
            let pid = running.daemon.and_then(|daemon| daemon.pid);
            ensure!(pid == Some(std::process::id()) && !running.maps_removed, "{running:?}");
            drop(dataplane);
            // Comes before the link of the interface, and cannot be removed like one.
            fs::create_dir(links(&lab.scratch).join("a0"))?;
            let detached = kernel::detach(&options.pins_directory, &[])?;
            ensure!(detached.interfaces == [HOST.interface], "{detached:?}");
            ensure!(detached.problems.len() == 1 && !detached.maps_removed, "{detached:?}");
            fs::remove_dir(links(&lab.scratch).join("a0"))?;
            let again = kernel::detach(&options.pins_directory, &[])?;
            ensure!(again.maps_removed && again.problems.is_empty(), "{again:?}");
            Ok(())
        })
    });
}

#[test]
fn rates_of_another_size_start_anew_and_lists_stay() {
    in_lab("resize", |lab| {
        lab.host.enter(|| {
            let old = options(&lab.scratch, small());
            let attached = {
                let dataplane = opened(&old)?;
                dataplane.writer().apply(&[block("192.0.2.1"), block("2001:db8::1")])?;
                dataplane.protection()?.protect(&interface(Mode::Native))?
            };

            let new = options(&lab.scratch, Capacity { sources: 4096, addresses_v4: 128, ..small() });
            let dataplane = opened(&new)?;
            let notes = dataplane.notes().join("\n");
            ensure!(notes.contains("slots") && !notes.contains("exact"), "{notes}");
            let listed = sorted(dataplane.writer().installed()?);
            ensure!(listed == [block("192.0.2.1"), block("2001:db8::1")], "not there: {listed:?}");
            let mut protection = dataplane.protection()?;
            // It has the lists that are in use, so it is none the worse.
            ensure!(protection.attached(HOST.interface)? == Some(attached.clone()), "a gap");
            let now = protection.protect(&interface(Mode::Native))?;
            ensure!(now.program_id != attached.program_id, "the program was not replaced");
            ensure!(protection.settle()?.is_empty(), "there is only one set");
            ensure!(protection.attached(HOST.interface)? == Some(now), "settling detached it");
            drop((protection, dataplane));
            ensure!(opened(&new)?.notes().is_empty(), "made anew once more");
            Ok(())
        })
    });
}

#[test]
fn less_capacity_takes_nothing_away() {
    in_scratch("less", |scratch| {
        let many: Vec<Change> = (0..32).map(|i| block(&format!("192.0.2.{i}"))).collect();
        opened(&options(scratch, small()))?.writer().apply(&many)?;
        let tiny = options(scratch, Capacity { addresses_v4: 16, ..small() });
        let dataplane = opened(&tiny)?;
        let mut writer = dataplane.writer();
        ensure!(writer.installed()?.len() == 32, "entries are lost");
        let refused = writer.apply(&[block("198.51.100.1")]);
        ensure!(matches!(refused, Err(ApplyError::Full { capacity: 16, .. })), "{refused:?}");
        writer.apply(&many).context("what is there can be changed")?;
        Ok(())
    });
}

#[test]
fn maps_that_do_not_fit_are_refused() {
    in_scratch("misfit", |scratch| {
        let options = options(scratch, small());
        drop(opened(&options)?);
        let set = options.pins_directory.join(format!("v{ABI_VERSION}"));
        // Both are maps, but not this one.
        fs::remove_file(set.join("secret"))?;
        fs::rename(set.join("exact_v6"), set.join("secret"))?;
        let text = format!("{:#}", Dataplane::open(&options).map(drop).unwrap_err());
        ensure!(text.contains("exact_v6 is missing") && text.contains("limiter detach"), "{text}");
        fs::rename(set.join("counters"), set.join("exact_v6"))?;
        let text = format!("{:#}", Dataplane::open(&options).map(drop).unwrap_err());
        ensure!(text.contains("type 6 instead of 2") && text.contains("limiter detach"), "{text}");

        let detached = kernel::detach(&options.pins_directory, &[])?;
        ensure!(detached.maps_removed && detached.interfaces.is_empty(), "{detached:?}");
        ensure!(!opened(&options)?.adopted(), "not removed");
        Ok(())
    });
}

#[test]
fn dots_in_the_pins_directory_are_explained() {
    in_scratch("dots", |scratch| {
        let pins_directory = scratch.bpffs().join("limiter.d");
        let error = Dataplane::open(&OpenOptions { pins_directory, ..options(scratch, small()) }).map(drop);
        let text = format!("{:#}", error.unwrap_err());
        ensure!(text.contains("no dots"), "{text}");
        Ok(())
    });
}

#[test]
fn modes_change_on_request() {
    in_lab("modes", |lab| {
        lab.host.enter(|| {
            let dataplane = opened(&options(&lab.scratch, small()))?;
            let mut protection = dataplane.protection()?;
            for (asked, expected) in [
                (Mode::Auto, AttachMode::Native),
                (Mode::Generic, AttachMode::Generic),
                (Mode::Auto, AttachMode::Generic),
                (Mode::Native, AttachMode::Native),
            ] {
                let attached = protection.protect(&interface(asked))?;
                ensure!(attached.mode == expected, "{asked:?} became {attached:?}");
                ensure!(protection.attached(HOST.interface)? == Some(attached), "{asked:?} is not attached");
            }
            // Loopback has no native XDP.
            let loopback = Interface { name: "lo".to_owned(), ..interface(Mode::Auto) };
            let attached = protection.protect(&loopback)?;
            ensure!(attached.mode == AttachMode::Generic, "{attached:?}");
            ensure!(protection.release("lo")?, "no link");
            let native = Interface { mode: Mode::Native, ..loopback };
            let refused = protection.protect(&native).unwrap_err().to_string();
            ensure!(refused.contains("lo") && refused.contains("auto"), "{refused}");
            ensure!(protection.attached("lo")?.is_none(), "attached nevertheless");
            let missing = Interface { name: "nosuch0".to_owned(), ..native };
            let refused = protection.protect(&missing);
            ensure!(matches!(refused, Err(ProtectError::NoInterface { .. })), "{refused:?}");
            Ok(())
        })
    });
}

#[test]
fn a_stranger_is_named_and_replaced_only_on_request() {
    in_lab("stranger", |lab: &Lab| {
        stranger::attach(lab, HOST.interface)?;
        lab.host.enter(|| {
            let options = options(&lab.scratch, small());
            {
                let dataplane = opened(&options)?;
                let refused = dataplane.protection()?.protect(&interface(Mode::Native));
                match refused {
                    Err(ProtectError::Stranger { name, id, .. }) => {
                        ensure!(name.as_deref() == Some("stranger") && id != 0, "{name:?} {id}");
                    }
                    other => anyhow::bail!("{other:?}"),
                }
            }
            let dataplane = opened(&OpenOptions { replace: true, ..options.clone() })?;
            let mut protection = dataplane.protection()?;
            let attached = protection.protect(&interface(Mode::Native))?;
            ensure!(protection.attached(HOST.interface)? == Some(attached), "not attached");

            // Another instance with pins elsewhere, that holds the interface with a link.
            let elsewhere =
                OpenOptions { pins_directory: lab.scratch.bpffs().join("other"), replace: true, ..options };
            let other = opened(&elsewhere)?;
            let attached = other.protection()?.protect(&interface(Mode::Native))?;
            ensure!(
                protection.attached(HOST.interface)?.is_none(),
                "the first one still thinks it is attached"
            );
            ensure!(other.protection()?.attached(HOST.interface)? == Some(attached), "not attached");
            Ok(())
        })
    });
}

#[test]
fn every_interface_has_its_own_counters() {
    in_lab("counters", |lab| {
        lab.host.ip("link add one0 type veth peer name two0")?;
        lab.host.enter(|| {
            let dataplane = opened(&options(&lab.scratch, small()))?;
            let reader = dataplane.reader()?;
            let mut protection = dataplane.protection()?;
            let named = |name: &str| Interface { name: name.to_owned(), ..interface(Mode::Native) };
            let names = || -> Result<Vec<String>> {
                Ok(reader.counts()?.into_iter().map(|counts| counts.interface).collect())
            };
            protection.protect(&named("one0"))?;
            protection.protect(&named("two0"))?;
            ensure!(names()? == ["one0", "two0"], "{:?}", names()?);
            lab.host.ip("link set one0 up")?;
            lab.host.ip("link set two0 up")?;
            // Neighbour discovery of the two ends with each other.
            let seen = || -> Result<u64> {
                let counts = reader.counts()?;
                let one = counts.iter().find(|counts| counts.interface == "one0").context("one0")?;
                Ok(one.counts.iter().map(|(_, count)| count.packets).sum())
            };
            limiter_tests::wait::until_true("one0 counts a frame", Duration::from_secs(10), || {
                Ok(seen()? > 0)
            })?;
            lab.host.ip("link set one0 down")?;
            ensure!(protection.release("one0")?, "no link");
            ensure!(names()? == ["two0"], "{:?}", names()?);
            protection.protect(&interface(Mode::Native))?;
            ensure!(names()? == [HOST.interface, "two0"], "the slot is not given away: {:?}", names()?);
            Ok(())
        })
    });
}
