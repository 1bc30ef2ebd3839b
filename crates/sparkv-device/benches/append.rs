//! `cargo bench -p sparkv-device --features cuda --bench append -- --json`: see support/append.rs.

mod support;

fn main() -> support::Result<()> {
    support::run(support::append::measure)
}
