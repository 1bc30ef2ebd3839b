//! Answers come back in the next turn, with what clients and their parsers added to them.

use axum::Router;
use serde_json::{Map, Value, json};

use crate::support::*;

/// What the model is asked to continue after these messages.
async fn prompt(routes: &Router, messages: &Value) -> String {
    let reply = post(routes, "/apply-template", json!({ "messages": messages }).to_string()).await;
    assert_eq!(reply.status, 200, "{messages}: {}", reply.text);
    reply.json()["prompt"].as_str().unwrap().to_owned()
}

fn with(mut object: Value, more: &Value) -> Value {
    object.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    object
}

/// All sets of these fields, with values that clients send.
fn variations(fields: &[(&str, &[Value])]) -> Vec<Value> {
    let mut all = vec![Map::new()];
    for (name, values) in fields {
        let with_value = |before: &Map<String, Value>, value: &Value| {
            before
                .iter()
                .map(|(name, value)| (name.clone(), value.clone()))
                .chain([(name.to_string(), value.clone())])
                .collect()
        };
        let more: Vec<Map<String, Value>> =
            all.iter().flat_map(|before| values.iter().map(move |value| with_value(before, value))).collect();
        all.extend(more);
    }
    all.into_iter().map(Value::Object).collect()
}

#[tokio::test]
async fn what_clients_add_to_messages_changes_nothing() {
    let routes = Setup::default().routes();
    let asked = json!({ "role": "user", "content": "hello" });
    let expected = prompt(&routes, &json!([asked, { "role": "assistant", "content": "hi" }, asked])).await;
    let additions = variations(&[
        ("parsed", &[Value::Null, json!({ "a": 1 })]),
        ("refusal", &[Value::Null]),
        ("annotations", &[Value::Null, json!([]), json!([{ "type": "url_citation" }])]),
        ("audio", &[Value::Null]),
        ("function_call", &[Value::Null]),
        ("tool_calls", &[Value::Null, json!([])]),
        ("reasoning", &[Value::Null, json!("hm")]),
        ("provider_specific_fields", &[json!({ "refusal": null })]),
    ]);
    assert!(additions.len() > 500);
    for added in additions {
        let answer = with(json!({ "role": "assistant", "content": "hi" }), &added);
        assert_eq!(prompt(&routes, &json!([asked, answer, asked])).await, expected, "{added}");
    }
}

#[tokio::test]
async fn messages_without_content_are_empty_or_refusals() {
    let routes = Setup::default().routes();
    let asked = json!({ "role": "user", "content": "hello" });
    let expected = async |content: &str| {
        prompt(&routes, &json!([asked, { "role": "assistant", "content": content }, asked])).await
    };
    for (answer, content) in [
        (json!({}), ""),
        (json!({ "content": null }), ""),
        (json!({ "content": "" }), ""),
        (json!({ "content": [] }), ""),
        (json!({ "content": null, "refusal": "I will not" }), "I will not"),
        (json!({ "content": [{ "type": "refusal", "refusal": "I will not" }] }), "I will not"),
        (
            json!({ "content": [{ "type": "text", "text": "a" }, { "type": "text", "text": "b", "annotations": [] }] }),
            "a\nb",
        ),
    ] {
        let answer = with(json!({ "role": "assistant" }), &answer);
        let said = prompt(&routes, &json!([asked, answer, asked])).await;
        assert_eq!(said, expected(content).await, "{answer}");
    }
}

