//! Symbolic links: absolute and relative, as the first, a middle and the last component, as the folder
//! that something is made in, moved to or linked to; made through the mount and put there from outside.

use super::{EVERYBODY, Outside, Trial, VIEW, Who, furnish, furnished, replaced};
use crate::harness::{Scene, sh};

/// `L` is a link to a file, `D` one to a directory, `P` the branch.
const ATTEMPTS: [&str; 42] = [
    "cat L",
    "cat <L",
    "head -c 1 D/canary",
    "cat D/canary",
    "ls D/",
    "ls D/inner",
    "stat -L L",
    "stat D/canary",
    "cp L P/got",
    "cp -r D/ P/got",
    "echo x >L",
    "echo x >>L",
    "echo x >D/new",
    "echo x >>D/victim",
    ": >D/victim",
    "truncate -s 0 L",
    "truncate -s 0 D/victim",
    "mkdir D/new",
    "mkdir L",
    "mkfifo D/new",
    "ln -s x D/new",
    "ln P/f D/new",
    "ln D/canary P/got",
    "ln -L L P/got",
    "mv P/f D/new",
    "mv P/d D/new",
    "mv D/canary P/got",
    "mv D/inner P/got",
    "mv -T D/ P/got",
    "rm D/canary",
    "rm -r D/inner",
    "rmdir D/inner",
    "chmod 600 L",
    "chmod 700 D",
    "touch -c -d 2002-02-02 D/canary D/victim && stat D/victim",
    "setfattr -n user.x -v y L",
    "getfattr -d D/canary",
    "$OCTROI mv P/f D/new",
    "$OCTROI mv D/canary P/got",
    "$OCTROI where D/canary",
    "$OCTROI undo D/canary",
    "cd D && ls",
];

/// Links in a branch: straight, below a folder, through a chain; first, middle and last.
const RELATIVE: [(&str, &str); 4] = [
    ("P/up", "P/out"),
    ("P/sub/up", "P/sub/out"),
    ("P/chain", "P/chains"),
    ("P/sub/via/up", "P/sub/via/out"),
];

fn plant(branch: &std::path::Path) {
    let at = |depth, name| Outside::from_depth(depth, name);
    let (file, folder) = (at(0, "secret"), at(0, "vault"));
    let (below_file, below_folder) = (at(1, "secret"), at(1, "vault"));
    let script = format!(
        "ln -s {file} up; ln -s {folder} out; ln -s {below_file} sub/up; ln -s {below_folder} sub/out; \
         ln -s up chain; ln -s out chains; ln -s .. sub/via; \
         ln -s ../secret absolute; ln -sfn $PWD/../secret absolute; ln -s $PWD/../vault absolutes; \
         ln -s loop loop; ln -s /proc/self/cwd proc; ln -s / root"
    );
    sh(branch, &script).ok();
}

fn attempts(place: &str, file: &str, folder: &str) -> Vec<String> {
    let fill = |attempt: &&str| {
        let attempt = attempt.replace('D', folder).replace('P', place).replace('L', file);
        // An option, not a link.
        attempt.replace(&format!("-{file}"), "-L")
    };
    ATTEMPTS.iter().map(fill).collect()
}

fn relative(place: &str) -> Vec<String> {
    let each = |(file, folder): &(&str, &str)| {
        attempts(place, &file.replace('P', place), &folder.replace('P', place))
    };
    RELATIVE.iter().flat_map(each).collect()
}

fn absolute(place: &str) -> Vec<String> {
    attempts(place, &format!("{place}/absolute"), &format!("{place}/absolutes"))
}

#[test]
fn a_relative_link_put_there_from_outside_is_followed_by_nobody() {
    let (scene, outside) = furnished();
    for branch in ["inbox", "disk1"] {
        plant(&scene.branch(branch));
    }
    let mount = scene.mount();
    let trial = Trial::new(&scene, &mount, &outside);
    trial.fails(&EVERYBODY, &relative("inbox"));
    trial.fails(&EVERYBODY, &relative("pool"));
    trial.end();
    mount.unmount();
}

