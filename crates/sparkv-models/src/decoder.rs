//! The decoder of the Llama family, for any of its shapes and weight formats.
use std::collections::BTreeMap;

use candle_core::{Device, Tensor};
use sparkv::accelerator::DeviceError;
use sparkv::{Budget, KvPool, LayerSpan, attend};

use crate::config::DecoderConfig;
use crate::device::Place;
use crate::error::LoadError;
use crate::family::Name;
use crate::language_model::{ModelError, ModelInfo};
use crate::linear::{Linear, Mlp, Norm};
use crate::logits::Logits;
use crate::ops::rope::{Rope, Rotation};
use crate::ops::{self, RowOps};
use crate::profile::{self, Section};
use crate::progress::{Progress, Task, Unit};
use crate::weights::{MatrixFormat, Products, TensorSource, WeightFormat, Weights};
use sparkv_kernels::matmul::WeightType;

/// A Llama or Mistral with its weights.
#[derive(Debug)]
pub struct Decoder {
    pub(crate) info: ModelInfo,
    /// What is done to rows there.
    ops: Box<dyn RowOps>,
    rope: Rope,
    /// The table of token embeddings, (vocab, hidden), if it is not the output head.
    embeddings: Option<Linear>,
    layers: Vec<Layer>,
    norm: Norm,
    /// (vocab, hidden)
    head: Linear,
    /// Counts what caches and prefills hold.
    pub(crate) pool: KvPool,
    place: Place,
}

/// One decoder layer.
#[derive(Debug)]
struct Layer {
    attention_norm: Norm,
    /// (query_heads * head_dim, hidden)
    q: Linear,
    /// (kv_heads * head_dim, hidden)
    k: Linear,
    /// (kv_heads * head_dim, hidden)
    v: Linear,
    /// (hidden, query_heads * head_dim)
    o: Linear,
    /// What queries and keys are normalized by before they are rotated, each (head_dim).
    query_key_norm: Option<[Norm; 2]>,
    mlp: Mlp,
}

impl Decoder {
    /// Reads the weights that `config` asks for into the memory of `device` and holds the matrices in `format`.
    ///
    /// # Errors
    /// If a tensor is missing, misshapen or of an unsupported type, or the device lacks something.
    pub fn load(
        config: &DecoderConfig,
        source: &dyn TensorSource,
        format: WeightFormat,
        device: &Device,
        progress: &dyn Progress,
    ) -> Result<Self, LoadError> {
        Self::load_to(config, source, format, &Place::on(device)?, progress)
    }

    /// The same, into the memory of `place`. Where that is not the CPU, memory for caches has to be taken, too
    /// ([`Decoder::take_kv_memory`]).
    ///
    /// # Errors
    /// As [`Decoder::load`].
    pub fn load_to(
        config: &DecoderConfig,
        source: &dyn TensorSource,
        format: WeightFormat,
        place: &Place,
        progress: &dyn Progress,
    ) -> Result<Self, LoadError> {
        let (device, products) = (place.tensors(), Products::on(place));
        let weights = Weights { source, format: format.for_matrices(), device, products };
        Self::load_for(config, &weights, place, progress)
    }

    fn load_for(
        config: &DecoderConfig,
        weights: &Weights<'_>,
        place: &Place,
        progress: &dyn Progress,
    ) -> Result<Self, LoadError> {
        progress.begin(&Task { name: "weights", total: config.layers as u64, unit: Unit::Layers });
        let layers = (0..config.layers)
            .map(|index| {
                let layer = Layer::load(config, weights, index);
                progress.advance(1);
                layer
            })
            .collect::<Result<Vec<_>, _>>()?;
        let (embeddings, head) = load_ends(config, weights)?;
        let norm = weights.norm(config.tensors.norm.hf, config.hidden_size, config)?;
        progress.end();
        Ok(Self {
            info: ModelInfo {
                architecture: config.architecture,
                vocab_size: config.vocab_size,
                context_length: config.context_length,
                eos_token_ids: config.eos_token_ids.clone(),
                kv_shape: config.kv_shape(),
                row_bytes: config.hidden_size * size_of::<f32>(),
            },
            ops: ops::on(place),
            rope: Rope::new(config, place.tensors(), place.accelerator().is_some())?,
            embeddings,
            layers,
            norm,
            head,
            pool: KvPool::default(),
            place: place.clone(),
        })
    }

    /// Takes memory for caches where the decoder is: bytes, or a share of what is free there. Gives how much that is; `None` on
    /// the CPU, where caches take what they need.
    ///
    /// # Errors
    /// If there is not as much.
    pub fn take_kv_memory(&mut self, memory: Budget) -> Result<Option<u64>, LoadError> {
        let Some(accelerator) = self.place.accelerator() else { return Ok(None) };
        let refused = |error: DeviceError| LoadError::KvMemory {
            memory: memory.to_string(),
            reason: error.to_string(),
        };
        let bytes = match memory {
            Budget::Bytes(bytes) => bytes,
            Budget::Share(share) => (accelerator.free_memory().map_err(refused)? as f64 * share) as u64,
        };
        self.pool = KvPool::on(accelerator, bytes).map_err(refused)?;
        Ok(self.pool.taken())
    }

