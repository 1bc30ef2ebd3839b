//! Attention over values that are unusually large, small or the same, and queries that are no numbers.

use proptest::prelude::*;
use sparkv_kernels::{BLOCK, Isa, Side};

use super::attention::{Case, attend, formats};

/// What rows are made of.
#[derive(Debug, Clone, Copy)]
enum Kind {
    Usual,
    Large,
    Denormal,
    Equal,
    Zero,
    NegativeZero,
    Mixed,
}

fn kinds() -> impl Strategy<Value = Kind> {
    prop::sample::select(vec![
        Kind::Usual,
        Kind::Large,
        Kind::Denormal,
        Kind::Equal,
        Kind::Zero,
        Kind::NegativeZero,
        Kind::Mixed,
    ])
}

fn numbers(kind: Kind, len: usize) -> BoxedStrategy<Vec<f32>> {
    let any = |range: f32| prop::collection::vec(-range..range, len).boxed();
    match kind {
        Kind::Usual => any(2.0),
        Kind::Large => any(1e4),
        Kind::Denormal => any(1e-40),
        Kind::Equal => (-3f32..3.0).prop_map(move |value| vec![value; len]).boxed(),
        Kind::Zero => Just(vec![0.0; len]).boxed(),
        Kind::NegativeZero => Just(vec![-0.0; len]).boxed(),
        Kind::Mixed => {
            let value = prop_oneof![-1e4f32..1e4, -2f32..2.0, -1e-40f32..1e-40, Just(0.0), Just(-0.0)];
            prop::collection::vec(value, len).boxed()
        }
    }
}

fn largest(values: &[f32]) -> f32 {
    values.iter().fold(0.0, |largest, value| value.abs().max(largest))
}

fn cases() -> impl Strategy<Value = Case> {
    let head_dims = prop::sample::select(vec![8usize, 24, 64, 80, 128]);
    let shape = (head_dims, 1usize..180, 1usize..6, 0.05f64..0.97);
    (shape, kinds(), kinds(), kinds()).prop_flat_map(
        |((head_dim, tokens, queries, ratio), key, value, query)| {
            let rows = (numbers(key, tokens * head_dim), numbers(value, tokens * head_dim));
            (rows, numbers(query, queries * head_dim), 0..=tokens / BLOCK).prop_map(
                move |((keys, values), mut query, blocks)| {
                    // Scores that are not so large that f32 cannot tell which is the largest.
                    let limit = 12.0 / (head_dim as f32).sqrt();
                    let product = largest(&keys) * largest(&query);
                    if product > limit {
                        query.iter_mut().for_each(|channel| *channel *= limit / product);
                    }
                    Case {
                        head_dim,
                        ratio,
                        keys,
                        values,
                        queries: query,
                        blocks,
                        visible: vec![0..tokens; queries],
                        domain: None,
                    }
                },
            )
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn attention_over_extremes_equals_f64(case in cases()) {
        // What f32 and f16 leave of small numbers, and what rounding to whole numbers does to the largest.
        let largest = f64::from(largest(&case.values));
        for isa in Isa::available() {
            for (keys, key_tolerance) in formats(Side::Keys, case.head_dim, case.ratio) {
                for (values, value_tolerance) in formats(Side::Values, case.head_dim, case.ratio) {
                    let (out, expected) = attend(isa, &case, keys, values);
                    let tolerance = if key_tolerance.max(value_tolerance) > 1e-3 { 0.1 } else { 1e-4 };
                    for (out, expected) in out.iter().zip(&expected) {
                        prop_assert!(
                            (f64::from(*out) - expected).abs() <= tolerance * largest + 1e-38,
                            "{out} for {expected}: {}, {keys:?}, {values:?}", isa.name()
                        );
                    }
                }
            }
        }
    }

    /// Neither a number for it, nor no number for the others.
    #[test]
    fn a_query_that_is_no_number_gives_none(case in cases(), at in any::<prop::sample::Index>()) {
        let mut case = case;
        let at = at.index(case.queries.len());
        case.queries[at] = f32::NAN;
        for isa in Isa::available() {
            for (keys, _) in formats(Side::Keys, case.head_dim, case.ratio) {
                for (values, _) in formats(Side::Values, case.head_dim, case.ratio) {
                    let (out, _) = attend(isa, &case, keys, values);
                    for (query, out) in out.chunks(case.head_dim).enumerate() {
                        let is_nan = query == at / case.head_dim;
                        prop_assert!(
                            out.iter().all(|channel| channel.is_nan() == is_nan),
                            "{out:?} of query {query}, {at}: {}, {keys:?}, {values:?}", isa.name()
                        );
                    }
                }
            }
        }
    }
}
