//! The signed tree on the disk: `checkpoint` and `tile/…` in the ledger's folder, named and laid out as
//! <https://c2sp.org/tlog-tiles> has them. The folder is no such log by itself: it has no bundles, and
//! partial tiles of the newest checkpoint alone; `.audit` gives all that a log must.
//!
//! Nothing of it is needed to have the ledger: tiles can be made again from the lines. They are
//! durable before the checkpoint that needs them is published all the same, so that who copies the
//! folder has what proves each line.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::checkpoint::Checkpoint;
use super::tree::tile::{TileId, WIDTH, bytes_of, hashes_of};
use super::tree::{self, Hash, Node};
use crate::error::Errno;
use crate::storage::Storage;

/// File name of the newest checkpoint.
pub const CHECKPOINT: &str = "checkpoint";
/// Folder of the tiles.
pub const TILES: &str = "tile";
/// Attempts to read a tile that is there by another width each time.
const LOOKS: usize = 3;
/// Bytes of a checkpoint or key that are read.
const SMALL_MAX: usize = 1 << 16;

/// Where the signed tree is kept.
pub struct TreeStore<S: Storage> {
    storage: Arc<S>,
    dir: S::Dir,
}

/// Folder, below `tile`, and name of a tile's file.
fn place(id: TileId) -> (PathBuf, String) {
    let path = id.path();
    let (folder, name) = path.rsplit_once('/').unwrap_or_default();
    (Path::new(TILES).join(folder), name.to_owned())
}

impl<S: Storage> TreeStore<S> {
    /// The tree in a ledger's folder.
    pub fn new(storage: Arc<S>, dir: S::Dir) -> Self {
        Self { storage, dir }
    }

    /// Writes tiles and makes them durable. What is in their place is replaced.
    pub fn write(&self, tiles: &[(TileId, Vec<Hash>)]) -> Result<(), Errno> {
        let storage = &*self.storage;
        if tiles.is_empty() {
            return Ok(());
        }
        self.make_folders(Path::new(TILES))?;
        let mut folders = BTreeSet::new();
        for (id, hashes) in tiles {
            let (path, name) = place(*id);
            let folder = match storage.open_dir(&self.dir, &path) {
                Err(Errno::NOENT) => self.make_folders(&path)?,
                found => found?,
            };
            let file = write_new(storage, &folder, OsStr::new(&name), &bytes_of(hashes))?;
            // By itself, and never with the file system: that would wait for what others write.
            storage.sync_file(&file)?;
            folders.insert(path);
        }
        for path in folders {
            storage.sync_dir(&storage.open_dir(&self.dir, &path)?)?;
        }
        Ok(())
    }

    /// Makes the folders of a path that are not there; each is durable when this returns.
    fn make_folders(&self, path: &Path) -> Result<S::Dir, Errno> {
        let mut here = self.dir.clone();
        for name in path {
            let next = match self.storage.open_dir(&here, Path::new(name)) {
                Err(Errno::NOENT) => {
                    self.storage.create_dir(&here, name)?;
                    self.storage.sync_dir(&here)?;
                    self.storage.open_dir(&here, Path::new(name))?
                }
                found => found?,
            };
            here = next;
        }
        Ok(here)
    }

    /// The hashes of a tile; `None` if it is not there or has not the size that it must have.
    pub fn read(&self, id: TileId) -> Result<Option<Vec<Hash>>, Errno> {
        let (path, name) = place(id);
        let folder = match self.storage.open_dir(&self.dir, &path) {
            Err(Errno::NOENT) => return Ok(None),
            found => found?,
        };
        let bytes = read_small(&*self.storage, &folder, OsStr::new(&name))?;
        Ok(bytes.and_then(|bytes| hashes_of(id, &bytes)))
    }

    /// A tile of this width, from a wider one if it is not there itself any more. The wider one may go
    /// the same way while it is looked for, so it is looked for again.
    pub fn read_any(&self, id: TileId) -> Result<Option<Vec<Hash>>, Errno> {
        for _ in 1..LOOKS {
            if let Some(found) = self.look_for(id)? {
                return Ok(Some(found));
            }
        }
        self.look_for(id)
    }

    fn look_for(&self, id: TileId) -> Result<Option<Vec<Hash>>, Errno> {
        let prefix = |mut hashes: Vec<Hash>| {
            hashes.truncate(usize::from(id.width));
            hashes
        };
        if let Some(found) = self.read(id)? {
            return Ok(Some(found));
        }
        for width in self.widths(id)?.into_iter().chain([WIDTH]) {
            let wider = TileId { width, ..id };
            if width > id.width
                && let Some(found) = self.read(wider)?
            {
                return Ok(Some(prefix(found)));
            }
        }
        Ok(None)
    }

    /// The root of the first `size` lines, of which all are in tiles. ENODATA where a tile is missing.
    pub fn root(&self, size: u64) -> Result<Hash, Errno> {
        tree::root(size, &mut |node| self.node(node, size))
    }

