//! What the API offers beyond one plain answer.

use std::num::NonZeroUsize;

use axum::Router;
use serde_json::{Value, json};
use sparkv_engine::{EngineConfig, GenerateRequest, Prompt};
use sparkv_models::fake::{self, BOS, BYTE_OFFSET, EOS, FakeConfig};

use crate::support::*;

fn fake_config() -> FakeConfig {
    // Calls have lines.
    let says = BYTE_OFFSET + u32::from(b'\n')..BYTE_OFFSET + 0x7f;
    // Tools take many tokens where each byte is one.
    FakeConfig { context_length: 2048, says, ..FakeConfig::default() }
}

fn routes() -> Router {
    let engine = EngineConfig { max_running: NonZeroUsize::new(8).unwrap(), ..EngineConfig::default() };
    let fake = fake_config();
    Setup { engine, fake, max_queue: 64, ..Setup::default() }.routes()
}

async fn answer(routes: &Router, extra: Value) -> Value {
    let reply = chat(routes, &chat_body(extra)).await;
    assert_eq!(reply.status, 200, "{}", reply.text);
    reply.json()
}

async fn completion(routes: &Router, extra: Value) -> Value {
    let reply = complete(routes, &completion_body(extra)).await;
    assert_eq!(reply.status, 200, "{}", reply.text);
    reply.json()
}

fn texts(body: &Value) -> Vec<String> {
    let choices = body["choices"].as_array().unwrap();
    let indexes: Vec<u64> = choices.iter().map(|choice| choice["index"].as_u64().unwrap()).collect();
    assert_eq!(indexes, (0..choices.len() as u64).collect::<Vec<_>>());
    let text = |choice: &Value| {
        let text = choice.pointer("/message/content").or(choice.get("text")).unwrap();
        text.as_str().unwrap().to_owned()
    };
    choices.iter().map(text).collect()
}

/// The texts of a streamed answer's choices, put together.
fn streamed(chunks: &[Value], choices: usize) -> Vec<String> {
    let mut texts = vec![String::new(); choices];
    let mut ended = vec![0; choices];
    for choice in chunks.iter().flat_map(|chunk| chunk["choices"].as_array().unwrap()) {
        let index = choice["index"].as_u64().unwrap() as usize;
        let text = choice.pointer("/delta/content").or(choice.get("text"));
        texts[index] += text.and_then(Value::as_str).unwrap_or_default();
        ended[index] += usize::from(!choice["finish_reason"].is_null());
    }
    assert_eq!(ended, vec![1; choices]);
    texts
}

#[tokio::test]
async fn several_answers_to_several_prompts() {
    let routes = routes();
    let fields = json!({ "n": 3, "temperature": 1, "seed": 4, "ignore_eos": true });
    let three = answer(&routes, fields.clone()).await;
    let all = texts(&three);
    assert!(all[0] != all[1] && all[1] != all[2], "{all:?}");
    assert_eq!(three.pointer("/usage/completion_tokens").unwrap(), 36);
    let one = answer(&routes, json!({ "temperature": 1, "seed": 5, "ignore_eos": true })).await;
    assert_eq!(texts(&one), all[1..2]);
    // The prompt counts once, the caches each.
    assert_eq!(three.pointer("/usage/prompt_tokens"), one.pointer("/usage/prompt_tokens"));
    let bytes = |body: &Value| body.pointer("/usage/kv_cache/dense_bytes").unwrap().as_u64().unwrap();
    assert_eq!(bytes(&three), 3 * bytes(&one));
    let mut fields = fields;
    fields["stream"] = json!(true);
    fields["stream_options"] = json!({ "include_usage": true });
    let chunks = chunks(&chat(&routes, &chat_body(fields)).await);
    assert_eq!(streamed(&chunks, 3), all);
    assert_eq!(chunks.last().unwrap().pointer("/usage/completion_tokens").unwrap(), 36);

    let fields = json!({ "prompt": ["one", "two"], "n": 2, "temperature": 1, "seed": 4, "ignore_eos": true });
    let four = completion(&routes, fields).await;
    assert_eq!(texts(&four).len(), 4);
    let two = json!({ "prompt": "two", "n": 2, "temperature": 1, "seed": 4, "ignore_eos": true });
    let two = completion(&routes, two).await;
    assert_eq!(texts(&two), texts(&four)[2..]);
    assert_eq!(four.pointer("/usage/prompt_tokens").unwrap(), 8);
}

