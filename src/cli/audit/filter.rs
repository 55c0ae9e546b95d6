//! Which lines are wanted. A line is looked at as bytes first, and read only where it may fit.

use std::borrow::Cow;
use std::os::unix::ffi::OsStrExt as _;
use std::path::PathBuf;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use globset::{GlobBuilder, GlobMatcher};
use jiff::Timestamp;
use memchr::memmem::Finder;
use serde::Deserialize;

use crate::sys::users;
use crate::types::{Operation, TxId, Verb, ViewPath};

use super::super::failure::{Failure, cannot};
use super::super::moment::{check_order, moment};
use super::scope::Scope;

/// What tail, query, export and report have in common.
#[derive(Debug, Clone, Default, clap::Args)]
pub(super) struct FilterArgs {
    /// Only this verb (read, write, add, remove, attrs, rename, move) or operation (such as mkdir); can
    /// be given several times. A crossing is a move
    #[arg(long = "verb", visible_alias = "op", value_name = "VERB|OPERATION")]
    verbs: Vec<String>,
    /// Only this user
    #[arg(long, value_name = "NAME|UID")]
    user: Option<String>,
    /// Only this branch or pool
    #[arg(long, value_name = "NAME")]
    branch: Option<String>,
    /// Only this path of the view and what is below it, or what a pattern such as '/inbox/**/*.csv'
    /// fits; source or target. What begins with the mountpoint is taken as from there
    #[arg(long, value_name = "PATH|GLOB")]
    path: Option<PathBuf>,
    /// Only what was denied
    #[arg(long)]
    denied: bool,
    /// Only from this time on: a date, a local date and time, RFC 3339, or how long ago, such as 2h
    #[arg(long, value_name = "TIME", value_parser = moment)]
    since: Option<Timestamp>,
    /// Only this transaction
    #[arg(long, value_name = "TXID")]
    tx: Option<TxId>,
}

impl FilterArgs {
    /// Whether it narrows so much that all of it is wanted.
    pub(super) fn is_narrow(&self) -> bool {
        self.since.is_some() || self.tx.is_some()
    }

    /// The filter; `until` is the first moment that is not wanted any more.
    pub(super) fn filter(&self, until: Option<Timestamp>) -> Result<Filter, Failure> {
        check_order(("--since", self.since), ("--until", until))?;
        let mut filter = Filter { denied: self.denied, tx: self.tx, ..Filter::default() };
        filter.since = self.since.map(text_of);
        filter.until = until.map(text_of);
        for verb in &self.verbs {
            filter.operations.extend(operations(verb)?);
        }
        filter.uid = self.user.as_deref().map(uid_of).transpose()?;
        filter.branches.extend(self.branch.clone());
        filter.path = self.path.as_deref().map(Place::new).transpose()?;
        filter.needle = filter.finder();
        Ok(filter)
    }

    /// Takes what it names as the view has it: a pool for its members, a path below the mountpoint for one
    /// of the view. Gives what a reader should know of that.
    pub(super) fn settle(
        &self,
        filter: &mut Filter,
        scope: &Scope,
    ) -> Result<Option<String>, Failure> {
        if let Some(path) = self.path.as_deref().and_then(|path| scope.inside(path)) {
            filter.path = Some(Place::new(&path)?);
            filter.needle = filter.finder();
        }
        let Some(name) = &self.branch else { return Ok(None) };
        let (names, warning) = scope.branches(name);
        filter.branches = names;
        Ok(warning)
    }
}

/// A time as the ledger writes it, which sorts as text.
fn text_of(time: Timestamp) -> String {
    format!("{time:.9}")
}

fn operations(text: &str) -> Result<Vec<Operation>, Failure> {
    let verb = match text {
        "read" => Some(Verb::Read),
        "write" => Some(Verb::Write),
        "add" => Some(Verb::Add),
        "remove" => Some(Verb::Remove),
        "attrs" => Some(Verb::Attrs),
        _ => None,
    };
    let wanted = |operation: &Operation| match (verb, text) {
        (Some(verb), _) => operation.verb() == verb,
        (None, "rename") => matches!(operation, Operation::RenameSource | Operation::RenameTarget),
        (None, "move") => matches!(operation, Operation::MoveSource | Operation::MoveTarget),
        (None, name) => operation.name() == name,
    };
    let found: Vec<Operation> = Operation::ALL.into_iter().filter(wanted).collect();
    if found.is_empty() {
        let names: Vec<_> = Operation::ALL.iter().map(|operation| operation.name()).collect();
        return Err(Failure::usage(format!("cannot filter by {text}: it is no verb or operation"))
            .hint(format!(
                "verbs are read, write, add, remove, attrs, rename and move; operations {}",
                names.join(", ")
            )));
    }
    Ok(found)
}

