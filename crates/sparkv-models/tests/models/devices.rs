//! Models on a simulated device, by the kernels that run on GPUs: against transformers, and against the CPU.
use sparkv::settings::{KvChoice, KvOptions, KvSettings, Presets};
use sparkv::{Accelerator, Budget};
use sparkv_device::Checks;
use sparkv_models::{
    LanguageModel, LoadOptions, LoadedModel, Logits, LogitsWanted, ModelSource, Place, SpanStep,
    WeightFormat, load, load_to,
};

use crate::common::{argmax, demo_folder, greedy, read_json, shared_model};

/// Memory for the caches of a test.
const KV_MEMORY: Budget = Budget::Bytes(48 << 20);

/// The model on the CPU, and on a simulated device.
fn both(source: &ModelSource, weights: WeightFormat) -> Option<[LoadedModel; 2]> {
    let accelerator = Accelerator::simulated(Checks::Bounds, 7)?;
    let options = LoadOptions { weights, kv_memory: KV_MEMORY, ..LoadOptions::default() };
    let place = Place::on_accelerator(&accelerator);
    Some([load(source, &options, &()).unwrap(), load_to(source, &options, &place, &()).unwrap()])
}

fn settings(json: &str) -> KvSettings {
    let options: KvOptions = serde_json::from_str(json).unwrap();
    match Presets::built_in().unwrap().resolve(&options).unwrap() {
        KvChoice::Fixed(settings) => settings,
        KvChoice::Budget(..) => unreachable!("no budget was asked for"),
    }
}

/// Token for token what transformers gives in f32.
#[test]
fn trained_models_equal_transformers() {
    let folders = [Some((demo_folder(), 12)), shared_model("stories260K").map(|folder| (folder, 30))];
    for (folder, most) in folders.into_iter().flatten() {
        let golden = read_json(&folder.join("golden.json"));
        let Some([_, model]) = both(&ModelSource::Folder(folder), WeightFormat::F32) else { return };
        for case in golden["cases"].as_array().unwrap() {
            let ids = |name: &str| -> Vec<u32> {
                case[name].as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect()
            };
            let (prompt, mut expected) = (ids("prompt_ids"), ids("completion_ids"));
            expected.truncate(most);
            let tokens = greedy(&model.decoder, &prompt, expected.len());
            assert_eq!(tokens.iter().map(|(token, _)| *token).collect::<Vec<_>>(), expected);
        }
    }
}

