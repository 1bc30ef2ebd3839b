//! Caches filled with noise: for benchmarks at a depth, without computing a prompt of that length.

use candle_core::Result;

use crate::cache::{LayerCache, SequenceCache};
use crate::parallel;
use crate::splitmix::mix;

/// Tokens stored at a time, as a prompt comes in chunks.
const CHUNK: usize = 512;

impl SequenceCache {
    /// Stores `tokens` random keys and values in every layer, as a prompt of random queries would have, and
    /// compresses them as the settings say. Layer by layer, so only one of them is ever dense.
    ///
    /// What attention takes in time and bytes does not depend on the values; the answers are noise.
    ///
    /// # Errors
    /// If there are no tokens, or the cache is not empty.
    pub fn fill(&mut self, tokens: usize, seed: u64) -> Result<()> {
        if !self.is_empty() {
            candle_core::bail!("a cache of {} tokens cannot be filled", self.len());
        }
        (0u64..).zip(self.layers_mut()).try_for_each(|(index, layer)| layer.fill(tokens, mix(seed ^ index)))
    }
}

impl LayerCache {
    fn fill(&mut self, tokens: usize, seed: u64) -> Result<()> {
        let attention = self.plan.shape.attention;
        let (row, query_row) = (attention.kv_row(), attention.query_heads * attention.head_dim);
        let chunk = CHUNK.min(tokens);
        let (mut keys, mut values) = (vec![0.0; chunk * row], vec![0.0; chunk * row]);
        // The same for every chunk: only the last ones are kept.
        let mut queries = vec![0.0; chunk * query_row];
        noise(&mut queries, query_row, seed);
        let mut seed = seed;
        let mut stored = 0;
        while stored < tokens {
            let count = chunk.min(tokens - stored).min(self.make_room()?);
            seed = mix(seed.wrapping_add(1));
            noise(&mut keys[..count * row], row, seed);
            noise(&mut values[..count * row], row, !seed);
            self.store(&keys[..count * row], &values[..count * row], &queries[..count * query_row])?;
            stored += count;
        }
        self.finish_prompt()
    }
}

/// Fills rows of this length with uniform values of deviation 1.
fn noise(values: &mut [f32], row: usize, seed: u64) {
    let mut rows: Vec<_> = values.chunks_mut(row).collect();
    parallel::for_each(&mut rows, |index, values| {
        // Xorshift: a few cycles a value, and two values of each state.
        let mut state = mix(seed ^ (index as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15)) | 1;
        for pair in values.chunks_mut(2) {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            for (value, shift) in pair.iter_mut().zip([8, 40]) {
                let uniform = ((state >> shift) & 0xFF_FFFF) as f32 / (1u32 << 24) as f32 - 0.5;
                *value = uniform * 12f32.sqrt();
            }
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::KvSettings;
    use crate::settings::testing::settings;
    use crate::shape::{AttentionConfig, KvShape};

    fn shape() -> KvShape {
        let attention =
            AttentionConfig { query_heads: 4, kv_heads: 2, head_dim: 64, scale: 0.125, sliding_window: None };
        KvShape { layers: 3, attention }
    }

    #[test]
    fn a_filled_cache_holds_what_a_prompt_of_that_length_would() {
        for json in [
            r#"{"preset": "exact"}"#,
            r#"{"preset": "quality"}"#,
            r#"{"preset": "balanced"}"#,
            r#"{"preset": "aggressive"}"#,
            r#"{"eviction": {"policy": "streaming", "max_tokens": 128}}"#,
        ] {
            let settings = settings(json);
            for tokens in [1, 40, 512, 1300] {
                let mut cache = SequenceCache::new(shape(), &settings, tokens).unwrap();
                cache.fill(tokens, 1).unwrap();
                assert_eq!(cache.len(), tokens, "{json}");
                let expected = settings.cache_bytes(&shape(), tokens, 0).unwrap();
                assert_eq!(cache.bytes(), expected, "{json} at {tokens}");
            }
        }
    }

    #[test]
    fn only_an_empty_cache_is_filled_and_not_with_nothing() {
        let mut cache = SequenceCache::new(shape(), &KvSettings::exact(), 8).unwrap();
        assert!(cache.fill(0, 1).is_err());
        let mut cache = SequenceCache::new(shape(), &KvSettings::exact(), 8).unwrap();
        cache.fill(8, 1).unwrap();
        assert!(cache.fill(8, 1).is_err());
    }

    #[test]
    fn noise_has_mean_0_and_deviation_1_and_depends_on_the_seed() {
        let noise = |seed| {
            let mut values = vec![0.0; 1 << 16];
            super::noise(&mut values, 256, seed);
            values
        };
        let values = noise(1);
        assert_eq!(values, noise(1));
        assert_ne!(values, noise(2));
        assert_ne!(values[..256], values[256..512]);
        let mean = |f: &dyn Fn(f32) -> f32| values.iter().map(|v| f(*v)).sum::<f32>() / values.len() as f32;
        assert!(mean(&|v| v).abs() < 0.02, "{}", mean(&|v| v));
        assert!((mean(&|v| v * v) - 1.0).abs() < 0.02, "{}", mean(&|v| v * v));
    }
}
