//! What a bad request gets: every error body, and a server that goes on.

use axum::Router;
use axum::body::Body;
use axum::http::Request;
use serde_json::{Value, json};
use sparkv_models::fake::FakeConfig;

use crate::support::*;

/// Checks the shape of an error and that the server still answers; returns what a snapshot shows.
async fn refused(routes: &Router, reply: Reply) -> Value {
    let body = reply.json();
    let error = body["error"].as_object().unwrap_or_else(|| panic!("no error: {body}"));
    let mut fields: Vec<&str> = error.keys().map(String::as_str).collect();
    fields.sort_unstable();
    assert_eq!(fields, ["code", "message", "param", "type"]);
    assert!(reply.header("x-request-id").is_some());
    assert_eq!(chat(routes, &chat_body(json!({}))).await.status, 200, "the server goes on after {body}");
    json!({ "status": reply.status.as_u16(), "error": error })
}

fn tool() -> Value {
    json!({ "type": "function", "function": { "name": "f" } })
}

fn called(arguments: Value) -> Value {
    json!({ "id": "1", "type": "function", "function": { "name": "f", "arguments": arguments } })
}

#[tokio::test]
async fn bad_chats() {
    let routes = Setup::default().routes();
    let message = |message: Value| json!({ "messages": [message] });
    let cases = [
        json!({ "messages": [] }),
        json!({ "messages": null }),
        json!({ "messages": "hello" }),
        message(json!({ "role": "wizard", "content": "hello" })),
        message(json!({ "role": 7, "content": "hello" })),
        message(json!({ "content": "hello" })),
        message(json!({ "role": "user" })),
        message(json!({ "role": "user", "content": 7 })),
        message(json!({ "role": "user", "content": [{ "type": "image_url", "image_url": {} }] })),
        message(json!({ "role": "user", "content": [{ "type": "text" }] })),
        message(json!({ "role": "user", "content": [{ "type": "text", "text": "a", "more": 1 }] })),
        message(json!({ "role": "function", "content": "42", "name": "f" })),
        message(json!({ "role": "user", "content": "hello", "name": 7 })),
        message(json!({ "role": "user", "content": "hello", "tool_call_id": "1" })),
        message(json!({ "role": "user", "content": "hello", "tool_calls": [called(json!("{}"))] })),
        message(json!({ "role": "assistant", "tool_calls": [called(json!([1]))] })),
        message(json!({ "role": "user", "content": "hello", "colour": "red" })),
        message(json!({ "role": "user", "content": "x".repeat(300) })),
        json!({ "max_tokens": 250 }),
        json!({ "max_tokens": null, "max_completion_tokens": 250 }),
        message(json!(["user", "hello"])),
        message(json!({ "role": "user", "content": "x".repeat(5000) })),
        json!({ "model": "gpt-4" }),
        json!({ "model": 4 }),
        json!({ "temperature": -1 }),
        json!({ "temperature": "warm" }),
        json!({ "temperature": 1e39 }),
        json!({ "top_p": 1.5 }),
        json!({ "top_k": -2 }),
        json!({ "top_k": 0.5 }),
        json!({ "min_p": -0.1 }),
        json!({ "seed": 0.5 }),
        json!({ "seed": 1e30 }),
        json!({ "seed": "lucky" }),
        json!({ "stop": "" }),
        json!({ "stop": ["a", ""] }),
        json!({ "stop": 7 }),
        json!({ "stop": vec!["a"; 17] }),
        json!({ "max_tokens": 0 }),
        json!({ "max_tokens": -1 }),
        json!({ "max_tokens": null, "max_completion_tokens": 0 }),
        json!({ "max_tokens": 3, "max_completion_tokens": 4 }),
        json!({ "n": 129 }),
        json!({ "n": 0 }),
        json!({ "n": -1 }),
        json!({ "stream": "yes" }),
        json!({ "stream": true, "stream_options": [true] }),
        json!({ "stream": true, "stream_options": { "include_everything": true } }),
        json!({ "stream": true, "stream_options": { "include_obfuscation": true } }),
        json!({ "ignore_eos": 1 }),
        json!({ "colour": "red" }),
        json!({ "stream": "yes", "colour": "red", "seed": "lucky", "echo": true, "size": null }),
        json!({ "colour": "red", "messages": [{ "role": "user", "content": "a", "font": "b" }, { "role": "wizard" }],
            "stream_options": { "often": true } }),
    ];
    insta::assert_json_snapshot!(refusals(&routes, &cases).await);
}

