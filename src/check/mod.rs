//! Content types and, later, check commands of gates.
