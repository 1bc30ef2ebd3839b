//! Steps that mix sequences at all stages give each what it gets alone.
use sparkv::settings::{KvChoice, KvSettings, Presets};
use sparkv_models::{DecodeStep, Decoder, LanguageModel, Prefill, PrefillStep};

use crate::common::{Numbers, distance, llama, load, random_weights};
use serde_json::json;

const VOCAB: usize = 160;

fn settings(json: &str) -> KvSettings {
    match Presets::built_in().unwrap().resolve(&serde_json::from_str(json).unwrap()).unwrap() {
        KvChoice::Fixed(settings) => settings,
        KvChoice::Budget(budget) => panic!("{budget} is a budget"),
    }
}

/// A sequence that follows a script: its prompt, then the tokens after it.
struct Sequence {
    prompt: usize,
    tokens: Vec<u32>,
    settings: KvSettings,
}

impl Sequence {
    /// The logits from the prompt's last token on.
    fn alone(&self, decoder: &Decoder) -> Vec<Vec<f32>> {
        let mut cache = decoder.new_cache(&self.settings, self.prompt).unwrap();
        let prompt = decoder.prefill(&self.tokens[..self.prompt], &mut cache, &mut || true).unwrap();
        let mut logits = vec![prompt.unwrap()];
        for &token in &self.tokens[self.prompt..] {
            let step = DecodeStep { token, cache: &mut cache };
            logits.push(decoder.decode(&mut [step]).unwrap().remove(0));
        }
        logits
    }
}

/// A sequence at work.
struct Running<'a> {
    sequence: &'a Sequence,
    cache: sparkv::SequenceCache,
    prefill: Option<Prefill>,
    logits: Vec<Vec<f32>>,
}

impl Running<'_> {
    fn next(&self) -> Option<u32> {
        self.sequence.tokens.get(self.sequence.prompt + self.logits.len() - 1).copied()
    }
}

