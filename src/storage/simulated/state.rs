//! What the steps are made of: inodes, names and room, without faults or counting.

use super::*;

impl State {
    pub(super) fn now(&mut self) -> Time {
        self.clock += 1;
        let nanos = u128::from(self.clock) * u128::from(TICK);
        Time {
            seconds: EPOCH + (nanos / 1_000_000_000) as i64,
            nanos: (nanos % 1_000_000_000) as u32,
        }
    }

    pub(super) fn new_inode(&mut self, device: usize, kind: Kind, mode: u32) -> u64 {
        // Numbers are never used again, so that handles are never another's.
        let number = self.next_inode;
        self.next_inode += 1;
        let now = self.now();
        let attributes = Attributes {
            kind,
            mode,
            uid: 0,
            gid: 0,
            atime: now,
            mtime: now,
            ctime: now,
            xattrs: BTreeMap::new(),
        };
        let inode = Inode {
            device,
            durable: attributes.clone(),
            attributes,
            content: Content::default(),
            writers: 0,
            lease_breaks: 0,
        };
        self.inodes.insert(number, Arc::new(inode));
        number
    }

    pub(super) fn inode(&self, number: u64) -> Result<&Inode, Errno> {
        self.inodes.get(&number).map(|inode| &**inode).ok_or(Errno::STALE)
    }

    pub(super) fn inode_mut(&mut self, number: u64) -> Result<&mut Inode, Errno> {
        self.inodes.get_mut(&number).map(Arc::make_mut).ok_or(Errno::STALE)
    }

    pub(super) fn named(&self, dir: &SimulatedDir, name: &OsStr) -> Result<u64, Errno> {
        self.entries.get(dir.inode, name).ok_or(Errno::NOENT)
    }

    pub(super) fn free(&self, device: usize) -> u64 {
        let used: u64 = self
            .inodes
            .iter()
            .filter(|(number, inode)| inode.device == device && self.entries.links(**number) > 0)
            .map(|(_, inode)| inode.content.cached.disk_bytes())
            .sum();
        self.devices.get(device).map_or(0, |device| device.options.capacity.saturating_sub(used))
    }

    pub(super) fn free_inodes(&self, device: usize) -> u64 {
        let room = self.options(device).inodes;
        if room == u64::MAX {
            return room;
        }
        let used = self.inodes.iter().filter(|(number, inode)| {
            inode.device == device && (self.entries.links(**number) > 0 || self.is_root(**number))
        });
        room.saturating_sub(used.count() as u64)
    }

    pub(super) fn is_root(&self, number: u64) -> bool {
        self.devices.iter().any(|device| device.root == number)
    }

    /// A directory counts its own entry and the `..` of each directory in it, as on ext4.
    pub(super) fn nlink(&self, number: u64) -> u64 {
        let links = self.entries.links(number);
        if !self.is_directory(number) {
            return links;
        }
        let below = self.entries.inodes_in(number).filter(|found| self.is_directory(*found));
        links.max(u64::from(self.is_root(number))) * (2 + below.count() as u64)
    }

    pub(super) fn is_directory(&self, number: u64) -> bool {
        self.inodes.get(&number).is_some_and(|inode| inode.attributes.kind == Kind::Directory)
    }

    /// The device of a directory in which names can be made: ENOENT when it was removed.
    pub(super) fn live_device(&self, dir: &SimulatedDir) -> Result<usize, Errno> {
        let inode = self.inode(dir.inode)?;
        if inode.attributes.kind != Kind::Directory {
            return Err(Errno::NOTDIR);
        }
        if self.entries.links(dir.inode) == 0 && !self.is_root(dir.inode) {
            return Err(Errno::NOENT);
        }
        Ok(inode.device)
    }

