//! Names and directories: creating, linking, renaming, listing, and what a name may be.

use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, RenameFlags};

use crate::compare::{same_as_plain, same_script};
use crate::harness::Scene;

fn rename_with(dir: &Path, from: &str, to: &str, flags: RenameFlags) -> rustix::io::Result<()> {
    rustix::fs::renameat_with(CWD, dir.join(from), CWD, dir.join(to), flags)
}

fn names(dir: &Path) -> BTreeSet<OsString> {
    fs::read_dir(dir).expect("opendir").map(|entry| entry.expect("readdir").file_name()).collect()
}

#[test]
fn renames_within_a_branch() {
    same_as_plain(|dir, log| {
        for name in ["a", "b", "c"] {
            fs::write(dir.join(name), name).expect("write");
        }
        for name in ["d/inner", "e"] {
            fs::create_dir_all(dir.join(name)).expect("mkdir");
        }
        let cases = [
            ("a", "b", RenameFlags::NOREPLACE),
            ("a", "new", RenameFlags::NOREPLACE),
            ("new", "b", RenameFlags::EXCHANGE),
            ("b", "missing", RenameFlags::EXCHANGE),
            ("b", "d", RenameFlags::EXCHANGE),
            ("b", "c", RenameFlags::empty()),
            ("c", "e", RenameFlags::empty()),
            ("e", "c", RenameFlags::empty()),
            ("missing", "x", RenameFlags::empty()),
            ("d", "d/inner/below", RenameFlags::empty()),
            ("e", "d", RenameFlags::empty()),
            ("d", "e/d", RenameFlags::empty()),
            ("e", "e", RenameFlags::empty()),
        ];
        for (from, to, flags) in cases {
            log.note(&format!("{from} to {to}"), rename_with(dir, from, to, flags));
            log.note("names", Ok::<_, ()>(names(dir)));
        }
    });
}

#[test]
fn a_renamed_directory_keeps_its_tree() {
    same_script(
        "mkdir -p a/b/c; echo x >a/b/c/f; cd a/b; mv ../../a ../../z; pwd -P | sed 's/.*\\///'; \
         cat c/f; cd ../..; find z | sort; cat z/b/c/f; mv z/b/c/f z/g; cat z/g; ls z/b/c | wc -l",
    );
}

#[test]
fn hard_links_are_one_file() {
    same_as_plain(|dir, log| {
        fs::write(dir.join("a"), "one").expect("write");
        fs::create_dir(dir.join("sub")).expect("mkdir");
        log.note("link", fs::hard_link(dir.join("a"), dir.join("sub/b")).map_err(drop));
        let stat = |name: &str| fs::metadata(dir.join(name)).expect("stat");
        log.note("one inode", Ok::<_, ()>(stat("a").ino() == stat("sub/b").ino()));
        log.note("links", Ok::<_, ()>((stat("a").nlink(), stat("sub/b").nlink())));
        fs::write(dir.join("sub/b"), "two!").expect("write");
        log.note("content", fs::read_to_string(dir.join("a")).map_err(drop));
        log.note("length", Ok::<_, ()>((stat("a").len(), stat("sub/b").len())));
        log.note("exists", fs::hard_link(dir.join("a"), dir.join("sub/b")).map_err(|e| e.kind()));
        log.note("directory", fs::hard_link(dir.join("sub"), dir.join("x")).map_err(|e| e.kind()));
        fs::remove_file(dir.join("a")).expect("unlink");
        log.note("links", Ok::<_, ()>(stat("sub/b").nlink()));
        std::os::unix::fs::symlink("sub/b", dir.join("s")).expect("symlink");
        let symlink = rustix::fs::linkat(CWD, dir.join("s"), CWD, dir.join("s2"), AtFlags::empty());
        log.note("link of a symlink", symlink);
        log.note("text", fs::read_link(dir.join("s2")).map_err(drop));
    });
}

