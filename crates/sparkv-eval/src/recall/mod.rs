//! Whether what stands in a long context is still found in it: questions, any model, answers scored by what they contain.
//!
//! An [`Item`] is a context and questions about it, drawn from tasks ([`Task`]) or read from a file ([`read_items`]).
//! Query-aware, each question is part of the prompt that is compressed, as when somebody asks about a document that they
//! send. Query-agnostic, the context is compressed once, and all questions follow it, as when it is kept for them.
//!
//! A context is computed once for all settings, which then answer side by side.

mod files;
mod report;
pub(crate) mod tasks;
mod words;

use serde::{Deserialize, Serialize};
use sparkv::splitmix::mix;
use sparkv::{KvSettings, SequenceCache, SharedPrefix};
use sparkv_engine::{ChatMessage, Prompt, TextModel};
use sparkv_models::{Decoder, LanguageModel};

pub use files::read_items;
pub use report::{Score, scores, table};
pub use tasks::Task;

use crate::retrieval::{EvalError, Mode, SettingsUnderTest, most_likely};

/// A context, and what is asked about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Item {
    /// Name of the task.
    pub task: String,
    /// What is to be remembered.
    pub context: String,
    /// Asked independently of one another.
    pub questions: Vec<Question>,
}

impl Item {
    /// Tells it from others of that name.
    pub fn hash(&self) -> u64 {
        let of = |question: &'_ Question| -> Vec<String> {
            let Question { text, answer_prefix, golds, .. } = question.clone();
            [vec![text, answer_prefix], golds].concat()
        };
        let texts = std::iter::once(self.context.clone()).chain(self.questions.iter().flat_map(of));
        let bytes = texts.flat_map(String::into_bytes);
        bytes.fold(0, |hash, byte| mix(hash ^ u64::from(byte)))
    }
}

/// A question about a context.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Question {
    /// A paragraph of its own after the context.
    pub text: String,
    /// How the answer is made to begin.
    pub answer_prefix: String,
    /// What an answer should contain, upper and lower case alike.
    pub golds: Vec<String>,
    /// How much of it.
    pub scoring: Scoring,
    /// Tokens an answer may have.
    pub max_tokens: usize,
}

/// How many of the golds an answer should contain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scoring {
    /// The score is the share of them that it does.
    Share,
    /// One is as good as all.
    Any,
}

impl Question {
    /// In [0, 1].
    pub fn score(&self, answer: &str) -> f64 {
        let answer = answer.to_lowercase();
        let found = self.golds.iter().filter(|gold| answer.contains(&gold.to_lowercase())).count();
        match self.scoring {
            Scoring::Share => found as f64 / self.golds.len().max(1) as f64,
            Scoring::Any => f64::from(u8::from(found > 0)),
        }
    }
}

/// An answered question.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Answer {
    /// What was asked: the model, and how its weights are held.
    pub model: String,
    /// See [`Item::hash`].
    pub item_hash: u64,
    /// Name of the task.
    pub task: String,
    /// Which item of the task, and which of its questions.
    pub item: usize,
    /// See there.
    pub question: usize,
    /// Name of the settings.
    pub kv: String,
    /// When the question was asked.
    pub mode: Mode,
    /// Tokens of the whole prompt.
    pub prompt_tokens: usize,
    /// In [0, 1].
    pub score: f64,
    /// What the model said.
    pub answer: String,
    /// Bytes of the cache once the prompt was compressed.
    pub kv_bytes: u64,
    /// Bytes of a dense f16 cache of as many tokens.
    pub dense_bytes: u64,
}

/// A model, and how it is asked.
#[derive(Debug, Clone, Copy)]
pub struct Recall<'a> {
    /// What the model is called, and how its weights are held.
    pub name: &'a str,
    /// The model under test.
    pub decoder: &'a Decoder,
    /// Its tokenizer and chat template.
    pub text: &'a TextModel,
    /// When questions are asked.
    pub mode: Mode,
}

/// A question in tokens.
struct Encoded<'q> {
    index: usize,
    question: &'q Question,
    /// Context, question, and how the answer begins.
    prompt: Vec<u32>,
    /// How many of them are compressed.
    compressed: usize,
}

