//! /api/..., as ollama has them.

use std::collections::BTreeSet;

use axum::Router;
use axum::body::Body;
use axum::http::Request;
use serde_json::{Value, json};
use sparkv_engine::EngineConfig;
use sparkv_models::fake::{FakeConfig, Fault, FaultAt, FaultKind};

use crate::support::*;

const HELLO: &str = "hello";

fn messages() -> Value {
    json!([{ "role": "user", "content": HELLO }])
}

/// Greedy and short.
fn options(extra: Value) -> Value {
    with(json!({ "temperature": 0, "num_predict": 12 }), extra)
}

async fn ask(routes: &Router, path: &str, body: Value) -> Reply {
    post(routes, path, body.to_string()).await
}

/// A whole answer of a chat with `extra` fields.
async fn chat_whole(routes: &Router, extra: Value) -> Value {
    let body = with(json!({ "messages": messages(), "options": options(json!({})), "stream": false }), extra);
    let reply = ask(routes, "/api/chat", body.clone()).await;
    assert_eq!(reply.status, 200, "{body}: {}", reply.text);
    assert_eq!(reply.header("content-type"), Some("application/json"));
    reply.json()
}

/// A whole answer to a prompt with `extra` fields.
async fn generated(routes: &Router, extra: Value) -> Value {
    let body = with(json!({ "prompt": HELLO, "options": options(json!({})), "stream": false }), extra);
    let reply = ask(routes, "/api/generate", body.clone()).await;
    assert_eq!(reply.status, 200, "{body}: {}", reply.text);
    reply.json()
}