#[test]
fn names_of_any_bytes_and_up_to_255() {
    same_as_plain(|dir, log| {
        let odd: [&[u8]; 6] = [b"\xff\xfe", b"new\nline", b"-rf", b" ", b"\\", b"\x01\x7f"];
        for name in odd {
            log.note("write", fs::write(dir.join(OsStr::from_bytes(name)), name).map_err(drop));
            log.note("read", fs::read(dir.join(OsStr::from_bytes(name))).map_err(drop));
        }
        for length in [254, 255, 256] {
            let name = OsString::from_vec(vec![b'n'; length]);
            let made = rustix::fs::mkdir(dir.join(&name), Mode::RWXU);
            log.note("mkdir", made);
            log.note("stat", rustix::fs::stat(dir.join(&name)).map(|stat| stat.st_mode));
            log.note(
                "open",
                rustix::fs::open(dir.join(&name), OFlags::RDONLY, Mode::empty()).map(drop),
            );
        }
        log.note("names", Ok::<_, ()>(names(dir)));
    });
}

#[test]
fn special_files() {
    same_as_plain(|dir, log| {
        let make = |name: &str, kind, device| {
            rustix::fs::mknodat(CWD, dir.join(name), kind, Mode::from_raw_mode(0o600), device)
        };
        log.note("fifo", make("fifo", FileType::Fifo, 0));
        log.note("socket", make("socket", FileType::Socket, 0));
        log.note("file", make("file", FileType::RegularFile, 0));
        log.note("null", make("null", FileType::CharacterDevice, rustix::fs::makedev(1, 3)));
        log.note("exists", make("fifo", FileType::Fifo, 0));
        for name in ["fifo", "socket", "file", "null"] {
            let stat = rustix::fs::lstat(dir.join(name));
            log.note(name, stat.map(|stat| (stat.st_mode, stat.st_rdev)));
        }
    });
    same_script("mkfifo p; (echo through the fifo >p) & cat p; wait");
}

#[test]
fn devices_open_only_when_the_mount_says_so() {
    let scene = Scene::lab();
    let make = "mknod inbox/zero c 1 5 && head -c 4 inbox/zero | od -An -tx1";
    let mount = scene.mount();
    assert!(mount.sh(&format!("set -o pipefail; {make}")).refused().contains("denied"));
    mount.unmount();
    let mount = scene.mount_with(&["-o", "dev"]);
    assert_eq!(mount.sh("head -c 4 inbox/zero | od -An -tx1").ok().trim(), "00 00 00 00");
    mount.unmount();
}

#[test]
fn a_socket_can_be_bound_and_reached() {
    let scene = Scene::lab();
    let mount = scene.mount();
    let path = mount.path("inbox/socket");
    let listener = std::os::unix::net::UnixListener::bind(&path).expect("bind");
    let client = std::os::unix::net::UnixStream::connect(&path).expect("connect");
    listener.accept().expect("accept");
    drop((listener, client));
    mount.unmount();
}

#[test]
fn directories_are_removed_only_when_empty() {
    same_script(
        "mkdir top; cd top; mkdir d; touch d/f; rmdir d 2>&1; rm d/f; rmdir d; echo $?; rmdir d 2>&1; touch f; \
         rmdir f 2>&1; mkdir e; unlink e 2>&1; rm -r e; ls; mkdir f 2>&1; ln -s f l; mkdir l 2>&1; \
         stat -c '%F' .; [ $(stat -c %h .) -le 2 ] && echo its own links only",
    );
}

#[test]
fn symlinks_hold_any_text() {
    same_script(
        "ln -s /nowhere/at/all a; readlink a; ln -s ../../../../../../../etc/hostname b; readlink b; \
         ln -s c c; cat c 2>&1; ln -s $(printf 'x%.0s' {1..4000}) long; readlink long | wc -c; \
         stat -c '%s %F' long; mkdir d; echo in >d/f; ln -s d e; cat e/f; rm e; cat d/f",
    );
}

#[test]
fn a_link_out_of_the_branch_leads_to_what_the_caller_sees_not_the_daemon() {
    let scene = Scene::lab();
    let secret = scene.base().join("branches/secret");
    fs::write(&secret, "behind the closed folder").expect("write");
    let mount = scene.mount();
    std::os::unix::fs::symlink(&secret, mount.path("inbox/link")).expect("symlink");
    assert!(mount.sh_as("nobody", "cat inbox/link").refused().contains("Permission denied"));
    assert!(mount.sh_as("nobody", "cat inbox/../../branches/secret").refused().contains("denied"));
    mount.unmount();
}

