//! How far settings move a model's predictions: KL divergence of the next token, teacher-forced after a compressed prefix.
//!
//! A text's first tokens are the prefix, computed once and compressed as each settings say; the tokens behind it are run
//! over what is left, and the distribution after each of them is compared with the one over the full cache:
//! KL(full || compressed) in nats. Separates settings far sooner than counting right answers does, and needs no task.

mod report;
mod texts;

use serde::{Deserialize, Serialize};
use sparkv::splitmix::mix;
use sparkv::{KvSettings, SequenceCache};
use sparkv_models::{Decoder, LanguageModel, Logits, LogitsWanted, SpanStep};

use crate::bootstrap::{bootstrap, mean, quantile, standard_error};
use crate::retrieval::{EvalError, SettingsUnderTest, most_likely};

pub use report::{plot, table};
pub use texts::TextSet;

/// How texts are cut, and what is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cut {
    /// Tokens that are compressed.
    pub prefix: usize,
    /// Tokens behind them that are predicted.
    pub tail: usize,
    /// Whether rows behind the prefix are quantized as they leave the window, as while generating; else they stay dense.
    pub generated: bool,
}

/// A text in tokens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenText {
    /// What it is called.
    pub name: String,
    /// At least prefix and tail; what is beyond is not used.
    pub tokens: Vec<u32>,
}

impl TokenText {
    /// Of its tokens.
    pub fn hash(&self) -> u64 {
        self.tokens.iter().fold(0, |hash, &token| mix(hash ^ u64::from(token)))
    }
}

/// A model to measure on.
#[derive(Debug, Clone, Copy)]
pub struct Subject<'a> {
    /// What it is called, and how its weights are held.
    pub name: &'a str,
    /// The model. In f32, that its predictions move with the cache alone: where activations are rounded to 8 bits, what
    /// is next to nothing turns some of them the other way, which moves predictions further than int8 rows do.
    pub decoder: &'a Decoder,
}

/// What settings did to the predictions of one text.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Divergence {
    /// What it was measured on: the model, and how its weights are held.
    pub model: String,
    /// Name of the text.
    pub text: String,
    /// Tells other texts of that name apart.
    pub text_hash: u64,
    /// Name of the settings.
    pub kv: String,
    /// What kind of settings they are: `dense`, `quantized`, `bits by queries`, `pruned` or `evicted`.
    pub family: String,
    /// Tokens that were compressed.
    pub prefix: usize,
    /// Tokens that were predicted.
    pub tail: usize,
    /// Whether rows were quantized behind the prefix, too.
    pub generated: bool,
    /// Mean of KL(full || compressed), in nats.
    pub kl: f64,
    /// Standard error of that, were tokens independent.
    pub kl_standard_error: f64,
    /// What one in a thousand tokens exceeds.
    pub kl_p999: f64,
    /// Share of tokens with the same likeliest next token.
    pub same_top: f64,
    /// Mean of how much less likely the text itself is, in nats.
    pub loss_difference: f64,
    /// Bytes of the cache when the prefix was compressed.
    pub kv_bytes: u64,
    /// Bytes of a dense f16 cache of the prefix.
    pub dense_bytes: u64,
}

/// Logarithms of the probabilities of all tokens, for each of some positions.
type Predictions = Vec<Vec<f32>>;

/// Checks that a text can be measured with all of `settings`, so that no such error ends a long evaluation.
///
/// # Errors
/// The first that [`divergence`] would meet, but for a failure of the model.
pub fn check(
    Subject { decoder, .. }: Subject<'_>,
    text: &TokenText,
    cut: Cut,
    settings: &[SettingsUnderTest],
) -> Result<(), EvalError> {
    checked_tokens(decoder, text, cut)?;
    settings.iter().try_for_each(|settings| chosen(decoder, cut, settings).map(|_| ()))
}

