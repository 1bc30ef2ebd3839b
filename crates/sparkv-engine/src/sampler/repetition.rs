//! Answers that repeat themselves without end.

/// The longest pattern that may be looked for: each length is looked at with every token.
const MAX_PATTERN: usize = 1024;

/// When an answer is held to repeat itself, and ends: vLLM's `repetition_detection`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RepetitionDetection {
    /// Tokens of the shortest pattern looked for; 0 is as 1.
    pub min_pattern_size: usize,
    /// Tokens of the longest.
    pub max_pattern_size: usize,
    /// Times that a pattern must come, one after the other; at least 2.
    pub min_count: usize,
}

impl RepetitionDetection {
    /// Finds text that comes `times` times in a row, from a word to a paragraph, and leaves alone what is only a row of
    /// dashes or zeros: a pattern of fewer than 8 tokens is one of 8 to 14, too, if it comes often enough.
    pub fn of_lines(times: usize) -> Self {
        Self { min_pattern_size: 8, max_pattern_size: 128, min_count: times }
    }

    /// # Errors
    /// If patterns are too long, the shortest is longer than the longest, or one time is to be enough.
    pub(super) fn validate(&self) -> Result<(), String> {
        let Self { min_pattern_size: min, max_pattern_size: max, min_count } = *self;
        Err(if max == 0 || max > MAX_PATTERN {
            format!("max_pattern_size must be between 1 and {MAX_PATTERN}, got {max}")
        } else if min > max {
            format!("min_pattern_size must be at most max_pattern_size, {max}, got {min}")
        } else if min_count < 2 {
            format!("min_count must be at least 2, got {min_count}")
        } else {
            return Ok(());
        })
    }
}

/// Looks for repetition in tokens that come one by one.
#[derive(Debug, Clone)]
pub(super) struct Detector {
    wanted: RepetitionDetection,
    tokens: Vec<u32>,
    /// For each length of a pattern, from the shortest on: how many of the last tokens are those that came this many
    /// tokens before.
    equal: Vec<usize>,
    found: bool,
}

impl Detector {
    /// `wanted` is valid.
    pub(super) fn new(wanted: RepetitionDetection) -> Self {
        let wanted = RepetitionDetection { min_pattern_size: wanted.min_pattern_size.max(1), ..wanted };
        let sizes = (wanted.min_pattern_size..=wanted.max_pattern_size).count();
        Self { wanted, tokens: Vec::new(), equal: vec![0; sizes], found: false }
    }

    /// Takes the next token.
    pub(super) fn push(&mut self, token: u32) {
        let RepetitionDetection { min_pattern_size, min_count, .. } = self.wanted;
        for (size, equal) in (min_pattern_size..).zip(&mut self.equal) {
            let before = self.tokens.len().checked_sub(size).and_then(|at| self.tokens.get(at));
            *equal = if before == Some(&token) { *equal + 1 } else { 0 };
            // The first time is equal to nothing.
            self.found |= *equal >= size.saturating_mul(min_count - 1);
        }
        self.tokens.push(token);
    }

    /// Whether some pattern has come often enough.
    pub(super) fn found(&self) -> bool {
        self.found
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The tokens after which it is found.
    fn found_after(wanted: RepetitionDetection, tokens: &[u32]) -> Option<usize> {
        wanted.validate().unwrap();
        let mut detector = Detector::new(wanted);
        (1..=tokens.len()).find(|&count| {
            detector.push(tokens[count - 1]);
            detector.found()
        })
    }

    #[test]
    fn a_line_said_again_and_again_is_found() {
        let line: Vec<u32> = (10..30).collect();
        let tokens = [&[1, 2, 3][..], &line.repeat(10)].concat();
        assert_eq!(found_after(RepetitionDetection::of_lines(4), &tokens), Some(3 + 4 * line.len()));
        // Short ones, as often as it takes to fill a longer pattern.
        assert_eq!(found_after(RepetitionDetection::of_lines(4), &[7; 100]), Some(32));
        assert_eq!(found_after(RepetitionDetection::of_lines(4), &[7; 31]), None);
        let counted: Vec<u32> = (0..100).flat_map(|n| [1, 2, 3, n + 10]).collect();
        assert_eq!(found_after(RepetitionDetection::of_lines(2), &counted), None);
    }

    #[test]
    fn what_cannot_be_looked_for_is_refused() {
        let lines = RepetitionDetection::of_lines(4);
        for wrong in [
            RepetitionDetection { max_pattern_size: 0, ..lines },
            RepetitionDetection { max_pattern_size: MAX_PATTERN + 1, ..lines },
            RepetitionDetection { min_pattern_size: 129, ..lines },
            RepetitionDetection { min_count: 1, ..lines },
        ] {
            assert!(wrong.validate().is_err(), "{wrong:?}");
        }
    }

    proptest! {
        #[test]
        fn as_comparing_all_of_the_end(
            tokens in prop::collection::vec(0u32..3, 0..40),
            min in 0usize..4, more in 0usize..4, count in 2usize..4,
        ) {
            let max = (min + more).max(1);
            let wanted = RepetitionDetection { min_pattern_size: min, max_pattern_size: max, min_count: count };
            let repeats = |tokens: &[u32]| (min.max(1)..=max).any(|size| {
                let Some(start) = tokens.len().checked_sub(size * count) else { return false };
                let pattern = &tokens[tokens.len() - size..];
                tokens[start..].chunks(size).all(|chunk| chunk == pattern)
            });
            let naive = (1..=tokens.len()).find(|&count| repeats(&tokens[..count]));
            prop_assert_eq!(found_after(wanted, &tokens), naive);
        }
    }
}
