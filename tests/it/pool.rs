//! Pools through a mount: members that are disks of their own, and one of them failing.

use std::fs;
use std::path::Path;

use rustix::fs::{Mode, OFlags};

use crate::disk::Disk;
use crate::harness::{Mount, Scene, octroi, wait_for};

/// `/archive` merges `disk1` and `disk2`; `/inbox` is beside it, with gates both ways.
fn configuration(more: &str) -> String {
    format!(
        r#"
[branches.inbox]
path = "branches/inbox"
[branches.disk1]
path = "branches/disk1"
min_free = "1MiB"
[branches.disk2]
path = "branches/disk2"
min_free = "1MiB"
[pools.archive]
members = ["disk1", "disk2"]
{more}
[gates.in]
from = "inbox"
to = "archive"
who = ["*"]
[gates.out]
from = "archive"
to = "inbox"
who = ["*"]
"#
    )
}

fn scene(more: &str) -> Scene {
    Scene::with(&["inbox", "disk1", "disk2"], &configuration(more))
}

/// Which members have a path, such as `12`.
fn members(scene: &Scene, path: &str) -> String {
    let has = |member: &&str| {
        let backing = scene.branch(&format!("disk{member}")).join(path);
        backing.symlink_metadata().is_ok()
    };
    ["1", "2"].into_iter().filter(has).collect()
}

#[test]
fn ordinary_tools_see_one_tree() {
    let scene = scene("place = \"first\"");
    for (path, text) in [
        ("disk1/docs/a", "one"),
        ("disk2/docs/a", "hidden"),
        ("disk2/docs/b", "two"),
        ("disk2/docs/deep/c", "deep"),
    ] {
        let path = scene.base().join("branches").join(path);
        fs::create_dir_all(path.parent().expect("a folder")).expect("mkdir");
        fs::write(path, text).expect("planted");
    }
    let mount = scene.mount();
    let tree = mount.sh("cd archive; find . -type f | sort; cat docs/a docs/b docs/deep/c").ok();
    assert_eq!(tree, "./docs/a\n./docs/b\n./docs/deep/c\nonetwodeep");
    // What a tool does with a tree of its own.
    let script = "cd archive; cp -a docs copy; diff -r docs copy; tar cf - copy | tar xf - -C /tmp/ --to-stdout \
                  | wc -c; git init -q repo; cd repo; git config user.email a@b; git config user.name a; \
                  cp -r ../docs .; git add .; git commit -qm one; git fsck --strict && git status --short; \
                  cd ..; mv docs elsewhere; ls -R elsewhere; rm -r copy repo elsewhere; ls -A";
    let seen = mount.sh(script).ok();
    assert!(seen.ends_with("elsewhere:\na\nb\ndeep\n\nelsewhere/deep:\nc\n"), "{seen}");
    mount.unmount();
    assert_eq!(
        (members(&scene, "docs"), members(&scene, "elsewhere")),
        (String::new(), String::new())
    );
}

#[test]
fn the_ledger_names_the_member_that_has_what_was_changed() {
    let scene = scene("place = \"first\"");
    // On the first, the second alone has room.
    let disk = Disk::tmpfs(&scene, "disk1", "512k");
    let mount = scene.mount();
    mount.sh("cd archive; echo x >f; ln f g; mv g h; mkdir d; rmdir d; rm f h").ok();
    mount.sh("cd archive; mkdir d; ln -s x l; mkfifo d/p; rm -r d l").ok();
    let query = "$OCTROI audit query --path /archive | grep '\"operation\"' | grep -v '\"branch\":\"disk2\"'";
    let others = mount.sh(query);
    assert_eq!(others.out, "", "{others:?}");
    let ours = mount.sh("$OCTROI audit query --path /archive --branch disk2").ok();
    for made in
        ["create", "link", "rename", "mkdir", "rmdir", "unlink", "symlink", "mknod", "write-data"]
    {
        assert!(ours.contains(&format!("\"{made}")), "{made} in {ours}");
    }
    mount.unmount();
    drop(disk);
}

#[test]
fn what_is_removed_does_not_let_others_below_what_must_stay_free() {
    let scene = scene("place = \"first\"");
    let disks = ["disk1", "disk2"].map(|name| Disk::tmpfs(&scene, name, "512k"));
    fs::write(scene.branch("disk1").join("old"), "old").expect("planted");
    let mount = scene.mount();
    for make in
        ["echo new >archive/new", "mkdir archive/new", "echo x >inbox/new; mv inbox/new archive/"]
    {
        assert!(mount.sh(make).refused().contains("No space left"), "{make}");
        let said = mount.sh(&format!("rm archive/old; {make}")).refused();
        assert!(said.contains("No space left"), "{make}: {said}");
        assert_eq!(members(&scene, "new"), "", "{make}");
        fs::write(scene.branch("disk1").join("old"), "old").expect("planted");
    }
    mount.unmount();
    drop(disks);
}

