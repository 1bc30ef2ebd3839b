//! A model's configuration: `config.json` (or a GGUF file's metadata) checked once, into [`DecoderConfig`].
//!
//! Everything the decoder multiplies or divides by later is bounded here, so that no configuration, however
//! absurd, makes it panic. What is not supported is refused by name, never ignored.
use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer};
use sparkv::{AttentionConfig, KvSettings, KvShape};

/// A configuration that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// Not JSON, or fields of the wrong type.
    #[error("not a model configuration: {0}")]
    Json(#[from] serde_json::Error),
    /// A model this decoder does not run.
    #[error("unsupported {what} `{name}`")]
    Unsupported {
        /// Which part of the model, e.g. `architecture`.
        what: &'static str,
        /// Its name in the file.
        name: String,
    },
    /// A value that makes no sense.
    #[error("{field}: {message}")]
    Invalid {
        /// The field.
        field: &'static str,
        /// What is wrong with it.
        message: String,
    },
}

impl ConfigError {
    pub(crate) fn unsupported(what: &'static str, name: impl Into<String>) -> Self {
        Self::Unsupported { what, name: name.into() }
    }

    pub(crate) fn invalid(field: &'static str, message: impl Into<String>) -> Self {
        Self::Invalid { field, message: message.into() }
    }
}

/// How rotary frequencies are stretched for long contexts.
#[derive(Debug, Clone, PartialEq)]
pub enum RopeScaling {
    /// Not at all.
    None,
    /// All frequencies divided by one factor.
    Linear {
        /// The factor.
        factor: f32,
    },
    /// Low frequencies divided, high ones kept, those between blended (Llama 3.1).
    Llama3 {
        /// Divisor of the low frequencies.
        factor: f32,
        /// Wavelengths above `original_context / low_freq_factor` are low frequencies.
        low_freq_factor: f32,
        /// Wavelengths below `original_context / high_freq_factor` are high frequencies.
        high_freq_factor: f32,
        /// Positions before the stretch.
        original_context: usize,
    },
    /// A divisor for each of the head_dim / 2 frequencies, as GGUF files store it.
    Divisors(Vec<f32>),
}

/// Rotary position embedding.
#[derive(Debug, Clone, PartialEq)]
pub struct RopeConfig {
    /// Base of the frequencies.
    pub theta: f32,
    /// How they are stretched.
    pub scaling: RopeScaling,
}

/// A checked description of a decoder. Made by [`DecoderConfig::from_json`] or from a GGUF file's metadata.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct DecoderConfig {
    /// Rows of the embedding table.
    pub vocab_size: usize,
    /// Width of the hidden states.
    pub hidden_size: usize,
    /// Width inside the feed-forward block.
    pub intermediate_size: usize,
    /// Decoder layers.
    pub layers: usize,
    /// Query heads; a multiple of `kv_heads`.
    pub query_heads: usize,
    /// Key/value heads.
    pub kv_heads: usize,
    /// Channels of a head; a multiple of 8.
    pub head_dim: usize,
    /// Positions the model was made for.
    pub context_length: usize,
    /// Term that keeps RMSNorm's divisor above zero.
    pub rms_norm_eps: f32,
    /// Rotary position embedding.
    pub rope: RopeConfig,
    /// Positions a query sees, itself included; all if `None`.
    pub sliding_window: Option<usize>,
    /// Whether q, k, v and o have biases.
    pub attention_bias: bool,
    /// Whether gate, up and down have biases.
    pub mlp_bias: bool,
    /// Whether the output head is the embedding table.
    pub tied_embeddings: bool,
    /// Tokens that end an answer, as far as this file knows.
    pub eos_token_ids: Vec<u32>,
}

impl DecoderConfig {
    /// Reads Hugging Face's `config.json`.
    ///
    /// # Errors
    /// If it is not JSON, names a model or an option this decoder does not have, or makes no sense.
    pub fn from_json(json: &str) -> Result<Self, ConfigError> {
        // First of all: other architectures have other fields, and one that is missing would hide the reason.
        let family = serde_json::from_str::<HfArchitecture>(json)?.family()?;
        serde_json::from_str::<HfConfig>(json)?.check(family)
    }

    /// Shape of the model's KV cache.
    pub fn kv_shape(&self) -> KvShape {
        KvShape { layers: self.layers, attention: self.attention() }
    }

    /// What attention needs to know.
    pub fn attention(&self) -> AttentionConfig {
        AttentionConfig {
            query_heads: self.query_heads,
            kv_heads: self.kv_heads,
            head_dim: self.head_dim,
            scale: 1.0 / (self.head_dim as f32).sqrt(),
            sliding_window: self.sliding_window,
        }
    }

