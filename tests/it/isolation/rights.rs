//! More rights than one has: by opening anew, by device nodes and set-id programs.

use std::os::unix::fs::PermissionsExt;

use rustix::fs::{AtFlags, CWD, Mode, OFlags};
use rustix::io::Errno;

use super::{BRANCHES, Outside, SECRET, Trial, VIEW, Who, furnish, furnished};
use crate::disk::Disk;
use crate::harness::{Scene, sh};

/// A read-only branch and a rule beside the usual.
const GUARDED: &str = r#"
[branches.fixed]
path = "branches/fixed"
mode = "ro"
[rules.keep]
deny = ["open-write", "truncate", "setxattr", "link", "attrs"]
who = ["*"]
paths = ["/inbox/kept"]
reason = "it is kept"
"#;

#[test]
fn opening_a_descriptor_anew_gives_no_more_rights() {
    let scene =
        Scene::with(&["inbox", "review", "disk1", "disk2", "fixed"], &format!("{VIEW}{GUARDED}"));
    let outside = Outside::new(&scene);
    furnish(&scene.branch("inbox"));
    for branch in ["inbox", "review", "fixed", "disk1"] {
        sh(
            &scene.branch(branch),
            &format!(
                "umask 0; echo kept >kept; echo {SECRET} >closed; chmod 600 closed; \
                 echo shown >shown; chmod 644 shown; echo x >dropped; chmod 222 dropped"
            ),
        )
        .ok();
    }
    let mount = scene.mount();
    let trial = Trial::new(&scene, &mount, &outside);
    // Each opens for reading what may be read, and goes on from the descriptor.
    let ways = [
        "exec 3<F; echo x >/proc/self/fd/3",
        "exec 3<F; echo x >>/proc/self/fd/3",
        "exec 3<F; : >/dev/fd/3",
        "exec 3<F; echo x >&3",
        "exec 3<F; exec 4<>/proc/self/fd/3",
        "exec 3<F; truncate -s 0 /proc/self/fd/3",
        "exec 3<F; dd of=/proc/self/fd/3 if=/dev/zero count=1 conv=notrunc",
        "exec 3<F; setfattr -n user.x -v y /proc/self/fd/3",
        "exec 3<F; fallocate -l 100 /proc/self/fd/3",
        "exec 3<F; chmod 777 /proc/self/fd/3 && false",
        "exec 3<F; ln -L /proc/self/fd/3 $(dirname F)/anew",
        "exec 3<F; cp /etc/hostname /proc/self/fd/3",
        "/usr/bin/python3 -c 'import os; f = os.open(\"F\", os.O_RDONLY); os.ftruncate(f, 0)'",
        "/usr/bin/python3 -c 'import os; f = os.open(\"F\", os.O_RDONLY); os.write(f, b\"x\")'",
        "/usr/bin/python3 -c 'import mmap, os; f = os.open(\"F\", os.O_RDONLY); mmap.mmap(f, 1, prot=2, flags=1)'",
    ];
    let fill = |file: &str, skip: &[&str]| -> Vec<String> {
        let kept = ways.iter().filter(|way| !skip.iter().any(|word| way.contains(word)));
        kept.map(|way| way.replace('F', file)).collect()
    };
    // A gates-only branch leaves attributes to the rules, and root may change them.
    for (file, skip) in [("review/kept", &["chmod"][..]), ("fixed/kept", &[]), ("inbox/kept", &[])]
    {
        trial.fails(&[Who::Root, Who::User], &fill(file, skip));
    }
    for file in ["inbox/shown", "review/shown", "fixed/shown", "pool/shown"] {
        trial.fails(&[Who::User], &fill(file, &["ln -L"]));
    }
    // By O_PATH, which asks for nothing.
    let by_path = "/usr/bin/python3 -c 'import os; f = os.open(\"F\", os.O_PATH); HOW'";
    let hows = [
        "print(open(\"/proc/self/fd/%d\" % f).read())",
        "open(\"/proc/self/fd/%d\" % f, \"a\")",
        "os.truncate(\"/proc/self/fd/%d\" % f, 0)",
        "os.chmod(\"/proc/self/fd/%d\" % f, 0o777)",
        "os.setxattr(\"/proc/self/fd/%d\" % f, \"user.x\", b\"y\")",
    ];
    for file in ["inbox/closed", "review/closed", "fixed/closed", "pool/closed"] {
        let attempts = hows.map(|how| by_path.replace("HOW", how).replace('F', file));
        trial.fails(&[Who::User], &attempts);
        trial.fails(&[Who::User], &[format!("cat {file}"), format!("exec 3<{file}; cat <&3")]);
    }
    let reading = "exec 3>>F; cat </proc/self/fd/3; cat <&3";
    trial.fails(
        &[Who::User],
        &[reading.replace('F', "inbox/dropped"), reading.replace('F', "pool/dropped")],
    );
    trial.end();
    mount.unmount();
}

