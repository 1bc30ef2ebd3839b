//! Kernels on the simulated device, each against the CPU's code.

// `cfg(test)` holds throughout; it tells clippy that the helpers between the tests are tests, too.
#[cfg(test)]
mod append;
#[cfg(test)]
mod attention;
#[cfg(test)]
mod copy;
#[cfg(test)]
mod domain;
#[cfg(test)]
mod elementwise;
#[cfg(test)]
mod mass;
#[cfg(test)]
mod moments;
#[cfg(test)]
mod move_lines;
#[cfg(test)]
mod quantize;
#[cfg(test)]
mod queries;
#[cfg(test)]
mod support;
#[cfg(test)]
mod top_k;
