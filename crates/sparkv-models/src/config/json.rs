//! Hugging Face's `config.json`.
use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer};

use super::{ConfigError, DecoderConfig, RopeConfig, RopeScaling};
use crate::family::{AttentionBias, Defaults, Family, SlidingWindow};
use crate::json;

impl DecoderConfig {
    /// Reads Hugging Face's `config.json`.
    ///
    /// # Errors
    /// If it is not JSON, names a model or an option this decoder does not have, or makes no sense.
    pub fn from_json(json: &str) -> Result<Self, ConfigError> {
        // First of all: other architectures have other fields, and one that is missing would hide the reason.
        let names: HfNames = json::read(json)?;
        let family = Family::of_json(names.architectures.as_deref(), names.model_type.as_deref())?;
        json::read::<HfConfig>(json)?.check(family)
    }
}

/// Token ids, as one number or a list; one below zero stands for none.
#[derive(Debug, Clone, Deserialize)]
#[serde(untagged, expecting = "must be a token's id or a list of ids")]
pub(super) enum TokenIds {
    One(i64),
    Many(Vec<i64>),
}

impl TokenIds {
    /// # Errors
    /// If a number is too large for an id.
    pub(super) fn ids(self) -> Result<Vec<u32>, ConfigError> {
        let ids = match self {
            Self::One(id) => vec![id],
            Self::Many(ids) => ids,
        };
        let id = |id: i64| {
            u32::try_from(id)
                .map_err(|_| ConfigError::invalid("eos_token_id", format!("{id} is no token's id")))
        };
        ids.into_iter().filter(|id| *id >= 0).map(id).collect()
    }
}

/// The fields of `config.json` that every architecture has.
#[derive(Debug, Deserialize)]
struct HfNames {
    architectures: Option<Vec<String>>,
    model_type: Option<String>,
}

/// `config.json` as written, fields this decoder knows. Fields it does not know are those of training or of
/// generation; options that change the computation are listed here, to be refused where set.
#[derive(Debug, Deserialize)]
struct HfConfig {
    vocab_size: Option<usize>,
    hidden_size: Option<usize>,
    intermediate_size: Option<usize>,
    num_hidden_layers: Option<usize>,
    num_attention_heads: Option<usize>,
    #[serde(default, deserialize_with = "stated")]
    num_key_value_heads: Option<Option<usize>>,
    head_dim: Option<usize>,
    max_position_embeddings: Option<usize>,
    rms_norm_eps: Option<f32>,
    hidden_act: Option<String>,
    rope_theta: Option<f32>,
    rope_scaling: Option<HfRope>,
    rope_parameters: Option<HfRope>,
    partial_rotary_factor: Option<f32>,
    #[serde(default, deserialize_with = "stated")]
    sliding_window: Option<Option<usize>>,
    use_sliding_window: Option<bool>,
    max_window_layers: Option<usize>,
    layer_types: Option<Vec<String>>,
    attention_bias: Option<bool>,
    mlp_bias: Option<bool>,
    tie_word_embeddings: Option<bool>,
    #[serde(default, deserialize_with = "stated")]
    eos_token_id: Option<Option<TokenIds>>,
    quantization_config: Option<serde_json::Value>,
}