    /// The last step of reading a configuration from anywhere.
    pub(crate) fn check(self) -> Result<Self, ConfigError> {
        // Bounds far above any model, low enough that products of three of them fit into 64 bits.
        within("vocab_size", self.vocab_size, 1 << 24)?;
        within("hidden_size", self.hidden_size, 1 << 20)?;
        within("intermediate_size", self.intermediate_size, 1 << 22)?;
        within("num_hidden_layers", self.layers, 1 << 12)?;
        within("num_attention_heads", self.query_heads, 1 << 12)?;
        within("num_key_value_heads", self.kv_heads, 1 << 12)?;
        within("head_dim", self.head_dim, 1 << 12)?;
        within("max_position_embeddings", self.context_length, 1 << 28)?;
        if let Some(window) = self.sliding_window {
            within("sliding_window", window, 1 << 28)?;
        }
        if !self.head_dim.is_multiple_of(8) {
            return Err(ConfigError::invalid(
                "head_dim",
                format!("must be a multiple of 8, got {}", self.head_dim),
            ));
        }
        if !self.query_heads.is_multiple_of(self.kv_heads) {
            return Err(ConfigError::invalid(
                "num_key_value_heads",
                format!("{} query heads cannot share {} key/value heads", self.query_heads, self.kv_heads),
            ));
        }
        // The cache itself says which shapes it takes.
        if KvSettings::exact().cache_bytes(&self.kv_shape(), 1, 0).is_err() {
            return Err(ConfigError::unsupported("head_dim", self.head_dim.to_string()));
        }
        positive("rms_norm_eps", self.rms_norm_eps)?;
        positive("rope_theta", self.rope.theta)?;
        self.check_rope_scaling()?;
        Ok(self)
    }

    fn check_rope_scaling(&self) -> Result<(), ConfigError> {
        match &self.rope.scaling {
            RopeScaling::None => Ok(()),
            RopeScaling::Linear { factor } => positive("rope_scaling.factor", *factor),
            RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_context } => {
                positive("rope_scaling.factor", *factor)?;
                positive("rope_scaling.low_freq_factor", *low_freq_factor)?;
                within("rope_scaling.original_max_position_embeddings", *original_context, 1 << 28)?;
                if high_freq_factor.is_finite() && high_freq_factor > low_freq_factor {
                    Ok(())
                } else {
                    Err(ConfigError::invalid(
                        "rope_scaling.high_freq_factor",
                        format!("must be above low_freq_factor, got {high_freq_factor}"),
                    ))
                }
            }
            RopeScaling::Divisors(divisors) => {
                if divisors.len() != self.head_dim / 2 {
                    return Err(ConfigError::invalid(
                        "rope_freqs",
                        format!("has {} values, head_dim needs {}", divisors.len(), self.head_dim / 2),
                    ));
                }
                divisors.iter().try_for_each(|&divisor| positive("rope_freqs", divisor))
            }
        }
    }
}

fn within(field: &'static str, value: usize, limit: usize) -> Result<(), ConfigError> {
    if (1..=limit).contains(&value) {
        Ok(())
    } else {
        Err(ConfigError::invalid(field, format!("must be between 1 and {limit}, got {value}")))
    }
}

fn positive(field: &'static str, value: f32) -> Result<(), ConfigError> {
    if value.is_finite() && value > 0.0 {
        Ok(())
    } else {
        Err(ConfigError::invalid(field, format!("must be a positive number, got {value}")))
    }
}

/// Token ids, as one number or a list.
#[derive(Debug, Clone, Deserialize)]
#[serde(untagged)]
pub(crate) enum TokenIds {
    One(u32),
    Many(Vec<u32>),
}

impl From<TokenIds> for Vec<u32> {
    fn from(ids: TokenIds) -> Self {
        match ids {
            TokenIds::One(id) => vec![id],
            TokenIds::Many(ids) => ids,
        }
    }
}

/// The end tokens in `generation_config.json`, which overrule those of `config.json`; empty if it names none.
///
/// # Errors
/// If it is not JSON.
pub fn eos_from_generation_config(json: &str) -> Result<Vec<u32>, ConfigError> {
    #[derive(Deserialize)]
    struct GenerationConfig {
        eos_token_id: Option<TokenIds>,
    }
    let config: GenerationConfig = serde_json::from_str(json)?;
    Ok(config.eos_token_id.map(Into::into).unwrap_or_default())
}

/// The fields of `config.json` that every architecture has.
#[derive(Debug, Deserialize)]
struct HfArchitecture {
    architectures: Option<Vec<String>>,
    model_type: Option<String>,
}

