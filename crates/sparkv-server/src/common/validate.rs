//! Checks of the fields that both generating endpoints take.

use serde_json::Number;
use sparkv::{KvChoice, KvOptions};
use sparkv_engine::{GenerateRequest, Prompt, SamplingParams};

use crate::app::App;
use crate::common::types::{GenerationFields, Stop, StreamOptions};
use crate::error::{ApiError, Fault};
use crate::reply::Delivery;
use crate::unsupported;

/// Stop strings of a request: every one is searched for at every token.
const MAX_STOP_STRINGS: usize = 16;

/// A body that passed the checks.
#[derive(Debug)]
pub(crate) struct Checked {
    /// What the engine is asked for.
    pub(crate) request: GenerateRequest,
    pub(crate) delivery: Delivery,
    /// What to blame if the engine refuses.
    pub(crate) fault: Fault,
}

/// What an endpoint adds to the fields that both take.
#[derive(Debug)]
pub(crate) struct Asked {
    pub(crate) prompt: Prompt,
    /// The field that the prompt came from.
    pub(crate) prompt_param: &'static str,
    /// Tokens of an answer if the body sets none and they fit; all that fit if `None`.
    pub(crate) default_max_tokens: Option<usize>,
}

/// Checks the fields and makes the engine's request of them.
///
/// # Errors
/// The first field that cannot be honoured.
pub(crate) fn validate(fields: GenerationFields, asked: Asked, app: &App) -> Result<Checked, ApiError> {
    let GenerationFields {
        model,
        temperature,
        top_p,
        top_k,
        min_p,
        seed,
        stop,
        max_tokens,
        max_completion_tokens,
        stream,
        stream_options,
        n,
        ignore_eos,
        kv_cache,
    } = fields;
    app.check_model(model.as_deref())?;
    check_n(n)?;
    let fault = Fault {
        prompt: asked.prompt_param,
        max_tokens: if max_completion_tokens.is_some() { "max_completion_tokens" } else { "max_tokens" },
        default_kv: kv_cache.is_none(),
    };
    let max_tokens = check_max_tokens(max_tokens, max_completion_tokens)?;
    let sampling = SamplingParams {
        temperature: temperature.unwrap_or(1.0),
        top_p: top_p.unwrap_or(1.0),
        top_k: check_top_k(top_k)?,
        min_p: min_p.unwrap_or(0.0),
        seed: check_seed(seed)?,
    };
    sampling.validate().map_err(|error| ApiError::invalid(error.param, error.message))?;
    let request = GenerateRequest {
        prompt: asked.prompt,
        // A default is no wish: where the context ends before it, the answer does.
        fit_context: max_tokens.is_none(),
        max_tokens: max_tokens.or(asked.default_max_tokens),
        sampling,
        stop: check_stop(stop)?,
        ignore_eos: ignore_eos.unwrap_or(false),
        kv: check_kv(kv_cache, app)?,
        // Set for all requests where they enter the line.
        timeout: None,
    };
    Ok(Checked { request, delivery: check_delivery(stream, stream_options)?, fault })
}

fn check_n(n: Option<u64>) -> Result<(), ApiError> {
    match n {
        None | Some(1) => Ok(()),
        Some(0) => Err(ApiError::invalid("n", "must be at least 1")),
        Some(_) => {
            Err(ApiError::unsupported("n", "one answer is made per request; send the request n times"))
        }
    }
}

fn check_top_k(top_k: Option<i64>) -> Result<usize, ApiError> {
    match top_k {
        None | Some(-1) => Ok(0),
        Some(k) => usize::try_from(k)
            .map_err(|_| ApiError::invalid("top_k", format!("must be -1 (off), 0 (off) or more, got {k}"))),
    }
}

/// Any 64-bit integer is a seed; a negative one stands for its two's complement.
fn check_seed(seed: Option<Number>) -> Result<Option<u64>, ApiError> {
    seed.map(|seed| {
        seed.as_u64()
            .or_else(|| seed.as_i64().map(i64::cast_unsigned))
            .ok_or_else(|| ApiError::invalid("seed", format!("must be an integer of 64 bits, got {seed}")))
    })
    .transpose()
}

fn check_max_tokens(old: Option<usize>, new: Option<usize>) -> Result<Option<usize>, ApiError> {
    let (param, tokens) = match (old, new) {
        (Some(old), Some(new)) if old != new => {
            return Err(ApiError::invalid(
                "max_tokens",
                "differs from max_completion_tokens; set one of them",
            ));
        }
        (_, Some(new)) => ("max_completion_tokens", new),
        (Some(old), None) => ("max_tokens", old),
        (None, None) => return Ok(None),
    };
    match tokens {
        0 => Err(ApiError::invalid(param, "must be at least 1")),
        tokens => Ok(Some(tokens)),
    }
}

fn check_stop(stop: Option<Stop>) -> Result<Vec<String>, ApiError> {
    let strings = match stop {
        None => return Ok(Vec::new()),
        Some(Stop::One(string)) => vec![string],
        Some(Stop::Several(strings)) => strings,
    };
    if strings.len() > MAX_STOP_STRINGS {
        let message = format!("at most {MAX_STOP_STRINGS} strings are searched for, got {}", strings.len());
        return Err(ApiError::invalid("stop", message));
    }
    if strings.iter().any(String::is_empty) {
        return Err(ApiError::invalid("stop", "an empty string would stop at once"));
    }
    Ok(strings)
}

/// A body's `kv_cache` replaces the server's default as a whole, so that it means the same everywhere.
fn check_kv(options: Option<KvOptions>, app: &App) -> Result<KvChoice, ApiError> {
    match options {
        None => Ok(app.default_kv()),
        Some(options) => app
            .presets()
            .resolve(&options)
            .map_err(|error| ApiError::invalid(format!("kv_cache.{}", error.param), error.message)),
    }
}

fn check_delivery(stream: Option<bool>, options: Option<StreamOptions>) -> Result<Delivery, ApiError> {
    let streamed = stream.unwrap_or(false);
    let Some(StreamOptions { include_usage, rest }) = options else {
        return Ok(if streamed { Delivery::Stream { include_usage: false } } else { Delivery::Whole });
    };
    if !streamed {
        return Err(ApiError::invalid("stream_options", "only allowed with `stream`: true"));
    }
    unsupported::refuse(&rest, "stream_options", unsupported::stream_options)?;
    Ok(Delivery::Stream { include_usage: include_usage.unwrap_or(false) })
}
