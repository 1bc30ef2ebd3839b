//! What the subcommands do.

pub(crate) mod bench;
pub(crate) mod chat;
pub(crate) mod eval;
pub(crate) mod pull;
pub(crate) mod run;
pub(crate) mod serve;
