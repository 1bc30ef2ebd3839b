//! /v1/messages and /v1/messages/count_tokens.

use axum::Router;
use axum::body::Body;
use axum::http::Request;
use serde_json::{Value, json};
use sparkv_engine::EngineConfig;
use sparkv_models::fake::{EOS, FakeConfig, Fault, FaultAt, FaultKind};

use crate::support::*;

const PATH: &str = "/v1/messages";

fn body(extra: Value) -> Value {
    let messages = json!([{ "role": "user", "content": "hello" }]);
    with(json!({ "model": "fake", "messages": messages, "temperature": 0, "max_tokens": 12 }), extra)
}

async fn send_message(routes: &Router, extra: Value) -> Reply {
    post(routes, PATH, body(extra).to_string()).await
}

async fn message(routes: &Router, extra: Value) -> Value {
    let reply = send_message(routes, extra).await;
    assert_eq!(reply.status, 200, "{}", reply.text);
    reply.json()
}

/// The text of all blocks.
fn text(message: &Value) -> String {
    let blocks = message["content"].as_array().unwrap().iter();
    blocks.filter_map(|block| block.get("text")).map(|text| text.as_str().unwrap()).collect()
}

async fn chat_text(routes: &Router, extra: Value) -> String {
    let answer = chat(routes, &chat_body(extra)).await.json();
    answer
        .pointer("/choices/0/message/content")
        .unwrap_or_else(|| panic!("{answer}"))
        .as_str()
        .unwrap()
        .to_owned()
}

fn schema() -> Value {
    json!({
        "type": "object", "properties": { "city": { "enum": ["Bonn", "Rome"] } }, "required": ["city"],
        "additionalProperties": false
    })
}

fn tool(name: &str) -> Value {
    json!({ "name": name, "description": "tells", "input_schema": schema() })
}

/// Follows a stream event by event; returns the message that clients put together.
fn follow(events: &[Value]) -> Value {
    let kind = |event: &Value| event["type"].as_str().unwrap().to_owned();
    let [start, ping, blocks @ .., delta, stop] = events else { panic!("{events:?}") };
    assert_eq!(
        [kind(start), kind(ping), kind(delta), kind(stop)],
        ["message_start", "ping", "message_delta", "message_stop"]
    );
    let mut message = start["message"].clone();
    assert_eq!((&message["content"], &message["stop_reason"]), (&json!([]), &Value::Null));
    assert_eq!(message.pointer("/usage/output_tokens").unwrap(), 0);
    let mut content: Vec<Value> = Vec::new();
    // What was told of the block that is open.
    let mut open: Option<String> = None;
    for event in blocks {
        let name = kind(event);
        let Some(told) = &mut open else {
            assert_eq!((&*name, &event["index"]), ("content_block_start", &json!(content.len())));
            content.push(event["content_block"].clone());
            open = Some(String::new());
            continue;
        };
        assert_eq!(event["index"], content.len() - 1);
        let block = content.last_mut().unwrap();
        let (field, delta_kind, delta) = match block["type"].as_str().unwrap() {
            "text" => ("text", "text_delta", "text"),
            _ => ("input", "input_json_delta", "partial_json"),
        };
        if name == "content_block_delta" {
            assert_eq!(event["delta"]["type"], delta_kind);
            told.push_str(event["delta"][delta].as_str().unwrap());
            continue;
        }
        assert_eq!(name, "content_block_stop");
        if field == "text" {
            assert_eq!(block["text"], "");
            block["text"] = json!(told);
        } else {
            assert_eq!(block["input"], json!({}));
            // What was cut off is no input.
            block["input"] = serde_json::from_str(told).unwrap_or(json!({}));
        }
        open = None;
    }
    assert!(open.is_none());
    message["content"] = json!(content);
    for (name, value) in delta["delta"].as_object().unwrap() {
        message[name] = value.clone();
    }
    message["usage"] = delta["usage"].clone();
    message
}

#[tokio::test]
async fn a_message_as_clients_expect_it() {
    let routes = Setup::default().routes();
    insta::assert_json_snapshot!(redact_all(message(&routes, json!({})).await));
}

#[tokio::test]
async fn transcripts() {
    let routes = Setup { fake: talkative(), ..Setup::default() }.routes();
    let choice = json!({ "type": "any", "disable_parallel_tool_use": true });
    let called = json!({ "tools": [tool("weather")], "tool_choice": choice, "max_tokens": 200 });
    for (name, fields) in [("text", json!({ "max_tokens": 3 })), ("call", called)] {
        let reply = send_message(&routes, with(fields, json!({ "stream": true }))).await;
        let events: Vec<Value> = named_events(&reply).into_iter().map(redact_all).collect();
        insta::assert_json_snapshot!(name, events);
    }
}

