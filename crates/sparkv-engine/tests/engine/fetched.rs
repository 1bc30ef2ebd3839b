//! A real model, which scripts/models/fetch brings, against what transformers computes from the same file
//! (scripts/models/golden.py).
use serde::Deserialize;
use sparkv::Presets;
use sparkv_engine::{ChatMessage, EngineConfig, Event, GenerateRequest, Prompt, TextEngine, TextModel};
use sparkv_models::{LoadOptions, ModelSource, WeightFormat, load};

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

#[test]
fn a_real_model_says_what_transformers_says() {
    let Some(path) = model() else { return };
    let golden: Golden = serde_json::from_str(include_str!("../golden/smollm2-135m.json")).unwrap();
    // In f32, as there.
    let options = LoadOptions { weights: WeightFormat::F32, ..LoadOptions::default() };
    let source: ModelSource = path.to_str().unwrap().parse().unwrap();
    let loaded = load(&source, &options, &()).unwrap();
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

    for chat in golden.chats {
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
