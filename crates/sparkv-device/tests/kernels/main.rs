//! Kernels on the simulated device, each against the CPU's code.

// `cfg(test)` holds throughout; it tells clippy that the helpers between the tests are tests, too.
#[cfg(test)]
mod append;
#[cfg(test)]
mod copy;
#[cfg(test)]
mod elementwise;
#[cfg(test)]
mod mass;
#[cfg(test)]
mod move_lines;
#[cfg(test)]
mod support;
