//! The signed tree: what a run leaves, and what a start refuses.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use super::checkpoint::Checkpoint;
use super::note::NoteSigner;
use super::store::TreeStore;
use super::tests::operation;
use super::tree::tile::{Builder, TileId, bytes_of};
use super::tree::{Hash, leaf_hash};
use super::*;
use crate::storage::real::{RealDir, RealStorage};

/// A state folder on a real disk.
pub(super) struct State {
    pub folder: tempfile::TempDir,
    pub copies: Vec<CheckpointCopy>,
}

impl State {
    pub fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("ledger")).unwrap();
        Self { folder, copies: Vec::new() }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub fn read(&self, name: &str) -> Vec<u8> {
        std::fs::read(self.path(name)).unwrap()
    }

    pub fn write(&self, name: &str, bytes: impl AsRef<[u8]>) {
        std::fs::write(self.path(name), bytes).unwrap();
    }

    pub fn open_to(
        &self,
        why: Option<&str>,
    ) -> Result<(Arc<Ledger<RealStorage>>, Opened), LedgerError> {
        let dir = |path: &Path| RealDir::open(path).unwrap();
        let seal = Seal {
            state: dir(self.folder.path()),
            copies: self.copies.clone(),
            accept: why.map(|why| Acceptance { why: why.to_owned(), uid: 7 }),
        };
        let ledger = dir(&self.path("ledger"));
        Ledger::open_signed(Arc::new(RealStorage), ledger, "lab", &seal, &mut |_| {})
    }

    /// Opens, appends, closes.
    pub fn run(&self, paths: &[&str]) {
        let (ledger, _) = self.open_to(None).unwrap();
        for path in paths {
            ledger.append(operation(path, true), Durability::Sync).unwrap();
        }
        ledger.append(unmounted(), Durability::Sync).unwrap();
        ledger.close().unwrap();
    }

    pub fn key(&self) -> NoteSigner {
        String::from_utf8(self.read("key")).unwrap().parse().unwrap()
    }

    pub fn checkpoint(&self) -> Checkpoint {
        Checkpoint::open(&self.read("ledger/checkpoint"), self.key().verifier()).unwrap()
    }

    pub fn lines(&self) -> Vec<Vec<u8>> {
        let text = self.read("ledger/00000001.jsonl");
        text.split(|byte| *byte == b'\n')
            .filter(|line| !line.is_empty())
            .map(<[u8]>::to_vec)
            .collect()
    }

    /// Takes the checkpoint as the copy of a branch.
    pub fn copy(&mut self, branch: &str) {
        let note = self.read("ledger/checkpoint");
        let place = format!("the copy in branch {branch}");
        self.copies.push(CheckpointCopy { place, note, adopted: false });
    }

    #[track_caller]
    pub fn refused(&self, words: &[&str]) {
        let before = self.everything();
        let error = self.open_to(None).map(drop).expect_err("it was changed");
        let text = error.to_string();
        for word in words {
            assert!(text.contains(word), "{word}: {text}");
        }
        assert_eq!(self.everything(), before, "nothing was changed");
    }

    /// All files with their content.
    pub fn everything(&self) -> Vec<(PathBuf, Vec<u8>)> {
        let mut open = vec![self.folder.path().to_owned()];
        let mut found = Vec::new();
        while let Some(folder) = open.pop() {
            for entry in std::fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    open.push(path);
                } else if path.file_name() != Some(OsStr::new("reserve")) {
                    let bytes = std::fs::read(&path).unwrap();
                    found.push((path, bytes));
                }
            }
        }
        found.sort();
        found
    }
}

pub(super) fn unmounted() -> Record {
    let event = record::MountEvent::Unmounted;
    Record::Mount(record::MountRecord { event, mountpoint: "/mnt".into(), uid: 0, pid: 1 })
}

pub(super) fn tree(lines: &[Vec<u8>]) -> (Builder, Vec<(TileId, Vec<Hash>)>) {
    let mut builder = Builder::default();
    let mut full = Vec::new();
    for line in lines {
        builder.push(leaf_hash(line), |id, hashes| full.push((id, hashes.to_vec())));
    }
    full.extend(builder.partial().map(|(id, hashes)| (id, hashes.to_vec())));
    (builder, full)
}

