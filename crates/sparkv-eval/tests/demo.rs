//! The demo model on fresh samples: the evaluation finds what the model can do, and what settings save.

use sparkv::{KvOptions, Presets};
use sparkv_engine::TextModel;
use sparkv_eval::{Measurement, Mode, Retrieval, SampleShape, SettingsUnderTest, TaskSet};
use sparkv_models::{LoadOptions, ModelSource, load};

const SHAPE: SampleShape = SampleShape { facts: 4, tokens: 256 };

#[test]
fn settings_trade_bytes_for_right_answers() {
    let model = load(&ModelSource::Demo, &LoadOptions::default(), &()).expect("demo model");
    let text = TextModel::from_files(&model.text);
    let tasks = TaskSet::demo().expect("tasks");
    let measure = |json: &str, mode: Mode| -> Measurement {
        let retrieval =
            Retrieval { decoder: &model.decoder, text: &text, tasks: &tasks, samples: 20, seed: 7, mode };
        let options: KvOptions = serde_json::from_str(json).expect(json);
        let choice = Presets::built_in().and_then(|presets| presets.resolve(&options)).expect(json);
        let settings = SettingsUnderTest { name: json.to_owned(), choice };
        retrieval.measure(&settings, SHAPE, &|| ()).expect(json)
    };
    let exact = measure("{}", Mode::QueryAware);
    assert!(exact.accuracy() >= 0.75, "{exact:?}");
    // Room is made for a few rows at a time.
    assert!((1.0..1.04).contains(&exact.kv_share()), "{exact:?}");

    // A cache that sees the question later is the same cache if nothing is compressed.
    assert_eq!(measure("{}", Mode::QueryAgnostic).exact, exact.exact);

    let aggressive = measure(r#"{"preset": "aggressive"}"#, Mode::QueryAware);
    assert!(aggressive.kv_share() < 0.6, "{aggressive:?}");

    // Forgetting nearly everything must show.
    let forgetful = r#"{"eviction": {"policy": "streaming", "max_tokens": 68}}"#;
    let forgetful = measure(forgetful, Mode::QueryAgnostic);
    assert!(forgetful.exact < exact.exact, "{forgetful:?}");
}
