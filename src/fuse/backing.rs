//! Backing files that the kernel reads and writes by itself. All opens of an inode share one
//! registration for as long as one of them is open: the kernel refuses a second one (EIO).

use std::collections::HashMap;
use std::sync::{Arc, Weak};

use dashmap::DashMap;
use fuser::{BackingId, FileHandle, FopenFlags, ReplyCreate, ReplyOpen};
use parking_lot::Mutex;

use crate::vfs::{Attributes, Opened, Vfs};

use super::convert::attributes;
use super::reply::GENERATION;

/// Whether it may take the next one.
fn is_shortage(error: &std::io::Error) -> bool {
    let shortages = [libc::ENOMEM, libc::EMFILE, libc::ENFILE];
    error.raw_os_error().is_some_and(|number| shortages.contains(&number))
}

/// Registrations by inode, and by the handles that keep them.
#[derive(Debug, Default)]
pub struct Backings {
    by_inode: Mutex<HashMap<u64, Weak<BackingId>>>,
    by_handle: DashMap<u64, Arc<BackingId>>,
}

impl Backings {
    /// The registration that an open shares, made by `register` if it is the first.
    fn share(
        &self,
        vfs: &Vfs,
        opened: &Opened,
        register: impl FnOnce(&std::os::fd::OwnedFd) -> std::io::Result<BackingId>,
    ) -> Option<Arc<BackingId>> {
        let descriptor = opened.passthrough.as_ref()?;
        let mut by_inode = self.by_inode.lock();
        let known = by_inode.get(&opened.number).and_then(Weak::upgrade);
        let backing = match known {
            Some(backing) => backing,
            None => match register(descriptor) {
                Ok(backing) => Arc::new(backing),
                Err(error) => {
                    vfs.not_passed_through(opened.handle);
                    if is_shortage(&error) {
                        log::warn!("the kernel does not take a backing file now: {error}");
                    } else {
                        log::warn!(
                            "the kernel takes no backing files ({error}): reads and writes go \
                             through octroi"
                        );
                        vfs.set_kernel_io(false);
                    }
                    return None;
                }
            },
        };
        by_inode.insert(opened.number, Arc::downgrade(&backing));
        self.by_handle.insert(opened.handle, Arc::clone(&backing));
        Some(backing)
    }

    /// Answers an open.
    pub fn reply_open(&self, vfs: &Vfs, opened: &Opened, flags: FopenFlags, reply: ReplyOpen) {
        let handle = FileHandle(opened.handle);
        match self.share(vfs, opened, |descriptor| reply.open_backing(descriptor)) {
            Some(backing) => reply.opened_passthrough(handle, flags, &backing),
            None => reply.opened(handle, flags),
        }
    }

    /// Answers a create.
    pub fn reply_create(
        &self,
        vfs: &Vfs,
        found: &Attributes,
        opened: &Opened,
        flags: FopenFlags,
        reply: ReplyCreate,
    ) {
        let handle = FileHandle(opened.handle);
        let (ttl, shown, generation) = (&found.ttl, attributes(found), GENERATION);
        match self.share(vfs, opened, |descriptor| reply.open_backing(descriptor)) {
            Some(backing) => {
                reply.created_passthrough(ttl, &shown, generation, handle, flags, &backing);
            }
            None => reply.created(ttl, &shown, generation, handle, flags),
        }
    }

    /// Gives up what a handle keeps.
    pub fn release(&self, handle: u64) {
        let Some((_, backing)) = self.by_handle.remove(&handle) else { return };
        drop(backing);
        let mut by_inode = self.by_inode.lock();
        if by_inode.len() > 1024 {
            by_inode.retain(|_, backing| backing.strong_count() > 0);
        }
    }
}
