//! The model that scripts/models/fetch brings, for the tests of any crate.

use std::path::{Path, PathBuf};

/// The model's file; its absence is an error on CI only, and there only if it could be fetched.
pub(super) fn model() -> Option<PathBuf> {
    let file = "models/fetched/SmolLM2-135M-Instruct.Q4_1.gguf";
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").join(file);
    if path.exists() {
        return Some(path);
    }
    let is = |name: &str, value: &str| std::env::var_os(name).is_some_and(|found| found == value);
    assert!(!is("CI", "true") || is("SPARKV_UNFETCHED", "true"), "{file} is missing: scripts/models/fetch");
    // Not by a macro, whose output a test that passes hides.
    let _ = std::io::Write::write_fmt(
        &mut std::io::stderr(),
        format_args!("skipped: {file} is missing; scripts/models/fetch brings it\n"),
    );
    None
}
