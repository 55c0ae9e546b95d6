//! The steps: each checks the planned faults, then does its work at once.

use super::super::FileSystem;
use super::*;

impl Storage for SimulatedStorage {
    type Dir = SimulatedDir;
    type File = SimulatedFile;
    type Lease = SimulatedLease;

    fn open_dir(&self, dir: &SimulatedDir, path: &Path) -> Result<SimulatedDir, Errno> {
        let state = self.step("open_dir", path.as_os_str())?;
        let mut inode = dir.inode;
        for component in path.components() {
            let Component::Normal(name) = component else { return Err(Errno::INVAL) };
            inode = state.entries.get(inode, name).ok_or(Errno::NOENT)?;
            match state.inode(inode)?.attributes.kind {
                Kind::Directory => {}
                Kind::Symlink(_) => return Err(Errno::LOOP),
                _ => return Err(Errno::NOTDIR),
            }
        }
        Ok(SimulatedDir { inode })
    }

    fn create_dir(&self, dir: &SimulatedDir, name: &OsStr) -> Result<(), Errno> {
        let mut state = self.step("create_dir", name)?;
        state.create(dir, name, Kind::Directory, 0o700).map(|_| ())
    }

    fn remove_dir(&self, dir: &SimulatedDir, name: &OsStr) -> Result<(), Errno> {
        let mut state = self.step("remove_dir", name)?;
        let number = state.named(dir, name)?;
        let inode = state.inode(number)?;
        let device = inode.device;
        state.check_writable(dir)?;
        if inode.attributes.kind != Kind::Directory {
            return Err(Errno::NOTDIR);
        }
        if !state.entries.list(number).is_empty() {
            return Err(Errno::NOTEMPTY);
        }
        state.set_name(device, dir, name, None);
        Ok(())
    }

    fn list(&self, dir: &SimulatedDir) -> Result<Vec<OsString>, Errno> {
        let state = self.step("list", OsStr::new(""))?;
        state.live_device(dir)?;
        Ok(state.entries.list(dir.inode))
    }

    fn create_file(&self, dir: &SimulatedDir, name: &OsStr) -> Result<SimulatedFile, Errno> {
        let mut state = self.step("create_file", name)?;
        let inode = state.create(dir, name, Kind::File, 0o600)?;
        Ok(SimulatedFile { inode, writable: true, direct: false })
    }

    fn create_special(&self, dir: &SimulatedDir, name: &OsStr, kind: &Kind) -> Result<(), Errno> {
        let mut state = self.step("create_special", name)?;
        let mode = match kind {
            Kind::File | Kind::Directory => return Err(Errno::INVAL),
            Kind::Symlink(_) => 0o777,
            _ => 0o600,
        };
        state.create(dir, name, kind.clone(), mode).map(|_| ())
    }

    fn open_read(&self, dir: &SimulatedDir, name: &OsStr) -> Result<SimulatedFile, Errno> {
        self.open("open_read", dir, name, false)
    }

    fn open_write(&self, dir: &SimulatedDir, name: &OsStr) -> Result<SimulatedFile, Errno> {
        self.open("open_write", dir, name, true)
    }

    fn open_readback(
        &self,
        dir: &SimulatedDir,
        name: &OsStr,
    ) -> Result<(SimulatedFile, Readback), Errno> {
        let file = self.open("open_readback", dir, name, false)?;
        let state = self.state.lock();
        let inode = state.inode(file.inode)?;
        // Without a way past it only what is clean leaves the cache.
        let from_disk = state.options(inode.device).direct || inode.content.is_durable();
        let readback = if from_disk { Readback::Disk } else { Readback::Cached };
        Ok((SimulatedFile { direct: true, ..file }, readback))
    }

    fn read_at(
        &self,
        file: &SimulatedFile,
        buffer: &mut [u8],
        offset: u64,
    ) -> Result<usize, Errno> {
        let mut state = self.step("read_at", OsStr::new(""))?;
        file.check_aligned(buffer.len(), offset)?;
        let inode = state.inode(file.inode)?;
        let options = state.options(inode.device);
        let mut length = buffer.len().min(options.read_max);
        if state.short && length > 1 {
            let whole = if file.direct { ALIGNMENT } else { 1 };
            length = (length / 2).next_multiple_of(whole);
        }
        let read = inode.content.cached.read(&mut buffer[..length], offset);
        if let Some(byte) = buffer[..read].last_mut().filter(|_| file.direct && options.rots) {
            *byte ^= 1;
        }
        if options.strict_atime {
            let now = state.now();
            state.inode_mut(file.inode)?.attributes.atime = options.kept(now);
        }
        Ok(read)
    }

