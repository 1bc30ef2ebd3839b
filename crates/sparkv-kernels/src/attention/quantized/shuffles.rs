//! Where values that are spread out by a mask come from.

/// For each mask, where its elements come from among as many values as it has bits; others become zeros.
///
/// A shuffle for each of the 256 masks of eight elements takes but 2 KiB.
pub(super) static SHUFFLES: [[u8; 8]; 256] = {
    let mut shuffles = [[0x80; 8]; 256];
    let mut mask = 0;
    while mask < 256 {
        let (mut element, mut value) = (0, 0);
        while element < 8 {
            if mask >> element & 1 == 1 {
                shuffles[mask][element] = value;
                value += 1;
            }
            element += 1;
        }
        mask += 1;
    }
    shuffles
};
