//! What the integration tests share: random tensors and a layer's cache driven like a decoder drives it, on each device.

use std::cell::RefCell;

use candle_core::{Device, Tensor};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use sparkv::settings::{KvChoice, KvOptions, KvSettings, Presets};
use sparkv::{Accelerator, AttentionConfig, KvPool, KvShape, LayerSpan, SequenceCache, attend};
use sparkv_device::Checks;

thread_local! {
    /// The memory that the caches of this test are in; `None` for the CPU.
    static POOL: RefCell<Option<KvPool>> = const { RefCell::new(None) };
}

/// Makes a test for each device of each of these functions.
macro_rules! test_devices {
    ($($name:ident),* $(,)?) => {
        $(mod $name {
            #[test]
            fn on_the_cpu() {
                super::$name();
            }

            #[test]
            fn on_a_simulated_device() {
                $crate::common::on_a_simulated_device(super::$name);
            }
        })*
    };
}
pub(crate) use test_devices;

/// Runs a test whose caches are on a simulated device.
pub(crate) fn on_a_simulated_device(test: fn()) {
    let Some(accelerator) = Accelerator::simulated(Checks::Bounds, 1) else { return };
    POOL.set(Some(KvPool::on(&accelerator, 32 << 20).unwrap()));
    test();
    POOL.set(None);
}

pub(crate) fn is_simulated() -> bool {
    POOL.with_borrow(Option::is_some)
}

/// Cases of a property: fewer on a simulated device, which takes its time.
pub(crate) fn cases(cases: u32) -> u32 {
    if is_simulated() { cases.div_ceil(8) } else { cases }
}

/// Memory for caches: of its own on the CPU, that of the test on a device.
pub(crate) fn pool() -> KvPool {
    POOL.with_borrow(|pool| pool.clone().unwrap_or_default())
}

/// The settings that the JSON of a `kv_cache` object asks for.
pub(crate) fn settings(json: &str) -> KvSettings {
    let options: KvOptions = serde_json::from_str(json).unwrap();
    match Presets::built_in().unwrap().resolve(&options).unwrap() {
        KvChoice::Fixed(settings) => settings,
        KvChoice::Budget(budget, _) => panic!("{budget} is a budget"),
    }
}

/// Two query heads to each of two KV heads.
pub(crate) fn config(head_dim: usize) -> AttentionConfig {
    AttentionConfig {
        query_heads: 4,
        kv_heads: 2,
        head_dim,
        scale: 1.0 / (head_dim as f32).sqrt(),
        sliding_window: None,
    }
}

/// q, k and v of `tokens` random tokens; the same ones whenever the test runs.
#[derive(Clone)]
pub(crate) struct Tokens {
    pub(crate) q: Tensor,
    pub(crate) k: Tensor,
    pub(crate) v: Tensor,
}

impl Tokens {
    pub(crate) fn random(config: &AttentionConfig, tokens: usize) -> Self {
        let mut rng = ChaCha8Rng::seed_from_u64(tokens as u64);
        let mut row = |heads: usize| {
            let shape = (tokens, heads * config.head_dim);
            let values: Vec<f32> = (0..shape.0 * shape.1).map(|_| rng.random_range(-2.0..2.0)).collect();
            Tensor::from_vec(values, shape, &Device::Cpu).unwrap()
        };
        Self { q: row(config.query_heads), k: row(config.kv_heads), v: row(config.kv_heads) }
    }

    pub(crate) fn slice(&self, start: usize, len: usize) -> Self {
        let part = |tensor: &Tensor| tensor.narrow(0, start, len).unwrap();
        Self { q: part(&self.q), k: part(&self.k), v: part(&self.v) }
    }

    pub(crate) fn len(&self) -> usize {
        self.q.dim(0).unwrap()
    }
}

/// The cache of a model, of one layer unless [`Layer::of_many`] made it. All layers see the same tokens.
pub(crate) struct Layer {
    pub(crate) config: AttentionConfig,
    pub(crate) cache: SequenceCache,
}

impl Layer {
    pub(crate) fn new(config: AttentionConfig, settings: &KvSettings, prompt_tokens: usize) -> Self {
        Self::of_many(1, config, settings, prompt_tokens)
    }

    pub(crate) fn of_many(
        layers: usize,
        config: AttentionConfig,
        settings: &KvSettings,
        prompt_tokens: usize,
    ) -> Self {
        let shape = KvShape { layers, attention: config };
        Self { config, cache: SequenceCache::counted(shape, settings, prompt_tokens, &pool()).unwrap() }
    }

    /// Attention of further tokens in the last layer: (tokens, query_heads * head_dim).
    pub(crate) fn attend(&mut self, tokens: &Tokens) -> Vec<Vec<f32>> {
        let mut out = Vec::new();
        for cache in self.cache.layers_mut() {
            let span = LayerSpan { tokens: tokens.len(), wanted: tokens.len(), cache };
            let attended = attend(&self.config, &tokens.q, &tokens.k, &tokens.v, &mut [span]).unwrap();
            out = attended.to_vec2().unwrap();
        }
        out
    }

    /// The whole prompt at once, then its compression.
    pub(crate) fn prompt(&mut self, tokens: &Tokens) -> Vec<Vec<f32>> {
        let out = self.attend(tokens);
        self.cache.layers_mut().iter_mut().for_each(|layer| layer.finish_prompt().unwrap());
        out
    }

    /// Prompt and completion, token by token after the prompt.
    pub(crate) fn run(
        config: AttentionConfig,
        settings: &KvSettings,
        tokens: &Tokens,
        prompt: usize,
    ) -> (Self, Vec<Vec<f32>>) {
        let mut layer = Self::new(config, settings, prompt);
        let mut out = layer.prompt(&tokens.slice(0, prompt));
        for position in prompt..tokens.len() {
            out.extend(layer.attend(&tokens.slice(position, 1)));
        }
        (layer, out)
    }
}

/// The largest difference of two outputs.
pub(crate) fn distance(a: &[Vec<f32>], b: &[Vec<f32>]) -> f32 {
    assert_eq!(a.len(), b.len());
    a.iter().flatten().zip(b.iter().flatten()).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}