    fn write_at(&self, file: &SimulatedFile, bytes: &[u8], offset: u64) -> Result<(), Errno> {
        let mut state = self.step("write_at", OsStr::new(""))?;
        file.check_aligned(bytes.len(), offset)?;
        if !file.writable {
            return Err(Errno::BADF);
        }
        let inode = state.inode(file.inode)?;
        let added = inode.content.cached.bytes_to_add(bytes.len(), offset);
        if added > state.free(inode.device) {
            return Err(Errno::NOSPC);
        }
        let now = state.now();
        let short = state.short;
        let bytes = if short { &bytes[..bytes.len() / 2] } else { bytes };
        let inode = state.inode_mut(file.inode)?;
        inode.content.write(bytes, offset);
        (inode.attributes.mtime, inode.attributes.ctime) = (now, now);
        if short { Err(Errno::NOSPC) } else { Ok(()) }
    }

    fn set_len(&self, file: &SimulatedFile, length: u64) -> Result<(), Errno> {
        let mut state = self.step("set_len", OsStr::new(""))?;
        if !file.writable {
            return Err(Errno::INVAL);
        }
        let now = state.now();
        let inode = state.inode_mut(file.inode)?;
        inode.content.set_length(length);
        (inode.attributes.mtime, inode.attributes.ctime) = (now, now);
        Ok(())
    }

    fn next_data(&self, file: &SimulatedFile, offset: u64) -> Result<Option<Range<u64>>, Errno> {
        let state = self.step("next_data", OsStr::new(""))?;
        Ok(state.inode(file.inode)?.content.cached.next_data(offset))
    }

    fn reserve(&self, file: &SimulatedFile, length: u64) -> Result<(), Errno> {
        let state = self.step("reserve", OsStr::new(""))?;
        let inode = state.inode(file.inode)?;
        let wanted = length.saturating_sub(inode.content.cached.disk_bytes());
        if wanted > state.free(inode.device) { Err(Errno::NOSPC) } else { Ok(()) }
    }

    fn lease(&self, file: &SimulatedFile) -> Result<Option<SimulatedLease>, Errno> {
        let state = self.step("lease", OsStr::new(""))?;
        let inode = state.inode(file.inode)?;
        if !state.options(inode.device).leases {
            return Ok(None);
        }
        if inode.writers > 0 {
            return Err(Errno::AGAIN);
        }
        Ok(Some(SimulatedLease { inode: file.inode, breaks: inode.lease_breaks }))
    }

    fn lease_holds(&self, lease: &SimulatedLease) -> bool {
        let state = self.state.lock();
        state.inodes.get(&lease.inode).is_some_and(|inode| inode.lease_breaks == lease.breaks)
    }

    fn stat_file(&self, file: &SimulatedFile) -> Result<Metadata, Errno> {
        self.step("stat_file", OsStr::new(""))?.metadata(file.inode)
    }

    fn sync_file(&self, file: &SimulatedFile) -> Result<(), Errno> {
        let mut state = self.step_or("sync_file", OsStr::new(""), |state, random| {
            if let Some(inode) = state.inodes.get_mut(&file.inode) {
                Arc::make_mut(inode).content.fail_sync(random);
            }
        })?;
        let names = state.names_mode;
        let inode = state.inode_mut(file.inode)?;
        inode.sync();
        let device = inode.device;
        if names == Names::Journal {
            state.entries.sync(device, names, None);
        }
        Ok(())
    }

    fn sync_dir(&self, dir: &SimulatedDir) -> Result<(), Errno> {
        let mut state = self.step_or("sync_dir", OsStr::new(""), |state, _| {
            state.entries.fail_sync(dir.inode);
        })?;
        let names = state.names_mode;
        let inode = state.inode_mut(dir.inode)?;
        inode.durable = inode.attributes.clone();
        let device = inode.device;
        state.entries.sync(device, names, Some(dir.inode));
        Ok(())
    }

