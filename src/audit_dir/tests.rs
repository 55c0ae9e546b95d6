use std::sync::atomic::AtomicUsize;

use super::*;

/// A branch, and one transaction that is done.
struct Fixed;

impl AuditSource for Fixed {
    fn branches(&self) -> Vec<String> {
        vec!["inbox".into()]
    }
    fn branch(&self, name: &str) -> Option<Value> {
        (name == "inbox").then(|| serde_json::json!({"mode": "rw"}))
    }
    fn transactions(&self, state: TxState) -> Vec<TxId> {
        let only = TxId(ulid::Ulid::from(7u128));
        if state == TxState::Done { vec![only] } else { Vec::new() }
    }
    fn is_in(&self, state: TxState, txid: TxId) -> bool {
        self.transactions(state).contains(&txid)
    }
    fn transaction(&self, state: TxState, txid: TxId) -> Option<Value> {
        self.is_in(state, txid).then(|| serde_json::json!({}))
    }
    fn stats(&self) -> String {
        "lookup 1\n".into()
    }
}

fn all(audit: &AuditDir, node: &AuditNode, nodes: &mut Vec<AuditNode>) {
    nodes.push(node.clone());
    for (name, child) in audit.list(node) {
        assert_eq!(audit.lookup(node, &name).as_ref(), Some(&child));
        all(audit, &child, nodes);
    }
}

fn content(file: &AuditFile) -> String {
    let mut bytes: Vec<u8> = Vec::new();
    loop {
        let more = file.read_at(bytes.len() as u64, 7).unwrap();
        if more.is_empty() {
            return String::from_utf8(bytes).unwrap();
        }
        bytes.extend(more);
    }
}

fn audit() -> (tempfile::TempDir, AuditDir) {
    let folder = tempfile::tempdir().unwrap();
    let audit = AuditDir::new(folder.path().to_owned(), "[view]\n".into(), Box::new(Fixed));
    (folder, audit)
}

/// So many transactions that are done, of which is counted how many texts are made.
struct Counting(Vec<TxId>, Arc<AtomicUsize>);

impl AuditSource for Counting {
    fn branches(&self) -> Vec<String> {
        vec!["inbox".into()]
    }
    fn branch(&self, _name: &str) -> Option<Value> {
        self.1.fetch_add(1, Ordering::Relaxed);
        Some(Value::Null)
    }
    fn transactions(&self, state: TxState) -> Vec<TxId> {
        if state == TxState::Done { self.0.clone() } else { Vec::new() }
    }
    fn is_in(&self, state: TxState, txid: TxId) -> bool {
        state == TxState::Done && self.0.contains(&txid)
    }
    fn transaction(&self, state: TxState, txid: TxId) -> Option<Value> {
        self.1.fetch_add(1, Ordering::Relaxed);
        self.is_in(state, txid).then_some(Value::Null)
    }
    fn stats(&self) -> String {
        String::new()
    }
}

#[test]
fn a_listing_makes_no_text_and_a_look_up_that_of_one() {
    let folder = tempfile::tempdir().unwrap();
    let texts = Arc::new(AtomicUsize::new(0));
    let made = || texts.swap(0, Ordering::Relaxed);
    let ids = (1..=300).map(|number| TxId(ulid::Ulid::from(number as u128))).collect();
    let source = Box::new(Counting(ids, Arc::clone(&texts)));
    let audit = AuditDir::new(folder.path().to_owned(), String::new(), source);
    let look_up = |parent: &AuditNode, name: &str| audit.lookup(parent, OsStr::new(name));
    let tx = look_up(&audit.root(), "tx").unwrap();
    let done = look_up(&tx, "done").unwrap();
    let listed = audit.list(&done);
    assert_eq!(listed.len(), 300);
    assert!(listed.iter().all(|(_, node)| !node.is_directory()));
    let branches = look_up(&audit.root(), "branches").unwrap();
    assert_eq!(audit.list(&branches).len(), 1);
    assert_eq!(made(), 0);
    let name = listed[150].0.to_str().unwrap();
    let node = look_up(&done, name).unwrap();
    assert_eq!(node, listed[150].1);
    assert_eq!(made(), 0);
    assert_eq!(audit.attributes(&node).size, "null\n".len() as u64);
    assert_eq!(made(), 1);
    let other = listed[150].0.to_str().unwrap().to_lowercase();
    for none in ["x", "x.json", ".json", "0.json", &name.replace("json", "jso"), &other] {
        assert_eq!(look_up(&done, none), None, "{none}");
    }
    let active = look_up(&tx, "active").unwrap();
    assert_eq!(look_up(&active, name), None);
    assert_eq!(made(), 0);
}

