//! `sparkv run` on the embedded model, without network.

use serde_json::Value;

use crate::support::*;

const PROMPT: &str = "The code of Anna is 42. What is the code of Anna?";

fn json(arguments: &[&str]) -> Value {
    let output = succeed(sparkv().args(["run", "--offline", "--json"]).args(arguments).arg(PROMPT));
    serde_json::from_str(&output).unwrap()
}

#[test]
fn json_tells_all_and_the_text_is_what_is_printed() {
    let answer = json(&["--max-tokens", "12"]);
    let mut fields: Vec<&str> = answer.as_object().unwrap().keys().map(String::as_str).collect();
    fields.sort_unstable();
    assert_eq!(fields, ["finish_reason", "text", "timings", "token_ids", "usage"]);
    let text = answer["text"].as_str().unwrap();
    assert!(!text.is_empty());
    let printed = succeed(sparkv().args(["run", "--max-tokens", "12", PROMPT]));
    assert_eq!(printed, format!("{text}\n"));

    let usage = &answer["usage"];
    assert_eq!(usage["completion_tokens"], answer["token_ids"].as_array().unwrap().len());
    let total = usage["prompt_tokens"].as_u64().unwrap() + usage["completion_tokens"].as_u64().unwrap();
    assert_eq!(usage["total_tokens"], total);
    assert_eq!(usage["kv_cache"]["preset"], "exact");
    assert!(usage["kv_cache"]["bytes"].as_u64().unwrap() > 0);
    assert!(answer["timings"]["decode_seconds"].as_f64().unwrap() >= 0.0);
}

#[test]
fn options_have_their_effect() {
    let cut = json(&["--max-tokens", "1", "--kv", "balanced"]);
    assert_eq!(cut["usage"]["completion_tokens"], 1);
    assert_eq!(cut["finish_reason"], "length");
    assert_eq!(cut["usage"]["kv_cache"]["preset"], "balanced");

    // Without the template, the prompt is shorter.
    let raw = json(&["--max-tokens", "1", "--raw"]);
    assert!(raw["usage"]["prompt_tokens"].as_u64() < cut["usage"]["prompt_tokens"].as_u64());

    let draw =
        |seed: &str| json(&["--max-tokens", "8", "--temperature", "5", "--seed", seed])["token_ids"].clone();
    assert_eq!(draw("1"), draw("1"));
    assert_ne!(draw("1"), draw("2"));
}

#[test]
fn a_prompt_comes_from_arguments_files_and_standard_input() {
    let folder = tempfile::tempdir().unwrap();
    let (facts, empty) = (folder.path().join("facts.txt"), folder.path().join("empty"));
    std::fs::write(&facts, "The code of Anna is 42.").unwrap();
    std::fs::write(&empty, "\n").unwrap();
    let question = folder.path().join("question.txt");
    std::fs::write(&question, "What is the code of Anna?").unwrap();
    let all = folder.path().join("all.txt");
    std::fs::write(&all, PROMPT).unwrap();
    let input = |path: &std::path::Path| std::fs::File::open(path).unwrap();
    let expected = succeed(sparkv().args(["run", PROMPT]));
    assert!(expected.contains("42"), "{expected}");
    let answers = [
        succeed(sparkv().args(["run", "demo", PROMPT])),
        succeed(sparkv().args(["run", "-m", "demo", PROMPT])),
        succeed(sparkv().args(["run", "--file"]).arg(&facts).arg("What is the code of Anna?")),
        succeed(sparkv().args(["run", "--file"]).arg(&facts).arg("--file").arg(&question)),
        succeed(sparkv().args(["run", "--file"]).arg(&facts).arg("-").stdin(input(&question))),
        succeed(sparkv().arg("run").stdin(input(&all))),
        succeed(sparkv().args(["run", "demo"]).stdin(input(&all))),
    ];
    for answer in answers {
        assert!(answer.contains("42"), "{answer}");
    }
    let message = fail(sparkv().arg("run").stdin(input(&empty)));
    assert!(message.contains("nothing on standard input"), "{message}");
    let message = fail(sparkv().args(["run", "other", PROMPT, "--model", "demo"]));
    assert!(message.contains("twice"), "{message}");
}

