//! The loaders and the decoder, from files to logits.
#![cfg(test)]

mod bad_files;
mod common;
mod decoder;
mod gguf_tokenizer;
mod gguf_variants;
mod golden;
mod hub;
mod oracles;
mod steps;
mod text_files;
mod variations;