    /// Counts what caches hold, and knows where that is.
    pub fn pool(&self) -> &KvPool {
        &self.pool
    }

    /// Matrices of weights; embeddings that are the output head as well are there once.
    fn matrices(&self) -> impl Iterator<Item = &Linear> {
        let layers = self.layers.iter().flat_map(Layer::matrices);
        layers.chain(&self.embeddings).chain([&self.head])
    }

    /// Bytes that matrices of weights take.
    pub fn weight_bytes(&self) -> u64 {
        self.matrices().map(Linear::bytes).sum::<usize>() as u64
    }

    /// How weights are held: the names of the types (`q4_k`), and the bytes of each, the most first.
    pub fn weight_types(&self) -> Vec<(&'static str, u64)> {
        let mut bytes = BTreeMap::new();
        for matrix in self.matrices() {
            *bytes.entry(matrix.weight_type().name()).or_default() += matrix.bytes() as u64;
        }
        let mut types: Vec<(&str, u64)> = bytes.into_iter().collect();
        types.sort_by_key(|&(_, bytes)| std::cmp::Reverse(bytes));
        types
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
        Ok(self.embeddings.as_ref().unwrap_or(&self.head).rows(tokens)?)
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
        let products = [&layer.q, &layer.k, &layer.v];
        let [mut q, mut k, v] = Linear::of_normed(products, hidden, &layer.attention_norm, &*self.ops)?;
        if let Some([q_norm, k_norm]) = &layer.query_key_norm {
            q = self.normalize_heads(&q, q_norm)?;
            k = self.normalize_heads(&k, k_norm)?;
        }
        self.ops.rotate(&q, rotation)?;
        self.ops.rotate(&k, rotation)?;
        profile::on(Section::Attention, || attend(&self.info.kv_shape.attention, &q, &k, &v, spans))
    }

    /// (rows, heads * head_dim), each head of which is normalized by itself.
    fn normalize_heads(&self, x: &Tensor, norm: &Norm) -> candle_core::Result<Tensor> {
        let heads = x.reshape(((), norm.weight.dim(0)?))?;
        norm.apply(&heads, &*self.ops)?.reshape(x.shape())
    }

    /// Replaces `hidden`, (rows, hidden), by what a layer makes of it after attention.
    fn finish_layer(&self, layer: &Layer, hidden: &Tensor, attended: &Tensor) -> candle_core::Result<()> {
        layer.o.add_to(hidden, attended, &*self.ops)?;
        layer.mlp.add_to(hidden, &*self.ops)
    }

    /// Logits of hidden states, (rows, hidden): of the first `few` rows the `likeliest` are enough.
    pub(crate) fn read_logits(
        &self,
        hidden: &Tensor,
        few: usize,
        likeliest: usize,
    ) -> candle_core::Result<Vec<Logits>> {
        let logits = self.logits(hidden)?;
        let found = if few > 0 { self.ops.largest(&logits.narrow(0, 0, few)?, likeliest)? } else { None };
        let found = found.into_iter().flatten();
        let mut rows: Vec<Logits> = found.map(|top| Logits::Likeliest(top.logits)).collect();
        let left = logits.dim(0)? - rows.len();
        if left > 0 {
            let whole = logits.narrow(0, rows.len(), left)?.to_vec2()?;
            rows.extend(whole.into_iter().map(Logits::All));
        }
        Ok(rows)
    }

    /// (rows, vocab) of hidden states (rows, hidden).
    fn logits(&self, hidden: &Tensor) -> candle_core::Result<Tensor> {
        let [logits] = Linear::of_normed([&self.head], hidden, &self.norm, &*self.ops)?;
        Ok(logits)
    }
}

impl Layer {
    fn matrices(&self) -> [&Linear; 7] {
        let Mlp { gate, up, down, .. } = &self.mlp;
        [&self.q, &self.k, &self.v, &self.o, gate, up, down]
    }

