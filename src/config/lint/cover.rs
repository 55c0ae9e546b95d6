//! Whether all that one rule speaks of is spoken of by another. Only what is certain counts: `false`
//! may mean that it cannot be told.

use std::path::Path;

use crate::policy::{Principal, Rule, Who, literal_components};

/// Whether a rule denies whatever the facts are.
pub(super) fn denies_always(rule: &Rule) -> bool {
    rule.denies && !rule.observe && rule.conditions.is_empty()
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
    let literal: Vec<_> = literal_components(inner).collect();
    let folder = match folder {
        "" => Path::new("/"),
        folder => Path::new(folder),
    };
    let names = folder.components().count();
    // A folder with wildcards is no folder by its literal names, and what is not below it is not meant.
    literal_components(&folder.to_string_lossy()).count() == names
        && Path::new(inner).components().count() > names
        && folder.iter().eq(literal.into_iter().take(names))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(outer: &str, inner: &str, wanted: bool) {
        assert_eq!(matches_one(outer, inner), wanted, "{outer} and {inner}");
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
