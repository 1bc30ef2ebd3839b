//! `options`: how tokens are drawn, in ollama's words.

use serde::Deserialize;
use serde_json::{Map, Value};
use utoipa::ToSchema;

use crate::error::ApiError;
use crate::generation::fields::{GenerationFields, Seed, Stop};
use crate::refusals::Refusals;
use crate::unsupported;

/// The field that holds them.
pub(crate) const OPTIONS: &str = "options";

/// How tokens are drawn.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[schema(as = OllamaOptions)]
#[serde(expecting = "an object of options")]
pub(crate) struct Options {
    #[schema(minimum = 0)]
    temperature: Option<f32>,
    /// -1 and 0 mean off.
    #[schema(minimum = -1)]
    top_k: Option<i64>,
    #[schema(minimum = 0, maximum = 1)]
    top_p: Option<f32>,
    #[schema(minimum = 0, maximum = 1)]
    min_p: Option<f32>,
    #[schema(exclusive_minimum = 0)]
    repeat_penalty: Option<f32>,
    /// -1: prompt and answer; 0: nothing.
    #[schema(minimum = -1)]
    repeat_last_n: Option<i64>,
    #[schema(minimum = -2, maximum = 2)]
    presence_penalty: Option<f32>,
    #[schema(minimum = -2, maximum = 2)]
    frequency_penalty: Option<f32>,
    /// An integer of 64 bits; -1 means any.
    #[schema(value_type = Option<i64>)]
    seed: Option<Seed>,
    /// Tokens of the answer at most; -1 and -2 mean all that fit.
    #[schema(minimum = -2)]
    num_predict: Option<i64>,
    stop: Option<Stop>,
    /// Options to be refused.
    #[serde(flatten)]
    #[schema(ignore)]
    rest: Map<String, Value>,
}

/// Options that passed the checks.
pub(crate) struct CheckedOptions {
    pub(crate) generation: GenerationFields,
    /// Where the context ends before, the answer does.
    pub(crate) num_predict: Option<usize>,
}

impl Options {
    /// The same in the words of the other endpoints.
    ///
    /// # Errors
    /// The first that cannot be honoured.
    pub(crate) fn check(self, refusals: &mut Refusals) -> Result<CheckedOptions, ApiError> {
        refusals.rest(&self.rest, OPTIONS, unsupported::ollama_option);
        let num_predict = check_num_predict(self.num_predict)?;
        let repetition_penalty = check_repetition(self.repeat_penalty, self.repeat_last_n)?;
        let generation = GenerationFields {
            temperature: self.temperature,
            top_k: self.top_k,
            top_p: self.top_p,
            min_p: self.min_p,
            presence_penalty: self.presence_penalty,
            frequency_penalty: self.frequency_penalty,
            repetition_penalty,
            seed: self.seed.filter(|seed| !matches!(seed, Seed::Signed(-1))),
            stop: self.stop,
            ..GenerationFields::default()
        };
        Ok(CheckedOptions { generation, num_predict })
    }
}

fn check_num_predict(tokens: Option<i64>) -> Result<Option<usize>, ApiError> {
    match tokens {
        None => Ok(None),
        Some(-1 | -2) => Ok(Some(usize::MAX)),
        Some(tokens) => match usize::try_from(tokens) {
            Ok(tokens) if tokens > 0 => Ok(Some(tokens)),
            _ => Err(ApiError::invalid("options.num_predict", "must be at least 1, or -1 for all that fit")),
        },
    }
}

/// A penalty is one of all that was said, or of nothing.
fn check_repetition(penalty: Option<f32>, last: Option<i64>) -> Result<Option<f32>, ApiError> {
    match (penalty, last) {
        (Some(_), Some(0)) => Ok(None),
        (Some(penalty), Some(last)) if penalty != 1.0 && last != -1 => {
            let reason = "repetitions are those of prompt and answer (-1), or none (0)";
            Err(ApiError::unsupported("options.repeat_last_n", reason))
        }
        (penalty, _) => Ok(penalty),
    }
}

/// What is wrong, by the name that the field at fault has here.
pub(crate) fn in_options(error: ApiError) -> ApiError {
    let ApiError::Invalid { param, message } = error else { return error };
    match param.as_str() {
        "repetition_penalty" => ApiError::invalid("options.repeat_penalty", message),
        "temperature" | "top_k" | "top_p" | "min_p" | "presence_penalty" | "frequency_penalty" => {
            ApiError::invalid(format!("{OPTIONS}.{param}"), message)
        }
        _ => ApiError::Invalid { param, message },
    }
}
