//! Limits for each source: what a verdict costs when sources are over them, and when every packet has another source.

use std::rc::Rc;

use super::comparison::Effort;
use super::frame::Family;
use super::lane::{Expected, Traffic};
use super::lists::List;
use super::subject::{Limit, Subject};
use super::{Bench, MILLISECOND, innocents};
use crate::model::Model;
use crate::report::Bound;

/// The limits that are measured, as their users would write them: one for servers of many, one against abuse.
const FAST: Limit = Limit { rate: 1_000, burst: 1_000 };
const SLOW: Limit = Limit { rate: 10, burst: 20 };
/// Sources that the LRU table can hold; as many as limiter's table has slots, or fewer, for a table that fits caches better.
const SOURCES: u32 = 1 << 21;
const FEW_SOURCES: u32 = 1 << 16;
const LISTED: u32 = 1_000_000;

/// Floods of random sources under either limit.
pub(super) fn spoofed_floods(bench: &mut Bench<'_>) -> anyhow::Result<()> {
    for limit in [FAST, SLOW] {
        spoofed(bench, Family::V4, limit)?;
    }
    if bench.quick { Ok(()) } else { spoofed(bench, Family::V6, FAST) }
}

/// Who is harmed by such a flood.
pub(super) fn innocents(bench: &mut Bench<'_>) -> anyhow::Result<()> {
    innocents::measure(bench, FAST)?;
    innocents::measure(bench, SLOW)
}

/// A flood of random sources, beside one source that is over its limit.
fn spoofed(bench: &mut Bench<'_>, family: Family, limit: Limit) -> anyhow::Result<()> {
    let nothing = List::sources(family, 0);
    let limiter = || Subject::limiter(&nothing, Some(limit));
    let lru = |sources| Subject::lru(family, sources, limit, None);
    let (flooded, one) = (Rc::new(limiter()?), Rc::new(limiter()?.called("limiter, one source")));
    let (large, small) = (Rc::new(lru(SOURCES)?), Rc::new(lru(FEW_SOURCES)?.called("lru, 64k sources")));
    let lru_one = Rc::new(lru(SOURCES)?.called("lru, one source"));
    let any = Traffic::new(family, Model::Any, 1);
    let hot = Traffic::one(family);
    // Each of them sends far less than it may, so all shall pass; how many do not is judged by the innocents' share.
    let spoofed = Expected::Anything;
    let limited = Expected::Limited(limit);
    let rows = [
        (&flooded, any, spoofed),
        (&large, any, spoofed),
        (&small, any, spoofed),
        (&one, hot, limited),
        (&lru_one, hot, limited),
    ];
    // The LRU table full of strangers, as it is after a second of such a flood. And as long a flood before each sample as
    // the state of a source lives, so that limiter's tables are as full as they get.
    let lives = 1_000.0 * MILLISECOND / f64::from(limit.rate);
    let warm_up = bench.effort.warm_up.max(lives * 1.2);
    let effort = Effort { warm_up, prime: SOURCES * 3 / 2, ..bench.effort };
    let title = |traffic| format!("{}, {traffic}; {limit} for each", family.label());
    let figures = bench.compare_for(title("any source"), None, &rows, effort)?;
    let (ours, theirs) = (figures.ratio("limiter", "limiter, one source"), figures.ratio("lru", "limiter"));
    match (family, limit) {
        (Family::V4, FAST) => {
            let what = "limit of 1k/s: any source / one source";
            bench.target("R6", what, ours, Bound::AtMost(2.0));
            bench.target("R7", "spoofed flood, limit of 1k/s: lru / limiter", theirs, Bound::AtLeast(10.0));
        }
        (Family::V4, SLOW) => {
            bench.target("R7", "spoofed flood, limit of 10/s: lru / limiter", theirs, Bound::AtLeast(4.0));
        }
        _ => {}
    }
    if !bench.quick {
        let some = Traffic::new(family, Model::Residents, 1);
        let rows = [(&flooded, some, spoofed), (&large, some, spoofed), (&small, some, spoofed)];
        bench.compare_for(title("64k sources"), None, &rows, effort)?;
    }
    Ok(())
}

/// Lists and limits together: 70 % from listed sources, 20 % from any, 10 % from a few that are over their limit.
pub(super) fn mixed(bench: &mut Bench<'_>) -> anyhow::Result<()> {
    let list = List::sources(Family::V4, LISTED);
    let limiter = Rc::new(Subject::limiter(&list, Some(FAST))?);
    let reference = Rc::new(Subject::lru(Family::V4, SOURCES, FAST, Some(&list))?);
    let traffic = Traffic::new(Family::V4, Model::Mixed, LISTED);
    let expected = Expected::About { share: 0.795, within: 0.02 };
    let rows = [(&limiter, traffic, expected), (&reference, traffic, expected)];
    let traffic = "70 % blocked, 20 % clean, 10 % over the limit of 1k/s";
    bench.compare(traffic, Some(&list), &rows)?;
    Ok(())
}
