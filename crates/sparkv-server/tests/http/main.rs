//! The routes over a fake model: in process, and over real sockets.

mod answers;
mod errors;
mod fields;
mod socket;
mod support;
