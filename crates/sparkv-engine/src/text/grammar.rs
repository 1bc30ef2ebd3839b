//! Answers in a given language: llguidance behind the core's [`Grammar`].
//!
//! What a client sends is compiled and followed within bounds: so much work to compile it, so much for each token,
//! so many states. Whatever goes beyond ends that request with an error.
use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
};

use llguidance::{
    Matcher, ParserFactory,
    api::{ParserLimits, TopLevelGrammar},
    earley::SlicedBiasComputer,
    toktrie::{ApproximateTokEnv, InferenceCapabilities, TokEnv, TokRxInfo, TokTrie},
};
use serde_json::json;
use sparkv_models::ModelInfo;

use super::{lark::quoted, schema::prepared, tools::ToolFormat, vocabulary::Vocabulary};
use crate::{
    chat::Tool,
    core::{Constraint, Grammar},
    request::{OutputFormat, RequestError},
};

/// Bytes of a grammar, of whatever kind.
const MAX_SOURCE_BYTES: usize = 1 << 20;

/// Lexer states, of 1 to 2 kB each.
const MAX_LEXER_STATES: usize = 50_000;

/// Compiles grammars for one tokenizer.
pub(super) struct Grammars {
    factory: ParserFactory,
}

impl std::fmt::Debug for Grammars {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Grammars(..)")
    }
}

/// A compiled grammar.
struct Compiled(Matcher);

impl std::fmt::Debug for Compiled {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Compiled(..)")
    }
}

impl Grammars {
    /// For a tokenizer's vocabulary and the model that speaks it.
    pub(super) fn new(vocabulary: &Vocabulary, info: &ModelInfo) -> Result<Self, RequestError> {
        // The model says no others, whatever the tokenizer has.
        let size = info.vocab_size;
        let word = |id: u32| match (vocabulary.is_special(id), vocabulary.bytes(id)) {
            (_, []) => Vec::new(),
            (true, name) => [&[TokTrie::SPECIAL_TOKEN_MARKER], name].concat(),
            (false, bytes) => bytes.to_vec(),
        };
        let words: Vec<Vec<u8>> = (0..size as u32).map(word).collect();
        // Files may name ends that the model cannot say.
        let ends: Vec<u32> = info.eos_token_ids.iter().copied().filter(|&id| (id as usize) < size).collect();
        let Some(&end) = ends.first() else {
            return Err(RequestError::Format("this model has no end-of-sequence token".to_owned()));
        };
        let trie = TokTrie::from(&TokRxInfo::new(size as u32, end), &words).with_eos_tokens(&ends);
        let env: TokEnv = Arc::new(ApproximateTokEnv::new(trie));
        let slices = SlicedBiasComputer::general_slices();
        let mut factory = ParserFactory::new(&env, InferenceCapabilities::default(), &slices)
            .map_err(|error| RequestError::Format(error.to_string()))?;
        factory.quiet();
        *factory.limits_mut() = ParserLimits {
            max_lexer_states: MAX_LEXER_STATES,
            // It would quote the whole grammar.
            verbose_errors: false,
            ..ParserLimits::default()
        };
        Ok(Self { factory })
    }

    /// Compiles a format. `tools` is how the model writes calls.
    ///
    /// # Errors
    /// If it is no grammar, asks for what llguidance does not support, or is too large.
    pub(super) fn compile(
        &self,
        format: &OutputFormat,
        tools: &ToolFormat,
    ) -> Result<Arc<dyn Grammar>, RequestError> {
        let grammar = match format {
            OutputFormat::JsonSchema { schema, strict } => {
                bounded(schema.to_string().len())?;
                TopLevelGrammar::from_json_schema(prepared(schema.clone(), *strict))
            }
            OutputFormat::Regex(regex) => {
                bounded(regex.len())?;
                TopLevelGrammar::from_regex(regex)
            }
            OutputFormat::Lark(grammar) => lark(grammar.clone())?,
            OutputFormat::Choice(texts) => {
                let texts: Vec<String> = texts.iter().map(|text| quoted(text)).collect();
                lark(format!("start: {}", texts.join(" | ")))?
            }
            OutputFormat::ToolCalls { tools: callable, otherwise, several } => {
                let calls = |callable: &[Tool]| lark(tools.grammar(callable, otherwise, *several));
                return self.compile_grammar(calls(callable)?).or_else(|error| {
                    let fewer: Vec<Tool> = callable.iter().map(|tool| self.holdable(tool)).collect();
                    if fewer == *callable { Err(error) } else { self.compile_grammar(calls(&fewer)?) }
                });
            }
        };
        self.compile_grammar(grammar)
    }

    /// A tool with parameters that answers can be held to: any, if its own cannot be and need not.
    fn holdable(&self, tool: &Tool) -> Tool {
        let alone = TopLevelGrammar::from_json_schema(prepared(tool.parameters.clone(), tool.strict));
        if tool.strict || self.compile_grammar(alone).is_ok() {
            return tool.clone();
        }
        Tool { parameters: json!({ "type": "object" }), ..tool.clone() }
    }

    fn compile_grammar(&self, grammar: TopLevelGrammar) -> Result<Arc<dyn Grammar>, RequestError> {
        // llguidance computes with what clients send; where it panics, it says so of their format.
        let matcher = catch_unwind(AssertUnwindSafe(|| Matcher::new(self.factory.create_parser(grammar))));
        let matcher = matcher
            .map_err(|_| RequestError::Format("it could not be compiled: llguidance failed".to_owned()))?;
        match matcher.get_error() {
            Some(error) => Err(RequestError::Format(error)),
            None => Ok(Arc::new(Compiled(matcher))),
        }
    }
}

fn lark(grammar: String) -> Result<TopLevelGrammar, RequestError> {
    bounded(grammar.len())?;
    Ok(TopLevelGrammar::from_lark(grammar))
}

fn bounded(bytes: usize) -> Result<(), RequestError> {
    if bytes > MAX_SOURCE_BYTES {
        return Err(RequestError::Format(format!("it has {bytes} bytes, more than {MAX_SOURCE_BYTES}")));
    }
    Ok(())
}

impl Grammar for Compiled {
    fn start(&self) -> Box<dyn Constraint> {
        // The caches of what was worked out before are not shared: they are locked while they are used.
        Box::new(Self(self.0.deep_clone()))
    }
}

impl Constraint for Compiled {
    fn restrict(&mut self, logits: &mut [f32]) -> Result<(), String> {
        let allowed = self.0.compute_mask_or_eos().map_err(|error| error.to_string())?;
        for (id, logit) in logits.iter_mut().enumerate() {
            if id >= allowed.len() || !allowed.get(id) {
                *logit = f32::NEG_INFINITY;
            }
        }
        Ok(())
    }

    fn accept(&mut self, id: u32) -> Result<bool, String> {
        self.0.consume_token(id).map_err(|error| error.to_string())?;
        Ok(self.0.is_stopped())
    }
}