/// What settings come to for a prefix of that length; the model's shape can take it.
fn chosen(decoder: &Decoder, cut: Cut, settings: &SettingsUnderTest) -> Result<KvSettings, EvalError> {
    let shape = &decoder.info().kv_shape;
    let error = |source| EvalError::Settings { name: settings.name.clone(), source };
    let chosen = settings.choice.settings(shape, cut.prefix, cut.tail).map_err(error)?;
    chosen.cache_bytes(shape, cut.prefix, cut.tail).map_err(error)?;
    Ok(chosen)
}

/// Measures the divergence of all `settings` on a text; `done` hears each.
///
/// # Errors
/// If the text is too short or too long for the model, settings do not fit, the model fails, or `done` does.
pub fn divergence<E: From<EvalError>>(
    Subject { name, decoder }: Subject<'_>,
    text: &TokenText,
    cut: Cut,
    settings: &[SettingsUnderTest],
    mut done: impl FnMut(Divergence) -> Result<(), E>,
) -> Result<(), E> {
    let Cut { prefix, tail, generated } = cut;
    let tokens = checked_tokens(decoder, text, cut)?;
    let shape = decoder.info().kv_shape;
    let (prompt, following) = tokens.split_at(prefix);
    // Every cache begins with the rows of this one, as far as it needs no queries of theirs.
    let mut full = decoder.new_cache(&KvSettings::exact(), prefix).map_err(EvalError::from)?;
    decoder.prefill(prompt, &mut full, &mut || true).map_err(EvalError::from)?;
    let shared = decoder.share(&mut full).map(|(shared, _)| shared);
    let expected = predict(decoder, following, &mut full)?;
    for under_test in settings {
        let error = |source| EvalError::Settings { name: under_test.name.clone(), source };
        let chosen = chosen(decoder, cut, under_test)?;
        let mut cache = if generated {
            SequenceCache::counted(shape, &chosen, prefix, decoder.pool()).map_err(error)?
        } else {
            SequenceCache::with_dense_tail(shape, &chosen, prefix, decoder.pool()).map_err(error)?
        };
        let begun = match &shared {
            Some(shared) => decoder.begin_with(&mut cache, shared, prefix).map_err(EvalError::from)?,
            None => 0,
        };
        decoder.prefill(&prompt[begun..], &mut cache, &mut || true).map_err(EvalError::from)?;
        let usage = decoder.kv_usage(&cache);
        let found = predict(decoder, following, &mut cache)?;
        let compared = Comparison::of(&expected, &found, following);
        done(Divergence {
            model: name.to_owned(),
            text: text.name.clone(),
            text_hash: text.hash(),
            kv: under_test.name.clone(),
            family: family(&chosen).to_owned(),
            prefix,
            tail,
            generated,
            kl: mean(&compared.kl),
            kl_standard_error: standard_error(&compared.kl),
            kl_p999: quantile(&compared.kl, 0.999),
            same_top: compared.same_top,
            loss_difference: compared.loss_difference,
            kv_bytes: usage.bytes,
            dense_bytes: usage.dense_bytes,
        })?;
    }
    Ok(())
}

fn family(settings: &KvSettings) -> &'static str {
    if settings.eviction().is_some() {
        "evicted"
    } else if settings.key_ratio() > 0.0 || settings.value_ratio() > 0.0 {
        "pruned"
    } else if settings.key_precision().is_dense() && settings.value_precision().is_dense() {
        "dense"
    } else if settings.allots_bits() {
        "bits by queries"
    } else {
        "quantized"
    }
}

/// The tokens of prefix and tail.
fn checked_tokens<'a>(decoder: &Decoder, text: &'a TokenText, cut: Cut) -> Result<&'a [u32], EvalError> {
    let (needed, limit) = (cut.prefix + cut.tail, decoder.info().context_length);
    if cut.prefix == 0 || cut.tail == 0 {
        return Err(EvalError::Cut("prefix and tail have one token or more"));
    }
    if needed > limit {
        return Err(EvalError::ContextExceeded { tokens: needed, limit });
    }
    let short = || EvalError::ShortText { name: text.name.clone(), tokens: text.tokens.len(), needed };
    text.tokens.get(..needed).ok_or_else(short)
}

