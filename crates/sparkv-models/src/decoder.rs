//! The decoder of the Llama family, for any of its shapes and weight formats.
use std::sync::Arc;

use candle_core::quantized::QTensor;
use candle_core::{DType, Device, Tensor};
use rayon::prelude::*;
use sparkv::{KvSettings, KvUsage, SequenceCache, Span, attend};

use crate::config::DecoderConfig;
use crate::error::LoadError;
use crate::language_model::{DecodeStep, LanguageModel, ModelError, ModelInfo};
use crate::linear::Linear;
use crate::progress::{Progress, Task, Unit};
use crate::rope::{Rope, Rotation};
use crate::rows;
use crate::spent::{self, Part};
use crate::weights::{MatrixFormat, Stored, TensorSource, WeightFormat};

/// Rows that go through a layer at a time: enough to keep matrix products busy, few enough that another
/// sequence need not wait long for its turn.
pub const PREFILL_CHUNK: usize = 512;

/// A Llama or Mistral with its weights.
#[derive(Debug)]
pub struct Decoder {
    info: ModelInfo,
    rms_norm_eps: f32,
    rope: Rope,
    embeddings: Embeddings,
    layers: Vec<Layer>,
    /// (hidden)
    norm: Tensor,
    /// (vocab, hidden)
    head: Linear,
}

/// The table of token embeddings, (vocab, hidden).
#[derive(Debug)]
enum Embeddings {
    Dense(Tensor),
    Quantized(Arc<QTensor>),
}

/// One decoder layer.
#[derive(Debug)]
struct Layer {
    /// (hidden)
    attention_norm: Tensor,
    /// (query_heads * head_dim, hidden)
    q: Linear,
    /// (kv_heads * head_dim, hidden)
    k: Linear,
    /// (kv_heads * head_dim, hidden)
    v: Linear,
    /// (hidden, query_heads * head_dim)
    o: Linear,
    /// (hidden)
    mlp_norm: Tensor,
    /// (intermediate, hidden)
    gate: Linear,
    /// (intermediate, hidden)
    up: Linear,
    /// (hidden, intermediate)
    down: Linear,
}

/// Rows of a sequence on their way through the layers.
struct Chunk {
    /// (tokens, hidden)
    hidden: Tensor,
    rotation: Rotation,
    tokens: usize,
}

impl Decoder {
    /// Reads the weights that `config` asks for and holds the matrices in `format`.
    ///
    /// # Errors
    /// If a tensor is missing, misshapen or of an unsupported type.
    pub fn load(
        config: &DecoderConfig,
        source: &dyn TensorSource,
        format: WeightFormat,
        progress: &dyn Progress,
    ) -> Result<Self, LoadError> {
        let format = format.for_matrices();
        progress.begin(&Task { name: "weights", total: config.layers as u64, unit: Unit::Layers });
        let layers = (0..config.layers)
            .into_par_iter()
            .map(|index| {
                let layer = Layer::load(config, source, index, format);
                progress.advance(1);
                layer
            })
            .collect::<Result<Vec<_>, _>>()?;
        let (embeddings, head) = load_ends(config, source, format)?;
        let norm = source.tensor("model.norm.weight", &[config.hidden_size])?.to_f32()?;
        progress.end();
        Ok(Self {
            info: ModelInfo {
                vocab_size: config.vocab_size,
                context_length: config.context_length,
                eos_token_ids: config.eos_token_ids.clone(),
                kv_shape: config.kv_shape(),
            },
            rms_norm_eps: config.rms_norm_eps,
            rope: Rope::new(config),
            embeddings,
            layers,
            norm,
            head,
        })
    }

    /// Runs further `tokens` of a sequence whose prompt is in `cache` already, and returns the logits of the
    /// last one; `Ok(None)` once `keep_going`, asked after every chunk and layer, says false. For text that
    /// must not take part in the compression of what came before it.
    ///
    /// # Errors
    /// If there are no tokens, a token is not in the vocabulary, or the computation fails.
    pub fn extend(
        &self,
        tokens: &[u32],
        cache: &mut SequenceCache,
        keep_going: &mut dyn FnMut() -> bool,
    ) -> Result<Option<Vec<f32>>, ModelError> {
        let mut last = None;
        for chunk in self.chunks(tokens, cache.len())? {
            for (layer, cache) in self.layers.iter().zip(cache.layers_mut()) {
                if !keep_going() {
                    return Ok(None);
                }
                let span = Span { tokens: chunk.tokens, cache };
                self.run_layer(layer, &chunk.hidden, &chunk.rotation, &mut [span])?;
            }
            last = Some(chunk);
        }
        Ok(last.map(|chunk| self.last_logits(&chunk)).transpose()?)
    }