    fn dir_handle(&self, dir: &SimulatedDir) -> Result<Handle, Errno> {
        let state = self.step("dir_handle", OsStr::new(""))?;
        state.inode(dir.inode)?;
        Ok(handle_of(dir.inode))
    }

    fn stat(&self, dir: &SimulatedDir, name: &OsStr) -> Result<Option<Metadata>, Errno> {
        let state = self.step("stat", name)?;
        if state.inode(dir.inode)?.attributes.kind != Kind::Directory {
            return Err(Errno::NOTDIR);
        }
        match state.entries.get(dir.inode, name) {
            None => Ok(None),
            Some(number) => state.metadata(number).map(Some),
        }
    }

    fn rename(
        &self,
        source: &SimulatedDir,
        source_name: &OsStr,
        target: &SimulatedDir,
        target_name: &OsStr,
    ) -> Result<(), Errno> {
        let mut state = self.step("rename", target_name)?;
        let number = state.named(source, source_name)?;
        if state.inode(source.inode)?.device != state.inode(target.inode)?.device {
            return Err(Errno::XDEV);
        }
        let is_directory = state.is_directory(number);
        if is_directory && state.entries.is_within(target.inode, number) {
            return Err(Errno::INVAL);
        }
        let device = state.free_name(target, target_name)?;
        let names = state.names_mode;
        let from = (source.inode, source_name.to_owned());
        let to = (target.inode, target_name.to_owned());
        if is_directory {
            state.entries.rename_directory(device, from, to, number);
        } else {
            state.entries.rename(device, names, from, to, number);
        }
        state.touch(source.inode);
        state.touch(target.inode);
        let now = state.now();
        state.inode_mut(number)?.attributes.ctime = now;
        Ok(())
    }

    fn replace(&self, dir: &SimulatedDir, source: &OsStr, target: &OsStr) -> Result<(), Errno> {
        self.step("replace", target)?.replace(dir, source, target)
    }

    fn link(
        &self,
        source: &SimulatedDir,
        source_name: &OsStr,
        target: &SimulatedDir,
        target_name: &OsStr,
    ) -> Result<(), Errno> {
        self.step("link", target_name)?.link(source, source_name, target, target_name)
    }

    fn unlink(&self, dir: &SimulatedDir, name: &OsStr) -> Result<(), Errno> {
        let mut state = self.step("unlink", name)?;
        let number = state.named(dir, name)?;
        state.check_writable(dir)?;
        let now = state.now();
        let inode = state.inode_mut(number)?;
        if inode.attributes.kind == Kind::Directory {
            let device = inode.device;
            let posix = state.options(device).posix_unlink;
            return Err(if posix { Errno::PERM } else { Errno::ISDIR });
        }
        inode.attributes.ctime = now;
        let device = inode.device;
        state.set_name(device, dir, name, None);
        Ok(())
    }

    fn set_owner(&self, dir: &SimulatedDir, name: &OsStr, uid: u32, gid: u32) -> Result<(), Errno> {
        self.change("set_owner", dir, name, |attributes, _| {
            (attributes.uid, attributes.gid) = (uid, gid);
            if attributes.kind == Kind::File {
                attributes.mode &= 0o1777;
                attributes.xattrs.remove(OsStr::new("security.capability"));
            }
            Ok(())
        })
    }

    fn set_mode(&self, dir: &SimulatedDir, name: &OsStr, mode: u32) -> Result<(), Errno> {
        self.change("set_mode", dir, name, |attributes, _| {
            if matches!(attributes.kind, Kind::Symlink(_)) {
                return Err(Errno::OPNOTSUPP);
            }
            attributes.mode = mode & 0o7777;
            Ok(())
        })
    }

    fn set_times(
        &self,
        dir: &SimulatedDir,
        name: &OsStr,
        atime: Time,
        mtime: Time,
    ) -> Result<(), Errno> {
        self.change("set_times", dir, name, |attributes, options| {
            (attributes.atime, attributes.mtime) = (options.kept(atime), options.kept(mtime));
            Ok(())
        })
    }

    fn set_attributes(&self, file: &SimulatedFile, wanted: &Metadata) -> Result<(), Errno> {
        let mut state = self.step("set_attributes", OsStr::new(""))?;
        let options = state.options(state.inode(file.inode)?.device);
        let now = state.now();
        let attributes = &mut state.inode_mut(file.inode)?.attributes;
        attributes.xattrs.remove(OsStr::new("security.capability"));
        (attributes.uid, attributes.gid) = (wanted.uid, wanted.gid);
        attributes.mode = wanted.mode & 0o7777;
        attributes.atime = options.kept(wanted.atime);
        attributes.mtime = options.kept(wanted.identity.mtime);
        attributes.ctime = now;
        Ok(())
    }

