//! What a good request gets.

use axum::body::Body;
use axum::http::Request;
use futures::StreamExt;
use serde_json::{Value, json};
use sparkv_models::fake::{Fault, FaultAt, FaultKind};
use tower::ServiceExt;

use crate::support::*;

/// The text of a streamed answer, put together as clients do.
fn streamed_text(chunks: &[Value]) -> String {
    chunks
        .iter()
        .flat_map(|chunk| chunk["choices"].as_array().unwrap())
        .filter_map(|choice| choice.pointer("/delta/content").or(choice.get("text")))
        .map(|text| text.as_str().unwrap())
        .collect()
}

fn finish_reasons(chunks: &[Value]) -> Vec<&str> {
    chunks.iter().filter_map(|chunk| chunk.pointer("/choices/0/finish_reason")?.as_str()).collect()
}

#[tokio::test]
async fn a_chat_answer_as_clients_expect_it() {
    let routes = Setup::default().routes();
    let reply = chat(&routes, &chat_body(json!({}))).await;
    insta::assert_json_snapshot!(redact(reply.json()));
}

#[tokio::test]
async fn a_completion_as_clients_expect_it() {
    let routes = Setup::default().routes();
    let reply = complete(&routes, &completion_body(json!({}))).await;
    insta::assert_json_snapshot!(redact(reply.json()));
}

#[tokio::test]
async fn a_chat_transcript() {
    let routes = Setup::default().routes();
    let body =
        chat_body(json!({ "stream": true, "max_tokens": 3, "stream_options": { "include_usage": true } }));
    let chunks: Vec<Value> = chunks(&chat(&routes, &body).await).into_iter().map(redact).collect();
    insta::assert_json_snapshot!(chunks);
}

#[tokio::test]
async fn a_completion_transcript() {
    let routes = Setup::default().routes();
    let body = completion_body(
        json!({ "stream": true, "max_tokens": 3, "stream_options": { "include_usage": true } }),
    );
    let chunks: Vec<Value> = chunks(&complete(&routes, &body).await).into_iter().map(redact).collect();
    insta::assert_json_snapshot!(chunks);
}

#[tokio::test]
async fn streamed_and_whole_answers_are_the_same() {
    let routes = Setup::default().routes();
    for (temperature, max_tokens, stop) in [
        (0.0, 100, Value::Null),
        (1.0, 100, Value::Null),
        (1.0, 100, json!(["e", "th"])),
        (1.5, 1, Value::Null),
    ] {
        let fields = json!({
            "temperature": temperature, "max_tokens": max_tokens, "stop": stop, "seed": 7, "min_p": 0.01
        });
        let mut stream = fields.clone();
        stream["stream"] = json!(true);
        stream["stream_options"] = json!({ "include_usage": true });

        let whole = chat(&routes, &chat_body(fields.clone())).await.json();
        let pieces = chunks(&chat(&routes, &chat_body(stream.clone())).await);
        assert_eq!(whole.pointer("/choices/0/message/content").unwrap(), &streamed_text(&pieces), "{fields}");
        assert_eq!(finish_reasons(&pieces), [whole.pointer("/choices/0/finish_reason").unwrap()]);
        assert_eq!(pieces.last().unwrap()["usage"], whole["usage"]);
        let ids: Vec<&Value> = pieces.iter().map(|chunk| &chunk["id"]).collect();
        assert!(ids.windows(2).all(|pair| pair[0] == pair[1]), "one answer, one id");

        let whole = complete(&routes, &completion_body(fields.clone())).await.json();
        let pieces = chunks(&complete(&routes, &completion_body(stream)).await);
        assert_eq!(whole.pointer("/choices/0/text").unwrap(), &streamed_text(&pieces), "{fields}");
        assert_eq!(finish_reasons(&pieces), [whole.pointer("/choices/0/finish_reason").unwrap()]);
        assert_eq!(pieces.last().unwrap()["usage"], whole["usage"]);
    }
}

#[tokio::test]
async fn a_stream_reports_usage_only_when_asked() {
    let routes = Setup::default().routes();
    for options in [Value::Null, json!({ "include_usage": false })] {
        let body = chat_body(json!({ "stream": true, "stream_options": options }));
        let chunks = chunks(&chat(&routes, &body).await);
        assert!(chunks.iter().all(|chunk| chunk.get("usage").is_none()));
        assert!(chunks.iter().all(|chunk| chunk["choices"].as_array().unwrap().len() == 1));
    }
}

