//! The configuration: TOML text to validated values, every mistake with file, line and caret.
//!
//! The text is parsed once into a tree that knows where each word stands, and read section by
//! section. A mistake does not stop the reading, so that one run shows all of them; a
//! [`Config`] is given out only if there was none. [`KEYS`] lists every key: what is not in it is
//! unknown, what it marks as to come is refused, nothing is ignored.
//!
//! Reading asks the user database for names, and the file system for where paths really lead
//! (`canonicalize`). Whether a branch is fit for use, its own module says when it is opened.

mod accounts;
mod branches;
mod checks;
mod conditions;
mod diagnostic;
mod ends;
mod expect;
#[cfg(any(test, fuzzing))]
pub mod fuzzing;
mod keys;
mod lint;
mod paths;
mod places;
mod pools;
mod rules;
mod schema;
mod section;
mod syntax;
mod values;

#[cfg(test)]
mod tests;

use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use sha2::{Digest as _, Sha256};
use toml::Spanned;
use toml::de::DeTable;

use crate::branch::{BranchSpec, SpaceLimit};
use crate::error::{Errno, errno_name, errno_of};
use crate::ledger::pruned::Keep;
use crate::policy::{PolicySource, Principal};
use crate::types::{BranchIndex, BranchMode, Placement, PoolIndex, ViewPath};

pub use accounts::Account;
pub use checks::{Found, find};
pub use diagnostic::{ConfigErrors, Diagnostic, Severity};
pub use expect::{Expectations, TimeMistake, load_expectations, parse_time};
pub use keys::{KEYS, Key};
pub use schema::schema;
pub use values::parse_size;

use accounts::Accounts;
use diagnostic::Report;
use ends::Known;
use section::Section;

/// A larger file is not a configuration.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// What a file says, validated.
#[derive(Debug, Clone)]
pub struct Config {
    /// Name of the view, `[a-z0-9-]{1,32}`.
    pub view: String,
    /// Absolute path of the state folder; it need not exist yet.
    pub state: PathBuf,
    /// Rules, gates and what the policy knows of branches.
    pub policy: PolicySource,
    /// In order of declaration; the position is the branch's index.
    pub branches: Vec<BranchEntry>,
    /// In order of declaration; the position is the pool's index.
    pub pools: Vec<PoolEntry>,
    /// Limits for crossings.
    pub crossings: Crossings,
    /// How long a crossing can be undone.
    pub hold_keep: Duration,
    /// How much of a branch what can be undone may take.
    pub hold_max: SpaceLimit,
    /// What is recorded beside crossings and denials.
    pub record: RecordLevel,
    /// How much of the ledger is kept.
    pub audit_keep: Keep,
    /// Who may read `.audit`.
    pub readers: Vec<Principal>,
    /// What the policy must say, to be asked with [`Expectations::unmet`].
    pub expectations: Expectations,
}

/// A branch and its place in the view.
#[derive(Debug, Clone)]
pub struct BranchEntry {
    /// The branch. The mode of a pool's member is its pool's.
    pub spec: BranchSpec,
    /// Its place; none for a pool's member.
    pub at: Option<ViewPath>,
}

/// Several branches merged at one place of the view. No pool has the name of a branch.
#[derive(Debug, Clone)]
pub struct PoolEntry {
    /// Its position.
    pub index: PoolIndex,
    /// Its name.
    pub name: String,
    /// Its place.
    pub at: ViewPath,
    /// Branches that are in no other pool, at least one; the first that has a name wins.
    pub members: Vec<BranchIndex>,
    /// Where something new is made.
    pub place: Placement,
    /// What may change in it.
    pub mode: BranchMode,
}

/// Limits for crossings of the whole view.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Crossings {
    /// Crossings at a time, 1 to 64.
    pub parallel: usize,
    /// Bytes per second that all of them read, at least 1; none: as fast as it goes.
    pub rate: Option<u64>,
}

/// `audit.record`; crossings and denials are recorded always.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum RecordLevel {
    /// Nothing more.
    Crossings,
    /// All that changes anything.
    Mutations,
    /// Reads too.
    Everything,
}

/// A configuration as it was read.
#[derive(Debug, Clone)]
pub struct Loaded {
    /// The validated values.
    pub config: Config,
    /// What is allowed but hardly meant.
    pub warnings: Vec<Diagnostic>,
    /// The file's text.
    pub text: String,
    /// SHA-256 of the file's bytes in hexadecimal.
    pub sha256: String,
}

