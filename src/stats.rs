//! Counters and latencies of requests.