fn uid_of(text: &str) -> Result<u32, Failure> {
    if let Ok(uid) = text.parse() {
        return Ok(uid);
    }
    let found = users::uid_of(text).map_err(cannot(format!("look up user {text}")))?;
    found.ok_or_else(|| Failure::usage(format!("cannot filter by user {text}: there is none")))
}

/// A path with what is below, or a pattern.
#[derive(Debug, Clone)]
enum Place {
    Below(ViewPath),
    Glob(GlobMatcher, String),
}

impl Place {
    fn new(path: &std::path::Path) -> Result<Self, Failure> {
        let wrong = |why: &str| {
            Failure::usage(format!("cannot filter by path {}: {why}", path.display()))
                .hint("paths are those of the view, such as /inbox/a.csv or '/inbox/**/*.csv'")
        };
        let text = path.to_str();
        if let Some(text) = text.filter(|text| text.contains(['*', '?', '[', '{'])) {
            if !text.starts_with('/') {
                return Err(wrong("it does not begin with /"));
            }
            let glob = GlobBuilder::new(text).literal_separator(true).build();
            let glob = glob.map_err(|error| wrong(&error.to_string()))?;
            return Ok(Self::Glob(glob.compile_matcher(), text.to_owned()));
        }
        ViewPath::parse(path).map(Self::Below).ok_or_else(|| wrong("it is no path of a view"))
    }

    fn fits(&self, path: &[u8]) -> bool {
        let Some(path) = ViewPath::parse(std::path::Path::new(std::ffi::OsStr::from_bytes(path)))
        else {
            return false;
        };
        match self {
            Self::Below(top) => path.below(top).is_some(),
            Self::Glob(glob, _) => glob.is_match(path.as_path()),
        }
    }

    /// The folder that all of it is in.
    fn top(&self) -> Option<ViewPath> {
        match self {
            Self::Below(top) => Some(top.clone()),
            Self::Glob(_, text) => ViewPath::parse(std::path::Path::new(literal_of(text))),
        }
    }

    /// Bytes that every line with such a path has; none where that is not sure.
    fn needle(&self) -> Option<Vec<u8>> {
        let literal = match self {
            Self::Below(top) => top.as_path().to_str()?,
            Self::Glob(_, text) => literal_of(text),
        };
        // As it stands in JSON, without the quotation marks.
        let json = serde_json::to_string(literal).ok()?;
        let inner = json.strip_prefix('"')?.strip_suffix('"')?;
        (inner.len() > 1).then(|| inner.as_bytes().to_vec())
    }
}

/// The folders that a pattern begins with.
fn literal_of(glob: &str) -> &str {
    let literal = glob.split(['*', '?', '[', '{', '\\']).next().unwrap_or_default();
    literal.rsplit_once('/').map_or("", |(folder, _)| folder)
}

/// See [`FilterArgs`]. The default wants everything.
#[derive(Debug, Default)]
pub(super) struct Filter {
    /// Any of these; all if empty.
    operations: Vec<Operation>,
    uid: Option<u32>,
    /// Any of these; all if empty.
    branches: Vec<String>,
    path: Option<Place>,
    denied: bool,
    since: Option<String>,
    until: Option<String>,
    tx: Option<TxId>,
    /// Bytes that each line which fits has.
    needle: Option<Finder<'static>>,
}

/// What is asked about a line.
#[derive(Deserialize)]
struct Fields<'a> {
    #[serde(borrow)]
    kind: Cow<'a, str>,
    #[serde(borrow)]
    op: Option<Cow<'a, str>>,
    #[serde(borrow)]
    decision: Option<Cow<'a, str>>,
    uid: Option<u32>,
    #[serde(borrow)]
    branch: Option<Cow<'a, str>>,
    #[serde(borrow)]
    branches: Option<Vec<Cow<'a, str>>>,
    #[serde(borrow)]
    path: Option<Cow<'a, str>>,
    #[serde(borrow)]
    path_b64: Option<Cow<'a, str>>,
    #[serde(borrow)]
    source: Option<Cow<'a, str>>,
    #[serde(borrow)]
    source_b64: Option<Cow<'a, str>>,
    #[serde(borrow)]
    target: Option<Cow<'a, str>>,
    #[serde(borrow)]
    target_b64: Option<Cow<'a, str>>,
    #[serde(borrow)]
    txid: Option<Cow<'a, str>>,
    #[serde(borrow)]
    undoes: Option<Cow<'a, str>>,
}

