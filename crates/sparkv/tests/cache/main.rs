//! The caches and the attention over them, from outside: against an oracle in plain Candle operations, and
//! against the arithmetic of bytes.

#[cfg(test)]
mod accounting;
#[cfg(test)]
mod common;
#[cfg(test)]
mod few_bits;
#[cfg(test)]
mod oracle;
#[cfg(test)]
mod sharing;
#[cfg(test)]
mod truncating;
