//! STAGE, META and VERIFY: a copy in the target branch's stage that is byte for byte and attribute
//! for attribute what the source is, and durable.

use std::ffi::OsStr;
use std::sync::atomic::Ordering;

use sha2::{Digest, Sha256};

use super::error::CrossingError;
use super::moves::Place;
use super::pass::{Hashed, pass};
use super::sabotage::sabotaged;
use super::{MoverBranch, Progress};
use crate::error::Errno;
use crate::policy::{Lossy, Verify, is_acl};
use crate::storage::{Kind, Metadata, Readback, Storage, Xattrs};

/// The access control list of an inode; the other one is what a directory's new entries get.
pub(super) const ACCESS_ACL: &str = "system.posix_acl_access";
/// Tag of the entry for the owning group (include/uapi/linux/posix_acl.h).
const ACL_GROUP_OBJ: u8 = 0x04;
/// Free bytes, beside those of a value, with which a disk has room for it.
const ROOM_FOR_XATTR: u64 = 1 << 20;

/// SHA-256 of a short text.
pub(super) fn hash_text(text: &OsStr) -> [u8; 32] {
    Sha256::digest(text.as_encoded_bytes()).into()
}

/// As records have it.
pub(super) fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::with_capacity(64), |mut text, byte| {
        // Writing to a String cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// The type of what is not a regular file, as file(1) names it.
pub(super) fn special_type(kind: &Kind) -> &'static str {
    match kind {
        Kind::File => "application/octet-stream",
        Kind::Directory => "inode/directory",
        Kind::Symlink(_) => "inode/symlink",
        Kind::Fifo => "inode/fifo",
        Kind::Socket => "inode/socket",
        Kind::CharacterDevice(_) => "inode/chardevice",
        Kind::BlockDevice(_) => "inode/blockdevice",
    }
}

/// Bytes of a file that are not holes.
pub(super) fn data_bytes<S: Storage>(storage: &S, source: &S::File) -> Result<u64, CrossingError> {
    let mut data = 0;
    let mut at = 0;
    while let Some(range) =
        storage.next_data(source, at).map_err(CrossingError::io("read", "the source"))?
    {
        data = range.end.saturating_sub(range.start).saturating_add(data);
        at = range.end;
    }
    Ok(data)
}

/// Makes an empty regular file in stage with room for the source's data.
pub(super) fn make_file<S: Storage>(
    storage: &S,
    branch: &MoverBranch<S>,
    place: &Place<S>,
    source: &S::File,
    size: u64,
) -> Result<S::File, CrossingError> {
    let data = data_bytes(storage, source)?;
    check_space(storage, branch, data)?;
    let file = storage
        .create_file(&place.dir, &place.name)
        .map_err(CrossingError::io("make the copy in", &branch.name))?;
    // Room for the whole length would fill the holes.
    if data >= size && size > 0 {
        storage.reserve(&file, size).map_err(|errno| no_space(storage, branch, data, errno))?;
    }
    storage.set_len(&file, size).map_err(|errno| no_space(storage, branch, data, errno))?;
    Ok(file)
}

pub(super) fn check_space<S: Storage>(
    storage: &S,
    branch: &MoverBranch<S>,
    data: u64,
) -> Result<(), CrossingError> {
    let free = storage
        .free_space(&branch.stage)
        .map_err(CrossingError::io("ask for free space of", &branch.name))?;
    let needed = data.saturating_add(branch.min_free);
    if free < needed {
        return Err(CrossingError::NoSpace { branch: branch.name.clone(), data, needed, free });
    }
    Ok(())
}

fn no_space<S: Storage>(
    storage: &S,
    branch: &MoverBranch<S>,
    data: u64,
    errno: Errno,
) -> CrossingError {
    if errno != Errno::NOSPC {
        return CrossingError::io("make room in", &branch.name)(errno);
    }
    CrossingError::NoSpace {
        branch: branch.name.clone(),
        data,
        needed: data.saturating_add(branch.min_free),
        // Only for the message.
        free: storage.free_space(&branch.stage).unwrap_or(0),
    }
}

/// What a gate's `lossy` calls an extended attribute.
pub(super) fn word_of(key: &OsStr) -> String {
    if is_acl(key) { "acl".to_owned() } else { format!("xattr:{}", key.display()) }
}

fn lost_xattr(key: &OsStr) -> CrossingError {
    let what = format!("extended attribute {}", key.display());
    CrossingError::Fidelity { what, word: Some(word_of(key)) }
}

/// What the gate lets a copy lose, and where it is noted.
#[derive(Clone, Copy)]
pub(super) struct Losses<'a> {
    pub(super) lossy: Option<&'a Lossy>,
    pub(super) progress: &'a Progress,
}