impl Recall<'_> {
    /// Makes sure that an item fits the model, and all settings the item, so that no such error ends a long evaluation.
    ///
    /// # Errors
    /// The first that [`Recall::answer`] would meet, but for a failure of the model.
    pub fn check(&self, item: &Item, settings: &[SettingsUnderTest]) -> Result<(), EvalError> {
        for encoded in self.encode(item)? {
            settings.iter().try_for_each(|settings| self.chosen(settings, &encoded).map(|_| ()))?;
        }
        Ok(())
    }

    /// Asks the questions of `item`, which is item number `index` of its task, under all `settings`.
    ///
    /// # Errors
    /// If the item does not fit the model, or the model fails.
    pub fn answer(
        &self,
        item: &Item,
        index: usize,
        settings: &[SettingsUnderTest],
    ) -> Result<Vec<Answer>, EvalError> {
        let questions = self.encode(item)?;
        let shared = self.shared(&questions)?;
        let mut answers = Vec::new();
        let mut caches: Vec<Option<SequenceCache>> = settings.iter().map(|_| None).collect();
        for encoded in &questions {
            let mut ready = Vec::with_capacity(settings.len());
            for (settings, cache) in settings.iter().zip(&mut caches) {
                let begun = match cache.take() {
                    Some(cache) => cache,
                    None => self.compressed(&self.chosen(settings, encoded)?, encoded, shared.as_ref())?,
                };
                ready.push(begun);
            }
            let usages: Vec<_> = ready.iter().map(|cache| self.decoder.kv_usage(cache)).collect();
            let texts = self.answers(encoded, &mut ready)?;
            for ((settings, usage), text) in settings.iter().zip(usages).zip(texts) {
                answers.push(Answer {
                    model: self.name.to_owned(),
                    item_hash: item.hash(),
                    task: item.task.clone(),
                    item: index,
                    question: encoded.index,
                    kv: settings.name.clone(),
                    mode: self.mode,
                    prompt_tokens: encoded.prompt.len(),
                    score: encoded.question.score(&text),
                    answer: text,
                    kv_bytes: usage.bytes,
                    dense_bytes: usage.dense_bytes,
                });
            }
            if self.mode == Mode::QueryAgnostic {
                // The next question follows the same context, if what this one added can be taken back.
                for (slot, mut cache) in caches.iter_mut().zip(ready) {
                    let back = self.decoder.truncate(&mut cache, encoded.compressed);
                    *slot = back.is_ok().then_some(cache);
                }
            }
        }
        Ok(answers)
    }

    /// All questions in tokens; those of a context that is compressed by itself share what is.
    fn encode<'q>(&self, item: &'q Item) -> Result<Vec<Encoded<'q>>, EvalError> {
        let chat = |message: String| -> Result<Vec<u32>, EvalError> {
            Ok(self.text.encode(Prompt::Chat(vec![ChatMessage::new("user", message)].into()))?)
        };
        let limit = self.decoder.info().context_length;
        let mut common = chat(item.context.clone())?;
        let mut encoded = Vec::with_capacity(item.questions.len());
        for (index, question) in item.questions.iter().enumerate() {
            let mut prompt = chat(format!("{}\n\n{}", item.context, question.text))?;
            let kept = prompt.iter().zip(&common).take_while(|(a, b)| a == b).count();
            common.truncate(kept.max(1));
            if !question.answer_prefix.is_empty() {
                let prefix = self.text.tokenizer().encode_fast(question.answer_prefix.as_str(), false);
                prompt.extend(prefix.map_err(|error| EvalError::Decode(error.to_string()))?.get_ids());
            }
            let tokens = prompt.len() + question.max_tokens;
            if tokens > limit {
                return Err(EvalError::ContextExceeded { tokens, limit });
            }
            encoded.push(Encoded { index, question, compressed: prompt.len(), prompt });
        }
        if self.mode == Mode::QueryAgnostic {
            encoded.iter_mut().for_each(|question| question.compressed = common.len());
        }
        Ok(encoded)
    }

    /// The rows of what all questions begin with.
    fn shared(&self, questions: &[Encoded<'_>]) -> Result<Option<SharedPrefix>, EvalError> {
        let Some((first, others)) = questions.split_first() else { return Ok(None) };
        let common =
            |other: &Encoded<'_>| first.prompt.iter().zip(&other.prompt).take_while(|(a, b)| a == b).count();
        let tokens = others.iter().map(common).min().unwrap_or(first.compressed).min(first.compressed).max(1);
        let mut full = self.decoder.new_cache(&KvSettings::exact(), tokens)?;
        self.decoder.prefill(&first.prompt[..tokens], &mut full, &mut || true)?;
        Ok(self.decoder.share(&mut full).map(|(shared, _)| shared))
    }

    /// What the settings come to for a question; the model's shape can take it.
    fn chosen(&self, settings: &SettingsUnderTest, encoded: &Encoded<'_>) -> Result<KvSettings, EvalError> {
        let shape = &self.decoder.info().kv_shape;
        let new_tokens = encoded.prompt.len() - encoded.compressed + encoded.question.max_tokens;
        let error = |source| EvalError::Settings { name: settings.name.clone(), source };
        let chosen = settings.choice.settings(shape, encoded.compressed, new_tokens).map_err(error)?;
        chosen.cache_bytes(shape, encoded.compressed, new_tokens).map_err(error)?;
        Ok(chosen)
    }

    /// A cache of what is compressed, but for the last token where the question is part of it: its logits are wanted.
    fn compressed(
        &self,
        settings: &KvSettings,
        encoded: &Encoded<'_>,
        shared: Option<&SharedPrefix>,
    ) -> Result<SequenceCache, EvalError> {
        let shape = self.decoder.info().kv_shape;
        let error = |source| EvalError::Settings { name: settings.preset().to_owned(), source };
        let (compressed, pool) = (encoded.compressed, self.decoder.pool());
        let mut cache = SequenceCache::with_dense_tail(shape, settings, compressed, pool).map_err(error)?;
        let begun = match shared {
            Some(shared) => self.decoder.begin_with(&mut cache, shared, encoded.compressed)?,
            None => 0,
        };
        if self.mode == Mode::QueryAgnostic {
            let rest = &encoded.prompt[begun..encoded.compressed];
            self.decoder.prefill(rest, &mut cache, &mut || true)?;
        }
        Ok(cache)
    }

    /// Greedy answers over each of `caches`.
    fn answers(&self, encoded: &Encoded<'_>, caches: &mut [SequenceCache]) -> Result<Vec<String>, EvalError> {
        let eos = &self.decoder.info().eos_token_ids;
        let mut tokens: Vec<Vec<u32>> = caches.iter().map(|_| Vec::new()).collect();
        let mut logits = Vec::with_capacity(caches.len());
        for cache in caches.iter_mut() {
            let rest = &encoded.prompt[cache.len()..];
            logits.push(self.decoder.prefill(rest, cache, &mut || true)?);
        }
        loop {
            let mut next = Vec::new();
            let mut going = Vec::new();
            for (index, logits) in logits.iter_mut().enumerate() {
                let Some(token) = logits.take().as_deref().and_then(most_likely) else { continue };
                if !eos.contains(&token) && tokens[index].len() < encoded.question.max_tokens {
                    tokens[index].push(token);
                    next.push(token);
                    going.push(index);
                }
            }
            if going.is_empty() {
                break;
            }
            let among = caches.iter_mut().enumerate().filter(|(index, _)| going.contains(index));
            let mut among: Vec<&mut SequenceCache> = among.map(|(_, cache)| cache).collect();
            let rows = self.decoder.decode(&next, &mut among)?;
            for (index, row) in going.into_iter().zip(rows) {
                logits[index] = Some(row);
            }
        }
        let decoded = tokens.into_iter().map(|tokens| {
            let text = self.text.tokenizer().decode(&tokens, true);
            text.map_err(|error| EvalError::Decode(error.to_string()))
        });
        decoded.collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_scored_by_what_they_contain() {
        let golds = ["Alpha", "beta"].map(str::to_owned).to_vec();
        let question = |scoring| Question {
            text: String::new(),
            answer_prefix: String::new(),
            golds: golds.clone(),
            scoring,
            max_tokens: 1,
        };
        for (answer, share, any) in
            [("ALPHA and Beta", 1.0, 1.0), ("it is alpha", 0.5, 1.0), ("gamma", 0.0, 0.0), ("", 0.0, 0.0)]
        {
            assert_eq!(question(Scoring::Share).score(answer), share, "{answer}");
            assert_eq!(question(Scoring::Any).score(answer), any, "{answer}");
        }
    }
}
