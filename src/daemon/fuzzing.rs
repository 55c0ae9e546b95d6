//! A view over temporary branches, as a mount would have it, for what sends it requests.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crossbeam_channel::Receiver;

use super::assemble::{Assembled, assemble};
use super::{Launch, PANICS};
use crate::control::protocol::Hello;
use crate::control::{NotReloaded, ViewService};
use crate::view::Invalidation;

const CONFIG: &str = r#"
[view]
name = "fuzz"
state = "state"
[branches.in]
path = "in"
exposed = true
[branches.gated]
path = "gated"
mode = "gates-only"
exposed = true
[branches.fixed]
path = "fixed"
mode = "ro"
exposed = true
[branches.disk1]
path = "disk1"
exposed = true
[branches.disk2]
path = "disk2"
exposed = true
[pools.pool]
members = ["disk1", "disk2"]
place = "first"
[gates.submit]
from = "in"
to = "gated"
who = ["*"]
max_size = "1MiB"
[gates.recall]
from = "gated"
to = "in"
who = ["*"]
max_size = "1MiB"
[gates.pooled]
from = "in"
to = "pool"
who = ["*"]
max_size = "1MiB"
[rules.no-scripts]
deny = ["add"]
who = ["*"]
paths = ["/**/*.sh"]
reason = "no scripts"
[audit]
record = "everything"
"#;

/// What the branches hold at first.
const FILES: [(&str, &str); 6] = [
    ("in/file", "text\n"),
    ("in/dir/inner", "inner\n"),
    ("gated/file", "gated\n"),
    ("fixed/file", "fixed\n"),
    ("disk1/dir/one", "one\n"),
    ("disk2/dir/two", "two\n"),
];

/// A folder that is removed with all that is in it.
pub struct Folder(pub PathBuf);

impl Folder {
    /// In memory where there is a file system in memory.
    pub fn new() -> Self {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let memory = Path::new("/dev/shm");
        let base = if memory.is_dir() { memory.to_owned() } else { std::env::temp_dir() };
        let path = base.join(format!("octroi-fuzz-{}-{number}", std::process::id()));
        std::fs::create_dir(&path).expect("a new folder");
        Self(path)
    }
}

impl Default for Folder {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir_all(&self.0) {
            eprintln!("{} is left: {error}", self.0.display());
        }
    }
}

/// A view that serves nobody yet.
pub struct Scene {
    folder: Folder,
    assembled: Assembled,
}

impl Scene {
    /// Makes the branches and what is in them.
    pub fn new() -> Self {
        let folder = Folder::new();
        for (path, text) in FILES {
            let path = folder.0.join(path);
            std::fs::create_dir_all(path.parent().expect("a folder")).expect("made");
            std::fs::write(path, text).expect("written");
        }
        let config = folder.0.join("fuzz.toml");
        std::fs::write(&config, CONFIG).expect("written");
        let state = folder.0.join("state");
        std::fs::create_dir(&state).expect("made");
        let loaded = crate::config::load(&config).expect("a good configuration");
        let launch = Launch {
            config,
            mountpoint: PathBuf::new(),
            options: crate::fuse::MountOptions::default(),
            adopt: Vec::new(),
            nonempty: false,
        };
        let assembled = assemble(&loaded, &launch, &state, &mut Vec::new()).expect("assembled");
        Self { folder, assembled }
    }

    /// The operations.
    pub fn vfs(&self) -> &Arc<crate::vfs::Vfs> {
        &self.assembled.vfs
    }

    /// What the kernel would be told to forget.
    pub fn invalidations(&self) -> &Receiver<Invalidation> {
        &self.assembled.invalidations
    }

    /// Who answers on the control socket. Nothing is mounted, so no descriptor is one of the view's.
    pub fn service(&self) -> ViewService {
        ViewService {
            ledger_max: None,
            ledger_kept: Default::default(),
            hold_keep: std::time::Duration::from_secs(3600),
            vfs: Arc::clone(self.vfs()),
            hello: Hello {
                view: "fuzz".into(),
                mountpoint: self.folder.0.join("in"),
                device: None,
                config: self.folder.0.join("fuzz.toml"),
                pid: std::process::id(),
                uid: 0,
                version: "0".into(),
            },
            state: self.folder.0.join("state"),
            started: jiff::Timestamp::UNIX_EPOCH,
            panics: &PANICS,
            reload: Box::new(|_| Err(NotReloaded::Failed("nothing is mounted".into()))),
        }
    }

    /// Fails if anything beside the branches was made, removed or changed.
    pub fn check_isolation(&self) {
        let names = std::fs::read_dir(&self.folder.0).expect("listed");
        let mut names: Vec<_> = names.map(|entry| entry.expect("listed").file_name()).collect();
        names.sort();
        assert_eq!(names, ["disk1", "disk2", "fixed", "fuzz.toml", "gated", "in", "state"]);
        let config = std::fs::read_to_string(self.folder.0.join("fuzz.toml"));
        assert_eq!(config.expect("read"), CONFIG);
        let fixed = std::fs::read_to_string(self.folder.0.join("fixed/file"));
        assert_eq!(fixed.expect("read"), "fixed\n");
    }
}

impl Default for Scene {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        self.assembled.vfs.shut_down();
        let closed = self.assembled.ledger.close();
        assert!(closed.is_ok() || std::thread::panicking(), "{closed:?}");
    }
}
