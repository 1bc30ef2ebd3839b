//! Which lines of a pool are free: arithmetic.

use std::collections::BTreeMap;

/// The free lines of a pool, in ranges that do not touch.
#[derive(Debug)]
pub(super) struct FreeLines {
    /// First line and length of each.
    ranges: BTreeMap<u32, u32>,
}

impl FreeLines {
    /// A pool of `lines` lines, from `first` on free.
    pub(super) fn new(first: u32, lines: u32) -> Self {
        let ranges = (first < lines).then(|| (first, lines - first));
        Self { ranges: ranges.into_iter().collect() }
    }

    /// All that are free.
    pub(super) fn total(&self) -> u64 {
        self.ranges.values().map(|len| u64::from(*len)).sum()
    }

    /// Takes `lines` that follow one another, from the shortest range that has as many; `None` if none has.
    pub(super) fn take(&mut self, lines: u32) -> Option<u32> {
        let fits = self.ranges.iter().filter(|(_, len)| **len >= lines);
        let (&first, &len) = fits.min_by_key(|(_, len)| **len)?;
        self.ranges.remove(&first);
        if len > lines {
            self.ranges.insert(first + lines, len - lines);
        }
        Some(first)
    }

    /// Gives `lines` lines from `first` on back.
    pub(super) fn give(&mut self, first: u32, lines: u32) {
        let (mut first, mut len) = (first, lines);
        if let Some((&before, &before_len)) = self.ranges.range(..first).next_back()
            && before + before_len == first
        {
            self.ranges.remove(&before);
            (first, len) = (before, before_len + len);
        }
        if let Some(behind) = self.ranges.remove(&(first + len)) {
            len += behind;
        }
        if len > 0 {
            self.ranges.insert(first, len);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn no_line_is_given_twice_and_none_is_lost(steps in prop::collection::vec((0usize..8, 1u32..40), 1..200)) {
            let mut free = FreeLines::new(0, 300);
            let mut held: Vec<(u32, u32)> = Vec::new();
            for (step, lines) in steps {
                if step < 5 {
                    if let Some(first) = free.take(lines) {
                        prop_assert!(first + lines <= 300);
                        prop_assert!(held.iter().all(|(other, len)| first + lines <= *other || other + len <= first));
                        held.push((first, lines));
                    }
                } else if !held.is_empty() {
                    let (first, lines) = held.swap_remove(step % held.len());
                    free.give(first, lines);
                }
                let lines: u32 = held.iter().map(|(_, lines)| lines).sum();
                prop_assert_eq!(free.total(), u64::from(300 - lines));
            }
            held.into_iter().for_each(|(first, lines)| free.give(first, lines));
            prop_assert_eq!(free.take(300), Some(0));
        }
    }
}