/// Logits of what follows a prompt, some tokens at once and then one by one, under settings of every kind.
#[test]
fn settings_give_what_they_give_on_the_cpu() {
    let source = ModelSource::Folder(demo_folder());
    let Some(models) = both(&source, WeightFormat::F32) else { return };
    let golden = read_json(&demo_folder().join("golden.json"));
    let text: Vec<u32> = golden["cases"]
        .as_array()
        .unwrap()
        .iter()
        .flat_map(|case| {
            let ids = |name: &str| case[name].as_array().unwrap().clone();
            [ids("prompt_ids"), ids("completion_ids")].concat()
        })
        .map(|id| id.as_u64().unwrap() as u32)
        .cycle()
        .take(230)
        .collect();
    let (prompt, following) = text.split_at(150);
    for (json, limit) in [
        (r#"{"precision": "f32"}"#, 1e-4),
        ("{}", 2e-3),
        (r#"{"precision": "int8"}"#, 0.1),
        (r#"{"precision": "int4"}"#, 0.2),
        (r#"{"precision": {"keys": "int3", "values": "int2"}, "allocation": "uniform"}"#, 0.4),
        (r#"{"pruning": {"key_ratio": 0.5, "value_ratio": 0.5}}"#, 0.2),
        (r#"{"precision": "int6", "eviction": {"policy": "snapkv", "max_tokens": 100}}"#, 0.2),
        (r#"{"precision": "int8", "eviction": {"policy": "streaming", "max_tokens": 100}}"#, 0.2),
        (r#"{"eviction": {"policy": "expected_attention", "max_tokens": 100}}"#, 0.1),
    ] {
        let logits = models.each_ref().map(|model| {
            let decoder = &model.decoder;
            let mut cache = decoder.new_cache(&settings(json), prompt.len()).unwrap();
            let mut all = vec![decoder.prefill(prompt, &mut cache, &mut || true).unwrap().unwrap()];
            let (at_once, one_by_one) = following.split_at(70);
            all.push(decoder.prefill(at_once, &mut cache, &mut || true).unwrap().unwrap());
            for &token in one_by_one {
                all.extend(decoder.decode(&[token], &mut [&mut cache]).unwrap());
            }
            (all, decoder.kv_usage(&cache))
        });
        let [(expected, cpu), (found, device)] = logits;
        assert_eq!(cpu, device, "{json}");
        let deviation = |row: &[f32]| {
            let mean = row.iter().sum::<f32>() / row.len() as f32;
            (row.iter().map(|x| (x - mean).powi(2)).sum::<f32>() / row.len() as f32).sqrt()
        };
        for (expected, found) in expected.iter().zip(&found) {
            let off = expected.iter().zip(found).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
            let off = off / deviation(expected);
            assert!(off < limit, "{json}: {off} deviations");
        }
    }
}

/// A batch of spans of several sequences gives what each gives alone.
#[test]
fn sequences_do_not_mix() {
    let source = ModelSource::Folder(demo_folder());
    let Some([_, model]) = both(&source, WeightFormat::F32) else { return };
    let decoder = &model.decoder;
    let prompts: [Vec<u32>; 3] = [(5..45).collect(), (300..371).collect(), (9..30).collect()];
    let kinds = ["{}", r#"{"precision": "int4"}"#, r#"{"precision": "f32"}"#];
    let alone: Vec<Vec<u32>> = prompts
        .iter()
        .zip(kinds)
        .map(|(prompt, json)| {
            let mut cache = decoder.new_cache(&settings(json), prompt.len()).unwrap();
            let mut logits = decoder.prefill(prompt, &mut cache, &mut || true).unwrap().unwrap();
            (0..6)
                .map(|_| {
                    let token = argmax(&logits);
                    logits = decoder.decode(&[token], &mut [&mut cache]).unwrap().remove(0);
                    token
                })
                .collect()
        })
        .collect();
    let mut caches: Vec<_> = prompts
        .iter()
        .zip(kinds)
        .map(|(prompt, json)| decoder.new_cache(&settings(json), prompt.len()).unwrap())
        .collect();
    let mut spans: Vec<_> = prompts
        .iter()
        .zip(&caches)
        .map(|(prompt, cache)| decoder.begin(prompt, LogitsWanted::all(1), cache).unwrap())
        .collect();
    let mut together = vec![Vec::new(); 3];
    while together.iter().any(|tokens| tokens.len() < 6) {
        let mut steps: Vec<_> = spans
            .iter_mut()
            .zip(&mut caches)
            .map(|(span, cache)| SpanStep { span, cache, row_layers: 60 })
            .collect();
        let logits = decoder.step(&mut steps).unwrap();
        for (index, rows) in logits.into_iter().enumerate() {
            if let Some(row) = rows.into_iter().next() {
                let token = argmax(row.all().unwrap());
                together[index].push(token);
                spans[index] = decoder.begin(&[token], LogitsWanted::all(1), &caches[index]).unwrap();
            }
        }
    }
    for (alone, together) in alone.iter().zip(&together) {
        assert_eq!(alone[..], together[..6]);
    }
    drop((caches, spans));
    assert_eq!(decoder.held_bytes(), 0);
}

/// Of spans in one step, some logits of which are enough or all are wanted, the likeliest are those of whole rows, to the bit.
#[test]
fn the_likeliest_logits_are_the_largest_of_all() {
    let source = ModelSource::Folder(demo_folder());
    let Some([cpu, device]) = both(&source, WeightFormat::F32) else { return };
    let prompts: [Vec<u32>; 6] = std::array::from_fn(|index| (3..20 + index as u32).collect());
    let likeliest = [Some(41), None, Some(1), Some(64), Some(65), Some(0)];
    let rows_of = |model: &LoadedModel, wanted: [LogitsWanted; 6]| -> Vec<Vec<Logits>> {
        let decoder = &model.decoder;
        let new = |prompt: &Vec<u32>| decoder.new_cache(&settings("{}"), prompt.len()).unwrap();
        let mut caches: Vec<_> = prompts.iter().map(new).collect();
        let begun = prompts.iter().zip(wanted).zip(&caches);
        let begun = begun.map(|((prompt, wanted), cache)| decoder.begin(prompt, wanted, cache).unwrap());
        let mut spans: Vec<_> = begun.collect();
        let steps = spans.iter_mut().zip(&mut caches);
        let steps = steps.map(|(span, cache)| SpanStep { span, cache, row_layers: usize::MAX });
        decoder.step(&mut steps.collect::<Vec<_>>()).unwrap()
    };
    for rows in [1, 3] {
        let whole = [LogitsWanted::all(rows); 6];
        let wanted = likeliest.map(|likeliest| LogitsWanted { rows, likeliest });
        let (all, found) = (rows_of(&device, whole), rows_of(&device, wanted));
        for ((all, found), likeliest) in all.iter().zip(&found).zip(likeliest) {
            assert_eq!((all.len(), found.len()), (rows, rows));
            for (all, found) in all.iter().zip(found) {
                let Logits::Likeliest(found) = found else {
                    assert!(matches!(likeliest, None | Some(0 | 65)), "{likeliest:?} are found");
                    assert_eq!(found, all);
                    continue;
                };
                let mut expected: Vec<(u32, f32)> = (0..).zip(all.all().unwrap().iter().copied()).collect();
                expected.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
                assert!(matches!(likeliest, Some(enough) if (1..=found.len()).contains(&enough)));
                assert_eq!(found[..], expected[..found.len()]);
            }
        }
        // Where whole rows cost nothing, they are given.
        assert_eq!(rows_of(&cpu, wanted), rows_of(&cpu, whole));
    }
}