/// The lines of a stream.
fn lines(reply: &Reply) -> Vec<Value> {
    assert_eq!(reply.status, 200, "{}", reply.text);
    assert_eq!(reply.header("content-type"), Some("application/x-ndjson"));
    assert!(reply.text.ends_with('\n'));
    reply.text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// The message of an error, which is all that there is of it.
async fn refused(routes: &Router, path: &str, body: Value, status: u16) -> String {
    let reply = ask(routes, path, body.clone()).await;
    assert_eq!(reply.status, status, "{path} {body}: {}", reply.text);
    let error = reply.json();
    assert_eq!(error.as_object().unwrap().len(), 1, "{error}");
    error["error"].as_str().unwrap().to_owned()
}

fn content(answer: &Value) -> &str {
    answer["message"]["content"].as_str().unwrap()
}

/// What OpenAI's route says.
async fn openai(routes: &Router, extra: Value) -> Value {
    let reply = chat(routes, &chat_body(extra)).await;
    assert_eq!(reply.status, 200, "{}", reply.text);
    reply.json()["choices"][0].clone()
}

/// Checks and takes out what differs from run to run.
fn without_times(mut answer: Value) -> Value {
    let fields = answer.as_object_mut().unwrap();
    let created = fields.remove("created_at").unwrap();
    let created: jiff::Timestamp = created.as_str().unwrap().parse().unwrap();
    assert!(created.as_second() > 1_700_000_000);
    if fields["done"] == true && fields["done_reason"] != "load" {
        let mut time = |name: &str| fields.remove(name).unwrap().as_u64().unwrap();
        let parts = ["load_duration", "prompt_eval_duration", "eval_duration"].map(&mut time);
        assert!(parts[1] > 0 && parts[2] > 0, "{parts:?}");
        assert!(time("total_duration") >= parts.iter().sum::<u64>());
        assert!(fields.remove("kv_cache").unwrap()["bytes"].as_u64().unwrap() > 0);
    }
    answer
}

#[tokio::test]
async fn a_whole_answer_is_one_object() {
    let routes = Setup::default().routes();
    let said = openai(&routes, json!({})).await["message"]["content"].clone();
    let expected = json!({
        "model": "org/fake", "message": { "role": "assistant", "content": said }, "done": true,
        "done_reason": "length", "prompt_eval_count": 25, "eval_count": 12,
    });
    assert_eq!(without_times(chat_whole(&routes, json!({})).await), expected);
    let answer = without_times(generated(&routes, json!({})).await);
    let expected = json!({
        "model": "org/fake", "response": said, "done": true, "done_reason": "length",
        "prompt_eval_count": 25, "eval_count": 12,
    });
    assert_eq!(answer, expected);
}

/// A stream is what comes if nothing is said of it.
#[tokio::test]
async fn a_stream_says_the_same_in_lines() {
    let routes = Setup::default().routes();
    for stream in [json!({}), json!({ "stream": true }), json!({ "stream": null })] {
        let body = with(json!({ "messages": messages(), "options": options(json!({})) }), stream.clone());
        let told = lines(&ask(&routes, "/api/chat", body).await);
        let whole = without_times(chat_whole(&routes, json!({})).await);
        let text: String = told.iter().map(content).collect();
        assert_eq!(text, content(&whole));
        let (last, pieces) = told.split_last().unwrap();
        assert!(pieces.len() > 1);
        for piece in pieces {
            assert_eq!((&piece["done"], &piece["message"]["role"]), (&json!(false), &json!("assistant")));
            assert!(piece.get("eval_count").is_none());
        }
        let message = whole["message"].clone();
        let mut last = without_times(last.clone());
        assert_eq!(last["message"]["content"], "");
        last["message"] = message;
        assert_eq!(last, whole);

        let body = with(json!({ "prompt": HELLO, "options": options(json!({})) }), stream);
        let told = lines(&ask(&routes, "/api/generate", body).await);
        let text: String = told.iter().map(|line| line["response"].as_str().unwrap()).collect();
        assert_eq!(text, content(&whole));
        assert_eq!(told.last().unwrap()["done_reason"], "length");
    }
}

#[tokio::test]
async fn a_prompt_has_a_system_message_or_is_raw() {
    let routes = Setup::default().routes();
    let answer = generated(&routes, json!({ "system": "be brief" })).await;
    let messages = json!([{ "role": "system", "content": "be brief" }, { "role": "user", "content": HELLO }]);
    let said = openai(&routes, json!({ "messages": messages })).await;
    assert_eq!(answer["response"], said["message"]["content"]);

    let raw = generated(&routes, json!({ "raw": true })).await;
    let completed = complete(&routes, &completion_body(json!({}))).await.json();
    assert_eq!(raw["response"], completed["choices"][0]["text"]);
    let body = json!({ "prompt": HELLO, "raw": true, "system": "be brief" });
    assert!(refused(&routes, "/api/generate", body, 400).await.contains("system"));

    // Of a model without a template, prompts are raw.
    let base = Setup { chat_template: None, ..Setup::default() }.routes();
    assert_eq!(generated(&base, json!({})).await["response"], raw["response"]);
    let body = json!({ "prompt": HELLO, "system": "be brief" });
    assert!(refused(&base, "/api/generate", body, 400).await.contains("chat template"));
}

#[tokio::test]
async fn options_are_those_of_other_endpoints_in_other_words() {
    let routes = Setup::default().routes();
    for (ours, theirs) in [
        (json!({}), json!({})),
        (json!({ "num_predict": 5 }), json!({ "max_tokens": 5 })),
        (
            json!({ "temperature": 3, "top_k": 0, "top_p": 1, "seed": 7 }),
            json!({ "temperature": 3, "seed": 7 }),
        ),
        (
            json!({ "temperature": 3, "seed": 7, "top_k": 40, "top_p": 0.9 }),
            json!({ "temperature": 3, "seed": 7, "top_k": 40, "top_p": 0.9 }),
        ),
        (
            json!({ "temperature": 3, "top_k": 0, "top_p": 1, "min_p": 0.5, "seed": 7 }),
            json!({ "temperature": 3, "min_p": 0.5, "seed": 7 }),
        ),
        (json!({ "repeat_penalty": 2 }), json!({ "repetition_penalty": 2 })),
        (json!({ "repeat_penalty": 2, "repeat_last_n": -1 }), json!({ "repetition_penalty": 2 })),
        (json!({ "repeat_penalty": 2, "repeat_last_n": 0 }), json!({})),
        (json!({ "presence_penalty": 2 }), json!({ "presence_penalty": 2 })),
        (json!({ "frequency_penalty": 2 }), json!({ "frequency_penalty": 2 })),
        // As ollama sets its runner up, and off.
        (
            json!({
                "num_ctx": 1 << 20, "num_keep": 4, "num_gpu": -1, "num_thread": 8, "num_batch": 512, "use_mmap": true,
                "low_vram": false, "mirostat": 0, "mirostat_tau": 5, "typical_p": 1, "tfs_z": 1.0, "numa": false,
                "penalize_newline": true, "repeat_last_n": 64, "repeat_penalty": 1, "main_gpu": null,
            }),
            json!({}),
        ),
    ] {
        let answer = chat_whole(&routes, json!({ "options": options(ours.clone()) })).await;
        let said = openai(&routes, theirs).await;
        assert_eq!(answer["message"]["content"], said["message"]["content"], "{ours}");
        assert_eq!(answer["done_reason"], said["finish_reason"], "{ours}");
    }
    let text = chat_whole(&routes, json!({})).await;
    let stop = &content(&text)[4..6];
    let stopped = chat_whole(&routes, json!({ "options": options(json!({ "stop": [stop] })) })).await;
    let before = content(&text).split(stop).next().unwrap();
    assert_eq!((content(&stopped), &stopped["done_reason"]), (before, &json!("stop")));
    // A seed of -1 is none.
    let mut several = BTreeSet::new();
    for _ in 0..3 {
        let any = options(json!({ "temperature": 3, "top_k": 0, "top_p": 1, "seed": -1 }));
        several.insert(content(&chat_whole(&routes, json!({ "options": any })).await).to_owned());
    }
    assert!(several.len() > 1, "{several:?}");
    // Where the context ends before num_predict, the answer does; -1, -2 and nothing mean that.
    let fake = FakeConfig { context_length: 64, ..FakeConfig::default() };
    let routes = Setup { fake, ..Setup::default() }.routes();
    for tokens in [json!(3000), json!(-1), json!(-2), json!(null)] {
        let all =
            chat_whole(&routes, json!({ "options": { "temperature": 0, "num_predict": tokens } })).await;
        assert_eq!(
            (&all["eval_count"], &all["done_reason"]),
            (&json!(64 - 25), &json!("length")),
            "{tokens}"
        );
    }
}

#[tokio::test]
async fn what_cannot_be_honoured_is_refused_by_name() {
    let routes = Setup::default().routes();
    let user = |more: Value| json!([with(json!({ "role": "user", "content": HELLO }), more)]);
    for (fields, told) in [
        (json!({ "colour": "red" }), "unknown field `colour`"),
        (json!({ "options": { "temprature": 0.5 } }), "unknown field `options.temprature`"),
        (json!({ "options": { "temprature": 0.5, "colour": 1 } }), "unknown field `options.colour`"),
        (json!({ "options": { "mirostat": 2 } }), "options.mirostat is not supported: "),
        (json!({ "options": { "typical_p": 0.7 } }), "options.typical_p is not supported: "),
        (
            json!({ "options": { "repeat_penalty": 1.1, "repeat_last_n": 64 } }),
            "options.repeat_last_n is not ",
        ),
        (json!({ "options": { "repeat_penalty": 0 } }), "options.repeat_penalty: must be a number above 0"),
        (json!({ "options": { "temperature": -1 } }), "options.temperature: must be "),
        (json!({ "options": { "temperature": "hot" } }), "options.temperature: "),
        (json!({ "options": { "num_predict": 0 } }), "options.num_predict: must be at least 1"),
        (json!({ "options": { "num_ctx": "all" } }), "options.num_ctx is not supported: must be a number"),
        (json!({ "options": { "stop": [""] } }), "options.stop: "),
        (json!({ "options": [0.5] }), "options: "),
        (json!({ "format": "xml" }), "format: must be `json`"),
        (json!({ "format": { "type": "nothing" } }), "format"),
        (json!({ "think": "hard" }), "think: expected true, false, low, medium or high"),
        (json!({ "keep_alive": true }), "keep_alive is not supported: "),
        (json!({ "template": "{{ .Prompt }}" }), "template is not supported: "),
        (json!({ "top_logprobs": 2 }), "top_logprobs: only allowed with"),
        (json!({ "logprobs": true, "top_logprobs": 21 }), "top_logprobs: must be at most 20"),
        (json!({ "kv_cache": { "preset": "huge" } }), "kv_cache.preset: "),
        (json!({ "messages": user(json!({ "images": ["aGk="] })) }), "messages[0].images is not supported: "),
        (json!({ "messages": user(json!({ "mood": "good" })) }), "unknown field `messages[0].mood`"),
        (json!({ "messages": [{ "role": "pope", "content": HELLO }] }), "messages[0].role: unknown role"),
        (json!({ "tools": [{ "type": "search" }] }), "tools[0].type is not supported: "),
    ] {
        let body = with(json!({ "messages": messages() }), fields);
        let error = refused(&routes, "/api/chat", body.clone(), 400).await;
        assert!(error.contains(told), "{body}: {error}");
    }
    for (fields, told) in [
        (json!({ "suffix": "." }), "suffix is not supported: "),
        (json!({ "context": [1, 2] }), "context is not supported: "),
        (json!({ "images": ["aGk="] }), "images is not supported: "),
        (json!({ "width": 512 }), "width is not supported: "),
        (json!({ "messages": [] }), "unknown field `messages`"),
    ] {
        let error = refused(&routes, "/api/generate", with(json!({ "prompt": HELLO }), fields), 400).await;
        assert!(error.contains(told), "{error}");
    }
    // What changes nothing is accepted.
    let hints = json!({
        "keep_alive": "5m", "truncate": true, "shift": true, "template": "", "think": false, "format": "",
        "messages": user(json!({ "images": [] })), "tools": [], "logprobs": false, "model": "org/fake",
    });
    assert_eq!(content(&chat_whole(&routes, hints).await), content(&chat_whole(&routes, json!({})).await));
    let hints =
        json!({ "keep_alive": 0, "suffix": "", "context": [], "images": [], "raw": false, "system": "" });
    assert_eq!(generated(&routes, hints).await["response"], generated(&routes, json!({})).await["response"]);
    let long = json!({ "messages": [{ "role": "user", "content": "x".repeat(300) }] });
    assert!(refused(&routes, "/api/chat", long, 400).await.contains("256"));
}

#[tokio::test]
async fn names_know_no_case_and_may_have_a_version() {
    let routes = Setup::default().routes();
    for model in ["org/fake", "org/fake:latest", "fake", "FAKE:Latest", "Org/Fake"] {
        let answer = chat_whole(&routes, json!({ "model": model })).await;
        assert_eq!(answer["model"], model);
        for field in ["model", "name"] {
            let reply = ask(&routes, "/api/show", json!({ field: model })).await;
            assert_eq!(reply.status, 200, "{model}: {}", reply.text);
        }
    }
    for model in ["llama3", "fake:8b", ":latest", "", "fake:latest:latest"] {
        for path in ["/api/chat", "/api/generate", "/api/show"] {
            let error = refused(&routes, path, json!({ "model": model }), 404).await;
            assert_eq!(error, format!("model '{model}' not found; this server has 'org/fake'"));
        }
    }
}

#[tokio::test]
async fn the_model_is_listed_and_described() {
    let routes = Setup::default().routes();
    let listed = get(&routes, "/api/tags").await.json();
    let [model] = listed["models"].as_array().unwrap().as_slice() else { panic!("{listed}") };
    assert_eq!((&model["name"], &model["model"]), (&json!("org/fake:latest"), &json!("org/fake:latest")));
    assert_eq!((&model["size"], &model["details"]["family"]), (&json!(1 << 20), &json!("fake")));
    let digest = model["digest"].as_str().unwrap();
    assert!(digest.len() == 64 && digest.bytes().all(|byte| byte.is_ascii_hexdigit()), "{digest}");
    let modified: jiff::Timestamp = model["modified_at"].as_str().unwrap().parse().unwrap();
    assert!(modified.as_second() > 1_700_000_000);

    let running = get(&routes, "/api/ps").await.json();
    let [running] = running["models"].as_array().unwrap().as_slice() else { panic!("{running}") };
    for field in ["name", "model", "size", "digest", "details"] {
        assert_eq!(running[field], model[field], "{field}");
    }
    assert_eq!((&running["context_length"], &running["size_vram"]), (&json!(256), &json!(0)));
    let expires: jiff::Timestamp = running["expires_at"].as_str().unwrap().parse().unwrap();
    assert!(expires > jiff::Timestamp::now());

    let shown = ask(&routes, "/api/show", json!({ "model": "fake", "verbose": true })).await.json();
    assert_eq!(shown["template"], sparkv_models::fake::CHAT_TEMPLATE);
    assert_eq!(shown["capabilities"], json!(["completion", "tools"]));
    assert_eq!(shown["model_info"]["general.architecture"], "fake");
    assert_eq!(shown["model_info"]["fake.context_length"], 256);
    let base = Setup { chat_template: None, ..Setup::default() }.routes();
    let shown = ask(&base, "/api/show", json!({})).await.json();
    assert_eq!((&shown["template"], &shown["capabilities"]), (&json!(""), &json!(["completion"])));
    // Another template, another model.
    assert_ne!(get(&base, "/api/tags").await.json()["models"][0]["digest"], digest);

    let version = get(&routes, "/api/version").await.json();
    assert_eq!(version["version"].as_str().unwrap().split('.').count(), 3);
}

#[tokio::test]
async fn asking_for_nothing_asks_whether_the_model_is_loaded() {
    let (server, _, probe) = Setup::default().server();
    let routes = server.router();
    for body in [json!({}), json!({ "messages": [] }), json!({ "messages": [], "keep_alive": "1h" })] {
        let reply = ask(&routes, "/api/chat", body).await;
        assert_eq!(reply.header("content-type"), Some("application/json"));
        let message = json!({ "role": "assistant", "content": "" });
        let expected =
            json!({ "model": "org/fake", "message": message, "done": true, "done_reason": "load" });
        assert_eq!(without_times(reply.json()), expected);
    }
    for body in [json!({}), json!({ "prompt": "" }), json!({ "prompt": "", "system": "be brief" })] {
        let answer = ask(&routes, "/api/generate", body).await.json();
        let expected = json!({ "model": "org/fake", "response": "", "done": true, "done_reason": "load" });
        assert_eq!(without_times(answer), expected);
    }
    assert_eq!(probe.live_caches(), 0);
    // What is wrong is wrong all the same.
    refused(&routes, "/api/chat", json!({ "options": { "colour": 1 } }), 400).await;
}

fn schema(name: &str) -> Value {
    json!({
        "type": "object", "properties": { (name): { "type": "integer", "minimum": 1, "maximum": 9 } },
        "required": [name], "title": "Answer", "additionalProperties": false
    })
}

#[tokio::test]
async fn formats_are_followed() {
    let routes = Setup { fake: talkative(), ..Setup::default() }.routes();
    let options = json!({ "temperature": 2, "seed": 3, "num_predict": 400 });
    let fields = json!({ "format": schema("days"), "options": options });
    let answer = chat_whole(&routes, fields.clone()).await;
    let value: Value = serde_json::from_str(content(&answer)).unwrap();
    assert!((1..10).contains(&value["days"].as_u64().unwrap()), "{value}");
    assert_eq!(answer["done_reason"], "stop");
    assert_eq!(generated(&routes, fields).await["response"], answer["message"]["content"]);
    let answer = generated(&routes, json!({ "format": "json", "options": options })).await;
    let text = answer["response"].as_str().unwrap();
    assert!(text.starts_with('{'), "{text}");
    if answer["done_reason"] == "stop" {
        assert!(serde_json::from_str::<Value>(text).unwrap().is_object());
    }
}

/// Beside a format, tools are called or the answer has the format: what of the two is chance.
#[tokio::test]
async fn calls_are_told_as_a_whole() {
    let routes = Setup { fake: talkative(), ..Setup::default() }.routes();
    let function = json!({ "name": "forecast", "description": "tells", "parameters": schema("days") });
    let tools = json!([{ "type": "function", "function": function }]);
    let mut called = 0;
    for seed in 0..12 {
        let options = json!({ "temperature": 2, "seed": seed, "num_predict": 200 });
        let fields = json!({ "tools": tools, "format": schema("answer"), "options": options });
        let whole = chat_whole(&routes, fields.clone()).await;
        let streamed = with(json!({ "messages": messages() }), fields);
        let told = lines(&ask(&routes, "/api/chat", streamed).await);
        let calls_of = |line: &Value| line["message"]["tool_calls"].as_array().cloned().unwrap_or_default();
        let function = |call: Value| call["function"].clone();
        let calls: Vec<Value> = calls_of(&whole).into_iter().map(function).collect();
        let pieces: Vec<Value> = told.iter().flat_map(calls_of).map(function).collect();
        assert_eq!(calls, pieces);
        assert_eq!(told.iter().map(content).collect::<String>(), content(&whole));
        for (index, call) in calls.iter().enumerate() {
            assert_eq!((&call["name"], &call["index"]), (&json!("forecast"), &json!(index)));
            let days = call["arguments"]["days"].as_u64();
            assert!(days.is_some_and(|days| days < 10) || whole["done_reason"] == "length", "{call}");
            called += 1;
        }
        assert!(!calls.is_empty() || content(&whole).starts_with('{'), "{whole}");
    }
    assert!(called > 0);
}

/// The prompt that a chat becomes is seen in what is asked for its tokens.
#[tokio::test]
async fn results_of_tools_find_their_calls() {
    const TEMPLATE: &str = "{% if tools %}<tool_call>{% endif %}\
        {% for message in messages %}{{ message.role }} {{ message.content }}\
        {% for call in message.tool_calls or [] %}{{ call.id }}={{ call.function.name }}\
        {{ call.function.arguments.days }} {% endfor %}{{ message.tool_call_id or '' }}{{ message.reasoning_content or '' }}\n\
        {% endfor %}";
    let routes = Setup { chat_template: Some(TEMPLATE), ..Setup::default() }.routes();
    let call = |name: &str| json!({ "function": { "name": name, "arguments": { "days": 3 } } });
    let said = |results: [Value; 2]| {
        let calling = json!({ "role": "assistant", "content": "", "thinking": "hm", "tool_calls": [call("a"), call("b")] });
        json!([messages()[0], calling, results[0], results[1]])
    };
    let named = |name: &str| json!({ "role": "tool", "content": name, "tool_name": name });
    let by_id = |id: &str, name: &str| json!({ "role": "tool", "content": name, "tool_call_id": id });
    let answer = async |messages: Value| {
        content(&chat_whole(&routes, json!({ "messages": messages })).await).to_owned()
    };
    // Whoever names tools may answer in any order; the others answer in that of the calls.
    let turned = answer(said([named("b"), named("a")])).await;
    assert_eq!(turned, answer(said([by_id("000000001", "b"), by_id("000000000", "a")])).await);
    assert_ne!(turned, answer(said([by_id("000000000", "b"), by_id("000000001", "a")])).await);
    let unnamed = |text: &str| json!({ "role": "tool", "content": text });
    assert_eq!(
        answer(said([unnamed("a"), unnamed("b")])).await,
        answer(said([named("a"), named("b")])).await
    );
    let thought = said([named("a"), named("b")]);
    let mut other = thought.clone();
    other[1]["thinking"] = json!("ho");
    assert_ne!(answer(thought).await, answer(other).await);
}

#[tokio::test]
async fn an_answer_that_was_begun_goes_on() {
    let routes = Setup::default().routes();
    let begun = json!([messages()[0], { "role": "assistant", "content": "The code" }]);
    let answer = chat_whole(&routes, json!({ "messages": begun })).await;
    let theirs = json!({ "messages": begun, "continue_final_message": true, "add_generation_prompt": false });
    assert_eq!(answer["message"]["content"], openai(&routes, theirs).await["message"]["content"]);
}

#[tokio::test]
async fn templates_are_told_whether_to_think() {
    const TEMPLATE: &str = "{% for message in messages %}{{ message.content }}{% endfor %}\
        {% if enable_thinking is defined %}{% if enable_thinking %}think{{ reasoning_effort or '' }}{% else %}no{% endif %}{% endif %}";
    let routes = Setup { chat_template: Some(TEMPLATE), ..Setup::default() }.routes();
    for (think, added) in
        [(json!(null), 0), (json!(false), 2), (json!(true), 5), (json!("low"), 8), (json!("high"), 9)]
    {
        let tokens = HELLO.len() + added;
        let fields = json!({ "think": think });
        assert_eq!(chat_whole(&routes, fields.clone()).await["prompt_eval_count"], tokens, "{think}");
        assert_eq!(generated(&routes, fields).await["prompt_eval_count"], tokens, "{think}");
    }
}

#[tokio::test]
async fn log_probabilities_are_those_of_chats() {
    let routes = Setup::default().routes();
    let fields = json!({ "logprobs": true, "top_logprobs": 2 });
    let theirs = openai(&routes, fields.clone()).await["logprobs"]["content"].clone();
    assert_eq!(theirs.as_array().unwrap().len(), 12);
    assert_eq!(chat_whole(&routes, fields.clone()).await["logprobs"], theirs);
    assert_eq!(generated(&routes, fields.clone()).await["logprobs"], theirs);
    let body = with(json!({ "messages": messages(), "options": options(json!({})) }), fields);
    let told = lines(&ask(&routes, "/api/chat", body).await);
    let all = told.iter().filter_map(|line| line.get("logprobs")?.as_array().cloned());
    assert_eq!(json!(all.flatten().collect::<Vec<_>>()), theirs);
}

#[tokio::test]
async fn a_request_sets_what_its_cache_may_cost() {
    let routes = Setup::default().routes();
    for (kv_cache, preset) in [(json!("balanced"), "balanced"), (json!({ "preset": "compact" }), "compact")] {
        let answer = chat_whole(&routes, json!({ "kv_cache": kv_cache })).await;
        assert_eq!(answer["kv_cache"]["preset"], preset);
        let body = json!({ "prompt": HELLO, "options": { "num_predict": 3 }, "kv_cache": kv_cache });
        let told = lines(&ask(&routes, "/api/generate", body).await);
        let (last, pieces) = told.split_last().unwrap();
        assert_eq!(last["kv_cache"]["preset"], preset);
        assert!(pieces.iter().all(|piece| piece.get("kv_cache").is_none()));
    }
    let engine = EngineConfig { prefix_cache: true, ..EngineConfig::default() };
    let fake = FakeConfig { context_length: 4096, ..FakeConfig::default() };
    let routes = Setup { engine, fake, ..Setup::default() }.routes();
    let long = json!([{ "role": "user", "content": "x".repeat(500) }]);
    let salted = |salt: &str| json!({ "messages": long, "cache_salt": salt });
    let cached = async |salt: &str| {
        let body = with(chat_body(json!({ "max_tokens": 1 })), salted(salt));
        let usage = chat(&routes, &body).await.json()["usage"].clone();
        usage["prompt_tokens_details"]["cached_tokens"].as_u64().unwrap()
    };
    chat_whole(&routes, salted("ours")).await;
    assert_eq!(cached("theirs").await, 0);
    assert!(cached("ours").await > 400);
}

#[tokio::test]
async fn errors_are_a_message_wherever_they_arise() {
    let routes = Setup { api_keys: &["secret"], ..Setup::default() }.routes();
    for path in ["/api/chat", "/api/pull", "/api/nothing"] {
        assert!(refused(&routes, path, json!({}), 401).await.contains("API key"));
    }
    let request = |key: &str| {
        let request = Request::get("/api/tags").header("authorization", format!("Bearer {key}"));
        request.body(Body::empty()).unwrap()
    };
    assert_eq!(send(&routes, request("secret")).await.status, 200);
    assert_eq!(send(&routes, request("wrong")).await.status, 401);

    let routes = Setup::default().routes();
    assert_eq!(refused(&routes, "/api/nothing", json!({}), 404).await, "no route POST /api/nothing");
    assert_eq!(refused(&routes, "/api/tags", json!({}), 405).await, "/api/tags does not take POST");
    let reply = post(&routes, "/api/chat", "{").await;
    assert_eq!(reply.status, 400);
    assert!(reply.json()["error"].is_string());

    // Within a stream, an error is its last line.
    let fault = Some(Fault { at: FaultAt::Step(8), kind: FaultKind::Error });
    let routes = Setup { fake: FakeConfig { fault, ..FakeConfig::default() }, ..Setup::default() }.routes();
    let body = json!({ "messages": messages(), "options": options(json!({})) });
    let told = lines(&ask(&routes, "/api/chat", body).await);
    let (last, pieces) = told.split_last().unwrap();
    assert!(last["error"].as_str().unwrap().starts_with("internal error"), "{last}");
    assert!(!pieces.is_empty() && pieces.iter().all(|piece| piece["done"] == false));
    let routes = Setup { fake: FakeConfig { fault, ..FakeConfig::default() }, ..Setup::default() }.routes();
    let body = json!({ "messages": messages(), "options": options(json!({})), "stream": false });
    refused(&routes, "/api/chat", body, 500).await;
}

#[tokio::test]
async fn what_is_not_offered_is_said() {
    let routes = Setup::default().routes();
    for path in ["/api/pull", "/api/push", "/api/create", "/api/copy", "/api/delete", "/api/blobs/sha256:0"] {
        assert!(refused(&routes, path, json!({ "model": "fake" }), 404).await.contains("started with"));
    }
    for path in ["/api/embed", "/api/embeddings"] {
        assert!(refused(&routes, path, json!({ "input": HELLO }), 404).await.contains("no embeddings"));
    }
    let reply = ask(&routes, "/v1/embeddings", json!({ "model": "fake", "input": HELLO })).await;
    assert_eq!(reply.status, 404);
    let error = &reply.json()["error"];
    assert_eq!((&error["code"], &error["type"]), (&json!("not_supported"), &json!("invalid_request_error")));
    assert!(error["message"].as_str().unwrap().contains("no embeddings"));
    let delete = Request::delete("/api/delete").body(Body::empty()).unwrap();
    assert!(send(&routes, delete).await.json()["error"].is_string());
}

/// As `curl -d` sends it; a page of another origin, which may send that without asking, is refused.
#[tokio::test]
async fn bodies_need_not_say_that_they_are_json() {
    let routes = Setup::default().routes();
    let send_form = async |origin: Option<&str>| {
        let mut request =
            Request::post("/api/chat").header("content-type", "application/x-www-form-urlencoded");
        if let Some(origin) = origin {
            request = request.header("origin", origin);
        }
        let body = json!({ "messages": messages(), "options": options(json!({})), "stream": false });
        send(&routes, request.body(Body::from(body.to_string())).unwrap()).await
    };
    assert_eq!(send_form(None).await.status, 200);
    let refused = send_form(Some("https://example.org")).await;
    assert_eq!(refused.status, 415);
    assert!(refused.json()["error"].as_str().unwrap().contains("application/json"));
}
