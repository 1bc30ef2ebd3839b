//! Progress bars on standard error; nothing where that is no terminal.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use sparkv_models::Progress;
use sparkv_models::progress::{Task, Unit};

/// One bar at a time.
#[derive(Default)]
pub(crate) struct Bars(Mutex<Option<ProgressBar>>);

/// A bar that knows bytes and their rate.
const BYTES: &str = "{msg} {wide_bar} {bytes}/{total_bytes} {bytes_per_sec} {eta}";

/// A bar that counts.
const COUNT: &str = "{msg} {wide_bar} {pos}/{len}";

impl Bars {
    /// Runs `f` on the current bar; a bar is no worse for a panic elsewhere.
    fn with<T>(&self, f: impl FnOnce(&mut Option<ProgressBar>) -> T) -> T {
        f(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Progress for Bars {
    fn begin(&self, task: &Task<'_>) {
        let template = match task.unit {
            Unit::Bytes => BYTES,
            Unit::Layers => COUNT,
        };
        let bar = ProgressBar::new(task.total).with_message(task.name.to_owned());
        // A style that does not parse, which a test excludes, leaves the default one.
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style);
        }
        bar.enable_steady_tick(Duration::from_millis(200));
        self.with(|current| *current = Some(bar));
    }

    fn advance(&self, amount: u64) {
        self.with(|bar| {
            if let Some(bar) = bar {
                bar.inc(amount);
            }
        });
    }

    fn end(&self) {
        if let Some(bar) = self.with(Option::take) {
            bar.finish_and_clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_styles_parse() {
        assert!(ProgressStyle::with_template(BYTES).is_ok());
        assert!(ProgressStyle::with_template(COUNT).is_ok());
    }
}
