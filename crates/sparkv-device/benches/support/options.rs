//! The command line.

use super::Result;

/// What can be asked.
pub(crate) const USAGE: &str = "\
usage: cargo bench -p sparkv-device --features cuda|metal --bench attention|quantize|append|mass -- [OPTION]...
  --json           prints JSON to stdout, too
  --gpu N          which GPU [0]
  --rounds N       rounds in which everything takes its turn [7]
  --head-dim N,..  channels of a head [64,128]
  --tokens N,..    stored tokens, or tokens to be stored
  --batch N,..     sequences, where attention is measured [1,16]
  --smoke          tiny sizes, to see whether it runs; with the feature shim, on a simulated GPU";

/// What was asked.
#[derive(Debug, Clone)]
pub(crate) struct Options {
    pub(crate) help: bool,
    pub(crate) json: bool,
    pub(crate) smoke: bool,
    pub(crate) gpu: usize,
    pub(crate) rounds: usize,
    head_dims: Vec<usize>,
    tokens: Vec<usize>,
    batches: Vec<usize>,
}

impl Options {
    /// Nothing asked but tiny sizes.
    pub(crate) fn smoke() -> Self {
        let (head_dims, tokens, batches) = Default::default();
        Self { help: false, json: false, smoke: true, gpu: 0, rounds: 2, head_dims, tokens, batches }
    }

    /// # Errors
    /// If an argument is none of [`USAGE`], or has no number.
    pub(crate) fn parse(arguments: impl Iterator<Item = String>) -> Result<Self> {
        let mut options = Self { smoke: false, rounds: 0, ..Self::smoke() };
        let mut arguments = arguments;
        while let Some(argument) = arguments.next() {
            let mut numbers = || -> Result<Vec<usize>> {
                let text = arguments.next().ok_or(format!("{argument} takes a number\n{USAGE}"))?;
                let number = |part: &str| match part.parse::<usize>() {
                    Ok(number) => Ok(number),
                    Err(error) => Err(format!("{argument} {text}: {error}").into()),
                };
                text.split(',').map(number).collect()
            };
            match argument.as_str() {
                // Cargo's own.
                "--bench" => {}
                "--help" => options.help = true,
                "--json" => options.json = true,
                "--smoke" => options.smoke = true,
                "--gpu" => options.gpu = numbers()?.first().copied().unwrap_or(0),
                "--rounds" => options.rounds = numbers()?.first().copied().unwrap_or(0).max(1),
                "--head-dim" => options.head_dims = numbers()?,
                "--tokens" => options.tokens = numbers()?,
                "--batch" => options.batches = numbers()?,
                _ => return Err(format!("{argument} is no option\n{USAGE}").into()),
            }
        }
        if options.rounds == 0 {
            options.rounds = if options.smoke { 2 } else { 7 };
        }
        Ok(options)
    }

    pub(crate) fn head_dims(&self) -> Vec<usize> {
        asked(&self.head_dims, if self.smoke { &[64] } else { &[64, 128] })
    }

    pub(crate) fn batches(&self) -> Vec<usize> {
        asked(&self.batches, if self.smoke { &[1, 2] } else { &[1, 16] })
    }

    /// Those asked for, else `usual` ones, or as few as `tiny` says.
    pub(crate) fn tokens(&self, usual: &[usize], tiny: &[usize]) -> Vec<usize> {
        asked(&self.tokens, if self.smoke { tiny } else { usual })
    }

    /// Bytes that are gone over before the first ones come again: several times what a GPU's cache holds.
    pub(crate) fn uncached_bytes(&self) -> usize {
        if self.smoke { 1 << 15 } else { 1 << 29 }
    }

    /// Seconds that a measurement is to take, about.
    pub(crate) fn sample_seconds(&self) -> f64 {
        if self.smoke { 0.0 } else { 0.03 }
    }
}

fn asked(given: &[usize], usual: &[usize]) -> Vec<usize> {
    if given.is_empty() { usual.to_vec() } else { given.to_vec() }
}
