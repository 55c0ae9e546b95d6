//! Everything crosses whole, between real file systems and back: sizes, holes, names, owners, modes, ACLs,
//! attributes, capabilities, times. What a target cannot keep is refused with the reason, or lost by name.

use std::fs;
use std::os::unix::fs::MetadataExt;

use crate::disk::Disk;
use crate::harness::{Mount, Scene, require_root, wait_for};

/// Gates from each branch to each, through which everything passes; `lossy` is added to those to `b`.
fn view(lossy: &str) -> Scene {
    require_root();
    let mut body = String::new();
    for branch in ["a", "b", "c"] {
        body +=
            &format!("[branches.{branch}]\npath = \"branches/{branch}\"\nmin_free = \"1MiB\"\n");
    }
    for (from, to) in [("a", "b"), ("b", "c"), ("c", "a"), ("b", "a")] {
        body += &format!("[gates.{from}-{to}]\nfrom = \"{from}\"\nto = \"{to}\"\nwho = [\"*\"]\n");
        if to == "b" {
            body += lossy;
        }
    }
    Scene::with(&["a", "b", "c"], &body)
}

/// All that there is to know of a file or tree, but inode numbers, ctimes and where it lies on its disk.
/// `trusted.SGI_ACL_*` is how xfs shows ACLs once more.
const PRINT: &str = r#"print() { (
    cd "$1" && find . -printf '%P|%y|%m|%U:%G|%T@|%s|%l|%n\n' | sed 's/|d\(.*\)|[0-9]*|\(.*\)|[0-9]*$/|d\1|\2/' | LC_ALL=C sort &&
    getfattr -R -h -d -m - -e hex . 2>/dev/null | grep -v SGI_ACL | LC_ALL=C sort &&
    getfacl -R -p -n . 2>/dev/null | LC_ALL=C sort &&
    find . -type f -size -64M -print0 | LC_ALL=C sort -z | xargs -0 sha256sum ) }
"#;

/// Makes a tree of everything that a crossing must keep.
const MAKE: &str = r#"set -e
mkdir t && cd t
: >empty
printf x >one
head -c 70000 /dev/urandom >some
head -c 4096 /dev/urandom >page
truncate -s 1M hole
truncate -s 600M sparse
printf begin | dd of=sparse conv=notrunc status=none
printf middle | dd of=sparse bs=1M seek=300 conv=notrunc status=none
printf end | dd of=sparse bs=1 seek=629145597 conv=notrunc status=none
for name in $'new\nline' $'\xff\xfe' ' blank ' "$(printf 'long%.0s' $(seq 62))" '-n' '*' 'a"b' 'ünï'; do
    mkdir -p -- "dir $name" && printf '%s' "$name" >"./$name" && ln -s -- "$name" "dir $name/link"
done
ln one two; mkdir deep; ln one deep/three
mkfifo fifo; mknod null c 1 3; ln -s /nonexistent dangling
cp /bin/true run && setcap cap_net_bind_service=ep run
cp /bin/true suid && chown 1234:5678 suid && chmod 6755 suid
mkdir sticky && chown 7:8 sticky && chmod 3770 sticky
printf acl >acl && chmod 640 acl && setfacl -m u:7:rwx,g:8:r acl
mkdir facl && setfacl -m u:7:rwx,d:u:9:rx,d:o::- facl && printf in >facl/in
printf x >attributes && setfattr -n user.empty attributes && setfattr -n user.note -v kept attributes
setfattr -n trusted.t -v root attributes
setfattr -h -n trusted.link -v on dangling
touch -d '1955-11-05T06:15:00.123456789Z' some
touch -d '1969-12-31T23:59:59.999999999Z' page
touch -d '2038-01-19T03:14:08.000000001Z' hole
touch -h -d '1960-01-01T00:00:00.5Z' dangling
touch -d '1950-02-03T04:05:06.7Z' deep
"#;

fn moves(mount: &Mount, from: &str, to: &str) {
    mount.sh(&format!("mv {from}/t {to}/t && test ! -e {from}/t")).ok();
}

#[test]
fn a_tree_of_everything_goes_round_the_file_systems() {
    let scene = view("");
    let ext4 = Disk::ext4(&scene, "a", "128M");
    let xfs = Disk::xfs(&scene, "b", "400M");
    let tmpfs = Disk::tmpfs(&scene, "c", "128M");
    let mount = scene.mount();
    mount.sh(&format!("cd a\n{MAKE}")).ok();
    let print = |branch: &str| mount.sh(&format!("{PRINT}print {branch}/t")).ok();
    let before = print("a");
    assert!(before.lines().count() > 100, "{before}");
    for (from, to) in [("a", "b"), ("b", "c"), ("c", "a")] {
        moves(&mount, from, to);
        let after = print(to);
        assert!(after == before, "{from} to {to}:\n{}", difference(&before, &after));
        assert_holes(&scene, &mount, (to, "t/sparse"), 600);
        let caps = mount.sh(&format!("getcap {to}/t/run; stat -c %a {to}/t/suid")).ok();
        assert!(caps.contains("cap_net_bind_service=ep") && caps.contains("6755"), "{caps}");
    }
    // And back, all of it.
    moves(&mount, "a", "b");
    mount.sh("$OCTROI undo b/t").ok();
    let after = print("a");
    assert!(after == before, "undone:\n{}", difference(&before, &after));
    mount.unmount();
    drop((ext4, xfs, tmpfs));
}