impl Losses<'_> {
    /// Whether an extended attribute may be lost; then it is noted.
    fn let_go(&self, key: &OsStr) -> bool {
        let allowed = self.lossy.is_some_and(|lossy| lossy.allows(key));
        if allowed {
            self.progress.lose(&word_of(key));
        }
        allowed
    }

    fn let_times_go(&self) -> bool {
        let allowed = self.lossy.is_some_and(|lossy| lossy.times);
        if allowed {
            self.progress.lose("times");
        }
        allowed
    }
}

/// META. Owner before mode (chown clears set-id bits), mode before ACL (which refines it),
/// capabilities last of the attributes (chown clears them), times at the very end.
pub(super) fn dress<S: Storage>(
    storage: &S,
    place: &Place<S>,
    source: &Metadata,
    xattrs: &Xattrs,
    losses: Losses<'_>,
) -> Result<(), CrossingError> {
    let (dir, name) = (&place.dir, place.name.as_os_str());
    storage
        .set_owner(dir, name, source.uid, source.gid)
        .map_err(CrossingError::io("set the owner of", "the copy"))?;
    if !matches!(source.kind, Kind::Symlink(_)) {
        storage
            .set_mode(dir, name, source.mode)
            .map_err(CrossingError::io("set the mode of", "the copy"))?;
    }
    set_xattrs(storage, place, source, (xattrs, losses))?;
    match set_times(storage, place, source) {
        Err(CrossingError::Io { errno: Errno::PERM | Errno::OPNOTSUPP, .. })
            if losses.let_times_go() =>
        {
            Ok(())
        }
        set => set,
    }
}

