//! Caches that take tokens back.

use crate::common::{Layer, Tokens, config, settings};
use proptest::prelude::*;
use sparkv::TruncateError;

const PROMPT: usize = 150;

/// Settings, and how many tokens at the end are certainly stored as they came.
const SETTINGS: [(&str, usize); 4] = [
    ("{}", usize::MAX),
    (r#"{"preset": "balanced"}"#, 32),
    (r#"{"preset": "aggressive", "eviction": {"max_tokens": 80}}"#, 32),
    (r#"{"eviction": {"policy": "snapkv", "max_tokens": 90}}"#, usize::MAX),
];

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    /// Bit for bit, and byte for byte: as if what was taken back had never been seen.
    #[test]
    fn what_follows_is_as_if_nothing_had_been_taken_back(
        (json, most) in prop::sample::select(SETTINGS.to_vec()), kept in 0usize..90, back in 0usize..60,
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
        match layer.cache.truncate(PROMPT + kept) {
            Ok(()) => {}
            Err(error) => {
                prop_assert!(back > most, "{error}");
                return Ok(());
            }
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

#[test]
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
    assert!(matches!(cache.truncate(PROMPT), Err(TruncateError::Stored { back: 100, removable: 32..=63 })));
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
