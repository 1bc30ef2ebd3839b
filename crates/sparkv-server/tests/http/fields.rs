//! Every field that is honoured has an effect.

use std::num::NonZeroUsize;

use serde_json::{Value, json};
use sparkv::KvOptions;
use sparkv_engine::{EngineConfig, GenerationDefaults, SamplingParams};
use sparkv_models::fake::{BOS, BYTE_OFFSET, EOS, FakeConfig, greedy};
use sparkv_server::UnknownFields;

use crate::support::*;

async fn completion(routes: &axum::Router, extra: Value) -> Value {
    let reply = complete(routes, &completion_body(extra)).await;
    assert_eq!(reply.status, 200, "{}", reply.text);
    reply.json()
}

async fn chat_answer(routes: &axum::Router, extra: Value) -> Value {
    let reply = chat(routes, &chat_body(extra)).await;
    assert_eq!(reply.status, 200, "{}", reply.text);
    reply.json()
}

fn text(completion: &Value) -> &str {
    completion.pointer("/choices/0/text").unwrap().as_str().unwrap()
}

fn tokens_of(text: &str) -> Vec<u32> {
    text.bytes().map(|byte| BYTE_OFFSET + u32::from(byte)).collect()
}

fn text_of(tokens: &[u32]) -> String {
    tokens.iter().filter(|&&id| id >= BYTE_OFFSET).map(|&id| char::from((id - BYTE_OFFSET) as u8)).collect()
}

#[tokio::test]
async fn prompts_in_all_their_forms() {
    let routes = Setup::default().routes();
    let prompt: Vec<u32> = [BOS].into_iter().chain(tokens_of("hello")).collect();
    let expected = text_of(&greedy(&FakeConfig::default(), &prompt, 12));
    for form in [json!("hello"), json!(["hello"]), json!(prompt), json!([prompt])] {
        assert_eq!(text(&completion(&routes, json!({ "prompt": form })).await), expected, "{form}");
    }
}

#[tokio::test]
async fn messages_go_through_the_chat_template() {
    let routes = Setup::default().routes();
    let prompt = "[system] be brief\n[user] hel\nlo\n[assistant] hi\n[user] bye\n[assistant]";
    let prompt: Vec<u32> = [BOS].into_iter().chain(tokens_of(prompt)).collect();
    let expected = text_of(&greedy(&FakeConfig::default(), &prompt, 12));
    // The second message is an answer of this API, sent back with its empty fields.
    let messages = json!([
        { "role": "developer", "content": "be brief" },
        { "role": "user", "content": [{ "type": "text", "text": "hel" }, { "type": "text", "text": "lo" }] },
        { "role": "assistant", "content": "hi", "refusal": null, "tool_calls": [] },
        { "role": "user", "content": "bye" },
    ]);
    let answer = chat(&routes, &chat_body(json!({ "messages": messages }))).await.json();
    assert_eq!(answer.pointer("/choices/0/message/content").unwrap(), &expected);
    assert_eq!(answer.pointer("/usage/prompt_tokens").unwrap(), prompt.len());
}

#[tokio::test]
async fn what_a_request_does_not_say_is_as_the_operator_has_it() {
    let sampling = SamplingParams { temperature: 0.0, top_p: 0.5, ..SamplingParams::default() };
    let generation = GenerationDefaults { max_tokens: NonZeroUsize::new(7).unwrap(), sampling };
    let routes = Setup { generation, ..Setup::default() }.routes();
    let body = |fields: Value| {
        let mut body =
            chat_body(json!({ "ignore_eos": true, "max_tokens": null, "temperature": null, "seed": null }));
        body.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
        body
    };
    let answer = chat(&routes, &body(json!({}))).await.json();
    assert_eq!(answer.pointer("/usage/completion_tokens").unwrap(), 7);
    assert_eq!(answer.pointer("/choices/0/finish_reason").unwrap(), "length");
    let greedy = chat(&routes, &body(json!({ "temperature": 0 }))).await.json();
    assert_eq!(answer["choices"][0]["message"], greedy["choices"][0]["message"]);
    // Tokens that have to come first move the bound.
    let longer = chat(&routes, &body(json!({ "ignore_eos": false, "min_tokens": 9 }))).await.json();
    assert_eq!(longer.pointer("/usage/completion_tokens").unwrap(), 9);
    let response = post(&routes, "/v1/responses", json!({ "input": "hello" }).to_string()).await.json();
    assert_eq!((&response["temperature"], &response["top_p"]), (&json!(0.0), &json!(0.5)));
}

