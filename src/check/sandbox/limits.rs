//! Limits for each process of a command (getrlimit(2)).

use rustix::process::{Resource, Rlimit, setrlimit};

use super::{Order, Step, cannot};

/// Processes and threads at a time. Counted for the command alone: its user namespace is its own.
const PROCESSES: u64 = 128;
/// Descriptors.
const FILES: u64 = 256;
/// Bytes that may be kept from being swapped out.
const LOCKED: u64 = 64 << 10;
/// How much the scheduler prefers everybody else, from 0 to 19.
const NICE: i32 = 10;

/// Sets all of them; a limit that is lower already stays.
pub(super) fn set(order: &Order) -> Step<()> {
    for (resource, limit) in [
        // Private memory that can be written. Not the address space: some runtimes reserve more of that
        // than any machine has.
        (Resource::Data, order.memory),
        (Resource::Fsize, order.memory),
        (Resource::Cpu, order.cpu_seconds),
        (Resource::Nproc, PROCESSES),
        (Resource::Nofile, FILES),
        (Resource::Memlock, LOCKED),
        (Resource::Core, 0),
        (Resource::Msgqueue, 0),
        (Resource::Rtprio, 0),
    ] {
        let had = rustix::process::getrlimit(resource).maximum.unwrap_or(u64::MAX);
        let limit = Some(limit.min(had));
        setrlimit(resource, Rlimit { current: limit, maximum: limit })
            .map_err(cannot("set limits"))?;
    }
    rustix::process::nice(NICE).map(drop).map_err(cannot("be nice"))
}
