//! `[[expect]]`: what the policy must say, and what it does not.

use std::path::Path;
use std::sync::Arc;

use jiff::civil::DateTime;
use jiff::{Timestamp, ZonedDateTime};
use toml::de::DeValue;

use super::accounts::{self, Account, Accounts};
use super::diagnostic::{ConfigErrors, Diagnostic, Report, nearest};
use super::section::{Section, Word};
use super::{Config, conditions};
use crate::error::{Errno, errno_name};
use crate::policy::{Expectation, Given, Policy, PolicySource, Subject, Unmet, Wanted};
use crate::sys::users;
use crate::types::{Operation, ViewPath};

const RESULTS: [(&str, bool); 2] = [("allow", true), ("deny", false)];

/// What decides, besides rules and gates.
const BASES: [&str; 5] = ["mode", "default", "no gate", "label", "virtual"];

/// The group of who asks where the expectation names none: it is in no list.
const NO_GROUP: u32 = u32::MAX;

/// Expectations and where each stands.
#[derive(Debug, Clone, Default)]
pub struct Expectations {
    /// In the order of the file.
    pub list: Vec<Expectation>,
    /// For each, a diagnostic at its `result` that wants its message.
    places: Vec<Diagnostic>,
}

impl Expectations {
    /// An error, with its place, for each that a policy does not meet.
    pub fn unmet(&self, policy: &Policy) -> Vec<Diagnostic> {
        let each = self.list.iter().zip(&self.places);
        each.filter_map(|(expected, place)| {
            let mut unmet = place.clone();
            unmet.message = policy.meets(expected).err()?.message;
            Some(unmet)
        })
        .collect()
    }
}

impl Expectations {
    /// Each that a policy does not meet, with its line and what came instead.
    pub fn each_unmet(&self, policy: &Policy) -> Vec<(&Expectation, Option<usize>, Unmet)> {
        let each = self.list.iter().zip(&self.places);
        each.filter_map(|(expected, place)| {
            Some((expected, place.line(), policy.meets(expected).err()?))
        })
        .collect()
    }
}

/// Reads a file that has nothing but `[[expect]]`, to be asked of the policy of `config`.
pub fn load_expectations(path: &Path, config: &Config) -> Result<Expectations, ConfigErrors> {
    load_expectations_with(path, config, &accounts::system)
}

/// [`load_expectations`] with another user database.
pub(super) fn load_expectations_with(
    path: &Path,
    config: &Config,
    resolve: &dyn Fn(Account<'_>) -> Result<Option<u32>, Errno>,
) -> Result<Expectations, ConfigErrors> {
    let (_, text) = super::text_of(path, super::bytes_of(path)?)?;
    let mut report = Report::new(path, &text);
    let mut expectations = Expectations::default();
    if let Some(document) = super::parse(&text, &mut report) {
        let root = Section::root(document.get_ref());
        for key in root.keys().iter().filter(|key| *key.get_ref() != "expect") {
            report
                .error(key.span(), format!("unknown key {}", key.get_ref()))
                .hint("a file of expectations has [[expect]] alone; roles are not known in it");
        }
        let accounts = Accounts::new(&root, resolve, &mut report);
        expectations = read(&root, &accounts, &config.policy, &mut report);
    }
    let (errors, warnings) = report.finish();
    match errors.is_empty() {
        true => Ok(expectations),
        false => Err(ConfigErrors { errors, warnings }),
    }
}

/// Reads `expect`. What has a mistake is left out, and reported.
pub(super) fn read<'t>(
    root: &Section<'t>,
    accounts: &Accounts<'t>,
    policy: &PolicySource,
    report: &mut Report,
) -> Expectations {
    // Rules and gates with mistakes are not in the policy: their names would be called unknown.
    let policy = (!report.has_errors()).then_some(policy);
    let mut expectations = Expectations::default();
    for (section, number) in root.tables("expect", report).iter().zip(1usize..) {
        let Some(expected) = read_one(section, number, accounts, policy, report) else { continue };
        let place = report.about(section.value_span("result"), String::new());
        expectations.list.push(expected);
        expectations.places.push(place);
    }
    expectations
}