#[tokio::test]
async fn an_answer_that_repeats_itself_ends() {
    let routes = Setup::default().routes();
    let ask = async |detection: Value| {
        let id = (BYTE_OFFSET + 0x40).to_string();
        let fields =
            json!({ "logit_bias": { id: 100 }, "max_tokens": 100, "repetition_detection": detection });
        completion(&routes, fields).await
    };
    for (detection, tokens) in [
        (json!(null), 100),
        (json!({ "max_pattern_size": 0, "min_count": 2 }), 100),
        (json!({ "max_pattern_size": 4, "min_pattern_size": 4, "min_count": 3 }), 12),
    ] {
        let answer = ask(detection).await;
        assert_eq!(answer.pointer("/usage/completion_tokens").unwrap(), tokens);
        assert_eq!(answer.pointer("/choices/0/finish_reason").unwrap(), "length");
    }
    let wrong = json!({ "repetition_detection": { "max_pattern_size": 4, "min_count": 1 } });
    let reply = complete(&routes, &completion_body(wrong)).await.json();
    assert_eq!(reply["error"]["param"], "repetition_detection");
}

#[tokio::test]
async fn lengths() {
    let routes = Setup::default().routes();
    let fields = json!({ "ignore_eos": true, "max_tokens": 200 });
    let answer = completion(&routes, fields).await;
    assert_eq!(answer.pointer("/usage/completion_tokens").unwrap(), 200);
    assert_eq!(answer.pointer("/choices/0/finish_reason").unwrap(), "length");

    // No limit in the request: 16 tokens of a completion, the rest of the context for a chat.
    let answer = completion(&routes, json!({ "ignore_eos": true, "max_tokens": null })).await;
    assert_eq!(answer.pointer("/usage/completion_tokens").unwrap(), 16);
    // Of 16 tokens that nobody asked for, those that fit; a number that somebody asked for has to fit.
    let prompt = json!({ "prompt": vec![BYTE_OFFSET + 0x40; 250], "ignore_eos": true, "max_tokens": null });
    let answer = completion(&routes, prompt.clone()).await;
    assert_eq!(answer.pointer("/usage/completion_tokens").unwrap(), 6);
    let mut asked = prompt;
    asked["max_tokens"] = json!(16);
    assert_eq!(complete(&routes, &completion_body(asked)).await.json()["error"]["param"], "max_tokens");

    let body = chat_body(json!({ "ignore_eos": true, "max_tokens": null }));
    let answer = chat(&routes, &body).await.json();
    assert_eq!(answer.pointer("/usage/total_tokens").unwrap(), FakeConfig::default().context_length);

    for same in [
        json!({ "max_completion_tokens": 5, "max_tokens": null }),
        json!({ "max_completion_tokens": 5, "max_tokens": 5 }),
    ] {
        let answer = chat(&routes, &chat_body(same)).await.json();
        assert_eq!(answer.pointer("/usage/completion_tokens").unwrap(), 5);
    }
}

#[tokio::test]
async fn the_end_token_ends_an_answer_unless_ignored() {
    let routes = Setup::default().routes();
    let config = FakeConfig::default();
    // A prompt after which the model ends soon.
    let prompt = (0..)
        .map(|i| format!("prompt {i}"))
        .find(|prompt| {
            let tokens: Vec<u32> = [BOS].into_iter().chain(tokens_of(prompt)).collect();
            let answer = greedy(&config, &tokens, 10);
            answer.len() > 1 && answer.len() < 10 && answer.ends_with(&[EOS])
        })
        .unwrap();
    let ended = completion(&routes, json!({ "prompt": prompt })).await;
    assert_eq!(ended.pointer("/choices/0/finish_reason").unwrap(), "stop");
    let ignored = completion(&routes, json!({ "prompt": prompt, "ignore_eos": true })).await;
    assert_eq!(ignored.pointer("/choices/0/finish_reason").unwrap(), "length");
    assert!(text(&ignored).starts_with(text(&ended)));
}

