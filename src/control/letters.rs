//! Dead letters in words: what there is of one, where, and what each choice would do. Only for root and the
//! mounting user: it names backing paths.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::ledger::record::{Act, Area, Spot};
use crate::mover::{
    Finding, Found, LetterError, Rest, Settle, Settled, Transaction, TransactionState, subject,
};
use crate::types::{Caller, TxId};
use crate::vfs::Vfs;

use super::protocol::Answer;

/// What is wanted of a dead letter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Wish {
    /// Complete it, or put it back.
    Retry,
    /// Put back what can be.
    Abort,
    /// It is right as it is; what is kept stays.
    Accept,
    /// It is right as it is, and what is kept can go.
    Discard,
    /// The same, where a branch that left never comes back.
    GiveUp,
}

/// What there is of a dead letter, and the choices.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeadLetter {
    /// What happened.
    pub happened: String,
    /// Where each thing is that the transaction is about.
    pub found: Vec<String>,
    /// In the order in which one should think of them.
    pub choices: Vec<Choice>,
}

/// Something that may be done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Choice {
    /// The command.
    pub command: String,
    /// What it would do now.
    pub effect: String,
}

/// Looks at a transaction that needs a person, or that one has accepted.
pub(super) fn letter(vfs: &Vfs, txid: TxId, found: &Transaction) -> Option<Box<DeadLetter>> {
    let dead = match found.state {
        TransactionState::Dead => true,
        TransactionState::Accepted => false,
        _ => return None,
    };
    let findings = vfs.examine(txid);
    let at = |spot: &Spot| backing(vfs, spot);
    let mut choices = Vec::new();
    let mut add = |command: &str, effect: String| {
        choices.push(Choice { command: format!("octroi tx {command} {txid}"), effect });
    };
    let paths = |spots: Vec<Spot>| -> Vec<String> {
        spots.iter().map(|spot| at(spot).display().to_string()).collect()
    };
    let kept = paths(vfs.kept_of(txid));
    let undone = paths(vfs.kept_of_undone(txid));
    if dead {
        add("retry", retry(&findings));
        let refused = refused(vfs.check_settle(txid, Settle::Withdraw));
        add("abort", abort(&findings, refused, at));
        add("accept", accept(&kept, &findings, &found.rest) + &stays(&undone));
    }
    if !kept.is_empty() || !undone.is_empty() {
        let refused = refused(vfs.check_settle(txid, Settle::Discard));
        add("accept --discard", refused.unwrap_or_else(|| discard(&kept, &undone)));
    }
    if findings.iter().any(is_past) {
        let refused = refused(vfs.check_settle(txid, Settle::GiveUp));
        add("accept --discard --branch-gone", refused.unwrap_or_else(|| give_up(&kept, &undone)));
    }
    Some(Box::new(DeadLetter {
        happened: happened(found),
        found: findings.iter().map(|finding| place(finding, at)).collect(),
        choices,
    }))
}

fn happened(found: &Transaction) -> String {
    let record = &found.record;
    let what = match (record.undoes, record.rearrangement) {
        (Some(undone), _) => format!("the undo of {undone}"),
        (None, true) => "the rename within a pool".to_owned(),
        (None, false) => "the crossing".to_owned(),
    };
    let why = found.reason.as_deref().unwrap_or("no reason is recorded");
    let end = match found {
        Transaction { state: TransactionState::Dead, .. } => {
            "Nothing of it was deleted; it waits for you"
        }
        Transaction { purged: false, .. } => {
            "It was accepted as it is, and what it keeps was not deleted"
        }
        Transaction { discarded_on: Some(_), .. } => {
            "It was given up: what the branches of the view kept of it was deleted, and what a branch that left has of \
             it is kept, should that be in the view again"
        }
        Transaction { lost: true, .. } => {
            "It was accepted as it is, and keeps nothing that is known"
        }
        _ => "It was accepted as it is, and what it kept was deleted",
    };
    format!(
        "{what} from {} to {} was decided, and could neither be completed nor put back: {why}. {end}.",
        record.source, record.target
    )
}

