//! What docs/quality.md says of a real model, which scripts/models/fetch brings, in short: one text, a shorter prefix.

#![cfg(test)]

use sparkv::settings::KvChoice;
use sparkv::{KvOptions, Presets};
use sparkv_engine::{Prompt, TextModel};
use sparkv_eval::SettingsUnderTest;
use sparkv_eval::kl::{Cut, Divergence, Subject, TextSet, TokenText, divergence};
use sparkv_models::{
    Decoder, LanguageModel, LoadOptions, Logits, LogitsWanted, ModelSource, SpanStep, WeightFormat, load,
};

#[path = "../../../tests/support/fetched_model.rs"]
mod fetched_model;
use fetched_model::model;

#[test]
fn few_bits_by_queries_beat_packed_rows_of_more_bytes() {
    let Some(path) = model() else { return };
    let options = LoadOptions { weights: WeightFormat::F32, ..LoadOptions::default() };
    let source: ModelSource = path.to_str().unwrap().parse().unwrap();
    let loaded = load(&source, &options, &()).unwrap();
    let text = TextModel::from_files(&loaded.text);
    let presets = Presets::built_in().unwrap();
    let settings = [
        "{}",
        r#"{"precision": "int8"}"#,
        r#"{"precision": "int4"}"#,
        r#"{"precision": "int4", "allocation": "uniform"}"#,
        r#"{"precision": "int3"}"#,
        r#"{"pruning": {"key_ratio": 0.75, "value_ratio": 0.75, "center_keys": true}}"#,
    ]
    .map(|json| {
        let options: KvOptions = serde_json::from_str(json).unwrap();
        SettingsUnderTest { name: json.to_owned(), choice: presets.resolve(&options).unwrap() }
    });
    let cut = Cut { prefix: 512, tail: 96, generated: false };
    let (name, prose) = TextSet::Prose.texts(cut.prefix, &|text| text.len()).remove(0);
    let tokens = TokenText { name, tokens: text.encode(Prompt::Text(prose)).unwrap() };
    let mut found: Vec<Divergence> = Vec::new();
    let subject = Subject { name: "SmolLM2", decoder: &loaded.decoder };
    divergence::<sparkv_eval::EvalError>(subject, &tokens, cut, &settings, |one| {
        found.push(one);
        Ok(())
    })
    .unwrap();
    let [exact, int8, int4, rotated, int3, packed] = found.try_into().unwrap();
    assert_eq!(exact.kl, 0.0);
    assert!(int8.kl < 1e-3, "{int8:?}");
    assert!(int4.kl < 0.5 * packed.kl && rotated.kl < 0.6 * packed.kl, "{int4:?}, {rotated:?}, {packed:?}");
    assert!(int3.kl < packed.kl && int3.kv_bytes < packed.kv_bytes, "{int3:?}, {packed:?}");
    // Rounding as a prototype without these kernels has it: docs/quality.md.
    assert!((3e-4..2e-2).contains(&int4.kl), "{int4:?}");
}

/// Tokens that are predicted from those before them alone.
const CHUNK: usize = 1024;

/// The logits of the second half of some tokens.
fn second_half(decoder: &Decoder, tokens: &[u32]) -> Vec<Vec<f32>> {
    let KvChoice::Fixed(exact) = Presets::built_in().unwrap().resolve(&KvOptions::default()).unwrap() else {
        panic!("a budget")
    };
    let mut cache = decoder.new_cache(&exact, tokens.len()).unwrap();
    let mut span = decoder.begin(tokens, LogitsWanted::all(tokens.len() / 2), &cache).unwrap();
    let mut rows = Vec::new();
    while rows.len() < tokens.len() / 2 {
        let mut spans = [SpanStep { span: &mut span, cache: &mut cache, row_layers: usize::MAX }];
        rows.extend(decoder.step(&mut spans).unwrap().remove(0).into_iter().filter_map(Logits::into_all));
    }
    rows
}

/// The Kullback-Leibler divergence of the distribution of `logits` from that of `reference`, in nats.
fn divergence_of(reference: &[f32], logits: &[f32]) -> f64 {
    let log_total = |logits: &[f32]| {
        let largest = logits.iter().copied().fold(f32::MIN, f32::max);
        let sum: f64 = logits.iter().map(|logit| f64::from(logit - largest).exp()).sum();
        f64::from(largest) + sum.ln()
    };
    let (of_reference, of_logits) = (log_total(reference), log_total(logits));
    let term = |(reference, logit): (&f32, &f32)| {
        let log = f64::from(*reference) - of_reference;
        log.exp() * (log - (f64::from(*logit) - of_logits))
    };
    reference.iter().zip(logits).map(term).sum()
}

/// As `llama-perplexity --kl-divergence` measures it: four pieces of 1,024 tokens, of each the second half. llama.cpp has
/// 0.0046 for the same weights and the same text (docs/speed.md).
#[test]
fn weights_of_8_bits_predict_what_weights_of_32_bits_do() {
    let Some(path) = model() else { return };
    let source: ModelSource = path.to_str().unwrap().parse().unwrap();
    let load = |weights| load(&source, &LoadOptions { weights, ..LoadOptions::default() }, &()).unwrap();
    let (exact, rounded) = (load(WeightFormat::F32), load(WeightFormat::Q8_0));
    let text = TextModel::from_files(&exact.text);
    let texts =
        [TextSet::Prose, TextSet::Code].map(|set| set.texts(2 * CHUNK, &|text| text.len() / 2).remove(0).1);
    let tokens = texts.map(|prose| text.encode(Prompt::Text(prose)).unwrap()).concat();
    let (mut sum, mut count) = (0.0, 0);
    for tokens in tokens.chunks_exact(CHUNK).take(4) {
        let (expected, found) = (second_half(&exact.decoder, tokens), second_half(&rounded.decoder, tokens));
        sum += expected.iter().zip(&found).map(|(a, b)| divergence_of(a, b)).sum::<f64>();
        count += expected.len();
    }
    let mean = sum / f64::from(u32::try_from(count).unwrap());
    println!("{mean:.6} over {count} tokens");
    assert!(count >= 4 * CHUNK / 2 && mean > 1e-5 && mean < 4.6e-3, "{mean} over {count} tokens");
}