#[tokio::test]
async fn more_answers_than_may_wait_are_refused_together() {
    let routes = Setup { max_queue: 4, ..Setup::default() }.routes();
    let reply = chat(&routes, &chat_body(json!({ "n": 20 }))).await;
    assert_eq!((reply.status.as_u16(), reply.json()["error"]["code"].as_str()), (429, Some("queue_full")));
    // Nothing of them is left in the queue.
    assert_eq!(texts(&answer(&routes, json!({})).await).len(), 1);
}

#[tokio::test]
async fn echo_puts_the_prompt_in_front() {
    let routes = routes();
    let plain = texts(&completion(&routes, json!({})).await);
    let fields = json!({ "echo": true, "n": 2 });
    let echoed = texts(&completion(&routes, fields.clone()).await);
    assert_eq!(echoed, vec![format!("hello{}", plain[0]); 2]);
    let mut stream = fields;
    stream["stream"] = json!(true);
    assert_eq!(streamed(&chunks(&complete(&routes, &completion_body(stream)).await), 2), echoed);
    let ids: Vec<u32> =
        [BOS].into_iter().chain(b"hello".iter().map(|&b| BYTE_OFFSET + u32::from(b))).collect();
    let of_tokens = texts(&completion(&routes, json!({ "echo": true, "prompt": ids })).await);
    assert_eq!(of_tokens, [format!("<s>hello{}", plain[0])]);
}

/// As evaluations ask how likely a text is to the model.
#[tokio::test]
async fn echo_with_logprobs_tells_how_likely_the_prompt_is() {
    let routes = routes();
    let ids: Vec<u32> =
        [BOS].into_iter().chain(b"hello".iter().map(|&b| BYTE_OFFSET + u32::from(b))).collect();
    let config = fake_config();
    let expected = |index: usize| {
        let logits = fake::logits(&config, &ids[..index]);
        let sum: f64 = logits.iter().map(|&logit| f64::from(logit).exp()).sum();
        f64::from(logits[ids[index] as usize]) - sum.ln()
    };
    // What is in the prefix cache has no logits any more.
    completion(&routes, json!({})).await;
    for (prompt, begins) in [(json!("hello"), 0), (json!(ids), "<s>".len())] {
        let fields = json!({ "echo": true, "logprobs": 1, "max_tokens": 1, "prompt": prompt });
        let body = completion(&routes, fields.clone()).await;
        let logprobs = &body["choices"][0]["logprobs"];
        let list = |name: &str| logprobs[name].as_array().unwrap().clone();
        assert_eq!(list("tokens")[..6], ["<s>", "h", "e", "l", "l", "o"].map(Value::from));
        assert_eq!(
            [list("token_logprobs")[0].clone(), list("top_logprobs")[0].clone()],
            [Value::Null, Value::Null]
        );
        for index in 1..6 {
            let got = list("token_logprobs")[index].as_f64().unwrap();
            assert!((got - expected(index)).abs() < 1e-4, "{index}: {got} is not {}", expected(index));
            let top = list("top_logprobs")[index].as_object().unwrap().clone();
            assert!(top.len() <= 2 && top.values().all(|logprob| logprob.as_f64().unwrap() >= got - 1e-6));
        }
        let offsets: Vec<usize> = [0].into_iter().chain((0..6).map(|index| begins + index)).collect();
        assert_eq!(logprobs["text_offset"], json!(offsets));
        assert_eq!(["tokens", "token_logprobs", "top_logprobs"].map(|name| list(name).len()), [7; 3]);

        let mut stream = fields;
        stream["stream"] = json!(true);
        let chunks = chunks(&complete(&routes, &completion_body(stream)).await);
        let said: String = chunks.iter().filter_map(|chunk| chunk["choices"][0]["text"].as_str()).collect();
        assert_eq!(said, body["choices"][0]["text"]);
        let tokens =
            chunks.iter().filter_map(|chunk| chunk.pointer("/choices/0/logprobs/token_logprobs")?.as_array());
        assert_eq!(tokens.flatten().cloned().collect::<Vec<_>>(), list("token_logprobs"));
    }
    // One entry for each token asked for, whatever that is.
    let end = json!({ "echo": true, "logprobs": 1, "max_tokens": 1, "logit_bias": { EOS.to_string(): 100 } });
    let body = completion(&routes, end).await;
    assert_eq!(body["choices"][0]["finish_reason"], "stop");
    assert_eq!(body["choices"][0]["logprobs"]["tokens"].as_array().unwrap().len(), 7);
    assert_eq!(body["choices"][0]["text"], "hello");
    let several = json!({ "echo": true, "logprobs": 0, "max_tokens": 0, "prompt": ["hello", "a"], "n": 2 });
    let body = completion(&routes, several).await;
    assert_eq!(texts(&body), ["hello", "hello", "a", "a"]);
    assert_eq!(
        (&body["choices"][3]["finish_reason"], &body["usage"]["completion_tokens"]),
        (&json!("length"), &json!(0))
    );
    assert_eq!(body["choices"][3]["logprobs"]["tokens"], json!(["<s>", "a"]));
}

