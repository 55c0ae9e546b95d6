//! `policy/hits.tsv`: which rules and gates decide, and which never do.

use super::InForce;

/// A comment that says since when is counted, the names of the columns, and a line for each rule and gate.
pub(super) fn text(in_force: &InForce) -> String {
    let since = in_force.since;
    let mut text = format!(
        "# counted since {since:.0}, when this policy came into force; a reload counts anew\n\
         kind\tname\thits\tlast\n"
    );
    let counted = in_force.policy.as_ref().map(|policy| policy.counted());
    for one in counted.into_iter().flatten() {
        let last = one.last.as_deref().unwrap_or("never");
        // Names are letters, digits and hyphens.
        text.push_str(&format!("{}\t{}\t{}\t{last}\n", one.kind, one.name, one.hits));
    }
    text
}
