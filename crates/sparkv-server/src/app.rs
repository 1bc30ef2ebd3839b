//! What the routes share: the engine, and what the operator configured.

use std::fmt;
use std::num::NonZero;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::thread::available_parallelism;
use std::time::{Duration, Instant};

use sparkv::KvChoice;
use sparkv_engine::{EngineConfig, RequestError, TextEngine, TokenizerInfo, ToolFormat};
use tokio::sync::Semaphore;
use tokio::time::sleep;
use utoipa::openapi::OpenApi as Document;

use crate::config::{Policy, ServerConfig};
use crate::error::ApiError;
use crate::generation::ids::unix_time;
use crate::generation::instrumented::InstrumentedEvents;
use crate::generation::requests::CheckedRequests;
use crate::metrics::Metrics;

/// The most prompts encoded at a time, however many cores there are: a long one takes hundreds of megabytes.
const MAX_ENCODING: usize = 4;

/// How often a server looks whether its engine is still there.
const LOST_POLL: Duration = Duration::from_millis(200);

/// State of the routes; cheap to clone.
#[derive(Clone)]
pub(crate) struct App(Arc<Shared>);

struct Shared {
    engine: TextEngine,
    config: ServerConfig,
    /// What holds at the moment; a request takes it as a whole.
    policy: RwLock<Arc<Policy>>,
    /// Seconds since 1970 at which the model was first served.
    started: u64,
    /// Requests should go elsewhere.
    leaving: AtomicBool,
    /// Requests are turned away.
    draining: AtomicBool,
    metrics: Metrics,
    /// The description of the routes.
    document: Document,
    /// One permit for each prompt that may be encoded at a time, which takes a core and much memory.
    encoding: Arc<Semaphore>,
}

impl App {
    /// `document` describes the routes.
    pub(crate) fn new(engine: TextEngine, config: ServerConfig, document: Document) -> Self {
        let encoding =
            Arc::new(Semaphore::new(available_parallelism().map_or(1, NonZero::get).min(MAX_ENCODING)));
        let policy = RwLock::new(Arc::new(config.policy.clone()));
        let metrics = Metrics::new(&engine, &config.model_name);
        Self(Arc::new(Shared {
            engine,
            config,
            policy,
            started: unix_time(),
            leaving: AtomicBool::new(false),
            draining: AtomicBool::new(false),
            metrics,
            document,
            encoding,
        }))
    }

    pub(crate) fn config(&self) -> &ServerConfig {
        &self.0.config
    }

    /// Name under which the model is served.
    pub(crate) fn model_name(&self) -> &str {
        &self.0.config.model_name
    }

    /// The names that are listed, that of answers first.
    pub(crate) fn listed_names(&self) -> impl Iterator<Item = &str> {
        let ServerConfig { model_name, model_aliases, list_aliases, .. } = self.config();
        let others = model_aliases.iter().filter(|_| *list_aliases);
        std::iter::once(model_name).chain(others).map(String::as_str)
    }

    /// What the engine was started with.
    pub(crate) fn engine_config(&self) -> &EngineConfig {
        self.0.engine.config()
    }

    /// Tokens whose dense f16 caches fit into the memory for KV caches together; `None` if that has no bound.
    pub(crate) fn dense_tokens(&self) -> Option<u64> {
        let budget = Some(self.engine_config().kv_memory).filter(|&budget| budget != u64::MAX)?;
        budget.checked_div(self.0.engine.info().kv_shape.dense_bytes(1))
    }

    /// Seconds since 1970 at which the model was first served.
    pub(crate) fn started(&self) -> u64 {
        self.0.started
    }

    /// Tokens that fit into the model's context.
    pub(crate) fn context_length(&self) -> usize {
        self.0.engine.info().context_length
    }

