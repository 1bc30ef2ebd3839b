//! What an answer cost, in a line for people.

use bytesize::ByteSize;
use sparkv::KvUsage;
use sparkv_engine::{FinishReason, Timings, Usage};

/// Tokens, their speed, what the cache held and how, and what a budget chose.
///
/// `max_tokens` are those that were asked for.
pub(crate) fn line(reason: FinishReason, max_tokens: usize, usage: &Usage, timings: &Timings) -> String {
    let Usage { prompt_tokens, cached_tokens, completion_tokens, kv_cache } = usage;
    let cached =
        if *cached_tokens > 0 { format!(" ({cached_tokens} kept from before)") } else { String::new() };
    let cut_off = match reason {
        FinishReason::Stop => "",
        FinishReason::Length if *completion_tokens >= max_tokens => ", cut off there by max_tokens",
        FinishReason::Length => ", cut off there since it repeats itself or nothing more fits",
    };
    // The first token is the prompt's work.
    let speed = match completion_tokens.checked_sub(1) {
        Some(tokens) if tokens > 0 && timings.decode_seconds > 0.0 => {
            format!(" at {:.1} a second", tokens as f64 / timings.decode_seconds)
        }
        _ => String::new(),
    };
    let KvUsage { preset, keys, values, eviction, bytes, dense_bytes, .. } = kv_cache;
    let evicted = if eviction == "none" { String::new() } else { format!(", {eviction}") };
    let rows = if keys == values { keys.clone() } else { format!("keys {keys}, values {values}") };
    format!(
        "prompt {prompt_tokens} tokens{cached}, answer {completion_tokens} tokens{speed}{cut_off}; \
         KV cache {preset} ({rows}{evicted}): {} of {} as f16",
        ByteSize(*bytes),
        ByteSize(*dense_bytes)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_tells_what_was_chosen() {
        let kv_cache = KvUsage {
            preset: "budget".to_owned(),
            keys: "int4 query".to_owned(),
            values: "int3".to_owned(),
            eviction: "snapkv, 1000 tokens".to_owned(),
            prompt_tokens: 2000,
            kept_tokens: 1100,
            bytes: 1 << 20,
            dense_bytes: 4 << 20,
            bytes_per_token: 500.0,
        };
        let usage = Usage { prompt_tokens: 2000, cached_tokens: 16, completion_tokens: 101, kv_cache };
        let timings = Timings { decode_seconds: 2.0, ..Timings::default() };
        assert_eq!(
            line(FinishReason::Length, 101, &usage, &timings),
            "prompt 2000 tokens (16 kept from before), answer 101 tokens at 50.0 a second, cut off there by max_tokens; \
             KV cache budget (keys int4 query, values int3, snapkv, 1000 tokens): 1.0 MiB of 4.0 MiB as f16"
        );
    }
}