    /// The path from a line to that root, its sibling first.
    pub fn inclusion(&self, index: u64, size: u64) -> Result<Vec<Hash>, Errno> {
        tree::proof::inclusion(index, size, &mut |node| self.node(node, size))
    }

    /// Whether the tree of one signed checkpoint is shown to be the beginning of that of another, by a
    /// proof from one root to the other: whatever lies in the tiles, only hashes that lead to both
    /// roots do. ENODATA where a tile is missing.
    pub fn extends(&self, before: &Checkpoint, after: &Checkpoint) -> Result<bool, Errno> {
        if before.size > after.size {
            return Ok(false);
        }
        if before.size == 0 {
            return Ok(before.root == tree::empty_root());
        }
        let path = self.consistency(before.size, after.size)?;
        let [before, after] = [before, after].map(|found| (found.size, found.root));
        Ok(tree::proof::is_consistent(before, after, &path))
    }

    /// What shows that the first `before` lines are the beginning of the first `after`.
    pub fn consistency(&self, before: u64, after: u64) -> Result<Vec<Hash>, Errno> {
        tree::proof::consistency(before, after, &mut |node| self.node(node, after))
    }

    fn node(&self, node: Node, size: u64) -> Result<Hash, Errno> {
        let mut tile = |id| self.read_any(id)?.ok_or(Errno::NODATA);
        tree::tile::node(node, size, &mut tile)?.ok_or(Errno::NODATA)
    }

    /// The widths in which a partial tile is there.
    fn widths(&self, id: TileId) -> Result<Vec<u16>, Errno> {
        let (path, _) = place(TileId { width: 1, ..id });
        let folder = match self.storage.open_dir(&self.dir, &path) {
            Err(Errno::NOENT) => return Ok(Vec::new()),
            found => found?,
        };
        let names = self.storage.list(&folder)?;
        let mut widths: Vec<u16> =
            names.iter().filter_map(|name| name.to_str()?.parse().ok()).collect();
        widths.sort_unstable();
        Ok(widths)
    }

    /// Removes what is there of a partial tile, but for the one that is to be kept. What cannot be
    /// removed does no harm.
    pub fn remove_partials(&self, id: TileId, keep: Option<u16>) {
        let (path, _) = place(TileId { width: 1, ..id });
        let Ok(folder) = self.storage.open_dir(&self.dir, &path) else { return };
        let Ok(widths) = self.widths(id) else { return };
        for width in widths.into_iter().filter(|width| Some(*width) != keep) {
            let _ = self.storage.unlink(&folder, OsStr::new(&width.to_string()));
        }
        if keep.is_none()
            && let (Some(parent), Some(name)) = (path.parent(), path.file_name())
            && let Ok(parent) = self.storage.open_dir(&self.dir, parent)
        {
            let _ = self.storage.remove_dir(&parent, name);
        }
    }

    /// The newest checkpoint's note.
    pub fn checkpoint(&self) -> Result<Option<Vec<u8>>, Errno> {
        read_small(&*self.storage, &self.dir, OsStr::new(CHECKPOINT))
    }

    /// Puts a checkpoint in the place of the last one: whoever looks, also after a crash, finds the
    /// one or the other, and this one if the call succeeds.
    pub fn publish(&self, note: &str) -> Result<(), Errno> {
        put(&*self.storage, &self.dir, CHECKPOINT, note.as_bytes())
    }
}

/// Puts a small file in the place of what has its name, whole and durable.
pub fn put<S: Storage>(storage: &S, dir: &S::Dir, name: &str, bytes: &[u8]) -> Result<(), Errno> {
    let new = format!("{name}.new");
    let file = write_new(storage, dir, OsStr::new(&new), bytes)?;
    storage.sync_file(&file)?;
    storage.replace(dir, OsStr::new(&new), OsStr::new(name))?;
    storage.sync_dir(dir)
}

/// Makes a file anew, whatever was there. Not durable.
pub fn write_new<S: Storage>(
    storage: &S,
    dir: &S::Dir,
    name: &OsStr,
    bytes: &[u8],
) -> Result<S::File, Errno> {
    let file = match storage.create_file(dir, name) {
        Err(Errno::EXIST) => {
            storage.unlink(dir, name)?;
            storage.create_file(dir, name)?
        }
        made => made?,
    };
    storage.write_at(&file, bytes, 0)?;
    Ok(file)
}

/// A small file's bytes; `None` if it is not there. EFBIG if it is not small.
pub fn read_small<S: Storage>(
    storage: &S,
    dir: &S::Dir,
    name: &OsStr,
) -> Result<Option<Vec<u8>>, Errno> {
    let file = match storage.open_read(dir, name) {
        Err(Errno::NOENT) => return Ok(None),
        found => found?,
    };
    let mut bytes = vec![0; SMALL_MAX];
    let mut filled = 0;
    while let Some(room) = bytes.get_mut(filled..).filter(|room| !room.is_empty()) {
        match storage.read_at(&file, room, filled as u64)? {
            0 => {
                bytes.truncate(filled);
                return Ok(Some(bytes));
            }
            read => filled = filled.saturating_add(read),
        }
    }
    Err(Errno::FBIG)
}