#[tokio::test]
async fn streamed_and_whole_answers_are_the_same() {
    let routes = Setup { fake: talkative(), ..Setup::default() }.routes();
    let both = json!([tool("weather"), tool("time")]);
    let cases = [
        json!({}),
        json!({ "max_tokens": 60, "temperature": 1, "stop_sequences": ["e", "th"] }),
        json!({ "max_tokens": 1 }),
        json!({ "tools": both, "tool_choice": { "type": "any" }, "max_tokens": 400 }),
        json!({ "tools": both, "tool_choice": { "type": "tool", "name": "time" }, "max_tokens": 400 }),
        json!({ "tools": both, "max_tokens": 40 }),
        // Cut off in the middle of the arguments.
        json!({ "tools": both, "tool_choice": { "type": "any" }, "max_tokens": 56 }),
    ];
    for case in cases {
        let fields = with(json!({ "seed": 7 }), case.clone());
        let whole = message(&routes, fields.clone()).await;
        let streamed =
            follow(&named_events(&send_message(&routes, with(fields, json!({ "stream": true }))).await));
        assert_eq!(redact_all(streamed), redact_all(whole), "{case}");
    }
}

#[tokio::test]
async fn a_conversation_is_what_a_chat_makes_of_it() {
    let routes = Setup { fake: talkative(), ..Setup::default() }.routes();
    let said = |role: &str, content: &str| json!({ "role": role, "content": content });
    let block = |text: &str| json!({ "type": "text", "text": text });
    let call = |id: &str| json!({ "type": "tool_use", "id": id, "name": "weather", "input": { "city": "Bonn" }, "caller": null });
    let chat_call = |id: &str| json!({ "id": id, "type": "function", "function": { "name": "weather", "arguments": "{\"city\": \"Bonn\"}" } });
    let cached =
        json!({ "type": "text", "text": "bye", "cache_control": { "type": "ephemeral", "ttl": "5m" } });
    let results = json!([
        { "type": "tool_result", "tool_use_id": "1", "content": "rain", "cache_control": { "type": "ephemeral" } },
        { "type": "tool_result", "tool_use_id": "2", "content": [block("no"), block("idea")], "is_error": true },
        { "type": "tool_result", "tool_use_id": "3" },
        block("So?"),
    ]);
    let cases = [
        (json!({ "messages": [said("user", "bye")] }), json!([said("user", "bye")])),
        (json!({ "messages": [{ "role": "user", "content": [cached] }] }), json!([said("user", "bye")])),
        (
            json!({ "messages": [{ "role": "user", "content": [block("bye"), block("now")] }] }),
            json!([said("user", "bye\nnow")]),
        ),
        // Turns that follow each other are one.
        (
            json!({ "messages": [said("user", "bye"), said("user", "now")] }),
            json!([said("user", "bye\nnow")]),
        ),
        (
            json!({ "messages": [said("user", "hello"), said("assistant", "hi"), said("user", "bye")], "system": "brief" }),
            json!([
                said("system", "brief"),
                said("user", "hello"),
                said("assistant", "hi"),
                said("user", "bye")
            ]),
        ),
        (
            json!({ "messages": [said("user", "bye")], "system": [block("be"), block("brief")] }),
            json!([said("system", "be\nbrief"), said("user", "bye")]),
        ),
        (json!({ "messages": [said("user", "bye")], "system": "" }), json!([said("user", "bye")])),
        (
            json!({ "messages": [said("user", "Bonn?"),
                { "role": "assistant", "content": [block("I look."), call("1"), call("2"), call("3")] },
                { "role": "user", "content": results }] }),
            json!([said("user", "Bonn?"),
                { "role": "assistant", "content": "I look.", "tool_calls": [chat_call("1"), chat_call("2"), chat_call("3")] },
                { "role": "tool", "tool_call_id": "1", "content": "rain" },
                { "role": "tool", "tool_call_id": "2", "content": "Error: no\nidea" },
                { "role": "tool", "tool_call_id": "3", "content": "" },
                said("user", "So?")]),
        ),
    ];
    for (fields, messages) in cases {
        let expected = chat_text(&routes, json!({ "messages": messages })).await;
        assert_eq!(text(&message(&routes, fields.clone()).await), expected, "{fields}");
    }
}

