//! `cargo bench -p sparkv-device --features cuda --bench mass -- --json`: see support/mass.rs.

mod support;

fn main() -> support::Result<()> {
    support::run(support::mass::measure)
}
