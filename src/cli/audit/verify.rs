//! `octroi audit verify`

use std::path::{Path, PathBuf};

use crate::ledger::CheckpointCopy;
use crate::ledger::checkpoint::Proof;
use crate::ledger::note::VerifierKey;
use crate::ledger::verify::{Report, Witness, steadily, verify};
use crate::types::{TxId, counted};

use super::super::failure::{Failure, cannot};
use super::super::output::{local_time, plain, print, print_json};
use super::super::target::ViewOption;
use super::carried::Carried;
use super::files::{Compared, Files};
use super::signed::{Signed, key_of};

/// Longest proof that is read.
const PROOF_MAX: u64 = 1 << 20;

/// Check the ledger, all of it: lines, checksums, the signed tree, the copies in the branches, and the
/// story of each crossing. Or check a proof that octroi audit prove has written.
///
/// Works on a mounted view and, with --view CONFIG, on one that is not. Changes nothing. Ends with exit
/// code 0 if everything is as it was signed, else with 1.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  \
    octroi audit verify --view lab/octroi.toml --key lab.pub\n  \
    octroi audit verify --files\n  \
    octroi audit verify 1234.tlog-proof --key lab.pub     needs nothing but these two files")]
pub struct VerifyArgs {
    /// A proof
    #[arg(requires = "key")]
    proof: Option<PathBuf>,
    /// The public key, or a file that holds it: that of .audit/key.pub, kept elsewhere. Without it
    /// the ledger's own key is used
    #[arg(long, value_name = "KEY|FILE")]
    key: Option<String>,
    /// Also compare the files that have crossed, where they are still in place and were not written
    /// since, with the hashes in the ledger
    #[arg(long, conflicts_with = "proof")]
    files: bool,
    /// Also hold it against the checkpoints that octroi audit witness has appended to this file
    #[arg(long, value_name = "FILE", conflicts_with = "proof")]
    witness: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    view: ViewOption,
}

pub fn run(args: &VerifyArgs) -> Result<(), Failure> {
    let key = args.key.as_deref().map(key_of).transpose()?;
    if let (Some(path), Some(key)) = (&args.proof, &key) {
        return check_proof(path, key, args.json);
    }
    // First: what it has then, the ledger has.
    let carried = args.witness.as_deref().map(Carried::open).transpose()?;
    let mut signed = Signed::find(&args.view)?;
    let mut notes = signed.find_copies();
    let own = key.is_none();
    let key = match key {
        Some(key) => key,
        None => signed.key.clone().map_err(|why| {
            Failure::new(format!("cannot read the key of the ledger {}: {why}", signed.place))
                .hint("--key gives the public key")
        })?,
    };
    let attempt = format!("verify the ledger {}", signed.place);
    let verified = steadily(|| {
        let mut files = args.files.then(|| Files::new(&signed.branches));
        let again = || -> Box<dyn Iterator<Item = CheckpointCopy> + '_> {
            Box::new(carried.iter().flat_map(Carried::all))
        };
        let witness = carried.is_some().then_some(&again as Witness<'_>);
        let against = signed.against(&key, witness)?;
        let report = verify(&signed.lines, &against, &mut |commit| {
            if let Some(files) = &mut files {
                files.compare(commit);
            }
        })?;
        Ok((report, files))
    });
    let (mut report, files) = verified.map_err(cannot(attempt))?;
    if let Some(carried) = &carried {
        let judged = carried.judged()?;
        notes.extend(judged.notes);
        judged.problems.into_iter().for_each(|(place, what)| report.problem(place, what));
    }
    report.notes.extend(notes);
    if let Some(what) = wrong_key(&signed, &key) {
        report.problem("key", what);
    }
    if own {
        report.notes.push(
            "checked with the ledger's own key: who can rewrite the state folder can sign it anew. \
             Keep .audit/key.pub elsewhere and give it with --key"
                .to_owned(),
        );
    }
    let compared = files.map(|files| files.finish(&mut report));
    let failed = report.problems.len() as u64;
    let failed = failed.saturating_add(report.more_problems);
    if args.json {
        let mut value = serde_json::to_value(&report).map_err(cannot("write JSON"))?;
        if let (Some(compared), Some(fields)) = (&compared, value.as_object_mut()) {
            let compared = serde_json::to_value(compared).map_err(cannot("write JSON"))?;
            fields.insert("files".to_owned(), compared);
        }
        print_json(&value)?;
    } else {
        print(&readable(&signed.place, &report, compared.as_ref(), carried.is_some()))?;
    }
    if failed == 0 {
        return Ok(());
    }
    Err(Failure::new(format!(
        "the ledger {} is not as it was signed: {}",
        signed.place,
        counted(failed, "problem", "problems")
    )))
}

