//! Metrics that every program has, and the two text formats of a registry.

use prometheus_client::encoding::text;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::Registry;

use super::logs;

const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
const PROMETHEUS_TEXT: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Registers the metrics that every program has: its build, and the log lines that it dropped.
pub fn register_common(registry: &mut Registry) {
    let build = [
        ("version", env!("CARGO_PKG_VERSION")),
        // The git revision, if the build sets REVISION.
        ("revision", option_env!("REVISION").unwrap_or("unknown")),
    ];
    registry.register("build", "The running program", Info::new(build));
    registry.register(
        "log_lines_dropped",
        "Log lines that could not be written, or found the queue of unread lines full",
        logs::DROPPED_LINES.clone(),
    );
}

/// All metrics of a registry, with their content type: OpenMetrics for a scraper whose `Accept`
/// names it, as Prometheus' own does, and Prometheus' text format 0.0.4 for all others.
#[must_use]
#[expect(clippy::missing_panics_doc, reason = "writing to a string cannot fail")]
pub fn encode(registry: &Registry, accept: Option<&str>) -> (&'static str, String) {
    let mut open_metrics = String::new();
    text::encode(&mut open_metrics, registry).expect("writing to a string cannot fail");
    if accept.is_some_and(|accept| accept.contains("application/openmetrics-text")) {
        (OPEN_METRICS, open_metrics)
    } else {
        (PROMETHEUS_TEXT, to_prometheus_text(&open_metrics))
    }
}

/// Converts OpenMetrics to Prometheus' text format. In that format HELP and TYPE carry a sample's
/// full name, with `_total` or `_info`. It has no type `info`, no units and no end mark.
fn to_prometheus_text(open_metrics: &str) -> String {
    let mut text = String::new();
    let families = open_metrics.split("# HELP ").skip(1);
    for (help, rest) in families.filter_map(|family| family.split_once('\n')) {
        let (name, help) = help.split_once(' ').unwrap_or((help, ""));
        let (kind, samples) = rest.split_once('\n').unwrap_or((rest, ""));
        let (suffix, kind) = match kind.rsplit(' ').next() {
            Some("counter") => ("_total", "counter"),
            Some("info") => ("_info", "gauge"),
            kind => ("", kind.unwrap_or("untyped")),
        };
        text.extend(["# HELP ", name, suffix, " ", help, "\n"]);
        text.extend(["# TYPE ", name, suffix, " ", kind, "\n"]);
        let is_sample = |line: &&str| !line.starts_with('#');
        text.extend(samples.split_inclusive('\n').filter(is_sample));
    }
    text
}
