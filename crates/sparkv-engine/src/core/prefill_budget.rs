//! How much of prompts a step takes on.
//!
//! Whoever is being answered waits for a step; whoever's prompt is computed wants large ones. What a row of a
//! prompt takes differs by machine, model and depth, so it is measured.
use std::time::Duration;

/// Rows, summed over layers, that a step takes on before anything was measured.
const FIRST: usize = 64;

/// The fewest that are worth a step.
const LEAST: usize = 16;

/// How long a step may take while nobody is being answered: what a newcomer, or a client that gives up, waits
/// for.
const UNATTENDED: Duration = Duration::from_millis(250);

/// Steps with prompts after which one without is made, to see what a token takes now.
const MEASURE_AFTER: u32 = 64;

/// How much a new measurement counts.
const WEIGHT: f64 = 0.3;

/// Measures steps.
#[derive(Debug)]
pub(super) struct PrefillBudget {
    /// Time for prompts in a step, in units of the time for a token of everybody who is being answered.
    balance: f64,
    /// Seconds of a step without prompts.
    decode: Option<f64>,
    /// Seconds that one row of a prompt takes in one layer.
    row: Option<f64>,
    /// Steps since one without prompts.
    mixed: u32,
}

impl PrefillBudget {
    pub(super) fn new(balance: f64) -> Self {
        Self { balance, decode: None, row: None, mixed: 0 }
    }

    /// Rows of prompts, summed over layers, that the next step may take on, beside the tokens of those who are
    /// being answered, if `answering`. None now and then, so that it is known what a token takes by itself.
    pub(super) fn rows(&self, answering: bool) -> usize {
        let seconds = match (answering, self.decode) {
            (false, _) => UNATTENDED.as_secs_f64(),
            (true, None) => return 0,
            (true, Some(_)) if self.mixed >= MEASURE_AFTER => return 0,
            (true, Some(decode)) => self.balance * decode,
        };
        self.row.map_or(FIRST, |row| ((seconds / row) as usize).max(LEAST))
    }

    /// Takes note of a step that took `elapsed` for that many rows of prompts, summed over layers.
    pub(super) fn note(&mut self, elapsed: Duration, rows: usize, answering: bool) {
        let seconds = elapsed.as_secs_f64();
        self.mixed = if rows > 0 && answering { self.mixed.saturating_add(1) } else { 0 };
        if rows == 0 {
            self.decode = Some(blend(self.decode, seconds));
        } else if !answering {
            self.row = Some(blend(self.row, seconds / rows as f64));
        } else if let Some(decode) = self.decode {
            // No less than a tenth of the step: that it went faster this time does not make rows free.
            self.row = Some(blend(self.row, (seconds - decode).max(seconds / 10.0) / rows as f64));
        }
    }
}

fn blend(old: Option<f64>, new: f64) -> f64 {
    old.map_or(new, |old| old + WEIGHT * (new - old))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Steps of a machine where a token takes 50 ms and a row of a layer 1 ms.
    fn steps(budget: &mut PrefillBudget, answering: bool, count: usize) -> f64 {
        let mut last = 0.0;
        for _ in 0..count {
            let rows = budget.rows(answering);
            last = if answering { 0.05 } else { 0.0 } + 0.001 * rows as f64;
            budget.note(Duration::from_secs_f64(last), rows, answering);
        }
        last
    }

    #[test]
    fn prompts_get_their_share_of_a_step() {
        // Nothing has to be measured before: a step without prompts is made where it is needed.
        let mut budget = PrefillBudget::new(2.5);
        assert_eq!(budget.rows(true), 0);
        let step = steps(&mut budget, true, 20);
        assert!((step - 0.175).abs() < 0.01, "{step}");
        assert!((steps(&mut budget, false, 20) - 0.25).abs() < 0.01);
    }

    #[test]
    fn what_a_token_takes_is_looked_at_again() {
        let mut budget = PrefillBudget::new(2.5);
        let without = (0..200).filter(|_| {
            let rows = budget.rows(true);
            budget.note(Duration::from_millis(50 + rows as u64), rows, true);
            rows == 0
        });
        assert_eq!(without.count(), 4);
    }

    #[test]
    fn nothing_is_divided_by_nothing() {
        let mut budget = PrefillBudget::new(2.5);
        budget.note(Duration::ZERO, 0, true);
        assert_eq!(budget.rows(true), FIRST);
        budget.note(Duration::ZERO, 64, true);
        assert!(budget.rows(true) >= LEAST);
        budget.note(Duration::ZERO, 64, false);
        assert!(budget.rows(true) >= LEAST && budget.rows(false) >= LEAST);
        let mut slow = PrefillBudget::new(0.0);
        slow.note(Duration::from_secs(1), 1, false);
        slow.note(Duration::from_secs(1), 0, true);
        assert_eq!(slow.rows(true), LEAST);
    }
}
