//! `cargo bench -p sparkv-device --features cuda --bench mass -- --json`: see support/mass.rs.

mod support;

fn main() -> std::process::ExitCode {
    support::run(support::mass::measure)
}
