//! Runs samples at several settings and counts right answers.

use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};
use sparkv::{KvChoice, KvSettings, KvUsage, SettingsError};
use sparkv_engine::{ChatMessage, Prompt, RequestError, TextModel};
use sparkv_models::{Decoder, LanguageModel, ModelError};

use crate::tasks::{Sample, SampleShape, TaskError, TaskSet};

/// Tokens an answer may have beyond the right one before it counts as wrong.
const SLACK_TOKENS: usize = 8;

/// What can go wrong in an evaluation.
#[derive(Debug, thiserror::Error)]
pub enum EvalError {
    /// The tasks.
    #[error(transparent)]
    Tasks(#[from] TaskError),
    /// The settings do not fit the model or the prompt.
    #[error("{name}: {source}")]
    Settings {
        /// Name of the settings.
        name: String,
        /// What is wrong with them.
        source: SettingsError,
    },
    /// The prompt cannot be made.
    #[error(transparent)]
    Prompt(#[from] RequestError),
    /// The model failed.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// Tokens that are no text.
    #[error("the model's tokens cannot be decoded: {0}")]
    Decode(String),
    /// A text that has too few tokens.
    #[error("`{name}` has {tokens} tokens, and prefix and tail need {needed}")]
    ShortText {
        /// What it is called.
        name: String,
        /// Its tokens.
        tokens: usize,
        /// Tokens of prefix and tail.
        needed: usize,
    },
    /// Texts cannot be cut like this.
    #[error("texts cannot be cut like this: {0}")]
    Cut(&'static str),
    /// The prompt would not leave room for the answer.
    #[error(
        "prompt and answer, or prefix and tail, need {tokens} tokens, more than the model's context of {limit}"
    )]
    ContextExceeded {
        /// Tokens of prompt and answer.
        tokens: usize,
        /// The model's context.
        limit: usize,
    },
}

/// When the question is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Mode {
    /// In the prompt that is compressed.
    QueryAware,
    /// After the context was compressed.
    QueryAgnostic,
}

/// Settings to be measured, under a name.
#[derive(Debug, Clone, PartialEq)]
pub struct SettingsUnderTest {
    /// As the user wrote it.
    pub name: String,
    /// What it means.
    pub choice: KvChoice,
}

/// Accuracy and bytes of one settings at one length.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Measurement {
    /// Name of the settings.
    pub kv: String,
    /// Tokens of the prompts, about.
    pub length: usize,
    /// Facts in each.
    pub facts: usize,
    /// When the question was asked.
    pub mode: Mode,
    /// Samples run.
    pub samples: usize,
    /// Answers that were right word for word.
    pub exact: usize,
    /// Mean bytes held at the end of an answer.
    pub mean_kv_bytes: f64,
    /// Mean bytes of a dense f16 cache of the same length.
    pub mean_dense_bytes: f64,
}

impl Measurement {
    /// Share of right answers, in [0, 1].
    pub fn accuracy(&self) -> f64 {
        self.exact as f64 / self.samples.max(1) as f64
    }

    /// Bytes held as a share of the dense f16 bytes.
    pub fn kv_share(&self) -> f64 {
        self.mean_kv_bytes / self.mean_dense_bytes.max(1.0)
    }
}

/// An evaluation: a model, tasks, and how to draw from them.
#[derive(Debug)]
pub struct Retrieval<'a> {
    /// The model under test.
    pub decoder: &'a Decoder,
    /// Its tokenizer and chat template.
    pub text: &'a TextModel,
    /// What is asked.
    pub tasks: &'a TaskSet,
    /// Samples for each length and settings.
    pub samples: usize,
    /// Draws the samples: the same ones for all settings.
    pub seed: u64,
    /// When the question is asked.
    pub mode: Mode,
}

/// A sample in tokens.
struct Encoded {
    prompt: Vec<u32>,
    /// How many of them the cache compresses; the others follow.
    compressed: usize,
    /// Tokens the answer may have.
    max_tokens: usize,
}

impl Encoded {
    /// Tokens that follow the compressed ones.
    fn new_tokens(&self) -> usize {
        self.prompt.len() - self.compressed + self.max_tokens
    }
}

