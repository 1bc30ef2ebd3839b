//! /api/tags, /api/ps, /api/show and /api/version: the one model that is served.

use std::fmt::Write;

use axum::Json;
use axum::extract::State;
use jiff::Timestamp;
use ring::digest::{SHA256, digest};
use serde::Serialize;
use serde_json::{Map, Value, json};
use sparkv_engine::ModelInfo;
use utoipa::ToSchema;

use crate::app::App;
use crate::error::ApiError;
use crate::http::body::Fields;
use crate::ollama::{LATEST, check_model};
use crate::schema::described_as_one;
use crate::unsupported;

/// The version of ollama whose API this is: clients ask for a certain one or later.
const VERSION: &str = "0.12.11";

/// When the model is unloaded: clients want a time, and it never is.
const NEVER: &str = "9999-01-01T00:00:00Z";

/// A list of models.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = OllamaModels)]
pub(crate) struct ModelList {
    models: [ListedModel; 1],
}

/// A model that there is.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = OllamaModel)]
pub(crate) struct ListedModel {
    name: String,
    /// The same.
    model: String,
    /// When it was first served.
    modified_at: String,
    /// Bytes of its weights.
    size: u64,
    /// Of what is told of it.
    digest: String,
    details: Details,
}

/// A list of models that are loaded.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = OllamaRunningModels)]
pub(crate) struct RunningList {
    models: [RunningModel; 1],
}

/// A model that is loaded.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = OllamaRunningModel)]
pub(crate) struct RunningModel {
    name: String,
    /// The same.
    model: String,
    /// Bytes of its weights.
    size: u64,
    digest: String,
    details: Details,
    expires_at: &'static str,
    /// Always 0: it runs on the processor.
    size_vram: u64,
    /// Tokens of prompt and answer together.
    context_length: usize,
}

/// What kind of model it is. What is not known is empty.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = OllamaDetails)]
struct Details {
    parent_model: &'static str,
    format: &'static str,
    family: &'static str,
    families: [&'static str; 1],
    parameter_size: &'static str,
    quantization_level: &'static str,
}

/// A model, described.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = OllamaDescription)]
pub(crate) struct Description {
    /// The chat template, in Jinja.
    template: String,
    details: Details,
    /// In the words of GGUF files.
    #[schema(value_type = Object)]
    model_info: Map<String, Value>,
    capabilities: Vec<&'static str>,
    modified_at: String,
}

/// The server's version.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = OllamaVersion)]
pub(crate) struct Version {
    version: &'static str,
}

described_as_one!(ShowBody, "OllamaShowRequest", [ShowFields]);

/// A request for a description.
struct ShowBody;

/// Which model is to be described.
#[derive(Debug, ToSchema)]
struct ShowFields {
    /// Absent means the one that is served.
    model: Option<String>,
    /// What `model` was called before.
    name: Option<String>,
}

/// Lists the model.
#[utoipa::path(
    get,
    path = "/api/tags",
    responses((status = 200, description = "The models that there are", body = ModelList))
)]
pub(crate) async fn tags(State(app): State<App>) -> Json<ModelList> {
    let name = name(&app);
    Json(ModelList {
        models: [ListedModel {
            model: name.clone(),
            name,
            modified_at: started(&app),
            size: app.config().weight_bytes,
            digest: digest_of(&app),
            details: Details::of(app.model_info()),
        }],
    })
}

/// Lists the model, which is loaded.
#[utoipa::path(
    get,
    path = "/api/ps",
    responses((status = 200, description = "The models that are loaded", body = RunningList))
)]
pub(crate) async fn running(State(app): State<App>) -> Json<RunningList> {
    let name = name(&app);
    Json(RunningList {
        models: [RunningModel {
            model: name.clone(),
            name,
            size: app.config().weight_bytes,
            digest: digest_of(&app),
            details: Details::of(app.model_info()),
            expires_at: NEVER,
            size_vram: 0,
            context_length: app.context_length(),
        }],
    })
}

/// Describes the model.
#[utoipa::path(
    post,
    path = "/api/show",
    request_body = ShowBody,
    responses((status = 200, description = "The model", body = Description))
)]
pub(crate) async fn show(State(app): State<App>, mut fields: Fields) -> Result<Json<Description>, ApiError> {
    let ShowFields { model, name } = ShowFields { model: fields.take("model"), name: fields.take("name") };
    let refusals = fields.finish(unsupported::ollama_show)?;
    refusals.end(check_model(&app, model.or(name).as_deref()))?;
    Ok(Json(describe(&app)))
}

/// Tells which API this is.
#[utoipa::path(
    get,
    path = "/api/version",
    responses((status = 200, description = "The version of ollama that has this API", body = Version))
)]
pub(crate) async fn version() -> Json<Version> {
    Json(Version { version: VERSION })
}

/// The model's name, with a version, as ollama's names have one.
fn name(app: &App) -> String {
    let name = app.model_name();
    let last = name.rsplit('/').next().unwrap_or(name);
    if last.contains(':') { name.to_owned() } else { format!("{name}{LATEST}") }
}

/// When the model was first served.
fn started(app: &App) -> String {
    let seconds = i64::try_from(app.started()).unwrap_or_default();
    Timestamp::from_second(seconds).unwrap_or_default().to_string()
}

impl Details {
    fn of(info: &ModelInfo) -> Self {
        Self {
            parent_model: "",
            format: "",
            family: info.architecture,
            families: [info.architecture],
            parameter_size: "",
            quantization_level: "",
        }
    }
}

fn describe(app: &App) -> Description {
    let template = app.tokenizer_info().chat_template;
    // Templates that know no tools are told of them in words.
    let capabilities = if template.is_some() { vec!["completion", "tools"] } else { vec!["completion"] };
    Description {
        template: template.unwrap_or_default(),
        details: Details::of(app.model_info()),
        model_info: facts(app.model_info()),
        capabilities,
        modified_at: started(app),
    }
}

/// Facts of the model by the keys that GGUF files have for them, which begin with the name of its family.
fn facts(info: &ModelInfo) -> Map<String, Value> {
    let attention = &info.kv_shape.attention;
    let mut facts = Map::from_iter([("general.architecture".to_owned(), json!(info.architecture))]);
    for (key, value) in [
        ("context_length", info.context_length),
        ("block_count", info.kv_shape.layers),
        ("vocab_size", info.vocab_size),
        ("attention.head_count", attention.query_heads),
        ("attention.head_count_kv", attention.kv_heads),
        ("attention.key_length", attention.head_dim),
        ("attention.value_length", attention.head_dim),
    ] {
        facts.insert(format!("{}.{key}", info.architecture), json!(value));
    }
    facts
}

/// A digest of what is told of the model, by which clients know whether it is still the same.
fn digest_of(app: &App) -> String {
    let Description { template, model_info, .. } = describe(app);
    let told = json!([app.model_name(), app.config().weight_bytes, template, model_info]).to_string();
    digest(&SHA256, told.as_bytes()).as_ref().iter().fold(String::new(), |mut hex, byte| {
        // A text takes what is written to it.
        let _ = write!(hex, "{byte:02x}");
        hex
    })
}
