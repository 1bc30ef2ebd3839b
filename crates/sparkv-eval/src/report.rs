//! Measurements as people read them.

use std::fmt::Write;

use bytesize::ByteSize;

use crate::retrieval::Measurement;

/// A Markdown table: a row for each settings, two columns for each length.
pub fn table(measurements: &[Measurement]) -> String {
    let mut lengths: Vec<usize> = measurements.iter().map(|m| m.length).collect();
    lengths.dedup();
    let mut names: Vec<&str> = Vec::new();
    for measurement in measurements {
        if !names.contains(&measurement.kv.as_str()) {
            names.push(&measurement.kv);
        }
    }
    let mut text = String::from("| kv_cache |");
    for length in &lengths {
        let _ = write!(text, " right at {length} tokens | KV bytes (of dense f16) |");
    }
    text.push_str("\n|---|");
    text.push_str(&"---:|---:|".repeat(lengths.len()));
    for name in names {
        let _ = write!(text, "\n| {name} |");
        for length in &lengths {
            match measurements.iter().find(|m| m.kv == name && m.length == *length) {
                Some(m) => {
                    let (accuracy, share) = (100.0 * m.accuracy(), 100.0 * m.kv_share());
                    let _ = write!(
                        text,
                        " {accuracy:.1} % | {} ({share:.0} %) |",
                        ByteSize(m.mean_kv_bytes as u64)
                    );
                }
                None => text.push_str(" | |"),
            }
        }
    }
    text.push('\n');
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::retrieval::Mode;

    fn measurement(kv: &str, length: usize, exact: usize) -> Measurement {
        Measurement {
            kv: kv.to_owned(),
            length,
            facts: 8,
            mode: Mode::QueryAware,
            samples: 200,
            exact,
            mean_kv_bytes: 512.0 * 1024.0,
            mean_dense_bytes: 2048.0 * 1024.0,
        }
    }

    #[test]
    fn settings_are_rows_and_lengths_are_columns() {
        let text = table(&[
            measurement("exact", 256, 199),
            measurement("tiny", 256, 100),
            measurement("exact", 512, 190),
            measurement("tiny", 512, 0),
        ]);
        let expected = "\
| kv_cache | right at 256 tokens | KV bytes (of dense f16) | right at 512 tokens | KV bytes (of dense f16) |
|---|---:|---:|---:|---:|
| exact | 99.5 % | 512.0 KiB (25 %) | 95.0 % | 512.0 KiB (25 %) |
| tiny | 50.0 % | 512.0 KiB (25 %) | 0.0 % | 512.0 KiB (25 %) |
";
        assert_eq!(text, expected);
    }
}
