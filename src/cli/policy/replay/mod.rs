//! `octroi policy replay`

use std::collections::{BTreeSet, HashMap, HashSet};
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use serde::Serialize;

use crate::cli::audit::Log;
use crate::cli::failure::Failure;
use crate::cli::moment::moment;
use crate::cli::output::{in_colour, print, print_json};
use crate::cli::target::ViewOption;
use crate::cli::unexpected;
use crate::config::{self, Config, Loaded};
use crate::control::protocol::{Answer, Request};
use crate::ledger::record::{CrossingRecord, OperationRecord, Step, Verdict};
use crate::ledger::{Entry, Record, decode_line};
use crate::policy::{Basis, Policy};
use crate::types::{Operation, TxId, ViewPath};

mod judge;
mod tally;

use judge::{Judge, Judged, Untold};
use tally::{Report, Tally};

/// Decide again what the ledger has recorded, by another configuration, and show what would differ.
///
/// NEW is a whole configuration with branches of the same names and places; it need not be mounted, nor
/// need the view. Without --view the ledger is that of the view that NEW is for. Nothing is changed.
///
/// Each record of an operation or crossing is asked of NEW at the time that it has: changes, denials and
/// crossings, and with audit.record = "everything" reads. What the ledger does not have is assumed: groups
/// are those of the user database now; owners, labels and sizes of files (but that of a crossing) are
/// unknown, and what differs by them is counted as untold; what was renamed counts as a file. UNIX permissions are no part of it.
///
/// For root, the mounting user and, while the view is mounted, audit.readers.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  \
    octroi policy replay --rules new.toml\n  \
    octroi policy replay --rules new.toml --view lab --from 2026-11-01 --to 2026-12-01\n  \
    octroi policy replay --rules new.toml --json | jq '.newly_denied.by'\n\n\
    Look at an example with: octroi audit tail -n 100000 --json | jq 'select(.seq == 17)'\n\n\
    Exit codes: 0 replayed, also where something differs; 1 it failed; 2 NEW is wrong or does not fit.")]
pub struct Args {
    /// The configuration to decide by
    #[arg(long, value_name = "NEW")]
    rules: PathBuf,
    /// Records from this time on: a date, a local date and time, RFC 3339, or how long
    /// ago, such as 2h
    #[arg(long, value_name = "TIME", value_parser = moment)]
    from: Option<Timestamp>,
    /// Records before this time
    #[arg(long, value_name = "TIME", value_parser = moment)]
    to: Option<Timestamp>,
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    view: ViewOption,
}

pub fn run(args: &Args) -> Result<(), Failure> {
    if let (Some(from), Some(to)) = (args.from, args.to)
        && to <= from
    {
        return Err(Failure::usage(format!(
            "cannot replay from {from} to {to}: it ends before it begins"
        )));
    }
    let new = load(&args.rules)?;
    let (log, old) = ledger(args, &new.config)?;
    if let Some(old) = old {
        check_places(&args.rules, &old, &places(&new.config))?;
    }
    let policy = Policy::new(new.config.policy, 1).map_err(|error| {
        Failure::usage(format!("cannot compile the policy of {}: {error}", args.rules.display()))
    })?;
    let mut replay = Replay {
        judge: Judge::new(policy),
        tally: Tally::default(),
        open: HashMap::new(),
        observed: HashSet::new(),
        next: 0,
        void_through: None,
    };
    log.each_line(|line| {
        replay.line(line, |time| {
            args.from.is_none_or(|from| from <= time) && args.to.is_none_or(|to| time < to)
        });
    })?;
    replay.finish();
    show(args, replay.tally.report())
}

#[derive(Serialize)]
struct Replayed<'a> {
    rules: &'a Path,
    #[serde(flatten)]
    report: Report,
}

fn show(args: &Args, report: Report) -> Result<(), Failure> {
    if args.json {
        return print_json(&Replayed { rules: &args.rules, report });
    }
    print(&report.text())
}

fn load(path: &Path) -> Result<Loaded, Failure> {
    config::load_unseen(path).map_err(|errors| Failure::diagnostics(errors.render(in_colour())))
}

/// Names of branches with their places.
type Places = BTreeSet<(String, ViewPath)>;

fn places(config: &Config) -> Places {
    let named = config.policy.branches.iter();
    named.map(|branch| (branch.name.to_string(), branch.at.clone())).collect()
}

