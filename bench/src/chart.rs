//! The main figures as a picture.

use std::path::Path;

use anyhow::{Context as _, anyhow, ensure};
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

/// Width and height of one panel, in pixels.
const PANEL: (u32, u32) = (560, 400);
const COLOURS: [RGBColor; 5] = [
    RGBColor(0, 114, 178),
    RGBColor(213, 94, 0),
    RGBColor(0, 158, 115),
    RGBColor(204, 121, 167),
    RGBColor(230, 159, 0),
];

/// One diagram.
#[derive(Debug, Clone)]
pub(crate) enum Panel {
    /// Both axes are logarithmic.
    Lines { title: String, x: &'static str, y: &'static str, lines: Vec<Line> },
    /// From zero; of each group the bars are side by side.
    Bars { title: String, y: &'static str, groups: Vec<Group> },
}

/// A named row of points.
#[derive(Debug, Clone)]
pub(crate) struct Line {
    pub(crate) name: String,
    pub(crate) points: Vec<(f64, f64)>,
}

/// Named bars that belong together.
#[derive(Debug, Clone)]
pub(crate) struct Group {
    pub(crate) name: String,
    pub(crate) bars: Vec<(String, f64)>,
}

/// Draws the panels below each other, two in a row.
pub(crate) fn draw(file: &Path, panels: &[Panel]) -> anyhow::Result<()> {
    ensure!(
        file.extension().is_some_and(|extension| extension == "svg"),
        "{} is no .svg; rsvg-convert makes other formats of one",
        file.display()
    );
    ensure!(!panels.is_empty(), "nothing was measured that could be drawn");
    let columns = panels.len().min(2);
    let rows = panels.len().div_ceil(columns);
    let scaled = |side: u32, count: usize| u32::try_from(count).map(|count| side * count);
    let size = (scaled(PANEL.0, columns)?, scaled(PANEL.1, rows)?);
    let root = SVGBackend::new(file, size).into_drawing_area();
    let drawn = || -> Result<(), Box<dyn std::error::Error>> {
        root.fill(&WHITE)?;
        for (area, panel) in root.split_evenly((rows, columns)).iter().zip(panels) {
            match panel {
                Panel::Lines { title, x, y, lines } => draw_lines(area, title, x, y, lines)?,
                Panel::Bars { title, y, groups } => draw_bars(area, title, y, groups)?,
            }
        }
        root.present()?;
        Ok(())
    };
    drawn().map_err(|error| anyhow!("{error}")).with_context(|| format!("cannot draw {}", file.display()))
}

type Area<'a> = DrawingArea<SVGBackend<'a>, plotters::coord::Shift>;
type Drawn = Result<(), Box<dyn std::error::Error>>;

fn draw_lines(area: &Area<'_>, title: &str, x: &str, y: &str, lines: &[Line]) -> Drawn {
    let points = || lines.iter().flat_map(|line| line.points.iter().copied());
    let range = |values: &mut dyn Iterator<Item = f64>| {
        let (low, high) =
            values.fold((f64::MAX, f64::MIN), |(low, high), value| (low.min(value), high.max(value)));
        low.max(1e-3) * 0.8..high.max(1e-2) * 1.25
    };
    let (xs, ys) = (range(&mut points().map(|(x, _)| x)), range(&mut points().map(|(_, y)| y)));
    let mut chart = ChartBuilder::on(area)
        .caption(title, ("sans-serif", 16))
        .margin(10)
        .x_label_area_size(36)
        .y_label_area_size(52)
        .build_cartesian_2d(xs.log_scale(), ys.log_scale())?;
    chart
        .configure_mesh()
        .max_light_lines(1)
        .x_desc(x)
        .y_desc(y)
        .x_label_formatter(&|x| count(*x))
        .y_label_formatter(&|y| count(*y))
        .draw()?;
    for (line, colour) in lines.iter().zip(COLOURS) {
        chart
            .draw_series(LineSeries::new(line.points.iter().copied(), colour.stroke_width(2)).point_size(3))?
            .label(&line.name)
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 16, y)], colour.stroke_width(2)));
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::UpperLeft)
        .background_style(WHITE.mix(0.8))
        .border_style(BLACK.mix(0.3))
        .draw()?;
    Ok(())
}

