//! What a server says of itself in the log when its model is loaded.

use bytesize::ByteSize;
use sparkv::{Isa, KvChoice, parallel};
use sparkv_engine::{GenerationDefaults, SamplingParams};
use sysinfo::System;

use crate::loading::Loaded;
use crate::settings::Settings;

/// Logs what is served and with what, and warns of memory for caches that is too little, or more than there is.
pub(crate) fn log(loaded: &Loaded, settings: &Settings) {
    let engine = &loaded.engine;
    let context_length = engine.info().context_length;
    let text = engine.text();
    tracing::info!(
        model = loaded.name,
        context_length,
        weights = weights(&loaded.weight_types),
        vocab_size = engine.info().vocab_size,
        chat_template = text.tokenizer_info().chat_template.is_some() && text.template_fault().is_none(),
        "the model"
    );
    match &loaded.gpu {
        None => {
            let instructions = Isa::best().name();
            tracing::info!(threads = parallel::threads(), instructions, "computing on the CPU");
        }
        Some(gpu) => {
            let facts = gpu.facts.iter().map(|(name, text)| format!("{name} {text}"));
            let facts = facts.collect::<Vec<_>>().join(", ");
            let memory = gpu.memory.map(|bytes| ByteSize(bytes).to_string());
            tracing::info!(device = gpu.device, name = gpu.name, memory, facts, "computing on a GPU");
        }
    }
    let GenerationDefaults { max_tokens, sampling } = &loaded.generation;
    let SamplingParams { temperature, top_p, top_k, min_p, repetition_penalty, .. } = sampling;
    tracing::info!(
        max_tokens,
        %temperature,
        %top_p,
        top_k,
        %min_p,
        %repetition_penalty,
        "answers, where a request does not say"
    );
    kv_memory(loaded, settings);
}

/// The types of weights, and their shares of the bytes where there are several: `q4_k 70 %, q6_k 30 %`.
fn weights(types: &[(&'static str, u64)]) -> String {
    let all: u64 = types.iter().map(|(_, bytes)| bytes).sum();
    let share = |bytes: u64| 100.0 * bytes as f64 / all.max(1) as f64;
    match types {
        [(only, _)] => (*only).to_owned(),
        types => {
            let each = types.iter().map(|(name, bytes)| format!("{name} {:.0} %", share(*bytes)));
            each.collect::<Vec<_>>().join(", ")
        }
    }
}

/// The longest prompts that there is memory for, with each preset and with what holds if a request does not say.
fn kv_memory(loaded: &Loaded, settings: &Settings) {
    let engine = &loaded.engine;
    let budget = engine.stats().kv_budget_bytes;
    let bytes = if budget == u64::MAX { "any".to_owned() } else { ByteSize(budget).to_string() };
    let mut presets: Vec<String> = Vec::new();
    for (name, options) in settings.presets.iter() {
        if let Ok(kv) = settings.presets.resolve(options) {
            presets.push(format!("{name} {}", engine.longest_prompt(&kv)));
        }
    }
    let by_default = engine.longest_prompt(&settings.kv);
    tracing::info!(
        memory = bytes,
        default = settings.kv_name,
        default_tokens = by_default,
        presets = presets.join(", "),
        "KV caches: the longest prompt, in tokens, that fits with each preset"
    );
    let exact = engine.longest_prompt(&KvChoice::default());
    if by_default == 0 {
        tracing::warn!(memory = bytes, default = settings.kv_name, "server.kv_memory holds no prompt at all");
    } else if exact + 1 < engine.info().context_length {
        let context_length = engine.info().context_length;
        tracing::info!(
            exact,
            context_length,
            "prompts that fill the context fit only if they are compressed, if at all"
        );
    }
    if loaded.gpu.is_some() {
        // It was taken: there is as much.
        return;
    }
    let mut system = System::new();
    system.refresh_memory();
    let total = system.cgroup_limits().map_or(system.total_memory(), |limits| limits.total_memory);
    if budget != u64::MAX && total > 0 && budget > total {
        let total = ByteSize(total).to_string();
        tracing::warn!(memory = bytes, total, "server.kv_memory is more than this machine has");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_of_weights_are_told_with_their_shares() {
        assert_eq!(weights(&[("q8_0", 100)]), "q8_0");
        assert_eq!(weights(&[("q4_k", 700), ("q6_k", 300)]), "q4_k 70 %, q6_k 30 %");
        assert_eq!(weights(&[]), "");
    }
}
