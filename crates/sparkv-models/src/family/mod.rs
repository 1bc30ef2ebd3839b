//! The families of models that the decoder runs: what a family has of its own, as values.
//!
//! **A family more** is a file here and its line in [`FAMILIES`] (and its `mod`): how its files name it, what they leave
//! out, and how they name tensors. What a family computes otherwise than the decoder does would be an option of
//! [`DecoderConfig`](crate::DecoderConfig) first.
mod llama;
mod mistral;
mod names;
mod qwen2;
mod qwen3;

use crate::config::error::ConfigError;

pub(crate) use names::{Name, TensorNames};

/// All of them. The first whose names fit a file is the file's.
static FAMILIES: [&Family; 4] = [&llama::LLAMA, &mistral::MISTRAL, &qwen2::QWEN2, &qwen3::QWEN3];

/// A family of models.
#[derive(Debug, PartialEq)]
pub(crate) struct Family {
    /// How `architectures` in `config.json` names it, which says what the weights are for.
    architectures: &'static [&'static str],
    /// How `model_type` in `config.json` names it.
    model_types: &'static [&'static str],
    /// GGUF files of it, if `general.architecture` has a name for it.
    pub(crate) gguf: Option<GgufFamily>,
    /// What `config.json` means where it leaves a field out, as transformers has it.
    pub(crate) defaults: Defaults,
    /// Whether queries and keys are normalized, head by head, before they are rotated.
    pub(crate) query_key_norm: bool,
    /// How its files name and order tensors.
    pub(crate) tensors: &'static TensorNames,
}

/// How GGUF files hold a family.
#[derive(Debug, PartialEq)]
pub(crate) struct GgufFamily {
    /// `general.architecture`, with which the keys of the configuration begin.
    pub(crate) architecture: &'static str,
    /// Term in RMSNorm where the file has none.
    pub(crate) rms_norm_eps: f32,
}

/// Values of fields that `config.json` leaves out, or where it says null.
#[derive(Debug, PartialEq)]
pub(crate) struct Defaults {
    pub(crate) vocab_size: usize,
    pub(crate) hidden_size: usize,
    pub(crate) intermediate_size: usize,
    pub(crate) layers: usize,
    pub(crate) query_heads: usize,
    pub(crate) context_length: usize,
    pub(crate) rms_norm_eps: f32,
    pub(crate) rope_theta: f32,
    /// `None`: one for each query head.
    pub(crate) kv_heads: Option<usize>,
    /// `None`: the width of hidden states, shared out among query heads.
    pub(crate) head_dim: Option<usize>,
    pub(crate) sliding_window: SlidingWindow,
    pub(crate) attention_bias: AttentionBias,
    pub(crate) mlp_bias: bool,
    /// The token that ends an answer, only where the field is left out.
    pub(crate) eos_token_id: Option<u32>,
}

/// Which matrices of attention have biases.
#[derive(Debug, PartialEq)]
pub(crate) enum AttentionBias {
    /// All or none, as `attention_bias` says; none where it says nothing.
    Stated,
    /// Those of q, k and v, always.
    QueryKeyValue,
}

/// What a family makes of `sliding_window`.
#[derive(Debug, PartialEq)]
pub(crate) enum SlidingWindow {
    /// Its configuration has no such field; what stands there has no effect in transformers either.
    Ignored,
    /// As many positions as are stated; these where nothing is, and all where null is.
    Stated {
        /// Positions.
        default: usize,
    },
    /// Only where `use_sliding_window` is true, in the layers from `max_window_layers` on.
    IfUsed,
}

impl Family {
    /// What GGUF files call it. One that they have no name for is written down as another, whose tensors it has.
    pub(crate) fn architecture(&self) -> &'static str {
        let alike = |family: &&&Self| family.tensors == self.tensors;
        let others = || FAMILIES.iter().filter(alike).find_map(|family| family.gguf.as_ref());
        self.gguf.as_ref().or_else(others).map(|gguf| gguf.architecture).unwrap_or_default()
    }

    /// The family of a `config.json`: by `architectures`, else by `model_type`.
    ///
    /// # Errors
    /// If it is named by neither, or not known.
    pub(crate) fn of_json(
        architectures: Option<&[String]>,
        model_type: Option<&str>,
    ) -> Result<&'static Self, ConfigError> {
        if let Some(name) = architectures.and_then(|names| names.first()) {
            let known = |family: &Self| family.architectures.contains(&name.as_str());
            return find(known).ok_or_else(|| {
                ConfigError::unsupported("architecture", name, one_of(|family| family.architectures))
            });
        }
        match model_type {
            Some(name) => find(|family| family.model_types.contains(&name)).ok_or_else(|| {
                ConfigError::unsupported("model_type", name, one_of(|family| family.model_types))
            }),
            None => Err(ConfigError::invalid("architectures", "missing, and model_type too")),
        }
    }

    /// The family of a GGUF file, by its `general.architecture`, and how such files hold it.
    ///
    /// # Errors
    /// If it is not known.
    pub(crate) fn of_gguf(architecture: &str) -> Result<(&'static Self, &'static GgufFamily), ConfigError> {
        let held = |family: &&'static Self| {
            let gguf = family.gguf.as_ref().filter(|gguf| gguf.architecture == architecture)?;
            Some((*family, gguf))
        };
        FAMILIES.iter().find_map(held).ok_or_else(|| {
            let known = |family: &'static Self| {
                family.gguf.as_ref().map_or(&[][..], |gguf| std::slice::from_ref(&gguf.architecture))
            };
            ConfigError::unsupported("architecture", architecture, one_of(known))
        })
    }
}

/// What may stand where a family is named.
fn one_of(names: impl Fn(&'static Family) -> &'static [&'static str]) -> String {
    let names: Vec<&str> = FAMILIES.into_iter().flat_map(names).copied().collect();
    format!("there are {}", names.join(", "))
}

fn find(known: impl Fn(&Family) -> bool) -> Option<&'static Family> {
    FAMILIES.into_iter().find(|family| known(family))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_name_means_two_families() {
        let once = |names: Vec<&'static str>| {
            let mut distinct = names.clone();
            distinct.sort_unstable();
            distinct.dedup();
            assert!(!distinct.is_empty());
            assert_eq!(distinct.len(), names.len(), "{names:?}");
        };
        once(FAMILIES.iter().flat_map(|family| family.architectures.iter().copied()).collect());
        once(FAMILIES.iter().flat_map(|family| family.model_types.iter().copied()).collect());
        once(FAMILIES.iter().filter_map(|family| Some(family.gguf.as_ref()?.architecture)).collect());
    }
}
