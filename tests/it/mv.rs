//! `octroi mv`, the limits on crossings, and stopping one. A crossing that must still be under way when
//! the test looks is given a rate at which it would take hours: what is asserted are states, not times.

use std::fs;
use std::os::fd::AsFd;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use octroi::control::protocol::Answer;
use octroi::control::{Client, MoveClient, Received, mounts};
use rustix::fs::{Mode, OFlags};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::disk::Disk;
use crate::harness::{Ended, LAB, Mount, OCTROI, Scene, octroi, wait_for};

/// The second chunk of a file waits for hours.
pub const STUCK: &str = "[crossings]\nrate = \"1KiB\"\n";
/// Larger than what is read at once.
pub const LARGE: &str = "head -c 24M /dev/zero";

/// The usual view, with the target on a file system of its own and limits for crossings.
pub fn lab(limits: &str) -> (Scene, Disk) {
    let scene = Scene::with(&["inbox", "other", "review"], &format!("{LAB}{limits}"));
    let disk = Disk::tmpfs(&scene, "review", "128M");
    (scene, disk)
}

/// A command that runs beside the test; killed when dropped.
pub struct Running(Option<Child>);

impl Running {
    pub fn signal(&self, signal: Signal) {
        let child = self.0.as_ref().expect("it runs");
        kill_process(Pid::from_child(child), signal).expect("it is our child");
    }

    pub fn pid(&self) -> u32 {
        self.0.as_ref().expect("it runs").id()
    }

