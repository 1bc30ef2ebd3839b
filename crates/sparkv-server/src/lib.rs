//! OpenAI-compatible HTTP routes over the engine.
//!
//! ```text
//! bytes -> http::body::Fields -> types -> validate -> engine -> events -> generation::reply (with the endpoint's convert) -> bytes
//! ```
//!
//! Each generating endpoint (`chat`, `completions`, `responses`, `messages`) is a trio:
//! `types` are the bodies, `validate` makes the engine's request of one, `convert` writes the answer. What
//! they share is in `generation` and `conversation`. Connections, keys and bodies are in `http`. Streamed and whole
//! answers read the same events (`generation::reply`), so they cannot differ. A field is honoured, changes nothing, or is refused with a reason (`unsupported`, `refusals`). All errors are one
//! type ([`ApiError`]), which alone knows HTTP.
//!
//! A client that goes away drops its response, with it the engine's event stream, and that cancels the request.

mod about;
mod access_log;
mod app;
mod chat;
mod completions;
mod config;
mod conversation;
mod error;
mod generation;
mod http;
mod messages;
mod metrics;
mod models;
mod openapi;
mod refusals;
mod responses;
mod routes;
mod schema;
mod server;
mod tokenize;
mod unsupported;

pub use config::{AdoptTrace, Policy, ServerConfig};
pub use error::{ApiError, ErrorBody, ErrorFields};
pub use http::api_keys::{ApiKey, ApiKeys, InvalidApiKey};
pub use http::cors::{CorsOrigins, InvalidOrigin};
pub use http::server::{Connections, HttpServer};
pub use http::tls::{Tls, TlsError};
pub use refusals::UnknownFields;
pub use server::{BindError, Drained, NoKeyLeft, PolicyHandle, Server};
