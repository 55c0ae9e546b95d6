//! The driver: users, ways to names, and which operation is which call.
//!
//! A call names its directory by a descriptor that is open on it, where there is one (it may have been
//! renamed or removed since), else by its way from the root of the mount.

use std::ffi::{OsStr, OsString};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, Mode, OFlags, StatxFlags};

use crate::branch::{FileKind, RenameFlags, Stat};
use crate::error::{Errno, errno_name};
use crate::harness::{Mount, Scene};
use crate::types::{Placement, Time};
use crate::vfs::AUDIT_NAME;

use super::content::Handle;
use super::layout::{gate_pattern, lay_out, plans};
use super::operation::{Access, FILES_MAX, LISTS_MAX, Op, split, way_to};
use super::stores::Stores;
use super::tree::{Attr, Errors, Id, Model, Verdict};

/// What new files do not give, if nothing says otherwise.
pub(super) const UMASK: u32 = 0o022;

/// An open directory.
pub(super) struct List {
    pub id: Id,
    pub descriptor: OwnedFd,
}

/// A run: the mount, the model, and what is open.
pub(super) struct Run {
    pub model: Model,
    pub backing: Vec<PathBuf>,
    pub files: [Option<Handle>; FILES_MAX],
    pub lists: [Option<List>; LISTS_MAX],
    root: OwnedFd,
    pub mount: Mount,
    /// The domain whose files the kernel reads and writes by itself, if any.
    pub passthrough: Option<usize>,
    pub scene: Scene,
    /// How often a branch went away.
    pub leaves: usize,
    _folders: Vec<tempfile::TempDir>,
}

/// Where a call finds a name.
pub(super) struct Place<'a> {
    pub base: BorrowedFd<'a>,
    pub path: PathBuf,
}

impl Run {
    pub(super) fn new(layout: u64, plant: impl FnOnce(&mut Model, &[PathBuf])) -> Self {
        // A branch is closed to who does not come through the view.
        let closed = std::fs::Permissions::from_mode(0o700);
        let folder =
            |place: &Path| tempfile::Builder::new().permissions(closed.clone()).tempdir_in(place);
        let temporary = folder(&std::env::temp_dir()).expect("a temporary directory");
        let memory = folder(Path::new("/dev/shm")).expect("a folder in memory");
        let (mut model, backing) = lay_out(layout, memory.path(), temporary.path());
        plant(&mut model, &backing);
        let scene = Scene::new();
        // Where one branch is another's neighbour, the kernel serves it.
        let passthrough = (model.domains[1].place.is_none()).then_some(1);
        scene.configure(&configuration(layout, &model, &backing, passthrough));
        let mount = scene.mount();
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = rustix::fs::open(mount.root(), flags, Mode::empty()).expect("the root");
        let (files, lists) = Default::default();
        let _folders = vec![temporary, memory];
        Self { model, backing, files, lists, root, mount, passthrough, scene, leaves: 0, _folders }
    }

    /// Closes everything and unmounts.
    pub(super) fn end(mut self) {
        self.come_back().expect("they are back");
        self.files = Default::default();
        self.lists = Default::default();
        let Self { mount, root, .. } = self;
        drop(root);
        mount.unmount();
    }

