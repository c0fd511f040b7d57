//! Who has the store: the enforcer itself, or, for a commit during which it goes on, a thread beside it.

use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, Sender};

use crate::enforcer::{Command, Now};
use crate::store::{NotStored, Records, Store, Write};

/// The store, wherever it is.
#[derive(Debug)]
pub(super) struct Keeper {
    /// `None` while the thread has it.
    store: Option<Store>,
    /// Why nothing could be stored when the thread got it.
    problem: Option<String>,
    /// How many commits were begun.
    begun: u64,
    /// What became of the commit that was begun, if that is known, but nobody has asked yet.
    made: Option<Result<(), NotStored>>,
    jobs: Sender<Job>,
    done: Receiver<(Store, Result<(), NotStored>)>,
    /// Held by tests for as long as commits shall take; true if they fail.
    #[cfg(test)]
    pub(super) gate: Arc<std::sync::Mutex<bool>>,
}

/// A commit.
struct Job {
    store: Store,
    writes: Vec<Write>,
    now: Now,
    tells: Tells,
}

/// Sends [`Command::Stored`] when it is dropped, so that nobody waits for a thread that has panicked.
struct Tells(Arc<Sender<Command>>, u64);

impl Drop for Tells {
    fn drop(&mut self) {
        // An error means that the enforcer has ended.
        let _ = self.0.send(Command::Stored(self.1));
    }
}

impl Keeper {
    /// Starts the thread, which ends with the keeper.
    ///
    /// # Errors
    ///
    /// If there is no room for another thread.
    pub(super) fn new(store: Store) -> std::io::Result<Self> {
        let (jobs, asked) = mpsc::channel::<Job>();
        let (to_keeper, done) = mpsc::channel();
        #[cfg(test)]
        let gate = Arc::<std::sync::Mutex<bool>>::default();
        #[cfg(test)]
        let held = Arc::clone(&gate);
        std::thread::Builder::new().name("store".to_owned()).spawn(move || {
            for Job { mut store, writes, now, tells } in asked {
                #[cfg(test)]
                if *held.lock().unwrap() {
                    store.fail();
                }
                let made = store.commit(&writes, now);
                // An error means that the enforcer has ended.
                let _ = to_keeper.send((store, made));
                drop(tells);
            }
        })?;
        Ok(Self {
            store: Some(store),
            problem: None,
            begun: 0,
            made: None,
            jobs,
            done,
            #[cfg(test)]
            gate,
        })
    }

    /// Begins a [commit](Store::commit), and has [`Command::Stored`] sent when it is made, or has failed. Each has to be
    /// [ended](Self::end) before the next.
    pub(super) fn begin(&mut self, writes: Vec<Write>, now: Now, to_enforcer: Arc<Sender<Command>>) {
        self.problem = self.here().problem().map(str::to_owned);
        self.begun += 1;
        let Some(store) = self.store.take() else { return };
        let job = Job { store, writes, now, tells: Tells(to_enforcer, self.begun) };
        self.jobs.send(job).expect("the thread ends with the keeper");
    }

    /// What became of the commit that was begun; waits for it.
    ///
    /// # Errors
    ///
    /// If the disk refused.
    pub(super) fn end(&mut self) -> Result<(), NotStored> {
        self.here();
        self.made.take().unwrap_or(Ok(()))
    }

    /// The store, behind what was begun.
    fn here(&mut self) -> &mut Store {
        let Self { store, made, done, .. } = self;
        store.get_or_insert_with(|| {
            let (store, result) = done.recv().expect("the thread ends with the keeper");
            *made = Some(result);
            store
        })
    }

    /// Whether the commit with this number is the one that was begun last.
    pub(super) fn is_last(&self, number: u64) -> bool {
        number == self.begun
    }

    /// Why nothing can be stored now, as far as that is known.
    pub(super) fn problem(&self) -> Option<&str> {
        self.store.as_ref().map_or(self.problem.as_deref(), Store::problem)
    }

    /// See [`Store::commit`].
    pub(super) fn commit(&mut self, writes: &[Write], now: Now) -> Result<(), NotStored> {
        self.here().commit(writes, now)
    }

    /// See [`Store::commit_later`].
    pub(super) fn commit_later(&mut self, writes: &[Write], now: Now) -> Result<(), NotStored> {
        self.here().commit_later(writes, now)
    }

    /// See [`Store::reopen`].
    pub(super) fn reopen(&mut self, now: Now) -> Result<Option<(Records, Vec<String>)>, NotStored> {
        self.here().reopen(now)
    }

    /// What an error of the disk leaves.
    #[cfg(test)]
    pub(super) fn fail(&mut self) {
        self.here().fail();
    }
}
