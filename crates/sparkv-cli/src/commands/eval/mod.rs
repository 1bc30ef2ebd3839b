//! `sparkv eval`.

mod demo;
mod kl;
mod recall;

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::{Args, ValueEnum};
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;
use serde::de::DeserializeOwned;
use sparkv::KvOptions;
use sparkv::settings::EXACT;
use sparkv_engine::TextModel;
use sparkv_eval::SettingsUnderTest;
use sparkv_models::{LoadedModel, WeightFormat};

use crate::loading;
use crate::logging;
use crate::options::{LogFormat, parse_kv};
use crate::progress::Bars;
use crate::settings::Settings;

/// What is measured.
#[derive(Debug, Args)]
#[command(next_help_heading = "Evaluation")]
pub(crate) struct EvalOptions {
    /// demo counts right answers to the demo model's own tasks; kl tells, for any model, how far predictions move (with
    /// weights in f32, unless --weights says otherwise); recall, whether it finds what stands in a long context
    #[arg(long, value_name = "METRIC", default_value = "demo")]
    metric: Metric,
    /// Settings to compare, each a preset's name or a JSON object; all presets if left out
    #[arg(long = "kv", value_name = "PRESET|JSON", value_parser = parse_kv)]
    kv: Vec<KvOptions>,
    /// Also write the measurements to a file, after each of them; with kl and recall, those that it holds already are not
    /// made again
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    #[command(flatten)]
    demo: demo::DemoOptions,
    #[command(flatten)]
    kl: kl::KlOptions,
    #[command(flatten)]
    recall: recall::RecallOptions,
}

/// How settings are measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Metric {
    Demo,
    Kl,
    Recall,
}

impl EvalOptions {
    /// The settings to compare. Presets are ordered by name, but for the one that compresses nothing.
    fn settings(&self, settings: &Settings) -> anyhow::Result<Vec<SettingsUnderTest>> {
        let mut asked: Vec<KvOptions> = self.kv.clone();
        if asked.is_empty() && self.kl.calibrates() {
            asked = candidates();
        }
        if asked.is_empty() {
            let preset = |(name, _): (&str, &KvOptions)| KvOptions {
                preset: Some(name.to_owned()),
                ..KvOptions::default()
            };
            asked = settings.presets.iter().map(preset).collect();
            asked.sort_by_key(|options| options.preset.as_deref() != Some(EXACT));
        }
        asked.iter().map(|options| settings.under_test(options)).collect()
    }

    /// What is given belongs to the metric.
    fn check(&self) -> anyhow::Result<()> {
        let flags = [
            (Metric::Demo, self.demo.given()),
            (Metric::Kl, self.kl.given()),
            (Metric::Recall, self.recall.given()),
        ];
        for (metric, given) in flags {
            if let Some(flag) = given.into_iter().find(|flag| !self.metric.takes(flag, metric)) {
                anyhow::bail!("{flag} is an option of --metric {}", metric.name());
            }
        }
        Ok(())
    }
}

impl Metric {
    fn name(self) -> &'static str {
        match self {
            Self::Demo => "demo",
            Self::Kl => "kl",
            Self::Recall => "recall",
        }
    }

    /// Whether it has an option of the name of one of `owner`: some are of two.
    fn takes(self, flag: &str, owner: Self) -> bool {
        self == owner || (self == Self::Recall && owner == Self::Demo && recall::SHARED.contains(&flag))
    }
}

/// A loaded model, and what is to be measured with it.
struct Evaluation<'a> {
    model: &'a LoadedModel,
    weights: WeightFormat,
    text: &'a TextModel,
    compared: &'a [SettingsUnderTest],
    json: Option<&'a PathBuf>,
}

impl Evaluation<'_> {
    /// What is measured, as measurements say it.
    fn name(&self) -> String {
        format!("{}, {}", self.model.name, self.weights)
    }
}

/// Measures, with a progress bar; prints a table.
///
/// # Errors
/// If the model cannot be loaded, a task or settings do not exist, or a sample or text does not fit the model.
pub(crate) fn eval(options: &EvalOptions, settings: &Settings) -> anyhow::Result<()> {
    options.check()?;
    let source = loading::source(settings)?;
    let _telemetry = logging::init(LogFormat::default())?;
    let compared = options.settings(settings)?;
    // In f32, predictions move with the cache alone.
    let weights = match (options.metric, settings.model.weights) {
        (Metric::Kl, WeightFormat::Auto) => WeightFormat::F32,
        (_, weights) => weights,
    };
    let (model, text) = loading::load_model(settings, &source, weights, &Bars::default())?;
    let json = options.json.as_ref();
    let evaluation = Evaluation { model: &model, weights, text: &text, compared: &compared, json };
    match options.metric {
        Metric::Demo => demo::eval(&options.demo, &evaluation),
        Metric::Kl => kl::eval(&options.kl, &evaluation),
        Metric::Recall => recall::eval(&options.recall, &options.demo, &evaluation),
    }
}

/// Settings that a table for budgets may hold: keys and values of all pairs of precisions that are not far apart, of which keys
/// need the more bits; keys of few bits by queries and not.
fn candidates() -> Vec<KvOptions> {
    use sparkv::settings::{Allocation, Precision, PrecisionOptions};
    let precisions = [
        Precision::Int8,
        Precision::Int6,
        Precision::Int5,
        Precision::Int4,
        Precision::Int3,
        Precision::Int2,
    ];
    let mut all = Vec::new();
    for (place, keys) in precisions.into_iter().enumerate() {
        for values in precisions.into_iter().skip(place).take(4) {
            let precision = Some(PrecisionOptions { keys: Some(keys), values: Some(values) });
            let options = KvOptions { precision, ..KvOptions::default() };
            all.push(options.clone());
            if keys > Precision::Int6 {
                all.push(KvOptions { allocation: Some(Allocation::Uniform), ..options });
            }
        }
    }
    all
}

/// A bar for so many measurements, with the time that is left.
fn progress_bar(steps: usize) -> anyhow::Result<ProgressBar> {
    let bar = ProgressBar::new(steps as u64);
    bar.set_style(ProgressStyle::with_template("{msg} {wide_bar} {pos}/{len} {eta}")?);
    Ok(bar)
}

/// Writes measurements to a file.
fn write_json(path: &Path, measurements: &[impl Serialize]) -> anyhow::Result<()> {
    std::fs::write(path, serde_json::to_string_pretty(measurements)?)
        .with_context(|| format!("cannot write {}", path.display()))
}

/// What was measured before; nothing if there is no such file.
fn read_json<T: DeserializeOwned>(path: &Path) -> anyhow::Result<Vec<T>> {
    match fs::read_to_string(path) {
        Ok(text) => serde_json::from_str(&text)
            .with_context(|| format!("{} holds something else than such measurements", path.display())),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(error).with_context(|| format!("cannot read {}", path.display())),
    }
}
