//! What the command line says of itself: help, completions, manual pages, unknown variables.

use std::io::Write;
use std::process::{Command, Stdio};

use crate::support::*;

/// What `--help` of a subcommand says of each flag.
fn flags(subcommand: &[&str]) -> Vec<(String, String)> {
    let help = succeed(sparkv().args(subcommand).arg("--help"));
    let mut flags: Vec<(String, String)> = Vec::new();
    for line in help.lines() {
        let word = line.trim_start();
        if line.len() - word.len() <= 6 && (word.starts_with("--") || word.starts_with("-")) {
            let flag = word.split(['[', '<', ' ', '=']).find(|word| word.starts_with("--")).unwrap();
            flags.push((flag.to_owned(), format!("{word} ")));
        } else if let Some((_, text)) = flags.last_mut() {
            text.push_str(word);
            text.push(' ');
        }
    }
    flags
}

#[test]
fn help_tells_every_default() {
    let text = std::fs::read_to_string(repository("configs/default.toml")).unwrap();
    let defaults: toml::Table = toml::from_str(&text).unwrap();
    let (serve, run, pull) = (flags(&["serve"]), flags(&["run"]), flags(&["pull"]));
    let help = |flags: &[(String, String)], flag: &str| {
        flags.iter().find(|(name, _)| name == flag).unwrap_or_else(|| panic!("{flag}")).1.clone()
    };
    let mut told = 0;
    for (section, values) in &defaults {
        for (key, value) in values.as_table().unwrap() {
            let value = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
            let (flag, commands) = match (section.as_str(), key.as_str()) {
                ("model", "source") => ("--model".to_owned(), vec![&serve, &run]),
                ("kv", _) => ("--kv".to_owned(), vec![&serve, &run]),
                ("server", _) => (format!("--{}", key.replace('_', "-")), vec![&serve]),
                ("generation", _) => (format!("--{}", key.replace('_', "-")), vec![&serve, &run]),
                ("run", _) => (format!("--{}", key.replace('_', "-")), vec![&run]),
                ("model", "offline") => ("--offline".to_owned(), vec![&serve, &run, &pull]),
                ("model", _) => (format!("--{}", key.replace('_', "-")), vec![&serve, &run]),
                other => panic!("{other:?}"),
            };
            for flags in commands {
                assert!(help(flags, &flag).contains(&format!("[default: {value}]")), "{flag}");
                told += 1;
            }
        }
    }
    assert!(told > 20);
    // The others say what holds without them.
    for (flag, text) in serve.iter().chain(&run).filter(|(flag, _)| flag != "--help" && flag != "--version") {
        assert!(text.contains("[default: ") || text.contains("left out:"), "{flag}: {text}");
    }
    // Flags of other commands that are called like settings are none.
    assert!(!help(&flags(&["bench"]), "--json").contains("default"));
}

#[test]
fn a_variable_with_a_wrong_value_is_named() {
    let message = fail(sparkv().args(["config", "show"]).env("SPARKV_PORT", "tcp://10.0.0.1:80"));
    assert!(message.contains("the variable SPARKV_PORT"), "{message}");
    let message = fail(sparkv().args(["config", "show", "--port", "x"]).env("SPARKV_PORT", "1"));
    assert!(!message.contains("SPARKV_PORT"), "{message}");
    for (flag, wrong, expected) in [
        ("--max-tokens", "0", "a whole number of at least 1"),
        ("--temperature", "warm", "must be a number"),
        ("--stop-repetition", "1", "must be 0 or at least 2"),
    ] {
        let message = fail(sparkv().args(["config", "show", flag, wrong]));
        assert!(message.contains(expected), "{flag}: {message}");
    }
}

#[test]
fn a_variable_that_nothing_reads_is_named() {
    let warned = |command: &mut Command| {
        let output = command.output().unwrap();
        assert!(output.status.success());
        String::from_utf8(output.stderr).unwrap()
    };
    // Variables of other subcommands are known, too.
    let quiet = [("SPARKV_PORT", "1"), ("SPARKV_SEED", "1"), ("SPARKVOTHER", "x"), ("PATH", "/bin")];
    assert_eq!(warned(sparkv().args(["config", "show"]).envs(quiet)), "");
    let mut command = sparkv();
    command.env("SPARKV_PROT", "s3cret").env("SPARKV_COLOUR", "x");
    let message = warned(command.args(["config", "show"]));
    let expected = [
        "warning: SPARKV_PROT is not a variable of sparkv; did you mean SPARKV_PORT?",
        "warning: SPARKV_COLOUR is not a variable of sparkv",
    ];
    let mut lines: Vec<&str> = message.lines().collect();
    lines.sort_by_key(|line| line.contains("COLOUR"));
    assert_eq!(lines, expected);
    // Where there is a log, it is a line of it, once.
    let message = warned(sparkv().env("SPARKV_PROT", "1").args(["run", "--max-tokens", "1", "Hello"]));
    assert_eq!(message.matches("SPARKV_PROT").count(), 1, "{message}");
    assert!(message.contains("WARN") && message.contains("SPARKV_PORT?"), "{message}");
    // Also where it is why something else fails.
    let output =
        sparkv().env("SPARKV_MODLE", "x").args(["config", "check", "/no/such/file"]).output().unwrap();
    let message = String::from_utf8(output.stderr).unwrap();
    assert!(message.contains("SPARKV_MODEL?") && message.contains("error: "), "{message}");
}

