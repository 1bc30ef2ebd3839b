//! Attention of prompts, with matrix units where the device has them.

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use sparkv_device::{AttentionPlan, AttentionSpan, Checks, Device};
use sparkv_kernels::Format;

use super::stored::Kind;
use super::{Asked, Batch, bits, quantized};

/// Sequences of dense rows in f16.
fn kind(heads: usize, head_dim: usize, dense_rows: usize) -> Kind {
    let (dense, largest) = (Format::F16, 3.0);
    Kind { heads, head_dim, dense, quantized: None, quantized_rows: 0, dense_rows, largest }
}

fn prompts(batch: &Batch) -> Vec<AttentionSpan<'_>> {
    batch.spans().into_iter().map(|span| AttentionSpan { is_prompt: true, ..span }).collect()
}

/// The largest difference between what came out and attention in f64, by the largest value that could come out.
fn error(batch: &Batch, out: &[f32]) -> f64 {
    let head_dim = batch.shape.head_dim;
    let errors = batch.queries().into_iter().zip(out.chunks(head_dim)).map(|(query, out)| {
        let values = &query.head.dense[1][query.seen.start * head_dim..query.seen.end * head_dim];
        let size = values.iter().fold(0f64, |most, value| most.max(f64::from(value.abs())));
        let differences = out.iter().zip(query.exact()).map(|(out, exact)| (f64::from(*out) - exact).abs());
        differences.fold(0.0, |most: f64, error| if error.is_nan() { f64::INFINITY } else { most.max(error) })
            / size
    });
    errors.fold(0.0, f64::max)
}

/// Heads of all sizes, tails, windows, runs of odd sizes; about as exact as `attend`.
#[test]
fn prompts_are_attended_to() {
    let mut rng = ChaCha8Rng::seed_from_u64(21);
    for (case, (head_dim, group)) in
        [(16, 1), (16, 7), (64, 4), (80, 3), (80, 1), (128, 7), (256, 1)].into_iter().enumerate()
    {
        for all in [false, true] {
            let Some(device) = Device::simulated(Checks::Races, case as u64) else { return };
            let kind = kind(rng.random_range(1..3), head_dim, rng.random_range(33..140));
            let rows = if all { kind.dense_rows } else { rng.random_range(1..20) };
            let window = rng.random_bool(0.5).then(|| rng.random_range(1..60));
            let batch = Batch::new(group, &[(kind, Asked { rows, window })], &mut rng);
            let what =
                format!("head_dim {head_dim}, group {group}, {rows} of {}, {window:?}", kind.dense_rows);
            let out = batch.attend(&device, &prompts(&batch)).unwrap();
            let other = batch.attend(&device, &batch.spans()).unwrap();
            let [error, other_error] = [&out, &other].map(|out| error(&batch, out));
            // Scores are cut to 24 bits as they are summed up, 16 channels at a time.
            let allowed = 3e-7 + 1e-8 * head_dim as f64;
            assert!(error < allowed, "{what}: {error}, and {other_error} without matrix units");
            assert!(bits(&out) != bits(&other), "{what}: computed in the same way");
        }
    }
}

/// Queries of which f16 would make infinities or zeros, in one tile; weights that are small, but many.
#[test]
fn queries_of_any_size_are_attended_to() {
    let mut rng = ChaCha8Rng::seed_from_u64(22);
    let Some(device) = Device::simulated(Checks::Races, 0) else { return };
    let mut batch = Batch::new(1, &[(kind(1, 64, 100), Asked { rows: 40, window: None })], &mut rng);
    for (row, query) in batch.queries.chunks_mut(64).enumerate() {
        let factor = match row % 5 {
            0 => 0.0,
            1 => 1e-41,
            2 => 1e-6,
            3 => 1.0,
            _ => 3.0,
        };
        query.iter_mut().for_each(|value| *value *= factor);
        // Beside a channel that is far larger, the others count still.
        if row % 2 == 0 {
            query[0] *= 1000.0;
        }
    }
    // Keys make up for large queries.
    batch.shape.scale = 1.0;
    for factor in [1.0, 1e6] {
        batch.queries.iter_mut().for_each(|value| *value *= factor);
        batch.shape.scale /= factor;
        let out = batch.attend(&device, &prompts(&batch)).unwrap();
        let attended = batch.attend(&device, &batch.spans()).unwrap();
        let [error, other] = [&out, &attended].map(|out| error(&batch, out));
        assert!(error < 1e-5 && error < 4.0 * other + 1e-6, "{error}, and {other} without matrix units");
    }
    // Scores that are no number show, and nowhere else.
    batch.shape.scale = 0.125;
    batch.queries[64 * 3 + 9] = f32::NAN;
    batch.queries[64 * 17 + 2] = f32::INFINITY;
    batch.queries[64 * 18] = f32::MAX;
    let out = batch.attend(&device, &prompts(&batch)).unwrap();
    for (row, out) in out.chunks(64).enumerate() {
        let is_number = ![3, 17].contains(&row);
        assert!(out.iter().all(|value| value.is_finite() == is_number), "query {row}: {out:?}");
    }
}

