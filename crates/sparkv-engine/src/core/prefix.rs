//! Tokens that need not be computed again.
//!
//! Two kinds. The first tokens of sequences whose caches compress nothing are shared by whoever begins with the same ones,
//! whatever it asks of its own cache: what it compresses is its own. And where a request says so, the compressed
//! cache of a conversation is kept for the request that continues it with the same settings.
use sparkv::KvSettings;
use sparkv::settings::Precision;
use sparkv_models::LanguageModel;

use super::job::CheckedRequest;

/// What is kept of sequences that ended, or that run.
#[derive(Debug)]
pub(super) struct PrefixCache<M: LanguageModel> {
    entries: Vec<Entry<M>>,
    /// Counts uses, to know the least recent.
    clock: u64,
}

#[derive(Debug)]
struct Entry<M: LanguageModel> {
    /// Keeps it apart from requests with another one.
    salt: Option<String>,
    tokens: Vec<u32>,
    cached: Cached<M>,
    /// About the bytes that are freed when it is dropped; fewer if others share them.
    bytes: u64,
    used: u64,
}

#[derive(Debug)]
enum Cached<M: LanguageModel> {
    /// Rows held in f32, or in f16, that many caches may begin with.
    Shared { f32: bool, prefix: M::Prefix },
    /// A whole cache, for one that continues it.
    Conversation { settings: KvSettings, prompt_tokens: usize, cache: M::Cache },
}

/// The compressed cache of a conversation, and what is in it.
#[derive(Debug)]
pub(super) struct Conversation<C> {
    pub(super) cache: C,
    /// Tokens in the cache.
    pub(super) tokens: usize,
    /// Those that were compressed as a prompt.
    pub(super) prompt_tokens: usize,
}

impl<M: LanguageModel> PrefixCache<M> {
    pub(super) fn new() -> Self {
        Self { entries: Vec::new(), clock: 0 }
    }

    /// What has the most tokens in common with `tokens`, and how many those are.
    pub(super) fn shared(&mut self, request: &CheckedRequest, tokens: &[u32]) -> Option<(&M::Prefix, usize)> {
        self.clock += 1;
        let wanted = is_f32(&request.kv);
        let mut best: Option<(&mut Entry<M>, usize)> = None;
        for entry in &mut self.entries {
            if !entry.is_shared(wanted, request) {
                continue;
            }
            let common = common(&entry.tokens, tokens);
            if common > best.as_ref().map_or(0, |(_, most)| *most) {
                best = Some((entry, common));
            }
        }
        let (entry, common) = best?;
        entry.used = self.clock;
        match &entry.cached {
            Cached::Shared { prefix, .. } => Some((prefix, common)),
            Cached::Conversation { .. } => None,
        }
    }

    /// Takes out the longest conversation with the request's settings that `tokens` continue.
    pub(super) fn take_conversation(
        &mut self,
        request: &CheckedRequest,
        tokens: &[u32],
    ) -> Option<Conversation<M::Cache>> {
        let continues = |entry: &Entry<M>| {
            matches!(&entry.cached, Cached::Conversation { settings, .. } if *settings == request.kv)
                && entry.salt == request.cache_salt
                && entry.tokens.len() < tokens.len()
                && tokens.starts_with(&entry.tokens)
        };
        let candidates = self.entries.iter().enumerate().filter(|(_, entry)| continues(entry));
        let (index, _) = candidates.max_by_key(|(_, entry)| entry.tokens.len())?;
        let entry = self.entries.swap_remove(index);
        match entry.cached {
            Cached::Conversation { prompt_tokens, cache, .. } => {
                Some(Conversation { cache, tokens: entry.tokens.len(), prompt_tokens })
            }
            Cached::Shared { .. } => None,
        }
    }

    /// Keeps the first `tokens` of a sequence. What they begin with needs no entry of its own any more.
    pub(super) fn keep_shared(
        &mut self,
        model: &M,
        request: &CheckedRequest,
        tokens: &[u32],
        prefix: M::Prefix,
    ) {
        self.clock += 1;
        let ours = is_f32(&request.kv);
        let same = |entry: &Entry<M>| entry.is_shared(ours, request);
        if let Some(longer) =
            self.entries.iter_mut().find(|entry| same(entry) && entry.tokens.starts_with(tokens))
        {
            longer.used = self.clock;
            return;
        }
        self.entries.retain(|entry| !(same(entry) && tokens.starts_with(&entry.tokens)));
        let bytes = model.info().kv_shape.dense_bytes(tokens.len()) * if ours { 2 } else { 1 };
        let cached = Cached::Shared { f32: ours, prefix };
        let salt = request.cache_salt.clone();
        self.entries.push(Entry { salt, tokens: tokens.to_vec(), cached, bytes, used: self.clock });
    }

    /// Keeps the cache of a conversation, in which `tokens` are.
    pub(super) fn keep_conversation(
        &mut self,
        model: &M,
        request: &CheckedRequest,
        prompt_tokens: usize,
        tokens: Vec<u32>,
        cache: M::Cache,
    ) {
        self.clock += 1;
        let bytes = model.kv_usage(&cache).bytes;
        let cached = Cached::Conversation { settings: request.kv.clone(), prompt_tokens, cache };
        let salt = request.cache_salt.clone();
        self.entries.push(Entry { salt, tokens, cached, bytes, used: self.clock });
    }

    /// About the bytes that are freed when all is forgotten; fewer as far as whoever runs shares them, more where they
    /// are the last that hold rows they do not use.
    pub(super) fn bytes(&self) -> u64 {
        self.entries.iter().map(|entry| entry.bytes).sum()
    }

    /// Forgets what was used least recently; false if there is nothing.
    pub(super) fn evict(&mut self) -> bool {
        let oldest = self.entries.iter().enumerate().min_by_key(|(_, entry)| entry.used);
        let Some((index, _)) = oldest else { return false };
        self.entries.swap_remove(index);
        true
    }
}

impl<M: LanguageModel> Entry<M> {
    /// Whether `request` may begin with it, whose rows are in f32 or not.
    fn is_shared(&self, f32_rows: bool, request: &CheckedRequest) -> bool {
        matches!(self.cached, Cached::Shared { f32, .. } if f32 == f32_rows)
            && self.salt == request.cache_salt
    }
}

/// Whether prompts are computed over rows in f32.
fn is_f32(settings: &KvSettings) -> bool {
    settings.key_precision() == Precision::F32
}

/// How many tokens both begin with.
fn common(a: &[u32], b: &[u32]) -> usize {
    a.iter().zip(b).take_while(|(a, b)| a == b).count()
}
