//! Which of the figures are drawn.

use super::comparison::Figures;
use crate::chart::{Group, Line, Panel};

const SUBJECTS: [&str; 3] = ["limiter", "hash", "lpm"];

/// Cost by the number of entries, and cost of limits.
pub(super) fn panels(figures: &[Figures]) -> Vec<Panel> {
    let mut panels = Vec::new();
    for (traffic, kind) in [
        ("clean, any source", "IPv4 addresses"),
        ("blocked, any listed source", "IPv4 addresses"),
        ("blocked, one source", "IPv4 addresses"),
        ("clean, any source", "IPv6 /64s"),
    ] {
        let by_size: Vec<(f64, &Figures)> = figures
            .iter()
            .filter(|figures| figures.scenario.traffic == traffic)
            .filter_map(|figures| {
                let (list, entries) = figures.scenario.list.as_ref()?;
                // There is no zero on a logarithmic axis.
                (list.ends_with(kind) && *entries > 0).then_some((f64::from(*entries), figures))
            })
            .collect();
        let lines: Vec<Line> = SUBJECTS
            .into_iter()
            .map(|subject| {
                let point = |(entries, figures): &(f64, &Figures)| Some((*entries, figures.median(subject)?));
                Line { name: subject.to_owned(), points: by_size.iter().filter_map(point).collect() }
            })
            .filter(|line| line.points.len() > 1)
            .collect();
        if !lines.is_empty() {
            let title = format!("{traffic}, {kind}");
            panels.push(Panel::Lines {
                title,
                x: "entries",
                y: "ns a packet, net of an empty program",
                lines,
            });
        }
    }

    let groups: Vec<Group> = figures
        .iter()
        .filter_map(|figures| {
            let limit = figures.scenario.traffic.strip_prefix("IPv4, any source; ")?;
            let bar = |lane: &str, name: &str| Some((name.to_owned(), figures.median(lane)?));
            let bars = [
                bar("limiter", "limiter"),
                bar("lru", "lru"),
                bar("limiter, one source", "limiter, one"),
                bar("lru, one source", "lru, one"),
            ];
            Some(Group { name: limit.to_owned(), bars: bars.into_iter().flatten().collect() })
        })
        .collect();
    if !groups.is_empty() {
        let title = "limits, a flood of any source and of one".to_owned();
        panels.push(Panel::Bars { title, y: "ns a packet, net of an empty program", groups });
    }
    panels
}
