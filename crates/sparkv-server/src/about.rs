//! What routers and clients of other servers ask of a server: which version, which model, how much it takes.

use axum::Json;
use axum::extract::State;
use serde::Serialize;
use sparkv_engine::{EngineConfig, GenerationDefaults, SamplingParams, TokenizerInfo};
use utoipa::ToSchema;

use crate::app::App;

/// This program's version.
pub(crate) const VERSION: &str = env!("CARGO_PKG_VERSION");

/// The program and its version.
const BUILD: &str = concat!("sparkv ", env!("CARGO_PKG_VERSION"));

/// Which version this is.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct VersionBody {
    version: &'static str,
}

/// Which version this is (vLLM's route).
#[utoipa::path(get, path = "/version", responses((status = 200, description = "It", body = VersionBody)))]
pub(crate) async fn version() -> Json<VersionBody> {
    Json(VersionBody { version: VERSION })
}

/// Which model is served, in SGLang's words.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ModelInfoBody {
    /// Where it is: a folder, a file, or a name on the hub.
    model_path: String,
    /// The same: the tokenizer is among the model's files.
    tokenizer_path: String,
    is_generation: bool,
    /// What holds where a request does not say: an object, as JSON.
    preferred_sampling_params: String,
}

/// What holds where a request does not say.
#[derive(Debug, Serialize)]
struct PreferredSampling {
    temperature: f32,
    top_p: f32,
    top_k: usize,
    min_p: f32,
    repetition_penalty: f32,
}

/// Which model is served (SGLang's route).
#[utoipa::path(get, path = "/get_model_info", responses((status = 200, description = "It", body = ModelInfoBody)))]
pub(crate) async fn model_info(State(app): State<App>) -> Json<ModelInfoBody> {
    let model_path = app.config().model_path.clone();
    let tokenizer_path = model_path.clone();
    let SamplingParams { temperature, top_p, top_k, min_p, repetition_penalty, .. } =
        app.config().generation.sampling;
    let preferred = PreferredSampling { temperature, top_p, top_k, min_p, repetition_penalty };
    let preferred_sampling_params = serde_json::to_string(&preferred).unwrap_or_default();
    Json(ModelInfoBody { model_path, tokenizer_path, is_generation: true, preferred_sampling_params })
}

/// What a server takes, in SGLang's words.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ServerInfoBody {
    model_path: String,
    tokenizer_path: String,
    served_model_name: String,
    version: &'static str,
    /// Tokens of prompt and completion together.
    context_length: usize,
    max_running_requests: usize,
    /// Requests that may wait for their turn.
    max_queued_requests: usize,
    /// Tokens whose f16 caches fit into the memory for KV caches together; null if it has no bound.
    max_total_num_tokens: Option<u64>,
    /// A process is one replica, whole.
    tp_size: usize,
    dp_size: usize,
    pp_size: usize,
    /// One for each replica, which is one.
    internal_states: [InternalState; 1],
}

/// What a replica takes.
#[derive(Debug, Serialize, ToSchema)]
struct InternalState {
    effective_max_running_requests_per_dp: usize,
}

/// What the server takes (SGLang's route).
#[utoipa::path(get, path = "/get_server_info", responses((status = 200, description = "It", body = ServerInfoBody)))]
pub(crate) async fn server_info(State(app): State<App>) -> Json<ServerInfoBody> {
    let &EngineConfig { max_running, max_queue, .. } = app.engine_config();
    let state = InternalState { effective_max_running_requests_per_dp: max_running.get() };
    Json(ServerInfoBody {
        model_path: app.config().model_path.clone(),
        tokenizer_path: app.config().model_path.clone(),
        served_model_name: app.model_name().to_owned(),
        version: VERSION,
        context_length: app.context_length(),
        max_running_requests: max_running.get(),
        max_queued_requests: max_queue.get(),
        max_total_num_tokens: app.dense_tokens(),
        tp_size: 1,
        dp_size: 1,
        pp_size: 1,
        internal_states: [state],
    })
}

/// What a server is, in llama.cpp's words.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct PropsBody {
    default_generation_settings: SlotSettings,
    /// Requests that run at a time.
    total_slots: usize,
    model_alias: String,
    model_path: String,
    modalities: Modalities,
    /// Jinja; empty if the model has none.
    chat_template: String,
    bos_token: String,
    eos_token: String,
    build_info: &'static str,
}

/// What holds for each request.
#[derive(Debug, Serialize, ToSchema)]
struct SlotSettings {
    /// Tokens of prompt and completion together.
    n_ctx: usize,
    params: SlotParams,
}

/// What holds where a request does not say.
#[derive(Debug, Serialize, ToSchema)]
struct SlotParams {
    /// Tokens of an answer.
    n_predict: usize,
    temperature: f32,
    top_k: usize,
    top_p: f32,
    min_p: f32,
    repeat_penalty: f32,
    presence_penalty: f32,
    frequency_penalty: f32,
}

/// What a model takes beside text.
#[derive(Debug, Serialize, ToSchema)]
struct Modalities {
    vision: bool,
    audio: bool,
}

/// What the server is (llama.cpp's route).
#[utoipa::path(get, path = "/props", responses((status = 200, description = "It", body = PropsBody)))]
pub(crate) async fn props(State(app): State<App>) -> Json<PropsBody> {
    let TokenizerInfo { chat_template, bos_token, eos_token } = app.tokenizer_info();
    let GenerationDefaults { max_tokens, sampling } = &app.config().generation;
    Json(PropsBody {
        default_generation_settings: SlotSettings {
            n_ctx: app.context_length(),
            params: SlotParams {
                n_predict: max_tokens.get(),
                temperature: sampling.temperature,
                top_k: sampling.top_k,
                top_p: sampling.top_p,
                min_p: sampling.min_p,
                repeat_penalty: sampling.repetition_penalty,
                presence_penalty: sampling.presence_penalty,
                frequency_penalty: sampling.frequency_penalty,
            },
        },
        total_slots: app.engine_config().max_running.get(),
        model_alias: app.model_name().to_owned(),
        model_path: app.config().model_path.clone(),
        modalities: Modalities { vision: false, audio: false },
        chat_template: chat_template.unwrap_or_default(),
        bos_token: bos_token.unwrap_or_default(),
        eos_token: eos_token.unwrap_or_default(),
        build_info: BUILD,
    })
}
