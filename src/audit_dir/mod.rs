//! The virtual tree `.audit`: files made from the ledger and from snapshots of the daemon's state.
//! Read-only by construction: there is nothing here that writes.

use std::ffi::{OsStr, OsString};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use arc_swap::ArcSwap;
use jiff::Timestamp;
use parking_lot::Mutex;
use serde_json::Value;

use crate::error::Errno;
use crate::policy::Policy;
use crate::types::{Time, TxId};

mod denied;
mod hits;
mod log;
#[cfg(test)]
mod tests;
mod tree;

use log::Log;
use tree::{TileNode, Tree};

const README: &str = include_str!("README.txt");
const LOG: &str = "log.jsonl";
const DENIED: &str = "denied.jsonl";
const VERSION: &str = concat!("octroi ", env!("CARGO_PKG_VERSION"), "\n");

/// So many steps of a search for denials are worth waiting for: 8 MiB of the ledger.
const STEPS: usize = 8;

/// Numbers of nodes begin here: above all numbers of other inodes.
const NUMBERS: u64 = 1 << 62;
const BRANCHES: u64 = NUMBERS + 1000;
const LOGS: u64 = NUMBERS + (1 << 56);
const DENIALS: u64 = NUMBERS + (1 << 57);
const PROOFS: u64 = NUMBERS + (1 << 58);
const TILES: u64 = NUMBERS + (1 << 59);
const TRANSACTIONS: u64 = NUMBERS + (1 << 60);

/// How far a crossing has come, as the folders of `tx` have it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TxState {
    /// Under way.
    Active,
    /// Finished; can be undone.
    Done,
    /// Needs a person.
    Dead,
}

/// What `.audit` asks the daemon for. Called on request threads: answers come from memory.
pub trait AuditSource: Send + Sync {
    /// The branches' names, always in the same order.
    fn branches(&self) -> Vec<String>;
    /// What is shown of a branch.
    fn branch(&self, name: &str) -> Option<Value>;
    /// The ids of the transactions in a state.
    fn transactions(&self, state: TxState) -> Vec<TxId>;
    /// Whether a transaction is in a state.
    fn is_in(&self, state: TxState, txid: TxId) -> bool;
    /// What is shown of a transaction that is in a state.
    fn transaction(&self, state: TxState, txid: TxId) -> Option<Value>;
    /// The text of `stats`.
    fn stats(&self) -> String;
}

/// A node of the tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuditNode(Node);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Node {
    Root,
    Readme,
    /// The lines from an offset on: where the first segment begins that is there. One that leaves gives
    /// the name to another file, as a rotated log does, and who reads the old one goes on where they are.
    Log(u64),
    /// The same of the denials.
    Denied(u64),
    Tx,
    TxFolder(TxState),
    TxFile(TxState, TxId),
    Branches,
    Branch(u64, String),
    Policy,
    Config,
    Hits,
    Stats,
    Version,
    Checkpoint,
    Key,
    Tile(TileNode),
    Proofs,
    Proof(u64),
}

impl AuditNode {
    /// The inode number: the same for as long as the view is mounted, from 2^62.
    pub fn number(&self) -> u64 {
        let fixed = match &self.0 {
            Node::Root => 0,
            Node::Readme => 1,
            Node::Log(0) => 2,
            Node::Denied(0) => 3,
            Node::Log(start) => return LOGS.saturating_add(*start),
            Node::Denied(start) => return DENIALS.saturating_add(*start),
            Node::Tx => 4,
            Node::TxFolder(state) => (*state as u64).saturating_add(5),
            Node::Branches => 8,
            Node::Policy => 9,
            Node::Config => 10,
            Node::Stats => 11,
            Node::Version => 12,
            Node::Hits => 13,
            Node::Checkpoint => 14,
            Node::Key => 15,
            Node::Proofs => 16,
            Node::Tile(tile) => return TILES.saturating_add(tile.number()),
            Node::Proof(seq) => return PROOFS.saturating_add(*seq),
            Node::Branch(position, _) => return BRANCHES.saturating_add(*position),
            Node::TxFile(state, txid) => {
                // The low bits of a ULID are random.
                let random = u128::from(txid.0) as u64 & ((1 << 57) - 1);
                return TRANSACTIONS.saturating_add((*state as u64) << 57 | random);
            }
        };
        NUMBERS.saturating_add(fixed)
    }

    /// Whether it is a file that shows what was just appended to the ledger.
    pub fn is_growing(&self) -> bool {
        matches!(self.0, Node::Log(_) | Node::Denied(_))
    }

