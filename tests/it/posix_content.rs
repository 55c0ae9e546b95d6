//! Content of files: everything that reads or writes bytes behaves in a branch as it does in a plain
//! directory, whether the daemon or the kernel does the reading and writing.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::Path;

use rustix::fs::{FallocateFlags, Mode, OFlags};

use crate::compare::{same_as_plain, same_script};
use crate::harness::{Scene, sh};

fn content(path: &Path) -> Result<String, rustix::io::Errno> {
    match fs::read(path) {
        Ok(bytes) => Ok(String::from_utf8_lossy(&bytes).into_owned()),
        Err(error) => Err(rustix::io::Errno::from_io_error(&error).expect("an errno")),
    }
}

#[test]
fn open_flags() {
    same_as_plain(|dir, log| {
        let file = dir.join("f");
        fs::write(&file, "0123456789").expect("write");
        fs::create_dir(dir.join("d")).expect("mkdir");
        std::os::unix::fs::symlink("f", dir.join("link")).expect("symlink");
        let cases = [
            ("excl", "f", OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY),
            ("excl on a link", "link", OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY),
            ("nofollow", "link", OFlags::NOFOLLOW | OFlags::RDONLY),
            ("directory flag on a file", "f", OFlags::DIRECTORY | OFlags::RDONLY),
            ("directory for writing", "d", OFlags::WRONLY),
            ("missing", "missing", OFlags::RDWR),
            ("below a file", "f/x", OFlags::RDONLY),
            ("path", "f", OFlags::PATH),
            ("sync", "f", OFlags::RDWR | OFlags::SYNC),
            ("dsync", "f", OFlags::RDWR | OFlags::DSYNC),
            ("noatime", "f", OFlags::RDONLY | OFlags::NOATIME),
            ("nonblock", "f", OFlags::RDWR | OFlags::NONBLOCK),
        ];
        for (what, name, flags) in cases {
            let opened = rustix::fs::open(dir.join(name), flags | OFlags::CLOEXEC, Mode::RUSR);
            log.note(what, opened.map(drop));
        }
        log.note("untouched", content(&file));
        log.note("truncated", OpenOptions::new().write(true).truncate(true).open(&file).map(drop));
        log.note("empty", content(&file));
        let created =
            OpenOptions::new().write(true).create_new(true).mode(0o640).open(dir.join("n"));
        log.note("created", created.map(drop));
        log.note("mode", fs::metadata(dir.join("n")).map(|meta| meta.mode()).map_err(drop));
    });
}

#[test]
fn appenders_do_not_overwrite_each_other() {
    same_as_plain(|dir, log| {
        let path = dir.join("log");
        let open = || OpenOptions::new().append(true).create(true).open(&path).expect("open");
        let (mut first, mut second) = (open(), open());
        for round in 0..20 {
            writeln!(first, "first {round}").expect("append");
            writeln!(second, "second {round}").expect("append");
        }
        log.note("append", content(&path));
        // pwrite(2) on Linux appends to O_APPEND descriptors whatever the offset says.
        log.note("pwrite", first.write_at(b"end", 0).map_err(drop));
        log.note("end", content(&path).map(|text| text.ends_with("end")));
    });
}

#[test]
fn truncate_shortens_and_extends_with_zeros() {
    same_as_plain(|dir, log| {
        let path = dir.join("f");
        fs::write(&path, "0123456789").expect("write");
        let file = OpenOptions::new().read(true).write(true).open(&path).expect("open");
        for length in [4, 12, 0, 70_000, 3] {
            log.note("ftruncate", file.set_len(length).map_err(drop));
            log.note("length", fs::metadata(&path).map(|meta| meta.len()).map_err(drop));
            let mut bytes = Vec::new();
            File::open(&path).expect("open").read_to_end(&mut bytes).expect("read");
            let sum: u64 = bytes.iter().map(|byte| u64::from(*byte)).sum();
            log.note("content", Ok::<_, ()>((bytes.len(), sum)));
        }
    });
    same_script(
        "echo abc >f; truncate -s 2 f; cat f; truncate -s 5 f; od -c f; truncate -s -9 f; echo $?",
    );
}

#[test]
fn a_written_range_is_read_back_at_every_alignment() {
    same_as_plain(|dir, log| {
        let path = dir.join("f");
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(true).open(path);
        let file = file.expect("open");
        let block: Vec<u8> = (0..150_000u32).map(|at| (at % 251) as u8).collect();
        for (offset, length) in [(0, 1), (4095, 2), (4096, 4096), (131_071, 140_000), (1 << 20, 7)]
        {
            log.note("write", file.write_at(&block[..length], offset).map_err(drop));
            let mut back = vec![0; length];
            log.note("read", file.read_exact_at(&mut back, offset).map_err(drop));
            assert_eq!(back, &block[..length], "offset {offset}, length {length}");
        }
        log.note("past the end", file.read_at(&mut [0; 8], 9 << 20).map_err(drop));
    });
}