#[tokio::test]
async fn stop_strings_cut_the_answer() {
    let routes = Setup::default().routes();
    let whole = completion(&routes, json!({ "ignore_eos": true, "max_tokens": 40 })).await;
    let whole = text(&whole);
    let stop = &whole[20..23];
    let expected = &whole[..whole.find(stop).unwrap()];
    for form in [json!(stop), json!([stop]), json!(["never said, surely", stop])] {
        let answer = completion(&routes, json!({ "ignore_eos": true, "max_tokens": 40, "stop": form })).await;
        assert_eq!(text(&answer), expected);
        assert_eq!(answer.pointer("/choices/0/finish_reason").unwrap(), "stop");
    }
}

#[tokio::test]
async fn sampling_parameters_matter() {
    let routes = Setup::default().routes();
    let sampled = |extra: Value| {
        let mut fields = json!({ "temperature": 1.0, "ignore_eos": true, "max_tokens": 30 });
        fields.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        let routes = routes.clone();
        async move { text(&completion(&routes, fields).await).to_owned() }
    };
    let greedy = sampled(json!({ "temperature": 0 })).await;
    let seven = sampled(json!({ "seed": 7 })).await;
    assert_eq!(sampled(json!({ "seed": 7 })).await, seven);
    assert_ne!(seven, greedy);
    assert_ne!(sampled(json!({ "seed": 8 })).await, seven);
    assert_ne!(sampled(json!({ "seed": -7 })).await, seven);
    assert_eq!(sampled(json!({ "seed": i64::MIN })).await, sampled(json!({ "seed": 1u64 << 63 })).await);
    assert_ne!(sampled(json!({ "seed": 7, "temperature": 0.3 })).await, seven);
    // Whatever leaves only the likeliest token is greedy.
    for narrow in [json!({ "top_k": 1 }), json!({ "top_p": 1e-6 }), json!({ "min_p": 1.0 })] {
        assert_eq!(sampled(narrow.clone()).await, greedy, "{narrow}");
    }
    // And what keeps every token changes nothing.
    for wide in
        [json!({ "top_k": -1 }), json!({ "top_k": 0 }), json!({ "top_p": 1.0 }), json!({ "min_p": 0.0 })]
    {
        let mut fields = wide.clone();
        fields["seed"] = json!(7);
        assert_eq!(sampled(fields).await, seven, "{wide}");
    }
}

#[tokio::test]
async fn kv_cache_of_the_request_else_of_the_server() {
    let preset =
        |answer: &Value| answer.pointer("/usage/kv_cache/preset").unwrap().as_str().unwrap().to_owned();
    let default_kv = KvOptions { preset: Some("balanced".to_owned()), ..KvOptions::default() };
    let routes = Setup { default_kv, ..Setup::default() }.routes();
    assert_eq!(preset(&completion(&routes, json!({})).await), "balanced");
    // Nothing said, three times.
    assert_eq!(preset(&completion(&routes, json!({ "kv_cache": null })).await), "balanced");
    assert_eq!(preset(&completion(&routes, json!({ "kv_cache": {} })).await), "balanced");
    for name in ["exact", "quality", "mine"] {
        let answer = completion(&routes, json!({ "kv_cache": { "preset": name } })).await;
        assert_eq!(preset(&answer), name);
    }
    // The request's object replaces the default as a whole.
    let answer =
        completion(&routes, json!({ "kv_cache": { "window": sparkv::settings::DEFAULT_WINDOW } })).await;
    assert_eq!(answer.pointer("/usage/kv_cache/preset").unwrap(), "custom");
    let spelled_out = json!({ "kv_cache": { "pruning": { "key_ratio": 0.75 }, "precision": "int8" } });
    let answer = completion(&routes, spelled_out).await;
    assert_eq!(preset(&answer), "custom");
    let usage = answer.pointer("/usage/kv_cache").unwrap().as_object().unwrap();
    assert_eq!((&usage["keys"], &usage["values"]), (&json!("int8, 75 % pruned"), &json!("int8")));
    let fields = [
        "preset",
        "keys",
        "values",
        "prompt_tokens",
        "kept_tokens",
        "bytes",
        "dense_bytes",
        "bytes_per_token",
    ];
    assert!(fields.iter().all(|field| usage.contains_key(*field)), "{usage:?}");
}

