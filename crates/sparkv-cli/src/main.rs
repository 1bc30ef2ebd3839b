//! The `sparkv` binary: serve a model, ask it once, download, list and remove models, measure speed and what settings
//! cost, check settings.
//!
//! [`options`] declares every setting once, [`layers`] lays flags over variables over the file over the
//! defaults, [`settings`] checks the outcome; [`commands`] do the work.

mod allocator;
mod check;
mod commands;
mod cost;
mod help;
mod layers;
mod loading;
mod logging;
mod options;
mod progress;
mod reload;
mod settings;
mod show;
mod summary;
mod variables;

use std::io::{ErrorKind, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::builder::BoolishValueParser;
use clap::{ArgMatches, Args, CommandFactory, FromArgMatches, Parser, Subcommand};

use sparkv_models::ModelSource;

use crate::commands::bench::BenchOptions;
use crate::commands::doctor::DoctorOptions;
use crate::commands::eval::EvalOptions;
use crate::commands::list::ListOptions;
use crate::commands::pull::PullOptions;
use crate::commands::rm::RmOptions;
use crate::commands::run::Question;
use crate::commands::shell::{CompletionsOptions, ManOptions};
use crate::layers::Layers;
use crate::options::{
    GenerationOptions, KvFlag, LogFormat, ModelOptions, Options, RunOptions, ServerOptions,
};
use crate::reload::Sources;
use crate::settings::Settings;

/// An LLM server in which each request chooses what its KV cache may cost.
#[derive(Debug, Parser)]
#[command(name = "sparkv", version, propagate_version = true, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serve a model over HTTP, as the OpenAI API does
    Serve(ServeArgs),
    /// Answer one prompt in the terminal
    Run(RunArgs),
    /// Converse in the terminal
    Chat(ChatArgs),
    /// Download a model of the Hugging Face hub
    Pull(PullArgs),
    /// Show the models of the hub on this machine, and which of them can be served
    List(ListOptions),
    /// Remove a model of the hub from this machine
    Rm(RmOptions),
    /// Measure speed and memory, of a model or of random weights in a shape
    Bench(BenchArgs),
    /// Measure what KV cache settings cost: right answers, and the bytes they were given from
    Eval(EvalArgs),
    /// Show what this machine has and this binary can use: processor, memory, GPUs, limits
    Doctor(DoctorOptions),
    /// Look at the settings
    #[command(subcommand)]
    Config(ConfigCommand),
    /// Print what completes commands in a shell
    Completions(CompletionsOptions),
    /// Print the manual page, or write all of them
    Man(ManOptions),
}

/// The file that other options are laid over.
#[derive(Debug, Args)]
struct ConfigFlag {
    /// TOML file with settings; flags and variables beat it; left out: none
    #[arg(long, env = "SPARKV_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
}

#[derive(Debug, Args)]
struct ServeArgs {
    /// The model, as after --model
    #[arg(value_name = "MODEL")]
    named: Option<String>,
    #[command(flatten)]
    file: ConfigFlag,
    #[command(flatten)]
    model: ModelOptions,
    #[command(flatten)]
    kv: KvFlag,
    #[command(flatten)]
    generation: GenerationOptions,
    #[command(flatten)]
    server: ServerOptions,
}

#[derive(Debug, Args)]
struct RunArgs {
    /// What to answer, - for standard input; in front of it may stand the model, as after --model
    #[arg(value_name = "[MODEL] PROMPT", num_args = 0..=2)]
    prompt: Vec<String>,
    /// A file whose text stands in front of the prompt, - for standard input; may be given again; left out: none
    #[arg(long, short, value_name = "FILE")]
    file: Vec<PathBuf>,
    #[command(flatten)]
    terminal: TerminalArgs,
}

#[derive(Debug, Args)]
struct ChatArgs {
    /// The model, as after --model
    #[arg(value_name = "MODEL")]
    named: Option<String>,
    #[command(flatten)]
    terminal: TerminalArgs,
}

