use rand::Rng;
use rand::seq::SliceRandom;
use rand::{SeedableRng, seq::index};
use rand_chacha::ChaCha8Rng;
use sparkv_device::rows::Units;
use sparkv_device::{Places, RowPlace, copy_rows};
use sparkv_kernels::{Format, Side, dense};

use crate::support::{bytes_of, dense_pool, dense_row, dense_units, device, scattered};

/// What is in `bytes` once the row is copied there.
fn copied(units: &Units, before: &[u8], bytes: &mut [u8], head: usize, [from, to]: [RowPlace; 2]) {
    for side in [Side::Keys, Side::Values] {
        let row = dense_row(units, before, from, head, side);
        let layout = if side == Side::Keys { units.keys } else { units.values };
        let at = units.address(to.line, to.row as usize / 16, head, side);
        dense::write_row(&layout, &row, &mut bytes[at..at + layout.unit_bytes()], to.row as usize % 16);
    }
}

#[test]
fn rows_are_where_they_were_copied_to() {
    let mut rng = ChaCha8Rng::seed_from_u64(2);
    for (case, (head_dim, heads, format)) in [
        (64, 2, Format::F16),
        (8, 3, Format::F16),
        (128, 1, Format::F32),
        (40, 2, Format::F16),
        (80, 3, Format::F32),
    ]
    .into_iter()
    .enumerate()
    {
        let Some(device) = device(case as u64) else { return };
        let units = dense_units(head_dim, heads, format);
        let sources = scattered(&units, 2, &[33, 16, 7]);
        let (pool, end) = dense_pool(&mut rng, &device, &units, &sources);
        let before = bytes_of(&device, &pool);
        for rows in [0, 1, 16, rng.random_range(17..=50)] {
            let mut places = scattered(&units, end, &[20, 40]);
            if rows % 2 == 0 {
                places.shuffle(&mut rng);
            }
            let to = &places[..rows];
            let mut draw = || -> Vec<RowPlace> {
                index::sample(&mut rng, sources.len(), rows).iter().map(|index| sources[index]).collect()
            };
            let (same, per_head) = (draw(), (0..heads).map(|_| draw()).collect::<Vec<_>>());
            for from in [Places::Same(&same), Places::PerHead(&per_head)] {
                device.upload(pool.view(), &before).unwrap();
                copy_rows(&device, &units, pool.view(), from, to).unwrap();
                let mut expected = before.clone();
                for head in 0..heads {
                    let list = if let Places::PerHead(lists) = from { &lists[head] } else { &same };
                    for (from, to) in list.iter().zip(to) {
                        copied(&units, &before, &mut expected, head, [*from, *to]);
                    }
                }
                assert!(bytes_of(&device, &pool) == expected, "case {case}, {rows} rows");
            }
        }
    }
}

#[test]
fn what_cannot_be_copied_is_refused() {
    let Some(device) = device(0) else { return };
    let units = dense_units(64, 2, Format::F16);
    let pool = device.allocate(3 * units.bytes()).unwrap();
    let place = |row| RowPlace { line: 0, row };
    let copy = |from: &[RowPlace], to: &[RowPlace]| {
        copy_rows(&device, &units, pool.view(), Places::Same(from), to).map_err(|error| error.to_string())
    };
    assert_eq!(copy(&[place(3), place(47)], &[place(16), place(4)]), Ok(()));
    assert!(copy(&[place(3)], &[place(16), place(20)]).unwrap_err().contains("places"));
    assert!(copy(&[place(48)], &[place(16)]).unwrap_err().contains("not in a pool"));
    assert!(copy(&[place(3)], &[place(u32::MAX)]).unwrap_err().contains("not in a pool"));
    assert!(copy(&[place(3), place(20)], &[place(32), place(20)]).unwrap_err().contains("read and written"));
    assert!(copy(&[place(3), place(4)], &[place(16), place(16)]).unwrap_err().contains("written twice"));
    let lists = [vec![place(0)], vec![place(1), place(2)]];
    let unlike = Places::PerHead(&lists);
    assert!(copy_rows(&device, &units, pool.view(), unlike, &[place(16)]).is_err());
    let read = pool.view().read_only();
    assert!(copy_rows(&device, &units, read, Places::Same(&[place(3)]), &[place(16)]).is_err());
}