/// One step for everybody who has something to do.
fn step(decoder: &Decoder, running: &mut [Running<'_>], numbers: &mut Numbers) {
    let (mut decode, mut prefills, mut who) = (Vec::new(), Vec::new(), [Vec::new(), Vec::new()]);
    for (index, sequence) in running.iter_mut().enumerate() {
        if sequence.prefill.is_none() {
            let Some(token) = sequence.next() else { continue };
            decode.push(DecodeStep { token, cache: &mut sequence.cache });
            who[0].push(index);
        } else if let Some(prefill) = &mut sequence.prefill {
            let row_layers = 1 + numbers.tokens(1, 100)[0] as usize;
            prefills.push(PrefillStep { prefill, cache: &mut sequence.cache, row_layers });
            who[1].push(index);
        }
    }
    let output = decoder.step(&mut decode, &mut prefills).unwrap();
    for (index, logits) in who[0].iter().zip(output.decoded) {
        running[*index].logits.push(logits);
    }
    for (index, logits) in who[1].iter().zip(output.prefilled) {
        if let Some(logits) = logits {
            running[*index].logits.push(logits);
            running[*index].prefill = None;
        }
    }
}

#[test]
fn any_mix_of_prompts_and_tokens_equals_each_alone() {
    let config = llama(json!({}));
    let decoder = load(&config, &random_weights(&config, 21));
    let kinds = ["{}", r#"{"precision": "f32"}"#, r#"{"preset": "balanced"}"#, r#"{"preset": "aggressive"}"#];
    for seed in 0..6 {
        let mut numbers = Numbers(100 + seed);
        let sequences: Vec<Sequence> = (0..6)
            .map(|index| Sequence {
                prompt: 1 + 23 * index,
                tokens: numbers.tokens(1 + 23 * index + 12, VOCAB),
                settings: settings(kinds[(index + seed as usize) % kinds.len()]),
            })
            .collect();
        let mut running: Vec<Running<'_>> = Vec::new();
        let mut waiting = sequences.iter();
        while running.iter().any(|running| running.prefill.is_some() || running.next().is_some())
            || waiting.len() > 0
        {
            // Somebody comes now and then.
            if numbers.tokens(1, 3)[0] == 0
                && let Some(sequence) = waiting.next()
            {
                let cache = decoder.new_cache(&sequence.settings, sequence.prompt).unwrap();
                let prefill = decoder.begin(&sequence.tokens[..sequence.prompt], &cache).unwrap();
                running.push(Running { sequence, cache, prefill: Some(prefill), logits: Vec::new() });
            }
            step(&decoder, &mut running, &mut numbers);
        }
        for running in &running {
            let alone = running.sequence.alone(&decoder);
            assert_eq!(running.logits.len(), alone.len());
            // A last bit more or less of a matrix product may round a value the other way on its way into the cache.
            let compressed = running.sequence.settings.key_ratio() > 0.0;
            for (ours, alone) in running.logits.iter().zip(&alone) {
                let off = distance(ours, alone);
                assert!(off < if compressed { 1e-2 } else { 1e-3 }, "{:?}: {off}", running.sequence.settings);
            }
        }
        assert!(decoder.held_bytes() > 0);
        drop(running);
        assert_eq!(decoder.held_bytes(), 0, "nothing is held when all are gone");
    }
}

/// A sequence that lost its cache gets it back from its tokens: prompt and completion in one go.
#[test]
fn tokens_run_again_at_once_equal_those_run_one_by_one() {
    let config = llama(json!({}));
    let decoder = load(&config, &random_weights(&config, 22));
    for json in ["{}", r#"{"preset": "balanced"}"#, r#"{"preset": "aggressive"}"#] {
        let sequence =
            Sequence { prompt: 130, tokens: Numbers(9).tokens(200, VOCAB), settings: settings(json) };
        let alone = sequence.alone(&decoder);
        let mut cache = decoder.new_cache(&sequence.settings, sequence.prompt).unwrap();
        let logits = decoder.prefill(&sequence.tokens, &mut cache, &mut || true).unwrap().unwrap();
        let off = distance(&logits, alone.last().unwrap());
        assert!(off < 1e-2, "{json}: {off}");
        assert_eq!(
            decoder.kv_usage(&cache).bytes,
            sequence.settings.cache_bytes(&decoder.info().kv_shape, 130, 70).unwrap()
        );
    }
}

#[test]
fn a_prompt_that_begins_with_another_s_tokens_equals_one_computed_whole() {
    let config = llama(json!({}));
    let decoder = load(&config, &random_weights(&config, 23));
    let tokens = Numbers(10).tokens(150, VOCAB);
    let exact = settings("{}");
    let mut first = decoder.new_cache(&exact, 100).unwrap();
    decoder.prefill(&tokens[..100], &mut first, &mut || true).unwrap();
    let (prefix, shared) = decoder.share(&mut first).unwrap();
    assert_eq!(shared, 96);
    for json in ["{}", r#"{"preset": "balanced"}"#, r#"{"preset": "aggressive"}"#] {
        let settings = settings(json);
        let mut whole = decoder.new_cache(&settings, tokens.len()).unwrap();
        let expected = decoder.prefill(&tokens, &mut whole, &mut || true).unwrap().unwrap();
        let mut cache = decoder.new_cache(&settings, tokens.len()).unwrap();
        let begun = decoder.begin_with(&mut cache, &prefix, tokens.len()).unwrap();
        assert_eq!(begun, 96);
        let logits = decoder.prefill(&tokens[begun..], &mut cache, &mut || true).unwrap().unwrap();
        assert!(distance(&logits, &expected) < 1e-2, "{json}: {}", distance(&logits, &expected));
        for token in tokens.iter().take(5).copied() {
            let (ours, theirs) = (
                decoder.decode(&mut [DecodeStep { token, cache: &mut cache }]).unwrap().remove(0),
                decoder.decode(&mut [DecodeStep { token, cache: &mut whole }]).unwrap().remove(0),
            );
            assert!(distance(&ours, &theirs) < 1e-2, "{json}: {}", distance(&ours, &theirs));
        }
    }
}
