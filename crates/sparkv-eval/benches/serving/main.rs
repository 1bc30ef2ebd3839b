//! Many requests on one engine, over a model of a real shape with made-up weights. Prints JSON, a line a scenario.
//!
//! `cargo bench -p sparkv-eval --bench serving -- [SCENARIO...] [--shape FILE] [--weights q8_0] [--length TOKENS]
//! [--tokens TOKENS]`
//!
//! - `batch`: tokens per second of 16 answers at once, and of one alone.
//! - `stall`: the gaps between an answer's tokens without and with a long prompt being computed beside it, and what
//!   the prompt takes alone and beside it.
//! - `held`: conversations held at once in a memory, exact and compressed; they are run, and counted.
//! - `peak`: the most that a long prompt holds, caches and tokens on their way together, and what its cache would take
//!   uncompressed.
//! - `turn`: time to the first token of a conversation's second turn, with and without the prefix cache.

mod client;
mod scenarios;

use std::io::Write;
use std::path::PathBuf;

use clap::{Parser, ValueEnum};
use scenarios::Scenarios;
use sparkv_models::{DecoderConfig, WeightFormat};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

#[derive(Debug, Parser)]
struct Options {
    /// What to measure; everything if left out
    scenarios: Vec<Scenario>,
    /// The model's shape
    #[arg(long, default_value = "configs/shapes/llama-3.2-1b.json")]
    shape: PathBuf,
    /// How weights are held
    #[arg(long, default_value = "q8_0")]
    weights: WeightFormat,
    /// Tokens of the long prompt; left out: 16384 to stall with, 32768 for the peak, 8192 otherwise
    #[arg(long)]
    length: Option<usize>,
    /// Tokens of each answer of a batch: a small model wants more of them, or the first have ended before the last begin
    #[arg(long, default_value_t = 96)]
    tokens: usize,
    /// Time for prompts in a step, in units of the time for a token
    #[arg(long, default_value_t = sparkv_engine::core::PROMPT_BALANCE)]
    balance: f64,
    /// Set by cargo
    #[arg(long, hide = true)]
    bench: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Scenario {
    Batch,
    Stall,
    Held,
    Peak,
    Turn,
}

fn main() -> anyhow::Result<()> {
    let options = Options::parse();
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../..");
    let text = std::fs::read_to_string(root.join(&options.shape))?;
    let mut config = DecoderConfig::from_json(&text)?;
    // Weights that are made up know no context.
    config.context_length = config.context_length.max(1 << 17);
    let scenarios = Scenarios { config, weights: options.weights, balance: options.balance };
    let all = [Scenario::Batch, Scenario::Turn, Scenario::Stall, Scenario::Held, Scenario::Peak];
    let asked = if options.scenarios.is_empty() { &all[..] } else { &options.scenarios };
    for scenario in asked {
        let length = |default| options.length.unwrap_or(default);
        let report = match scenario {
            Scenario::Batch => scenarios.batch(16, options.tokens)?,
            Scenario::Stall => scenarios.stall(length(16384))?,
            Scenario::Held => scenarios.held(length(8192))?,
            Scenario::Peak => scenarios.peak(length(32768))?,
            Scenario::Turn => scenarios.turn(length(8192))?,
        };
        writeln!(std::io::stdout(), "{report}")?;
    }
    Ok(())
}
