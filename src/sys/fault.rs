//! Points at which a test build can be made to crash, stop or fail.
//!
//! The code names its steps: [`point`] where a crash would leave a half-done state, [`fail`] where
//! a call may fail for a reason that cannot be had otherwise. Without the feature `fault` both are
//! nothing. With it, a point acts when it is armed, at its n-th passing:
//!
//! - by the environment, for the whole process and its children: `BATON_FAULT=NAME=ACTION[@N]`
//!   with `kill` (SIGKILL), `stop` (SIGSTOP, goes on at SIGCONT) or `fail`;
//! - by `arm`, for this thread and for what it forks, also with a function to be called.
//!
//! [`POINTS`] lists them all, so that a test can walk through every one of them; a test holds
//! that the list and the code agree.

/// Every point of the crate: where it is, and what has just been done there.
pub const POINTS: &[&str] = &[
    "bundle.departed",
    "bundle.encoded",
    "bundle.opened",
    "bundle.sealed",
    "export.departed",
    "export.encoded",
    "export.sealed",
    "import.admitted",
    "import.claimed",
    "import.opened",
    "import.resumed",
    "keeper.answering",
    "keeper.arrived",
    "keeper.departed",
    "keeper.established",
    "keeper.moved_out",
    "kept.answered",
    "kept.asked",
    "ledger.arrive.active",
    "ledger.arrive.checked",
    "ledger.collect.found",
    "ledger.collect.freed",
    "ledger.collect.taken",
    "ledger.collect.told",
    "ledger.depart.deadline",
    "ledger.depart.epochs",
    "ledger.depart.transit",
    "ledger.end.ended",
    "ledger.end.marked",
    "ledger.establish.active",
    "ledger.establish.draft",
    "ledger.establish.full",
    "ledger.establish.half_named",
    "ledger.establish.named",
    "ledger.establish.taken",
    "ledger.file.keys_empty",
    "ledger.file.keys_made",
    "ledger.file.keys_named",
    "ledger.file.ledger_empty",
    "ledger.file.ledger_made",
    "ledger.file.ledger_named",
    "ledger.file.locked",
    "ledger.file.missing",
    "ledger.growth.backed",
    "ledger.growth.refused",
    "ledger.growth.used",
    "ledger.join.joining",
    "ledger.join.live",
    "ledger.join.taken",
    "ledger.join.written",
    "ledger.keyring.current",
    "ledger.keyring.ready",
    "ledger.keyring.retired",
    "ledger.keyring.taken",
    "ledger.keyring.wiped",
    "ledger.keyring.wiping",
    "ledger.keyring.word",
    "ledger.keyring.written",
    "ledger.revoke.found",
    "ledger.sweep.judged",
    "ledger.sweep.passed",
    "ledger.sweep.settled",
    "ledger.sweep.vacated",
    "passage.received",
    "passage.sending",
    "passage.sent",
    "succession.accepting",
    "succession.ended",
    "succession.hello",
    "succession.offered",
    "succession.ready",
    "succession.started",
    "succession.taken",
    "succession.taken_offer",
    "succession.taking",
    "takeover.begun",
    "takeover.given",
    "takeover.gone",
    "takeover.kept",
    "takeover.pieces",
    "takeover.ready",
    "takeover.taken",
    "takeover.taking",
    "takeover.told",
    "takeover.too_late",
];

#[cfg(not(feature = "fault"))]
mod absent {
    /// Marks a step. Nothing, in this build.
    #[inline(always)]
    pub const fn point(_name: &'static str) {}

    /// Whether this step is to fail. It is not, in this build.
    #[inline(always)]
    pub const fn fail(_name: &'static str) -> bool {
        false
    }
}

#[cfg(not(feature = "fault"))]
pub use absent::{fail, point};
#[cfg(feature = "fault")]
pub use present::{Action, arm, disarm, fail, point};

#[cfg(feature = "fault")]
mod present {
    use std::cell::RefCell;
    use std::ptr;
    use std::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed};
    use std::sync::atomic::{AtomicPtr, AtomicU32};

    use rustix::process::{Signal, getpid, kill_process};