#[test]
fn a_listing_is_stable_while_entries_come_and_go() {
    let scene = Scene::lab();
    let backing = scene.base().join("branches/inbox/big");
    fs::create_dir(&backing).expect("mkdir");
    for number in 0..100_000 {
        let path = backing.join(format!("entry-{number:06}"));
        rustix::fs::mknodat(CWD, path, FileType::RegularFile, Mode::RUSR, 0).expect("mknod");
    }
    let mount = scene.mount();
    let big = mount.path("inbox/big");
    let mut seen = BTreeSet::new();
    for (at, entry) in fs::read_dir(&big).expect("opendir").enumerate() {
        let name = entry.expect("readdir").file_name();
        assert!(seen.insert(name.clone()), "{name:?} was listed twice");
        if at % 1000 == 0 {
            fs::write(big.join(format!("new-{at}")), "").expect("write");
            let _ = fs::remove_file(big.join(format!("entry-{:06}", 99_999 - at / 10)));
        }
    }
    let steady = (0..89_000).map(|number| format!("entry-{number:06}"));
    let missing = steady.filter(|name| !seen.contains(OsStr::new(name))).count();
    assert_eq!(missing, 0, "entries that were there all the time were not listed");
    mount.sh(SEEKDIR).ok();
    mount.unmount();
}

/// Perl knows telldir and seekdir; every position must lead to the same entry again, also after
/// others were removed. (Position 0 would be a rewind, which makes the others void.)
const SEEKDIR: &str = r#"perl -e '
    opendir(my $d, "inbox/big") or die "opendir: $!";
    my (@positions, @names);
    for (1..5000) { push @positions, telldir $d; push @names, scalar readdir $d; }
    unlink "inbox/big/$names[$_ * 7]" for 100..200;
    for my $at (4999, 1, 42, 2500, 4998) {
        next if $at % 7 == 0 && $at >= 700 && $at <= 1400;
        seekdir $d, $positions[$at];
        my $name = readdir $d;
        die "position $at gives $name, was $names[$at]" if $name ne $names[$at];
    }
    rewinddir $d;
    my $count = () = readdir $d;
    die "only $count after rewinding" if $count < 90000;
'"#;

#[test]
fn inode_numbers_are_stable_and_unlike() {
    let scene = Scene::lab();
    let mount = scene.mount();
    mount.sh("mkdir inbox/d; for i in $(seq 300); do touch inbox/d/$i other/$i; done").ok();
    let list = "find inbox other -printf '%i %p\\n' | sort -k2";
    let first = mount.sh(list).ok();
    mount.sh("sync; echo 2 >/proc/sys/vm/drop_caches").ok();
    assert!(mount.sh(list).ok() == first, "inode numbers changed while mounted");
    let unlike: BTreeSet<&str> = first.lines().filter_map(|line| line.split(' ').next()).collect();
    assert_eq!(unlike.len(), first.lines().count(), "two files have one inode number");
    assert_eq!(mount.sh("mv inbox/d/7 inbox/seven; stat -c %i inbox/seven").ok().trim(), {
        let line = first.lines().find(|line| line.ends_with(" inbox/d/7")).expect("listed");
        line.split(' ').next().expect("a number")
    });
    mount.unmount();
}

#[test]
fn readdir_and_stat_agree_on_inode_numbers() {
    let scene = Scene::lab();
    let mount = scene.mount();
    mount.sh("touch inbox/{a,b,c}; mkdir inbox/d").ok();
    let listed = mount.sh("ls -i1 inbox | awk '{print $1, $2}'").ok();
    let stated = mount.sh("cd inbox; stat -c '%i %n' *").ok();
    assert_eq!(listed, stated);
    let root = fs::metadata(mount.root()).expect("stat").ino();
    assert_eq!(mount.sh("stat -c %i inbox/..").ok().trim(), root.to_string());
    mount.unmount();
}

#[test]
fn known_files_hold_no_descriptors() {
    let scene = Scene::lab();
    let mount = scene.mount();
    mount.sh("mkdir inbox/d; cd inbox/d; touch $(seq 3000)").ok();
    // find looks at each, so that the kernel knows them all.
    assert_eq!(mount.sh("find inbox -type f -size -1 | wc -l").ok(), "3000\n");
    let open = fs::read_dir(format!("/proc/{}/fd", mount.pid())).expect("its descriptors").count();
    assert!(open < 200, "{open} descriptors are open");
    mount.unmount();
}
