//! The binary, as users run it.

// `cfg(test)` holds throughout; it tells clippy that the helpers between the tests are tests, too.
#[cfg(test)]
mod bench;
#[cfg(test)]
mod command_line;
#[cfg(test)]
mod config;
#[cfg(test)]
mod cost;
#[cfg(test)]
mod errors;
#[cfg(test)]
mod eval;
#[cfg(test)]
#[path = "../../../../tests/support/fake_hub.rs"]
mod fake_hub;
#[cfg(test)]
mod golden;
#[cfg(test)]
mod models;
#[cfg(test)]
mod operations;
#[cfg(test)]
mod run;
#[cfg(test)]
mod serve;
#[cfg(test)]
mod soak;
#[cfg(test)]
mod support;
