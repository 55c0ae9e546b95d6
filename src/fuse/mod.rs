//! The transport between the kernel and `vfs`, by the fuser crate, which nothing else names.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::Receiver;
use fuser::{BackgroundSession, Config, INodeNo, MountOption, Notifier, Session, SessionACL};

use crate::sys::schedule::{Slice, set_slice};
use crate::vfs::Vfs;
use crate::view::Invalidation;

mod adapter;
mod backing;
mod convert;
#[cfg(any(test, fuzzing))]
pub mod fuzzing;
mod lanes;
mod mount;
mod negotiate;
mod noise;
mod pool;
mod reply;
mod serve;
#[cfg(test)]
mod tests;

pub use noise::is_noise;

/// Threads that read requests.
const WORKERS: usize = 8;

/// How long requests that were read may take after the mount is gone.
const DRAIN_MAX: Duration = Duration::from_secs(5);
/// How often it is looked whether they are done.
const DRAIN_POLL: Duration = Duration::from_millis(5);

/// How to mount; all false is the default.
#[derive(Debug, Clone, Default)]
pub struct MountOptions {
    /// Other users than the mounting one may enter.
    pub allow_other: bool,
    /// Nothing may be changed through the mount.
    pub read_only: bool,
    /// Device nodes work.
    pub devices: bool,
    /// Set-id bits and capabilities of programs work.
    pub set_id: bool,
    /// Programs cannot be run.
    pub no_exec: bool,
    /// Times of last read are not kept.
    pub no_atime: bool,
}

impl MountOptions {
    fn config(&self, view: &str) -> Config {
        let mut config = Config::default();
        config.mount_options = vec![
            MountOption::FSName(format!("octroi:{view}")),
            MountOption::Subtype("octroi".into()),
            MountOption::DefaultPermissions,
            if self.devices { MountOption::Dev } else { MountOption::NoDev },
            if self.set_id { MountOption::Suid } else { MountOption::NoSuid },
        ];
        let optional = [
            (self.read_only, MountOption::RO),
            (self.no_exec, MountOption::NoExec),
            (self.no_atime, MountOption::NoAtime),
        ];
        config
            .mount_options
            .extend(optional.into_iter().filter_map(|(on, option)| on.then_some(option)));
        config.acl = if self.allow_other { SessionACL::All } else { SessionACL::Owner };
        config.n_threads = Some(WORKERS);
        config.clone_fd = true;
        config
    }
}

/// A mounted view. It serves until it is unmounted.
pub struct Mounted {
    session: BackgroundSession,
    lanes: Arc<lanes::Lanes>,
}

impl Mounted {
    /// Mounts a view and begins to serve.
    pub fn new(
        vfs: Arc<Vfs>,
        invalidations: Receiver<Invalidation>,
        mountpoint: &Path,
        options: &MountOptions,
    ) -> io::Result<Self> {
        let config = options.config(&vfs.name);
        let name = vfs.name.clone();
        let adapter = serve::Adapter::new(vfs, WORKERS)?;
        let lanes = Arc::clone(&adapter.lanes);
        if !rustix::process::geteuid().is_root() {
            // Unmounts by itself when it is dropped.
            return Self::serve(Session::new(adapter, mountpoint, &config)?, invalidations, lanes);
        }
        let device = mount::mount_as_root(&name, mountpoint, options)?;
        Session::from_fd(adapter, device, config.acl, config)
            .and_then(|session| Self::serve(session, invalidations, lanes))
            .inspect_err(|_| detach(mountpoint))
    }

    fn serve(
        session: Session<serve::Adapter>,
        invalidations: Receiver<Invalidation>,
        lanes: Arc<lanes::Lanes>,
    ) -> io::Result<Self> {
        let notifier = session.notifier();
        // Ends when the view is dropped.
        std::thread::Builder::new()
            .name("forget".into())
            .spawn(move || forget_all(&notifier, &invalidations))?;
        // For the threads that it starts.
        set_slice(Slice::Short);
        let session = session.spawn();
        set_slice(Slice::Usual);
        Ok(Self { session: session?, lanes })
    }

    /// Serves until the mount is gone, by umount(8) or `fusermount3 -u`, and what was read is done; but
    /// what a branch that hangs holds is waited for no longer than [`DRAIN_MAX`].
    pub fn wait(self) -> io::Result<()> {
        let ended = self.session.join();
        let begun = Instant::now();
        while !self.lanes.are_idle() && begun.elapsed() < DRAIN_MAX {
            std::thread::sleep(DRAIN_POLL);
        }
        ended
    }
}

/// Takes a mount away that nobody will serve.
fn detach(mountpoint: &Path) {
    if let Err(errno) = rustix::mount::unmount(mountpoint, rustix::mount::UnmountFlags::DETACH) {
        log::error!("cannot unmount {}: {errno}", mountpoint.display());
    }
}

/// Tells the kernel what it must forget. Never on a request's own thread: the kernel may hold the
/// directory's lock for the request, and would wait for itself.
fn forget_all(notifier: &Notifier, invalidations: &Receiver<Invalidation>) {
    for what in invalidations {
        let told = match &what {
            Invalidation::Entry { parent, name } => notifier.inval_entry(INodeNo(*parent), name),
            Invalidation::Inode { number } => notifier.inval_inode(INodeNo(*number), 0, 0),
        };
        match told {
            // It did not know it in the first place.
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => {}
            Err(error) => log::debug!("the kernel would not forget {what:?}: {error}"),
            Ok(()) => {}
        }
    }
}
