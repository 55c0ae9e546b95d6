//! Lines back to records. No I/O.

use std::sync::LazyLock;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use memchr::memmem::Finder;
use serde_json::{Map, Value};

use super::encode::{CRC_FIELD, LINE_MAX, SHORTENED};
use super::{Entry, Record};

/// The end of the name of a path that is not UTF-8.
static B64: LazyLock<Finder<'static>> = LazyLock::new(|| Finder::new(br#"_b64":"#));
static CUT: LazyLock<Finder<'static>> =
    LazyLock::new(|| Finder::new(SHORTENED.strip_suffix(b"}").unwrap_or(SHORTENED)));

/// A line that checked.
pub struct Decoded {
    /// What it says.
    pub entry: Entry,
    /// All lines before this `seq` were durable when it was written.
    pub synced: Option<u64>,
}

/// What a line (without its newline) says; the error says what is wrong with it, in words.
pub fn decode_line(line: &[u8]) -> Result<Entry, String> {
    decode(line).map(|decoded| decoded.entry)
}

/// Whether a line (without its newline) has the checksum that it was written with; the error says what is
/// wrong, in words.
pub fn check_line(line: &[u8]) -> Result<(), String> {
    checked(line).map(|_content| ())
}

/// The beginning of a line that checked.
pub struct Head<'a> {
    /// Its position.
    pub seq: u64,
    /// When, as it is written.
    pub time: &'a str,
    synced: Option<&'a str>,
    /// What kind of record it is.
    pub kind: &'a str,
}

#[derive(serde::Deserialize)]
struct Kind<'a> {
    kind: &'a str,
}

/// Checks a line (without its newline) and reads no more of it than its beginning, which is a tenth
/// of the work of [`decode`].
pub fn head(line: &[u8]) -> Result<Head<'_>, String> {
    let content = checked(line)?;
    let wrong = || "the line does not begin as one".to_owned();
    let text = std::str::from_utf8(content).map_err(|_| "the line is not UTF-8")?;
    let rest = text.strip_prefix("{\"seq\":").ok_or_else(wrong)?;
    let (seq, rest) = rest.split_once(",\"time\":\"").ok_or_else(wrong)?;
    let (time, rest) = rest.split_once("\",").ok_or_else(wrong)?;
    let (synced, rest) = match rest.strip_prefix("\"synced\":") {
        Some(rest) => {
            let (synced, rest) = rest.split_once(',').ok_or_else(wrong)?;
            (Some(synced), rest)
        }
        None => (None, rest),
    };
    let kind = match rest.strip_prefix("\"kind\":\"") {
        Some(rest) => rest.split_once('"').ok_or_else(wrong)?.0,
        // Of a line that was taken apart for a path that is not UTF-8, or to be cut.
        None => {
            let line = std::str::from_utf8(line).map_err(|_| "the line is not UTF-8")?;
            serde_json::from_str::<Kind<'_>>(line).map_err(|_| wrong())?.kind
        }
    };
    let seq = seq.parse().map_err(|_| wrong())?;
    Ok(Head { seq, time, synced, kind })
}

/// Checks and reads a line (without its newline); the error says what is wrong, in words.
pub fn decode(line: &[u8]) -> Result<Decoded, String> {
    match decode_plain(line) {
        Some(decoded) => Ok(decoded),
        None => decode_any(line),
    }
}

/// Reads a line whose texts are as its writer had them, of the kinds that are many, in a quarter of the time that
/// [`decode_any`] takes.
fn decode_plain(line: &[u8]) -> Option<Decoded> {
    if B64.find(line).is_some() || is_shortened(line) {
        return None;
    }
    let Head { seq, time, synced, kind } = head(line).ok()?;
    let time = time.parse().ok()?;
    let synced = synced.map(str::parse).transpose().ok()?;
    let line = std::str::from_utf8(line).ok()?;
    let record = match kind {
        "crossing" => Record::Crossing(serde_json::from_str(line).ok()?),
        "operation" => Record::Operation(serde_json::from_str(line).ok()?),
        "purge" => Record::Purge(serde_json::from_str(line).ok()?),
        "check" => Record::Check(serde_json::from_str(line).ok()?),
        _ => return None,
    };
    Some(Decoded { entry: Entry { seq, time, record }, synced })
}

fn decode_any(line: &[u8]) -> Result<Decoded, String> {
    checked(line)?;
    let unreadable = |error: serde_json::Error| format!("the line cannot be read: {error}");
    let mut value: Value = serde_json::from_slice(line).map_err(unreadable)?;
    if B64.find(line).is_some() {
        join_paths(&mut value);
    }
    let fields = value.as_object_mut().ok_or("the line is not an object")?;
    fields.remove("crc");
    if fields.contains_key("shortened") {
        mend_cut(fields);
    }
    let seq = fields.remove("seq").and_then(|seq| seq.as_u64()).ok_or("seq is missing")?;
    let synced = fields.remove("synced").and_then(|synced| synced.as_u64());
    let time = fields.remove("time").ok_or("time is missing")?;
    let time = time.as_str().and_then(|text| text.parse().ok()).ok_or("time cannot be read")?;
    let record = serde_json::from_value(value).map_err(unreadable)?;
    Ok(Decoded { entry: Entry { seq, time, record }, synced })
}

