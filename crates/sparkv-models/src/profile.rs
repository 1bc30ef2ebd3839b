//! Where the time of a step goes.
//!
//! Counted per thread: a decoder runs on the thread that calls it, whatever it shares out to others from
//! there. So two decoders in one process do not mix, and reading a clock twice is all that it costs.
use std::cell::Cell;
use std::time::{Duration, Instant};

/// Time that this thread spent computing, by section. What is not in a section (norms, rotation, activations,
/// sampling, waiting) is the rest of whatever the caller measured.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Profile {
    /// Products with weight matrices.
    pub weights: Duration,
    /// Attention, and everything that is done to the cache, compression included.
    pub attention: Duration,
}

/// A section of the computation.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Section {
    /// See [`Profile::weights`].
    Weights,
    /// See [`Profile::attention`].
    Attention,
}

thread_local! {
    static PROFILE: Cell<Profile> = const { Cell::new(Profile { weights: Duration::ZERO, attention: Duration::ZERO }) };
}

/// What was spent on this thread since it was last asked.
pub fn take() -> Profile {
    PROFILE.take()
}

/// Runs `compute` and counts its time as spent on `section`.
pub(crate) fn on<R>(section: Section, compute: impl FnOnce() -> R) -> R {
    let start = Instant::now();
    let result = compute();
    let elapsed = start.elapsed();
    let mut profile = PROFILE.get();
    match section {
        Section::Weights => profile.weights += elapsed,
        Section::Attention => profile.attention += elapsed,
    }
    PROFILE.set(profile);
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_is_counted_by_part_and_taken_once() {
        let pause = || std::thread::sleep(Duration::from_millis(2));
        on(Section::Attention, pause);
        on(Section::Attention, pause);
        on(Section::Weights, pause);
        let profile = take();
        assert!(profile.attention >= Duration::from_millis(4) && profile.weights >= Duration::from_millis(2));
        assert_eq!(take(), Profile::default());
    }

    #[test]
    fn threads_do_not_mix() {
        std::thread::spawn(|| on(Section::Weights, || ())).join().unwrap();
        assert_eq!(take(), Profile::default());
    }
}
