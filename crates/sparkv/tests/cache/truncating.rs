//! Caches that take tokens back.

use crate::common::{Layer, Tokens, cases, config, settings, test_devices};
use proptest::prelude::*;
use sparkv::TruncateError;

const PROMPT: usize = 150;

/// Settings, and tokens in the tail behind the prompt, where blocks of it are quantized.
const SETTINGS: [(&str, Option<usize>); 4] = [
    ("{}", None),
    (r#"{"preset": "balanced"}"#, Some(PROMPT - 4 - 96)),
    (r#"{"preset": "aggressive", "eviction": {"max_tokens": 80}}"#, Some(80 - 4 - 32)),
    (r#"{"eviction": {"policy": "snapkv", "max_tokens": 90}}"#, None),
];

/// Blocks of the tail that are quantized once `tokens` came after the prompt.
fn quantized(tail: Option<usize>, tokens: usize) -> usize {
    tail.map_or(0, |tail| (tail + tokens).saturating_sub(64).div_ceil(32))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(cases(60)))]

    /// Bit for bit, and byte for byte: as if what was taken back had never been seen.
    fn what_follows_is_as_if_nothing_had_been_taken_back(
        (json, tail) in prop::sample::select(SETTINGS.to_vec()), kept in 0usize..90, back in 0usize..60,
        more in 1usize..40,
    ) {
        let config = config(8);
        let tokens = Tokens::random(&config, PROMPT + 200);
        let (mut never, _) = Layer::run(config, &settings(json), &tokens.slice(0, PROMPT + kept), PROMPT);
        let (mut layer, _) = Layer::run(config, &settings(json), &tokens.slice(0, PROMPT + kept), PROMPT);
        // One by one, as they are generated; other ones than those that follow.
        for position in 0..back {
            layer.attend(&tokens.slice(199 - position, 1));
        }
        let taken_back = layer.cache.truncate(PROMPT + kept);
        prop_assert_eq!(taken_back.is_ok(), quantized(tail, kept) == quantized(tail, kept + back));
        if taken_back.is_err() {
            return Ok(());
        }
        prop_assert_eq!(layer.cache.len(), PROMPT + kept);
        prop_assert_eq!(layer.cache.bytes(), never.cache.bytes());
        for position in PROMPT + kept..PROMPT + kept + more {
            let token = tokens.slice(position, 1);
            prop_assert_eq!(layer.attend(&token), never.attend(&token));
            prop_assert_eq!(layer.cache.bytes(), never.cache.bytes());
        }
    }
}

fn what_is_not_stored_as_it_came_is_not_taken_back() {
    let config = config(8);
    let tokens = Tokens::random(&config, PROMPT + 100);
    let run = |json: &str| Layer::run(config, &settings(json), &tokens, PROMPT).0.cache;
    let len = PROMPT + 100;
    let mut cache = run("{}");
    assert_eq!(cache.truncate(len + 1), Err(TruncateError::Ahead { tokens: len + 1, len }));
    let prompt = TruncateError::Prompt { tokens: PROMPT - 1, prompt_tokens: PROMPT };
    assert_eq!(cache.truncate(PROMPT - 1), Err(prompt));
    assert_eq!((cache.len(), cache.truncate(len)), (len, Ok(())));
    // Blocks are quantized.
    let before = run(r#"{"preset": "balanced"}"#).bytes();
    let mut cache = run(r#"{"preset": "balanced"}"#);
    assert!(matches!(cache.truncate(PROMPT), Err(TruncateError::Stored { back: 100, removable: 0..=31 })));
    assert_eq!((cache.len(), cache.bytes()), (len, before));
    // Rows were overwritten.
    let mut cache = run(r#"{"eviction": {"policy": "streaming", "max_tokens": 90}}"#);
    assert_eq!(cache.truncate(len - 1), Err(TruncateError::Stored { back: 1, removable: 0 }));
    // Rows are others' too.
    let mut cache = run("{}");
    let shared = cache.share().unwrap();
    assert_eq!(cache.truncate(shared.tokens()), Ok(()));
    let stored = TruncateError::Stored { back: 16, removable: 0 };
    assert_eq!(cache.truncate(shared.tokens() - 16), Err(stored));
}

test_devices!(
    what_follows_is_as_if_nothing_had_been_taken_back,
    what_is_not_stored_as_it_came_is_not_taken_back,
);