/// `config.json` as written, fields this decoder knows. Fields it does not know are those of training or of
/// generation; options that change the computation are listed here, to be refused where set.
#[derive(Debug, Deserialize)]
struct HfConfig {
    vocab_size: usize,
    hidden_size: usize,
    intermediate_size: usize,
    num_hidden_layers: usize,
    num_attention_heads: usize,
    #[serde(default, deserialize_with = "stated")]
    num_key_value_heads: Option<Option<usize>>,
    head_dim: Option<usize>,
    max_position_embeddings: usize,
    #[serde(default = "default_rms_norm_eps")]
    rms_norm_eps: f32,
    hidden_act: Option<String>,
    rope_theta: Option<f32>,
    rope_scaling: Option<HfRope>,
    rope_parameters: Option<HfRope>,
    partial_rotary_factor: Option<f32>,
    #[serde(default, deserialize_with = "stated")]
    sliding_window: Option<Option<usize>>,
    layer_types: Option<Vec<String>>,
    #[serde(default)]
    attention_bias: bool,
    #[serde(default)]
    mlp_bias: bool,
    #[serde(default)]
    tie_word_embeddings: bool,
    eos_token_id: Option<TokenIds>,
    quantization_config: Option<serde_json::Value>,
}

/// Tells a field that is null, `Some(None)`, from one that is missing, which takes the default, `None`.
fn stated<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Option<usize>>, D::Error> {
    Option::deserialize(deserializer).map(Some)
}

/// As transformers' LlamaConfig and MistralConfig have it.
fn default_rms_norm_eps() -> f32 {
    1e-6
}

/// `rope_scaling` (before transformers 5) or `rope_parameters` (since).
#[derive(Debug, Deserialize)]
struct HfRope {
    rope_type: Option<String>,
    /// The older name of `rope_type`; many files have both.
    #[serde(rename = "type")]
    old_rope_type: Option<String>,
    rope_theta: Option<f32>,
    factor: Option<f32>,
    low_freq_factor: Option<f32>,
    high_freq_factor: Option<f32>,
    original_max_position_embeddings: Option<usize>,
    partial_rotary_factor: Option<f32>,
    /// Looked at only to find parameters that differ from layer to layer.
    #[serde(flatten)]
    others: BTreeMap<String, serde_json::Value>,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Family {
    Llama,
    Mistral,
}

impl Family {
    /// Positions a query sees where the file does not say, as transformers has it.
    fn sliding_window(self, stated: Option<Option<usize>>) -> Option<usize> {
        match self {
            // Llama's configuration has no such field; what stands there has no effect in transformers either.
            Self::Llama => None,
            Self::Mistral => stated.unwrap_or(Some(4096)),
        }
    }

    /// Key/value heads where the file does not say, as transformers has it. Null is one for each query head.
    fn kv_heads(self, stated: Option<Option<usize>>, query_heads: usize) -> usize {
        match (self, stated) {
            (_, Some(Some(heads))) => heads,
            (Self::Mistral, None) => 8,
            (_, Some(None)) | (Self::Llama, None) => query_heads,
        }
    }
}

impl HfArchitecture {
    /// By `architectures`, which says what the weights are for, else by `model_type`.
    fn family(&self) -> Result<Family, ConfigError> {
        if let Some(name) = self.architectures.as_ref().and_then(|names| names.first()) {
            return match name.as_str() {
                "LlamaForCausalLM" => Ok(Family::Llama),
                "MistralForCausalLM" => Ok(Family::Mistral),
                _ => Err(ConfigError::unsupported("architecture", name)),
            };
        }
        match self.model_type.as_deref() {
            Some("llama") => Ok(Family::Llama),
            Some("mistral") => Ok(Family::Mistral),
            Some(name) => Err(ConfigError::unsupported("model_type", name)),
            None => Err(ConfigError::invalid("architectures", "missing, and model_type too")),
        }
    }
}

impl HfConfig {
    fn check(self, family: Family) -> Result<DecoderConfig, ConfigError> {
        self.refuse_unsupported()?;
        let sliding_window = family.sliding_window(self.sliding_window);
        self.check_layer_types(sliding_window)?;
        let rope = self.rope()?;
        let head_dim = match self.head_dim {
            Some(head_dim) => head_dim,
            None => self.implied_head_dim()?,
        };
        DecoderConfig {
            vocab_size: self.vocab_size,
            hidden_size: self.hidden_size,
            intermediate_size: self.intermediate_size,
            layers: self.num_hidden_layers,
            query_heads: self.num_attention_heads,
            kv_heads: family.kv_heads(self.num_key_value_heads, self.num_attention_heads),
            head_dim,
            context_length: self.max_position_embeddings,
            rms_norm_eps: self.rms_norm_eps,
            rope,
            sliding_window,
            attention_bias: self.attention_bias,
            mlp_bias: self.mlp_bias,
            tied_embeddings: self.tie_word_embeddings,
            eos_token_ids: self.eos_token_id.map(Into::into).unwrap_or_default(),
        }
        .check()
    }

