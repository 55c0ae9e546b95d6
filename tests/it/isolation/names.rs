//! `..` in every position, and hard links across.

use rustix::fs::{AtFlags, CWD, Mode, OFlags, RenameFlags};

use super::{EVERYBODY, Trial, furnished, replaced};
use crate::harness::sh;

#[test]
fn dot_dot_leads_no_higher_than_the_mount_s_own_tree() {
    let (scene, outside) = furnished();
    let mount = scene.mount();
    let trial = Trial::new(&scene, &mount, &outside);
    // From the root of the branch, from below, after what exists and after what does not.
    let ways =
        ["P/..", "P/d/../..", "P/./../P/..", "P/d/e/../../..", "P//..", "P/none/..", "P/f/.."];
    let attempts = [
        "cat W/secret",
        "cat W/vault/canary",
        "ls W/vault",
        "stat W/secret",
        "echo x >W/secret",
        "touch W/vault/new",
        "mkdir W/new",
        "mkdir W/vault/new",
        "mkfifo W/new",
        "ln -s x W/new",
        "ln P/f W/new",
        "mv P/f W/new",
        "mv P/f W/vault/new",
        "rm W/vault/canary",
        "rmdir W/vault/inner",
        "mv W/vault/canary P/got",
        "cp W/secret P/got",
        "truncate -s 0 W/secret",
        "chmod 600 W/vault",
        "$OCTROI mv P/f W/vault/new",
        "$OCTROI mv W/vault/canary P/got",
        "$OCTROI where W/secret",
        "$OCTROI undo W/secret",
    ];
    for place in ["inbox", "review", "pool"] {
        for way in ways {
            let attempts: Vec<String> = attempts
                .iter()
                .map(|attempt| attempt.replace('W', way).replace('P', place))
                .collect();
            trial.fails(&EVERYBODY, &attempts);
        }
    }
    trial.end();
    mount.unmount();
}

#[test]
fn dot_and_dot_dot_are_no_names() {
    let (scene, outside) = furnished();
    let mount = scene.mount();
    let trial = Trial::new(&scene, &mount, &outside);
    let attempts = [
        "mkdir P/.",
        "mkdir P/..",
        "rmdir P/.",
        "rmdir P/..",
        "rm -r P/.",
        "mv -T P/d P/..",
        "mv -T P/.. P/x",
        "mv -T P/. P/x",
        "ln -T P/f P/..",
        "ln -sT x P/.",
        "mv -T P/d P/d/e/x",
        "mv -T P/d P/d/x",
    ];
    trial.fails(&EVERYBODY, &replaced(&attempts, "P", &["inbox", "review", "pool"]));
    trial.end();
    mount.unmount();
}

#[test]
fn a_hard_link_never_leaves_its_branch() {
    let (scene, outside) = furnished();
    sh(&scene.base().join("plain"), "umask 0; echo plain >p; mkdir d").ok();
    let mount = scene.mount();
    let trial = Trial::new(&scene, &mount, &outside);
    let attempts = [
        "ln inbox/f review/h",
        "ln review/f inbox/h",
        "ln inbox/f pool/h",
        "ln pool/f inbox/h",
        "ln inbox/f h",
        "ln inbox/f ../plain/h",
        "ln pool/f ../plain/h",
        "ln ../plain/p inbox/h",
        "ln ../plain/p pool/d/h",
        "ln -L /proc/self/fd/0 inbox/h <../plain/p",
        "ln -L /proc/self/fd/0 ../plain/h <inbox/f",
        "ln -L /proc/self/fd/0 review/h <inbox/f",
        "ln inbox/d inbox/h",
        "ln inbox review/h",
        "ln inbox/f inbox/d/e/h/x",
    ]
    .map(str::to_owned);
    trial.fails(&EVERYBODY, &attempts);
    let open = |path: &str| {
        rustix::fs::open(mount.path(path), OFlags::PATH | OFlags::CLOEXEC, Mode::empty())
    };
    let file = open("inbox/f").expect("open");
    for target in ["review/h", "pool/h", "h", "../plain/h"] {
        let linked = rustix::fs::linkat(&file, "", CWD, mount.path(target), AtFlags::EMPTY_PATH);
        assert!(linked.is_err(), "{target}");
        let renamed = rustix::fs::renameat_with(
            CWD,
            mount.path("inbox/f"),
            CWD,
            mount.path(target).parent().expect("a folder").join("f"),
            RenameFlags::EXCHANGE,
        );
        assert!(renamed.is_err(), "an exchange with {target}");
    }
    drop(file);
    trial.end();
    assert_eq!(sh(&scene.base().join("plain"), "ls; cat p").ok(), "d\np\nplain\n");
    mount.unmount();
}

#[test]
fn a_file_with_a_link_outside_does_not_cross() {
    let (scene, _) = furnished();
    // Put into the branch from outside: what is written to it is written outside too, as its owner
    // wanted. To cross it would take the file outside along.
    sh(
        &scene.base().join("branches"),
        "ln secret inbox/hard; mkdir inbox/t; ln secret inbox/t/hard",
    )
    .ok();
    let before = super::facts(&scene.base().join("branches"), "secret");
    let mount = scene.mount();
    for attempt in
        ["mv inbox/hard review/x", "mv inbox/t review/x", "$OCTROI mv inbox/hard review/x"]
    {
        let said = mount.sh(attempt).refused();
        assert!(said.contains("names") || said.contains("not permitted"), "{attempt}: {said}");
    }
    mount.unmount();
    assert_eq!(super::facts(&scene.base().join("branches"), "secret"), before);
}
