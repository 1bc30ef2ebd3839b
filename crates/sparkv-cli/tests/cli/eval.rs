//! `sparkv eval` on the embedded model.

use serde_json::Value;

use crate::support::*;

const FLAGS: [&str; 6] = ["eval", "--offline", "--samples", "2", "--facts", "4"];

#[test]
fn measurements_are_printed_and_written() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("out.json");
    let given = ["--lengths", "100,150", "--kv", "exact", "--json"];
    let table = succeed(sparkv().args(FLAGS).args(given).arg(&path));
    assert!(table.contains("| exact |") && table.contains("150 tokens"), "{table}");
    let written: Value = serde_json::from_str(&std::fs::read_to_string(&path).unwrap()).unwrap();
    let lengths: Vec<_> = written.as_array().unwrap().iter().map(|m| m["length"].clone()).collect();
    assert_eq!(lengths, [100, 150]);
}

#[test]
fn what_would_fail_late_fails_before_anything_is_measured() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("out.json");
    let cases = [
        (["--lengths", "100,9000", "--kv", "exact"], "context of 4096"),
        (["--lengths", "100,150", "--kv", r#"{"budget": 1000}"#], "budget"),
    ];
    for (arguments, expected) in cases {
        let message =
            fail(sparkv().args(FLAGS).args(arguments).args(["--kv", "quality", "--json"]).arg(&path));
        assert!(message.contains(expected), "{message}");
        assert!(!path.exists(), "{arguments:?}: nothing was begun");
    }
    let message = fail(sparkv().args(FLAGS).args(["--json", "/no/such/folder/out.json"]));
    assert!(message.contains("/no/such/folder"), "{message}");
}
