//! Which of a prompt's queries are held, and where: arithmetic over positions and slots.

use crate::plan::MAX_SAMPLE;

/// A query that is to be held: which row of those that come now, and in which slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Taken {
    pub(crate) row: usize,
    pub(crate) slot: usize,
}

/// The last queries of a prompt, in a ring.
#[derive(Debug)]
pub(crate) struct WindowSlots {
    slots: usize,
    /// The first position whose query was seen.
    first: usize,
    /// The position of the next query; the last `slots` before it are held.
    seen: usize,
}

impl WindowSlots {
    /// For the last `slots` positions of a prompt whose queries are seen from position `first` on.
    pub(crate) fn starting_at(first: usize, slots: usize) -> Self {
        Self { slots, first, seen: first }
    }

    /// Takes the queries of `tokens` further positions, as far as they are held.
    pub(crate) fn take(&mut self, tokens: usize) -> Vec<Taken> {
        let skipped = tokens.saturating_sub(self.slots);
        let start = self.seen;
        self.seen += tokens;
        (skipped..tokens).map(|row| Taken { row, slot: (start + row) % self.slots }).collect()
    }

    /// Position and slot of each that is held, oldest first.
    pub(crate) fn held(&self) -> impl Iterator<Item = (usize, usize)> {
        let slots = self.slots;
        (self.seen.saturating_sub(slots).max(self.first)..self.seen)
            .map(move |position| (position, position % slots))
    }
}

/// Every query of a prompt, or every second, fourth, ...: between half of [`MAX_SAMPLE`] and all of it once there are that
/// many.
#[derive(Debug)]
pub(crate) struct SampleSlots {
    /// Slots of the queries that are held: those of the positions 0, stride, 2 * stride, ...
    held: Vec<usize>,
    /// Slots that are free again.
    free: Vec<usize>,
    stride: usize,
    /// Queries seen.
    seen: usize,
}

impl SampleSlots {
    pub(crate) fn new() -> Self {
        Self { held: Vec::new(), free: Vec::new(), stride: 1, seen: 0 }
    }

    /// Takes the queries of `tokens` further positions, as far as they are held.
    pub(crate) fn take(&mut self, tokens: usize) -> Vec<Taken> {
        let mut taken: Vec<Taken> = Vec::new();
        for row in 0..tokens {
            if self.seen.is_multiple_of(self.stride) {
                if self.held.len() == MAX_SAMPLE {
                    self.halve();
                }
                // Its turn may have passed with the stride that held before.
                if self.seen.is_multiple_of(self.stride) {
                    let slot = self.free.pop().unwrap_or(self.held.len());
                    self.held.push(slot);
                    taken.push(Taken { row, slot });
                }
            }
            self.seen += 1;
        }
        // Of what came to one slot, the last stays.
        let mut last = std::collections::HashMap::new();
        taken.iter().enumerate().for_each(|(index, taken)| {
            last.insert(taken.slot, index);
        });
        let mut index = 0;
        taken.retain(|taken| {
            index += 1;
            last.get(&taken.slot) == Some(&(index - 1))
        });
        taken
    }

    /// Forgets every second query.
    fn halve(&mut self) {
        let mut index = 0;
        let free = &mut self.free;
        self.held.retain(|slot| {
            index += 1;
            if index % 2 == 0 {
                free.push(*slot);
            }
            index % 2 == 1
        });
        self.stride *= 2;
    }

    /// The slots of those that are held, in the order of their positions.
    pub(crate) fn held(&self) -> &[usize] {
        &self.held
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_holds_the_last_queries() {
        let mut window = WindowSlots::starting_at(3, 4);
        assert_eq!(window.held().count(), 0);
        let mut rows = [usize::MAX; 4];
        let mut position = 3;
        for tokens in [1, 2, 9, 3] {
            for taken in window.take(tokens) {
                rows[taken.slot] = position + taken.row;
            }
            position += tokens;
            let held: Vec<usize> = window.held().map(|(_, slot)| rows[slot]).collect();
            let expected: Vec<usize> = (position.saturating_sub(4).max(3)..position).collect();
            assert_eq!(held, expected);
            assert!(window.held().all(|(position, slot)| rows[slot] == position));
        }
    }

    #[test]
    fn a_sample_holds_every_so_manieth_query() {
        let mut sample = SampleSlots::new();
        let mut rows = vec![usize::MAX; MAX_SAMPLE];
        let mut position = 0;
        for tokens in [1, MAX_SAMPLE - 1, 1, 3, 700, 5 * MAX_SAMPLE, 11] {
            for taken in sample.take(tokens) {
                rows[taken.slot] = position + taken.row;
            }
            position += tokens;
            let held: Vec<usize> = sample.held().iter().map(|slot| rows[*slot]).collect();
            let stride = held.get(1).map_or(1, |second| second - held[0]);
            let expected: Vec<usize> = (0..position).step_by(stride).collect();
            assert_eq!(held, expected, "after {position}");
            assert!(stride == 1 || held.len() > MAX_SAMPLE / 2 - 1 && held.len() <= MAX_SAMPLE);
        }
    }
}