#[test]
fn answers_end_and_what_they_cost_is_told() {
    let output =
        sparkv().args(["run", "--kv", "25%", "--ignore-eos", "--max-tokens", "9", PROMPT]).output().unwrap();
    let cost = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{cost}");
    for part in ["answer 9 tokens", "cut off", "KV cache budget (f16): ", " as f16"] {
        assert!(cost.contains(part), "{part}: {cost}");
    }
    // An answer may get as long as it likes, so that a budget chooses fewer bits.
    let usage = &json(&["--kv", "25%"])["usage"]["kv_cache"];
    assert_eq!(usage["preset"], "budget");
    assert!(usage["keys"].as_str().unwrap().starts_with("int"), "{usage}");
    assert_eq!(usage["eviction"], "none");
    let bounded = |flags: &[&str]| json(&[&["--ignore-eos"], flags].concat());
    let repeated = bounded(&["--stop-repetition", "4", "--max-tokens", "3000"]);
    assert_eq!(repeated["finish_reason"], "length");
    assert!(repeated["usage"]["completion_tokens"].as_u64().unwrap() < 3000, "{repeated}");
    let short = bounded(&["--max-model-len", "40", "--kv", "exact"]);
    assert_eq!((&short["finish_reason"], &short["usage"]["total_tokens"]), (&"length".into(), &40.into()));
    let message = fail(sparkv().args(["run", "--max-model-len", "1000000", PROMPT]));
    assert!(message.contains("max_model_len") && message.contains("4096"), "{message}");
    let system = json(&["--system", "You are brief."]);
    assert!(system["usage"]["prompt_tokens"].as_u64() > json(&[])["usage"]["prompt_tokens"].as_u64());
    let stopped = json(&["--stop", "42", "--stop", "never"]);
    assert!(!stopped["text"].as_str().unwrap().contains("42"), "{stopped}");
}

#[test]
fn a_chat_remembers_and_obeys() {
    let folder = tempfile::tempdir().unwrap();
    let facts = folder.path().join("facts.txt");
    std::fs::write(&facts, "The secret code for river is 57.").unwrap();
    let lines = format!(
        "/usage\nThe code of Anna is 42.\n/kv 30%\n/file {}\nWhat is the code \\\nof Anna?\n/usage\n/kv nothing\n\
         /system Be brief.\n/system\n/what\nWhat is the secret code for river?\n/new\nWhat is the code of Anna?\n/bye\nignored\n",
        facts.display()
    );
    let input = folder.path().join("lines.txt");
    std::fs::write(&input, lines).unwrap();
    let output = sparkv().args(["chat", "demo"]).stdin(std::fs::File::open(input).unwrap()).output().unwrap();
    let (said, told) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{told}");
    let answers: Vec<&str> = said.lines().collect();
    assert_eq!(answers.len(), 4, "{said}");
    assert!(answers[1].contains("42") && answers[2].contains("57"), "{said}");
    assert!(!answers[3].contains("42"), "what was said before is forgotten: {said}");
    for part in [
        "nothing was answered yet",
        "KV cache budget",
        "no preset `nothing`",
        "Be brief.",
        "there is no /what",
    ] {
        assert!(told.contains(part), "{part}: {told}");
    }
    let message = fail(sparkv().args(["chat", "--raw"]));
    assert!(message.contains("run.raw"), "{message}");
}

