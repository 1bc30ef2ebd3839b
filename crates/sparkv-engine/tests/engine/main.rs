//! The engine over a fake model: its tokens are a hash of the whole prefix, its caches are counted.

// `cfg(test)` holds throughout; it tells clippy that the helpers between the tests are tests, too.
#[cfg(test)]
mod batch;
#[cfg(test)]
mod cancel;
#[cfg(test)]
mod core;
#[cfg(test)]
mod demo;
#[cfg(test)]
mod devices;
#[cfg(test)]
mod faults;
#[cfg(test)]
mod fetched;
#[cfg(test)]
mod formats;
#[cfg(test)]
mod scores;
#[cfg(test)]
mod simulation;
#[cfg(test)]
mod support;
#[cfg(test)]
mod templates;
#[cfg(test)]
mod text;