fn read_one<'t>(
    section: &Section<'t>,
    number: usize,
    accounts: &Accounts<'t>,
    policy: Option<&PolicySource>,
    report: &mut Report,
) -> Option<Expectation> {
    let subject = subject(section, accounts, report);
    let wanted = wanted(section, report);
    let path = section
        .required_text("path", report)
        .and_then(|word| path_of(section, "path", &word, report));
    let target =
        section.text("target", report).and_then(|word| path_of(section, "target", &word, report));
    let is_directory = section.flag("directory", report).unwrap_or(false);
    if !section.has("result") {
        section.missing("result", report);
    }
    let allowed = section.choice("result", &RESULTS, report);
    let by = section.text("by", report);
    if let (Some(by), Some(policy)) = (&by, policy) {
        check_basis(by, policy, report);
    }
    let facts = facts(section, accounts, report);
    if let Some(wanted) = wanted {
        check_facts(section, wanted, report);
    }
    let line = report.line_of(&section.name.span());
    if let Some(policy) = policy {
        let is_virtual = by.as_ref().is_some_and(|by| *by.get_ref() == "virtual");
        for (key, path) in [("path", &path), ("target", &target)] {
            if let Some(path) = path {
                check_place(section, key, path, is_virtual, policy, report);
            }
        }
    }
    let (subject, wanted, facts) = (subject?, wanted?, facts?);
    let owner = facts.owner.or(Some(subject.uid));
    Some(Expectation {
        name: format!("expect {number}, line {line}"),
        operation: if is_directory { wanted.directory } else { wanted.file },
        path: path?,
        target,
        is_directory,
        facts: Given { owner, ..facts },
        allowed: allowed?,
        by: by.map(|by| (*by.get_ref()).to_owned()),
        subject,
    })
}

/// `as` and `groups`.
fn subject<'t>(
    section: &Section<'t>,
    accounts: &Accounts<'t>,
    report: &mut Report,
) -> Option<Subject> {
    let given = section.texts("groups", None, report).map(|words| {
        let groups: Vec<_> = words.iter().map(|word| accounts.group(word, report)).collect();
        groups.into_iter().collect::<Option<Vec<u32>>>()
    });
    let word = section.required_text("as", report)?;
    let uid = accounts.user(&word, report)?;
    let groups = match given {
        Some(groups) => groups?,
        None => match users::groups_of(uid) {
            Ok(groups) => groups,
            Err(errno) => {
                let why = errno_name(errno);
                report
                    .error(word.span(), format!("cannot look up the groups of uid {uid}: {why}"))
                    .hint("give expect.groups");
                return None;
            }
        },
    };
    let gid = groups.first().copied().unwrap_or(NO_GROUP);
    Some(Subject { uid, gid, groups: Arc::from(groups) })
}

/// `do`, and whether `target` goes with it.
fn wanted(section: &Section<'_>, report: &mut Report) -> Option<Wanted> {
    let word = section.required_text("do", report)?;
    let text = *word.get_ref();
    let Ok(wanted) = text.parse::<Wanted>() else {
        let operations = Operation::ALL.iter().map(|operation| operation.name());
        let error =
            report.error(word.span(), format!("`{text}` is neither a verb nor an operation"));
        if let Some(near) = nearest(text, Wanted::VERBS.into_iter().chain(operations.clone())) {
            error.label(format!("did you mean `{near}`?"));
        }
        error
            .hint(format!("verbs: {}", Wanted::VERBS.join(", ")))
            .hint(format!("operations: {}", operations.collect::<Vec<_>>().join(", ")));
        return None;
    };
    match (wanted.is_two_sided(), section.has("target")) {
        (true, false) => {
            report
                .error(word.span(), format!("expect.target is missing: {text} has two paths"))
                .hint("target = \"/...\" is where it leads");
        }
        (false, true) => {
            report
                .error(section.span_of("target"), format!("{text} has one path, and no target"))
                .other(word.span(), "this is asked");
        }
        _ => return Some(wanted),
    }
    None
}

fn path_of(
    section: &Section<'_>,
    key: &str,
    word: &Word<'_>,
    report: &mut Report,
) -> Option<ViewPath> {
    let text = *word.get_ref();
    let path = ViewPath::parse(Path::new(text)).filter(|_| !text.contains('\0'));
    if path.is_none() {
        report
            .error(word.span(), format!("{} is not a path of the view", section.path_of(key)))
            .hint("an absolute path without `..`, such as \"/inbox/a.csv\"");
    }
    path
}

/// Reports a path where no branch lies, of which everything but reading is denied anyway, and warns of what
/// looks like a pattern.
fn check_place(
    section: &Section<'_>,
    key: &str,
    path: &ViewPath,
    is_virtual: bool,
    policy: &PolicySource,
    report: &mut Report,
) {
    let text = path.to_string();
    if text.contains(['*', '?', '{']) {
        report
            .warning(section.value_span(key), format!("`{text}` is one path, not a pattern"))
            .label("asked as it stands, wildcards included")
            .hint("give the path of one file that is meant");
    }
    let on_the_way = |at: &ViewPath| at.below(path).is_some();
    let places = || policy.branches.iter().map(|branch| &branch.at);
    if is_virtual || !policy.branches_at(path).is_empty() || places().any(on_the_way) {
        return;
    }
    let error = report.error(section.value_span(key), format!("no branch or pool lies at {text}"));
    let own: Vec<_> = path.components().collect();
    let near = places().find_map(|at| {
        let depth = at.components().count();
        let head: Vec<_> = own.iter().take(depth).map(|name| name.to_string_lossy()).collect();
        let head = format!("/{}", head.join("/"));
        let place = at.to_string();
        nearest(&head, [place.as_str()])?;
        let rest = own.iter().skip(depth);
        Some(rest.fold(at.clone(), |path, name| path.join(name)))
    });
    if let Some(near) = near {
        error.label(format!("did you mean `{near}`?"));
    }
    let mut all: Vec<_> = places().map(|at| at.to_string()).collect();
    all.dedup();
    error
        .hint(format!("places of branches and pools: {}", all.join(", ")))
        .hint("by = \"virtual\" says that a folder which no branch provides is meant");
}