/// What a configuration takes for granted of the machine that it is read on, branches aside.
#[derive(Clone, Copy)]
pub struct Machine<'a> {
    /// The id of an account, `None` if there is none of that name.
    pub resolve: &'a dyn Fn(Account<'_>) -> Result<Option<u32>, Errno>,
    /// What an absolute path of a check leads to.
    pub find: &'a dyn Fn(&Path) -> std::io::Result<Found>,
}

impl Machine<'static> {
    /// This machine: its user database and its files.
    const HERE: Self = Self { resolve: &accounts::system, find: &find };
}

/// Reads and validates a file.
pub fn load(path: &Path) -> Result<Loaded, ConfigErrors> {
    load_with(path, Machine::HERE)
}

/// [`load`] as on another machine.
pub fn load_with(path: &Path, machine: Machine<'_>) -> Result<Loaded, ConfigErrors> {
    load_bytes(path, bytes_of(path)?, machine, true)
}

/// [`load`], but paths are taken as they are written, and nobody looks whether branches are there: to ask a
/// policy alone, for which whoever asks needs no rights on them.
pub fn load_unseen(path: &Path) -> Result<Loaded, ConfigErrors> {
    load_bytes(path, bytes_of(path)?, Machine::HERE, false)
}

/// What stands in a file.
fn bytes_of(path: &Path) -> Result<Vec<u8>, ConfigErrors> {
    let fail = |why: String| ConfigErrors::from(Diagnostic::about_file(path, why));
    let mut bytes = Vec::new();
    std::fs::File::open(path)
        .and_then(|file| file.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes))
        .map_err(|error| fail(format!("cannot read it: {}", io_text(&error))))?;
    if bytes.len() as u64 > FILE_BYTES_MAX {
        return Err(fail("it is larger than 1 MiB, so it is no configuration".to_owned()));
    }
    Ok(bytes)
}

/// The SHA-256 of bytes in hexadecimal, and the text that they are.
fn text_of(path: &Path, bytes: Vec<u8>) -> Result<(String, String), ConfigErrors> {
    let sha256 = Sha256::digest(&bytes).iter().map(|byte| format!("{byte:02x}")).collect();
    let text = String::from_utf8(bytes).map_err(|error| {
        let valid = error.as_bytes().get(..error.utf8_error().valid_up_to()).unwrap_or_default();
        let line = valid.iter().filter(|byte| **byte == b'\n').count().saturating_add(1);
        Diagnostic::about_file(path, format!("it is not UTF-8 text: see line {line}"))
    })?;
    Ok((sha256, text))
}

/// [`load_with`] with what stands in the file.
fn load_bytes(
    path: &Path,
    bytes: Vec<u8>,
    machine: Machine<'_>,
    looks: bool,
) -> Result<Loaded, ConfigErrors> {
    let fail = |why: String| ConfigErrors::from(Diagnostic::about_file(path, why));
    let (sha256, text) = text_of(path, bytes)?;
    let directory = std::path::absolute(path)
        .map_err(|error| fail(format!("cannot find its folder: {}", io_text(&error))))?
        .parent()
        .map_or_else(|| PathBuf::from("/"), Path::to_owned);
    let mut report = Report::new(path, &text);
    if !looks {
        report = report.without_looking();
    }
    let config = read(&text, &directory, machine, &mut report);
    let (errors, warnings) = report.finish();
    match config {
        Some(config) if errors.is_empty() => Ok(Loaded { config, warnings, text, sha256 }),
        _ => Err(ConfigErrors { errors, warnings }),
    }
}

/// The tree of a text; `None` after its mistakes were reported.
fn parse<'t>(text: &'t str, report: &mut Report) -> Option<Spanned<DeTable<'t>>> {
    let (document, mistakes) = DeTable::parse_recoverable(text);
    let place = |mistake: &toml::de::Error| mistake.span().unwrap_or(0..0);
    // What follows from the first is no help, and can be very much.
    let Some(first) = mistakes.iter().min_by_key(|mistake| place(mistake).start) else {
        return Some(document);
    };
    let span = place(first);
    syntax::report(text, span, first.message(), report);
    None
}

