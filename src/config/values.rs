//! The small values: names, sizes, durations, content types, operations.

use std::time::Duration;

use super::diagnostic::{Report, nearest};
use super::section::Word;
use crate::branch::SpaceLimit;
use crate::types::{Operation, Verb};

/// Longest name of a view, branch, role, gate or rule, in bytes.
const NAME_BYTES_MAX: usize = 32;

const VERBS: [(&str, Verb); 5] = [
    ("read", Verb::Read),
    ("write", Verb::Write),
    ("add", Verb::Add),
    ("remove", Verb::Remove),
    ("attrs", Verb::Attrs),
];

/// Both sides of an operation with two.
const TWO_SIDED: [(&str, [Operation; 2]); 2] = [
    ("rename", [Operation::RenameSource, Operation::RenameTarget]),
    ("move", [Operation::MoveSource, Operation::MoveTarget]),
];

/// Whether this is a name; reported if not. `what` is what it names.
pub(super) fn check_name(what: &str, name: &Word<'_>, report: &mut Report) -> bool {
    let text = *name.get_ref();
    let fits = (1..=NAME_BYTES_MAX).contains(&text.len())
        && text.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-'));
    if !fits {
        report
            .error(name.span(), format!("`{text}` cannot be the name of {what}"))
            .hint("a name is 1 to 32 of the characters a-z, 0-9 and -");
    }
    fits
}

/// Bytes of `64MiB`, `2 GiB`, `100B` or `100`; else what was expected.
pub fn parse_size(text: &str) -> Result<u64, &'static str> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at_checked(digits).unwrap_or((text, ""));
    let number: u64 = number.parse().map_err(|_| "a whole number and a unit")?;
    let shift = match unit.trim_start() {
        "" | "B" => 0,
        "KiB" => 10,
        "MiB" => 20,
        "GiB" => 30,
        "TiB" => 40,
        "PiB" => 50,
        _ => return Err("a unit of B, KiB, MiB, GiB, TiB or PiB"),
    };
    number.checked_mul(1 << shift).ok_or("a size below 16 EiB")
}

/// `10%`, or a size.
pub(super) fn parse_share(text: &str) -> Option<SpaceLimit> {
    match text.strip_suffix('%') {
        Some(percent) if percent.bytes().all(|byte| byte.is_ascii_digit()) => {
            let percent = percent.parse().ok().filter(|percent| *percent <= 100)?;
            Some(SpaceLimit::Percent(percent))
        }
        Some(_) => None,
        None => parse_size(text).ok().map(SpaceLimit::Bytes),
    }
}

/// `90s`, `15m`, `1h`, `7d`.
pub(super) fn parse_duration(text: &str) -> Option<Duration> {
    let (last, _) = text.char_indices().next_back()?;
    let (number, unit) = text.split_at_checked(last)?;
    if !number.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let seconds: u64 = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 3600,
        "d" => 86_400,
        _ => return None,
    };
    // A number without digits does not parse; a sum of years no clock holds is none either.
    let total = number.parse::<u64>().ok()?.checked_mul(seconds)?;
    i64::try_from(total).ok().map(|_| Duration::from_secs(total))
}

/// The operations that a list of verbs and operations covers, in the order of [`Operation::ALL`].
/// `None` after a word was reported.
pub(super) fn operations(words: &[Word<'_>], report: &mut Report) -> Option<Vec<Operation>> {
    let mut covered = [false; Operation::ALL.len()];
    let mut known = true;
    for word in words {
        let text = *word.get_ref();
        let mut hit = false;
        for (operation, covered) in Operation::ALL.into_iter().zip(&mut covered) {
            let by_verb =
                VERBS.iter().any(|(name, verb)| *name == text && *verb == operation.verb());
            let by_both =
                TWO_SIDED.iter().any(|(name, sides)| *name == text && sides.contains(&operation));
            if by_verb || by_both || operation.name() == text {
                *covered = true;
                hit = true;
            }
        }
        if !hit {
            unknown_operation(word, report);
            known = false;
        }
    }
    let operations = Operation::ALL.into_iter().zip(covered);
    known.then(|| operations.filter(|(_, covered)| *covered).map(|(one, _)| one).collect())
}

/// Every word that [`operations`] takes.
pub(super) fn operation_words() -> Vec<&'static str> {
    let verbs = VERBS.iter().map(|(name, _)| *name);
    let two_sided = TWO_SIDED.iter().map(|(name, _)| *name);
    verbs.chain(two_sided).chain(Operation::ALL.into_iter().map(Operation::name)).collect()
}

fn unknown_operation(word: &Word<'_>, report: &mut Report) {
    let verbs: Vec<&str> = VERBS.iter().map(|(name, _)| *name).collect();
    let two_sided = TWO_SIDED.iter().map(|(name, _)| *name);
    let operations: Vec<&str> =
        Operation::ALL.into_iter().map(Operation::name).chain(two_sided).collect();
    let text = *word.get_ref();
    let error = report.error(word.span(), format!("`{text}` is neither a verb nor an operation"));
    if let Some(near) = nearest(text, verbs.iter().chain(&operations).copied()) {
        error.label(format!("did you mean `{near}`?"));
    }
    error
        .hint(format!("verbs: {}", verbs.join(", ")))
        .hint(format!("operations: {}", operations.join(", ")));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        assert_eq!(parse_size("64MiB"), Ok(64 << 20));
        assert_eq!(parse_size("2 GiB"), Ok(2 << 30));
        assert_eq!(parse_size("0"), Ok(0));
        assert_eq!(parse_size("15PiB"), Ok(15 << 50));
        for wrong in ["", "MiB", "-1", "1.5GiB", "64MB", "64mib", "1 2", "99999999PiB", "１KiB"] {
            assert!(parse_size(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn shares() {
        assert_eq!(parse_share("0%"), Some(SpaceLimit::Percent(0)));
        assert_eq!(parse_share("100%"), Some(SpaceLimit::Percent(100)));
        assert_eq!(parse_share("2GiB"), Some(SpaceLimit::Bytes(2 << 30)));
        for wrong in ["", "%", "101%", "-1%", "+1%", "1.5%", "10 %", "256%", "2GB"] {
            assert!(parse_share(wrong).is_none(), "{wrong}");
        }
    }

    #[test]
    fn durations() {
        assert_eq!(parse_duration("90s"), Some(Duration::from_secs(90)));
        assert_eq!(parse_duration("15m"), Some(Duration::from_secs(900)));
        assert_eq!(parse_duration("7d"), Some(Duration::from_secs(604_800)));
        assert_eq!(parse_duration("0s"), Some(Duration::ZERO));
        for wrong in ["", "h", "1", "1w", "+1h", "-1h", "1 h", "1.5h", "99999999999999999d", "1ｈ"]
        {
            assert_eq!(parse_duration(wrong), None, "{wrong}");
        }
    }
}