#[test]
fn a_large_ledger_is_searched_for_who_opens_it_and_not_for_who_looks() {
    let (folder, audit) = audit();
    let line = format!("{{\"decision\":\"denied\",\"path\":\"{}\"}}\n", "x".repeat(1_000));
    let all = line.len() as u64 * 20_000;
    std::fs::write(folder.path().join("00000001.jsonl"), line.repeat(20_000)).unwrap();
    let found = || audit.log().unwrap().lock().denied().end();
    audit.list(&audit.root());
    let node = audit.lookup(&audit.root(), OsStr::new(DENIED)).unwrap();
    assert_eq!(found(), 0);
    let size = audit.attributes(&node).size;
    assert!(0 < size && size <= all, "{size} of {all}");
    // It goes on by itself.
    while found() < all {
        std::thread::yield_now();
    }
    assert_eq!(audit.attributes(&node).size, all);

    let anew = AuditDir::new(folder.path().to_owned(), String::new(), Box::new(Fixed));
    let file = anew.open(&node).unwrap();
    assert_eq!(anew.log().unwrap().lock().denied().end(), all);
    assert_eq!(anew.attributes(&node).size, all);
    let middle = file.read_at(all / 2, 2 << 20).unwrap();
    assert_eq!(middle.len(), 2 << 20, "no less than asked for before the end");
    let end = file.read_at(all - 5, 100).unwrap();
    assert_eq!(end, line.as_bytes()[line.len() - 5..]);
}

#[test]
fn every_file_is_as_long_as_it_says_and_every_number_is_its_own() {
    let (folder, audit) = audit();
    std::fs::write(folder.path().join("00000001.jsonl"), "{\"a\":1}\n").unwrap();
    let mut nodes = Vec::new();
    all(&audit, &audit.root(), &mut nodes);
    assert_eq!(nodes.len(), 16);
    let mut numbers: Vec<u64> = nodes.iter().map(AuditNode::number).collect();
    numbers.sort_unstable();
    numbers.dedup();
    assert_eq!(numbers.len(), nodes.len());
    assert!(numbers.iter().all(|number| (NUMBERS..NUMBERS << 1).contains(number)));
    for node in &nodes {
        let attributes = audit.attributes(node);
        match audit.open(node) {
            Err(errno) => assert!(node.is_directory() && errno == Errno::ISDIR),
            Ok(file) => assert_eq!(content(&file).len() as u64, attributes.size),
        }
    }
}

#[test]
fn the_log_grows_under_an_open_file_and_denials_are_picked_out() {
    let (folder, audit) = audit();
    let path = folder.path().join("00000001.jsonl");
    let denied = "{\"decision\":\"denied\",\"n\":1}\n";
    let allowed = "{\"decision\":\"allowed\",\"path\":\"\\\"decision\\\":\\\"denied\\\"\"}\n";
    std::fs::write(&path, [denied, allowed, denied].concat()).unwrap();
    let open = |name: &str| {
        let node = audit.lookup(&audit.root(), OsStr::new(name)).unwrap();
        audit.open(&node).unwrap()
    };
    let (log, denials) = (open("log.jsonl"), open("denied.jsonl"));
    assert_eq!(content(&log), [denied, allowed, denied].concat());
    assert_eq!(content(&denials), [denied, denied].concat());
    std::fs::write(&path, [denied, allowed, denied, allowed, denied].concat()).unwrap();
    assert_eq!(content(&log), [denied, allowed, denied, allowed, denied].concat());
    assert_eq!(content(&denials), [denied, denied, denied].concat());
}

