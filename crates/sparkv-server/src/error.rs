//! The one error type of the routes, and the only place that knows which HTTP status an error has.

use axum::Json;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use sparkv_engine::{GenerateError, PromptLength, RequestError};
use tracing::Level;
use utoipa::ToSchema;

/// Seconds after which a client turned away by a full queue or a 503 may try again, here or at another replica.
const RETRY_AFTER_SECONDS: u64 = 1;

/// How a body may be compressed.
const TAKEN_CODINGS: &str = "gzip, deflate";

/// Characters of a message; parsers quote what they were given, which may be megabytes.
const MAX_MESSAGE_CHARS: usize = 400;

/// Faults of one request that are told.
const MAX_LISTED: usize = 20;

/// The code of errors that tell clients none.
const INTERNAL: &str = "internal_error";

/// Goes along with an answer that is an error.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ErrorCode(pub(crate) &'static str);

/// Why a request failed. Becomes `{"error": {"message", "type", "param", "code"}}`, over HTTP and inside SSE; it goes along
/// with the answer that it is, for routes whose clients want another shape.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum ApiError {
    /// The body is not JSON.
    #[error("{0}")]
    Malformed(String),
    /// A field has a value that it cannot have.
    #[error("{param}: {message}")]
    Invalid {
        /// Path of the field, e.g. `messages[0].role`.
        param: String,
        /// What is wrong with it.
        message: String,
    },
    /// A field of the API that this server knows but does not support.
    #[error("{param} is not supported: {reason}")]
    Unsupported {
        /// Path of the field.
        param: String,
        /// What is missing.
        reason: String,
    },
    /// Several things at once; the first gives status, `code` and `param`.
    #[error("{}", listed(first, others))]
    Several {
        /// What is named first.
        first: Box<ApiError>,
        /// What else there is.
        others: Vec<ApiError>,
    },
    /// A field that nobody knows.
    #[error("unknown field `{param}`")]
    UnknownField {
        /// Path of the field.
        param: String,
    },
    /// Prompt and completion do not fit the model.
    #[error("{message}")]
    ContextExceeded {
        /// The prompt's field, or that of the limit if a lower one would fit.
        param: &'static str,
        /// The model's limit and the prompt's length.
        message: String,
    },
    /// The request's KV cache would not fit into the server's memory for these.
    #[error("{0}")]
    KvMemoryExceeded(String),
    /// Keeping to the answer's format takes more work or memory than a token may.
    #[error("the answer's format is too complex to be followed: {reason}")]
    FormatTooComplex {
        /// Which bound was met.
        reason: String,
    },
    /// The request's time was up.
    #[error("the request took longer than this server allows")]
    Deadline,
    /// The KV settings that the server uses where a request says nothing do not suit this one.
    #[error(
        "the server's default KV settings cannot hold this request ({reason}); set kv_cache in the request"
    )]
    DefaultKv {
        /// What is wrong with them.
        reason: String,
    },
    /// No API key, or a wrong one.
    #[error("missing or wrong API key; send it as `Authorization: Bearer KEY` or `x-api-key: KEY`")]
    Unauthorized,
    /// Another model is served here.
    #[error("the model `{asked}` does not exist; this server has `{served}`")]
    UnknownModel {
        /// The name asked for.
        asked: String,
        /// The name of the model that is served.
        served: String,
    },
    /// No such route.
    #[error("no route {method} {path}")]
    UnknownRoute {
        /// The request's method.
        method: String,
        /// The request's path.
        path: String,
    },
    /// The route exists, for another method.
    #[error("{path} does not take {method}")]
    MethodNotAllowed {
        /// The request's method.
        method: String,
        /// The request's path.
        path: String,
    },
    /// The body did not arrive in time.
    #[error("the request body did not arrive in time")]
    BodyTimeout,
    /// The body is larger than the server takes.
    #[error("the request body is larger than {limit} bytes")]
    BodyTooLarge {
        /// The largest body taken, in bytes.
        limit: usize,
    },
    /// The body is not declared as JSON.
    #[error("the body must be JSON, sent with `Content-Type: application/json`")]
    NotJson,
    /// The body is compressed in a way that is not taken.
    #[error(
        "a body with `Content-Encoding: {0}` is not taken; send it as it is, or as one of {TAKEN_CODINGS}"
    )]
    UnknownCoding(String),
    /// As many requests are waiting as the server lets wait.
    #[error("{0}")]
    QueueFull(String),
    /// The model is not there yet.
    #[error("loading: the model is not ready yet")]
    Loading,
    /// The server cannot answer at the moment.
    #[error("{0}")]
    Unavailable(&'static str),
    /// The route is another server's: it asks for what this one does not do.
    #[error("{0}")]
    NotOffered(&'static str),
    /// The request was fine, the server was not.
    #[error("internal error: {0}")]
    Internal(String),
}

/// An error, as clients read it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct ErrorBody {
    /// Its parts.
    pub error: ErrorFields,
}

