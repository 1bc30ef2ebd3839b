//! /v1/responses.

use axum::Router;
use serde_json::{Value, json};

use crate::support::*;

pub(crate) async fn respond(routes: &Router, extra: Value) -> Reply {
    let body = json!({ "input": "hello", "temperature": 0, "max_output_tokens": 12 });
    post(routes, "/v1/responses", with(body, extra).to_string()).await
}

pub(crate) async fn response(routes: &Router, extra: Value) -> Value {
    let reply = respond(routes, extra).await;
    assert_eq!(reply.status, 200, "{}", reply.text);
    reply.json()
}

/// The text of all messages.
pub(crate) fn text(response: &Value) -> String {
    let items = response["output"].as_array().unwrap().iter();
    let messages = items.filter(|item| item["type"] == "message");
    messages.map(|message| message.pointer("/content/0/text").unwrap().as_str().unwrap()).collect()
}

/// The text of a chat's answer.
async fn chat_text(routes: &Router, extra: Value) -> String {
    let answer = chat(routes, &chat_body(extra)).await.json();
    answer
        .pointer("/choices/0/message/content")
        .unwrap_or_else(|| panic!("{answer}"))
        .as_str()
        .unwrap()
        .to_owned()
}

pub(crate) fn tool(name: &str) -> Value {
    let parameters = json!({
        "type": "object", "properties": { "city": { "enum": ["Bonn", "Rome"] } }, "required": ["city"],
        "additionalProperties": false
    });
    json!({ "type": "function", "name": name, "description": "tells", "parameters": parameters, "strict": true })
}

/// An item of a stream, as far as it was told.
struct Open {
    item: Value,
    deltas: String,
    logprobs: Vec<Value>,
    /// Events that are to come, the next one last.
    rest: Vec<&'static str>,
}

/// Follows a stream event by event; returns the response that it ends with.
fn follow(events: &[Value]) -> Value {
    for (index, event) in events.iter().enumerate() {
        assert_eq!(event["sequence_number"], index);
    }
    let kind = |event: &Value| event["type"].as_str().unwrap().to_owned();
    assert_eq!(kind(&events[0]), "response.created");
    assert_eq!(kind(&events[1]), "response.in_progress");
    assert_eq!(events[0]["response"], events[1]["response"]);
    assert_eq!(events[0]["response"]["status"], "in_progress");
    assert_eq!(events[0]["response"]["output"], json!([]));
    let (last, between) = events[2..].split_last().unwrap();
    let mut output: Vec<Value> = Vec::new();
    let mut open: Option<Open> = None;
    for event in between {
        let name = kind(event);
        assert_eq!(event["output_index"], output.len());
        let Some(now) = &mut open else {
            assert_eq!(name, "response.output_item.added");
            let item = event["item"].clone();
            assert_eq!(item["status"], "in_progress");
            let rest = if item["type"] == "message" {
                assert_eq!(item["content"], json!([]));
                let done =
                    ["response.output_item.done", "response.content_part.done", "response.output_text.done"];
                done.into_iter().chain(["response.content_part.added"]).collect()
            } else {
                assert_eq!(item["arguments"], "");
                vec!["response.output_item.done", "response.function_call_arguments.done"]
            };
            open = Some(Open { item, deltas: String::new(), logprobs: Vec::new(), rest });
            continue;
        };
        if let Some(id) = event.get("item_id") {
            assert_eq!(*id, now.item["id"]);
        }
        if name == "response.output_text.delta" || name == "response.function_call_arguments.delta" {
            let done = name.replace(".delta", ".done");
            assert_eq!(now.rest.last(), Some(&&*done));
            now.deltas.push_str(event["delta"].as_str().unwrap());
            now.logprobs
                .extend(event.get("logprobs").into_iter().flat_map(|list| list.as_array().unwrap().clone()));
            continue;
        }
        assert_eq!(now.rest.pop(), Some(&*name));
        let part = json!({
            "type": "output_text", "text": now.deltas, "annotations": [], "logprobs": now.logprobs
        });
        match &*name {
            "response.content_part.added" => assert_eq!(event["part"]["text"], ""),
            "response.output_text.done" => {
                assert_eq!((&event["text"], &event["logprobs"]), (&part["text"], &part["logprobs"]));
            }
            "response.content_part.done" => assert_eq!(event["part"], part),
            "response.function_call_arguments.done" => {
                assert_eq!(event["arguments"], now.deltas);
                assert_eq!(event["name"], now.item["name"]);
            }
            _ => {
                let mut item = now.item.clone();
                item["status"] = event["item"]["status"].clone();
                if item["type"] == "message" {
                    item["content"] = json!([part]);
                } else {
                    item["arguments"] = json!(now.deltas);
                }
                assert_eq!(event["item"], item);
                output.push(item);
                open = None;
            }
        }
    }
    assert!(open.is_none());
    let response = &last["response"];
    assert_eq!(kind(last), format!("response.{}", response["status"].as_str().unwrap()));
    assert_eq!(response["output"], json!(output));
    assert_eq!(response["id"], events[0]["response"]["id"]);
    response.clone()
}

