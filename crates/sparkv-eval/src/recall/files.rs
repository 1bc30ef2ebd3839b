//! Items from files in the forms that others publish them in: a JSON object a line.

use serde::Deserialize;

use super::{Item, Question, Scoring};

/// Tokens an answer may have where nothing says how many.
const MAX_TOKENS: usize = 64;

/// A line that is no item.
#[derive(Debug, thiserror::Error)]
#[error("line {line}: {reason}")]
pub struct ItemError {
    /// Which one, from 1.
    pub line: usize,
    /// What is wrong with it.
    pub reason: String,
}

/// What there may be. Other fields say nothing here.
#[derive(Debug, Deserialize)]
struct Line {
    /// The question of LongBench; context, question and all of RULER.
    input: Option<String>,
    context: Option<String>,
    question: Option<String>,
    answer_prefix: Option<String>,
    /// RULER's.
    outputs: Option<Vec<String>>,
    /// LongBench's.
    answers: Option<Vec<String>>,
    /// kvpress's.
    answer: Option<OneOrMore>,
    task: Option<String>,
    dataset: Option<String>,
    max_new_tokens: Option<usize>,
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum OneOrMore {
    One(String),
    More(Vec<String>),
}

/// Reads items of RULER (`input`, `outputs`), LongBench (`context`, `input`, `answers`) or kvpress (`context`, `question`,
/// `answer`), one a line. `name` is the task of those that do not say theirs.
///
/// # Errors
/// The first line that is of no such form.
pub fn read_items(text: &str, name: &str) -> Result<Vec<Item>, ItemError> {
    let lines = (1..).zip(text.lines()).filter(|(_, line)| !line.trim().is_empty());
    lines
        .map(|(number, line)| item(line, name).map_err(|reason| ItemError { line: number, reason }))
        .collect()
}

fn item(line: &str, name: &str) -> Result<Item, String> {
    let line: Line = serde_json::from_str(line).map_err(|error| error.to_string())?;
    let task = line.task.or(line.dataset.clone()).unwrap_or_else(|| name.to_owned());
    let (context, question) = match (line.context, line.question.or(line.input.clone())) {
        (Some(context), Some(question)) => (context, question),
        // RULER's last line asks; what stands before it is the context.
        (None, Some(input)) if line.outputs.is_some() => match input.trim_end().rsplit_once('\n') {
            Some((context, question)) => (context.to_owned(), question.to_owned()),
            None => return Err("the input has but one line: a context and a question are two".to_owned()),
        },
        _ => return Err("no context and question, or input and outputs".to_owned()),
    };
    // Several right answers of questions about documents mean the same.
    let any = line.answers.is_some() || task.starts_with("qa_");
    let golds = match (line.outputs, line.answers, line.answer) {
        (Some(golds), ..) | (None, Some(golds), _) | (None, None, Some(OneOrMore::More(golds))) => golds,
        (None, None, Some(OneOrMore::One(gold))) => vec![gold],
        (None, None, None) => Vec::new(),
    };
    if golds.is_empty() {
        return Err("no outputs, answers or answer".to_owned());
    }
    let max_tokens = line.max_new_tokens.unwrap_or_else(|| max_tokens(&task));
    let question = Question {
        text: question,
        answer_prefix: line.answer_prefix.unwrap_or_default(),
        golds,
        scoring: if any { Scoring::Any } else { Scoring::Share },
        max_tokens,
    };
    Ok(Item { task, context, questions: vec![question] })
}

/// RULER's, by the name of the task.
fn max_tokens(task: &str) -> usize {
    let of = [("niah", 128), ("vt", 30), ("cwe", 120), ("fwe", 50), ("qa_", 32)];
    of.iter().find(|(name, _)| task.starts_with(name)).map_or(MAX_TOKENS, |(_, tokens)| *tokens)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn three_forms_are_read() {
        let text = r#"
            {"index": 0, "input": "Some text.\nMore.\nWhat is it?", "outputs": ["a", "b"], "length": 12}
            {"input": "Who?", "context": "Ann came.", "answers": ["Ann"], "length": 3, "dataset": "qasper", "all_classes": null}
            {"context": "1 is odd.", "question": "Is it?", "answer_prefix": "It", "answer": "odd", "task": "vt", "max_new_tokens": 5}
        "#;
        let items = read_items(text, "niah_single_1").unwrap();
        let seen: Vec<_> = items
            .iter()
            .map(|item| {
                let question = &item.questions[0];
                let golds = question.golds.join(",");
                (&*item.task, &*item.context, &*question.text, golds, question.scoring, question.max_tokens)
            })
            .collect();
        assert_eq!(
            seen,
            [
                ("niah_single_1", "Some text.\nMore.", "What is it?", "a,b".to_owned(), Scoring::Share, 128),
                ("qasper", "Ann came.", "Who?", "Ann".to_owned(), Scoring::Any, 64),
                ("vt", "1 is odd.", "Is it?", "odd".to_owned(), Scoring::Share, 5),
            ]
        );
    }

    #[test]
    fn lines_of_no_such_form_are_named() {
        for (line, reason) in [
            ("{", "line 2: EOF"),
            (r#"{"context": "a"}"#, "no context and question"),
            (r#"{"input": "a", "outputs": ["b"]}"#, "one line"),
            (r#"{"context": "a", "question": "b", "answers": []}"#, "no outputs"),
        ] {
            let error = read_items(&format!("\n{line}"), "x").unwrap_err();
            assert!(error.to_string().contains(reason), "{error}");
        }
    }
}
