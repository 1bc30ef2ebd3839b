//! The benches run, on a simulated device and tiny sizes.

#[path = "../benches/support/mod.rs"]
mod support;

use support::{Bench, append, attention, mass, quantize};

/// What a bench reports, with a time above 0 in every result.
macro_rules! results {
    ($name:ident) => {{
        let Some(bench) = Bench::smoke() else { return };
        let report = $name::measure(&bench).unwrap();
        let lines = report.table().lines().count();
        let json = report.json();
        assert_eq!(json["bench"], stringify!($name));
        assert_eq!(json["left_out"], serde_json::json!([]));
        let results = json["results"].as_array().unwrap().clone();
        assert!(lines >= results.len() + 3, "{}", report.table());
        for result in &results {
            assert!(result["seconds"]["median"].as_f64().unwrap() > 0.0, "{result}");
        }
        results
    }};
}

#[test]
fn attention_is_measured_in_every_storage() {
    let results = results!(attention);
    assert_eq!(results.len(), 2 * 6, "storages, for each size of a batch");
    for result in &results {
        let error = result["error"].as_f64().unwrap();
        // Rows are noise, of which .75 are pruned where they are packed.
        let most = match result["rows"].as_str().unwrap() {
            "f16" => 0.0,
            "int8" => 0.02,
            "packed .75" => 1.0,
            _ => 0.5,
        };
        assert!(error <= most, "{result}");
        assert!(result["of_copy"].as_f64().unwrap() > 0.0, "{result}");
    }
    assert_eq!(results[0]["of_f16"], 1.0);
    assert_eq!(results[0]["bytes"], 64 * 8 * 64 * 2 * 2);
}

#[test]
fn prompts_are_packed_into_every_storage() {
    let results = results!(quantize);
    let of = |survivors: &str| results.iter().filter(|result| result["survivors"] == survivors).count();
    assert_eq!([of("all"), of("half")], [5, 6], "{results:?}");
}

#[test]
fn rows_are_stored_and_prompts_are_scored() {
    assert_eq!(results!(append).len(), 2);
    assert_eq!(results!(mass).len(), 2);
}
