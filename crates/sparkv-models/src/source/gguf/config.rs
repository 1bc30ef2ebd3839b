//! From a GGUF file's metadata to a [`DecoderConfig`].
use super::GgufFile;
use crate::config::{ConfigError, DecoderConfig, RopeConfig, RopeScaling};
use crate::error::LoadError;

/// Divisors of the rotary frequencies, one for each pair of channels (Llama 3.1's scaling, worked out).
const ROPE_DIVISORS: &str = "rope_freqs.weight";

impl GgufFile {
    /// The model's configuration.
    ///
    /// # Errors
    /// If a key is missing or of the wrong type, or names something this decoder does not have.
    pub fn config(&self) -> Result<DecoderConfig, LoadError> {
        let unsupported = |what, name: &str| self.config_error(ConfigError::unsupported(what, name));
        match self.text("general.architecture")? {
            Some("llama") => {}
            Some(name) => return Err(unsupported("architecture", name)),
            None => return Err(self.corrupt("`general.architecture` is missing")),
        }
        if self.count("llama.expert_count")?.unwrap_or(0) > 0 {
            return Err(unsupported("architecture", "mixture of experts"));
        }
        let query_heads = self.required("llama.attention.head_count")?;
        let hidden_size = self.required("llama.embedding_length")?;
        let head_dim = match self.count("llama.attention.key_length")? {
            Some(head_dim) => head_dim,
            None => hidden_size.checked_div(query_heads).unwrap_or(0),
        };
        for key in ["llama.attention.value_length", "llama.rope.dimension_count"] {
            if let Some(other) = self.count(key)?.filter(|&value| value != head_dim) {
                return Err(unsupported(
                    "head shape",
                    &format!("{key} = {other}, with keys of length {head_dim}"),
                ));
            }
        }
        let vocab_size = match self.tensor_shape("token_embd.weight") {
            Some([vocab_size, _]) => *vocab_size,
            _ => return Err(LoadError::MissingTensor { name: "token_embd.weight".to_owned() }),
        };
        let context_length = self.required("llama.context_length")?;
        DecoderConfig {
            vocab_size,
            hidden_size,
            intermediate_size: self.required("llama.feed_forward_length")?,
            layers: self.required("llama.block_count")?,
            query_heads,
            kv_heads: self.count("llama.attention.head_count_kv")?.unwrap_or(query_heads),
            head_dim,
            context_length,
            rms_norm_eps: self.float("llama.attention.layer_norm_rms_epsilon")?.unwrap_or(1e-5),
            rope: RopeConfig {
                theta: self.float("llama.rope.freq_base")?.unwrap_or(10_000.0),
                scaling: self.rope_scaling()?,
            },
            sliding_window: self.count("llama.attention.sliding_window")?.filter(|&window| window > 0),
            attention_bias: self.tensor_shape("blk.0.attn_q.bias").is_some(),
            mlp_bias: self.tensor_shape("blk.0.ffn_gate.bias").is_some(),
            tied_embeddings: self.tensor_shape("output.weight").is_none(),
            eos_token_ids: self.eos_token_ids()?,
        }
        .check()
        .map_err(|error| self.config_error(error))
    }

    fn config_error(&self, source: ConfigError) -> LoadError {
        LoadError::Config { file: self.name.clone(), source }
    }

    fn required(&self, key: &str) -> Result<usize, LoadError> {
        self.count(key)?.ok_or_else(|| self.corrupt(format!("`{key}` is missing")))
    }

    fn tensor_shape(&self, name: &str) -> Option<&[usize]> {
        self.content.tensor_infos.get(name).map(|info| info.shape.dims())
    }

    fn rope_scaling(&self) -> Result<RopeScaling, LoadError> {
        if let Some(shape) = self.tensor_shape(ROPE_DIVISORS) {
            return Ok(RopeScaling::Divisors(self.values(ROPE_DIVISORS, shape)?));
        }
        let factor = self.float("llama.rope.scaling.factor")?.or(self.float("llama.rope.scale_linear")?);
        match (self.text("llama.rope.scaling.type")?, factor) {
            (Some("none"), _) | (None | Some("linear"), None | Some(1.0)) => Ok(RopeScaling::None),
            (None | Some("linear"), Some(factor)) => Ok(RopeScaling::Linear { factor }),
            (Some(name), _) => Err(self.config_error(ConfigError::unsupported("rope scaling", name))),
        }
    }

    /// End of text, and end of a turn or message where the file names one.
    fn eos_token_ids(&self) -> Result<Vec<u32>, LoadError> {
        let mut ids = Vec::new();
        for name in ["eos", "eot", "eom"] {
            let id = self.count(&format!("tokenizer.ggml.{name}_token_id"))?;
            ids.extend(id.and_then(|id| u32::try_from(id).ok()).filter(|id| !ids.contains(id)));
        }
        Ok(ids)
    }
}
