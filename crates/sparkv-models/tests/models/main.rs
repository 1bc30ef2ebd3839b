//! The loaders and the decoder, from files to logits.
#![cfg(test)]

mod bad_files;
mod common;
mod decoder;
mod devices;
#[path = "../../../../tests/support/fake_hub.rs"]
mod fake_hub;
mod gguf_tokenizer;
mod gguf_variants;
mod golden;
mod hub;
mod hub_cache;
mod hub_gguf;
mod oracles;
mod steps;
mod text_files;
mod variations;
