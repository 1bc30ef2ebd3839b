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

/// A table is written for the model, and a budget chooses from it.
#[test]
fn a_table_that_was_measured_is_what_budgets_choose_from() {
    let folder = tempfile::tempdir().unwrap();
    let (text, table) = (folder.path().join("a.txt"), folder.path().join("table.toml"));
    std::fs::write(&text, "The secret code for river is 4821. It rained all night. ".repeat(30)).unwrap();
    let mut command = sparkv();
    command.args(["eval", "--offline", "--metric", "kl", "--prefix", "250", "--tail", "40", "--text"]);
    command.arg(&text).arg("--calibrate").arg(&table);
    command.args([
        "--kv",
        r#"{"precision": "int2"}"#,
        "--kv",
        r#"{"precision": "int8"}"#,
        "--kv",
        "aggressive",
    ]);
    succeed(&mut command);
    let written = std::fs::read_to_string(&table).unwrap();
    // Behind f16, these two; what evicts is no step.
    assert_eq!(written.matches("[[steps]]").count(), 3, "{written}");
    let keys = |table: Option<&std::path::Path>| {
        let mut command = sparkv();
        command.args(["run", "--offline", "--json", "--max-tokens", "2", "--kv", r#"{"budget": "45%"}"#]);
        if let Some(table) = table {
            command.arg("--calibration").arg(table);
        }
        command.arg("The secret code for river is 4821. It rained all night. ".repeat(60));
        let answer: Value = serde_json::from_str(&succeed(&mut command)).unwrap();
        answer["usage"]["kv_cache"]["keys"].as_str().unwrap().to_owned()
    };
    assert_eq!((keys(None).as_str(), keys(Some(&table)).as_str()), ("int6 uniform", "int2 query"));
    std::fs::write(&table, "eviction = \"snapkv\"\nsteps = []").unwrap();
    let message = fail(sparkv().args(["config", "show", "--calibration"]).arg(&table));
    assert!(message.contains("model.calibration") && message.contains("first step"), "{message}");
}

#[test]
fn what_a_context_says_is_asked_for() {
    let folder = tempfile::tempdir().unwrap();
    let (items, json) = (folder.path().join("river.jsonl"), folder.path().join("out.json"));
    let context = format!(
        "The secret code for river is 4821. {}",
        "It rained all night, but the morning was clear. ".repeat(20)
    );
    let line = |question: &str, answer: &str| {
        serde_json::json!({ "context": context, "question": question, "answer": answer }).to_string()
    };
    let lines = [
        line("What is the secret code for river?", "4821"),
        line("What is the secret code for river?", "no"),
    ];
    std::fs::write(&items, lines.join("\n")).unwrap();
    for mode in [&[][..], &["--query-aware"]] {
        let mut command = sparkv();
        command
            .args(["eval", "--offline", "--metric", "recall", "--kv", "exact", "--kv", "compact"])
            .args(mode);
        let table = succeed(command.arg("--items").arg(&items).arg("--json").arg(&json));
        assert!(table.contains("| river | exact | ") && table.contains(" | 50.0 % ("), "{table}");
        assert!(table.contains("| river | compact | "), "{table}");
        let answers: Value = serde_json::from_str(&std::fs::read_to_string(&json).unwrap()).unwrap();
        assert_eq!(answers.as_array().unwrap().len(), 4);
        // What was answered is not asked again; what is another question now, is.
        let mut changed = answers.clone();
        changed.as_array_mut().unwrap().iter_mut().for_each(|answer| answer["score"] = 1.0.into());
        std::fs::write(&json, changed.to_string()).unwrap();
        let again = |items: &std::path::Path| {
            let mut command = sparkv();
            command.args(["eval", "--offline", "--metric", "recall", "--kv", "exact", "--kv", "compact"]);
            succeed(command.args(mode).arg("--items").arg(items).arg("--json").arg(&json))
        };
        let table = again(&items);
        assert!(table.contains(" | 100.0 % ("), "{table}");
        let other = folder.path().join("river.other.jsonl");
        std::fs::write(&other, lines.join("\n").replace("rained", "snowed")).unwrap();
        let table = again(&other);
        assert!(!table.contains(" | 100.0 % ("), "{table}");
        std::fs::remove_file(&json).unwrap();
    }
    let drawn =
        ["--tasks", "codes,vt", "--lengths", "200", "--samples", "1", "--kv", "exact", "--kv", "compact"];
    let table = succeed(sparkv().args(["eval", "--offline", "--metric", "recall"]).args(drawn));
    assert!(table.contains("| codes | compact |") && table.contains("| mean of tasks | exact |"), "{table}");

    for (arguments, expected) in [
        (&["--metric", "recall", "--tasks", "magic"][..], "no task `magic`; there are codes"),
        (&["--metric", "recall", "--facts", "3"], "--facts is an option of --metric demo"),
        (&["--metric", "demo", "--items", "x.jsonl"], "--items is an option of --metric recall"),
        (&["--metric", "kl", "--samples", "3"], "--samples is an option of --metric demo"),
        (&["--metric", "kl", "--sets", "poems"], "no set `poems`; there are prose"),
    ] {
        let message = fail(sparkv().args(["eval", "--offline"]).args(arguments));
        assert!(message.contains(expected), "{arguments:?}: {message}");
    }
}
