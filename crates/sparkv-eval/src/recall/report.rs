//! Scores as people read them.

use std::fmt::Write;

use serde::Serialize;

use super::Answer;
use crate::bootstrap::{bootstrap, mean};

/// How well questions of a task were answered under some settings.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Score {
    /// Name of the settings.
    pub kv: String,
    /// Name of the task.
    pub task: String,
    /// Questions asked.
    pub questions: usize,
    /// Mean score, in [0, 1].
    pub score: f64,
    /// Where it lies in 95 of 100 bootstrap draws of contexts.
    pub interval: [f64; 2],
    /// How much higher it is than under the first settings.
    pub difference: f64,
    /// Where that lies in 95 of 100 paired draws.
    pub difference_interval: [f64; 2],
    /// Bytes held as a share of dense f16's.
    pub kv_share: f64,
}

/// Sums up, for each task and settings in the order in which they first appear. Questions that were not asked under all
/// settings are left out.
pub fn scores(answers: &[Answer]) -> Vec<Score> {
    let mut tasks: Vec<&str> = Vec::new();
    let mut names: Vec<&str> = Vec::new();
    for answer in answers {
        if !tasks.contains(&answer.task.as_str()) {
            tasks.push(&answer.task);
        }
        if !names.contains(&answer.kv.as_str()) {
            names.push(&answer.kv);
        }
    }
    let Some(first) = names.first().copied() else { return Vec::new() };
    let mut scores = Vec::new();
    for task in tasks {
        for &kv in &names {
            let of =
                |kv: &str| answers.iter().filter(move |a| a.task == task && a.kv == kv).collect::<Vec<_>>();
            let (ours, firsts) = (of(kv), of(first));
            let asked = |answer: &Answer| {
                names.iter().all(|name| {
                    answers.iter().any(|a| {
                        (a.task.as_str(), a.kv.as_str(), a.item, a.question)
                            == (task, *name, answer.item, answer.question)
                    })
                })
            };
            let ours: Vec<&Answer> = ours.into_iter().filter(|answer| asked(answer)).collect();
            let paired = |answer: &&Answer| {
                firsts
                    .iter()
                    .find(|a| (a.item, a.question) == (answer.item, answer.question))
                    .map(|a| a.score)
            };
            // Questions about one context are not independent: contexts are drawn.
            let mut by_item: Vec<(usize, Vec<f64>, Vec<f64>)> = Vec::new();
            for answer in &ours {
                if by_item.last().is_none_or(|(item, ..)| *item != answer.item) {
                    by_item.push((answer.item, Vec::new(), Vec::new()));
                }
                if let Some((_, own, differences)) = by_item.last_mut() {
                    own.push(answer.score);
                    differences.push(answer.score - paired(answer).unwrap_or(0.0));
                }
            }
            let own: Vec<f64> = by_item.iter().map(|(_, own, _)| mean(own)).collect();
            let differences: Vec<f64> = by_item.iter().map(|(_, _, differences)| mean(differences)).collect();
            let bytes = |value: fn(&Answer) -> u64| ours.iter().map(|a| value(a) as f64).sum::<f64>();
            scores.push(Score {
                kv: kv.to_owned(),
                task: task.to_owned(),
                questions: ours.len(),
                score: mean(&own),
                interval: bootstrap(&own),
                difference: mean(&differences),
                difference_interval: bootstrap(&differences),
                kv_share: bytes(|a| a.kv_bytes) / bytes(|a| a.dense_bytes).max(1.0),
            });
        }
    }
    scores
}

/// A Markdown table, a row for each task and settings.
pub fn table(scores: &[Score]) -> String {
    let mut text = String::from(
        "| task | kv_cache | KV bytes (of dense f16) | score (95 %) | against the first (95 %) | questions |\n\
         |---|---|---:|---:|---:|---:|\n",
    );
    let percent = |share: f64| 100.0 * share;
    for score in scores {
        let [low, high] = score.interval.map(percent);
        let [worse, better] = score.difference_interval.map(percent);
        let _ = writeln!(
            text,
            "| {} | {} | {:.1} % | {:.1} % ({low:.1} to {high:.1}) | {:+.1} ({worse:+.1} to {better:+.1}) | {} |",
            score.task,
            score.kv,
            percent(score.kv_share),
            percent(score.score),
            percent(score.difference),
            score.questions,
        );
    }
    let mut names: Vec<&str> = Vec::new();
    let mut tasks: Vec<&str> = Vec::new();
    for score in scores {
        if !names.contains(&score.kv.as_str()) {
            names.push(&score.kv);
        }
        if !tasks.contains(&score.task.as_str()) {
            tasks.push(&score.task);
        }
    }
    if tasks.len() > 1 {
        for name in names {
            let own: Vec<f64> =
                scores.iter().filter(|score| score.kv == name).map(|score| score.score).collect();
            let _ = writeln!(text, "| mean of tasks | {name} | | {:.1} % | | |", percent(mean(&own)));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::retrieval::Mode;

    fn answer(kv: &str, item: usize, question: usize, score: f64) -> Answer {
        Answer {
            model: String::new(),
            item_hash: 0,
            task: "codes".to_owned(),
            item,
            question,
            kv: kv.to_owned(),
            mode: Mode::QueryAgnostic,
            prompt_tokens: 10,
            score,
            answer: String::new(),
            kv_bytes: if kv == "exact" { 100 } else { 25 },
            dense_bytes: 100,
        }
    }

    #[test]
    fn scores_are_means_and_differences_are_paired() {
        let mut answers = Vec::new();
        for item in 0..10 {
            for question in 0..2 {
                let right = f64::from(u8::from((item + question) % 3 != 0));
                answers.push(answer("exact", item, question, right));
                answers.push(answer("small", item, question, if item == 0 { 0.0 } else { right }));
            }
        }
        // Asked under one of them alone.
        answers.push(answer("exact", 99, 0, 0.0));
        let scores = scores(&answers);
        assert_eq!(scores.len(), 2);
        assert_eq!((scores[0].questions, scores[0].difference), (20, 0.0));
        assert!((scores[0].score - 0.65).abs() < 1e-9, "{}", scores[0].score);
        assert!((scores[1].difference + 0.05).abs() < 1e-9, "{}", scores[1].difference);
        assert!(scores[1].difference_interval[0] < -0.05 && scores[1].difference_interval[1] <= 0.0);
        assert_eq!((scores[0].kv_share, scores[1].kv_share), (1.0, 0.25));
        assert!(table(&scores).contains("| codes | small | 25.0 % | 60.0 %"), "{}", table(&scores));
    }
}
