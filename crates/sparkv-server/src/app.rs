//! What the routes share: the engine, and what the operator configured.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use sparkv::{KvChoice, Presets};
use sparkv_engine::{EventStream, GenerateRequest, TextEngine};

use crate::auth::ApiKey;
use crate::common::convert::unix_time;
use crate::error::ApiError;
use crate::server::ServerConfig;

/// State of the routes; cheap to clone.
#[derive(Clone)]
pub(crate) struct App(Arc<Shared>);

struct Shared {
    engine: TextEngine,
    config: ServerConfig,
    /// Seconds since 1970 at which the model was first served.
    started: u64,
    draining: AtomicBool,
}

impl App {
    pub(crate) fn new(engine: TextEngine, config: ServerConfig) -> Self {
        let draining = AtomicBool::new(false);
        Self(Arc::new(Shared { engine, config, started: unix_time(), draining }))
    }

    pub(crate) fn config(&self) -> &ServerConfig {
        &self.0.config
    }

    /// Name under which the model is served.
    pub(crate) fn model_name(&self) -> &str {
        &self.0.config.model_name
    }

    /// Seconds since 1970 at which the model was first served.
    pub(crate) fn started(&self) -> u64 {
        self.0.started
    }

    /// Tokens that fit into the model's context.
    pub(crate) fn context_length(&self) -> usize {
        self.0.engine.info().context_length
    }

    pub(crate) fn presets(&self) -> &Presets {
        &self.0.config.presets
    }

    /// What the cache of a request without `kv_cache` may cost.
    pub(crate) fn default_kv(&self) -> KvChoice {
        self.0.config.default_kv.clone()
    }

    pub(crate) fn api_key(&self) -> Option<&ApiKey> {
        self.0.config.api_key.as_ref()
    }

    /// The largest request body taken, in bytes.
    pub(crate) fn body_limit(&self) -> usize {
        self.0.config.body_limit
    }

    /// Checks that `name` is the model that is served; no name means just that.
    ///
    /// # Errors
    /// [`ApiError::UnknownModel`].
    pub(crate) fn check_model(&self, name: Option<&str>) -> Result<(), ApiError> {
        let config = self.config();
        match name {
            Some(name)
                if name != config.model_name && !config.model_aliases.iter().any(|alias| alias == name) =>
            {
                Err(ApiError::UnknownModel { asked: name.to_owned(), served: config.model_name.clone() })
            }
            _ => Ok(()),
        }
    }

    /// Whether requests are taken.
    ///
    /// # Errors
    /// [`ApiError::Unavailable`] while the server drains, or for ever once the engine is gone.
    pub(crate) fn check_ready(&self) -> Result<(), ApiError> {
        if self.0.draining.load(Ordering::Acquire) {
            Err(ApiError::Unavailable("the server is shutting down"))
        } else if !self.0.engine.is_alive() {
            Err(ApiError::Unavailable("the engine has stopped"))
        } else {
            Ok(())
        }
    }

    /// Puts a request in line. Encoding a long prompt takes a while, so that it does not happen on a thread
    /// that serves connections.
    ///
    /// # Errors
    /// Whatever the engine refuses; `prompt_param` is the field that holds the prompt.
    pub(crate) async fn generate(
        &self,
        request: GenerateRequest,
        prompt_param: &'static str,
    ) -> Result<EventStream, ApiError> {
        self.check_ready()?;
        let engine = self.0.engine.clone();
        tokio::task::spawn_blocking(move || engine.generate(request))
            .await
            .map_err(|error| ApiError::Internal(format!("the prompt could not be encoded: {error}")))?
            .map_err(|error| ApiError::refused(error, prompt_param))
    }

    /// Turns new requests away from now on.
    pub(crate) fn start_draining(&self) {
        self.0.draining.store(true, Ordering::Release);
        self.0.engine.shutdown();
    }

    /// Whether no request runs or waits.
    pub(crate) fn is_idle(&self) -> bool {
        let load = self.0.engine.load();
        load.running == 0 && load.waiting == 0
    }
}
