//! Ways round conditional rules through what is open, what is moved whole, and what is looked up.

use std::ffi::OsStr;

use super::explained::explained;
use super::fixture::*;
use crate::policy::Rule;
use crate::types::Operation;
use crate::vfs::*;

fn small(path: &str) -> Rule {
    let operations =
        [Operation::WriteData, Operation::Truncate, Operation::RenameTarget, Operation::Link];
    let mut small = rule("small", &operations, path);
    small.conditions.max_file_size = Some(10);
    small
}

#[test]
fn a_handle_that_was_open_before_the_rename_obeys_the_limit_of_the_new_name() {
    let fixture = Fixture::new(vec![small("/inbox/small/**")]);
    for folder in ["inbox/open", "inbox/small"] {
        fixture.folder(folder);
    }
    fixture.plant("inbox/open/f", "x");
    let file = fixture.number("inbox/open/f");
    let opened = fixture.vfs.open(*ROOT, file, WRITE).expect("allowed");
    fixture.rename(("inbox/open", "f"), ("inbox/small", "f")).expect("it is small");
    let result = fixture.vfs.write(*ROOT, opened.handle, Some(0), &[b'x'; 100], false);
    assert_eq!(result, Err(Errno::ACCESS));
    fixture.vfs.release(opened.handle);
}

#[test]
fn a_handle_that_was_open_before_the_link_obeys_the_limit_of_the_new_name() {
    let fixture = Fixture::new(vec![small("/inbox/small/**")]);
    for folder in ["inbox/open", "inbox/small"] {
        fixture.folder(folder);
    }
    fixture.plant("inbox/open/f", "x");
    let file = fixture.number("inbox/open/f");
    let opened = fixture.vfs.open(*ROOT, file, WRITE).expect("allowed");
    let to = fixture.number("inbox/small");
    fixture.vfs.link(*ROOT, file, to, OsStr::new("f")).expect("it is small");
    let result = fixture.vfs.write(*ROOT, opened.handle, Some(0), &[b'x'; 100], false);
    assert_eq!(result, Err(Errno::ACCESS));
    fixture.vfs.release(opened.handle);
}

#[test]
fn a_folder_does_not_bring_what_is_too_large() {
    let fixture = Fixture::new(vec![small("/inbox/small/**")]);
    fixture.folder("inbox/small");
    fixture.plant("inbox/open/d/f", "much more than ten bytes");
    let result = fixture.rename(("inbox/open", "d"), ("inbox/small", "d"));
    assert_eq!(result, Err(Errno::ACCESS));
}

#[test]
fn what_a_rename_would_replace_is_explained_too() {
    let fixture = Fixture::new(vec![rule("kept", &[Operation::Unlink], "/inbox/kept")]);
    fixture.plant("inbox/new", "new");
    fixture.plant("inbox/kept", "kept");
    fixture.number("inbox/kept");
    let at = |name: &str| ViewPath::root().join(OsStr::new("inbox")).join(OsStr::new(name));
    let (from, to) = (at("new"), at("kept"));
    let said = explained(&fixture.vfs, 0, Operation::RenameSource, &from, Some(&to)).decision;
    let done = fixture.rename(("inbox", "new"), ("inbox", "kept"));
    assert_eq!(done, Err(Errno::ACCESS));
    assert!(!said.allowed, "{said:?}");
}

#[test]
fn a_rename_of_the_folder_above_hides_no_name() {
    let fixture = Fixture::new(vec![rule("closed", &[Operation::OpenRead], "/inbox/closed/**")]);
    fixture.folder("inbox/open");
    fixture.plant("inbox/closed/a/f", "text");
    std::fs::hard_link(fixture.backing("inbox/closed/a/f"), fixture.backing("inbox/open/f"))
        .expect("linked");
    let file = fixture.number("inbox/closed/a/f");
    assert_eq!(fixture.number("inbox/open/f"), file);
    assert_eq!(fixture.read(file).err(), Some(Errno::ACCESS));
    let done = std::sync::atomic::AtomicBool::new(false);
    let read = std::thread::scope(|scope| {
        let reader = scope.spawn(|| {
            let mut read = 0u32;
            while !done.load(std::sync::atomic::Ordering::Relaxed) {
                read += u32::from(fixture.read(file).is_ok());
            }
            read
        });
        // What any folder that is looked up or renamed elsewhere does.
        scope.spawn(|| {
            while !done.load(std::sync::atomic::Ordering::Relaxed) {
                crate::view::change_classes(|| ());
            }
        });
        for _ in 0..3_000 {
            fixture.rename(("inbox/closed", "a"), ("inbox/closed", "b")).expect("allowed");
            fixture.rename(("inbox/closed", "b"), ("inbox/closed", "a")).expect("allowed");
        }
        done.store(true, std::sync::atomic::Ordering::Relaxed);
        reader.join().expect("no panic")
    });
    assert_eq!(read, 0, "read {read} times what one of its names denies");
}
