//! Plots, as SVG.

use std::path::Path;

use anyhow::{Context, anyhow};
use plotters::prelude::*;

const SIZE: (u32, u32) = (900, 480);
const COLORS: [RGBColor; 6] = [
    RGBColor(110, 110, 110),
    RGBColor(200, 60, 40),
    RGBColor(230, 150, 40),
    RGBColor(40, 110, 190),
    RGBColor(60, 150, 80),
    RGBColor(130, 80, 170),
];

/// Lines of points.
#[derive(Debug)]
pub(crate) struct Plot {
    pub(crate) file: &'static str,
    pub(crate) title: &'static str,
    pub(crate) across: &'static str,
    pub(crate) up: &'static str,
    pub(crate) lines: Vec<(String, Vec<(f64, f64)>)>,
    /// Whether both axes are logarithmic.
    pub(crate) logarithmic: bool,
}

impl Plot {
    pub(crate) fn draw(&self, folder: &Path) -> anyhow::Result<()> {
        let path = folder.join(self.file);
        self.try_draw(&path)
            .map_err(|error| anyhow!("{error}"))
            .with_context(|| format!("{}", path.display()))
    }

    fn try_draw(&self, path: &Path) -> Result<(), Box<dyn std::error::Error + '_>> {
        let root = SVGBackend::new(path, SIZE).into_drawing_area();
        root.fill(&WHITE)?;
        let points = || self.lines.iter().flat_map(|(_, points)| points);
        let left = points().map(|point| point.0).fold(f64::MAX, f64::min);
        let right = points().map(|point| point.0).fold(0.0, f64::max);
        let low = points().map(|point| point.1).fold(f64::MAX, f64::min);
        let high = points().map(|point| point.1).fold(0.0, f64::max) * 1.2;
        let mut builder = ChartBuilder::on(&root);
        builder
            .caption(self.title, ("sans-serif", 20))
            .margin(12)
            .x_label_area_size(40)
            .y_label_area_size(70);
        // The two kinds of axis are of different types.
        macro_rules! chart {
            ($across:expr, $up:expr) => {{
                let mut chart = builder.build_cartesian_2d($across, $up)?;
                chart
                    .configure_mesh()
                    .x_desc(self.across)
                    .y_desc(self.up)
                    .light_line_style(WHITE)
                    .draw()?;
                for (number, (name, points)) in self.lines.iter().enumerate() {
                    let color = COLORS[number % COLORS.len()];
                    chart
                        .draw_series(
                            LineSeries::new(points.iter().copied(), color.stroke_width(2))
                                .point_size(3),
                        )?
                        .label(name)
                        .legend(move |(x, y)| {
                            PathElement::new([(x, y), (x + 18, y)], color.stroke_width(2))
                        });
                }
                if self.lines.len() > 1 {
                    chart
                        .configure_series_labels()
                        .background_style(WHITE.mix(0.8))
                        .border_style(BLACK.mix(0.3))
                        .position(SeriesLabelPosition::MiddleRight)
                        .draw()?;
                }
            }};
        }
        if self.logarithmic {
            chart!((left..right).log_scale(), (low / 1.5..high).log_scale());
        } else {
            chart!(left..right, 0.0..high);
        }
        root.present()?;
        Ok(())
    }
}
