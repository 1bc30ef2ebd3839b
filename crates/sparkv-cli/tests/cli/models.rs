//! Models of the hub: pull, list, rm, and serving what was pulled.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use crate::fake_hub::{Failure, FakeHub, REPO};
use crate::support::*;

const FIRST: &str = "0123456789abcdef0123456789abcdef01234567";
const SECOND: &str = "89abcdef0123456789abcdef0123456789abcdef";

/// A hub that has the demo model on `main`, and GGUF files, which are none, on `dev`.
fn hub() -> FakeHub {
    let hub = FakeHub::start();
    let names = [
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    ];
    let contents = names.map(|name| std::fs::read(repository("models/demo").join(name)).unwrap());
    let files: Vec<(&str, &[u8])> = names.into_iter().zip(contents.iter().map(Vec::as_slice)).collect();
    hub.commit("main", FIRST, &files);
    let files: [(&str, &[u8]); 3] =
        [("x-Q4_K_M.gguf", b"4444"), ("x-Q8_0.gguf", b"88888888"), ("README.md", b"a model")];
    hub.commit("dev", SECOND, &files);
    hub
}

/// The binary with a cache in `home`.
fn with_home(home: &Path, hub: &FakeHub) -> Command {
    let mut command = sparkv();
    command.env("HF_HOME", home).env("HF_ENDPOINT", &hub.endpoint);
    command
}

fn cache(home: &Path) -> PathBuf {
    home.join("hub").join("models--sparkv-tests--tiny")
}

#[test]
fn what_is_pulled_is_listed_answers_and_is_removed() {
    let (home, hub) = (tempfile::tempdir().unwrap(), hub());
    let sparkv = || with_home(home.path(), &hub);
    assert!(succeed(sparkv().arg("list")).contains("no model of the hub is on this machine"));
    let pulled = succeed(sparkv().args(["pull", REPO]));
    assert!(pulled.starts_with(&format!("{REPO} is in ")) && pulled.contains(FIRST), "{pulled}");
    let pulled = succeed(sparkv().args(["pull", &format!("{REPO}:q8_0"), "--revision", "dev"]));
    assert!(pulled.starts_with(&format!("{REPO}:q8_0@dev is in ")), "{pulled}");
    let paths = succeed(sparkv().args(["pull", &format!("{REPO}@dev"), "--file", "*.md", "--file", "*Q4*"]));
    assert_eq!(paths.lines().count(), 2, "{paths}");
    assert!(paths.lines().all(|path| Path::new(path).exists()), "{paths}");

    let table = succeed(sparkv().arg("list"));
    let row = table.lines().nth(1).unwrap();
    assert!(row.starts_with(&format!("{REPO}  safetensors  6.3 MiB  01234567  ")), "{table}");
    // What the hub has under the other names is no GGUF.
    let others = table.split_once("not servable:\n").unwrap().1;
    for name in [format!("{REPO}:Q4_K_M@dev (4 B): "), format!("{REPO}:Q8_0@dev (8 B): ")] {
        let row = others.lines().find(|line| line.starts_with(&name)).unwrap();
        assert!(row.contains("is corrupt or incomplete"), "{table}");
    }
    let json: Value = serde_json::from_str(&succeed(sparkv().args(["list", "--json"]))).unwrap();
    assert_eq!(json.as_array().unwrap().len(), 3);
    assert_eq!((&json[0]["name"], &json[0]["servable"]), (&REPO.into(), &true.into()));
    assert_eq!((&json[0]["revision"], &json[0]["quantization"]), (&FIRST.into(), &Value::Null));
    assert_eq!((&json[2]["bytes"], &json[2]["quantization"]), (&8.into(), &"Q8_0".into()));

    let answer = ["run", "--offline", "--max-tokens", "3", "--model"];
    for name in [REPO, &format!("{REPO}@main"), &format!("{REPO}@{FIRST}")] {
        assert!(!succeed(sparkv().args(answer).args([name, "Hello"])).is_empty());
    }
    let message = fail(sparkv().args(answer).args([&format!("{REPO}:Q5_0@dev"), "Hello"]));
    assert!(message.contains("Q4_K_M, Q8_0"), "{message}");

    assert_eq!(
        succeed(sparkv().args(["rm", "--yes", &format!("{REPO}:Q8_0")])),
        format!("removed {REPO}:Q8_0: 8 B freed\n")
    );
    assert!(!succeed(sparkv().arg("list")).contains("Q8_0"));
    // Nobody sits at a terminal.
    let message = fail(sparkv().args(["rm", REPO]));
    assert!(message.contains("--yes") && cache(home.path()).exists(), "{message}");
    assert!(succeed(sparkv().args(["rm", "-y", REPO])).contains("MiB freed"));
    assert!(!cache(home.path()).exists());
    let message = fail(sparkv().args(["rm", "-y", REPO]));
    assert!(message.contains("is not in the cache") && message.contains("sparkv list"), "{message}");
}