    fn xattrs(&self, dir: &SimulatedDir, name: &OsStr) -> Result<Xattrs, Errno> {
        let state = self.step("xattrs", name)?;
        let xattrs = &state.inode(state.named(dir, name)?)?.attributes.xattrs;
        Ok(xattrs.iter().map(|(key, value)| (key.clone(), value.clone())).collect())
    }

    fn set_xattr(
        &self,
        dir: &SimulatedDir,
        name: &OsStr,
        key: &OsStr,
        value: &[u8],
    ) -> Result<(), Errno> {
        self.change("set_xattr", dir, name, |attributes, options| {
            if !options.xattrs {
                return Err(Errno::OPNOTSUPP);
            }
            attributes.xattrs.insert(key.to_owned(), value.to_owned());
            Ok(())
        })
    }

    fn sync_special(&self, dir: &SimulatedDir, name: &OsStr) -> Result<(), Errno> {
        let mut state = self.step("sync_special", name)?;
        let number = state.named(dir, name)?;
        let names = state.names_mode;
        let inode = state.inode_mut(number)?;
        inode.durable = inode.attributes.clone();
        let device = inode.device;
        if names == Names::Journal {
            state.entries.sync(device, names, None);
        }
        Ok(())
    }

    fn sync_file_system(&self, dir: &SimulatedDir) -> Result<(), Errno> {
        let mut state = self.step_or("sync_file_system", OsStr::new(""), |state, random| {
            let Some(device) = state.inodes.get(&dir.inode).map(|inode| inode.device) else {
                return;
            };
            for inode in state.inodes.values_mut().filter(|inode| inode.device == device) {
                Arc::make_mut(inode).content.fail_sync(random);
            }
            state.entries.fail_sync_device(device);
        })?;
        let device = state.inode(dir.inode)?.device;
        if !state.options(device).syncs_whole {
            return Ok(());
        }
        for inode in state.inodes.values_mut().filter(|inode| inode.device == device) {
            Arc::make_mut(inode).sync();
        }
        state.entries.sync_device(device);
        Ok(())
    }

    fn syncs_whole(&self, dir: &SimulatedDir) -> Result<bool, Errno> {
        let state = self.step("syncs_whole", OsStr::new(""))?;
        Ok(state.options(state.inode(dir.inode)?.device).syncs_whole)
    }

    fn free_space(&self, dir: &SimulatedDir) -> Result<u64, Errno> {
        let state = self.step("free_space", OsStr::new(""))?;
        Ok(state.free(state.inode(dir.inode)?.device))
    }

    fn file_system(&self, dir: &SimulatedDir) -> Result<FileSystem, Errno> {
        let state = self.step("file_system", OsStr::new(""))?;
        let device = state.inode(dir.inode)?.device;
        Ok(FileSystem { device: device as u64, size: state.options(device).capacity })
    }

    fn disk_bytes(&self, dir: &SimulatedDir, name: &OsStr) -> Result<u64, Errno> {
        let state = self.step("disk_bytes", name)?;
        let Some(number) = state.entries.get(dir.inode, name) else { return Ok(0) };
        let bytes = state.inode(number)?.content.cached.disk_bytes();
        Ok(bytes / state.entries.links(number).max(1))
    }

    fn free_inodes(&self, dir: &SimulatedDir) -> Result<u64, Errno> {
        let state = self.step("free_inodes", OsStr::new(""))?;
        Ok(state.free_inodes(state.inode(dir.inode)?.device))
    }

    fn is_read_only(&self, dir: &SimulatedDir) -> Result<bool, Errno> {
        let state = self.step("is_read_only", OsStr::new(""))?;
        Ok(state.options(state.inode(dir.inode)?.device).read_only)
    }

    fn open_direct(&self, file: &SimulatedFile) -> Result<Option<SimulatedFile>, Errno> {
        let state = self.step("open_direct", OsStr::new(""))?;
        let direct = state.options(state.inode(file.inode)?.device).direct;
        Ok(direct.then_some(SimulatedFile { direct, ..*file }))
    }
}
