//! The routes, and what every request passes through on its way to them.

use std::any::Any;

use axum::Json;
use axum::Router;
use axum::extract::State;
use axum::http::{HeaderName, Method, Request, Uri};
use axum::middleware;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use serde::Serialize;
use tower_http::catch_panic::CatchPanicLayer;
use tower_http::request_id::{MakeRequestUuid, PropagateRequestIdLayer, SetRequestIdLayer};
use tower_http::trace::TraceLayer;
use tracing::Span;
use tracing::field::Empty;
use utoipa::openapi::OpenApi as Document;
use utoipa::{OpenApi, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::app::App;
use crate::config::AdoptTrace;
use crate::error::ApiError;
use crate::http::auth;
use crate::http::cors::CorsOrigins;
use crate::metrics::Metrics;
use crate::{
    about, access_log, chat, completions, messages, metrics, models, not_offered, ollama, openapi, responses,
    tokenize, web,
};

/// Taken from the client, or made; sent back and written to the log.
const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// The trace that a request is part of, as W3C has it.
const TRACE_PARENT: HeaderName = HeaderName::from_static("traceparent");

/// Characters of a request's id in the log; answers carry all of it.
const MAX_LOGGED_ID: usize = 128;

/// All routes.
pub(crate) fn router(app: App) -> Router {
    let (protected, _) = protected().split_for_parts();
    let protected = protected
        .fallback(unknown_route)
        .method_not_allowed_fallback(method_not_allowed)
        .layer(middleware::from_fn_with_state(app.clone(), auth::require_key))
        .layer(middleware::from_fn(messages::mark_errors))
        .layer(middleware::from_fn(ollama::adapt));
    let (open, _) = open().split_for_parts();
    let open = open.merge(web::routes()).method_not_allowed_fallback(method_not_allowed);
    let (metrics, adopt_trace) = (app.metrics().clone(), app.config().adopt_trace);
    around(protected.merge(open).with_state(app), Some(metrics), adopt_trace)
}

/// Routes that need the key.
fn protected() -> OpenApiRouter<App> {
    OpenApiRouter::with_openapi(openapi::Described::openapi())
        .routes(routes!(chat::complete))
        .routes(routes!(completions::complete))
        .routes(routes!(responses::create))
        .routes(routes!(messages::create))
        .routes(routes!(messages::count_tokens))
        .routes(routes!(tokenize::tokenize))
        .routes(routes!(tokenize::detokenize))
        .routes(routes!(tokenize::tokenizer_info))
        .routes(routes!(tokenize::apply_template))
        .routes(routes!(ollama::chat))
        .routes(routes!(ollama::generate))
        .routes(routes!(ollama::models::tags))
        .routes(routes!(ollama::models::running))
        .routes(routes!(ollama::models::show))
        .routes(routes!(ollama::models::version))
        .merge(not_offered::routes())
        .routes(routes!(models::list))
        // Names of models have slashes.
        .route("/v1/models/{*name}", get(models::get))
        .routes(routes!(about::model_info))
        .routes(routes!(about::server_info))
        .routes(routes!(about::props))
        .routes(routes!(metrics::route::metrics))
        .routes(routes!(openapi::document))
}

/// Routes for machines that look after the server.
fn open() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(health))
        .routes(routes!(ready))
        .routes(routes!(ping, ping_by_post))
        .routes(routes!(about::version))
}

/// The description of all routes.
pub(crate) fn document() -> Document {
    openapi::complete(protected().merge(open()).into_openapi())
}

/// What there is while the model is loaded: the process lives, and is not ready.
pub(crate) fn loading(cors: &CorsOrigins, health_follows_ready: bool) -> Router {
    let routes = Router::new().route("/version", get(about::version)).merge(web::routes());
    let routes = if health_follows_ready { routes } else { routes.route("/health", get(alive)) };
    let routes =
        routes.method_not_allowed_fallback(method_not_allowed).fallback(|| async { ApiError::Loading });
    let routes =
        routes.layer(middleware::from_fn(messages::mark_errors)).layer(middleware::from_fn(ollama::adapt));
    cors.around(around(routes, None, None))
}

/// What every request passes through, inside out: a panic becomes an answer; the answer gets the request's
/// id; the log gets what became of it, so it is outside of what may make an answer; the id is there before all.
fn around(routes: Router, metrics: Option<Metrics>, adopt_trace: Option<AdoptTrace>) -> Router {
    let trace = TraceLayer::new_for_http()
        .make_span_with(move |request: &Request<_>| request_span(request, adopt_trace))
        // One line tells of a request, at its end: that of the access log.
        .on_request(())
        .on_response(())
        .on_body_chunk(())
        .on_eos(())
        // Errors are logged where they arise, with their reason.
        .on_failure(());
    routes
        .layer(CatchPanicLayer::custom(panicked))
        .layer(PropagateRequestIdLayer::new(REQUEST_ID))
        .layer(middleware::from_fn_with_state(metrics, access_log::keep))
        .layer(trace)
        .layer(SetRequestIdLayer::new(REQUEST_ID, MakeRequestUuid))
}

