//! Checks of the fields that generating endpoints share.

use std::collections::BTreeMap;
use std::num::NonZeroUsize;

use sparkv::{KvChoice, KvOptions};
use sparkv_engine::{
    CallParser, GenerateRequest, GenerationDefaults, Prompt, RepetitionDetection, SamplingParams, Tool,
};

use crate::app::App;
use crate::conversation::tools::{self, Choice};
use crate::error::{ApiError, Fault};
use crate::generation::fields::{GenerationFields, RepetitionFields, Seed, Stop, StreamOptions};
use crate::generation::format::{self, AskedFormat};
use crate::generation::reply::{Delivery, StreamUsage};
use crate::generation::requests::CheckedRequests;
use crate::refusals::Refusals;
use crate::unsupported;

/// Stop strings of a request: every one is searched for at every token.
const MAX_STOP_STRINGS: usize = 16;

/// Answers to a request, to all of its prompts together.
const MAX_ANSWERS: usize = 128;

/// A body that passed the checks.
#[derive(Debug)]
pub(crate) struct Checked {
    pub(crate) requests: CheckedRequests,
    pub(crate) delivery: Delivery,
    /// Finds calls of tools in the answers, where there may be some.
    pub(crate) parser: Option<CallParser>,
}

/// What an endpoint calls the fields that go by several names.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Names {
    /// What holds the prompts.
    pub(crate) prompt: &'static str,
    /// What is in `max_tokens`.
    pub(crate) max_tokens: &'static str,
    /// What is in `stop`.
    pub(crate) stop: &'static str,
    /// What asks for a format.
    pub(crate) format: &'static str,
}

impl Names {
    /// As chats and completions have them.
    pub(crate) const fn usual(prompt: &'static str) -> Self {
        Self { prompt, max_tokens: "max_tokens", stop: "stop", format: "response_format" }
    }
}

/// What an endpoint adds to the fields that all take.
#[derive(Debug)]
pub(crate) struct Asked {
    /// One or more.
    pub(crate) prompts: Vec<Prompt>,
    pub(crate) names: Names,
    /// Tokens of an answer if the body sets none and they fit; if `None`, what the operator set for that.
    pub(crate) default_max_tokens: Option<usize>,
    /// Alternatives to report with each token, if any.
    pub(crate) logprobs: Option<usize>,
    /// The same of the prompt's tokens.
    pub(crate) prompt_logprobs: Option<usize>,
    /// Whether an answer may have no tokens at all.
    pub(crate) may_be_empty: bool,
    /// A format that a field of its own asks for.
    pub(crate) format: Option<AskedFormat>,
    /// Tools, and which of them are to be called.
    pub(crate) tools: Option<(Vec<Tool>, Choice)>,
}