/// The lines again with their checksums, after a change of one.
pub(super) fn forged(line: &[u8], from: &str, to: &str) -> Vec<u8> {
    let text = std::str::from_utf8(line).unwrap();
    let (body, _) = text.rsplit_once(",\"crc\":").unwrap();
    let body = body.replacen(from, to, 1);
    format!("{body},\"crc\":\"{:08x}\"}}", crc32c::crc32c(body.as_bytes())).into_bytes()
}

pub(super) fn joined(lines: &[Vec<u8>]) -> Vec<u8> {
    lines.iter().flat_map(|line| [line.as_slice(), b"\n"].concat()).collect()
}

#[test]
fn a_stop_leaves_a_checkpoint_over_all_lines_and_its_tiles() {
    let state = State::new();
    let many: Vec<String> = (0..600).map(|at| format!("/{at}")).collect();
    state.run(&many.iter().map(String::as_str).collect::<Vec<_>>());
    for round in 0..3 {
        let (builder, tiles) = tree(&state.lines());
        let checkpoint = state.checkpoint();
        assert_eq!(checkpoint.size, state.lines().len() as u64);
        assert_eq!(checkpoint.root, builder.root());
        for (id, hashes) in &tiles {
            let path = format!("ledger/tile/{}", id.path());
            assert_eq!(state.read(&path), bytes_of(hashes), "{path}, round {round}");
        }
        let of_tiles = |(path, _): &(PathBuf, Vec<u8>)| path.starts_with(state.path("ledger/tile"));
        assert_eq!(state.everything().into_iter().filter(of_tiles).count(), tiles.len());
        assert!(!state.path("key.new").exists());
        let mode = std::os::unix::fs::MetadataExt::mode(&state.path("key").metadata().unwrap());
        assert_eq!(mode & 0o777, 0o600);
        state.run(&["/more"]);
    }
}

