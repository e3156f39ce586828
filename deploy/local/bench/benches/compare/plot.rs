//! Line plots, as SVG, with the legend below the plotting area.

use std::ops::Range;
use std::path::Path;

use anyhow::{Context, anyhow};
use plotters::coord::ranged1d::{KeyPointHint, NoDefaultFormatting, ValueFormatter};
use plotters::prelude::*;
use serde::Serialize;

use crate::samples::with_separators;

// All lengths are in pixels.
const WIDTH: u32 = 900;
const CHART_HEIGHT: u32 = 460;
const LEGEND_LINE_HEIGHT: u32 = 26;
const MARGIN: u32 = 14;
/// Half of the widest label of the x axis.
const RIGHT_MARGIN: u32 = 60;
const X_LABEL_AREA: u32 = 60;
const Y_LABEL_AREA: u32 = 90;
const TITLE_FONT: (&str, i32) = ("sans-serif", 24);
const LABEL_FONT: (&str, i32) = ("sans-serif", 20);
/// Lines with more points than this are drawn without markers.
const MAX_MARKED_POINTS: usize = 20;
const MAX_LINEAR_INTERVALS: f64 = 10.0;
const COLORS: [RGBColor; 5] = [
    RGBColor(110, 110, 110),
    RGBColor(200, 60, 40),
    RGBColor(230, 150, 40),
    RGBColor(40, 110, 190),
    RGBColor(60, 150, 80),
];

#[derive(Debug, Serialize)]
pub(crate) struct Plot {
    pub(crate) file: &'static str,
    pub(crate) title: &'static str,
    pub(crate) x: Axis,
    pub(crate) y: Axis,
    pub(crate) lines: Vec<Line>,
}

#[derive(Debug, Serialize)]
pub(crate) struct Axis {
    pub(crate) label: &'static str,
    pub(crate) logarithmic: bool,
}

#[derive(Debug, Serialize)]
pub(crate) struct Line {
    pub(crate) name: String,
    pub(crate) points: Vec<(f64, f64)>,
}

impl Axis {
    /// Ticks at whole numbers, the first and the last of which enclose all values. A logarithmic
    /// axis has values from 1.
    fn ticks(&self, values: &[f64]) -> Vec<f64> {
        let lowest = values.iter().copied().fold(f64::MAX, f64::min);
        let highest = values.iter().copied().fold(1.0, f64::max);
        let mut ticks = Vec::new();
        if self.logarithmic {
            for tick in one_two_five() {
                if tick <= lowest {
                    ticks.clear();
                }
                ticks.push(tick);
                if tick >= highest {
                    break;
                }
            }
        } else {
            let step = one_two_five()
                .find(|step| highest / step <= MAX_LINEAR_INTERVALS)
                .expect("the steps grow without end");
            let mut tick = 0.0;
            while tick < highest {
                ticks.push(tick);
                tick += step;
            }
            ticks.push(tick);
        }
        ticks
    }
}

/// 1, 2, 5, 10, 20, 50 and so on.
fn one_two_five() -> impl Iterator<Item = f64> {
    (0..).flat_map(|exponent| [1.0, 2.0, 5.0].map(|digit| digit * 10_f64.powi(exponent)))
}

/// An axis between its first and its last tick.
struct Coordinates {
    logarithmic: bool,
    ticks: Vec<f64>,
}

impl Coordinates {
    fn scale(&self, value: f64) -> f64 {
        if self.logarithmic {
            value.log10()
        } else {
            value
        }
    }
}

impl Ranged for Coordinates {
    type FormatOption = NoDefaultFormatting;
    type ValueType = f64;

    #[allow(clippy::cast_possible_truncation, reason = "a pixel")]
    fn map(&self, value: &f64, limit: (i32, i32)) -> i32 {
        let Range { start, end } = self.range();
        let start = self.scale(start);
        let fraction = (self.scale(*value) - start) / (self.scale(end) - start);
        limit.0 + (f64::from(limit.1 - limit.0) * fraction).round() as i32
    }

    fn key_points<Hint: KeyPointHint>(&self, hint: Hint) -> Vec<f64> {
        if hint.weight().allow_light_points() {
            Vec::new()
        } else {
            self.ticks.clone()
        }
    }

    fn range(&self) -> Range<f64> {
        self.ticks[0]..self.ticks[self.ticks.len() - 1]
    }
}

impl ValueFormatter<f64> for Coordinates {
    fn format(value: &f64) -> String {
        with_separators(*value)
    }
}

impl Plot {
    pub(crate) fn draw(&self, folder: &Path) -> anyhow::Result<()> {
        let path = folder.join(self.file);
        self.try_draw(&path)
            .map_err(|error| anyhow!("{error}"))
            .with_context(|| format!("{}", path.display()))
    }

    fn try_draw(&self, path: &Path) -> Result<(), Box<dyn std::error::Error + '_>> {
        let values = |pick: fn(&(f64, f64)) -> f64| -> Vec<f64> {
            let points = self.lines.iter().flat_map(|line| &line.points);
            points.map(pick).collect()
        };
        let x = Coordinates {
            logarithmic: self.x.logarithmic,
            ticks: if self.x.logarithmic {
                // Few values were measured: each is a tick.
                let mut measured = values(|point| point.0);
                measured.sort_by(f64::total_cmp);
                measured.dedup();
                measured
            } else {
                self.x.ticks(&values(|point| point.0))
            },
        };
        let y = Coordinates {
            logarithmic: self.y.logarithmic,
            ticks: self.y.ticks(&values(|point| point.1)),
        };
        let legend_lines = if self.lines.len() > 1 {
            u32::try_from(self.lines.len())?
        } else {
            0
        };
        let height = CHART_HEIGHT + LEGEND_LINE_HEIGHT * legend_lines;
        let root = SVGBackend::new(path, (WIDTH, height)).into_drawing_area();
        root.fill(&WHITE)?;
        let (chart_area, legend_area) = root.split_vertically(CHART_HEIGHT);
        let mut chart = ChartBuilder::on(&chart_area)
            .caption(self.title, TITLE_FONT)
            .margin(MARGIN)
            .margin_right(RIGHT_MARGIN)
            .x_label_area_size(X_LABEL_AREA)
            .y_label_area_size(Y_LABEL_AREA)
            .build_cartesian_2d(x, y)?;
        chart
            .configure_mesh()
            .max_light_lines(0)
            .label_style(LABEL_FONT)
            .x_desc(self.x.label)
            .y_desc(self.y.label)
            .draw()?;
        for (index, line) in self.lines.iter().enumerate() {
            let style = COLORS[index % COLORS.len()].filled().stroke_width(2);
            let points = line.points.iter().copied();
            let marker_size = if line.points.len() > MAX_MARKED_POINTS {
                0
            } else {
                4
            };
            chart.draw_series(LineSeries::new(points, style).point_size(marker_size))?;
            if legend_lines > 0 {
                let left = i32::try_from(MARGIN + Y_LABEL_AREA)?;
                let top = i32::try_from(LEGEND_LINE_HEIGHT)? * i32::try_from(index)?;
                legend_area.draw(&PathElement::new(
                    [(left, top + 9), (left + 28, top + 9)],
                    style,
                ))?;
                // The legend is no Markdown.
                let name = line.name.replace('`', "");
                legend_area.draw(&Text::new(name, (left + 40, top), LABEL_FONT))?;
            }
        }
        root.present()?;
        Ok(())
    }
}