    fn load(config: &DecoderConfig, weights: &Weights<'_>, index: usize) -> Result<Self, LoadError> {
        let hidden = config.hidden_size;
        let inner = config.intermediate_size;
        let query = config.query_heads * config.head_dim;
        let kv = config.kv_heads * config.head_dim;
        let names = config.tensors;
        let norm = |module: &Name, length| weights.norm(&names.in_layer(index, module), length, config);
        let attention =
            |module: &Name, shape, bias| Linear::load(weights, &names.in_layer(index, module), shape, bias);
        let query_key_norm = if config.query_key_norm {
            Some([norm(&names.q_norm, config.head_dim)?, norm(&names.k_norm, config.head_dim)?])
        } else {
            None
        };
        let [q_bias, k_bias, v_bias] = config.attention_bias;
        let mlp = |module: &Name, shape| {
            Linear::load(weights, &names.in_layer(index, module), shape, config.mlp_bias)
        };
        Ok(Self {
            attention_norm: norm(&names.attention_norm, hidden)?,
            q: attention(&names.q, [query, hidden], q_bias)?,
            k: attention(&names.k, [kv, hidden], k_bias)?,
            v: attention(&names.v, [kv, hidden], v_bias)?,
            o: attention(&names.o, [hidden, query], config.attention_output_bias)?,
            query_key_norm,
            mlp: Mlp {
                norm: norm(&names.mlp_norm, hidden)?,
                gate: mlp(&names.gate, [inner, hidden])?,
                up: mlp(&names.up, [inner, hidden])?,
                down: mlp(&names.down, [hidden, inner])?,
            },
        })
    }
}

impl Weights<'_> {
    /// `name`.weight, (length).
    fn norm(&self, name: &str, length: usize, config: &DecoderConfig) -> Result<Norm, LoadError> {
        let weight = self.vector(&format!("{name}.weight"), length)?;
        Ok(Norm { weight: Tensor::from_vec(weight, length, self.device)?, eps: config.rms_norm_eps })
    }
}

/// The embedding table, if it is one of its own, and the output head. Where they are tied, a file may hold either of them.
fn load_ends(config: &DecoderConfig, weights: &Weights<'_>) -> Result<(Option<Linear>, Linear), LoadError> {
    let names = config.tensors;
    let [table_name, head_name] = [&names.embeddings, &names.head].map(|name| format!("{}.weight", name.hf));
    let Weights { source, format, .. } = *weights;
    let shape = [config.vocab_size, config.hidden_size];
    let tied = config.tied_embeddings.unwrap_or_else(|| !source.contains(&head_name));
    let only_head = tied && !source.contains(&table_name) && source.contains(&head_name);
    let table = weights.stored(if only_head { &head_name } else { &table_name }, &shape)?;
    if tied {
        return Ok((None, Linear::new(weights, &table, format, None)?));
    }
    let of_table = match format {
        MatrixFormat::Dense(WeightType::F16 | WeightType::Bf16) => format,
        _ => MatrixFormat::as_stored(table.weight_type),
    };
    let embeddings = Linear::new(weights, &table, of_table, None)?;
    let head = Linear::new(weights, &weights.stored(&head_name, &shape)?, format, None)?;
    Ok((Some(embeddings), head))
}

#[cfg(test)]
mod tests {
    use sparkv::Accelerator;
    use sparkv_device::Checks;

    use super::*;
    use crate::source::dummy::Random;

    #[test]
    fn a_layer_computes_the_same_by_the_plain_row_operations_and_on_a_device() {
        let config = r#"{"model_type": "llama", "vocab_size": 128, "hidden_size": 64, "intermediate_size": 96,
            "num_hidden_layers": 1, "num_attention_heads": 4, "max_position_embeddings": 512}"#;
        let config = DecoderConfig::from_json(config).unwrap();
        let load = |place: &Place, products| {
            let format = WeightFormat::F32.for_matrices();
            let source = Random::new(1, format);
            let weights = Weights { source: &source, format, device: &Device::Cpu, products };
            Decoder::load_for(&config, &weights, place, &()).unwrap()
        };
        let cpu = Place::on(&Device::Cpu).unwrap();
        let (fast, mut plain) = (load(&cpu, Products::Packed), load(&cpu, Products::Plain));
        plain.ops = ops::plain();
        let accelerator = Accelerator::simulated(Checks::Races, 1);
        let others =
            accelerator.map(|accelerator| load(&Place::on_accelerator(&accelerator), Products::Plain));
        // More rows than go through the wide part of the plain one at a time.
        let tokens: Vec<u32> = (0..300).map(|index| index % 128).collect();
        let logits = |decoder: &Decoder| {
            let hidden = decoder.embed(&tokens).unwrap();
            let attended = hidden.copy().unwrap();
            let rotation = decoder.rotation(0..tokens.len()).unwrap();
            decoder.ops.rotate(&attended, &rotation).unwrap();
            decoder.finish_layer(&decoder.layers[0], &hidden, &attended).unwrap();
            decoder.logits(&hidden).unwrap()
        };
        let expected = logits(&fast);
        for decoder in others.iter().chain([&plain]) {
            let largest = |t: &Tensor| t.abs().unwrap().max_all().unwrap().to_scalar::<f32>().unwrap();
            let off = largest(&(&expected - logits(decoder)).unwrap()) / largest(&expected);
            assert!(off < 1e-5, "{off}");
        }
    }
}