#[tokio::test]
async fn a_failure_inside_a_stream_is_an_event_and_hurts_nobody_else() {
    // The prompt takes one step, then one step per token.
    let fault = Some(Fault { at: FaultAt::Step(5), kind: FaultKind::Error });
    let routes =
        Setup { fake: sparkv_models::fake::FakeConfig { fault, ..Default::default() }, ..Setup::default() };
    let routes = routes.routes();
    let prompt = json!({ "prompt": "hello", "temperature": 0, "stream": true });
    let failed = chunks(&complete(&routes, &prompt).await);
    let error = failed.last().unwrap();
    assert_eq!(error.pointer("/error/type").unwrap(), "server_error");
    assert!(
        error.pointer("/error/message").unwrap().as_str().unwrap().contains("fault at step 5"),
        "{error}"
    );
    assert!(failed.len() > 1, "text came before the failure");

    let whole = chunks(&complete(&routes, &prompt).await);
    assert_eq!(finish_reasons(&whole).len(), 1);
    let failed = streamed_text(&failed[..failed.len() - 1]);
    assert!(streamed_text(&whole).starts_with(&failed));
}

#[tokio::test]
async fn a_failure_of_a_whole_answer_is_a_500() {
    for kind in [FaultKind::Error, FaultKind::Panic, FaultKind::Nan] {
        let fake = sparkv_models::fake::FakeConfig {
            fault: Some(Fault { at: FaultAt::Step(3), kind }),
            ..Default::default()
        };
        let routes = Setup { fake, ..Setup::default() }.routes();
        let reply = complete(&routes, &completion_body(json!({}))).await;
        assert_eq!(reply.status, 500, "{kind:?}");
        assert_eq!(reply.json().pointer("/error/type").unwrap(), "server_error");
        let reply = complete(&routes, &completion_body(json!({}))).await;
        assert_eq!(reply.status, 200, "the server goes on after {kind:?}");
    }
}

#[tokio::test]
async fn models_are_listed_and_found_by_every_name() {
    let routes = Setup::default().routes();
    let list = get(&routes, "/v1/models").await.json();
    insta::assert_json_snapshot!(redact(list["data"][0].clone()));
    for name in ["org/fake", "fake"] {
        let model = get(&routes, &format!("/v1/models/{name}")).await.json();
        assert_eq!(model, list["data"][0]);
        assert_eq!(chat(&routes, &chat_body(json!({ "model": name }))).await.status, 200);
    }
}

#[tokio::test]
async fn health_and_readiness() {
    let (server, engine, _probe) = Setup::default().server();
    let routes = server.router();
    assert_eq!(get(&routes, "/health").await.json(), json!({ "status": "ok" }));
    assert_eq!(get(&routes, "/ready").await.json(), json!({ "status": "ready" }));
    assert!(get(&routes, "/health").await.header("x-request-id").is_some());
    engine.shutdown();
    // An idle engine ends at once, on its own thread.
    while engine.is_alive() {
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
    let ready = get(&routes, "/ready").await;
    assert_eq!(ready.status, 503);
    assert_eq!(ready.json().pointer("/error/type").unwrap(), "server_error");
    assert_eq!(chat(&routes, &chat_body(json!({}))).await.status, 503);
    assert_eq!(get(&routes, "/health").await.status, 200);
}

#[tokio::test(start_paused = true)]
async fn silence_is_filled_with_comments() {
    let (server, _engine, probe) = Setup::default().server();
    probe.gate().close();
    let body = chat_body(json!({ "stream": true })).to_string();
    let request = Request::post("/v1/chat/completions").header("content-type", "application/json");
    let response = server.router().oneshot(request.body(Body::from(body)).unwrap()).await.unwrap();
    let mut pieces = response.into_body().into_data_stream();
    let opening = pieces.next().await.unwrap().unwrap();
    assert!(opening.starts_with(b"data: {"));
    // The clock runs ahead while nobody has anything to do.
    assert_eq!(&pieces.next().await.unwrap().unwrap()[..], b":\n\n");
    assert_eq!(&pieces.next().await.unwrap().unwrap()[..], b":\n\n");
    probe.gate().open();
}
