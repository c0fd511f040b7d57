//! The API over TCP: connections are let in by the [`Doors`], agree on TLS within a deadline, and are served.

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::Extension;
use limiter_common::Nanos;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use super::App;
use super::doors::{Doors, Place, Room};
use super::gate::Origin;
use super::traffic::Connection;
use crate::access::Certificate;
use crate::config::Api;
use crate::http::{Activity, Patience, Version, accept_all, serve_connection, stopped};
use crate::tls::{self, H2, Identity};

/// For the handshake of TLS.
const HANDSHAKE: Duration = Duration::from_secs(4);
/// Connections that wait for being accepted. Of more, the kernel drops the last packet of the handshake, whoever's it is,
/// and the peer tries again after a second.
const BACKLOG: u32 = 4096;
/// Between two attempts at an address that is not there: at boot, it comes with the network.
const PAUSE: Duration = Duration::from_secs(5);

/// The API over TCP, as the daemon holds it.
#[derive(Debug)]
pub struct Tcp {
    identity: watch::Sender<Option<Identity>>,
    /// Why the files could not be read the last time.
    unread: Option<String>,
    sockets: Vec<watch::Receiver<Socket>>,
    listeners: Vec<JoinHandle<()>>,
}

/// How it is with one of the addresses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Socket {
    Waiting,
    /// Why it cannot be.
    Problem(String),
    At(SocketAddr),
}

impl Tcp {
    /// Listens as `api` says. What is wrong with its files or addresses is no reason not to protect anything: it is told
    /// by [`Self::problems`], and tried again.
    #[must_use]
    pub fn start(api: &Api, app: &App, stop: &watch::Receiver<bool>) -> Self {
        let (identity, shown) = watch::channel(None);
        let mut tcp = Self { identity, unread: None, sockets: Vec::new(), listeners: Vec::new() };
        // It is among the problems.
        let _ = tcp.reload(api);
        let doors = Mutex::new(Doors::new(Room::API));
        let entrance = Arc::new(Entrance { app: app.clone(), identity: shown, doors });
        for address in &api.listen {
            let (told, socket) = watch::channel(Socket::Waiting);
            tcp.sockets.push(socket);
            tcp.listeners.push(tokio::spawn(listen(*address, Arc::clone(&entrance), stop.clone(), told)));
        }
        tcp
    }

    /// Reads certificate, key and issuers again. Connections that are open keep what they have.
    ///
    /// # Errors
    ///
    /// A sentence, if they cannot be used: then the former ones stay.
    pub fn reload(&mut self, api: &Api) -> Result<(), String> {
        match tls::load(api) {
            Ok(identity) => {
                self.unread = None;
                tracing::info!("the API's key has the pin {}", identity.pin);
                self.identity.send_replace(Some(identity));
                Ok(())
            }
            Err(error) => {
                let stays = if self.identity.borrow().is_some() {
                    "the former ones stay in use"
                } else {
                    "the API is not served"
                };
                let sentence = format!("[api]: {error:#}; {stays}; mend it and reload");
                tracing::error!("{sentence}");
                self.unread = Some(sentence.clone());
                Err(sentence)
            }
        }
    }

    /// What an operator should know, as sentences.
    #[must_use]
    pub fn problems(&self) -> Vec<String> {
        let unbound = self.sockets.iter().filter_map(|socket| match &*socket.borrow() {
            Socket::Problem(sentence) => Some(sentence.clone()),
            Socket::Waiting | Socket::At(_) => None,
        });
        self.unread.iter().cloned().chain(unbound).collect()
    }

    #[cfg(test)]
    pub(super) fn socket(&self, index: usize) -> watch::Receiver<Socket> {
        self.sockets[index].clone()
    }

    /// The tasks, to be waited for at the end.
    pub fn into_listeners(self) -> Vec<JoinHandle<()>> {
        self.listeners
    }
}

/// What all listeners share.
struct Entrance {
    app: App,
    /// What new connections are shown.
    identity: watch::Receiver<Option<Identity>>,
    doors: Mutex<Doors>,
}

impl Entrance {
    fn now(&self) -> Nanos {
        (self.app.clock)().boot
    }

    fn with_doors<T>(&self, work: impl FnOnce(&mut Doors) -> T) -> T {
        // Nothing panics while it is locked.
        let mut doors = self.doors.lock().unwrap_or_else(PoisonError::into_inner);
        let outcome = work(&mut doors);
        self.app.traffic.set_open(doors.open());
        outcome
    }
}

/// A place that is given back.
struct Inside {
    entrance: Arc<Entrance>,
    place: Place,
}

impl Drop for Inside {
    fn drop(&mut self) {
        let now = self.entrance.now();
        self.entrance.with_doors(|doors| doors.leave(&self.place, now));
    }
}

