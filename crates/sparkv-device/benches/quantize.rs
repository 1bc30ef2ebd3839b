//! `cargo bench -p sparkv-device --features cuda --bench quantize -- --json`: see support/quantize.rs.

mod support;

fn main() -> std::process::ExitCode {
    support::run(support::quantize::measure)
}
