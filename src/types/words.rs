//! Numbers in sentences.

/// A number of things, `1 line` and `2 lines`.
pub fn counted(count: u64, one: &str, many: &str) -> String {
    format!("{count} {}", if count == 1 { one } else { many })
}

/// Bytes in the binary units of configurations, such as `2 GiB`; with the exact number where the unit
/// does not give it: `1.5 GiB (1610612737 bytes)`.
pub fn binary_size(bytes: u64) -> String {
    const UNITS: [(&str, u32); 6] =
        [("EiB", 60), ("PiB", 50), ("TiB", 40), ("GiB", 30), ("MiB", 20), ("KiB", 10)];
    let unit = UNITS.into_iter().find(|(_, shift)| bytes >> shift > 0);
    let Some((unit, shift)) = unit else { return counted(bytes, "byte", "bytes") };
    let whole = bytes >> shift;
    if whole << shift == bytes {
        return format!("{whole} {unit}");
    }
    // Rounded down: what is below a limit does not read as the limit.
    let tenths = (u128::from(bytes).saturating_mul(10) >> shift) % 10;
    format!("{whole}.{tenths} {unit} ({bytes} bytes)")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_thing_is_no_things() {
        let counts = [0, 1, 2].map(|count| counted(count, "entry", "entries"));
        assert_eq!(counts, ["0 entries", "1 entry", "2 entries"]);
    }

    #[test]
    fn sizes_are_exact() {
        let check = |bytes, expected: &str| assert_eq!(binary_size(bytes), expected);
        check(0, "0 bytes");
        check(1, "1 byte");
        check(1023, "1023 bytes");
        check(1024, "1 KiB");
        check(1536, "1.5 KiB (1536 bytes)");
        check(2 << 30, "2 GiB");
        check((2 << 30) + 1, "2.0 GiB (2147483649 bytes)");
        check((2 << 30) - 1, "1.9 GiB (2147483647 bytes)");
        check(1000 << 20, "1000 MiB");
        check(u64::MAX, "15.9 EiB (18446744073709551615 bytes)");
    }
}
