//! Fresh samples of the demo model's tasks. `scripts/demo_model/README.md` documents the schema.

use std::collections::{BTreeMap, BTreeSet};

use rand::Rng;
use rand::seq::{IndexedRandom, SliceRandom};
use serde::Deserialize;

const DEMO_TASKS: &str = include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/../../models/demo/tasks.json"));

/// Draws until a key is new; after so many tries there is none.
const DRAWS: usize = 50;

/// Chance that a chain's fact refers to an earlier one.
const LINK_CHANCE: f64 = 0.5;

/// Tasks that cannot be drawn from.
#[derive(Debug, thiserror::Error)]
pub enum TaskError {
    /// The file is not of the schema.
    #[error("the task file cannot be read: {0}")]
    Schema(#[from] serde_json::Error),
    /// A name that the file does not have.
    #[error("no task `{name}`; there are {known}")]
    UnknownTask {
        /// What was asked for.
        name: String,
        /// What there is.
        known: String,
    },
    /// The file refers to what it does not hold.
    #[error("the task file has no {0}")]
    Missing(String),
}

/// Word lists and templates to draw samples from.
#[derive(Debug, Clone, Deserialize)]
pub struct TaskSet {
    intros: Vec<String>,
    lists: BTreeMap<String, Vec<String>>,
    filler: Vec<String>,
    tasks: Vec<Task>,
}

#[derive(Debug, Clone, Deserialize)]
struct Task {
    name: String,
    weight: f64,
    kind: Kind,
    slots: BTreeMap<String, Vec<Alternative>>,
    templates: Vec<Template>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Kind {
    /// Independent facts, each with its own key.
    Facts,
    /// Facts of which some are defined by another.
    Chain,
    /// One list, to be repeated.
    Copy,
}

/// What a slot is filled with.
#[derive(Debug, Clone, Deserialize)]
#[serde(untagged)]
enum Alternative {
    Number {
        digits: usize,
    },
    Words {
        words: Vec<String>,
        #[serde(default = "space")]
        join: String,
    },
}

fn space() -> String {
    " ".to_owned()
}

#[derive(Debug, Clone, Deserialize)]
struct Template {
    fact: String,
    questions: Vec<String>,
    answer: String,
    separator: String,
    /// Of chains.
    #[serde(default)]
    link: String,
    #[serde(default)]
    link_answer: String,
    /// Of lists.
    #[serde(default)]
    item_separator: String,
}

/// A question about a context, and its answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sample {
    /// Name of the task.
    pub task: String,
    /// Facts among filler.
    pub context: String,
    /// About one of the facts; a paragraph of its own after the context.
    pub question: String,
    /// The only right answer, word for word.
    pub answer: String,
}

impl Sample {
    /// The whole user message.
    pub fn message(&self) -> String {
        format!("{}\n{}", self.context, self.question)
    }
}

/// How large a sample is to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SampleShape {
    /// Facts in the context.
    pub facts: usize,
    /// Tokens of the whole prompt, about.
    pub tokens: usize,
}

/// A rendered fact and what is asked of it.
struct Fact {
    text: String,
    question: String,
    answer: String,
}

type Slots = BTreeMap<String, String>;

/// Tokens of a chat's frame around a message, about.
const FRAME_TOKENS: usize = 24;

impl TaskSet {
    /// The demo model's tasks.
    ///
    /// # Errors
    /// Never, unless the file in the repository is broken, which a test excludes.
    pub fn demo() -> Result<Self, TaskError> {
        Ok(serde_json::from_str(DEMO_TASKS)?)
    }

    /// Only the tasks of these names; all of them if there are none.
    ///
    /// # Errors
    /// If there is no task of a name.
    pub fn only(mut self, names: &[String]) -> Result<Self, TaskError> {
        if let Some(name) = names.iter().find(|name| self.tasks.iter().all(|task| task.name != **name)) {
            let known: Vec<&str> = self.tasks.iter().map(|task| task.name.as_str()).collect();
            return Err(TaskError::UnknownTask { name: name.clone(), known: known.join(", ") });
        }
        self.tasks.retain(|task| names.is_empty() || names.contains(&task.name));
        Ok(self)
    }

