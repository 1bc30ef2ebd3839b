//! From a GGUF file's metadata to a [`DecoderConfig`].
use super::GgufFile;
use crate::config::{AdvisedSampling, ConfigError, DecoderConfig, RopeConfig, RopeScaling};
use crate::error::LoadError;
use crate::family::{Family, GgufFamily, Name};

/// Divisors of the rotary frequencies, one for each pair of channels (Llama 3.1's scaling, worked out).
const ROPE_DIVISORS: &str = "rope_freqs.weight";

impl GgufFile {
    /// The model's configuration.
    ///
    /// # Errors
    /// If a key is missing or of the wrong type, or names something this decoder does not have.
    pub fn config(&self) -> Result<DecoderConfig, LoadError> {
        let unsupported =
            |what, name: &str, instead| self.config_error(ConfigError::unsupported(what, name, instead));
        let name = self
            .text("general.architecture")?
            .ok_or_else(|| self.corrupt("`general.architecture` is missing"))?;
        let (family, gguf) = Family::of_gguf(name).map_err(|error| self.config_error(error))?;
        let key = |name: &str| format!("{}.{name}", gguf.architecture);
        let has = |name: &str| self.tensor_shape(name).is_some();
        if self.count(&key("expert_count"))?.unwrap_or(0) > 0 {
            return Err(unsupported(
                "architecture",
                "mixture of experts",
                "it must be a model without experts",
            ));
        }
        let query_heads = self.required(&key("attention.head_count"))?;
        let hidden_size = self.required(&key("embedding_length"))?;
        let head_dim = match self.count(&key("attention.key_length"))? {
            Some(head_dim) => head_dim,
            None => hidden_size.checked_div(query_heads).unwrap_or(0),
        };
        for key in [key("attention.value_length"), key("rope.dimension_count")] {
            if let Some(other) = self.count(&key)?.filter(|&value| value != head_dim) {
                return Err(unsupported(
                    "head shape",
                    &format!("{key} = {other}, with keys of length {head_dim}"),
                    "the two must be the same",
                ));
            }
        }
        let names = family.tensors;
        let table = format!("{}.weight", names.embeddings.gguf);
        let vocab_size = match self.tensor_shape(&table) {
            Some([vocab_size, _]) => *vocab_size,
            _ => return Err(LoadError::MissingTensor { name: table }),
        };
        let first_bias = |module: &Name| has(&format!("{}.0.{}.bias", names.layers.gguf, module.gguf));
        let context_length = self.required(&key("context_length"))?;
        DecoderConfig {
            tensors: names,
            architecture: gguf.architecture,
            vocab_size,
            hidden_size,
            intermediate_size: self.required(&key("feed_forward_length"))?,
            layers: self.required(&key("block_count"))?,
            query_heads,
            kv_heads: self.count(&key("attention.head_count_kv"))?.unwrap_or(query_heads),
            head_dim,
            context_length,
            rms_norm_eps: self.float(&key("attention.layer_norm_rms_epsilon"))?.unwrap_or(gguf.rms_norm_eps),
            rope: RopeConfig {
                theta: self.float(&key("rope.freq_base"))?.unwrap_or(10_000.0),
                scaling: self.rope_scaling(gguf)?,
            },
            sliding_window: self.count(&key("attention.sliding_window"))?.filter(|&window| window > 0),
            attention_bias: [&names.q, &names.k, &names.v].map(first_bias),
            attention_output_bias: first_bias(&names.o),
            query_key_norm: family.query_key_norm,
            mlp_bias: first_bias(&names.gate),
            tied_embeddings: Some(!has(&format!("{}.weight", names.head.gguf))),
            eos_token_ids: self.eos_token_ids()?,
        }
        .check()
        .map_err(|error| self.config_error(error))
    }

    /// How its authors would have tokens drawn: `general.sampling.*`, as llama.cpp reads it.
    pub(crate) fn sampling(&self) -> Result<AdvisedSampling, LoadError> {
        let float = |name: &str| self.float(&format!("general.sampling.{name}"));
        let sampling = AdvisedSampling {
            temperature: float("temp")?,
            top_p: float("top_p")?,
            top_k: self.count("general.sampling.top_k")?,
            min_p: float("min_p")?,
            repetition_penalty: float("penalty_repeat")?,
        };
        sampling.check().map_err(|error| self.config_error(error))
    }

    fn config_error(&self, source: ConfigError) -> LoadError {
        LoadError::Config { file: self.first.name.clone(), source }
    }

    fn required(&self, key: &str) -> Result<usize, LoadError> {
        self.count(key)?.ok_or_else(|| self.corrupt(format!("`{key}` is missing")))
    }

    fn tensor_shape(&self, name: &str) -> Option<&[usize]> {
        self.tensor_info(name).map(|(_, info)| info.shape.dims())
    }

    fn rope_scaling(&self, gguf: &GgufFamily) -> Result<RopeScaling, LoadError> {
        if let Some(shape) = self.tensor_shape(ROPE_DIVISORS) {
            return Ok(RopeScaling::Divisors(self.values(ROPE_DIVISORS, shape)?));
        }
        let key = |name: &str| format!("{}.rope.{name}", gguf.architecture);
        let factor = self.float(&key("scaling.factor"))?.or(self.float(&key("scale_linear"))?);
        // To llama.cpp, 0 is as good as none.
        let factor = factor.filter(|&factor| factor != 0.0);
        match (self.text(&key("scaling.type"))?, factor) {
            (Some("none"), _) | (None | Some("linear"), None | Some(1.0)) => Ok(RopeScaling::None),
            (None | Some("linear"), Some(factor)) => Ok(RopeScaling::Linear { factor }),
            (Some(name), _) => Err(self.config_error(ConfigError::unsupported(
                "rope scaling",
                name,
                "it may be none or linear, or worked out in rope_freqs",
            ))),
        }
    }

    /// End of text, and end of a turn or message where the file names one.
    fn eos_token_ids(&self) -> Result<Vec<u32>, LoadError> {
        let mut ids = Vec::new();
        for name in ["eos", "eot", "eom"] {
            ids.extend(self.token_id(name)?.filter(|id| !ids.contains(id)));
        }
        Ok(ids)
    }
}
