//! What the machine can do at best: single steps that no program gets around.

use std::rc::Rc;

use super::Bench;
use super::frame::Family;
use super::lane::{Expected, Traffic};
use super::subject::Subject;
use crate::model::Model;

/// Words in the tables: 4 MiB, 16 MiB and, as a table of 10 million entries of 16 bytes, 128 MiB.
const TABLES: [(&str, u32); 4] = [
    ("a word of 512 KiB", 1 << 16),
    ("a word of 4 MiB", 1 << 19),
    ("a word of 16 MiB", 1 << 21),
    ("a word of 128 MiB", 1 << 24),
];
/// The clocks, by their numbers in `floor`.
const CLOCKS: [(&str, u64); 4] = [
    ("bpf_ktime_get_ns", 3),
    ("bpf_ktime_get_boot_ns", 4),
    ("bpf_ktime_get_coarse_ns", 5),
    ("bpf_jiffies64", 6),
];

pub(super) fn measure(bench: &mut Bench<'_>) -> anyhow::Result<()> {
    if bench.quick {
        return Ok(());
    }
    let one = Traffic::one(Family::V4);
    let any = Traffic::new(Family::V4, Model::Any, 1);
    let parse = Rc::new(Subject::step("parsing", 0)?);

    let mut subjects = vec![Rc::clone(&parse)];
    for (name, words) in TABLES {
        subjects.push(Rc::new(Subject::table(name, words)?));
    }
    // What a list of a million addresses takes at least, if the first table says where a look at the second is needed.
    subjects.push(Rc::new(Subject::tables("4 MiB, then 16 MiB", 1 << 19, 1 << 21)?));
    let lanes: Vec<_> = subjects.iter().map(|subject| (subject, any, Expected::Anything)).collect();
    bench.compare("floor: random accesses", None, &lanes)?;

    let mut subjects = vec![parse];
    for (name, step) in CLOCKS {
        subjects.push(Rc::new(Subject::step(name, step)?));
    }
    let lanes: Vec<_> = subjects.iter().map(|subject| (subject, one, Expected::Anything)).collect();
    bench.compare("floor: one look at a clock", None, &lanes)?;
    Ok(())
}
