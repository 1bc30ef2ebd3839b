//! What /v1/chat/completions and /v1/completions have in common: the fields about how to generate, and the
//! parts of the answer that are not text.

pub(crate) mod convert;
pub(crate) mod types;
pub(crate) mod validate;
