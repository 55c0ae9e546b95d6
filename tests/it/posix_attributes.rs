//! Attributes: modes, owners, times, extended attributes, access control lists, and in whose name
//! things are created.

use std::fs;
use std::os::unix::fs::MetadataExt;

use rustix::fs::{AtFlags, CWD, Timespec, Timestamps, UTIME_NOW, UTIME_OMIT, XattrFlags};

use crate::compare::{Log, same_as_plain, same_script};
use crate::harness::{Scene, require_root};

#[test]
fn modes_and_umask() {
    same_script(
        "umask 027; touch f; mkdir d; mkfifo p; stat -c '%A %n' f d p; umask 0; touch g; mkdir e; \
         stat -c '%A %n' g e; chmod 7751 d; chmod u+s,g+s f; stat -c '%a %n' d f; \
         install -m 4755 /bin/true t; stat -c %a t; ln -s f l; chmod 600 l; stat -c '%a %F' f l",
    );
}

#[test]
fn writing_clears_set_id_bits_of_those_who_are_not_root() {
    same_script(
        "as() { setpriv --reuid=nobody --regid=nogroup --clear-groups \"$@\"; }
         umask 0; for f in write truncate open chown keep; do printf 12345678 >$f; chmod 6777 $f; done
         as sh -c 'printf x >>write; truncate -s 3 truncate; : >open; head -c 2 keep'; echo
         chown daemon:daemon chown
         stat -c '%a %s %n' write truncate open chown keep
         for f in rwrite rtruncate; do printf 12345678 >$f; chmod 6777 $f; done
         printf x >>rwrite; truncate -s 3 rtruncate; stat -c '%a %s %n' rwrite rtruncate",
    );
}

/// Without the right of the group to execute it the bit once meant mandatory locking.
#[test]
fn set_group_id_without_execution_goes_too_for_who_is_not_of_the_group() {
    same_script(
        "as() { setpriv --reuid=nobody --regid=nogroup --groups=games \"$@\"; }
         for group in bin games nogroup; do for f in write cut chgrp; do
             printf 12345678 >$f; chown nobody:$group $f; chmod 2666 $f; done
             as sh -c 'printf x >>write; truncate -s 3 cut'; as chgrp nogroup chgrp
             stat -c \"$group %a %s %n\" write cut chgrp; rm write cut chgrp; done",
    );
}

