//! The groups of users, from the user database, asked on a thread of its own: a directory service
//! that hangs must not hang the filesystem.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::{Sender, bounded};
use dashmap::DashMap;

use crate::error::Errno;
use crate::sys::users::groups_of;

/// How long an answer is believed.
const FRESH: Duration = Duration::from_secs(60);
/// How long the user database may take.
const TIMEOUT: Duration = Duration::from_secs(5);

type Answer = Result<Arc<[u32]>, Errno>;

struct Question {
    uid: u32,
    reply: Sender<Answer>,
}

/// Cached groups by user.
pub struct Identities {
    known: DashMap<u32, (Instant, Arc<[u32]>)>,
    questions: Sender<Question>,
}

impl Default for Identities {
    fn default() -> Self {
        Self::new()
    }
}

impl Identities {
    /// Starts the thread that asks; it ends with this value.
    pub fn new() -> Self {
        let (questions, asked) = bounded::<Question>(64);
        let asking = move || {
            for Question { uid, reply } in asked {
                let _ = reply.send(groups_of(uid).map(Arc::from));
            }
        };
        if let Err(error) = std::thread::Builder::new().name("users".into()).spawn(asking) {
            log::error!("cannot start the thread that asks the user database: {error}");
        }
        Self { known: DashMap::new(), questions }
    }

    /// Asks anew about everybody.
    pub fn forget(&self) {
        self.known.clear();
    }

    /// Groups of a user; empty for a user id without an entry. ETIMEDOUT if the database does not
    /// answer, or its own error: the caller must deny then.
    pub fn groups(&self, uid: u32) -> Answer {
        let known = self.known.get(&uid).map(|known| known.clone());
        if let Some((asked, groups)) = known
            && asked.elapsed() < FRESH
        {
            return Ok(groups);
        }
        let (reply, answer) = bounded(1);
        self.questions
            .send_timeout(Question { uid, reply }, TIMEOUT)
            .map_err(|_| Errno::TIMEDOUT)?;
        let groups = answer.recv_timeout(TIMEOUT).map_err(|_| Errno::TIMEDOUT)??;
        self.known.insert(uid, (Instant::now(), Arc::clone(&groups)));
        Ok(groups)
    }
}
