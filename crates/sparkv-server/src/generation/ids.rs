//! Names and times that answers are given.

use std::time::{SystemTime, UNIX_EPOCH};

use sparkv_engine::FinishReason;
use uuid::Uuid;

/// Changes with whatever may change answers, so that clients can tell why a seed gives another text.
pub(crate) const SYSTEM_FINGERPRINT: &str = concat!("sparkv-", env!("CARGO_PKG_VERSION"));

/// A new id, of the form that most of OpenAI's and Anthropic's objects have; `prefix` tells the kind of object.
pub(crate) fn new_id(prefix: &str) -> String {
    format!("{prefix}_{}", Uuid::new_v4().simple())
}

/// A new id of a call. Nine letters and digits: templates of Mistral's refuse others when the call comes back as history.
pub(crate) fn call_id() -> String {
    Uuid::new_v4().simple().to_string().chars().take(9).collect()
}

/// Seconds since 1970; 0 on a clock set before.
pub(crate) fn unix_time() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs())
}

/// The API's name of a finish reason.
pub(crate) fn finish_reason(reason: FinishReason) -> &'static str {
    match reason {
        FinishReason::Stop => "stop",
        FinishReason::Length => "length",
    }
}