#[tokio::test]
async fn a_last_message_of_the_assistant_is_continued() {
    let routes = Setup { fake: talkative(), ..Setup::default() }.routes();
    let messages =
        json!([{ "role": "user", "content": "hello" }, { "role": "assistant", "content": "Well," }]);
    let expected =
        json!({ "messages": messages, "continue_final_message": true, "add_generation_prompt": false });
    let expected = chat_text(&routes, expected).await;
    assert_eq!(text(&message(&routes, json!({ "messages": messages })).await), expected);
}

#[tokio::test]
async fn an_answer_may_be_sent_back() {
    let routes = Setup { fake: talkative(), ..Setup::default() }.routes();
    let choice = json!({ "type": "any", "disable_parallel_tool_use": true });
    let called =
        message(&routes, json!({ "tools": [tool("weather")], "tool_choice": choice, "max_tokens": 400 }))
            .await;
    assert_eq!(called["stop_reason"], "tool_use");
    let call = &called["content"][0];
    assert!(["Bonn", "Rome"].contains(&call["input"]["city"].as_str().unwrap()), "{call}");
    let messages = json!([
        { "role": "user", "content": "hello" },
        { "role": "assistant", "content": called["content"] },
        { "role": "user", "content": [{ "type": "tool_result", "tool_use_id": call["id"], "content": "rain" }] },
    ]);
    message(&routes, json!({ "messages": messages, "tools": [tool("weather")] })).await;
}

#[tokio::test]
async fn every_field_has_an_effect() {
    let routes = Setup { fake: talkative(), ..Setup::default() }.routes();
    let plain = text(&message(&routes, json!({})).await);
    assert_eq!(plain, chat_text(&routes, json!({})).await);

    let cut = message(&routes, json!({ "max_tokens": 5 })).await;
    assert_eq!(cut.pointer("/usage/output_tokens").unwrap(), 5);
    assert_eq!((&cut["stop_reason"], &cut["stop_sequence"]), (&json!("max_tokens"), &Value::Null));

    let stop = &plain[4..6];
    let stopped = message(&routes, json!({ "stop_sequences": ["never said, surely", stop] })).await;
    assert_eq!(text(&stopped), plain[..4]);
    assert_eq!((&stopped["stop_reason"], &stopped["stop_sequence"]), (&json!("stop_sequence"), &json!(stop)));

    for same in [
        json!({ "temperature": 1, "seed": 7 }),
        json!({ "temperature": 1, "seed": 7, "top_p": 0.5 }),
        json!({ "temperature": 1, "seed": 7, "top_k": 3 }),
    ] {
        let answer = text(&message(&routes, same.clone()).await);
        assert_eq!(answer, chat_text(&routes, same.clone()).await, "{same}");
        assert_ne!(answer, plain, "{same}");
    }

    let balanced = message(&routes, json!({ "kv_cache": { "preset": "balanced" } })).await;
    assert_eq!(balanced.pointer("/usage/kv_cache/preset").unwrap(), "balanced");
    assert_eq!(balanced["model"], "org/fake");
}

#[tokio::test]
async fn an_answer_ends_by_itself_and_may_be_empty() {
    // A model that says nothing but that it has ended.
    let fake = FakeConfig { says: EOS..EOS, ..FakeConfig::default() };
    let routes = Setup { fake, ..Setup::default() }.routes();
    let answer = message(&routes, json!({})).await;
    assert_eq!((&answer["stop_reason"], &answer["stop_sequence"]), (&json!("end_turn"), &Value::Null));
    assert_eq!(answer["content"], json!([{ "type": "text", "text": "" }]));
    let streamed = follow(&named_events(&send_message(&routes, json!({ "stream": true })).await));
    assert_eq!(redact_all(streamed), redact_all(answer));
}