/// A file of so many MiB with something at its beginning, half-way and at its end is still as sparse as that.
#[track_caller]
fn assert_holes(scene: &Scene, mount: &Mount, (branch, name): (&str, &str), size: u64) {
    let sparse = fs::metadata(scene.branch(branch).join(name)).expect("it is there");
    assert_eq!(sparse.len(), size << 20);
    assert!(sparse.blocks() * 512 < 8 << 20, "{} blocks: holes were filled", sparse.blocks());
    let (half, path) = (size / 2, format!("{branch}/{name}"));
    let parts = format!(
        "head -c 5 {path}; dd if={path} bs=1M skip={half} count=1 status=none | head -c 6; tail -c 3 {path}"
    );
    assert_eq!(mount.sh(&parts).ok(), "beginmiddleend");
}

#[test]
fn a_sparse_file_crosses_whose_size_takes_more_than_32_bits() {
    let scene = view("");
    let ext4 = Disk::ext4(&scene, "a", "128M");
    let xfs = Disk::xfs(&scene, "b", "400M");
    let mount = scene.mount();
    let make = "truncate -s 4500M a/f; printf begin | dd of=a/f conv=notrunc status=none
                printf middle | dd of=a/f bs=1M seek=2250 conv=notrunc status=none
                printf end | dd of=a/f bs=1 seek=4718591997 conv=notrunc status=none";
    mount.sh(make).ok();
    assert_holes(&scene, &mount, ("a", "f"), 4500);
    mount.sh("mv a/f b/f").ok();
    assert_holes(&scene, &mount, ("b", "f"), 4500);
    mount.unmount();
    drop((ext4, xfs));
}

fn difference(before: &str, after: &str) -> String {
    let gone = before.lines().filter(|line| !after.contains(line)).map(|line| format!("- {line}"));
    let new = after.lines().filter(|line| !before.contains(line)).map(|line| format!("+ {line}"));
    gone.chain(new).take(20).collect::<Vec<_>>().join("\n")
}

/// 64 KiB, as much as an attribute may have (`XATTR_SIZE_MAX`): xfs and tmpfs hold it, ext4 does not.
#[test]
fn an_attribute_of_64_kib_crosses_or_is_refused_with_the_reason() {
    let scene = view("");
    let xfs = Disk::xfs(&scene, "b", "400M");
    let tmpfs = Disk::tmpfs(&scene, "c", "64M");
    let ext4 = Disk::ext4(&scene, "a", "96M");
    let mount = scene.mount();
    mount.sh("cd b; echo x >f; python3 -c 'import os; os.setxattr(\"f\", \"user.big\", b\"v\" * 65536)'").ok();
    let value = "python3 -c 'import os,sys; v = os.getxattr(sys.argv[1], \"user.big\"); print(len(v), set(v))'";
    mount.sh("mv b/f c/f").ok();
    assert_eq!(mount.sh(&format!("{value} c/f")).ok(), "65536 {118}\n");
    let said = mount.sh("mv c/f a/f").refused();
    assert!(said.contains("not supported"), "{said}");
    let why = mount.sh("$OCTROI why").ok();
    assert!(why.contains("cannot keep extended attribute user.big"), "{why}");
    assert_eq!(mount.sh(&format!("{value} c/f; ls a")).ok(), "65536 {118}\n");
    let steps: Vec<_> =
        mount.ledger().into_iter().filter(|line| line["kind"] == "crossing").collect();
    assert_eq!(steps.last().expect("a step")["step"], "abort", "it was decided upon");
    mount.unmount();
    drop((xfs, tmpfs, ext4));
}