/// Checks the fields and makes the engine's requests of them.
///
/// # Errors
/// The first field that cannot be honoured.
pub(crate) fn validate(
    fields: GenerationFields,
    asked: Asked,
    refusals: &mut Refusals,
    app: &App,
) -> Result<Checked, ApiError> {
    app.check_model(fields.model.as_deref())?;
    let answers = check_n(fields.n, asked.prompts.len())?;
    let names = asked.names;
    let format = match (format::check(fields.formats)?, asked.format) {
        (Some(AskedFormat { param, .. }), Some(_)) => {
            return Err(ApiError::invalid(param, "only one field can ask for a format"));
        }
        (one, other) => one.or(other),
    };
    let (format, parser) = match asked.tools {
        Some((tools, choice)) => tools::calls(tools, choice, format, app)?,
        None => (format, None),
    };
    let (format, format_param) =
        format.map_or((None, names.format), |asked| (Some(asked.format), asked.param));
    let fault = Fault {
        prompt: names.prompt,
        max_tokens: if fields.max_completion_tokens.is_some() {
            "max_completion_tokens"
        } else {
            names.max_tokens
        },
        format: format_param,
        default_kv: fields.kv_cache.is_none(),
    };
    let max_tokens =
        check_max_tokens(fields.max_tokens, fields.max_completion_tokens, names, asked.may_be_empty)?;
    let GenerationDefaults { max_tokens: default_max_tokens, sampling: default } = &app.config().generation;
    let sampling = SamplingParams {
        temperature: fields.temperature.unwrap_or(default.temperature),
        top_p: fields.top_p.unwrap_or(default.top_p),
        top_k: check_top_k(fields.top_k)?.unwrap_or(default.top_k),
        min_p: fields.min_p.unwrap_or(default.min_p),
        presence_penalty: fields.presence_penalty.unwrap_or(default.presence_penalty),
        frequency_penalty: fields.frequency_penalty.unwrap_or(default.frequency_penalty),
        repetition_penalty: fields.repetition_penalty.unwrap_or(default.repetition_penalty),
        logit_bias: check_logit_bias(fields.logit_bias)?,
        min_tokens: check_min_tokens(fields.min_tokens, max_tokens, names)?,
        repetition_detection: check_repetition(fields.repetition_detection, default.repetition_detection),
        logprobs: asked.logprobs,
        seed: fields.seed.map(Seed::get),
    };
    sampling.validate().map_err(|error| ApiError::invalid(error.param, error.message))?;
    let default_max_tokens =
        asked.default_max_tokens.unwrap_or(default_max_tokens.get()).max(sampling.min_tokens);
    let (stop, kv) = (check_stop(fields.stop, names.stop)?, check_kv(fields.kv_cache, app)?);
    let stop_tokens = check_stop_tokens(fields.stop_token_ids)?;
    let request = |prompt| GenerateRequest {
        prompt,
        prompt_logprobs: fields.prompt_logprobs.or(asked.prompt_logprobs),
        // A default is no wish: where the context ends before it, the answer does.
        fit_context: max_tokens.is_none(),
        max_tokens: Some(max_tokens.unwrap_or(default_max_tokens)),
        sampling: sampling.clone(),
        stop: stop.clone(),
        stop_tokens: stop_tokens.clone(),
        ignore_eos: fields.ignore_eos.unwrap_or(false),
        format: format.clone(),
        kv: kv.clone(),
        cache_salt: fields.cache_salt.clone(),
        // Set for all requests where they enter the queue.
        timeout: None,
    };
    let requests = asked.prompts.into_iter().map(request).collect();
    if fields.prompt_logprobs.is_some() && fields.stream == Some(true) {
        let reason = "only whole answers tell; completions with echo and logprobs do it in streams, too";
        return Err(ApiError::unsupported("prompt_logprobs", reason));
    }
    let delivery = check_delivery(fields.stream, fields.stream_options, refusals);
    let requests = CheckedRequests { requests, answers, fault };
    Ok(Checked { requests, delivery, parser })
}

fn check_n(n: Option<usize>, prompts: usize) -> Result<NonZeroUsize, ApiError> {
    let n = n.unwrap_or(1);
    if n.saturating_mul(prompts) > MAX_ANSWERS {
        let message =
            format!("at most {MAX_ANSWERS} answers are made per request, got {n} to each of {prompts}");
        return Err(ApiError::invalid("n", message));
    }
    NonZeroUsize::new(n).ok_or_else(|| ApiError::invalid("n", "must be at least 1"))
}

/// JSON's keys are strings; these are token ids.
fn check_logit_bias(bias: Option<BTreeMap<String, f32>>) -> Result<BTreeMap<u32, f32>, ApiError> {
    let token = |(id, bias): (String, f32)| match id.parse() {
        Ok(id) => Ok((id, bias)),
        Err(_) => Err(ApiError::invalid("logit_bias", format!("`{id}` is not a token id"))),
    };
    bias.unwrap_or_default().into_iter().map(token).collect()
}

fn check_min_tokens(min: Option<usize>, max: Option<usize>, names: Names) -> Result<usize, ApiError> {
    match (min, max) {
        (Some(min), Some(max)) if min > max => {
            let message = format!("must be at most {}, {max}, got {min}", names.max_tokens);
            Err(ApiError::invalid("min_tokens", message))
        }
        (min, _) => Ok(min.unwrap_or(0)),
    }
}

