//! `octroi audit report`

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use jiff::Timestamp;

use crate::ledger::record::{CrossingRecord, GapRecord, OperationRecord, Step, Verdict};
use crate::ledger::verify::{Report as Verified, steadily, verify};
use crate::ledger::{Entry, Record, decode_line};
use crate::types::{TxId, Verb, counted};

use super::super::failure::{Failure, cannot};
use super::super::moment::{check_order, moment};
use super::super::output::{local_time, plain, print, size};
use super::super::target::ViewOption;
use super::super::tx;
use super::filter::Filter;
use super::log::Log;
use super::signed::Signed;

/// What happened, as Markdown: who did what, crossings by gate, denials by rule, changes of the policy,
/// and whether the ledger is as it was signed.
///
/// The ledger is verified as a whole, as by octroi audit verify. Ends with 1 if it is not as it was
/// signed.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  \
    octroi audit report --from 2026-11-01 --to 2026-12-01 > november.md\n  \
    octroi audit report --from 7d --view lab/octroi.toml")]
pub(super) struct ReportArgs {
    /// Records from this time on: a date, a local date and time, RFC 3339, or how long ago, such as 2h
    #[arg(long, value_name = "TIME", value_parser = moment)]
    from: Option<Timestamp>,
    /// Records before this time
    #[arg(long, value_name = "TIME", value_parser = moment)]
    to: Option<Timestamp>,
    #[command(flatten)]
    view: ViewOption,
}

pub(super) fn run(args: &ReportArgs) -> Result<(), Failure> {
    check_order(("--from", args.from), ("--to", args.to))?;
    let log = Log::find(&args.view)?;
    let filter = Filter::between(args.from, args.to);
    let mut tally = Tally::default();
    log.each_match(&filter, |_at, line| {
        match decode_line(line) {
            Ok(entry) => tally.take(&entry),
            Err(_) => tally.unreadable = tally.unreadable.saturating_add(1),
        }
        Ok(true)
    })?;
    let (place, verified) = verified(&args.view)?;
    print(&tally.markdown(args, &place, &verified))?;
    let problems = match &verified {
        Ok(report) => (report.problems.len() as u64).saturating_add(report.more_problems),
        Err(why) => {
            return Err(Failure::new(format!("cannot verify the ledger {place}: {why}")));
        }
    };
    match problems {
        0 => Ok(()),
        some => Err(Failure::new(format!(
            "the ledger {place} is not as it was signed: {}",
            counted(some, "problem", "problems")
        ))),
    }
}

/// Where the ledger is, and what came of verifying it; why it could not be verified.
fn verified(view: &ViewOption) -> Result<(String, Result<Verified, String>), Failure> {
    let mut signed = Signed::find(view)?;
    let notes = signed.find_copies();
    let place = signed.place.clone();
    let key = match &signed.key {
        Ok(key) => key,
        Err(why) => return Ok((place, Err(format!("its key cannot be read: {why}")))),
    };
    let attempt = format!("verify the ledger {place}");
    let verified = steadily(|| verify(&signed.lines, &signed.against(key, None)?, &mut |_| {}));
    let mut report = verified.map_err(cannot(attempt))?;
    report.notes.extend(notes);
    Ok((place, Ok(report)))
}

/// What a user did.
#[derive(Default)]
struct Done {
    by_verb: BTreeMap<&'static str, u64>,
    crossings: u64,
    denied: u64,
}

/// What came of a gate.
#[derive(Default)]
struct Gate {
    done: u64,
    aborted: u64,
    put_back: u64,
    /// However often they did.
    dead: BTreeSet<TxId>,
    bytes: u64,
}

/// What a rule denied.
#[derive(Default)]
struct Denials {
    count: u64,
    users: BTreeSet<u32>,
    reason: String,
    last: String,
    /// Of the last one.
    example: String,
}

/// A policy that came in force, perhaps several times in a row.
struct InForce {
    sha256: String,
    /// How often.
    count: u64,
    first: String,
    last: String,
    /// Who, once each.
    by: Vec<String>,
    /// In place of another while mounted, the first time.
    replaced: Option<String>,
}