#[test]
fn lines_are_signed_while_the_ledger_is_open() {
    let state = State::new();
    let (ledger, _) = state.open_to(None).unwrap();
    let first = ledger.checkpoint().expect("signed at once");
    ledger.append(operation("/a", true), Durability::Sync).unwrap();
    let begun = std::time::Instant::now();
    while ledger.checkpoint() == Some(Arc::clone(&first)) {
        assert!(begun.elapsed().as_secs() < 20, "it is not signed");
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    let note = ledger.checkpoint().unwrap();
    let published = Checkpoint::open(&note, ledger.key().unwrap()).unwrap();
    assert_eq!(published.size, 3);
    assert_eq!(state.read("ledger/checkpoint"), *note);
    ledger.close().unwrap();
}

#[test]
fn an_open_ledger_tells_whether_it_extends_a_checkpoint() {
    let mut state = State::new();
    for at in 0..3 {
        state.run(&[&format!("/{at}")]);
        state.copy("inbox");
    }
    let (ledger, _) = state.open_to(None).unwrap();
    for copy in &state.copies {
        assert_eq!(ledger.extends(&copy.note), Extends::Yes);
    }
    let key = state.key();
    let older = Checkpoint::open(&state.copies[1].note, key.verifier()).unwrap();
    let other = Checkpoint { root: [0; 32], ..older.clone() }.sign(&key);
    let no = |note: &str| match ledger.extends(note.as_bytes()) {
        Extends::No(why) => why,
        other => panic!("{other:?}"),
    };
    assert!(no(&other).contains("other lines"));
    let longer = Checkpoint { size: 1000, ..older }.sign(&key);
    assert!(no(&longer).contains("1000 lines"));
    let note = state.copies[0].note.split_last().unwrap().1;
    assert!(matches!(ledger.extends(note), Extends::No(_)));
    ledger.close().unwrap();
}

#[test]
fn tiles_that_fit_an_old_checkpoint_do_not_make_a_fork_extend_it() {
    let state = State::new();
    state.run(&["/a", "/b"]);
    let key = state.key();
    let (ledger, _) = state.open_to(None).unwrap();
    // Signed by the key, over lines that were never in this ledger; and tiles that fit it.
    let mut forged = Builder::default();
    (0..3).for_each(|at| forged.push(leaf_hash(&[at]), |_, _| {}));
    let origin = key.verifier().name().to_owned();
    let note = Checkpoint { origin, size: 3, root: forged.root() }.sign(&key);
    for (id, hashes) in forged.partial() {
        state.write(&format!("ledger/tile/{}", id.path()), bytes_of(hashes));
    }
    let store =
        TreeStore::new(Arc::new(RealStorage), RealDir::open(&state.path("ledger")).unwrap());
    assert_eq!(store.root(3), Ok(forged.root()));
    assert!(matches!(ledger.extends(note.as_bytes()), Extends::No(_)));
    ledger.close().unwrap();
}

#[test]
fn a_proof_is_made_only_of_what_was_signed() {
    let state = State::new();
    state.run(&["/a", "/b"]);
    let key = state.key().verifier().clone();
    let ledger = state.path("ledger");
    let store = TreeStore::new(Arc::new(RealStorage), RealDir::open(&ledger).unwrap());
    let proven = || prove::prove(&Reader::open(&ledger).unwrap(), &store, &key, 2);
    assert!(proven().unwrap().is_some());
    let lines = state.lines();
    let mut edited = lines.clone();
    edited[2] = forged(&lines[2], "/a", "/x");
    state.write("ledger/00000001.jsonl", joined(&edited));
    assert!(matches!(proven(), Err(LedgerError::Unproven { seq: 2, .. })));
    state.write("ledger/00000001.jsonl", joined(&lines));
    let other = NoteSigner::new("octroi/lab/00000000", &[1; 32]).unwrap();
    let note = state.checkpoint().sign(&other);
    state.write("ledger/checkpoint", note);
    assert!(matches!(proven(), Err(LedgerError::Unproven { seq: 2, .. })));
}

#[test]
fn a_ledger_from_before_checkpoints_begins_to_have_them() {
    let state = State::new();
    let dir = RealDir::open(&state.path("ledger")).unwrap();
    let (ledger, _) = Ledger::open(Arc::new(RealStorage), dir, "lab", &mut |_| {}).unwrap();
    for at in 0..300 {
        ledger.append(operation(&format!("/{at}"), true), Durability::Async).unwrap();
    }
    ledger.append(unmounted(), Durability::Sync).unwrap();
    ledger.close().unwrap();
    assert!(!state.path("key").exists());
    let (ledger, opened) = state.open_to(None).unwrap();
    assert_eq!(opened.damaged_tiles, 0);
    assert_eq!(state.checkpoint().size, 303);
    ledger.close().unwrap();
}

#[test]
fn tiles_that_are_gone_or_wrong_are_made_again() {
    let state = State::new();
    let many: Vec<String> = (0..300).map(|at| format!("/{at}")).collect();
    state.run(&many.iter().map(String::as_str).collect::<Vec<_>>());
    let whole = state.read("ledger/tile/0/000");
    let mut wrong = whole.clone();
    wrong[77] ^= 1;
    state.write("ledger/tile/0/000", &wrong);
    let (ledger, opened) = state.open_to(None).unwrap();
    assert_eq!(opened.damaged_tiles, 1);
    ledger.close().unwrap();
    assert_eq!(state.read("ledger/tile/0/000"), whole);
    std::fs::remove_dir_all(state.path("ledger/tile")).unwrap();
    let (ledger, opened) = state.open_to(None).unwrap();
    assert!(opened.damaged_tiles > 1);
    ledger.close().unwrap();
    let (_, tiles) = tree(&state.lines());
    for (id, hashes) in tiles {
        assert_eq!(state.read(&format!("ledger/tile/{}", id.path())), bytes_of(&hashes));
    }
}

#[test]
fn with_many_tiles_missing_the_tree_is_made_again_over_all_segments() {
    let state = State::new();
    let version = Record::Version(record::VersionRecord {
        format: 1,
        program: "octroi".into(),
        view: "lab".into(),
        after_failed_sync: false,
    });
    let line = |seq: u64| {
        let body = match seq {
            0 | 1500 => encode::body(&version),
            _ => encode::body(&operation("/a", true)),
        };
        let synced = (seq > 0).then_some(seq);
        encode::line(seq, jiff::Timestamp::UNIX_EPOCH, synced, &body.unwrap())
    };
    let text = |range: std::ops::Range<u64>| range.flat_map(line).collect::<Vec<u8>>();
    let (first, second) = (text(0..1500), text(1500..2000));
    state.write("ledger/00000001.jsonl", &first);
    state.write("ledger/00000002.jsonl", &second);
    let (ledger, _) = state.open_to(None).unwrap();
    ledger.append(unmounted(), Durability::Sync).unwrap();
    ledger.close().unwrap();
    let all = [first, state.read("ledger/00000002.jsonl")].concat();
    let lines = all.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
    let (builder, tiles) = tree(&lines.map(<[u8]>::to_vec).collect::<Vec<_>>());
    assert_eq!(state.checkpoint().size, 2003, "with the gap, the key and the stop");
    assert_eq!(state.checkpoint().root, builder.root());
    for (id, hashes) in tiles {
        assert_eq!(state.read(&format!("ledger/tile/{}", id.path())), bytes_of(&hashes));
    }
}

#[test]
fn an_edited_line_is_refused_and_named() {
    let state = State::new();
    state.run(&["/a", "/b", "/c"]);
    let mut lines = state.lines();
    lines[3] = forged(&lines[3], "/b", "/x");
    state.write("ledger/00000001.jsonl", joined(&lines));
    state.refused(&["seq 3", "00000001.jsonl", "accept-loss"]);
}

#[test]
fn a_truncated_ledger_is_refused() {
    let state = State::new();
    state.run(&["/a", "/b", "/c"]);
    let whole = state.read("ledger/00000001.jsonl");
    for length in 0..whole.len() - 1 {
        state.write("ledger/00000001.jsonl", &whole[..length]);
        state.refused(&["vouches for 6 lines"]);
    }
    std::fs::remove_file(state.path("ledger/00000001.jsonl")).unwrap();
    state.refused(&["vouches for 6 lines, and the ledger has 0"]);
}

#[test]
fn what_is_made_to_look_void_or_torn_is_not_cut_off_by_a_mount_that_is_refused() {
    let mut state = State::new();
    state.run(&["/a", "/b", "/c"]);
    let version = Record::Version(record::VersionRecord {
        format: 1,
        program: "octroi".into(),
        view: "lab".into(),
        after_failed_sync: true,
    });
    let body = encode::body(&version).unwrap();
    let planted = encode::line(2, jiff::Timestamp::UNIX_EPOCH, Some(2), &body);
    state.write("ledger/00000002.jsonl", planted);
    state.refused(&["vouches for 6 lines, and the ledger has 3"]);
    std::fs::remove_file(state.path("ledger/00000002.jsonl")).unwrap();
    // A torn end, and a segment that was never begun, beside another reason.
    state.copy("inbox");
    state.copies[0].note[0] ^= 1;
    let torn = [state.read("ledger/00000001.jsonl"), b"{\"seq\":5,\"ti".to_vec()].concat();
    state.write("ledger/00000001.jsonl", torn);
    state.write("ledger/00000002.jsonl", b"{\"se");
    state.refused(&["branch inbox"]);
    state.copies.clear();
    let (ledger, opened) = state.open_to(None).unwrap();
    assert_eq!(opened.torn_bytes, 16);
    ledger.close().unwrap();
}

#[test]
fn a_state_folder_that_was_rolled_back_is_refused_by_the_copy_of_a_branch() {
    let mut state = State::new();
    state.run(&["/a"]);
    let before = state.everything();
    state.run(&["/b"]);
    state.copy("inbox");
    for (path, _) in state.everything() {
        std::fs::remove_file(path).unwrap();
    }
    for (path, bytes) in before {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, bytes).unwrap();
    }
    state.refused(&["the copy in branch inbox", "vouches for 6 lines, and the ledger has 4"]);
}

