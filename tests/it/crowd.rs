//! A thousand at once: nothing is lost or torn, nobody hangs. `scripts/prove crowd` does it for longer, with
//! processes, and measures it.

use std::path::Path;
use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::harness::{Mount, Scene, require_root};

#[path = "../../benches/crowd/member.rs"]
mod member;

use member::{Member, SHARED_FOLDER};

const MEMBERS: u64 = 1000;
const SECONDS: f64 = 5.0;
/// Steps a second of each.
const RATE: f64 = 1.0;

const BODY: &str = r#"
[branches.work]
path = "branches/work"
[branches.store]
path = "branches/store"
[gates.in]
from = "work"
to = "store"
who = ["*"]
[gates.out]
from = "store"
to = "work"
who = ["*"]
[hold]
keep = "1s"
"#;

fn be_member(top: &Path, number: u64, start: &Barrier) -> std::io::Result<()> {
    let member = Member::new(top, number, false);
    start.wait();
    let mut member = member?;
    member.work(SECONDS, RATE)?;
    member.finish().map(drop)
}

/// Crosses a large file to and fro, such that nobody waits for it.
fn carry(mount: &Mount, ended: &AtomicBool) {
    mount.sh("head -c 32M /dev/urandom >work/large; cp work/large store/copy").ok();
    while !ended.load(Ordering::Acquire) {
        mount.sh("$OCTROI mv -q -T work/large store/large; cmp store/large store/copy").ok();
        mount.sh("$OCTROI mv -q -T store/large work/large; cmp work/large store/copy").ok();
    }
}

#[test]
fn a_thousand_at_once_lose_nothing() {
    require_root();
    let scene = Scene::with(&["work", "store"], BODY);
    let mount = scene.mount();
    let top = scene.mountpoint();
    std::fs::create_dir(top.join(SHARED_FOLDER)).expect("a folder");
    let (start, ended) = (Barrier::new(MEMBERS as usize), AtomicBool::new(false));
    std::thread::scope(|scope| {
        let carrier = scope.spawn(|| carry(&mount, &ended));
        let start_member = |number| {
            let (top, start) = (&top, &start);
            scope.spawn(move || be_member(top, number, start))
        };
        let members: Vec<_> = (0..MEMBERS).map(start_member).collect();
        let results: Vec<_> = members.into_iter().map(|member| member.join()).collect();
        ended.store(true, Ordering::Release);
        carrier.join().expect("large files cross");
        for (number, result) in results.into_iter().enumerate() {
            result.expect("no panic").unwrap_or_else(|error| panic!("member {number}: {error}"));
        }
    });
    assert_eq!(
        mount.sh("ls work store; ls work/shared | wc -l").ok(),
        "store:\ncopy\n\nwork:\nlarge\nshared\n8\n"
    );
    mount.unmount();
}
