//! What keeps a gate's command in is said several times over. Here each of these layers must hold by itself:
//! for each an attack succeeds without any, and fails where that one alone is left.
//!
//! Not a part of `it`: the helper that shuts commands in must have one thread, and is this program again.

#![allow(clippy::expect_used, clippy::panic, clippy::print_stdout, reason = "a test")]

use std::fs::{self, File};
use std::net::TcpListener;
use std::os::fd::AsFd as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::time::Duration;

use octroi::check::sandbox::{self, Layer};
use octroi::check::{About, HELPER, Outcome, Runner};
use octroi::types::{Check, CheckInput, ViewPath};

fn main() {
    if std::env::args().nth(1).as_deref() == Some(HELPER) {
        // Its file is called by the layers that are left.
        let name = std::env::current_exe().expect("this program").display().to_string();
        let layers = Layer::ALL.into_iter().filter(|layer| name.contains(&format!("{layer:?};")));
        std::process::exit(sandbox::run_by(&layers.collect::<Vec<_>>()));
    }
    let found = each_layer_holds_by_itself();
    println!("layers: {found} attacks, each of which one layer alone keeps out");
}

/// What is attacked.
struct Scene {
    folder: tempfile::TempDir,
    listener: TcpListener,
}

impl Scene {
    /// A folder where anybody may read and write, and a port where somebody listens.
    fn new() -> Self {
        // Not below /tmp, which commands have: without a root of their own that is everybody's.
        let folder = tempfile::Builder::new().prefix("octroi-layers-").tempdir_in("/var/tmp");
        let folder = folder.expect("a folder");
        let open = |path: &Path, mode| {
            fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("chmod");
        };
        open(folder.path(), 0o777);
        let secret = folder.path().join("secret");
        fs::write(&secret, "secret").expect("a file");
        open(&secret, 0o666);
        fs::write(folder.path().join("content"), "content").expect("a file");
        Self { folder, listener: TcpListener::bind("127.0.0.1:0").expect("a port") }
    }

    /// Whether an attack succeeds.
    fn attack(&self, attack: &Attack, layers: &[Layer]) -> bool {
        let left: String = layers.iter().map(|layer| format!("{layer:?};")).collect();
        let helper = self.folder.path().join(left + "helper");
        let this = std::env::current_exe().expect("this program");
        let linked = fs::hard_link(&this, &helper);
        linked.or_else(|_| fs::copy(&this, &helper).map(drop)).expect("a copy of this program");
        let port = self.listener.local_addr().expect("an address").port();
        let script = attack.script.replace("FOLDER", &self.folder.path().display().to_string());
        let script = script.replace("PORT", &port.to_string());
        let script = format!("{script} && echo it succeeded || {{ echo it failed; exit 9; }}");
        let read = if attack.is_shown { vec![self.folder.path().to_owned()] } else { Vec::new() };
        let check = Check {
            run: ["/bin/bash", "-c", &script].map(str::to_owned).to_vec(),
            input: CheckInput::Stdin,
            timeout: Duration::from_secs(60),
            memory: 256 << 20,
            read,
        };
        let file = File::open(self.folder.path().join("content")).expect("the content");
        let path = ViewPath::root();
        let about = About { gate: "submit", source: &path, target: &path };
        let verdict = Runner::new(helper, Vec::new()).run(&check, file.as_fd(), &about, &|| false);
        match (verdict.outcome, verdict.last_line.as_deref()) {
            (Outcome::Passed, Some("it succeeded")) => true,
            (Outcome::Exit(9), Some("it failed")) => false,
            ended => panic!("{}: {layers:?}: {ended:?}", attack.name),
        }
    }
}

struct Attack {
    name: &'static str,
    /// The folder is among what the command may read.
    is_shown: bool,
    script: &'static str,
    /// Each of these alone keeps it out.
    holds: &'static [Layer],
    /// What it takes for the attack to have anything to attack.
    with: &'static [Layer],
}

const PYTHON: [(&str, &str); 4] = [
    ("a socket", "assert c.socket(1, 1, 0) >= 0"),
    ("memory without a path", "assert c.memfd_create(b\"x\", 0) >= 0"),
    ("a user namespace", "assert c.unshare(0x10000000) == 0"),
    ("tracing", "assert c.ptrace(0, 0, 0, 0) == 0"),
];

const ATTACKS: [Attack; 6] = [
    Attack {
        name: "reading what anybody may read",
        is_shown: false,
        script: "[ \"$(cat FOLDER/secret 2>/dev/null)\" = secret ]",
        holds: &[Layer::Mounts, Layer::Landlock],
        with: &[],
    },
    Attack {
        name: "listing what anybody may list",
        is_shown: false,
        script: "ls FOLDER >/dev/null 2>&1",
        holds: &[Layer::Mounts, Layer::Landlock],
        with: &[],
    },
    Attack {
        name: "writing where anybody may write",
        is_shown: false,
        script: "touch FOLDER/made 2>/dev/null",
        holds: &[Layer::Mounts, Layer::Landlock],
        with: &[],
    },
    Attack {
        name: "writing what it may read",
        is_shown: true,
        script: "echo x 2>/dev/null >>FOLDER/secret",
        holds: &[Layer::ReadOnly, Layer::Landlock],
        with: &[Layer::Mounts],
    },
    Attack {
        name: "making something beside what it may read, and removing it",
        is_shown: true,
        script: "touch FOLDER/gone 2>/dev/null && rm FOLDER/gone",
        holds: &[Layer::ReadOnly, Layer::Landlock],
        with: &[Layer::Mounts],
    },
    Attack {
        name: "reaching who listens on this machine",
        is_shown: false,
        script: "(exec 3<>/dev/tcp/127.0.0.1/PORT) 2>/dev/null",
        holds: &[Layer::Network, Layer::Calls],
        with: &[],
    },
];

fn each_layer_holds_by_itself() -> usize {
    let mut tried = Vec::new();
    for attack in ATTACKS {
        tried.extend(try_it(&attack));
    }
    for (name, call) in PYTHON {
        let script = format!(
            "/usr/bin/python3 -c 'import ctypes; c = ctypes.CDLL(None); {call}' 2>/dev/null"
        );
        let script = String::leak(script);
        let (holds, with) = (&[Layer::Calls][..], &[][..]);
        tried.extend(try_it(&Attack { name, is_shown: false, script, holds, with }));
    }
    let all_tried = Layer::ALL.iter().all(|layer| tried.contains(layer));
    assert!(all_tried, "a layer was not tried: {tried:?}");
    tried.len()
}

/// Gives the layers that were seen to hold.
fn try_it(attack: &Attack) -> &'static [Layer] {
    assert!(
        Scene::new().attack(attack, attack.with),
        "{}: it fails where nothing keeps it out",
        attack.name
    );
    for layer in attack.holds {
        let layers: Vec<Layer> = attack.with.iter().chain([layer]).copied().collect();
        assert!(!Scene::new().attack(attack, &layers), "{}: {layer:?} lets it", attack.name);
    }
    assert!(!Scene::new().attack(attack, &Layer::ALL), "{}: it succeeds", attack.name);
    attack.holds
}
