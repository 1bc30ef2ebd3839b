//! PyramidKV (arXiv 2406.02069): as SnapKV, with more tokens in lower layers and fewer in upper ones.

use std::cmp::Ordering;

use super::{Policy, Prompt, Score};

pub(super) const POLICY: Policy = Policy {
    name: "pyramidkv",
    while_generating: false,
    score: Some(Score::WindowAttention),
    counts: pyramid,
    choose: super::highest,
};

/// PyramidKV's beta: of the tokens that are chosen, the uppermost layer keeps the mean over this.
const PYRAMID_BETA: usize = 20;

/// Tokens kept in each layer, falling linearly from the first to the last: `mean` on average, to the token, in no
/// layer fewer than the least or more than the prompt has.
///
/// PyramidKV (arXiv 2406.02069): the last layer keeps the mean over [`PYRAMID_BETA`], the first as much more than
/// the mean as the last keeps less. Where that is more than the prompt has, both come closer to the mean. What
/// always stays is not shared out.
fn pyramid(prompt: &Prompt, mean: usize) -> Box<[usize]> {
    let Prompt { layers, tokens: most, least, always } = *prompt;
    let last = always + mean.saturating_sub(always) / PYRAMID_BETA;
    let spread = (mean - last.max(least).min(mean)).min(most.saturating_sub(mean));
    let steps = layers.saturating_sub(1);
    // The upper half mirrors the lower, so that rounding does not change the mean.
    (0..layers)
        .map(|layer| match (2 * layer).cmp(&steps) {
            Ordering::Less => mean + spread - 2 * spread * layer / steps,
            Ordering::Equal => mean,
            Ordering::Greater => mean - (spread - 2 * spread * (steps - layer) / steps),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn counts(layers: usize, mean: usize, always: usize, (least, tokens): (usize, usize)) -> Box<[usize]> {
        pyramid(&Prompt { layers, tokens, least, always }, mean)
    }

    #[test]
    fn pyramids_fall_from_twice_the_mean_to_a_twentieth() {
        // 36 always stay; of the other 200 the last layer keeps 10, the first 390.
        assert_eq!(*counts(5, 236, 36, (36, 1000)), [426, 331, 236, 141, 46]);
        // A prompt of 300 tokens: 64 above the mean, 64 below.
        assert_eq!(*counts(3, 236, 36, (36, 300)), [300, 236, 172]);
        // Where tokens are quantized, a block more has to fit: 68.
        assert_eq!(*counts(3, 236, 36, (68, 1000)), [404, 236, 68]);
        assert_eq!(*counts(1, 236, 36, (36, 1000)), [236]);
    }

    proptest! {
        #[test]
        fn pyramids_keep_their_mean_and_bounds(
            layers in 1usize..90, always in 0usize..100, block in 0usize..33, mean in 0usize..3000,
            prompt in 1usize..5000,
        ) {
            let (least, mean) = (always + block, (always + block + mean));
            let counts = counts(layers, mean, always, (least, prompt));
            prop_assert_eq!(counts.iter().sum::<usize>(), layers * mean);
            prop_assert!(counts.windows(2).all(|pair| pair[0] >= pair[1]), "{counts:?}");
            prop_assert!(counts.iter().all(|count| *count >= least && *count <= prompt.max(mean)), "{counts:?}");
        }
    }
}
