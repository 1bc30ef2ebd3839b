//! Sequences that begin with the tokens of another.

use crate::common::{Layer, Tokens, cases, config, pool, settings, test_devices};
use proptest::prelude::*;
use sparkv::{KvShape, SequenceCache};

const PROMPT: usize = 150;

/// Runs a sequence that shares all it can of one with the exact cache, which saw `seen` of the tokens; gives what
/// was computed of the prompt and after it, and how many tokens were shared.
fn continued(json: &str, tokens: &Tokens, seen: usize) -> (Vec<Vec<f32>>, usize, SequenceCache) {
    let config = config(8);
    let pool = pool();
    let (mut first, _) = Layer::run(config, &settings("{}"), &tokens.slice(0, seen), seen.min(PROMPT));
    let prefix = first.cache.share().unwrap();
    let shape = KvShape { layers: 1, attention: config };
    let cache = SequenceCache::counted(shape, &settings(json), PROMPT, &pool).unwrap();
    let mut second = Layer { config, cache };
    let shared = second.cache.begin_with(&prefix, seen).unwrap();
    let mut out = second.attend(&tokens.slice(shared, PROMPT - shared));
    second.cache.layers_mut()[0].finish_prompt().unwrap();
    out.extend(second.attend(&tokens.slice(PROMPT, tokens.len() - PROMPT)));
    // Whoever shared goes on, or not: nothing of it is written to.
    drop(first);
    (out, shared, second.cache)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(cases(40)))]

    /// Bit for bit, whatever of the prompt was there already.
    fn what_follows_a_shared_prefix_is_as_if_it_was_computed(
        seen in 16usize..200,
        json in prop::sample::select(vec![
            "{}",
            r#"{"preset": "balanced"}"#,
            r#"{"preset": "aggressive", "eviction": {"max_tokens": 80}}"#,
            r#"{"eviction": {"policy": "streaming", "max_tokens": 90}}"#,
            r#"{"eviction": {"policy": "expected_attention", "max_tokens": 90}}"#,
        ]),
    ) {
        let config = config(8);
        let tokens = Tokens::random(&config, 230);
        let (alone, expected) = Layer::run(config, &settings(json), &tokens, PROMPT);
        let (out, shared, cache) = continued(json, &tokens, seen);
        prop_assert_eq!(shared % 16, 0);
        prop_assert!(shared <= seen.min(PROMPT - 1));
        prop_assert_eq!(&out[..], &expected[shared..]);
        prop_assert_eq!(cache.usage().kept_tokens, alone.cache.usage().kept_tokens);
    }
}

fn shared_tokens_are_held_once_and_for_as_long_as_anybody_has_them() {
    let config = config(8);
    let shape = KvShape { layers: 1, attention: config };
    let pool = pool();
    let tokens = Tokens::random(&config, 200);
    let cache = |prompt| SequenceCache::counted(shape, &settings("{}"), prompt, &pool).unwrap();
    let mut first = Layer { config, cache: cache(100) };
    first.prompt(&tokens.slice(0, 100));
    let alone = pool.held();
    assert_eq!(alone, first.cache.bytes());
    let prefix = first.cache.share().unwrap();
    assert_eq!(prefix.tokens(), 96);
    // The four tokens behind the last whole group moved to a group of their own.
    let group = shape.dense_bytes(16);
    assert!((alone..=alone + group).contains(&pool.held()), "{} of {alone}", pool.held());
    let held = pool.held();
    let mut second = cache(120);
    assert_eq!(second.begin_with(&prefix, 1000).unwrap(), 96);
    assert_eq!(pool.held(), held, "sharing costs nothing");
    assert_eq!(second.bytes(), shape.dense_bytes(96));
    assert!(second.begin_with(&prefix, 1000).is_err(), "it has tokens already");
    drop(first);
    drop(prefix);
    assert!(pool.held() >= shape.dense_bytes(96));
    drop(second);
    assert_eq!(pool.held(), 0);
}

fn what_was_compressed_is_not_shared_and_other_precisions_do_not_begin_with_it() {
    let config = config(8);
    let tokens = Tokens::random(&config, 200);
    let shareable = |json: &str| {
        let (mut layer, _) = Layer::run(config, &settings(json), &tokens, 150);
        layer.cache.share().map(|prefix| prefix.tokens())
    };
    assert_eq!(shareable("{}"), Some(192));
    assert_eq!(shareable(r#"{"precision": "f32"}"#), Some(192));
    assert_eq!(shareable(r#"{"precision": "int8"}"#), None);
    assert_eq!(shareable(r#"{"preset": "balanced"}"#), None);
    assert_eq!(shareable(r#"{"eviction": {"policy": "snapkv", "max_tokens": 80}}"#), None);
    let (mut f16, _) = Layer::run(config, &settings("{}"), &tokens, 150);
    let prefix = f16.cache.share().unwrap();
    let mut f32 = Layer::new(config, &settings(r#"{"precision": "f32"}"#), 200).cache;
    assert_eq!(f32.begin_with(&prefix, 200).unwrap(), 0);
    let mut int8 = Layer::new(config, &settings(r#"{"precision": "int8"}"#), 200).cache;
    assert_eq!(int8.begin_with(&prefix, 200).unwrap(), 192);
}

test_devices!(
    what_follows_a_shared_prefix_is_as_if_it_was_computed,
    shared_tokens_are_held_once_and_for_as_long_as_anybody_has_them,
    what_was_compressed_is_not_shared_and_other_precisions_do_not_begin_with_it,
);
