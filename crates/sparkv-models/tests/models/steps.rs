//! Steps that mix sequences at all stages give each what it gets alone.
use sparkv::settings::{KvChoice, KvSettings, Presets};
use sparkv_models::{Decoder, LanguageModel, Logits, LogitsRows, LogitsWanted, ModelError, Span, SpanStep};

use crate::common::{Numbers, decode_one, distance, llama, load, random_weights};
use serde_json::json;

const VOCAB: usize = 160;

fn settings(json: &str) -> KvSettings {
    match Presets::built_in().unwrap().resolve(&serde_json::from_str(json).unwrap()).unwrap() {
        KvChoice::Fixed(settings) => settings,
        KvChoice::Budget(budget, _) => panic!("{budget} is a budget"),
    }
}

/// A sequence that follows a script: its prompt, then the tokens after it.
struct Sequence {
    prompt: usize,
    tokens: Vec<u32>,
    settings: KvSettings,
}

impl Sequence {
    /// The logits from the prompt's last token on.
    fn alone(&self, decoder: &Decoder) -> Vec<Vec<f32>> {
        let mut cache = decoder.new_cache(&self.settings, self.prompt).unwrap();
        let prompt = decoder.prefill(&self.tokens[..self.prompt], &mut cache, &mut || true).unwrap();
        let mut logits = vec![prompt.unwrap()];
        for &token in &self.tokens[self.prompt..] {
            logits.push(decode_one(decoder, token, &mut cache));
        }
        logits
    }
}

/// A sequence at work.
struct Running<'a> {
    sequence: &'a Sequence,
    cache: sparkv::SequenceCache,
    /// What is on its way, and how many rows of logits it still owes.
    span: Option<(Span, usize)>,
    /// Tokens that were sent on their way.
    begun: usize,
    /// Those of the prompt's last token, and of what follows.
    logits: Vec<Vec<f32>>,
    /// Those of the prompt's other tokens, as far as they were asked for.
    scores: Vec<Vec<f32>>,
}

impl<'a> Running<'a> {
    fn new(decoder: &Decoder, sequence: &'a Sequence, logits: usize) -> Self {
        let cache = decoder.new_cache(&sequence.settings, sequence.prompt).unwrap();
        let span =
            decoder.begin(&sequence.tokens[..sequence.prompt], LogitsWanted::all(logits), &cache).unwrap();
        let begun = sequence.prompt;
        Self { sequence, cache, span: Some((span, logits)), begun, logits: Vec::new(), scores: Vec::new() }
    }

    /// Sends on their way up to three of the tokens that follow, where nothing is.
    fn go_on(&mut self, decoder: &Decoder, numbers: &mut Numbers) {
        let left = &self.sequence.tokens[self.begun..];
        let count = left.len().min(1 + numbers.tokens(1, 3)[0] as usize);
        if self.span.is_none() && count > 0 {
            let span = decoder.begin(&left[..count], LogitsWanted::all(count), &self.cache).unwrap();
            self.span = Some((span, count));
            self.begun += count;
        }
    }

    fn take(&mut self, rows: LogitsRows) {
        let Some((_, left)) = &mut self.span else { return };
        for row in rows.into_iter().filter_map(Logits::into_all) {
            *left -= 1;
            let is_score = self.begun == self.sequence.prompt && *left > 0;
            if is_score { self.scores.push(row) } else { self.logits.push(row) }
        }
        if *left == 0 {
            self.span = None;
        }
    }
}