#[tokio::test]
async fn a_default_that_does_not_suit_is_not_the_client_s_fault() {
    let default_kv = KvOptions { budget: Some(sparkv::Budget::Bytes(1)), ..KvOptions::default() };
    let routes = Setup { default_kv, ..Setup::default() }.routes();
    let reply = complete(&routes, &completion_body(json!({}))).await;
    assert_eq!(reply.status, 400);
    let error = &reply.json()["error"];
    assert_eq!((&error["param"], &error["code"]), (&Value::Null, &json!("default_kv_unsuitable")));
    assert!(error["message"].as_str().unwrap().starts_with("the server's default KV settings"), "{error}");
    // Who asks for the same has only itself to blame.
    let reply = complete(&routes, &completion_body(json!({ "kv_cache": { "budget": 1 } }))).await;
    assert_eq!(reply.status, 400);
    assert!(reply.json()["error"]["param"].as_str().unwrap().starts_with("kv_cache"), "{}", reply.text);
    completion(&routes, json!({ "kv_cache": { "preset": "exact" } })).await;
}

#[tokio::test]
async fn neutral_values_of_unsupported_fields_are_accepted() {
    let routes = Setup::default().routes();
    let expected = chat(&routes, &chat_body(json!({}))).await.json()["choices"].clone();
    let neutral = json!({
        "n": 1, "presence_penalty": 0, "frequency_penalty": 0.0, "logit_bias": {}, "logprobs": false,
        "top_logprobs": 0, "tools": [], "tool_choice": "none", "parallel_tool_calls": true, "functions": [],
        "response_format": { "type": "text" }, "modalities": ["text"], "audio": null, "user": "me",
        "metadata": { "a": "b" }, "store": true, "stream": false,
        "stream_options": { "include_usage": true, "continuous_usage_stats": true }, "seed": null, "stop": null,
        "top_p": null, "max_tokens": 12.0, "whatever": null,
    });
    // What routers and other servers' clients send with every request.
    let of_others = json!({
        "separate_reasoning": true, "stream_reasoning": true, "return_hidden_states": false, "no_stop_trim": false,
        "skip_special_tokens": true, "spaces_between_special_tokens": true, "add_special_tokens": true,
        "include_reasoning": true, "priority": 0, "include_stop_str_in_output": false, "cache_prompt": true,
        "length_penalty": 1, "early_stopping": false, "return_token_ids": false, "use_beam_search": false,
        "typical_p": 1.0, "mirostat": 0, "mirostat_tau": 5.0, "dry_multiplier": 0.0, "xtc_probability": 0.0,
        "top_n_sigma": 0, "repeat_penalty": 1.0, "bad_words": [], "truncate_prompt_tokens": -1, "lora_path": "",
        "detokenize": true, "return_meta_info": false, "vllm_xargs": {}, "echo": false,
    });
    let hints = json!({
        "reasoning_effort": "low", "verbosity": "low", "prompt_cache_key": "a", "safety_identifier": "b",
        "reasoning": { "effort": "low" }, "include": ["usage"], "thinking": { "type": "enabled" },
        "context_management": {}, "cache_control": { "type": "ephemeral" }, "request_id": "r", "service_tier": "flex",
        "prediction": { "type": "content", "content": "a" }, "cache_salt": "c",
    });
    for neutral in [neutral, of_others, hints] {
        let reply = chat(&routes, &chat_body(neutral)).await;
        assert_eq!(reply.status, 200, "{}", reply.text);
        assert_eq!(reply.json()["choices"], expected);
    }
    let neutral = json!({ "echo": false, "best_of": 1, "suffix": null, "logprobs": null, "n": null, "stop": [],
            "skip_special_tokens": true, "no_stop_trim": false, "return_hidden_states": false, "add_special_tokens": true });
    assert_eq!(complete(&routes, &completion_body(neutral)).await.status, 200);
}

