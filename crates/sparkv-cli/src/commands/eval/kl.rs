//! How far settings move predictions.

use std::fs;
use std::io::Write;
use std::path::PathBuf;

use anyhow::Context;
use clap::Args;
use sparkv_engine::{Prompt, TextModel};
use sparkv_eval::SettingsUnderTest;
use sparkv_eval::kl::{
    BUILT_IN, Cut, Divergence, Subject, TokenText, check, divergence, plot, summarize, table,
};

use super::{Evaluation, progress_bar, read_json, write_json};

/// Tokens of a prefix, if nothing is said.
const PREFIX: usize = 1792;

/// Tokens behind it, if nothing is said.
const TAIL: usize = 256;

/// Which texts, and how they are cut.
#[derive(Debug, Args)]
#[command(next_help_heading = "Evaluation by KL divergence")]
pub(super) struct KlOptions {
    /// Text to measure on; may be given again. Eight texts of our own if left out
    #[arg(long, value_name = "FILE")]
    text: Vec<PathBuf>,
    /// Tokens of each text that are compressed; 1792 if left out
    #[arg(long, value_name = "N")]
    prefix: Option<usize>,
    /// Tokens behind them that are predicted; 256 if left out
    #[arg(long, value_name = "N")]
    tail: Option<usize>,
    /// Quantize what follows the prefix, too, as while generating
    #[arg(long)]
    generated: bool,
    /// Draw KL against bytes
    #[arg(long, value_name = "FILE.svg")]
    plot: Option<PathBuf>,
}

impl KlOptions {
    /// The flags that were given.
    pub(super) fn given(&self) -> Vec<&'static str> {
        let flags = [
            (!self.text.is_empty(), "--text"),
            (self.prefix.is_some(), "--prefix"),
            (self.tail.is_some(), "--tail"),
            (self.generated, "--generated"),
            (self.plot.is_some(), "--plot"),
        ];
        flags.into_iter().filter_map(|(given, flag)| given.then_some(flag)).collect()
    }

    fn cut(&self) -> Cut {
        let (prefix, tail) = (self.prefix.unwrap_or(PREFIX), self.tail.unwrap_or(TAIL));
        Cut { prefix, tail, generated: self.generated }
    }

    fn texts(&self, model: &TextModel) -> anyhow::Result<Vec<TokenText>> {
        let encode = |name: &str, text: String| -> anyhow::Result<TokenText> {
            Ok(TokenText { name: name.to_owned(), tokens: model.encode(Prompt::Text(text))? })
        };
        if self.text.is_empty() {
            return BUILT_IN.iter().map(|(name, text)| encode(name, (*text).to_owned())).collect();
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
    let Evaluation { model, weights, text, compared, json } = *evaluation;
    let name = format!("{}, {weights}", model.name);
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
    if let Some(path) = &options.plot {
        let svg = plot(&summaries).map_err(anyhow::Error::msg)?;
        fs::write(path, svg).with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(write!(std::io::stdout(), "{}", table(&summaries))?)
}
