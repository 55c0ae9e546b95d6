//! Records as events of the Open Cybersecurity Schema Framework, <https://schema.ocsf.io/1.3.0>: class
//! File System Activity (1001) with the profile for security controls.

use std::collections::HashMap;
use std::path::Path;

use serde_json::{Map, Value, json};

use crate::ledger::record::{CrossingRecord, MountEvent, OperationRecord, Step, Verdict};
use crate::ledger::{Entry, Record, decode_line};
use crate::types::{Operation, ViewPath};

use super::super::tx;

const VERSION: &str = "1.3.0";
const CLASS: u64 = 1001;

/// `activity_id` and its name.
#[derive(Clone, Copy)]
struct Activity(u64, &'static str);

const CREATE: Activity = Activity(1, "Create");
const READ: Activity = Activity(2, "Read");
const UPDATE: Activity = Activity(3, "Update");
const DELETE: Activity = Activity(4, "Delete");
const RENAME: Activity = Activity(5, "Rename");
const SET_ATTRIBUTES: Activity = Activity(6, "Set Attributes");
const SET_SECURITY: Activity = Activity(7, "Set Security");
const MOUNT: Activity = Activity(12, "Mount");
const UNMOUNT: Activity = Activity(13, "Unmount");
const OPEN: Activity = Activity(14, "Open");

/// `file.type_id`.
const UNKNOWN: u64 = 0;
const REGULAR: u64 = 1;
const FOLDER: u64 = 2;
const SYMLINK: u64 = 7;

fn activity(operation: Operation) -> Activity {
    match operation {
        Operation::List => READ,
        Operation::OpenRead | Operation::Exec | Operation::OpenWrite => OPEN,
        Operation::WriteData
        | Operation::Truncate
        | Operation::Fallocate
        | Operation::CopyFileRange => UPDATE,
        Operation::Create
        | Operation::Mkdir
        | Operation::Mknod
        | Operation::Symlink
        | Operation::Link => CREATE,
        Operation::Unlink | Operation::Rmdir => DELETE,
        Operation::RenameSource
        | Operation::RenameTarget
        | Operation::MoveSource
        | Operation::MoveTarget => RENAME,
        Operation::Chmod | Operation::Chown => SET_SECURITY,
        Operation::Utimes | Operation::Setxattr | Operation::Removexattr => SET_ATTRIBUTES,
    }
}

fn file_type(operation: Operation) -> u64 {
    match operation {
        Operation::List | Operation::Mkdir | Operation::Rmdir => FOLDER,
        Operation::Symlink => SYMLINK,
        Operation::OpenRead
        | Operation::Exec
        | Operation::OpenWrite
        | Operation::WriteData
        | Operation::Truncate
        | Operation::Fallocate
        | Operation::CopyFileRange
        | Operation::Create => REGULAR,
        _ => UNKNOWN,
    }
}

fn file(path: &ViewPath, kind: u64) -> Value {
    let name = path.name().map_or_else(|| "/".into(), |name| name.to_string_lossy());
    json!({ "name": name, "path": path.as_path().to_string_lossy(), "type_id": kind })
}

/// Who did something.
struct Who<'a> {
    uid: u32,
    gid: u32,
    pid: u32,
    exe: Option<&'a str>,
}

/// Makes events, and remembers the names of users.
pub(super) struct Exporter {
    users: HashMap<u32, String>,
    hostname: String,
}

impl Exporter {
    pub(super) fn new() -> Self {
        let system = rustix::system::uname();
        let hostname = system.nodename().to_string_lossy().into_owned();
        Self { users: HashMap::new(), hostname }
    }

    /// The event of a line; none of what is no activity on files.
    pub(super) fn event(&mut self, line: &[u8]) -> Option<Value> {
        let entry = decode_line(line).ok()?;
        let mut event = match &entry.record {
            Record::Operation(record) => self.operation(record),
            Record::Crossing(record) => self.crossing(record)?,
            Record::Mount(record) => {
                let activity = match record.event {
                    MountEvent::Mounted => MOUNT,
                    MountEvent::Unmounted => UNMOUNT,
                };
                let who = Who { uid: record.uid, gid: 0, pid: record.pid, exe: None };
                let path = ViewPath::parse(Path::new(&record.mountpoint))?;
                self.base(activity, &who, file(&path, FOLDER), (true, "ok", None))
            }
            Record::Version(_)
            | Record::Branch(_)
            | Record::Policy(_)
            | Record::Gap(_)
            | Record::Purge(_)
            | Record::Loss(_)
            | Record::Key(_)
            | Record::Check(_)
            | Record::Prune(_) => return None,
        };
        event.insert("time".to_owned(), entry.time.as_millisecond().into());
        event.insert("metadata".to_owned(), metadata(&entry));
        event.insert("unmapped".to_owned(), unmapped(line)?);
        Some(Value::Object(event))
    }

