//! Patterns over paths: a list of globs as a rule or gate has it, and the index of all lists of a policy,
//! which tells of a path in one pass which of them match.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::path::Path;
use std::sync::{Arc, OnceLock};

use globset::{Candidate, Glob, GlobBuilder, GlobSet, GlobSetBuilder};

use crate::types::ViewPath;

/// Longest pattern, in bytes.
pub const PATTERN_MAX: usize = 4096;
/// Bytes of patterns that are compiled into one set: what globset makes of more could pass its limits.
const SET_BYTES: usize = 64 * 1024;

/// A list of globs (`*` and `?` do not cross `/`; `**`, where [`depth_is_whole`], does; alternatives).
/// Compiled when it is first matched by itself.
#[derive(Debug, Clone)]
pub struct PathPatterns {
    texts: Arc<[String]>,
    set: Arc<OnceLock<GlobSet>>,
}

impl PartialEq for PathPatterns {
    fn eq(&self, other: &Self) -> bool {
        self.texts == other.texts
    }
}

impl Eq for PathPatterns {}

impl PathPatterns {
    /// Checks patterns; the error names the pattern.
    pub fn new(texts: Vec<String>) -> Result<Self, globset::Error> {
        for text in &texts {
            glob(text)?;
        }
        Ok(Self { texts: texts.into(), set: Arc::default() })
    }

    /// Whether any pattern matches these bytes.
    pub fn matches(&self, path: &OsStr) -> bool {
        let compiled = self.set.get_or_init(|| {
            let mut builder = GlobSetBuilder::new();
            self.texts.iter().filter_map(|text| glob(text).ok()).for_each(|glob| {
                builder.add(glob);
            });
            builder.build().unwrap_or_else(|error| {
                log::error!("cannot compile {:?}, which is a bug: {error}", self.texts);
                GlobSet::empty()
            })
        });
        compiled.is_match(path)
    }

    /// As they were written.
    pub fn texts(&self) -> &[String] {
        &self.texts
    }
}

fn glob(text: &str) -> Result<Glob, globset::Error> {
    GlobBuilder::new(text).literal_separator(true).backslash_escape(true).build()
}

/// The components of a pattern before the first one with a wildcard.
pub fn literal_components(text: &str) -> impl Iterator<Item = &OsStr> {
    Path::new(text)
        .components()
        .map(|part| part.as_os_str())
        .take_while(|part| !part.as_encoded_bytes().iter().any(|byte| b"*?[{\\".contains(byte)))
}

/// Whether each `**` of a pattern stands for any number of whole names, also once its alternatives are
/// written out. globset takes it for `*` beside other characters, and for at least one name where an
/// alternative ends with it and more follows.
pub fn depth_is_whole(text: &str) -> bool {
    let plain = skeleton(text);
    (0..plain.len()).all(|at| match plain.split_at_checked(at) {
        Some((before, [b'*', b'*', after @ ..])) => {
            let direct = matches!(before.last(), None | Some(b'/'));
            match after.first() {
                None => direct,
                Some(b'/') => direct || begins_a_name(before),
                Some(b',' | b'}') => direct && ends_the_pattern(after),
                Some(_) => false,
            }
        }
        _ => true,
    })
}

/// A pattern with a letter for each escaped character and each class.
fn skeleton(text: &str) -> Vec<u8> {
    let mut plain = Vec::new();
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        match byte {
            b'\\' => {
                bytes.next();
                plain.push(b'x');
            }
            b'[' => {
                // A `]` that comes first, or after the `!`, is one of the class.
                let first = bytes.next();
                if matches!(first, Some(b'!' | b'^')) {
                    bytes.next();
                }
                bytes.by_ref().find(|end| *end == b']');
                plain.push(b'x');
            }
            other => plain.push(other),
        }
    }
    plain
}

/// Whether nothing follows the alternatives that this is the rest of.
fn ends_the_pattern(rest: &[u8]) -> bool {
    let (mut inner, mut closed) = (0u32, false);
    for byte in rest {
        if closed && !matches!(byte, b',' | b'}') {
            return false;
        }
        closed = *byte == b'}' && inner == 0;
        match byte {
            b'{' => inner = inner.saturating_add(1),
            b'}' => inner = inner.saturating_sub(1),
            _ => {}
        }
    }
    closed
}

/// Whether the alternatives that are open at the end of this begin where a name begins.
fn begins_a_name(before: &[u8]) -> bool {
    let (mut inner, mut opened) = (0u32, false);
    if !matches!(before.last(), Some(b',' | b'{')) {
        return false;
    }
    for byte in before.iter().rev() {
        if opened && !matches!(byte, b',' | b'{') {
            return *byte == b'/';
        }
        opened = *byte == b'{' && inner == 0;
        match byte {
            b'}' => inner = inner.saturating_add(1),
            b'{' => inner = inner.saturating_sub(1),
            _ => {}
        }
    }
    opened
}