/// The ledger, and the places of the view that it belongs to, where they can be known.
fn ledger(args: &Args, new: &Config) -> Result<(Log, Option<Places>), Failure> {
    if let Some(config) = args.view.view.as_deref().filter(|path| path.is_file()) {
        let old = load(config)?.config;
        return Ok((Log::of_state(&old.state)?, Some(places(&old))));
    }
    if args.view.view.is_none() {
        return Ok((Log::of_state(&new.state)?, None));
    }
    let view = args.view.find(None)?;
    match view.client.ask(&Request::Status) {
        Ok(Answer::Status(status)) => {
            let places = status.branches.into_iter().map(|branch| (branch.name, branch.at));
            Ok((Log::of_state(&status.state)?, Some(places.collect())))
        }
        Ok(_) => Err(unexpected()),
        // A reader of .audit: what does not fit is counted.
        Err(_) => Ok((Log::find(&args.view)?, None)),
    }
}

fn check_places(rules: &Path, old: &Places, new: &Places) -> Result<(), Failure> {
    let at = |(name, at): &(String, ViewPath)| format!("{name} at {at}");
    let only = |a: &Places, b: &Places| a.difference(b).map(at).collect::<Vec<_>>().join(", ");
    let (there, here) = (only(old, new), only(new, old));
    let differences: Vec<String> = [("the view has", there), (" it has", here)]
        .into_iter()
        .filter(|(_, list)| !list.is_empty())
        .map(|(who, list)| format!("{} {list}", who.trim()))
        .collect();
    if differences.is_empty() {
        return Ok(());
    }
    Err(Failure::usage(format!(
        "cannot replay by {}: its branches are others than the view's: {}",
        rules.display(),
        differences.join("; ")
    ))
    .hint("give it branches of the same names at the same places; their paths do not matter"))
}

/// Crossings that have begun and not ended are kept; more than so many at once cannot be.
const OPEN_MAX: usize = 100_000;
/// Observed operations whose own record may follow.
const OBSERVED_MAX: usize = 10_000;

/// An operation as two records of it have it: thread, whether it is a rename, both paths.
type Seen = (u32, Option<Operation>, ViewPath, Option<ViewPath>);

/// The state while the ledger is read from its beginning to its end.
struct Replay {
    judge: Judge,
    tally: Tally,
    /// From PREPARE to COMMIT, which says whether it is a directory.
    open: HashMap<TxId, (u64, Timestamp, Box<CrossingRecord>)>,
    observed: HashSet<Seen>,
    /// After the last `seq`.
    next: u64,
    /// Lines up to this `seq` were read before, from a segment whose fsync failed.
    void_through: Option<u64>,
}

impl Replay {
    fn line(&mut self, line: &[u8], wanted: impl Fn(Timestamp) -> bool) {
        let Ok(entry) = decode_line(line) else {
            return self.tally.untold(Untold::Unreadable, 1, self.next);
        };
        let Entry { seq, time, record } = entry;
        if let Record::Version(version) = &record
            && version.after_failed_sync
            && seq < self.next
        {
            // It takes the place of the first of them, so that each follows one later.
            self.void_through = Some(self.next);
        }
        self.next = seq.saturating_add(1);
        if self.void_through.is_some_and(|last| seq <= last) || !wanted(time) {
            return;
        }
        match record {
            Record::Operation(record) => {
                let cut = line.windows(SHORTENED.len()).any(|window| window == SHORTENED);
                self.operation(seq, time, &record, cut);
            }
            Record::Crossing(record) => self.step(seq, time, record),
            _ => {}
        }
    }

    fn operation(&mut self, seq: u64, time: Timestamp, record: &OperationRecord, cut: bool) {
        let times = record.count.unwrap_or(1);
        let is_told = record.written.is_some() && !record.first_write;
        if is_told || self.is_second(record) {
            return;
        }
        let is_long = |path: &ViewPath| path.as_bytes().len() >= CUT_MIN;
        if cut && (is_long(&record.path) || record.target.as_ref().is_some_and(is_long)) {
            return self.tally.untold(Untold::Shortened, times, seq);
        }
        let decided = self.judge.operation(time, record);
        let was = (record.decision != Verdict::Denied, then(record));
        let by = Then {
            rule: record.rule.as_deref(),
            gate: record.gate.as_deref().filter(|gate| *gate != NO_GATE),
        };
        self.settle(decided, was, by, (record.uid, &record.path), (times, seq));
    }

