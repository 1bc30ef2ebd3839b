//! Tasks that need no text of others: those of RULER (arXiv 2404.06654), with its prompts, and two of our own.

use std::collections::BTreeSet;
use std::fmt::Write;

use rand::seq::{IndexedRandom, SliceRandom};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::words::{ADJECTIVES, NOUNS};
use super::{Item, Question, Scoring};

/// What RULER hides needles in.
const NOISE: &str =
    "The grass is green. The sky is blue. The sun is yellow. Here we go. There and back again.";

/// Questions about one context in our own tasks.
const QUESTIONS: usize = 10;

/// A kind of item.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Task {
    /// Codes of ten things among sentences that are about nothing; each is asked for. Ours.
    Codes,
    /// The same, to be put into the arguments of a call, in JSON. Ours.
    ToolCalls,
    /// One number among noise.
    NiahSingle1,
    /// One number among others.
    NiahMultikey2,
    /// One UUID among others.
    NiahMultikey3,
    /// Variables that are assigned to one another.
    Vt,
    /// The ten words of a list that come most often.
    Cwe,
    /// The three coded words that come most often.
    Fwe,
}

impl Task {
    /// All of them.
    pub const ALL: [Self; 8] = [
        Self::Codes,
        Self::ToolCalls,
        Self::NiahSingle1,
        Self::NiahMultikey2,
        Self::NiahMultikey3,
        Self::Vt,
        Self::Cwe,
        Self::Fwe,
    ];

    /// Its name, RULER's where it is RULER's.
    pub fn name(self) -> &'static str {
        match self {
            Self::Codes => "codes",
            Self::ToolCalls => "tool_calls",
            Self::NiahSingle1 => "niah_single_1",
            Self::NiahMultikey2 => "niah_multikey_2",
            Self::NiahMultikey3 => "niah_multikey_3",
            Self::Vt => "vt",
            Self::Cwe => "cwe",
            Self::Fwe => "fwe",
        }
    }

    /// Item number `index` of those that `seed` draws, whose context has about `tokens` tokens, and no more, as `count`
    /// counts them.
    pub fn item(self, seed: u64, index: usize, tokens: usize, count: &dyn Fn(&str) -> usize) -> Item {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        rng.set_stream(index as u64);
        let (context, questions) = match self {
            Self::Codes => codes(&mut rng, tokens, count, ask_for_code),
            Self::ToolCalls => codes(&mut rng, tokens, count, ask_for_call),
            Self::NiahSingle1 => niah_single(&mut rng, tokens, count),
            Self::NiahMultikey2 => niah_multikey(&mut rng, tokens, count, "number", number),
            Self::NiahMultikey3 => niah_multikey(&mut rng, tokens, count, "uuid", uuid),
            Self::Vt => vt(&mut rng, tokens, count),
            Self::Cwe => cwe(&mut rng, tokens, count),
            Self::Fwe => fwe(&mut rng, tokens, count),
        };
        Item { task: self.name().to_owned(), context, questions }
    }
}

/// The largest of what `build` makes that has no more than `tokens` tokens; what it makes of 1 if even that has.
fn fit(tokens: usize, count: &dyn Fn(&str) -> usize, build: impl Fn(usize) -> String) -> String {
    let (mut fits, mut exceeds) = (1, 2);
    while count(&build(exceeds)) <= tokens && exceeds < tokens {
        (fits, exceeds) = (exceeds, 2 * exceeds);
    }
    while fits + 1 < exceeds {
        let middle = usize::midpoint(fits, exceeds);
        if count(&build(middle)) <= tokens { fits = middle } else { exceeds = middle }
    }
    build(fits)
}

/// `needles` at places that `seed` draws among `lines` lines of `noise`. A longer context is the same with more in it.
fn hide(seed: u64, needles: &[String], lines: usize, noise: impl Fn(usize) -> String) -> String {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut places: Vec<f64> = needles.iter().map(|_| rng.random()).collect();
    places.sort_by(f64::total_cmp);
    let mut all: Vec<String> = (0..lines).map(noise).collect();
    for (needle, place) in needles.iter().zip(places).rev() {
        all.insert((place * (lines + 1) as f64) as usize, needle.clone());
    }
    all.join("\n")
}