/// What chats with these fields get.
async fn refusals(routes: &Router, cases: &[Value]) -> Vec<Value> {
    let mut seen = Vec::new();
    for case in cases {
        let reply = chat(routes, &chat_body(case.clone())).await;
        // Long texts would only blow up the snapshot.
        let case = if case.to_string().len() > 200 { json!("(long)") } else { case.clone() };
        seen.push(json!({ "sent": case, "got": refused(routes, reply).await }));
    }
    seen
}

#[tokio::test]
async fn bad_sampling_tools_and_formats() {
    let routes = Setup::default().routes();
    let cases = [
        json!({ "logit_bias": { "a": 1 } }),
        json!({ "logit_bias": { "9999": 1 } }),
        json!({ "logit_bias": { "5": 101 } }),
        json!({ "logit_bias": [5] }),
        json!({ "presence_penalty": 2.5 }),
        json!({ "frequency_penalty": "much" }),
        json!({ "repetition_penalty": 0 }),
        json!({ "top_logprobs": 2 }),
        json!({ "logprobs": true, "top_logprobs": 21 }),
        json!({ "min_tokens": 100 }),
        json!({ "stop_token_ids": vec![1; 17] }),
        json!({ "stop_token_ids": ["a"] }),
        json!({ "parallel_tool_calls": 1 }),
        json!({ "tools": [{ "type": "function" }] }),
        json!({ "tools": [{ "type": "web_search" }] }),
        json!({ "tools": [{ "type": "function", "function": { "name": "two words" } }] }),
        json!({ "tools": [tool(), tool()] }),
        json!({ "tool_choice": "required" }),
        json!({ "tools": [tool()], "tool_choice": "always" }),
        json!({ "tools": [tool()], "tool_choice": { "type": "function", "function": { "name": "g" } } }),
        json!({ "tools": [tool()], "tool_choice": "required", "response_format": { "type": "json_object" } }),
        json!({ "response_format": "json" }),
        json!({ "response_format": { "type": "yaml" } }),
        json!({ "response_format": { "type": "json_object", "schema": {} } }),
        json!({ "response_format": { "type": "json_schema" } }),
        json!({ "response_format": { "type": "json_schema", "json_schema": { "schema": {} } } }),
        json!({ "response_format": { "type": "json_schema", "json_schema": { "name": "a" } } }),
        json!({ "response_format": { "type": "json_schema", "json_schema": { "name": "a", "schema": { "type": "x" } } } }),
        json!({ "response_format": { "type": "regex", "regex": "[" } }),
        json!({ "response_format": { "type": "lark", "lark": "start: nothing" } }),
        json!({ "guided_regex": "a", "guided_choice": ["a"] }),
        json!({ "guided_choice": [] }),
        json!({ "guided_json": "{" }),
        json!({ "structured_outputs": {} }),
        json!({ "structured_outputs": { "regex": "a", "grammar": "start: \"a\"" } }),
        json!({ "structured_outputs": { "whitespace": true } }),
        json!({ "ignore_eos": true, "response_format": { "type": "json_object" } }),
        json!({ "min_tokens": 2, "response_format": { "type": "json_object" } }),
        json!({ "chat_template_kwargs": [1] }),
        json!({ "chat_template_kwargs": { "messages": [] } }),
        json!({ "add_generation_prompt": true, "continue_final_message": true }),
    ];
    insta::assert_json_snapshot!(refusals(&routes, &cases).await);
}

#[tokio::test]
async fn impossible_kv_settings() {
    let routes = Setup::default().routes();
    let cases = [
        json!({ "preset": "best" }),
        json!({ "pruning": { "key_ratio": 1.0 } }),
        json!({ "pruning": { "value_ratio": -0.1 } }),
        json!({ "pruning": { "key_ratio": "half" } }),
        json!({ "pruning": { "keys": 0.5 } }),
        json!({ "budget": -1 }),
        json!({ "budget": "lots" }),
        json!({ "budget": "0%" }),
        json!({ "budget": "25%", "precision": "int8" }),
        json!({ "eviction": { "policy": "snapkv" } }),
        json!({ "eviction": { "policy": "snapkv", "max_tokens": 3 } }),
        json!({ "eviction": { "policy": "snapkv", "keep_ratio": 0.0 } }),
        json!({ "eviction": { "policy": "snapkv", "keep_ratio": 0.5, "max_tokens": 512 } }),
        json!({ "eviction": { "policy": "lru", "max_tokens": 512 } }),
        json!({ "eviction": { "max_tokens": 512 } }),
        json!({ "precision": "int7" }),
        json!({ "precision": { "key": "int4" } }),
        json!({ "precision": { "keys": "f32", "values": "int4" } }),
        json!({ "precision": "int8", "allocation": "query" }),
        json!({ "precision": "int4", "allocation": "even" }),
        json!({ "window": 0 }),
        json!({ "compress": true }),
        json!("best"),
        json!(["balanced"]),
        json!({ "eviction": ["snapkv", 512] }),
        json!({ "pruning": [0.5, 0.5] }),
    ];
    let mut seen = Vec::new();
    for case in cases {
        let reply = chat(&routes, &chat_body(json!({ "kv_cache": case }))).await;
        let got = refused(&routes, reply).await;
        assert!(got["error"]["param"].as_str().unwrap().starts_with("kv_cache"), "{got}");
        assert_eq!(got["status"], 400);
        seen.push(json!({ "sent": case, "got": got }));
    }
    insta::assert_json_snapshot!(seen);
}