    fn operation(&mut self, record: &OperationRecord) -> Map<String, Value> {
        let who =
            Who { uid: record.uid, gid: record.gid, pid: record.pid, exe: record.exe.as_deref() };
        let good = record.decision != Verdict::Denied && record.result == "ok";
        let object = file(&record.path, file_type(record.op));
        let ended = (good, &*record.result, record.reason.as_deref());
        let mut event = self.base(activity(record.op), &who, object, ended);
        if let Some(target) = &record.target {
            event.insert("file_result".to_owned(), file(target, file_type(record.op)));
        }
        let (action, disposition) = match record.decision {
            Verdict::Allowed | Verdict::Observed => (json!([1, "Allowed"]), json!([1, "Allowed"])),
            Verdict::Denied => (json!([2, "Denied"]), json!([2, "Blocked"])),
        };
        for (name, pair) in [("action", action), ("disposition", disposition)] {
            event.insert(format!("{name}_id"), pair.get(0).cloned().unwrap_or_default());
            event.insert(name.to_owned(), pair.get(1).cloned().unwrap_or_default());
        }
        if let Some(by) = record.rule.as_ref().or(record.gate.as_ref()) {
            event.insert("policy".to_owned(), json!({ "name": by }));
        }
        if let Some(count) = record.count {
            event.insert("count".to_owned(), count.into());
        }
        if record.decision == Verdict::Denied {
            severity(&mut event, 3, "Medium");
        }
        event
    }

    /// A crossing that has ended.
    fn crossing(&mut self, record: &CrossingRecord) -> Option<Map<String, Value>> {
        let good = match record.step {
            Step::Done => true,
            Step::Abort | Step::Reverted | Step::Dead => false,
            Step::Prepare | Step::Commit | Step::Retry | Step::Withdraw | Step::Accept => {
                return None;
            }
        };
        let who =
            Who { uid: record.uid, gid: record.gid, pid: record.pid, exe: record.exe.as_deref() };
        let result = record.result.as_deref().unwrap_or(if good { "ok" } else { "" });
        let ended = (good, result, record.reason.as_deref());
        let mut event = self.base(RENAME, &who, file(&record.source, UNKNOWN), ended);
        let mut target = file(&record.target, UNKNOWN);
        if let Some(target) = target.as_object_mut() {
            if let Some(hash) = &record.sha256 {
                let hash = json!({ "algorithm_id": 3, "algorithm": "SHA-256", "value": hash });
                target.insert("hashes".to_owned(), json!([hash]));
            }
            if let Some(size) = record.size {
                target.insert("size".to_owned(), size.into());
            }
        }
        event.insert("file_result".to_owned(), target);
        if let Some(gate) = &record.gate {
            event.insert("policy".to_owned(), json!({ "name": gate }));
        }
        event.insert("action_id".to_owned(), 1.into());
        event.insert("action".to_owned(), "Allowed".into());
        event.insert("disposition_id".to_owned(), 1.into());
        event.insert("disposition".to_owned(), "Allowed".into());
        if record.step == Step::Dead {
            severity(&mut event, 4, "High");
        }
        Some(event)
    }

    fn base(
        &mut self,
        Activity(id, name): Activity,
        who: &Who<'_>,
        object: Value,
        (good, result, reason): (bool, &str, Option<&str>),
    ) -> Map<String, Value> {
        let user = self.users.entry(who.uid).or_insert_with(|| tx::user(who.uid)).clone();
        let mut process = json!({ "pid": who.pid });
        if let (Some(exe), Some(process)) = (who.exe, process.as_object_mut()) {
            let name = Path::new(exe).file_name().unwrap_or_default().to_string_lossy();
            let file = json!({ "name": name, "path": exe, "type_id": REGULAR });
            process.insert("file".to_owned(), file);
        }
        let (status_id, status) = if good { (1, "Success") } else { (2, "Failure") };
        let event = json!({
            "category_uid": 1,
            "category_name": "System Activity",
            "class_uid": CLASS,
            "class_name": "File System Activity",
            "activity_id": id,
            "activity_name": name,
            "type_uid": CLASS.saturating_mul(100).saturating_add(id),
            "type_name": format!("File System Activity: {name}"),
            "severity_id": 1,
            "severity": "Informational",
            "status_id": status_id,
            "status": status,
            "status_code": result,
            "actor": {
                "user": {
                    "uid": who.uid.to_string(),
                    "name": user,
                    "groups": [{ "uid": who.gid.to_string() }],
                },
                "process": process,
            },
            "device": { "hostname": self.hostname, "type_id": UNKNOWN, "type": "Unknown" },
            "file": object,
        });
        let Value::Object(mut event) = event else { return Map::new() };
        if let Some(reason) = reason {
            event.insert("status_detail".to_owned(), reason.into());
        }
        event
    }
}

