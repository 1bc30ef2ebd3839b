//! What docs/quality.md says of a real model, which scripts/models/fetch brings, in short: one text, a shorter prefix.

use sparkv::{KvOptions, Presets};
use sparkv_engine::{Prompt, TextModel};
use sparkv_eval::SettingsUnderTest;
use sparkv_eval::kl::{Cut, Divergence, Subject, TextSet, TokenText, divergence};
use sparkv_models::{LoadOptions, ModelSource, WeightFormat, load};

#[path = "../../../tests/support/fetched_model.rs"]
mod fetched_model;
use fetched_model::model;

#[test]
fn few_bits_by_queries_beat_packed_rows_of_more_bytes() {
    let Some(path) = model() else { return };
    let options = LoadOptions { weights: WeightFormat::F32, ..LoadOptions::default() };
    let source: ModelSource = path.to_str().unwrap().parse().unwrap();
    let loaded = load(&source, &options, &()).unwrap();
    let text = TextModel::from_files(&loaded.text).unwrap();
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