fn check_proof(path: &Path, key: &VerifierKey, json: bool) -> Result<(), Failure> {
    let read = |path: &Path| {
        use std::io::Read as _;
        let mut bytes = Vec::new();
        std::fs::File::open(path)?.take(PROOF_MAX).read_to_end(&mut bytes)?;
        Ok::<_, std::io::Error>(bytes)
    };
    let bytes = read(path).map_err(cannot(format!("read the proof {}", path.display())))?;
    let wrong = cannot(format!("believe the proof {}", path.display()));
    let proof = Proof::parse(&bytes).and_then(|proof| Ok((proof.verify(key)?, proof)));
    let (checkpoint, proof) = proof.map_err(wrong)?;
    let line = String::from_utf8_lossy(&proof.line);
    if json {
        return print_json(&serde_json::json!({
            "origin": checkpoint.origin,
            "index": proof.index,
            "size": checkpoint.size,
            "root": checkpoint.root_text(),
            "line": line,
        }));
    }
    let (origin, size) = (&checkpoint.origin, checkpoint.size);
    print(&format!(
        "line {} of the {size} that {} has signed:\n{}\n",
        proof.index,
        plain(origin),
        plain(&line)
    ))
}

/// What is wrong with the key that the ledger itself has, if it is not the one that must have signed.
fn wrong_key(signed: &Signed, key: &VerifierKey) -> Option<String> {
    match &signed.key {
        Ok(own) if own.to_string() == key.to_string() => None,
        Ok(own) => Some(format!("the ledger has another: {own}")),
        Err(why) => Some(format!("the ledger's own cannot be read: {why}")),
    }
}

fn readable(place: &str, report: &Report, files: Option<&Compared>, has_witness: bool) -> String {
    let mut rows = vec![("ledger", plain(place))];
    let times = report.times.as_ref().map_or_else(String::new, |[first, last]| {
        format!(", {} to {}", local_time(first), local_time(last))
    });
    let segments = counted(report.segments, "segment", "segments");
    rows.push(("lines", format!("{} in {segments}{times}", report.lines)));
    rows.push((
        "signed",
        match report.signed {
            Some(size) => format!("{size} lines, by {}", report.key),
            None => "no".to_owned(),
        },
    ));
    if let Some(root) = &report.root {
        rows.push(("root", root.clone()));
    }
    rows.push(("tiles", format!("{} compared", report.tiles)));
    rows.push(("copies", format!("{} agree", report.copies.len())));
    if has_witness {
        let agree = counted(report.witnessed, "checkpoint agrees", "checkpoints agree");
        rows.push(("witness", agree));
    }
    let ended = report.crossings.iter().map(|(ending, count)| format!("{count} {ending}"));
    let ended = ended.collect::<Vec<_>>().join(", ");
    rows.push(("crossings", if ended.is_empty() { "none".to_owned() } else { ended }));
    for begun in report.keys.iter().skip(1) {
        let (seq, time) = (begun.seq, local_time(&begun.time));
        let by =
            if begun.signed { "signed by the key before it" } else { "after a loss of the key" };
        rows.push(("key", format!("begun at seq {seq}, {time}, {by}: {}", plain(&begun.key))));
    }
    for loss in &report.losses {
        let (seq, time) = (loss.seq, local_time(&loss.time));
        rows.push(("loss", format!("accepted at seq {seq}, {time}: {}", plain(&loss.why))));
        if let Some(kept) = &loss.kept {
            let (folder, files) = (plain(&kept.folder), counted(kept.files, "file", "files"));
            rows.push(("kept", format!("{files} in {folder} of the state folder")));
        }
    }
    if let Some(files) = files {
        rows.push(("files", files.to_string()));
    }
    rows.extend(report.notes.iter().map(|note| ("note", plain(note))));
    for problem in &report.problems {
        rows.push(("PROBLEM", format!("{}: {}", plain(&problem.place), plain(&problem.what))));
    }
    if report.more_problems > 0 {
        rows.push(("PROBLEM", format!("and {} more", report.more_problems)));
    }
    if report.problems.is_empty() {
        rows.push(("result", report.verdict()));
    }
    rows.iter().map(|(name, text)| format!("{name:<10}{text}\n")).collect()
}

/// For messages about a crossing's file.
pub(super) fn place_of(txid: TxId) -> String {
    format!("crossing {txid}")
}
