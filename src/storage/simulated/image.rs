//! What is left after a crash, in a number, so that different crash images can be counted.

use std::hash::{DefaultHasher, Hash, Hasher};

use super::*;
use crate::types::TxId;

impl SimulatedStorage {
    /// The disks as they are found by the next program after this one was killed: the kernel has all.
    pub fn after_kill(&self) -> Self {
        let mut state = self.state.lock().clone();
        (state.steps, state.power_off) = (0, false);
        state.faults.clear();
        for inode in state.inodes.values_mut().filter(|inode| inode.writers > 0) {
            Arc::make_mut(inode).writers = 0;
        }
        Self { state: Mutex::new(state) }
    }

    /// A number for what programs find on the disks: names, kinds, modes, owners, extended attributes
    /// and content. Two images of one number count as one. Left out is what differs from run to run:
    /// times, and the letters of txids and of what the first device, the ledger's, holds; of that only
    /// the shape counts, and where it is torn.
    pub fn fingerprint(&self) -> u64 {
        let state = self.state.lock();
        let mut hasher = DefaultHasher::new();
        for (number, device) in state.devices.iter().enumerate() {
            state.hash_below(device.root, number == 0, &mut hasher);
        }
        hasher.finish()
    }
}

impl State {
    fn hash_below(&self, directory: u64, shape_only: bool, hasher: &mut DefaultHasher) {
        for name in self.entries.list(directory) {
            let Some(number) = self.entries.get(directory, &name) else { continue };
            let Some(inode) = self.inodes.get(&number) else { continue };
            without_txid(&name).hash(hasher);
            let attributes = &inode.attributes;
            format!("{:?}", attributes.kind).hash(hasher);
            (attributes.mode, attributes.uid, attributes.gid, self.entries.links(number))
                .hash(hasher);
            attributes.xattrs.hash(hasher);
            inode.content.hash(shape_only, hasher);
            self.hash_below(number, shape_only, hasher);
        }
        "end".hash(hasher);
    }
}

/// `TXID` and `TXID.N` are the same for all transactions.
fn without_txid(name: &OsStr) -> String {
    let name = name.to_string_lossy();
    let (first, rest) = name.split_once('.').unwrap_or((&name, ""));
    match first.parse::<TxId>() {
        Ok(_) => format!("TXID.{rest}"),
        Err(_) => name.into_owned(),
    }
}