/// Reports a `by` that no decision could have.
fn check_basis(by: &Word<'_>, policy: &PolicySource, report: &mut Report) {
    let rules = policy.rules.iter().map(|rule| format!("rule {}", rule.name));
    let gates = policy.gates.iter().map(|gate| format!("gate {}", gate.name));
    let known: Vec<String> = rules.chain(gates).chain(BASES.map(str::to_owned)).collect();
    let text = *by.get_ref();
    if known.iter().any(|name| name == text) {
        return;
    }
    let error = report.error(by.span(), format!("nothing called `{text}` can decide"));
    if let Some(near) = nearest(text, known.iter().map(String::as_str)) {
        error.label(format!("did you mean `{near}`?"));
    }
    error.hint(format!("one of: {}", known.join(", ")));
}

/// Reports facts that no rule asks of the operation, so that what is meant is not what is asked.
fn check_facts(section: &Section<'_>, wanted: Wanted, report: &mut Report) {
    let operation = wanted.file;
    let labels = [Operation::Setxattr, Operation::Removexattr];
    let is_sized = |operation: Operation| operation.has_size();
    let checks: [(&str, bool, &str, Vec<Operation>); 2] = [
        (
            "size",
            is_sized(operation) || wanted.is_two_sided(),
            "makes no file larger",
            Operation::ALL.into_iter().filter(|operation| is_sized(*operation)).collect(),
        ),
        ("changes_labels", labels.contains(&operation), "changes no labels", labels.to_vec()),
    ];
    for (key, fits, why, operations) in checks {
        if fits || !section.has(key) {
            continue;
        }
        let names: Vec<_> = operations.into_iter().map(Operation::name).collect();
        report
            .error(section.span_of(key), format!("{operation} {why}"))
            .other(section.value_span("do"), format!("this asks for {operation}"))
            .hint(format!("these do: {}", names.join(", ")));
    }
}

/// What rules may ask; without `owner` it is to be filled in.
fn facts<'t>(section: &Section<'t>, accounts: &Accounts<'t>, report: &mut Report) -> Option<Given> {
    let now = match section.has("at") {
        true => time(section, report),
        false => Some(Timestamp::now()),
    };
    let labels = match section.has("labels") {
        true => conditions::labels(section, None, report),
        false => Some(Vec::new()),
    };
    let size_after = section.size("size", report);
    let changes_labels = section.flag("changes_labels", report).unwrap_or(false);
    let owner = section.text("owner", report).and_then(|word| accounts.user(&word, report));
    Some(Given { now: now?, size_after, owner, labels: labels?, changes_labels })
}

/// `at`: a text with an offset or a zone, or TOML's own date and time.
fn time(section: &Section<'_>, report: &mut Report) -> Option<Timestamp> {
    let text = match section.value("at")? {
        DeValue::String(text) => text.to_string(),
        DeValue::Datetime(time) => time.to_string(),
        _ => String::new(),
    };
    let mistake = match parse_time(&text) {
        Ok(time) => return Some(time),
        Err(mistake) => mistake,
    };
    report
        .error(section.value_span("at"), format!("{} is not a time", section.path_of("at")))
        .label(mistake.to_string())
        .hint("such as \"2026-01-05T09:00:00Z\" or \"2026-01-05T09:00[Europe/Paris]\"");
    None
}

/// Why a text is no time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TimeMistake {
    /// It is something else, or lacks its zone.
    #[error("expected a date and time with an offset or a zone")]
    NoTime,
    /// Clocks are put forward over it.
    #[error("the clocks of that zone skip this time")]
    Skipped,
}

/// Takes a date and time with an offset or a zone, such as `2026-01-05T09:00:00Z` or
/// `2026-01-05T09:00[Europe/Paris]`. Of a time that comes twice in autumn the first is meant.
pub fn parse_time(text: &str) -> Result<Timestamp, TimeMistake> {
    if let Ok(time) = text.parse::<Timestamp>() {
        return Ok(time);
    }
    let zoned: ZonedDateTime = text.parse().map_err(|_| TimeMistake::NoTime)?;
    match text.parse::<DateTime>() {
        Ok(written) if written != zoned.datetime() => Err(TimeMistake::Skipped),
        _ => Ok(zoned.timestamp()),
    }
}