#[derive(Default)]
struct Tally {
    lines: u64,
    unreadable: u64,
    times: Option<(Timestamp, Timestamp)>,
    users: BTreeMap<u32, Done>,
    gates: BTreeMap<String, Gate>,
    denials: BTreeMap<String, Denials>,
    policies: Vec<InForce>,
    /// Time and what, of what a reader must know.
    events: Vec<[String; 2]>,
}

fn add(number: &mut u64, more: u64) {
    *number = number.saturating_add(more);
}

impl Tally {
    fn take(&mut self, entry: &Entry) {
        add(&mut self.lines, 1);
        let time = entry.time;
        self.times = Some(self.times.map_or((time, time), |(first, _)| (first, time)));
        let at = time.to_string();
        match &entry.record {
            Record::Operation(record) => self.operation(record, &at),
            Record::Crossing(record) => self.crossing(record, &at),
            Record::Policy(record) => {
                let by = if record.by_signal { "SIGHUP".to_owned() } else { tx::user(record.uid) };
                self.policy(&record.sha256, record.previous.as_ref(), by, at);
            }
            Record::Gap(GapRecord { unrecorded: Some(count), since, until, .. }) => {
                let [since, until] = [since, until].map(|time| time.as_deref().unwrap_or("?"));
                let operations = counted(*count, "operation", "operations");
                let what = format!(
                    "the ledger's disk was full: {operations} from {since} to {until} could not be recorded"
                );
                self.events.push([at, what]);
            }
            Record::Gap(_) => {
                let what = "the run before did not stop cleanly: changes up to 100 ms before its end \
                            may be missing";
                self.events.push([at, what.to_owned()]);
            }
            Record::Loss(record) => {
                let by = tx::user(record.uid);
                self.events.push([at, format!("{by} accepted a loss: {}", record.why)]);
            }
            Record::Key(record) => {
                self.events.push([at, format!("a key begins to sign: `{}`", record.key)]);
            }
            Record::Prune(record) if record.segments.is_empty() => {
                self.events.push([at, record.reason.clone()]);
            }
            Record::Prune(record) => {
                let count = counted(record.segments.len() as u64, "segment", "segments");
                let what = format!("{count} left the ledger: {}", record.reason);
                self.events.push([at, what]);
            }
            Record::Version(_)
            | Record::Mount(_)
            | Record::Branch(_)
            | Record::Purge(_)
            | Record::Check(_) => {}
        }
    }

    fn operation(&mut self, record: &OperationRecord, at: &str) {
        let user = self.users.entry(record.uid).or_default();
        let count = record.count.unwrap_or(1);
        if record.decision != Verdict::Denied {
            let verb = match record.op.verb() {
                Verb::Read => "read",
                Verb::Write => "write",
                Verb::Add => "add",
                Verb::Remove => "remove",
                Verb::Attrs => "attrs",
            };
            return add(user.by_verb.entry(verb).or_default(), count);
        }
        add(&mut user.denied, count);
        let by = match (&record.rule, &record.gate) {
            (Some(rule), _) => format!("rule {rule}"),
            (None, Some(gate)) if gate == "none" => "no gate".to_owned(),
            (None, Some(gate)) => format!("gate {gate}"),
            (None, None) => {
                record.reason.clone().unwrap_or_else(|| "the mode of the branch".into())
            }
        };
        let denials = self.denials.entry(by).or_default();
        add(&mut denials.count, count);
        denials.users.insert(record.uid);
        denials.reason = record.reason.clone().unwrap_or_default();
        denials.last = at.to_owned();
        denials.example = format!("{} {}", record.op, record.path);
    }

    fn policy(&mut self, sha256: &str, previous: Option<&String>, by: String, at: String) {
        if let Some(same) = self.policies.last_mut().filter(|last| last.sha256 == sha256) {
            add(&mut same.count, 1);
            same.last = at;
            if !same.by.contains(&by) {
                same.by.push(by);
            }
            return;
        }
        self.policies.push(InForce {
            sha256: sha256.to_owned(),
            count: 1,
            first: at.clone(),
            last: at,
            by: vec![by],
            replaced: previous.cloned(),
        });
    }

