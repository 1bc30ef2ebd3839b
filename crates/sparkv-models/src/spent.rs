//! Where the time of a step goes.
//!
//! Counted per thread: a decoder runs on the thread that calls it, whatever it shares out to others from
//! there. So two decoders in one process do not mix, and reading a clock twice is all that it costs.
use std::cell::Cell;
use std::time::{Duration, Instant};

/// Time that this thread spent computing, by part. What is not in a part (norms, rotation, activations,
/// sampling, waiting) is the rest of whatever the caller measured.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Spent {
    /// Products with weight matrices.
    pub weights: Duration,
    /// Attention, and everything that is done to the cache, compression included.
    pub attention: Duration,
}

/// A part of the computation.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Part {
    /// See [`Spent::weights`].
    Weights,
    /// See [`Spent::attention`].
    Attention,
}

thread_local! {
    static SPENT: Cell<Spent> = const { Cell::new(Spent { weights: Duration::ZERO, attention: Duration::ZERO }) };
}

/// What was spent on this thread since it was last asked.
pub fn take() -> Spent {
    SPENT.take()
}

/// Runs `compute` and counts its time as spent on `part`.
pub(crate) fn on<R>(part: Part, compute: impl FnOnce() -> R) -> R {
    let start = Instant::now();
    let result = compute();
    let elapsed = start.elapsed();
    let mut spent = SPENT.get();
    match part {
        Part::Weights => spent.weights += elapsed,
        Part::Attention => spent.attention += elapsed,
    }
    SPENT.set(spent);
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_is_counted_by_part_and_taken_once() {
        let pause = || std::thread::sleep(Duration::from_millis(2));
        on(Part::Attention, pause);
        on(Part::Attention, pause);
        on(Part::Weights, pause);
        let spent = take();
        assert!(spent.attention >= Duration::from_millis(4) && spent.weights >= Duration::from_millis(2));
        assert_eq!(take(), Spent::default());
    }

    #[test]
    fn threads_do_not_mix() {
        std::thread::spawn(|| on(Part::Weights, || ())).join().unwrap();
        assert_eq!(take(), Spent::default());
    }
}