/// What the model predicts after each of `tokens`.
fn predict(decoder: &Decoder, tokens: &[u32], cache: &mut SequenceCache) -> Result<Predictions, EvalError> {
    let mut span = decoder.begin(tokens, LogitsWanted::all(tokens.len()), cache)?;
    let row_layers = decoder.row_layers(tokens.len(), tokens.len());
    let mut predictions = Predictions::with_capacity(tokens.len());
    while predictions.len() < tokens.len() {
        let step = SpanStep { span: &mut span, cache, row_layers };
        let rows = decoder.step(&mut [step])?.into_iter().flatten().filter_map(Logits::into_all);
        predictions.extend(rows.map(log_softmax));
    }
    Ok(predictions)
}

fn log_softmax(mut logits: Vec<f32>) -> Vec<f32> {
    let most = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = logits.iter().map(|&logit| f64::from(logit - most).exp()).sum();
    let log_sum = most + sum.ln() as f32;
    logits.iter_mut().for_each(|logit| *logit -= log_sum);
    logits
}

/// Two series of predictions.
struct Comparison {
    /// For each position.
    kl: Vec<f64>,
    same_top: f64,
    loss_difference: f64,
}

impl Comparison {
    fn of(expected: &Predictions, found: &Predictions, tokens: &[u32]) -> Self {
        let pairs = || expected.iter().zip(found);
        let kl = pairs().map(|(p, q)| {
            let nats = |(&p, &q): (&f32, &f32)| f64::from(p).exp() * f64::from(p - q);
            p.iter().zip(q).map(nats).sum::<f64>().max(0.0)
        });
        let same = pairs().filter(|(p, q)| most_likely(p) == most_likely(q)).count();
        // The last position predicts what is not in the text.
        let next = tokens.iter().skip(1).map(|&token| token as usize);
        let loss =
            pairs().zip(next).filter_map(|((p, q), next)| Some(f64::from(p.get(next)? - q.get(next)?)));
        let loss: Vec<f64> = loss.collect();
        Self {
            kl: kl.collect(),
            same_top: same as f64 / expected.len().max(1) as f64,
            loss_difference: mean(&loss),
        }
    }
}

/// What settings did to all texts together.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Summary {
    /// Name of the settings.
    pub kv: String,
    /// See [`Divergence::family`].
    pub family: String,
    /// Texts measured.
    pub texts: usize,
    /// Mean of the texts' mean KL, in nats.
    pub kl: f64,
    /// Where that lies in 95 of 100 bootstrap draws of texts.
    pub kl_interval: [f64; 2],
    /// What one in a thousand tokens exceeds: mean over texts.
    pub kl_p999: f64,
    /// Share of tokens with the same likeliest next token.
    pub same_top: f64,
    /// How much less likely the texts are, in nats a token.
    pub loss_difference: f64,
    /// Bytes held as a share of dense f16's.
    pub kv_share: f64,
    /// Settings of at most as many bytes and less KL, in 95 of 100 paired bootstrap draws of texts: what beats it.
    pub beaten_by: Vec<String>,
}