/// Names a request in the log, without its query, body or key.
fn request_span<B>(request: &Request<B>, adopt_trace: Option<AdoptTrace>) -> Span {
    let header = |name: HeaderName| request.headers().get(name).and_then(|value| value.to_str().ok());
    let id = header(REQUEST_ID).unwrap_or("");
    // Clients choose it, so it may be anything; it is ASCII.
    let id = id.get(..MAX_LOGGED_ID).unwrap_or(id);
    let span = tracing::info_span!(
        "request",
        method = %request.method(),
        path = request.uri().path(),
        id,
        status = Empty,
        prompt_tokens = Empty,
        completion_tokens = Empty,
        finish_reason = Empty,
    );
    if let (Some(adopt), Some(parent)) = (adopt_trace, header(TRACE_PARENT)) {
        adopt(&span, parent);
    }
    span
}

fn panicked(panic: Box<dyn Any + Send + 'static>) -> Response {
    let reason = panic.downcast_ref::<String>().map(String::as_str).or(panic.downcast_ref::<&str>().copied());
    tracing::error!(reason, "a handler panicked");
    ApiError::Internal("the handler of this request failed".to_owned()).into_response()
}

/// How the server is.
#[derive(Debug, Serialize, ToSchema)]
struct Status {
    status: &'static str,
}

async fn alive() -> Json<Status> {
    Json(Status { status: "ok" })
}

/// Liveness: the process serves. Readiness, where the operator wants it so.
#[utoipa::path(get, path = "/health", responses((status = 200, description = "It lives", body = Status)))]
async fn health(State(app): State<App>) -> Result<Json<Status>, ApiError> {
    if app.config().health_follows_ready {
        app.check_ready()?;
    }
    Ok(alive().await)
}

/// Readiness: requests are taken.
#[utoipa::path(get, path = "/ready", responses((status = 200, description = "It is ready", body = Status)))]
async fn ready(State(app): State<App>) -> Result<Json<Status>, ApiError> {
    app.check_ready()?;
    Ok(Json(Status { status: "ready" }))
}

/// Readiness, as SageMaker and vLLM ask for it.
#[utoipa::path(get, path = "/ping", responses((status = 200, description = "It is ready", body = Status)))]
async fn ping(app: State<App>) -> Result<Json<Status>, ApiError> {
    ready(app).await
}

/// The same by POST.
#[utoipa::path(post, path = "/ping", responses((status = 200, description = "It is ready", body = Status)))]
async fn ping_by_post(app: State<App>) -> Result<Json<Status>, ApiError> {
    ready(app).await
}

async fn unknown_route(method: Method, uri: Uri) -> ApiError {
    ApiError::UnknownRoute { method: method.to_string(), path: uri.path().to_owned() }
}

async fn method_not_allowed(method: Method, uri: Uri) -> ApiError {
    ApiError::MethodNotAllowed { method: method.to_string(), path: uri.path().to_owned() }
}

#[cfg(test)]
mod tests {
    use axum::body::{Body, to_bytes};
    use axum::http::StatusCode;
    use serde_json::Value;
    use tower::ServiceExt;

    use super::*;

    async fn panics() {
        panic!("on purpose");
    }

    #[tokio::test]
    async fn a_panic_in_a_handler_is_a_500_in_the_common_shape() {
        let routes =
            around(Router::new().route("/panic", get(panics)).route("/health", get(alive)), None, None);
        let request = Request::get("/panic").header("x-request-id", "given").body(Body::empty()).unwrap();
        let response = routes.clone().oneshot(request).await.unwrap();
        assert_eq!(response.status(), StatusCode::INTERNAL_SERVER_ERROR);
        assert_eq!(response.headers()["x-request-id"], "given");
        let body: Value =
            serde_json::from_slice(&to_bytes(response.into_body(), 1 << 16).await.unwrap()).unwrap();
        assert_eq!(body["error"]["type"], "server_error");
        assert!(!body.to_string().contains("on purpose"), "panics are for the log");
        let request = Request::get("/health").body(Body::empty()).unwrap();
        let response = routes.oneshot(request).await.unwrap();
        assert_eq!(response.status(), StatusCode::OK);
        assert!(response.headers().contains_key("x-request-id"));
    }
}
