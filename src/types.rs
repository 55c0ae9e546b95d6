//! The words that every layer shares: who asks, for what, about which path, and how a file is
//! recognised again.

use std::borrow::Cow;
use std::ffi::OsStr;
use std::fmt;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};
use std::str::FromStr;
use std::time::{Duration, Instant};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

mod check;
pub mod path_text;
mod words;

pub use check::{Check, CheckInput, shown_command};
pub use words::{binary_size, counted};

/// Position of a branch in the configuration, in order of declaration. Valid for one mount only;
/// what must outlive it is named by [`BranchUuid`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BranchIndex(pub u16);

/// Position of a pool in the configuration, in order of declaration. Valid for one mount only.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PoolIndex(pub u16);

/// How a pool chooses the member for something new. Members with less than their `min_free` are left
/// out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Placement {
    /// The member with the most free space.
    MostFree,
    /// The first in order.
    First,
    /// The first in order that already has the folder; else as `MostFree`.
    SameDirectory,
}

/// The identity of a branch's directory: the content of `BRANCH/.octroi/id`, a ULID.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BranchUuid(pub ulid::Ulid);

/// A transaction's id: a random ULID, so that ids sort by time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TxId(pub ulid::Ulid);

macro_rules! ulid_text {
    ($name:ident) => {
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
        impl FromStr for $name {
            type Err = ulid::DecodeError;
            fn from_str(text: &str) -> Result<Self, Self::Err> {
                ulid::Ulid::from_string(text).map(Self)
            }
        }
    };
}
ulid_text!(BranchUuid);
ulid_text!(TxId);

/// Who sent a request, as the kernel says. The pid is a thread id, and 0 for writeback.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Caller {
    /// File system user id.
    pub uid: u32,
    /// File system group id.
    pub gid: u32,
    /// Thread id of the caller; 0 when the kernel acts for nobody.
    pub pid: u32,
}

/// A point in time as the file system keeps it. May be before 1970: then `seconds` is negative and
/// `nanos` still counts forward.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Time {
    /// Seconds since 1970-01-01T00:00:00Z.
    pub seconds: i64,
    /// Nanoseconds within the second, below 1,000,000,000.
    pub nanos: u32,
}

impl fmt::Display for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{:09}", self.seconds, self.nanos)
    }
}

impl FromStr for Time {
    type Err = &'static str;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (seconds, nanos) = text.split_once('.').ok_or("a time is SECONDS.NANOSECONDS")?;
        Ok(Self {
            seconds: seconds.parse().map_err(|_| "seconds are not a number")?,
            nanos: nanos.parse().map_err(|_| "nanoseconds are not a number")?,
        })
    }
}

/// The moment that comes `wait` after `start`; `start` itself where the clock does not reach so far.
pub fn after(start: Instant, wait: Duration) -> Instant {
    start.checked_add(wait).unwrap_or(start)
}

/// Does something on a thread of its own; `None` when it has not come to an end within the limit: then it is
/// left to itself, for a disk that hangs cannot be called off.
pub fn within<T: Send + 'static>(
    limit: Duration,
    work: impl FnOnce() -> T + Send + 'static,
) -> std::io::Result<Option<T>> {
    let (sender, receiver) = crossbeam_channel::bounded(1);
    let work = move || {
        // Nobody waits for it any more.
        let _ = sender.send(work());
    };
    std::thread::Builder::new().name("within".into()).spawn(work)?;
    Ok(receiver.recv_timeout(limit).ok())
}

/// A kernel file handle (`name_to_handle_at(2)`): it names one inode of one file system for as long
/// as that inode lives, over renames and remounts. Kind −1 is ours, for file systems without
/// handles: device, inode number and birth time.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Handle {
    /// `handle_type` of `struct file_handle`, or −1.
    pub kind: i32,
    /// `f_handle` of `struct file_handle`, at most 128 bytes.
    pub bytes: Box<[u8]>,
}

impl Handle {
    /// The kind of handles that only this program understands.
    pub const SYNTHETIC: i32 = -1;
}

impl fmt::Display for Handle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:", self.kind)?;
        self.bytes.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Handle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Handle({self})")
    }
}