/// META of a regular file that is open: in fewer calls, for trees have many. Extended attributes
/// change neither owner nor times; an ACL is set after the mode that it refines.
pub(super) fn dress_file<S: Storage>(
    storage: &S,
    (file, place): (&S::File, &Place<S>),
    source: &Metadata,
    (xattrs, losses): (&Xattrs, Losses<'_>),
) -> Result<Metadata, CrossingError> {
    storage
        .set_attributes(file, source)
        .map_err(CrossingError::io("set the attributes of", "the copy"))?;
    set_xattrs(storage, place, source, (xattrs, losses))?;
    let copy = storage.stat_file(file).map_err(CrossingError::io("look at", "the copy"))?;
    compare_dress(storage, place, (source, copy), (xattrs, losses))
}

/// An ACL is more than the mode, whose group bits are only the most that it grants. Where it is lost, the
/// group keeps what it had, so that nobody gains anything.
fn set_xattrs<S: Storage>(
    storage: &S,
    place: &Place<S>,
    source: &Metadata,
    (xattrs, losses): (&Xattrs, Losses<'_>),
) -> Result<(), CrossingError> {
    let (dir, name) = (&place.dir, place.name.as_os_str());
    let mut ordered: Vec<_> = xattrs.iter().collect();
    ordered.sort_by_key(|(key, _)| xattr_rank(key));
    for (key, value) in ordered {
        let Err(errno) = storage.set_xattr(dir, name, key, value) else { continue };
        if !is_infidelity(storage, dir, value, errno) {
            return Err(CrossingError::io("set an extended attribute of", "the copy")(errno));
        }
        if !losses.let_go(key) {
            return Err(lost_xattr(key));
        }
        if key == ACCESS_ACL {
            storage
                .set_mode(dir, name, narrowed(source.mode, value))
                .map_err(CrossingError::io("set the mode of", "the copy"))?;
        }
    }
    Ok(())
}

/// Whether the file system cannot hold an attribute, as opposed to one that fails. ext4 says that there
/// is no space where a value does not fit beside the inode, on an empty disk too.
fn is_infidelity<S: Storage>(storage: &S, dir: &S::Dir, value: &[u8], errno: Errno) -> bool {
    match errno {
        Errno::OPNOTSUPP | Errno::TOOBIG | Errno::PERM | Errno::RANGE => true,
        Errno::NOSPC => {
            let room = (value.len() as u64).saturating_add(ROOM_FOR_XATTR);
            storage.free_space(dir).is_ok_and(|free| free > room)
        }
        _ => false,
    }
}

/// The mode without its ACL (`struct posix_acl_xattr_header` and `posix_acl_xattr_entry`,
/// include/uapi/linux/posix_acl_xattr.h): the group bits become what the entry of the group grants.
pub(super) fn narrowed(mode: u32, acl: &[u8]) -> u32 {
    let entries = acl.get(4..).unwrap_or_default().chunks_exact(8);
    let mut group = entries.filter_map(|entry| match entry {
        [tag, 0, permissions, ..] if *tag == ACL_GROUP_OBJ => Some(u32::from(*permissions & 7)),
        _ => None,
    });
    // One that cannot be understood grants nothing.
    let group = group.next_back().unwrap_or(0);
    (mode & !0o070) | ((group << 3) & mode & 0o070)
}

fn set_times<S: Storage>(
    storage: &S,
    place: &Place<S>,
    source: &Metadata,
) -> Result<(), CrossingError> {
    storage
        .set_times(&place.dir, &place.name, source.atime, source.identity.mtime)
        .map_err(CrossingError::io("set the times of", "the copy"))
}

fn xattr_rank(key: &OsStr) -> u8 {
    match key.as_encoded_bytes() {
        _ if is_acl(key) => 0,
        b"security.capability" => 2,
        _ => 1,
    }
}

/// Whether the copy's attributes are the source's; the file system may have kept less than it was
/// told. Reading the copy back may have changed its time of last read: that is set again.
pub(super) fn check_dress<S: Storage>(
    storage: &S,
    place: &Place<S>,
    source: &Metadata,
    xattrs: &Xattrs,
    losses: Losses<'_>,
) -> Result<Metadata, CrossingError> {
    let look = || {
        storage
            .stat(&place.dir, &place.name)
            .and_then(|found| found.ok_or(Errno::NOENT))
            .map_err(CrossingError::io("look at", "the copy"))
    };
    let mut copy = look()?;
    if copy.atime != source.atime {
        match set_times(storage, place, source) {
            Err(_) if losses.let_times_go() => {}
            set => set?,
        }
        copy = look()?;
    }
    compare_dress(storage, place, (source, copy), (xattrs, losses))
}

fn compare_dress<S: Storage>(
    storage: &S,
    place: &Place<S>,
    (source, copy): (&Metadata, Metadata),
    (xattrs, losses): (&Xattrs, Losses<'_>),
) -> Result<Metadata, CrossingError> {
    let lost = |what: &str, word: Option<&str>| {
        Err(CrossingError::Fidelity { what: what.to_owned(), word: word.map(str::to_owned) })
    };
    if sabotaged("stage: the copy's attributes") {
        return Ok(copy);
    }
    let times_kept = (copy.atime, copy.identity.mtime) == (source.atime, source.identity.mtime);
    if !times_kept && !losses.let_times_go() {
        return lost("the times", Some("times"));
    }
    if (copy.uid, copy.gid) != (source.uid, source.gid) {
        return lost("the owner", None);
    }
    // What a file system calls the length of a directory is its own.
    let length = copy.identity.size == source.identity.size || copy.kind == Kind::Directory;
    if !length || copy.kind != source.kind {
        return Err(CrossingError::SourceChanged);
    }
    let mut mode = source.mode;
    if !xattrs.is_empty() {
        let kept = storage
            .xattrs(&place.dir, &place.name)
            .map_err(CrossingError::io("read the extended attributes of", "the copy"))?;
        // The target's system may add labels of its own; what the source has must be there.
        for (key, value) in xattrs.iter().filter(|wanted| !kept.contains(wanted)) {
            if !losses.let_go(key) {
                return Err(lost_xattr(key));
            }
            if key == ACCESS_ACL {
                mode = narrowed(mode, value);
            }
        }
    }
    if copy.mode != mode && !matches!(source.kind, Kind::Symlink(_)) {
        return lost("the mode", None);
    }
    Ok(copy)
}

/// Reads the copy again and compares. The word is the one of the record's `readback`.
pub(super) fn read_back<S: Storage>(
    storage: &S,
    branch: &MoverBranch<S>,
    place: &Place<S>,
    hashed: &Hashed,
    size: u64,
    verify: Verify,
    progress: &Progress,
) -> Result<&'static str, CrossingError> {
    match verify {
        Verify::Stream => return Ok("stream"),
        Verify::Readback if hashed.compared => return Ok("disk"),
        Verify::Readback => {}
    }
    progress.bytes.store(0, Ordering::Relaxed);
    let (file, readback) = storage
        .open_readback(&place.dir, &place.name)
        .map_err(CrossingError::io("read back", "the copy"))?;
    let again = pass(storage, &file, None, size, progress).map_err(|error| match error {
        CrossingError::SourceChanged => CrossingError::Verification { branch: branch.name.clone() },
        other => other,
    })?;
    if again.sha256 != hashed.sha256 && !sabotaged("stage: what was read back") {
        return Err(CrossingError::Verification { branch: branch.name.clone() });
    }
    Ok(match readback {
        Readback::Disk => "disk",
        Readback::Cached => "cached",
    })
}
