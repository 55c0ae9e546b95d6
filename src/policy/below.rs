//! What patterns say of what lies below a directory: whether the same patterns speak of it once the directory
//! has another path.
//!
//! A pattern is read as an automaton over names, its alternatives written out: a state is the part that the next
//! name has to match. What is left to match below a directory are the states after its path. If the states
//! below one path are all among those below another, then whatever the pattern matches below the first, it
//! matches below the second.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::sync::OnceLock;

use globset::{GlobBuilder, GlobMatcher};

use crate::types::ViewPath;

/// Patterns that a pattern may stand for by its alternatives; of one that stands for more nothing is known.
const WAYS_MAX: usize = 1024;

/// The patterns of a rule.
#[derive(Debug)]
pub(super) struct Below {
    /// `None`: too many.
    ways: Option<Vec<Vec<Part>>>,
}

#[derive(Debug)]
enum Part {
    /// `**`: any number of names, at the end at least one.
    Depth,
    /// One name.
    Name(String),
    /// One name that matches.
    Glob(String, OnceLock<Option<GlobMatcher>>),
}

impl Part {
    fn of(text: &str) -> Self {
        if text == "**" {
            Self::Depth
        } else if text.bytes().any(|byte| b"*?[{\\".contains(&byte)) {
            Self::Glob(text.to_owned(), OnceLock::new())
        } else {
            Self::Name(text.to_owned())
        }
    }

    fn takes(&self, name: &OsStr) -> bool {
        match self {
            Self::Depth => true,
            Self::Name(own) => name == OsStr::new(own),
            Self::Glob(text, matcher) => {
                let compile = || {
                    let mut glob = GlobBuilder::new(text);
                    glob.literal_separator(true).backslash_escape(true);
                    Some(glob.build().ok()?.compile_matcher())
                };
                // What cannot be compiled may match anything.
                matcher.get_or_init(compile).as_ref().is_none_or(|matcher| matcher.is_match(name))
            }
        }
    }
}

impl Below {
    pub(super) fn new(patterns: &[String]) -> Self {
        let mut ways = Some(Vec::new());
        for pattern in patterns {
            let mut texts = Vec::new();
            let room = WAYS_MAX.saturating_sub(ways.as_ref().map_or(0, Vec::len));
            if !write_out(pattern, room, &mut texts) {
                ways = None;
            }
            let Some(ways) = &mut ways else { break };
            let parts = |text: &String| {
                text.split('/').filter(|part| !part.is_empty()).map(Part::of).collect()
            };
            ways.extend(texts.iter().map(parts));
        }
        Self { ways }
    }

    /// Whether something below `here` may be matched that would not be below `there`.
    pub(super) fn loses(&self, here: &ViewPath, there: &ViewPath) -> bool {
        let Some(ways) = &self.ways else { return true };
        if self.holds_all(there) {
            return false;
        }
        ways.iter().any(|way| !states(way, here).is_subset(&states(way, there)))
    }

    /// Whether everything below a path is matched.
    pub(super) fn holds_all(&self, path: &ViewPath) -> bool {
        self.ways.iter().flatten().any(|way| {
            let last = way.len().saturating_sub(1);
            matches!(way.last(), Some(Part::Depth)) && states(way, path).contains(&last)
        })
    }
}

/// The parts that the next name may have to match.
fn states(way: &[Part], path: &ViewPath) -> BTreeSet<usize> {
    let mut now = BTreeSet::new();
    enter(way, 0, &mut now);
    for name in path.components() {
        let mut next = BTreeSet::new();
        for state in &now {
            match way.get(*state) {
                Some(Part::Depth) => enter(way, *state, &mut next),
                Some(part) if part.takes(name) => {
                    enter(way, state.saturating_add(1), &mut next);
                }
                _ => {}
            }
        }
        now = next;
    }
    now
}

/// Adds a state, and those behind it that need no name; not the end, below which nothing is matched.
fn enter(way: &[Part], state: usize, into: &mut BTreeSet<usize>) {
    let mut state = state;
    while let Some(part) = way.get(state) {
        into.insert(state);
        if !matches!(part, Part::Depth) {
            break;
        }
        state = state.saturating_add(1);
    }
}

