//! What the benches of kernels measure, a file for each; and what they share: the GPU and its clock, rows in its memory,
//! options, and the report.
//!
//! All that a bench measures takes turns, round by round, so that ratios hold on a machine whose speed changes; medians are
//! given.

#![allow(dead_code, reason = "no bench has all of it")]

pub(crate) mod append;
pub(crate) mod attention;
pub(crate) mod gpu;
pub(crate) mod mass;
pub(crate) mod options;
pub(crate) mod quantize;
pub(crate) mod report;
pub(crate) mod rows;

use std::error::Error;
use std::io::Write;
use std::process::ExitCode;

use gpu::Gpu;
use options::Options;
use report::Report;

/// KV heads of a layer, and query heads of each: those of Llama 3.
pub(crate) const KV_HEADS: usize = 8;
pub(crate) const GROUP: usize = 4;

/// What a bench ends with.
pub(crate) type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

/// Where and how it is measured.
#[derive(Debug)]
pub(crate) struct Bench {
    pub(crate) gpu: Gpu,
    pub(crate) options: Options,
}

impl Bench {
    /// A bench on a simulated device, which measures nothing but shows that it runs; `None` where this build has none.
    #[cfg(feature = "shim")]
    pub(crate) fn smoke() -> Option<Self> {
        Some(Self { gpu: Gpu::simulated()?, options: Options::smoke() })
    }

    /// Says what is measured next.
    pub(crate) fn progress(&self, what: &str) -> Result<()> {
        Ok(writeln!(std::io::stderr(), "measuring {what}")?)
    }
}

/// Measures, as the command line says, and prints: a table to stderr, and JSON to stdout where that is asked.
pub(crate) fn run(measure: impl FnOnce(&Bench) -> Result<Report>) -> ExitCode {
    match try_run(measure) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "{error}");
            ExitCode::FAILURE
        }
    }
}

fn try_run(measure: impl FnOnce(&Bench) -> Result<Report>) -> Result<()> {
    let options = Options::parse(std::env::args().skip(1))?;
    if options.help {
        return Ok(writeln!(std::io::stdout(), "{}", options::USAGE)?);
    }
    let json = options.json;
    let report = measure(&Bench { gpu: Gpu::open(&options)?, options })?;
    write!(std::io::stderr(), "{}", report.table())?;
    if json {
        writeln!(std::io::stdout(), "{}", serde_json::to_string_pretty(&report.json())?)?;
    }
    Ok(())
}
