//! The parts of a running broker, put together: what they share, how it starts and how it ends.
//!
//! Everything here lives on one thread. The core is borrowed for the length of one call, never across a
//! wait. This file wires the parts and does nothing else.

use super::accept::accept_always;
use super::bulk::Bulks;
use super::counters::Counters;
use super::descriptors::Descriptors;
use super::proxy::Proxies;
use super::routes::Pool;
use super::session::{BUFFER_BYTES, Session};
use super::settle::settle_always;
use super::signals::{ReloadSignal, StopSignal};
use super::store::Keeper;
use super::wait::AdaptiveWait;
use super::workers::{Verified, Workers};
use super::{ServeError, clock, systemd};
use crate::config::{Config, Overrides};
use crate::core::durable::{QueueNumber, StoredQueue};
use crate::core::{Access, Core, SessionId};
use crate::http::{SnapshotRequests, Worker, snapshots};
use crate::routes::Routes;
use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::os::unix::net::UnixListener;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;
use tokio::net;
use tokio::sync::Notify;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

/// How long all sessions together may take to read their last bytes when the broker stops.
const DRAIN_TIME_MAX: Duration = Duration::from_secs(2);

/// How long the disk may take for what is to be written when the broker stops.
const STORE_TIME_MAX: Duration = Duration::from_secs(5);

/// What all parts of the shell share.
pub(super) struct Shell {
    pub(super) state: RefCell<State>,
    pub(super) settings: Config,
    pub(super) workers: Workers,
    pub(super) bulks: Bulks,
    pub(super) http: Worker,
    pub(super) keeper: Keeper,
    pub(super) pool: Pool,
    pub(super) wait: AdaptiveWait,
    /// Wanted: actions carried out and outboxes written.
    pub(super) settling: Notify,
    /// The last session has ended, or the store has done something.
    pub(super) all_gone: Notify,
    /// Connections of all languages, those included whose language is not known yet.
    pub(super) connections: Cell<usize>,
}

/// What changes.
pub(super) struct State {
    pub(super) core: Core,
    pub(super) sessions: HashMap<SessionId, Session, foldhash::fast::RandomState>,
    pub(super) descriptors: Descriptors,
    pub(super) proxies: Proxies,
    pub(super) counters: Counters,
    /// What every session reads into.
    pub(super) buffer: Vec<u8>,
}

impl Shell {
    fn new(
        (settings, routes): (Config, Arc<Routes>),
        (workers, bulks, pool): (Workers, Bulks, Pool),
        http: Worker,
        (keeper, found, last_queue): (Keeper, Vec<StoredQueue>, QueueNumber),
    ) -> Result<Self, ServeError> {
        let mut core =
            Core::new(settings.limits.clone(), access(&settings), random()?, env!("CARGO_PKG_VERSION"))
                .with_secret([random()?, random()?]);
        core.restore(found, last_queue);
        for queue in &settings.queues {
            let name = queue.name.clone();
            core.add_queue(queue.clone(), clock::now())
                .map_err(|(code, message)| ServeError::Queue(format!("{name}: {code}: {message}")))?;
        }
        for service in &settings.services {
            let name = service.name.clone();
            core.add_service(service.clone())
                .map_err(|(code, message)| ServeError::Service(format!("{name}: {code}: {message}")))?;
        }
        core.restored(clock::now());
        core.change_routes(routes, clock::now())
            .map_err(|(code, message)| ServeError::Routes(format!("{code}: {message}")))?;
        let spin = Duration::from_micros(settings.wait.spin_micros.into());
        Ok(Self {
            state: RefCell::new(State {
                core,
                sessions: HashMap::default(),
                descriptors: Descriptors::default(),
                proxies: Proxies::default(),
                counters: Counters::default(),
                buffer: vec![0; BUFFER_BYTES],
            }),
            settings,
            workers,
            bulks,
            http,
            keeper,
            pool,
            wait: AdaptiveWait::new(spin),
            settling: Notify::new(),
            all_gone: Notify::new(),
            connections: Cell::new(0),
        })
    }

    /// Gives the core what was found out about rings. Never returns before the broker ends.
    async fn take_verified(self: Rc<Self>, mut verified: UnboundedReceiver<Verified>) {
        while let Some(Verified { stream, generation, result }) = verified.recv().await {
            tramline_ring::step!("check: done");
            self.state.borrow_mut().core.ring_verified(stream, generation, result, clock::now());
            self.settle_soon();
        }
    }

    /// Reads the configuration again when it is asked to. What is wrong with it is said, and the former one stays. Never
    /// returns before the broker ends.
    async fn reload_always(self: Rc<Self>, mut asked: ReloadSignal, overrides: Overrides) {
        loop {
            asked.received().await;
            let overrides = overrides.clone();
            // Files and the user database may keep whoever asks waiting.
            match tokio::task::spawn_blocking(move || Config::load(overrides)).await {
                Ok(Ok((read, routes))) => {
                    tracing::info!(
                        "the configuration was read again: allow, topics, queues and routes are as it says now"
                    );
                    let core = &mut self.state.borrow_mut().core;
                    core.change_access(access(&read), clock::now());
                    core.change_queues(&read.queues, clock::now());
                    if let Err((code, message)) = core.change_routes(routes, clock::now()) {
                        tracing::error!("{code}: {message}; the routes stay as they were");
                    }
                    self.settle_soon();
                }
                Ok(Err(error)) => tracing::error!("{error}; the configuration stays as it was"),
                Err(error) => tracing::error!("the configuration was not read again: {error}"),
            }
        }
    }

