//! Lists of all sizes: what a verdict costs when the source is listed, and when it is not.

use std::rc::Rc;
use std::time::Duration;

use anyhow::Context as _;

use super::frame::Family;
use super::lane::{Expected, Traffic};
use super::lists::List;
use super::subject::Subject;
use super::{Bench, memory, size};
use crate::machine;
use crate::model::Model;
use crate::report::Bound;

const K: u32 = 1_000;
const M: u32 = 1_000_000;
/// Lists of IPv4 addresses.
const SIZES_V4: [u32; 6] = [0, K, 10 * K, 100 * K, M, 10 * M];
/// Lists of IPv6 /64s.
const SIZES_V6: [u32; 2] = [K, M];
/// The largest trie: larger ones take minutes to free.
const LARGEST_TRIE: u32 = M;
/// Memory for 10M addresses in each of limiter's tables and the hash table, with some to spare.
const MEMORY_FOR_10M_KIB: u64 = 5 << 20;
/// From which on a fixed population of listed sources is less than all.
const MORE_THAN_SOME: u32 = 100 * K;

const ALL: Expected = Expected::Share(1.0);
const NONE: Expected = Expected::Share(0.0);

/// The subjects over one list.
struct Over {
    list: List,
    limiter: Rc<Subject>,
    hash: Rc<Subject>,
    lpm: Option<Rc<Subject>>,
}

impl Over {
    fn load(list: List) -> anyhow::Result<Self> {
        let limiter = Rc::new(Subject::limiter(&list, None)?);
        let hash = Rc::new(Subject::hash(&list)?);
        let lpm = if list.len() <= LARGEST_TRIE { Some(Rc::new(Subject::lpm(&list)?)) } else { None };
        Ok(Self { list, limiter, hash, lpm })
    }

    /// The same traffic for all of them.
    fn rows(&self, traffic: Traffic, expected: Expected) -> Vec<(&Rc<Subject>, Traffic, Expected)> {
        let subjects = [Some(&self.limiter), Some(&self.hash), self.lpm.as_ref()];
        subjects.into_iter().flatten().map(|subject| (subject, traffic, expected)).collect()
    }
}

/// IPv4 addresses, all blocked for good.
pub(super) fn addresses_v4(bench: &mut Bench<'_>) -> anyhow::Result<()> {
    const V4: Family = Family::V4;
    let sizes: Vec<u32> = SIZES_V4.into_iter().filter(|size| !bench.quick || *size == M).collect();
    let small = List::sources(V4, K);
    let small = Rc::new(Subject::limiter(&small, None)?.called("limiter, 1k entries"));
    let mut largest_trie: Option<Rc<Subject>> = None;
    for count in sizes {
        if count == 10 * M && machine::available_kib() < MEMORY_FOR_10M_KIB {
            println!(
                "10M IPv4 addresses: skipped: less than {} GiB of memory are free",
                MEMORY_FOR_10M_KIB >> 20
            );
            continue;
        }
        let list = List::sources(V4, count);
        let share = Expected::Share(list.share());
        let over = Over::load(list)?;
        let list = &over.list;
        if count == M {
            memory::compare(bench, list, &over.limiter, &over.hash)?;
        }

        let any = Traffic::new(V4, Model::Any, 1);
        let mut rows = over.rows(any, share);
        if count > K {
            rows.push((&small, any, Expected::Share(List::sources(V4, K).share())));
        }
        if let (None, Some(trie)) = (&over.lpm, &largest_trie) {
            rows.push((trie, any, Expected::Share(List::sources(V4, LARGEST_TRIE).share())));
        }
        let figures = bench.compare("clean, any source", Some(list), &rows)?;
        let (lpm, hash) = (figures.ratio("limiter", "lpm"), figures.ratio("limiter", "hash"));
        let growth = figures.ratio("limiter", "limiter, 1k entries");
        let trie = figures.ratio("limiter", "lpm, 1M entries");
        if count == M {
            bench.target(
                "R3",
                "clean, any source, 1M addresses: limiter / lpm",
                lpm,
                Bound::AtMost(1.0 / 15.0),
            );
            bench.target("R3", "clean, any source, 1M addresses: limiter / hash", hash, Bound::AtMost(0.25));
            bench.target("R4", "clean, any source: limiter with 1M / with 1k", growth, Bound::AtMost(1.5));
        }
        if count == 10 * M {
            bench.target("R5", "clean, any source, 10M addresses: limiter / hash", hash, Bound::AtMost(0.6));
            let what = "clean, any source: limiter with 10M / lpm with 1M";
            bench.target("R5", what, trie, Bound::AtMost(1.0 / 6.0));
        }

        if !bench.quick {
            let rows = over.rows(Traffic::one(V4), NONE);
            bench.compare("clean, one source", Some(list), &rows)?;
            // A few of them are listed, as chance will have it.
            let few = Expected::About { share: list.share(), within: 0.001 };
            let rows = over.rows(Traffic::new(V4, Model::Residents, 1), few);
            bench.compare("clean, 64k sources", Some(list), &rows)?;
        }
        if count > 0 {
            let rows = over.rows(Traffic::one_listed(V4), ALL);
            let figures = bench.compare("blocked, one source", Some(list), &rows)?;
            let ratio = figures.ratio("limiter", "hash");
            if count == M {
                bench.target("R1", "blocked, one source: limiter / hash", ratio, Bound::AtMost(1.0));
            }
            if count > MORE_THAN_SOME && !bench.quick {
                let rows = over.rows(Traffic::new(V4, Model::SomeListed, count), ALL);
                bench.compare("blocked, 64k listed sources", Some(list), &rows)?;
            }
            let rows = over.rows(Traffic::new(V4, Model::Listed, count), ALL);
            let figures = bench.compare("blocked, any listed source", Some(list), &rows)?;
            let ratio = figures.ratio("limiter", "hash");
            if count == M {
                let what = "blocked, any of 1M listed sources: limiter / hash";
                bench.target("R2", what, ratio, Bound::AtMost(0.7));
            }
        }
        if count == LARGEST_TRIE && !bench.quick {
            let Over { list, limiter, hash, lpm } = over;
            drop((limiter, hash, lpm));
            largest_trie =
                Some(Rc::new(Subject::lpm(&list)?.called(format!("lpm, {} entries", size(count)))));
        }
    }
    Ok(())
}

