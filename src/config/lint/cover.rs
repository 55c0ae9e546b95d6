//! Whether all that one rule speaks of is spoken of by another. Only what is certain counts: `false`
//! may mean that it cannot be told.

use std::collections::HashMap;
use std::path::Path;

use crate::policy::{Principal, Rule, Who, literal_components};

/// Whether a rule denies whatever the facts are.
pub(super) fn denies_always(rule: &Rule) -> bool {
    rule.denies && !rule.observe && rule.conditions.is_empty()
}

/// The rules that deny whatever the facts are, found by a pattern and somebody whom they hold: of very
/// many rules few can cover another.
pub(super) struct Denials<'c> {
    rules: Vec<&'c Rule>,
    /// Positions in `rules`, in order.
    positions: HashMap<(&'c str, Principal), Vec<usize>>,
}

impl<'c> Denials<'c> {
    pub(super) fn new(rules: impl Iterator<Item = &'c Rule>) -> Self {
        let rules: Vec<&Rule> = rules.collect();
        let mut positions: HashMap<_, Vec<usize>> = HashMap::new();
        let always = rules.iter().enumerate().filter(|(_, rule)| denies_always(rule));
        for (position, rule) in always {
            for text in rule.paths.texts() {
                for principal in &rule.who.included {
                    positions.entry((text.as_str(), *principal)).or_default().push(position);
                }
            }
        }
        Self { rules, positions }
    }

    /// The first rule that covers another.
    pub(super) fn covering(&self, position: usize) -> Option<usize> {
        let rule = self.rules.get(position)?;
        let stands_before = |other: usize| {
            let outer = self.rules.get(other)?;
            // A deny rule that comes first gives its own reason before a wider one does.
            let in_time = other != position && (!rule.denies || other < position);
            (in_time && covers(outer, rule)).then_some(other)
        };
        let patterns = wider(rule.paths.texts().first()?);
        let principals = [Principal::Anyone, *rule.who.included.first()?];
        let keys = patterns
            .iter()
            .flat_map(|pattern| principals.map(|principal| (pattern.as_str(), principal)));
        let found = keys.filter_map(|key| self.positions.get(&key));
        found.filter_map(|positions| positions.iter().find_map(|at| stands_before(*at))).min()
    }
}

/// The patterns that match all that one does, as far as it can be told.
fn wider(inner: &str) -> Vec<String> {
    let mut patterns = vec![inner.to_owned(), "/**".to_owned()];
    let mut folder = String::new();
    for name in literal_components(inner).skip(1) {
        folder.push('/');
        folder.push_str(&name.to_string_lossy());
        patterns.push(format!("{folder}/**"));
    }
    patterns
}

/// Whether everything that `inner` speaks of, `outer` does.
pub(super) fn covers(outer: &Rule, inner: &Rule) -> bool {
    inner.operations.iter().all(|operation| outer.operations.contains(operation))
        && holds_all(&outer.who, &inner.who)
        && matches_all(outer.paths.texts(), inner.paths.texts())
}

/// Whether everybody in `inner` is in `outer`.
pub(super) fn holds_all(outer: &Who, inner: &Who) -> bool {
    let included = outer.included.contains(&Principal::Anyone)
        || inner.included.iter().all(|principal| outer.included.contains(principal));
    included && outer.excepted.iter().all(|principal| inner.excepted.contains(principal))
}

/// Whether somebody may be in both, as far as lists tell: a user may be in any group.
pub(super) fn share(a: &Who, b: &Who) -> bool {
    let among = |who: &Who, other: &Who| {
        other.included.iter().any(|principal| {
            let included =
                who.included.contains(&Principal::Anyone) || who.included.contains(principal);
            included && !who.excepted.contains(principal)
        })
    };
    among(a, b) || among(b, a)
}

/// Whether nobody can be one of them.
pub(super) fn is_nobody(who: &Who) -> bool {
    who.excepted.contains(&Principal::Anyone)
        || who.included.iter().all(|principal| who.excepted.contains(principal))
}

/// Whether every path that one of `inner` matches, one of `outer` does.
pub(super) fn matches_all(outer: &[String], inner: &[String]) -> bool {
    inner.iter().all(|inner| outer.iter().any(|outer| matches_one(outer, inner)))
}

fn matches_one(outer: &str, inner: &str) -> bool {
    if outer == inner {
        return true;
    }
    let Some(folder) = outer.strip_suffix("/**") else { return false };
    let folder = if folder.is_empty() { Path::new("/") } else { Path::new(folder) };
    let names = folder.components().count();
    // A folder with wildcards is more than the one of its literal names; the folder itself is not below it.
    literal_components(&folder.to_string_lossy()).count() == names
        && Path::new(inner).components().count() > names
        && literal_components(inner).take(names).eq(folder.iter())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(outer: &str, inner: &str, wanted: bool) {
        assert_eq!(matches_one(outer, inner), wanted, "{outer} and {inner}");
        let listed = wider(inner).iter().any(|pattern| pattern == outer);
        assert!(listed || !wanted, "{outer} is not looked up for {inner}");
    }

    #[test]
    fn a_pattern_covers_what_lies_below_it() {
        check("/**", "/inbox/*.csv", true);
        check("/**", "/**/*.sh", true);
        check("/**", "/", false);
        check("/inbox/**", "/inbox/**", true);
        check("/inbox/**", "/inbox/*", true);
        check("/inbox/**", "/inbox/a/{b,c}", true);
        check("/inbox/**", "/inbox", false);
        check("/inbox/**", "/in*/a", false);
        check("/inbox/**", "/inboxes/a", false);
        check("/in*/**", "/inbox/a", false);
        check("/inbox/*", "/inbox/a", false);
        check("/inbox/a/**", "/inbox/**", false);
    }

    #[test]
    fn exceptions_narrow() {
        let who = |included: &[Principal], excepted: &[Principal]| Who {
            included: included.to_vec(),
            excepted: excepted.to_vec(),
        };
        let (all, ana, staff) = (Principal::Anyone, Principal::User(1), Principal::Group(2));
        assert!(holds_all(&who(&[all], &[]), &who(&[ana], &[staff])));
        assert!(!holds_all(&who(&[all], &[staff]), &who(&[ana], &[])));
        assert!(holds_all(&who(&[all], &[staff]), &who(&[ana], &[staff])));
        assert!(!holds_all(&who(&[ana], &[]), &who(&[ana, staff], &[])));
        assert!(is_nobody(&who(&[], &[])) && is_nobody(&who(&[ana], &[ana])));
        assert!(is_nobody(&who(&[ana], &[all])) && !is_nobody(&who(&[all], &[ana])));
    }
}