/// The parts of an error.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct ErrorFields {
    /// What is wrong, for people.
    pub message: String,
    /// Whose fault it is: `invalid_request_error`, `rate_limit_error` or `server_error`.
    #[serde(rename = "type")]
    pub kind: &'static str,
    /// Path of the field at fault, if it was one.
    pub param: Option<String>,
    /// What is wrong, for programs.
    pub code: Option<&'static str>,
}

/// Which fields to blame for what the engine refuses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Fault {
    /// The field that holds the prompt.
    pub(crate) prompt: &'static str,
    /// The field that limits the answer.
    pub(crate) max_tokens: &'static str,
    /// The field that asks for the answer's format.
    pub(crate) format: &'static str,
    /// Whether the KV settings are the server's default, which no field of the request chose.
    pub(crate) default_kv: bool,
}

impl Fault {
    /// For routes that generate nothing.
    pub(crate) fn of_prompt(prompt: &'static str) -> Self {
        Self { prompt, max_tokens: "max_tokens", format: "response_format", default_kv: false }
    }
}

impl ApiError {
    /// What those are told who come too late.
    pub(crate) const SHUTTING_DOWN: Self = Self::Unavailable("the server is shutting down");

    pub(crate) fn invalid(param: impl Into<String>, message: impl Into<String>) -> Self {
        Self::Invalid { param: param.into(), message: message.into() }
    }

    pub(crate) fn unsupported(param: impl Into<String>, reason: impl Into<String>) -> Self {
        Self::Unsupported { param: param.into(), reason: reason.into() }
    }

    /// All of them as one.
    pub(crate) fn several(first: Self, others: impl IntoIterator<Item = Self>) -> Self {
        let others: Vec<Self> = others.into_iter().collect();
        if others.is_empty() { first } else { Self::Several { first: Box::new(first), others } }
    }

    /// What the engine said when it refused a request.
    pub(crate) fn refused(error: RequestError, fault: &Fault) -> Self {
        let message = error.to_string();
        match error {
            RequestError::InvalidParam { param, message: reason }
                if fault.default_kv && param.starts_with("kv_cache") =>
            {
                Self::DefaultKv { reason }
            }
            // The engine goes by the names that most endpoints have.
            RequestError::InvalidParam { param, message } if ["prompt", "messages"].contains(&&*param) => {
                Self::invalid(fault.prompt, message)
            }
            RequestError::InvalidParam { param, message } => Self::Invalid { param, message },
            // The prompt alone fits.
            RequestError::ContextExceeded { limit, prompt: PromptLength::Exactly(prompt), .. }
                if prompt < limit =>
            {
                Self::ContextExceeded { param: fault.max_tokens, message }
            }
            RequestError::ContextExceeded { .. } => Self::ContextExceeded { param: fault.prompt, message },
            RequestError::TooMuchMemory { .. } => Self::KvMemoryExceeded(message),
            RequestError::Format(_) => Self::invalid(fault.format, message),
            RequestError::QueueFull { .. } => Self::QueueFull(message),
            RequestError::NoChatTemplate
            | RequestError::TemplateNotCached { .. }
            | RequestError::BrokenTemplate(_)
            | RequestError::Template(_) => Self::invalid(fault.prompt, message),
            RequestError::Stopped => {
                Self::Unavailable("the server is shutting down or its engine has stopped")
            }
        }
    }