    /// Directory or file.
    pub fn is_directory(&self) -> bool {
        use Node::{Branches, Policy, Proofs, Root, Tile, Tx, TxFolder};
        let folder = matches!(self.0, Root | Tx | TxFolder(_) | Branches | Policy | Proofs);
        folder || matches!(self.0, Tile(TileNode::Folder(_)))
    }
}

/// What `stat` shows of a node. Directories are 0555, files 0444, root's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AuditAttributes {
    /// Bytes.
    pub size: u64,
    /// When it was last seen to change; the mount's time for what has none.
    pub mtime: Time,
}

/// An open file: text as of its opening, or the growing ledger.
pub struct AuditFile(Content);

enum Content {
    Text(Vec<u8>),
    Log(Arc<Mutex<Log>>, u64),
    Denied(Arc<Mutex<Log>>, u64),
}

/// The tree. What the ledger's writer has not yet written is not seen: flush it first.
pub struct AuditDir {
    ledger_dir: PathBuf,
    in_force: ArcSwap<InForce>,
    source: Box<dyn AuditSource>,
    log: Mutex<Option<Arc<Mutex<Log>>>>,
    /// Whether a thread searches it for denials.
    searching: Arc<AtomicBool>,
    tree: Option<Tree>,
    started: Time,
}

/// What `policy` shows.
#[derive(Clone)]
pub struct InForce {
    /// The text of the configuration.
    pub config: Arc<str>,
    /// What was made of it; none before the view is built.
    pub policy: Option<Arc<Policy>>,
    /// Since when.
    pub since: Timestamp,
}

impl AuditDir {
    /// `ledger_dir` holds the segments; `config` is the text of the configuration in force.
    pub fn new(ledger_dir: PathBuf, config: String, source: Box<dyn AuditSource>) -> Self {
        let in_force = InForce { config: config.into(), policy: None, since: Timestamp::now() };
        Self {
            ledger_dir,
            in_force: ArcSwap::from_pointee(in_force),
            source,
            log: Mutex::new(None),
            searching: Arc::default(),
            tree: None,
            started: log::now(),
        }
    }

    /// The same of a ledger that is signed, with its public key.
    pub fn signed(self, key: String) -> Result<Self, Errno> {
        let tree = Some(Tree::open(&self.ledger_dir, &key)?);
        Ok(Self { tree, ..self })
    }

    /// Shows a policy that is in force from now on; without a text, it was made of the one that is shown.
    pub fn show_policy(&self, policy: Arc<Policy>, config: Option<String>) {
        let config = config.map_or_else(|| self.in_force().config.clone(), Arc::from);
        let in_force = InForce { config, policy: Some(policy), since: Timestamp::now() };
        self.in_force.store(Arc::new(in_force));
    }

    /// What is shown of the policy.
    pub fn in_force(&self) -> Arc<InForce> {
        self.in_force.load_full()
    }

    /// The node of `.audit` itself.
    pub fn root(&self) -> AuditNode {
        AuditNode(Node::Root)
    }

    /// A name in a directory.
    pub fn lookup(&self, parent: &AuditNode, name: &OsStr) -> Option<AuditNode> {
        match &parent.0 {
            Node::Tile(folder) => {
                return Some(AuditNode(Node::Tile(self.tree.as_ref()?.lookup(folder, name)?)));
            }
            Node::Proofs => {
                let text = name.to_str()?;
                let seq = text.parse::<u64>().ok().filter(|seq| seq.to_string() == text)?;
                let signed = self.tree.as_ref()?.size();
                return (seq < signed).then_some(AuditNode(Node::Proof(seq)));
            }
            Node::TxFolder(state) => {
                let txid = name.to_str()?.strip_suffix(".json")?.parse().ok().map(TxId)?;
                let is_there = tx_name(txid) == name && self.source.is_in(*state, txid);
                return is_there.then_some(AuditNode(Node::TxFile(*state, txid)));
            }
            _ => {}
        }
        if parent.0 == Node::Root {
            let log = |of: &dyn Fn(&mut Log) -> Result<u64, Errno>| self.with_log(of).unwrap_or(0);
            match name.to_str() {
                Some(LOG) => return Some(AuditNode(Node::Log(log(&|log| Ok(log.first()))))),
                Some(DENIED) => {
                    return Some(AuditNode(Node::Denied(log(&|log| Ok(log.denied().first())))));
                }
                _ => {}
            }
        }
        let mut children = self.children(parent, || (0, 0)).into_iter();
        children.find(|(child, _)| child == name).map(|(_, node)| node)
    }