/// What holds for answers in the terminal.
#[derive(Debug, Args)]
struct TerminalArgs {
    #[command(flatten)]
    file: ConfigFlag,
    #[command(flatten)]
    model: ModelOptions,
    #[command(flatten)]
    kv: KvFlag,
    #[command(flatten)]
    generation: GenerationOptions,
    #[command(flatten)]
    run: RunOptions,
}

impl TerminalArgs {
    /// The settings, with the model that was `named` without a flag, if one was.
    fn settings(self, named: Option<String>, matches: &ArgMatches) -> anyhow::Result<Settings> {
        let Self { file, model, kv, generation, run } = self;
        let model = model.named(named, matches)?;
        let given = Options { model, kv: kv.kv, generation, run, ..Options::default() };
        Settings::new(&Layers::new(file.config, &given, matches)?)
    }
}

#[derive(Debug, Args)]
struct PullArgs {
    #[command(flatten)]
    pull: PullOptions,
    #[command(flatten)]
    file: ConfigFlag,
    /// Never use the network
    #[arg(long, env = "SPARKV_OFFLINE", num_args = 0..=1, require_equals = true, default_missing_value = "true", value_parser = BoolishValueParser::new())]
    offline: Option<bool>,
}

#[derive(Debug, Args)]
struct BenchArgs {
    #[command(flatten)]
    file: ConfigFlag,
    #[command(flatten)]
    model: ModelOptions,
    #[command(flatten)]
    bench: BenchOptions,
}

#[derive(Debug, Args)]
struct EvalArgs {
    #[command(flatten)]
    file: ConfigFlag,
    #[command(flatten)]
    model: ModelOptions,
    #[command(flatten)]
    eval: EvalOptions,
}

#[derive(Debug, Subcommand)]
enum ConfigCommand {
    /// Check a file, and what flags and variables lay over it
    Check(ConfigArgs),
    /// Print the effective settings as TOML, with the origin of each
    Show(ConfigArgs),
}

#[derive(Debug, Args)]
struct ConfigArgs {
    /// TOML file with settings
    #[arg(long, env = "SPARKV_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
    /// The same, without --config
    #[arg(value_name = "FILE", conflicts_with = "config")]
    file: Option<PathBuf>,
    #[command(flatten)]
    model: ModelOptions,
    #[command(flatten)]
    kv: KvFlag,
    #[command(flatten)]
    generation: GenerationOptions,
    #[command(flatten)]
    server: ServerOptions,
    #[command(flatten)]
    run: RunOptions,
}

/// The command line, as `--help` describes it.
fn command_line() -> clap::Command {
    help::with_defaults(Cli::command())
}

fn main() -> ExitCode {
    let command = command_line();
    variables::look(&command);
    let matches = command.clone().try_get_matches().unwrap_or_else(|error| {
        if let Some(variable) = variables::behind(&command, &error) {
            let _ = error.print();
            let _ = writeln!(std::io::stderr(), "\nThis is the value of the variable {variable}.");
            std::process::exit(error.exit_code());
        }
        error.exit()
    });
    let cli = Cli::from_arg_matches(&matches).unwrap_or_else(|error| error.exit());
    let outcome = run(cli.command, innermost(&matches));
    // Where there is a log, it has told of them.
    variables::warn(|warning| {
        let _ = writeln!(std::io::stderr(), "warning: {warning}");
    });
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        // Whoever read the output has seen enough: `sparkv run ... | head`.
        Err(error) if is_closed_output(&error) => ExitCode::SUCCESS,
        Err(error) => {
            // Nobody is left to tell if standard error is closed.
            let _ = writeln!(std::io::stderr(), "error: {}", message(&error));
            ExitCode::FAILURE
        }
    }
}

/// Whether standard output was closed by its reader: the only writes whose errors are passed on as they are.
fn is_closed_output(error: &anyhow::Error) -> bool {
    error.downcast_ref::<std::io::Error>().is_some_and(|error| error.kind() == ErrorKind::BrokenPipe)
}

/// An error and its causes, those left out that the text before them tells already.
fn message(error: &anyhow::Error) -> String {
    let mut message = String::new();
    for cause in error.chain().map(ToString::to_string) {
        let cause = cause.trim_end();
        if message.is_empty() {
            message.push_str(cause);
        } else if !message.contains(cause) {
            message.push_str(": ");
            message.push_str(cause);
        }
    }
    message
}