    /// Status, type and code: the one match from error to HTTP.
    fn http(&self) -> (StatusCode, &'static str, Option<&'static str>) {
        const INVALID: &str = "invalid_request_error";
        match self {
            Self::Several { first, .. } => first.http(),
            Self::Malformed(_) => (StatusCode::BAD_REQUEST, INVALID, Some("invalid_json")),
            Self::Invalid { .. } => (StatusCode::BAD_REQUEST, INVALID, Some("invalid_value")),
            Self::Unsupported { .. } => (StatusCode::BAD_REQUEST, INVALID, Some("unsupported_parameter")),
            Self::UnknownField { .. } => (StatusCode::BAD_REQUEST, INVALID, Some("unknown_parameter")),
            Self::ContextExceeded { .. } => {
                (StatusCode::BAD_REQUEST, INVALID, Some("context_length_exceeded"))
            }
            Self::DefaultKv { .. } => (StatusCode::BAD_REQUEST, INVALID, Some("default_kv_unsuitable")),
            Self::KvMemoryExceeded(_) => (StatusCode::BAD_REQUEST, INVALID, Some("kv_memory_exceeded")),
            Self::FormatTooComplex { .. } => (StatusCode::BAD_REQUEST, INVALID, Some("format_too_complex")),
            Self::Deadline => (StatusCode::GATEWAY_TIMEOUT, "server_error", Some("deadline_exceeded")),
            Self::Unauthorized => (StatusCode::UNAUTHORIZED, INVALID, Some("invalid_api_key")),
            Self::UnknownModel { .. } => (StatusCode::NOT_FOUND, INVALID, Some("model_not_found")),
            Self::UnknownRoute { .. } => (StatusCode::NOT_FOUND, INVALID, Some("unknown_url")),
            Self::NotOffered(_) => (StatusCode::NOT_FOUND, INVALID, Some("not_supported")),
            Self::MethodNotAllowed { .. } => {
                (StatusCode::METHOD_NOT_ALLOWED, INVALID, Some("method_not_allowed"))
            }
            Self::BodyTimeout => (StatusCode::REQUEST_TIMEOUT, INVALID, Some("request_timeout")),
            Self::BodyTooLarge { .. } => (StatusCode::PAYLOAD_TOO_LARGE, INVALID, Some("request_too_large")),
            Self::NotJson => (StatusCode::UNSUPPORTED_MEDIA_TYPE, INVALID, Some("unsupported_media_type")),
            Self::UnknownCoding(_) => {
                (StatusCode::UNSUPPORTED_MEDIA_TYPE, INVALID, Some("unsupported_media_type"))
            }
            Self::QueueFull(_) => (StatusCode::TOO_MANY_REQUESTS, "rate_limit_error", Some("queue_full")),
            Self::Loading => (StatusCode::SERVICE_UNAVAILABLE, "server_error", Some("loading")),
            Self::Unavailable(_) => (StatusCode::SERVICE_UNAVAILABLE, "server_error", Some("unavailable")),
            Self::Internal(_) => (StatusCode::INTERNAL_SERVER_ERROR, "server_error", None),
        }
    }

    /// The field at fault, if it was one.
    fn param(&self) -> Option<&str> {
        match self {
            Self::Invalid { param, .. } | Self::Unsupported { param, .. } | Self::UnknownField { param } => {
                Some(param)
            }
            Self::ContextExceeded { param, .. } => Some(param),
            Self::Several { first, .. } => first.param(),
            Self::UnknownModel { .. } => Some("model"),
            Self::KvMemoryExceeded(_) => Some("kv_cache"),
            _ => None,
        }
    }

    /// How much it matters to the operator: a refusal is the client's business.
    fn level(&self) -> Level {
        match self {
            Self::Internal(_) => Level::ERROR,
            _ => Level::DEBUG,
        }
    }

    /// A short name for it: `code` as clients see it, and one for what has none.
    fn code(&self) -> &'static str {
        self.http().2.unwrap_or(INTERNAL)
    }

    /// The code of the error that becomes of the engine's.
    pub(crate) fn code_of(error: &GenerateError) -> &'static str {
        match error {
            GenerateError::Settings(_) => "invalid_value",
            GenerateError::Deadline => "deadline_exceeded",
            GenerateError::Grammar(_) => "format_too_complex",
            GenerateError::Memory | GenerateError::Stopped => "unavailable",
            _ => INTERNAL,
        }
    }

    /// Its HTTP status.
    pub(crate) fn status(&self) -> StatusCode {
        self.http().0
    }

    /// Writes the error to the log. What is wrong with a request is said without its message: that quotes what
    /// was sent, which may be a prompt.
    pub(crate) fn log(&self) {
        match self.level() {
            Level::ERROR => tracing::error!(error = %self, "request failed"),
            _ if self.quotes_a_name() => {
                tracing::debug!(code = self.code(), "request refused");
            }
            _ => tracing::debug!(code = self.code(), param = self.param(), "request refused"),
        }
    }

    /// Whether its `param` is what the client called a field.
    fn quotes_a_name(&self) -> bool {
        match self {
            Self::Several { first, .. } => first.quotes_a_name(),
            error => matches!(error, Self::UnknownField { .. }),
        }
    }

    /// The error as clients read it, the same over HTTP and inside SSE.
    pub fn body(&self) -> ErrorBody {
        let (_, kind, code) = self.http();
        let message = match self {
            Self::Several { .. } => self.to_string(),
            one => shortened(one),
        };
        let param = self.param().map(str::to_owned);
        ErrorBody { error: ErrorFields { message, kind, param, code } }
    }
}

