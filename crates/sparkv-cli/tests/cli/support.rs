//! Running the binary.

use std::path::PathBuf;
use std::process::{Command, Output};

/// The binary without any variable that a developer's shell may have set.
pub(crate) fn sparkv() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_sparkv"));
    command.env_clear();
    command
}

/// Standard output of a run that succeeds.
pub(crate) fn succeed(command: &mut Command) -> String {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", stderr(&output));
    String::from_utf8(output.stdout).unwrap()
}

/// Standard error of a run that fails with one clear message.
pub(crate) fn fail(command: &mut Command) -> String {
    let output = command.output().unwrap();
    let message = stderr(&output);
    assert!(!output.status.success(), "{command:?} succeeded");
    assert!(message.starts_with("error: "), "{command:?}: {message}");
    assert!(!message.contains("panicked") && !message.contains("RUST_BACKTRACE"), "{message}");
    assert!(output.stdout.is_empty(), "{command:?}: nothing but the message is printed");
    message
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// A file of the repository.
pub(crate) fn repository(path: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../..").join(path)
}