    /// The names in a directory; none in a file.
    pub fn list(&self, directory: &AuditNode) -> Vec<(OsString, AuditNode)> {
        self.children(directory, || self.first())
    }

    /// `first` tells where the lines begin that are there, and the denials.
    fn children(
        &self,
        directory: &AuditNode,
        first: impl FnOnce() -> (u64, u64),
    ) -> Vec<(OsString, AuditNode)> {
        let fixed = |children: &[(&str, Node)]| {
            let entry =
                |(name, node): &(&str, Node)| (OsString::from(name), AuditNode(node.clone()));
            children.iter().map(entry).collect()
        };
        match &directory.0 {
            Node::Root => {
                let (lines, denials) = first();
                let mut all: Vec<(OsString, AuditNode)> = fixed(&[
                    ("README", Node::Readme),
                    (LOG, Node::Log(lines)),
                    (DENIED, Node::Denied(denials)),
                    ("tx", Node::Tx),
                    ("branches", Node::Branches),
                    ("policy", Node::Policy),
                    ("stats", Node::Stats),
                    ("version", Node::Version),
                ]);
                if self.tree.is_some() {
                    all.extend(fixed(&[
                        ("checkpoint", Node::Checkpoint),
                        ("key.pub", Node::Key),
                        ("tile", Node::Tile(TileNode::root())),
                        ("proof", Node::Proofs),
                    ]));
                }
                all
            }
            Node::Tile(folder) => {
                let found = self.tree.as_ref().map(|tree| tree.list(folder)).unwrap_or_default();
                let entry = |(name, node): (String, TileNode)| {
                    (OsString::from(name), AuditNode(Node::Tile(node)))
                };
                found.into_iter().map(entry).collect()
            }
            Node::Tx => fixed(&[
                ("active", Node::TxFolder(TxState::Active)),
                ("done", Node::TxFolder(TxState::Done)),
                ("dead", Node::TxFolder(TxState::Dead)),
            ]),
            Node::Policy => fixed(&[("config.toml", Node::Config), ("hits.tsv", Node::Hits)]),
            Node::TxFolder(state) => {
                let entry = |txid| (tx_name(txid), AuditNode(Node::TxFile(*state, txid)));
                self.source.transactions(*state).into_iter().map(entry).collect()
            }
            Node::Branches => {
                let entry = |(position, name): (u64, String)| {
                    (format!("{name}.json").into(), AuditNode(Node::Branch(position, name)))
                };
                (0..).zip(self.source.branches()).map(entry).collect()
            }
            _ => Vec::new(),
        }
    }

    /// What `stat` shows. A file that cannot be made just now has size 0.
    pub fn attributes(&self, node: &AuditNode) -> AuditAttributes {
        let mut mtime = self.started;
        let size = match &node.0 {
            _ if node.is_directory() => 0,
            Node::Config => {
                let in_force = self.in_force();
                mtime = log::time_of(in_force.since);
                in_force.config.len() as u64
            }
            Node::Log(start) => self
                .with_log(|log| {
                    mtime = log.changed;
                    Ok(log.len().saturating_sub(*start))
                })
                .unwrap_or(0),
            Node::Denied(start) => {
                let found = self.denied_as_found();
                found.map_or(0, |(changed, end)| {
                    mtime = changed;
                    end.saturating_sub(*start)
                })
            }
            Node::Tile(TileNode::File { id, entries: false }) => {
                u64::from(id.width).saturating_mul(tree::HASH)
            }
            Node::Tile(TileNode::File { id, entries: true }) => {
                self.with_tree(|tree, log| tree.length(*id, log.reader())).unwrap_or(0)
            }
            _ => self.text(node).map_or(0, |text| text.len() as u64),
        };
        AuditAttributes { size, mtime }
    }

    /// Opens a file. EISDIR; ENOENT for a transaction or branch that is no longer there; the
    /// ledger's errors.
    pub fn open(&self, node: &AuditNode) -> Result<AuditFile, Errno> {
        if node.is_directory() {
            return Err(Errno::ISDIR);
        }
        let content = match node.0 {
            Node::Log(start) => Content::Log(self.log()?, start),
            Node::Denied(start) => {
                let log = self.log()?;
                log.lock().refresh()?;
                log::search(&log, usize::MAX)?;
                Content::Denied(log, start)
            }
            _ => Content::Text(self.text(node)?),
        };
        Ok(AuditFile(content))
    }