fn draw_bars(area: &Area<'_>, title: &str, y: &str, groups: &[Group]) -> Drawn {
    let highest = groups.iter().flat_map(|group| &group.bars).map(|(_, value)| *value).fold(0.0, f64::max);
    let slots = groups.iter().map(|group| group.bars.len() + 1).sum::<usize>();
    #[expect(clippy::cast_precision_loss, reason = "a few bars")]
    let mut chart = ChartBuilder::on(area)
        .caption(title, ("sans-serif", 16))
        .margin(10)
        .x_label_area_size(36)
        .y_label_area_size(52)
        .build_cartesian_2d(0.0..slots as f64, 0.0..highest * 1.15)?;
    chart
        .configure_mesh()
        .disable_x_mesh()
        .x_labels(0)
        .y_max_light_lines(1)
        .y_label_formatter(&|y| format!("{y:.0}"))
        .y_desc(y)
        .draw()?;
    let text = |size: u32| TextStyle::from(("sans-serif", size)).color(&BLACK);
    let centred = Pos::new(HPos::Center, VPos::Bottom);
    let mut at = 0.5;
    for (number, group) in groups.iter().enumerate() {
        let first = at;
        for ((name, value), colour) in group.bars.iter().zip(COLOURS) {
            let bar = Rectangle::new([(at + 0.05, 0.0), (at + 0.95, *value)], colour.filled());
            let series = chart.draw_series([bar])?;
            if number == 0 {
                series
                    .label(name)
                    .legend(move |(x, y)| Rectangle::new([(x, y - 5), (x + 12, y + 5)], colour.filled()));
            }
            let place = (at + 0.5, *value + highest * 0.01);
            chart.draw_series([Text::new(format!("{value:.0}"), place, text(11).pos(centred))])?;
            at += 1.0;
        }
        let (x, y) = chart.backend_coord(&(f64::midpoint(first, at), 0.0));
        let below = text(12).pos(Pos::new(HPos::Center, VPos::Top));
        area.draw_text(&group.name, &below, relative(area, (x, y + 8)))?;
        at += 1.0;
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::UpperRight)
        .background_style(WHITE.mix(0.8))
        .border_style(BLACK.mix(0.3))
        .draw()?;
    Ok(())
}

/// From pixels of the picture to pixels of a part of it.
fn relative(area: &Area<'_>, (x, y): (i32, i32)) -> (i32, i32) {
    let (left, top) = area.get_base_pixel();
    (x - left, y - top)
}

/// 1k, 1M and the like.
fn count(value: f64) -> String {
    match value {
        1e6.. => format!("{}M", (value / 1e6).round()),
        1e3.. => format!("{}k", (value / 1e3).round()),
        _ => format!("{value:.0}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_picture_has_every_name_in_it() {
        let line = Line { name: "first line".into(), points: vec![(1e3, 10.0), (1e6, 200.0)] };
        let lines = Panel::Lines { title: "lines".into(), x: "entries", y: "ns", lines: vec![line] };
        let group = Group { name: "a group".into(), bars: vec![("one bar".into(), 3.0)] };
        let bars = Panel::Bars { title: "bars".into(), y: "ns", groups: vec![group] };
        let file = std::env::temp_dir().join(format!("limiter-chart-{}.svg", std::process::id()));
        draw(&file, &[lines, bars]).unwrap();
        let text = std::fs::read_to_string(&file).unwrap();
        std::fs::remove_file(&file).unwrap();
        for name in ["lines", "first line", "entries", "1M", "bars", "a group", "one bar"] {
            assert!(text.contains(name), "{name} is not in {text}");
        }
    }
}
