//! Globs the naive way: alternatives are written out, and each is compared component by component and
//! byte by byte.

/// What the language of patterns has; without, the characters stand for themselves.
#[derive(Debug, Clone, Copy)]
pub struct Language {
    /// `**` is any number of components; else as `*`.
    pub any_depth: bool,
    /// `{a,b}`.
    pub alternatives: bool,
    /// `[a-z]`, `[!a]`.
    pub classes: bool,
}

impl Language {
    pub const WHOLE: Self = Self { any_depth: true, alternatives: true, classes: true };
}

/// The written-out alternatives of a pattern, each a list of components.
#[derive(Debug, Clone, PartialEq)]
pub struct Glob(Vec<Vec<Vec<u8>>>);

impl Glob {
    pub fn new(text: &str, language: Language) -> Self {
        let mut text = text.to_owned();
        if !language.any_depth {
            text = text.replace("**", "*");
        }
        if !language.classes {
            text = text.replace('[', "\\[");
        }
        if !language.alternatives {
            text = text.replace('{', "\\{");
        }
        let components =
            |one: Vec<u8>| one.split(|byte| *byte == b'/').map(<[u8]>::to_vec).collect();
        Self(written_out(text.as_bytes()).into_iter().map(components).collect())
    }

    /// Whether it matches all components of a path.
    pub fn matches(&self, path: &[&[u8]]) -> bool {
        self.0.iter().any(|pattern| components_match(pattern, path))
    }
}

/// The components of a path; before the first `/` of an absolute one there is an empty one.
pub fn split(path: &[u8]) -> Vec<&[u8]> {
    path.split(|byte| *byte == b'/').collect()
}

fn components_match(pattern: &[Vec<u8>], path: &[&[u8]]) -> bool {
    match (pattern, path) {
        ([], _) => path.is_empty(),
        ([last], _) if last == b"**" => !path.is_empty(),
        ([any, rest @ ..], _) if any == b"**" => {
            (0..=path.len()).any(|skipped| components_match(rest, &path[skipped..]))
        }
        (_, []) => false,
        ([first, rest @ ..], [name, names @ ..]) => {
            bytes_match(first, name) && components_match(rest, names)
        }
    }
}

fn bytes_match(pattern: &[u8], name: &[u8]) -> bool {
    match (pattern, name) {
        ([], _) => name.is_empty(),
        ([b'*', rest @ ..], _) => {
            bytes_match(rest, name) || (!name.is_empty() && bytes_match(pattern, &name[1..]))
        }
        (_, []) => false,
        ([b'?', rest @ ..], [_, others @ ..]) => bytes_match(rest, others),
        ([b'[', rest @ ..], [byte, others @ ..]) => {
            let end = rest.iter().position(|end| *end == b']').expect("an end of the class");
            in_class(&rest[..end], *byte) && bytes_match(&rest[end + 1..], others)
        }
        ([b'\\', literal, rest @ ..], [byte, others @ ..])
        | ([literal, rest @ ..], [byte, others @ ..]) => {
            literal == byte && bytes_match(rest, others)
        }
    }
}

fn in_class(class: &[u8], byte: u8) -> bool {
    match class {
        [b'!', others @ ..] => !in_class(others, byte),
        [first, b'-', last, rest @ ..] => (*first <= byte && byte <= *last) || in_class(rest, byte),
        [one, rest @ ..] => *one == byte || in_class(rest, byte),
        [] => false,
    }
}

/// A pattern without its alternatives: every choice, written out.
pub fn written_out(text: &[u8]) -> Vec<Vec<u8>> {
    let mut at = 0;
    let (mut depth, mut parts) = (0, Vec::new());
    while at < text.len() {
        match text[at] {
            b'\\' => at += 1,
            b'[' => at += text[at..].iter().position(|end| *end == b']').expect("an end"),
            b'{' => {
                depth += 1;
                if depth == 1 {
                    parts.push(at);
                }
            }
            b',' if depth == 1 => parts.push(at),
            b'}' => {
                depth -= 1;
                if depth == 0 {
                    parts.push(at);
                    break;
                }
            }
            _ => {}
        }
        at += 1;
    }
    let (Some(first), Some(last)) = (parts.first(), parts.last()) else {
        return vec![text.to_vec()];
    };
    let choices = parts.windows(2).map(|ends| &text[ends[0] + 1..ends[1]]);
    choices
        .flat_map(|choice| written_out(&[&text[..*first], choice, &text[last + 1..]].concat()))
        .collect()
}

#[test]
fn it_reads_the_language_as_documented() {
    for (pattern, path, wanted) in [
        ("/**", "/", true),
        ("/a/**", "/a", false),
        ("/a/**", "/a/b/c", true),
        ("/**/a", "/a", true),
        ("/a/**/b", "/a/b", true),
        ("/a/*", "/a/b/c", false),
        ("/a?c", "/a/c", false),
        ("/[a-c]x", "/bx", true),
        ("/[!a-c]x", "/bx", false),
        ("/{a,{b,c/*}}/d", "/c/x/d", true),
        ("/{a,{b,c/*}}/d", "/c/d", false),
        ("/\\*\\{", "/*{", true),
        ("/\\*", "/a", false),
        ("**", "", true),
        ("*", "", true),
    ] {
        let glob = Glob::new(pattern, Language::WHOLE);
        assert_eq!(glob.matches(&split(path.as_bytes())), wanted, "{pattern} and {path}");
    }
    let plain = Language { any_depth: false, alternatives: false, classes: false };
    assert!(Glob::new("/**/[a]/{b,c}", plain).matches(&split(b"/x/[a]/{b,c}")));
    assert!(!Glob::new("/**/[a]/{b,c}", plain).matches(&split(b"/x/y/a/b")));
}
