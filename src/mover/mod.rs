//! Crossings: moves between branches as transactions (design section 7).