/// Tells a field that is null, `Some(None)`, from one that is missing, which takes the default, `None`.
fn stated<'de, T: Deserialize<'de>, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<Option<T>>, D::Error> {
    Option::deserialize(deserializer).map(Some)
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

impl HfConfig {
    fn check(self, family: &'static Family) -> Result<DecoderConfig, ConfigError> {
        self.refuse_unsupported()?;
        let defaults = &family.defaults;
        let layers = self.num_hidden_layers.unwrap_or(defaults.layers);
        let hidden_size = self.hidden_size.unwrap_or(defaults.hidden_size);
        let query_heads = self.num_attention_heads.unwrap_or(defaults.query_heads);
        let context_length = self.max_position_embeddings.unwrap_or(defaults.context_length);
        let sliding_window = self.sliding_window(defaults, layers)?;
        self.check_layer_types(sliding_window)?;
        let rope = self.rope(defaults, context_length)?;
        let head_dim = match self.head_dim.or(defaults.head_dim) {
            Some(head_dim) => head_dim,
            None => implied_head_dim(hidden_size, query_heads)?,
        };
        let stated_bias = self.attention_bias.unwrap_or(false);
        let (attention_bias, attention_output_bias) = match defaults.attention_bias {
            AttentionBias::Stated => ([stated_bias; 3], stated_bias),
            AttentionBias::QueryKeyValue => ([true; 3], false),
        };
        DecoderConfig {
            tensors: family.tensors,
            architecture: family.architecture(),
            vocab_size: self.vocab_size.unwrap_or(defaults.vocab_size),
            hidden_size,
            intermediate_size: self.intermediate_size.unwrap_or(defaults.intermediate_size),
            layers,
            query_heads,
            // Null is one for each query head, in all families.
            kv_heads: self.num_key_value_heads.unwrap_or(defaults.kv_heads).unwrap_or(query_heads),
            head_dim,
            context_length,
            rms_norm_eps: self.rms_norm_eps.unwrap_or(defaults.rms_norm_eps),
            rope,
            sliding_window,
            attention_bias,
            attention_output_bias,
            query_key_norm: family.query_key_norm,
            mlp_bias: self.mlp_bias.unwrap_or(defaults.mlp_bias),
            tied_embeddings: self.tie_word_embeddings,
            eos_token_ids: match self.eos_token_id {
                None => defaults.eos_token_id.into_iter().collect(),
                Some(stated) => stated.map_or(Ok(Vec::new()), TokenIds::ids)?,
            },
        }
        .check()
    }

    /// Positions a query sees.
    fn sliding_window(&self, defaults: &Defaults, layers: usize) -> Result<Option<usize>, ConfigError> {
        match defaults.sliding_window {
            SlidingWindow::Ignored => Ok(None),
            SlidingWindow::Stated { default } => Ok(self.sliding_window.unwrap_or(Some(default))),
            SlidingWindow::IfUsed if self.use_sliding_window != Some(true) => Ok(None),
            // Transformers' defaults for what is missing.
            SlidingWindow::IfUsed => match self.max_window_layers.unwrap_or(28) {
                // `layer_types`, where it is, says more, and is checked.
                first if first == 0 || self.layer_types.is_some() => {
                    Ok(self.sliding_window.unwrap_or(Some(4096)))
                }
                first if first >= layers => Ok(None),
                first => Err(ConfigError::unsupported(
                    "max_window_layers",
                    first.to_string(),
                    format!("the window must be for all {layers} layers (0) or for none ({layers})"),
                )),
            },
        }
    }

    fn refuse_unsupported(&self) -> Result<(), ConfigError> {
        if let Some(activation) = self.hidden_act.as_deref().filter(|name| !matches!(*name, "silu" | "swish"))
        {
            return Err(ConfigError::unsupported("hidden_act", activation, "it must be silu"));
        }
        if let Some(config) = &self.quantization_config {
            let method = config.get("quant_method").and_then(|m| m.as_str()).unwrap_or("unknown");
            return Err(ConfigError::unsupported(
                "quantization_config",
                method,
                "take the model as it was before, or one of its GGUF files",
            ));
        }
        let in_rope = |rope: &Option<HfRope>| rope.as_ref().and_then(|r| r.partial_rotary_factor);
        let partial =
            [self.partial_rotary_factor, in_rope(&self.rope_parameters), in_rope(&self.rope_scaling)];
        if let Some(factor) = partial.into_iter().flatten().find(|factor| *factor != 1.0) {
            return Err(ConfigError::unsupported(
                "partial_rotary_factor",
                factor.to_string(),
                "it must be 1",
            ));
        }
        Ok(())
    }

    /// All layers must be of the kind that `sliding_window` says.
    fn check_layer_types(&self, sliding_window: Option<usize>) -> Result<(), ConfigError> {
        let expected = if sliding_window.is_some() { "sliding_attention" } else { "full_attention" };
        match self.layer_types.iter().flatten().find(|kind| *kind != expected) {
            None => Ok(()),
            Some(kind) => Err(ConfigError::unsupported(
                "mixture of layer_types with",
                kind,
                format!("all must be {expected}"),
            )),
        }
    }

    fn rope(&self, defaults: &Defaults, context_length: usize) -> Result<RopeConfig, ConfigError> {
        // Of the two, transformers takes the older.
        let rope = self.rope_scaling.as_ref().or(self.rope_parameters.as_ref());
        let theta = rope.and_then(|rope| rope.rope_theta).or(self.rope_theta).unwrap_or(defaults.rope_theta);
        let scaling = rope.map_or(Ok(RopeScaling::None), |rope| rope.scaling(context_length))?;
        Ok(RopeConfig { theta, scaling })
    }
}

fn implied_head_dim(hidden_size: usize, query_heads: usize) -> Result<usize, ConfigError> {
    match hidden_size.checked_div(query_heads) {
        Some(head_dim) if head_dim.checked_mul(query_heads) == Some(hidden_size) => Ok(head_dim),
        _ => Err(ConfigError::invalid(
            "num_attention_heads",
            format!(
                "{query_heads} heads do not divide hidden_size {hidden_size}; give head_dim, if that is not the quotient"
            ),
        )),
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
            return Err(ConfigError::unsupported(
                "rope parameters per layer type,",
                kind,
                "they must be the same for all",
            ));
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
            Some(name) => Err(ConfigError::unsupported(
                "rope scaling",
                name,
                "rope_type may be default, linear or llama3",
            )),
        }
    }
}