fn severity(event: &mut Map<String, Value>, id: u64, name: &str) {
    event.insert("severity_id".to_owned(), id.into());
    event.insert("severity".to_owned(), name.into());
}

fn metadata(entry: &Entry) -> Value {
    json!({
        "version": VERSION,
        "profiles": ["security_control"],
        "product": {
            "name": "octroi",
            "vendor_name": "octroi",
            "version": env!("CARGO_PKG_VERSION"),
        },
        "log_name": "ledger",
        "sequence": entry.seq,
        "original_time": entry.time.to_string(),
    })
}

/// What has no place in the schema, by the names that it has in the ledger.
fn unmapped(line: &[u8]) -> Option<Value> {
    const PLACED: [&str; 14] = [
        "seq", "time", "synced", "uid", "gid", "pid", "exe", "path", "source", "target", "result",
        "reason", "count", "size",
    ];
    let mut fields = serde_json::from_slice::<Map<String, Value>>(line).ok()?;
    fields.retain(|name, _| !PLACED.contains(&name.as_str()));
    Some(Value::Object(fields))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(body: &str) -> Option<Value> {
        let line = format!("{{\"seq\":7,\"time\":\"2026-11-23T10:00:00.123456789Z\",{body}");
        let crc = crc32c::crc32c(line.as_bytes());
        Exporter::new().event(format!("{line},\"crc\":\"{crc:08x}\"}}").as_bytes())
    }

    #[test]
    fn operations_are_events_of_class_1001() {
        let denied = r#""kind":"operation","op":"mkdir","decision":"denied","rule":"no","reason":"not here","uid":0,"gid":5,"pid":8,"exe":"/bin/mkdir","path":"/inbox/d","branch":"inbox","result":"EACCES","count":3"#;
        let event = event(denied).expect("an event");
        for (pointer, wanted) in [
            ("/class_uid", json!(1001)),
            ("/category_uid", json!(1)),
            ("/activity_id", json!(1)),
            ("/type_uid", json!(100_101)),
            ("/time", json!(1_795_428_000_123_u64)),
            ("/severity_id", json!(3)),
            ("/status_id", json!(2)),
            ("/status_code", json!("EACCES")),
            ("/status_detail", json!("not here")),
            ("/action_id", json!(2)),
            ("/disposition_id", json!(2)),
            ("/count", json!(3)),
            ("/policy/name", json!("no")),
            ("/actor/user/uid", json!("0")),
            ("/actor/user/name", json!("root")),
            ("/actor/process/file/name", json!("mkdir")),
            ("/file/path", json!("/inbox/d")),
            ("/file/type_id", json!(2)),
            ("/metadata/version", json!("1.3.0")),
            ("/metadata/sequence", json!(7)),
            ("/unmapped/branch", json!("inbox")),
            ("/unmapped/op", json!("mkdir")),
        ] {
            assert_eq!(event.pointer(pointer), Some(&wanted), "{pointer}: {event:#}");
        }
        assert!(event.pointer("/unmapped/uid").is_none());
    }

    #[test]
    fn crossings_are_events_when_they_end() {
        let crossing = |step: &str| {
            event(&format!(
                r#""kind":"crossing","txid":"01ARZ3NDEKTSV4RRFFQ69G5FAV","step":"{step}","gate":"submit","uid":0,"gid":0,"pid":1,"source":"/inbox/a","target":"/review/a","branches":["inbox","review"],"sha256":"ab","size":3"#
            ))
        };
        assert!(crossing("prepare").is_none() && crossing("commit").is_none());
        let done = crossing("done").expect("an event");
        assert_eq!(done.pointer("/activity_id"), Some(&json!(5)));
        assert_eq!(done.pointer("/status_id"), Some(&json!(1)));
        assert_eq!(done.pointer("/file_result/hashes/0/value"), Some(&json!("ab")));
        assert_eq!(done.pointer("/file_result/size"), Some(&json!(3)));
        let dead = crossing("dead").expect("an event");
        assert_eq!(dead.pointer("/severity_id"), Some(&json!(4)));
        assert_eq!(dead.pointer("/status_id"), Some(&json!(2)));
        assert!(event(r#""kind":"gap","torn_bytes":0"#).is_none());
        assert!(Exporter::new().event(b"nothing").is_none());
    }
}