fn thing(rng: &mut ChaCha8Rng, joint: &str) -> String {
    let word = |rng: &mut ChaCha8Rng, words: &[&'static str]| words.choose(rng).copied().unwrap_or_default();
    format!("{}{joint}{}", word(rng, &ADJECTIVES), word(rng, &NOUNS))
}

/// Different ones.
fn distinct(rng: &mut ChaCha8Rng, count: usize, draw: impl Fn(&mut ChaCha8Rng) -> String) -> Vec<String> {
    let (mut seen, mut all) = (BTreeSet::new(), Vec::with_capacity(count));
    // There are far more to draw from than any context holds; but it ends in any case.
    for _ in 0..20 * count {
        let drawn = draw(rng);
        if all.len() < count && seen.insert(drawn.clone()) {
            all.push(drawn);
        }
    }
    all
}

fn number(rng: &mut ChaCha8Rng) -> String {
    rng.random_range(1_000_000..10_000_000u32).to_string()
}

fn uuid(rng: &mut ChaCha8Rng) -> String {
    let bits: u128 = rng.random();
    let hex = format!("{bits:032x}");
    [&hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]].join("-")
}

fn filler(rng: &mut ChaCha8Rng) -> String {
    let (a, b, c) = (thing(rng, " "), thing(rng, " "), thing(rng, " "));
    match rng.random_range(0..6) {
        0 => format!("Nobody had looked behind the {a} since the {b} was moved."),
        1 => format!("They walked past the {a} and talked about the {b} and the {c}."),
        2 => format!("On some days the {a} is brought out together with the {b}."),
        3 => format!("A letter about the {a} came late, as letters do."),
        4 => format!("The {a} had been painted twice, and the {b} not at all."),
        _ => format!("Everyone agreed that the {a} looked better beside the {b}."),
    }
}

/// A thing, and its code.
type Fact = (String, String);

/// A context of at most `tokens` tokens with many codes, and behind it all of them again, in another order, as sentences or as
/// calls of a tool: who remembers them can tell what comes next.
pub(crate) fn recalled(seed: u64, tokens: usize, calls: bool, count: &dyn Fn(&str) -> usize) -> String {
    const FACTS: usize = 32;
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let (context, mut facts) = hidden_codes(&mut rng, FACTS, tokens, count);
    facts.shuffle(&mut rng);
    let line = |(thing, code): &Fact| match calls {
        true => format!(
            "{{\"name\": \"unlock\", \"arguments\": {{\"thing\": \"{thing}\", \"code\": \"{code}\"}}}}"
        ),
        false => format!("The code of the {thing} is {code}."),
    };
    let lines: Vec<String> = facts.iter().map(line).collect();
    format!("{context}\n\n{}\n", lines.join("\n"))
}

fn codes(
    rng: &mut ChaCha8Rng,
    tokens: usize,
    count: &dyn Fn(&str) -> usize,
    ask: fn(&Fact) -> Question,
) -> (String, Vec<Question>) {
    let (context, facts) = hidden_codes(rng, QUESTIONS, tokens, count);
    (context, facts.iter().map(ask).collect())
}

/// `facts` of them among sentences that are about nothing.
fn hidden_codes(
    rng: &mut ChaCha8Rng,
    facts: usize,
    tokens: usize,
    count: &dyn Fn(&str) -> usize,
) -> (String, Vec<Fact>) {
    let things = distinct(rng, facts, |rng| thing(rng, " "));
    let facts: Vec<Fact> =
        things.into_iter().map(|thing| (thing, rng.random_range(1000..10_000u32).to_string())).collect();
    let needles: Vec<String> =
        facts.iter().map(|(thing, code)| format!("The code of the {thing} is {code}.")).collect();
    let lines: Vec<String> = (0..tokens).map(|_| filler(rng)).collect();
    let noise = |line: usize| lines.get(line).cloned().unwrap_or_default();
    let seed = rng.random();
    let context = fit(tokens, count, |lines| hide(seed, &needles, lines, noise));
    (context, facts)
}

fn ask_for_code((thing, code): &Fact) -> Question {
    Question {
        text: format!("What is the code of the {thing}? Answer with the code only."),
        answer_prefix: format!("The code of the {thing} is"),
        golds: vec![code.clone()],
        scoring: Scoring::Share,
        max_tokens: 8,
    }
}