#[tokio::test]
async fn a_completion_of_no_tokens_computes_the_prompt() {
    let routes = routes();
    let body = completion(&routes, json!({ "max_tokens": 0 })).await;
    assert_eq!(
        (&body["choices"][0]["text"], &body["choices"][0]["finish_reason"]),
        (&json!(""), &json!("length"))
    );
    assert_eq!(body["choices"][0]["logprobs"], Value::Null);
    assert_eq!(body["usage"]["prompt_tokens"], 6);
    assert_eq!(texts(&completion(&routes, json!({ "max_tokens": 0, "echo": true })).await), ["hello"]);
    let reply = chat(&routes, &chat_body(json!({ "max_tokens": 0 }))).await;
    assert_eq!((reply.status.as_u16(), &reply.json()["error"]["param"]), (400, &json!("max_tokens")));
}

#[tokio::test]
async fn log_probabilities_of_chats_and_completions() {
    let routes = routes();
    let body = answer(&routes, json!({ "logprobs": true, "top_logprobs": 3, "ignore_eos": true })).await;
    let content = body.pointer("/choices/0/logprobs/content").unwrap().as_array().unwrap();
    assert_eq!(content.len(), 12);
    let mut bytes = Vec::new();
    for token in content {
        let top = token["top_logprobs"].as_array().unwrap();
        assert_eq!((top.len(), &top[0]["token"]), (3, &token["token"]), "greedy takes the likeliest");
        assert!(top[0]["logprob"].as_f64().unwrap() >= top[1]["logprob"].as_f64().unwrap());
        bytes.extend(token["bytes"].as_array().unwrap().iter().map(|byte| byte.as_u64().unwrap() as u8));
    }
    assert_eq!(String::from_utf8_lossy(&bytes), texts(&body)[0]);
    assert!(answer(&routes, json!({ "logprobs": false })).await["choices"][0]["logprobs"].is_null());
    let stream = chat_body(json!({ "logprobs": true, "ignore_eos": true, "stream": true }));
    let tokens: usize = chunks(&chat(&routes, &stream).await)
        .iter()
        .filter_map(|chunk| chunk.pointer("/choices/0/logprobs/content")?.as_array())
        .map(Vec::len)
        .sum();
    assert_eq!(tokens, 12);

    let body = completion(&routes, json!({ "logprobs": 2, "ignore_eos": true })).await;
    let logprobs = &body["choices"][0]["logprobs"];
    let list = |name: &str| logprobs[name].as_array().unwrap().clone();
    assert_eq!(
        (list("tokens").len(), list("token_logprobs").len(), list("top_logprobs").len()),
        (12, 12, 12)
    );
    assert_eq!(list("text_offset")[..3], [json!(0), json!(1), json!(2)]);
    assert_eq!(list("top_logprobs")[0].as_object().unwrap().len(), 2);
}