    /// Does one operation as somebody. What cannot be done now is left out.
    pub(super) fn step(&mut self, uid: u32, op: &Op) -> Verdict {
        match op {
            Op::Look { at } => self.look(uid, at),
            Op::Mkdir { at, mode, .. } => self.mkdir(uid, at, *mode),
            Op::Mknod { at, kind } => self.mknod(uid, at, *kind),
            Op::Symlink { at, text, .. } => self.symlink(uid, at, text),
            Op::Link { from, to } => self.link(uid, from, to),
            Op::Readlink { at } => self.readlink(uid, at),
            Op::Unlink { at } => self.remove(uid, at, false),
            Op::Rmdir { at } => self.remove(uid, at, true),
            Op::Rename { from, to, flags } => self.rename(uid, from, to, *flags),
            Op::Move { from, to, .. } => self.rename(uid, from, to, RenameFlags::empty()),
            Op::Chmod { at, mode } => self.chmod(uid, at, *mode),
            Op::Chown { at, uid: owner, gid } => self.chown(uid, at, (*owner, *gid)),
            Op::Utimes { at, seconds } => self.utimes(uid, at, *seconds),
            Op::SetXattr { at, key, value, create, replace } => {
                self.set_xattr(uid, at, key, value, (*create, *replace && !*create))
            }
            Op::RemoveXattr { at, key } => self.remove_xattr(uid, at, key),
            Op::GetXattr { at, key } => self.get_xattr(uid, at, key),
            Op::SetAcl { at, default, acl } => self.set_acl(uid, at, *default, *acl),
            Op::List { at, slot } => self.list(uid, at, *slot),
            Op::ListOn { slot, .. } | Op::ListBack { slot, .. } => self.list_open(*slot),
            Op::ListEnd { slot } => {
                self.lists[*slot] = None;
                Ok(())
            }
            Op::Leave { nth } => self.leave(*nth),
            Op::Return => self.come_back(),
            // Of the library's driver alone: what the kernel, others and time do.
            Op::Undo { .. }
            | Op::Space { .. }
            | Op::Forget { .. }
            | Op::Plant { .. }
            | Op::Purge
            | Op::Refresh => Ok(()),
            op => self.on_file(uid, op),
        }
    }