/// Serves at `address` as soon as that is possible; `told` says how it is.
async fn listen(
    address: SocketAddr,
    entrance: Arc<Entrance>,
    mut stop: watch::Receiver<bool>,
    told: watch::Sender<Socket>,
) {
    let mut identity = entrance.identity.clone();
    tokio::select! {
        // An error means that the daemon ends.
        shown = identity.wait_for(Option::is_some) => drop(shown),
        () = stopped(&mut stop) => return,
    }
    let listener = loop {
        match bind(address) {
            Ok(listener) => break listener,
            Err(error) => {
                let sentence = format!(
                    "the API is not served at {address}: {error}; trying again. If the address is wrong, change api.listen \
                     and restart the daemon"
                );
                let news = Socket::Problem(sentence.clone());
                if told.send_replace(news.clone()) != news {
                    tracing::warn!("{sentence}");
                }
            }
        }
        tokio::select! {
            () = tokio::time::sleep(PAUSE) => {}
            () = stopped(&mut stop) => return,
        }
    };
    told.send_replace(Socket::At(listener.local_addr().unwrap_or(address)));
    tracing::info!("the API is served at {address}");
    serve(listener, entrance, stop).await;
}

/// The kernel's bound is `net.core.somaxconn`.
fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    // Connections of the daemon before need not have ended.
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

/// Serves until the daemon stops, then for as long as answers are under way.
async fn serve(listener: TcpListener, entrance: Arc<Entrance>, stop: watch::Receiver<bool>) {
    let connected = |(stream, peer)| {
        let (inside, activity) = enter(&entrance, &stream, peer)?;
        Some(connection(stream, peer, inside, activity, stop.clone()))
    };
    accept_all("API", listener, connected, stop.clone()).await;
}

/// Costs next to nothing for those who are sent away: not even a TCP connection is left behind.
fn enter(entrance: &Arc<Entrance>, stream: &TcpStream, peer: SocketAddr) -> Option<(Inside, Arc<Activity>)> {
    let activity = Activity::new(Patience::REMOTE);
    let now = entrance.now();
    match entrance.with_doors(|doors| doors.enter(peer.ip(), &activity, now)) {
        Ok((place, turned_out)) => {
            if turned_out {
                entrance.app.traffic.connection(Connection::TurnedOut);
            }
            Some((Inside { entrance: Arc::clone(entrance), place }, activity))
        }
        Err(refused) => {
            entrance.app.traffic.connection(refused.into());
            // It is closed by a reset; if that cannot be, as usual.
            let _ = stream.set_zero_linger();
            None
        }
    }
}

async fn connection(
    stream: TcpStream,
    peer: SocketAddr,
    inside: Inside,
    activity: Arc<Activity>,
    mut stop: watch::Receiver<bool>,
) {
    // Answers are written as a whole: waiting for more helps nobody.
    let _ = stream.set_nodelay(true);
    let entrance = &inside.entrance;
    let Some(shown) = entrance.identity.borrow().clone() else { return };
    let acceptor = TlsAcceptor::from(shown.config);
    let agreed = tokio::select! {
        agreed = tokio::time::timeout(HANDSHAKE, acceptor.accept(stream)) => agreed,
        () = activity.turned_out() => return,
        () = stopped(&mut stop) => return,
    };
    let stream = match agreed {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => {
            tracing::debug!(%peer, "API: no TLS: {error}");
            entrance.app.traffic.connection(Connection::NoHandshake);
            return;
        }
        Err(_) => {
            tracing::debug!(%peer, "API: no TLS within {} s", HANDSHAKE.as_secs());
            entrance.app.traffic.connection(Connection::NoHandshake);
            return;
        }
    };
    entrance.app.traffic.connection(Connection::Served);
    activity.begin();
    let (version, certificate) = agreed_on(&stream);
    let origin =
        Origin::Network { peer: peer.ip().to_canonical(), certificate, activity: Arc::clone(&activity) };
    let router = entrance.app.router.clone().layer(Extension(origin));
    serve_connection(stream, version, router, activity, stop).await;
    drop(inside);
}

/// The protocol, and who the client is by its certificate.
fn agreed_on(stream: &TlsStream<TcpStream>) -> (Version, Option<Arc<Certificate>>) {
    let (_, session) = stream.get_ref();
    let version = if session.alpn_protocol() == Some(H2) { Version::Http2 } else { Version::Http1 };
    let certificate = session.peer_certificates().and_then(|chain| chain.first());
    // What TLS took for a certificate can be read. If not, the client is nobody.
    let certificate = certificate.and_then(|der| Certificate::parse(der).ok());
    (version, certificate.map(Arc::new))
}