/// Reads all sections. `None` only after an error was reported.
fn read(text: &str, directory: &Path, machine: Machine<'_>, report: &mut Report) -> Option<Config> {
    let document = parse(text, report)?;
    let root = Section::root(document.get_ref());
    root.refuse_strangers(report);
    let accounts = Accounts::new(&root, machine.resolve, report);

    let view = root.section("view", report);
    let name = view.as_ref().and_then(|view| view.required_text("name", report));
    let name = name.filter(|name| values::check_name("a view", name, report));
    if view.is_none() {
        root.missing("view.name", report);
    }
    let mut branches = branches::read(&root, directory, report);
    let pools = pools::read(&root, &mut branches, report);
    places::check_clashes(&branches, &pools, report);
    let state = paths::state(view.as_ref(), name.as_ref().map(|n| *n.get_ref()), directory, report);
    if let Some(state) = &state {
        branches.check_state(state, report);
    }
    let state_path = state.as_ref().map(|state| state.path.as_path());
    let seen = checks::Surroundings { find: machine.find, branches: &branches, state: state_path };
    let known = Known { branches: &branches, pools: &pools };
    let policy = rules::read(&root, known, &accounts, &seen, report);

    let crossings = crossings(&root, report);
    let hold = root.section("hold", report);
    let hold_keep = hold.as_ref().and_then(|hold| hold.duration("keep", report));
    let hold_max = hold.as_ref().and_then(|hold| hold.share("max", report));
    let audit = root.section("audit", report);
    let record = audit.as_ref().and_then(|audit| audit.choice("record", &RECORD_LEVELS, report));
    let audit_keep = audit.as_ref().map(|audit| keep(audit, report)).unwrap_or_default();
    let readers = audit.as_ref().and_then(|audit| accounts.list(audit, "readers", report));
    let expectations = expect::read(&root, &accounts, &policy, report);
    Some(Config {
        view: (*name?.get_ref()).to_owned(),
        state: state?.path,
        policy,
        branches: branches.into_entries(),
        pools: pools.into_entries(),
        crossings,
        hold_keep: hold_keep.unwrap_or(Duration::from_secs(3600)),
        hold_max: hold_max.unwrap_or(SpaceLimit::Percent(10)),
        record: record.unwrap_or(RecordLevel::Mutations),
        audit_keep,
        readers: readers.unwrap_or_else(default_readers),
        expectations,
    })
}

/// Crossings at a time: by default, and at most.
const PARALLEL_DEFAULT: u64 = 2;
const PARALLEL_MAX: u64 = 64;

fn crossings(root: &Section<'_>, report: &mut Report) -> Crossings {
    let section = root.section("crossings", report);
    let parallel =
        section.as_ref().and_then(|section| section.number("parallel", 1..=PARALLEL_MAX, report));
    let rate = section.as_ref().and_then(|section| section.rate("rate", report));
    let parallel = usize::try_from(parallel.unwrap_or(PARALLEL_DEFAULT)).unwrap_or(1);
    Crossings { parallel, rate }
}

/// The least that a ledger may have: its segments then have 1 MiB.
const LEDGER_MIN: u64 = 8 << 20;

fn keep(audit: &Section<'_>, report: &mut Report) -> Keep {
    let age = audit.duration("keep", report);
    if age.is_some_and(|age| age.is_zero()) {
        report
            .warning(
                audit.value_span("keep"),
                "audit.keep is 0: every record leaves the ledger as soon as it may",
            )
            .label("nothing is kept")
            .hint("to keep all of it leave the key out; to keep a year write \"365d\"");
    }
    Keep { age, size: audit.size_of_at_least("max_size", LEDGER_MIN, report) }
}

const RECORD_LEVELS: [(&str, RecordLevel); 3] = [
    ("crossings", RecordLevel::Crossings),
    ("mutations", RecordLevel::Mutations),
    ("everything", RecordLevel::Everything),
];

/// Root and the user who mounts.
fn default_readers() -> Vec<Principal> {
    let mut readers = vec![Principal::User(0)];
    let own = rustix::process::geteuid().as_raw();
    if own != 0 {
        readers.push(Principal::User(own));
    }
    readers
}

/// An error of the system in words, with its number's name.
fn io_text(error: &std::io::Error) -> String {
    let text = error.to_string();
    let words = text.split(" (os error").next().unwrap_or(&text).to_lowercase();
    format!("{words} ({})", errno_name(errno_of(error)))
}
