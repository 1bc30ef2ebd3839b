//! `cargo bench -p sparkv-device --features cuda --bench attention -- --json`: see support/attention.rs.

mod support;

fn main() -> support::Result<()> {
    support::run(support::attention::measure)
}