    /// `tokens` at the positions from `start`, embedded.
    fn chunks(&self, tokens: &[u32], start: usize) -> Result<Vec<Chunk>, ModelError> {
        if tokens.is_empty() {
            return Err(candle_core::Error::Msg("there are no tokens to run".to_owned()).into());
        }
        let starts = (start..).step_by(PREFILL_CHUNK);
        let chunks = tokens.chunks(PREFILL_CHUNK).zip(starts);
        chunks
            .map(|(tokens, start)| {
                Ok(Chunk {
                    hidden: self.embed(tokens)?,
                    rotation: self.rope.at(start..start + tokens.len()),
                    tokens: tokens.len(),
                })
            })
            .collect()
    }

    /// (tokens, hidden), f32
    fn embed(&self, tokens: &[u32]) -> Result<Tensor, ModelError> {
        let vocab_size = self.info.vocab_size;
        if let Some(&id) = tokens.iter().find(|&&id| id as usize >= vocab_size) {
            return Err(ModelError::Token { id, vocab_size });
        }
        let ids = Tensor::new(tokens, &Device::Cpu)?;
        Ok(match &self.embeddings {
            Embeddings::Dense(table) => table.index_select(&ids, 0)?.to_dtype(DType::F32)?,
            Embeddings::Quantized(table) => table.embedding(&ids)?,
        })
    }

    /// Replaces `hidden`, (rows, hidden), the rows of all `spans` one after the other, by the layer's output.
    fn run_layer(
        &self,
        layer: &Layer,
        hidden: &Tensor,
        rotation: &Rotation,
        spans: &mut [Span<'_>],
    ) -> candle_core::Result<()> {
        let x = rows::rms_norm(hidden, &layer.attention_norm, self.rms_norm_eps)?;
        let [q, k, v] = Linear::forward_all([&layer.q, &layer.k, &layer.v], &x)?;
        rotation.apply(&q)?;
        rotation.apply(&k)?;
        let attended =
            spent::on(Part::Attention, || attend(&self.info.kv_shape.attention, &q, &k, &v, spans))?;
        rows::add(hidden, &layer.o.forward(&attended)?)?;
        let x = rows::rms_norm(hidden, &layer.mlp_norm, self.rms_norm_eps)?;
        let [gate, up] = Linear::forward_all([&layer.gate, &layer.up], &x)?;
        rows::silu_times(&gate, &up)?;
        rows::add(hidden, &layer.down.forward(&gate)?)
    }

    /// (rows, vocab) of hidden states (rows, hidden).
    fn logits(&self, hidden: &Tensor) -> candle_core::Result<Tensor> {
        self.head.forward(&rows::rms_norm(hidden, &self.norm, self.rms_norm_eps)?)
    }

    fn last_logits(&self, chunk: &Chunk) -> candle_core::Result<Vec<f32>> {
        let last = chunk.hidden.narrow(0, chunk.tokens - 1, 1)?.contiguous()?;
        self.logits(&last)?.flatten_all()?.to_vec1()
    }
}

impl LanguageModel for Decoder {
    type Cache = SequenceCache;

    fn info(&self) -> &ModelInfo {
        &self.info
    }

    fn new_cache(&self, settings: &KvSettings, prompt_tokens: usize) -> Result<SequenceCache, ModelError> {
        Ok(SequenceCache::new(self.info.kv_shape, settings, prompt_tokens)?)
    }