/// A path that a person can look at.
fn backing(vfs: &Vfs, spot: &Spot) -> PathBuf {
    let found = vfs.branches().into_iter().find(|(_, branch)| branch.uuid() == Some(spot.branch));
    let root = match found {
        Some((_, branch)) => branch.spec().path.clone(),
        None => {
            let name =
                vfs.with_journal(|journal| journal.branch_name(spot.branch).map(str::to_owned));
            PathBuf::from(format!("(branch {})", name.unwrap_or_else(|| spot.branch.to_string())))
        }
    };
    match spot.area {
        Area::Tree => root.join(&spot.path),
        Area::Stage => root.join(".octroi/stage").join(&spot.path),
        Area::Hold => root.join(".octroi/hold").join(&spot.path),
    }
}

fn place(finding: &Finding, at: impl Fn(&Spot) -> PathBuf) -> String {
    let step = &finding.step;
    let what = subject(step);
    let (from, to) = (at(&step.from), at(&step.to));
    let (from, to) = (from.display(), to.display());
    let written = if finding.written { ", and was written to since it was made" } else { "" };
    match &finding.found {
        Found::NotMoved => format!("{what} is at {from}{written}; it would go to {to}"),
        Found::Moved => format!("{what} is at {to}{written}; it came from {from}"),
        Found::AtBoth => format!("{what} has two names, {from} and {to}{written}"),
        Found::Left => format!("{what} has left {from} and is not at {to}: moved on, or gone"),
        Found::Nowhere => {
            format!("{what} is neither at {from} nor at {to} (a copy is not it: its inode counts)")
        }
        Found::NoFolder(why) | Found::Past(why) => {
            format!("{what} was to go from {from} to {to}: {why}")
        }
        Found::NotNow(why) => format!("{what} cannot be looked for at {from} and {to}: {why}"),
    }
}

fn retry(findings: &[Finding]) -> String {
    let missing = |found: &Finding| matches!(found.found, Found::Nowhere | Found::Left);
    if let Some(lost) = findings.iter().find(|finding| missing(finding)) {
        let what = subject(&lost.step);
        return format!(
            "refused as long as {what} is at neither of its names; bring it back first"
        );
    }
    for finding in findings {
        match &finding.found {
            Found::NotNow(why) => return format!("refused for now: {why}"),
            Found::Past(why) => {
                return format!(
                    "refused, for {why}. When the configuration has that branch again and what moves is at its \
                     target, the mount goes on with it: that stays, and what is left elsewhere is moved. Where \
                     nothing has arrived, retry then"
                );
            }
            Found::NoFolder(why) => {
                return format!("comes to the same until you make the folder again: {why}");
            }
            _ => {}
        }
    }
    let fails = match has_arrived(findings) {
        true => "what has arrived stays, and this asks for you again",
        false => "puts all back",
    };
    format!(
        "makes the moves that are missing, so that the crossing is done; where one fails, {fails}. Mend first \
         what the reason says was in the way"
    )
}

/// Why a wish would be refused.
fn refused(checked: Result<(), LetterError>) -> Option<String> {
    Some(match checked.err()? {
        LetterError::InVain { why, hint } => format!("refused, for {why}: {hint}"),
        LetterError::NotIts { at } => {
            format!("refused, for {at} is not what the transaction put there")
        }
        other => format!("refused: {other}"),
    })
}

