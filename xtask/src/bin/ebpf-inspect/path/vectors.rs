//! The frames of the named vectors: that the program in the interpreter comes to the verdicts of the same code on the
//! host says that the interpreter takes the ways that a kernel would.

use anyhow::{Context as _, Result, ensure};
use limiter_common::{
    Action, Prefix,
    abi::{self, Entry, Limits, Settings},
    judge,
    testing::{
        tables::MemoryTables,
        vectors::{self, NOW, TableSet},
    },
};

use super::kernel;
use crate::object;

/// Runs every vector in both programs.
///
/// # Errors
///
/// If a verdict is another one than on the host.
pub(super) fn agree(bytes: &[u8]) -> Result<()> {
    let vectors = vectors::vectors();
    for set in TableSet::ALL {
        let (lists, limits, super_frames) = (set.lists(), set.limits(), set.super_frames());
        let limited = limits != Limits::NONE;
        let settings =
            Settings { limited: limited.into(), super_frames: super_frames.into(), ..object::settings() };
        // As the tables have them.
        let rounded: Vec<(Prefix, Entry)> =
            lists.iter().map(|(prefix, entry)| (*prefix, entry.rounded())).collect();
        for program in [abi::PROGRAM_LINEAR, abi::PROGRAM_FRAGS] {
            let host = MemoryTables::new(&rounded, limits, super_frames);
            let mut machine = kernel::machine(bytes, program, &settings, &limits, &lists, NOW.0)?;
            for vector in vectors.iter().filter(|vector| vector.tables == *set) {
                let name = || format!("vector {} in {program}", vector.name);
                let expected = judge(&vector.frame[..], &host, &NOW);
                let before = kernel::counted(&machine, expected)?;
                let run = machine.run(&vector.frame).with_context(name)?;
                let counted = kernel::counted(&machine, expected)? - before;
                let drops = run.result == kernel::XDP_DROP;
                ensure!(
                    counted == 1 && drops == (expected.action() == Action::Drop),
                    "{} has another verdict than on the host, which is {}",
                    name(),
                    expected.label()
                );
            }
        }
    }
    Ok(())
}