/// One step for everybody who has something to do.
fn step(decoder: &Decoder, running: &mut [Running<'_>], numbers: &mut Numbers) {
    let (mut spans, mut who) = (Vec::new(), Vec::new());
    for (index, sequence) in running.iter_mut().enumerate() {
        sequence.go_on(decoder, numbers);
        if let Some((span, _)) = &mut sequence.span {
            let row_layers = 1 + numbers.tokens(1, 100)[0] as usize;
            spans.push(SpanStep { span, cache: &mut sequence.cache, row_layers });
            who.push(index);
        }
    }
    let logits = decoder.step(&mut spans).unwrap();
    for (index, rows) in who.into_iter().zip(logits) {
        running[index].take(rows);
    }
}

#[test]
fn any_mix_of_prompts_and_tokens_equals_each_alone() {
    let config = llama(json!({}));
    let decoder = load(&config, &random_weights(&config, 21));
    let kinds = ["{}", r#"{"precision": "f32"}"#, r#"{"preset": "balanced"}"#, r#"{"preset": "aggressive"}"#];
    for seed in 0..6 {
        let mut numbers = Numbers(100 + seed);
        let sequences: Vec<Sequence> = (0..6)
            .map(|index| Sequence {
                prompt: 1 + 23 * index,
                tokens: numbers.tokens(1 + 23 * index + 12, VOCAB),
                settings: settings(kinds[(index + seed as usize) % kinds.len()]),
            })
            .collect();
        let mut running: Vec<Running<'_>> = Vec::new();
        let mut waiting = sequences.iter();
        while running
            .iter()
            .any(|running| running.span.is_some() || running.begun < running.sequence.tokens.len())
            || waiting.len() > 0
        {
            // Somebody comes now and then.
            if numbers.tokens(1, 3)[0] == 0
                && let Some(sequence) = waiting.next()
            {
                let logits = 1 + numbers.tokens(1, sequence.prompt)[0] as usize;
                running.push(Running::new(&decoder, sequence, logits));
            }
            step(&decoder, &mut running, &mut numbers);
        }
        for running in &running {
            let alone = running.sequence.alone(&decoder);
            assert_eq!(running.logits, alone, "{:?}", running.sequence.settings);
        }
        assert!(decoder.held_bytes() > 0);
        drop(running);
        assert_eq!(decoder.held_bytes(), 0, "nothing is held when all are gone");
    }
}

/// A sequence that lost its cache gets it back from its tokens: prompt and completion in one go.
#[test]
fn tokens_run_again_at_once_equal_those_run_one_by_one() {
    let config = llama(json!({}));
    let decoder = load(&config, &random_weights(&config, 22));
    for json in ["{}", r#"{"preset": "balanced"}"#, r#"{"preset": "aggressive"}"#] {
        let sequence =
            Sequence { prompt: 130, tokens: Numbers(9).tokens(200, VOCAB), settings: settings(json) };
        let alone = sequence.alone(&decoder);
        let mut cache = decoder.new_cache(&sequence.settings, sequence.prompt).unwrap();
        let logits = decoder.prefill(&sequence.tokens, &mut cache, &mut || true).unwrap().unwrap();
        let off = distance(&logits, alone.last().unwrap());
        assert!(off < 1e-2, "{json}: {off}");
        assert_eq!(
            decoder.kv_usage(&cache).bytes,
            sequence.settings.cache_bytes(&decoder.info().kv_shape, 130, 70).unwrap()
        );
    }
}

#[test]
fn a_prompt_that_begins_with_another_s_tokens_equals_one_computed_whole() {
    let config = llama(json!({}));
    let decoder = load(&config, &random_weights(&config, 23));
    let tokens = Numbers(10).tokens(150, VOCAB);
    let exact = settings("{}");
    let mut first = decoder.new_cache(&exact, 100).unwrap();
    decoder.prefill(&tokens[..100], &mut first, &mut || true).unwrap();
    let (prefix, shared) = decoder.share(&mut first).unwrap();
    assert_eq!(shared, 96);
    for json in ["{}", r#"{"preset": "balanced"}"#, r#"{"preset": "aggressive"}"#] {
        let settings = settings(json);
        let mut whole = decoder.new_cache(&settings, tokens.len()).unwrap();
        let expected = decoder.prefill(&tokens, &mut whole, &mut || true).unwrap().unwrap();
        let mut cache = decoder.new_cache(&settings, tokens.len()).unwrap();
        let begun = decoder.begin_with(&mut cache, &prefix, tokens.len()).unwrap();
        assert_eq!(begun, 96);
        let logits = decoder.prefill(&tokens[begun..], &mut cache, &mut || true).unwrap().unwrap();
        assert_eq!(logits, expected, "{json}");
        for token in tokens.iter().take(5).copied() {
            let (ours, theirs) =
                (decode_one(&decoder, token, &mut cache), decode_one(&decoder, token, &mut whole));
            assert_eq!(ours, theirs, "{json}");
        }
    }
}

/// Every token of a prompt of several pieces, in steps of any size, whatever is compressed afterwards.
#[test]
fn the_logits_of_all_of_a_prompt_equal_those_of_its_beginnings() {
    let config = llama(json!({}));
    let decoder = load(&config, &random_weights(&config, 24));
    let tokens = Numbers(11).tokens(150, VOCAB);
    let mut cache = decoder.new_cache(&settings("{}"), 1).unwrap();
    let mut expected = vec![decoder.prefill(&tokens[..1], &mut cache, &mut || true).unwrap().unwrap()];
    expected.extend(tokens[1..].iter().map(|&token| decode_one(&decoder, token, &mut cache)));
    for (json, wanted) in [("{}", 150), (r#"{"preset": "aggressive"}"#, 149), ("{}", 70)] {
        for row_layers in [7, 90, 100_000] {
            let mut cache = decoder.new_cache(&settings(json), tokens.len()).unwrap();
            let mut span = decoder.begin(&tokens, LogitsWanted::all(wanted), &cache).unwrap();
            let mut left = decoder.row_layers(tokens.len(), wanted);
            let mut rows = Vec::new();
            while rows.len() < wanted {
                let mut spans = [SpanStep { span: &mut span, cache: &mut cache, row_layers }];
                let more = decoder.step(&mut spans).unwrap().remove(0);
                assert!(more.len() <= 64, "{} rows at a time", more.len());
                left -= row_layers - spans[0].row_layers;
                rows.extend(more.into_iter().filter_map(Logits::into_all));
            }
            assert_eq!(left, 0, "all that was counted, and no more");
            for (row, expected) in rows.iter().zip(&expected[tokens.len() - wanted..]) {
                assert_eq!(row, expected, "{json}");
            }
        }
    }
    let begin = |rows| decoder.begin(&tokens, LogitsWanted::all(rows), &cache);
    assert!(matches!(begin(151), Err(ModelError::Span { logits: 151, .. })));
    assert!(matches!(begin(0), Err(ModelError::Span { logits: 0, .. })));
}

/// What was guessed and turned out wrong is taken back.
#[test]
fn tokens_that_were_taken_back_leave_no_trace() {
    let config = llama(json!({}));
    let decoder = load(&config, &random_weights(&config, 25));
    let tokens = Numbers(12).tokens(60, VOCAB);
    for json in ["{}", r#"{"preset": "aggressive"}"#] {
        let [mut cache, mut clean] = [(), ()].map(|()| {
            let mut cache = decoder.new_cache(&settings(json), 50).unwrap();
            decoder.prefill(&tokens[..50], &mut cache, &mut || true).unwrap().unwrap();
            cache
        });
        let guessed = [tokens[50], tokens[51], 1, 2];
        let mut span = decoder.begin(&guessed, LogitsWanted::all(4), &cache).unwrap();
        let row_layers = decoder.row_layers(4, 4);
        let mut spans = [SpanStep { span: &mut span, cache: &mut cache, row_layers }];
        let rows = decoder.step(&mut spans).unwrap().remove(0);
        assert_eq!((rows.len(), decoder.span_bytes(&span)), (4, 0), "through in one step");
        decoder.truncate(&mut cache, 52).unwrap();
        let one_by_one = [50, 51].map(|index| decode_one(&decoder, tokens[index], &mut clean));
        for (row, alone) in rows.iter().zip(&one_by_one) {
            assert_eq!(row.all(), Some(&alone[..]), "{json}");
        }
        assert_eq!(decoder.kv_usage(&cache), decoder.kv_usage(&clean));
        for &token in &tokens[52..] {
            let (ours, clean) =
                (decode_one(&decoder, token, &mut cache), decode_one(&decoder, token, &mut clean));
            assert_eq!(ours, clean, "{json}");
        }
        assert!(matches!(decoder.truncate(&mut cache, 49), Err(ModelError::Truncate(_))));
    }
}
