//! The likeliest of logits.
use std::cmp::Ordering;

/// The first of the largest finite logits, and its value.
pub(super) fn likeliest(logits: &[f32]) -> Option<(u32, f32)> {
    // The largest of some logits is found several at a time, where it is, only for the best of these parts.
    let parts = (0..).zip(logits.chunks(LIKELIEST_PART)).map(|(index, part)| (index, largest_finite(part)));
    let (index, max) = parts.reduce(|best, next| if next.1 > best.1 { next } else { best })?;
    let start = index * LIKELIEST_PART;
    let place = logits[start..].iter().position(|logit| *logit == max && max.is_finite())?;
    Some((u32::try_from(start + place).ok()?, max))
}

/// Logits of which the largest is found at once.
const LIKELIEST_PART: usize = 1024;

/// The largest finite number; minus infinity if there is none.
fn largest_finite(logits: &[f32]) -> f32 {
    let mut lanes = [f32::NEG_INFINITY; 16];
    let (rows, rest) = logits.as_chunks();
    for row in rows.iter().chain(std::iter::once(&last_row(rest))) {
        for (lane, logit) in lanes.iter_mut().zip(row) {
            let logit = if logit.is_finite() { *logit } else { f32::NEG_INFINITY };
            *lane = if logit > *lane { logit } else { *lane };
        }
    }
    lanes.into_iter().fold(f32::NEG_INFINITY, f32::max)
}

/// What is left behind the last whole row, and minus infinity.
fn last_row(rest: &[f32]) -> [f32; 16] {
    let mut row = [f32::NEG_INFINITY; 16];
    row.iter_mut().zip(rest).for_each(|(to, from)| *to = *from);
    row
}

/// Those that are finite, in the order of their ids.
pub(super) fn finite(logits: &[f32]) -> impl Iterator<Item = (u32, f32)> {
    (0..).zip(logits.iter().copied()).filter(|(_, logit)| logit.is_finite())
}

/// The `count` largest of `logits`, finite and in the order of their ids, by rank; all, in that order, if there are no
/// more. The order decides which random number draws which token, so it must not be the selection's.
pub(super) fn likeliest_few(logits: impl Iterator<Item = (u32, f32)>, count: usize) -> Vec<(u32, f32)> {
    let mut few: Vec<_> = logits.collect();
    if count < few.len() {
        few.select_nth_unstable_by(count, by_rank);
        few.truncate(count);
        few.sort_unstable_by(by_rank);
    }
    few
}

/// Larger first; of equals (0 and -0 are) the smaller id.
pub(super) fn by_rank(a: &(u32, f32), b: &(u32, f32)) -> Ordering {
    // Adding 0 makes 0 of -0.
    (b.1 + 0.0).total_cmp(&(a.1 + 0.0)).then(a.0.cmp(&b.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_equals_the_smaller_ids_are_first() {
        let logits = [f32::NAN, -0.0, 0.0, 1.0, 0.0, 1.0];
        assert_eq!(likeliest(&logits), Some((3, 1.0)));
        assert_eq!(likeliest_few(finite(&logits), 3), [(3, 1.0), (5, 1.0), (1, 0.0)]);
        assert_eq!(likeliest_few(finite(&logits), 5), [(1, 0.0), (2, 0.0), (3, 1.0), (4, 0.0), (5, 1.0)]);
    }
}