/// Sums up, in the order in which settings first appear. Texts that were not measured with all settings are left out.
pub fn summarize(divergences: &[Divergence]) -> Vec<Summary> {
    let mut names: Vec<&str> = Vec::new();
    let mut texts: Vec<&str> = Vec::new();
    for divergence in divergences {
        if !names.contains(&divergence.kv.as_str()) {
            names.push(&divergence.kv);
        }
        if !texts.contains(&divergence.text.as_str()) {
            texts.push(&divergence.text);
        }
    }
    let find = |name: &str, text: &str| divergences.iter().find(|d| d.kv == name && d.text == text);
    texts.retain(|text| names.iter().all(|name| find(name, text).is_some()));
    let rows: Vec<Vec<&Divergence>> =
        names.iter().map(|name| texts.iter().filter_map(|text| find(name, text)).collect()).collect();
    let of = |row: &[&Divergence], value: fn(&Divergence) -> f64| -> Vec<f64> {
        row.iter().map(|divergence| value(divergence)).collect()
    };
    let share = |row: &[&Divergence]| {
        mean(&of(row, |d| d.kv_bytes as f64)) / mean(&of(row, |d| d.dense_bytes as f64)).max(1.0)
    };
    let beats = |other: &[&Divergence], row: &[&Divergence]| {
        let paired: Vec<f64> = other.iter().zip(row).map(|(other, this)| other.kl - this.kl).collect();
        share(other) <= share(row) && bootstrap(&paired)[1] < 0.0
    };
    let summaries = names.iter().zip(&rows).map(|(name, row)| {
        let kl = of(row, |d| d.kl);
        let better = names.iter().zip(&rows).filter(|(other, others)| *other != name && beats(others, row));
        Summary {
            kv: (*name).to_owned(),
            family: row.first().map(|divergence| divergence.family.clone()).unwrap_or_default(),
            texts: texts.len(),
            kl: mean(&kl),
            kl_interval: bootstrap(&kl),
            kl_p999: mean(&of(row, |d| d.kl_p999)),
            same_top: mean(&of(row, |d| d.same_top)),
            loss_difference: mean(&of(row, |d| d.loss_difference)),
            kv_share: share(row),
            beaten_by: better.map(|(other, _)| (*other).to_owned()).collect(),
        }
    });
    summaries.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_differ_does_not_diverge() {
        let p = vec![log_softmax(vec![1.0, 2.0, 3.0]), log_softmax(vec![0.0, -1.0, 5.0])];
        let same = Comparison::of(&p, &p, &[0, 2]);
        assert_eq!((same.kl, same.same_top, same.loss_difference), (vec![0.0, 0.0], 1.0, 0.0));
        let q = vec![log_softmax(vec![3.0, 2.0, 1.0]), p[1].clone()];
        let other = Comparison::of(&p, &q, &[0, 2]);
        // By hand: sum p (ln p - ln q), where ln p - ln q is -2, 0 and 2.
        let [first, _, third] =
            [1.0f64, 2.0, 3.0].map(|logit| logit.exp() / (1f64.exp() + 2f64.exp() + 3f64.exp()));
        assert!((other.kl[0] - 2.0 * (third - first)).abs() < 1e-6, "{:?}", other.kl);
        assert_eq!((other.kl[1], other.same_top), (0.0, 0.5));
        assert!((other.loss_difference - 2.0).abs() < 1e-6);
    }

    fn divergence(kv: &str, text: usize, kl: f64, kv_bytes: u64) -> Divergence {
        Divergence {
            model: String::new(),
            text_hash: 0,
            text: text.to_string(),
            kv: kv.to_owned(),
            family: "dense".to_owned(),
            prefix: 10,
            tail: 5,
            generated: false,
            kl,
            kl_standard_error: 0.0,
            kl_p999: kl,
            same_top: 1.0,
            loss_difference: 0.0,
            kv_bytes,
            dense_bytes: 100,
        }
    }

    #[test]
    fn who_is_beaten_is_known_by_pairs() {
        let mut all = Vec::new();
        for text in 0..8 {
            // Texts differ more than settings do, but always in the same way.
            let hard = text as f64;
            all.push(divergence("a", text, 1.0 + hard, 50));
            all.push(divergence("b", text, 0.9 + hard, 50));
            all.push(divergence("c", text, 0.5 + hard, 60));
        }
        all.push(divergence("a", 99, 100.0, 50));
        let summaries = summarize(&all);
        let beaten: Vec<_> =
            summaries.iter().map(|s| (s.kv.as_str(), s.texts, s.beaten_by.clone())).collect();
        assert_eq!(beaten, [("a", 8, vec!["b".to_owned()]), ("b", 8, vec![]), ("c", 8, vec![])]);
        assert!((summaries[0].kl - 4.5).abs() < 1e-9 && summaries[0].kv_share == 0.5);
        assert!(summaries[0].kl_interval[0] < 4.5 && summaries[0].kl_interval[1] > 4.5);
    }
}