    /// Draws a sample. `count_tokens`: the model's tokenizer.
    ///
    /// # Errors
    /// If the file refers to what it does not hold.
    pub fn sample(
        &self,
        rng: &mut impl Rng,
        shape: SampleShape,
        count_tokens: &dyn Fn(&str) -> usize,
    ) -> Result<Sample, TaskError> {
        let missing = |what: &str| TaskError::Missing(what.to_owned());
        let task = self.tasks.choose_weighted(rng, |task| task.weight).map_err(|_| missing("tasks"))?;
        let template = task.templates.choose(rng).ok_or_else(|| missing("templates"))?;
        let mut kinds = BTreeMap::new();
        for (name, alternatives) in &task.slots {
            kinds.insert(name.as_str(), alternatives.choose(rng).ok_or_else(|| missing(name))?);
        }
        let facts = match task.kind {
            Kind::Facts => self.plain_facts(rng, template, &kinds, shape.facts)?,
            Kind::Chain => self.chain_facts(rng, template, &kinds, shape.facts)?,
            Kind::Copy => self.list(rng, template, &kinds, shape.facts)?,
        };
        let asked = facts.choose(rng).ok_or_else(|| missing("facts"))?;
        let (question, answer) = (asked.question.clone(), asked.answer.clone());

        let mut sentences: Vec<&str> = facts.iter().map(|fact| fact.text.as_str()).collect();
        let count = |text: &str| count_tokens(&format!("{}{text}", template.separator));
        let mut tokens = FRAME_TOKENS + count(&question);
        tokens += sentences.iter().map(|text| count(text)).sum::<usize>();
        loop {
            let filler = self.filler.choose(rng).ok_or_else(|| missing("filler"))?;
            tokens += count(filler);
            if tokens > shape.tokens {
                break;
            }
            sentences.push(filler);
        }
        sentences.shuffle(rng);
        let intro = self.intros.choose(rng).map_or("", String::as_str);
        if !intro.is_empty() {
            sentences.insert(0, intro);
        }
        let context = sentences.join(&template.separator);
        Ok(Sample { task: task.name.clone(), context, question, answer })
    }

    fn draw(&self, rng: &mut impl Rng, alternative: &Alternative) -> Result<String, TaskError> {
        match alternative {
            Alternative::Number { digits } => Ok((0..*digits)
                .map(|place| char::from(rng.random_range(if place == 0 { b'1'..=b'9' } else { b'0'..=b'9' })))
                .collect()),
            Alternative::Words { words, join } => {
                let words: Result<Vec<&str>, TaskError> = words
                    .iter()
                    .map(|list| {
                        let words = self.lists.get(list).and_then(|words| words.choose(rng));
                        words.map(String::as_str).ok_or_else(|| TaskError::Missing(format!("list {list}")))
                    })
                    .collect();
                Ok(words?.join(join))
            }
        }
    }

    /// A draw that is not in `used`, if one is found.
    fn draw_unique(
        &self,
        rng: &mut impl Rng,
        alternative: &Alternative,
        used: &mut BTreeSet<String>,
    ) -> Result<Option<String>, TaskError> {
        for _ in 0..DRAWS {
            let text = self.draw(rng, alternative)?;
            if used.insert(text.clone()) {
                return Ok(Some(text));
            }
        }
        Ok(None)
    }

    fn plain_facts(
        &self,
        rng: &mut impl Rng,
        template: &Template,
        kinds: &BTreeMap<&str, &Alternative>,
        count: usize,
    ) -> Result<Vec<Fact>, TaskError> {
        let mut used = BTreeSet::new();
        let mut facts = Vec::new();
        for _ in 0..count {
            let Some(key) = self.draw_unique(rng, kind(kinds, "key")?, &mut used)? else { break };
            let mut slots = Slots::from([("key".to_owned(), key)]);
            for (name, alternative) in kinds.iter().filter(|(name, _)| **name != "key") {
                slots.insert((*name).to_owned(), self.draw(rng, alternative)?);
            }
            facts.push(fact(rng, template, &slots, (&template.fact, &template.answer))?);
        }
        Ok(facts)
    }

    fn chain_facts(
        &self,
        rng: &mut impl Rng,
        template: &Template,
        kinds: &BTreeMap<&str, &Alternative>,
        count: usize,
    ) -> Result<Vec<Fact>, TaskError> {
        let mut used = BTreeSet::new();
        let mut facts = Vec::new();
        let mut roots: Vec<Slots> = Vec::new();
        for _ in 0..count {
            let Some(key) = self.draw_unique(rng, kind(kinds, "key")?, &mut used)? else { break };
            let root = if rng.random_bool(LINK_CHANCE) { roots.choose(rng) } else { None };
            if let Some(root) = root {
                let mut slots = root.clone();
                if let Some(other) = slots.insert("key".to_owned(), key) {
                    slots.insert("other".to_owned(), other);
                }
                facts.push(fact(rng, template, &slots, (&template.link, &template.link_answer))?);
            } else {
                let value = self.draw(rng, kind(kinds, "value")?)?;
                let slots = Slots::from([("key".to_owned(), key), ("value".to_owned(), value)]);
                facts.push(fact(rng, template, &slots, (&template.fact, &template.answer))?);
                roots.push(slots);
            }
        }
        Ok(facts)
    }

