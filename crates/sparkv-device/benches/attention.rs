//! `cargo bench -p sparkv-device --features cuda --bench attention -- --json`: see support/attention.rs.

mod support;

fn main() -> std::process::ExitCode {
    support::run(support::attention::measure)
}
