//! The routes over a fake model: in process, and over real sockets.

// `cfg(test)` holds throughout; it tells clippy that the helpers between the tests are tests, too.
#[cfg(test)]
mod about;
#[cfg(test)]
mod answers;
#[cfg(test)]
mod coding;
#[cfg(test)]
mod drain;
#[cfg(test)]
mod errors;
#[cfg(test)]
mod fields;
#[cfg(test)]
mod limits;
#[cfg(test)]
mod messages;
#[cfg(test)]
mod observing;
#[cfg(test)]
mod openapi;
#[cfg(test)]
mod operations;
#[cfg(test)]
mod origins;
#[cfg(test)]
mod policy;
#[cfg(test)]
mod responses;
#[cfg(test)]
mod responses_errors;
#[cfg(test)]
mod sent_back;
#[cfg(test)]
mod socket;
#[cfg(test)]
mod support;
#[cfg(test)]
mod surface;
#[cfg(test)]
mod tls;
#[cfg(test)]
mod tools;
