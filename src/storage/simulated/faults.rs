//! What every step begins with: it is counted, and a fault that was planned for it happens.

use parking_lot::MutexGuard;

use super::*;

impl SimulatedStorage {
    /// Counts a step and lets a planned fault happen.
    pub(super) fn step(&self, what: &str, name: &OsStr) -> Result<MutexGuard<'_, State>, Errno> {
        self.step_or(what, name, |_, _| {})
    }

    /// As `step`; `on_errno` does what a failing call leaves behind.
    pub(super) fn step_or(
        &self,
        what: &str,
        name: &OsStr,
        on_errno: impl FnOnce(&mut State, &mut Random),
    ) -> Result<MutexGuard<'_, State>, Errno> {
        let mut state = self.state.lock();
        let step = state.steps;
        state.steps += 1;
        if let Some(log) = &mut state.log {
            log.push(format!("{step}: {what} {}", name.display()));
        }
        if state.power_off {
            return Err(Errno::IO);
        }
        state.short = false;
        let fault = match state.next_fault {
            Some((method, fault)) if method == what => {
                state.next_fault = None;
                Some(fault)
            }
            _ => state.faults.get(&step).copied(),
        };
        match fault {
            None => Ok(state),
            Some(Fault::Short) => {
                state.short = true;
                Ok(state)
            }
            Some(Fault::Delay(time)) => {
                drop(state);
                std::thread::sleep(time);
                Ok(self.state.lock())
            }
            Some(Fault::Crash | Fault::Kill) => {
                state.power_off = true;
                Err(Errno::IO)
            }
            Some(Fault::Errno(errno)) => {
                on_errno(&mut state, &mut Random::new(step));
                Err(errno)
            }
        }
    }

    pub(super) fn open(
        &self,
        what: &str,
        dir: &SimulatedDir,
        name: &OsStr,
        writable: bool,
    ) -> Result<SimulatedFile, Errno> {
        let state = self.step(what, name)?;
        let inode = state.named(dir, name)?;
        match state.inode(inode)?.attributes.kind {
            Kind::File => Ok(SimulatedFile { inode, writable, direct: false }),
            Kind::Symlink(_) => Err(Errno::LOOP),
            _ => Err(Errno::INVAL),
        }
    }

    /// Changes attributes of a name and its ctime.
    pub(super) fn change(
        &self,
        what: &str,
        dir: &SimulatedDir,
        name: &OsStr,
        change: impl FnOnce(&mut Attributes, DeviceOptions) -> Result<(), Errno>,
    ) -> Result<(), Errno> {
        let mut state = self.step(what, name)?;
        let number = state.named(dir, name)?;
        let options = state.options(state.inode(number)?.device);
        let now = state.now();
        let attributes = &mut state.inode_mut(number)?.attributes;
        change(attributes, options)?;
        attributes.ctime = now;
        Ok(())
    }
}

impl SimulatedFile {
    /// What is opened past the cache takes whole blocks only.
    pub(super) fn check_aligned(&self, length: usize, offset: u64) -> Result<(), Errno> {
        let aligned = length.is_multiple_of(ALIGNMENT) && offset.is_multiple_of(ALIGNMENT as u64);
        if aligned || !self.direct { Ok(()) } else { Err(Errno::INVAL) }
    }
}