fn run(command: Command, matches: &ArgMatches) -> anyhow::Result<()> {
    match command {
        Command::Serve(ServeArgs { named, file, model, kv, generation, server }) => {
            let model = model.named(named, matches)?;
            let given = Options { model, kv: kv.kv, generation, server, ..Options::default() };
            commands::serve::serve(Sources { file: file.config, given, matches: matches.clone() })
        }
        Command::Run(RunArgs { mut prompt, file, terminal }) => {
            let text = if names_model(&prompt, &terminal.model) { None } else { prompt.pop() };
            let settings = terminal.settings(prompt.pop(), matches)?;
            commands::run::run(Question { text, files: file }, &settings)
        }
        Command::Chat(ChatArgs { named, terminal }) => {
            commands::chat::chat(&terminal.settings(named, matches)?)
        }
        Command::Pull(PullArgs { pull, file, offline }) => {
            let model = ModelOptions { offline, ..ModelOptions::default() };
            let given = Options { model, ..Options::default() };
            let _telemetry = logging::init(LogFormat::default())?;
            commands::pull::pull(&pull, &Settings::new(&Layers::new(file.config, &given, matches)?)?)
        }
        Command::List(list) => commands::list::list(&list),
        Command::Rm(rm) => commands::rm::rm(&rm),
        Command::Bench(BenchArgs { file, model, bench }) => {
            let given = Options { model, ..Options::default() };
            let layers = Layers::new(file.config, &given, matches)?;
            bench.check(&layers)?;
            commands::bench::bench(&bench, &Settings::new(&layers)?)
        }
        Command::Eval(EvalArgs { file, model, eval }) => {
            let given = Options { model, ..Options::default() };
            commands::eval::eval(&eval, &Settings::new(&Layers::new(file.config, &given, matches)?)?)
        }
        Command::Doctor(doctor) => commands::doctor::doctor(&doctor),
        Command::Completions(options) => commands::shell::completions(&options, command_line()),
        Command::Man(options) => commands::shell::man(&options, command_line()),
        Command::Config(ConfigCommand::Check(args)) => {
            let file = args.path().cloned();
            let notes = check::check(&args.layers(matches)?)?;
            let mut out = std::io::stdout();
            notes.iter().try_for_each(|note| writeln!(out, "note: {note}"))?;
            let checked = file.map_or("the settings are".to_owned(), |file| format!("{} is", file.display()));
            Ok(writeln!(out, "{checked} valid")?)
        }
        Command::Config(ConfigCommand::Show(args)) => {
            let layers = args.layers(matches)?;
            Settings::new(&layers)?;
            Ok(write!(std::io::stdout(), "{}", show::show(&layers)?)?)
        }
    }
}

impl ConfigArgs {
    /// The file, however it was given.
    fn path(&self) -> Option<&PathBuf> {
        self.file.as_ref().or(self.config.as_ref())
    }

    fn layers(self, matches: &ArgMatches) -> anyhow::Result<Layers> {
        let file = self.path().cloned();
        let Self { model, kv, generation, server, run, .. } = self;
        let given = Options { model, kv: kv.kv, generation, server, run, ..Options::default() };
        Layers::new(file, &given, matches)
    }
}

/// Whether what stands alone where a prompt may stand is a model, so that the prompt comes from elsewhere.
fn names_model(arguments: &[String], options: &ModelOptions) -> bool {
    let [only] = arguments else { return false };
    options.source.is_none()
        && match only.parse() {
            Ok(ModelSource::Gguf(path)) => path.is_file(),
            Ok(ModelSource::Folder(path)) => path.join("config.json").is_file(),
            Ok(ModelSource::Hub(_) | ModelSource::Demo) => true,
            Err(_) => false,
        }
}

/// The matches of the innermost subcommand, where the options are.
fn innermost(matches: &ArgMatches) -> &ArgMatches {
    matches.subcommand().map_or(matches, |(_, below)| innermost(below))
}
