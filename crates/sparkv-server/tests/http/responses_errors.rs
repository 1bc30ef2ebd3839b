//! What a bad request to /v1/responses gets, and what becomes of a stream that fails.

use serde_json::{Value, json};
use sparkv_models::fake::{FakeConfig, Fault, FaultAt, FaultKind};

use crate::responses::{respond, response, text, tool};
use crate::support::*;

#[tokio::test]
async fn bad_responses() {
    let routes = Setup::default().routes();
    let input = |item: Value| json!({ "input": [item] });
    let part = |part: Value| json!({ "input": [{ "role": "user", "content": [part] }] });
    let cases = [
        json!({ "input": null }),
        json!({ "input": 7 }),
        json!({ "input": [] }),
        json!({ "input": "x".repeat(300) }),
        json!({ "max_output_tokens": 250 }),
        json!({ "max_output_tokens": 0 }),
        input(json!("hello")),
        input(json!({ "type": 7 })),
        input(json!({ "role": "wizard", "content": "hello" })),
        input(json!({ "role": "tool", "content": "hello" })),
        input(json!({ "role": "user" })),
        input(json!({ "role": "user", "content": 7 })),
        input(json!({ "role": "user", "content": "hello", "colour": "red" })),
        input(json!({ "type": "function_call", "call_id": "1", "name": "f", "arguments": 7 })),
        input(json!({ "type": "function_call_output", "call_id": "1", "output": "x" })),
        json!({ "input": [{ "type": "function_call", "call_id": "1", "name": "f", "arguments": "{}" },
            { "type": "function_call_output", "call_id": "1", "name": "g", "output": "x" }] }),
        input(json!({ "type": "item_reference", "id": "msg_1" })),
        input(json!({ "type": "web_search_call", "id": "ws_1" })),
        part(json!({ "type": "input_image", "image_url": "data:" })),
        part(json!({ "type": "input_file", "file_id": "file_1" })),
        part(json!({ "type": "input_text" })),
        json!({ "instructions": ["be brief"] }),
        json!({ "text": { "format": { "type": "xml" } } }),
        json!({ "text": { "format": { "type": "json_schema", "json_schema": {} } } }),
        json!({ "text": { "format": { "type": "json_schema", "name": "a" } } }),
        json!({ "text": { "format": { "type": "json_schema", "name": "a", "schema": { "type": "nonsense" } } } }),
        json!({ "text": { "format": { "type": "json_object" } }, "guided_choice": ["a"] }),
        json!({ "text": { "colour": "red" } }),
        json!({ "text": ["json_object"] }),
        json!({ "tools": [{ "type": "web_search" }] }),
        json!({ "tools": [{ "type": "function" }] }),
        json!({ "tools": [{ "type": "function", "name": "a b" }] }),
        json!({ "tools": [{ "type": "function", "name": "f", "function": {} }] }),
        json!({ "tools": [tool("f"), tool("f")] }),
        json!({ "tool_choice": "required" }),
        json!({ "tool_choice": "maybe" }),
        json!({ "tool_choice": { "type": "function", "name": "f" } }),
        json!({ "tool_choice": { "type": "function" } }),
        json!({ "tool_choice": { "type": "allowed_tools", "mode": "auto", "tools": [] } }),
        json!({ "tools": [tool("f")], "tool_choice": "required", "text": { "format": { "type": "json_object" } } }),
        json!({ "top_logprobs": 2 }),
        json!({ "include": ["message.output_text.logprobs"], "top_logprobs": 21 }),
        json!({ "metadata": { "a": 1 } }),
        json!({ "metadata": { "a": "x".repeat(600) } }),
        json!({ "user": 7 }),
        json!({ "stop": "" }),
        json!({ "min_tokens": 20 }),
        json!({ "stream": true, "stream_options": { "include_obfuscation": true } }),
        json!({ "model": "gpt-5" }),
        json!({ "temperature": -1 }),
        json!({ "kv_cache": { "preset": "best" } }),
        json!({ "colour": "red" }),
    ];
    let mut seen = Vec::new();
    for case in cases {
        let reply = respond(&routes, case.clone()).await;
        let status = reply.status.as_u16();
        assert!((400..500).contains(&status), "{case}: {}", reply.text);
        let case = if case.to_string().len() > 200 { json!("(long)") } else { case };
        seen.push(json!({ "sent": case, "status": status, "error": reply.json()["error"] }));
    }
    response(&routes, json!({})).await;
    insta::assert_json_snapshot!(redact_all(json!(seen)));
}

#[tokio::test]
async fn known_fields_that_are_not_supported_are_refused_by_name() {
    let routes = Setup::default().routes();
    let cases = json!({
        "previous_response_id": "resp_1", "conversation": "conv_1", "background": true, "store": "yes",
        "reasoning": "low", "truncation": "auto", "prompt": { "id": "pmpt_1" }, "max_tool_calls": "many",
        "max_tokens": 12, "max_completion_tokens": 12, "n": 2, "response_format": { "type": "text" },
        "messages": [], "grammar": "a", "moderation": {}, "priority": 2, "prompt_logprobs": 0,
    });
    for (field, value) in cases.as_object().unwrap() {
        let reply = respond(&routes, json!({ field: value })).await;
        assert_eq!(reply.status, 400, "{field}");
        let error = &reply.json()["error"];
        assert_eq!((&error["param"], &error["code"]), (&json!(field), &json!("unsupported_parameter")));
        assert!(error["message"].as_str().unwrap().len() > field.len() + 20, "a reason: {error}");
    }
}

#[tokio::test]
async fn a_failure_inside_a_stream_is_told_twice() {
    // The prompt takes four steps, then one step per token.
    let fault = Some(Fault { at: FaultAt::Step(8), kind: FaultKind::Error });
    let routes = Setup { fake: FakeConfig { fault, ..FakeConfig::default() }, ..Setup::default() }.routes();
    let events = named_events(&respond(&routes, json!({ "stream": true })).await);
    let [.., error, failed] = events.as_slice() else { panic!("{events:?}") };
    assert_eq!((&error["type"], &failed["type"]), (&json!("error"), &json!("response.failed")));
    assert_eq!(failed["sequence_number"], events.len() - 1);
    assert!(error["message"].as_str().unwrap().contains("fault at step 8"), "{error}");
    assert!(error.get("param").is_some() && error.get("code").is_some());
    let response = &failed["response"];
    assert_eq!(response["error"], json!({ "code": "server_error", "message": error["message"] }));
    assert_eq!((&response["status"], &response["usage"]), (&json!("failed"), &Value::Null));
    // What had been said is there.
    let said: String = events
        .iter()
        .filter(|event| event["type"] == "response.output_text.delta")
        .map(|event| event["delta"].as_str().unwrap())
        .collect();
    assert_eq!(text(response), said);
    assert_eq!(response.pointer("/output/0/status").unwrap(), "incomplete");
}