/// A disk that is mounted without ACLs.
#[test]
fn what_the_target_cannot_keep_is_refused_or_lost_by_name() {
    for lossy in ["", "lossy = [\"acl\"]\n"] {
        let scene = view(lossy);
        let disk = Disk::without_acls(&scene, "b", "256M");
        let mount = scene.mount();
        mount.sh("cd a; echo x >f; chmod 640 f; setfacl -m u:7:rwx,g::- f; echo y >g; ls").ok();
        mount.sh("mv a/g b/g").ok();
        if lossy.is_empty() {
            let said = mount.sh("mv a/f b/f").refused();
            assert!(said.contains("not supported"), "{said}");
            let why = mount.sh("$OCTROI why").ok();
            assert!(
                why.contains("cannot keep extended attribute system.posix_acl_access"),
                "{why}"
            );
            assert!(why.contains("; a gate with lossy = [\"acl\"] lets it go"), "{why}");
            assert_eq!(mount.sh("getfacl -p -n a/f | grep user:7; ls b").ok(), "user:7:rwx\ng\n");
        } else {
            mount.sh("mv a/f b/f").ok();
            // The group had nothing, and user 7 is nobody there.
            wait_for("the mode", || mount.sh("stat -c %a b/f; cat b/f").ok() == "600\nx\n");
            let commit = mount.ledger().into_iter().rfind(|line| line["step"] == "commit");
            assert_eq!(commit.expect("a commit")["lost"], serde_json::json!(["acl"]));
            let shown = mount.sh("$OCTROI tx list --json | jq -r '.[0].txid'").ok();
            let shown = mount.sh(&format!("$OCTROI tx show {}", shown.trim())).ok();
            assert!(shown.contains("lost         acl"), "{shown}");
            mount.sh("$OCTROI undo b/f && getfacl -p -n a/f | grep user:7:rwx").ok();
            let said = mount.sh("$OCTROI mv -v a/f b/f && $OCTROI undo >/dev/null").ok();
            assert!(said.trim_end().ends_with(", lost acl)"), "{said}");
            let said = mount.sh("$OCTROI mv --json a/f b/f | jq -c .lost").ok();
            assert_eq!(said, "[\"acl\"]\n");
            let report = mount.sh("$OCTROI audit report").ok();
            assert_eq!(
                report.matches(" to /b/f lost acl, as its gate allows").count(),
                3,
                "{report}"
            );
        }
        mount.unmount();
        drop(disk);
    }
}

#[test]
fn ordinary_users_reach_what_is_on_a_disk_without_acls() {
    let scene = view("");
    let disk = Disk::without_acls(&scene, "b", "256M");
    let mount = scene.mount();
    mount.sh("chmod 775 b; mkdir b/d; echo x >b/d/f; chmod 664 b/d/f").ok();
    assert_eq!(mount.sh_as("nobody", "cat b/d/f; ls b").ok(), "x\nd\n");
    mount.sh_as("nobody", "touch b/d/g").refused();
    mount.unmount();
    drop(disk);
}

/// Who moves a directory need not be able to look at all that is in it.
#[test]
fn what_was_lost_inside_is_told_to_those_who_may_look() {
    let scene = view("lossy = [\"acl\"]\n");
    let disk = Disk::without_acls(&scene, "b", "256M");
    let mount = scene.mount();
    mount
        .sh("chmod 777 a b; mkdir -m 777 a/d a/d/e; echo x >a/d/e/f; setfacl -m u:7:rwx a/d/e/f; \
             chown -R nobody a/d; chown root a/d/e; chmod 700 a/d/e; ls -R a >/dev/null")
        .ok();
    let moved = mount.sh_as("nobody", "$OCTROI mv --json a/d b/d | jq -c .lost").ok();
    assert_eq!(moved, "[\"something where you may not look\"]\n");
    let show = "$OCTROI tx show $($OCTROI tx list --json | jq -r '.[0].txid') | grep '^lost'";
    let shown = mount.sh_as("nobody", show).ok();
    assert_eq!(shown, "lost         something where you may not look\n");
    assert_eq!(mount.sh(show).ok(), "lost         acl\n");
    mount.sh("$OCTROI undo b/d && $OCTROI mv --json a/d b/d | jq -e '.lost == [\"acl\"]'").ok();
    mount.unmount();
    drop(disk);
}

/// On its way over another file system an ACL is changed; xfs must not get the old one back with it.
#[test]
fn an_acl_that_was_changed_elsewhere_stays_changed_on_xfs() {
    let scene = view("");
    let xfs = Disk::xfs(&scene, "b", "400M");
    let mount = scene.mount();
    mount.sh("echo x >b/f; setfacl -m u:7:rwx b/f; mv b/f c/f; setfacl -b -m u:8:r c/f").ok();
    let kept = mount.sh("getfattr -m - c/f 2>/dev/null").ok();
    assert!(!kept.contains("SGI_ACL"), "{kept}");
    mount.sh("mv c/f a/f && mv a/f b/f").ok();
    let acl = mount.sh("getfacl -p -n b/f").ok();
    assert!(acl.contains("user:8:r--") && !acl.contains("user:7"), "{acl}");
    mount.unmount();
    drop(xfs);
}