impl FromStr for Handle {
    type Err = &'static str;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (kind, hex) = text.split_once(':').ok_or("a file handle is KIND:HEX")?;
        let kind = kind.parse().map_err(|_| "the handle's kind is not a number")?;
        let (pairs, []) = hex.as_bytes().as_chunks::<2>() else {
            return Err("the handle is not hexadecimal");
        };
        let digit = |byte: u8| char::from(byte).to_digit(16);
        let byte = |[high, low]: &[u8; 2]| u8::try_from(digit(*high)? << 4 | digit(*low)?).ok();
        let bytes =
            pairs.iter().map(byte).collect::<Option<_>>().ok_or("the handle is not hexadecimal")?;
        Ok(Self { kind, bytes })
    }
}

/// Serde as text, which fits a pattern.
macro_rules! serde_as_text {
    ($name:ident, $pattern:literal) => {
        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }
        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = Cow::<str>::deserialize(deserializer)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }
        text_schema!($name, { "type": "string", "pattern": $pattern });
    };
}

/// The JSON Schema of what is one text.
macro_rules! text_schema {
    ($name:ident, $schema:tt) => {
        impl JsonSchema for $name {
            fn inline_schema() -> bool {
                true
            }
            fn schema_name() -> Cow<'static, str> {
                stringify!($name).into()
            }
            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                json_schema!($schema)
            }
        }
    };
}
serde_as_text!(BranchUuid, "^[0-9A-HJKMNP-TV-Z]{26}$");
serde_as_text!(TxId, "^[0-9A-HJKMNP-TV-Z]{26}$");
serde_as_text!(Handle, "^-?[0-9]+:([0-9a-f]{2})*$");
serde_as_text!(Time, "^-?[0-9]+\\.[0-9]{9}$");
text_schema!(ViewPath, { "type": "string", "format": "path" });

/// How a crossing recognises a file: the same inode, not written since. `ctime` is compared only
/// until our own rename, which changes it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Identity {
    /// The inode.
    pub handle: Handle,
    /// Length in bytes.
    pub size: u64,
    /// Time of the last write.
    pub mtime: Time,
    /// Time of the last change of the inode.
    pub ctime: Time,
}

impl Identity {
    /// Same inode, length and time of last write.
    pub fn same_content(&self, other: &Self) -> bool {
        self.handle == other.handle && self.size == other.size && self.mtime == other.mtime
    }
}

/// What a rule can speak of as a whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Verb {
    /// List, open for reading, execute.
    Read,
    /// Open for writing, and every change of content.
    Write,
    /// A name appears.
    Add,
    /// A name disappears.
    Remove,
    /// A change of attributes.
    Attrs,
}

/// One operation that the policy decides. `rename` is within a branch (or pool), `move` between
/// branches; each has a source side, which removes, and a target side, which adds.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "kebab-case")]
#[allow(missing_docs, reason = "each is named after the system call")]
pub enum Operation {
    List,
    OpenRead,
    Exec,
    OpenWrite,
    WriteData,
    Truncate,
    Fallocate,
    CopyFileRange,
    Create,
    Mkdir,
    Mknod,
    Symlink,
    Link,
    RenameTarget,
    MoveTarget,
    Unlink,
    Rmdir,
    RenameSource,
    MoveSource,
    Chmod,
    Chown,
    Utimes,
    Setxattr,
    Removexattr,
}

impl Operation {
    /// All operations, in order of their verbs.
    pub const ALL: [Self; 24] = [
        Self::List,
        Self::OpenRead,
        Self::Exec,
        Self::OpenWrite,
        Self::WriteData,
        Self::Truncate,
        Self::Fallocate,
        Self::CopyFileRange,
        Self::Create,
        Self::Mkdir,
        Self::Mknod,
        Self::Symlink,
        Self::Link,
        Self::RenameTarget,
        Self::MoveTarget,
        Self::Unlink,
        Self::Rmdir,
        Self::RenameSource,
        Self::MoveSource,
        Self::Chmod,
        Self::Chown,
        Self::Utimes,
        Self::Setxattr,
        Self::Removexattr,
    ];

    /// The verb that covers this operation.
    pub fn verb(self) -> Verb {
        match self {
            Self::List | Self::OpenRead | Self::Exec => Verb::Read,
            Self::OpenWrite
            | Self::WriteData
            | Self::Truncate
            | Self::Fallocate
            | Self::CopyFileRange => Verb::Write,
            Self::Create
            | Self::Mkdir
            | Self::Mknod
            | Self::Symlink
            | Self::Link
            | Self::RenameTarget
            | Self::MoveTarget => Verb::Add,
            Self::Unlink | Self::Rmdir | Self::RenameSource | Self::MoveSource => Verb::Remove,
            Self::Chmod | Self::Chown | Self::Utimes | Self::Setxattr | Self::Removexattr => {
                Verb::Attrs
            }
        }
    }