/// All lists of a policy. A pattern waits at the folder that its literal beginning leads to, so that a path
/// is matched against those alone that could match it.
#[derive(Debug)]
pub(super) struct PatternIndex {
    root: Folder,
}

#[derive(Debug, Default)]
struct Folder {
    folders: HashMap<OsString, Folder>,
    /// By position in each of `sets`.
    waiting: Vec<(Glob, u32)>,
    sets: Vec<(GlobSet, Vec<u32>)>,
}

impl PatternIndex {
    /// Compiles lists; each is known by its position.
    pub(super) fn new(lists: &[PathPatterns]) -> Result<Self, globset::Error> {
        let mut root = Folder::default();
        for (list, number) in lists.iter().zip(0u32..) {
            for text in list.texts() {
                let literal: Vec<_> = literal_components(text).collect();
                // Its last name is its own, not a folder's.
                let folders =
                    literal.len().min(Path::new(text).components().count().saturating_sub(1));
                let mut folder = &mut root;
                for name in literal.into_iter().take(folders) {
                    folder = folder.folders.entry(name.to_owned()).or_default();
                }
                folder.waiting.push((glob(text)?, number));
            }
        }
        root.compile()?;
        Ok(Self { root })
    }

    /// The lists that match, in order, each once.
    pub(super) fn matching(&self, path: &ViewPath) -> Vec<u32> {
        let candidate = Candidate::new(path.as_path());
        let mut found = Vec::new();
        let mut hits = Vec::new();
        let mut names = path.as_path().components();
        let mut folder = Some(&self.root);
        while let Some(here) = folder {
            for (set, numbers) in &here.sets {
                set.matches_candidate_into(&candidate, &mut hits);
                found.extend(hits.iter().filter_map(|at| numbers.get(*at)));
            }
            folder = names.next().and_then(|name| here.folders.get(name.as_os_str()));
        }
        found.sort_unstable();
        found.dedup();
        found
    }
}

impl Folder {
    fn compile(&mut self) -> Result<(), globset::Error> {
        let mut waiting = std::mem::take(&mut self.waiting).into_iter().peekable();
        while waiting.peek().is_some() {
            let mut builder = GlobSetBuilder::new();
            let (mut numbers, mut bytes) = (Vec::new(), 0usize);
            while bytes < SET_BYTES
                && let Some((glob, number)) = waiting.next()
            {
                bytes = bytes.saturating_add(glob.regex().len());
                builder.add(glob);
                numbers.push(number);
            }
            self.sets.push((builder.build()?, numbers));
        }
        self.folders.values_mut().try_for_each(Self::compile)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(texts: &[&str]) -> PathPatterns {
        PathPatterns::new(texts.iter().map(|text| (*text).to_owned()).collect()).unwrap()
    }

    #[test]
    fn any_depth_is_known_where_it_is_not_whole() {
        for (text, wanted) in [
            ("/**", true),
            ("**/*.csv", true),
            ("/a/**/b/**", true),
            ("{/inbox/**,/lab/{scratch/**,merged/*}}", true),
            ("/{inbox,lab/**}", true),
            ("/{**/a,b}", true),
            ("{**/*.csv,{x,**/*.txt}}", true),
            ("/a[*][**]/\\**", true),
            ("/a**", false),
            ("/**a", false),
            ("/***", false),
            ("/{inbox/*,lab/**}/x", false),
            ("/{inbox,{lab/**}}x", false),
            ("/{**,a}", false),
            ("/{a,**}", false),
            ("/x{**/a,b}", false),
            ("/,**/a", false),
        ] {
            assert_eq!(depth_is_whole(text), wanted, "{text}");
        }
    }

    #[test]
    fn the_index_says_what_each_list_says() {
        let lists = [
            list(&["/**"]),
            list(&["/inbox/**"]),
            list(&["/inbox"]),
            list(&["/inbox/*.csv", "/inbox/a/b"]),
            list(&["/**/*.sh"]),
            list(&["/{inbox,review}/x", "/in?ox/[xy]"]),
            list(&["/inbox/a/**/c", "/inbox/a/**"]),
            list(&[]),
            list(&["/"]),
        ];
        let index = PatternIndex::new(&lists).unwrap();
        let paths = [
            "/",
            "/inbox",
            "/inbox/x",
            "/inbox/a.csv",
            "/inbox/a",
            "/inbox/a/b",
            "/inbox/a/b/c",
            "/inbox/a/c",
            "/review/x",
            "/review/run.sh",
            "/inbox/a/b.csv",
            "/y",
            "/inboxes/x",
        ];
        for text in paths {
            let path = ViewPath::parse(Path::new(text)).unwrap();
            let matching =
                lists.iter().zip(0..).filter(|(list, _)| list.matches(path.as_path().as_os_str()));
            let wanted: Vec<u32> = matching.map(|(_, number)| number).collect();
            assert_eq!(index.matching(&path), wanted, "{text}");
        }
    }
}
