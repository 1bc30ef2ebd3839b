//! What a request needs of the KV memory, computed before it runs.
use sparkv::{KvSettings, Presets, SettingsError};
use sparkv_models::ModelInfo;

/// Prompt, completion and settings of a request.
#[derive(Debug, Clone, Copy)]
pub(super) struct Need<'a> {
    pub(super) info: &'a ModelInfo,
    pub(super) settings: &'a KvSettings,
    pub(super) prompt: usize,
}

impl Need<'_> {
    /// The most bytes held until a prompt, and `new_tokens` that followed it before, are computed: the caches,
    /// one layer of them dense, and the tokens on their way.
    pub(super) fn to_start(self, new_tokens: usize) -> Result<u64, SettingsError> {
        let Self { info, settings, prompt } = self;
        let shape = &info.kv_shape;
        let dense_layer = settings.prompt_bytes(shape, prompt)? - settings.cache_bytes(shape, prompt, 0)?;
        let rows = (prompt + new_tokens) as u64 * info.row_bytes as u64;
        Ok(settings.most_bytes(shape, prompt, new_tokens)? + dense_layer + rows)
    }

    /// The same where all of `tokens` but those `held` are to follow in a cache whose prompt is compressed.
    pub(super) fn to_continue(self, held: usize, tokens: usize) -> Result<u64, SettingsError> {
        let shape = &self.info.kv_shape;
        let rows = (tokens - held.min(tokens)) as u64 * self.info.row_bytes as u64;
        Ok(self.settings.most_bytes(shape, self.prompt, tokens.saturating_sub(self.prompt))? + rows)
    }

    /// The most bytes held at any time until `new_tokens` were generated: should the cache be lost on the way to
    /// make room for others, all tokens go through the layers again.
    pub(super) fn in_all(self, new_tokens: usize) -> Result<u64, SettingsError> {
        self.to_start(new_tokens)
    }

    /// The most tokens, at most `wanted`, that can be generated within `budget` bytes; `None` if there is no room for the
    /// prompt.
    pub(super) fn tokens_within(self, budget: u64, wanted: usize) -> Result<Option<usize>, SettingsError> {
        if self.in_all(wanted)? <= budget {
            return Ok(Some(wanted));
        }
        if self.in_all(0)? > budget {
            return Ok(None);
        }
        // The need grows with the tokens: bisection.
        let (mut fits, mut exceeds) = (0, wanted);
        while fits + 1 < exceeds {
            let middle = fits.midpoint(exceeds);
            if self.in_all(middle)? <= budget {
                fits = middle;
            } else {
                exceeds = middle;
            }
        }
        Ok(Some(fits))
    }

    /// The first preset with which `new_tokens` can be generated within `budget` bytes, and what it needs:
    /// of all that would do, the one that needs the most, being the closest to what was asked.
    pub(super) fn preset_within(
        self,
        presets: &Presets,
        budget: u64,
        new_tokens: usize,
    ) -> Option<(String, u64)> {
        let needs = presets.iter().filter_map(|(name, options)| {
            let settings = presets.resolve(options).ok()?;
            let settings = settings.settings(&self.info.kv_shape, self.prompt, new_tokens).ok()?;
            let need = Need { settings: &settings, ..self }.in_all(new_tokens).ok()?;
            (need <= budget).then(|| (name.to_owned(), need))
        });
        needs.max_by_key(|(_, need)| *need)
    }
}

#[cfg(test)]
mod tests {
    use sparkv::{AttentionConfig, KvShape};

    use super::*;

    fn info() -> ModelInfo {
        let attention =
            AttentionConfig { query_heads: 8, kv_heads: 2, head_dim: 64, scale: 0.125, sliding_window: None };
        let kv_shape = KvShape { layers: 8, attention };
        ModelInfo {
            architecture: "fake",
            vocab_size: 10,
            context_length: 100_000,
            eos_token_ids: vec![],
            kv_shape,
            row_bytes: 1024,
        }
    }

    #[test]
    fn the_preset_that_changes_least_is_proposed() {
        let (info, presets) = (info(), Presets::built_in().unwrap());
        let need = Need { info: &info, settings: &KvSettings::exact(), prompt: 8000 };
        let exact = need.in_all(1000).unwrap();
        let least = info.kv_shape.dense_bytes(9000) + 9000 * 1024;
        assert!((least..least + least / 20).contains(&exact), "{exact} of {least}");
        let mut before = u64::MAX;
        for name in ["exact", "quality", "balanced", "aggressive"] {
            let (_, options) = presets.iter().find(|(preset, _)| *preset == name).unwrap();
            let settings = presets.resolve(options).unwrap().settings(&info.kv_shape, 8000, 1000).unwrap();
            let bytes = Need { settings: &settings, ..need }.in_all(1000).unwrap();
            assert!(bytes < before, "{name}");
            assert_eq!(need.preset_within(&presets, bytes, 1000), Some((name.to_owned(), bytes)));
            before = bytes;
        }
        assert_eq!(need.preset_within(&presets, before - 1, 1000), None);
    }

    #[test]
    fn what_fits_fits_and_one_more_does_not() {
        let info = info();
        let need = Need { info: &info, settings: &KvSettings::exact(), prompt: 100 };
        for budget in [700_000u64, 1_000_000, 5_000_000] {
            let fits = need.tokens_within(budget, 50_000).unwrap().unwrap();
            assert!(fits > 0 && need.in_all(fits).unwrap() <= budget, "{fits} in {budget}");
            assert!(need.in_all(fits + 1).unwrap() > budget, "{fits} in {budget}");
        }
        assert_eq!(need.tokens_within(1000, 50).unwrap(), None);
        let prompt = need.in_all(0).unwrap();
        assert_eq!(
            [prompt - 1, prompt].map(|budget| need.tokens_within(budget, 0).unwrap()),
            [None, Some(0)]
        );
    }
}