#[test]
fn what_a_prompt_gets_depends_on_neither_batch_nor_cut_nor_schedule() {
    let mut rng = ChaCha8Rng::seed_from_u64(23);
    let asked = |rows, window| Asked { rows, window };
    let quantized = quantized(32);
    let kinds = [
        (kind(2, 32, 33), asked(33, None)),
        (kind(2, 32, 150), asked(47, Some(50))),
        (kind(2, 32, 7), asked(2, None)),
        (kind(2, 32, 2100), asked(12, None)),
        (kind(2, 32, 2200), asked(13, Some(2100))),
        // A prompt behind rows that were quantized before it.
        (Kind { quantized: Some(quantized[0]), quantized_rows: 64, ..kind(2, 32, 40) }, asked(20, None)),
    ];
    let batch = Batch::new(3, &kinds, &mut rng);
    let Some(device) = Device::simulated(Checks::Bounds, 0) else { return };
    let spans = prompts(&batch);
    let all = bits(&batch.attend(&device, &spans).unwrap());
    for seed in 1..3 {
        let Some(device) = Device::simulated(Checks::Bounds, seed) else { return };
        let again = bits(&batch.attend(&device, &spans).unwrap());
        assert!(again == all, "seed {seed}");
    }
    let mut found = vec![0; all.len()];
    for span in &spans {
        let mut first = 0;
        // Pieces of one, two, three, ... positions: tiles of other sizes, and other queries in them.
        for piece in 1.. {
            let rows = (span.rows - first).min(piece);
            if rows == 0 {
                break;
            }
            let (query, out) = (span.query + first, span.out + first);
            let part = AttentionSpan { query, out, rows, end: span.end + first, ..*span };
            let out = bits(&batch.attend(&device, &[part]).unwrap());
            let range = part.out * batch.row()..(part.out + rows) * batch.row();
            found[range.clone()].copy_from_slice(&out[range]);
            first += rows;
        }
    }
    assert!(found == all, "spans in pieces");
}

/// So many tiles that each has its splits one after the other.
#[test]
fn splits_of_prompts_are_merged_alike_in_tiles_and_apart() {
    let mut rng = ChaCha8Rng::seed_from_u64(24);
    let Some(device) = Device::simulated(Checks::Bounds, 0) else { return };
    // Of 32 queries, with few rows each: the window lets splits be two, not long.
    let rows = 512 * 32 / 16 + 1;
    let asked = Asked { rows, window: Some(40) };
    let batch = Batch::new(16, &[(kind(1, 16, 2080), asked)], &mut rng);
    let spans = prompts(&batch);
    let all = bits(&batch.attend(&device, &spans).unwrap());
    let scratch = |spans: &[_]| AttentionPlan::new(&device, &batch.shape, spans).unwrap().scratch_bytes();
    assert_eq!(scratch(&spans), 16 * rows * 96, "one result for each query");
    let first = rows - 40;
    let last = AttentionSpan { query: first, out: first, rows: 40, end: spans[0].end + first, ..spans[0] };
    assert_eq!(scratch(&[last]), 2 * 16 * 40 * 96, "a result for each split");
    let apart = bits(&batch.attend(&device, &[last]).unwrap());
    assert!(apart[first * batch.row()..] == all[first * batch.row()..]);
}

/// Where the kernel is not for such heads or rows, the other one is taken.
#[test]
fn prompts_over_other_rows_are_attended_to_without_matrix_units() {
    let mut rng = ChaCha8Rng::seed_from_u64(25);
    let Some(device) = Device::simulated(Checks::Races, 0) else { return };
    for kind in [kind(1, 40, 50), kind(1, 512, 50), Kind { dense: Format::F32, ..kind(1, 64, 50) }] {
        let batch = Batch::new(2, &[(kind, Asked { rows: 9, window: None })], &mut rng);
        let [prompts, others] = [prompts(&batch), batch.spans()];
        let [prompts, others] = [prompts, others].map(|spans| bits(&batch.attend(&device, &spans).unwrap()));
        assert!(prompts == others, "{kind:?}");
    }
}

#[test]
fn prompts_that_see_nothing_get_zeros() {
    let mut rng = ChaCha8Rng::seed_from_u64(26);
    let Some(device) = Device::simulated(Checks::Races, 0) else { return };
    let batch = Batch::new(2, &[(kind(1, 64, 40), Asked { rows: 40, window: None })], &mut rng);
    let span = prompts(&batch)[0];
    let out = batch.attend(&device, &[AttentionSpan { end: 0, ..span }]).unwrap();
    assert!(out[..128].iter().all(|value| *value == 0.0), "no row");
    assert!(out[128..].iter().all(|value| value.is_finite() && *value != 0.0), "the others");
    let out = batch.attend(&device, &[AttentionSpan { window: Some(0), ..span }]).unwrap();
    assert!(out.iter().all(|value| *value == 0.0), "a window of none");
}
