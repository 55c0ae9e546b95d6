use super::*;

struct Fixed;

impl AuditSource for Fixed {
    fn branches(&self) -> Vec<(String, Value)> {
        vec![("inbox".into(), serde_json::json!({"mode": "rw"}))]
    }
    fn transactions(&self, state: TxState) -> Vec<(TxId, Value)> {
        match state {
            TxState::Done => vec![(TxId(ulid::Ulid::from(7u128)), serde_json::json!({}))],
            _ => Vec::new(),
        }
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
            Err(errno) => assert!(attributes.is_directory && errno == Errno::ISDIR),
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