impl Retrieval<'_> {
    /// Makes sure that all samples of this size fit the model, and all settings these samples, so that no
    /// such error ends a long evaluation.
    ///
    /// # Errors
    /// The first that [`Self::measure`] would meet, but for a failure of the model.
    pub fn check(&self, settings: &[SettingsUnderTest], shape: SampleShape) -> Result<(), EvalError> {
        for index in 0..self.samples {
            let sample = self.encode_sample(&self.draw(index, shape)?)?;
            settings.iter().try_for_each(|settings| self.settings(settings, &sample).map(|_| ()))?;
        }
        Ok(())
    }

    /// Measures one settings at one length; `done` is called after each sample.
    ///
    /// # Errors
    /// If samples of this length do not fit the model, or the model fails.
    pub fn measure(
        &self,
        settings: &SettingsUnderTest,
        shape: SampleShape,
        done: &dyn Fn(),
    ) -> Result<Measurement, EvalError> {
        let mut exact = 0;
        let (mut kv_bytes, mut dense_bytes) = (0.0, 0.0);
        for index in 0..self.samples {
            let sample = self.draw(index, shape)?;
            let (answer, usage) = self.answer(&sample, settings)?;
            exact += usize::from(answer.trim() == sample.answer);
            kv_bytes += usage.bytes as f64;
            dense_bytes += usage.dense_bytes as f64;
            done();
        }
        let samples = self.samples.max(1) as f64;
        Ok(Measurement {
            kv: settings.name.clone(),
            length: shape.tokens,
            facts: shape.facts,
            mode: self.mode,
            samples: self.samples,
            exact,
            mean_kv_bytes: kv_bytes / samples,
            mean_dense_bytes: dense_bytes / samples,
        })
    }

    fn draw(&self, index: usize, shape: SampleShape) -> Result<Sample, EvalError> {
        let mut rng = ChaCha8Rng::seed_from_u64(self.seed);
        rng.set_stream(index as u64);
        let count = |text: &str| {
            let encoding = self.text.tokenizer().encode_fast(text, false);
            encoding.map_or(0, |encoding| encoding.len())
        };
        Ok(self.tasks.sample(&mut rng, shape, &count)?)
    }

    fn encode(&self, message: String) -> Result<Vec<u32>, EvalError> {
        Ok(self.text.encode(Prompt::Chat(vec![ChatMessage::new("user", message)].into()))?)
    }

    fn encode_sample(&self, sample: &Sample) -> Result<Encoded, EvalError> {
        let prompt = self.encode(sample.message())?;
        let compressed = match self.mode {
            Mode::QueryAware => prompt.len(),
            // The tokens that the context has in common with the whole prompt.
            Mode::QueryAgnostic => {
                let context = self.encode(sample.context.clone())?;
                prompt.iter().zip(&context).take_while(|(a, b)| a == b).count().max(1)
            }
        };
        let right = self.text.tokenizer().encode_fast(sample.answer.as_str(), false);
        let max_tokens = right.map_or(0, |encoding| encoding.len()) + SLACK_TOKENS;
        let (tokens, limit) = (prompt.len() + max_tokens, self.decoder.info().context_length);
        if tokens > limit {
            return Err(EvalError::ContextExceeded { tokens, limit });
        }
        Ok(Encoded { prompt, compressed, max_tokens })
    }

    /// What the settings come to for a sample; the model's shape can take it.
    fn settings(&self, settings: &SettingsUnderTest, sample: &Encoded) -> Result<KvSettings, EvalError> {
        let (shape, new_tokens) = (&self.decoder.info().kv_shape, sample.new_tokens());
        let error = |source| EvalError::Settings { name: settings.name.clone(), source };
        let chosen = settings.choice.settings(shape, sample.compressed, new_tokens).map_err(error)?;
        chosen.cache_bytes(shape, sample.compressed, new_tokens).map_err(error)?;
        Ok(chosen)
    }

    /// The model's greedy answer, and what its cache held at the end.
    fn answer(&self, sample: &Sample, settings: &SettingsUnderTest) -> Result<(String, KvUsage), EvalError> {
        let sample = self.encode_sample(sample)?;
        let settings = self.settings(settings, &sample)?;
        let Encoded { prompt, compressed, max_tokens } = sample;
        let mut cache = self.decoder.new_cache(&settings, compressed)?;
        let mut logits = self.decoder.prefill(&prompt, &mut cache, &mut || true)?;
        let mut answer = Vec::new();
        while let Some(token) = logits.as_deref().and_then(most_likely) {
            if self.decoder.info().eos_token_ids.contains(&token) || answer.len() == max_tokens {
                break;
            }
            answer.push(token);
            logits = self.decoder.decode(&[token], &mut [&mut cache])?.pop();
        }
        let text = self.text.tokenizer().decode(&answer, true);
        let text = text.map_err(|error| EvalError::Decode(error.to_string()))?;
        Ok((text, self.decoder.kv_usage(&cache)))
    }
}

/// The token with the largest logit, or logarithm of a probability.
pub(crate) fn most_likely(logits: &[f32]) -> Option<u32> {
    let best = logits.iter().enumerate().max_by(|(_, a), (_, b)| a.total_cmp(b));
    best.and_then(|(token, _)| u32::try_from(token).ok())
}