#[tokio::test]
async fn tokens_are_forced_forbidden_and_awaited() {
    let routes = routes();
    let b = BYTE_OFFSET + u32::from(b'b');
    let forced = answer(&routes, json!({ "logit_bias": { (b.to_string()): 100 } })).await;
    assert_eq!(texts(&forced), ["b".repeat(12)]);
    // With the token that ends an answer forced, it ends as soon as it may.
    let end = EOS.to_string();
    let least = json!({ "logit_bias": { (end.clone()): 100 }, "min_tokens": 5 });
    let least = answer(&routes, least).await;
    assert_eq!(least.pointer("/usage/completion_tokens").unwrap(), 6);
    assert_eq!(least.pointer("/choices/0/finish_reason").unwrap(), "stop");
    let stopped = json!({ "logit_bias": { (b.to_string()): 100 }, "stop_token_ids": [b] });
    let stopped = answer(&routes, stopped).await;
    assert_eq!(
        (texts(&stopped), &stopped["choices"][0]["finish_reason"]),
        (vec![String::new()], &json!("stop"))
    );
    // A penalty of 2 for each time, against a bias of 10: six times.
    let bias = json!({ (b.to_string()): 10, (end): -100 });
    let plain = texts(&answer(&routes, json!({ "logit_bias": bias })).await)[0].matches('b').count();
    for penalty in ["frequency_penalty", "presence_penalty", "repetition_penalty"] {
        let fields = json!({ "logit_bias": bias, penalty: 2, "max_tokens": 60 });
        let text = &texts(&answer(&routes, fields).await)[0];
        assert!(text.contains(|c: char| c != 'b') || penalty == "presence_penalty", "{penalty}: {text}");
        assert!(plain == 12, "{plain}");
    }
}

#[tokio::test]
async fn formats_hold_however_they_are_asked_for() {
    let routes = routes();
    let schema = json!({ "type": "object", "properties": { "a": { "type": "integer", "maximum": 99, "minimum": 0 } },
        "required": ["a"], "additionalProperties": false });
    let json_schema = json!({ "name": "a", "strict": true, "schema": schema });
    for (field, value) in [
        ("response_format", json!({ "type": "json_schema", "json_schema": json_schema })),
        ("guided_json", schema.clone()),
        ("guided_json", json!(schema.to_string())),
        ("structured_outputs", json!({ "json": schema })),
    ] {
        let text = &texts(&answer(&routes, json!({ field: value, "max_tokens": 40 })).await)[0];
        let value: Value = serde_json::from_str(text).unwrap();
        assert!(value["a"].as_u64().unwrap() < 100, "{field}: {text}");
    }
    for (field, value) in [
        ("response_format", json!({ "type": "regex", "regex": "x[0-9]{3}" })),
        ("response_format", json!({ "type": "lark", "lark": "start: \"x\" /[0-9]{3}/" })),
        ("guided_regex", json!("x[0-9]{3}")),
        ("guided_choice", json!(["x123", "x456"])),
        ("guided_grammar", json!("start: \"x\" /[0-9]{3}/")),
        ("structured_outputs", json!({ "choice": ["x123", "x456"] })),
    ] {
        for body in [
            answer(&routes, json!({ field: value })).await,
            completion(&routes, json!({ field: value })).await,
        ] {
            let text = &texts(&body)[0];
            assert!(text.len() == 4 && text.starts_with('x') && text[1..].parse::<u32>().is_ok(), "{text}");
            assert_eq!(body["choices"][0]["finish_reason"], "stop");
        }
    }
    let text = &texts(&answer(&routes, json!({ "response_format": { "type": "json_object" } })).await)[0];
    assert!(text.starts_with('{'), "{text}");
}

fn tools() -> Value {
    let parameters = json!({ "type": "object", "properties": { "days": { "type": "integer", "minimum": 1, "maximum": 9 } },
        "required": ["days"], "additionalProperties": false });
    let tool = |name: &str| json!({ "type": "function", "function": { "name": name, "description": "d", "parameters": parameters, "strict": true } });
    json!([tool("forecast"), tool("history")])
}

