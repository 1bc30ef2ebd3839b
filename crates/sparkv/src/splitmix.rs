//! Numbers that look random, from numbers: for noise and made-up weights, where nothing depends on how good they are.

/// SplitMix64's finalizer: every bit of the result depends on every bit of `state`. 0 stays 0.
pub fn mix(mut state: u64) -> u64 {
    state = (state ^ (state >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    state = (state ^ (state >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    state ^ (state >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The first numbers of SplitMix64 from the seed 0, as its authors' code gives them.
    #[test]
    fn it_is_splitmix() {
        let steps = [1u64, 2].map(|step| mix(step.wrapping_mul(0x9E37_79B9_7F4A_7C15)));
        assert_eq!(steps, [0xE220_A839_7B1D_CDAF, 0x6E78_9E6A_A1B9_65F4]);
    }
}
