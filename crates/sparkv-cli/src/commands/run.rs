//! `sparkv run`.

use std::io::Write;

use serde::Serialize;
use sparkv_engine::{ChatMessage, Event, EventStream, FinishReason, GenerateRequest, Prompt};
use sparkv_engine::{Timings, Usage};

use crate::loading;
use crate::logging;
use crate::options::LogFormat;
use crate::options::RunSettings;
use crate::progress::Bars;
use crate::settings::Settings;

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

/// Answers `prompt`: on the terminal as it arises, or as JSON at the end.
///
/// # Errors
/// If the model cannot be loaded, or the prompt cannot be answered.
pub(crate) fn run(prompt: String, settings: &Settings) -> anyhow::Result<()> {
    let source = loading::source(settings)?;
    let _telemetry = logging::init(LogFormat::default())?;
    let loaded = loading::load(settings, &source, &Bars::default())?;
    let RunSettings { max_tokens, raw, json, .. } = settings.run;
    let prompt = if raw || !loaded.has_chat_template {
        Prompt::Text(prompt)
    } else {
        Prompt::Chat(vec![ChatMessage::new("user", prompt)].into())
    };
    let request = GenerateRequest {
        max_tokens: max_tokens.map(Into::into),
        sampling: settings.run.sampling(),
        kv: settings.kv.clone(),
        ..GenerateRequest::new(prompt)
    };
    let events = loaded.engine.generate(request)?;
    let mut out = std::io::stdout().lock();
    if json {
        let report = collect(events, |_| Ok(()))?;
        writeln!(out, "{}", serde_json::to_string(&report)?)?;
    } else {
        collect(events, |text| {
            out.write_all(text.as_bytes())?;
            out.flush()
        })?;
        writeln!(out)?;
    }
    Ok(())
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
