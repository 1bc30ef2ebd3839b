//! Right answers to the demo model's own tasks.

use std::io::Write;

use anyhow::Context;
use clap::Args;
use sparkv_eval::{Measurement, Mode, Retrieval, SampleShape, TaskSet, table};

use super::{Evaluation, progress_bar, write_json};

/// Tokens of the prompts, if nothing is said.
const LENGTHS: [usize; 4] = [256, 512, 1024, 2048];

/// Facts in each prompt, if nothing is said.
const FACTS: usize = 8;

/// Prompts for each length, if nothing is said.
const SAMPLES: usize = 200;

/// Which tasks, and how many.
#[derive(Debug, Args)]
#[command(next_help_heading = "Evaluation by answers, of the demo model's tasks or of --metric recall")]
pub(super) struct DemoOptions {
    /// Tasks to draw from, all of them if left out: of the demo model magic_number, key_value, story, people, ...; of recall
    /// codes, tool_calls, and RULER's niah_single_1, niah_multikey_2, niah_multikey_3, vt, cwe and fwe
    #[arg(long, value_name = "TASK", value_delimiter = ',')]
    pub(super) tasks: Vec<String>,
    /// Tokens of the prompts; 256, 512, 1024 and 2048 if left out, with recall 1024
    #[arg(long, value_name = "N", value_delimiter = ',')]
    pub(super) lengths: Vec<usize>,
    /// Facts in each prompt of the demo model's tasks; 8 if left out
    #[arg(long, value_name = "N")]
    facts: Option<usize>,
    /// Prompts for each length, the same ones for all settings; 200 if left out, with recall 20 contexts of each task
    #[arg(long, value_name = "N")]
    pub(super) samples: Option<usize>,
    /// Draws other prompts
    #[arg(long, value_name = "N")]
    pub(super) seed: Option<u64>,
    /// The question is in the prompt that is compressed (the default of the demo model's tasks)
    #[arg(long, conflicts_with = "query_agnostic")]
    pub(super) query_aware: bool,
    /// The context is compressed first; the question follows (the default of recall)
    #[arg(long)]
    query_agnostic: bool,
}

impl DemoOptions {
    /// The flags that were given.
    pub(super) fn given(&self) -> Vec<&'static str> {
        let flags = [
            (!self.tasks.is_empty(), "--tasks"),
            (!self.lengths.is_empty(), "--lengths"),
            (self.facts.is_some(), "--facts"),
            (self.samples.is_some(), "--samples"),
            (self.seed.is_some(), "--seed"),
            (self.query_aware, "--query-aware"),
            (self.query_agnostic, "--query-agnostic"),
        ];
        flags.into_iter().filter_map(|(given, flag)| given.then_some(flag)).collect()
    }
}

pub(super) fn eval(options: &DemoOptions, evaluation: &Evaluation<'_>) -> anyhow::Result<()> {
    let Evaluation { model, text, compared, json, .. } = *evaluation;
    let tasks = TaskSet::demo()?.only(&options.tasks)?;
    let mode = if options.query_agnostic { Mode::QueryAgnostic } else { Mode::QueryAware };
    let samples = options.samples.unwrap_or(SAMPLES);
    let seed = options.seed.unwrap_or(0);
    let lengths = if options.lengths.is_empty() { &LENGTHS[..] } else { &options.lengths };
    let retrieval = Retrieval { decoder: &model.decoder, text, tasks: &tasks, samples, seed, mode };
    let shape = |tokens| SampleShape { facts: options.facts.unwrap_or(FACTS), tokens };
    // What would fail later fails before hours of work are lost.
    for &tokens in lengths {
        retrieval.check(compared, shape(tokens)).with_context(|| format!("at {tokens} tokens"))?;
    }
    let save = |measurements: &[Measurement]| json.map_or(Ok(()), |path| write_json(path, measurements));
    save(&[])?;
    let bar = progress_bar(compared.len() * lengths.len() * samples)?;
    let mut measurements: Vec<Measurement> = Vec::new();
    for &tokens in lengths {
        for settings in compared {
            bar.set_message(format!("{} at {tokens}", settings.name));
            measurements.push(retrieval.measure(settings, shape(tokens), &|| bar.inc(1))?);
            save(&measurements)?;
        }
    }
    bar.finish_and_clear();
    Ok(write!(std::io::stdout(), "{}", table(&measurements))?)
}