/// `refused`: why the mover would not do it.
fn abort(findings: &[Finding], refused: Option<String>, at: impl Fn(&Spot) -> PathBuf) -> String {
    if must_stay(findings) {
        return "refused, for what crossed is at its target, and what it came from is on a branch that the \
                view has no more: it would be nowhere. Have that branch in the configuration again, and undo"
            .to_owned();
    }
    if let Some(refused) = refused {
        return refused;
    }
    let mut parts: Vec<String> = Vec::new();
    let works = |found: &Finding| found.written && found.found != Found::NotMoved;
    let stands = findings.iter().any(works);
    for finding in findings.iter().rev() {
        let (step, what) = (&finding.step, subject(&finding.step));
        match &finding.found {
            Found::NotMoved => {}
            _ if finding.written => parts.push(format!("{what} stays, for it was written to")),
            Found::Moved | Found::AtBoth if stands => {
                parts.push(format!("{what} stays at {}", at(&step.to).display()));
            }
            Found::Moved | Found::AtBoth => {
                let home = at(&step.from);
                parts.push(format!("{what} goes back to {}, if that is free", home.display()));
            }
            Found::Left | Found::Nowhere => parts.push(format!("{what} stays lost")),
            Found::NoFolder(_) | Found::Past(_) | Found::NotNow(_) => {
                let (from, to) = (at(&step.from), at(&step.to));
                parts.push(format!(
                    "{what} stays where it is, at {} or {}",
                    from.display(),
                    to.display()
                ))
            }
        }
    }
    if parts.is_empty() {
        return "moves nothing, for nothing was moved; it is recorded as put back".to_owned();
    }
    format!("puts back what can be and keeps the rest: {}", parts.join("; "))
}

/// As the mover has it, which refuses an abort then.
fn must_stay(findings: &[Finding]) -> bool {
    let homeless = |found: &Finding| found.step.act == Act::Retire && is_past(found);
    findings.iter().any(homeless) && has_arrived(findings)
}

fn has_arrived(findings: &[Finding]) -> bool {
    findings.iter().any(|found| {
        found.step.act == Act::Apply && matches!(found.found, Found::Moved | Found::AtBoth)
    })
}

fn accept(kept: &[String], findings: &[Finding], rest: &Rest) -> String {
    let begin = "declares right what is there: nothing is moved or deleted now, and neither retry nor abort is possible \
                 after it";
    let end = match kept.is_empty() {
        true => format!("{begin}, and this asks for nobody any more"),
        false => format!("{begin}; what is kept stays until it is discarded: {}", kept.join(", ")),
    };
    // As the mover has it.
    let waits = findings
        .iter()
        .filter(|found| waits(rest, found))
        .any(|found| matches!(found.found, Found::Past(_) | Found::NotNow(_)));
    let stands = |found: &Finding| {
        found.step.act == Act::Retire && matches!(found.found, Found::NotMoved | Found::AtBoth)
    };
    match waits {
        false if has_arrived(findings) && findings.iter().any(stands) => {
            format!("{end}. What crossed is seen at its source and at its target, and stays so")
        }
        false => end,
        true if rest.back => format!(
            "{end}. Should the branch that is missing be in the view again, what it still has is taken back; where \
             somebody has worked on that, or has moved it, it stays and you are told"
        ),
        true if has_arrived(findings) => format!(
            "{end}. Should the branch that is missing be in the view again, what it left there goes to hold"
        ),
        true => format!(
            "{end}. Should the branch that is missing be in the view again, and what moves be at its target, the \
             moves that are missing are made"
        ),
    }
}

/// As [`Transaction::waits_for`] has it.
fn waits(rest: &Rest, found: &Finding) -> bool {
    rest.moves.contains(&found.step) || rest.back && !rest.moves.is_empty()
}

/// `undone`: what hold has of the crossing that an undo takes back.
fn discard(kept: &[String], undone: &[String]) -> String {
    let deletes = match kept.is_empty() {
        true => "as accept, and deletes nothing".to_owned(),
        false => format!("as accept, and deletes for good what is kept: {}", kept.join(", ")),
    };
    format!("{deletes}{}", stays(undone))
}

/// What hold has of the crossing that an undo takes back may be the last copy.
fn stays(undone: &[String]) -> String {
    match undone.is_empty() {
        true => String::new(),
        false => format!(
            "; what hold has of the crossing that it takes back stays until you remove it: {}",
            undone.join(", ")
        ),
    }
}

