//! Stored rows of a real model against what numpy makes of the same rows (`scripts/models/rows.py`).

use candle_core::{Device, safetensors};

use super::head::HeadCache;
use super::observed::ObservedQueries;
use crate::plan::CachePlan;
use crate::pool::KvPool;
use crate::settings::testing::settings;
use crate::shape::{AttentionConfig, KvShape};

const GOLDEN: &[u8] = include_bytes!("../../../tests/golden/rows.safetensors");

type Rows = Vec<Vec<f32>>;

/// Keys and values in quantized blocks, as they were before.
fn decoded(head: &HeadCache) -> [Rows; 2] {
    let domains = head.domains().unwrap();
    let mut rows = [Rows::new(), Rows::new()];
    for run in head.quantized_runs() {
        let head_dim = run.keys.layout().head_dim();
        rows[0].extend(run.keys.decode().chunks(head_dim).map(|key| domains.restored_key(key)));
        rows[1].extend(run.values.decode().chunks(head_dim).map(|value| domains.restored_value(value)));
    }
    rows
}

/// The root of the mean square of the differences, and the share of the rows that differ by more than rounding in f16.
fn difference(ours: &Rows, theirs: &Rows) -> (f64, f64) {
    assert_eq!(ours.len(), theirs.len());
    let (mut squares, mut count, mut others) = (0.0, 0.0, 0.0);
    for (ours, theirs) in ours.iter().zip(theirs) {
        let largest = theirs.iter().fold(0f32, |largest, value| largest.max(value.abs()));
        let off = ours.iter().zip(theirs).map(|(a, b)| f64::from((a - b).abs()));
        others += f64::from(u8::from(off.clone().any(|off| off > f64::from(largest) * 2e-3)));
        squares += off.map(|off| off * off).sum::<f64>();
        count += ours.len() as f64;
    }
    ((squares / count).sqrt(), others / theirs.len() as f64)
}

#[test]
fn rows_are_those_of_numpy() {
    let tensors = safetensors::load_buffer(GOLDEN, &Device::Cpu).unwrap();
    let rows = |name: &str| -> Option<Rows> { Some(tensors.get(name)?.to_vec2().unwrap()) };
    let (keys, values) = (rows("keys").unwrap(), rows("values").unwrap());
    let queries = &tensors["queries"];
    let (group, window, head_dim) = queries.dims3().unwrap();
    let attention =
        AttentionConfig { query_heads: group, kv_heads: 1, head_dim, scale: 0.125, sliding_window: None };
    for (name, json) in [
        ("int8", r#"{"precision": "int8"}"#),
        ("int4-uniform", r#"{"precision": "int4", "allocation": "uniform"}"#),
        ("int3-uniform", r#"{"precision": "int3", "allocation": "uniform"}"#),
        ("int4", r#"{"precision": "int4", "allocation": "query"}"#),
        ("int3", r#"{"precision": "int3", "allocation": "query"}"#),
        ("spark-75", r#"{"pruning": {"key_ratio": 0.75, "value_ratio": 0.75, "center_keys": true}}"#),
    ] {
        let settings = settings(json);
        let plan = CachePlan::new(KvShape { layers: 1, attention }, &settings, keys.len()).unwrap();
        let mut observed = ObservedQueries::new(&plan, keys.len() - window, &KvPool::default());
        let by_position = queries.transpose(0, 1).unwrap().flatten_all().unwrap();
        observed.push(&by_position.to_vec1::<f32>().unwrap(), 1.0);
        let mut head = HeadCache::new(&plan, &KvPool::default());
        keys.iter().zip(&values).for_each(|(key, value)| head.append(key, value));
        let all: Vec<usize> = (0..keys.len()).collect();
        head.gather(&plan, 0, &all, &observed);
        let [our_keys, our_values] = decoded(&head);
        // What a packed row prunes is stored in whole steps of its scale.
        let packed = name == "spark-75";
        for (side, ours, originals) in [("keys", our_keys, &keys), ("values", our_values, &values)] {
            let Some(theirs) = rows(&format!("{name}.{side}")) else { continue };
            let (off, others) = difference(&ours, &theirs);
            let (error, _) = difference(&theirs, &originals[4..4 + theirs.len()].to_vec());
            let (most_off, most_others) = if packed { (0.1, 1.0) } else { (0.02, 0.02) };
            assert!(
                off < most_off * error && others <= most_others,
                "{name}, {side}: off by {off}, {others} of the rows by more than rounding; they by {error}"
            );
        }
    }
}
