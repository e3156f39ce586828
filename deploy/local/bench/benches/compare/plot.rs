//! A line plot with two logarithmic axes, as SVG.

// All lengths are in pixels.
const LEFT: f64 = 90.0;
const RIGHT: f64 = 730.0;
const TOP: f64 = 50.0;
const BOTTOM: f64 = 340.0;
const LEGEND_WIDTH: f64 = 190.0;
const HEADER: &str = r##"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 760 390" font-family="sans-serif" font-size="15">
<rect width="760" height="390" fill="#fff"/>
"##;
const GRID_COLOR: &str = "#ccc";
const COLORS: [&str; 3] = ["#6e6e6e", "#c83c28", "#286ebe"];

/// A name, and points that have the same x in all lines.
pub(crate) type Line = (&'static str, Vec<(f64, f64)>);

/// Draws lines over a grid of their x and of the powers of ten, with their names on top.
pub(crate) fn draw(lines: &[Line; COLORS.len()], x_label: &str, y_label: &str) -> String {
    let points = || lines.iter().flat_map(|(_, points)| points);
    let (lowest_x, highest_x) = range(points().map(|point| point.0));
    let (lowest_y, highest_y) = range(points().map(|point| point.1));
    let lowest_y = 10_f64.powf(lowest_y.log10().floor());
    let x = |value: f64| LEFT + (RIGHT - LEFT) * position(value, lowest_x, highest_x);
    let y = |value: f64| BOTTOM + (TOP - BOTTOM) * position(value, lowest_y, highest_y);
    let mut svg = HEADER.to_owned();
    for value in lines[0].1.iter().map(|point| point.0) {
        svg += &path(&[(x(value), TOP), (x(value), BOTTOM)], GRID_COLOR);
        svg += &text(x(value), BOTTOM + 20.0, "middle", &value.to_string());
    }
    let mut value = lowest_y;
    while value <= highest_y {
        svg += &path(&[(LEFT, y(value)), (RIGHT, y(value))], GRID_COLOR);
        svg += &text(LEFT - 8.0, y(value) + 5.0, "end", &value.to_string());
        value *= 10.0;
    }
    svg += &text(RIGHT, BOTTOM + 40.0, "end", x_label);
    svg += &text(8.0, TOP - 25.0, "start", y_label);
    let mut left = RIGHT - LEGEND_WIDTH * 3.0;
    for ((name, points), color) in lines.iter().zip(COLORS) {
        let points: Vec<_> = points
            .iter()
            .map(|point| (x(point.0), y(point.1)))
            .collect();
        svg += &path(&points, color);
        svg += &path(&[(left, TOP - 30.0), (left + 20.0, TOP - 30.0)], color);
        svg += &text(left + 28.0, TOP - 25.0, "start", name);
        left += LEGEND_WIDTH;
    }
    svg + "</svg>\n"
}

/// The lowest and the highest value.
fn range(values: impl Iterator<Item = f64>) -> (f64, f64) {
    values.fold((f64::MAX, f64::MIN), |(lowest, highest), value| {
        (lowest.min(value), highest.max(value))
    })
}

/// Where a value is on a logarithmic axis, from 0 to 1.
fn position(value: f64, lowest: f64, highest: f64) -> f64 {
    (value / lowest).ln() / (highest / lowest).ln()
}

fn text(x: f64, y: f64, anchor: &str, text: &str) -> String {
    format!("<text x=\"{x:.0}\" y=\"{y:.0}\" text-anchor=\"{anchor}\">{text}</text>\n")
}

fn path(points: &[(f64, f64)], color: &str) -> String {
    let points: Vec<_> = points
        .iter()
        .map(|(x, y)| format!("{x:.0},{y:.0}"))
        .collect();
    let points = points.join(" ");
    format!("<polyline points=\"{points}\" fill=\"none\" stroke=\"{color}\" stroke-width=\"2\"/>\n")
}