#[test]
fn what_is_removed_from_one_of_many_full_members_makes_room_there() {
    let names = ["disk1", "disk2", "disk3", "disk4", "disk5"];
    let branch = |name: &&str| {
        format!("[branches.{name}]\npath = \"branches/{name}\"\nmin_free = \"1MiB\"\n")
    };
    let body: String = names.iter().map(branch).collect();
    let body = format!("{body}[pools.archive]\nmembers = {names:?}\nplace = \"first\"\n");
    let scene = Scene::with(&names, &body);
    let disks = names.map(|name| Disk::tmpfs(&scene, name, "16m,nr_inodes=24"));
    let mount = scene.mount();
    // They take inodes too.
    let copies = || names.iter().all(|name| scene.branch(name).join(".octroi/checkpoint").exists());
    wait_for("copies of the checkpoint", copies);
    for name in names {
        let full = (0..)
            .find(|at| fs::write(scene.branch(name).join(format!("{name}-{at}")), "").is_err());
        assert!(full.is_some_and(|at| at > 0), "{name} is full");
    }
    let rounds = "python3 -c 'import os
last = \"archive/disk5-0\"
for round in range(300):
    os.unlink(last)
    last = f\"archive/{round}\"
    open(last, \"xb\").close()'";
    mount.sh(rounds).ok();
    assert!(scene.branch("disk5").join("299").exists());
    mount.unmount();
    drop(disks);
}

#[test]
fn a_merged_directory_moves_on_both_disks_in_one_step() {
    let scene = scene("place = \"first\"");
    let disks = ["disk1", "disk2"].map(|name| Disk::tmpfs(&scene, name, "64m"));
    fs::create_dir(scene.branch("disk1").join("d")).expect("mkdir");
    fs::create_dir(scene.branch("disk2").join("d")).expect("mkdir");
    fs::write(scene.branch("disk2").join("d/f"), "f").expect("planted");
    fs::write(scene.branch("disk2").join("old"), "old").expect("planted");
    let mount = scene.mount();
    mount.sh("cd archive; mv d e; cat e/f; echo new >n; mv n old; cat old").ok();
    assert_eq!(members(&scene, "e"), "12");
    assert_eq!((members(&scene, "d"), members(&scene, "old")), (String::new(), "1".to_owned()));
    let log = mount.sh("jq -r 'select(.kind == \"crossing\" and .step == \"done\") | .rearrangement' .audit/log.jsonl");
    assert_eq!(log.ok(), "true\ntrue\n");
    assert!(octroi(["undo", "--view", scene.name()]).fails(1).contains("no crossing to undo"));
    mount.unmount();
    drop(disks);
}

#[test]
fn what_does_not_fit_goes_to_the_next_member() {
    let scene = scene("place = \"first\"");
    let disks =
        [("disk1", "3m"), ("disk2", "64m")].map(|(name, size)| Disk::tmpfs(&scene, name, size));
    let mount = scene.mount();
    mount
        .sh("echo a >archive/small; dd if=/dev/zero of=archive/fill bs=64k count=36 status=none")
        .ok();
    assert_eq!(
        (members(&scene, "small"), members(&scene, "fill")),
        ("1".to_owned(), "1".to_owned())
    );
    // Below its min_free the first member takes nothing new; a crossing finds the one with room.
    mount
        .sh("echo b >archive/next; head -c 8M /dev/urandom >inbox/big; mv inbox/big archive/big")
        .ok();
    assert_eq!((members(&scene, "next"), members(&scene, "big")), ("2".to_owned(), "2".to_owned()));
    let sizes = mount.sh("df --output=size -k archive | tail -1").ok();
    assert_eq!(sizes.trim(), (67 * 1024).to_string(), "the sum of both");
    mount.unmount();
    drop(disks);
}

fn fault(scene: &Scene, name: &str) -> serde_json::Value {
    let status = octroi(["status", "--json", "--view", scene.name()]).ok();
    let status: serde_json::Value = serde_json::from_str(&status).expect("JSON");
    let branches = status["branches"].as_array().expect("branches");
    let branch = branches.iter().find(|branch| branch["name"] == name).expect("the branch");
    branch["fault"].clone()
}

fn mount_disk(scene: &Scene, name: &str) {
    let script = format!("mount -o loop {name}.img {name}");
    crate::harness::sh(&scene.base().join("branches"), &script).ok();
}

fn lose_disk(scene: &Scene, name: &str, mount: &Mount) {
    let script = format!("umount -l {name}");
    crate::harness::sh(&scene.base().join("branches"), &script).ok();
    wait_for("the disk to be missed", || !fault(scene, name).is_null());
    assert!(Path::new(mount.root()).exists());
}

#[test]
fn a_member_that_goes_offline_takes_only_its_own_files() {
    let scene = scene("place = \"most-free\"");
    let disks =
        [("disk1", "96M"), ("disk2", "64M")].map(|(name, size)| Disk::ext4(&scene, name, size));
    fs::create_dir(scene.branch("disk2").join("d")).expect("mkdir");
    fs::write(scene.branch("disk2").join("d/two"), "2\n").expect("planted");
    let mount = scene.mount();
    mount.sh("cd archive; echo 1 >d/one; echo 1 >top").ok();
    assert_eq!(
        (members(&scene, "d/one"), members(&scene, "top")),
        ("1".to_owned(), "1".to_owned())
    );
    mount.sh("cat archive/d/one archive/d/two archive/top").ok();

    // What is out of reach is known by what the kernel still knew of it when the disk went: it may drop what
    // nobody holds, for want of memory or because another test has it do so.
    let held = ["d/one", "top"].map(|name| {
        let path = mount.path(&format!("archive/{name}"));
        rustix::fs::open(path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).expect("it is there")
    });
    lose_disk(&scene, "disk1", &mount);
    // The other member and the other branch serve on, new files go there.
    assert_eq!(mount.sh("cat archive/d/two; echo x >inbox/x; cat inbox/x").ok(), "2\nx\n");
    mount.sh("cd archive; echo new >d/new; mkdir e; echo n >e/n; cat d/new").ok();
    assert_eq!((members(&scene, "d/new"), members(&scene, "e")), ("2".to_owned(), "2".to_owned()));
    // What lies on the lost one is out of reach, not gone; a listing says that it is not all.
    for path in ["d/one", "top"] {
        let seen = mount.sh(&format!("cat archive/{path}")).refused();
        assert!(seen.contains("Input/output error"), "{seen}");
    }
    drop(held);
    let listed = mount.sh("ls archive/d");
    assert!(listed.out.contains("two") && listed.err.contains("Input/output error"), "{listed:?}");
    for script in ["rmdir archive/e", "mv archive/d archive/z", "mv archive/d inbox/d"] {
        mount.sh(&format!("rm -f archive/e/n; {script}")).refused();
    }
    for script in ["$OCTROI mv archive/d inbox/d", "$OCTROI why"] {
        let said = mount.sh(script);
        assert!(format!("{said:?}").contains("offline and may hold a part"), "{said:?}");
    }

    mount_disk(&scene, "disk1");
    wait_for("the disk to be back", || fault(&scene, "disk1").is_null());
    wait_for("its files", || mount.sh("cat archive/d/one archive/top").code == Some(0));
    assert_eq!(
        mount.sh("cat archive/d/*; ls archive; mv archive/d archive/z && ls archive/z").ok(),
        "new\n1\n2\nd\ne\ntop\nnew\none\ntwo\n"
    );
    assert_eq!(members(&scene, "z"), "12");
    mount.unmount();
    drop(disks);
}

#[test]
fn an_error_of_a_member_is_never_taken_for_absence() {
    let scene = scene("place = \"first\"");
    let disks = ["disk1", "disk2"].map(|name| Disk::tmpfs(&scene, name, "64m"));
    fs::write(scene.branch("disk2").join("x"), "of the second").expect("planted");
    // A mount point inside the first member is there, and may not be entered.
    fs::create_dir(scene.branch("disk1").join("x")).expect("mkdir");
    let below = scene.branch("disk1").join("x");
    crate::harness::sh(scene.base(), &format!("mount -t tmpfs octroi-test {}", below.display()))
        .ok();
    let mount = scene.mount();
    let seen = mount.sh("cat archive/x");
    mount.unmount();
    crate::harness::sh(scene.base(), &format!("umount {}", below.display())).ok();
    drop(disks);
    assert!(seen.refused().contains("Permission denied"));
}

/// What is shown of a merged directory before it crosses is what it is after.
#[test]
fn a_merged_directory_crosses_as_it_was_shown() {
    let scene = scene("place = \"first\"");
    let disks = ["disk1", "disk2"].map(|name| Disk::tmpfs(&scene, name, "64m"));
    for (number, changed) in [(1, ["1", "4", "5"]), (2, ["2", "3", "6"])] {
        let make = "mkdir -p d/a/b; echo $N >d/a/b/$N; chmod 75$N d d/a; \
                    touch -d @${C}00000.123 d/a/b; touch -d @${B}00000.5 d/a; touch -d @${A}00000 d";
        let [a, b, c] = changed;
        let make = format!("N={number} A={a} B={b} C={c}; {make}");
        crate::harness::sh(&scene.branch(&format!("disk{number}")), &make).ok();
    }
    let mount = scene.mount();
    let shown =
        |at: &str| mount.sh(&format!("cd {at}; find d -printf '%p %T@ %m %U %G\\n' | sort")).ok();
    let before = shown("archive");
    assert!(before.contains("d 200000.0") && before.contains("d/a 400000.5"), "{before}");
    mount.sh("mv archive/d inbox/d").ok();
    assert_eq!(shown("inbox"), before);
    mount.unmount();
    drop(disks);
}
