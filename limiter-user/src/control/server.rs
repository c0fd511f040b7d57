//! The near end of the API. Knows who asks and what the answer looks like; the answers come from the Enforcer, the
//! dataplane's Reader, and, by [`Request`]s, from the daemon. The same requests come over the control socket and over TCP,
//! each with places of its own.

mod body;
mod changes;
mod confirm;
mod decisions;
mod doors;
mod estimate;
mod events;
mod gate;
mod hits;
mod idempotency;
mod listen;
mod listing;
mod openapi;
mod record;
mod refusal;
mod reports;
mod routes;
mod shares;
mod tcp;
mod tokens;
mod traffic;

use std::io;
use std::sync::Arc;

use axum::Router;
use limiter_common::Nanos;
use tokio::net::UnixStream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot, watch};

use crate::access::Authenticator;
use crate::audit::Trail;
use crate::control::peers::{Operators, Peer, Role};
use crate::control::protocol::{DetachRequest, Detached, Problem, Reloaded, Status, UnconfirmedChange};
use crate::dataplane::Reader;
use crate::enforcer;
use crate::http::{Activity, Listen, Version, accept_all, serve_connection};
use gate::{Gate, Origin};

use listen::Listening;
pub use listen::{Socket, bind};
pub use tcp::Tcp;
pub use traffic::{Connection, Outcome, Traffic};

/// Connections of operators that are served at the same time; more wait.
const OPERATORS: usize = 64;
/// Connections of those who may look; more are closed.
const READERS: usize = 32;
/// Connections of those who are told that they may not; more are closed.
const STRANGERS: usize = 8;
/// All of them, with operators who wait. Others wait in the socket's queue.
const MAX_CONNECTIONS: usize = 256;

/// What only the daemon's root can answer.
#[derive(Debug)]
pub enum Request {
    Status(oneshot::Sender<Status>),
    /// To be confirmed, if somebody wants that.
    Reload(Option<ToConfirm>, oneshot::Sender<Result<Reloaded, Problem>>),
    /// Keeps the configuration, if it is that change that waits.
    Confirm(u64, oneshot::Sender<Result<Option<UnconfirmedChange>, Problem>>),
    Detach(DetachRequest, oneshot::Sender<Result<Detached, Problem>>),
}

/// A configuration that is rolled back unless somebody confirms it.
#[derive(Debug)]
pub struct ToConfirm {
    /// Until then.
    pub seconds: u64,
    /// Who asks.
    pub actor: String,
}

/// Where answers come from.
#[derive(Clone)]
pub struct Backend {
    pub enforcer: enforcer::Handle,
    pub reader: Arc<dyn Reader>,
    /// Both clocks, to say when something happened.
    pub clock: fn() -> enforcer::Now,
    pub daemon: mpsc::Sender<Request>,
    /// Whether everything is loaded and protected.
    pub ready: watch::Receiver<bool>,
    /// The configuration, if somebody has to confirm it, and when it is rolled back.
    pub unconfirmed: watch::Receiver<Option<(UnconfirmedChange, Nanos)>>,
    /// Who may come over the network.
    pub access: Arc<Authenticator>,
    /// Where it is written down who asked for what.
    pub trail: Trail,
}

/// What is served, wherever a request comes from.
#[derive(Clone)]
pub struct App {
    router: Router,
    traffic: Arc<Traffic>,
    clock: fn() -> enforcer::Now,
}

impl App {
    #[must_use]
    pub fn new(backend: Backend) -> Self {
        let traffic = Arc::<Traffic>::default();
        let clock = backend.clock;
        let gate = Gate::new(&backend, Arc::clone(&traffic));
        let router = routes::router(backend, gate);
        Self { router, traffic, clock }
    }

    /// What happens over TCP, for metrics.
    #[must_use]
    pub fn traffic(&self) -> Arc<Traffic> {
        Arc::clone(&self.traffic)
    }
}

