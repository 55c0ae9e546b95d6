//! A search as it was asked for, in the ledger that was meant.

use jiff::Timestamp;

use crate::ledger::check_line;
use crate::types::counted;

use super::super::failure::Failure;
use super::super::output::{plain, say};
use super::super::target::ViewOption;
use super::filter::{Filter, FilterArgs};
use super::log::Log;

/// What is looked for, and where.
pub(super) struct Search {
    /// Which lines.
    pub filter: Filter,
    /// Of which ledger.
    pub log: Log,
    /// Lines that were found and are not as they were written.
    pub damage: Damage,
    /// What to say if none fits.
    nothing: Option<String>,
}

/// Lines whose checksum does not hold. They are shown all the same: people read damaged ledgers.
#[derive(Default)]
pub(super) struct Damage {
    lines: u64,
}

impl Damage {
    /// Looks at a line that was found at an offset; the first bad one is told.
    pub(super) fn look(&mut self, log: &Log, offset: u64, line: &[u8]) {
        let Err(why) = check_line(line) else { return };
        self.lines = self.lines.saturating_add(1);
        if self.lines == 1 {
            let place = log.place(offset).unwrap_or_else(|_| "a line".to_owned());
            tell(&format!("{place} is not as it was written: {why}"));
        }
    }

    /// A failure if there was one.
    pub(super) fn judge(&self) -> Result<(), Failure> {
        if self.lines == 0 {
            return Ok(());
        }
        let lines = counted(self.lines, "line that was found is", "lines that were found are");
        Err(Failure::new(format!("the ledger is damaged: {lines} not as written"))
            .hint("octroi audit verify tells all that is wrong with it"))
    }
}

impl Search {
    /// Before its first line; says on standard error what is likely a slip.
    pub(super) fn begin(
        args: &FilterArgs,
        until: Option<Timestamp>,
        view: &ViewOption,
    ) -> Result<Self, Failure> {
        let mut filter = args.filter(until)?;
        let (log, scope) = Log::find_with_scope(view)?;
        if let Some(slip) = args.settle(&mut filter, &scope)? {
            tell(&slip);
        }
        let nothing = filter.top().and_then(|top| scope.nothing_at(&top));
        Ok(Self { filter, log, damage: Damage::default(), nothing })
    }

    /// No line has fitted.
    pub(super) fn nothing_found(&mut self) {
        if let Some(slip) = self.nothing.take() {
            tell(&slip);
        }
    }
}

/// One line on standard error; a reader that has gone is no reason to stop.
fn tell(what: &str) {
    say(format_args!("octroi: warning: {}", plain(what)));
}
