//! The virtual `.audit` tree. For now its root alone.

use std::ffi::{OsStr, OsString};

use crate::error::Errno;
use crate::types::Time;

/// The tree.
#[derive(Debug, Default)]
pub struct AuditDir;

/// A node of the tree.
#[derive(Debug, Clone)]
pub struct AuditNode(u64);

impl AuditNode {
    /// Its inode number.
    pub fn number(&self) -> u64 {
        self.0
    }
}

/// An open file of the tree.
#[derive(Debug)]
pub struct AuditFile;

/// What a node is.
#[derive(Debug, Clone, Copy)]
pub struct AuditAttributes {
    /// A directory, or else a regular file.
    pub is_directory: bool,
    /// Length in bytes.
    pub size: u64,
    /// When it changed.
    pub mtime: Time,
}

impl AuditDir {
    /// The root.
    pub fn root(&self) -> AuditNode {
        AuditNode(1 << 62)
    }

    /// A child.
    pub fn lookup(&self, _node: &AuditNode, _name: &OsStr) -> Option<AuditNode> {
        None
    }

    /// All children.
    pub fn list(&self, _node: &AuditNode) -> Vec<(OsString, AuditNode)> {
        Vec::new()
    }

    /// What a node is.
    pub fn attributes(&self, _node: &AuditNode) -> AuditAttributes {
        AuditAttributes { is_directory: true, size: 0, mtime: Time::default() }
    }

    /// Opens a file. ENOENT.
    pub fn open(&self, _node: &AuditNode) -> Result<AuditFile, Errno> {
        Err(Errno::NOENT)
    }
}

impl AuditFile {
    /// Reads at an offset.
    pub fn read_at(&self, _offset: u64, _size: usize) -> Result<Vec<u8>, Errno> {
        Ok(Vec::new())
    }
}
