//! What is done through what is already open, or mapped, while something else happens.

use std::fs;
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use rustix::fs::{Mode, OFlags};

use crate::disk::Disk;
use crate::harness::{OCTROI, sh};
use crate::integrity::{PLACES, three_kinds};

/// Runs a program in each place: what it prints must be what it prints in an ordinary directory.
#[track_caller]
pub fn as_in_an_ordinary_directory(places: &[&str], program: &str) {
    let scene = three_kinds();
    let bare = scene.base().join("bare");
    fs::create_dir(&bare).expect("a directory");
    let mount = scene.mount();
    let script = format!("chmod 777 . && python3 - <<'END'\n{program}\nEND\n");
    let expected = sh(&bare, &script).ok();
    assert!(!expected.is_empty());
    for place in places {
        let found = sh(&mount.path(place), &script).ok();
        let differs = found.lines().zip(expected.lines()).find(|(found, wanted)| found != wanted);
        assert_eq!(differs, None, "{place}");
        assert_eq!(found, expected, "{place}");
    }
    mount.unmount();
}

#[test]
fn append_is_a_flag_that_can_be_taken_and_given_later() {
    let program = "
import fcntl, os
fd = os.open('file', os.O_CREAT | os.O_RDWR | os.O_APPEND, 0o644)
os.write(fd, b'AAAAAAAA')
flags = fcntl.fcntl(fd, fcntl.F_GETFL)
fcntl.fcntl(fd, fcntl.F_SETFL, flags & ~os.O_APPEND)
print(os.pwrite(fd, b'bb', 0), open('file').read())
fcntl.fcntl(fd, fcntl.F_SETFL, flags)
os.lseek(fd, 1, os.SEEK_SET)
print(os.write(fd, b'cc'), open('file').read())
plain = os.open('file', os.O_WRONLY)
fcntl.fcntl(plain, fcntl.F_SETFL, fcntl.fcntl(plain, fcntl.F_GETFL) | os.O_APPEND)
print(os.write(plain, b'dd'), open('file').read())";
    as_in_an_ordinary_directory(&["work", "pool"], program);
}

#[test]
fn a_copy_has_what_was_stored_through_a_mapping() {
    let program = "
import mmap, os, subprocess, time
fd = os.open('sparse', os.O_CREAT | os.O_RDWR, 0o644)
os.ftruncate(fd, 8 << 20)
mapping = mmap.mmap(fd, 8 << 20)
# So old that the page cache outlives a close.
time.sleep(2.5)
for _ in range(2):
    open('sparse', 'rb').read(4096)
time.sleep(0.3)
mapping[1 << 20:(1 << 20) + 5] = b'HELLO'
subprocess.run(['cp', '--sparse=always', 'sparse', 'copied'], check=True)
subprocess.run('tar -cSf - sparse | tar -xOf - >unpacked', shell=True, check=True)
for name in ('copied', 'unpacked'):
    data = open(name, 'rb').read()
    print(len(data), data.strip(b'\\0'), data.find(b'HELLO'))";
    as_in_an_ordinary_directory(&PLACES, program);
}

#[test]
fn what_is_changed_by_others_loses_its_set_id_bits() {
    let program = "
import os, sys
def mode(name):
    return oct(os.stat(name).st_mode)
def make(name, bits):
    os.close(os.open(name, os.O_CREAT | os.O_RDWR, 0o666))
    os.chown(name, 1000, 1000)
    os.chmod(name, bits)
def as_nobody(act):
    child = os.fork()
    if child == 0:
        os.setgroups([]); os.setgid(65534); os.setuid(65534)
        try:
            act()
        except OSError as error:
            os._exit(error.errno)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
# It becomes set-id while somebody has it open.
make('late', 0o666)
fd = os.open('late', os.O_RDWR)
os.chmod('late', 0o6777)
print(as_nobody(lambda: os.write(fd, b'x')), mode('late'))
# It was set-id from the beginning.
make('early', 0o6777)
def write():
    open('early', 'r+b').write(b'x')
    print(mode('early'), flush=True)
print(as_nobody(write), mode('early'))
# chown(2) to nobody, by root, by who has no right to, and by the owner.
for uid in (0, 65534, 1000):
    make('owned', 0o6777)
    child = os.fork()
    if child == 0:
        os.setgroups([]); os.setgid(uid); os.setuid(uid)
        try:
            os.chown('owned', -1, -1)
        except OSError as error:
            os._exit(error.errno)
        os._exit(0)
    print(uid, os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), mode('owned'))";
    as_in_an_ordinary_directory(&PLACES, program);
}

