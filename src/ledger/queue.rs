//! The way of messages to the thread that writes. Waking a thread costs an operation more than its record
//! does, so a message that nobody waits for wakes the writer only when it is asleep: while messages come it
//! looks every [`LINGER`] by itself.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::Thread;
use std::time::{Duration, Instant};

use crossbeam_channel::TryRecvError;
use parking_lot::Mutex;

use crate::error::Errno;

/// Messages that may wait before those who send do. The memory is taken at once: few in tests, which open many ledgers.
const QUEUE: usize = if cfg!(test) { 512 } else { 8192 };
/// How long a message that nobody waits for may lie while others come.
pub const LINGER: Duration = Duration::from_millis(20);

#[derive(Default)]
struct Bell {
    /// The receiver rests until it is woken.
    asleep: AtomicBool,
    /// Who receives, once it does.
    thread: Mutex<Option<Thread>>,
}

impl Bell {
    fn ring(&self) {
        if let Some(thread) = &*self.thread.lock() {
            thread.unpark();
        }
    }
}

/// Where messages are put.
pub struct Sender<T> {
    messages: Mutex<Option<crossbeam_channel::Sender<T>>>,
    bell: Arc<Bell>,
}

/// Where they are taken, by one thread.
pub struct Receiver<T> {
    messages: crossbeam_channel::Receiver<T>,
    bell: Arc<Bell>,
    /// Something came when it was last looked.
    busy: bool,
}

/// A queue with both its ends.
pub fn queue<T>() -> (Sender<T>, Receiver<T>) {
    let (sender, messages) = crossbeam_channel::bounded(QUEUE);
    let bell = Arc::<Bell>::default();
    let receiver = Receiver { messages, bell: Arc::clone(&bell), busy: false };
    (Sender { messages: Mutex::new(Some(sender)), bell }, receiver)
}

impl<T> Sender<T> {
    /// Puts a message at the end; waits while the queue is full. `urgent`: somebody waits for what comes
    /// of it. EIO once the queue is closed or its receiver is gone.
    pub fn send(&self, message: T, urgent: bool) -> Result<(), Errno> {
        let sender = self.messages.lock().clone().ok_or(Errno::IO)?;
        // Else a burst would wait for the end of a linger.
        if sender.len() >= QUEUE / 2 {
            self.bell.ring();
        }
        sender.send(message).map_err(|_| Errno::IO)?;
        // Before the bell: who is woken by it must see that this end is closed, if it is.
        drop(sender);
        if self.bell.asleep.swap(false, Ordering::SeqCst) || urgent {
            self.bell.ring();
        }
        Ok(())
    }

    /// Lets nothing more in but this. EIO if it was closed before, and when it is time.
    pub fn close_with(&self, message: T, deadline: Instant) -> Result<(), Errno> {
        let sender = self.messages.lock().take().ok_or(Errno::IO)?;
        let sent = sender.send_deadline(message, deadline).map_err(|_| Errno::IO);
        drop(sender);
        self.bell.ring();
        sent
    }

    /// Lets nothing more in; the receiver ends when it has taken what is there.
    pub fn close(&self) {
        drop(self.messages.lock().take());
        self.bell.ring();
    }
}

impl<T> Receiver<T> {
    /// The first message that there is, once there is one; none when it is time. An error when the queue is
    /// closed and empty.
    pub fn first(&mut self, deadline: Option<Instant>) -> Result<Option<T>, TryRecvError> {
        self.bell.thread.lock().get_or_insert_with(std::thread::current);
        loop {
            match self.messages.try_recv() {
                Err(TryRecvError::Empty) => {}
                received => {
                    self.busy = true;
                    self.bell.asleep.store(false, Ordering::SeqCst);
                    return received.map(Some);
                }
            }
            let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
            if left.is_some_and(|left| left.is_zero()) {
                return Ok(None);
            }
            if std::mem::take(&mut self.busy) {
                std::thread::park_timeout(left.map_or(LINGER, |left| left.min(LINGER)));
                continue;
            }
            // Whoever sends from here on sees it; what was sent before is looked for once more.
            if !self.bell.asleep.swap(true, Ordering::SeqCst) {
                continue;
            }
            left.map_or_else(std::thread::park, std::thread::park_timeout);
        }
    }

    /// What else there is now.
    pub fn more(&self) -> impl Iterator<Item = T> + '_ {
        self.messages.try_iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_arrives_in_order_and_nobody_waits_for_a_sleeping_receiver() {
        let (sender, mut receiver) = queue();
        let thread = std::thread::spawn(move || {
            let mut next = 0;
            while let Ok(first) = receiver.first(None) {
                for number in first.into_iter().chain(receiver.more()) {
                    assert_eq!(number, next);
                    next += 1;
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
        assert_eq!(thread.join().unwrap(), 100_000);
    }

    #[test]
    fn a_message_that_nobody_waits_for_wakes_who_sleeps() {
        let (sender, mut receiver) = queue();
        let thread = std::thread::spawn(move || receiver.first(None));
        // Long enough to be asleep, on any machine that is not stopped.
        std::thread::sleep(LINGER * 20);
        sender.send("here", false).unwrap();
        assert_eq!(thread.join().unwrap(), Ok(Some("here")));
    }

    #[test]
    fn a_deadline_ends_the_wait() {
        let (sender, mut receiver) = queue::<()>();
        let deadline = Instant::now() + LINGER * 2;
        assert_eq!(receiver.first(Some(deadline)), Ok(None));
        assert!(Instant::now() >= deadline);
        drop(sender);
        assert_eq!(receiver.first(None), Err(TryRecvError::Disconnected));
    }
}
