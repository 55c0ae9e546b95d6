//! What the control protocol asks: status, why, where, explain, transactions.