#[test]
fn variables_say_where_the_cache_is_and_what_opens_the_hub() {
    let (home, hub) = (tempfile::tempdir().unwrap(), hub());
    let elsewhere = home.path().join("elsewhere");
    let pull = |arguments: &[&str]| {
        let mut command = with_home(home.path(), &hub);
        command.args(["pull", REPO]).args(arguments);
        command
    };
    succeed(pull(&[]).env("HF_HUB_CACHE", &elsewhere));
    assert!(elsewhere.join("models--sparkv-tests--tiny").exists() && !cache(home.path()).exists());
    let message = fail(pull(&[]).env("HF_HUB_OFFLINE", "1"));
    assert!(message.starts_with("error: offline") && message.contains("sparkv pull"), "{message}");
    assert_eq!(message, fail(&mut pull(&["--offline"])));
    hub.fail([Failure::Status(401)]);
    let message = fail(&mut pull(&[]));
    assert!(message.contains("set HF_TOKEN"), "{message}");
    for token in [Some("s3cret"), None] {
        hub.fail([Failure::Status(401)]);
        let mut command = pull(&[]);
        match token {
            Some(token) => command.env("HF_TOKEN", token),
            None => {
                std::fs::write(home.path().join("token"), "s3cret\n").unwrap();
                &mut command
            }
        };
        let message = fail(&mut command);
        assert!(message.contains("refuses the token") && !message.contains("s3cret"), "{message}");
    }
    // An address with a slash at its end is the same.
    let address = format!("{}/", hub.endpoint);
    succeed(pull(&[]).env("HF_ENDPOINT", address));
    assert!(cache(home.path()).exists());
}

#[test]
fn a_download_that_broke_off_goes_on_with_the_next_pull() {
    let (home, hub) = (tempfile::tempdir().unwrap(), hub());
    let pull = || {
        let mut command = with_home(home.path(), &hub);
        command.args(["pull", &format!("{REPO}:q8_0@dev")]);
        command
    };
    hub.fail([Failure::Cut(3), Failure::Status(404)]);
    let message = fail(&mut pull());
    assert!(message.contains("cannot get x-Q8_0.gguf"), "{message}");
    let path = succeed(&mut pull());
    let path = path.trim_end().split(" is in ").nth(1).unwrap();
    assert_eq!(std::fs::read(path).unwrap(), b"88888888");
    assert_eq!(hub.starts("x-Q8_0.gguf"), [0, 3]);
}

#[test]
fn names_and_choices_that_contradict_are_refused() {
    let (home, hub) = (tempfile::tempdir().unwrap(), hub());
    for (arguments, expected) in [
        (&["pull", "tiny"][..], "ORG/NAME"),
        (&["pull", "a/b@main", "--revision", "dev"], "two revisions"),
        (&["pull", "a/b", "--revision", "../x"], "no model at"),
        (&["pull", "a/b:Q8_0", "--file", "*.gguf"], "both choose files"),
        (&["rm", "../b"], "no model at"),
    ] {
        let message = fail(with_home(home.path(), &hub).args(arguments));
        assert!(message.contains(expected), "{arguments:?}: {message}");
    }
    assert_eq!(hub.asked(), [""; 0]);
}
