//! OpenAI-compatible HTTP routes over the engine.
//!
//! ```text
//! bytes -> body::Fields -> types -> validate -> engine -> events -> reply (with the endpoint's convert) -> bytes
//! ```
//!
//! Each generating endpoint (`chat`, `completions`) is a trio:
//! `types` are the bodies, `validate` makes the engine's request of one, `convert` writes the answer. What
//! both share is in `common`. Streamed and whole answers read the same events (`reply`), so they cannot
//! differ. A field is honoured, or refused with a reason (`unsupported`); none is ignored. All errors are one
//! type ([`ApiError`]), which alone knows HTTP.
//!
//! A client that goes away drops its response, with it the engine's event stream, and that cancels the request.

mod app;
mod auth;
mod body;
mod chat;
mod common;
mod completions;
mod cors;
mod error;
mod json;
mod ledger;
mod listening;
mod messages;
mod metrics;
mod models;
mod observed;
mod openapi;
mod reply;
mod responses;
mod routes;
mod server;
mod stall;
mod tls;
mod tokens;
mod unsupported;

pub use auth::{ApiKey, ApiKeys, InvalidApiKey};
pub use cors::{CorsOrigins, InvalidOrigin};
pub use error::{ApiError, ErrorBody, ErrorFields};
pub use listening::{Connections, Listening};
pub use routes::AdoptTrace;
pub use server::{BindError, Drained, NoKeyLeft, Policy, PolicyHandle, Server, ServerConfig};
pub use tls::{Tls, TlsError};