    pub(super) fn stores(&self) -> Stores<'_> {
        Stores { model: &self.model, backing: &self.backing }
    }

    pub(super) fn settle(&mut self, parent: Id) {
        self.model.settle(&self.backing, parent);
    }

    /// Acts as somebody who is in one group, of the same number.
    pub(super) fn by<T>(&self, uid: u32, act: impl FnOnce() -> T) -> T {
        let guard = octroi::sys::identity::CallerGuard::assume(uid, uid, &[], UMASK);
        let guard = guard.expect("root acts as anybody");
        let result = act();
        drop(guard);
        result
    }

    /// Compares a result with what the model allows. What succeeded and may succeed comes back.
    pub(super) fn judge<T>(
        &self,
        what: &str,
        errors: &Errors,
        result: Result<T, Errno>,
    ) -> Verdict<Option<T>> {
        let names = || errors.iter().map(|errno| errno_name(*errno)).collect::<Vec<_>>();
        match result {
            Ok(value) if errors.is_empty() => Ok(Some(value)),
            Ok(_) => Err(format!("{what} succeeded; the model expects one of {:?}", names())),
            Err(errno) if errors.contains(&errno) => Ok(None),
            Err(errno) => {
                let errno = errno_name(errno);
                Err(format!("{what} gave {errno}; the model expects one of {:?}", names()))
            }
        }
    }

    /// The directory and name of a way, if there is such a directory. The names that the view keeps for
    /// itself are left to tests of their own.
    pub(super) fn spot<'a>(&self, way: &'a [OsString]) -> Option<(Id, &'a OsStr)> {
        let (folder, name) = split(way);
        let model = &self.model;
        let parent = folder.iter().try_fold(model.root, |here, name| model.child(here, name))?;
        let own = (parent == model.root && name == AUDIT_NAME) || self.is_beside(parent, name);
        (model.directory(parent).is_some() && !own).then_some((parent, name))
    }

    /// What a way leads to, with its directory and name.
    pub(super) fn found<'a>(&self, way: &'a [OsString]) -> Option<(Id, &'a OsStr, Id)> {
        let (parent, name) = self.spot(way)?;
        Some((parent, name, self.model.child(parent, name)?))
    }

    pub(super) fn place(&self, parent: Id, name: &OsStr) -> Place<'_> {
        let open = self.lists.iter().flatten().find(|list| list.id == parent);
        if let Some(list) = open {
            return Place { base: list.descriptor.as_fd(), path: name.into() };
        }
        let way = way_to(&self.model, parent);
        let path = way.iter().map(OsString::as_os_str).chain([name]).collect();
        Place { base: self.root.as_fd(), path }
    }

    /// The path of a name, for calls that take no descriptor.
    pub(super) fn path(&self, parent: Id, name: &OsStr) -> PathBuf {
        let way = way_to(&self.model, parent);
        self.mount.root().join(way.iter().collect::<PathBuf>()).join(name)
    }

    pub(super) fn attr(&self, id: Id) -> Attr {
        let nobodys = Attr { mode: 0o755, ..Attr::default() };
        self.model.attr(id).cloned().unwrap_or(nobodys)
    }

    pub(super) fn allows(&self, id: Id, uid: u32, wanted: u32) -> bool {
        self.attr(id).allows(uid, wanted)
    }

    /// EACCES for who may not search a directory on the way. `by_path` where no descriptor is used.
    pub(super) fn search_errors(&self, parent: Id, uid: u32, by_path: bool) -> Errors {
        let open = !by_path && self.lists.iter().flatten().any(|list| list.id == parent);
        let way = if open { vec![parent] } else { self.model.ancestors(parent) };
        let closed = way.iter().any(|id| !self.allows(*id, uid, 0o1));
        let mut errors = self.offline_errors(&way);
        errors.extend(closed.then_some(Errno::ACCESS));
        errors
    }

    /// Why somebody may not take a name away (may_delete in the kernel's fs/namei.c).
    pub(super) fn delete_errors(&self, parent: Id, name: &OsStr, uid: u32) -> Errors {
        let mut errors = self.search_errors(parent, uid, false);
        if !self.allows(parent, uid, 0o3) {
            errors.push(Errno::ACCESS);
        }
        let folder = self.attr(parent);
        if let Some(child) = self.model.child(parent, name)
            && folder.mode & 0o1000 != 0
            && uid != 0
            && ![folder.uid, self.attr(child).uid].contains(&uid)
        {
            errors.push(Errno::PERM);
        }
        errors
    }

    pub(super) fn owns(&self, id: Id, uid: u32) -> bool {
        uid == 0 || self.attr(id).uid == uid
    }

    /// Whether a user may make names in a directory on all of its stores, or on none.
    pub(super) fn is_even(&self, parent: Id, uid: u32) -> bool {
        let mut may = self.model.object(parent).on.values().map(|attr| attr.allows(uid, 0o3));
        let first = may.next();
        may.all(|other| Some(other) == first)
    }

    /// Compares what stat(2) says of a name with the model.
    pub(super) fn check(&self, parent: Id, name: &OsStr, id: Id) -> Verdict {
        let Place { base, path } = self.place(parent, name);
        let stat = stat_at(base, &path, AtFlags::SYMLINK_NOFOLLOW)
            .map_err(|errno| format!("stat of {name:?}: {}", errno_name(errno)))?;
        self.model.check_stat(id, &stat)
    }

    fn look(&mut self, uid: u32, at: &[OsString]) -> Verdict {
        self.check_removed()?;
        let Some((parent, name)) = self.spot(at) else { return Ok(()) };
        let mut errors = self.search_errors(parent, uid, false);
        let child = self.model.child(parent, name);
        if child.is_none() {
            errors.extend([Errno::NOENT, Errno::NAMETOOLONG]);
        }
        let Place { base, path } = self.place(parent, name);
        let result = self.by(uid, || stat_at(base, &path, AtFlags::SYMLINK_NOFOLLOW));
        match (self.judge("stat", &errors, result)?, child) {
            (Some(stat), Some(id)) => self.model.check_stat(id, &stat),
            _ => Ok(()),
        }
    }

    /// Directories that are open and were removed take nothing new.
    fn check_removed(&self) -> Verdict {
        let removed = self.lists.iter().flatten().filter(|list| self.model.is_gone(list.id));
        for list in removed {
            let made = rustix::fs::mkdirat(&list.descriptor, "new", Mode::RWXU);
            // Which of the two depends on whether it was removed or its crossing gave it up.
            if !matches!(made, Err(Errno::NOENT | Errno::STALE)) {
                return Err(format!("mkdir in a directory that was removed gave {made:?}"));
            }
        }
        Ok(())
    }
}

