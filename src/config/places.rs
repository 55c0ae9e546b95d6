//! Where branches and pools appear in the view, and that no two appear at one place.

use std::ops::Range;
use std::path::Path;

use super::branches::Branches;
use super::diagnostic::Report;
use super::pools::Pools;
use super::section::Section;
use crate::types::ViewPath;

/// Names that the program itself uses: `.audit` at the view's root, `.octroi` at a branch's.
const AUDIT: &str = ".audit";
const PRIVATE: &str = ".octroi";

/// A place of the view and where the file speaks of it.
#[derive(Debug, Clone)]
pub(super) struct Place {
    pub at: ViewPath,
    /// `at`, else the name, which gave the default.
    pub span: Range<usize>,
}

/// `at`, or `/NAME`.
pub(super) fn read(section: &Section<'_>, report: &mut Report) -> Option<Place> {
    if !section.has("at") {
        let at = ViewPath::root().join(section.name.get_ref().as_ref());
        return Some(Place { at, span: section.name.span() });
    }
    let word = section.text("at", report)?;
    let text = *word.get_ref();
    let key = section.path_of("at");
    let parsed = ViewPath::parse(Path::new(text)).filter(|_| !text.contains('\0'));
    let Some(at) = parsed else {
        let error = report.error(word.span(), format!("{key} is not a path of the view"));
        error.hint("an absolute path without `..`, such as \"/inbox\"; \"/\" is the view's root");
        return None;
    };
    let first_is_audit = at.components().next().is_some_and(|name| name == AUDIT);
    if first_is_audit || at.components().any(|name| name == PRIVATE) {
        report
            .error(word.span(), format!("{key} cannot be {at}"))
            .label(format!("/{AUDIT} and every {PRIVATE} are the program's own"));
        return None;
    }
    Some(Place { at, span: word.span() })
}

/// What stands at a place.
struct Tenant<'c> {
    is_pool: bool,
    name: &'c str,
    place: &'c Place,
}

/// Reports branches and pools that share a place.
pub(super) fn check_clashes(branches: &Branches<'_>, pools: &Pools<'_>, report: &mut Report) {
    let outside = branches.all().iter().filter(|found| found.pool.is_none());
    let outside =
        outside.map(|found| Tenant { is_pool: false, name: &found.spec.name, place: &found.place });
    let merged = pools.all().iter().map(|found| Tenant {
        is_pool: true,
        name: &found.entry.name,
        place: &found.place,
    });
    let mut tenants: Vec<Tenant<'_>> = outside.chain(merged).collect();
    tenants.sort_by_key(|tenant| tenant.place.span.start);
    let mut earlier: Vec<&Tenant<'_>> = Vec::new();
    for new in &tenants {
        // Of one name is a mistake of its own, reported where the pool stands.
        let same = |old: &&&Tenant<'_>| old.place.at == new.place.at && old.name != new.name;
        for old in earlier.iter().filter(same) {
            let what = match (old.is_pool, new.is_pool) {
                (false, false) => "two branches",
                (true, true) => "two pools",
                _ => "a branch and a pool",
            };
            report
                .error(new.place.span.clone(), format!("{what} at {}", new.place.at))
                .other(old.place.span.clone(), "the first")
                .hint("each has its own place: set `at`");
        }
        earlier.push(new);
    }
}