    fn crossing(&mut self, record: &CrossingRecord, at: &str) {
        let by = match (&record.gate, record.undoes, record.rearrangement) {
            (Some(gate), ..) => format!("gate {gate}"),
            (None, Some(_), _) => "undo".to_owned(),
            (None, None, true) => "within a pool".to_owned(),
            (None, None, false) => "no gate".to_owned(),
        };
        let gate = self.gates.entry(by).or_default();
        match record.step {
            Step::Done => {
                add(&mut gate.done, 1);
                add(&mut gate.bytes, record.size.unwrap_or(0));
                if !record.lost.is_empty() {
                    let (txid, target, lost) =
                        (record.txid, &record.target, record.lost.join(", "));
                    let what =
                        format!("crossing {txid} to {target} lost {lost}, as its gate allows");
                    self.events.push([at.to_owned(), what]);
                }
                add(&mut self.users.entry(record.uid).or_default().crossings, 1);
            }
            Step::Abort => add(&mut gate.aborted, 1),
            Step::Reverted => add(&mut gate.put_back, 1),
            Step::Dead => {
                gate.dead.insert(record.txid);
                let what = format!(
                    "crossing {} of {} needed a person: {}",
                    record.txid,
                    record.source,
                    record.reason.as_deref().unwrap_or_default()
                );
                self.events.push([at.to_owned(), what]);
            }
            Step::Prepare | Step::Commit | Step::Retry | Step::Withdraw | Step::Accept => {}
        }
    }

    fn markdown(
        &self,
        args: &ReportArgs,
        place: &str,
        verified: &Result<Verified, String>,
    ) -> String {
        let mut text = format!("# Report of the ledger {}\n\n", cell(place));
        let bound = |time: Option<Timestamp>, none: &str| {
            time.map_or_else(|| none.to_owned(), |time| local_time(&time.to_string()))
        };
        let (from, to) = (bound(args.from, "the beginning"), bound(args.to, "the end"));
        let _ =
            writeln!(text, "From {from} to {to}: {}.", counted(self.lines, "record", "records"));
        if let Some((first, last)) = self.times {
            let [first, last] = [first, last].map(|time| local_time(&time.to_string()));
            let _ = writeln!(text, "The first is of {first}, the last of {last}.");
        }
        if self.unreadable > 0 {
            let lines = counted(self.unreadable, "line", "lines");
            let _ = writeln!(text, "{lines} cannot be read.");
        }
        self.section_users(&mut text);
        self.section_gates(&mut text);
        self.section_denials(&mut text);
        self.section_policies(&mut text);
        let rows = self.events.iter().map(|[at, what]| vec![local_time(at), cell(what)]);
        table(&mut text, "To know", &["Time", "What"], rows.collect());
        verification(&mut text, verified);
        text
    }

    fn section_policies(&self, text: &mut String) {
        let heading = ["First", "Last", "Times", "By", "Configuration"];
        let rows = self.policies.iter().map(|policy| {
            let what = match &policy.replaced {
                Some(previous) => format!("`{previous}` becomes `{}`", policy.sha256),
                None => format!("mounted with `{}`", policy.sha256),
            };
            vec![
                local_time(&policy.first),
                local_time(&policy.last),
                policy.count.to_string(),
                cell(&policy.by.join(", ")),
                cell(&what),
            ]
        });
        table(text, "Policy", &heading, rows.collect());
    }

    fn section_users(&self, text: &mut String) {
        let heading = ["User", "Read", "Write", "Add", "Remove", "Attrs", "Crossings", "Denied"];
        let rows = self.users.iter().map(|(uid, done)| {
            let verbs = ["read", "write", "add", "remove", "attrs"];
            let verbs = verbs.map(|verb| done.by_verb.get(verb).copied().unwrap_or(0));
            let numbers = verbs.into_iter().chain([done.crossings, done.denied]);
            let user = cell(&tx::user(*uid));
            std::iter::once(user).chain(numbers.map(|number| number.to_string())).collect()
        });
        table(text, "Who did what", &heading, rows.collect());
    }

    fn section_gates(&self, text: &mut String) {
        let heading = ["By", "Done", "Bytes", "Aborted", "Put back", "Needed a person"];
        let rows = self.gates.iter().map(|(by, gate)| {
            let Gate { done, aborted, put_back, dead, bytes } = gate;
            let [done, aborted, back] = [done, aborted, put_back].map(u64::to_string);
            let dead = dead.len().to_string();
            vec![cell(by), done, size(*bytes), aborted, back, dead]
        });
        table(text, "Crossings", &heading, rows.collect());
    }

