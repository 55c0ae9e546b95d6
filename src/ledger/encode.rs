//! Records to lines; [`super::decode`] reads them. No I/O.
//!
//! ```text
//! {"seq":7,"time":"2026-11-23T13:00:00.000000001Z","synced":7,"kind":"operation",…,"crc":"89abcdef"}
//! ```
//!
//! - `crc` is CRC-32C of the line's bytes before `,"crc"`, in lower-case hexadecimal: it comes last,
//!   so that a reader need not understand the line to check it.
//! - `synced`, on the first line after an fsync, says that all lines with a smaller `seq` were on the
//!   disk when this one was written. Replay uses it to tell a torn end from damage.
//! - A path that is not UTF-8 is two fields, `path` (lossy) and `path_b64` (exact).
//! - A line is at most 65,535 bytes without its newline. The texts of an operation too long for that
//!   are cut, paths between two names, and the line says `"shortened":true`. So are those of a crossing's
//!   steps that only name what PREPARE and COMMIT have told: a transaction that has begun can end. Of these
//!   two only the program goes, for recovery lives by all else.

use std::io::Write as _;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value};

use super::{Record, shorten};
use crate::error::Errno;

/// Bytes of a line without its newline.
pub const LINE_MAX: usize = 65_535;
/// Room for `seq`, `time`, `synced` and `crc`.
const ENVELOPE_MAX: usize = 160;
/// Bytes of a record's object.
pub(super) const BODY_MAX: usize = LINE_MAX - ENVELOPE_MAX;
/// The end of an object whose texts were cut.
pub(super) const SHORTENED: &[u8] = br#","shortened":true}"#;
/// `,"crc":"89abcdef"}`
pub(super) const CRC_FIELD: usize = 18;

/// A record's JSON object, ready for [`line`]. ENAMETOOLONG if it does not fit and must not be cut;
/// EINVAL if it has no JSON form.
pub fn body(record: &Record) -> Result<Vec<u8>, Errno> {
    let body = whole_body(record)?;
    if body.len() <= BODY_MAX {
        return Ok(body);
    }
    shorten::shorten(record)
}

/// ENAMETOOLONG where a record does not fit in a line and must not be cut, with room to say that something
/// was left out of it.
pub fn fits(record: &Record) -> Result<(), Errno> {
    let longest = whole_body(record)?.len().saturating_add(SHORTENED.len());
    // Both end with the same brace.
    if longest.saturating_sub(1) <= BODY_MAX { Ok(()) } else { shorten::shorten(record).map(drop) }
}

/// Bytes that most bodies have room in.
const BODY_USUAL: usize = 512;

pub(super) fn whole_body(record: &Record) -> Result<Vec<u8>, Errno> {
    let mut body = Vec::with_capacity(BODY_USUAL);
    serde_json::to_writer(&mut body, record).map_err(|_| Errno::INVAL)?;
    // In a JSON string the quotation marks would be escaped, so this finds objects only.
    if contains(&body, br#"{"b64":"#) {
        let mut value: Value = serde_json::from_slice(&body).map_err(|_| Errno::INVAL)?;
        split_paths(&mut value);
        body = serde_json::to_vec(&value).map_err(|_| Errno::INVAL)?;
    }
    Ok(body)
}

/// Bytes that the line of a body has at most.
pub fn line_max(body: &[u8]) -> usize {
    body.len().saturating_add(ENVELOPE_MAX)
}

/// The whole line with its newline.
pub fn line(seq: u64, time: jiff::Timestamp, synced: Option<u64>, body: &[u8]) -> Vec<u8> {
    let mut line = Vec::with_capacity(line_max(body));
    append_line(&mut line, seq, time, synced, body);
    line
}

/// Appends a whole line with its newline to others.
pub fn append_line(
    lines: &mut Vec<u8>,
    seq: u64,
    time: jiff::Timestamp,
    synced: Option<u64>,
    body: &[u8],
) {
    let start = lines.len();
    // Writing to memory does not fail.
    let _ = write!(lines, "{{\"seq\":{seq},\"time\":\"{time:.9}\"");
    if let Some(synced) = synced {
        let _ = write!(lines, ",\"synced\":{synced}");
    }
    lines.push(b',');
    let fields = body.strip_prefix(b"{").and_then(|rest| rest.strip_suffix(b"}"));
    lines.extend_from_slice(fields.unwrap_or_default());
    let crc = crc32c::crc32c(lines.get(start..).unwrap_or_default());
    let _ = writeln!(lines, ",\"crc\":\"{crc:08x}\"}}");
}

fn contains(bytes: &[u8], wanted: &[u8]) -> bool {
    memchr::memmem::find(bytes, wanted).is_some()
}