#[test]
fn set_group_id_is_for_who_is_of_the_group_by_the_process_alone() {
    same_script(
        "as() { setpriv --reuid=nobody --regid=nogroup --groups=54321 \"$@\"; }
         mkdir g; chgrp 54321 g; chmod 2777 g; as python3 -c 'import os
os.umask(0)
os.close(os.open(\"g/f\", os.O_CREAT | os.O_WRONLY, 0o2775))
os.mkfifo(\"g/p\", 0o2664)'
         stat -c '%a %n' g/f g/p; printf x >k; chown daemon:nogroup k; chmod 2644 k
         as python3 -c 'import os; os.chown(\"k\", -1, -1)'; echo $?; stat -c %a k",
    );
}

#[test]
fn owners_change_as_the_kernel_allows() {
    same_script(
        "as() { setpriv --reuid=nobody --regid=nogroup --clear-groups \"$@\"; }
         touch f; chown daemon:bin f; stat -c %U:%G f; chgrp games f; stat -c %U:%G f
         chown nobody:nogroup f; as chown daemon f 2>&1; as chgrp bin f 2>&1; as chgrp nogroup f; echo $?
         ln -s f l; chown -h bin l; stat -c '%U %n' f l; chown 12345:54321 f; stat -c %u:%g f
         as chmod 777 f 2>&1; as touch -d 2001-01-01 f 2>&1; stat -c %a f",
    );
}

#[test]
fn times_to_the_nanosecond_also_before_1970() {
    same_as_plain(|dir, log| {
        let file = dir.join("f");
        fs::write(&file, "x").expect("write");
        let stat = |log: &mut Log, what: &str| {
            let stat = rustix::fs::lstat(&file).expect("stat");
            let times = (stat.st_atime, stat.st_atime_nsec, stat.st_mtime, stat.st_mtime_nsec);
            log.note(what, Ok::<_, ()>(times));
        };
        let pairs = [
            (0, 0),
            (1, 1),
            (1_700_000_000, 123_456_789),
            (-1, 999_999_999),
            (-1, 1),
            (-86_400 * 365, 500_000_000),
            (4_102_444_800, 7),
        ];
        for (seconds, nanos) in pairs {
            let time = Timespec { tv_sec: seconds, tv_nsec: nanos };
            let times = Timestamps { last_access: time, last_modification: time };
            log.note("set", rustix::fs::utimensat(CWD, &file, &times, AtFlags::empty()));
            stat(log, "times");
        }
        let omit = Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT };
        let fixed = Timespec { tv_sec: 5, tv_nsec: 6 };
        let one = Timestamps { last_access: omit, last_modification: fixed };
        log.note("only mtime", rustix::fs::utimensat(CWD, &file, &one, AtFlags::empty()));
        stat(log, "times");
        let now = Timespec { tv_sec: 0, tv_nsec: UTIME_NOW };
        let both = Timestamps { last_access: now, last_modification: now };
        log.note("now", rustix::fs::utimensat(CWD, &file, &both, AtFlags::empty()));
        let fresh = fs::metadata(&file).expect("stat").modified().expect("mtime").elapsed();
        log.note("recent", fresh.map(|age| age.as_secs() < 60).map_err(drop));
    });
}

#[test]
fn changes_move_the_right_times() {
    same_as_plain(|dir, log| {
        let file = dir.join("f");
        fs::write(&file, "x").expect("write");
        let times = || {
            let meta = fs::metadata(&file).expect("stat");
            ((meta.mtime(), meta.mtime_nsec()), (meta.ctime(), meta.ctime_nsec()))
        };
        let mut observe = |what: &str, change: &dyn Fn()| {
            let before = times();
            std::thread::sleep(std::time::Duration::from_millis(20));
            change();
            let after = times();
            log.note(what, Ok::<_, ()>((after.0 > before.0, after.1 > before.1)));
        };
        observe("write", &|| fs::write(&file, "yy").expect("write"));
        observe("chmod", &|| rustix::fs::chmod(&file, 0o600.into()).expect("chmod"));
        observe("link", &|| fs::hard_link(&file, dir.join("l")).expect("link"));
        observe("unlink", &|| fs::remove_file(dir.join("l")).expect("unlink"));
        observe("truncate", &|| {
            fs::File::options()
                .write(true)
                .open(&file)
                .and_then(|file| file.set_len(1))
                .expect("truncate");
        });
        observe("rename", &|| {
            fs::rename(&file, dir.join("g")).expect("rename");
            fs::rename(dir.join("g"), &file).expect("rename");
        });
    });
}

#[test]
fn extended_attributes() {
    same_as_plain(|dir, log| {
        let file = dir.join("f");
        fs::write(&file, "x").expect("write");
        let get = |name: &str| {
            let mut value = vec![0u8; 70_000];
            rustix::fs::getxattr(&file, name, &mut value[..]).map(|length| value[..length].to_vec())
        };
        let set = |name: &str, value: &[u8], flags| rustix::fs::setxattr(&file, name, value, flags);
        log.note("missing", get("user.a"));
        log.note("set", set("user.a", b"one", XattrFlags::empty()));
        log.note("get", get("user.a"));
        log.note("create", set("user.a", b"two", XattrFlags::CREATE));
        log.note("replace", set("user.a", b"two\0three", XattrFlags::REPLACE));
        log.note("replace missing", set("user.b", b"x", XattrFlags::REPLACE));
        log.note("get", get("user.a"));
        log.note("empty", set("user.empty", b"", XattrFlags::empty()));
        log.note("get", get("user.empty"));
        log.note("trusted", set("trusted.t", b"root", XattrFlags::empty()));
        log.note("no namespace", set("nonsense", b"x", XattrFlags::empty()));
        log.note("big", set("user.big", &[9; 3000], XattrFlags::empty()));
        log.note("get", get("user.big"));
        let mut small = [0u8; 4];
        log.note("short buffer", rustix::fs::getxattr(&file, "user.big", &mut small[..]));
        let mut list = vec![0u8; 4096];
        let length = rustix::fs::listxattr(&file, &mut list[..]).expect("listxattr");
        let mut names: Vec<_> = list[..length].split(|byte| *byte == 0).collect();
        names.sort_unstable();
        log.note("list", Ok::<_, ()>(format!("{names:?}")));
        log.note("remove", rustix::fs::removexattr(&file, "user.a"));
        log.note("remove again", rustix::fs::removexattr(&file, "user.a"));
    });
}

#[test]
fn access_control_lists() {
    same_script(
        "as() { user=$1; shift; setpriv --reuid=$user --regid=$user --clear-groups \"$@\"; }
         umask 022; echo secret >f; chmod 600 f; as daemon cat f 2>&1
         setfacl -m u:daemon:r f; as daemon cat f; as bin cat f 2>&1; stat -c %A f
         getfacl -cE f; chmod 640 f; getfacl -cE f; setfacl -x u:daemon f; as daemon cat f 2>&1
         mkdir d; setfacl -d -m u:bin:rwx,g::rx,o::- d; setfacl -m u:daemon:rwx d; getfacl -cE d
         as daemon sh -c 'umask 077; echo in >d/f; mkdir d/e'; getfacl -cE d/f d/e; stat -c '%A %U %G' d/f d/e
         as bin cat d/f; as games cat d/f 2>&1; setfacl -b d; getfacl -cE d; setfacl -m u:nonsense:r f; echo $?",
    );
}

#[test]
fn changing_an_acl_from_outside_the_group_clears_the_group_bit() {
    same_script(
        "touch f; chown nobody:bin f; chmod 2775 f; stat -c %a f
         setpriv --reuid=nobody --regid=nogroup --clear-groups setfacl -m u:daemon:r f; stat -c %a f",
    );
}

#[test]
fn files_belong_to_those_who_create_them() {
    same_script(
        "as() { setpriv --reuid=nobody --regid=nogroup --clear-groups \"$@\"; }
         mkdir open; chmod 777 open; mkdir grouped; chgrp bin grouped; chmod 2777 grouped
         mkdir sticky; chmod 1777 sticky; touch sticky/roots; mkdir closed; chmod 755 closed
         as sh -c 'umask 022; for d in open grouped sticky; do echo x >$d/f; mkdir $d/d; ln -s f $d/l
             mkfifo $d/p; ln $d/f $d/h; done; echo x >closed/f; mkdir closed/d; rm sticky/roots; rm sticky/f' 2>&1
         find open grouped sticky closed -type d -printf '%p %u %g %m %y\\n' | sort
         find open grouped sticky closed ! -type d -printf '%p %u %g %m %y %n\\n' | sort",
    );
}

#[test]
fn a_folder_of_a_group_takes_new_files_into_it() {
    let scene = Scene::lab();
    let mount = scene.mount();
    mount.sh("mkdir inbox/g; chown nobody:nogroup inbox/g; chmod 700 inbox/g").ok();
    mount.sh_as("nobody", "echo mine >inbox/g/f; mkdir inbox/g/d").ok();
    assert!(mount.sh_as("daemon", "ls inbox/g").refused().contains("Permission denied"));
    let backing = fs::metadata(scene.base().join("branches/inbox/g/f")).expect("stat");
    let nobody = fs::metadata(mount.path("inbox/g")).expect("stat");
    assert_eq!((backing.uid(), backing.gid()), (nobody.uid(), nobody.gid()));
    mount.unmount();
}

#[test]
fn statfs_tells_the_branchs_own_space() {
    let scene = Scene::lab();
    let disk = crate::disk::Disk::tmpfs(&scene, "other", "256m");
    let mount = scene.mount();
    let stat = |name: &str| rustix::fs::statvfs(mount.path(name)).expect("statvfs");
    let small = stat("other");
    assert_eq!(small.f_blocks * small.f_frsize, 256 << 20);
    assert_eq!(small.f_namemax, 255);
    let large = rustix::fs::statvfs(scene.base()).expect("statvfs");
    assert_eq!(stat("inbox").f_blocks * stat("inbox").f_frsize, large.f_blocks * large.f_frsize);
    let before = small.f_bavail * small.f_frsize;
    mount.sh("head -c 64M /dev/zero >other/f; sync").ok();
    let after = stat("other");
    let taken = before - after.f_bavail * after.f_frsize;
    assert!((64 << 20..72 << 20).contains(&taken), "64 MiB took {taken} bytes");
    mount.unmount();
    drop(disk);
}

#[test]
fn access_is_checked_as_on_a_plain_directory() {
    same_script(
        "as() { setpriv --reuid=nobody --regid=nogroup --clear-groups sh -c \"$1\" 2>&1; echo \"$1: $?\"; }
         mkdir d; echo x >d/f; chmod 600 d/f; as 'cat d/f'; as 'echo y >>d/f'; as 'rm -f d/f'
         chmod 666 d/f; as 'cat d/f'; as 'echo y >>d/f'; chmod 700 d; as 'cat d/f'; as 'ls d'
         chmod 711 d; as 'cat d/f'; as 'ls d'; chmod 444 d/f; as 'test -w d/f'; as 'test -r d/f'
         chmod 777 d; as 'mv d/f d/g'; as 'rm -f d/g'; ls d",
    );
}

#[test]
fn listing_the_view_leaves_its_folders_what_they_are() {
    require_root();
    let scene = Scene::lab();
    let mount = scene.mount();
    mount.sh("chown nobody inbox && chmod 0700 inbox && touch inbox/own").ok();
    // The kernel keeps what a listing says of a folder that it knows, and asks it of no call on an open
    // descriptor.
    let script = "import os
folder = os.open('inbox', os.O_RDONLY)
for turn in range(50):
    list(os.scandir('.'))
    os.fchmod(folder, 0o700 + turn % 8)
    list(os.scandir('.'))
    os.utime(folder, ns=(turn, turn))
assert os.fstat(folder).st_mtime_ns == 49, os.fstat(folder)";
    mount.sh_as("nobody", &format!("python3 -c \"{script}\"")).ok();
    let shown = mount.sh("ls -ld --time-style=+ inbox | cut -d' ' -f1,3").ok();
    assert_eq!(shown, "drwx-----x nobody\n");
    mount.unmount();
}
