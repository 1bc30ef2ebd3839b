//! `sparkv list`.

use std::io::Write;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytesize::ByteSize;
use clap::Args;
use serde::Serialize;
use sparkv_models::{CachedModel, HubOptions, check, hub};

/// How the models are shown.
#[derive(Debug, Args)]
pub(crate) struct ListOptions {
    /// Print one JSON array: name, quantization, revision, bytes, last_used (seconds since 1970), servable, reason
    #[arg(long)]
    json: bool,
}

/// A model in the cache, and whether it can be served.
#[derive(Debug, Serialize)]
struct Row {
    name: String,
    /// Of GGUF files; null for safetensors.
    quantization: Option<String>,
    revision: String,
    bytes: u64,
    last_used: Option<u64>,
    servable: bool,
    /// Why not.
    reason: Option<String>,
}

/// Shows the models of the hub that are on this machine: those that can be served, then those that cannot, and why.
///
/// # Errors
/// If nobody reads the output.
pub(crate) fn list(options: &ListOptions) -> anyhow::Result<()> {
    let rows: Vec<Row> = hub::list(&HubOptions::default()).iter().map(row).collect();
    let mut out = std::io::stdout().lock();
    if options.json {
        return Ok(writeln!(out, "{}", serde_json::to_string(&rows)?)?);
    }
    let (servable, others): (Vec<&Row>, Vec<&Row>) = rows.iter().partition(|row| row.servable);
    if servable.is_empty() {
        writeln!(out, "no model of the hub is on this machine; `sparkv pull ORG/NAME` downloads one")?;
    } else {
        write!(out, "{}", table(&servable, SystemTime::now()))?;
    }
    if !others.is_empty() {
        writeln!(out, "\nnot servable:")?;
    }
    for row in others {
        let reason = row.reason.as_deref().unwrap_or_default();
        writeln!(out, "{} ({}): {reason}", row.name, ByteSize::b(row.bytes))?;
    }
    Ok(())
}

fn row(model: &CachedModel) -> Row {
    let reason = match &model.missing {
        Some(file) => Some(format!("the cache lacks {file}")),
        None => check(&model.source()).err().map(|error| error.to_string()),
    };
    let since_1970 = |time: SystemTime| Some(time.duration_since(UNIX_EPOCH).ok()?.as_secs());
    Row {
        name: model.name.to_string(),
        quantization: model.quantization.clone(),
        revision: model.commit.clone(),
        bytes: model.bytes,
        last_used: model.used.and_then(since_1970),
        servable: reason.is_none(),
        reason,
    }
}

/// Columns as wide as what is in them.
fn table(rows: &[&Row], now: SystemTime) -> String {
    let heading = ["NAME", "FORMAT", "SIZE", "REVISION", "LAST USED"].map(str::to_owned);
    let lines = rows.iter().map(|row| {
        let used = row.last_used.map(|seconds| UNIX_EPOCH + Duration::from_secs(seconds));
        [
            row.name.clone(),
            row.quantization.as_ref().map_or("safetensors".to_owned(), |of| format!("GGUF {of}")),
            ByteSize::b(row.bytes).to_string(),
            row.revision.chars().take(8).collect(),
            used.map_or("unknown".to_owned(), |used| ago(now.duration_since(used).unwrap_or_default())),
        ]
    });
    let lines: Vec<[String; 5]> = std::iter::once(heading).chain(lines).collect();
    let mut text = String::new();
    for line in &lines {
        let cells = line.iter().enumerate().map(|(column, cell)| {
            let width =
                lines.iter().filter_map(|line| line.get(column)).map(|cell| cell.chars().count()).max();
            format!("{cell:0$}", width.unwrap_or_default())
        });
        text.push_str(cells.collect::<Vec<_>>().join("  ").trim_end());
        text.push('\n');
    }
    text
}

/// How long ago, in the largest unit that fills.
fn ago(time: Duration) -> String {
    let units = [("day", 86_400), ("hour", 3_600), ("minute", 60)];
    let filled = units.iter().map(|(name, seconds)| (name, time.as_secs() / seconds)).find(|(_, n)| *n > 0);
    match filled {
        Some((name, 1)) => format!("1 {name} ago"),
        Some((name, count)) => format!("{count} {name}s ago"),
        None => "just now".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_told_in_the_largest_unit() {
        let cases = [
            (0, "just now"),
            (59, "just now"),
            (60, "1 minute ago"),
            (7_300, "2 hours ago"),
            (90_000, "1 day ago"),
        ];
        for (seconds, expected) in cases {
            assert_eq!(ago(Duration::from_secs(seconds)), expected);
        }
    }
}