#[test]
fn what_cannot_be_done_is_refused_with_a_reason() {
    let cases: [(&[&str], &str); 6] = [
        (&["--model", "/no/such/model"], "/no/such/model"),
        (&["--model", "no-org/no-model", "--offline"], "no-org/no-model"),
        (&["--device", "cuda"], "cuda"),
        (&["--device", "metal"], "metal"),
        (&["--temperature", "-1"], "temperature"),
        (&["--max-tokens", "1000000"], "1000000"),
    ];
    let home = tempfile::tempdir().unwrap();
    for (arguments, expected) in cases {
        let message = fail(sparkv().env("HF_HOME", home.path()).arg("run").args(arguments).arg(PROMPT));
        assert!(message.contains(expected), "{arguments:?}: {message}");
    }
    let message = fail(sparkv().args(["run", "--kv", r#"{"pruning": {"key_ratio": 1.0}}"#, PROMPT]));
    assert!(message.contains("key_ratio"), "{message}");
    let message = fail(sparkv().args(["pull", "not-a-name"]));
    assert!(message.contains("not-a-name"), "{message}");
    let file = home.path().join("sparkv.toml");
    std::fs::write(&file, "[model]\noffline = true\n").unwrap();
    let pull = || {
        let mut command = sparkv();
        // Where no hub is, so that nothing is asked for even if this should fail.
        command.env("HF_HOME", home.path()).env("HF_ENDPOINT", "http://127.0.0.1:1").args(["pull", "a/b"]);
        command
    };
    for command in [
        pull().env("HF_HUB_OFFLINE", "1"),
        pull().env("SPARKV_OFFLINE", "1"),
        pull().env("SPARKV_CONFIG", &file),
        pull().arg("--offline"),
    ] {
        let message = fail(command);
        assert!(message.contains("offline") && message.contains("a/b"), "{command:?}: {message}");
    }
}

#[test]
fn broken_models_are_refused_by_name() {
    let refused = |file: &str, content: &[u8]| {
        let folder = tempfile::tempdir().unwrap();
        for entry in std::fs::read_dir(repository("models/demo")).unwrap() {
            let entry = entry.unwrap();
            std::fs::copy(entry.path(), folder.path().join(entry.file_name())).unwrap();
        }
        std::fs::write(folder.path().join(file), content).unwrap();
        fail(sparkv().args(["run", "--model"]).arg(folder.path()).arg(PROMPT))
    };
    let weights = std::fs::read(repository("models/demo/model.safetensors")).unwrap();
    let message = refused("model.safetensors", &weights[..weights.len() / 2]);
    assert!(message.contains("model.safetensors"), "{message}");
    let config = std::fs::read_to_string(repository("models/demo/config.json")).unwrap();
    let config = config.replace("LlamaForCausalLM", "GPT2LMHeadModel").replace("\"llama\"", "\"gpt2\"");
    let message = refused("config.json", config.as_bytes());
    assert!(message.contains("GPT2LMHeadModel") || message.contains("gpt2"), "{message}");
    let message = refused("config.json", b"{");
    assert!(message.contains("config.json"), "{message}");
    let message = refused("tokenizer.json", b"[]");
    assert!(message.contains("tokenizer.json"), "{message}");
}

/// A template of the operator's replaces the model's; one that is none is told at once.
#[test]
fn the_chat_template_can_be_given() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("template.jinja");
    let tokens = |template: &str| {
        std::fs::write(&path, template).unwrap();
        let answer = json(&["--max-tokens", "1", "--chat-template", path.to_str().unwrap()]);
        answer["usage"]["prompt_tokens"].as_u64().unwrap()
    };
    let once = tokens("{{ messages[0].content }}");
    let twice = tokens("{{ messages[0].content }} {{ messages[0].content }}");
    assert!(twice > once + 10, "{twice} and {once}");
    std::fs::write(&path, "{% for %}").unwrap();
    let output = sparkv().args(["run", "--chat-template"]).arg(&path).arg(PROMPT).output().unwrap();
    let message = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && message.contains("template.jinja cannot be compiled"), "{message}");
}
