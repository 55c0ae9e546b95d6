//! How much memory all processes below one use, by what /proc tells of each.

use std::fs;

/// More processes than a command can have; what is beyond is not looked at.
const PROCESSES_MAX: usize = 1024;

/// Bytes of memory that everything below a process uses and no file backs. What several processes share
/// is counted for each.
pub(super) fn below(pid: u32) -> u64 {
    let mut open = children(pid);
    let mut bytes = 0_u64;
    for _ in 0..PROCESSES_MAX {
        let Some(next) = open.pop() else { break };
        bytes = bytes.saturating_add(memory(next));
        open.extend(children(next));
    }
    bytes
}

/// Whether the kernel tells of children at all (CONFIG_PROC_CHILDREN).
pub(super) fn can_be_told() -> bool {
    let pid = std::process::id();
    fs::exists(format!("/proc/{pid}/task/{pid}/children")).unwrap_or(false)
}

/// A child belongs to the thread that made it. Whoever is gone has none.
fn children(pid: u32) -> Vec<u32> {
    let Ok(threads) = fs::read_dir(format!("/proc/{pid}/task")) else { return Vec::new() };
    let lists =
        threads.filter_map(|thread| fs::read_to_string(thread.ok()?.path().join("children")).ok());
    lists
        .flat_map(|list| {
            list.split_whitespace().filter_map(|pid| pid.parse().ok()).collect::<Vec<_>>()
        })
        .collect()
}

/// Memory of a process that no file backs, swapped out or not (proc_pid_status(5)). All threads tell the
/// same, but for those that have ended, which tell nothing, the first among them.
fn memory(pid: u32) -> u64 {
    let Ok(threads) = fs::read_dir(format!("/proc/{pid}/task")) else { return 0 };
    let mut told = threads
        .filter_map(|thread| fs::read_to_string(thread.ok()?.path().join("status")).ok())
        .map(|status| told_memory(&status));
    told.find(|bytes| *bytes > 0).unwrap_or(0)
}

fn told_memory(status: &str) -> u64 {
    let kibibytes = |line: &str| line.split_whitespace().nth(1)?.parse::<u64>().ok();
    let counted = ["RssAnon:", "RssShmem:", "VmSwap:"];
    let lines = status.lines().filter(|line| counted.iter().any(|name| line.starts_with(name)));
    lines.filter_map(kibibytes).fold(0_u64, u64::saturating_add).saturating_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::{Command, Stdio};

    #[test]
    fn the_memory_of_children_and_theirs_counts() {
        assert!(can_be_told());
        let script = "x=$(head -c 20000000 /dev/zero | tr '\\0' x); (x=$x$x; echo ready; read y)";
        let mut child = Command::new("bash")
            .args(["-c", script])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        let mut out = std::io::BufReader::new(child.stdout.take().unwrap());
        std::io::BufRead::read_line(&mut out, &mut line).unwrap();
        let used = below(std::process::id());
        drop(child.stdin.take());
        child.wait().unwrap();
        assert!(used > 50_000_000, "{used}");
    }

    #[test]
    fn memory_counts_when_the_first_thread_has_ended() {
        let script = format!(
            "import ctypes, sys, threading, time\n\
             held = bytearray(60_000_000)\n\
             def stay():\n    time.sleep(0.2); print('ready', flush=True); sys.stdin.read()\n\
             threading.Thread(target=stay).start()\n\
             ctypes.CDLL(None).syscall({}, 0)\n",
            libc::SYS_exit
        );
        let mut child = Command::new("python3")
            .args(["-c", &script])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        let mut out = std::io::BufReader::new(child.stdout.take().unwrap());
        std::io::BufRead::read_line(&mut out, &mut line).unwrap();
        let used = memory(child.id());
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(used > 50_000_000, "{used}");
    }
}