/// Arguments that were cut off stay what they were; others are what they say.
#[tokio::test]
async fn calls_come_back_as_they_were() {
    let template = "{% for m in messages %}[{{ m.role }}]{{ m.content }}{% for c in m.tool_calls %}({{ c.id }} {{ c.function.name }} {{ c.function.arguments | tojson }}){% endfor %}{{ m.tool_call_id }}{% endfor %}{% if tools %}{% endif %}\"parameters\"";
    let routes = Setup { chat_template: Some(template), ..Setup::default() }.routes();
    let full = json!({ "a": 1 });
    for (arguments, told) in [
        (json!("{\"a\": 1}"), "{\"a\": 1}"),
        (full.clone(), "{\"a\": 1}"),
        (json!(""), "{}"),
        (Value::Null, "{}"),
        (json!("{\"a\": \"cut o"), r#""{\"a\": \"cut o""#),
        (json!("[1]"), "\"[1]\""),
    ] {
        for added in variations(&[
            ("index", &[json!(0)]),
            ("type", &[Value::Null, json!("function")]),
            ("provider_specific_fields", &[Value::Null]),
        ]) {
            let function = json!({ "name": "f", "arguments": arguments, "parsed_arguments": full });
            let call = with(json!({ "id": "one", "function": function }), &added);
            let messages = json!([{ "role": "user", "content": "a" },
                { "role": "assistant", "content": null, "tool_calls": [call] },
                { "role": "tool", "tool_call_id": "one", "content": null }]);
            let expected = format!("[user]a[assistant](one f {told})[tool]one\"parameters\"");
            assert_eq!(prompt(&routes, &messages).await, expected, "{arguments} {added}");
        }
    }
    // Calls and answers without ids belong together in their order.
    let call = json!({ "id": null, "function": { "name": "f", "arguments": "{}" } });
    let answer = json!({ "role": "tool", "content": "b" });
    let messages = json!([{ "role": "assistant", "tool_calls": [call, call] }, answer, answer,
        { "role": "assistant", "tool_calls": [call] }, answer]);
    let told = "[assistant](000000000 f {})(000000001 f {})[tool]b000000000[tool]b000000001[assistant](000000002 f {})[tool]b000000002\"parameters\"";
    assert_eq!(prompt(&routes, &messages).await, told);
}

#[tokio::test]
async fn tools_have_further_keys() {
    let routes = Setup::default().routes();
    let tool = json!({ "type": "function", "function": { "name": "f", "parameters": { "type": "object", "properties": {} } } });
    let told = async |tool: &Value| {
        let messages = json!([{ "role": "user", "content": "a" }]);
        let reply =
            post(&routes, "/apply-template", json!({ "messages": messages, "tools": [tool] }).to_string())
                .await;
        assert_eq!(reply.status, 200, "{tool}: {}", reply.text);
        reply.json()["prompt"].clone()
    };
    let expected = told(&tool).await;
    for added in variations(&[
        ("cache_control", &[Value::Null, json!({ "type": "ephemeral" })]),
        ("description", &[Value::Null]),
        ("strict", &[Value::Null]),
        ("defer_loading", &[json!(false)]),
    ]) {
        assert_eq!(told(&with(tool.clone(), &added)).await, expected, "{added}");
        let mut inner = tool.clone();
        inner["function"] = with(tool["function"].clone(), &added);
        assert_eq!(told(&inner).await, expected, "{added}");
    }
}

/// What another model thought says nothing to this one.
#[tokio::test]
async fn thoughts_are_passed_over() {
    let routes = Setup::default().routes();
    let respond = async |input: Value| {
        let reply = post(
            &routes,
            "/v1/responses",
            json!({ "input": input, "max_output_tokens": 4, "temperature": 0 }).to_string(),
        )
        .await;
        assert_eq!(reply.status, 200, "{input}: {}", reply.text);
        reply.json()["output"][0]["content"][0]["text"].clone()
    };
    let (asked, said) =
        (json!({ "role": "user", "content": "a" }), json!({ "role": "assistant", "content": "b" }));
    let thought = json!({ "type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": "x" });
    assert_eq!(
        respond(json!([asked, thought, said, asked])).await,
        respond(json!([asked, said, asked])).await
    );
    let message = async |blocks: Value| {
        let messages = json!([asked, { "role": "assistant", "content": blocks }, asked]);
        let reply = post(
            &routes,
            "/v1/messages",
            json!({ "messages": messages, "max_tokens": 4, "temperature": 0 }).to_string(),
        )
        .await;
        assert_eq!(reply.status, 200, "{messages}: {}", reply.text);
        reply.json()["content"].clone()
    };
    let text = json!({ "type": "text", "text": "b" });
    let thought = json!({ "type": "thinking", "thinking": "hm", "signature": "x" });
    assert_eq!(message(json!([thought, text])).await, message(json!([text])).await);
}