    fn section_denials(&self, text: &mut String) {
        let heading = ["By", "Times", "Users", "Reason", "Last", "Such as"];
        let mut all: Vec<_> = self.denials.iter().collect();
        all.sort_by_key(|(_, denials)| std::cmp::Reverse(denials.count));
        let rows = all.into_iter().map(|(by, denials)| {
            let users: Vec<String> = denials.users.iter().map(|uid| tx::user(*uid)).collect();
            vec![
                cell(by),
                denials.count.to_string(),
                cell(&users.join(", ")),
                cell(&denials.reason),
                local_time(&denials.last),
                cell(&denials.example),
            ]
        });
        table(text, "Denials", &heading, rows.collect());
    }
}

fn verification(text: &mut String, verified: &Result<Verified, String>) {
    text.push_str("\n## Verification\n\n");
    let report = match verified {
        Ok(report) => report,
        Err(why) => {
            let _ = writeln!(text, "The ledger could not be verified: {}", cell(why));
            return;
        }
    };
    let signed =
        report.signed.map_or_else(|| "none are".to_owned(), |size| format!("the first {size} are"));
    let _ = writeln!(
        text,
        "{} checked; {signed} signed by `{}`. In branches {}.",
        counted(report.lines, "line was", "lines were"),
        cell(&report.key),
        counted(
            report.copies.len() as u64,
            "copy of a checkpoint agrees",
            "copies of checkpoints agree"
        )
    );
    for note in &report.notes {
        let _ = writeln!(text, "- {}", cell(note));
    }
    for problem in &report.problems {
        let _ = writeln!(text, "- **PROBLEM** {}: {}", cell(&problem.place), cell(&problem.what));
    }
    if report.more_problems > 0 {
        let _ = writeln!(text, "- **PROBLEM** and {} more", report.more_problems);
    }
    if report.problems.is_empty() {
        let _ = writeln!(text, "\nResult: {}.", report.verdict());
    }
}

fn table(text: &mut String, title: &str, heading: &[&str], rows: Vec<Vec<String>>) {
    let _ = write!(text, "\n## {title}\n\n");
    if rows.is_empty() {
        text.push_str("None.\n");
        return;
    }
    let line = |cells: &[String]| format!("| {} |\n", cells.join(" | "));
    let heading: Vec<String> = heading.iter().map(|word| (*word).to_owned()).collect();
    text.push_str(&line(&heading));
    text.push_str(&line(&vec!["---".to_owned(); heading.len()]));
    rows.iter().for_each(|row| text.push_str(&line(row)));
}

/// Text that cannot end a cell or begin anything else.
fn cell(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '|' | '\\' | '*' | '_' | '<' | '>' | '[' | ']' | '#' | '&' => {
                safe.push('\\');
                safe.push(character);
            }
            other => safe.push_str(&plain(other.encode_utf8(&mut [0; 4]))),
        }
    }
    safe
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_policies_in_a_row_are_one_line() {
        let mut tally = Tally::default();
        let mut see = |sha256: &str, previous: Option<&str>, by: &str, second: u32| {
            let at = format!("2026-11-23T10:00:0{second}Z");
            tally.policy(sha256, previous.map(str::to_owned).as_ref(), by.to_owned(), at);
        };
        see("aa", None, "root", 0);
        see("aa", None, "ana", 1);
        see("bb", Some("aa"), "SIGHUP", 2);
        see("bb", None, "root", 3);
        see("bb", Some("bb"), "root", 4);
        see("aa", None, "root", 5);
        let mut text = String::new();
        tally.section_policies(&mut text);
        let time = |second: u32| local_time(&format!("2026-11-23T10:00:0{second}Z"));
        let rows: Vec<&str> = text.lines().skip(5).collect();
        let expected = [
            format!("| {} | {} | 2 | root, ana | mounted with `aa` |", time(0), time(1)),
            format!("| {} | {} | 3 | SIGHUP, root | `aa` becomes `bb` |", time(2), time(4)),
            format!("| {} | {} | 1 | root | mounted with `aa` |", time(5), time(5)),
        ];
        assert_eq!(rows, expected, "{text}");
    }
}
