//! `cargo bench -p sparkv-device --features cuda --bench append -- --json`: see support/append.rs.

mod support;

fn main() -> std::process::ExitCode {
    support::run(support::append::measure)
}
