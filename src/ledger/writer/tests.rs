//! What the writer owes to others, step by step.

use super::super::tests::operation;
use super::*;
use crate::storage::real::{RealDir, RealStorage};

#[test]
fn the_signer_knows_of_a_line_before_who_waits_for_it_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let dir = RealDir::open(folder.path()).unwrap();
    let durable = Arc::new(Durable::default());
    let start = Start { segment: 0, length: 0, next_seq: 0, durable: Some(Arc::clone(&durable)) };
    let health = Arc::new(Health::default());
    let mut writer = Writer::new(Arc::new(RealStorage), dir, "lab", health, start).unwrap();
    let before = durable.end().unwrap();
    // An answer waits until it is taken.
    let (reply, answer) = crossbeam_channel::bounded(0);
    let thread = std::thread::spawn(move || {
        let time = jiff::Timestamp::now();
        let content = Content::of(operation("/a", true)).unwrap();
        writer.accept(time, content, false, Some(reply));
        writer.commit(false);
    });
    let begun = Instant::now();
    while durable.end() == Some(before) {
        assert!(begun.elapsed().as_secs() < 20, "it is not told");
        std::thread::sleep(Duration::from_millis(5));
    }
    assert_eq!(answer.recv(), Ok(Ok(())));
    thread.join().unwrap();
}
