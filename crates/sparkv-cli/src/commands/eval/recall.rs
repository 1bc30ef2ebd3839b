//! Whether what stands in a long context is found.

use std::fs;
use std::io::Write;
use std::path::PathBuf;

use anyhow::Context;
use clap::Args;
use sparkv_eval::recall::{Answer, Item, Recall, Task, read_items, scores, table};
use sparkv_eval::{Mode, SettingsUnderTest};

use super::demo::DemoOptions;
use super::{Evaluation, progress_bar, read_json, write_json};

/// Tokens of contexts, if nothing is said.
const LENGTH: usize = 1024;

/// Contexts for each task and length, if nothing is said.
const SAMPLES: usize = 20;

/// Options that the demo model's tasks have, too.
pub(super) const SHARED: [&str; 6] =
    ["--tasks", "--lengths", "--samples", "--seed", "--query-aware", "--query-agnostic"];

/// What is asked.
#[derive(Debug, Args)]
#[command(next_help_heading = "Evaluation by recall")]
pub(super) struct RecallOptions {
    /// Items from a JSONL file of RULER, LongBench or kvpress in place of tasks that are drawn; may be given again
    #[arg(long, value_name = "FILE.jsonl", conflicts_with_all = ["tasks", "lengths", "seed"])]
    items: Vec<PathBuf>,
}

impl RecallOptions {
    /// The flags that were given.
    pub(super) fn given(&self) -> Vec<&'static str> {
        if self.items.is_empty() { Vec::new() } else { vec!["--items"] }
    }

    fn items(&self, options: &DemoOptions, count: &dyn Fn(&str) -> usize) -> anyhow::Result<Vec<Item>> {
        let mut items = Vec::new();
        for path in &self.items {
            let name = path.file_stem().map_or_else(String::new, |stem| stem.to_string_lossy().into_owned());
            let text = fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
            let read = read_items(&text, &name).with_context(|| path.display().to_string())?;
            items.extend(read.into_iter().take(options.samples.unwrap_or(usize::MAX)));
        }
        if !self.items.is_empty() {
            return Ok(items);
        }
        let known = || Task::ALL.map(Task::name).join(", ");
        let named = |name: &String| {
            let task = Task::ALL.into_iter().find(|task| task.name() == name);
            task.with_context(|| format!("no task `{name}`; there are {}", known()))
        };
        let tasks: Vec<Task> = options.tasks.iter().map(named).collect::<Result<_, _>>()?;
        let tasks = if tasks.is_empty() { &Task::ALL[..] } else { &tasks };
        let lengths = if options.lengths.is_empty() { &[LENGTH][..] } else { &options.lengths };
        for task in tasks {
            for &tokens in lengths {
                for index in 0..options.samples.unwrap_or(SAMPLES) {
                    let mut item = task.item(options.seed.unwrap_or(0), index, tokens, count);
                    if lengths.len() > 1 {
                        item.task = format!("{}, {tokens}", item.task);
                    }
                    items.push(item);
                }
            }
        }
        Ok(items)
    }
}

pub(super) fn eval(
    recall: &RecallOptions,
    options: &DemoOptions,
    evaluation: &Evaluation<'_>,
) -> anyhow::Result<()> {
    let Evaluation { model, text, compared, json, .. } = *evaluation;
    let name = evaluation.name();
    let count = |text_: &str| text.tokenizer().encode_fast(text_, false).map_or(0, |encoding| encoding.len());
    let items = recall.items(options, &count)?;
    let mode = if options.query_aware { Mode::QueryAware } else { Mode::QueryAgnostic };
    let asked = Recall { name: &name, decoder: &model.decoder, text, mode };
    for item in &items {
        asked.check(item, compared).with_context(|| item.task.clone())?;
    }
    let mut known: Vec<Answer> = json.map(|path| read_json(path)).transpose()?.unwrap_or_default();
    let hashes: Vec<u64> = items.iter().map(Item::hash).collect();
    known.retain(|answer| {
        (answer.mode, &answer.model) == (mode, &name)
            && hashes.contains(&answer.item_hash)
            && compared.iter().any(|settings| settings.name == answer.kv)
    });
    let bar = progress_bar(items.len())?;
    let mut index = 0;
    for (place, item) in items.iter().enumerate() {
        index = if place > 0 && items[place - 1].task == item.task { index + 1 } else { 0 };
        bar.set_message(item.task.clone());
        let is_known = |settings: &&SettingsUnderTest| {
            known.iter().any(|a| a.kv == settings.name && a.task == item.task && a.item_hash == hashes[place])
        };
        let missing: Vec<SettingsUnderTest> =
            compared.iter().filter(|settings| !is_known(settings)).cloned().collect();
        if !missing.is_empty() {
            known.extend(asked.answer(item, index, &missing)?);
            json.map_or(Ok(()), |path| write_json(path, &known))?;
        }
        bar.inc(1);
    }
    bar.finish_and_clear();
    known.sort_by_key(|answer| compared.iter().position(|settings| settings.name == answer.kv));
    Ok(write!(std::io::stdout(), "{}", table(&scores(&known)))?)
}