#[test]
fn preallocation_and_punched_holes() {
    same_as_plain(|dir, log| {
        let path = dir.join("f");
        fs::write(&path, vec![7u8; 65_536]).expect("write");
        let file = OpenOptions::new().read(true).write(true).open(&path).expect("open");
        let punch = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        log.note("grow", rustix::fs::fallocate(&file, FallocateFlags::empty(), 0, 131_072));
        log.note("grown", file.metadata().map(|meta| meta.len()).map_err(drop));
        log.note("keep", rustix::fs::fallocate(&file, FallocateFlags::KEEP_SIZE, 0, 1 << 20));
        log.note("kept", file.metadata().map(|meta| meta.len()).map_err(drop));
        log.note("punch", rustix::fs::fallocate(&file, punch, 8192, 16_384));
        let bytes = fs::read(&path).expect("read");
        log.note("sevens", Ok::<_, ()>(bytes.iter().filter(|byte| **byte == 7).count()));
        log.note("zero", rustix::fs::fallocate(&file, FallocateFlags::ZERO_RANGE, 0, 4096));
        let bytes = fs::read(&path).expect("read");
        log.note("sevens", Ok::<_, ()>(bytes.iter().filter(|byte| **byte == 7).count()));
        log.note("empty range", rustix::fs::fallocate(&file, FallocateFlags::KEEP_SIZE, 0, 0));
        let reader = File::open(&path).expect("open");
        log.note("reader", rustix::fs::fallocate(&reader, FallocateFlags::KEEP_SIZE, 0, 1));
    });
}

#[test]
fn data_and_holes_are_found() {
    same_as_plain(|dir, log| {
        let path = dir.join("sparse");
        let file = OpenOptions::new().write(true).create_new(true).open(&path);
        let file = file.expect("open");
        file.set_len(4 << 20).expect("extend");
        file.write_at(b"data", 1 << 20).expect("write");
        file.sync_all().expect("sync");
        for offset in [0, 1 << 20, 2 << 20, 4 << 20] {
            log.note("data", rustix::fs::seek(&file, rustix::fs::SeekFrom::Data(offset)));
            log.note("hole", rustix::fs::seek(&file, rustix::fs::SeekFrom::Hole(offset)));
        }
        let small = fs::metadata(&path).map(|meta| meta.blocks() < 64).map_err(drop);
        log.note("few blocks", small);
        let mut file = file;
        log.note("end", file.seek(SeekFrom::End(-4)).map_err(drop));
    });
}

#[test]
fn copy_file_range_within_a_branch() {
    same_as_plain(|dir, log| {
        let body: Vec<u8> = (0..300_000u32).map(|at| (at % 253) as u8).collect();
        fs::write(dir.join("a"), &body).expect("write");
        let from = File::open(dir.join("a")).expect("open");
        let to = File::create(dir.join("b")).expect("create");
        let mut offset = 100;
        let mut copied = 0;
        while copied < 200_000 {
            let step =
                rustix::fs::copy_file_range(&from, Some(&mut offset), &to, None, 200_000 - copied);
            let step = step.expect("copy_file_range");
            assert!(step > 0, "copied {copied}");
            copied += step;
        }
        let back = fs::read(dir.join("b")).expect("read");
        log.note("same", Ok::<_, ()>(back == body[100..200_100]));
    });
}

#[test]
fn an_unlinked_open_file_lives_on() {
    same_as_plain(|dir, log| {
        let path = dir.join("f");
        let mut file =
            OpenOptions::new().read(true).write(true).create_new(true).open(&path).expect("open");
        file.write_all(b"before").expect("write");
        fs::remove_file(&path).expect("unlink");
        log.note("name is gone", content(&path));
        log.note("write", file.write_all(b" and after").map_err(drop));
        log.note("links", file.metadata().map(|meta| (meta.nlink(), meta.len())).map_err(drop));
        let mut text = String::new();
        file.seek(SeekFrom::Start(0)).expect("seek");
        log.note("read", file.read_to_string(&mut text).map_err(drop));
        log.note("text", Ok::<_, ()>(text));
        log.note("truncate", file.set_len(3).map_err(drop));
        log.note("chmod", rustix::fs::fchmod(&file, Mode::RUSR));
        log.note("mode", file.metadata().map(|meta| meta.mode() & 0o777).map_err(drop));
        // The name is free for another file, which is another inode.
        fs::write(&path, "new").expect("write");
        let other = fs::metadata(&path).expect("stat").ino();
        log.note("other inode", file.metadata().map(|meta| meta.ino() != other).map_err(drop));
        log.note("new", content(&path));
    });
}