#[test]
fn a_limit_of_the_shell_that_mounts_is_none_of_the_daemon() {
    let scene = three_kinds();
    for limit in ["1048576:", "1048576:1048576"] {
        let mut limited = Command::new("prlimit");
        limited.args([&format!("--fsize={limit}"), OCTROI]);
        let mount = scene.mount_by(limited, &[]);
        for place in PLACES {
            let ended = mount.sh(&format!("head -c 4M /dev/zero >{place}/large; rm {place}/large"));
            // One that is hard cannot be lifted without CAP_SYS_RESOURCE.
            assert!(limit.contains(":1") || ended.err.is_empty(), "{ended:?}");
        }
        mount.sh("echo alive >work/alive && rm work/alive").ok();
        mount.unmount();
    }
}

#[test]
fn a_directory_that_is_looked_up_while_it_is_renamed_has_its_new_name() {
    const DIRECTORIES: usize = 3000;
    let scene = three_kinds();
    let mount = scene.mount();
    let work = mount.path("work");
    for number in 0..DIRECTORIES {
        fs::create_dir(work.join(format!("d{number}"))).expect("made");
    }
    // Until the kernel asks again for what it knows.
    thread::sleep(Duration::from_millis(1200));
    let turn = AtomicUsize::new(usize::MAX);
    thread::scope(|scope| {
        scope.spawn(|| {
            for number in 0..DIRECTORIES {
                while turn.load(Ordering::Acquire).wrapping_add(1) < number + 1 {
                    std::hint::spin_loop();
                }
                let _ = fs::metadata(work.join(format!("d{number}")));
            }
        });
        for number in 0..DIRECTORIES {
            turn.store(number, Ordering::Release);
            // From before the look-up to after it.
            thread::sleep(Duration::from_micros((number % 60) as u64));
            let new = work.join(format!("e{number}"));
            fs::rename(work.join(format!("d{number}")), &new).expect("renamed");
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
            let held = rustix::fs::open(&new, flags, Mode::empty()).expect("open");
            let create = OFlags::WRONLY | OFlags::CREATE | OFlags::CLOEXEC;
            rustix::fs::openat(held, "f", create, Mode::RUSR).expect("made in it");
        }
    });
    let ledger = mount.ledger();
    let made = |path: &&str| path.ends_with("/f");
    let paths: Vec<_> =
        ledger.iter().filter_map(|line| line["path"].as_str()).filter(made).collect();
    assert_eq!(paths.len(), DIRECTORIES);
    let wrong: Vec<_> = paths.iter().filter(|path| !path.contains("/e")).collect();
    assert!(wrong.is_empty(), "{} under a name that is gone: {wrong:?}", wrong.len());
    mount.unmount();
}