#[tokio::test]
async fn a_response_as_clients_expect_it() {
    let routes = Setup::default().routes();
    insta::assert_json_snapshot!(redact_all(response(&routes, json!({})).await));
}

#[tokio::test]
async fn a_transcript() {
    let routes = Setup::default().routes();
    let reply = respond(&routes, json!({ "stream": true, "max_output_tokens": 2 })).await;
    let events: Vec<Value> = named_events(&reply).into_iter().map(redact_all).collect();
    insta::assert_json_snapshot!(events);
}

#[tokio::test]
async fn a_transcript_of_a_call() {
    let routes = Setup { fake: talkative(), ..Setup::default() }.routes();
    let fields = json!({ "tools": [tool("weather")], "tool_choice": "required", "parallel_tool_calls": false,
        "max_output_tokens": 200, "stream": true });
    let reply = respond(&routes, fields).await;
    let events: Vec<Value> = named_events(&reply).into_iter().map(redact_all).collect();
    // The response at the beginning is that of the test above.
    insta::assert_json_snapshot!(events[2..]);
}

#[tokio::test]
async fn streamed_and_whole_answers_are_the_same() {
    let routes = Setup { fake: talkative(), ..Setup::default() }.routes();
    let schema = json!({ "type": "object", "properties": { "n": { "type": "integer" } }, "required": ["n"] });
    let cases = [
        json!({}),
        json!({ "max_output_tokens": 60, "temperature": 1, "stop": ["e", "th"] }),
        json!({ "include": ["message.output_text.logprobs"], "top_logprobs": 2 }),
        json!({ "max_output_tokens": 1 }),
        json!({ "tools": [tool("weather"), tool("time")], "tool_choice": "required", "max_output_tokens": 400 }),
        json!({ "tools": [tool("weather"), tool("time")], "tool_choice": { "type": "function", "name": "time" },
                "max_output_tokens": 400 }),
        json!({ "tools": [tool("weather")], "max_output_tokens": 40 }),
        // Cut off in the middle of the arguments.
        json!({ "tools": [tool("weather")], "tool_choice": "required", "max_output_tokens": 58 }),
        json!({ "text": { "format": { "type": "json_schema", "name": "a", "schema": schema } }, "max_output_tokens": 200 }),
    ];
    for case in cases {
        let fields = with(json!({ "seed": 7 }), case.clone());
        let whole = response(&routes, fields.clone()).await;
        let streamed =
            follow(&named_events(&respond(&routes, with(fields, json!({ "stream": true }))).await));
        assert_eq!(redact_all(streamed), redact_all(whole), "{case}");
    }
}

