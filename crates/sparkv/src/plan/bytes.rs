//! What settings cost, before anything is allocated.

use super::{CachePlan, TOOTH};
use crate::settings::{KvSettings, SettingsError};
use crate::shape::KvShape;

impl KvSettings {
    /// Bytes that the cache of a sequence holds under these settings once `new_tokens` followed a prompt of
    /// `prompt_tokens`. Exact, not an estimate. (Not monotonic: a block of tokens shrinks when it is packed.)
    ///
    /// # Errors
    /// If the shape cannot take the settings.
    pub fn cache_bytes(
        &self,
        shape: &KvShape,
        prompt_tokens: usize,
        new_tokens: usize,
    ) -> Result<u64, SettingsError> {
        Ok(CachePlan::new(*shape, self, prompt_tokens)?.bytes_after(new_tokens))
    }

    /// The most bytes that the cache holds at any length up to `new_tokens` beyond a prompt of `prompt_tokens`.
    ///
    /// # Errors
    /// If the shape cannot take the settings.
    pub fn most_bytes(
        &self,
        shape: &KvShape,
        prompt_tokens: usize,
        new_tokens: usize,
    ) -> Result<u64, SettingsError> {
        let plan = CachePlan::new(*shape, self, prompt_tokens)?;
        // What is held grows, but for a tooth with every block of the tail.
        let lengths = (0..=new_tokens.min(TOOTH)).map(|n| new_tokens - n).chain([0]);
        Ok(lengths.map(|n| plan.bytes_after(n)).max().unwrap_or(0))
    }

    /// The most bytes that the cache holds while a prompt of `prompt_tokens` is computed layer by layer: what it
    /// is compressed to, and one layer as it was before.
    ///
    /// # Errors
    /// If the shape cannot take the settings.
    pub fn prompt_bytes(&self, shape: &KvShape, prompt_tokens: usize) -> Result<u64, SettingsError> {
        Ok(CachePlan::new(*shape, self, prompt_tokens)?.prompt_bytes())
    }
}