/// The key says what the value is, which the smallest models need.
fn ask_for_call((thing, code): &Fact) -> Question {
    Question {
        text: format!("What is the code of the {thing}? Call the tool enter_code with it, in JSON."),
        answer_prefix: format!("{{\"name\": \"enter_code\", \"arguments\": {{\"code of the {thing}\": \""),
        golds: vec![format!("{code}\"}}}}")],
        scoring: Scoring::Share,
        max_tokens: 12,
    }
}

fn needle(kind: &str, key: &str, value: &str) -> String {
    format!("One of the special magic {kind}s for {key} is: {value}.")
}

fn ask_for_needle(kind: &str, key: &str, value: &str) -> Question {
    Question {
        text: format!("What is the special magic {kind} for {key} mentioned in the provided text?"),
        answer_prefix: format!("The special magic {kind} for {key} mentioned in the provided text is"),
        golds: vec![value.to_owned()],
        scoring: Scoring::Share,
        max_tokens: 128,
    }
}

fn introduced(kind: &str, context: &str) -> String {
    format!(
        "A special magic {kind} is hidden within the following text. Make sure to memorize it. I will quiz you about the \
         {kind} afterwards.\n{context}"
    )
}

fn niah_single(
    rng: &mut ChaCha8Rng,
    tokens: usize,
    count: &dyn Fn(&str) -> usize,
) -> (String, Vec<Question>) {
    let (key, value) = (thing(rng, "-"), number(rng));
    let needles = [needle("number", &key, &value)];
    let seed = rng.random();
    let context =
        fit(tokens, count, |lines| introduced("number", &hide(seed, &needles, lines, |_| NOISE.to_owned())));
    (context, vec![ask_for_needle("number", &key, &value)])
}

fn niah_multikey(
    rng: &mut ChaCha8Rng,
    tokens: usize,
    count: &dyn Fn(&str) -> usize,
    kind: &str,
    draw: fn(&mut ChaCha8Rng) -> String,
) -> (String, Vec<Question>) {
    let key = |rng: &mut ChaCha8Rng| if kind == "uuid" { uuid(rng) } else { thing(rng, "-") };
    let (asked, value) = (key(rng), draw(rng));
    let others = distinct(rng, tokens / 12 + 1, key);
    let others: Vec<String> = others
        .into_iter()
        .filter(|other| *other != asked)
        .map(|key| needle(kind, &key, &draw(rng)))
        .collect();
    let needles = [needle(kind, &asked, &value)];
    let noise = |line: usize| others.get(line).cloned().unwrap_or_default();
    let seed = rng.random();
    let context =
        fit(tokens, count, |lines| introduced(kind, &hide(seed, &needles, lines.min(others.len()), noise)));
    (context, vec![ask_for_needle(kind, &asked, &value)])
}

fn vt(rng: &mut ChaCha8Rng, tokens: usize, count: &dyn Fn(&str) -> usize) -> (String, Vec<Question>) {
    const HOPS: usize = 4;
    let letters = |rng: &mut ChaCha8Rng| (0..5).map(|_| char::from(rng.random_range(b'A'..=b'Z'))).collect();
    let names = distinct(rng, HOPS + 1, letters);
    let value = rng.random_range(10_000..100_000u32).to_string();
    let mut needles = vec![format!("VAR {} = {value}", names[0])];
    let seed = rng.random();
    needles.extend(names.windows(2).map(|pair| format!("VAR {} = VAR {}", pair[1], pair[0])));
    let context = fit(tokens, count, |lines| {
        let hidden = hide(seed, &needles, lines, |_| NOISE.to_owned());
        format!(
            "Memorize and track the chain(s) of variable assignment hidden in the following text.\n\n{hidden}"
        )
    });
    let question = Question {
        text: format!("Question: Find all variables that are assigned the value {value} in the text above."),
        answer_prefix: format!(
            "Answer: According to the chain(s) of variable assignment in the text above, {} variables are assigned the \
             value {value}, they are:",
            names.len()
        ),
        golds: names,
        scoring: Scoring::Share,
        max_tokens: 30,
    };
    (context, vec![question])
}