#[tokio::test]
async fn a_conversation_is_what_a_chat_makes_of_it() {
    let routes = Setup { fake: talkative(), ..Setup::default() }.routes();
    let message = |role: &str, content: &str| json!({ "role": role, "content": content });
    let typed = |role: &str, content: &str| json!({ "type": "message", "role": role, "content": [{ "type": "input_text", "text": content }] });
    // As answers of this API are.
    let answered = |content: &str| {
        let part = json!({ "type": "output_text", "text": content, "annotations": [], "logprobs": [{}] });
        json!({ "type": "message", "id": "msg_1", "role": "assistant", "status": "completed", "content": [part] })
    };
    let call = |id: &str| {
        json!({ "type": "function_call", "id": "fc_1", "call_id": id, "name": "weather", "status": "completed",
                "caller": null, "namespace": null, "arguments": "{\"city\": \"Bonn\"}" })
    };
    let chat_call = |id: &str| json!({ "id": id, "type": "function", "function": { "name": "weather", "arguments": "{\"city\": \"Bonn\"}" } });
    let output = |id: &str| json!({ "type": "function_call_output", "call_id": id, "output": "rain" });
    let parts = json!([{ "type": "input_text", "text": "ra" }, { "type": "text", "text": "in" }]);
    let cases = [
        (json!({ "input": "bye" }), json!([message("user", "bye")])),
        (json!({ "input": [message("user", "bye")] }), json!([message("user", "bye")])),
        (
            json!({ "input": [typed("developer", "be brief"), typed("user", "hello"), answered("hi"), message("user", "bye")] }),
            json!([
                message("system", "be brief"),
                message("user", "hello"),
                message("assistant", "hi"),
                message("user", "bye")
            ]),
        ),
        (
            json!({ "input": "bye", "instructions": "be brief" }),
            json!([message("system", "be brief"), message("user", "bye")]),
        ),
        (json!({ "input": "bye", "instructions": "" }), json!([message("user", "bye")])),
        (
            json!({ "input": [message("user", "Bonn?"), answered("I look."), call("1"), call("2"), output("1"),
                { "type": "function_call_output", "call_id": "2", "output": parts }] }),
            json!([message("user", "Bonn?"),
                { "role": "assistant", "content": "I look.", "tool_calls": [chat_call("1"), chat_call("2")] },
                { "role": "tool", "tool_call_id": "1", "content": "rain" },
                { "role": "tool", "tool_call_id": "2", "content": "ra\nin" }]),
        ),
        (
            json!({ "input": [message("user", "Bonn?"), call("1"), output("1")] }),
            json!([message("user", "Bonn?"), { "role": "assistant", "content": null, "tool_calls": [chat_call("1")] },
                { "role": "tool", "tool_call_id": "1", "content": "rain" }]),
        ),
    ];
    for (fields, messages) in cases {
        let expected = chat_text(&routes, json!({ "messages": messages })).await;
        assert_eq!(text(&response(&routes, fields.clone()).await), expected, "{fields}");
    }
}

#[tokio::test]
async fn an_answer_may_be_sent_back() {
    let routes = Setup { fake: talkative(), ..Setup::default() }.routes();
    let fields = json!({ "tools": [tool("weather")], "tool_choice": "required", "max_output_tokens": 400,
        "include": ["message.output_text.logprobs"], "parallel_tool_calls": false });
    let called = response(&routes, fields.clone()).await;
    let call = called["output"][0].clone();
    assert_eq!((&call["type"], &call["status"]), (&json!("function_call"), &json!("completed")));
    let arguments: Value = serde_json::from_str(call["arguments"].as_str().unwrap()).unwrap();
    assert!(["Bonn", "Rome"].contains(&arguments["city"].as_str().unwrap()));
    let input = json!([{ "role": "user", "content": "hello" }, call,
        { "type": "function_call_output", "call_id": call["call_id"], "output": "rain" }]);
    let answer =
        response(&routes, json!({ "input": input, "tools": [tool("weather")], "tool_choice": "none" })).await;
    let mut input = input.as_array().unwrap().clone();
    input.extend(answer["output"].as_array().unwrap().clone());
    response(&routes, json!({ "input": input })).await;
}