#[tokio::test]
async fn known_fields_that_are_not_supported_are_refused_by_name() {
    let routes = Setup::default().routes();
    let cases = json!({
        "functions": [{}], "function_call": "auto", "modalities": ["text", "audio"],
        "audio": { "voice": "alloy" }, "web_search_options": {}, "chat_template": "a", "grammar": "root ::= a",
        "documents": [{}], "best_of": 2, "use_beam_search": true, "user": 7, "metadata": "a", "store": "yes",
        "priority": 1, "length_penalty": 2, "early_stopping": true, "skip_special_tokens": false,
        "include_stop_str_in_output": true, "no_stop_trim": true, "return_hidden_states": true,
        "return_token_ids": true, "mirostat": 2, "dry_multiplier": 0.8, "repeat_penalty": 1.1, "bad_words": ["a"],
        "allowed_token_ids": [5], "truncate_prompt_tokens": 10, "lora_path": "a", "regex": "a", "echo": true,
        "add_special_tokens": 1,
    });
    for (field, value) in cases.as_object().unwrap() {
        let reply = chat(&routes, &chat_body(json!({ field: value }))).await;
        let got = refused(&routes, reply).await;
        assert_eq!(got["status"], 400, "{field}");
        assert_eq!(got["error"]["param"], *field);
        assert_eq!(got["error"]["code"], "unsupported_parameter");
        assert!(got["error"]["message"].as_str().unwrap().len() > field.len() + 20, "a reason: {got}");
    }
    let cases = json!({ "suffix": "end", "best_of": 2, "add_special_tokens": false });
    for (field, value) in cases.as_object().unwrap() {
        let body = completion_body(json!({ field: value }));
        let reply = complete(&routes, &body).await;
        let got = refused(&routes, reply).await;
        assert_eq!(got["status"], 400, "{field}");
        assert_eq!(got["error"]["param"], *field);
        assert_eq!(got["error"]["code"], "unsupported_parameter");
    }
}

#[tokio::test]
async fn bad_completions() {
    let routes = Setup::default().routes();
    let cases = [
        json!({ "prompt": null }),
        json!({ "prompt": 7 }),
        json!({ "prompt": [] }),
        json!({ "prompt": vec!["one"; 129] }),
        json!({ "prompt": ["one", "two"], "n": 65 }),
        json!({ "prompt": [[3, 4], []] }),
        json!({ "logprobs": true }),
        json!({ "logprobs": 21 }),
        json!({ "prompt": [[]] }),
        json!({ "prompt": [3, "four"] }),
        json!({ "prompt": [-3] }),
        json!({ "prompt": [999_999] }),
        json!({ "prompt": vec![5; 256] }),
        json!({ "messages": [{ "role": "user", "content": "hello" }] }),
    ];
    let mut seen = Vec::new();
    for case in cases {
        let reply = complete(&routes, &completion_body(case.clone())).await;
        let case = if case.to_string().len() > 200 { json!("(long)") } else { case };
        seen.push(json!({ "sent": case, "got": refused(&routes, reply).await }));
    }
    insta::assert_json_snapshot!(seen);
}

