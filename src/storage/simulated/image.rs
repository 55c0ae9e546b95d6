//! What is left after a crash, in a number, so that different crash images can be counted.

use std::hash::{DefaultHasher, Hasher};
use std::os::unix::ffi::OsStrExt;
use std::sync::OnceLock;

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
        let mut told = Vec::new();
        for (number, device) in state.devices.iter().enumerate() {
            state.tell_below(device.root, number == 0, &mut told);
        }
        sum_of(&told)
    }
}

impl State {
    fn tell_below(&self, directory: u64, shape_only: bool, into: &mut Vec<u8>) {
        for (name, number) in self.entries.named_in(directory) {
            let Some(inode) = self.inodes.get(&number) else { continue };
            let name = without_txid(name);
            into.extend(name.len().to_ne_bytes());
            into.extend(name);
            let attributes = &inode.attributes;
            match &attributes.kind {
                Kind::File => into.push(b'f'),
                Kind::Directory => into.push(b'd'),
                other => into.extend(format!("{other:?}").as_bytes()),
            }
            for number in [attributes.mode, attributes.uid, attributes.gid] {
                into.extend(number.to_ne_bytes());
            }
            into.extend(self.entries.links(number).to_ne_bytes());
            for (key, value) in &attributes.xattrs {
                into.extend(key.as_bytes());
                into.push(0);
                into.extend(value.len().to_ne_bytes());
                into.extend(value);
            }
            inode.content.sum(shape_only, into);
            self.tell_below(number, shape_only, into);
        }
        into.extend(b"end");
    }
}

/// Sums of a block: of its bytes, and of its shape as text. Made once for all disks that share it.
#[derive(Debug, Default)]
pub(super) struct Sums([OnceLock<u64>; 2]);

impl Sums {
    pub(super) fn of(&self, bytes: &[u8], shape_only: bool) -> [u8; 8] {
        let [whole, shape] = &self.0;
        let sum = match shape_only {
            false => whole.get_or_init(|| sum_of(bytes)),
            true => shape.get_or_init(|| {
                let is_sign = |byte| matches!(byte, 0 | b'"' | b'{' | b'}' | b':' | b',' | b'\n');
                let signs = bytes.iter().map(|byte| if is_sign(*byte) { *byte } else { b'x' });
                sum_of(&signs.collect::<Vec<u8>>())
            }),
        };
        sum.to_ne_bytes()
    }
}

/// The same for the same bytes in each run of one build.
pub(crate) fn sum_of(bytes: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    hasher.write(bytes);
    hasher.finish()
}

/// `TXID` and `TXID.N` are the same for all transactions.
fn without_txid(name: &OsStr) -> Vec<u8> {
    let first = name.to_str().and_then(|name| name.split('.').next());
    match first.filter(|first| first.parse::<TxId>().is_ok()) {
        Some(first) => [b"TXID", &name.as_bytes()[first.len()..]].concat(),
        None => name.as_bytes().to_vec(),
    }
}
