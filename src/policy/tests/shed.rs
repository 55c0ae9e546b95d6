//! What another path, another policy or many rules must not change.

use std::cell::Cell;

use jiff::Timestamp;

use super::*;
use crate::error::Errno;

/// Whether ANA may rename a directory of scratch.
fn sheds(pattern: &str, from: &str, to: &str) -> bool {
    let rules =
        vec![rule("closed", true, &[Verb::Read, Verb::Write], Principal::Anyone, &[pattern])];
    let policy = Policy::new(lab(true, rules, vec![]), 1).unwrap();
    let (from, to) = (path(from), path(to));
    let at = |path| Object { path, branch: Some(BranchIndex(3)), is_directory: true };
    policy.widens(&subject(ANA, &[]), at(&from), at(&to)).is_some()
}

#[test]
fn a_folder_does_not_carry_what_a_wildcard_denies_out_of_its_reach() {
    for (pattern, from, to) in [
        ("/lab/scratch/*/raw/**", "/lab/scratch/p1", "/lab/scratch/x/p1"),
        ("/lab/scratch/*/raw/**", "/lab/scratch/p1", "/lab/scratch/x/raw2"),
        ("/lab/scratch/closed/**/*.key", "/lab/scratch/closed/d", "/lab/scratch/d"),
        ("/lab/scratch/[c]losed/d/raw", "/lab/scratch/closed", "/lab/scratch/open"),
        ("/lab/scratch/{closed,shut}/d/raw", "/lab/scratch/closed", "/lab/scratch/open"),
    ] {
        assert!(sheds(pattern, from, to), "{pattern}: {from} to {to}");
    }
}

#[test]
fn a_folder_may_move_where_the_same_is_denied() {
    for (pattern, from, to) in [
        ("/lab/**/*.key", "/lab/scratch/a", "/lab/scratch/b"),
        ("/lab/scratch/*/raw/**", "/lab/scratch/p1", "/lab/scratch/p2"),
        ("/lab/scratch/*/raw/**", "/lab/scratch/x/p1", "/lab/scratch/x/p2"),
    ] {
        assert!(!sheds(pattern, from, to), "{pattern}: {from} to {to}");
    }
}

#[test]
fn a_class_that_a_policy_does_not_know_is_denied() {
    let rules = vec![rule("closed", true, &[Verb::Read], Principal::Anyone, &["/**"])];
    let policy = Policy::new(lab(true, rules, vec![]), 2).unwrap();
    // Kept by an inode of the policy before, which told more paths apart.
    let kept = PathClass::of_number(7);
    let at = (&kept, Some(BranchIndex(0)));
    let decision =
        policy.decide_class(&subject(ANA, &[]), Operation::OpenRead, at, &Given::default());
    assert!(!decision.allowed, "{decision:?}");
}

#[derive(Default)]
struct Counting(Cell<u32>);

impl Facts for Counting {
    fn now(&self) -> Timestamp {
        Timestamp::UNIX_EPOCH
    }
    fn size_after(&self) -> Option<u64> {
        None
    }
    fn owner(&self) -> Result<Option<u32>, Errno> {
        Ok(None)
    }
    fn labels(&self) -> Result<Vec<String>, Errno> {
        self.0.set(self.0.get() + 1);
        Ok(vec![])
    }
    fn changes_labels(&self) -> bool {
        false
    }
}

#[test]
fn labels_are_asked_once_for_a_decision() {
    let labelled = |number: usize| {
        let mut rule =
            rule(&format!("r{number}"), true, &[Verb::Read], Principal::Anyone, &["/**"]);
        rule.conditions.labels.push(format!("l{number}"));
        rule
    };
    let rules = (0..100).map(labelled).collect();
    let policy = Policy::new(lab(true, rules, vec![]), 1).unwrap();
    let facts = Counting::default();
    let path = path("/inbox/a");
    let object = Object { path: &path, branch: Some(BranchIndex(0)), is_directory: false };
    assert!(policy.decide(&subject(ANA, &[]), Operation::OpenRead, object, &facts).allowed);
    assert_eq!(facts.0.get(), 1);
}

#[test]
fn what_is_only_observed_takes_no_mapping_away() {
    let mut small = rule("small", true, &[Verb::Write], Principal::Anyone, &["/**"]);
    small.conditions.max_file_size = Some(10);
    small.observe = true;
    let policy = Policy::new(lab(true, vec![small], vec![]), 1).unwrap();
    let class = policy.classify_path(&path("/inbox/a"));
    assert!(!policy.watch_writes(&subject(ANA, &[]), &class).size);
}
