//! Tools beside formats, and tools whose schemas cannot all be held.

use axum::Router;
use serde_json::{Value, json};
use sparkv_models::fake::{BYTE_OFFSET, FakeConfig};

use crate::support::*;

/// With a context that a description of tools fits in, and a model that says the lines of calls.
fn routes() -> Router {
    let says = BYTE_OFFSET + u32::from(b'\n')..BYTE_OFFSET + 0x7f;
    let fake = FakeConfig { context_length: 2048, says, ..FakeConfig::default() };
    Setup { fake, ..Setup::default() }.routes()
}

fn object(name: &str) -> Value {
    json!({ "type": "object", "properties": { (name): { "type": "integer", "minimum": 1, "maximum": 9 } }, "required": [name] })
}

fn tool(parameters: &Value, strict: bool) -> Value {
    json!({ "type": "function", "function": { "name": "forecast", "parameters": parameters, "strict": strict } })
}

fn format() -> Value {
    json!({ "type": "json_schema", "json_schema": { "name": "answer", "schema": object("answer"), "strict": true } })
}

async fn message(routes: &Router, fields: Value) -> Value {
    let mut body = json!({ "temperature": 2, "max_tokens": 120 });
    body.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
    let reply = chat(routes, &chat_body(body)).await;
    assert_eq!(reply.status, 200, "{}", reply.text);
    reply.json()["choices"][0]["message"].clone()
}

/// The number that a text of one member says.
fn number(text: &Value, name: &str) -> u64 {
    let value: Value = serde_json::from_str(text.as_str().unwrap()).unwrap();
    assert_eq!(value.as_object().unwrap().len(), 1, "{value}");
    value[name].as_u64().filter(|number| (1..10).contains(number)).unwrap_or_else(|| panic!("{value}"))
}

/// As OpenAI has it: the model calls, or its answer has the format; whatever the tools promise.
#[tokio::test]
async fn an_answer_beside_tools_may_have_a_format() {
    let routes = routes();
    for strict in [true, false] {
        let tools = json!([tool(&object("days"), strict)]);
        for first in ['<', '{'] {
            let bias = json!({ (BYTE_OFFSET + u32::from(first)).to_string(): 100 });
            let fields = json!({ "tools": tools, "response_format": format(), "logit_bias": bias });
            let message = message(&routes, fields).await;
            match (first, message.get("tool_calls")) {
                ('<', Some(calls)) => number(&calls[0]["function"]["arguments"], "days"),
                ('{', None) => number(&message["content"], "answer"),
                _ => panic!("{message}"),
            };
        }
        // A call that has to be made is one; one that cannot be made is none.
        let fields = json!({ "tools": tools, "response_format": format(), "tool_choice": "required" });
        number(&message(&routes, fields).await["tool_calls"][0]["function"]["arguments"], "days");
        let fields = json!({ "tools": tools, "response_format": format(), "tool_choice": "none" });
        number(&message(&routes, fields).await["content"], "answer");
    }
    // In responses, too.
    let tools = json!([{ "type": "function", "name": "forecast", "parameters": object("days") }]);
    let text = json!({ "format": { "type": "json_schema", "name": "answer", "schema": object("answer") } });
    for choice in [json!("auto"), json!("required"), json!({ "type": "function", "name": "forecast" })] {
        let body = json!({ "input": "hello", "tools": tools, "text": text, "tool_choice": choice });
        let reply = post(&routes, "/v1/responses", body.to_string()).await;
        assert_eq!(reply.status, 200, "{}", reply.text);
        let item = &reply.json()["output"][0];
        match item["type"].as_str() {
            Some("function_call") => number(&item["arguments"], "days"),
            _ if choice == "auto" => number(&item["content"][0]["text"], "answer"),
            _ => panic!("{item}"),
        };
    }
}

/// Without `strict`, arguments are held to as much of their schema as can be; with it, the keyword is refused.
#[tokio::test]
async fn schemas_of_tools_are_held_as_far_as_they_promise() {
    let routes = routes();
    let mut parameters = object("days");
    parameters["properties"]["tags"] =
        json!({ "type": "array", "items": { "type": "string" }, "uniqueItems": true });
    let fields = |strict| json!({ "tools": [tool(&parameters, strict)], "tool_choice": "required", "max_tokens": 200, "seed": 3 });
    let arguments = message(&routes, fields(false)).await["tool_calls"][0]["function"]["arguments"].clone();
    let days = serde_json::from_str::<Value>(arguments.as_str().unwrap());
    assert!(days.is_ok_and(|value| (1..10).contains(&value["days"].as_u64().unwrap())), "{arguments}");
    let reply = chat(&routes, &chat_body(fields(true))).await;
    assert_eq!((reply.status.as_u16(), &reply.json()["error"]["param"]), (400, &json!("tools")));
    assert!(reply.text.contains("uniqueItems"), "{}", reply.text);
}

/// vLLM's field: what the model thinks of the prompt, by ids, in chats and completions.
#[tokio::test]
async fn prompts_are_scored() {
    let routes = routes();
    let reply =
        complete(&routes, &completion_body(json!({ "prompt": "hello", "prompt_logprobs": 2, "n": 2 })))
            .await
            .json();
    let echoed =
        complete(&routes, &completion_body(json!({ "prompt": "hello", "echo": true, "logprobs": 2 })))
            .await
            .json();
    let expected = echoed["choices"][0]["logprobs"]["token_logprobs"].as_array().unwrap();
    for choice in reply["choices"].as_array().unwrap() {
        let scores = choice["prompt_logprobs"].as_array().unwrap();
        assert_eq!((scores.len(), &scores[0]), (6, &Value::Null));
        for (index, score) in scores.iter().enumerate().skip(1) {
            let id = BYTE_OFFSET + u32::from(b"hello"[index - 1]);
            let own = &score[id.to_string()];
            assert_eq!(own["logprob"], expected[index], "{score}");
            assert_eq!(own["decoded_token"], format!("{}", char::from(b"hello"[index - 1])));
            let ranks: Vec<&Value> =
                score.as_object().unwrap().values().map(|score| &score["rank"]).collect();
            assert_eq!(ranks[..2], [&json!(1), &json!(2)], "{score}");
        }
        assert!(choice["logprobs"].is_null());
    }
    let reply = chat(&routes, &chat_body(json!({ "prompt_logprobs": 0 }))).await.json();
    assert_eq!(reply["prompt_logprobs"].as_array().unwrap().len(), 25);
    let streamed = chat(&routes, &chat_body(json!({ "prompt_logprobs": 0, "stream": true }))).await;
    assert_eq!(streamed.json()["error"]["param"], "prompt_logprobs");
}
