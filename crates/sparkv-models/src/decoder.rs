//! The decoder of the Llama family, for any of its shapes and weight formats.
use std::sync::Arc;

use candle_core::quantized::QTensor;
use candle_core::{DType, Device, Tensor};
use rayon::prelude::*;
use sparkv::{KvPool, LayerSpan, attend};

use crate::config::DecoderConfig;
use crate::error::LoadError;
use crate::family::Name;
use crate::language_model::{ModelError, ModelInfo};
use crate::linear::Linear;
use crate::ops::rope::{Rope, Rotation};
use crate::ops::{self, RowOps};
use crate::profile::{self, Section};
use crate::progress::{Progress, Task, Unit};
use crate::weights::{MatrixFormat, Stored, TensorSource, WeightFormat, Weights};

/// Rows that go through the wide part of a layer at a time: enough to keep matrix products busy.
const MLP_ROWS: usize = 256;

/// A Llama or Mistral with its weights.
#[derive(Debug)]
pub struct Decoder {
    pub(crate) info: ModelInfo,
    /// Where the weights are, and everything that is computed with them.
    device: Device,
    /// What is done to rows there.
    ops: &'static dyn RowOps,
    rms_norm_eps: f32,
    rope: Rope,
    embeddings: Embeddings,
    layers: Vec<Layer>,
    /// (hidden)
    norm: Tensor,
    /// (vocab, hidden)
    head: Linear,
    /// Counts what caches and prefills hold.
    pub(crate) pool: KvPool,
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
    /// What queries and keys are normalized by before they are rotated, each (head_dim).
    query_key_norm: Option<[Tensor; 2]>,
    /// (hidden)
    mlp_norm: Tensor,
    /// (intermediate, hidden)
    gate: Linear,
    /// (intermediate, hidden)
    up: Linear,
    /// (hidden, intermediate)
    down: Linear,
}

impl Decoder {
    /// Reads the weights that `config` asks for into the memory of `device` and holds the matrices in `format`.
    ///
    /// # Errors
    /// If a tensor is missing, misshapen or of an unsupported type.
    pub fn load(
        config: &DecoderConfig,
        source: &dyn TensorSource,
        format: WeightFormat,
        device: &Device,
        progress: &dyn Progress,
    ) -> Result<Self, LoadError> {
        let weights = Weights { source, format: format.for_matrices(), device };
        progress.begin(&Task { name: "weights", total: config.layers as u64, unit: Unit::Layers });
        let layers = (0..config.layers)
            .into_par_iter()
            .map(|index| {
                let layer = Layer::load(config, &weights, index);
                progress.advance(1);
                layer
            })
            .collect::<Result<Vec<_>, _>>()?;
        let (embeddings, head) = load_ends(config, &weights)?;
        let norm = weights.vector(&format!("{}.weight", config.tensors.norm.hf), config.hidden_size)?;
        progress.end();
        Ok(Self {
            info: ModelInfo {
                vocab_size: config.vocab_size,
                context_length: config.context_length,
                eos_token_ids: config.eos_token_ids.clone(),
                kv_shape: config.kv_shape(),
                row_bytes: config.hidden_size * size_of::<f32>(),
            },
            device: device.clone(),
            ops: ops::on(device),
            rms_norm_eps: config.rms_norm_eps,
            rope: Rope::new(config, device),
            embeddings,
            layers,
            norm,
            head,
            pool: KvPool::default(),
        })
    }

    /// How many layers there are.
    pub(crate) fn layers(&self) -> usize {
        self.layers.len()
    }

    /// The rotation of rows at these positions.
    pub(crate) fn rotation(&self, positions: impl Iterator<Item = usize>) -> candle_core::Result<Rotation> {
        self.rope.at(positions)
    }

    /// (tokens, hidden), f32
    pub(crate) fn embed(&self, tokens: &[u32]) -> Result<Tensor, ModelError> {
        self.info.check_tokens(tokens)?;
        let ids = Tensor::new(tokens, &self.device)?;
        Ok(match &self.embeddings {
            Embeddings::Dense(table) => table.index_select(&ids, 0)?.to_dtype(DType::F32)?,
            Embeddings::Quantized(table) => table.embedding(&ids)?,
        })
    }