/// statx(2) as the model has it.
pub(super) fn stat_at(base: BorrowedFd<'_>, path: &Path, flags: AtFlags) -> Result<Stat, Errno> {
    let found = rustix::fs::statx(base, path, flags, StatxFlags::BASIC_STATS)?;
    let mode = u32::from(found.stx_mode);
    let kind = match mode & libc::S_IFMT {
        libc::S_IFDIR => FileKind::Directory,
        libc::S_IFLNK => FileKind::Symlink,
        libc::S_IFIFO => FileKind::Fifo,
        libc::S_IFSOCK => FileKind::Socket,
        libc::S_IFCHR => FileKind::CharacterDevice,
        libc::S_IFBLK => FileKind::BlockDevice,
        _ => FileKind::File,
    };
    let time =
        |time: rustix::fs::StatxTimestamp| Time { seconds: time.tv_sec, nanos: time.tv_nsec };
    Ok(Stat {
        device: rustix::fs::makedev(found.stx_dev_major, found.stx_dev_minor),
        inode: found.stx_ino,
        kind,
        mode: mode & 0o7777,
        nlink: found.stx_nlink,
        uid: found.stx_uid,
        gid: found.stx_gid,
        rdev: rustix::fs::makedev(found.stx_rdev_major, found.stx_rdev_minor),
        size: if kind == FileKind::Directory { 0 } else { found.stx_size },
        blocks: found.stx_blocks,
        block_size: found.stx_blksize,
        atime: time(found.stx_atime),
        mtime: time(found.stx_mtime),
        ctime: time(found.stx_ctime),
        btime: time(found.stx_btime),
    })
}

pub(super) fn flags(access: Access) -> OFlags {
    // Else the daemons of other tests inherit it.
    OFlags::CLOEXEC
        | match access {
            Access::Read => OFlags::RDONLY,
            Access::Write => OFlags::WRONLY,
            Access::Both => OFlags::RDWR,
            Access::Append => OFlags::WRONLY | OFlags::APPEND,
        }
}

/// The configuration of a layout.
fn configuration(
    layout: u64,
    model: &Model,
    backing: &[PathBuf],
    passthrough: Option<usize>,
) -> String {
    let mut text = String::new();
    let mut names = Vec::new();
    for (at, (plan, domain)) in plans(layout).iter().zip(&model.domains).enumerate() {
        let mode = match plan.mode {
            crate::types::BranchMode::Rw => "rw",
            crate::types::BranchMode::Ro => "ro",
            crate::types::BranchMode::GatesOnly => "gates-only",
        };
        let place = format!("at = {:?}\nmode = {mode:?}\n", plan.at);
        let own = if plan.place.is_none() { place.as_str() } else { "" };
        let io = if passthrough == Some(at) { "io = \"passthrough\"\n" } else { "" };
        for store in &domain.stores {
            let path = backing[*store].display();
            text += &format!(
                "[branches.store{store}]\npath = \"{path}\"\nmin_free = \"0B\"\n{own}{io}"
            );
        }
        let members: Vec<String> = domain.stores.iter().map(|at| format!("store{at}")).collect();
        let kind = match plan.place {
            None => {
                names.push(members[0].clone());
                continue;
            }
            Some(Placement::MostFree) => "most-free",
            Some(Placement::First) => "first",
            Some(Placement::SameDirectory) => "same-directory",
        };
        text += &format!("[pools.pool{at}]\nmembers = {members:?}\nplace = {kind:?}\n{place}");
        names.push(format!("pool{at}"));
    }
    for gate in &model.gates {
        let (from, to) = (&names[gate.from], &names[gate.to]);
        let pattern = gate_pattern(gate);
        text += &format!(
            "[gates.from-{from}-to-{to}]\nfrom = {from:?}\nto = {to:?}\nwho = [\"*\"]\n\
             paths = [{pattern:?}]\n"
        );
        if gate.text_only {
            text += "types = [\"text/plain\"]\n";
        }
        if let Some(max) = gate.max_size {
            text += &format!("max_size = \"{max}B\"\n");
        }
    }
    text
}
