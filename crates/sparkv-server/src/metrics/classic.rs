//! The text format that Prometheus had before OpenMetrics (0.0.4), which routers and older clients read.

/// What stands before a family's explanation.
const HELP: &str = "# HELP ";

/// What stands before a family's kind.
const TYPE: &str = "# TYPE ";

/// The same figures in the older format: there a counter's family has the name of its samples, which end in `_total`,
/// and nothing marks the end.
pub(super) fn classic(openmetrics: &str) -> String {
    let mut text = String::with_capacity(openmetrics.len());
    let mut help = "";
    for line in openmetrics.lines() {
        if let Some(explained) = line.strip_prefix(HELP) {
            help = explained.split_once(' ').map_or("", |(_, help)| help);
        } else if let Some((name, kind)) = line.strip_prefix(TYPE).and_then(|rest| rest.split_once(' ')) {
            let ending = if kind == "counter" { "_total" } else { "" };
            text.push_str(&format!("{HELP}{name}{ending} {help}\n{TYPE}{name}{ending} {kind}\n"));
        } else if !line.starts_with('#') {
            text.push_str(line);
            text.push('\n');
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_are_called_as_their_samples_are() {
        let openmetrics = "# HELP a_b Counted.\n# TYPE a_b counter\na_b_total{x=\"# y\"} 1\n\
            # HELP c Now.\n# TYPE c gauge\nc 2.5\n# EOF\n";
        let expected = "# HELP a_b_total Counted.\n# TYPE a_b_total counter\na_b_total{x=\"# y\"} 1\n\
            # HELP c Now.\n# TYPE c gauge\nc 2.5\n";
        assert_eq!(classic(openmetrics), expected);
    }
}