    /// Replaces `hidden`, (rows, hidden), the rows of all `spans` one after the other, all of which are wanted, by
    /// the output of a layer.
    pub(crate) fn run_layer(
        &self,
        layer: usize,
        hidden: &Tensor,
        rotation: &Rotation,
        spans: &mut [LayerSpan<'_>],
    ) -> candle_core::Result<()> {
        let layer = self.layer(layer)?;
        let attended = self.attend(layer, hidden, rotation, spans)?;
        self.finish_layer(layer, hidden, &attended)
    }

    /// The output of a layer for the rows that are wanted, (wanted rows, hidden); `None` if there are none. The
    /// others leave their keys and values.
    pub(crate) fn run_layer_for_wanted(
        &self,
        layer: usize,
        hidden: &Tensor,
        rotation: &Rotation,
        spans: &mut [LayerSpan<'_>],
    ) -> candle_core::Result<Option<Tensor>> {
        let layer = self.layer(layer)?;
        let attended = self.attend(layer, hidden, rotation, spans)?;
        let (mut wanted, mut end) = (Vec::with_capacity(spans.len()), 0);
        for span in spans.iter() {
            end += span.tokens;
            if span.wanted > 0 {
                wanted.push(hidden.narrow(0, end - span.wanted, span.wanted)?);
            }
        }
        let wanted = match &wanted[..] {
            [] => return Ok(None),
            // A copy: of one tensor, `cat` would make none.
            [wanted] => wanted.force_contiguous()?,
            several => Tensor::cat(several, 0)?,
        };
        self.finish_layer(layer, &wanted, &attended)?;
        Ok(Some(wanted))
    }

    fn layer(&self, index: usize) -> candle_core::Result<&Layer> {
        match self.layers.get(index) {
            Some(layer) => Ok(layer),
            None => candle_core::bail!("layer {index} of {}", self.layers.len()),
        }
    }

    /// Attention of the wanted rows, (wanted rows, query_heads * head_dim).
    fn attend(
        &self,
        layer: &Layer,
        hidden: &Tensor,
        rotation: &Rotation,
        spans: &mut [LayerSpan<'_>],
    ) -> candle_core::Result<Tensor> {
        let x = self.ops.rms_norm(hidden, &layer.attention_norm, self.rms_norm_eps)?;
        let [mut q, mut k, v] = Linear::forward_all([&layer.q, &layer.k, &layer.v], &x)?;
        if let Some([q_norm, k_norm]) = &layer.query_key_norm {
            q = self.normalize_heads(&q, q_norm)?;
            k = self.normalize_heads(&k, k_norm)?;
        }
        self.ops.rotate(&q, rotation)?;
        self.ops.rotate(&k, rotation)?;
        profile::on(Section::Attention, || attend(&self.info.kv_shape.attention, &q, &k, &v, spans))
    }

    /// (rows, heads * head_dim), each head of which is normalized by itself; `weight` is (head_dim).
    fn normalize_heads(&self, x: &Tensor, weight: &Tensor) -> candle_core::Result<Tensor> {
        let heads = x.reshape(((), weight.dim(0)?))?;
        self.ops.rms_norm(&heads, weight, self.rms_norm_eps)?.reshape(x.shape())
    }

    /// Replaces `hidden`, (rows, hidden), by what a layer makes of it after attention. A piece of it at a time, so
    /// that the wide rows in between take little memory.
    fn finish_layer(&self, layer: &Layer, hidden: &Tensor, attended: &Tensor) -> candle_core::Result<()> {
        self.ops.add(hidden, &layer.o.forward(attended)?)?;
        let rows = hidden.dim(0)?;
        for start in (0..rows).step_by(MLP_ROWS) {
            let hidden = hidden.narrow(0, start, MLP_ROWS.min(rows - start))?;
            let x = self.ops.rms_norm(&hidden, &layer.mlp_norm, self.rms_norm_eps)?;
            let [gate, up] = Linear::forward_all([&layer.gate, &layer.up], &x)?;
            self.ops.silu_times(&gate, &up)?;
            self.ops.add(&hidden, &layer.down.forward(&gate)?)?;
        }
        Ok(())
    }

    /// (rows, vocab) of hidden states (rows, hidden).
    pub(crate) fn logits(&self, hidden: &Tensor) -> candle_core::Result<Tensor> {
        self.head.forward(&self.ops.rms_norm(hidden, &self.norm, self.rms_norm_eps)?)
    }
}

impl Layer {
    fn load(config: &DecoderConfig, weights: &Weights<'_>, index: usize) -> Result<Self, LoadError> {
        let hidden = config.hidden_size;
        let inner = config.intermediate_size;
        let query = config.query_heads * config.head_dim;
        let kv = config.kv_heads * config.head_dim;
        let names = config.tensors;
        let vector = |module: &Name, length| {
            weights.vector(&format!("{}.weight", names.in_layer(index, module)), length)
        };
        let norm = |module: &Name| vector(module, hidden);
        let attention =
            |module: &Name, shape, bias| Linear::load(weights, &names.in_layer(index, module), shape, bias);
        let query_key_norm = if config.query_key_norm {
            Some([vector(&names.q_norm, config.head_dim)?, vector(&names.k_norm, config.head_dim)?])
        } else {
            None
        };
        let mlp = |module: &Name, shape| {
            Linear::load(weights, &names.in_layer(index, module), shape, config.mlp_bias)
        };
        Ok(Self {
            attention_norm: norm(&names.attention_norm)?,
            q: attention(&names.q, [query, hidden], config.attention_bias)?,
            k: attention(&names.k, [kv, hidden], config.attention_bias)?,
            v: attention(&names.v, [kv, hidden], config.attention_bias)?,
            o: attention(&names.o, [hidden, query], config.attention_output_bias)?,
            query_key_norm,
            mlp_norm: norm(&names.mlp_norm)?,
            gate: mlp(&names.gate, [inner, hidden])?,
            up: mlp(&names.up, [inner, hidden])?,
            down: mlp(&names.down, [hidden, inner])?,
        })
    }
}

/// The embedding table and the output head. Where they are tied, a file may hold either of them.
fn load_ends(config: &DecoderConfig, weights: &Weights<'_>) -> Result<(Embeddings, Linear), LoadError> {
    let names = config.tensors;
    let [table_name, head_name] = [&names.embeddings, &names.head].map(|name| format!("{}.weight", name.hf));
    let Weights { source, format, .. } = *weights;
    let shape = [config.vocab_size, config.hidden_size];
    let only_head = config.tied_embeddings && !source.contains(&table_name) && source.contains(&head_name);
    let table = weights.stored(if only_head { &head_name } else { &table_name }, &shape)?;
    let table = match format {
        // One matrix in memory, too.
        _ if config.tied_embeddings => table.convert(format)?,
        MatrixFormat::Dense(DType::F16 | DType::BF16) => table.convert(format)?,
        _ => table,
    };
    let head = if config.tied_embeddings { table.clone() } else { weights.stored(&head_name, &shape)? };
    let head = Linear::new(head.convert(format)?)?;
    let embeddings = match table {
        Stored::Dense(table) => Embeddings::Dense(table),
        Stored::Quantized(table) => Embeddings::Quantized(table),
    };
    Ok((embeddings, head))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::dummy::Random;

    #[test]
    fn a_layer_computes_the_same_by_the_plain_row_operations() {
        let config = r#"{"model_type": "llama", "vocab_size": 128, "hidden_size": 64, "intermediate_size": 96,
            "num_hidden_layers": 1, "num_attention_heads": 4, "max_position_embeddings": 512}"#;
        let config = DecoderConfig::from_json(config).unwrap();
        let load = || {
            let format = WeightFormat::F32;
            let source = Random::new(1, format.for_matrices());
            Decoder::load(&config, &source, format, &Device::Cpu, &()).unwrap()
        };
        let (fast, mut plain) = (load(), load());
        plain.ops = ops::plain();
        // More rows than go through the wide part at a time.
        let tokens: Vec<u32> = (0..MLP_ROWS as u32 + 44).map(|index| index % 128).collect();
        let logits = |decoder: &Decoder| {
            let hidden = decoder.embed(&tokens).unwrap();
            let attended = hidden.copy().unwrap();
            let rotation = decoder.rotation(0..tokens.len()).unwrap();
            decoder.ops.rotate(&attended, &rotation).unwrap();
            decoder.finish_layer(&decoder.layers[0], &hidden, &attended).unwrap();
            decoder.logits(&hidden).unwrap()
        };
        let (fast, plain) = (logits(&fast), logits(&plain));
        let largest = |t: &Tensor| t.abs().unwrap().max_all().unwrap().to_scalar::<f32>().unwrap();
        let off = largest(&(&fast - &plain).unwrap()) / largest(&fast);
        assert!(off < 1e-5, "{off}");
    }
}
