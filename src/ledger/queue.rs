//! The way of messages to the thread that writes. Waking a thread costs an operation more than its record
//! does, so a message that nobody waits for wakes the writer only when it is asleep: while messages come it
//! looks every [`LINGER`] by itself. It takes all that there is at once.

use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use crate::error::Errno;

/// Messages that may wait before those who send do.
const QUEUE: usize = 8192;
/// How long a message that nobody waits for may lie while others come.
pub const LINGER: Duration = Duration::from_millis(20);

struct State<T> {
    messages: Vec<T>,
    /// Nothing more is let in.
    closed: bool,
    /// The receiver rests until it is woken.
    asleep: bool,
}

struct Shared<T> {
    state: Mutex<State<T>>,
    /// Wakes the receiver.
    bell: Condvar,
    /// Wakes those who wait for room.
    room: Condvar,
}

/// Where messages are put.
pub struct Sender<T>(Arc<Shared<T>>);

/// Where they are taken, by one thread.
pub struct Receiver<T> {
    shared: Arc<Shared<T>>,
    /// Something came when it was last looked.
    busy: bool,
}

/// The queue is closed and empty.
#[derive(Debug, PartialEq, Eq)]
pub struct Closed;

/// A queue with both its ends.
pub fn queue<T>() -> (Sender<T>, Receiver<T>) {
    let state = State { messages: Vec::new(), closed: false, asleep: false };
    let (bell, room) = (Condvar::new(), Condvar::new());
    let shared = Arc::new(Shared { state: Mutex::new(state), bell, room });
    (Sender(Arc::clone(&shared)), Receiver { shared, busy: false })
}

impl<T> Sender<T> {
    /// Puts a message at the end; waits while the queue is full. `urgent`: somebody waits for what comes
    /// of it. EIO once the queue is closed or its receiver is gone.
    pub fn send(&self, message: T, urgent: bool) -> Result<(), Errno> {
        let mut state = self.0.state.lock();
        while state.messages.len() >= QUEUE && !state.closed {
            self.0.room.wait(&mut state);
        }
        if state.closed {
            return Err(Errno::IO);
        }
        state.messages.push(message);
        // Else a burst would wait for the end of a linger.
        let many = state.messages.len() >= QUEUE / 2;
        let wakes = std::mem::take(&mut state.asleep) || urgent || many;
        drop(state);
        if wakes {
            self.0.bell.notify_one();
        }
        Ok(())
    }

    /// Lets nothing more in but this, for which there is always room. EIO if it was closed before.
    pub fn close_with(&self, message: T) -> Result<(), Errno> {
        let mut state = self.0.state.lock();
        if state.closed {
            return Err(Errno::IO);
        }
        state.messages.push(message);
        self.0.close(state);
        Ok(())
    }

    /// Lets nothing more in; the receiver ends when it has taken what is there.
    pub fn close(&self) {
        self.0.close(self.0.state.lock());
    }
}

impl<T> Shared<T> {
    fn close(&self, mut state: parking_lot::MutexGuard<'_, State<T>>) {
        state.closed = true;
        drop(state);
        self.bell.notify_one();
        self.room.notify_all();
    }
}

impl<T> Drop for Sender<T> {
    fn drop(&mut self) {
        self.close();
    }
}

impl<T> Receiver<T> {
    /// Moves all messages that there are into `batch`, which is empty, once there is one; none when it is time.
    pub fn take(&mut self, batch: &mut Vec<T>, deadline: Option<Instant>) -> Result<(), Closed> {
        let mut state = self.shared.state.lock();
        while state.messages.is_empty() {
            if state.closed {
                return Err(Closed);
            }
            let now = Instant::now();
            if deadline.is_some_and(|deadline| deadline <= now) {
                return Ok(());
            }
            let linger = std::mem::take(&mut self.busy).then(|| now.checked_add(LINGER)).flatten();
            state.asleep = linger.is_none();
            match [linger, deadline].into_iter().flatten().min() {
                Some(until) => drop(self.shared.bell.wait_until(&mut state, until)),
                None => self.shared.bell.wait(&mut state),
            }
            state.asleep = false;
        }
        std::mem::swap(&mut state.messages, batch);
        self.busy = true;
        drop(state);
        self.shared.room.notify_all();
        Ok(())
    }
}

impl<T> Drop for Receiver<T> {
    fn drop(&mut self) {
        let mut state = self.shared.state.lock();
        // Who waits for an answer learns that there is none.
        let left = std::mem::take(&mut state.messages);
        self.shared.close(state);
        drop(left);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// With a full queue in between.
    #[test]
    fn everything_arrives_in_order_and_nobody_waits_for_a_sleeping_receiver() {
        let (sender, mut receiver) = queue();
        let thread = std::thread::spawn(move || {
            let mut next = 0;
            let mut batch = Vec::new();
            while receiver.take(&mut batch, None).is_ok() {
                assert!(batch.len() <= QUEUE);
                for number in batch.drain(..) {
                    assert_eq!(number, next);
                    next += 1;
                }
                if next < 50_000 {
                    std::thread::sleep(LINGER);
                }
            }
            next
        });
        for number in 0..100_000_u64 {
            sender.send(number, number % 1000 == 0).unwrap();
            if number % 10_000 == 0 {
                std::thread::sleep(LINGER * 3);
            }
        }
        sender.close();
        assert_eq!(sender.send(0, true), Err(Errno::IO));
        assert_eq!(sender.close_with(0), Err(Errno::IO));
        assert_eq!(thread.join().unwrap(), 100_000);
    }

    #[test]
    fn a_message_that_nobody_waits_for_wakes_who_sleeps() {
        let (sender, mut receiver) = queue();
        let mut batch = Vec::new();
        let thread = std::thread::spawn(move || receiver.take(&mut batch, None).map(|()| batch));
        // Long enough to be asleep, on any machine that is not stopped.
        std::thread::sleep(LINGER * 20);
        sender.send("here", false).unwrap();
        assert_eq!(thread.join().unwrap(), Ok(vec!["here"]));
    }

    #[test]
    fn a_deadline_ends_the_wait() {
        let (sender, mut receiver) = queue::<()>();
        let mut batch = Vec::new();
        let deadline = Instant::now() + LINGER * 2;
        assert_eq!(receiver.take(&mut batch, Some(deadline)), Ok(()));
        assert!(batch.is_empty() && Instant::now() >= deadline);
        drop(sender);
        assert_eq!(receiver.take(&mut batch, None), Err(Closed));
    }

    #[test]
    fn the_last_message_has_room_and_who_waits_for_room_is_refused() {
        let (sender, mut receiver) = queue();
        for number in 0..QUEUE {
            sender.send(number, false).unwrap();
        }
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| sender.send(7, false));
            std::thread::sleep(LINGER);
            sender.close_with(QUEUE).unwrap();
            assert_eq!(waiting.join().unwrap(), Err(Errno::IO));
        });
        let mut batch = Vec::new();
        assert_eq!(receiver.take(&mut batch, None), Ok(()));
        assert_eq!((batch.len(), batch.last()), (QUEUE + 1, Some(&QUEUE)));
        batch.clear();
        assert_eq!(receiver.take(&mut batch, None), Err(Closed));
    }

    #[test]
    fn who_waits_learns_that_the_receiver_is_gone() {
        let (sender, receiver) = queue();
        let (reply, answer) = crossbeam_channel::bounded::<()>(1);
        sender.send(reply, true).unwrap();
        drop(receiver);
        assert!(answer.recv().is_err());
        assert_eq!(sender.send(crossbeam_channel::bounded(1).0, true), Err(Errno::IO));
    }
}