#[tokio::test]
async fn tools_are_chosen() {
    let routes = Setup { fake: talkative(), ..Setup::default() }.routes();
    let calls = |message: &Value| {
        let blocks = message["content"].as_array().unwrap().iter();
        let calls = blocks.filter(|block| block["type"] == "tool_use");
        calls.map(|call| call["name"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    let both = json!([tool("weather"), with(tool("time"), json!({ "type": "custom", "strict": true }))]);
    let ask = |choice: Value| json!({ "tools": both, "tool_choice": choice, "max_tokens": 400 });
    for name in ["weather", "time"] {
        let answer = message(&routes, ask(json!({ "type": "tool", "name": name }))).await;
        assert_eq!((calls(&answer), &answer["stop_reason"]), (vec![name.to_owned()], &json!("tool_use")));
    }
    let never = message(&routes, ask(json!({ "type": "none" }))).await;
    assert_eq!(text(&never), text(&message(&routes, json!({ "max_tokens": 400 })).await));
    // Of a call that was cut off there is no input.
    let cut = message(&routes, with(ask(json!({ "type": "any" })), json!({ "max_tokens": 56 }))).await;
    assert_eq!(cut["stop_reason"], "max_tokens");
    let last = cut["content"].as_array().unwrap().last().unwrap();
    assert_eq!((&last["type"], &last["input"]), (&json!("tool_use"), &json!({})), "{cut}");
}

#[tokio::test]
async fn tokens_are_counted() {
    let engine = EngineConfig { prefix_cache: true, ..EngineConfig::default() };
    let routes = Setup { fake: talkative(), engine, ..Setup::default() }.routes();
    let messages = json!([{ "role": "user", "content": "hello ".repeat(20) }]);
    for extra in [
        json!({ "system": "be brief" }),
        json!({ "tools": [tool("weather")] }),
        json!({ "tools": [tool("weather")], "tool_choice": { "type": "none" } }),
        json!({ "thinking": { "type": "disabled" } }),
    ] {
        let fields = with(json!({ "messages": messages }), extra);
        let count = post(&routes, "/v1/messages/count_tokens", fields.to_string()).await;
        assert_eq!(count.status, 200, "{}", count.text);
        let counted = count.json()["input_tokens"].as_u64().unwrap();
        for _ in 0..2 {
            let usage = message(&routes, fields.clone()).await["usage"].clone();
            let tokens = |field: &str| usage[field].as_u64().unwrap();
            assert_eq!(tokens("input_tokens") + tokens("cache_read_input_tokens"), counted);
            assert_eq!(tokens("cache_creation_input_tokens"), 0);
        }
        // The second time, most was there.
        let usage = message(&routes, fields).await["usage"].clone();
        assert!(usage["cache_read_input_tokens"].as_u64().unwrap() > counted / 2, "{usage}");
    }
}

#[tokio::test]
async fn bad_messages() {
    let routes = Setup::default().routes();
    let one = |role: &str, content: Value| json!({ "messages": [{ "role": role, "content": content }] });
    let user = |block: Value| one("user", json!([block]));
    let assistant = |block: Value| one("assistant", json!([block]));
    let cases = [
        json!({ "messages": null }),
        json!({ "messages": [] }),
        json!({ "messages": "hello" }),
        json!({ "max_tokens": null }),
        json!({ "max_tokens": 0 }),
        json!({ "max_tokens": 250 }),
        one("system", json!("hello")),
        one("user", json!("x".repeat(300))),
        one("user", json!(7)),
        one("user", json!([])),
        one("user", Value::Null),
        json!({ "messages": [{ "content": "hello" }] }),
        json!({ "messages": [{ "role": "user", "content": "hello", "name": "me" }] }),
        user(json!("hello")),
        user(json!({ "text": "hello" })),
        user(json!({ "type": "text" })),
        user(json!({ "type": "image", "source": {} })),
        user(json!({ "type": "document", "source": {} })),
        user(json!({ "type": "tool_use", "id": "1", "name": "f", "input": {} })),
        user(json!({ "type": "tool_result", "tool_use_id": "1", "content": "x" })),
        user(json!({ "type": "tool_result", "content": "x" })),
        assistant(json!({ "type": "thinking", "thinking": "hm", "signature": "" })),
        assistant(json!({ "type": "tool_result", "tool_use_id": "1" })),
        assistant(json!({ "type": "tool_use", "id": "1", "name": "f", "input": {} })),
        assistant(json!({ "type": "tool_use", "id": "1", "name": "f", "input": "{}" })),
        assistant(json!({ "type": "tool_use", "id": "1", "name": "f", "input": {}, "colour": "red" })),
        one("assistant", json!("Well, ")),
        one("assistant", json!("")),
        json!({ "system": 7 }),
        json!({ "system": [{ "type": "image" }] }),
        json!({ "tools": [{ "type": "web_search_20250305", "name": "web_search" }] }),
        json!({ "tools": [{ "name": "f" }] }),
        json!({ "tools": [{ "input_schema": schema() }] }),
        json!({ "tools": [{ "name": "a b", "input_schema": schema() }] }),
        json!({ "tools": [tool("f"), tool("f")] }),
        json!({ "tools": [with(tool("f"), json!({ "defer_loading": true }))] }),
        json!({ "tools": [with(tool("f"), json!({ "colour": "red" }))] }),
        json!({ "tools": [with(tool("f"), json!({ "input_schema": { "type": "nonsense" } }))], "tool_choice": { "type": "any" } }),
        json!({ "tool_choice": "auto" }),
        json!({ "tool_choice": { "type": "any" } }),
        json!({ "tool_choice": { "type": "maybe" } }),
        json!({ "tool_choice": { "type": "tool", "name": "f" } }),
        json!({ "tool_choice": { "type": "tool" } }),
        json!({ "tool_choice": { "type": "auto", "name": "f" } }),
        json!({ "tool_choice": { "type": "auto", "colour": "red" } }),
        json!({ "stop_sequences": "e" }),
        json!({ "stop_sequences": [""] }),
        json!({ "top_k": -2 }),
        json!({ "temperature": -1 }),
        json!({ "thinking": "much" }),
        json!({ "metadata": "red" }),
        json!({ "output_config": { "format": { "type": "json_schema", "schema": {} } } }),
        json!({ "container": "c" }),
        json!({ "mcp_servers": [{}] }),
        json!({ "kv_cache": { "preset": "best" } }),
        json!({ "model": "claude" }),
        json!({ "n": 1 }),
        json!({ "colour": "red" }),
    ];
    let mut seen = Vec::new();
    for case in cases {
        let reply = send_message(&routes, case.clone()).await;
        let status = reply.status.as_u16();
        assert!((400..500).contains(&status), "{case}: {}", reply.text);
        let case = if case.to_string().len() > 200 { json!("(long)") } else { case };
        assert_eq!(reply.json()["type"], "error");
        seen.push(json!({ "sent": case, "status": status, "error": reply.json()["error"] }));
    }
    message(&routes, json!({})).await;
    insta::assert_json_snapshot!(redact_all(json!(seen)));
}

#[tokio::test]
async fn errors_are_marked_wherever_they_arise() {
    let routes = Setup::default().routes();
    let half = post(&routes, PATH, "{\"messages\": [").await;
    let request = Request::post(PATH).body(Body::from("{}")).unwrap();
    let text = send(&routes, request).await;
    let count = post(&routes, "/v1/messages/count_tokens", json!({ "max_tokens": 3 }).to_string()).await;
    for (reply, status) in [(half, 400), (text, 415), (count, 400)] {
        assert_eq!((reply.status.as_u16(), reply.header("content-type")), (status, Some("application/json")));
        assert_eq!(reply.json()["type"], "error");
        assert!(reply.json().pointer("/error/message").unwrap().is_string());
    }
    // The prompt takes four steps, then one step per token.
    let fault = Some(Fault { at: FaultAt::Step(8), kind: FaultKind::Error });
    let routes = Setup { fake: FakeConfig { fault, ..FakeConfig::default() }, ..Setup::default() }.routes();
    let events = named_events(&send_message(&routes, json!({ "stream": true })).await);
    let error = events.last().unwrap();
    assert_eq!((&error["type"], &error["error"]["type"]), (&json!("error"), &json!("api_error")));
    assert!(events.len() > 3, "text came before the failure");
}

#[tokio::test]
async fn neutral_values_of_unsupported_fields_are_accepted() {
    let routes = Setup::default().routes();
    let neutral = json!({
        "thinking": { "type": "enabled", "budget_tokens": 1024 }, "metadata": { "user_id": "me" }, "tools": [],
        "service_tier": "standard_only", "context_management": { "edits": [] }, "output_config": { "effort": "low" },
        "tool_choice": { "type": "auto" }, "stop_sequences": [], "stream": false, "system": [], "mcp_servers": [],
        "cache_control": { "type": "ephemeral" }, "container": null, "top_k": 0, "top_p": 1, "kv_cache": null,
    });
    let expected = message(&routes, json!({})).await["content"].clone();
    assert_eq!(message(&routes, neutral).await["content"], expected);
    let tools = json!([with(
        tool("f"),
        json!({ "cache_control": { "type": "ephemeral" }, "input_examples": [],
        "defer_loading": false, "eager_input_streaming": true, "allowed_callers": ["direct"] })
    )]);
    let none = json!({ "type": "none" });
    let answer = message(&routes, json!({ "tools": tools, "tool_choice": none })).await;
    assert_eq!(answer["content"], expected);
}
