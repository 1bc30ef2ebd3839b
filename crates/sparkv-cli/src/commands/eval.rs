//! `sparkv eval`.

use std::io::Write;
use std::path::PathBuf;

use anyhow::Context;
use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use sparkv::KvOptions;
use sparkv::settings::EXACT;
use sparkv_eval::{Measurement, Mode, Retrieval, SampleShape, SettingsUnderTest, TaskSet, table};

use crate::loading;
use crate::logging;
use crate::options::{LogFormat, parse_kv};
use crate::progress::Bars;
use crate::settings::Settings;
use crate::threads::OnlyThread;

/// What is measured.
#[derive(Debug, Args)]
#[command(next_help_heading = "Evaluation")]
pub(crate) struct EvalOptions {
    /// Tasks to draw from, all of them if left out: magic_number, key_value, story, people, ...
    #[arg(long, value_name = "TASK", value_delimiter = ',')]
    tasks: Vec<String>,
    /// Tokens of the prompts
    #[arg(long, value_name = "N", value_delimiter = ',', default_values_t = [256, 512, 1024, 2048])]
    lengths: Vec<usize>,
    /// Facts in each prompt
    #[arg(long, value_name = "N", default_value_t = 8)]
    facts: usize,
    /// Settings to compare, each a preset's name or a JSON object; all presets if left out
    #[arg(long = "kv", value_name = "PRESET|JSON", value_parser = parse_kv)]
    kv: Vec<KvOptions>,
    /// Prompts for each length; the same ones for all settings
    #[arg(long, value_name = "N", default_value_t = 200)]
    samples: usize,
    /// Draws other prompts
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,
    /// The question is in the prompt that is compressed (the default)
    #[arg(long, conflicts_with = "query_agnostic")]
    query_aware: bool,
    /// The context is compressed first; the question follows
    #[arg(long)]
    query_agnostic: bool,
    /// Also write the measurements to a file, after each of them
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

impl EvalOptions {
    /// The settings to compare. Presets are ordered by name, but for the one that compresses nothing.
    fn settings(&self, settings: &Settings) -> anyhow::Result<Vec<SettingsUnderTest>> {
        let mut asked: Vec<KvOptions> = self.kv.clone();
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
}

/// Measures, with a progress bar; prints a table.
///
/// # Errors
/// If the model cannot be loaded, a task or settings do not exist, or a sample does not fit the model.
pub(crate) fn eval(options: &EvalOptions, settings: &Settings, alone: OnlyThread) -> anyhow::Result<()> {
    let source = loading::source(settings, &alone)?;
    let _telemetry = logging::init(LogFormat::default(), alone)?;
    let compared = options.settings(settings)?;
    let tasks = TaskSet::demo()?.only(&options.tasks)?;
    let (model, text) = loading::load_model(settings, &source, &Bars::default())?;
    let mode = if options.query_agnostic { Mode::QueryAgnostic } else { Mode::QueryAware };
    let retrieval = Retrieval {
        decoder: &model.decoder,
        text: &text,
        tasks: &tasks,
        samples: options.samples,
        seed: options.seed,
        mode,
    };
    // What would fail later fails before hours of work are lost.
    for &tokens in &options.lengths {
        let shape = SampleShape { facts: options.facts, tokens };
        retrieval.check(&compared, shape).with_context(|| format!("at {tokens} tokens"))?;
    }
    let save = |measurements: &[Measurement]| match &options.json {
        None => Ok(()),
        Some(path) => std::fs::write(path, serde_json::to_string_pretty(measurements)?)
            .with_context(|| format!("cannot write {}", path.display())),
    };
    save(&[])?;
    let steps = compared.len() * options.lengths.len() * options.samples;
    let bar = ProgressBar::new(steps as u64);
    bar.set_style(ProgressStyle::with_template("{msg} {wide_bar} {pos}/{len} {eta}")?);
    let mut measurements: Vec<Measurement> = Vec::new();
    for &tokens in &options.lengths {
        for settings in &compared {
            bar.set_message(format!("{} at {tokens}", settings.name));
            let shape = SampleShape { facts: options.facts, tokens };
            measurements.push(retrieval.measure(settings, shape, &|| bar.inc(1))?);
            save(&measurements)?;
        }
    }
    bar.finish_and_clear();
    Ok(write!(std::io::stdout(), "{}", table(&measurements))?)
}
