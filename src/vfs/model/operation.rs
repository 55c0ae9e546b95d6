//! The operations of a run: self-contained, so that any part of a run can be done again without the
//! rest.

use std::ffi::{OsStr, OsString};
use std::sync::LazyLock;

use crate::branch::{FileKind, RenameFlags};

use super::acl::Acl;
use super::tree::{Id, Model};

/// Names from the root of the view down.
pub(super) type Way = Vec<OsString>;
/// A place for an open file or directory.
pub(super) type Slot = usize;

/// Open files at a time.
pub(super) const FILES_MAX: usize = 5;
/// Open directories at a time.
pub(super) const LISTS_MAX: usize = 3;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Access {
    Read,
    Write,
    Both,
    Append,
}

impl Access {
    pub(super) fn reads(self) -> bool {
        matches!(self, Self::Read | Self::Both)
    }

    pub(super) fn writes(self) -> bool {
        self != Self::Read
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Allocation {
    Plain,
    KeepSize,
    Punch,
    /// tmpfs has none.
    Zero,
}

#[derive(Debug, Clone)]
pub(super) enum Op {
    Look {
        at: Way,
    },
    Create {
        at: Way,
        uid: u32,
        mode: u32,
        exclusive: bool,
        access: Access,
        slot: Slot,
    },
    Open {
        at: Way,
        access: Access,
        truncate: bool,
        slot: Slot,
    },
    /// Opens what is open once more, by its number, whatever became of its name.
    OpenAgain {
        open: Slot,
        access: Access,
        slot: Slot,
    },
    Read {
        slot: Slot,
        offset: u64,
        size: u32,
    },
    /// By whoever, for handles are handed on; `mapped` is a store through a mapping, which the kernel
    /// writes back for nobody.
    Write {
        slot: Slot,
        uid: u32,
        mapped: bool,
        offset: u64,
        letter: u8,
        length: usize,
    },
    /// SEEK_DATA or SEEK_HOLE.
    Seek {
        slot: Slot,
        offset: u64,
        hole: bool,
    },
    Sync {
        slot: Slot,
        data_only: bool,
    },
    Truncate {
        at: Way,
        uid: u32,
        size: u64,
    },
    TruncateOpen {
        slot: Slot,
        size: u64,
    },
    Allocate {
        slot: Slot,
        uid: u32,
        how: Allocation,
        offset: u64,
        length: u64,
    },
    Copy {
        uid: u32,
        from: Slot,
        offset: u64,
        to: Slot,
        to_offset: u64,
        length: u64,
    },
    Close {
        slot: Slot,
    },
    Mkdir {
        at: Way,
        uid: u32,
        mode: u32,
    },
    Mknod {
        at: Way,
        kind: FileKind,
    },
    Symlink {
        at: Way,
        uid: u32,
        text: &'static str,
    },
    Link {
        from: Way,
        to: Way,
    },
    LinkOpen {
        slot: Slot,
        to: Way,
    },
    Readlink {
        at: Way,
    },
    Unlink {
        at: Way,
    },
    Rmdir {
        at: Way,
    },
    Rename {
        from: Way,
        to: Way,
        flags: RenameFlags,
    },
    /// As `octroi mv`: what crosses is prepared before it is renamed.
    Move {
        from: Way,
        to: Way,
        no_replace: bool,
    },
    /// Takes back a crossing, counted from the last.
    Undo {
        back: usize,
    },
    Chmod {
        at: Way,
        mode: u32,
    },
    /// fchmod(2), also of what has no name any more.
    ChmodOpen {
        slot: Slot,
        mode: u32,
    },
    Chown {
        at: Way,
        uid: u32,
        gid: u32,
    },
    /// To a time, or to now.
    Utimes {
        at: Way,
        seconds: Option<i64>,
    },
    SetAcl {
        at: Way,
        default: bool,
        acl: Option<Acl>,
    },
    GetXattr {
        at: Way,
        key: &'static str,
    },
    Space {
        at: Way,
    },
    SetXattr {
        at: Way,
        key: &'static str,
        value: &'static str,
        create: bool,
        replace: bool,
    },
    RemoveXattr {
        at: Way,
        key: &'static str,
    },
    List {
        at: Way,
        slot: Slot,
    },
    ListOn {
        slot: Slot,
        count: usize,
    },
    /// Goes back to the entry at a position of those got, or to the start and a new listing.
    ListBack {
        slot: Slot,
        to: usize,
        plus: bool,
    },
    ListEnd {
        slot: Slot,
    },
    /// The kernel gives back some references.
    Forget {
        at: Way,
        all: bool,
    },
    /// Somebody else puts a file or a directory into one of a pool's stores.
    Plant {
        at: Way,
        nth: usize,
        text: Option<&'static str>,
    },
    /// A branch goes offline.
    Leave {
        nth: usize,
    },
    /// All are online again.
    Return,
    /// Empties hold.
    Purge,
    /// The kernel asks for every name again.
    Refresh,
}

/// A name longer than any can be.
pub(super) static LONG: LazyLock<String> = LazyLock::new(|| "x".repeat(256));

/// The names from the root of the view to a directory.
pub(super) fn way_to(model: &Model, id: Id) -> Way {
    let mut way = Vec::new();
    let mut here = id;
    while let Some((parent, name)) = model.directory(here).and_then(|found| found.parent.as_ref()) {
        way.push(name.clone());
        here = *parent;
    }
    way.reverse();
    way
}

/// The folder of a way and its last name.
pub(super) fn split(way: &[OsString]) -> (&[OsString], &OsStr) {
    let (name, folder) = way.split_last().expect("a way has a name");
    (folder, name)
}
