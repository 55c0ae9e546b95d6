//! Which places of the view a pattern can match below.

use std::ffi::OsStr;

use globset::{GlobBuilder, GlobMatcher};

use crate::types::ViewPath;

/// A pattern of a rule, name by name.
pub(super) struct Pattern<'p> {
    parts: Vec<Part<'p>>,
}

enum Part<'p> {
    /// One name.
    Name(&'p str),
    /// One name, by a glob.
    Glob(Box<GlobMatcher>),
    /// Any names, or what cannot be told apart into names.
    Any,
}

/// What a pattern can match, as seen from the place of a branch or pool.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reach {
    /// Neither the place, nor anything below, nor a folder on the way to it.
    Nowhere,
    /// Folders on the way to it alone.
    Above,
    /// The place or something below it, and perhaps folders on the way to it.
    Around,
    /// The place or something below it.
    Inside,
}

impl<'p> Pattern<'p> {
    pub(super) fn parse(text: &'p str) -> Self {
        let parts = names(text).into_iter().map(|name| match name {
            _ if name == "**" || name.contains('/') => Part::Any,
            _ if !name.contains(['*', '?', '[', '{', '\\']) => Part::Name(name),
            _ => {
                match GlobBuilder::new(name).literal_separator(true).backslash_escape(true).build()
                {
                    Ok(glob) => Part::Glob(Box::new(glob.compile_matcher())),
                    Err(_) => Part::Any,
                }
            }
        });
        Self { parts: parts.collect() }
    }

    pub(super) fn reach(&self, place: &ViewPath) -> Reach {
        let mut parts = self.parts.iter();
        for name in place.components() {
            match parts.next() {
                None => return Reach::Above,
                Some(Part::Any) => return Reach::Around,
                Some(part) if part.matches(name) => {}
                Some(_) => return Reach::Nowhere,
            }
        }
        Reach::Inside
    }

    /// Whether it begins with the names of a place, so that all it matches is there.
    pub(super) fn begins_with(&self, place: &ViewPath) -> bool {
        let mut parts = self.parts.iter();
        place.components().all(|name| match parts.next() {
            Some(Part::Name(own)) => OsStr::new(own) == name,
            _ => false,
        })
    }

    /// The first name that no place has where this pattern has it, with the names that places have
    /// there.
    pub(super) fn stray<'v>(&self, places: &[&'v ViewPath]) -> Option<(&'p str, Vec<&'v str>)> {
        let mut on_the_way: Vec<Vec<&OsStr>> =
            places.iter().map(|place| place.components().collect()).collect();
        for (depth, part) in self.parts.iter().enumerate() {
            let here = |names: &Vec<&'v OsStr>| names.get(depth).copied();
            let (matching, others): (Vec<_>, Vec<_>) = on_the_way
                .into_iter()
                .partition(|names| here(names).is_some_and(|name| part.matches(name)));
            if matching.is_empty() {
                let Part::Name(own) = part else { return None };
                return Some((
                    own,
                    others.iter().filter_map(|names| here(names)?.to_str()).collect(),
                ));
            }
            on_the_way = matching;
        }
        None
    }
}

impl Part<'_> {
    fn matches(&self, name: &OsStr) -> bool {
        match self {
            Self::Name(own) => OsStr::new(own) == name,
            Self::Glob(glob) => glob.is_match(name),
            Self::Any => true,
        }
    }
}

/// The names of an absolute pattern. What stands in braces or brackets is of one name, also with a `/`
/// in it.
fn names(text: &str) -> Vec<&str> {
    let (mut depth, mut class, mut escaped) = (0usize, false, false);
    text.trim_start_matches('/')
        .split(|c: char| {
            if std::mem::take(&mut escaped) {
                return false;
            }
            match c {
                '\\' => escaped = true,
                '[' => class = true,
                ']' => class = false,
                '{' if !class => depth = depth.saturating_add(1),
                '}' if !class => depth = depth.saturating_sub(1),
                _ => {}
            }
            c == '/' && depth == 0 && !class
        })
        .filter(|name| !name.is_empty())
        .collect()
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn place(text: &str) -> ViewPath {
        ViewPath::parse(Path::new(text)).unwrap()
    }

    #[test]
    fn a_pattern_reaches_what_it_can_match() {
        for (pattern, at, wanted) in [
            ("/**", "/inbox", Reach::Around),
            ("/**", "/", Reach::Inside),
            ("/", "/", Reach::Inside),
            ("/", "/inbox", Reach::Above),
            ("/deep", "/deep/er", Reach::Above),
            ("/deep/*", "/deep/er", Reach::Inside),
            ("/deep/**", "/deep/er", Reach::Around),
            ("/inbox", "/inbox", Reach::Inside),
            ("/inbox/a/b", "/inbox", Reach::Inside),
            ("/inbox/**", "/review", Reach::Nowhere),
            ("/in*", "/inbox", Reach::Inside),
            ("/in*/x", "/review", Reach::Nowhere),
            ("/{inbox,review}/**", "/review", Reach::Inside),
            ("/{inbox,review}/**", "/fast", Reach::Nowhere),
            ("/{inbox/a,review}/**", "/fast", Reach::Around),
            ("/[ir]*/x", "/fast", Reach::Nowhere),
            ("/\\{a/x", "/{a", Reach::Inside),
            ("/**/*.sh", "/fast", Reach::Around),
        ] {
            assert_eq!(Pattern::parse(pattern).reach(&place(at)), wanted, "{pattern} and {at}");
        }
    }

    #[test]
    fn a_stray_name_is_the_first_that_no_place_has() {
        let (deep, inbox) = (place("/deep/er"), place("/inbox"));
        let stray = |text| Pattern::parse(text).stray(&[&deep, &inbox]);
        assert_eq!(stray("/inbix/**"), Some(("inbix", vec!["deep", "inbox"])));
        assert_eq!(stray("/deep/ar/x"), Some(("ar", vec!["er"])));
        assert_eq!(stray("/x*/y"), None);
    }
}