fn check_stop_tokens(tokens: Option<Vec<u32>>) -> Result<Vec<u32>, ApiError> {
    let tokens = tokens.unwrap_or_default();
    if tokens.len() > MAX_STOP_STRINGS {
        let message = format!("at most {MAX_STOP_STRINGS} tokens are looked for, got {}", tokens.len());
        return Err(ApiError::invalid("stop_token_ids", message));
    }
    Ok(tokens)
}

fn check_top_k(top_k: Option<i64>) -> Result<Option<usize>, ApiError> {
    let check = |k| match k {
        -1 => Ok(0),
        k => usize::try_from(k)
            .map_err(|_| ApiError::invalid("top_k", format!("must be -1 (off), 0 (off) or more, got {k}"))),
    };
    top_k.map(check).transpose()
}

/// What a request asks for, with 0 for its longest pattern not to look for any.
fn check_repetition(
    asked: Option<RepetitionFields>,
    default: Option<RepetitionDetection>,
) -> Option<RepetitionDetection> {
    match asked {
        None => default,
        Some(RepetitionFields { max_pattern_size: 0, .. }) => None,
        Some(RepetitionFields { max_pattern_size, min_pattern_size, min_count }) => {
            Some(RepetitionDetection { min_pattern_size, max_pattern_size, min_count })
        }
    }
}

fn check_max_tokens(
    old: Option<usize>,
    new: Option<usize>,
    names: Names,
    may_be_empty: bool,
) -> Result<Option<usize>, ApiError> {
    let (param, tokens) = match (old, new) {
        (Some(old), Some(new)) if old != new => {
            return Err(ApiError::invalid(
                "max_tokens",
                "differs from max_completion_tokens; set one of them",
            ));
        }
        (_, Some(new)) => ("max_completion_tokens", new),
        (Some(old), None) => (names.max_tokens, old),
        (None, None) => return Ok(None),
    };
    match tokens {
        0 if !may_be_empty => Err(ApiError::invalid(param, "must be at least 1")),
        tokens => Ok(Some(tokens)),
    }
}

fn check_stop(stop: Option<Stop>, param: &str) -> Result<Vec<String>, ApiError> {
    let strings = match stop {
        None => return Ok(Vec::new()),
        Some(Stop::One(string)) => vec![string],
        Some(Stop::Several(strings)) => strings,
    };
    if strings.len() > MAX_STOP_STRINGS {
        let message = format!("at most {MAX_STOP_STRINGS} strings are searched for, got {}", strings.len());
        return Err(ApiError::invalid(param, message));
    }
    if strings.iter().any(String::is_empty) {
        return Err(ApiError::invalid(param, "an empty string would stop at once"));
    }
    Ok(strings)
}

/// A body's `kv_cache` replaces the server's default as a whole, so that it means the same everywhere.
fn check_kv(options: Option<KvOptions>, app: &App) -> Result<KvChoice, ApiError> {
    match options {
        None => Ok(app.default_kv()),
        Some(options) => app
            .policy()
            .presets
            .resolve(&options)
            .map_err(|error| ApiError::invalid(format!("kv_cache.{}", error.param), error.message)),
    }
}

fn check_delivery(stream: Option<bool>, options: Option<StreamOptions>, refusals: &mut Refusals) -> Delivery {
    let StreamOptions { include_usage, continuous_usage_stats, rest } = options.unwrap_or_default();
    refusals.rest(&rest, "stream_options", unsupported::stream_options);
    if !stream.unwrap_or(false) {
        // A whole answer always tells.
        return Delivery::Whole;
    }
    Delivery::Stream(match (include_usage.unwrap_or(false), continuous_usage_stats.unwrap_or(false)) {
        (false, _) => StreamUsage::Never,
        (true, false) => StreamUsage::Last,
        (true, true) => StreamUsage::Everywhere,
    })
}
