//! Programs that know what every byte must be, on a checked branch, a passthrough branch and a pool at
//! once: short forms of what `scripts/prove` runs for hours.

use std::fs;
use std::thread;

use crate::harness::{Mount, Scene, cargo_home, require_root, sh};

pub const PLACES: [&str; 3] = ["work", "fast", "pool"];

const THREE_KINDS: &str = r#"
[branches.work]
path = "branches/work"
[branches.fast]
path = "branches/fast"
io = "passthrough"
[branches.one]
path = "branches/one"
[branches.two]
path = "branches/two"
[pools.pool]
members = ["one", "two"]
"#;

/// A checked branch, one that is passed through, and a pool, at [`PLACES`].
pub fn three_kinds() -> Scene {
    require_root();
    Scene::with(&["work", "fast", "one", "two"], THREE_KINDS)
}

/// Runs a script in all three places at once; what each printed must satisfy `expect`.
#[track_caller]
fn in_all_places(mount: &Mount, script: &str, expect: impl Fn(&str, &str) + Sync) {
    let caller = std::panic::Location::caller();
    thread::scope(|scope| {
        for place in PLACES {
            let expect = &expect;
            scope.spawn(move || {
                let ended = sh(&mount.path(place), script);
                assert_eq!(ended.code, Some(0), "{caller}: {place}: {}{}", ended.out, ended.err);
                expect(place, &ended.out);
            });
        }
    });
}

/// Unmounts; the daemon must have had nothing to complain of.
#[track_caller]
fn unmount_quietly(scene: &Scene, mount: Mount) {
    mount.unmount();
    let said = fs::read_to_string(scene.base().join("daemon.log")).expect("the log is readable");
    let trouble = |line: &&str| line.contains("ERROR") || line.contains("panicked");
    let trouble: Vec<_> = said.lines().filter(trouble).collect();
    assert!(trouble.is_empty(), "{} lines, such as {}", trouble.len(), trouble[0]);
}

#[test]
fn random_operations_and_mappings_read_what_was_written() {
    let scene = three_kinds();
    let config = "flen = 524288\nnomsyncafterwrite = true\n[weights]\nclose_open = 1\nread = 10\n\
                  write = 10\nmapread = 10\nmapwrite = 10\ninvalidate = 1\ntruncate = 5\n\
                  fsync = 0.1\nfdatasync = 0.1\nposix_fallocate = 1\npunch_hole = 1\nsendfile = 5\n\
                  posix_fadvise = 1\ncopy_file_range = 5\n";
    fs::write(scene.base().join("fsx.toml"), config).expect("written");
    let mount = scene.mount();
    let base = scene.base().display();
    let script = format!(
        "PATH=$PATH:{}/bin; fsx -q -S 20261125 -N 7000 -f {base}/fsx.toml -P {base} file 2>&1",
        cargo_home().display()
    );
    in_all_places(&mount, &script, |place, out| {
        assert!(out.contains("All operations completed"), "{place}: {out}");
    });
    unmount_quietly(&scene, mount);
}

#[test]
fn eight_jobs_read_back_the_blocks_that_they_wrote() {
    let scene = three_kinds();
    let mount = scene.mount();
    let fio = |way: &str| {
        format!(
            "fio --directory=. --numjobs=8 --size=2M --rw=randwrite --verify=crc32c --verify_fatal=1 {way} \
             --verify_state_save=0 --fallocate=none --group_reporting --minimal \
             --name=buffered --ioengine=psync --bsrange=4k-128k \
             --name=direct --ioengine=libaio --direct=1 --iodepth=8 --bs=8k \
             --name=mapped --ioengine=mmap --bs=4k"
        )
    };
    in_all_places(&mount, &fio("--do_verify=1"), |_, _| ());
    // Again without what the kernel has of it.
    mount.unmount();
    let mount = scene.mount();
    in_all_places(&mount, &fio("--verify_only=1"), |_, _| ());
    unmount_quietly(&scene, mount);
}

#[test]
fn eight_writers_of_a_database_lose_no_row() {
    let scene = three_kinds();
    let mount = scene.mount();
    let script = "set -e; for journal in delete wal; do
        db=$journal.db; sqlite3 $db \"pragma journal_mode=$journal; create table t(writer, n, data)\" >/dev/null
        pids=(); for w in 1 2 3 4 5 6 7 8; do (for n in $(seq 12); do
            sqlite3 -cmd '.timeout 120000' $db \"begin immediate; insert into t values($w, $n, randomblob(3000)); commit\" || exit 1
        done) & pids+=($!); done
        for pid in ${pids[@]}; do wait $pid; done; done";
    in_all_places(&mount, script, |_, _| ());
    // Again without what the kernel has of it.
    mount.unmount();
    let mount = scene.mount();
    let look = "for db in delete.db wal.db; do sqlite3 $db 'pragma integrity_check; select count(*), \
                count(distinct writer * 100 + n), sum(length(data)) from t; vacuum; pragma integrity_check'; done";
    in_all_places(&mount, look, |place, out| {
        assert_eq!(out, "ok\n96|96|288000\nok\n".repeat(2), "{place}");
    });
    unmount_quietly(&scene, mount);
}

#[test]
fn clients_of_a_file_server_get_the_answers_that_were_recorded() {
    let scene = three_kinds();
    let mount = scene.mount();
    let script = "dbench -D . -t 3 -x -S 4 2>&1";
    in_all_places(&mount, script, |place, out| {
        let told = |line: &&str| line.starts_with("Throughput ");
        let wrong = |line: &&str| {
            line.starts_with('[') || line.contains("ERROR") || line.contains("Child failed")
        };
        assert!(
            out.lines().any(|line| told(&line)) && !out.lines().any(|line| wrong(&line)),
            "{place}: {out}"
        );
    });
    unmount_quietly(&scene, mount);
}

#[test]
fn stressors_at_once_find_nothing_wrong() {
    let scene = three_kinds();
    let mount = scene.mount();
    let script = "stress-ng --temp-path . --timeout 3s --verify --dentry 1 \
                  --dentries 256 --fallocate 1 --fallocate-bytes 8M --iomix 1 --iomix-bytes 8M \
                  --link 1 --rename 1 --symlink 1 --xattr 1 2>&1; code=$?; ls -A; exit $code";
    in_all_places(&mount, script, |place, out| {
        assert!(!out.contains("fail:") && !out.contains("error:"), "{place}: {out}");
    });
    unmount_quietly(&scene, mount);
}

#[test]
fn calls_that_signals_interrupt_go_on_and_are_no_error_of_the_daemon() {
    let scene = three_kinds();
    let mount = scene.mount();
    let script = "python3 -c '
import os, signal, time
count = 0
def tick(*_):
    global count
    count += 1
signal.signal(signal.SIGALRM, tick)
signal.setitimer(signal.ITIMER_REAL, 0.0003, 0.0003)
end = time.monotonic() + 2
number = 0
while time.monotonic() < end:
    number += 1
    name = f\"f{number % 7}\"
    with open(name, \"wb\") as file:
        file.write(b\"x\" * number)
        file.flush()
        os.fsync(file.fileno())
    assert os.stat(name).st_size == number
    os.rename(name, \"g\")
    os.unlink(\"g\")
signal.setitimer(signal.ITIMER_REAL, 0)
print(count > 100, number > 10)'";
    in_all_places(&mount, script, |place, out| assert_eq!(out, "True True\n", "{place}"));
    unmount_quietly(&scene, mount);
}