#[tokio::test]
async fn every_field_has_an_effect() {
    let routes = Setup { fake: talkative(), ..Setup::default() }.routes();
    let plain = text(&response(&routes, json!({})).await);
    assert_eq!(plain, chat_text(&routes, json!({})).await);
    assert_eq!(plain.len(), 12);

    let cut = response(&routes, json!({ "max_output_tokens": 5, "ignore_eos": true })).await;
    assert_eq!(cut.pointer("/usage/output_tokens").unwrap(), 5);
    assert_eq!((&cut["status"], &cut["max_output_tokens"]), (&json!("incomplete"), &json!(5)));
    assert_eq!(cut["incomplete_details"], json!({ "reason": "max_output_tokens" }));
    assert_eq!(cut.pointer("/output/0/status").unwrap(), "incomplete");

    let stopped = response(&routes, json!({ "stop": &plain[4..6] })).await;
    assert_eq!((text(&stopped), &stopped["status"]), (plain[..4].to_owned(), &json!("completed")));
    assert_eq!(stopped["incomplete_details"], Value::Null);

    // Those that chats have as well mean the same. (A long answer says a letter twice.)
    let long = text(&response(&routes, json!({ "max_output_tokens": 60 })).await);
    for same in [
        json!({ "temperature": 1, "seed": 7 }),
        json!({ "temperature": 1, "seed": 7, "top_p": 0.5 }),
        json!({ "temperature": 1, "seed": 7, "top_k": 3 }),
        json!({ "temperature": 1, "seed": 7, "min_p": 0.5 }),
        json!({ "temperature": 0, "presence_penalty": 2 }),
        json!({ "temperature": 0, "frequency_penalty": 2 }),
        json!({ "temperature": 0, "repetition_penalty": 3 }),
        json!({ "temperature": 0, "logit_bias": { "70": 100 } }),
        json!({ "temperature": 0, "logit_bias": { "70": 100 }, "stop_token_ids": [70], "min_tokens": 3 }),
        json!({ "guided_choice": ["yes", "no"] }),
        json!({ "guided_regex": "[0-9]{4}" }),
        json!({ "structured_outputs": { "choice": ["left", "right"] } }),
    ] {
        let answer = response(&routes, with(json!({ "max_output_tokens": 60 }), same.clone())).await;
        let expected = chat_text(&routes, with(json!({ "max_tokens": 60 }), same.clone())).await;
        assert_eq!(text(&answer), expected, "{same}");
        assert_ne!(text(&answer), long, "{same}");
    }

    let echo = json!({ "temperature": 0.5, "top_p": 0.25, "user": "me", "metadata": { "a": "b" }, "instructions": "brief",
        "parallel_tool_calls": false, "tool_choice": "none", "tools": [tool("weather")] });
    let answer = response(&routes, echo.clone()).await;
    for (name, value) in echo.as_object().unwrap() {
        assert_eq!(answer[name], *value);
    }
    assert_eq!(answer["model"], "org/fake");
    assert_eq!(response(&routes, json!({ "model": "fake" })).await["model"], "org/fake");

    let balanced = response(&routes, json!({ "kv_cache": { "preset": "balanced" } })).await;
    assert_eq!(balanced.pointer("/usage/kv_cache/preset").unwrap(), "balanced");
}

#[tokio::test]
async fn template_arguments_reach_the_template() {
    let chat_template = Some("{{ mood }}{% for message in messages %}{{ message.content }}{% endfor %}");
    let routes = Setup { chat_template, ..Setup::default() }.routes();
    let plain = response(&routes, json!({})).await;
    let happy = response(&routes, json!({ "chat_template_kwargs": { "mood": "happy" } })).await;
    let tokens = |response: &Value| response.pointer("/usage/input_tokens").unwrap().as_u64().unwrap();
    assert_eq!(tokens(&happy), tokens(&plain) + 5);
}

#[tokio::test]
async fn text_in_a_format() {
    let routes = Setup { fake: talkative(), ..Setup::default() }.routes();
    let schema = json!({ "type": "object", "properties": { "city": { "enum": ["Bonn", "Rome"] } },
        "required": ["city"], "additionalProperties": false });
    let format = json!({ "type": "json_schema", "name": "place", "schema": schema, "strict": true, "description": "where" });
    let answer = response(&routes, json!({ "text": { "format": format }, "max_output_tokens": 100 })).await;
    let said: Value = serde_json::from_str(&text(&answer)).unwrap();
    assert!(["Bonn", "Rome"].contains(&said["city"].as_str().unwrap()));
    assert_eq!(answer["text"]["format"], format);
    let expected = json!({ "type": "json_schema", "json_schema": { "name": "place", "schema": schema } });
    let expected = chat_text(&routes, json!({ "response_format": expected, "max_tokens": 100 })).await;
    assert_eq!(text(&answer), expected);

    let object = json!({ "text": { "format": { "type": "json_object" } }, "max_output_tokens": 1 });
    assert_eq!(text(&response(&routes, object).await), "{");
    let digits = json!({ "text": { "format": { "type": "regex", "regex": "[0-9]{3}" } } });
    assert!(text(&response(&routes, digits).await).parse::<u32>().is_ok());
}

