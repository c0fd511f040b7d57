//! What the kernel keeps for a list.

use serde_json::json;

use super::Bench;
use super::lists::List;
use super::subject::Subject;
use crate::report::Bound;

/// Compares the memory for the same list.
pub(super) fn compare(
    bench: &mut Bench<'_>,
    list: &List,
    limiter: &Subject,
    hash: &Subject,
) -> anyhow::Result<()> {
    let (ours, theirs) = (limiter.list_memory(list.family())?, hash.list_memory(list.family())?);
    #[expect(clippy::cast_precision_loss, reason = "far less than 2^53")]
    let (ours_mib, theirs_mib) = (ours as f64 / 1_048_576.0, theirs as f64 / 1_048_576.0);
    println!("kernel memory for {list}: limiter {ours_mib:.1} MiB, hash {theirs_mib:.1} MiB");
    bench.report.part("memory", json!({ "list": list.to_string(), "limiter": ours, "hash": theirs }));
    let what = format!("kernel memory for {list}: limiter / hash");
    bench.counted("R12", what, ours_mib / theirs_mib, Bound::AtMost(0.3), 1.1);
    Ok(())
}
