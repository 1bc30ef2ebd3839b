//! Progress: bars on standard error, nothing where that is no terminal; or lines in the log.

use std::io::IsTerminal;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use sparkv_models::Progress;
use sparkv_models::progress::{Task, Unit};

use crate::options::LogFormat;

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

/// Lines in the log, for a server that nobody looks at while it starts: one when a task begins, one every few
/// seconds, one at its end.
#[derive(Default)]
pub(crate) struct Lines(Mutex<Option<Running>>);

/// A task that lines tell about.
struct Running {
    name: String,
    total: u64,
    unit: &'static str,
    done: u64,
    began: Instant,
    told: Instant,
}

/// Time between two lines.
const LINE_PERIOD: Duration = Duration::from_secs(10);

impl Lines {
    fn task(&self) -> MutexGuard<'_, Option<Running>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Progress for Lines {
    fn begin(&self, task: &Task<'_>) {
        let unit = match task.unit {
            Unit::Bytes => "bytes",
            Unit::Layers => "layers",
        };
        tracing::info!(task = task.name, total = task.total, unit, "loading");
        let (name, now) = (task.name.to_owned(), Instant::now());
        *self.task() = Some(Running { name, total: task.total, unit, done: 0, began: now, told: now });
    }

    fn advance(&self, amount: u64) {
        let mut task = self.task();
        let Some(Running { name, total, unit, done, told, .. }) = task.as_mut() else { return };
        *done += amount;
        if told.elapsed() >= LINE_PERIOD {
            *told = Instant::now();
            let percent = done.saturating_mul(100) / (*total).max(1);
            tracing::info!(task = name, done = *done, total = *total, unit, percent, "loading");
        }
    }

    fn end(&self) {
        if let Some(task) = self.task().take() {
            tracing::info!(task = task.name, seconds = task.began.elapsed().as_secs(), "loaded");
        }
    }
}

/// What suits a server: a bar for whoever watches it start, else lines.
pub(crate) fn of_server(format: LogFormat) -> Box<dyn Progress + Send> {
    if format == LogFormat::Text && std::io::stderr().is_terminal() {
        Box::<Bars>::default()
    } else {
        Box::<Lines>::default()
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