impl Filter {
    /// What was appended in a span of time.
    pub(super) fn between(since: Option<Timestamp>, until: Option<Timestamp>) -> Self {
        Self { since: since.map(text_of), until: until.map(text_of), ..Self::default() }
    }

    /// The transaction that alone is wanted.
    pub(super) fn tx(&self) -> Option<TxId> {
        self.tx
    }

    /// The folder of the view that alone is looked at.
    pub(super) fn top(&self) -> Option<ViewPath> {
        self.path.as_ref().and_then(Place::top)
    }

    fn finder(&self) -> Option<Finder<'static>> {
        self.rarest().map(|needle| Finder::new(&needle).into_owned())
    }

    /// Of the bytes that must be there, those that are likely the rarest.
    fn rarest(&self) -> Option<Vec<u8>> {
        let tx = self.tx.map(|txid| txid.to_string().into_bytes());
        let denied = || self.denied.then(|| br#""decision":"denied""#.to_vec());
        let path = || self.path.as_ref().and_then(Place::needle);
        let user = || self.uid.map(|uid| format!("\"uid\":{uid}").into_bytes());
        let operation = || match self.operations.as_slice() {
            // What has another operation's record, see `wants`.
            [Operation::MoveSource | Operation::MoveTarget | Operation::RenameTarget] => None,
            [one] => Some(format!("\"op\":\"{one}\"").into_bytes()),
            _ => None,
        };
        tx.or_else(denied).or_else(path).or_else(operation).or_else(user)
    }

    /// Whether no line is refused.
    fn wants_all(&self) -> bool {
        let Self { operations, uid, branches, path, denied, since, until, tx, needle: _ } = self;
        let any = uid.is_some() || path.is_some() || *denied || tx.is_some();
        !any && operations.is_empty() && branches.is_empty() && since.is_none() && until.is_none()
    }

    /// Hands out the lines of a piece that fit, without their newlines, each with where it begins; false once
    /// `see` has enough.
    pub(super) fn each_match(
        &self,
        piece: &[u8],
        see: &mut impl FnMut(usize, &[u8]) -> Result<bool, Failure>,
    ) -> Result<bool, Failure> {
        let mut rest = piece;
        while !rest.is_empty() {
            // Up to the line that may be wanted.
            if let Some(needle) = &self.needle {
                let Some(at) = needle.find(rest) else { return Ok(true) };
                let before = rest.get(..at).unwrap_or_default();
                let start = memchr::memrchr(b'\n', before).map_or(0, |at| at.saturating_add(1));
                rest = rest.get(start..).unwrap_or_default();
            }
            let at = piece.len().saturating_sub(rest.len());
            let end = memchr::memchr(b'\n', rest).unwrap_or(rest.len());
            let (line, after) = rest.split_at(end);
            rest = after.strip_prefix(b"\n").unwrap_or(after);
            if !line.is_empty() && self.fits(line) && !see(at, line)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Whether a line, without its newline, is wanted. What is no line of a ledger fits only where everything does.
    pub(super) fn fits(&self, line: &[u8]) -> bool {
        if self.wants_all() {
            return true;
        }
        if self.needle.as_ref().is_some_and(|needle| needle.find(line).is_none()) {
            return false;
        }
        let after = |time: &[u8], bound: &Option<String>| {
            bound.as_ref().is_none_or(|bound| time >= bound.as_bytes())
        };
        let Some(time) = time_of(line) else { return false };
        if !after(time, &self.since) || (self.until.is_some() && after(time, &self.until)) {
            return false;
        }
        let plain = self.operations.is_empty() && self.uid.is_none() && self.branches.is_empty();
        if plain && self.path.is_none() && !self.denied && self.tx.is_none() {
            return true;
        }
        serde_json::from_slice(line).is_ok_and(|fields| self.wants(&fields))
    }

    fn wants(&self, fields: &Fields<'_>) -> bool {
        let is = |field: &Option<Cow<'_, str>>, wanted: &str| field.as_deref() == Some(wanted);
        let crossing = fields.kind == "crossing";
        let operation = self.operations.is_empty()
            || self.operations.iter().any(|wanted| match wanted {
                Operation::MoveSource | Operation::MoveTarget if crossing => true,
                // A rename and a link have one record, under one of their sides.
                Operation::RenameTarget => {
                    is(&fields.op, Operation::RenameSource.name()) || is(&fields.op, wanted.name())
                }
                Operation::MoveTarget => {
                    is(&fields.op, Operation::MoveSource.name()) || is(&fields.op, wanted.name())
                }
                wanted => is(&fields.op, wanted.name()),
            });
        let among = fields.branches.as_deref().unwrap_or_default();
        let branch = self.branches.is_empty()
            || self.branches.iter().any(|wanted| {
                is(&fields.branch, wanted) || among.iter().any(|name| name == wanted)
            });
        let path = self.path.as_ref().is_none_or(|place| {
            let pairs = [
                (&fields.path, &fields.path_b64),
                (&fields.source, &fields.source_b64),
                (&fields.target, &fields.target_b64),
            ];
            pairs.into_iter().any(|(text, exact)| {
                let exact = exact.as_ref().and_then(|b64| STANDARD.decode(b64.as_bytes()).ok());
                let text = || text.as_ref().map(|text| text.as_bytes().to_vec());
                exact.or_else(text).is_some_and(|path| place.fits(&path))
            })
        });
        let tx = self.tx.is_none_or(|txid| {
            let text = txid.to_string();
            is(&fields.txid, &text) || is(&fields.undoes, &text)
        });
        let denied = !self.denied || is(&fields.decision, "denied");
        let user = self.uid.is_none_or(|uid| fields.uid == Some(uid));
        operation && branch && path && tx && denied && user
    }
}

/// The time of a line as it is written: `{"seq":7,"time":"…"`.
pub(super) fn time_of(line: &[u8]) -> Option<&[u8]> {
    let rest = line.strip_prefix(b"{\"seq\":")?;
    let comma = memchr::memchr(b',', rest)?;
    let rest = rest.get(comma..)?.strip_prefix(b",\"time\":\"")?;
    rest.get(..memchr::memchr(b'"', rest)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINES: [&str; 8] = [
        r#"{"seq":0,"time":"2026-11-23T10:00:00.000000000Z","kind":"version","view":"lab"}"#,
        r#"{"seq":1,"time":"2026-11-23T10:00:01.000000000Z","kind":"operation","op":"mkdir","decision":"denied","uid":10,"path":"/inbox/a b","branch":"inbox"}"#,
        r#"{"seq":2,"time":"2026-11-23T10:00:02.000000000Z","kind":"operation","op":"unlink","decision":"allowed","uid":1,"path":"/inboxes/\"x","branch":"other"}"#,
        r#"{"seq":3,"time":"2026-11-23T10:00:03.000000000Z","synced":3,"kind":"crossing","txid":"01ARZ3NDEKTSV4RRFFQ69G5FAV","uid":1,"source":"/inbox/d/x.csv","target":"/review/y","branches":["inbox","review"]}"#,
        r#"{"seq":4,"time":"2026-11-23T10:00:04.000000000Z","kind":"crossing","txid":"01ARZ3NDEKTSV4RRFFQ69G5FAW","undoes":"01ARZ3NDEKTSV4RRFFQ69G5FAV","uid":0,"source":"/review/y","target":"/inbox/d/x.csv","branches":["review","inbox"]}"#,
        r#"{"seq":5,"time":"2026-11-23T10:00:05.000000000Z","kind":"operation","op":"rename-source","decision":"observed","uid":1,"path":"/other/\ufffd","path_b64":"L290aGVyL/8=","target":"/other/denied","branch":"other"}"#,
        r#"{"seq":6,"time":"2026-11-23T10:00:06.000000000Z","kind":"purge","txid":"01ARZ3NDEKTSV4RRFFQ69G5FAV","reason":"\"decision\":\"denied\""}"#,
        "no line of a ledger",
    ];

    #[track_caller]
    fn check(arguments: &[&str], expected: &[usize]) {
        use clap::Parser as _;
        #[derive(clap::Parser)]
        struct Line {
            #[command(flatten)]
            filter: FilterArgs,
            #[arg(long, value_parser = moment)]
            until: Option<Timestamp>,
        }
        let line = Line::try_parse_from([&["x"], arguments].concat()).expect("arguments");
        let filter = line.filter.filter(line.until).expect("a filter");
        let fitting = |(at, line): (usize, &&str)| filter.fits(line.as_bytes()).then_some(at);
        let alone: Vec<usize> = LINES.iter().enumerate().filter_map(fitting).collect();
        assert_eq!(alone, expected, "{arguments:?}");
        let mut found = Vec::new();
        let piece = LINES.join("\n") + "\n";
        let more = filter.each_match(piece.as_bytes(), &mut |at, line| {
            assert!(piece.as_bytes()[at..].starts_with(line), "not at {at}");
            found.push(LINES.iter().position(|known| known.as_bytes() == line).expect("a line"));
            Ok(true)
        });
        assert!(more.expect("no failure"));
        assert_eq!(found, expected, "{arguments:?} in a piece");
    }

    #[test]
    fn lines_that_fit_are_found() {
        check(&[], &[0, 1, 2, 3, 4, 5, 6, 7]);
        check(&["--denied"], &[1]);
        check(&["--user", "1"], &[2, 3, 5]);
        check(&["--user", "root"], &[4]);
        check(&["--branch", "inbox"], &[1, 3, 4]);
        check(&["--verb", "add"], &[1, 3, 4, 5]);
        check(&["--verb", "remove", "--user", "1"], &[2, 3, 5]);
        check(&["--op", "mkdir", "--op", "unlink"], &[1, 2]);
        check(&["--op", "mkdir"], &[1]);
        check(&["--verb", "move"], &[3, 4]);
        check(&["--op", "move-source"], &[3, 4]);
        check(&["--verb", "rename"], &[5]);
        check(&["--path", "/inbox"], &[1, 3, 4]);
        check(&["--path", "/inbox/a b"], &[1]);
        check(&["--path", "/inboxes/\"x"], &[2]);
        check(&["--path", "/inbox/**/*.csv"], &[3, 4]);
        check(&["--path", "/*/denied"], &[5]);
        check(&["--path", "/other/?"], &[5]);
        check(&["--path", "/"], &[1, 2, 3, 4, 5]);
        check(&["--tx", "01ARZ3NDEKTSV4RRFFQ69G5FAV"], &[3, 4, 6]);
        check(&["--since", "2026-11-23T10:00:05Z"], &[5, 6]);
        check(&["--since", "2026-11-23T10:00:01Z", "--until", "2026-11-23T10:00:03Z"], &[1, 2]);
    }

    #[test]
    fn a_span_that_ends_before_it_begins_is_refused() {
        let since = Some("2026-11-23T10:00:01Z".parse().expect("a time"));
        let until = "2026-11-23T10:00:00Z".parse().expect("a time");
        let args = FilterArgs { since, ..FilterArgs::default() };
        let wrong = args.filter(Some(until)).expect_err("refused");
        assert!(wrong.message.contains("--since is later than --until"), "{}", wrong.message);
        assert!(args.filter(since).is_ok());
    }

    #[test]
    fn a_pool_stands_for_its_members_and_a_path_below_the_mountpoint_for_one_of_the_view() {
        let scope = Scope::with_pool("/mnt/lab", "/inbox", "drop", &["inbox", "other"]);
        let settled = |args: &FilterArgs| {
            let mut filter = args.filter(None).expect("a filter");
            let warning = args.settle(&mut filter, &scope).expect("settled");
            let fitting = |(at, line): (usize, &&str)| filter.fits(line.as_bytes()).then_some(at);
            let fitting: Vec<usize> = LINES.iter().enumerate().filter_map(fitting).collect();
            (fitting, warning.is_some())
        };
        let branch = |name: &str| FilterArgs { branch: Some(name.into()), ..FilterArgs::default() };
        assert_eq!(settled(&branch("drop")), (vec![1, 2, 3, 4, 5], false));
        // A former branch, which only the ledger knows.
        assert_eq!(settled(&branch("review")), (vec![3, 4], true));
        let path = |path: &str| FilterArgs { path: Some(path.into()), ..FilterArgs::default() };
        assert_eq!(settled(&path("/mnt/lab/inbox")), (vec![1, 3, 4], false));
        assert_eq!(settled(&path("/mnt/lab/inbox/**/*.csv")), (vec![3, 4], false));
        assert_eq!(settled(&path("/inbox")), (vec![1, 3, 4], false));
    }

    #[test]
    fn mistakes_are_said() {
        let refused = |args: FilterArgs| args.filter(None).expect_err("refused").message;
        let verbs = FilterArgs { verbs: vec!["mkdirs".into()], ..FilterArgs::default() };
        assert!(refused(verbs).contains("mkdirs"));
        let user = FilterArgs { user: Some("no such user".into()), ..FilterArgs::default() };
        assert!(refused(user).contains("no such user"));
        for wrong in ["inbox", "inbox/*", "/a/../b", "/[a"] {
            let path = FilterArgs { path: Some(wrong.into()), ..FilterArgs::default() };
            assert!(refused(path).contains(wrong), "{wrong}");
        }
    }
}
