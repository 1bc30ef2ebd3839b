//! Stop strings in a text that arrives in pieces.

/// Text that may be said, and whether a stop string came after it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Released {
    pub(super) text: String,
    /// The stop string.
    pub(super) stopped: Option<String>,
}

/// Holds text back while it may be the beginning of a stop string.
///
/// Of several stop strings the one that is complete first wins, which does not depend on how the text is cut
/// into pieces; of those complete at the same character, the one that began first.
#[derive(Debug)]
pub(super) struct StopMatcher {
    /// None is empty.
    stops: Vec<String>,
    /// Pieces to come before the text may end.
    not_before: usize,
    held: String,
}

impl StopMatcher {
    /// Searches from the piece after `min_pieces` on. `stops` must not hold an empty string: it would match before
    /// any text.
    pub(super) fn new(stops: Vec<String>, min_pieces: usize) -> Self {
        Self { stops, not_before: min_pieces, held: String::new() }
    }

    /// Takes the next piece; returns what is certain not to be part of a stop string.
    pub(super) fn push(&mut self, piece: &str) -> Released {
        if self.not_before > 0 {
            self.not_before -= 1;
            return Released { text: piece.to_owned(), stopped: None };
        }
        self.held.push_str(piece);
        let complete = self.stops.iter().filter_map(|stop| {
            let start = self.held.find(stop)?;
            Some((start + stop.len(), start, stop))
        });
        match complete.min() {
            Some((_, start, stop)) => {
                let stopped = Some(stop.clone());
                self.held.truncate(start);
                Released { text: std::mem::take(&mut self.held), stopped }
            }
            None => {
                let held = self.held.split_off(self.certain());
                Released { text: std::mem::replace(&mut self.held, held), stopped: None }
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// What is said before each piece's end, and whether and where it stopped.
    fn run(stops: &[&str], pieces: &[&str]) -> (Vec<String>, bool) {
        let mut matcher = StopMatcher::new(stops.iter().map(|s| (*s).to_owned()).collect(), 0);
        let mut said = Vec::new();
        for piece in pieces {
            let released = matcher.push(piece);
            said.push(released.text);
            if released.stopped.is_some() {
                return (said, true);
            }
        }
        said.push(matcher.finish());
        (said, false)
    }

    #[test]
    fn text_is_held_while_it_may_be_a_stop_string() {
        assert_eq!(
            run(&["END"], &["a E", "N", "x"]),
            (vec!["a ".into(), "".into(), "ENx".into(), "".into()], false)
        );
        assert_eq!(run(&["END"], &["a E", "N", "Dx"]), (vec!["a ".into(), "".into(), "".into()], true));
        assert_eq!(run(&["END"], &["EE", "ND"]), (vec!["E".into(), "".into()], true));
        assert_eq!(run(&["END"], &["so far EN"]), (vec!["so far ".into(), "EN".into()], false));
        assert_eq!(run(&[], &["a", ""]), (vec!["a".into(), "".into(), "".into()], false));
    }

    #[test]
    fn overlapping_beginnings_are_found() {
        assert_eq!(run(&["aab"], &["a", "a", "a", "b"]).0.concat(), "a");
        assert_eq!(run(&["abab", "bac"], &["ab", "ac"]), (vec!["".into(), "a".into()], true));
        assert_eq!(run(&["\u{e9}\u{e8}"], &["x\u{e9}", "\u{e9}", "\u{e8}"]).0.concat(), "x\u{e9}");
    }

    #[test]
    fn the_first_complete_stop_string_wins() {
        assert_eq!(run(&["abcd", "bc"], &["xabcd"]), (vec!["xa".into()], true));
        assert_eq!(run(&["abcd", "bc"], &["xa", "bc", "d"]).0.concat(), "xa");
        // Complete at the same character: the one that began first, so that no part of it is said.
        assert_eq!(run(&["bc", "abc"], &["xabc"]), (vec!["x".into()], true));
    }

    /// What the text is when it is searched character by character.
    fn naive(stops: &[String], text: &str) -> (String, bool) {
        for (end, _) in text.char_indices().map(|(at, c)| (at + c.len_utf8(), c)) {
            let start = stops.iter().filter(|s| text[..end].ends_with(*s)).map(|s| end - s.len()).min();
            if let Some(start) = start {
                return (text[..start].to_owned(), true);
            }
        }
        (text.to_owned(), false)
    }

    proptest! {
        #[test]
        fn as_a_search_of_the_whole_text(
            stops in prop::collection::vec("[ab\u{e9}]{1,4}", 0..4),
            pieces in prop::collection::vec("[abc\u{e9}]{0,4}", 0..12),
        ) {
            let stop_refs: Vec<&str> = stops.iter().map(String::as_str).collect();
            let piece_refs: Vec<&str> = pieces.iter().map(String::as_str).collect();
            let (said, stopped) = run(&stop_refs, &piece_refs);
            prop_assert_eq!((said.concat(), stopped), naive(&stops, &pieces.concat()));
        }
    }
}
