//! Background tasks: a failed one is started again with backoff and shown; all stop in order.

use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::FutureExt as _;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::clock::Clock;
use crate::model::view::TaskView;

/// First wait before a restart; doubles up to `RESTART_MAX` and starts over after `STABLE` of quiet running.
const RESTART_MIN: Duration = Duration::from_millis(500);
const RESTART_MAX: Duration = Duration::from_secs(60);
const STABLE: Duration = Duration::from_secs(600);

/// Starts tasks and knows how they are.
#[derive(Clone)]
pub struct Supervisor {
    clock: Clock,
    cancel: CancellationToken,
    tasks: Arc<Mutex<Vec<TaskView>>>,
    running: Arc<tokio::sync::Mutex<JoinSet<()>>>,
}

impl Supervisor {
    /// Cancelling `cancel` stops every task.
    pub fn new(clock: Clock, cancel: CancellationToken) -> Self {
        Self { clock, cancel, tasks: Arc::default(), running: Arc::default() }
    }

    /// Runs `make`'s future; when it fails or panics, waits and makes another. A future that returns `Ok` is done.
    pub async fn run<F, Fut>(&self, name: &'static str, make: F)
    where
        F: Fn(CancellationToken) -> Fut + Send + 'static,
        Fut: Future<Output = Result<(), String>> + Send + 'static,
    {
        self.note(name, "running", None);
        let this = self.clone();
        self.running.lock().await.spawn(async move { this.watch(name, make).await });
    }

    async fn watch<F, Fut>(self, name: &'static str, make: F)
    where
        F: Fn(CancellationToken) -> Fut + Send + 'static,
        Fut: Future<Output = Result<(), String>> + Send + 'static,
    {
        let mut wait = RESTART_MIN;
        loop {
            let began = self.clock.now().mono;
            let child = self.cancel.child_token();
            let outcome = std::panic::AssertUnwindSafe(make(child.clone())).catch_unwind().await;
            // Whatever the task started below itself ends with it.
            child.cancel();
            let why = match outcome {
                Ok(Ok(())) => {
                    self.note(name, "stopped", None);
                    return;
                }
                Ok(Err(why)) => why,
                Err(panic) => format!("panicked: {}", panic_text(panic.as_ref())),
            };
            if self.cancel.is_cancelled() {
                self.note(name, "stopped", None);
                return;
            }
            if self.clock.now().mono.saturating_sub(began) >= STABLE {
                wait = RESTART_MIN;
            }
            tracing::error!(task = name, why, wait_ms = wait.as_millis(), "a task failed and is started again");
            self.note(name, "restarting", Some(why));
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                () = self.cancel.cancelled() => {}
            }
            wait = (wait * 2).min(RESTART_MAX);
            self.note(name, "running", None);
        }
    }

    fn note(&self, name: &'static str, state: &'static str, error: Option<String>) {
        // Short and synchronous: a list of a few names.
        let mut tasks = self.tasks.lock().unwrap_or_else(PoisonError::into_inner);
        let at = tasks.iter().position(|task| task.name == name).unwrap_or_else(|| {
            tasks.push(TaskView { name, ..TaskView::default() });
            tasks.len() - 1
        });
        tasks[at].state = state;
        if error.is_some() {
            tasks[at].restarts += 1;
            tasks[at].last_error = error;
        }
    }

    /// How every task is.
    pub fn views(&self) -> Vec<TaskView> {
        self.tasks.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Stops all tasks and waits for them, at most so long; says how many did not stop.
    pub async fn stop(&self, at_most: Duration) -> usize {
        self.cancel.cancel();
        let mut running = self.running.lock().await;
        let all = async { while running.join_next().await.is_some() {} };
        let late = tokio::time::timeout(at_most, all).await.is_err();
        if late { running.len() } else { 0 }
    }
}

/// What a panic said.
pub fn panic_text(panic: &(dyn std::any::Any + Send)) -> &str {
    panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("without a message")
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_failing_task_is_started_again_and_shown() {
        let supervisor = Supervisor::new(Clock::start(), CancellationToken::new());
        let starts = Arc::new(AtomicU32::new(0));
        let (seen, mut events) = tokio::sync::mpsc::channel(8);
        let counter = starts.clone();
        supervisor
            .run("shaky", move |cancel| {
                let n = counter.fetch_add(1, Ordering::Relaxed);
                let seen = seen.clone();
                async move {
                    let _ = seen.send(n).await;
                    match n {
                        0 => Err("first time".to_owned()),
                        1 => panic!("second time"),
                        _ => {
                            cancel.cancelled().await;
                            Ok(())
                        }
                    }
                }
            })
            .await;
        for n in 0..3 {
            assert_eq!(events.recv().await, Some(n));
        }
        let view = supervisor.views().remove(0);
        assert_eq!((view.restarts, view.last_error.as_deref()), (2, Some("panicked: second time")));
        assert_eq!(supervisor.stop(Duration::from_secs(5)).await, 0);
        assert_eq!(supervisor.views()[0].state, "stopped");
    }
}
