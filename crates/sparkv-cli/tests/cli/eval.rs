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

/// Two texts of the demo model's words; its tokenizer knows no others.
#[test]
fn kl_tells_how_far_predictions_move_and_goes_on_where_it_was() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let text = "The secret code for river is 4821. It rained all night, but the morning was clear. ";
    std::fs::write(at("a.txt"), text.repeat(20)).unwrap();
    std::fs::write(at("b.txt"), format!("It was late. {}", text.repeat(20))).unwrap();
    let command = |prefix: &str, more: &[&str]| {
        let mut command = sparkv();
        command.args(["eval", "--offline", "--metric", "kl", "--prefix", prefix, "--tail", "40"]);
        for name in ["a.txt", "b.txt"] {
            command.arg("--text").arg(at(name));
        }
        command.arg("--json").arg(at("kl.json")).arg("--plot").arg(at("kl.svg")).args(more);
        command
    };
    let table = succeed(&mut command(
        "150",
        &["--kv", "exact", "--kv", r#"{"precision": "f32"}"#, "--kv", "aggressive"],
    ));
    let rows: Vec<&str> = table.lines().skip(2).collect();
    assert_eq!(rows.len(), 3, "{table}");
    let kl: Vec<f64> = rows
        .iter()
        .map(|row| row.split('|').nth(3).unwrap().split_whitespace().next().unwrap().parse().unwrap())
        .collect();
    assert_eq!(kl[0], 0.0, "{table}");
    assert!(kl[1] < 1e-4 && kl[2] > 10.0 * kl[1].max(1e-5), "{table}");
    let svg = std::fs::read_to_string(at("kl.svg")).unwrap();
    assert!(svg.contains("aggressive"));

    // What was measured is not measured again, but what is missing is.
    let mut measured: Vec<serde_json::Value> =
        serde_json::from_str(&std::fs::read_to_string(at("kl.json")).unwrap()).unwrap();
    assert_eq!(measured.len(), 6);
    measured.iter_mut().filter(|d| d["kv"] == "aggressive").for_each(|d| d["kl"] = 7.0.into());
    std::fs::write(at("kl.json"), serde_json::to_string(&measured).unwrap()).unwrap();
    let table = succeed(&mut command("150", &["--kv", "aggressive", "--kv", "quality"]));
    assert!(table.lines().nth(2).unwrap().contains("| 7.00000 ("), "{table}");
    assert!(table.lines().nth(3).unwrap().contains("| quality |"), "{table}");

    let message = fail(&mut command("150", &["--samples", "3"]));
    assert!(message.contains("--samples is an option of --metric demo"), "{message}");
    let message = fail(&mut command("100000", &[]));
    assert!(message.contains("100040 tokens, more than the model's context"), "{message}");
}
