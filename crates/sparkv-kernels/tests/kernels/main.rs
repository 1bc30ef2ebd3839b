//! The kernels from outside.

// `cfg(test)` holds throughout; it tells clippy that the helpers between the tests are tests, too.
#[cfg(test)]
mod attention;
#[cfg(test)]
mod broken;
#[cfg(test)]
mod extremes;
#[cfg(test)]
mod stored;