#[test]
fn what_has_no_name_any_more_is_there_for_who_has_it() {
    let program = "
import errno, os, subprocess, time
def told(name, act):
    try:
        print(name, act())
    except OSError as error:
        print(name, errno.errorcode[error.errno])
def about(fd):
    found = os.fstat(fd)
    return oct(found.st_mode), found.st_uid, found.st_nlink, found.st_size
DIRECTORY, NODE = os.O_RDONLY | os.O_DIRECTORY, os.O_PATH | os.O_NOFOLLOW
def write(name, text):
    with open(name, 'w') as file:
        file.write(text)
held = {}
os.mkdir('removed'); held['removed'] = os.open('removed', DIRECTORY); os.rmdir('removed')
os.mkdir('replaced'); held['replaced'] = os.open('replaced', DIRECTORY)
os.makedirs('other/below'); os.rename('other', 'replaced')
os.mkfifo('fifo'); held['fifo'] = os.open('fifo', os.O_RDWR); os.unlink('fifo')
write('file', 'content'); held['file'] = os.open('file', NODE); os.unlink('file')
write('one', '1'); write('two', '22'); held['two'] = os.open('two', NODE); os.rename('one', 'two')
write('a', '3'); os.link('a', 'b'); held['one link less'] = os.open('a', NODE); os.unlink('a')
write('c', '4'); os.link('c', 'd'); held['no link'] = os.open('c', NODE); os.unlink('c'); os.unlink('d')
os.symlink('target', 'link'); link = os.open('link', NODE); os.unlink('link')
write('source', 'mounted'); write('point', '')
subprocess.run(['mount', '--bind', 'source', 'point'], check=True)
os.unlink('source')
os.mkdir('here'); os.chdir('here'); os.rmdir('../here')
# What the kernel knows of them is too old to be told.
time.sleep(1.2)
told('here', lambda: (os.stat('.').st_nlink, os.access('.', os.W_OK)))
os.chdir('..')
told('mounted', lambda: (open('point').read(), os.stat('point').st_nlink))
subprocess.run(['umount', 'point'], check=True)
told('link', lambda: (about(link), os.readlink('', dir_fd=link)))
for name, fd in held.items():
    path = f'/proc/self/fd/{fd}'
    told(f'{name}: fstat', lambda: about(fd))
    told(f'{name}: statvfs', lambda: os.fstatvfs(fd).f_namemax)
    told(f'{name}: chmod', lambda: (os.chmod(path, 0o711), about(fd)))
    told(f'{name}: chown', lambda: (os.chown(path, 5, -1), about(fd)))
    told(f'{name}: utime', lambda: (os.utime(path, (5, 6)), os.fstat(fd).st_mtime))
    told(f'{name}: xattr', lambda: (os.setxattr(path, 'trusted.a', b'1'), os.listxattr(path)))
for fd in (held['removed'], held['replaced']):
    told('fsync', lambda: os.fsync(fd))
    told('list', lambda: os.listdir(fd))
    told('create', lambda: os.open('x', os.O_CREAT | os.O_RDWR, dir_fd=fd))
    told('mkdir', lambda: os.mkdir('x', dir_fd=fd))
    told('look', lambda: os.stat('x', dir_fd=fd))
    told('up', lambda: os.stat('..', dir_fd=fd).st_ino == os.stat('.').st_ino)
    told('open', lambda: os.close(os.open('.', DIRECTORY, dir_fd=fd)))
os.write(held['fifo'], b'through a fifo')
told('fifo: read', lambda: os.read(held['fifo'], 100))
for name in ('file', 'two', 'one link less', 'no link'):
    path = f'/proc/self/fd/{held[name]}'
    told(f'{name}: read', lambda: open(path).read())
    told(f'{name}: append', lambda: open(path, 'a').write(' and more'))
    told(f'{name}: again', lambda: (open(path).read(), os.stat(path).st_size))
print(sorted(os.listdir('.')), os.listdir('replaced'), open('two').read())";
    as_in_an_ordinary_directory(&PLACES, program);
}

/// Who removes files until there is room must not remove more than that takes.
#[test]
fn a_large_file_that_is_removed_is_free_at_once() {
    let program = "
import os, time
with open('file', 'wb') as file:
    file.write(b'x' * (8 << 20))
    os.fsync(file.fileno())
# A close is not waited for.
time.sleep(0.3)
before = os.statvfs('.')
os.unlink('file')
after = os.statvfs('.')
# The daemon may keep a few blocks for itself meanwhile.
print((after.f_bavail - before.f_bavail) * after.f_frsize > 7 << 20)";
    let scene = three_kinds();
    let disk = Disk::ext4(&scene, "work", "64M");
    let mount = scene.mount();
    let script = format!("python3 - <<'END'\n{program}\nEND\n");
    assert_eq!(sh(&mount.path("work"), &script).ok(), "True\n");
    mount.unmount();
    drop(disk);
}
