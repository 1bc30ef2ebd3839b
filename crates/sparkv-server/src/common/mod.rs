//! What generating endpoints have in common: the fields about how to generate, and the parts of the answer that are
//! not text.

pub(crate) mod convert;
pub(crate) mod format;
pub(crate) mod logprobs;
pub(crate) mod types;
pub(crate) mod validate;