    fn text(&self, node: &AuditNode) -> Result<Vec<u8>, Errno> {
        let text = match &node.0 {
            Node::Readme => README.to_owned(),
            Node::Config => self.in_force().config.to_string(),
            Node::Hits => hits::text(&self.in_force()),
            Node::Stats => self.source.stats(),
            Node::Version => VERSION.to_owned(),
            Node::Key => self.tree.as_ref().ok_or(Errno::NOENT)?.key(),
            Node::Checkpoint => return self.tree.as_ref().ok_or(Errno::NOENT)?.checkpoint(),
            Node::Tile(tile) => {
                return self.with_tree(|tree, log| tree.content(tile, log.reader()));
            }
            Node::Proof(seq) => return self.with_tree(|tree, log| tree.proof(*seq, log.reader())),
            Node::TxFile(state, txid) => json(self.source.transaction(*state, *txid))?,
            Node::Branch(_, name) => json(self.source.branch(name))?,
            _ => return Err(Errno::ISDIR),
        };
        Ok(text.into_bytes())
    }

    /// When the ledger was last seen to grow, and the offset after the last denial that was found. Who only looks
    /// does not wait until a large ledger is searched: that goes on by itself, and `denied.jsonl` is shown
    /// shorter than it is until it is done, never longer. Who opens it waits, so that an open file has the size
    /// that it had when it was opened at the least: `tail` and `less` go by it to find the end.
    fn denied_as_found(&self) -> Result<(Time, u64), Errno> {
        let log = self.log()?;
        log.lock().refresh()?;
        if !log::search(&log, STEPS)? {
            self.search_on(&log);
        }
        let log = log.lock();
        Ok((log.changed, log.denied().end()))
    }

    /// Searches what is left, on a thread that ends with that or with this tree.
    fn search_on(&self, log: &Arc<Mutex<Log>>) {
        if self.searching.swap(true, Ordering::AcqRel) {
            return;
        }
        let (log, searching) = (Arc::downgrade(log), Arc::clone(&self.searching));
        let search = move || {
            while log.upgrade().is_some_and(|log| log::search(&log, 1) == Ok(false)) {}
            searching.store(false, Ordering::Release);
        };
        if let Err(error) = std::thread::Builder::new().name("denials".into()).spawn(search) {
            ::log::warn!("cannot start a thread to search the ledger for denials: {error}");
            self.searching.store(false, Ordering::Release);
        }
    }

    fn first(&self) -> (u64, u64) {
        self.with_log(|log| Ok((log.first(), log.denied().first()))).unwrap_or_default()
    }

    fn log(&self) -> Result<Arc<Mutex<Log>>, Errno> {
        let mut log = self.log.lock();
        if let Some(log) = &*log {
            return Ok(log.clone());
        }
        let opened = Arc::new(Mutex::new(Log::open(&self.ledger_dir)?));
        *log = Some(opened.clone());
        Ok(opened)
    }

    fn with_tree<T>(&self, act: impl FnOnce(&Tree, &Log) -> Result<T, Errno>) -> Result<T, Errno> {
        let tree = self.tree.as_ref().ok_or(Errno::NOENT)?;
        self.with_log(|log| act(tree, log))
    }

    fn with_log<T>(&self, act: impl FnOnce(&mut Log) -> Result<T, Errno>) -> Result<T, Errno> {
        let log = self.log()?;
        let mut log = log.lock();
        log.refresh()?;
        act(&mut log)
    }
}

impl AuditFile {
    /// At most `length` bytes from an offset; less only at the end. ESTALE for lines that have left the
    /// ledger.
    pub fn read_at(&self, offset: u64, length: usize) -> Result<Vec<u8>, Errno> {
        match &self.0 {
            Content::Text(text) => {
                let start = usize::try_from(offset).unwrap_or(usize::MAX).min(text.len());
                let end = start.saturating_add(length).min(text.len());
                Ok(text.get(start..end).unwrap_or_default().to_vec())
            }
            Content::Log(log, start) => {
                let mut log = log.lock();
                log.refresh()?;
                log.read(offset.saturating_add(*start), length)
            }
            Content::Denied(log, start) => {
                log::read_denied(log, offset.saturating_add(*start), length)
            }
        }
    }
}

fn tx_name(txid: TxId) -> OsString {
    format!("{txid}.json").into()
}

fn json(value: Option<Value>) -> Result<String, Errno> {
    let value = value.ok_or(Errno::NOENT)?;
    serde_json::to_string_pretty(&value).map(|text| text + "\n").map_err(|_| Errno::IO)
}