    /// What an armed point does.
    pub enum Action {
        /// Ends the process by SIGKILL.
        Kill,
        /// Stops the process by SIGSTOP, until SIGCONT.
        Stop,
        /// Makes [`fail`] answer true; nothing at a [`point`].
        Fail,
        /// Calls the function, and goes on.
        Call(Box<dyn FnOnce()>),
    }

    struct Armed {
        name: String,
        /// Passings that are left before it acts.
        left: u32,
        action: Action,
    }

    thread_local! {
        // A thread's own, so that tests beside each other do not meet; a fork copies it.
        static ARMED: RefCell<Option<Armed>> = const { RefCell::new(None) };
    }

    /// Arms one point for this thread, and for the processes it forks, in place of what was armed:
    /// it acts once, at its `passing`-th passing (1 is the next).
    pub fn arm(name: &str, passing: u32, action: Action) {
        let armed = Armed {
            name: name.to_owned(),
            left: passing.max(1),
            action,
        };
        ARMED.with_borrow_mut(|slot| *slot = Some(armed));
    }

    /// Forgets what this thread has armed; answers whether it was still waiting to act.
    pub fn disarm() -> bool {
        ARMED.with_borrow_mut(Option::take).is_some()
    }

    /// Marks a step: acts when armed.
    pub fn point(name: &'static str) {
        passed(name);
    }

    /// Marks a step that may fail: acts when armed, and answers whether it is to fail.
    #[must_use]
    pub fn fail(name: &'static str) -> bool {
        passed(name)
    }

    fn passed(name: &'static str) -> bool {
        let action = ARMED.with_borrow_mut(|slot| {
            let armed = slot.as_mut().filter(|armed| armed.name == name)?;
            armed.left -= 1;
            if armed.left > 0 {
                None
            } else {
                slot.take().map(|armed| armed.action)
            }
        });
        match action.or_else(|| environment(name)) {
            None => false,
            Some(Action::Fail) => true,
            Some(Action::Kill) => send(Signal::KILL),
            Some(Action::Stop) => send(Signal::STOP),
            Some(Action::Call(function)) => {
                function();
                false
            }
        }
    }

    fn send(signal: Signal) -> bool {
        // To ourselves there is nothing that could refuse it.
        let _ = kill_process(getpid(), signal);
        false
    }

    /// What `BATON_FAULT` asks for, read once.
    struct Asked {
        name: String,
        left: AtomicU32,
        action: fn() -> Action,
    }

    fn environment(name: &str) -> Option<Action> {
        // Not a lock: a child must not wait for one which another thread held at the fork.
        static ASKED: AtomicPtr<Option<Asked>> = AtomicPtr::new(ptr::null_mut());
        let mut asked = ASKED.load(Acquire);
        if asked.is_null() {
            let value = std::env::var("BATON_FAULT").ok();
            // A value that cannot be read arms nothing: the test that set it will say so.
            asked = Box::into_raw(Box::new(value.as_deref().and_then(parse)));
            if let Err(others) = ASKED.compare_exchange(ptr::null_mut(), asked, AcqRel, Acquire) {
                asked = others;
            }
        }
        // SAFETY: Set once, from `Box::into_raw`, and never freed.
        let asked = unsafe { &*asked }
            .as_ref()
            .filter(|asked| asked.name == name)?;
        let before = asked
            .left
            .fetch_update(Relaxed, Relaxed, |left| left.checked_sub(1))
            .ok()?;
        (before == 1).then(asked.action)
    }

    /// `NAME=ACTION[@N]`.
    fn parse(text: &str) -> Option<Asked> {
        let (name, action) = text.split_once('=')?;
        let (action, passing) = action.split_once('@').unwrap_or((action, "1"));
        let action = match action {
            "kill" => || Action::Kill,
            "stop" => || Action::Stop,
            "fail" => || Action::Fail,
            _ => return None,
        };
        let left = AtomicU32::new(passing.parse().ok().filter(|&n| n > 0)?);
        Some(Asked {
            name: name.to_owned(),
            left,
            action,
        })
    }
}

#[cfg(test)]
mod tests;
