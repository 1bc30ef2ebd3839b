//! What was measured.

use serde_json::{Map, Value, json};

use super::Bench;

/// Seconds that something took, round by round.
#[derive(Debug, Default, Clone)]
pub(crate) struct Samples(pub(crate) Vec<f64>);

/// All results of a bench.
#[derive(Debug)]
pub(crate) struct Report {
    bench: &'static str,
    gpu: String,
    clock: &'static str,
    rounds: usize,
    pub(crate) results: Vec<Map<String, Value>>,
    /// What was not measured, and why.
    pub(crate) left_out: Vec<String>,
}

impl Samples {
    pub(crate) fn median(&self) -> f64 {
        median(self.0.clone())
    }

    /// How many times as fast as `other` it was, round by round.
    pub(crate) fn faster_than(&self, other: &Self) -> f64 {
        median(self.0.iter().zip(&other.0).map(|(own, other)| other / own).collect())
    }

    /// The faster of both in each round.
    pub(crate) fn or_faster(&self, other: &Self) -> Self {
        Self(self.0.iter().zip(&other.0).map(|(own, other)| own.min(*other)).collect())
    }

    pub(crate) fn json(&self) -> Value {
        let fastest = self.0.iter().copied().fold(f64::INFINITY, f64::min);
        let slowest = self.0.iter().copied().fold(0.0, f64::max);
        json!({"median": self.median(), "fastest": fastest, "slowest": slowest})
    }
}

impl Report {
    pub(crate) fn new(name: &'static str, bench: &Bench) -> Self {
        let (gpu, clock) = (bench.gpu.name.clone(), bench.gpu.clock());
        let (results, left_out) = Default::default();
        Self { bench: name, gpu, clock, rounds: bench.options.rounds, results, left_out }
    }

    pub(crate) fn json(&self) -> Value {
        let Self { bench, gpu, clock, rounds, results, left_out } = self;
        json!({"bench": bench, "gpu": gpu, "clock": clock, "rounds": rounds, "results": results, "left_out": left_out})
    }

    /// A line for each result, of all but spans and bytes.
    pub(crate) fn table(&self) -> String {
        let mut text = format!("{} on {}, {} rounds, by {}\n", self.bench, self.gpu, self.rounds, self.clock);
        let mut titles = Vec::new();
        for result in &self.results {
            let names: Vec<&String> = result.keys().filter(|name| *name != "bytes").collect();
            if names != titles {
                text += &row(names.iter().map(|name| title(name)));
                text += &row(names.iter().map(|_| "---".to_owned()));
                titles = names;
            }
            text += &row(titles.iter().map(|name| cell(name, &result[*name])));
        }
        self.left_out.iter().fold(text, |text, what| text + "left out: " + what + "\n")
    }
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

fn row(cells: impl Iterator<Item = String>) -> String {
    cells.fold("|".to_owned(), |row, cell| row + " " + &cell + " |") + "\n"
}

/// Seconds are shown as microseconds.
fn title(name: &str) -> String {
    let name = name.strip_suffix("seconds").map_or_else(|| name.to_owned(), |name| format!("{name}us"));
    name.replace('_', " ")
}

fn cell(name: &str, value: &Value) -> String {
    let median = value.get("median").and_then(Value::as_f64);
    match (median, value.as_f64()) {
        (Some(seconds), _) => format!("{:.1}", seconds * 1e6),
        (None, Some(speed)) if name.ends_with("per_second") => format!("{:.1}e9", speed / 1e9),
        (None, Some(number)) if value.is_f64() => format!("{number:.3}"),
        _ => value.as_str().map_or_else(|| value.to_string(), str::to_owned),
    }
}
