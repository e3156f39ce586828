//! The plot: requests per second by connections, on two logarithmic axes, as SVG.

use crate::comparison::Comparison;
use crate::work::Work;

const HEADER: &str = r##"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 760 390" font-family="sans-serif" font-size="15" text-anchor="middle" dominant-baseline="middle" stroke-width="2">
<rect width="760" height="390" fill="#fff"/>
<text x="410" y="382">connections</text>
<text x="50" y="25">requests/s</text>"##;
const COLORS: [&str; 3] = ["#c83c28", "#6e6e6e", "#286ebe"];

/// Draws the loads on one replica and on what it is compared with.
pub(crate) fn draw(comparisons: &[Comparison]) -> String {
    let y = |per_second: f64| 500.0 - 80.0 * per_second.log10();
    let mut lines = vec![HEADER.to_owned()];
    for per_second in [100.0, 1_000.0, 10_000.0, 100_000.0] {
        let y = y(per_second);
        lines.push(format!(r##"<path d="M90 {y}H730" stroke="#ccc"/>"##));
        lines.push(format!(r#"<text x="50" y="{y}">{per_second}</text>"#));
    }
    let mut plotted = Vec::new();
    for Comparison { contestants, .. } in comparisons {
        if let Work::Load(_, 1, connections) = contestants[0].work {
            let x = 90.0 + 70.0 * f64::from(connections).log2();
            lines.push(format!(r##"<path d="M{x} 50V340" stroke="#ccc"/>"##));
            lines.push(format!(r#"<text x="{x}" y="360">{connections}</text>"#));
            plotted.push((x, contestants));
        }
    }
    for (index, color) in COLORS.iter().enumerate() {
        let points = plotted.iter().map(|(x, contestants)| {
            let y = y(contestants[index].median(0));
            format!("{x:.0},{y:.0}")
        });
        let points = points.collect::<Vec<_>>().join(" ");
        let (x, name) = (280 + 180 * index, plotted[0].1[index].name);
        lines.push(format!(
            r#"<polyline points="{points}" fill="none" stroke="{color}"/>"#
        ));
        lines.push(format!(
            r#"<text x="{x}" y="25" fill="{color}">{name}</text>"#
        ));
    }
    lines.push("</svg>\n".to_owned());
    lines.join("\n")
}
