//! Settings: what beats what, and what is refused.

use std::collections::BTreeSet;
use std::path::PathBuf;

use crate::support::*;

/// A file with `text`, in a folder that lives as long as the guard.
fn file(text: &str) -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("sparkv.toml");
    std::fs::write(&path, text).unwrap();
    (folder, path)
}

/// `key = value` and origin of a setting, as `config show` prints it.
fn shown(output: &str, section: &str, key: &str) -> (String, String) {
    let section = output.split("\n\n").find(|text| text.starts_with(&format!("[{section}]"))).unwrap();
    let line = section.lines().find(|line| line.starts_with(&format!("{key} = "))).unwrap();
    let (setting, origin) = line.rsplit_once("  # ").unwrap();
    (setting.trim_end().to_owned(), origin.to_owned())
}

/// Settings without their origins.
fn settings(output: &str) -> Vec<&str> {
    output.lines().map(|line| line.split("  #").next().unwrap().trim_end()).collect()
}

#[test]
fn the_default_file_holds_the_defaults() {
    let path = repository("configs/default.toml");
    assert!(succeed(sparkv().args(["config", "check"]).arg(&path)).contains("valid"));
    let own = succeed(sparkv().args(["config", "show"]));
    let with_file = succeed(sparkv().args(["config", "show", "--config"]).arg(&path));
    assert_eq!(settings(&own), settings(&with_file));
    assert_eq!(shown(&own, "server", "host").0, "host = \"127.0.0.1\"");
    assert_eq!(shown(&own, "server", "port").0, "port = 8080");
    assert_eq!(shown(&own, "kv", "preset").0, "preset = \"exact\"");
    assert_eq!(shown(&own, "model", "source").0, "source = \"demo\"");
}

#[test]
fn the_default_file_explains_every_option() {
    let text = std::fs::read_to_string(repository("configs/default.toml")).unwrap();
    let words = |text: &str, prefix: &str| -> BTreeSet<String> {
        text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_' || c == '-'))
            .filter(|word| word.starts_with(prefix) && word.len() > prefix.len())
            .map(|word| word.trim_end_matches('_').to_owned())
            .collect()
    };
    let help = succeed(sparkv().args(["config", "show", "--help"]));
    let variables = words(&help, "SPARKV_");
    assert!(variables.len() > 10);
    assert_eq!(words(&text, "SPARKV_"), variables);
    let general = ["--help", "--version"];
    let flags: Vec<String> =
        words(&help, "--").into_iter().filter(|flag| !general.contains(&flag.as_str())).collect();
    assert_eq!(words(&text, "--").into_iter().collect::<Vec<_>>(), flags);
}