    fn list(
        &self,
        rng: &mut impl Rng,
        template: &Template,
        kinds: &BTreeMap<&str, &Alternative>,
        count: usize,
    ) -> Result<Vec<Fact>, TaskError> {
        let mut used = BTreeSet::new();
        let mut items = Vec::new();
        for _ in 0..count {
            items.extend(self.draw_unique(rng, kind(kinds, "item")?, &mut used)?);
        }
        let slots = Slots::from([("items".to_owned(), items.join(&template.item_separator))]);
        Ok(vec![fact(rng, template, &slots, (&template.fact, &template.answer))?])
    }
}

fn kind<'a>(kinds: &BTreeMap<&str, &'a Alternative>, slot: &str) -> Result<&'a Alternative, TaskError> {
    kinds.get(slot).copied().ok_or_else(|| TaskError::Missing(format!("slot {slot}")))
}

/// `texts`: the templates of the fact and of its answer.
fn fact(
    rng: &mut impl Rng,
    template: &Template,
    slots: &Slots,
    texts: (&str, &str),
) -> Result<Fact, TaskError> {
    let question =
        template.questions.choose(rng).ok_or_else(|| TaskError::Missing("questions".to_owned()))?;
    Ok(Fact {
        text: render(texts.0, slots)?,
        question: render(question, slots)?,
        answer: render(texts.1, slots)?,
    })
}

/// Fills in `{name}`.
fn render(template: &str, slots: &Slots) -> Result<String, TaskError> {
    let mut text = String::new();
    let mut rest = template;
    while let Some((before, after)) = rest.split_once('{') {
        let (name, after) = after.split_once('}').unwrap_or((after, ""));
        let value = slots.get(name).ok_or_else(|| TaskError::Missing(format!("slot {name}")))?;
        text.push_str(before);
        text.push_str(value);
        rest = after;
    }
    text.push_str(rest);
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng;
    use rand_chacha::ChaCha8Rng;

    fn words(text: &str) -> usize {
        text.split_whitespace().count()
    }

    #[test]
    fn samples_hold_what_they_ask_for() {
        let tasks = TaskSet::demo().unwrap();
        let mut seen = BTreeSet::new();
        for seed in 0..300 {
            let mut rng = ChaCha8Rng::seed_from_u64(seed);
            let shape = SampleShape { facts: 8, tokens: 400 };
            let sample = tasks.sample(&mut rng, shape, &words).unwrap();
            assert!((300..=400).contains(&words(&sample.message())), "{sample:?}");
            assert!(!sample.message().contains('{') && !sample.answer.contains('{'), "{sample:?}");
            // Every answer is made of what the context says: its last word stands there.
            let end = |c: char| !c.is_alphanumeric();
            let last = sample.answer.trim_matches(end).rsplit(end).next().unwrap();
            assert!(sample.context.contains(last), "{sample:?}");
            seen.insert(sample.task);
        }
        assert_eq!(seen.len(), tasks.tasks.len(), "every task is drawn");
    }

    #[test]
    fn samples_depend_on_the_seed_alone() {
        let tasks = TaskSet::demo().unwrap();
        let draw = |seed| {
            let shape = SampleShape { facts: 4, tokens: 200 };
            tasks.sample(&mut ChaCha8Rng::seed_from_u64(seed), shape, &words).unwrap()
        };
        assert_eq!(draw(1), draw(1));
        assert_ne!(draw(1), draw(2));
    }

    #[test]
    fn tasks_are_chosen_by_name() {
        let tasks = TaskSet::demo().unwrap();
        let copy = tasks.clone().only(&["copy".to_owned()]).unwrap();
        let sample = copy
            .sample(&mut ChaCha8Rng::seed_from_u64(0), SampleShape { facts: 5, tokens: 100 }, &words)
            .unwrap();
        assert_eq!(sample.task, "copy");
        assert!(matches!(tasks.only(&["niah".to_owned()]), Err(TaskError::UnknownTask { .. })));
    }
}