    fn refuse_unsupported(&self) -> Result<(), ConfigError> {
        if let Some(activation) = self.hidden_act.as_deref().filter(|name| *name != "silu") {
            return Err(ConfigError::unsupported("hidden_act", activation));
        }
        if let Some(config) = &self.quantization_config {
            let method = config.get("quant_method").and_then(|m| m.as_str()).unwrap_or("unknown");
            return Err(ConfigError::unsupported("quantization_config", method));
        }
        let in_rope = |rope: &Option<HfRope>| rope.as_ref().and_then(|r| r.partial_rotary_factor);
        let partial =
            [self.partial_rotary_factor, in_rope(&self.rope_parameters), in_rope(&self.rope_scaling)];
        if let Some(factor) = partial.into_iter().flatten().find(|factor| *factor != 1.0) {
            return Err(ConfigError::unsupported("partial_rotary_factor", factor.to_string()));
        }
        Ok(())
    }

    /// All layers must be of the kind that `sliding_window` says.
    fn check_layer_types(&self, sliding_window: Option<usize>) -> Result<(), ConfigError> {
        let expected = if sliding_window.is_some() { "sliding_attention" } else { "full_attention" };
        match self.layer_types.iter().flatten().find(|kind| *kind != expected) {
            None => Ok(()),
            Some(kind) => Err(ConfigError::unsupported("mixture of layer_types with", kind)),
        }
    }

    fn implied_head_dim(&self) -> Result<usize, ConfigError> {
        match self.hidden_size.checked_div(self.num_attention_heads) {
            Some(head_dim) if head_dim.checked_mul(self.num_attention_heads) == Some(self.hidden_size) => {
                Ok(head_dim)
            }
            _ => Err(ConfigError::invalid(
                "num_attention_heads",
                format!("{} heads do not divide hidden_size {}", self.num_attention_heads, self.hidden_size),
            )),
        }
    }

    fn rope(&self) -> Result<RopeConfig, ConfigError> {
        let rope = self.rope_parameters.as_ref().or(self.rope_scaling.as_ref());
        let theta = rope.and_then(|rope| rope.rope_theta).or(self.rope_theta).unwrap_or(10_000.0);
        let scaling =
            rope.map_or(Ok(RopeScaling::None), |rope| rope.scaling(self.max_position_embeddings))?;
        Ok(RopeConfig { theta, scaling })
    }
}

impl HfRope {
    fn kind(&self) -> Result<Option<&str>, ConfigError> {
        match (self.rope_type.as_deref(), self.old_rope_type.as_deref()) {
            (Some(kind), Some(old)) if kind != old => Err(ConfigError::invalid(
                "rope_scaling.rope_type",
                format!("is `{kind}`, but its older name `type` says `{old}`"),
            )),
            (kind, old) => Ok(kind.or(old)),
        }
    }

    fn scaling(&self, context_length: usize) -> Result<RopeScaling, ConfigError> {
        if let Some((kind, _)) = self.others.iter().find(|(_, value)| value.is_object()) {
            return Err(ConfigError::unsupported("rope parameters per layer type,", kind));
        }
        let needed =
            |field, value: Option<f32>| value.ok_or_else(|| ConfigError::invalid(field, "is missing"));
        match self.kind()? {
            None | Some("default" | "none") => match self.factor {
                None | Some(1.0) => Ok(RopeScaling::None),
                Some(_) => Err(ConfigError::invalid("rope_scaling", "has a factor but no type to use it")),
            },
            Some("linear") => Ok(RopeScaling::Linear { factor: needed("rope_scaling.factor", self.factor)? }),
            Some("llama3") => Ok(RopeScaling::Llama3 {
                factor: needed("rope_scaling.factor", self.factor)?,
                low_freq_factor: needed("rope_scaling.low_freq_factor", self.low_freq_factor)?,
                high_freq_factor: needed("rope_scaling.high_freq_factor", self.high_freq_factor)?,
                original_context: self.original_max_position_embeddings.unwrap_or(context_length),
            }),
            Some(name) => Err(ConfigError::unsupported("rope scaling", name)),
        }
    }
}