/// What an error says, as far as a message goes.
fn shortened(error: &ApiError) -> String {
    let mut message = error.to_string();
    if let Some((end, _)) = message.char_indices().nth(MAX_MESSAGE_CHARS) {
        message.truncate(end);
        message.push_str("...");
    }
    message
}

/// What several errors say, as many as are worth reading.
fn listed(first: &ApiError, others: &[ApiError]) -> String {
    let told = std::iter::once(first).chain(others).take(MAX_LISTED).map(shortened);
    let mut message = told.collect::<Vec<_>>().join("; ");
    match (others.len() + 1).saturating_sub(MAX_LISTED) {
        0 => {}
        more => message.push_str(&format!("; and {more} more")),
    }
    message
}

impl From<GenerateError> for ApiError {
    fn from(error: GenerateError) -> Self {
        match error {
            GenerateError::Settings(error) => {
                Self::invalid(format!("kv_cache.{}", error.param), error.message)
            }
            // What a panic says is about the program, and in the log already.
            GenerateError::Panicked(_) => Self::Internal("the model's computation failed".to_owned()),
            GenerateError::Deadline => Self::Deadline,
            GenerateError::Grammar(reason) => Self::FormatTooComplex { reason },
            GenerateError::Memory => Self::Unavailable(
                "the memory for KV caches ran out; try again with cheaper kv_cache settings",
            ),
            GenerateError::Stopped => Self::Unavailable("the engine stopped before the answer was complete"),
            error => Self::Internal(error.to_string()),
        }
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        self.log();
        let mut response = (self.status(), Json(self.body())).into_response();
        response.extensions_mut().insert(ErrorCode(self.code()));
        response.extensions_mut().insert(self.clone());
        let headers = response.headers_mut();
        match self {
            Self::QueueFull(_) | Self::Loading | Self::Unavailable(_) => {
                headers.insert(header::RETRY_AFTER, HeaderValue::from(RETRY_AFTER_SECONDS));
            }
            Self::UnknownCoding(_) => {
                headers.insert(header::ACCEPT_ENCODING, HeaderValue::from_static(TAKEN_CODINGS));
            }
            Self::Unauthorized => {
                headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
            }
            _ => {}
        }
        response
    }
}

#[cfg(test)]
mod tests {
    use sparkv::settings::SettingsError;

    use super::*;

    #[test]
    fn a_panic_s_text_stays_here() {
        let error = ApiError::from(GenerateError::Panicked("index 7 of src/secret.rs".to_owned()));
        assert_eq!(error.http().0, StatusCode::INTERNAL_SERVER_ERROR);
        assert!(!error.body().error.message.contains("secret"), "{:?}", error.body());
    }

    #[test]
    fn the_engine_s_errors_have_one_code() {
        let settings = SettingsError { param: "window".to_owned(), message: "too long".to_owned() };
        for error in [
            GenerateError::Settings(settings),
            GenerateError::Logits,
            GenerateError::Panicked(String::new()),
            GenerateError::Decode(String::new()),
            GenerateError::Deadline,
            GenerateError::Memory,
            GenerateError::Stopped,
        ] {
            let code = ApiError::code_of(&error);
            assert_eq!(ApiError::from(error).code(), code);
        }
    }

    #[test]
    fn settings_that_fail_late_are_the_request_s_fault() {
        let settings = SettingsError { param: "window".to_owned(), message: "too long".to_owned() };
        let error = ApiError::from(GenerateError::Settings(settings));
        assert_eq!(error.http().0, StatusCode::BAD_REQUEST);
        assert_eq!(error.param(), Some("kv_cache.window"));
    }

    #[test]
    fn only_failures_of_the_server_are_logged_as_errors() {
        assert_eq!(ApiError::Internal(String::new()).level(), Level::ERROR);
        assert_eq!(ApiError::SHUTTING_DOWN.level(), Level::DEBUG);
        assert_eq!(ApiError::from(GenerateError::Stopped).level(), Level::DEBUG);
        assert_eq!(ApiError::Unauthorized.level(), Level::DEBUG);
        assert_eq!(ApiError::QueueFull(String::new()).level(), Level::DEBUG);
    }
}