fn cwe(rng: &mut ChaCha8Rng, tokens: usize, count: &dyn Fn(&str) -> usize) -> (String, Vec<Question>) {
    const COMMON: usize = 10;
    let mut words: Vec<&str> = ADJECTIVES.into_iter().chain(NOUNS).collect();
    words.shuffle(rng);
    let (common, others) = words.split_at(COMMON);
    let seed: u64 = rng.random();
    // Common words ten times as often as the others, thirty times where there is room for it.
    let context = fit(tokens, count, |size| {
        let repeated = |words: &[&'static str], times: usize| words.repeat(times);
        let times = (3 * size).clamp(1, 30);
        let uncommon = &others[..others.len().min(size)];
        let mut list = [repeated(common, times), repeated(uncommon, times.div_ceil(10))].concat();
        list.shuffle(&mut ChaCha8Rng::seed_from_u64(seed));
        let mut text = String::from(
            "Below is a numbered list of words. In these words, some appear more often than others. Memorize the ones that \
             appear most often.\n",
        );
        for (index, word) in list.iter().enumerate() {
            let _ = write!(text, "{}. {word} ", index + 1);
        }
        text
    });
    let question = Question {
        text: "Question: What are the 10 most common words in the above list?".to_owned(),
        answer_prefix: "Answer: The top 10 words that appear most often in the list are:".to_owned(),
        golds: common.iter().map(|word| (*word).to_owned()).collect(),
        scoring: Scoring::Share,
        max_tokens: 120,
    };
    (context, vec![question])
}

fn fwe(rng: &mut ChaCha8Rng, tokens: usize, count: &dyn Fn(&str) -> usize) -> (String, Vec<Question>) {
    let coded = |rng: &mut ChaCha8Rng| (0..6).map(|_| char::from(rng.random_range(b'a'..=b'z'))).collect();
    // The first is the dots, which are to be passed over.
    let words = distinct(rng, 50, coded);
    let seed: u64 = rng.random();
    let context = fit(tokens, count, |size| {
        let mut list: Vec<&str> = Vec::new();
        for (rank, word) in (1u32..).zip(std::iter::once("...").chain(words.iter().map(String::as_str))) {
            // Zipf's law with the exponent 2.
            let times = size as f64 / f64::from(rank * rank);
            list.extend(std::iter::repeat_n(word, times.round() as usize));
        }
        list.shuffle(&mut ChaCha8Rng::seed_from_u64(seed));
        format!(
            "Read the following coded text and track the frequency of each coded word. Find the three most frequently \
             appeared coded words. {}",
            list.join(" ")
        )
    });
    let question = Question {
        text: "Question: Do not provide any explanation. Please ignore the dots '....'. What are the three most \
               frequently appeared words in the above coded text?"
            .to_owned(),
        answer_prefix:
            "Answer: According to the coded text above, the three most frequently appeared words are:".to_owned(),
        golds: words.into_iter().take(3).collect(),
        scoring: Scoring::Share,
        max_tokens: 50,
    };
    (context, vec![question])
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Words and marks, which is about what tokens are.
    fn count(text: &str) -> usize {
        text.split([' ', '-', '\n']).count()
    }

    #[test]
    fn contexts_are_of_the_length_asked_for_and_hold_the_answers() {
        for task in Task::ALL {
            for tokens in [400, 1500] {
                let item = task.item(7, 3, tokens, &count);
                let length = count(&item.context);
                // (A list of common words gets no longer once all words are in it.)
                let least = if task == Task::Cwe { tokens / 3 } else { tokens * 4 / 5 };
                assert!((least..=tokens).contains(&length), "{}: {length} of {tokens}", task.name());
                for question in &item.questions {
                    for gold in question.golds.iter().filter(|_| task != Task::ToolCalls) {
                        assert!(item.context.contains(gold), "{}: {gold}", task.name());
                    }
                }
                assert_eq!(item, task.item(7, 3, tokens, &count));
                assert_ne!(item.context, task.item(7, 4, tokens, &count).context);
            }
        }
    }

    #[test]
    fn the_right_call_is_right() {
        let item = Task::ToolCalls.item(1, 0, 400, &count);
        assert_eq!(item.questions.len(), QUESTIONS);
        let question = &item.questions[0];
        let call = format!("{}{}", question.answer_prefix, question.golds[0]);
        let call: serde_json::Value = serde_json::from_str(&call).unwrap();
        let (key, code) = call["arguments"].as_object().unwrap().iter().next().unwrap();
        let fact = format!("The {key} is {}.", code.as_str().unwrap());
        assert!(item.context.contains(&fact), "{fact}");
        assert!(question.text.contains(key));
    }

    #[test]
    fn names_are_different() {
        let names: BTreeSet<&str> = Task::ALL.into_iter().map(Task::name).collect();
        assert_eq!(names.len(), Task::ALL.len());
    }
}
