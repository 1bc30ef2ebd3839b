//! `sparkv bench`.

use std::io::Write;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::Context;
use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use sparkv::{KvOptions, parallel};
use sparkv_eval::SettingsUnderTest;
use sparkv_eval::bench::{Bench, BenchReport, Loading, Machine, ModelReport, memory};
use sparkv_models::{Decoder, DecoderConfig, LanguageModel, ModelSource, load_dummy};

use crate::allocator;
use crate::layers::{Layers, Origin};
use crate::loading;
use crate::logging;
use crate::options::{LogFormat, parse_kv};
use crate::progress::Bars;
use crate::settings::Settings;

/// Depths measured if none are named, as far as the model's context reaches.
const DEPTHS: [usize; 2] = [0, 8192];

/// Seed of random weights; the speed does not depend on it.
const SEED: u64 = 1;

/// What is measured.
#[derive(Debug, Args)]
#[command(next_help_heading = "Benchmark")]
pub(crate) struct BenchOptions {
    /// Random weights in the shape of a config.json, in place of a model: configs/shapes/llama-3.2-1b.json, ...
    #[arg(long, value_name = "FILE")]
    shape: Option<PathBuf>,
    /// Lengths of prompts; 0 for none
    #[arg(long, value_name = "N", value_delimiter = ',', default_values_t = [512])]
    prompt: Vec<usize>,
    /// Tokens in the cache when generation begins (noise, no prompt is computed for them);
    /// left out: 0 and 8192, or half of a context that is shorter than twice that
    #[arg(long, value_name = "N", value_delimiter = ',')]
    depth: Vec<usize>,
    /// Tokens generated in a run; 0 for none
    #[arg(long, value_name = "N", default_value_t = 32)]
    generate: usize,
    /// Runs of each measurement; the median is reported, with the slowest and the fastest beside it
    #[arg(long, value_name = "N", default_value = "5")]
    runs: NonZeroUsize,
    /// KV cache settings, a preset's name or a JSON object; several are compared in alternating runs
    #[arg(long = "kv", value_name = "PRESET|JSON", value_parser = parse_kv)]
    kv: Vec<KvOptions>,
    /// Print one JSON object: machine, model, loading, prefill, decode, peak_rss_bytes
    #[arg(long)]
    json: bool,
}

impl BenchOptions {
    /// A shape takes the place of a model that a variable or a file names, but not of one on the same command
    /// line.
    ///
    /// # Errors
    /// If both were given.
    pub(crate) fn check(&self, layers: &Layers) -> anyhow::Result<()> {
        if self.shape.is_some() && layers.origin("model", "source") == &Origin::Flag {
            anyhow::bail!("--shape makes a model up; it cannot be used with --model");
        }
        Ok(())
    }

    fn settings(&self, settings: &Settings) -> anyhow::Result<Vec<SettingsUnderTest>> {
        if self.kv.is_empty() {
            return Ok(vec![SettingsUnderTest {
                name: settings.kv_name.clone(),
                choice: settings.kv.clone(),
            }]);
        }
        self.kv.iter().map(|options| settings.under_test(options)).collect()
    }

    /// Lengths of prompts, without the 0 that stands for none.
    fn prompts(&self) -> Vec<usize> {
        self.prompt.iter().copied().filter(|&tokens| tokens > 0).collect()
    }

    fn depths(&self, context_length: usize) -> Vec<usize> {
        match (self.generate, self.depth.as_slice()) {
            (0, _) => Vec::new(),
            (_, []) => DEPTHS.map(|depth| depth.min(context_length / 2)).to_vec(),
            (_, depths) => depths.to_vec(),
        }
    }
}

/// Measures, with a progress bar; prints tables or JSON.
///
/// # Errors
/// If the model or the shape cannot be loaded, or prompts, depths and settings do not fit it.
pub(crate) fn bench(options: &BenchOptions, settings: &Settings) -> anyhow::Result<()> {
    let kv = options.settings(settings)?;
    let _telemetry;
    let start = Instant::now();
    let (decoder, model) = match &options.shape {
        Some(path) => {
            loading::set_threads(settings);
            _telemetry = logging::init(LogFormat::default())?;
            load_shape(path, settings)?
        }
        None => {
            let source = loading::source(settings)?;
            _telemetry = logging::init(LogFormat::default())?;
            load_named(&source, settings)?
        }
    };
    let loading = Loading::since(start, decoder.weight_bytes());
    let prompts = options.prompts();
    let depths = options.depths(decoder.info().context_length);
    let runs = options.runs.get();
    let settle = allocator::give_back;
    let bench = Bench { decoder: &decoder, kv: &kv, runs, generate: options.generate, settle };
    bench.check(&prompts, &depths)?;
    let steps = (prompts.len() + depths.len()) * kv.len() * runs;
    let bar = ProgressBar::new(steps as u64);
    bar.set_style(ProgressStyle::with_template("{msg} {wide_bar} {pos}/{len} {eta}")?);
    bar.enable_steady_tick(Duration::from_millis(200));
    bar.set_message("warming up");
    bench.warm_up()?;
    let (mut prefill, mut decode) = (Vec::new(), Vec::new());
    for tokens in prompts {
        bar.set_message(format!("prompts of {tokens}"));
        prefill.extend(bench.prefill(tokens, &|| bar.inc(1))?);
    }
    for depth in depths {
        bar.set_message(format!("generation at {depth}"));
        decode.extend(bench.decode(depth, &|| bar.inc(1))?);
    }
    bar.finish_and_clear();
    let machine = Machine::this(parallel::threads());
    let report = BenchReport { machine, model, loading, prefill, decode, peak_rss_bytes: memory().peak };
    let mut out = std::io::stdout();
    if options.json {
        Ok(writeln!(out, "{}", serde_json::to_string_pretty(&report)?)?)
    } else {
        Ok(write!(out, "{}", report.table())?)
    }
}

/// The model that is named.
fn load_named(source: &ModelSource, settings: &Settings) -> anyhow::Result<(Decoder, ModelReport)> {
    let (loaded, _) = loading::load_model(settings, source, settings.model.weights, &Bars::default())?;
    Ok((loaded.decoder, report(loaded.name, settings, false)))
}

/// One made up in the shape of a config.json.
fn load_shape(path: &Path, settings: &Settings) -> anyhow::Result<(Decoder, ModelReport)> {
    let device = settings.model.device.open()?;
    let config = read_shape(path).with_context(|| format!("--shape {}", path.display()))?;
    let mut decoder = load_dummy(&config, settings.model.weights, SEED, &device, &Bars::default())?;
    decoder.take_kv_memory(settings.server.kv_memory)?;
    let name = path.file_stem().map_or_else(String::new, |name| name.to_string_lossy().into_owned());
    Ok((decoder, report(name, settings, true)))
}

fn report(name: String, settings: &Settings, dummy: bool) -> ModelReport {
    ModelReport { name, weights: settings.model.weights.to_string(), dummy }
}

fn read_shape(path: &Path) -> anyhow::Result<DecoderConfig> {
    Ok(DecoderConfig::from_json(&std::fs::read_to_string(path)?)?)
}
