use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use sparkv_device::{RowPlace, View, append};
use sparkv_kernels::{Format, Side, dense};

use crate::support::{bytes_of, dense_units, device, lines, values};

#[test]
fn rows_are_stored_as_on_the_cpu() {
    let mut rng = ChaCha8Rng::seed_from_u64(1);
    for (case, (head_dim, heads, format)) in
        [(64, 2, Format::F16), (8, 3, Format::F16), (128, 1, Format::F32), (40, 2, Format::F16)]
            .into_iter()
            .enumerate()
    {
        let Some(device) = device(case as u64) else { return };
        let units = dense_units(head_dim, heads, format);
        let first = rng.random_range(0..20);
        let tokens = rng.random_range(1..40);
        let line = 3;
        let pool = device.allocate((line + lines(&units, first + tokens) + 5) as usize * 32).unwrap();
        let mut keys = values(&mut rng, tokens * heads * head_dim);
        keys[0] = 1e9;
        let vals = values(&mut rng, tokens * heads * head_dim);
        let places: Vec<RowPlace> =
            (0..tokens).map(|token| RowPlace { line, row: (first + token) as u32 }).collect();
        append(&device, &units, pool.view(), [View::of_host(&keys), View::of_host(&vals)], &places).unwrap();
        let mut expected = vec![0u8; pool.bytes()];
        for (token, place) in places.iter().enumerate() {
            for head in 0..heads {
                let start = (token * heads + head) * head_dim;
                for (side, layout, rows) in
                    [(Side::Keys, units.keys, &keys), (Side::Values, units.values, &vals)]
                {
                    let at = units.address(line, place.row as usize / 16, head, side);
                    let group = &mut expected[at..at + layout.unit_bytes()];
                    dense::write_row(&layout, &rows[start..start + head_dim], group, place.row as usize % 16);
                }
            }
        }
        assert!(bytes_of(&device, &pool) == expected, "case {case}");
    }
}

#[test]
fn what_does_not_fit_is_refused() {
    let Some(device) = device(0) else { return };
    let units = dense_units(64, 2, Format::F16);
    let pool = device.allocate(units.bytes()).unwrap();
    let rows = vec![0f32; 128];
    let rows = View::of_host(&rows);
    let place = |row| [RowPlace { line: 0, row }];
    assert!(append(&device, &units, pool.view(), [rows, rows], &place(15)).is_ok());
    assert!(append(&device, &units, pool.view(), [rows, rows], &place(16)).is_err());
    assert!(append(&device, &units, pool.view(), [rows, rows], &[place(1), place(2)].concat()).is_err());
    assert!(append(&device, &units, rows, [rows, rows], &place(0)).is_err());
}
