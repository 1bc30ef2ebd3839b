use sparkv_device::{View, move_lines};

use crate::support::{bytes_of, device};

#[test]
fn lines_are_where_they_are_to_be() {
    let Some(device) = device(3) else { return };
    let memory = device.allocate(32 * 1000).unwrap();
    let bytes: Vec<u8> = (0..32_000u32).map(|byte| (byte * 7 % 251) as u8).collect();
    device.upload(memory.view(), &bytes).unwrap();
    move_lines(&device, (memory.view(), 400), (memory.view(), 3), 300).unwrap();
    let mut expected = bytes.clone();
    expected.copy_within(400 * 32..700 * 32, 3 * 32);
    assert!(bytes_of(&device, &memory) == expected);
    let other = device.allocate(32 * 10).unwrap();
    move_lines(&device, (memory.view(), 999), (other.view(), 9), 1).unwrap();
    assert!(bytes_of(&device, &other)[9 * 32..] == bytes[999 * 32..]);
}

#[test]
fn what_overlaps_or_is_not_there_is_refused() {
    let Some(device) = device(4) else { return };
    let memory = device.allocate(32 * 10).unwrap();
    let view = memory.view();
    assert!(move_lines(&device, (view, 0), (view, 4), 5).is_err());
    assert!(move_lines(&device, (view, 5), (view, 0), 5).is_ok());
    assert!(move_lines(&device, (view, 6), (view, 0), 5).is_err());
    let host = [0u8; 320];
    assert!(move_lines(&device, (view, 0), (View::of_host(&host), 0), 5).is_err());
}