#[tokio::test]
async fn bad_bodies_and_routes() {
    let routes = Setup::default().routes();
    let chat = "/v1/chat/completions";
    let mut seen = Vec::new();
    let bodies: [(&str, Vec<u8>); 8] = [
        ("nothing", vec![]),
        ("half", b"{\"messages\": [".to_vec()),
        ("a list", b"[1]".to_vec()),
        ("two objects", b"{} {}".to_vec()),
        ("a field twice", b"{\"n\": 1, \"n\": 2}".to_vec()),
        (
            "a nested field twice",
            br#"{"kv_cache": {"pruning": {"key_ratio": 0, "key_ratio": 0.5}}}"#.to_vec(),
        ),
        ("invalid UTF-8", b"{\"messages\": [{\"role\": \"user\", \"content\": \"\xff\xfe\"}]}".to_vec()),
        ("depth", [&b"{\"messages\": "[..], &b"[".repeat(10_000)].concat()),
    ];
    for (name, body) in bodies {
        let reply = post(&routes, chat, body).await;
        seen.push(json!({ "sent": name, "got": refused(&routes, reply).await }));
    }
    let junk = post(&routes, chat, vec![b'x'; 10 << 20]).await;
    seen.push(json!({ "sent": "10 MiB of junk", "got": refused(&routes, junk).await }));
    for content_type in [None, Some("text/plain"), Some("application/x-www-form-urlencoded")] {
        let mut request = Request::post(chat);
        if let Some(content_type) = content_type {
            request = request.header("content-type", content_type);
        }
        let reply = send(&routes, request.body(Body::from(chat_body(json!({})).to_string())).unwrap()).await;
        seen.push(json!({ "sent": format!("{content_type:?}"), "got": refused(&routes, reply).await }));
    }
    for path in
        ["/v2", "/v1", "/v1/embeddings", "/v1/models/gpt-4", "/v1/models/%ff", chat, "/v1/completions"]
    {
        let reply = get(&routes, path).await;
        if reply.status == 405 {
            assert_eq!(reply.header("allow"), Some("POST"));
        }
        seen.push(json!({ "sent": format!("GET {path}"), "got": refused(&routes, reply).await }));
    }
    for path in ["/health", "/ready", "/v1/models", "/v1/models/fake", "/nowhere"] {
        let reply = post(&routes, path, "{}").await;
        seen.push(json!({ "sent": format!("POST {path}"), "got": refused(&routes, reply).await }));
    }
    insta::assert_json_snapshot!(seen);
}

#[tokio::test]
async fn content_types_that_are_json() {
    let routes = Setup::default().routes();
    for content_type in ["application/json; charset=utf-8", "APPLICATION/JSON", "application/vnd.api+json"] {
        let request = Request::post("/v1/chat/completions")
            .header("content-type", content_type)
            .body(Body::from(chat_body(json!({})).to_string()))
            .unwrap();
        assert_eq!(send(&routes, request).await.status, 200, "{content_type}");
    }
}

#[tokio::test]
async fn the_api_key_guards_everything_but_health() {
    let routes = Setup { api_keys: &["secret"], ..Setup::default() }.routes();
    for path in ["/health", "/ready"] {
        assert_eq!(get(&routes, path).await.status, 200, "{path}");
    }
    let mut seen = Vec::new();
    for path in ["/v1/models", "/v1/chat/completions", "/nowhere"] {
        let reply = get(&routes, path).await;
        assert_eq!(reply.status, 401, "{path}");
        assert_eq!(reply.header("www-authenticate"), Some("Bearer"));
        seen.push(reply.json());
    }
    assert!(seen.windows(2).all(|pair| pair[0] == pair[1]));
    insta::assert_json_snapshot!(seen[0]);
    for (header, status) in [
        ("Bearer secret", 200),
        ("bearer secret", 200),
        ("Bearer wrong", 401),
        ("Bearer secre", 401),
        ("Bearer secret2", 401),
        ("Bearer", 401),
        ("Basic secret", 401),
        ("secret", 401),
    ] {
        let request = Request::get("/v1/models").header("authorization", header).body(Body::empty()).unwrap();
        assert_eq!(send(&routes, request).await.status, status, "{header}");
    }
}

#[tokio::test]
async fn a_model_without_chat_template_completes_only() {
    let routes = Setup { chat_template: None, ..Setup::default() }.routes();
    let reply = chat(&routes, &chat_body(json!({}))).await;
    assert_eq!(reply.status, 400);
    insta::assert_json_snapshot!(reply.json());
    assert_eq!(complete(&routes, &completion_body(json!({}))).await.status, 200);
}

#[tokio::test]
async fn a_template_that_refuses_says_so() {
    let chat_template = Some("{{ raise_exception('roles must alternate') }}");
    let routes = Setup { chat_template, fake: FakeConfig::default(), ..Setup::default() }.routes();
    let reply = chat(&routes, &chat_body(json!({}))).await;
    assert_eq!(reply.status, 400);
    assert!(
        reply.json().pointer("/error/message").unwrap().as_str().unwrap().contains("roles must alternate")
    );
}
