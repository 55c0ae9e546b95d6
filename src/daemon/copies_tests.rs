//! What a copy of the checkpoint in a branch vouches for, and what is doubted without one.

use std::path::PathBuf;

use super::*;
use crate::branch::BranchSpec;
use crate::daemon::assemble::open_ledger;
use crate::ledger::checkpoint::Checkpoint;
use crate::types::{BranchIndex, BranchIo};

/// A view with one branch that was adopted long ago.
struct Bench {
    dir: tempfile::TempDir,
    branch: Arc<Branch>,
    ledger: Arc<Ledger<RealStorage>>,
    mover: Arc<Mover<RealStorage>>,
}

fn bench() -> Bench {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let [branch, state] = ["branch", "state"].map(|name| dir.path().join(name));
    for folder in [&branch, &state] {
        std::fs::create_dir(folder).expect("made");
    }
    let spec = BranchSpec {
        index: BranchIndex(0),
        name: "inbox".into(),
        path: branch,
        mode: BranchMode::Rw,
        io: BranchIo::Checked,
        min_free: 0,
        exposed: true,
    };
    let branch = Arc::new(Branch::open(spec, None, false).expect("adopted").branch);
    let storage = Arc::new(RealStorage);
    let found = Found { copies: Vec::new(), with: Vec::new(), without: Vec::new() };
    let (ledger, memory) =
        open_ledger(&storage, "lab", &state, &found, &mut Vec::new()).expect("a ledger");
    let mover = Mover::new(storage, Arc::clone(&ledger), Vec::new(), memory.journal);
    Bench { dir, branch, ledger, mover }
}

impl Bench {
    /// As a new run has it.
    fn copier(&self) -> Copier {
        Copier::new(Arc::clone(&self.branch), &self.ledger, &self.mover)
    }

    fn copy(&self) -> PathBuf {
        self.dir.path().join("branch/.octroi/checkpoint")
    }

    /// How many lines say that the branch begins anew, and how many lines there are up to the last of them.
    fn told(&self) -> (usize, u64) {
        let lines = std::fs::read_to_string(self.dir.path().join("state/ledger/00000001.jsonl"));
        let lines = lines.expect("a segment");
        let told = |(_, line): &(usize, &str)| line.contains(r#""kind":"branch","branch":"inbox""#);
        let told: Vec<_> = lines.lines().enumerate().filter(told).collect();
        (told.len(), told.last().map_or(0, |(at, _)| *at as u64 + 1))
    }
}

#[test]
fn a_first_copy_vouches_for_a_line_that_says_that_the_branch_begins_anew() {
    let bench = bench();
    let mut copier = bench.copier();
    for _ in 0..2 {
        copier.copy();
        assert_eq!(copier.said, None);
        let note = bench.branch.kept_checkpoint().expect("read").expect("a copy");
        let size = Checkpoint::unverified(&note).expect("a checkpoint").size;
        let (told, lines) = bench.told();
        assert!(told == 1 && size >= lines, "{told} {size} {lines}");
    }
    // The next run finds it.
    bench.copier().copy();
    assert_eq!(bench.told().0, 1);
    // A start has said it, and a stop, after which nothing can be said, leaves it to the next start.
    for (is_start, is_last) in [(true, false), (false, true)] {
        std::fs::remove_file(bench.copy()).expect("removed");
        let mut copier = bench.copier();
        copier.since = is_start.then(|| bench.ledger.end()).flatten();
        copier.is_last = is_last;
        copier.copy();
        assert_eq!((copier.said, bench.told().0), (None, 1));
        assert_eq!(bench.copy().exists(), is_start);
        bench.branch.keep_checkpoint(&bench.ledger.checkpoint().expect("one")).expect("kept");
    }

    // One that cannot be read at first, and is removed while the view is mounted.
    std::fs::remove_file(bench.copy()).expect("removed");
    std::os::unix::fs::symlink("elsewhere", bench.copy()).expect("a link");
    let mut copier = bench.copier();
    copier.copy();
    assert!(copier.said.is_some() && bench.told().0 == 1);
    std::fs::remove_file(bench.copy()).expect("removed");
    copier.copy();
    assert!(copier.said.is_none() && bench.copy().is_file());
    assert_eq!(bench.told().0, 2);
}

#[test]
fn without_a_clock_that_can_tell_what_is_in_stage_there_is_no_first_copy() {
    let bench = bench();
    let ahead = jiff::Timestamp::now().as_millisecond() as u64 + 3_600_000;
    let name = ulid::Ulid::from_parts(ahead, 7).to_string();
    let entry = bench.dir.path().join("branch/.octroi/stage").join(&name);
    std::fs::write(&entry, "the last").expect("written");
    let mut copier = bench.copier();
    copier.copy();
    let said = copier.said.clone().expect("an error");
    assert!(said.contains(&name) && said.contains("has not reached"), "{said}");
    assert!(!bench.copy().exists() && bench.told().0 == 0);
    std::fs::remove_file(entry).expect("removed");
    copier.copy();
    assert!(bench.copy().exists() && bench.told().0 == 1);
}

#[test]
fn a_branch_is_doubted_unless_a_copy_in_it_by_whatever_name_is_extended() {
    let ids = [1, 2, 3].map(|id| BranchUuid(ulid::Ulid(id)));
    // The second name is what the first branch is called now.
    let known = [("a", ids[0]), ("b", ids[0]), ("c", ids[1]), ("d", ids[2])];
    let known = known.map(|(name, id)| (name.to_owned(), id)).into();
    let copy = |name: &str| CheckpointCopy {
        place: String::new(),
        note: name.as_bytes().to_vec(),
        adopted: false,
    };
    let found = Found {
        copies: ["b", "d"].map(copy).into(),
        with: ["b", "d"].map(str::to_owned).into(),
        without: vec!["c".into()],
    };
    let mut journal = Journal::default();
    found.doubt_others(&mut journal, &known, |note| note == b"b");
    let doubted = ids.map(|id| journal.is_before(TxId(ulid::Ulid::from_parts(1, 1)), id));
    assert_eq!(doubted, [false, true, true]);
}