/// Writes alternatives out; false if there are more than `room`.
fn write_out(pattern: &str, room: usize, into: &mut Vec<String>) -> bool {
    let Some((before, alternatives, after)) = first_alternatives(pattern) else {
        into.push(pattern.to_owned());
        return into.len() <= room;
    };
    alternatives.iter().all(|one| write_out(&format!("{before}{one}{after}"), room, into))
}

/// The text before the first braces, what they offer, and the text behind them.
fn first_alternatives(pattern: &str) -> Option<(&str, Vec<&str>, &str)> {
    let mut depth = 0usize;
    let mut in_class = false;
    let (mut start, mut from) = (0, 0);
    let mut alternatives = Vec::new();
    let mut letters = pattern.char_indices();
    while let Some((at, letter)) = letters.next() {
        let next = at.saturating_add(letter.len_utf8());
        match letter {
            '\\' => drop(letters.next()),
            ']' => in_class = false,
            _ if in_class => {}
            '[' => {
                in_class = true;
                // A bracket that comes first is one of the class.
                let mut ahead = letters.clone();
                let mut first = ahead.next();
                if matches!(first, Some((_, '!' | '^'))) {
                    letters.next();
                    first = ahead.next();
                }
                if matches!(first, Some((_, ']'))) {
                    letters.next();
                }
            }
            '{' => {
                depth = depth.saturating_add(1);
                if depth == 1 {
                    (start, from) = (at, next);
                }
            }
            ',' if depth == 1 => {
                alternatives.push(pattern.get(from..at)?);
                from = next;
            }
            '}' if depth == 1 => {
                alternatives.push(pattern.get(from..at)?);
                return Some((pattern.get(..start)?, alternatives, pattern.get(next..)?));
            }
            '}' => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[track_caller]
    fn check(pattern: &str, here: &str, there: &str, loses: bool) {
        let below = Below::new(&[pattern.to_owned()]);
        let path = |text: &str| ViewPath::parse(Path::new(text)).unwrap();
        assert_eq!(below.loses(&path(here), &path(there)), loses, "{pattern}: {here} to {there}");
    }

    #[test]
    fn what_is_matched_below_one_path_is_matched_below_the_other_or_not() {
        check("/lab/*/secret/**", "/lab/a", "/public/a", true);
        check("/lab/*/secret/**", "/lab/a", "/lab/b", false);
        check("/lab/*/secret/**", "/lab/a", "/lab/b/c", true);
        check("/lab/secret", "/lab", "/other", true);
        check("/lab/secret", "/other", "/lab", false);
        check("/**/*.key", "/lab/a", "/x", false);
        check("/lab/**/*.key", "/lab/a", "/lab/b/c", false);
        check("/lab/**/*.key", "/lab/a", "/x", true);
        check("/{lab/secret,x}/**", "/lab", "/y", true);
        check("/{lab,y}/a/*", "/lab", "/y", true);
        check("/{lab,y}/a/*", "/lab", "/lab", false);
        check("/[!a]*/deep/f", "/lab", "/abc", true);
        check("/[!a]*/deep/f", "/lab", "/bca", false);
        check("/lab/**", "/lab/a", "/x", true);
        check("/lab/a/f", "/lab", "/lab/a", true);
        check("/lab/a/**", "/x", "/lab/a", false);
        check("/lab/*/f", "/lab/a", "/lab/**", false);
        check("/lab/a/*", "/lab/a", "/lab/b", true);
    }

    #[test]
    fn alternatives_are_written_out() {
        let out = |pattern: &str| {
            let mut texts = Vec::new();
            assert!(write_out(pattern, WAYS_MAX, &mut texts));
            texts
        };
        assert_eq!(out("/a{b,{c,d}e}f"), ["/abf", "/acef", "/adef"]);
        assert_eq!(out("/[{]{a,}[]}]"), ["/[{]a[]}]", "/[{][]}]"]);
        assert_eq!(out("/\\{a,b\\}"), ["/\\{a,b\\}"]);
        assert!(!write_out(&"{a,b}".repeat(11), WAYS_MAX, &mut Vec::new()));
    }
}