#[tokio::test]
async fn log_probabilities() {
    let routes = Setup::default().routes();
    let fields =
        json!({ "include": ["message.output_text.logprobs"], "top_logprobs": 2, "max_output_tokens": 3 });
    let answer = response(&routes, fields).await;
    let logprobs = answer.pointer("/output/0/content/0/logprobs").unwrap().as_array().unwrap();
    let said: String = logprobs.iter().map(|token| token["token"].as_str().unwrap()).collect();
    assert_eq!(said, text(&answer));
    for token in logprobs {
        let top = token["top_logprobs"].as_array().unwrap();
        assert_eq!(top.len(), 2);
        assert_eq!((&top[0]["token"], &top[0]["logprob"]), (&token["token"], &token["logprob"]));
    }
    let without = response(&routes, json!({ "include": [], "top_logprobs": 0 })).await;
    assert_eq!(without.pointer("/output/0/content/0/logprobs").unwrap(), &json!([]));
}

#[tokio::test]
async fn tools_are_chosen() {
    let routes = Setup { fake: talkative(), ..Setup::default() }.routes();
    let calls = |response: &Value| {
        let items = response["output"].as_array().unwrap().iter();
        let calls = items.filter(|item| item["type"] == "function_call");
        calls.map(|call| call["name"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    let both = json!([tool("weather"), tool("time")]);
    let ask = |choice: Value| json!({ "tools": both, "tool_choice": choice, "max_output_tokens": 400 });
    for name in ["weather", "time"] {
        let answer = response(&routes, ask(json!({ "type": "function", "name": name }))).await;
        assert_eq!(calls(&answer), [name]);
        assert_eq!((&answer["status"], text(&answer)), (&json!("completed"), String::new()));
    }
    let answer =
        response(&routes, with(ask(json!("required")), json!({ "parallel_tool_calls": false }))).await;
    assert_eq!(calls(&answer).len(), 1);
    let never = response(&routes, ask(json!("none"))).await;
    assert!(calls(&never).is_empty());
    // A choice of none is no tools.
    assert_eq!(text(&never), text(&response(&routes, json!({ "max_output_tokens": 400 })).await));
    let cut = response(&routes, with(ask(json!("required")), json!({ "max_output_tokens": 56 }))).await;
    let last = cut["output"].as_array().unwrap().last().unwrap();
    assert_eq!((&cut["status"], &last["status"]), (&json!("incomplete"), &json!("incomplete")), "{last}");
}

#[tokio::test]
async fn neutral_values_of_unsupported_fields_are_accepted() {
    let routes = Setup::default().routes();
    let neutral = json!({
        "previous_response_id": null, "conversation": null, "background": false, "store": false,
        "reasoning": { "effort": null, "summary": null }, "truncation": "disabled", "service_tier": "auto", "n": 1,
        "include": [], "tools": [], "tool_choice": "auto", "parallel_tool_calls": true, "text": { "format": { "type": "text" } },
        "metadata": {}, "stream": false, "max_tool_calls": null, "prompt": null, "top_logprobs": 0, "instructions": null,
        "text": {}, "kv_cache": {}, "stop": [], "seed": null,
    });
    let expected = text(&response(&routes, json!({})).await);
    assert_eq!(text(&response(&routes, neutral).await), expected);
    let reply =
        respond(&routes, json!({ "stream": true, "stream_options": { "include_obfuscation": false } })).await;
    assert_eq!(text(&follow(&named_events(&reply))), expected);
}
