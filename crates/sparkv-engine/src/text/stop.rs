//! Stop strings in a text that arrives in pieces.

/// Text that may be said, and whether a stop string came after it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Released {
    pub(super) text: String,
    pub(super) stopped: bool,
}

/// Holds text back while it may be the beginning of a stop string.
///
/// Of several stop strings the one that is complete first wins, which does not depend on how the text is cut
/// into pieces; of those complete at the same character, the one that began first.
#[derive(Debug)]
pub(super) struct StopMatcher {
    /// None is empty.
    stops: Vec<String>,
    held: String,
}

impl StopMatcher {
    /// `stops` must not hold an empty string: it would match before any text.
    pub(super) fn new(stops: Vec<String>) -> Self {
        Self { stops, held: String::new() }
    }

    /// Takes the next piece; returns what is certain not to be part of a stop string.
    pub(super) fn push(&mut self, piece: &str) -> Released {
        self.held.push_str(piece);
        let complete = self.stops.iter().filter_map(|stop| {
            let start = self.held.find(stop)?;
            Some((start + stop.len(), start))
        });
        match complete.min() {
            Some((_, start)) => {
                self.held.truncate(start);
                Released { text: std::mem::take(&mut self.held), stopped: true }
            }
            None => {
                let held = self.held.split_off(self.certain());
                Released { text: std::mem::replace(&mut self.held, held), stopped: false }
            }
        }
    }

    /// What was held back, once the text has ended.
    pub(super) fn finish(&mut self) -> String {
        std::mem::take(&mut self.held)
    }

    /// Where the longest end of the text begins that is the beginning of a stop string.
    fn certain(&self) -> usize {
        let begins_stop = |at: usize| self.stops.iter().any(|stop| stop.starts_with(&self.held[at..]));
        self.held.char_indices().map(|(at, _)| at).find(|&at| begins_stop(at)).unwrap_or(self.held.len())
    }
}
