//! A real model, which scripts/models/fetch brings, against what transformers computes from the same file
//! (scripts/models/golden.py).
use std::path::Path;

use serde::Deserialize;
use sparkv::accelerator::Checks;
use sparkv::{Accelerator, Budget, Presets};
use sparkv_engine::{ChatMessage, EngineConfig, Event, GenerateRequest, Prompt, TextEngine, TextModel};
use sparkv_models::{DeviceChoice, LoadOptions, ModelSource, Place, WeightFormat, load_to};

#[path = "../../../../tests/support/fetched_model.rs"]
mod fetched_model;
use fetched_model::model;

#[derive(Deserialize)]
struct Golden {
    text: String,
    ids: Vec<u32>,
    /// The logarithm of the probability of each token but the first.
    scores: Vec<f32>,
    chats: Vec<Chat>,
}

#[derive(Deserialize)]
struct Chat {
    question: String,
    prompt_ids: Vec<u32>,
    answer_ids: Vec<u32>,
}

/// On the CPU, and on a simulated device.
#[test]
fn a_real_model_says_what_transformers_says() {
    let Some(path) = model() else { return };
    says_what_transformers_says(&path, &Place::on(&DeviceChoice::Cpu.open().unwrap()).unwrap(), usize::MAX);
}

#[test]
fn a_real_model_says_what_transformers_says_on_a_device() {
    let (Some(path), Some(device)) = (model(), Accelerator::simulated(Checks::Bounds, 1)) else { return };
    says_what_transformers_says(&path, &Place::on_accelerator(&device), 12);
}

/// The scores of a text, and the first tokens of answers.
fn says_what_transformers_says(path: &Path, place: &Place, most: usize) {
    let golden: Golden = serde_json::from_str(include_str!("../golden/smollm2-135m.json")).unwrap();
    // In f32, as there.
    let kv_memory = Budget::Bytes(256 << 20);
    let options = LoadOptions { weights: WeightFormat::F32, kv_memory, ..LoadOptions::default() };
    let source: ModelSource = path.to_str().unwrap().parse().unwrap();
    let loaded = load_to(&source, &options, place, &()).unwrap();
    let text = TextModel::from_files(&loaded.text);
    let presets = Presets::built_in().unwrap();
    let engine = TextEngine::start(loaded.decoder, text, EngineConfig::default(), presets).unwrap();

    let request = GenerateRequest {
        prompt_logprobs: Some(0),
        max_tokens: Some(0),
        ..GenerateRequest::new(Prompt::Text(golden.text))
    };
    let mut events = engine.generate(request).unwrap();
    let Some(Ok(Event::Prompt(tokens))) = events.blocking_next() else { panic!("no scores") };
    assert_eq!(tokens.iter().map(|token| token.id).collect::<Vec<_>>(), golden.ids);
    for (token, expected) in tokens[1..].iter().zip(&golden.scores) {
        let found = token.logprob.unwrap();
        assert!(
            (found - expected).abs() < 2e-3 * (1.0 + expected.abs()),
            "{}: {found}, not {expected}",
            token.id
        );
    }

    for mut chat in golden.chats {
        chat.answer_ids.truncate(most);
        let prompt = Prompt::Chat(vec![ChatMessage::new("user", chat.question)].into());
        assert_eq!(engine.encode(prompt.clone()).unwrap(), chat.prompt_ids);
        let max_tokens = Some(chat.answer_ids.len());
        let mut events =
            engine.generate(GenerateRequest { max_tokens, ..GenerateRequest::new(prompt) }).unwrap();
        let mut ids = Vec::new();
        while let Some(event) = events.blocking_next() {
            if let Event::Text { token_ids, .. } = event.unwrap() {
                ids.extend(token_ids);
            }
        }
        assert_eq!(ids, chat.answer_ids);
    }
}
