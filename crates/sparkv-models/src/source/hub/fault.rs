//! What went wrong between here and the hub, and what can be done about it.
use hf_hub::api::sync::ApiError;

use crate::source::hub::HubOptions;
use crate::source::hub::name::HubName;

/// What the hub answered, or that it did not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// There is no connection.
    Unreachable,
    /// It answered with this status.
    Status(u16),
    /// The answer broke off.
    Broken,
    /// What is left of a former download does not fit.
    Leftover,
    /// Something that trying again does not change.
    Other,
}

/// Statuses of servers that are overloaded or restarted.
const TRANSIENT: [u16; 6] = [408, 429, 500, 502, 503, 504];

fn kind(error: &ApiError) -> Kind {
    use ureq::Error::{ConnectionFailed, HostNotFound, Io, Protocol, StatusCode, Timeout};
    match error {
        ApiError::TooManyRetries(error) => kind(error),
        ApiError::RequestError(error) => match &**error {
            // The part that is left is the whole file.
            StatusCode(416) => Kind::Leftover,
            StatusCode(status) => Kind::Status(*status),
            Io(_) | HostNotFound | ConnectionFailed | Timeout(_) => Kind::Unreachable,
            Protocol(_) => Kind::Broken,
            _ => Kind::Other,
        },
        // Of a body; those of files are told apart by the system's number.
        ApiError::IoError(error) if error.raw_os_error().is_none() || is_network(error.kind()) => {
            Kind::Broken
        }
        ApiError::InvalidResume => Kind::Leftover,
        _ => Kind::Other,
    }
}

fn is_network(kind: std::io::ErrorKind) -> bool {
    use std::io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, TimedOut, UnexpectedEof};
    matches!(kind, BrokenPipe | ConnectionAborted | ConnectionReset | TimedOut | UnexpectedEof)
}

/// Whether the same may succeed in a moment.
pub(super) fn is_transient(error: &ApiError) -> bool {
    match kind(error) {
        Kind::Unreachable | Kind::Broken => true,
        Kind::Status(status) => TRANSIENT.contains(&status),
        Kind::Leftover | Kind::Other => false,
    }
}

/// Whether what is left of a former download has to be thrown away.
pub(super) fn is_leftover(error: &ApiError) -> bool {
    kind(error) == Kind::Leftover
}

/// What happened, and what to do.
pub(super) fn reason(error: &ApiError, name: &HubName, options: &HubOptions) -> String {
    let (hub, repo) = (&options.endpoint, &name.repo);
    match kind(error) {
        Kind::Unreachable => format!(
            "cannot reach {hub} ({}). Without a network: `sparkv list` shows the models on this machine, and \
             `--model demo` needs no download. Behind a proxy: set HTTPS_PROXY. For another hub: HF_ENDPOINT",
            cause(error)
        ),
        Kind::Status(401) if options.token.is_some() => format!(
            "the hub refuses the token (401), or has no such model; make another at {hub}/settings/tokens and set \
             HF_TOKEN to it"
        ),
        Kind::Status(401) => format!(
            "the hub wants a token (401): there is no such model, or it is private or gated; for one of these, set \
             HF_TOKEN to a token of {hub}/settings/tokens"
        ),
        Kind::Status(403) => format!(
            "the hub gives no access (403): ask for it at {hub}/{repo}, and set HF_TOKEN to a token of the account \
             that has it"
        ),
        Kind::Status(404) => match &name.revision {
            Some(revision) => format!("{hub} has no model {repo}, or it has no revision {revision} (404)"),
            None => format!("{hub} has no model {repo} (404)"),
        },
        Kind::Status(429) => {
            "too many requests (429): wait a while, or set HF_TOKEN, as the hub lets accounts ask more often"
                .to_owned()
        }
        Kind::Status(_) | Kind::Broken | Kind::Leftover | Kind::Other => cause(error),
    }
}

/// What the connection failed with, without the client's words for it.
fn cause(error: &ApiError) -> String {
    match error {
        ApiError::RequestError(error) => match &**error {
            ureq::Error::Io(error) => error.to_string(),
            error => error.to_string(),
        },
        ApiError::IoError(error) => error.to_string(),
        error => error.to_string(),
    }
}
