//! Connections and what is read from them: the server that accepts them (`server`), what each may take (`connection`,
//! `activity`), encryption (`tls`), readers that
//! stall (`stall`), pages that may call (`cors`), keys (`api_keys`, `auth`), and bodies (`body`, `coding`, `json`).

mod activity;
pub(crate) mod api_keys;
pub(crate) mod auth;
pub(crate) mod body;
mod coding;
pub(crate) mod connection;
pub(crate) mod cors;
mod json;
pub(crate) mod server;
mod stall;
pub(crate) mod tls;
mod unread;
