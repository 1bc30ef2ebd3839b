//! Bits for the channels of keys, by what errors in them would cost.

use sparkv_kernels::SET;

use crate::plan::{MOST_BITS, bit_pairs};

/// The mean square error of a channel of unit variance that is rounded to so many bits (see
/// [`sparkv_kernels::half_step`]).
fn error(bits: u8) -> f64 {
    match bits {
        0 => 1.0,
        2 => 0.1188,
        4 => 0.01154,
        _ => 0.00104,
    }
}

/// Channels that have as many bits.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct BitsOfSet {
    /// 0, 2, 4 or 6.
    pub(crate) bits: u8,
    pub(crate) channels: [u16; SET],
}

/// Gives every channel 0, 2, 4 or 6 bits, in sets of [`SET`] channels that matter about as much, so that there are `bits` a
/// channel on average, and the sum of `costs` (head_dim) times the error of each channel is least: each two bits go where
/// they save most (reverse water-filling). Sets of the most bits come first.
///
/// `costs`: the variance of a channel times the energy of the queries that it is multiplied with.
pub(crate) fn allot(costs: &[f64], bits: u8) -> Vec<BitsOfSet> {
    let mut order: Vec<u16> = (0..).take(costs.len()).collect();
    let cost = |channel: u16| costs.get(usize::from(channel)).copied().unwrap_or(0.0);
    order.sort_by(|a, b| cost(*b).total_cmp(&cost(*a)));
    let mut sets: Vec<BitsOfSet> =
        order.as_chunks().0.iter().map(|channels| BitsOfSet { bits: 0, channels: *channels }).collect();
    let total = |set: &BitsOfSet| set.channels.iter().map(|channel| cost(*channel)).sum::<f64>();
    let totals: Vec<f64> = sets.iter().map(total).collect();
    let mut left = bit_pairs(bits, costs.len());
    while left > 0 {
        // (saved for each two bits, how many bits then, which set)
        let mut best: Option<(f64, u8, usize)> = None;
        for (index, (set, total)) in sets.iter().zip(&totals).enumerate() {
            for wider in (set.bits + 2..=MOST_BITS).step_by(2) {
                let pairs = usize::from(wider - set.bits) / 2;
                let saved = total * (error(set.bits) - error(wider)) / pairs as f64;
                if pairs <= left && best.is_none_or(|(most, ..)| saved > most) {
                    best = Some((saved, wider, index));
                }
            }
        }
        let Some((_, bits, index)) = best else { break };
        left -= usize::from(bits - sets[index].bits) / 2;
        sets[index].bits = bits;
    }
    sets.sort_by_key(|set| std::cmp::Reverse(set.bits));
    sets
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bits(costs: &[f64], bits: u8) -> Vec<u8> {
        allot(costs, bits).iter().map(|set| set.bits).collect()
    }

    #[test]
    fn channels_that_cost_the_same_have_about_as_many() {
        assert_eq!(bits(&[1.0; 64], 4), [4; 8]);
        assert_eq!(bits(&[1.0; 64], 3), [4, 4, 4, 4, 2, 2, 2, 2]);
        assert_eq!(bits(&[0.0; 64], 6), [6; 8]);
        // As many pairs of bits as there are.
        assert_eq!(bits(&[1.0; 72], 3).iter().map(|bits| usize::from(*bits)).sum::<usize>(), 26);
        assert_eq!(bits(&[f64::NAN; 8], 3), [2]);
    }

    #[test]
    fn bits_go_where_errors_cost() {
        let costs: Vec<f64> = (0..64).map(|channel| 0.5f64.powi(channel % 8 * 2)).collect();
        let sets = allot(&costs, 2);
        assert_eq!(sets.iter().map(|set| set.bits).collect::<Vec<_>>(), [6, 4, 4, 2, 0, 0, 0, 0]);
        for (place, set) in (0..).zip(&sets) {
            assert!(set.channels.iter().all(|channel| channel % 8 == place), "{set:?}");
        }
    }
}
