//! What was written through handles: recorded each minute and when they are closed.

use std::os::fd::AsFd as _;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::error::Errno;
use crate::ledger::{Durability, Record};
use crate::sys::process::exe_of;
use crate::types::Operation;
use crate::view::OpenFile;
use crate::view::handles::UNKNOWN;

use super::permit::Question;
use super::{RecordLevel, Vfs};

impl Vfs {
    /// To be called about once a minute: records what was written through open files since the last
    /// time. Asks no disk.
    pub fn record_open_totals(&self) {
        let all = self.view.handles.files();
        all.iter().filter(|file| !file.is_passthrough()).for_each(|file| self.record_totals(file));
    }

    /// The same of files that the kernel writes by itself, by their lengths: it asks their disks, and may
    /// wait for one that does not answer.
    pub fn record_passthrough_totals(&self) {
        let all = self.view.handles.files();
        all.iter().filter(|file| file.is_passthrough()).for_each(|file| self.record_totals(file));
    }

    /// Records what was written through a file since that was last told, if anything.
    pub(super) fn record_totals(&self, file: &Arc<OpenFile>) {
        if !file.writable || self.record < RecordLevel::Mutations {
            return;
        }
        let written = file.written.load(Ordering::Relaxed);
        let wrote = file.told.swap(written, Ordering::AcqRel) != written;
        let grown = self.grown(file);
        if !wrote && grown.is_none() {
            return;
        }
        let Some(path) = file.inode.last_path() else { return };
        let branch = Some(file.branch());
        let caller = file.opener;
        let question = Question { caller, path: &path, branch, is_directory: false, target: None };
        // By now the opener may be gone, and its number somebody else's.
        let exe = file.exe.get().cloned().unwrap_or_else(|| exe_of(caller.pid));
        let mut record = self.operation_record(Operation::WriteData, &question, Ok(()), exe);
        record.written = wrote.then_some(written);
        record.grown = grown;
        record.open_file = Some(file.number);
        self.append(Record::Operation(Box::new(record)), Durability::Group);
    }

    /// By how much the kernel made a file longer or shorter by itself since that was last told.
    fn grown(&self, file: &OpenFile) -> Option<i64> {
        if file.length.load(Ordering::Acquire) == UNKNOWN {
            return None;
        }
        let now = self.length_of(file).ok()?;
        let before = file.length.swap(now, Ordering::AcqRel);
        let grown = i64::try_from(i128::from(now).saturating_sub(i128::from(before))).ok()?;
        (grown != 0).then_some(grown)
    }

    pub(super) fn length_of(&self, file: &OpenFile) -> Result<u64, Errno> {
        Ok(self.branch(file.branch())?.stat(file.descriptor().as_fd())?.size)
    }
}

#[cfg(test)]
mod tests {
    use std::ffi::OsStr;

    use crate::types::Caller;
    use crate::vfs::tests::fixture::{Fixture, ROOT, WRITE};

    fn recorded(fixture: &Fixture) -> Vec<serde_json::Value> {
        fixture.vfs.ledger.flush().expect("flushed");
        let text = std::fs::read_to_string(fixture.backing("state/00000001.jsonl"));
        let text = text.expect("the ledger");
        text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
    }

    /// What the ledger has of bytes written, in order.
    fn told(fixture: &Fixture) -> Vec<u64> {
        recorded(fixture).iter().filter_map(|line| line["written"].as_u64()).collect()
    }

    #[test]
    fn totals_tell_who_wrote_also_when_it_is_gone() {
        let fixture = Fixture::new(vec![]);
        let (vfs, parent) = (&fixture.vfs, fixture.number("inbox"));
        let mut child = std::process::Command::new("sleep").arg("60").spawn().expect("a child");
        let caller = Caller { pid: child.id(), ..*ROOT };
        let name = OsStr::new("a");
        let created = vfs.create(caller, parent, name, 0o644, 0o022, WRITE);
        let written = created.and_then(|(_, file)| {
            Ok((file.handle, vfs.write(caller, file.handle, Some(0), b"x", false)?))
        });
        child.kill().and_then(|()| child.wait()).expect("ended");
        let (handle, _) = written.expect("written");
        vfs.release(handle);
        let lines = recorded(&fixture);
        let totals = lines.iter().find(|line| line["written"] == 1).expect("a record");
        let exe = totals["exe"].as_str().expect("an executable");
        assert!(exe.ends_with("sleep") || exe.contains("coreutils"), "{exe}");
    }

    #[test]
    fn totals_are_told_when_there_is_something_new() {
        let fixture = Fixture::new(vec![]);
        let (vfs, parent) = (&fixture.vfs, fixture.number("inbox"));
        let name = OsStr::new("a");
        let (_, opened) = vfs.create(*ROOT, parent, name, 0o644, 0o022, WRITE).expect("created");
        let write = |offset, text: &str| {
            vfs.write(*ROOT, opened.handle, Some(offset), text.as_bytes(), false).expect("written");
        };
        vfs.record_open_totals();
        assert!(told(&fixture).is_empty(), "nothing was written");
        write(0, "abc");
        vfs.record_open_totals();
        vfs.record_open_totals();
        assert_eq!(told(&fixture), [3]);
        write(3, "de");
        vfs.record_passthrough_totals();
        assert_eq!(told(&fixture), [3], "the kernel does not write it by itself");
        vfs.record_open_totals();
        write(5, "f");
        vfs.release(opened.handle);
        assert_eq!(told(&fixture), [3, 5, 6]);
        let (_, opened) =
            vfs.create(*ROOT, parent, OsStr::new("b"), 0o644, 0o022, WRITE).expect("created");
        vfs.write(*ROOT, opened.handle, Some(0), b"x", false).expect("written");
        vfs.record_open_totals();
        vfs.release(opened.handle);
        assert_eq!(told(&fixture), [3, 5, 6, 1], "closing has nothing new to tell");
    }
}
