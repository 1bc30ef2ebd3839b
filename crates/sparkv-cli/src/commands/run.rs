//! `sparkv run`.

use std::io::{IsTerminal, Read, Write};
use std::path::{Path, PathBuf};

use anyhow::Context;
use serde::Serialize;
use sparkv_engine::{ChatMessage, Event, EventStream, FinishReason, GenerateRequest, Prompt, Timings, Usage};

use crate::cost;
use crate::loading::{self, Loaded};
use crate::logging;
use crate::options::LogFormat;
use crate::progress::Bars;
use crate::settings::Settings;

/// The name of standard input, as a prompt and as a file.
const STDIN: &str = "-";

/// What is to be answered, and where the parts of it are.
#[derive(Debug)]
pub(crate) struct Question {
    /// What the command line has; [`STDIN`] is read.
    pub(crate) text: Option<String>,
    /// Files whose texts stand in front of it.
    pub(crate) files: Vec<PathBuf>,
}

/// What --json prints.
#[derive(Debug, Serialize)]
struct Report {
    text: String,
    token_ids: Vec<u32>,
    finish_reason: FinishReason,
    usage: UsageReport,
    timings: Timings,
}

/// The usage as the API reports it.
#[derive(Debug, Serialize)]
struct UsageReport {
    total_tokens: usize,
    #[serde(flatten)]
    usage: Usage,
}

impl Question {
    /// All of it: the files, then the text; standard input if there is nothing else.
    ///
    /// # Errors
    /// If something cannot be read, or there is nothing and nobody to ask.
    fn read(self) -> anyhow::Result<String> {
        let Self { text, files } = self;
        let mut parts = files.iter().map(|file| read(file)).collect::<anyhow::Result<Vec<_>>>()?;
        match text {
            Some(text) if text == STDIN => parts.push(read_input()?),
            Some(text) => parts.push(text),
            None if !parts.is_empty() => {}
            None if std::io::stdin().is_terminal() => {
                anyhow::bail!(
                    "there is no prompt: give one, a --file, or a text on standard input; `sparkv chat` is for conversations"
                )
            }
            None => parts.push(read_input()?),
        }
        Ok(parts.join("\n\n"))
    }
}

/// What standard input says, which is something.
fn read_input() -> anyhow::Result<String> {
    let text = read(Path::new(STDIN))?;
    anyhow::ensure!(!text.trim().is_empty(), "there is nothing on standard input");
    Ok(text)
}

/// The text of a file, or of standard input.
fn read(file: &Path) -> anyhow::Result<String> {
    let mut text = String::new();
    if file == Path::new(STDIN) {
        std::io::stdin().read_to_string(&mut text).context("cannot read standard input")?;
        // The end of its last line is no part of what `echo` says.
        text.truncate(text.strip_suffix('\n').map_or(text.len(), str::len));
    } else {
        text = std::fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
    }
    Ok(text)
}

/// Answers a question: on the terminal as the answer arises, or as JSON at the end.
///
/// # Errors
/// If the model cannot be loaded, or the prompt cannot be read or answered.
pub(crate) fn run(question: Question, settings: &Settings) -> anyhow::Result<()> {
    let question = question.read()?;
    let source = loading::source(settings)?;
    let _telemetry = logging::init(LogFormat::default())?;
    let loaded = loading::load(settings, &source, &Bars::default())?;
    let request = GenerateRequest {
        // What was asked for has to fit; what was not, ends where it must.
        fit_context: !settings.max_tokens_given,
        ..request(prompt(question, &loaded, settings)?, &loaded, settings)
    };
    let events = loaded.engine.generate(request)?;
    let mut out = std::io::stdout().lock();
    if settings.run.json {
        let report = collect(events, |_| Ok(()))?;
        writeln!(out, "{}", serde_json::to_string(&report)?)?;
        return Ok(());
    }
    let report = collect(events, |text| {
        out.write_all(text.as_bytes())?;
        out.flush()
    })?;
    writeln!(out)?;
    // The answer is complete, whether or not somebody reads this.
    let cost = cost::line(
        report.finish_reason,
        loaded.generation.max_tokens.get(),
        &report.usage.usage,
        &report.timings,
    );
    let _ = writeln!(std::io::stderr(), "[{cost}]");
    Ok(())
}

/// What the model is to continue.
fn prompt(question: String, loaded: &Loaded, settings: &Settings) -> anyhow::Result<Prompt> {
    let system = &settings.run.system;
    if settings.run.raw || !loaded.has_chat_template {
        anyhow::ensure!(
            system.is_none(),
            "a system prompt is for conversations; this is a text to be completed (--raw, or a model without a chat template)"
        );
        return Ok(Prompt::Text(question));
    }
    let system = system.iter().map(|text| ChatMessage::new("system", text));
    Ok(Prompt::Chat(system.chain([ChatMessage::new("user", question)]).collect::<Vec<_>>().into()))
}

/// How everything is asked for in the terminal.
pub(crate) fn request(prompt: Prompt, loaded: &Loaded, settings: &Settings) -> GenerateRequest {
    let mut sampling = loaded.generation.sampling.clone();
    sampling.seed = settings.run.seed;
    GenerateRequest {
        max_tokens: Some(loaded.generation.max_tokens.get()),
        fit_context: true,
        sampling,
        stop: settings.run.stop.clone().unwrap_or_default(),
        ignore_eos: settings.run.ignore_eos,
        kv: settings.kv.clone(),
        ..GenerateRequest::new(prompt)
    }
}

/// Reads the events to the end; `heard` gets each piece of text as it arises.
fn collect(
    mut events: EventStream,
    mut heard: impl FnMut(&str) -> std::io::Result<()>,
) -> anyhow::Result<Report> {
    let (mut text, mut token_ids) = (String::new(), Vec::new());
    while let Some(event) = events.blocking_next() {
        match event? {
            Event::Prompt(_) => {}
            Event::Text { text: more, token_ids: ids, .. } => {
                heard(&more)?;
                text.push_str(&more);
                token_ids.extend(ids);
            }
            Event::Done { reason, usage, timings, .. } => {
                let total_tokens = usage.prompt_tokens + usage.completion_tokens;
                let usage = UsageReport { total_tokens, usage };
                return Ok(Report { text, token_ids, finish_reason: reason, usage, timings });
            }
        }
    }
    anyhow::bail!("the engine stopped before the answer was complete")
}