fn give_up(kept: &[String], undone: &[String]) -> String {
    let deletes = match kept.is_empty() {
        true => "nothing is deleted".to_owned(),
        false => format!(
            "what is kept is deleted for good, also where it is the last copy: {}",
            kept.join(", ")
        ),
    };
    let stays = stays(undone);
    format!(
        "for a branch that never comes back: {deletes}{stays}; what the missing branch has of it is given up. Should it \
         come back all the same, that is kept, and a source or a copy that stands there is seen again"
    )
}

fn is_past(finding: &Finding) -> bool {
    matches!(finding.found, Found::Past(_))
}

/// Does what is wanted, and says what came of it.
pub(super) fn settle(vfs: &Vfs, peer: Caller, txid: TxId, wish: Wish) -> Result<Answer, String> {
    let settle = match wish {
        Wish::Retry => Settle::Retry,
        Wish::Abort => Settle::Withdraw,
        Wish::Accept => Settle::Accept,
        Wish::Discard => Settle::Discard,
        Wish::GiveUp => Settle::GiveUp,
    };
    let settled = vfs.settle_letter(peer, txid, settle).map_err(|error| error.to_string())?;
    let (done, now) = match settled {
        Settled::Done => (true, "is done".to_owned()),
        Settled::Reverted(None) => (true, "is put back; everything is as before it".to_owned()),
        Settled::Reverted(Some(why)) => {
            (true, format!("could not be completed and is put back: {why}"))
        }
        Settled::Accepted if wish == Wish::Discard => (
            true,
            "is accepted, and what is known to be its own in stage and hold is deleted".to_owned(),
        ),
        Settled::Accepted if wish == Wish::GiveUp => {
            let now = "is given up: what it is known to keep on the branches of the view is deleted, and what the \
                       missing branch has is not waited for";
            (true, now.to_owned())
        }
        Settled::Accepted => (true, "is accepted as it is".to_owned()),
        Settled::Dead(why) => (false, format!("still needs a person: {why}")),
        Settled::Waits(why) => (false, format!("waits for a disk: {why}")),
    };
    Ok(Answer::Settled { done, now })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ledger::record::Move;
    use crate::types::{BranchUuid, Handle, Identity, Time};

    fn finding(act: Act, found: Found) -> Finding {
        let time = Time { seconds: 0, nanos: 0 };
        let handle = Handle { kind: 1, bytes: Box::new([act as u8]) };
        let place = |area: Area, path: &str| Spot {
            branch: BranchUuid(ulid::Ulid(1)),
            area,
            path: path.into(),
        };
        let (from, to) = match act {
            Act::Retire => (place(Area::Tree, "f"), place(Area::Hold, "hold")),
            _ => (place(Area::Stage, "stage"), place(Area::Tree, "g")),
        };
        let identity = Identity { handle, size: 0, mtime: time, ctime: time };
        let step = Move { act, from, to, identity, below: None };
        Finding { step, found, written: false }
    }

    /// The source is as said, what crossed has arrived, and the move of the source waits.
    #[track_caller]
    fn check(source: Found, back: bool, accepted: &str) {
        let findings = [finding(Act::Retire, source), finding(Act::Apply, Found::Moved)];
        let rest = Rest { moves: vec![findings[0].step.clone()], back };
        let kept = ["kept".to_owned()];
        let told = accept(&kept, &findings, &rest);
        assert!(told.contains(accepted), "{told}");
    }

    #[test]
    fn what_waits_for_a_branch_is_told_before_it_is_accepted() {
        for away in [Found::Past("gone".to_owned()), Found::NotNow("offline".to_owned())] {
            check(away.clone(), false, "what it left there goes to hold");
            check(away, true, "what it still has is taken back");
        }
        check(Found::NotMoved, false, "seen at its source and at its target");
    }
}
