//! `sparkv chat`: a conversation in the terminal.
//!
//! Answers go to standard output, everything else to standard error. Lines are read by rustyline, which keeps and edits
//! those of before; where standard input is no terminal, it reads them as they come.

use std::io::{IsTerminal, Write};
use std::path::Path;

use anyhow::Context;
use rustyline::DefaultEditor;
use rustyline::error::ReadlineError;
use sparkv::KvChoice;
use sparkv_engine::{ChatMessage, Event, GenerateRequest, Prompt};
use tokio::runtime::Runtime;

use crate::commands::run;
use crate::cost;
use crate::loading::{self, Loaded};
use crate::logging;
use crate::options::{LogFormat, parse_kv};
use crate::progress::Bars;
use crate::settings::Settings;

const HELP: &str = "\
/kv [PRESET|JSON|25%|4MiB]  what the KV cache may cost from now on; alone, what it may
/usage                      what the last answer cost
/system [TEXT]              the system prompt from now on; alone, what it is
/file PATH                  puts a file's text in front of what you say next
/new                        begins a new conversation
/exit                       ends; so does Ctrl-D
Ctrl-C stops an answer. A line that ends with \\ goes on in the next.";

/// What a line asks for.
#[derive(Debug, PartialEq, Eq)]
enum Line<'a> {
    Say(&'a str),
    Kv(&'a str),
    Usage,
    System(&'a str),
    File(&'a str),
    New,
    Exit,
    Help,
    Unknown(&'a str),
}

impl<'a> Line<'a> {
    fn of(text: &'a str) -> Self {
        let text = text.trim();
        if !text.starts_with('/') {
            return Self::Say(text);
        }
        let (command, argument) = text.split_once(char::is_whitespace).unwrap_or((text, ""));
        let argument = argument.trim();
        match command {
            "/kv" => Self::Kv(argument),
            "/usage" => Self::Usage,
            "/system" => Self::System(argument),
            "/file" => Self::File(argument),
            "/new" | "/clear" => Self::New,
            "/exit" | "/quit" | "/bye" => Self::Exit,
            "/help" | "/?" => Self::Help,
            _ => Self::Unknown(command),
        }
    }
}

/// A conversation, and what holds in it.
struct Conversation<'a> {
    settings: &'a Settings,
    loaded: Loaded,
    runtime: Runtime,
    system: Option<String>,
    turns: Vec<ChatMessage>,
    /// Texts of files, for the next turn.
    files: Vec<String>,
    kv: KvChoice,
    /// The same as it was asked for.
    kv_name: String,
    /// What the last answer cost.
    cost: Option<String>,
}

/// Converses until the input ends.
///
/// # Errors
/// If the model cannot be loaded or takes no conversations, or standard input or output fails.
pub(crate) fn chat(settings: &Settings) -> anyhow::Result<()> {
    for (key, is_set) in [("run.raw", settings.run.raw), ("run.json", settings.run.json)] {
        anyhow::ensure!(!is_set, "{key} is for `sparkv run`: a conversation has no place for it");
    }
    let source = loading::source(settings)?;
    let _telemetry = logging::init(LogFormat::default())?;
    let loaded = loading::load(settings, &source, &Bars::default())?;
    if !loaded.has_chat_template {
        let name = &loaded.name;
        anyhow::bail!("{name} has no chat template; `sparkv run` completes texts with it");
    }
    tell(&format!("{}, with the KV cache {}. /help tells what there is.", loaded.name, settings.kv_name));
    let mut conversation = Conversation {
        settings,
        loaded,
        runtime: tokio::runtime::Builder::new_current_thread().enable_all().build()?,
        system: settings.run.system.clone(),
        turns: Vec::new(),
        files: Vec::new(),
        kv: settings.kv.clone(),
        kv_name: settings.kv_name.clone(),
        cost: None,
    };
    let mut editor = DefaultEditor::new()?;
    while let Some(line) = read(&mut editor)? {
        if !conversation.take(&line)? {
            break;
        }
    }
    Ok(())
}

/// The next line, and those that it goes on in; `None` at the end.
fn read(editor: &mut DefaultEditor) -> anyhow::Result<Option<String>> {
    let mut whole = String::new();
    loop {
        let prompt = if whole.is_empty() { "> " } else { ". " };
        match editor.readline(prompt) {
            Ok(line) => match line.strip_suffix('\\') {
                Some(begun) => whole = format!("{whole}{begun}\n"),
                None => {
                    whole.push_str(&line);
                    // A line that cannot be remembered is said all the same.
                    let _ = editor.add_history_entry(&whole);
                    return Ok(Some(whole));
                }
            },
            // What was begun is dropped.
            Err(ReadlineError::Interrupted) => whole.clear(),
            Err(ReadlineError::Eof) => return Ok(None),
            Err(error) => return Err(error).context("cannot read a line"),
        }
    }
}

/// Says something that is no answer.
fn tell(text: &str) {
    let _ = writeln!(std::io::stderr(), "{text}");
}

impl Conversation<'_> {
    /// Does what a line asks for; false if that is to end.
    fn take(&mut self, line: &str) -> anyhow::Result<bool> {
        match Line::of(line) {
            Line::Say("") => {}
            Line::Say(text) => self.say(text)?,
            Line::Kv("") => tell(&self.kv_name),
            Line::Kv(text) => match self.resolve(text) {
                Ok(kv) => {
                    (self.kv, self.kv_name) = (kv, text.to_owned());
                    tell(&format!("the KV cache is {text} from now on"));
                }
                Err(reason) => tell(&reason),
            },
            Line::Usage => tell(self.cost.as_deref().unwrap_or("nothing was answered yet")),
            Line::System("") => tell(self.system.as_deref().unwrap_or("there is no system prompt")),
            Line::System(text) => self.system = Some(text.to_owned()),
            Line::File("") => tell("/file wants a path"),
            Line::File(path) => match std::fs::read_to_string(Path::new(path)) {
                Ok(text) => {
                    tell(&format!("{path}: {} characters, for what you say next", text.chars().count()));
                    self.files.push(text);
                }
                Err(error) => tell(&format!("cannot read {path}: {error}")),
            },
            Line::New => {
                self.turns.clear();
                self.files.clear();
            }
            Line::Exit => return Ok(false),
            Line::Help => tell(HELP),
            Line::Unknown(command) => tell(&format!("there is no {command}; /help tells what there is")),
        }
        Ok(true)
    }

    /// What a KV setting comes to, written as after --kv.
    fn resolve(&self, text: &str) -> Result<KvChoice, String> {
        self.settings.presets.resolve(&parse_kv(text)?).map_err(|error| error.to_string())
    }

    /// A turn of the user's, and the answer.
    fn say(&mut self, text: &str) -> anyhow::Result<()> {
        let mut parts = std::mem::take(&mut self.files);
        parts.push(text.to_owned());
        self.turns.push(ChatMessage::new("user", parts.join("\n\n")));
        let system = self.system.iter().map(|text| ChatMessage::new("system", text));
        let messages: Vec<ChatMessage> = system.chain(self.turns.iter().cloned()).collect();
        let prompt = Prompt::Chat(messages.into());
        let request =
            GenerateRequest { kv: self.kv.clone(), ..run::request(prompt, &self.loaded, self.settings) };
        match self.answer(request)? {
            Ok(answer) => self.turns.push(ChatMessage::new("assistant", answer)),
            Err(reason) => {
                // As if nothing had been said.
                self.turns.pop();
                tell(&format!("error: {reason}"));
            }
        }
        Ok(())
    }

    /// Prints an answer as it arises, until its end or Ctrl-C; what was printed, or why there is nothing.
    fn answer(&mut self, request: GenerateRequest) -> anyhow::Result<Result<String, String>> {
        let mut events = match self.loaded.engine.generate(request) {
            Ok(events) => events,
            Err(error) => return Ok(Err(error.to_string())),
        };
        let most = self.loaded.generation.max_tokens.get();
        let mut answer = String::new();
        let mut out = std::io::stdout();
        let printed = self.runtime.block_on(async {
            loop {
                let event = tokio::select! {
                    event = events.next() => event,
                    interrupted = tokio::signal::ctrl_c() => {
                        interrupted.context("cannot listen for Ctrl-C")?;
                        self.cost = Some("it was stopped".to_owned());
                        return Ok(Ok(()));
                    }
                };
                match event {
                    Some(Ok(Event::Text { text, .. })) => {
                        out.write_all(text.as_bytes())?;
                        out.flush()?;
                        answer.push_str(&text);
                    }
                    Some(Ok(Event::Prompt(_))) => {}
                    Some(Ok(Event::Done { reason, usage, timings, .. })) => {
                        self.cost = Some(cost::line(reason, most, &usage, &timings));
                        return Ok(Ok(()));
                    }
                    Some(Err(error)) => return Ok(Err(error.to_string())),
                    None => return Ok(Err("the engine stopped before the answer was complete".to_owned())),
                }
            }
        });
        writeln!(out)?;
        if std::io::stderr().is_terminal()
            && let (Ok(Ok(())), Some(cost)) = (&printed, &self.cost)
        {
            tell(&format!("[{cost}]"));
        }
        printed.map(|printed: Result<(), String>| printed.map(|()| answer))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_said_or_ask_for_something() {
        for (line, expected) in [
            ("  hello ", Line::Say("hello")),
            ("", Line::Say("")),
            ("/kv", Line::Kv("")),
            ("/kv  {\"budget\": \"25%\"} ", Line::Kv("{\"budget\": \"25%\"}")),
            ("/system You are brief.", Line::System("You are brief.")),
            ("/file a b.txt", Line::File("a b.txt")),
            ("/bye", Line::Exit),
            ("/nothing at all", Line::Unknown("/nothing")),
            ("a /kv", Line::Say("a /kv")),
        ] {
            assert_eq!(Line::of(line), expected, "{line}");
        }
    }
}