    /// Whether it can make a file larger, or bring a large one to a name.
    pub fn has_size(self) -> bool {
        matches!(
            self,
            Self::WriteData
                | Self::Truncate
                | Self::Fallocate
                | Self::CopyFileRange
                | Self::RenameTarget
                | Self::MoveTarget
                | Self::Link
        )
    }

    /// The name in rules, in the ledger and on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::List => "list",
            Self::OpenRead => "open-read",
            Self::Exec => "exec",
            Self::OpenWrite => "open-write",
            Self::WriteData => "write-data",
            Self::Truncate => "truncate",
            Self::Fallocate => "fallocate",
            Self::CopyFileRange => "copy-file-range",
            Self::Create => "create",
            Self::Mkdir => "mkdir",
            Self::Mknod => "mknod",
            Self::Symlink => "symlink",
            Self::Link => "link",
            Self::RenameTarget => "rename-target",
            Self::MoveTarget => "move-target",
            Self::Unlink => "unlink",
            Self::Rmdir => "rmdir",
            Self::RenameSource => "rename-source",
            Self::MoveSource => "move-source",
            Self::Chmod => "chmod",
            Self::Chown => "chown",
            Self::Utimes => "utimes",
            Self::Setxattr => "setxattr",
            Self::Removexattr => "removexattr",
        }
    }
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Bytes that most paths have room in.
const PATH_USUAL: usize = 64;

/// An absolute path of the view: `/` or `/a/b`, any bytes but NUL, no `.`, `..`, empty component
/// or trailing slash.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ViewPath(PathBuf);

impl ViewPath {
    /// The root of the view.
    pub fn root() -> Self {
        Self(PathBuf::from("/"))
    }

    /// Takes a path that a person or file wrote; `None` unless it is absolute and free of `..`.
    pub fn parse(path: &Path) -> Option<Self> {
        let mut clean = PathBuf::from("/");
        let mut components = path.components();
        if components.next() != Some(Component::RootDir) {
            return None;
        }
        for component in components {
            match component {
                Component::Normal(name) => clean.push(name),
                Component::CurDir => {}
                _ => return None,
            }
        }
        Some(Self(clean))
    }

    /// The path of names from the root down; in one go, for folders can lie thousands deep.
    pub fn of_names<'a>(names: impl IntoIterator<Item = &'a OsStr>) -> Self {
        let mut path = PathBuf::with_capacity(PATH_USUAL);
        path.push("/");
        path.extend(names);
        Self(path)
    }

    /// This path with one more component.
    pub fn join(&self, name: &OsStr) -> Self {
        Self(self.0.join(name))
    }

    /// The path without its last component; `None` for the root.
    pub fn parent(&self) -> Option<Self> {
        self.0.parent().map(|parent| Self(parent.to_owned()))
    }

    /// The last component; `None` for the root.
    pub fn name(&self) -> Option<&OsStr> {
        self.0.file_name()
    }

    /// As a path of the standard library, always absolute.
    pub fn as_path(&self) -> &Path {
        &self.0
    }

    /// As bytes, always beginning with `/`.
    pub fn as_bytes(&self) -> &[u8] {
        self.0.as_os_str().as_bytes()
    }

    /// The names from the root down.
    pub fn components(&self) -> impl Iterator<Item = &OsStr> {
        self.0.iter().skip(1)
    }

    /// This path relative to `ancestor`; `None` if it is not `ancestor` or below it.
    pub fn below(&self, ancestor: &Self) -> Option<&Path> {
        self.0.strip_prefix(&ancestor.0).ok()
    }
}

impl fmt::Display for ViewPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.display().fmt(f)
    }
}

/// What may be done to content in a branch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum BranchMode {
    /// Everything that policy and permissions allow.
    Rw,
    /// Nothing changes (EROFS).
    Ro,
    /// Content enters only through a gate (EACCES otherwise).
    GatesOnly,
}

/// How reads and writes of open files reach the branch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum BranchIo {
    /// Each write comes to the daemon and is checked.
    Checked,
    /// The kernel reads and writes the backing file once the open was allowed.
    Passthrough,
}

impl Serialize for ViewPath {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        path_text::serialize(&self.0, serializer)
    }
}

impl<'de> Deserialize<'de> for ViewPath {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let path = path_text::deserialize(deserializer)?;
        Self::parse(&path).ok_or_else(|| serde::de::Error::custom("not an absolute path"))
    }
}