/// `"path":{"b64":"…"}` becomes `"path":"lossy","path_b64":"…"`, at any depth.
fn split_paths(value: &mut Value) {
    match value {
        Value::Array(items) => items.iter_mut().for_each(split_paths),
        Value::Object(fields) => {
            let mut exact = Map::new();
            for (name, field) in fields.iter_mut() {
                match field.as_object_mut().and_then(|inner| inner.remove("b64")) {
                    Some(Value::String(b64)) => {
                        let bytes = STANDARD.decode(&b64).unwrap_or_default();
                        *field = Value::String(String::from_utf8_lossy(&bytes).into_owned());
                        exact.insert(format!("{name}_b64"), Value::String(b64));
                    }
                    _ => split_paths(field),
                }
            }
            fields.extend(exact);
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;
    use std::path::Path;

    use proptest::prelude::*;

    use super::super::Entry;
    use super::super::decode::{decode, head, is_shortened};
    use super::super::record::OperationRecord;
    use super::super::tests::operation;
    use super::*;
    use crate::types::ViewPath;

    #[track_caller]
    fn check(record: Record) -> String {
        let time: jiff::Timestamp = "2026-11-23T13:00:00.000000001Z".parse().unwrap();
        let line = line(7, time, Some(5), &body(&record).unwrap());
        let text = String::from_utf8(line).unwrap();
        let decoded = decode(text.trim_end().as_bytes()).unwrap();
        assert_eq!(decoded.entry, Entry { seq: 7, time, record });
        assert_eq!(decoded.synced, Some(5));
        let head = head(text.trim_end().as_bytes()).unwrap();
        let kind = serde_json::to_value(&decoded.entry.record).unwrap()["kind"].clone();
        assert_eq!(
            (head.seq, head.time, kind),
            (7, "2026-11-23T13:00:00.000000001Z", head.kind.into())
        );
        text
    }

    #[test]
    fn a_line_says_what_was_recorded() {
        let text = check(operation("/inbox/a \"quoted\" {\"b64\":\"x\"}", false));
        assert!(
            text.starts_with(r#"{"seq":7,"time":"2026-11-23T13:00:00.000000001Z","synced":5,"#)
        );
    }

    #[test]
    fn a_path_of_any_bytes_survives() {
        let Record::Operation(mut record) = operation("/", true) else { unreachable!() };
        record.path = ViewPath::parse(Path::new(OsStr::from_bytes(b"/inbox/\xff\n"))).unwrap();
        record.target = ViewPath::parse(Path::new("/plain"));
        let text = check(Record::Operation(record));
        assert!(text.contains(r#""path_b64":"L2luYm94L/8K""#), "{text}");
        assert!(text.contains("\"path\":\"/inbox/\u{fffd}\\n\""), "{text}");
    }

    #[test]
    fn every_flipped_bit_is_noticed() {
        let body = body(&operation("/inbox/a", true)).unwrap();
        let line = line(7, jiff::Timestamp::UNIX_EPOCH, None, &body);
        let line = &line[..line.len() - 1];
        for at in 0..line.len() {
            for bit in 0..8 {
                let mut damaged = line.to_vec();
                damaged[at] ^= 1 << bit;
                // The case of a checksum's digits does not change what they say.
                if !damaged.eq_ignore_ascii_case(line) || at < line.len() - 10 {
                    assert!(decode(&damaged).is_err(), "bit {bit} of byte {at}");
                }
            }
        }
    }

    #[test]
    fn what_is_too_long_is_cut_only_where_nothing_depends_on_it() {
        let long = format!("/{}", "\u{1}".repeat(30_000));
        let body = body(&operation(&long, true)).unwrap();
        let line = line(u64::MAX, jiff::Timestamp::now(), Some(u64::MAX), &body);
        assert!(line.len() <= LINE_MAX + 1);
        assert!(contains(&line, b"\"shortened\":true"));
        assert!(decode(&line[..line.len() - 1]).is_ok());
        let purge = Record::Purge(super::super::record::PurgeRecord {
            txid: crate::types::TxId(ulid::Ulid::nil()),
            reason: long,
            lost: false,
            given_up: Vec::new(),
        });
        assert_eq!(super::body(&purge), Err(Errno::NAMETOOLONG));
    }

    #[track_caller]
    fn check_reads(record: &Record) {
        let Record::Operation(whole) = record else { unreachable!() };
        let line = line(7, jiff::Timestamp::now(), Some(5), &body(record).unwrap());
        let line = &line[..line.len() - 1];
        assert!(line.len() <= LINE_MAX);
        head(line).unwrap();
        let Record::Operation(read) = decode(line).unwrap().entry.record else { unreachable!() };
        assert_eq!(is_shortened(line), whole != &read);
        assert!(whole.path.below(&read.path).is_some(), "{read:?}");
        if let (Some(whole), Some(read)) = (&whole.target, &read.target) {
            assert!(whole.below(read).is_some(), "{read:?}");
        }
    }

    fn deep(names: &[Vec<u8>]) -> ViewPath {
        ViewPath::of_names(names.iter().map(|name| OsStr::from_bytes(name)))
    }

    fn with_paths(path: ViewPath, target: Option<ViewPath>, exe: String) -> Record {
        let Record::Operation(record) = operation("/", false) else { unreachable!() };
        Record::Operation(Box::new(OperationRecord {
            path,
            target,
            exe: Some(exe.into()),
            ..*record
        }))
    }

    #[test]
    fn a_path_is_cut_between_names_also_where_one_begins_with_two_dots() {
        let long = vec![1; 250];
        for before in 0..6 {
            let mut names = vec![long.clone(); 32];
            let length: usize = names.iter().map(|name| name.len() + 1).sum();
            names.push(vec![b'x'; 8192 - length - 4 - before]);
            names.push([b"..", [1; 240].as_slice()].concat());
            names.extend(vec![long.clone(); 12]);
            let path = deep(&names);
            check_reads(&with_paths(path.clone(), None, String::new()));
            check_reads(&with_paths(ViewPath::root(), Some(path), String::new()));
            names.iter_mut().for_each(|name| name.push(0xff));
            check_reads(&with_paths(deep(&names), None, String::new()));
        }
    }

    #[test]
    fn paths_that_wait_are_bounded() {
        for name in [b"name".as_slice(), b"\xff\x01"] {
            let path = deep(&vec![name.repeat(50); 20_000]);
            for target in [None, Some(path.clone())] {
                let Record::Operation(mut bounded) =
                    with_paths(path.clone(), target, String::new())
                else {
                    unreachable!()
                };
                shorten::bound(&mut bounded);
                let paths = [Some(&bounded.path), bounded.target.as_ref()];
                for kept in paths.into_iter().flatten() {
                    assert!((7_900..=8192).contains(&kept.as_bytes().len()));
                    assert!(path.below(kept).is_some());
                }
                let body = body(&Record::Operation(bounded)).unwrap();
                let line = line(7, jiff::Timestamp::MAX, Some(7), &body);
                let line = line.strip_suffix(b"\n").unwrap();
                let marks = memchr::memmem::find_iter(line, br#""shortened":true"#).count();
                assert_eq!(marks, 1);
                decode(line).unwrap();
            }
        }
        let Record::Operation(mut short) = operation("/a", true) else { unreachable!() };
        shorten::bound(&mut short);
        assert!(!short.shortened);
    }

    #[test]
    fn a_path_that_was_once_cut_after_two_dots_is_that_of_the_folder() {
        let read = |fields: &str| {
            let fields = format!(
                r#"{{"decision":"allowed","gid":1,"kind":"operation","op":"mkdir",{fields},"pid":1,"result":"ok","shortened":true,"uid":1}}"#
            );
            let line = line(7, jiff::Timestamp::now(), None, fields.as_bytes());
            match decode(&line[..line.len() - 1]).unwrap().entry.record {
                Record::Operation(read) => *read,
                other => panic!("{other:?}"),
            }
        };
        let path = |text: &str| ViewPath::parse(Path::new(text)).unwrap();
        assert_eq!(read(r#""path":"/a/..""#).path, path("/a"));
        assert_eq!(read(r#""path":"/a..""#).path, path("/a.."));
        let found = read(r#""path":"/..","target":"/b/..""#);
        assert_eq!((found.path, found.target), (path("/"), Some(path("/b"))));
        let found =
            read(r#""path":"/a/..","path_b64":"L2EvLi4=","target":"/a/..","target_b64":"Ly4u""#);
        assert_eq!((found.path, found.target), (path("/a"), Some(path("/"))));
        let open = br#"{"decision":"allowed","gid":1,"kind":"operation","op":"mkdir","path":"/a/..","pid":1,"result":"ok","uid":1}"#;
        let line = line(7, jiff::Timestamp::now(), None, open);
        assert!(decode(&line[..line.len() - 1]).is_err(), "nothing was cut there");
    }

    fn names() -> impl Strategy<Value = Vec<Vec<u8>>> {
        let start = prop::sample::select(vec!["", ".", "..", "...", "\"", "\u{1}", "ä"]);
        let byte = prop::sample::select(vec![1_u8, b'.', b'a', b'"', b'\\', 0xc3, 0xa4, 0xff]);
        let name = (start, byte, 0..=252_usize);
        prop::collection::vec(name, 0..90).prop_map(|names| {
            let name = |(start, byte, count): (&str, u8, usize)| {
                [start.as_bytes(), &vec![byte; count]].concat()
            };
            let names = names.into_iter().map(name);
            names.filter(|name| !matches!(name.as_slice(), b"" | b"." | b"..")).collect()
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(300))]

        #[test]
        fn whatever_the_paths_are_the_line_can_be_read(
            path in names(),
            target in prop::option::of(names()),
            exe in prop::sample::select(vec![0_usize, 10, 4095]),
        ) {
            let target = target.map(|names| deep(&names));
            check_reads(&with_paths(deep(&path), target, "\u{1}".repeat(exe)));
        }
    }
}