    /// What the operator may change at any time, as it is now.
    pub(crate) fn policy(&self) -> Arc<Policy> {
        Arc::clone(&self.0.policy.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Goes by `policy` from now on.
    pub(crate) fn set_policy(&self, policy: Policy) {
        self.0.engine.set_presets(policy.presets.clone());
        *self.0.policy.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(policy);
    }

    /// What the cache of a request without `kv_cache` may cost.
    pub(crate) fn default_kv(&self) -> KvChoice {
        self.policy().default_kv.clone()
    }

    /// The description of the routes.
    pub(crate) fn document(&self) -> &Document {
        &self.0.document
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
                if !config.accept_any_model
                    && name != config.model_name
                    && !config.model_aliases.iter().any(|alias| alias == name) =>
            {
                Err(ApiError::UnknownModel { asked: name.to_owned(), served: config.model_name.clone() })
            }
            _ => Ok(()),
        }
    }

    /// Whether requests should come here.
    ///
    /// # Errors
    /// [`ApiError::Unavailable`] from the moment the server is told to stop, or for ever once the engine is gone.
    pub(crate) fn check_ready(&self) -> Result<(), ApiError> {
        if self.0.leaving.load(Ordering::Acquire) { Err(ApiError::SHUTTING_DOWN) } else { self.check_open() }
    }

    /// Whether requests are taken, which they may be for a while after they should go elsewhere.
    ///
    /// # Errors
    /// [`ApiError::Unavailable`] while the server drains, or for ever once the engine is gone.
    fn check_open(&self) -> Result<(), ApiError> {
        if self.0.draining.load(Ordering::Acquire) {
            Err(ApiError::SHUTTING_DOWN)
        } else if !self.0.engine.is_alive() {
            Err(ApiError::Unavailable("the engine has stopped"))
        } else {
            Ok(())
        }
    }

    /// Puts requests in the queue, all of them or none; returns their answers, those to one prompt after those to the one
    /// before.
    ///
    /// # Errors
    /// Whatever the engine refuses.
    pub(crate) async fn generate(&self, asked: CheckedRequests) -> Result<Vec<InstrumentedEvents>, ApiError> {
        let arrived = Instant::now();
        let CheckedRequests { mut requests, answers, fault } = asked;
        let timeout = self.config().request_timeout;
        requests.iter_mut().for_each(|request| request.timeout = timeout);
        let generate = move |engine: &TextEngine| engine.generate_all(requests, answers);
        let events = self.encode(generate).await?.map_err(|error| ApiError::refused(error, &fault))?;
        let seconds = arrived.elapsed().as_secs_f64();
        let instrumented = |events| InstrumentedEvents::new(events, self.0.metrics.clone(), seconds);
        Ok(events.into_iter().map(instrumented).collect())
    }

    /// Does work with a prompt. Encoding a long one takes a while, so that it does not happen on a thread that serves
    /// connections; it takes memory, so that it happens to a few prompts at a time.
    ///
    /// # Errors
    /// If no requests are taken. What the work refuses is inside.
    pub(crate) async fn encode<T: Send + 'static>(
        &self,
        work: impl FnOnce(&TextEngine) -> Result<T, RequestError> + Send + 'static,
    ) -> Result<Result<T, RequestError>, ApiError> {
        self.check_open()?;
        let engine = self.0.engine.clone();
        // A full queue turns away before anything is worked on.
        if let Err(error) = engine.check_room(1) {
            return Ok(Err(error));
        }
        let failed = |error: &dyn fmt::Display| {
            tracing::error!(%error, "encoding failed");
            ApiError::Internal("the prompt could not be encoded".to_owned())
        };
        let permit = Arc::clone(&self.0.encoding).acquire_owned().await.map_err(|error| failed(&error))?;
        let encoding = tokio::task::spawn_blocking(move || {
            // Held to the end of the work, whether or not the client waits for it.
            let _permit = permit;
            work(&engine)
        });
        encoding.await.map_err(|error| failed(&error))
    }

    /// What the model's files say of its tokenizer.
    pub(crate) fn tokenizer_info(&self) -> TokenizerInfo {
        self.0.engine.text().tokenizer_info().clone()
    }

    /// The text of tokens, names of special ones included.
    ///
    /// # Errors
    /// If `param` holds a token that there is not.
    pub(crate) fn detokenize(&self, param: &str, tokens: &[u32]) -> Result<String, ApiError> {
        let known = self.0.engine.info().check_tokens(tokens);
        known.map_err(|error| ApiError::invalid(param, error.to_string()))?;
        self.0.engine.text().detokenize(tokens).map_err(|error| ApiError::invalid(param, error.to_string()))
    }