#[test]
fn an_absolute_link_is_followed_in_the_caller_s_name_alone() {
    let (scene, outside) = furnished();
    for branch in ["inbox", "disk1"] {
        plant(&scene.branch(branch));
    }
    let mount = scene.mount();
    let trial = Trial::new(&scene, &mount, &outside);
    trial.fails(&[Who::User], &absolute("inbox"));
    let others = [
        "cat P/loop",
        "echo x >P/loop",
        "ls P/loop/",
        "cat P/root/etc/shadow",
        "ls P/root/proc/1/root/root",
        "mkdir P/root/new",
        "touch P/root/new",
    ];
    trial.fails(&[Who::User], &replaced(&others, "P", &["inbox", "pool"]));
    trial.end();
    mount.unmount();
}

#[test]
fn so_it_is_with_links_made_through_the_mount() {
    let (scene, outside) = furnished();
    let mount = scene.mount();
    // As the user who then tries.
    let make = "cd inbox && ln -s ../secret up; ln -s ../vault out; ln -s ../../secret sub/up; \
                ln -s ../../vault sub/out; ln -s up chain; ln -s out chains; ln -s .. sub/via; \
                ln -s BRANCHES/secret absolute; ln -s BRANCHES/vault absolutes";
    let branches = scene.base().join("branches");
    let make = make.replace("BRANCHES", branches.to_str().expect("UTF-8"));
    mount.sh_as("nobody", &make).ok();
    let trial = Trial::new(&scene, &mount, &outside);
    trial.fails(&[Who::User], &relative("inbox"));
    trial.fails(&[Who::User], &absolute("inbox"));
    trial.end();
    mount.unmount();
}

#[test]
fn a_link_crosses_as_a_link() {
    for other_disk in [false, true] {
        let scene = Scene::with(&super::BRANCHES, VIEW);
        let outside = Outside::new(&scene);
        let disk = other_disk.then(|| crate::disk::Disk::tmpfs(&scene, "review", "80M"));
        furnish(&scene.branch("inbox"));
        plant(&scene.branch("inbox"));
        sh(&scene.branch("inbox"), "mkdir t; mv up out absolute absolutes t; cp -P t/* .").ok();
        let mount = scene.mount();
        mount
            .sh("cd inbox; for l in up out absolute absolutes; do mv $l ../review/ || exit 1; done")
            .ok();
        mount.sh("mv inbox/t review/t; $OCTROI undo; mv -T inbox/t review/t").ok();
        for path in ["up", "out", "absolute", "absolutes"] {
            for folder in ["review", "review/t"] {
                let kind = mount.sh(&format!("stat -c %F {folder}/{path}")).ok();
                assert_eq!(kind, "symbolic link\n", "{folder}/{path}");
            }
        }
        // A link in the place of a target is replaced, not followed, and none is a way to a target.
        mount.sh("echo new >inbox/n; mv -T inbox/n review/up; cat review/up").ok();
        mount.sh("mv inbox/f review/out/f").refused();
        outside.untouched();
        mount.unmount();
        drop(disk);
    }
}

#[test]
fn a_gate_with_types_takes_no_link() {
    let (scene, outside) = furnished();
    plant(&scene.branch("inbox"));
    scene.configure(&VIEW.replace(
        "[gates.submit]\n",
        "[gates.submit]\ntypes = [\"text/plain\", \"application/octet-stream\"]\n",
    ));
    let mount = scene.mount();
    let trial = Trial::new(&scene, &mount, &outside);
    let attempts =
        ["mv -T inbox/up review/x", "mv -T inbox/out review/x", "mv -T inbox/sub review/x"];
    trial.fails(&EVERYBODY, &attempts.map(str::to_owned));
    trial.end();
    mount.unmount();
}