#[test]
fn a_swapped_key_is_refused() {
    let mut state = State::new();
    state.run(&["/a"]);
    state.copy("inbox");
    let other = NoteSigner::new("octroi/lab/00000000", &[1; 32]).unwrap();
    state.write("key", other.to_secret_text());
    state.refused(&["not signed by the key octroi/lab/00000000", "branch inbox", "another ledger"]);
    // Also where the checkpoint was signed anew.
    let origin = other.verifier().name().to_owned();
    let forged = Checkpoint { origin, ..Checkpoint::unverified(&state.copies[0].note).unwrap() };
    state.write("ledger/checkpoint", forged.sign(&other));
    state.refused(&["branch inbox is of another ledger or key"]);
    state.copies[0].adopted = true;
    state.refused(&["its lines name the key octroi/lab/", "and key is another"]);
}

#[test]
fn a_key_or_checkpoint_that_is_gone_or_damaged_is_refused() {
    let state = State::new();
    state.run(&["/a"]);
    for name in ["key", "ledger/checkpoint"] {
        let whole = state.read(name);
        std::fs::remove_file(state.path(name)).unwrap();
        state.refused(&["is missing"]);
        let mut wrong = whole.clone();
        *wrong.last_mut().unwrap() ^= 1;
        state.write(name, wrong);
        state.refused(&[if name == "key" { "damaged" } else { "not to be believed" }]);
        state.write(name, whole);
    }
    let (ledger, _) = state.open_to(None).unwrap();
    ledger.close().unwrap();
}