#[test]
fn doctor_says_what_is_there_and_what_auto_is() {
    let report: serde_json::Value =
        serde_json::from_str(&succeed(sparkv().args(["doctor", "--json"]))).unwrap();
    assert_eq!(report["version"], env!("CARGO_PKG_VERSION"));
    assert_eq!(report["build"], serde_json::json!(["cpu"]));
    assert_eq!(report["gpus"], serde_json::json!([]));
    assert_eq!(report["auto"], serde_json::json!({"device": "cpu", "fault": null}));
    let instructions = report["instructions"].as_array().unwrap();
    assert_eq!(instructions[0], "scalar");
    let memory = &report["memory"];
    assert!(memory["free"].as_u64().unwrap() <= memory["total"].as_u64().unwrap());
    let text = succeed(sparkv().arg("doctor"));
    let best = instructions.last().unwrap().as_str().unwrap();
    assert!(text.lines().any(|line| line.starts_with("instructions") && line.contains(best)), "{text}");
    assert!(text.lines().any(|line| line == "--device auto  is cpu"), "{text}");
}

#[test]
fn a_gpu_that_is_not_there_is_refused_with_what_to_do() {
    for (device, reason) in [("cuda", "--features cuda"), ("metal", "--features metal")] {
        let error = fail(sparkv().args(["run", "--device", device, "hello"]));
        assert!(error.contains(&format!("device `{device}")) && error.contains(reason), "{error}");
    }
}

#[test]
fn completions_are_scripts_that_know_the_subcommands() {
    for shell in ["bash", "zsh", "fish", "powershell", "elvish"] {
        let script = succeed(sparkv().args(["completions", shell]));
        for word in ["serve", "pull", "kv-memory"] {
            assert!(script.contains(word), "{shell} lacks {word}");
        }
    }
    let script = succeed(sparkv().args(["completions", "bash"]));
    let mut bash = Command::new("bash");
    bash.args(["-s"]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut bash = bash.spawn().unwrap();
    let ask = "COMP_WORDS=(sparkv con); COMP_CWORD=1; _sparkv sparkv con sparkv; echo \"${COMPREPLY[@]}\"\n";
    bash.stdin.take().unwrap().write_all(format!("{script}\n{ask}").as_bytes()).unwrap();
    let output = bash.wait_with_output().unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout), "config\n", "{output:?}");
}

#[test]
fn manual_pages_are_written_for_every_subcommand() {
    let page = succeed(sparkv().arg("man"));
    assert!(page.contains(".TH sparkv 1"), "{page}");
    let folder = tempfile::tempdir().unwrap();
    succeed(sparkv().args(["man", "--output"]).arg(folder.path()));
    for name in ["sparkv", "sparkv-serve", "sparkv-config-check", "sparkv-list", "sparkv-rm"] {
        let page = std::fs::read_to_string(folder.path().join(format!("{name}.1"))).unwrap();
        assert!(page.contains(&format!(".TH {name} 1")), "{page}");
    }
    let page = std::fs::read_to_string(folder.path().join("sparkv-serve.1")).unwrap();
    assert!(page.contains("[default: 8080]"), "{page}");
    let message = fail(sparkv().args(["man", "--output", "/dev/null/x"]));
    assert!(message.contains("error: "), "{message}");
}

#[test]
fn the_service_of_systemd_is_valid_and_fits_the_settings() {
    let unit = std::fs::read_to_string(repository("deploy/systemd/sparkv.service")).unwrap();
    let value = |key: &str| {
        let lines = unit.lines().filter_map(|line| line.strip_prefix(key)?.strip_prefix('='));
        lines.map(str::to_owned).collect::<Vec<_>>()
    };
    let settings = succeed(sparkv().args(["config", "show"]));
    let drain = settings.lines().find_map(|line| line.strip_prefix("drain_seconds = ")).unwrap();
    let drain: u32 = drain.split_whitespace().next().unwrap().parse().unwrap();
    assert!(value("TimeoutStopSec")[0].parse::<u32>().unwrap() > drain);
    // Its variables are ours: a run with them warns of none.
    let variables = value("Environment");
    assert!(variables.len() > 1);
    let pairs = variables.iter().map(|variable| variable.split_once('=').unwrap());
    let output = sparkv().envs(pairs).args(["config", "show"]).output().unwrap();
    assert_eq!(String::from_utf8(output.stderr).unwrap(), "");
    // Where systemd is, it is asked, about a copy that starts this binary.
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("sparkv.service");
    let binary = env!("CARGO_BIN_EXE_sparkv");
    assert!(unit.contains("ExecStart=/usr/local/bin/sparkv serve"));
    std::fs::write(&path, unit.replace("/usr/local/bin/sparkv", binary)).unwrap();
    match Command::new("systemd-analyze").args(["verify", "--man=no"]).arg(&path).output() {
        Ok(output) => assert!(output.status.success() && output.stderr.is_empty(), "{output:?}"),
        Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::NotFound),
    }
}
