use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use sparkv_device::{Device, DeviceError, MAX_TOP_K, TopLogits, View};
use sparkv_device::{top_k, top_k_scratch_bytes, top_k_words};

use crate::support::device;

fn found(device: &Device, rows: &[Vec<f32>], k: usize) -> Vec<TopLogits> {
    let shape = [rows.len(), rows[0].len()];
    let mut scratch = vec![7u32; top_k_scratch_bytes(shape, k) / 4];
    let mut words = vec![7u32; rows.len() * top_k_words(k)];
    let logits = rows.concat();
    let views = [View::of_host_mut(&mut scratch), View::of_host_mut(&mut words)];
    top_k(device, shape, k, View::of_host(&logits), views[0], views[1]).unwrap();
    words.chunks_exact(top_k_words(k)).map(TopLogits::of).collect()
}

/// By sorting.
fn expected(row: &[f32], k: usize) -> TopLogits {
    let mut logits: Vec<(u32, f32)> =
        (0..).zip(row.iter().copied()).filter(|(_, logit)| logit.is_finite()).collect();
    logits.sort_by(|a, b| b.1.partial_cmp(&a.1).unwrap().then(a.0.cmp(&b.0)));
    logits.truncate(k);
    TopLogits { has_nan: row.iter().any(|logit| logit.is_nan()), logits }
}

fn assert_found(device: &Device, rows: &[Vec<f32>], k: usize) {
    let expected: Vec<TopLogits> = rows.iter().map(|row| expected(row, k)).collect();
    assert_eq!(found(device, rows, k), expected, "{k} of rows of {}", rows[0].len());
}

const LENGTHS: [usize; 9] = [1, 5, 31, 33, 64, 200, 2048, 2049, 5000];
const COUNTS: [usize; 6] = [1, 2, 31, 32, 33, MAX_TOP_K];

#[test]
fn the_largest_are_found() {
    let mut rng = ChaCha8Rng::seed_from_u64(1);
    for (case, length) in LENGTHS.into_iter().enumerate() {
        let Some(device) = device(case as u64) else { return };
        for k in COUNTS {
            let rows: Vec<Vec<f32>> =
                (0..3).map(|_| (0..length).map(|_| rng.random_range(-20.0f32..20.0)).collect()).collect();
            assert_found(&device, &rows, k);
        }
    }
}

#[test]
fn of_equals_the_first_are_found() {
    let mut rng = ChaCha8Rng::seed_from_u64(2);
    for (case, length) in LENGTHS.into_iter().enumerate() {
        let Some(device) = device(case as u64) else { return };
        for k in COUNTS {
            let rows: Vec<Vec<f32>> = [1, 3, 40]
                .into_iter()
                .map(|most| (0..length).map(|_| rng.random_range(0..most) as f32 - 1.0).collect())
                .collect();
            assert_found(&device, &rows, k);
        }
    }
}

#[test]
fn order_does_not_matter() {
    let Some(device) = device(0) else { return };
    let rising: Vec<f32> = (0..4100).map(|i| i as f32).collect();
    let falling: Vec<f32> = rising.iter().map(|logit| -logit).collect();
    for k in COUNTS {
        assert_found(&device, &[rising.clone(), falling.clone()], k);
    }
}

#[test]
fn what_is_no_finite_number_is_not_found() {
    let mut rng = ChaCha8Rng::seed_from_u64(3);
    for (case, length) in LENGTHS.into_iter().enumerate() {
        let Some(device) = device(case as u64) else { return };
        let mut rows =
            vec![vec![f32::NAN; length], vec![f32::NEG_INFINITY; length], vec![f32::INFINITY; length]];
        let strange = [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, -f32::NAN];
        for most in [2, 5, 40] {
            rows.push(
                (0..length)
                    .map(|_| match rng.random_range(0..most) {
                        0 => strange[rng.random_range(0..4)],
                        _ => rng.random_range(-1e38f32..1e38),
                    })
                    .collect(),
            );
        }
        // One that is not, the last one; the largest and the smallest of numbers.
        for (of, last) in [(1.0, f32::NAN), (f32::MAX, f32::MIN), (f32::MIN, f32::MAX)] {
            let mut row = vec![of; length];
            row[length - 1] = last;
            rows.push(row);
        }
        for k in [1, 40, MAX_TOP_K] {
            assert_found(&device, &rows, k);
        }
    }
}

#[test]
fn what_does_not_fit_is_refused() {
    let Some(device) = device(0) else { return };
    let logits = vec![1f32; 24];
    let mut scratch = vec![0u32; top_k_scratch_bytes([2, 12], 5) / 4];
    let mut less_scratch = scratch[1..].to_vec();
    let mut words = vec![0u32; 2 * top_k_words(5)];
    let mut less_words = words[1..].to_vec();
    let (less_scratch, less_words) =
        (View::of_host_mut(&mut less_scratch), View::of_host_mut(&mut less_words));
    let (scratch, words) = (View::of_host_mut(&mut scratch), View::of_host_mut(&mut words));
    let logits = View::of_host(&logits);
    let refused = |shape, k, scratch: View<'_>, words: View<'_>| {
        matches!(top_k(&device, shape, k, logits, scratch, words), Err(DeviceError::Unfit { .. }))
    };
    assert!(!refused([2, 12], 5, scratch, words));
    assert!(refused([2, 13], 5, scratch, words));
    assert!(refused([usize::MAX, 12], 5, scratch, words));
    assert!(refused([2, 12], 0, scratch, words));
    assert!(refused([2, 12], 5, less_scratch, words));
    assert!(refused([2, 12], 5, scratch, less_words));
    assert!(refused([2, 12], 5, scratch.read_only(), words));
    assert!(refused([2, 12], 5, scratch, words.read_only()));
    assert!(refused([1, 1], MAX_TOP_K + 1, scratch, words));
}
