//! Hugging Face's `generation_config.json`: where answers end, and how its authors would have tokens drawn.
use serde::Deserialize;

use super::ConfigError;
use super::json::TokenIds;
use crate::json;

/// What `generation_config.json` says.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct GenerationConfig {
    /// Tokens that end an answer; empty if it names none.
    pub eos_token_ids: Vec<u32>,
    /// How tokens are best drawn.
    pub sampling: AdvisedSampling,
}

/// How a model's authors would have tokens drawn, as far as its files say.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct AdvisedSampling {
    /// 0 takes the likeliest token.
    pub temperature: Option<f32>,
    /// The share of the nucleus.
    pub top_p: Option<f32>,
    /// The number of likeliest tokens; 0 for all.
    pub top_k: Option<usize>,
    /// The least share of the likeliest token's probability.
    pub min_p: Option<f32>,
    /// Divides the logits of what was said before.
    pub repetition_penalty: Option<f32>,
}

impl AdvisedSampling {
    /// Whether nothing is said.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// The last step of reading them from anywhere.
    ///
    /// # Errors
    /// The first that cannot be: a negative temperature, a share outside [0, 1], a penalty that is not above 0.
    pub(crate) fn check(self) -> Result<Self, ConfigError> {
        let within = |field, value: Option<f32>, least: f32, most: f32| match value {
            Some(value) if !(least..=most).contains(&value) => {
                Err(ConfigError::invalid(field, format!("{value} is out of range")))
            }
            _ => Ok(()),
        };
        within("temperature", self.temperature, 0.0, f32::MAX)?;
        within("top_p", self.top_p, 0.0, 1.0)?;
        within("min_p", self.min_p, 0.0, 1.0)?;
        within("repetition_penalty", self.repetition_penalty, f32::MIN_POSITIVE, f32::MAX)?;
        Ok(self)
    }
}

/// The file as written.
#[derive(Debug, Deserialize)]
struct File {
    eos_token_id: Option<TokenIds>,
    do_sample: Option<bool>,
    temperature: Option<f32>,
    top_p: Option<f32>,
    top_k: Option<i64>,
    min_p: Option<f32>,
    repetition_penalty: Option<f32>,
}

impl GenerationConfig {
    /// Reads the file.
    ///
    /// # Errors
    /// If it is not JSON, names something else than tokens, or advises what cannot be.
    pub fn from_json(json: &str) -> Result<Self, ConfigError> {
        let file: File = json::read(json)?;
        let sampling = AdvisedSampling {
            // Where nothing is to be sampled, temperatures are left over from somewhere.
            temperature: if file.do_sample == Some(false) { Some(0.0) } else { file.temperature },
            top_p: file.top_p,
            // -1 and 0 stand for all tokens.
            top_k: file.top_k.map(|k| usize::try_from(k).unwrap_or(0)),
            min_p: file.min_p,
            repetition_penalty: file.repetition_penalty,
        };
        let eos_token_ids = file.eos_token_id.map_or(Ok(Vec::new()), TokenIds::ids)?;
        Ok(Self { eos_token_ids, sampling: sampling.check()? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sampling(json: &str) -> AdvisedSampling {
        GenerationConfig::from_json(json).unwrap().sampling
    }

    #[test]
    fn advice_is_read_as_far_as_there_is_some() {
        let llama = sampling(
            r#"{"bos_token_id": 128000, "do_sample": true, "temperature": 0.6, "top_p": 0.9, "top_k": 50,
                "eos_token_id": [128001, 128008, 128009], "transformers_version": "4.45.0.dev0"}"#,
        );
        let expected = AdvisedSampling {
            temperature: Some(0.6),
            top_p: Some(0.9),
            top_k: Some(50),
            ..AdvisedSampling::default()
        };
        assert_eq!(llama, expected);
        assert!(sampling(r#"{"_from_model_config": true, "eos_token_id": 2}"#).is_empty());
        assert_eq!(sampling(r#"{"top_k": -1}"#).top_k, Some(0));
        let greedy = sampling(r#"{"do_sample": false, "temperature": 1.0}"#);
        assert_eq!(greedy.temperature, Some(0.0), "nothing is to be sampled");
    }

    #[test]
    fn what_cannot_be_is_refused_by_its_field() {
        for (json, field) in [
            (r#"{"temperature": -1}"#, "temperature"),
            (r#"{"top_p": 1.5}"#, "top_p"),
            (r#"{"min_p": -0.1}"#, "min_p"),
            (r#"{"repetition_penalty": 0}"#, "repetition_penalty"),
            (r#"{"eos_token_id": 99999999999}"#, "eos_token_id"),
        ] {
            let error = GenerationConfig::from_json(json).unwrap_err().to_string();
            assert!(error.contains(field), "{json}: {error}");
        }
        assert!(GenerationConfig::from_json("[]").is_err());
    }
}