#[test]
fn a_descriptor_of_what_crossed_gives_no_more_rights_there() {
    for other_disk in [false, true] {
        let scene = Scene::with(&super::BRANCHES, VIEW);
        let disk = other_disk.then(|| Disk::tmpfs(&scene, "review", "80M"));
        furnish(&scene.branch("inbox"));
        let mount = scene.mount();
        let open =
            |flags| rustix::fs::open(mount.path("inbox/f"), flags | OFlags::CLOEXEC, Mode::empty());
        let (reader, path) =
            (open(OFlags::RDONLY).expect("open"), open(OFlags::PATH).expect("open"));
        mount.sh("mv inbox/f review/f").ok();
        for held in [&reader, &path] {
            use std::os::fd::AsRawFd;
            let link = format!("/proc/self/fd/{}", held.as_raw_fd());
            for flags in [
                OFlags::WRONLY,
                OFlags::RDWR,
                OFlags::RDONLY | OFlags::TRUNC,
                OFlags::WRONLY | OFlags::APPEND,
            ] {
                let opened = rustix::fs::open(&link, flags, Mode::empty());
                let errno = opened.expect_err("it is in a gates-only branch now");
                assert!(
                    [Errno::ACCESS, Errno::STALE, Errno::NOENT].contains(&errno),
                    "{flags:?}: {errno}"
                );
            }
            let linked =
                rustix::fs::linkat(held, "", CWD, mount.path("inbox/again"), AtFlags::EMPTY_PATH);
            assert!(linked.is_err());
        }
        assert_eq!(mount.sh("cat review/f; ls inbox").ok(), "mine\nd\nsub\n");
        drop((reader, path));
        mount.unmount();
        drop(disk);
    }
}

#[test]
fn device_nodes_and_set_id_programs_do_not_work() {
    let (scene, outside) = furnished();
    let disk = Disk::tmpfs(&scene, "disk2", "80M");
    let plant = "umask 0; mknod null c 1 3; mknod ram b 1 0; mknod full c 1 7; cp /usr/bin/id suid; cp /usr/bin/id sgid; chmod 666 null full ram; \
                 chmod 4755 suid; chgrp 0 sgid; chmod 2755 sgid; cp /usr/bin/id plain; \
                 mkdir t; cp -a null ram suid sgid t; chown -R nobody t; chown root t/suid t/null; chmod 4755 t/suid; chmod 2755 t/sgid";
    for branch in ["inbox", "disk1"] {
        sh(&scene.branch(branch), plant).ok();
    }
    let body = VIEW.replace("place = \"first\"", "place = \"most-free\"");
    scene.configure(&body);
    let mount = scene.mount();
    let options = std::fs::read_to_string("/proc/self/mountinfo").expect("mountinfo");
    let line = options.lines().find(|line| line.contains(mount.root().to_str().expect("UTF-8")));
    let line = line.expect("it is mounted");
    assert!(line.contains("nosuid") && line.contains("nodev"), "{line}");
    let trial = Trial::new(&scene, &mount, &outside);
    let closed = [
        "cat N",
        "head -c 1 N",
        "echo x >N",
        "dd if=N count=1 of=/dev/null",
        "exec 3<>N",
        "cp N inbox/got",
    ];
    for node in ["inbox/null", "inbox/ram", "inbox/full", "pool/null", "pool/full"] {
        let attempts: Vec<String> =
            closed.iter().map(|attempt| attempt.replace('N', node)).collect();
        trial.fails(&[Who::Root, Who::User], &attempts);
    }
    let makes = [
        "mknod inbox/new c 1 3",
        "mknod inbox/new b 8 0",
        "mknod pool/new c 1 1",
        "mknod review/new c 1 3",
    ];
    trial.fails(&[Who::User], &makes.map(str::to_owned));
    trial.fails(&[Who::Root], &[makes[3].to_owned()]);
    trial.end();
    // What root makes is there and no more use than another's.
    mount.sh("mknod inbox/new c 1 3 && ! cat inbox/new && rm inbox/new").ok();
    let id = |program: &str| mount.sh_as("nobody", &format!("{program} -u; {program} -g")).ok();
    let own = id("inbox/plain");
    assert_eq!(own, "65534\n65534\n");
    for program in ["inbox/suid", "inbox/sgid", "pool/suid", "pool/sgid"] {
        assert_eq!(id(program), own, "{program}");
    }
    // Nor does a crossing make them work, the mover being root.
    mount.sh_as("nobody", "for f in null suid sgid; do mv inbox/$f pool/crossed-$f || exit 1; done; mv inbox/t review/t").ok();
    for program in ["pool/crossed-suid", "pool/crossed-sgid", "review/t/suid", "review/t/sgid"] {
        assert_eq!(id(program), own, "{program}");
    }
    mount
        .sh("! cat pool/crossed-null 2>&1 && ! cat review/t/null 2>&1 && ! cat review/t/ram 2>&1")
        .ok();
    let owner = mount.sh("stat -c '%U %a' pool/crossed-suid review/t/suid").ok();
    assert_eq!(owner, "root 4755\nroot 4755\n", "as rename(2) would leave them");
    // Whoever changes one takes the bits away.
    mount.sh("cp /usr/bin/id inbox/mine && chown nobody inbox/mine && chmod 6755 inbox/mine").ok();
    mount.sh_as("nobody", "echo >>inbox/mine").ok();
    let mode = std::fs::metadata(mount.path("inbox/mine")).expect("stat").permissions().mode();
    assert_eq!(mode & 0o7777, 0o755);
    mount.unmount();
    drop(disk);
}

/// The default ACL of the branch's root is for what is made there, and not for what passes its stage.
#[test]
fn what_crosses_gets_no_acl_from_where_it_passes() {
    let scene = Scene::with(&BRANCHES, VIEW);
    let disk = Disk::tmpfs(&scene, "review", "80M");
    sh(&scene.branch("review"), "setfacl -d -m u:daemon:rwx .").ok();
    let mount = scene.mount();
    let script = "mkdir inbox/d; echo x >inbox/f; echo x >inbox/d/g; chmod 640 inbox/f inbox/d/g; \
                  mv inbox/f inbox/d review/ && getfacl -cs review/f review/d review/d/g";
    assert_eq!(mount.sh(script).ok(), "");
    mount.unmount();
    drop(disk);
}