/// Section, key, value in the file, variable and its value, flag, and what is shown by default and for each of
/// these.
type Case =
    (&'static str, &'static str, &'static str, &'static str, &'static str, &'static str, [&'static str; 4]);

const CASES: [Case; 31] = [
    ("server", "port", "1001", "SPARKV_PORT", "1002", "--port=1003", ["8080", "1001", "1002", "1003"]),
    ("server", "host", "\"a\"", "SPARKV_HOST", "b", "--host=c", ["\"127.0.0.1\"", "\"a\"", "\"b\"", "\"c\""]),
    ("server", "max_queue", "1", "SPARKV_MAX_QUEUE", "2", "--max-queue=3", ["64", "1", "2", "3"]),
    ("server", "max_running", "1", "SPARKV_MAX_RUNNING", "2", "--max-running=3", ["64", "1", "2", "3"]),
    (
        "server",
        "kv_memory",
        "\"1GiB\"",
        "SPARKV_KV_MEMORY",
        "50%",
        "--kv-memory=2048",
        ["\"75%\"", "\"1GiB\"", "\"50%\"", "2048"],
    ),
    (
        "server",
        "prefix_cache",
        "false",
        "SPARKV_PREFIX_CACHE",
        "true",
        "--prefix-cache=false",
        ["true", "false", "true", "false"],
    ),
    (
        "server",
        "prompt_balance",
        "1.0",
        "SPARKV_PROMPT_BALANCE",
        "2.0",
        "--prompt-balance=3.0",
        ["2.2", "1.0", "2.0", "3.0"],
    ),
    ("server", "body_limit", "1", "SPARKV_BODY_LIMIT", "2", "--body-limit=3", ["4194304", "1", "2", "3"]),
    (
        "server",
        "unknown_fields",
        "\"warn\"",
        "SPARKV_UNKNOWN_FIELDS",
        "refuse",
        "--unknown-fields=warn",
        ["\"refuse\"", "\"warn\"", "\"refuse\"", "\"warn\""],
    ),
    (
        "server",
        "accept_any_model",
        "true",
        "SPARKV_ACCEPT_ANY_MODEL",
        "false",
        "--accept-any-model",
        ["false", "true", "false", "true"],
    ),
    (
        "server",
        "health_follows_ready",
        "true",
        "SPARKV_HEALTH_FOLLOWS_READY",
        "false",
        "--health-follows-ready",
        ["false", "true", "false", "true"],
    ),
    (
        "server",
        "metrics_open",
        "true",
        "SPARKV_METRICS_OPEN",
        "false",
        "--metrics-open",
        ["false", "true", "false", "true"],
    ),
    (
        "server",
        "drain_delay_seconds",
        "1",
        "SPARKV_DRAIN_DELAY_SECONDS",
        "2",
        "--drain-delay-seconds=3",
        ["0", "1", "2", "3"],
    ),
    ("server", "drain_seconds", "1", "SPARKV_DRAIN_SECONDS", "2", "--drain-seconds=3", ["30", "1", "2", "3"]),
    (
        "server",
        "max_connections",
        "1",
        "SPARKV_MAX_CONNECTIONS",
        "2",
        "--max-connections=3",
        ["512", "1", "2", "3"],
    ),
    (
        "server",
        "header_seconds",
        "1",
        "SPARKV_HEADER_SECONDS",
        "2",
        "--header-seconds=3",
        ["30", "1", "2", "3"],
    ),
    ("server", "header_limit", "1", "SPARKV_HEADER_LIMIT", "2", "--header-limit=3", ["65536", "1", "2", "3"]),
    (
        "server",
        "log_format",
        "\"json\"",
        "SPARKV_LOG_FORMAT",
        "text",
        "--log-format=json",
        ["\"text\"", "\"json\"", "\"text\"", "\"json\""],
    ),
    (
        "model",
        "literal_content",
        "false",
        "SPARKV_LITERAL_CONTENT",
        "true",
        "--literal-content=false",
        ["true", "false", "true", "false"],
    ),
    ("model", "source", "\"a\"", "SPARKV_MODEL", "b", "--model=c", ["\"demo\"", "\"a\"", "\"b\"", "\"c\""]),
    (
        "model",
        "device",
        "\"cpu\"",
        "SPARKV_DEVICE",
        "cuda:1",
        "--device=metal",
        ["\"auto\"", "\"cpu\"", "\"cuda:1\"", "\"metal\""],
    ),
    (
        "model",
        "weights",
        "\"f32\"",
        "SPARKV_WEIGHTS",
        "f16",
        "--weights=q4k",
        ["\"auto\"", "\"f32\"", "\"f16\"", "\"q4k\""],
    ),
    ("model", "offline", "true", "SPARKV_OFFLINE", "false", "--offline", ["false", "true", "false", "true"]),
    ("generation", "max_tokens", "1", "SPARKV_MAX_TOKENS", "2", "--max-tokens=3", ["2048", "1", "2", "3"]),
    (
        "generation",
        "presence_penalty",
        "0.1",
        "SPARKV_PRESENCE_PENALTY",
        "0.2",
        "--presence-penalty=-0.3",
        ["0.0", "0.1", "0.2", "-0.3"],
    ),
    (
        "generation",
        "frequency_penalty",
        "0.1",
        "SPARKV_FREQUENCY_PENALTY",
        "0.2",
        "--frequency-penalty=-0.3",
        ["0.0", "0.1", "0.2", "-0.3"],
    ),
    (
        "generation",
        "stop_repetition",
        "2",
        "SPARKV_STOP_REPETITION",
        "3",
        "--stop-repetition=4",
        ["0", "2", "3", "4"],
    ),
    (
        "run",
        "ignore_eos",
        "true",
        "SPARKV_IGNORE_EOS",
        "false",
        "--ignore-eos",
        ["false", "true", "false", "true"],
    ),
    ("run", "raw", "true", "SPARKV_RAW", "0", "--raw", ["false", "true", "false", "true"]),
    ("run", "json", "true", "SPARKV_JSON", "no", "--json", ["false", "true", "false", "true"]),
    (
        "kv",
        "preset",
        "\"quality\"",
        "SPARKV_KV",
        "balanced",
        "--kv=aggressive",
        ["\"exact\"", "\"quality\"", "\"balanced\"", "\"aggressive\""],
    ),
];

#[test]
fn flag_beats_variable_beats_file_beats_default() {
    for (section, key, in_file, variable, value, flag, expected) in CASES {
        let (_folder, path) = file(&format!("[{section}]\n{key} = {in_file}\n"));
        let show = |with_file: bool, with_variable: bool, with_flag: bool| {
            let mut command = sparkv();
            command.args(["config", "show"]);
            if with_file {
                command.env("SPARKV_CONFIG", &path);
            }
            if with_variable {
                command.env(variable, value);
            }
            if with_flag {
                command.arg(flag);
            }
            shown(&succeed(&mut command), section, key)
        };
        let origin = path.display().to_string();
        let line = |i: usize, origin: &str| (format!("{key} = {}", expected[i]), origin.to_owned());
        assert_eq!(show(false, false, false), line(0, "default"));
        assert_eq!(show(true, false, false), line(1, &origin));
        assert_eq!(show(true, true, false), line(2, "environment"));
        assert_eq!(show(true, true, true), line(3, "command line"));
        assert_eq!(show(true, false, true), line(3, "command line"));
        assert_eq!(show(false, true, false), line(2, "environment"));
    }
}

#[test]
fn settings_without_a_default() {
    let bare = succeed(sparkv().args(["config", "show"]));
    assert!(!bare.contains("\nseed") && !bare.contains("\ntemperature") && !bare.contains("api_key"));
    assert!(!bare.contains("\nserved_model_name"));
    let flags = ["--seed", "7", "--temperature", "0.5", "--api-key", "s3cret", "--served-model-name", "a,b"];
    let given = succeed(sparkv().args(["config", "show"]).args(flags));
    assert_eq!(shown(&given, "server", "served_model_name").0, "served_model_name = [\"a\", \"b\"]");
    assert_eq!(shown(&given, "run", "seed").0, "seed = 7");
    assert_eq!(shown(&given, "generation", "temperature").0, "temperature = 0.5");
    assert!(given.contains("# api_key is set"));
}

#[test]
fn a_name_that_is_none_is_refused() {
    let message = fail(sparkv().args(["config", "check", "--served-model-name", "a,"]));
    assert!(message.contains("server.served_model_name (from command line)"), "{message}");
}

#[test]
fn kv_settings_come_from_one_source_as_a_whole() {
    let (_folder, path) = file("[kv]\nprecision = \"int8\"\nwindow = 64\n");
    let show = |kv: &str| succeed(sparkv().args(["config", "show", "--kv", kv]).arg(&path));
    let spelled_out = show(r#"{"pruning": {"key_ratio": 0.5}}"#);
    assert_eq!(shown(&spelled_out, "kv", "pruning").0, "pruning = { key_ratio = 0.5 }");
    assert!(!spelled_out.contains("window") && !spelled_out.contains("preset = "));
    assert_eq!(shown(&show("quality"), "kv", "preset").0, "preset = \"quality\"");
}

#[test]
fn no_kv_settings_are_exact_ones_wherever_they_come_from() {
    let (_folder, path) = file("[kv]\npreset = \"aggressive\"\n");
    for command in [
        sparkv().args(["config", "show", "--kv", "{}"]).arg(&path),
        sparkv().args(["config", "show"]).arg(&path).env("SPARKV_KV", "{}"),
    ] {
        assert!(!succeed(command).contains("aggressive\""), "{command:?}");
    }
}

#[test]
fn presets_of_the_file_are_added() {
    let (_folder, path) = file(
        "[kv]\npreset = \"mine\"\n[presets]\nmine = { precision = \"int8\" }\nquality = { precision = \"f32\" }\n",
    );
    let output = succeed(sparkv().args(["config", "show"]).arg(&path));
    assert_eq!(shown(&output, "presets", "mine").0, "mine = { precision = \"int8\" }");
    assert_eq!(shown(&output, "presets", "quality").0, "quality = { precision = \"f32\" }");
    assert!(!output.contains("# quality") && output.contains("# balanced"));
}

#[test]
fn what_is_shown_is_a_valid_file_with_the_same_settings() {
    let flags = ["--port", "99", "--seed", "5", "--kv", r#"{"budget": "25%"}"#, "--offline"];
    let output = succeed(sparkv().args(["config", "show"]).args(flags));
    let (_folder, path) = file(&output);
    let again = succeed(sparkv().args(["config", "show"]).arg(&path));
    assert_eq!(settings(&output), settings(&again));
}

#[test]
fn secrets_are_not_shown() {
    let (_folder, path) = file("[server]\napi_key = \"s3cret\"\n");
    for command in [
        sparkv().args(["config", "show"]).arg(&path),
        sparkv().args(["config", "show"]).env("SPARKV_API_KEY", "s3cret"),
        sparkv().args(["config", "show", "--api-key", "s3cret"]),
        sparkv().args(["config", "show", "--api-key", "first", "--api-key", "s3cret"]),
        sparkv().args(["config", "show"]).env("SPARKV_API_KEY", "first,s3cret"),
        sparkv().args(["serve", "--help"]).env("SPARKV_API_KEY", "s3cret"),
    ] {
        assert!(!succeed(command).contains("s3cret"), "{command:?}");
    }
}

#[test]
fn a_broken_file_with_a_secret_is_not_quoted() {
    for text in ["[server]\napi_key = \"s3cret\n", "[server]\napi_key = [\"s3cret\"]\nport = \"s3cret\"\n"] {
        let (_folder, path) = file(text);
        let message = fail(sparkv().args(["config", "check"]).arg(&path));
        assert!(message.contains("line "), "{message}");
        assert!(!message.lines().any(|line| line.contains("api_key = ")), "{message}");
    }
    // Nor is one whose name is misspelt.
    let (_folder, path) = file("[server]\napi-key = \"s3cret\"\n");
    assert!(!fail(sparkv().args(["config", "check"]).arg(&path)).contains("s3cret"));
    let (_folder, path) = file("[server]\napi_key = \"s3cret\n");
    assert!(!fail(sparkv().args(["config", "check"]).arg(&path)).contains("s3cret"));
}

#[test]
fn keys_and_origins_are_one_or_several() {
    for text in ["api_key = \"a\"", "api_key = [\"a\", \"b\"]", "cors_origin = \"*\""] {
        let (_folder, path) = file(&format!("[server]\n{text}\n"));
        succeed(sparkv().args(["config", "check"]).arg(&path));
    }
    let flags = ["--cors-origin", "https://a.example", "--cors-origin", "http://b.example:1"];
    let given = succeed(sparkv().args(["config", "show"]).args(flags));
    let expected = "cors_origin = [\"https://a.example\", \"http://b.example:1\"]";
    assert_eq!(shown(&given, "server", "cors_origin").0, expected);
    let given = succeed(sparkv().args(["config", "show"]).env("SPARKV_CORS_ORIGIN", "https://a.example,*"));
    assert_eq!(shown(&given, "server", "cors_origin").0, "cors_origin = [\"https://a.example\", \"*\"]");
}

#[test]
fn broken_files_are_refused_with_the_place() {
    let cases = [
        ("[server]\nport = \"eighty\"\n", "line 2, column 8"),
        ("[server]\nport = 70000\n", "line 2"),
        ("[server]\nprot = 80\n", "`prot`"),
        ("[servr]\n", "`servr`"),
        ("port = 80\n", "`port`"),
        ("[server\n", "line 1"),
        ("[server]\nmax_queue = 0\n", "line 2"),
        ("[server]\napi_key = \"\"\n", "server.api_key"),
        ("[server]\napi_key = [\"a\", \"two words\"]\n", "server.api_key"),
        ("[server]\napi_key = 1\n", "expected a string or an array of strings"),
        ("[server]\napi_key_file = \"/no/such/keys\"\n", "/no/such/keys"),
        ("[server]\ncors_origin = \"example.org\"\n", "server.cors_origin"),
        ("[server]\ntls_cert = \"/no/such/cert.pem\"\n", "tls_key is missing"),
        ("[server]\ntls_key = \"/no/such/key.pem\"\n", "tls_cert is missing"),
        ("[server]\ntls_cert = \"/no/such/cert.pem\"\ntls_key = \"/no/such/key.pem\"\n", "/no/such/cert.pem"),
        ("[server]\nmax_connections = 0\n", "line 2"),
        ("[server]\nlog_format = \"xml\"\n", "xml"),
        ("[model]\ndevice = \"abacus\"\n", "abacus"),
        ("[model]\nweights = \"f64\"\n", "f64"),
        ("[model]\nsource = \"\"\n", "model.source"),
        ("[generation]\ntemperature = -1\n", "generation.temperature"),
        ("[generation]\ntemperature = -1.0\n", "generation.temperature"),
        ("[generation]\ntemperature = nan\n", "generation.temperature"),
        ("[generation]\ntop_p = 1.5\n", "generation.top_p"),
        ("[generation]\nstop_repetition = 1\n", "generation.stop_repetition"),
        ("[kv]\npreset = \"best\"\n", "kv.preset"),
        ("[kv]\npruning = { key_ratio = 1.0 }\n", "kv.pruning.key_ratio"),
        ("[kv]\nbudget = -1\n", "line 2"),
        ("[presets.mine]\nwindow = 0\n", "presets.mine.window"),
        ("[presets.exact]\nprecision = \"int8\"\n", "presets.exact"),
        ("[presets.mine]\ncolour = \"red\"\n", "colour"),
    ];
    for (text, expected) in cases {
        let (_folder, path) = file(text);
        for command in [
            sparkv().args(["config", "check"]).arg(&path),
            sparkv().args(["config", "check", "--config"]).arg(&path),
            sparkv().arg("serve").env("SPARKV_CONFIG", &path),
        ] {
            let message = fail(command);
            assert!(message.contains(expected), "{text:?}: {message}");
        }
    }
    let message = fail(sparkv().args(["config", "check", "/no/such/file.toml"]));
    assert!(message.contains("/no/such/file.toml"), "{message}");
}

#[test]
fn broken_flags_and_variables_are_refused() {
    for arguments in [
        ["--port", "eighty"],
        ["--device", "abacus"],
        ["--weights", "f64"],
        ["--kv", "{\"preset\": 1}"],
        ["--kv", "{\"colour\": 1}"],
        ["--kv", ""],
        ["--max-queue", "0"],
        ["--kv-memory", "lots"],
        ["--max-running", "0"],
        ["--prompt-balance", "much"],
        ["--request-seconds", "0"],
    ] {
        let message = fail(sparkv().arg("serve").args(arguments));
        assert!(message.contains(arguments[0]), "{arguments:?}: {message}");
    }
    let message = fail(sparkv().arg("serve").env("SPARKV_PORT", "eighty"));
    assert!(message.contains("eighty"), "{message}");
    let message = fail(sparkv().args(["serve", "--kv", "best"]));
    assert!(message.contains("kv.preset") && message.contains("balanced"), "{message}");
    for balance in ["-1", "NaN"] {
        let message = fail(sparkv().arg("serve").arg(format!("--prompt-balance={balance}")));
        assert!(message.contains("server.prompt_balance"), "{message}");
    }
    let message = fail(sparkv().args(["serve", "--api-key", ""]));
    assert!(message.contains("server.api_key"), "{message}");
}

#[test]
fn what_paths_name_is_checked_all_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let check = |path: &str| {
        let mut command = sparkv();
        command.args(["config", "check", path]).env("HF_HOME", folder.path());
        command
    };
    let path = write(
        "all.toml",
        &format!(
            "[model]\nsource = \"{}\"\nchat_template = \"{}\"\ncalibration = \"/no/such/table\"\n\
             [server]\napi_key_file = \"{}\"\ntls_cert = \"/no/such/cert.pem\"\ntls_key = \"/no/such/key.pem\"\n",
            write("model.gguf", "no GGUF"),
            write("template", "{% if %}"),
            write("keys", "# none"),
        ),
    );
    let message = fail(&mut check(&path));
    assert!(message.starts_with("error: 5 settings are wrong:\n"), "{message}");
    for (setting, reason) in [
        ("model.source", "model.gguf is corrupt"),
        ("model.calibration", "/no/such/table: No such file"),
        ("model.chat_template", "template: it cannot be compiled"),
        ("server.api_key_file", "keys: holds no key"),
        ("server.tls_cert", "/no/such/cert.pem"),
    ] {
        let line = message.lines().find(|line| line.starts_with(&format!("{setting} (from {path})")));
        assert!(line.is_some_and(|line| line.contains(reason)), "{setting}: {message}");
    }
    // From wherever the setting comes.
    let message = fail(sparkv().args(["config", "check", "--model", "/no/such/model.gguf"]));
    assert!(message.starts_with("error: model.source (from command line): "), "{message}");
    for (source, expected) in [
        (folder.path().to_str().unwrap(), "has no config.json"),
        (repository("README.md").to_str().unwrap(), "is no GGUF file"),
        ("/no/such/folder", "no model at"),
        ("a/b:c:d", "no model at"),
    ] {
        let message = fail(sparkv().args(["config", "check"]).env("SPARKV_MODEL", source));
        assert!(message.starts_with("error: model.source (from environment): "), "{message}");
        assert!(message.contains(expected), "{message}");
    }
    let template = write("good.jinja", "{{ messages }}");
    let demo = repository("models/demo");
    let good = ["--chat-template", &template, "--model", demo.to_str().unwrap()];
    assert_eq!(succeed(sparkv().args(["config", "check"]).args(good)), "the settings are valid\n");
    // A name on the hub, which is not asked: there is none at that address.
    let mut command = sparkv();
    command.env("HF_HOME", folder.path()).env("HF_ENDPOINT", "http://127.0.0.1:9");
    let output = succeed(command.args(["config", "check", "--model", "a/b:Q8_0"]));
    assert!(output.starts_with("note: model.source (from command line): a/b:Q8_0 is not in"), "{output}");
    let message = fail(command.arg("--offline"));
    assert!(message.contains("offline, and a/b:Q8_0 is not in the hub's cache"), "{message}");
}