    fn prefill(
        &self,
        prompt: &[u32],
        cache: &mut SequenceCache,
        keep_going: &mut dyn FnMut() -> bool,
    ) -> Result<Option<Vec<f32>>, ModelError> {
        if !cache.is_empty() {
            return Err(candle_core::Error::Msg("the cache holds a prompt already".to_owned()).into());
        }
        let chunks = self.chunks(prompt, 0)?;
        for (layer, cache) in self.layers.iter().zip(cache.layers_mut()) {
            for chunk in &chunks {
                if !keep_going() {
                    return Ok(None);
                }
                let span = Span { tokens: chunk.tokens, cache: &mut *cache };
                self.run_layer(layer, &chunk.hidden, &chunk.rotation, &mut [span])?;
            }
            spent::on(Part::Attention, || cache.finish_prompt())?;
        }
        Ok(chunks.last().map(|chunk| self.last_logits(chunk)).transpose()?)
    }

    fn decode(&self, batch: &mut [DecodeStep<'_, SequenceCache>]) -> Result<Vec<Vec<f32>>, ModelError> {
        if batch.is_empty() {
            return Ok(Vec::new());
        }
        let tokens: Vec<u32> = batch.iter().map(|step| step.token).collect();
        let hidden = self.embed(&tokens)?;
        let rotation = self.rope.at(batch.iter().map(|step| step.cache.len()));
        let mut caches: Vec<_> = batch.iter_mut().map(|step| step.cache.layers_mut().iter_mut()).collect();
        for layer in &self.layers {
            let layer_caches = caches.iter_mut().filter_map(Iterator::next);
            let mut spans: Vec<_> = layer_caches.map(|cache| Span { tokens: 1, cache }).collect();
            self.run_layer(layer, &hidden, &rotation, &mut spans)?;
        }
        Ok(self.logits(&hidden)?.to_vec2()?)
    }

    fn kv_usage(&self, cache: &SequenceCache) -> KvUsage {
        cache.usage()
    }
}

impl Layer {
    fn load(
        config: &DecoderConfig,
        source: &dyn TensorSource,
        index: usize,
        format: MatrixFormat,
    ) -> Result<Self, LoadError> {
        let hidden = config.hidden_size;
        let inner = config.intermediate_size;
        let query = config.query_heads * config.head_dim;
        let kv = config.kv_heads * config.head_dim;
        let norm = |name: &str| -> Result<Tensor, LoadError> {
            Ok(source.tensor(&format!("model.layers.{index}.{name}.weight"), &[hidden])?.to_f32()?)
        };
        let attention = |name: &str, shape| {
            let name = format!("model.layers.{index}.self_attn.{name}");
            Linear::load(source, &name, shape, config.attention_bias, format)
        };
        let mlp = |name: &str, shape| {
            let name = format!("model.layers.{index}.mlp.{name}");
            Linear::load(source, &name, shape, config.mlp_bias, format)
        };
        Ok(Self {
            attention_norm: norm("input_layernorm")?,
            q: attention("q_proj", [query, hidden])?,
            k: attention("k_proj", [kv, hidden])?,
            v: attention("v_proj", [kv, hidden])?,
            o: attention("o_proj", [hidden, query])?,
            mlp_norm: norm("post_attention_layernorm")?,
            gate: mlp("gate_proj", [inner, hidden])?,
            up: mlp("up_proj", [inner, hidden])?,
            down: mlp("down_proj", [hidden, inner])?,
        })
    }
}

/// The embedding table and the output head. Where they are tied, a file may hold either of them.
fn load_ends(
    config: &DecoderConfig,
    source: &dyn TensorSource,
    format: MatrixFormat,
) -> Result<(Embeddings, Linear), LoadError> {
    const TABLE: &str = "model.embed_tokens.weight";
    const HEAD: &str = "lm_head.weight";
    let shape = [config.vocab_size, config.hidden_size];
    let table_name =
        if config.tied_embeddings && !source.contains(TABLE) && source.contains(HEAD) { HEAD } else { TABLE };
    let table = source.tensor(table_name, &shape)?;
    let table = match format {
        // One matrix in memory, too.
        _ if config.tied_embeddings => table.convert(format)?,
        MatrixFormat::Dense(DType::F16 | DType::BF16) => table.convert(format)?,
        _ => table,
    };
    let head = if config.tied_embeddings { table.clone() } else { source.tensor(HEAD, &shape)? };
    let head = Linear::new(head.convert(format)?)?;
    let embeddings = match table {
        Stored::Dense(table) => Embeddings::Dense(table),
        Stored::Quantized(table) => Embeddings::Quantized(table),
    };
    Ok((embeddings, head))
}
