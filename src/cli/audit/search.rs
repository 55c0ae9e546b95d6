//! A search as it was asked for, in the ledger that was meant.

use std::io::{self, Write as _};

use jiff::Timestamp;

use super::super::failure::Failure;
use super::super::output::plain;
use super::super::target::ViewOption;
use super::filter::{Filter, FilterArgs};
use super::log::Log;

/// What is looked for, and where.
pub(super) struct Search {
    /// Which lines.
    pub filter: Filter,
    /// Of which ledger.
    pub log: Log,
    /// What to say if none fits.
    nothing: Option<String>,
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
        Ok(Self { filter, log, nothing })
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
    let _ = writeln!(io::stderr(), "octroi: warning: {}", plain(what));
}
