//! The loaders and the decoder, from files to logits.
#![cfg(test)]

mod bad_files;
mod common;
mod decoder;
mod gguf_tokenizer;
mod golden;
mod hub;
mod oracles;
mod steps;