/// A preset's name says the same as the object that names it.
#[tokio::test]
async fn kv_cache_may_be_a_preset_s_name() {
    let routes = Setup::default().routes();
    let named = chat_answer(&routes, json!({ "kv_cache": "balanced" })).await;
    let spelled_out = chat_answer(&routes, json!({ "kv_cache": { "preset": "balanced" } })).await;
    assert_eq!(named["choices"], spelled_out["choices"]);
    assert_eq!(named["usage"], spelled_out["usage"]);
    assert_eq!(named.pointer("/usage/kv_cache/preset").unwrap(), "balanced");
}

#[tokio::test]
async fn usage_may_come_with_every_chunk() {
    let routes = Setup::default().routes();
    let everywhere = json!({ "include_usage": true, "continuous_usage_stats": true });
    let fields = json!({ "n": 2, "stream": true, "stream_options": everywhere, "ignore_eos": true });
    for (reply, prompt_tokens) in [
        (chat(&routes, &chat_body(fields.clone())).await, 25),
        (complete(&routes, &completion_body(fields)).await, 6),
    ] {
        let chunks = chunks(&reply);
        let count = |chunk: &Value, name: &str| chunk["usage"][name].as_u64().unwrap();
        let counts: Vec<u64> = chunks.iter().map(|chunk| count(chunk, "completion_tokens")).collect();
        assert!(counts.is_sorted() && counts.last() == Some(&24), "{counts:?}");
        assert!(counts.iter().filter(|&&count| count > 0 && count < 24).count() >= 12, "{counts:?}");
        let last = chunks.last().unwrap();
        assert_eq!(
            (count(last, "prompt_tokens"), last["choices"].as_array().unwrap().len()),
            (prompt_tokens, 0)
        );
        assert!(last["usage"]["kv_cache"].is_object() && chunks[3]["usage"].get("kv_cache").is_none());
    }
}

/// Whoever does not know the salt cannot learn, by how long an answer takes, what others sent.
#[tokio::test]
async fn a_salt_keeps_prefixes_apart() {
    let engine = EngineConfig { max_running: NonZeroUsize::MIN, ..EngineConfig::default() };
    let routes = Setup { engine, ..Setup::default() }.routes();
    let prompt =
        "the same words at the beginning of all of these prompts, and long enough to be kept for others";
    let cached = async |salt: Value| {
        let body = completion(&routes, json!({ "prompt": prompt, "cache_salt": salt })).await;
        body.pointer("/usage/prompt_tokens_details/cached_tokens").unwrap().as_u64().unwrap()
    };
    assert_eq!(cached(Value::Null).await, 0);
    let shared = cached(Value::Null).await;
    assert!(shared > 32, "{shared}");
    for salt in ["a", "b"] {
        assert_eq!((cached(json!(salt)).await, cached(json!(salt)).await), (0, shared));
    }
    assert_eq!(cached(Value::Null).await, shared);
}

/// Without its unknown fields, a request is what it would be without them.
#[tokio::test]
async fn unknown_fields_can_be_ignored() {
    let expected = chat_answer(&Setup::default().routes(), json!({})).await["choices"].clone();
    let routes = Setup { unknown_fields: UnknownFields::Warn, ..Setup::default() }.routes();
    let mut body = chat_body(json!({ "colour": "red", "stream_options": { "often": true } }));
    body["messages"][0]["font"] = json!("serif");
    let reply = chat(&routes, &body).await;
    assert_eq!((reply.status.as_u16(), &reply.json()["choices"]), (200, &expected));
    // What is known, but not done, is another matter.
    let reply = chat(&routes, &chat_body(json!({ "colour": "red", "best_of": 2 }))).await;
    assert_eq!((reply.status.as_u16(), &reply.json()["error"]["param"]), (400, &json!("best_of")));
}

/// What the model has no room for cannot be made to come.
#[tokio::test]
async fn a_fewest_number_of_tokens_has_to_fit() {
    let routes = Setup::default().routes();
    let reply = chat(&routes, &chat_body(json!({ "max_tokens": null, "min_tokens": 100_000 }))).await;
    assert_eq!(
        (reply.status.as_u16(), reply.json()["error"]["code"].as_str()),
        (400, Some("context_length_exceeded"))
    );
}
