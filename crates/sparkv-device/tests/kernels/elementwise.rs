use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use sparkv_device::{Angles, DeviceError, RmsNorm, View};
use sparkv_device::{add, add_rms_norm, rms_norm, rotate, silu_times};
use sparkv_kernels::elementwise;

use crate::support::{device, values};

/// Rows and lengths of a row: one, some that fill no group of lanes or more than one of them, a tail.
const SHAPES: [[usize; 2]; 6] = [[1, 1], [1, 40], [3, 31], [2, 33], [5, 256], [2, 1000]];

/// Values before and behind those that a kernel changes.
const AROUND: usize = 7;

/// What `change` makes of a part of some rows, the rest of which it leaves alone.
fn changed(rows: &[f32], change: impl FnOnce(View<'_>) -> Result<(), DeviceError>) -> Vec<f32> {
    let around = vec![-0.5f32; AROUND];
    let mut all = [&around, rows, &around].concat();
    change(View::of_host_mut(&mut all[AROUND..AROUND + rows.len()])).unwrap();
    let (before, rest) = all.split_at(AROUND);
    let (rows, behind) = rest.split_at(rows.len());
    assert!(before == around && behind == around);
    rows.to_vec()
}

/// Whether all differ by no more than 1e-6 of their size.
fn close(found: &[f32], expected: impl IntoIterator<Item = f64>) -> bool {
    let mut expected = expected.into_iter();
    let close = found.iter().zip(&mut expected).all(|(found, expected)| {
        let found = f64::from(*found);
        found == expected
            || (found - expected).abs() <= 1e-6 * expected.abs()
            || (found.is_nan() && expected.is_nan())
    });
    close && expected.next().is_none()
}

/// By the definition.
fn normed(rows: &[f32], weight: &[f32], eps: f32) -> Vec<f64> {
    let norm = |row: &[f32]| {
        let squares: f64 = row.iter().map(|x| f64::from(*x).powi(2)).sum();
        let divisor = (squares / row.len() as f64 + f64::from(eps)).sqrt();
        row.iter().zip(weight).map(|(x, w)| f64::from(*x) / divisor * f64::from(*w)).collect::<Vec<_>>()
    };
    rows.chunks_exact(weight.len()).flat_map(norm).collect()
}

#[test]
fn rows_are_normed() {
    let mut rng = ChaCha8Rng::seed_from_u64(1);
    for (case, shape) in SHAPES.into_iter().enumerate() {
        let Some(device) = device(case as u64) else { return };
        let [count, row] = shape;
        let (rows, other) = (values(&mut rng, count * row), values(&mut rng, count * row));
        let weight = values(&mut rng, row);
        for eps in [1e-5f32, 3.0] {
            let norm = RmsNorm { weight: View::of_host(&weight), eps };
            let zeros = vec![0.0; rows.len()];
            let found = changed(&zeros, |out| rms_norm(&device, shape, View::of_host(&rows), norm, out));
            assert!(close(&found, normed(&rows, &weight, eps)), "{shape:?}");
            let mut of_cpu = zeros.clone();
            elementwise::rms_norm(&rows, &weight, eps, &mut of_cpu);
            assert!(found.iter().zip(&of_cpu).all(|(a, b)| (a - b).abs() <= 4e-6 * b.abs()), "{shape:?}");

            let mut sums = rows.clone();
            elementwise::add(&mut sums, &other);
            let mut found = Vec::new();
            let added = changed(&rows, |rows| {
                found = changed(&zeros, |out| {
                    add_rms_norm(&device, shape, rows, View::of_host(&other), norm, out).unwrap();
                    Ok(())
                });
                Ok(())
            });
            assert_eq!(added, sums, "{shape:?}");
            assert!(close(&found, normed(&sums, &weight, eps)), "{shape:?}");
        }
    }
}

#[test]
fn rows_are_added_to_the_last_bit() {
    let mut rng = ChaCha8Rng::seed_from_u64(2);
    for (case, [count, row]) in SHAPES.into_iter().enumerate() {
        let Some(device) = device(case as u64) else { return };
        let (rows, other) = (values(&mut rng, count * row), values(&mut rng, count * row));
        let found = changed(&rows, |rows| add(&device, count * row, rows, View::of_host(&other)));
        let mut expected = rows;
        elementwise::add(&mut expected, &other);
        assert_eq!(found, expected);
    }
}

#[test]
fn gates_are_activated() {
    let mut rng = ChaCha8Rng::seed_from_u64(3);
    let extremes = [0.0, -0.0, f32::MIN_POSITIVE, 87.0, -87.0, 88.5, -88.5, 1e30, f32::INFINITY, f32::NAN];
    for (case, [count, row]) in SHAPES.into_iter().enumerate() {
        let Some(device) = device(case as u64) else { return };
        let gate = [values(&mut rng, count * row), extremes.to_vec()].concat();
        let up = [values(&mut rng, count * row), vec![1.5; extremes.len()]].concat();
        let found = changed(&gate, |gate| silu_times(&device, up.len(), gate, View::of_host(&up)));
        let exact = gate.iter().zip(&up).map(|(x, y)| {
            let power = f64::from((-x).clamp(-87.3, 88.3)).exp();
            f64::from(*x) / (1.0 + power) * f64::from(*y)
        });
        assert!(close(&found, exact), "{found:?}");
        let mut of_cpu = gate.clone();
        elementwise::silu_times(&mut of_cpu, &up);
        assert!(close(&found, of_cpu.into_iter().map(f64::from)), "{found:?}");
    }
    // Of what is far below zero nothing is left, and of infinity the same as on the CPU.
    let Some(device) = device(9) else { return };
    let far = [-1e30, f32::NEG_INFINITY];
    let found = changed(&far, |gate| silu_times(&device, 2, gate, View::of_host(&[1f32; 2])));
    let mut of_cpu = far;
    elementwise::silu_times(&mut of_cpu, &[1.0; 2]);
    assert!(found[0].abs() < 1e-6 && found[1] == of_cpu[1], "{found:?}");
}

#[test]
fn heads_are_rotated_to_the_last_bit() {
    let mut rng = ChaCha8Rng::seed_from_u64(4);
    for (case, (count, heads, half)) in
        [(1, 1, 1), (1, 3, 4), (3, 2, 20), (5, 1, 32), (2, 5, 64), (3, 4, 33)].into_iter().enumerate()
    {
        let Some(device) = device(case as u64) else { return };
        let row = 2 * heads * half;
        let rows = values(&mut rng, count * row);
        let (sin, cos): (Vec<f32>, Vec<f32>) =
            (0..count * half).map(|_| rng.random_range(-9f32..9.0).sin_cos()).unzip();
        let angles = Angles { half, sin: View::of_host(&sin), cos: View::of_host(&cos) };
        let found = changed(&rows, |rows| rotate(&device, [count, row], rows, angles));
        let mut expected = rows;
        elementwise::rotate(&mut expected, row, &sin, &cos, half);
        assert_eq!(found, expected, "{count} rows of {heads} heads of 2 * {half}");
    }
}

#[test]
fn what_does_not_fit_is_refused() {
    let Some(device) = device(0) else { return };
    let values = vec![1f32; 24];
    let (rows, short) = (View::of_host(&values), View::of_host(&values[..23]));
    let mut changed = vec![0f32; 24];
    let mut other = vec![0f32; 24];
    let (out, more) = (View::of_host_mut(&mut changed), View::of_host_mut(&mut other));
    let norm = |weight| RmsNorm { weight, eps: 1e-5 };
    let refused = |result: Result<(), DeviceError>| matches!(result, Err(DeviceError::Unfit { .. }));

    rms_norm(&device, [2, 12], rows, norm(rows), out).unwrap();
    assert!(refused(rms_norm(&device, [2, 12], short, norm(rows), out)));
    assert!(refused(rms_norm(&device, [1, 24], rows, norm(short), out)));
    assert!(refused(rms_norm(&device, [2, 12], rows, norm(rows), rows)));
    assert!(refused(rms_norm(&device, [usize::MAX, 12], rows, norm(rows), out)));
    add_rms_norm(&device, [2, 12], more, rows, norm(rows), out).unwrap();
    assert!(refused(add_rms_norm(&device, [2, 12], rows, rows, norm(rows), out)));
    assert!(refused(add_rms_norm(&device, [2, 12], more, short, norm(rows), out)));
    assert!(refused(add_rms_norm(&device, [1, 24], more, rows, norm(short), out)));
    assert!(refused(add_rms_norm(&device, [2, 12], more, rows, norm(rows), rows)));
    for zip in [add, silu_times] {
        zip(&device, 24, out, rows).unwrap();
        assert!(refused(zip(&device, 24, rows, out)));
        assert!(refused(zip(&device, 24, out, short)));
        assert!(refused(zip(&device, 25, out, rows)));
    }
    let angles = |half, sin, cos| Angles { half, sin, cos };
    rotate(&device, [2, 12], out, angles(3, rows, rows)).unwrap();
    assert!(refused(rotate(&device, [2, 12], rows, angles(3, rows, rows))));
    assert!(refused(rotate(&device, [2, 12], out, angles(4, rows, rows))));
    assert!(refused(rotate(&device, [2, 12], out, angles(0, rows, rows))));
    assert!(refused(rotate(&device, [8, 3], out, angles(1, rows, rows))));
    assert!(refused(rotate(&device, [12, 2], out, angles(1, View::of_host(&values[..11]), rows))));
    assert!(refused(rotate(&device, [12, 2], out, angles(1, rows, View::of_host(&values[..11])))));
    // Nothing is no mistake.
    rms_norm(&device, [0, 12], rows, norm(rows), out).unwrap();
    add(&device, 0, out, rows).unwrap();
}