#[tokio::test]
async fn tools_are_called() {
    let routes = routes();
    let named = json!({ "type": "function", "function": { "name": "history" } });
    for (choice, names) in [(json!("required"), &["forecast", "history"][..]), (named, &["history"])] {
        let fields = json!({ "tools": tools(), "tool_choice": choice, "parallel_tool_calls": false,
            "temperature": 1, "seed": 3, "max_tokens": 120 });
        let body = answer(&routes, fields.clone()).await;
        let choice = &body["choices"][0];
        assert_eq!(
            (&choice["finish_reason"], &choice["message"]["content"]),
            (&json!("tool_calls"), &Value::Null)
        );
        let calls = choice["message"]["tool_calls"].as_array().unwrap();
        assert_eq!((calls.len(), &calls[0]["type"]), (1, &json!("function")));
        let id = calls[0]["id"].as_str().unwrap();
        assert!(id.len() == 9 && id.bytes().all(|byte| byte.is_ascii_alphanumeric()), "{id}");
        let function = &calls[0]["function"];
        assert!(names.contains(&function["name"].as_str().unwrap()), "{function}");
        let arguments: Value = serde_json::from_str(function["arguments"].as_str().unwrap()).unwrap();
        assert!((1..10).contains(&arguments["days"].as_u64().unwrap()));
        // Streamed, the same in pieces.
        let mut fields = fields;
        fields["stream"] = json!(true);
        let chunks = chunks(&chat(&routes, &chat_body(fields)).await);
        let deltas: Vec<&Value> =
            chunks.iter().filter_map(|chunk| chunk.pointer("/choices/0/delta/tool_calls/0")).collect();
        assert_eq!(deltas[0]["function"]["name"], function["name"]);
        assert!(
            deltas.iter().all(|delta| delta["index"] == 0)
                && deltas[1..].iter().all(|d| d.get("id").is_none())
        );
        let pieces: String = deltas.iter().map(|d| d["function"]["arguments"].as_str().unwrap()).collect();
        assert_eq!(pieces, function["arguments"].as_str().unwrap());
        assert_eq!(chunks.last().unwrap().pointer("/choices/0/finish_reason").unwrap(), "tool_calls");
    }
    // A free choice under a promise is one or the other; without tools there is nothing to find.
    let free = answer(&routes, json!({ "tools": tools(), "max_tokens": 120 })).await;
    let message = &free["choices"][0]["message"];
    assert!(message["content"].is_string() != message.get("tool_calls").is_some(), "{message}");
    let none = answer(&routes, json!({ "tools": tools(), "tool_choice": "none" })).await;
    let plain = answer(&routes, json!({})).await;
    assert_eq!(texts(&none), texts(&plain));
}

#[tokio::test]
async fn calls_and_their_answers_are_part_of_the_conversation() {
    let routes = routes();
    let call = json!({ "id": "c1", "type": "function", "function": { "name": "forecast", "arguments": "{\"days\": 3}" } });
    let messages = json!([
        { "role": "user", "content": "Rain?" },
        { "role": "assistant", "content": null, "tool_calls": [call] },
        { "role": "tool", "tool_call_id": "c1", "content": [{ "type": "text", "text": "none" }] },
    ]);
    let body = json!({ "messages": messages, "tools": tools() });
    let prompt = post(&routes, "/apply-template", body.to_string()).await.json()["prompt"].clone();
    let prompt = prompt.as_str().unwrap();
    for part in ["\"forecast\"", "<tool_call>", "\"days\":3", "<tool_response>\nnone", "[assistant]"] {
        assert!(prompt.contains(part), "{part} is not in {prompt}");
    }
    answer(&routes, json!({ "messages": messages, "tools": tools(), "tool_choice": "none" })).await;
}

#[tokio::test]
async fn a_message_is_continued() {
    let routes = routes();
    let messages =
        json!([{ "role": "user", "content": "Well?" }, { "role": "assistant", "content": "It is" }]);
    let fields =
        json!({ "messages": messages, "add_generation_prompt": false, "continue_final_message": true });
    let rendered = post(&routes, "/apply-template", fields.to_string()).await.json();
    assert!(rendered["prompt"].as_str().unwrap().ends_with("[assistant] It is"), "{rendered}");
    let body = answer(&routes, fields).await;
    let prompt = rendered["prompt"].as_str().unwrap().strip_prefix("<s>").unwrap();
    assert_eq!(texts(&body), texts(&completion(&routes, json!({ "prompt": prompt })).await));
}

#[tokio::test]
async fn template_arguments_reach_the_template() {
    let template = "{{ messages[0].content }}{% if loud %}!{% endif %}";
    let routes = Setup { chat_template: Some(template), ..Setup::default() }.routes();
    let rendered = |kwargs: Value| {
        let body =
            json!({ "messages": [{ "role": "user", "content": "hey" }], "chat_template_kwargs": kwargs });
        let routes = routes.clone();
        async move { post(&routes, "/apply-template", body.to_string()).await.json()["prompt"].clone() }
    };
    assert_eq!(rendered(json!({})).await, "hey");
    assert_eq!(rendered(json!({ "loud": true })).await, "hey!");
}