    /// The bytes of a token.
    pub(crate) fn token_bytes(&self, id: u32) -> &[u8] {
        self.0.engine.text().bytes(id)
    }

    /// The text of each token; where its bytes are part of a character, with a replacement character.
    pub(crate) fn token_texts(&self, tokens: &[u32]) -> Vec<String> {
        let text = |&id: &u32| String::from_utf8_lossy(self.0.engine.text().bytes(id)).into_owned();
        tokens.iter().map(text).collect()
    }

    /// How the model writes calls of tools.
    pub(crate) fn tool_format(&self) -> ToolFormat {
        self.0.engine.text().tool_format().clone()
    }

    /// Is not ready from now on, and takes requests all the same.
    pub(crate) fn start_leaving(&self) {
        self.0.leaving.store(true, Ordering::Release);
    }

    /// Turns new requests away from now on.
    pub(crate) fn start_draining(&self) {
        self.start_leaving();
        self.0.draining.store(true, Ordering::Release);
        self.0.engine.shutdown();
    }

    /// Ends every request with an error.
    pub(crate) fn abort(&self) {
        self.0.engine.abort();
    }

    /// Ends once the engine's thread is gone.
    pub(crate) async fn engine_lost(&self) {
        while self.0.engine.is_alive() {
            sleep(LOST_POLL).await;
        }
    }

    /// What `/metrics` shows.
    pub(crate) fn metrics(&self) -> &Metrics {
        &self.0.metrics
    }

    /// Whether no request runs or waits.
    pub(crate) fn is_idle(&self) -> bool {
        let load = self.0.engine.load();
        load.running == 0 && load.waiting == 0
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroUsize;

    use sparkv::Presets;
    use sparkv_engine::{GenerateRequest, Prompt, TextModel};
    use sparkv_models::fake::{FakeConfig, FakeModel, tokenizer};
    use tokio::time::timeout;

    use super::*;
    use crate::error::Fault;
    use crate::http::api_keys::ApiKeys;
    use crate::refusals::UnknownFields;

    #[tokio::test]
    async fn a_few_prompts_are_encoded_at_a_time() {
        let (model, _probe) = FakeModel::new(FakeConfig::default());
        let text = TextModel::new(tokenizer().unwrap(), None, None, None);
        let config = EngineConfig { max_queue: NonZeroUsize::MIN, ..EngineConfig::default() };
        let presets = Presets::built_in().unwrap();
        let engine = TextEngine::start(model, text, config, presets).unwrap();
        let app = App::new(
            engine.clone(),
            ServerConfig {
                model_name: "fake".to_owned(),
                model_aliases: Vec::new(),
                list_aliases: false,
                accept_any_model: false,
                model_path: "fake".to_owned(),
                policy: Policy {
                    api_keys: ApiKeys::default(),
                    default_kv: KvChoice::default(),
                    presets: Presets::built_in().unwrap(),
                },
                unknown_fields: UnknownFields::Refuse,
                body_limit: 1 << 20,
                drain_delay: Duration::ZERO,
                drain_deadline: Duration::ZERO,
                request_timeout: None,
                health_follows_ready: false,
                metrics_open: false,
                adopt_trace: None,
            },
            Document::default(),
        );
        let all = u32::try_from(app.0.encoding.available_permits()).unwrap();
        let permits = Arc::clone(&app.0.encoding).acquire_many_owned(all).await.unwrap();
        let request = GenerateRequest::new(Prompt::Text("hello".to_owned()));
        let fault = Fault { prompt: "prompt", max_tokens: "max_tokens", format: "format", default_kv: true };
        let asked = CheckedRequests { requests: vec![request], answers: NonZeroUsize::MIN, fault };
        let generating = app.generate(asked);
        let mut generating = std::pin::pin!(generating);
        assert!(timeout(Duration::from_millis(50), &mut generating).await.is_err(), "it did not wait");
        drop(permits);
        generating.await.unwrap();
    }
}