#[test]
fn an_accepted_loss_is_recorded_and_begins_a_new_key() {
    let mut state = State::new();
    state.run(&["/a", "/b"]);
    state.copy("inbox");
    let lines = state.lines();
    let old = state.key().verifier().to_string();
    assert!(matches!(state.open_to(Some("why")).map(drop), Err(LedgerError::NothingLost)));
    state.write("ledger/00000001.jsonl", joined(&lines[..2]));
    state.refused(&["vouch for 5 lines"]);
    let (ledger, opened) = state.open_to(Some("the disk failed")).unwrap();
    assert_eq!(opened.lost.len(), 2);
    ledger.append(unmounted(), Durability::Sync).unwrap();
    ledger.close().unwrap();
    assert_ne!(state.key().verifier().to_string(), old);
    let last = state.lines();
    let loss = last.iter().find_map(|line| match decode::decode(line).unwrap().entry.record {
        Record::Loss(loss) => Some(loss),
        _ => None,
    });
    let loss = loss.expect("a record");
    assert_eq!((loss.why.as_str(), loss.uid), ("the disk failed", 7));
    let note = String::from_utf8(state.copies[0].note.clone()).unwrap();
    assert!(loss.checkpoints.contains(&note));
    // The old copy is accounted for; another one by the old key is not.
    let (ledger, _) = state.open_to(None).unwrap();
    ledger.close().unwrap();
    state.copies[0].note[0] ^= 1;
    state.refused(&["branch inbox"]);
}

#[test]
fn a_signer_that_fails_is_told_until_it_heals() {
    let state = State::new();
    let (ledger, _) = state.open_to(None).unwrap();
    let wait = |what: &str, until: &dyn Fn(sealer::Signing) -> bool| {
        let begun = std::time::Instant::now();
        while !until(ledger.signing().unwrap()) {
            assert!(begun.elapsed().as_secs() < 60, "waited for: {what}");
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
    };
    wait("all to be signed", &|signing| signing.age.is_some() && signing.waiting.is_none());
    let tile = state.path("ledger/tile");
    std::fs::rename(&tile, state.path("aside")).unwrap();
    std::fs::write(&tile, b"in the way").unwrap();
    ledger.append(operation("/a", true), Durability::Sync).unwrap();
    wait("the fault", &|signing| signing.fault.is_some() && signing.waiting.is_some());
    std::fs::remove_file(&tile).unwrap();
    std::fs::rename(state.path("aside"), &tile).unwrap();
    wait("it to heal", &|signing| signing.fault.is_none() && signing.waiting.is_none());
    ledger.close().unwrap();
}

#[test]
fn a_thread_that_a_disk_holds_up_is_left_behind() {
    let (sender, receiver) = crossbeam_channel::bounded::<()>(0);
    let hung = std::thread::spawn(move || {
        let _ = receiver.recv();
    });
    let soon = |millis| Instant::now() + std::time::Duration::from_millis(millis);
    assert!(!sealer::join(hung, soon(30)));
    drop(sender);
    assert!(sealer::join(std::thread::spawn(|| ()), soon(60_000)));
}