/// Blocks that end, though not soon: the clock has to be read.
pub(super) fn deadlines(bench: &mut Bench<'_>) -> anyhow::Result<()> {
    if bench.quick {
        return Ok(());
    }
    let list = List::sources(Family::V4, M).until(in_a_while()?);
    let over = Over::load(list)?;
    let list = &over.list;
    let rows = over.rows(Traffic::one_listed(Family::V4), ALL);
    bench.compare("blocked with a deadline, one source", Some(list), &rows)?;
    let rows = over.rows(Traffic::new(Family::V4, Model::Listed, M), ALL);
    bench.compare("blocked with a deadline, any listed source", Some(list), &rows)?;
    Ok(())
}

/// Nanoseconds of the kernel's monotonic clock, far behind the end of the benchmark.
fn in_a_while() -> anyhow::Result<u64> {
    const WHILE: Duration = Duration::from_secs(24 * 3600);
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `now` is valid for writing.
    if unsafe { libc::clock_gettime(libc::CLOCK_BOOTTIME, &raw mut now) } != 0 {
        return Err(std::io::Error::last_os_error()).context("cannot read the clock");
    }
    let end = Duration::from_secs(now.tv_sec.unsigned_abs()) + WHILE;
    u64::try_from(end.as_nanos()).context("a clock far in the future")
}

/// A list of IPv4 networks and addresses.
pub(super) fn prefixes_v4(bench: &mut Bench<'_>) -> anyhow::Result<()> {
    if bench.quick {
        return Ok(());
    }
    let list = List::prefixes_v4();
    let share = list.share();
    let limiter = Rc::new(Subject::limiter(&list, None)?);
    let lpm = Rc::new(Subject::lpm(&list)?);
    let any = Traffic::new(Family::V4, Model::Any, 1);
    let expected = Expected::Share(share);
    let traffic = format!("any source, {:.2} % of them listed", share * 100.0);
    bench.compare(traffic, Some(&list), &[(&limiter, any, expected), (&lpm, any, expected)])?;
    let clean = list.unlisted_v4().context("everything is listed")?;
    let clean = Traffic::from_one(Family::V4, clean.into());
    bench.compare("clean, one source", Some(&list), &[(&limiter, clean, NONE), (&lpm, clean, NONE)])?;
    Ok(())
}

/// IPv6 networks of single hosts.
pub(super) fn sources_v6(bench: &mut Bench<'_>) -> anyhow::Result<()> {
    const V6: Family = Family::V6;
    let small = Rc::new(Subject::limiter(&List::sources(V6, K), None)?.called("limiter, 1k entries"));
    let quick = bench.quick;
    for count in SIZES_V6.into_iter().filter(|count| !quick || *count == M) {
        let over = Over::load(List::sources(V6, count))?;
        let list = &over.list;
        let any = Traffic::new(V6, Model::Any, 1);
        let mut rows = over.rows(any, NONE);
        if count > K {
            rows.push((&small, any, NONE));
        }
        let figures = bench.compare("clean, any source", Some(list), &rows)?;
        let (lpm, growth) =
            (figures.ratio("limiter", "lpm"), figures.ratio("limiter", "limiter, 1k entries"));
        if count == M {
            bench.target("R13", "clean, any source, 1M /64s: limiter / lpm", lpm, Bound::AtMost(1.0 / 8.0));
            bench.target(
                "R13",
                "clean, any source: limiter with 1M /64s / with 1k",
                growth,
                Bound::AtMost(1.7),
            );
        }
        if bench.quick {
            continue;
        }
        let rows = over.rows(Traffic::one(V6), NONE);
        bench.compare("clean, one source", Some(list), &rows)?;
        let rows = over.rows(Traffic::one_listed(V6), ALL);
        bench.compare("blocked, one source", Some(list), &rows)?;
        let rows = over.rows(Traffic::new(V6, Model::Listed, count), ALL);
        bench.compare("blocked, any listed source", Some(list), &rows)?;
    }
    Ok(())
}