    /// Answers those who ask what the broker is doing. Never returns before the broker ends.
    async fn answer_snapshots(self: Rc<Self>, mut requests: SnapshotRequests, stopping: Rc<Notify>) {
        loop {
            tokio::select! {
                request = requests.next() => match request {
                    Some(request) => {
                        // A stream that has just ended is among the open ones no more, and is to be counted first.
                        self.settle();
                        let snapshot = self.snapshot(&mut self.state.borrow_mut());
                        request.send(snapshot);
                    }
                    None => return,
                },
                () = stopping.notified() => requests.set_stopping(),
            }
        }
    }
}

/// Who may do what, as the configuration says.
fn access(settings: &Config) -> Access {
    Access {
        own_uid: rustix::process::geteuid().as_raw(),
        own_pid: std::process::id(),
        users: settings.allow.users.clone(),
        groups: settings.allow.groups.clone(),
        declare_queues: settings.allow.declare_queues.clone(),
        provide_services: settings.allow.provide_services.clone(),
        declare_durable_queues: settings.allow.declare_durable_queues.clone(),
        tap: settings.allow.tap.clone(),
        topics: settings.topics.clone(),
    }
}

/// Serves on `listener` until a signal asks to stop, then lets everybody read their last bytes. Calls `ready` when
/// clients are served and signals are heard.
pub(super) async fn serve(
    (settings, routes): (Config, Arc<Routes>),
    overrides: Overrides,
    listener: UnixListener,
    ready: impl FnOnce(),
) -> Result<(), ServeError> {
    let mut stop = StopSignal::install().map_err(|error| ServeError::System("handle signals", error))?;
    let reload = ReloadSignal::install().map_err(|error| ServeError::System("handle signals", error))?;
    let (found, verified) = unbounded_channel();
    let (made, retained) = unbounded_channel();
    let workers =
        Workers::start(found, made).map_err(|error| ServeError::System("start its threads", error))?;
    let (moved, bulk_done) = unbounded_channel();
    let bulks = Bulks::start(moved).map_err(|error| ServeError::System("start its threads", error))?;
    let (source, requests) = snapshots();
    let http = Worker::start(settings.http.listen, source)
        .map_err(|error| ServeError::System("serve HTTP", error))?;
    if let Some(address) = http.listens_on() {
        tracing::info!("HTTP on http://{address}/status");
    }
    let (kept, stored) = unbounded_channel();
    let keeper = Keeper::start(&settings, kept)?;
    let (worked, results) = unbounded_channel();
    let pool = Pool::new(worked);
    let shell = Rc::new(Shell::new((settings, routes), (workers, bulks, pool), http, keeper)?);
    let listener = net::UnixListener::from_std(listener)
        .map_err(|error| ServeError::System("wait for connections", error))?;

    let settling = tokio::task::spawn_local(settle_always(Rc::clone(&shell)));
    tokio::task::spawn_local(Rc::clone(&shell).take_verified(verified));
    tokio::task::spawn_local(Rc::clone(&shell).take_retained(retained));
    tokio::task::spawn_local(Rc::clone(&shell).take_stored(stored));
    tokio::task::spawn_local(Rc::clone(&shell).take_worked(results));
    tokio::task::spawn_local(Rc::clone(&shell).take_bulk_done(bulk_done));
    shell.settle_soon();
    tokio::task::spawn_local(Rc::clone(&shell).reload_always(reload, overrides));
    let stopping = Rc::new(Notify::new());
    tokio::task::spawn_local(Rc::clone(&shell).answer_snapshots(requests, Rc::clone(&stopping)));
    let looking = Rc::clone(&shell);
    tokio::task::spawn_local(looking.look_for_more());
    let accepting = tokio::task::spawn_local(accept_always(Rc::clone(&shell), listener));

    ready();
    systemd::ready();
    tokio::select! {
        () = stop.received() => {}
        // Without it nothing would be written any more: better to end, and be started again.
        _ = settling => return Err(ServeError::Failed),
    }
    systemd::stopping();
    stopping.notify_one();
    accepting.abort();
    tracing::debug!("asked to stop");
    shell.state.borrow_mut().core.shutdown(clock::now());
    shell.settle_soon();
    let all_gone = async {
        while !shell.state.borrow().sessions.is_empty() {
            shell.all_gone.notified().await;
        }
    };
    if tokio::time::timeout(DRAIN_TIME_MAX, all_gone).await.is_err() {
        let left = shell.state.borrow().sessions.len();
        tracing::warn!("{left} clients did not read their last bytes within {DRAIN_TIME_MAX:?}");
    }
    shell.state.borrow_mut().core.flush_store();
    shell.settle_soon();
    let all_stored = async {
        while !shell.state.borrow().core.is_all_stored() {
            shell.all_gone.notified().await;
            shell.state.borrow_mut().core.flush_store();
        }
    };
    if tokio::time::timeout(STORE_TIME_MAX, all_stored).await.is_err() {
        tracing::warn!(
            "the disk did not take what consumers said last within {STORE_TIME_MAX:?}: that comes again"
        );
    }
    shell.keeper.end();
    Ok(())
}

fn random() -> Result<u64, ServeError> {
    let mut bytes = [0; 8];
    rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty())
        .map_err(|error| ServeError::System("draw a random number", error.into()))?;
    Ok(u64::from_ne_bytes(bytes))
}