/// The bytes of a line that its checksum is over, if they have it.
fn checked(line: &[u8]) -> Result<&[u8], String> {
    if line.len() > LINE_MAX {
        return Err(format!("the line is longer than {LINE_MAX} bytes"));
    }
    let checked = line.len().checked_sub(CRC_FIELD).ok_or("the line is cut short")?;
    let (content, tail) = line.split_at(checked);
    let crc = tail
        .strip_prefix(br#","crc":""#)
        .and_then(|rest| rest.strip_suffix(br#""}"#))
        .and_then(|hex| std::str::from_utf8(hex).ok())
        .filter(|hex| hex.bytes().all(|digit| matches!(digit, b'0'..=b'9' | b'a'..=b'f')))
        .and_then(|hex| u32::from_str_radix(hex, 16).ok())
        .ok_or("the line does not end with its checksum")?;
    if crc != crc32c::crc32c(content) {
        return Err("the checksum does not match".into());
    }
    Ok(content)
}

/// Whether texts of a line were cut, so that it is not as its writer had it.
pub fn is_shortened(line: &[u8]) -> bool {
    CUT.find(line).is_some()
}

/// The reverse of [`split_paths`].
fn join_paths(value: &mut Value) {
    match value {
        Value::Array(items) => items.iter_mut().for_each(join_paths),
        Value::Object(fields) => {
            let names: Vec<String> = fields
                .keys()
                .filter_map(|key| key.strip_suffix("_b64").map(str::to_owned))
                .collect();
            for name in names {
                if let Some(b64) = fields.remove(&format!("{name}_b64")) {
                    fields.insert(name, Value::Object(Map::from_iter([("b64".to_owned(), b64)])));
                }
            }
            fields.values_mut().for_each(join_paths);
        }
        _ => {}
    }
}

/// Paths of lines that are `shortened` were once cut within a name, perhaps after its two dots: such a
/// path is that of the folder.
fn mend_cut(fields: &mut Map<String, Value>) {
    for name in ["path", "target"] {
        match fields.get_mut(name) {
            Some(Value::String(path)) if path.ends_with("/..") => {
                path.truncate(path.len().saturating_sub(3).max(1));
            }
            Some(Value::Object(inner)) => {
                let Some(Value::String(b64)) = inner.get_mut("b64") else { continue };
                let Ok(mut bytes) = STANDARD.decode(&*b64) else { continue };
                if bytes.ends_with(b"/..") {
                    bytes.truncate(bytes.len().saturating_sub(3).max(1));
                    *b64 = STANDARD.encode(bytes);
                }
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt as _;

    use super::super::encode;
    use super::super::record::{
        Act, Area, CheckRecord, CheckResult, Move, PurgeRecord, Spot, Step,
    };
    use super::super::tests::{operation, step, unmounted};
    use super::*;
    use crate::types::{BranchUuid, Handle, Identity, Time, TxId, ViewPath};

    fn line(record: &Record, synced: Option<u64>) -> Vec<u8> {
        let body = encode::body(record).unwrap();
        let mut line = encode::line(7, jiff::Timestamp::now(), synced, &body);
        line.pop();
        line
    }

    #[test]
    fn what_is_read_the_short_way_is_what_is_read_the_long_way() {
        let txid = TxId(ulid::Ulid(7));
        let place = |area| Spot { branch: BranchUuid(ulid::Ulid(1)), area, path: "a \" b".into() };
        let time = Time { seconds: -1, nanos: 5 };
        let handle = Handle { kind: 1, bytes: [1, 2, 0xff].into() };
        let moved = Move {
            act: Act::Retire,
            from: place(Area::Tree),
            to: place(Area::Hold),
            identity: Identity { handle: handle.clone(), size: 3, mtime: time, ctime: time },
            below: Some("0a".into()),
        };
        let mut commit = step(txid, Step::Commit);
        commit.moves = vec![moved.clone(), moved];
        commit.replaced = Some(handle);
        commit.undoes = Some(txid);
        commit.exe = Some("/bin/\u{e4}".into());
        let reason = "for \"a\" test".to_owned();
        let purge = PurgeRecord { txid, reason, lost: true, given_up: vec![BranchUuid(txid.0)] };
        let check = CheckRecord {
            txid,
            gate: "submit".into(),
            run: vec!["/bin/true".into(), "a b".into()],
            path: ViewPath::root(),
            result: CheckResult::Failed,
            reason: Some("exit code 1".into()),
            line: Some("\"no\"".into()),
            ms: 7,
        };
        for record in [
            Record::Check(Box::new(check)),
            Record::Crossing(Box::new(commit)),
            Record::Crossing(Box::new(step(txid, Step::Dead))),
            Record::Purge(purge),
            operation("/a\"\u{1}", true),
            operation("/a", false),
        ] {
            for synced in [None, Some(3)] {
                let line = line(&record, synced);
                let read = decode_plain(&line).unwrap();
                let long = decode_any(&line).unwrap();
                assert_eq!(read.entry.record, record);
                assert_eq!((read.entry, read.synced), (long.entry, long.synced));
            }
        }
    }

    #[test]
    fn what_is_not_as_its_writer_had_it_is_read_the_long_way() {
        let Record::Operation(mut record) = operation("/a", true) else { unreachable!() };
        record.path = ViewPath::of_names([OsStr::from_bytes(b"\xff")]);
        let odd = line(&Record::Operation(record), None);
        let long = line(&operation(&format!("/{}", "\u{1}".repeat(30_000)), true), None);
        let rare = line(&unmounted(), None);
        let mut damaged = line(&operation("/a", true), None);
        damaged[30] ^= 1;
        for line in [&odd, &long, &rare, &damaged] {
            assert!(decode_plain(line).is_none());
        }
        assert!([odd, long, rare].iter().all(|line| decode(line).is_ok()));
        assert_eq!(decode(&damaged).err().unwrap(), "the checksum does not match");
    }
}
