//! Real tools on real files: what they do in a branch they must do as on a plain directory.

use std::fs;
use std::path::PathBuf;

use crate::harness::{Scene, cargo_home, require_root, sh};

/// A tar of real files: the sources of this project's dependencies as cargo keeps
/// them, which are there wherever this was built.
fn sources(scene: &Scene, count: u32) -> PathBuf {
    let registry = cargo_home().join("registry/src");
    let archive = scene.base().join("sources.tar");
    let script = format!(
        "cd */ && find . -type f -size -300k | sort | head -{count} | tar cf {} -T -",
        archive.display()
    );
    sh(&registry, &script).ok();
    archive
}

const BOTH_KINDS: &str = r#"
[branches.work]
path = "branches/work"
[branches.fast]
path = "branches/fast"
io = "passthrough"
"#;

const LIST: &str = "find . -printf '%P %y %m %u %g %s %n %l %T@\\n' | grep -v '^ d' | sort";

#[test]
fn a_source_tree_unpacks_copies_and_is_searched_as_on_a_plain_directory() {
    require_root();
    let scene = Scene::with(&["work", "fast"], BOTH_KINDS);
    let archive = sources(&scene, 1500);
    let plain = scene.base().join("plain");
    let unpack = format!("tar xf {} && find . -type f | wc -l", archive.display());
    assert_eq!(sh(&plain, &unpack).ok().trim(), "1500");
    let mount = scene.mount();
    for branch in ["work", "fast"] {
        let here = mount.path(branch);
        sh(&here, &unpack).ok();
        // Times of directories depend on the order of unpacking to the nanosecond.
        let files = LIST.replace("find .", "find . ! -type d");
        assert_eq!(sh(&here, &files).ok(), sh(&plain, &files).ok(), "{branch}: attributes");
        sh(&here, &format!("diff -r --no-dereference . {}", plain.display())).ok();
        let search = "grep -rl 'unsafe fn' . | sort | sha256sum; find . -name '*.rs' -size +8k | wc -l; \
                      du -s --apparent-size --exclude=nothing . | wc -l; wc -lc $(find . -name lib.rs | sort) | tail -1";
        assert_eq!(sh(&here, search).ok(), sh(&plain, search).ok(), "{branch}: searching");
        sh(
            &here,
            "mkdir ../$(basename $PWD)/copy && cp -a $(ls -A | grep -v copy | head -40) copy/",
        )
        .ok();
        sh(
            &here,
            "for d in copy/*; do diff -r --no-dereference $d ./$(basename $d) || exit 1; done",
        )
        .ok();
        sh(&here, "rm -r copy && rm -rf ./* && test -z \"$(ls -A)\"").ok();
    }
    mount.unmount();
}

#[test]
fn rsync_there_and_back_finds_no_difference() {
    require_root();
    let scene = Scene::with(&["work", "fast"], BOTH_KINDS);
    let plain = scene.base().join("plain");
    let make = "mkdir -p src/d/e; cd src; for i in $(seq 200); do head -c $((i * 97)) /dev/urandom >d/$i; done
                ln d/1 d/hard; ln -s ../d/2 d/e/soft; mkfifo fifo; mknod null c 1 3; truncate -s 5M sparse
                setfattr -n user.color -v blue d/3; setfacl -m u:daemon:rw d/4; setfacl -d -m g:games:rx d/e
                chown daemon:bin d/5; chmod 6711 d/6; touch -d '2001-02-03 04:05:06.789' d/7";
    sh(&plain, make).ok();
    let mount = scene.mount();
    for branch in ["work", "fast"] {
        let there = mount.path(branch);
        let script = format!(
            "rsync -aHAXS --checksum src/ {0}/copy/ && rsync -aHAXS --checksum {0}/copy/ back/ && \
             rsync -aHAX --checksum --delete -ni src/ back/ && rsync -aHAX --checksum --delete -ni src/ {0}/copy/ && \
             rsync -aHAX --checksum {0}/copy/ {0}/again/ && diff -r --no-dereference --exclude=null --exclude=fifo src {0}/again && \
             rm -r back",
            there.display()
        );
        assert_eq!(sh(&plain, &script).ok(), "", "rsync would transfer something again");
    }
    mount.unmount();
}