    pub fn end(mut self) -> Ended {
        let output = self.0.take().expect("it runs").wait_with_output().expect("it ends");
        Ended {
            code: output.status.code(),
            out: String::from_utf8_lossy(&output.stdout).into_owned(),
            err: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(mut child) = self.0.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Starts a command with paths below the mount.
pub fn start(mount: &Mount, program: &str, arguments: &[&str]) -> Running {
    let mut command = Command::new(program);
    for argument in arguments {
        match argument.strip_prefix('@') {
            Some(path) => command.arg(mount.path(path)),
            None => command.arg(argument),
        };
    }
    command.env("LC_ALL", "C").stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    Running(Some(command.spawn().expect("it starts")))
}

pub fn mv(mount: &Mount, arguments: &[&str]) -> Running {
    start(mount, OCTROI, &[&["mv"], arguments].concat())
}

pub fn active(scene: &Scene) -> Vec<Value> {
    let status = octroi(["status", "--json", "--view", scene.name()]).ok();
    let status: Value = serde_json::from_str(&status).expect("JSON");
    status["active"].as_array().expect("a list").clone()
}

/// Waits for a crossing that has begun its copy. (After another that was stopped it may not have copied
/// anything: what that one read counts for the rate.)
#[track_caller]
fn wait_until_stuck(scene: &Scene) -> String {
    wait_for("a crossing that copies", || {
        active(scene).iter().any(|found| found["step"] == "stage")
    });
    let stage = scene.branch("review").join(".octroi/stage");
    wait_for("the copy", || fs::read_dir(&stage).expect("stage").count() == 1);
    txid_of(scene, "/inbox/large")
}

#[track_caller]
pub fn txid_of(scene: &Scene, source: &str) -> String {
    let all = active(scene);
    let found = all.iter().find(|found| found["source"] == source).expect("it is under way");
    found["txid"].as_str().expect("a text").to_owned()
}

pub fn abort(scene: &Scene, txid: &str) -> Ended {
    octroi(["tx", "abort", txid, "--view", scene.name()])
}

/// The source is whole, and nothing is left of its copy.
#[track_caller]
fn assert_rolled_back(scene: &Scene, mount: &Mount) {
    assert_eq!(active(scene), Vec::<Value>::new());
    assert_eq!(mount.sh("stat -c %s inbox/large; ls -A review").ok(), "25165824\n");
    let stage = scene.branch("review").join(".octroi/stage");
    assert_eq!(fs::read_dir(stage).expect("stage").count(), 0, "a copy was left");
    let last = mount.ledger().into_iter().rfind(|line| line["kind"] == "crossing");
    assert_eq!(last.map(|line| line["step"].clone()), Some("abort".into()));
}

pub fn steps(mount: &Mount) -> Vec<String> {
    let crossings = mount.ledger().into_iter().filter(|line| line["kind"] == "crossing");
    crossings.map(|line| line["step"].as_str().expect("a step").to_owned()).collect()
}

#[test]
fn what_crosses_is_prepared_and_what_stays_in_its_branch_is_renamed() {
    let (scene, disk) = lab("");
    let mount = scene.mount();
    mount.sh("echo one >inbox/a; echo two >inbox/b; echo three >inbox/c; mkdir inbox/d").ok();
    let ended = mv(&mount, &["-v", "@inbox/a", "@review/a2"]).end();
    let said = ended.ok();
    assert!(said.contains("inbox/a -> ") && said.contains("crossing 0"), "{said}");
    assert_eq!(steps(&mount), ["prepare", "commit", "done"], "prepared once");

    let said = mv(&mount, &["--json", "@inbox/b", "@inbox/none", "@inbox/c", "@review"]).end();
    let lines: Vec<Value> =
        said.out.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    let outcomes: Vec<_> = lines.iter().map(|line| line["outcome"].as_str().unwrap()).collect();
    assert_eq!(outcomes, ["crossed", "failed", "crossed"], "{said:?}");
    assert_eq!(lines[0]["bytes"], 4);
    assert!(lines[1]["error"].as_str().expect("a text").contains("No such file"), "{said:?}");
    let txid = lines[2]["txid"].as_str().expect("an id");
    assert!(octroi(["tx", "show", txid, "--view", scene.name()]).ok().contains("/inbox/c"));
    assert!(said.fails(1).contains("inbox/none"));
    assert_eq!(mount.sh("cat review/*; ls inbox").ok(), "one\ntwo\nthree\nd\n");

    mount.sh("echo x >inbox/x; echo y >inbox/y").ok();
    let said = mv(&mount, &["-t", &format!("@{}", "inbox/d"), "@inbox/x", "@inbox/y"]);
    drop(said);
    let folder = mount.path("inbox/d");
    let folder = folder.to_str().expect("test paths are UTF-8");
    mount.sh("ls inbox/d | xargs -I{} mv inbox/d/{} inbox/").ok();
    let said = mv(&mount, &["-t", folder, "@inbox/x", "@inbox/y"]).end().ok();
    assert!(said.starts_with("2 moved: 0 B crossed in "), "{said}");
    assert_eq!(mount.sh("ls inbox/d").ok(), "x\ny\n");
    assert_eq!(steps(&mount).len(), 9, "no crossing");
    mount.unmount();
    drop(disk);
}

#[test]
fn names_are_taken_as_mv_takes_them() {
    let (scene, disk) = lab("");
    let mount = scene.mount();
    mount.sh("echo new >inbox/f; mkdir inbox/d; cp inbox/f inbox/g; mv inbox/g review/g").ok();
    let refused = |arguments: &[&str]| mv(&mount, arguments).end().fails(1);
    assert!(refused(&["-n", "@inbox/f", "@review/g"]).contains("exists"));
    assert!(refused(&["@inbox/f/", "@review/h"]).contains("Not a directory"));
    assert!(refused(&["@inbox/f", "@review/h/"]).contains("Not a directory"));
    assert!(refused(&["@inbox/f", "@inbox/f"]).contains("same file"));
    assert!(refused(&["@inbox/..", "@review"]).contains("not a name"));
    assert!(refused(&["@inbox/f", "@inbox/g", "@review/g"]).contains("not a directory"));
    assert!(refused(&["@inbox/f", "/tmp/f"]).contains("mv(1)"));
    assert!(refused(&["/etc/hostname", "@inbox/h"]).contains("mv(1)"));
    assert!(refused(&["/etc/hostname", "/tmp/no/h"]).contains("No such file"));
    let said = refused(&["@inbox/f", "@other/f"]);
    assert!(
        said.contains("no gate leads from inbox to other") && said.contains("octroi why"),
        "{said}"
    );
    assert!(refused(&["-T", "@inbox/f", "@inbox/d"]).contains("directory"));
    mv(&mount, &["@inbox/f"]).end().fails(2);
    mv(&mount, &["-T", "@inbox/f", "@inbox/d", "@review"]).end().fails(2);
    assert_eq!(mount.sh("cat inbox/f; ls inbox review").ok(), "new\ninbox:\nd\nf\n\nreview:\ng\n");
    mount.sh("echo newer >inbox/f").ok();
    mv(&mount, &["@inbox/f", "@review/g"]).end().ok();
    assert_eq!(mount.sh("cat review/g; ls inbox").ok(), "newer\nd\n");
    mount.sh("mkdir inbox/e inbox/to; echo one >inbox/d/x; echo two >inbox/e/x").ok();
    for (to, at) in [("@inbox/to", "inbox/to/x"), ("@review", "review/x")] {
        let said = mv(&mount, &["-f", "@inbox/d/x", "@inbox/e/x", to]).end().fails(1);
        assert!(said.contains("another source was just moved there"), "{said}");
        assert_eq!(mount.sh(&format!("cat {at} inbox/e/x")).ok(), "one\ntwo\n");
        mount.sh("echo one >inbox/d/x").ok();
    }
    mount.sh("rm -r inbox/[de] inbox/to review/x").ok();
    let odd = "mv=$(printf 'a\\377 \\nb'); echo odd >inbox/\"$mv\"; $OCTROI mv inbox/\"$mv\" review/ && \
               cat review/\"$mv\"";
    assert_eq!(mount.sh(odd).ok(), "odd\n");
    mount.unmount();
    drop(disk);
}

#[test]
fn how_far_it_is_is_told_a_line_a_second_or_not_at_all() {
    let (scene, disk) = lab("[crossings]\nrate = \"8MiB\"\n");
    let mount = scene.mount();
    mount.sh(&format!("{LARGE} >inbox/large; cp inbox/large inbox/quiet")).ok();
    let told = mv(&mount, &["@inbox/large", "@review"]).end();
    assert!(told.err.contains("inbox/large: ") && told.err.contains(" of 24.0 MiB"), "{told:?}");
    assert_eq!(told.ok(), "");
    let told = mv(&mount, &["-q", "@inbox/quiet", "@review"]).end();
    assert_eq!(told.err, "");
    told.ok();
    mount.unmount();
    drop(disk);
}

#[test]
fn others_work_in_the_same_folders_and_ctrl_c_leaves_nothing_behind() {
    let (scene, disk) = lab(STUCK);
    let mount = scene.mount();
    mount.sh(&format!("{LARGE} >inbox/large")).ok();
    for (signal, code, word) in
        [(Signal::INT, 130, "interrupted"), (Signal::TERM, 143, "terminated")]
    {
        let moving = mv(&mount, &["--json", "@inbox/large", "@review"]);
        let txid = wait_until_stuck(&scene);
        mount.sh("echo x >inbox/new && mkdir inbox/dir && mv inbox/new inbox/dir/ && rm -r inbox/dir").ok();
        mount.sh("mkdir review/dir && ls review/none; rmdir review/dir").ok();
        assert_eq!(txid_of(&scene, "/inbox/large"), txid, "it is still under way");
        let shown: Value = serde_json::from_str(
            &fs::read_to_string(mount.path(&format!(".audit/tx/active/{txid}.json")))
                .expect("live"),
        )
        .expect("JSON");
        assert_eq!((&shown["size"], &shown["step"]), (&25_165_824.into(), &"stage".into()));
        assert!(shown["bytes"].is_u64(), "{shown}");
        moving.signal(signal);
        let ended = moving.end();
        let told: Value = serde_json::from_str(&ended.out).expect("JSON");
        assert_eq!((&told["outcome"], &told["txid"]), (&"interrupted".into(), &txid.into()));
        let said = ended.fails(code);
        assert!(said.contains(word) && said.contains("is where it was"), "{said}");
        assert_rolled_back(&scene, &mount);
    }
    mount.unmount();
    drop(disk);
}

#[test]
fn a_client_that_is_killed_leaves_nothing_behind() {
    let (scene, disk) = lab(STUCK);
    let mount = scene.mount();
    mount.sh(&format!("{LARGE} >inbox/large")).ok();
    let moving = mv(&mount, &["@inbox/large", "@review"]);
    wait_until_stuck(&scene);
    moving.signal(Signal::KILL);
    moving.end();
    wait_for("the roll-back", || active(&scene).is_empty());
    assert_rolled_back(&scene, &mount);
    mount.unmount();
    drop(disk);
}

#[test]
fn a_plain_mv_makes_others_wait_and_can_be_aborted() {
    let (scene, disk) = lab(STUCK);
    let mount = scene.mount();
    mount.sh(&format!("{LARGE} >inbox/large")).ok();
    let moving = start(&mount, "mv", &["@inbox/large", "@review/large"]);
    let txid = wait_until_stuck(&scene);
    let touching = start(&mount, "touch", &["@inbox/new"]);
    wait_for("touch to wait in the kernel", || state_of(touching.pid()) == Some('D'));
    assert!(!scene.branch("inbox").join("new").exists());
    abort(&scene, &txid).ok();
    let said = moving.end().fails(1);
    assert!(said.contains("Operation canceled"), "{said}");
    touching.end().ok();
    assert_rolled_back(&scene, &mount);
    assert!(scene.branch("inbox").join("new").exists());
    let last = mount.ledger().into_iter().rfind(|line| line["kind"] == "crossing").expect("a line");
    assert_eq!(last["stopped_by"]["uid"], 0, "{last}");
    assert_ne!(last["stopped_by"]["pid"], last["pid"], "{last}");
    let shown = octroi(["tx", "show", &txid, "--view", scene.name()]).ok();
    assert!(shown.contains("stopped by   root, with octroi tx abort"), "{shown}");
    let why = octroi(["why", "--view", scene.name()]).ok();
    assert!(why.contains("/review/large failed\n  reason  user 0 stopped it with octroi"), "{why}");
    mount.unmount();
    drop(disk);
}

/// The state of a process by proc_pid_stat(5).
pub fn state_of(pid: u32) -> Option<char> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(") ")?.1.chars().next()
}

#[test]
fn crossings_wait_for_their_turn_and_can_be_aborted_there() {
    let (scene, disk) = lab(&format!("{STUCK}parallel = 1\n"));
    let mount = scene.mount();
    mount.sh(&format!("{LARGE} >inbox/large; : >inbox/second; echo 3 >inbox/third")).ok();
    let first = mv(&mount, &["@inbox/large", "@review"]);
    let txid = wait_until_stuck(&scene);
    let second = mv(&mount, &["@inbox/second", "@review"]);
    wait_for("the second", || active(&scene).len() == 2);
    let third = start(&mount, "mv", &["@inbox/third", "@review/third"]);
    wait_for("the third", || active(&scene).len() == 3);
    for source in ["/inbox/second", "/inbox/third"] {
        let all = active(&scene);
        let found = all.iter().find(|found| found["source"] == source).expect("it waits");
        assert_eq!(found["step"], "waiting");
        let shown = format!(".audit/tx/active/{}.json", found["txid"].as_str().expect("an id"));
        assert!(fs::read_to_string(mount.path(&shown)).expect("live").contains("\"waiting\""));
    }
    let list = octroi(["tx", "list", "--view", scene.name()]).ok();
    assert_eq!(list.matches(" waiting ").count(), 2, "{list}");
    abort(&scene, &txid_of(&scene, "/inbox/third")).ok();
    assert!(third.end().fails(1).contains("Operation canceled"));
    assert_eq!(steps(&mount), ["prepare"], "what waited was never begun");
    abort(&scene, &txid).ok();
    assert!(first.end().fails(1).contains("user 0 stopped it with octroi tx abort"));
    // It is empty, and its turn has come.
    second.end().ok();
    assert_eq!(mount.sh("ls review; cat inbox/third").ok(), "second\n3\n");
    mount.unmount();
    drop(disk);
}

#[test]
fn others_neither_see_nor_stop_nor_finish_it() {
    let (scene, disk) = lab(STUCK);
    let mount = scene.mount();
    mount.sh(&format!("chmod 777 inbox review; {LARGE} >inbox/large")).ok();
    let moving = mv(&mount, &["@inbox/large", "@review"]);
    let txid = wait_until_stuck(&scene);
    let as_nobody = |script: &str| mount.sh_as("nobody", script);
    let list = as_nobody("$OCTROI tx list").ok();
    assert!(!list.contains(&txid), "{list}");
    for command in ["show", "abort"] {
        let said = as_nobody(&format!("$OCTROI tx {command} {txid}")).fails(1);
        assert!(said.contains("no such transaction"), "{said}");
    }
    for (command, why) in [("mv", "busy"), ("$OCTROI mv", "another crossing")] {
        let said = as_nobody(&format!("{command} inbox/large review/large")).fails(1);
        assert!(said.contains(why), "{said}");
    }
    assert_eq!(txid_of(&scene, "/inbox/large"), txid);
    abort(&scene, &txid).ok();
    let again = abort(&scene, &txid).fails(1);
    assert!(again.contains("rolled back"), "{again}");
    assert!(moving.end().fails(1).contains("user 0 stopped it with octroi tx abort"));
    assert_rolled_back(&scene, &mount);
    mount.unmount();
    drop(disk);
}

#[test]
fn what_is_done_is_undone_and_not_aborted() {
    let (scene, disk) = lab("");
    let mount = scene.mount();
    mount.sh("echo x >inbox/f; $OCTROI mv inbox/f review/").ok();
    let list = octroi(["tx", "list", "--json", "--view", scene.name()]).ok();
    let list: Value = serde_json::from_str(&list).expect("JSON");
    let txid = list[0]["txid"].as_str().expect("an id");
    assert!(abort(&scene, txid).fails(1).contains("octroi undo"));
    octroi(["undo", txid, "--view", scene.name()]).ok();
    assert!(abort(&scene, txid).fails(1).contains("undone"));
    assert_eq!(mount.sh("cat inbox/f").ok(), "x\n");
    mount.unmount();
    drop(disk);
}

#[test]
fn what_is_open_for_writing_stays_and_it_is_said() {
    let (scene, disk) = lab("");
    let mount = scene.mount();
    mount.sh("mkdir inbox/d; echo x >inbox/d/f").ok();
    for name in ["d", "d/f"] {
        let said =
            mount.sh(&format!("exec 7>>inbox/d/f; $OCTROI mv inbox/{name} review/")).fails(1);
        assert!(said.contains("open for writing"), "{said}");
    }
    mount.sh("$OCTROI mv inbox/d review/").ok();
    mount.unmount();
    drop(disk);
}

#[test]
fn who_may_not_rename_has_nothing_copied() {
    let (scene, disk) = lab("");
    let mount = scene.mount();
    mount.sh("echo x >inbox/f").ok();
    let cases = [
        ("755", "777", "permission denied: you may not write in /inbox"),
        ("777", "755", "permission denied: you may not write in /review"),
        ("1777", "777", "/inbox is sticky, and neither it nor /inbox/f is yours"),
    ];
    for (inbox, review, why) in cases {
        mount.sh(&format!("chmod {inbox} inbox; chmod {review} review")).ok();
        let said = mount.sh_as("nobody", "$OCTROI mv inbox/f review/f").fails(1);
        assert!(said.contains(why), "{inbox} {review}: {said}");
    }
    assert_eq!(steps(&mount), Vec::<String>::new());
    mount.sh("chmod 777 inbox review").ok();
    mount.sh_as("nobody", "$OCTROI mv inbox/f review/f").ok();
    assert_eq!(mount.sh("cat review/f").ok(), "x\n");
    mount.unmount();
    drop(disk);
}

/// Asks as `octroi mv` does, from one folder to another.
fn ask(mount: &Mount, source: &Path, target: &Path) -> MoveClient {
    let view = mounts::views().expect("mounts");
    let view = view.into_iter().find(|view| view.mountpoint == mount.root()).expect("mounted");
    let client = Client::find(&view).expect("it answers");
    let open = |path: &Path| {
        rustix::fs::open(path, OFlags::PATH | OFlags::DIRECTORY, Mode::empty()).expect("open")
    };
    let (source, target) = (open(source), open(target));
    let name = std::ffi::OsStr::new("f");
    client.begin_move((source.as_fd(), name), (target.as_fd(), name), false, None).expect("asked")
}

#[track_caller]
fn answer(client: &mut MoveClient) -> Answer {
    let mut answer = None;
    wait_for("an answer", || match client.receive().expect("an answer") {
        Received::Answer(Answer::Moving(_)) | Received::Nothing => false,
        Received::Answer(found) => {
            answer = Some(found);
            true
        }
        Received::Closed => panic!("hung up"),
    });
    answer.expect("waited for")
}

#[test]
fn what_is_prepared_belongs_to_its_user_and_ends_with_its_client() {
    let (scene, disk) = lab("");
    let mount = scene.mount();
    mount.sh("echo x >inbox/f; chmod 777 review").ok();
    let mut client = ask(&mount, &mount.path("inbox"), &mount.path("review"));
    assert!(matches!(answer(&mut client), Answer::Ready { txid: Some(_), .. }));
    mount.sh("mv inbox/f inbox/g").refused();
    assert_eq!(steps(&mount), ["prepare"]);
    mount.sh("mv inbox/f review/f").ok();
    assert_eq!(steps(&mount), ["prepare", "commit", "done"], "what was prepared is committed");
    drop(client);

    mount.sh("echo y >inbox/f; rm review/f; chmod 777 inbox").ok();
    let client = {
        let mut client = ask(&mount, &mount.path("inbox"), &mount.path("review"));
        assert!(matches!(answer(&mut client), Answer::Ready { txid: Some(_), .. }));
        client
    };
    assert!(mount.sh_as("nobody", "mv inbox/f review/f").fails(1).contains("busy"));
    client.give_up();
    wait_for("the roll-back", || active(&scene).is_empty());
    let late = mount.sh("mv inbox/f review/f").fails(1);
    assert!(late.contains("Operation canceled"), "{late}");
    drop(client);
    wait_for("the names to be free", || {
        mount.sh_as("nobody", "mv inbox/f review/f").code == Some(0)
    });
    mount.unmount();
    drop(disk);
}

#[test]
fn folders_of_other_file_systems_mean_nothing_here() {
    let (scene, disk) = lab("");
    let mount = scene.mount();
    mount.sh("echo x >inbox/f").ok();
    let outside = scene.base().join("plain");
    fs::write(outside.join("f"), "x").expect("write");
    for (source, target) in [
        (outside.as_path(), mount.path("review").as_path()),
        (mount.path("inbox").as_path(), outside.as_path()),
        (scene.branch("inbox").as_path(), scene.branch("review").as_path()),
    ] {
        let mut client = ask(&mount, source, target);
        let found = answer(&mut client);
        assert!(
            matches!(&found, Answer::NotMoved { result, .. } if result == "EXDEV"),
            "{found:?}"
        );
    }
    assert_eq!(steps(&mount), Vec::<String>::new());
    mount.unmount();
    drop(disk);
}