    pub(super) fn link(
        &mut self,
        source: &SimulatedDir,
        source_name: &OsStr,
        target: &SimulatedDir,
        target_name: &OsStr,
    ) -> Result<(), Errno> {
        let number = self.named(source, source_name)?;
        let inode = self.inode(number)?;
        if inode.attributes.kind == Kind::Directory {
            return Err(Errno::PERM);
        }
        if inode.device != self.inode(target.inode)?.device {
            return Err(Errno::XDEV);
        }
        let device = self.free_name(target, target_name)?;
        self.set_name(device, target, target_name, Some(number));
        let now = self.now();
        self.inode_mut(number)?.attributes.ctime = now;
        Ok(())
    }

    /// A change of the names in a directory shows in its times.
    pub(super) fn touch(&mut self, directory: u64) {
        let now = self.now();
        if let Ok(inode) = self.inode_mut(directory) {
            (inode.attributes.mtime, inode.attributes.ctime) = (now, now);
        }
    }

    pub(super) fn set_name(
        &mut self,
        device: usize,
        dir: &SimulatedDir,
        name: &OsStr,
        inode: Option<u64>,
    ) {
        self.entries.set(device, (dir.inode, name.to_owned()), inode);
        self.touch(dir.inode);
    }

    pub(super) fn options(&self, device: usize) -> DeviceOptions {
        self.devices.get(device).map_or_else(DeviceOptions::default, |device| device.options)
    }

    /// EACCES where the mode of a directory keeps its owner from removing names, and that counts.
    pub(super) fn check_writable(&self, dir: &SimulatedDir) -> Result<(), Errno> {
        let inode = self.inode(dir.inode)?;
        let closed = inode.attributes.mode & 0o300 != 0o300;
        if closed && self.options(inode.device).obeys_modes { Err(Errno::ACCESS) } else { Ok(()) }
    }

    pub(super) fn metadata(&self, number: u64) -> Result<Metadata, Errno> {
        let inode = self.inode(number)?;
        let attributes = &inode.attributes;
        let options = self.options(inode.device);
        let size = match &attributes.kind {
            Kind::Symlink(text) => text.len() as u64,
            _ => inode.content.cached.length,
        };
        Ok(Metadata {
            kind: attributes.kind.clone(),
            mode: attributes.mode,
            uid: attributes.uid,
            gid: attributes.gid,
            nlink: self.nlink(number),
            fixed: false,
            atime: options.kept(attributes.atime),
            identity: Identity {
                handle: handle_of(number),
                size,
                mtime: options.kept(attributes.mtime),
                ctime: options.kept(attributes.ctime),
            },
        })
    }

    /// That a name can be made in a directory; gives its device.
    pub(super) fn free_name(&self, dir: &SimulatedDir, name: &OsStr) -> Result<usize, Errno> {
        let device = self.live_device(dir)?;
        if name.len() > 255 {
            return Err(Errno::NAMETOOLONG);
        }
        match self.entries.get(dir.inode, name) {
            Some(_) => Err(Errno::EXIST),
            None => Ok(device),
        }
    }

    pub(super) fn replace(
        &mut self,
        dir: &SimulatedDir,
        source: &OsStr,
        target: &OsStr,
    ) -> Result<(), Errno> {
        let number = self.named(dir, source)?;
        let there = self.entries.get(dir.inode, target);
        if there.is_some_and(|other| self.is_directory(other)) {
            return Err(Errno::ISDIR);
        }
        if there == Some(number) {
            return Ok(());
        }
        let (device, names) = (self.inode(dir.inode)?.device, self.names_mode);
        let from = (dir.inode, source.to_owned());
        let to = (dir.inode, target.to_owned());
        self.entries.rename(device, names, from, to, number);
        self.touch(dir.inode);
        let now = self.now();
        self.inode_mut(number)?.attributes.ctime = now;
        Ok(())
    }

    pub(super) fn create(
        &mut self,
        dir: &SimulatedDir,
        name: &OsStr,
        kind: Kind,
        mode: u32,
    ) -> Result<u64, Errno> {
        let device = self.free_name(dir, name)?;
        if self.free_inodes(device) == 0 {
            return Err(Errno::NOSPC);
        }
        let number = self.new_inode(device, kind, mode);
        self.set_name(device, dir, name, Some(number));
        Ok(number)
    }
}
