//! Values at their limits.

use super::{BASE, folder, load_text};
use crate::config::Crossings;
use crate::policy::PATTERN_MAX;

#[test]
fn rates_are_sizes_per_second() {
    let dir = folder();
    let base = "[view]\nname = \"lab\"\nstate = \"state\"\n[branches.inbox]\npath = \"inbox\"";
    for (rate, wanted) in [
        ("\"50MiB/s\"", 50 << 20),
        ("\"50MiB\"", 50 << 20),
        ("\"1 GiB/s\"", 1 << 30),
        ("1000", 1000),
        ("\"1\"", 1),
    ] {
        let text = format!("{base}\n[crossings]\nrate = {rate}\n");
        let crossings = load_text(dir.path(), &text).unwrap().config.crossings;
        assert_eq!(crossings, Crossings { parallel: 2, rate: Some(wanted) }, "{rate}");
    }
}

#[test]
fn a_pattern_is_of_bounded_length() {
    let dir = folder();
    let rule = |length: usize| {
        let pattern = format!("/inbox/{}", "x".repeat(length - 7));
        format!(
            "{BASE}\n[rules.long]\ndeny = [\"add\"]\nwho = [\"*\"]\npaths = [\"{pattern}\"]\nreason = \"x\"\n"
        )
    };
    load_text(dir.path(), &rule(PATTERN_MAX)).unwrap();
    let errors = load_text(dir.path(), &rule(PATTERN_MAX + 1)).unwrap_err();
    assert_eq!(errors.errors[0].message, "a pattern of 4097 bytes");
    assert_eq!(errors.errors.len(), 1);
}

#[test]
fn a_ledger_of_which_nothing_is_kept_is_warned_of() {
    let dir = folder();
    let warnings = |keep: &str| {
        let loaded = load_text(dir.path(), &format!("{BASE}\n[audit]\nkeep = \"{keep}\"\n"));
        loaded.unwrap().warnings.into_iter().map(|one| one.message).collect::<Vec<_>>()
    };
    for nothing in ["0d", "0s"] {
        assert_eq!(
            warnings(nothing),
            ["audit.keep is 0: every record leaves the ledger as soon as it may"],
            "{nothing}"
        );
    }
    assert_eq!(warnings("1s"), [""; 0]);
}