#[test]
fn git_works_and_finds_its_repository_sound() {
    let scene = Scene::with(&["work", "fast"], BOTH_KINDS);
    let archive = sources(&scene, 700);
    let mount = scene.mount();
    for branch in ["work", "fast"] {
        let script = format!(
            "set -e; export GIT_AUTHOR_DATE='2020-01-01T00:00:00Z' GIT_COMMITTER_DATE='2020-01-01T00:00:00Z'
             git() {{ command git -c user.name=t -c user.email=t@t -c gc.auto=0 -c init.defaultBranch=main \"$@\"; }}
             mkdir repo; cd repo; git init -q; tar xf {} ; git add -A 2>/dev/null; git commit -qm one
             git status --porcelain; git checkout -qb side; git rm -rq $(ls | head -5); git commit -qm two
             git checkout -q main; git merge -q --no-ff -m three side; git gc -q --prune=now; git fsck --full --strict 2>&1
             git clone -q . ../clone; cd ../clone; git fsck --full --strict 2>&1; git rev-parse HEAD^{{tree}}; git log --oneline | wc -l",
            archive.display()
        );
        let seen = sh(&mount.path(branch), &script).ok();
        let lines: Vec<_> = seen.lines().filter(|line| !line.contains("notice: ")).collect();
        assert_eq!(lines.len(), 2, "status or fsck found something: {seen}");
        assert_eq!(lines[1], "3", "{seen}");
    }
    mount.unmount();
}

#[test]
fn cargo_builds_and_its_program_runs() {
    let scene = Scene::with(&["work", "fast"], BOTH_KINDS);
    let mount = scene.mount();
    for branch in ["work", "fast"] {
        let krate = mount.path(branch).join("hello");
        fs::create_dir_all(krate.join("src")).expect("mkdir");
        let manifest =
            "[package]\nname = \"hello\"\nversion = \"0.1.0\"\nedition = \"2024\"\n[workspace]\n";
        fs::write(krate.join("Cargo.toml"), manifest).expect("write");
        let lib = "/// Twice.\npub fn twice(x: u32) -> u32 { x * 2 }\n#[test] fn t() { assert_eq!(twice(2), 4) }\n";
        fs::write(krate.join("src/lib.rs"), lib).expect("write");
        let main = "fn main() { println!(\"{}\", hello::twice(21)) }\n";
        fs::write(krate.join("src/main.rs"), main).expect("write");
        let mut cargo = std::process::Command::new(env!("CARGO"));
        cargo
            .args(["run", "--offline", "--quiet"])
            .current_dir(&krate)
            .env_remove("CARGO_TARGET_DIR");
        assert_eq!(crate::harness::run(&mut cargo).ok(), "42\n");
        let appended = "pub fn thrice(x: u32) -> u32 { x * 3 }\n";
        fs::write(krate.join("src/lib.rs"), format!("{lib}{appended}")).expect("write");
        fs::write(krate.join("src/main.rs"), main.replace("twice(21)", "thrice(3)"))
            .expect("write");
        let mut cargo = std::process::Command::new(env!("CARGO"));
        cargo
            .args(["run", "--offline", "--quiet"])
            .current_dir(&krate)
            .env_remove("CARGO_TARGET_DIR");
        assert_eq!(crate::harness::run(&mut cargo).ok(), "9\n", "the change was not noticed");
    }
    mount.unmount();
}

#[test]
fn files_of_a_real_tree_cross_byte_for_byte() {
    require_root();
    let scene = Scene::lab();
    let disk = crate::disk::Disk::ext4(&scene, "review", "256M");
    let archive = sources(&scene, 700);
    let mount = scene.mount();
    let script = format!(
        "set -e; mkdir inbox/t; cd inbox/t; tar xf {} --transform 's,^./,,;s,/,_,g'; ls | tail -n +201 | xargs rm -f
         cd ../..; (cd inbox/t; stat -c '%n %a %u %g %s %y' *; sha256sum *) >/tmp/before.$$
         for f in inbox/t/*; do mv $f review/; done; ls inbox/t | wc -l
         cd review; (stat -c '%n %a %u %g %s %y' *; sha256sum *) >/tmp/after.$$
         cmp /tmp/before.$$ /tmp/after.$$; rm /tmp/before.$$ /tmp/after.$$; ls | wc -l",
        archive.display()
    );
    assert_eq!(mount.sh(&script).ok(), "0\n200\n");
    let query =
        "jq -r 'select(.step == \"commit\") | .sha256 + \" \" + .target' .audit/log.jsonl | sort";
    let actual = "find review -type f -exec sha256sum {} + | sed 's/ \\*\\?[ ]*/ \\//' | sort";
    assert_eq!(mount.sh(query).ok(), mount.sh(actual).ok());
    mount.unmount();
    drop(disk);
}