/// A ledger of some lines that was signed and closed, and what `.audit` shows of it.
fn signed(lines: usize) -> (tempfile::TempDir, AuditDir, crate::ledger::note::VerifierKey) {
    use crate::ledger::record::{GapRecord, Record};
    use crate::ledger::{Durability, Ledger, Seal};
    use crate::storage::real::{RealDir, RealStorage};
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("ledger");
    std::fs::create_dir(&path).unwrap();
    let dir = |path: &std::path::Path| RealDir::open(path).unwrap();
    let seal = Seal { state: dir(folder.path()), copies: Vec::new(), accept: None };
    let storage = Arc::new(RealStorage);
    let opened = Ledger::open_signed(storage, dir(&path), "lab", &seal, &mut |_| {}).unwrap();
    for torn_bytes in 1..lines as u64 {
        opened
            .0
            .append(
                Record::Gap(GapRecord { torn_bytes, ..GapRecord::default() }),
                Durability::Async,
            )
            .unwrap();
    }
    opened.0.close().unwrap();
    let key = opened.0.key().unwrap().clone();
    let audit = AuditDir::new(path, String::new(), Box::new(Fixed));
    (folder, audit.signed(key.to_string()).unwrap(), key)
}

fn read(audit: &AuditDir, path: &str) -> Result<Vec<u8>, Errno> {
    let mut node = audit.root();
    for name in path.split('/') {
        node = audit.lookup(&node, OsStr::new(name)).ok_or(Errno::NOENT)?;
    }
    let bytes = audit.open(&node)?.read_at(0, 1 << 30)?;
    assert_eq!(audit.attributes(&node).size, bytes.len() as u64, "{path}");
    Ok(bytes)
}

#[test]
fn the_signed_tree_is_served_as_tiles_entries_and_proofs() {
    use crate::ledger::checkpoint::{Checkpoint, Proof};
    use crate::ledger::tree::leaf_hash;
    let (folder, audit, key) = signed(699);
    let note = read(&audit, "checkpoint").unwrap();
    assert_eq!(Checkpoint::open(&note, &key).unwrap().size, 700);
    assert_eq!(read(&audit, "key.pub").unwrap(), format!("{key}\n").into_bytes());
    let text = std::fs::read(folder.path().join("ledger/00000001.jsonl")).unwrap();
    let lines: Vec<&[u8]> = text.split(|byte| *byte == b'\n').collect();
    for (index, width) in [(0, 256), (1, 256), (2, 188), (2, 7), (0, 9)] {
        let name = crate::ledger::tree::tile::numbered(index, width);
        let hashes = read(&audit, &format!("tile/0/{name}")).unwrap();
        let mut bundle = read(&audit, &format!("tile/entries/{name}")).unwrap();
        assert_eq!(hashes.len(), usize::from(width) * 32);
        for (at, hash) in hashes.chunks(32).enumerate() {
            let length = usize::from(u16::from_be_bytes([bundle[0], bundle[1]]));
            let line = bundle[2..2 + length].to_vec();
            bundle.drain(..2 + length);
            assert_eq!(line, lines[index as usize * 256 + at]);
            assert_eq!(hash, leaf_hash(&line));
        }
        assert!(bundle.is_empty());
    }
    assert_eq!(read(&audit, "tile/1/000.p/2").unwrap().len(), 64);
    for none in ["tile/0/002", "tile/0/002.p/189", "tile/2/000", "tile/0/2", "tile/x", "proof/700"]
    {
        assert_eq!(read(&audit, none), Err(Errno::NOENT), "{none}");
    }
    for seq in [0, 255, 256, 699] {
        let proof = Proof::parse(&read(&audit, &format!("proof/{seq}")).unwrap()).unwrap();
        assert_eq!(proof.verify(&key).unwrap().size, 700);
        assert_eq!(proof.line, lines[seq]);
    }
    let mut nodes = Vec::new();
    all(&audit, &audit.root(), &mut nodes);
    let files = nodes.iter().filter(|node| !node.is_directory()).count();
    assert_eq!(files, 11 + 3 + 1 + 3, "of the daemon, of levels 0 and 1, and the entries");
    let mut numbers: Vec<u64> = nodes.iter().map(AuditNode::number).collect();
    numbers.sort_unstable();
    numbers.dedup();
    assert_eq!(numbers.len(), nodes.len());
}