/// Serves the control socket until the daemon stops, then for as long as answers are under way.
pub async fn serve(socket: Socket, operators: Operators, app: App, stop: watch::Receiver<bool>) {
    let socket = match socket.listen() {
        Ok(socket) => socket,
        Err(error) => {
            tracing::error!("control socket: cannot listen: {error}");
            return;
        }
    };
    let router = |peer: &Peer, role| {
        Some(app.router.clone().layer(axum::Extension(Origin::Socket { uid: peer.uid, role })))
    };
    serve_all(socket, |peer| operators.role(peer), router, stop).await;
}

/// Answers on the control socket that the daemon is not there yet, until it is: what takes long at the start are the lists.
/// Strangers are closed at once.
pub fn turn_away(
    socket: &Socket,
    operators: Operators,
    stop: watch::Receiver<bool>,
) -> impl Future<Output = ()> + use<> {
    let socket = socket.share();
    async move {
        match socket {
            Ok(socket) => turn_away_all(socket, |peer| operators.role(peer), stop).await,
            Err(error) => tracing::warn!("control socket: cannot listen: {error}"),
        }
    }
}

async fn turn_away_all(
    socket: Listening,
    role: impl Fn(&Peer) -> Option<Role> + Send + Sync,
    stop: watch::Receiver<bool>,
) {
    let router = Router::new().fallback(async || refusal::starting());
    serve_all(socket, role, |_, role| role.map(|_| router.clone()), stop).await;
}

/// Serves each peer in a place of their role, by the router that there is for them; without one they are closed at once.
async fn serve_all(
    socket: Listening,
    role: impl Fn(&Peer) -> Option<Role> + Send + Sync,
    router: impl Fn(&Peer, Option<Role>) -> Option<Router> + Send + Sync,
    stop: watch::Receiver<bool>,
) {
    let door = Door { socket, places: Arc::new(Semaphore::new(MAX_CONNECTIONS)) };
    let places = Places::default();
    let connected = |(stream, place)| {
        let peer = who_connects(&stream)?;
        let role = role(&peer);
        let waits = places.of(role)?;
        let router = router(&peer, role)?;
        let stop = stop.clone();
        Some(async move {
            // It is closed with the daemon.
            let Ok(own) = waits.get().await else { return };
            serve_connection(stream, Version::Http1, router, Activity::local(), stop).await;
            drop((own, place));
        })
    };
    accept_all("control socket", door, connected, stop.clone()).await;
}

/// `None` if the kernel does not say, which is told.
fn who_connects(stream: &UnixStream) -> Option<Peer> {
    Peer::of(stream)
        .inspect_err(|error| tracing::warn!("control socket: cannot tell who connects: {error}"))
        .ok()
}

/// The control socket: first a place, then a connection, so that those that wait do so in the kernel.
struct Door {
    socket: Listening,
    places: Arc<Semaphore>,
}

impl Listen for Door {
    type Connection = (UnixStream, OwnedSemaphorePermit);

    async fn accept(&self) -> io::Result<Self::Connection> {
        let place = Arc::clone(&self.places).acquire_owned().await.map_err(io::Error::other)?;
        Ok((self.socket.accept().await?, place))
    }
}

/// The places on the control socket, by role: nobody takes them from those who operate.
struct Places {
    operators: Arc<Semaphore>,
    readers: Arc<Semaphore>,
    strangers: Arc<Semaphore>,
}

/// A place, or the right to wait for one.
enum Waiting {
    Taken(OwnedSemaphorePermit),
    For(Arc<Semaphore>),
}

impl Default for Places {
    fn default() -> Self {
        let places = |number| Arc::new(Semaphore::new(number));
        Self { operators: places(OPERATORS), readers: places(READERS), strangers: places(STRANGERS) }
    }
}

impl Places {
    fn of(&self, role: Option<Role>) -> Option<Waiting> {
        let places = match role {
            Some(Role::Operator) => return Some(Waiting::For(Arc::clone(&self.operators))),
            Some(Role::Reader) => &self.readers,
            None => &self.strangers,
        };
        Arc::clone(places).try_acquire_owned().ok().map(Waiting::Taken)
    }
}

impl Waiting {
    async fn get(self) -> Result<OwnedSemaphorePermit, tokio::sync::AcquireError> {
        match self {
            Self::Taken(place) => Ok(place),
            Self::For(places) => places.acquire_owned().await,
        }
    }
}

#[cfg(test)]
mod tests;