#[test]
fn a_replaced_open_file_lives_on() {
    same_as_plain(|dir, log| {
        fs::write(dir.join("old"), "old").expect("write");
        fs::write(dir.join("new"), "new").expect("write");
        let mut old = File::open(dir.join("old")).expect("open");
        fs::rename(dir.join("new"), dir.join("old")).expect("rename");
        let mut text = String::new();
        log.note("read", old.read_to_string(&mut text).map_err(drop));
        log.note("text", Ok::<_, ()>(text));
        log.note("name", content(&dir.join("old")));
    });
}

#[test]
fn syncing_files_and_directories() {
    same_as_plain(|dir, log| {
        let mut file = File::create(dir.join("f")).expect("create");
        file.write_all(b"x").expect("write");
        log.note("fsync", file.sync_all().map_err(drop));
        log.note("fdatasync", file.sync_data().map_err(drop));
        log.note("fsyncdir", File::open(dir).expect("open").sync_all().map_err(drop));
    });
}

#[test]
fn shared_mappings_store_and_are_seen() {
    same_script(
        r#"cat >map.py <<'PY'
import mmap, os
fd = os.open("mapped", os.O_RDWR | os.O_CREAT, 0o600)
os.ftruncate(fd, 3 * 4096)
m = mmap.mmap(fd, 3 * 4096)
m[4096:4101] = b"store"
m.flush()
print(os.pread(fd, 5, 4096))
os.pwrite(fd, b"write", 8192)
print(m[8192:8197])
private = mmap.mmap(fd, 4096, flags=mmap.MAP_PRIVATE)
private[0:4] = b"mine"
print(os.pread(fd, 4, 0))
m.close()
os.close(fd)
print(open("mapped", "rb").read(4101)[-5:])
PY
python3 map.py; stat -c %s mapped; sha256sum mapped"#,
    );
}

#[test]
fn locks_are_seen_by_other_processes() {
    same_script(
        r#"touch f
exec 9<>f
flock -x 9 && flock -n f true; echo "flock while held: $?"
flock -u 9; flock -n f true; echo "flock when free: $?"
cat >lock.py <<'PY'
import fcntl, os, subprocess, sys
fd = os.open("f", os.O_RDWR)
if len(sys.argv) > 1:
    start = int(sys.argv[1])
    try:
        fcntl.lockf(fd, fcntl.LOCK_EX | fcntl.LOCK_NB, 10, start)
        print("got", start)
    except OSError as error:
        print("refused", start, error.errno)
else:
    fcntl.lockf(fd, fcntl.LOCK_EX, 10, 0)
    for start in ("5", "10"):
        print(subprocess.run([sys.executable, "lock.py", start], capture_output=True).stdout)
PY
python3 lock.py"#,
    );
}

#[test]
fn scripts_and_binaries_run() {
    same_script(
        r#"printf '#!/bin/sh\necho ran with $1\n' >script; chmod 755 script; ./script one
cp /bin/echo ./binary; ./binary two
cp /bin/echo ./plain; chmod 644 plain; ./plain three 2>/dev/null; echo "not executable: $?"
./binary >/dev/null & wait $!; echo "ended: $?""#,
    );
}

#[test]
fn a_running_binary_cannot_be_written() {
    let scene = Scene::lab();
    let mount = scene.mount();
    let ended = mount.sh(
        "cp /bin/sleep inbox/s && ./inbox/s 30 & pid=$!; sleep 0.5; echo x >>inbox/s; code=$?; \
         kill $pid; exit $code",
    );
    assert!(ended.fails(1).contains("Text file busy"));
    mount.unmount();
}

#[test]
fn many_writers_of_one_file_lose_nothing() {
    let scene = Scene::lab();
    let mount = scene.mount();
    let path = mount.path("inbox/shared");
    File::create(&path).expect("create").set_len(8 * 64 * 1024).expect("extend");
    std::thread::scope(|scope| {
        for writer in 0..8u8 {
            let path = &path;
            scope.spawn(move || {
                let file = OpenOptions::new().write(true).open(path).expect("open");
                for block in 0..64 {
                    let offset = (block * 8 + u64::from(writer)) * 1024;
                    file.write_all_at(&[writer + 1; 1024], offset).expect("write");
                }
            });
        }
    });
    for (block, bytes) in fs::read(&path).expect("read").chunks(1024).enumerate() {
        let expected = u8::try_from(block % 8 + 1).expect("small");
        assert!(bytes.iter().all(|byte| *byte == expected), "block {block}");
    }
    mount.unmount();
}

#[test]
fn what_was_written_is_in_the_branch() {
    let scene = Scene::lab();
    let mount = scene.mount();
    mount.sh("echo hello >inbox/f; mkdir inbox/d; ln -s f inbox/l; mkfifo inbox/p").ok();
    mount.unmount();
    let seen =
        sh(&scene.base().join("branches/inbox"), "cat f; readlink l; stat -c %F d p; ls").ok();
    assert_eq!(seen, "hello\nf\ndirectory\nfifo\nd\nf\nl\np\n");
}