    /// Whether a record of the same operation that was only observed came before.
    fn is_second(&mut self, record: &OperationRecord) -> bool {
        let (path, target) = (&record.path, record.target.as_ref());
        let op = target.is_none().then_some(record.op);
        let seen = (record.pid, op, path.clone(), target.cloned());
        match record.decision {
            Verdict::Observed => {
                if self.observed.len() >= OBSERVED_MAX {
                    self.observed.clear();
                }
                !self.observed.insert(seen)
            }
            Verdict::Allowed => self.observed.remove(&seen),
            Verdict::Denied => false,
        }
    }

    fn step(&mut self, seq: u64, time: Timestamp, record: Box<CrossingRecord>) {
        match record.step {
            Step::Prepare if self.open.len() < OPEN_MAX => {
                self.open.insert(record.txid, (seq, time, record));
            }
            Step::Prepare => self.crossing(seq, time, &record),
            _ => {
                if let Some((seq, time, prepared)) = self.open.remove(&record.txid) {
                    let known = if record.step == Step::Commit { &record } else { &prepared };
                    self.crossing(seq, time, known);
                }
            }
        }
    }

    fn crossing(&mut self, seq: u64, time: Timestamp, record: &CrossingRecord) {
        let decided = self.judge.crossing(time, record);
        let by = record.gate.as_ref().map_or_else(String::new, |gate| format!("gate {gate}"));
        let then = Then { rule: None, gate: None };
        self.settle(decided, (true, by), then, (record.uid, &record.source), (1, seq));
    }

    fn settle(
        &mut self,
        decided: Result<Judged, Untold>,
        (was_allowed, was_by): (bool, String),
        then: Then<'_>,
        (uid, path): (u32, &ViewPath),
        (times, seq): (u64, u64),
    ) {
        let Judged { decision, assumed } = match decided {
            Ok(judged) if judged.decision.basis == Basis::Error => {
                return self.tally.untold(Untold::Branch, times, seq);
            }
            Ok(judged) => judged,
            Err(why) => return self.tally.untold(why, times, seq),
        };
        let differs = decision.allowed != was_allowed;
        let asked = |rule: &str| self.judge.asks_for_more(rule);
        if differs && (assumed || then.rule.is_some_and(asked)) {
            return self.tally.untold(Untold::Facts, times, seq);
        }
        // The gate that carries it now would look into the file too.
        if differs && then.gate.is_some() && matches!(decision.basis, Basis::Gate(_)) {
            return self.tally.untold(Untold::Content, times, seq);
        }
        self.tally.records = self.tally.records.saturating_add(times);
        if !differs {
            self.tally.same = self.tally.same.saturating_add(times);
            return;
        }
        let now = decision.basis.text();
        let by = if was_by.is_empty() { now } else { format!("{now} (then {was_by})") };
        let otherwise =
            if decision.allowed { &mut self.tally.allowed } else { &mut self.tally.denied };
        otherwise.add(by, uid, path, (times, seq));
    }

    /// What has begun and has no end in the ledger.
    fn finish(&mut self) {
        for (seq, time, record) in std::mem::take(&mut self.open).into_values() {
            self.crossing(seq, time, &record);
        }
    }
}

/// In a line whose texts were cut.
const SHORTENED: &[u8] = br#","shortened":true"#;
/// Bytes below which no text is cut.
const CUT_MIN: usize = 64;

/// In a denial for want of a gate.
const NO_GATE: &str = "none";

/// The rule or gate that denied then.
struct Then<'r> {
    rule: Option<&'r str>,
    gate: Option<&'r str>,
}

/// What denied then, as far as the record has it.
fn then(record: &OperationRecord) -> String {
    match (record.decision, &record.rule, &record.gate) {
        (Verdict::Denied, Some(rule), _) => format!("rule {rule}"),
        (Verdict::Denied, None, Some(gate)) if gate == NO_GATE => "no gate".to_owned(),
        (Verdict::Denied, None, Some(gate)) => format!("gate {gate}"),
        (Verdict::Denied, None, None) => "mode or default".to_owned(),
        (Verdict::Allowed | Verdict::Observed, ..) => String::new(),
    }
}
