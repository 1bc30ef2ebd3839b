//! Rows of both sides.

use sparkv_kernels::{KvRun, Layout};

use super::row_store::RowStore;
use crate::plan::growth::{Growth, Limit};
use crate::pool::KvPool;

/// Keys and values of the same tokens.
#[derive(Debug)]
pub(crate) struct KvRows {
    pub(crate) keys: RowStore,
    pub(crate) values: RowStore,
}

impl KvRows {
    /// An empty store. Its chunks hold the same tokens of keys and values.
    pub(crate) fn new(keys: Layout, values: Layout, growth: Growth, limit: Limit, pool: &KvPool) -> Self {
        let unit = keys.unit_rows().max(values.unit_rows());
        let store = |layout| RowStore::new(layout, unit, growth, limit, pool.clone());
        Self { keys: store(keys), values: store(values) }
    }

    /// Tokens held.
    pub(crate) fn len(&self) -> usize {
        self.keys.len()
    }

    /// Bytes allocated.
    pub(crate) fn bytes(&self) -> usize {
        self.keys.bytes() + self.values.bytes()
    }

    /// Bytes that storing `tokens` more would allocate.
    pub(crate) fn next_bytes(&self, tokens: usize) -> usize {
        self.keys.next_bytes(tokens) + self.values.next_bytes(tokens)
    }

    /// Makes room for `tokens` in all.
    pub(crate) fn reserve(&mut self, tokens: usize) {
        self.keys.reserve(tokens);
        self.values.reserve(tokens);
    }

    /// Stores one more token's key and value (head_dim each).
    pub(crate) fn push(&mut self, key: &[f32], value: &[f32]) {
        self.keys.push(key);
        self.values.push(value);
    }

    /// Stores a block of tokens' keys and values (BLOCK, head_dim each). `key_weights`: see [`RowStore::push_block`].
    pub(crate) fn push_block(&mut self, keys: &[f32], key_weights: &[f32], values: &[f32]) {
        self.keys.push_block(keys, key_weights);
        self.values.push_block(values, &[]);
    }

    /// Stores keys in another layout of as many bytes, while there are none.
    pub(crate) fn set_key_layout(&mut self, layout: Layout) {
        self.keys.set_layout(layout);
    }

    /// Tokens at the end that can be taken back.
    pub(super) fn removable(&self) -> usize {
        self.keys.removable().min(self.values.removable())
    }

    /// Takes back all tokens from `len` on.
    pub(super) fn truncate(&mut self, len: usize) {
        self.keys.truncate(len);
        self.values.truncate(len);
    }

    /// The tokens held, as contiguous runs.
    pub(crate) fn runs(&self, scaled: bool) -> impl Iterator<Item = KvRun<'_>> {
        self.keys.runs().zip(self.values.runs()).map(move |(keys, values)| KvRun { keys, values, scaled })
    }
}