#[tokio::test]
async fn tokens_to_and_fro() {
    let routes = routes();
    let ask = |path: &'static str, body: Value| {
        let routes = routes.clone();
        async move { post(&routes, path, body.to_string()).await }
    };
    let info = get(&routes, "/tokenizer_info").await.json();
    assert_eq!((&info["bos_token"], &info["eos_token"]), (&json!("<s>"), &json!("</s>")));
    assert_eq!((&info["model_max_length"], info["chat_template"].is_string()), (&json!(2048), true));
    let tokens = ask("/tokenize", json!({ "prompt": "h\u{e9}", "return_token_strs": true })).await.json();
    let byte = |byte: u8| BYTE_OFFSET + u32::from(byte);
    assert_eq!(tokens["tokens"], json!([BOS, byte(b'h'), byte(0xc3), byte(0xa9)]));
    assert_eq!(tokens["token_strs"], json!(["<s>", "h", "\u{fffd}", "\u{fffd}"]));
    assert_eq!((&tokens["count"], &tokens["max_model_len"]), (&json!(4), &json!(2048)));
    let text = ask("/detokenize", json!({ "tokens": tokens["tokens"] })).await.json();
    assert_eq!(text, json!({ "prompt": "<s>h\u{e9}" }));
    let plain = ask("/tokenize", json!({ "prompt": "h", "add_special_tokens": false })).await.json();
    assert_eq!((&plain["tokens"], &plain["token_strs"]), (&json!([byte(b'h')]), &Value::Null));
    // llama.cpp's words: no special tokens unless asked for, and pieces that may be no text.
    let content = ask("/tokenize", json!({ "content": "h", "parse_special": true })).await.json();
    assert_eq!(content["tokens"], json!([byte(b'h')]));
    let pieces = json!({ "content": "h\u{e9}", "add_special": true, "with_pieces": true });
    assert_eq!(
        ask("/tokenize", pieces).await.json()["tokens"],
        json!([
            { "id": BOS, "piece": "<s>" }, { "id": byte(b'h'), "piece": "h" },
            { "id": byte(0xc3), "piece": [0xc3] }, { "id": byte(0xa9), "piece": [0xa9] },
        ])
    );
    let messages = json!([{ "role": "user", "content": "hello" }]);
    let chat = ask("/tokenize", json!({ "messages": messages })).await.json();
    assert_eq!(&chat["count"], answer(&routes, json!({})).await.pointer("/usage/prompt_tokens").unwrap());
    for (path, body, param) in [
        ("/tokenize", json!({}), "prompt"),
        ("/tokenize", json!({ "prompt": "a", "messages": messages }), "prompt"),
        ("/tokenize", json!({ "prompt": "a", "content": "a" }), "prompt"),
        ("/tokenize", json!({ "content": "a", "parse_special": false }), "parse_special"),
        ("/tokenize", json!({ "prompt": "a", "colour": "red" }), "colour"),
        ("/detokenize", json!({ "tokens": [1, 9999] }), "tokens"),
        ("/detokenize", json!({}), "tokens"),
        ("/apply-template", json!({ "messages": [] }), "messages"),
    ] {
        let reply = ask(path, body).await;
        assert_eq!(
            (reply.status.as_u16(), reply.json()["error"]["param"].as_str()),
            (400, Some(param)),
            "{path}"
        );
    }
}

#[tokio::test]
async fn a_full_queue_turns_away_who_wants_tokens() {
    let (server, engine, probe) = Setup { max_queue: 1, ..Setup::default() }.server();
    probe.gate().close();
    let request = || GenerateRequest::new(Prompt::Text("hello".to_owned()));
    let mut waiting = Vec::new();
    while let Ok(stream) = engine.generate(request()) {
        waiting.push(stream);
    }
    let reply = post(&server.router(), "/tokenize", json!({ "prompt": "a" }).to_string()).await;
    assert_eq!((reply.status.as_u16(), reply.json()["error"]["code"].as_str()), (429, Some("queue_full")));
    probe.gate().open();
}
