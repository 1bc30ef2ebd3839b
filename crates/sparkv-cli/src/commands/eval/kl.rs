//! How far settings move predictions.

use std::fs;
use std::io::Write;
use std::path::PathBuf;

use anyhow::Context;
use clap::Args;
use sparkv::{KvOptions, MeasuredStep, calibration_table};
use sparkv_engine::{Prompt, TextModel};
use sparkv_eval::SettingsUnderTest;
use sparkv_eval::kl::{
    Cut, Divergence, Subject, Summary, TextSet, TokenText, check, divergence, plot, summarize, table,
};
use sparkv_models::{LanguageModel, LoadedModel};

use super::{Evaluation, progress_bar, read_json, write_json};

/// Tokens of a prefix, if nothing is said.
const PREFIX: usize = 1792;

/// Tokens behind it, if nothing is said.
const TAIL: usize = 256;

/// Which texts, and how they are cut.
#[derive(Debug, Args)]
#[command(next_help_heading = "Evaluation by KL divergence")]
pub(super) struct KlOptions {
    /// Text to measure on, in place of texts of our own; may be given again
    #[arg(long, value_name = "FILE")]
    text: Vec<PathBuf>,
    /// Texts of our own: prose, code, recall (what a context mentions is told again), tools (the same as calls), four of each;
    /// prose and code if left out, all of them with --calibrate
    #[arg(long, value_name = "SET", value_delimiter = ',', conflicts_with = "text")]
    sets: Vec<String>,
    /// Tokens of each text that are compressed; 1792 if left out
    #[arg(long, value_name = "N")]
    prefix: Option<usize>,
    /// Tokens behind them that are predicted; 256 if left out
    #[arg(long, value_name = "N")]
    tail: Option<usize>,
    /// Quantize what follows the prefix, too, as while generating
    #[arg(long)]
    generated: bool,
    /// Write the table that budgets choose from, for --calibration: what is best for the bytes among the settings that are
    /// compared (those that a table may hold, if no --kv is given)
    #[arg(long, value_name = "FILE.toml")]
    calibrate: Option<PathBuf>,
    /// Draw KL against bytes
    #[arg(long, value_name = "FILE.svg")]
    plot: Option<PathBuf>,
}

impl KlOptions {
    /// The flags that were given.
    pub(super) fn given(&self) -> Vec<&'static str> {
        let flags = [
            (!self.text.is_empty(), "--text"),
            (!self.sets.is_empty(), "--sets"),
            (self.prefix.is_some(), "--prefix"),
            (self.tail.is_some(), "--tail"),
            (self.generated, "--generated"),
            (self.calibrate.is_some(), "--calibrate"),
            (self.plot.is_some(), "--plot"),
        ];
        flags.into_iter().filter_map(|(given, flag)| given.then_some(flag)).collect()
    }

    /// Whether a table is to be written.
    pub(super) fn calibrates(&self) -> bool {
        self.calibrate.is_some()
    }

    fn cut(&self) -> Cut {
        let (prefix, tail) = (self.prefix.unwrap_or(PREFIX), self.tail.unwrap_or(TAIL));
        Cut { prefix, tail, generated: self.generated }
    }

    fn sets(&self) -> anyhow::Result<Vec<TextSet>> {
        if self.sets.is_empty() && self.calibrates() {
            return Ok(TextSet::ALL.to_vec());
        }
        if self.sets.is_empty() {
            return Ok(vec![TextSet::Prose, TextSet::Code]);
        }
        let named = |name: &String| {
            let known = TextSet::ALL.map(TextSet::name).join(", ");
            let set = TextSet::ALL.into_iter().find(|set| set.name() == name);
            set.with_context(|| format!("no set `{name}`; there are {known}"))
        };
        self.sets.iter().map(named).collect()
    }

    fn texts(&self, model: &TextModel) -> anyhow::Result<Vec<TokenText>> {
        let encode = |name: &str, text: String| -> anyhow::Result<TokenText> {
            Ok(TokenText { name: name.to_owned(), tokens: model.encode(Prompt::Text(text))? })
        };
        if self.text.is_empty() {
            let count =
                |text: &str| model.tokenizer().encode_fast(text, false).map_or(0, |encoding| encoding.len());
            let texts = self.sets()?.into_iter().flat_map(|set| set.texts(self.cut().prefix, &count));
            return texts.map(|(name, text)| encode(&name, text)).collect();
        }
        let read = |path: &PathBuf| {
            let name = path.display().to_string();
            let text = fs::read_to_string(path).with_context(|| format!("cannot read {name}"))?;
            encode(&name, text)
        };
        self.text.iter().map(read).collect()
    }
}

pub(super) fn eval(options: &KlOptions, evaluation: &Evaluation<'_>) -> anyhow::Result<()> {
    let Evaluation { model, text, compared, json, .. } = *evaluation;
    let name = evaluation.name();
    let subject = Subject { name: &name, decoder: &model.decoder };
    let cut = options.cut();
    let texts = options.texts(text)?;
    // What would fail later fails before hours of work are lost.
    for text in &texts {
        check(subject, text, cut, compared)?;
    }
    let mut known: Vec<Divergence> = json.map(|path| read_json(path)).transpose()?.unwrap_or_default();
    let is_this = |d: &Divergence| {
        (d.prefix, d.tail, d.generated) == (cut.prefix, cut.tail, cut.generated)
            && d.model == name
            && texts.iter().any(|text| text.name == d.text && text.hash() == d.text_hash)
            && compared.iter().any(|settings| settings.name == d.kv)
    };
    known.retain(is_this);
    let bar = progress_bar(texts.len() * compared.len())?;
    bar.inc(known.len() as u64);
    for text in &texts {
        let is_known = |settings: &&SettingsUnderTest| {
            known.iter().any(|d: &Divergence| d.text == text.name && d.kv == settings.name)
        };
        let missing: Vec<SettingsUnderTest> =
            compared.iter().filter(|settings| !is_known(settings)).cloned().collect();
        if missing.is_empty() {
            continue;
        }
        bar.set_message(text.name.clone());
        divergence(subject, text, cut, &missing, |found| -> anyhow::Result<()> {
            known.push(found);
            bar.inc(1);
            json.map_or(Ok(()), |path| write_json(path, &known))
        })?;
    }
    bar.finish_and_clear();
    // In the order asked for, whatever was known before.
    known.sort_by_key(|d| compared.iter().position(|settings| settings.name == d.kv));
    let summaries = summarize(&known);
    if let Some(path) = &options.calibrate {
        let table = calibration(model, &summaries)?;
        fs::write(path, table).with_context(|| format!("cannot write {}", path.display()))?;
    }
    if let Some(path) = &options.plot {
        let svg = plot(&summaries).map_err(anyhow::Error::msg)?;
        fs::write(path, svg).with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(write!(std::io::stdout(), "{}", table(&summaries))?)
}

/// The table of what was measured. Presets and what evicts are no steps of one.
fn calibration(model: &LoadedModel, summaries: &[Summary]) -> anyhow::Result<String> {
    let step = |summary: &Summary| {
        let kv: KvOptions = serde_json::from_str(&summary.kv).ok()?;
        let is_step = kv.preset.is_none() && kv.eviction.is_none() && kv.budget.is_none();
        is_step.then_some(MeasuredStep { kv, kl: summary.kl, bytes: summary.kv_share })
    };
    let steps: Vec<MeasuredStep> = summaries.iter().filter_map(step).collect();
    Ok(calibration_table(&model.name, &model.decoder.info().kv_shape, &steps)?)
}
